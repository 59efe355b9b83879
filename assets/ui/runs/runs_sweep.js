// A sweep in a run's detail: what each threshold came to, as curves over τ and as a table. Asked for with every change of
// the run, since a threshold more may be trained.
import { attrs, count, make, plural } from "../common/text.js";
import { header, keyed } from "../common/tables.js";
import { around, written } from "../common/estimates.js";
import { curves } from "../common/charts.js";
import { ask } from "./context.js";
import { all, nothing, rowOf } from "./runs_table.js";

const VALIDATION_STYLE = 0, TEST_STYLE = 2, GATED_STYLE = 4;
const SWEEP_PANELS = {
  score: { title: "pass@1", percent: true, within: [0, 1] },
  gain: { title: "points over the base", about: "paired", format: (v) => v === 0 ? "0" : `${v > 0 ? "+" : v < 0 ? "−" : ""}${(100 * Math.abs(v)).toFixed(Math.abs(v) < 0.1 ? 1 : 0)}` },
  gated: { title: "gated share", about: "of the tokens trained on", percent: true, zero: true, names: false },
};

export function buildSweep() {
  const box = make("div", "sweep"), charts = {}, panels = make("div", "panels"), table = make("table", "sweep-table"), told = make("p", "soft small");
  const scroll = make("div", "sweep-scroll", table);
  box.append(make("p", "label", "What each threshold came to"), panels, scroll, told);
  for (const [name, options] of Object.entries(SWEEP_PANELS)) {
    const place = panels.appendChild(make("div", "panel-box"));
    const pointOthers = (x) => Object.entries(charts).forEach(([other, chart]) => other !== name && chart.cursor(x));
    charts[name] = curves(place, { x: "τ", height: 170, empty: "No threshold is trained yet.", ...options, onCursor: pointOthers });
  }
  return Object.assign(box, { charts, table, told, busy: false });
}
export async function loadSweep(id) {
  const box = all.entries.get(id)?.detail?.parts.sweep;
  if (!box || box.busy) return;
  box.busy = true;
  const reply = await ask("run_sweep", { id });
  box.busy = false;
  if (reply?.sweep && box.isConnected) renderSweep(box, reply.sweep, rowOf(id));
}
function renderSweep(box, sweep, row) {
  const taus = sweep.taus, points = (key) => taus.filter((one) => one[key]?.value != null).map((one) => [one.tau, one[key].value, one[key].low, one[key].high]);
  const common = { xticks: taus.map((one) => one.tau), marks: sweep.chosen == null ? [] : [{ x: sweep.chosen, name: "chosen" }], rest: sweep.chosen ?? null, room: 0.05 };
  const series = (validation, test) => [
    { id: "validation", name: "validation", points: points(validation), style: VALIDATION_STYLE, band: "bars", shift: -3 },
    { id: "test", name: "test", points: points(test), style: TEST_STYLE, band: "bars", shift: 3 },
  ].filter((s) => s.points.length);
  const n = (key) => taus.find((one) => one[key])?.[key].n, counts = [["validation", n("validation")], ["test", n("test")]].filter(([, k]) => k);
  box.charts.score.set({ ...common, series: series("validation", "test"), lines: baseLines(sweep.base), about: `n = ${counts.map(([name, k]) => `${count(k)} ${name}`).join(", ")}` });
  box.charts.gain.set({ ...common, series: series("vs_base", "test_vs_base"), lines: [{ y: 0 }] });
  box.charts.gated.set({ ...common, series: [{ id: "gated", name: "gated", points: taus.map((one) => [one.tau, one.share]), style: GATED_STYLE }] });
  keyed(box.table, taus.length ? [header(["τ", "gated", "validation", "over the base", "test", "over the base"]), sweepBody(sweep)] : [], (node) => node);
  const left = (row?.taus?.length ?? taus.length) - taus.length;
  box.told.textContent = left > 0 ? `${plural(taus.length, "threshold")} of ${count(row.taus.length)} trained. ${sweep.rule}` : sweep.rule;
}
function baseLines(base) { // the higher one is named above its line, the lower one below
  const found = [["base, validation", base?.validation], ["base, test", base?.test]].filter(([, e]) => e?.value != null).sort((a, b) => b[1].value - a[1].value);
  return found.map(([name, e], k) => ({ y: e.value, name, below: k > 0 }));
}
const sweepCell = (name, e, unit) => {
  const td = e?.value == null ? make("td", "", nothing()) : make("td", "num", written(e.value, unit), make("span", "soft interval", around(e, unit)));
  return attrs(td, { "data-name": name });
};
function sweepBody(sweep) {
  const line = (head, share, cells, cls = "") => make("tr", cls, attrs(make("th", "num", ...head), { scope: "row" }), attrs(make("td", "num", share), { "data-name": "gated" }), ...cells);
  const base = line(["base"], "–", [sweepCell("validation", sweep.base?.validation, "share"), attrs(make("td"), { "data-name": "" }), sweepCell("test", sweep.base?.test, "share"), attrs(make("td"), { "data-name": "" })]);
  return make("tbody", "", base, ...sweep.taus.map((one) => {
    const here = one.tau === sweep.chosen, head = [String(one.tau), ...(here ? [make("span", "chosen-tau", "★ chosen")] : [])];
    const cells = [["validation", one.validation, "share"], ["over the base", one.vs_base, "points"], ["test", one.test, "share"], ["over the base", one.test_vs_base, "points"]];
    return line(head, written(one.share, "share"), cells.map((cell) => sweepCell(...cell)), here ? "is-chosen-tau" : "");
  }));
}
