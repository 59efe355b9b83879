// The runs view: asks for the list while it is in sight, hears what Python has to say, and passes on what is pressed.
import { attrs, make } from "../common/text.js";
import { copyText, plain } from "../common/tables.js";
import { readdress } from "../common/address.js";
import { openCompare, openTrain } from "../common/tabs.js";
import { hear, listenToKeys, props, root, sayError, server, trigger, ui } from "./context.js";
import {
  ACTIVE, all, buildHeads, choose, chosen, COLUMNS, renderPicked, renderRows, renderTools, rowOf, sortBy,
} from "./runs_table.js";
import {
  askFirst, askPush, askRemove, awaitNews, loadFiles, noteState, openRun, pending, renderDetail, saveNote, sendPush,
  tellRun,
} from "./runs_detail.js";
import {
  light, loadCurves, renderCurves, renderTogether, setSmoothing, showTogether, together,
} from "./runs_compare.js";
import { giveRate, loadCosts, renderCostHead, sendRate } from "./runs_cost.js";

const EVERY = 3000; // ms between two looks at the list
let asking = false, soon = 0, silent = 0;

// ---- the list -----------------------------------------------------------------------------------------------
const inSight = () => root.isConnected && !document.hidden && root.offsetParent !== null;
async function poll() {
  if (asking || !inSight()) return;
  asking = true;
  const moving = underWay();
  try {
    const reply = await server.runs_list({});
    if (reply?.error) sayError(reply.error);
    else if (Array.isArray(reply?.runs)) takeRuns(reply.runs.length ? reply.runs : (reply.recorded ?? []));
    silent = Array.isArray(reply?.runs) || reply?.error ? 0 : silent + 1;
  } catch {
    silent++;
  }
  asking = false;
  if (silent > 1) ui.status.textContent = "no reply from the server; trying again"; // what is on screen stays
  if (together.on && (moving || underWay())) loadCurves(); // once more after the last has ended
}
const underWay = () => [...chosen.keys()].some((id) => ACTIVE.includes(rowOf(id)?.state));
export function pollSoon() {
  clearTimeout(soon);
  soon = setTimeout(poll, 500);
}
function takeRuns(rows) {
  all.rows = rows.filter((row) => row && typeof row.id === "string");
  const ids = new Set(all.rows.map((row) => row.id));
  for (const id of all.entries.keys()) if (!ids.has(id)) all.entries.delete(id);
  for (const id of chosen.keys()) if (!ids.has(id)) chosen.delete(id);
  if (all.open && !ids.has(all.open)) all.open = null;
  renderTools();
  renderRows();
  renderPicked();
  renderCostHead();
  if (together.on) chosen.size ? renderTogether() : showTogether(false);
}
const clockwork = setInterval(() => (root.isConnected ? poll() : clearInterval(clockwork)), EVERY);
document.addEventListener("visibilitychange", () => root.isConnected && poll());
new IntersectionObserver((seen) => seen.at(-1).isIntersecting && poll()).observe(root);

// ---- messages from Python -----------------------------------------------------------------------------------
function receive(m) {
  if (!m || typeof m !== "object") return;
  if (m.kind === "me") {
    all.me = { owner: m.owner ?? null, admin: !!m.admin };
    renderRows();
    if (rowOf(all.open)) renderDetail(rowOf(all.open));
    if (ui.cost.open) loadCosts();
  } else if (m.kind === "refused") {
    sayError(plain(m.error, 600));
    pending.clear();
    if (rowOf(all.open)) renderDetail(rowOf(all.open));
  } else if (m.kind === "told") tellRun(m.id, m.text, m.url);
  else if (m.kind === "file") fetchFile(m);
  else if (m.kind === "watch" && rowOf(m.id)) openRun(m.id, true);
  if (m.kind !== "me") props.value = null; // else the same words a second time would be no news
  pollSoon();
}
function fetchFile(m) { // only from this server, wherever the app is mounted
  const url = URL.canParse(String(m.url), location.href) ? new URL(String(m.url), location.href) : null;
  if (url?.origin !== location.origin) return tellRun(m.id, "There is nothing to download.");
  const link = attrs(make("a"), { href: url.href, download: plain(m.name ?? "adapter.zip", 120) });
  root.append(link);
  link.click();
  link.remove();
  tellRun(m.id, `${plain(m.name ?? "The adapter", 120)} is on its way.`);
}

// ---- what is pressed ----------------------------------------------------------------------------------------
// Each takes the row and the button; what changes a run is asked of the server, which decides who may.
const rowActions = {
  watch: async ({ id }) => { // Train begins with the run that the address names
    readdress({ train: id });
    await openTrain();
    window.rmxTrain?.watch(id);
  },
  stop: (row) => (trigger("stop", { id: row.id }), awaitNews(row, "stop")),
  resume: (row) => (trigger("resume", { id: row.id }), awaitNews(row, "resume")),
  explore: (row) => trigger("open", { id: row.id, where: "explore" }),
  adapted: (row) => openCompare().then(() => trigger("open", { id: row.id, where: "compare" })),
  download: (row) => (trigger("download", { id: row.id }), tellRun(row.id, "Packing the adapter …")),
  push: askPush, remove: askRemove,
  removeNow: (row) => (trigger("remove", { id: row.id }), askFirst(row.id), awaitNews(row, "remove")),
  unask: (row) => askFirst(row.id),
  note: saveNote, copy: (row, button) => copyText(all.entries.get(row.id).detail.parts.command, button),
  allFiles: (row) => loadFiles(row.id, true),
};
const viewActions = {
  train: openTrain,
  takeBack: (button) => giveRate(button.dataset.name, ""),
  showAll: () => showOnly("all", ""),
  clear: () => (chosen.clear(), renderPicked(), renderRows()),
  compare: () => showTogether(true), back: () => (showTogether(false), renderPicked(), renderRows()),
};
function showOnly(group = all.group, model = all.model) {
  Object.assign(all, { group, model });
  renderTools();
  renderRows();
}
root.addEventListener("click", (e) => {
  const find = (selector) => e.target.closest(selector);
  const [go, sort, group, opener, out, line] = ["[data-do]", "[data-sort]", "[data-group]", "[data-open]", "[data-out]", ".run-row"].map(find);
  if (go) {
    const row = rowOf(find("[data-run]")?.dataset.run);
    sayError();
    if (row) rowActions[go.dataset.do]?.(row, go);
    else viewActions[go.dataset.do]?.(go);
  } else if (sort) sortBy(sort.dataset.sort);
  else if (group) showOnly(group.dataset.group);
  else if (out) takeOut(out.dataset.out);
  else if (opener) openRun(opener.dataset.open);
  else if (line && !find(".choose") && getSelection().isCollapsed) openRun(line.dataset.run); // the whole row, by mouse
});
function takeOut(id) {
  chosen.delete(id);
  light(null);
  if (!chosen.size) return viewActions.back();
  renderTogether();
  renderCurves();
}
root.addEventListener("change", (e) => {
  if (e.target.dataset.choose) choose(e.target.dataset.choose, e.target.checked);
  if (e.target === ui.byModel) showOnly(all.group, ui.byModel.value);
  if (e.target === ui.sortBy) sortBy(ui.sortBy.value, COLUMNS[ui.sortBy.value][2]);
});
root.addEventListener("input", (e) => {
  if (e.target === ui.smooth) setSmoothing();
  if (e.target.matches(".note textarea")) noteState(e.target, e.target.closest(".run-detail").dataset.run);
});
root.addEventListener("submit", (e) => {
  e.preventDefault();
  if (e.target.matches(".rate-form")) sendRate(e.target);
  if (e.target.matches(".push")) sendPush(e.target, e.target.closest("[data-run]").dataset.run);
});
for (const [name, on] of [["pointerover", true], ["focusin", true], ["pointerout", false], ["focusout", false]]) {
  ui.keys.addEventListener(name, (e) => light((on && e.target.closest("[data-light]")?.dataset.light) || null));
}
listenToKeys({ Escape: () => (together.on ? viewActions.back() : all.open ? closeRun() : false) }, () => root.offsetParent);
function closeRun() {
  const entry = all.entries.get(all.open);
  if (entry.detail.parts.ask.firstChild) return askFirst(all.open);
  openRun(all.open, false);
  return entry.opener.focus({ preventScroll: true });
}

// ---- the start ----------------------------------------------------------------------------------------------
new ResizeObserver(([entry]) => root.classList.toggle("cards", entry.contentRect.width < 1040)).observe(root);
window.rmxRuns = Object.assign(window.rmxRuns ?? {}, {
  open: (id) => poll().then(() => (showTogether(false), openRun(id, true))),
  compare: (ids) => poll().then(() => (chosen.clear(), ids.filter(rowOf).forEach((id) => choose(id, true)), showTogether(chosen.size > 1))),
  refresh: poll,
});
buildHeads();
sortBy("run", -1);
hear(receive);
poll();
