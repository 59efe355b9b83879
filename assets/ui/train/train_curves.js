// The curves of the run: one small panel per figure, all with the same pointer, all smoothed by the same slider.
import { count, make, plural, say } from "../common/text.js";
import { curves } from "../common/charts.js";
import { ui } from "./context.js";
import { run } from "./train_poll.js";
import { sweeps } from "./train_run.js";

const charts = new Map();
const RIGHT_STYLE = 2, WRONG_STYLE = 1; // bluish green and vermillion, each with its own dash and marker
const PANELS = { // in reading order: what it is all for, then what moves it, then the machinery
  pass: { title: "pass@1, held out", percent: true, within: [0, 1], empty: "At the first checkpoint." },
  gap: { title: "held-out gap", about: "right over wrong, nats per token", empty: "At the first checkpoint.", names: false },
  loss: { title: "decision loss", names: false },
  kl: { title: "KL anchor", about: "nats per token", zero: true, names: false },
  delta: { title: "Δ log p", about: "policy over base, nats" },
  grad: { title: "gradient norm", about: "before clipping", zero: true, names: false },
  lr: { title: "learning rate", zero: true, names: false, format: (v) => (v === 0 ? "0" : v.toExponential(1).replace("e-", "e−")) },
};
const DISTILL_PANELS = { // a distillation has one loss, and neither right nor wrong decisions
  pass: PANELS.pass,
  loss: { title: "KL to the teacher", about: "nats per token", zero: true, names: false },
  same: { title: "same choice as the teacher", about: "of the tokens trained on", percent: true, names: false },
  grad: PANELS.grad,
  lr: PANELS.lr,
};
const distils = () => run.config?.kind === "distill";
export function clearCurves() {
  for (const chart of charts.values()) chart.remove();
  charts.clear();
  ui.multiples.replaceChildren();
}
export function renderCurves() {
  ui.curvesPanel.hidden = !(run.updates.length || run.checks.length);
  if (ui.curvesPanel.hidden) return;
  if (!charts.size) buildCurves();
  const of = run.updates.at(-1)?.of, n = run.updates.length;
  const swept = sweeps() && n ? `τ ${run.updates.at(-1).tau}, ` : "";
  say(ui.curvesAbout, swept + (of ? `${count(run.updates.at(-1).optimizer_step)} of ${plural(of, "update")}` : n ? plural(n, "update") : ""));
  const p = run.points, line = (id, name, points = [], more = {}) => ({ id, name, points, ...more });
  const draw = (name, series, more = {}) => charts.get(name)?.set({ series, ...(of ? { xmax: of } : {}), ...more });
  draw("loss", [distils() ? line("loss", "KL to the teacher", p.loss) : line("loss", "decision loss", p.decision_loss)]);
  draw("same", [line("same", "same choice", p.agreement)]);
  draw("kl", [line("kl", "KL anchor", p.kl_loss)]);
  draw("delta", [line("right", "right", p.delta_logp_pos_mean, { style: RIGHT_STYLE }), line("wrong", "wrong", p.delta_logp_neg_mean, { style: WRONG_STYLE })]);
  draw("grad", [line("grad", "gradient norm", p.grad_norm)]);
  draw("lr", [line("lr", "learning rate", p.lr, { smooth: false })]);
  drawChecks(draw, line);
}
function drawChecks(draw, line) {
  const after = run.checks.filter((c) => c["pass@1"]), base = run.checks.find((c) => c.optimizer_step === 0)?.["pass@1"] ?? run.done?.before;
  const pass = after.map((c) => [c.optimizer_step, c["pass@1"].value, c["pass@1"].low, c["pass@1"].high]);
  const best = run.checks.findLast((c) => c.best && c.optimizer_step > 0);
  const said = after.at(-1)?.["pass@1"].n;
  draw("pass", [line("pass", "policy", pass, { smooth: false })], {
    lines: base ? [{ y: base.value, low: base.low, high: base.high, name: "base" }] : [], marks: best ? [{ x: best.optimizer_step, name: "best" }] : [],
    about: said ? `${plural(said, "problem")}, 95\u202f% interval` : "",
  });
  draw("gap", [line("gap", "gap", run.checks.filter((c) => c.gap != null).map((c) => [c.optimizer_step, c.gap]), { smooth: false })], { lines: [{ y: 0 }] });
}
function buildCurves() {
  for (const [name, options] of Object.entries(distils() ? DISTILL_PANELS : PANELS)) {
    const box = make("div", `multiple ${name}`);
    ui.multiples.append(box);
    charts.set(name, curves(box, { x: "update", height: 150, ...options, smooth: Number(ui.smooth.value), onCursor: (x) => pointAll(name, x) }));
  }
}
const pointAll = (from, x) => charts.forEach((chart, name) => name !== from && chart.cursor(x));
ui.smooth.addEventListener("input", () => {
  const smooth = Number(ui.smooth.value);
  say(ui.smoothValue, smooth ? smooth.toFixed(2) : "off");
  for (const chart of charts.values()) chart.set({ smooth });
});
