// "On a problem set": how far, what was measured, with intervals; tables, plot and files of it.
import { attrs, count, make, plural, showOdd } from "../common/text.js";
import { curves } from "../common/charts.js";
import { cell, header } from "../common/tables.js";
import { around, clock, estimate, figure, intervalBar, written } from "../common/estimates.js";
import { saveCharts, saveReply } from "../common/figures.js";
import { ask, sayError, server, ui } from "./context.js";
import { nats } from "./compare_stream.js";
import { ARMS } from "./compare_patch.js";
import { showPane } from "./compare_view.js";

export const setJob = { m: null, heard: 0, asked: false };

export function receiveSet(m) {
  if (!m.id) return;
  const before = setJob.m, fresh = before?.id !== m.id;
  if (!fresh && (before.done || m.at < before.at) && !m.done) return; // late news of an earlier moment
  Object.assign(setJob, { m, heard: performance.now() });
  if (fresh) showPane("set");
  renderSet(m);
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
const armName = (arm) => showOdd(arm.label ?? ARMS[arm.arm]?.[0] ?? arm.arm);
function armsTable(arms) {
  const base = arms.find((arm) => arm.arm === "base")?.pass?.value;
  const body = make("tbody", "", ...arms.map((arm) => {
    const name = armName(arm), label = `${name}: ${written(arm.pass?.value, "share")}, interval ${around(arm.pass, "share")}`;
    const flips = arm.won == null ? "–" : `${count(arm.won)} / ${count(arm.lost ?? 0)}`;
    return make("tr", "", attrs(make("th", "", name), { scope: "row" }),
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
  drawCharts(m);
}

// ---- charts -------------------------------------------------------------------------------------------------
const KIND_STYLES = { unshifted: 6, reranked: 0, shifted: 3 };
const ARM_STYLES = { base: 6, teacher: 2, oracle: 0, entropy: 1, placebo: 3 }, RANDOM_STYLE = 4;
const CHARTS = {
  shifts: [
    { title: "Base entropy, by class", about: "shares of each class", x: "nats", height: 240, percent: true, zero: true },
    { title: "Disagreements inside the base’s top k", x: "k", height: 240, percent: true },
  ],
  intervene: [{ title: "pass@1", height: 320, percent: true, zero: true, within: [0, 1], legend: false }],
};
let charts = [];
function drawCharts(m) {
  const [what, known] = m.what === "intervene" ? ["intervene", m.arms?.length] : ["shifts", m.histogram];
  ui.figure.hidden = ui.png.hidden = ui.svg.hidden = !known;
  if (!known) return;
  if (ui.figure.dataset.of !== what) {
    ui.figure.dataset.of = what;
    charts.forEach((chart) => chart.remove());
    charts = CHARTS[what].map((options) => curves(ui.figure.appendChild(make("div", "chart")), options));
  }
  what === "intervene" ? drawArms(m) : drawShifts(m);
}
function drawShifts({ histogram: { edges, ...counts }, within_top, at }) {
  const sum = (list) => list.reduce((a, b) => a + b, 0), kinds = Object.entries(counts).filter(([, list]) => sum(list));
  charts[0].set({ series: kinds.map(([kind, list]) => ({
    id: `${kind} ${at}`, name: `${kind} (${count(sum(list))})`, style: KIND_STYLES[kind], look: "bars", wide: 0.1, band: false,
    points: edges.map((edge, i) => [edge + 0.05, list[i] / sum(list)]),
  })) });
  charts[1].set({ series: Object.entries(within_top).map(([name, shares]) => (
    { id: `${name} ${at}`, name, style: name === "placebo" ? 6 : 0, points: shares.map((share, i) => [i + 1, share]) })) });
}
function drawArms({ arms, at, set }) {
  const told = arms.map((arm) => [armName(arm), written(arm.pass?.value, "share"), `${written(arm.touched, "share")} touched`]);
  charts[0].set({
    about: `${plural(at, "problem")} of ${showOdd(set)}`, xticks: told.map((lines, i) => [i, lines]), says: (i) => `${told[i].join(", ")}, interval ${around(arms[i].pass, "share")}`,
    series: arms.map((arm, i) => ({
      id: `${arm.arm} ${at}`, name: told[i][0], style: ARM_STYLES[arm.arm] ?? RANDOM_STYLE, look: "bars", wide: 0.75, band: "bars", points: [[i, arm.pass?.value, arm.pass?.low, arm.pass?.high]],
    })),
  });
}

// ---- files --------------------------------------------------------------------------------------------------
export const saveTable = async (format) => setJob.m && saveReply(await ask("pair_export", { id: setJob.m.id, format }), `comparison.${format}`);
export const saveChart = (kind) => saveCharts(ui.figure, `${(setJob.m.set ?? "set").replace(/[^\w-]+/g, "-")}-${setJob.m.what}`, kind, sayError);
