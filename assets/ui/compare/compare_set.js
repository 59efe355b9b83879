// "On a problem set": how far, what was measured, with intervals; tables, plot and files of it.
import { attrs, count, make, showOdd } from "../common/text.js";
import { cell, header } from "../common/tables.js";
import { around, clock, estimate, figure, intervalBar, written } from "../common/estimates.js";
import { plotIn, saveFile, savePlot } from "../common/figures.js";
import { ask, root, sayError, server, trigger, ui } from "./context.js";
import { nats } from "./compare_stream.js";
import { ARMS } from "./compare_patch.js";
import { showPane } from "./compare_view.js";

export const setJob = { m: null, heard: 0, asked: false };

export function receiveSet(m) {
  if (!m.id) return;
  const before = setJob.m, fresh = before?.id !== m.id;
  if (!fresh && (before.done || m.at < before.at) && !m.done) return; // late news of an earlier moment
  const ended = !fresh && before.done;
  Object.assign(setJob, { m, heard: performance.now() });
  if (fresh) showPane("set");
  renderSet(m);
  if (m.done && !ended) trigger("ready", { id: m.id });
}
// A job tells the whole state each time, so all that can be missing is its last message.
export async function lookAfterSet(patience = 8000) {
  const m = setJob.m;
  if (!m || m.done || setJob.asked || performance.now() - setJob.heard < patience) return;
  setJob.asked = true;
  try {
    const reply = await server.pair_tail({ id: m.id, start: 0 });
    if (reply?.kind === "set") receiveSet({ ...reply, id: m.id });
  } catch {
    setJob.heard = performance.now(); // the next message or the next look will tell
  }
  setJob.asked = false;
}

// ---- tables -------------------------------------------------------------------------------------------------
function rowsTable(rows) {
  const paper = rows.some((row) => row.paper), placebo = rows.some((row) => row.placebo);
  const names = ["", "here, 95 % interval", ...(placebo ? ["placebo"] : []), ...(paper ? ["paper"] : [])];
  const body = make("tbody", "", ...rows.map((row) => {
    const name = attrs(make("th", "", showOdd(row.label ?? row.name)), { scope: "row" });
    if (row.note) name.append(make("span", "soft note", showOdd(row.note)));
    const tr = make("tr", "", name, cell("here", estimate(row.value, row.unit)));
    if (placebo) tr.append(cell("placebo", estimate(row.placebo, row.unit)));
    if (paper) tr.append(cell("paper", make("span", "num soft", row.paper ? showOdd(row.paper) : "–")));
    return tr;
  }));
  return [header(names), body];
}
function armsTable(arms) {
  const base = arms.find((arm) => arm.arm === "base")?.pass?.value;
  const body = make("tbody", "", ...arms.map((arm) => {
    const name = arm.label ?? ARMS[arm.arm]?.[0] ?? arm.arm, label = `${name}: ${written(arm.pass?.value, "share")}, interval ${around(arm.pass, "share")}`;
    const flips = arm.won == null ? "–" : `${count(arm.won)} / ${count(arm.lost ?? 0)}`;
    return make("tr", "", attrs(make("th", "", showOdd(name)), { scope: "row" }),
      cell("solved", estimate(arm.pass, "share")), cell("", intervalBar(arm.pass, label, { from: 0, to: 1, mark: base, height: 14, look: "interval-bar" })),
      cell("tokens touched", figure(written(arm.touched, "share"))),
      cell("points over base", estimate(arm.vs_base, "points")), cell("won / lost", figure(flips)));
  }));
  return [header(["arm", "solved, 95 % interval", "", "tokens touched", "points over base", "won / lost"]), body];
}

// ---- the job ------------------------------------------------------------------------------------------------
function renderSet(m) {
  ui.set.classList.remove("none-yet");
  ui.setTitle.textContent = m.what === "intervene" ? "What a few patches do" : "How often they part";
  ui.setMeta.textContent = showOdd([m.set, m.base && `${m.base} and ${m.adapted}`, m.tau != null && `forks above ${nats(m.tau)} nats`].filter(Boolean).join(" · "));
  attrs(ui.progress, { max: Math.max(1, m.of ?? 1), value: m.at ?? 0 });
  ui.setCount.textContent = `${count(m.at ?? 0)} of ${count(m.of ?? 0)}`;
  ui.setStop.hidden = !!m.done;
  ui.set.classList.toggle("live", !m.done);
  const left = m.left == null ? "" : `, about ${clock(m.left)} left`, time = m.seconds == null ? "" : `${clock(m.seconds)}`;
  ui.setCount.title = time;
  const state = m.error ? "broken off" : m.stopped ? `stopped after ${time}` : m.done ? `done in ${time}` : "";
  if (ui.setStatus.textContent !== state) ui.setStatus.textContent = state;
  ui.setLeft.textContent = m.done ? "" : `problems${left}`;
  ui.figures.replaceChildren(...(m.what === "intervene" ? armsTable(m.arms ?? []) : rowsTable(m.rows ?? [])));
  ui.figures.classList.toggle("of-arms", m.what === "intervene");
  const same = m.oracle_equals_teacher;
  ui.same.hidden = !same?.of;
  if (same?.of) {
    ui.same.replaceChildren(make("span", same.same === same.of ? "right" : "wrong", same.same === same.of ? "✓ " : "✗ "),
      `oracle and adapted model wrote the same text on ${count(same.same)} of ${count(same.of)} problems`);
  }
  ui.reading.replaceChildren(...(m.reading ?? []).map((sentence) => make("li", "", showOdd(sentence))));
  adoptFigure();
}
// The app's plot belongs under the table; as its own block it would show on the other panes too.
export function adoptFigure() {
  const box = document.getElementById("pair-figure");
  if (box && !ui.figure.contains(box)) ui.figure.append(box);
  const drawn = !!plotOf();
  ui.figure.classList.toggle("drawn", drawn);
  ui.png.hidden = ui.svg.hidden = !drawn;
}
export function awaitFigure(tries = 20) { // it is mounted some time after this view
  adoptFigure();
  if (!ui.figure.firstChild && tries > 0 && root.isConnected) setTimeout(awaitFigure, 250, tries - 1);
}
new MutationObserver(adoptFigure).observe(ui.figure, { childList: true, subtree: true });

// ---- files --------------------------------------------------------------------------------------------------
export async function saveTable(format) {
  if (!setJob.m) return;
  const reply = await ask("pair_export", { id: setJob.m.id, format });
  if (reply?.text != null) saveFile(String(reply.name ?? `comparison.${format}`), new Blob([reply.text], { type: reply.mime ?? "text/plain" }));
}
const plotOf = () => plotIn(ui.figure);
const plotName = () => `${(setJob.m.set ?? "set").replace(/[^\w-]+/g, "-")}-${setJob.m.what}`;
export const saveSvg = () => plotOf() && savePlot(plotOf(), plotName(), "svg", sayError);
export const savePng = () => plotOf() && savePlot(plotOf(), plotName(), "png", sayError);
