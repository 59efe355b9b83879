// Which forks decide: the answers still within reach along the solution, and below them the importance of each fork.
// The shares of a fork hold from behind the fork before it up to this one: until then nothing else is chosen.
import { drawBoxes } from "../common/boxes.js";
import { drawn } from "../common/svg.js";
import { attrs, count, make, nameOf, oneLine, plainName, plural } from "../common/text.js";
import { kindOf, SIGNS, textOf } from "../common/answers.js";
import { ui } from "./context.js";
import {
  answerLabel, interval, panelJob, renderTarget, round, spentText, targetText, toneOf, WHENEVER, worth, writeAnswer,
} from "./worth.js";
import { answerOf, els, select, shown } from "./token_view.js";

const PLOT = { left: 44, right: 8, areas: 132, gap: 24, bars: 64, foot: 20 };
export const importanceState = (m) => `${count(m.at ?? 0)} of ${plural(m.of ?? 0, "fork")}, ${spentText(m)}`;

export function renderImportance(m, job) {
  const parts = (job.parts ??= importanceParts());
  if (parts.plot.parentNode !== ui.panelBody) ui.panelBody.replaceChildren(...Object.values(parts));
  renderTarget(parts.target, m.target, `Answers still within reach, token by token; ${targetText(m.target)}.`);
  drawPlot(m, job);
  const known = m.target?.known !== false, seen = layers(m).filter((layer) => m.points.some((p) => layer.share(p) > 0.001));
  parts.legend.replaceChildren(...seen.map(({ text, tone }) => answerLabel(text, tone, known)));
  renderSentences(parts.sentences, m);
}
function importanceParts() {
  const parts = {
    target: make("p", "soft"), plot: make("div", "plot"), readout: make("p", "readout"),
    legend: make("p", "answers-legend"), sentences: attrs(make("ol", "by-sentence"), { "aria-label": "Sentences by importance" }),
  };
  parts.readout.append(make("span", "soft", "Point at a fork to read its figures; click it to see it in the text."));
  return parts;
}
// The answers from the ground up: right, wrong ones, all others, none. A rare right answer is taken out of the others.
function layers(m) {
  const answers = m.answers ?? [], right = rightAmong(answers, m), known = m.target?.known !== false, lost = right < 0 ? 1 : 0;
  const share = (k) => (p) => p.shares?.[k] ?? 0, tone = (text, k) => toneOf(text, k === right, known);
  const made = answers.map((text, k) => ({ text, tone: tone(text, k), share: share(k) }));
  if (lost) made.push({ text: m.target?.text ?? null, tone: known ? "right" : "same", share: (p) => p.correct ?? 0 });
  made.push({ text: "other answers", tone: "rest", share: (p) => Math.max(0, (p.shares?.at(-1) ?? 0) - lost * (p.correct ?? 0)) });
  const rank = (tone) => ({ right: 0, same: 0, rest: 2, none: 3 })[tone] ?? 1;
  return made.sort((a, b) => rank(a.tone) - rank(b.tone));
}
function rightAmong(answers, m) { // the most frequent writing need not be the known one, letter by letter
  const points = m.points.filter((p) => p.correct != null && p.shares), exact = answers.indexOf(m.target?.text);
  const fits = (k) => points.some((p) => p.correct > 0.005) && points.every((p) => Math.abs(p.shares[k] - p.correct) < 0.005);
  return exact >= 0 ? exact : answers.findIndex((text, k) => text !== null && fits(k));
}

// ---- the drawing --------------------------------------------------------------------------------------------
function drawPlot(m, job) {
  const box = job.parts.plot, width = Math.max(240, box.clientWidth || ui.panel.clientWidth || 600);
  const n = Math.max(1, shown.toks.length), points = [...m.points].sort((a, b) => a.pos - b.pos);
  const base = PLOT.areas + PLOT.gap + PLOT.bars, height = base + PLOT.foot;
  const x = (pos) => PLOT.left + ((width - PLOT.left - PLOT.right) * pos) / n;
  const svg = attrs(drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group" }), { "aria-label": "Answers within reach and importance, by token" });
  const hatch = drawn("pattern", { id: "rmx-hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, drawn("rect", { width: 1.6, height: 5, class: "hatch" }));
  svg.append(drawn("defs", {}, hatch), ...areas(m, points, x), ...axes(x, n, width, base));
  const top = Math.max(0.1, ...points.map((p) => p.importance?.high ?? 0).map((v) => Math.min(1, v)));
  const columns = points.map((p, k) => forkColumn(p, k, points, x, base, top, job));
  svg.append(...columns);
  svg.append(
    tick(PLOT.areas + PLOT.gap + 9, `${round(top)} %`), tick(base, "0"),
    drawn("text", { x: PLOT.left, y: PLOT.areas + PLOT.gap - 6, class: "tick over" }, "importance of each fork"),
  );
  const held = box.querySelector(".fork-column:focus") && document.activeElement.dataset.fork;
  box.replaceChildren(svg);
  const at = columns.find((c) => c.dataset.fork === (held || job.at)) ?? columns[0];
  at?.setAttribute("tabindex", 0);
  if (held) at?.focus({ preventScroll: true });
  job.width = width;
}
function areas(m, points, x) {
  const order = layers(m), made = [];
  points.forEach((p, i) => {
    const from = i ? points[i - 1].pos + 1 : 0, total = (p.shares ?? []).reduce((a, b) => a + b, 0);
    let up = PLOT.areas;
    if (total <= 0) return;
    for (const { tone, share } of order) {
      const tall = (share(p) / total) * PLOT.areas;
      if (tall < 0.05) continue;
      up -= tall;
      made.push(drawn("rect", { x: x(from), y: up, width: x(p.pos + 1) - x(from) + 0.3, height: tall, class: `area tone-${tone}` }));
    }
  });
  return [drawn("rect", { x: x(0), y: 0, width: Math.max(0, x(shown.toks.length) - x(0)), height: PLOT.areas, class: "ground" }), ...made, ...ending(points, x)];
}
function ending(points, x) { // behind the last fork stands what was written
  const last = points.at(-1), answer = answerOf(shown.run), from = last ? x(last.pos + 1) : 0, room = x(shown.toks.length) - from;
  if (!last || !answer || room < 70) return [];
  const words = `${SIGNS[kindOf(answer)]} ${writeAnswer(textOf(answer), Math.max(3, Math.floor(room / 10) - 2))}`;
  return [drawn("text", { x: from + room / 2, y: PLOT.areas / 2 + 4, class: `ended ${kindOf(answer)}` }, words)];
}
function axes(x, n, width, base) {
  const step = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((s) => (s / n) * width >= 64) ?? 10_000;
  const places = [...Array(Math.ceil(n / step)).keys()].map((k) => k * step).filter((pos) => pos === 0 || x(pos) > x(0) + 62);
  return [
    drawn("line", { x1: x(0), x2: width - PLOT.right, y1: base, y2: base, class: "axis" }),
    tick(9, "100 %"), tick(PLOT.areas / 2 + 4, "50"), tick(PLOT.areas, "0"),
    ...places.map((pos) => drawn("text", { x: x(pos), y: base + 15, class: pos ? "tick middle" : "tick" }, pos ? count(pos) : "token 0")),
  ];
}
const tick = (y, text) => drawn("text", { x: PLOT.left - 6, y, class: "tick end" }, text);
function forkColumn(p, k, points, x, base, top, job) {
  const at = x(p.pos + 0.5), left = k ? (at + x(points[k - 1].pos + 0.5)) / 2 : x(0), right = k + 1 < points.length ? (at + x(points[k + 1].pos + 0.5)) / 2 : x(shown.toks.length);
  const wide = Math.max(4, Math.min(14, right - left - 3)), e = p.importance ?? {}, y = (v) => base - (PLOT.bars * Math.min(top, v)) / top;
  const column = drawn("g", { class: p.decides ? "fork-column decides" : "fork-column", role: "button", tabindex: -1, "data-pos": p.pos, "data-fork": p.pos, "aria-label": columnSays(p) });
  column.append(drawn("rect", { x: left, y: 0, width: Math.max(1, right - left), height: base, class: "catch" }), drawn("line", { x1: at, x2: at, y1: 0, y2: base, class: "fork-line" }));
  if (e.value != null) column.append(drawn("rect", { x: at - wide / 2, y: y(e.value), width: wide, height: Math.max(1, base - y(e.value)), class: "bar" }));
  if (e.low != null && e.value != null) {
    const cap = (v) => drawn("line", { x1: at - 3, x2: at + 3, y1: y(v), y2: y(v), class: "whisker" });
    column.append(drawn("line", { x1: at, x2: at, y1: y(e.low), y2: y(e.high), class: "whisker" }), cap(e.low), cap(e.high));
  }
  column.point = p;
  if (job.at === String(p.pos)) column.classList.add("at");
  return column;
}
function columnSays(p) {
  const e = p.importance ?? {}, figure = e.value == null ? "not measured yet" : `importance ${round(e.value)} %, from ${round(e.low)} to ${round(e.high)} %`;
  return `Fork at token ${p.pos}: ${JSON.stringify(plainName(p.text ?? ""))}, ${figure}`;
}

// ---- pointing, and the keys of the plot ---------------------------------------------------------------------
function readOut(column) {
  const job = panelJob("importance"), p = column.point, e = p.importance ?? {};
  if (!job?.parts) return;
  for (const other of job.parts.plot.querySelectorAll(".fork-column.at")) other.classList.remove("at");
  column.classList.add("at");
  job.at = column.dataset.fork;
  const known = job.m.target?.known !== false, figures = [];
  if (e.value != null) figures.push(make("span", "num", make("i", "quiet", "importance "), `${round(e.value)} % ${interval(e)}`));
  if (p.correct != null) figures.push(make("span", "num", make("i", "quiet", known ? "P(right) " : "P(same) "), `${round(p.correct)} %`));
  const word = p.decides ? "decides" : e.value == null ? "not measured yet" : "";
  job.parts.readout.replaceChildren(make("span", "at-token", nameOf(p.text ?? ""), make("span", "soft", ` at ${count(p.pos)}`)), ...figures, make("span", "soft", word));
  job.parts.readout.title = WHENEVER;
  pointAt(p.pos);
}
function pointAt(pos) { // the same token in the text
  ui.flow.querySelector(".pointed")?.classList.remove("pointed");
  if (pos !== null) els[pos]?.classList.add("pointed");
}
for (const name of ["pointerover", "focusin"]) {
  ui.panelBody.addEventListener(name, (e) => {
    const column = e.target.closest(".fork-column");
    if (column) readOut(column);
  });
}
ui.panelBody.addEventListener("pointerleave", () => pointAt(null));
ui.panelBody.addEventListener("focusout", () => pointAt(null));
ui.panelBody.addEventListener("keydown", (e) => {
  const column = e.target.closest(".fork-column"), way = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
  if (!column) return;
  if (e.key === "Enter" || e.key === " ") select(Number(column.dataset.pos));
  else if (way) moveColumn(column, way);
  else return;
  e.preventDefault();
});
function moveColumn(column, way) {
  const all = [...column.parentNode.querySelectorAll(".fork-column")], next = all[all.indexOf(column) + way];
  if (!next) return;
  column.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus({ preventScroll: true });
}
new ResizeObserver(() => {
  const job = panelJob("importance");
  if (worth.open === "importance" && job?.m && job.parts?.plot.isConnected && job.parts.plot.clientWidth !== job.width) drawPlot(job.m, job);
}).observe(ui.panelBody);

// ---- by sentence --------------------------------------------------------------------------------------------
function renderSentences(list, m) {
  const rows = (m.sentences ?? []).filter((s) => s.forks), most = Math.max(0.001, ...rows.map((s) => s.importance ?? 0));
  list.hidden = !rows.length;
  list.replaceChildren(...rows.map((s) => {
    const best = m.points.filter((p) => p.pos >= s.from && p.pos <= s.to).sort((a, b) => (b.importance?.value ?? 0) - (a.importance?.value ?? 0))[0];
    const bar = make("i", "sentence-bar"), text = attrs(make("span", "sentence meant"), { dir: "auto" });
    text.textContent = oneLine(s.text ?? "").trim();
    drawBoxes([text]);
    if (text.querySelector(".tex")) text.title = text.textContent;
    bar.style.setProperty("--p", (s.importance ?? 0) / most);
    const figure = make("span", "num", s.importance == null ? "–" : `${round(s.importance)} %`);
    const row = attrs(make("button", "", text, make("span", "soft", plural(s.forks, "fork")), bar, figure), { type: "button" });
    if (best) row.dataset.pos = best.pos;
    return make("li", "", row);
  }));
}
