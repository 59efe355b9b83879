// The dry run: which tokens of which rollouts a threshold gates, counted here while the slider moves, without a server.
import { drawn } from "../common/svg.js";
import {
  attrs, clip, count, make, nameOf, percent, plural, say, showOdd, splitSpace, undecided,
} from "../common/text.js";
import { prose } from "../common/prose.js";
import { tokenSpan } from "../common/tokens.js";
import { root, server, tooltip, trigger, ui } from "./context.js";
import { run } from "./train_poll.js";
import { dollars, isDry, megabytes, spanText } from "./train_run.js";

export const gate = { m: null, tau: 1, chosen: 0, spans: null, sent: null, asking: false, retry: false };
const gateProse = prose(ui.gateFlow);
const SIDES = [
  ["right", "✓", "in right rollouts", "A > 0: made likelier"], ["wrong", "✗", "in wrong rollouts", "A < 0: made less likely"],
  ["zero", "–", "without advantage", "A = 0: not trained"],
];
const sideOf = (rollout) => (rollout.advantage > 0 ? "right" : rollout.advantage < 0 ? "wrong" : "zero");
const isGated = (h) => h > gate.tau; // strict, as in training

// ---- counting -----------------------------------------------------------------------------------------------
// Counts come for a grid of thresholds; between two of them the count is read off the straight line, and said to be so.
function countAt(counts, tau) {
  const { levels } = gate.m, k = levels.findLastIndex((x) => x <= tau + 1e-9);
  if (k < 0) return { n: counts[0] ?? 0, exact: false };
  if (Math.abs(levels[k] - tau) < 1e-9 || k === levels.length - 1) return { n: counts[k] ?? 0, exact: k < levels.length - 1 || tau - levels[k] < 1e-9 };
  const way = (tau - levels[k]) / (levels[k + 1] - levels[k]), [a, b] = [counts[k] ?? 0, counts[k + 1] ?? 0];
  return { n: Math.round(a + way * (b - a)), exact: a === b };
}
function tally(tau) {
  const parts = ["right", "wrong", "zero"].map((side) => countAt(gate.m[`gated_${side}`] ?? [], tau));
  return { parts: parts.map((p) => p.n), all: parts.reduce((sum, p) => sum + p.n, 0), exact: parts.every((p) => p.exact) };
}

// ---- the panel ----------------------------------------------------------------------------------------------
export function clearGate() {
  Object.assign(gate, { m: null, chosen: 0, spans: null, asking: false, retry: false });
  gateProse.cut([], 0);
  ui.chooser.replaceChildren();
  ui.dry.hidden = ui.askDry.hidden = true;
  ui.gateTold.textContent = ui.dryError.textContent = "";
}
export function renderGate() {
  const told = run?.told.gate;
  ui.gatePanel.hidden = !(told || gate.m);
  root.classList.toggle("has-dry", !!gate.m);
  ui.gateTold.replaceChildren(...(told ? gateWords(told) : []));
  ui.askDry.hidden = !told || !!gate.m;
  say(ui.gateKind, !run || isDry() ? "dry run" : "");
}
function gateWords(g) {
  const how = { random: "as many tokens as the entropy gate, drawn at random", full: "every token" }[g.gate] ?? `tokens above ${g.tau?.toFixed(2) ?? "–"} nats`;
  const split = [make("span", "right", `✓ ${count(g.gated_right)}`), " in right rollouts, ", make("span", "wrong", `✗ ${count(g.gated_wrong)}`), " in wrong ones."];
  return [`This run ${run.updates.length ? "trains" : "would train"} ${how}: `, make("strong", "num", count(g.gated)), ` of ${count(g.tokens)} tokens, ${percent(g.share)}; `, ...split];
}
export async function askDry() {
  if (gate.asking || gate.m || !run) return;
  const asked = run.id;
  let m = null;
  gate.asking = ui.dryButton.disabled = true;
  say(ui.dryError, "");
  say(ui.dryButton, "Reading the rollouts …");
  try {
    m = await server.dry_run({ id: asked });
  } catch {
    // told below, like a refusal
  }
  gate.asking = ui.dryButton.disabled = false;
  say(ui.dryButton, "Look at the gated tokens");
  if (run?.id !== asked || gate.m) return;
  if (m && !m.error) receiveDry({ ...m, run: m.run ?? asked });
  else say(ui.dryError, m?.error ?? "The app does not answer.");
  gate.retry = !m; // once the poll hears of the app again
}
export const retryDry = () => gate.retry && ((gate.retry = false), askDry());
// What the gate of the run on screen marks is fetched when the panel comes into sight.
new IntersectionObserver((seen) => seen.at(-1).isIntersecting && run?.told.gate && askDry(), { rootMargin: "120px" }).observe(ui.askDry);

export function receiveDry(m) {
  if (!Array.isArray(m.levels) || !m.levels.length) return;
  Object.assign(gate, { m, tau: m.tau ?? 1, chosen: 0, spans: null, sent: m.tau ?? 1 });
  const [low, high] = [m.levels[0], m.levels.at(-1)];
  for (const input of [ui.tau, ui.tauNumber]) Object.assign(input, { min: low, max: high });
  ui.tau.step = ui.tauNumber.step = stepOf(m.levels);
  say(ui.tauLow, `${low}`);
  say(ui.tauHigh, `${high} nats`);
  say(ui.gateAbout, `${count(m.tokens)} tokens of ${plural(m.of_rollouts, "rollout")}${m.run ? "" : ", nothing is trained yet"}`);
  ui.dry.hidden = false;
  renderGate();
  drawShares();
  renderChooser();
  renderDryEstimate(m.estimate);
  readRollout(0);
  setTau(gate.tau);
}
const stepOf = (levels) => (levels.length > 1 ? Number((levels[1] - levels[0]).toFixed(6)) : 0.05);
function renderDryEstimate(e) {
  const parts = e ? [e.seconds != null && `about ${spanText(e.seconds)}`, e.memory_mb != null && megabytes(e.memory_mb), e.usd != null && dollars(e.usd)].filter(Boolean) : [];
  ui.dryEstimate.hidden = !parts.length;
  say(ui.dryEstimate, `Training on this: ${parts.join(", ")}.`);
}

// ---- tau ----------------------------------------------------------------------------------------------------
export function setTau(x) {
  const { levels } = gate.m, tau = Math.min(levels.at(-1), Math.max(levels[0], Number(x)));
  if (!Number.isFinite(tau)) return;
  gate.tau = Number(tau.toFixed(6));
  ui.tau.value = gate.tau;
  if (document.activeElement !== ui.tauNumber) ui.tauNumber.value = natsText(gate.tau);
  attrs(ui.tau, { "aria-valuetext": `${gate.tau.toFixed(2)} nats` });
  renderTally();
  remark();
  moveShareMark();
}
const natsText = (x) => (Math.abs(x - Number(x.toFixed(2))) < 1e-6 ? x.toFixed(2) : x.toFixed(4));
export function tellTau() { // once the slider rests, the form may take the threshold over
  if (!gate.m || gate.sent === gate.tau) return;
  gate.sent = gate.tau;
  trigger("tau", { tau: gate.tau });
}
ui.tau.addEventListener("input", () => gate.m && setTau(ui.tau.value));
ui.tau.addEventListener("change", tellTau);
ui.tauNumber.addEventListener("input", () => gate.m && ui.tauNumber.value !== "" && setTau(ui.tauNumber.value));
ui.tauNumber.addEventListener("change", () => {
  ui.tauNumber.blur();
  if (gate.m) setTau(ui.tauNumber.value === "" ? gate.tau : ui.tauNumber.value);
  tellTau();
});

function renderTally() {
  const { parts, all, exact } = tally(gate.tau), tokens = gate.m.tokens || 1;
  say(ui.gatedCount, `${exact ? "" : "≈ "}${count(all)}`);
  say(ui.gatedOf, `of ${count(gate.m.tokens)} tokens gated, ${all ? percent(all / tokens) : "0\u202f%"}`);
  const rows = SIDES.map(([side, sign, where, what], k) => (side === "zero" && !parts[k] ? null
    : make("li", "", make("span", side === "zero" ? "none" : side, `${sign} ${count(parts[k])}`), ` ${where}`, make("span", "soft", ` ${what}`))));
  ui.sides.replaceChildren(...rows.filter(Boolean));
  [...ui.sharesBar.children].forEach((bar, k) => (bar.style.flexGrow = parts[k]));
  const back = gate.m.tau != null && Math.abs(gate.tau - gate.m.tau) > 1e-6;
  ui.tauBack.hidden = !back;
  if (back) say(ui.tauBack, `back to ${natsText(gate.m.tau)}`);
}

// ---- share over tau -----------------------------------------------------------------------------------------
// Logarithmic, for the first tenth of a nat takes away nine tokens in ten; drawn in a square that the page stretches.
const FLOOR = 1e-3;
const heightOf = (share) => 100 * (1 - Math.log10(Math.max(share, FLOOR) / FLOOR) / -Math.log10(FLOOR));
function drawShares() {
  const { m } = gate, [low, high] = [m.levels[0], m.levels.at(-1)], x = (tau) => (100 * (tau - low)) / (high - low || 1);
  const spots = m.levels.map((tau) => `${x(tau).toFixed(2)} ${heightOf(tally(tau).all / (m.tokens || 1)).toFixed(2)}`);
  const svg = drawn("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const share of [1, 0.1, 0.01]) svg.append(drawn("line", { x1: 0, x2: 100, y1: heightOf(share), y2: heightOf(share), class: "rule" }));
  svg.append(drawn("path", { d: `M0 100L${spots.join("L")}L100 100z`, class: "area" }), drawn("path", { d: `M${spots.join("L")}`, class: "line" }));
  if (m.tau != null) svg.append(drawn("line", { x1: x(m.tau), x2: x(m.tau), y1: 0, y2: 100, class: "given" }));
  const here = drawn("line", { y1: 0, y2: 100, class: "here" }), dot = make("i", "share-dot"), labels = [1, 0.1, 0.01].map((share) => {
    const label = make("span", "share-label num", percent(share));
    label.style.top = `${heightOf(share)}%`;
    return label;
  });
  svg.append(here);
  ui.shareCurve.replaceChildren(svg, dot, ...labels);
  Object.assign(gate, { mark: here, dot, x });
}
function moveShareMark() {
  const x = gate.x(gate.tau);
  attrs(gate.mark, { x1: x, x2: x });
  Object.assign(gate.dot.style, { left: `${x}%`, top: `${heightOf(tally(gate.tau).all / (gate.m.tokens || 1))}%` });
}

// ---- the rollouts to read -----------------------------------------------------------------------------------
function renderChooser() {
  const groups = new Map();
  gate.m.rollouts.forEach((rollout, k) => groups.set(rollout.problem_id, [...(groups.get(rollout.problem_id) ?? []), k]));
  ui.chooser.replaceChildren(...[...groups].map(([problem, list]) => make("div", "pick", make("span", "soft", showOdd(clip(String(problem), 40))), ...list.map(chip))));
}
function chip(k) {
  const rollout = gate.m.rollouts[k], right = rollout.correct, name = right ? "right" : "wrong";
  const button = attrs(make("button", "chip", make("span", name, right ? "✓" : "✗"), ` ${rollout.gen}`), {
    type: "button", "aria-pressed": "false", "aria-label": `${rollout.problem_id}, rollout ${rollout.gen}, ${name}`,
  });
  button.dataset.rollout = k;
  return button;
}
export function readRollout(k) {
  const rollout = gate.m.rollouts[k];
  gate.chosen = k;
  for (const button of ui.chooser.querySelectorAll("[data-rollout]")) attrs(button, { "aria-pressed": Number(button.dataset.rollout) === k });
  gateProse.cut([], 0);
  ui.gateText.scrollTop = 0;
  gate.spans = [];
  if (!rollout) return say(ui.readingOf, "No rollout to read.");
  rollout.toks.forEach(([text], i) => {
    const span = tokenSpan(text, i);
    gateProse.place(span, text, rollout.toks[i - 1]?.[0]);
    gate.spans.push(span);
  });
  remark();
}
// Only tokens that cross the threshold are touched.
function remark() {
  const rollout = gate.m.rollouts[gate.chosen];
  if (!rollout) return;
  const cls = `of-${sideOf(rollout)}`;
  let n = 0;
  gate.spans.forEach((span, i) => {
    const on = isGated(rollout.toks[i][1] ?? 0);
    n += on;
    if (on === span.classList.contains("gated")) return;
    if (on) splitSpace(span);
    span.classList.toggle("gated", on);
    span.classList.toggle(cls, on);
  });
  const advantage = rollout.advantage ?? 0, signed = `${advantage > 0 ? "+" : advantage < 0 ? "−" : ""}${Math.abs(advantage).toFixed(2)}`;
  ui.readingOf.replaceChildren(make("strong", "", showOdd(clip(String(rollout.problem_id), 60))), ` rollout ${rollout.gen}: `,
    make("span", rollout.correct ? "right" : "wrong", rollout.correct ? "✓ right" : "✗ wrong"), `, advantage `, make("span", "num", signed),
    "; ", make("span", "num", count(n)), ` of ${plural(rollout.toks.length, "token")} gated`);
}
const gateTipGone = tooltip(ui.gateFlow, (span) => {
  const rollout = gate.m?.rollouts[gate.chosen], tok = rollout?.toks[Number(span.dataset.i)];
  if (!tok) return [];
  const gated = isGated(tok[1] ?? 0), fate = gated ? SIDES.find(([side]) => side === sideOf(rollout))[3] : "not gated: held to the base";
  return [make("p", "", nameOf(tok[0]), make("span", "num", `${(tok[1] ?? 0).toFixed(2)} nats`)), make("p", "soft", undecided(tok[1])), make("p", "", fate)];
});
ui.gateText.addEventListener("scroll", () => gateTipGone(0), { passive: true });
