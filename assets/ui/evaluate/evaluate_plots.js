// Two charts of the report on screen: pass@k of every model over k, and each problem before and after.
import { plural } from "../common/text.js";
import { bubbles } from "../common/bubbles.js";
import { curves } from "../common/charts.js";
import { plain } from "../common/tables.js";
import { ui } from "./context.js";
import { job, scope, shortName, shown } from "./evaluate_table.js";
import { inPart, showProblem } from "./evaluate_problems.js";

const BASE_STYLE = 6, STYLES = 6, NAMED = 5; // problems that one mark names
const passChart = curves(ui.curves, {
  title: "pass@k", about: "over samples k, log scale", x: "k", height: 316, percent: true, within: [0, 1], log: true, names: "ends", empty: "Nothing is sampled yet.",
});
const problemChart = bubbles(ui.scatter);

export function drawPlots() {
  ui.plots.hidden = shown.k === null;
  ui.scatterBox.hidden = !shown.name || !job.rows.size;
  if (shown.k === null) return;
  drawCurves();
  if (!ui.scatterBox.hidden) drawScatter();
}
function endName(name) { // short enough to stand at the end of a line
  const last = shortName(name).replace(/\/+$/, "").split("/").at(-1) || name;
  return last.length <= 14 ? last : `${last.slice(0, 6)}…${last.slice(-7)}`;
}
function drawCurves() {
  const models = scope().models.map((model, i) => [model, i]).filter(([model]) => model["pass@k"]);
  const series = models.map(([model, i]) => {
    const points = Object.entries(model["pass@k"]).filter(([, e]) => e.value != null).map(([k, e]) => [Number(k), e.value, e.low ?? e.value, e.high ?? e.value]);
    const style = i ? (i - 1) % STYLES : BASE_STYLE;
    return { id: `${model.name} ${job.stamp} ${shown.part}`, name: endName(model.name), style, points: points.sort((a, b) => a[0] - b[0]) };
  });
  passChart.set({ series, xticks: [...new Set(series.flatMap((s) => s.points.map(([k]) => k)))].sort((a, b) => a - b) });
}
function drawScatter() {
  const base = job.report.models[0].name, groups = new Map(), share = (found) => found.right / found.samples;
  for (const { row } of inPart()) {
    const [before, after] = [row.models?.[base], row.models?.[shown.name]];
    if (!before?.samples || !after?.samples) continue;
    const key = `${share(before)} ${share(after)}`, group = groups.get(key) ?? [share(before), share(after), []];
    groups.set(key, group);
    group[2].push(row.id);
  }
  const points = [...groups.values()], kind = (name, style, shape, fits) => ({ name, style, shape, points: points.filter(([x, y]) => fits(x, y)) });
  problemChart.set({
    title: "", x: `right by ${endName(base)}`, y: `right by ${endName(shown.name)}`, says: problemsSay,
    series: [kind("as before", 6, 0, (x, y) => x === y), kind("worse", 1, 4, (x, y) => y < x), kind("better", 2, 2, (x, y) => y > x)],
    onPick: (ids) => ids.slice(0, 20).reverse().forEach(showProblem),
  });
}
function problemsSay([x, y, ids]) {
  const some = ids.slice(0, NAMED).map((id) => plain(id, 40)).join(", "), more = ids.length > NAMED ? ` and ${ids.length - NAMED} more` : "";
  return `${plural(ids.length, "problem")}: ${some}${more}; ${Math.round(100 * x)}\u202f% before, ${Math.round(100 * y)}\u202f% after`;
}
