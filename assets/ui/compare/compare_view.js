// The comparison: one view, three panes, each with a module of its own.
import { attrs } from "../common/text.js";
import { giveKnown } from "../common/answers.js";
import { hear, listenToKeys, root, trigger, ui } from "./context.js";
import { panes, receive } from "./compare_stream.js";
import {
  closeInspector, map, mapPane, mapTipGone, selectToken, setQuiet, showOnly, stepDifference, stepToken,
} from "./compare_map.js";
import { check, resetChecks } from "./compare_checks.js";
import { chooseArm, patch, patchPane, renderArms, runAll, setBudget, step } from "./compare_patch.js";
import { saveChart, saveTable, setJob } from "./compare_set.js";

// ---- panes --------------------------------------------------------------------------------------------------
const PANES = ["map", "patch", "set"];
const tabs = [...ui.tabs.children];
let paneNow = "map";
export function showPane(name) {
  if (!PANES.includes(name)) return;
  if (name !== paneNow && root.classList.contains("presenting") && name === "set") present(false);
  paneNow = name;
  for (const pane of PANES) ui[pane].hidden = pane !== name;
  for (const tab of tabs) attrs(tab, { "aria-selected": tab.dataset.pane === name, tabindex: tab.dataset.pane === name ? 0 : -1 });
  root.dataset.pane = name;
  if (name !== "map") root.classList.remove("open");
  else if (map.selected !== null) root.classList.add("open");
  ui.presentButton.hidden = name === "set";
}
ui.tabs.addEventListener("keydown", (e) => {
  const way = { ArrowRight: 1, ArrowLeft: -1 }[e.key], at = tabs.indexOf(document.activeElement);
  const to = way ? tabs.at((at + way) % tabs.length) : { Home: tabs[0], End: tabs.at(-1) }[e.key];
  if (!to) return;
  e.preventDefault();
  showPane(to.dataset.pane);
  to.focus();
});

// ---- for a room ---------------------------------------------------------------------------------------------
function present(on = !root.classList.contains("presenting")) {
  root.classList.toggle("presenting", on);
  document.documentElement.classList.toggle("rmx-presenting", on);
  ui.leave.hidden = !on;
  if (on && paneNow === "set") showPane("patch");
  if (on) document.activeElement?.blur?.();
  mapTipGone(0);
}

// ---- clicks and keys ----------------------------------------------------------------------------------------
const halt = (run) => run && trigger("halt", { id: run.id });
const actions = {
  close: closeInspector, giveKnown: () => (present(false), giveKnown("pair-answer")),
  check: () => check(false), checkCopy: () => check(true),
  haltMap: () => halt(map.run), haltPatch: () => halt(patch.run), haltSet: () => halt(setJob.m),
  step: () => step(1), stepBack: () => step(-1), begin: () => chooseArm("oracle"), runAll,
  present: () => present(), leave: () => present(false),
  csv: () => saveTable("csv"), json: () => saveTable("json"), png: () => saveChart("png"), svg: () => saveChart("svg"),
  help: () => ui.help.togglePopover(),
};
root.addEventListener("click", (e) => {
  const find = (selector) => e.target.closest(selector)?.dataset;
  const [go, pane, only, arm, to, token] = ["[data-do]", "[data-pane][role=tab]", "[data-only]", "[data-arm]", "[data-go]", ".map .flow .t"].map(find);
  if (go) actions[go.do]?.();
  else if (pane) showPane(pane.pane);
  else if (only) showOnly(only.only);
  else if (arm) chooseArm(arm.arm);
  else if (to) selectToken(Number(to.go));
  else if (token && getSelection().isCollapsed) selectToken(Number(token.i)); // a drag selects text
});
ui.quiet.addEventListener("input", () => setQuiet(Number(ui.quiet.value)));
const here = (name, act) => () => (paneNow === name ? act() : false);
const nextPatch = (way) => () => (paneNow === "patch" ? (step(way), true) : paneNow === "map" && root.classList.contains("presenting") ? stepDifference(way) : false);
listenToKeys({
  n: here("map", () => stepDifference(1)), p: here("map", () => stepDifference(-1)),
  ArrowRight: here("map", () => stepToken(1)), ArrowLeft: here("map", () => stepToken(-1)),
  ".": here("patch", () => step(1)), ",": here("patch", () => step(-1)), PageDown: nextPatch(1), PageUp: nextPatch(-1),
  Enter: here("map", takeFocused), " ": here("map", takeFocused),
  "?": () => ui.help.togglePopover(), Escape: escape,
}, () => root.offsetParent || root.classList.contains("presenting"));
function takeFocused() {
  const span = document.activeElement;
  return span?.matches(".map .flow .t") ? selectToken(Number(span.dataset.i)) : false;
}
function escape() {
  if (ui.help.matches(":popover-open")) return ui.help.hidePopover();
  if (paneNow === "map" && map.selected !== null) return closeInspector();
  return root.classList.contains("presenting") ? present(false) : false;
}

// ---- hooks for the rest of the page, and the start ----------------------------------------------------------
window.rmxPair = Object.assign(window.rmxPair ?? {}, { step, arm: chooseArm, budget: setBudget, pane: showPane, present });
Object.assign(panes, { map: mapPane, patch: patchPane });
resetChecks();
renderArms();
hear(receive);
