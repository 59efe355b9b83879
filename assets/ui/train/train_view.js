// The Train view: what a run will cost, the run that is watched, and what it did.
import { attrs, count, make, say, showOdd } from "../common/text.js";
import { copyText } from "../common/tables.js";
import { openCompare } from "../common/tabs.js";
import { hear, listenToKeys, props, root, sayError, trigger, ui } from "./context.js";
import { attach, remembered, run } from "./train_poll.js";
import { clearRun, dollars, megabytes, refused, renderRun, request, setVisitor } from "./train_run.js";
import { askDry, gate, readRollout, receiveDry, setTau, tellTau } from "./train_gate.js";
import { play, present, stepReplay } from "./train_replay.js";

// ---- the plan -----------------------------------------------------------------------------------------------
function receivePlan(m) {
  const minutes = m.minutes, around = minutes?.low != null && minutes.low !== minutes.high ? `${minutesText(minutes.low)} – ${minutesText(minutes.high)}` : "";
  const figures = [["time", minutes ? `${minutesText(minutes.value)} min` : "unknown", around && `${around} min`]];
  if (m.memory_mb != null) figures.push(["memory", megabytes(m.memory_mb), ""]);
  if (m.usd != null) figures.push(["cost", dollars(m.usd), ""]);
  ui.plan.hidden = false;
  ui.planFigures.replaceChildren(...figures.map(([name, figure, more]) =>
    make("div", "", make("dt", "", name), make("dd", "", make("span", "num", figure), make("span", "soft num", more)))));
  say(ui.planBrief, figures.map(([, figure]) => figure).join(" · "));
  say(ui.planRate, m.rate ?? "");
  ui.planRate.hidden = !m.rate;
  say(ui.command, m.command ?? "");
  const rows = m.departs ?? [];
  ui.departs.hidden = !rows.length;
  ui.departsNone.hidden = rows.length > 0;
  ui.departsRows.replaceChildren(...rows.map(([field, paper, here]) =>
    make("tr", "", attrs(make("th", "num", showOdd(String(field))), { scope: "row" }), make("td", "num", showOdd(String(paper))), make("td", "num", showOdd(String(here))))));
}
const minutesText = (x) => (x < 10 ? `${Number(x.toFixed(1))}` : count(Math.round(x)));

// ---- messages from Python -----------------------------------------------------------------------------------
const MESSAGES = {
  watch: (m) => typeof m.id === "string" && m.id && (sayError(), attach(m.id)),
  me: (m) => {
    setVisitor({ owner: m.owner ?? null, admin: !!m.admin });
    if (run?.heard) renderRun(new Set()); // which buttons are this visitor's
  },
  refused: (m) => refused(m.error),
  plan: receivePlan,
  dry: (m) => (m.error ? sayError(m.error) : receiveDry(m)),
};
// Several messages may come as one list: a value that follows another at once would replace it unseen.
function receive(m) {
  if (m?.kind === "refused") props.value = null; // else the same words a second time would be no news
  if (Array.isArray(m)) return m.forEach(receive);
  if (m && typeof m === "object" && Object.hasOwn(MESSAGES, m.kind)) MESSAGES[m.kind](m);
}

// ---- clicks -------------------------------------------------------------------------------------------------
const actions = {
  stop: () => request("stop"), resume: () => request("resume"),
  explore: () => trigger("open", { id: run.id, where: "explore" }),
  compare: () => openCompare().then(() => trigger("open", { id: run.id, where: "compare" })),
  download: () => {
    trigger("download", { id: run.id });
    const link = Object.assign(document.createElement("a"), { href: `runs/${encodeURIComponent(run.id)}/adapter.zip`, download: `${run.id}.zip` });
    link.click();
  },
  copy: () => copyText(ui.command, ui.copyButton), dry: askDry, play,
  tauBack: () => (setTau(gate.m.tau), tellTau()), leave: () => present(false),
};
function goToPanel(panel) {
  const fold = panel.querySelector("details");
  if (fold) Object.assign(fold, { open: true }).dataset.touched = "";
  panel.scrollIntoView({ block: "start" });
}
root.addEventListener("click", (e) => {
  const go = e.target.closest("[data-do]")?.dataset.do, chosen = e.target.closest("[data-rollout]")?.dataset.rollout;
  const panel = ui[e.target.closest("[data-go]")?.dataset.go];
  if (go) actions[go]?.();
  else if (chosen !== undefined) readRollout(Number(chosen));
  else if (panel && !panel.hidden) goToPanel(panel);
});
ui.chooser.addEventListener("keydown", (e) => {
  const way = { ArrowRight: 1, ArrowLeft: -1 }[e.key], list = [...ui.chooser.querySelectorAll("[data-rollout]")], at = list.indexOf(document.activeElement);
  if (!way || at < 0) return;
  e.preventDefault();
  const next = list.at((at + way) % list.length);
  next.focus();
  readRollout(Number(next.dataset.rollout));
});

const onStage = (act) => () => (root.classList.contains("presenting") ? act() : false);
listenToKeys({
  ArrowRight: onStage(() => stepReplay(1)), PageDown: onStage(() => stepReplay(1)), ArrowLeft: onStage(() => stepReplay(-1)),
  PageUp: onStage(() => stepReplay(-1)), " ": onStage(play), Enter: onStage(play), Escape: onStage(() => present(false)),
}, () => root.classList.contains("presenting"));

// ---- hooks for the rest of the page, and the start ----------------------------------------------------------
window.rmxTrain = { watch: attach, tau: () => (gate.m ? gate.tau : null), watched: () => run?.id ?? null, present };
clearRun();
hear(receive);
if (!run && remembered()) attach(remembered(), true);
