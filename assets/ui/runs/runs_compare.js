// Two runs or more side by side: the same curve of each in one panel, and a table of what differs.
import { attrs, make } from "../common/text.js";
import { keyed, plain } from "../common/tables.js";
import { around, written } from "../common/estimates.js";
import { curves } from "../common/charts.js";
import { styleSign } from "../common/svg.js";
import { ask, props, root, ui } from "./context.js";
import { ACTIVE, chosen, dollars, fieldName, fieldValue, minutes, rowOf, STATES } from "./runs_table.js";

const PANELS = [ // title, what it is, which list of run_curves, its point, further options
  ["pass@1", "held out, greedy, 95 % interval", "checks", (c) => [c["pass@1"]?.value, c["pass@1"]?.low, c["pass@1"]?.high], { percent: true, within: [0, 1], empty: "No check on held-out problems yet." }],
  ["Contrastive gap", "nats, held out", "checks", (c) => [c.gap], { empty: "No check on held-out problems yet." }],
  ["Decision loss", "by update; of a distillation, KL to the teacher", "updates", (u) => [u.decision_loss ?? u.loss], {}],
  ["KL to the base", "nats, by update", "updates", (u) => [u.kl_loss], { zero: true }],
  ["Δ log p, right", "nats, decision tokens of right rollouts", "updates", (u) => [u.delta_logp_pos_mean], { zero: true }],
  ["Δ log p, wrong", "nats, decision tokens of wrong rollouts", "updates", (u) => [u.delta_logp_neg_mean], { zero: true }],
];
export const together = { on: false, panels: [], runs: new Map(), asked: 0 };

export function showTogether(on) {
  together.on = on && chosen.size > 0;
  ui.together.hidden = !together.on;
  ui.all.hidden = together.on;
  if (!together.on) return;
  buildPanels();
  renderTogether();
  loadCurves();
  ui.togetherTitle.focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
}
function buildPanels() {
  if (together.panels.length) return;
  const point = (from) => (x) => together.panels.forEach((chart) => chart !== from() && chart.cursor(x)); // one cursor in all panels
  PANELS.forEach(([title, about, list, , options], k) => {
    const box = ui.panels.appendChild(make("div", "panel-box"));
    const smooth = list === "updates" ? Number(ui.smooth.value) : 0;
    together.panels.push(curves(box, {
      title, about, x: "update", names: false, height: 190, smooth, empty: "No update yet.", ...options, onCursor: point(() => together.panels[k]),
    }));
  });
}
export async function loadCurves() {
  const ids = [...chosen.keys()], turn = ++together.asked;
  if (ids.length === 0) return;
  const reply = await ask("run_curves", { ids });
  if (turn !== together.asked || !reply) return; // the choice changed while it was asked for
  for (const run of reply.runs ?? []) together.runs.set(run.id, run);
  renderCurves();
}
const step = (event) => event.optimizer_step ?? 0;
export function renderCurves() {
  const ids = [...chosen.keys()].filter((id) => together.runs.has(id));
  PANELS.forEach(([, , list, point], k) => {
    const series = ids.map((id) => ({
      id, name: nameOfRun(id), style: chosen.get(id), points: (together.runs.get(id)[list] ?? []).map((event) => [step(event), ...point(event)]),
    }));
    together.panels[k].set({ series });
  });
}
export function setSmoothing() {
  ui.smoothed.textContent = Number(ui.smooth.value).toFixed(2);
  PANELS.forEach(([, , list], k) => list === "updates" && together.panels[k]?.set({ smooth: Number(ui.smooth.value) }));
}
export const light = (id) => together.panels.forEach((chart) => chart.light(id));

// ---- who is who, and what differs ---------------------------------------------------------------------------
const nameOfRun = (id) => plain(together.runs.get(id)?.label || id, 60);
export function renderTogether() {
  const rows = [...chosen.keys()].map(rowOf).filter(Boolean);
  ui.togetherTitle.textContent = rows.length === 1 ? "One run is left here" : `${rows.length} runs side by side`;
  keyed(ui.keys, rows, (row) => {
    const off = attrs(make("button", "take-out", "×"), { type: "button", "data-out": row.id, "aria-label": `Take out ${plain(row.id, 60)}` });
    const [sign, word] = STATES[row.state] ?? ["?", ""], state = ACTIVE.includes(row.state) ? make("span", "soft", `${sign} ${word}`) : "";
    const item = make("li", "", styleSign(chosen.get(row.id)), make("span", "num", plain(row.id, 60)), make("span", "soft", plain(row.note || row.preset, 40)), state, off);
    item.dataset.light = row.id;
    item.classList.toggle("noted", !!row.note);
    return item;
  });
  renderDiffer(rows);
}
const OUTCOMES = [ // what came of it, in the same table
  ["model", (row) => plain(row.model, 60)], ["set", (row) => plain(row.set, 60)], ["preset", (row) => plain(row.preset ?? "own recipe", 40)],
  ["τ", (row) => (row.tau == null ? "–" : row.tau.toFixed(2))], ["gated", (row) => written(row.gated, "share")],
  ["before", (row) => [written(row.before?.value, "share"), around(row.before, "share")]], ["after", (row) => [written(row.after?.value, "share"), around(row.after, "share")]],
  ["points gained", (row) => [written(row.vs_base?.value, "points"), around(row.vs_base, "points")]], ["time", (row) => minutes(row.minutes)], ["cost", (row) => dollars(row.usd)],
];
function renderDiffer(rows) {
  const paper = props.paper ?? {}, fields = [...new Set(rows.flatMap((row) => Object.keys(row.differs ?? {})))];
  const value = (row, field) => (field in (row.differs ?? {}) ? fieldValue(row.differs[field]) : field in paper ? fieldValue(paper[field]) : "as in the paper");
  const facts = OUTCOMES.map(([name, write]) => [name, rows.map(write)]), own = fields.map((field) => [fieldName(field), rows.map((row) => value(row, field))]);
  const differ = (lines) => lines.filter(([, values]) => new Set(values.map(String)).size > 1);
  const names = make("thead", "", make("tr", "", make("td"), ...rows.map((row) => attrs(make("th", "", styleSign(chosen.get(row.id)), make("span", "num", plain(row.id, 60))), { scope: "col" }))));
  const line = ([name, values], group) => make("tr", group, attrs(make("th", "", name), { scope: "row" }), ...values.map((said, k) => {
    const [first, second] = [said].flat(), td = make("td", "num", styleSign(chosen.get(rows[k].id)), first, ...(second ? [make("span", "soft interval", second)] : []));
    return td;
  }));
  const [came, set] = [differ(facts), differ(own)];
  const body = make("tbody", "", ...came.map((l) => line(l, "fact")), ...set.map((l, k) => line(l, k || !came.length ? "field" : "field first-field")));
  keyed(ui.differ, set.length + came.length ? [names, body] : [make("caption", "soft", "Nothing: recipe and outcome are the same.")], (node) => node);
}
