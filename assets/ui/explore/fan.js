// The fork fan of the page, above the text and linked with it: point at a word to read it, click it to take it, drag along the
// trunk to go through the text. What the other words end in is asked for in the background, and comes in while one reads.
import { drawFan, endMark, endOf, fanRows, layLanes } from "../common/fan.js";
import { drawingSvg, pngOf, svgFile } from "../common/figures.js";
import { drawn } from "../common/svg.js";
import { attrs, clip, count, make, nameOf, odds, plainName, say, showOdd, undecided } from "../common/text.js";
import { putNear } from "../common/view.js";
import { root, server, trigger, ui } from "./context.js";
import { branches, choose, els, forks, presenter, renderEnds, select, selected, settled, shown, tau, tree, visit } from "./token_view.js";
import { measuring, outcomesAt } from "./worth.js";

const SOON = 250, IDLE = 700; // milliseconds between two drawings of a growing text; before the ends are asked for
const ends = new Map(); // run whose token stands there -> position -> id -> answer
const asked = new Set(); // "run tau" of which the ends were asked for
let svg = null, data = null, timer = 0, later = 0, held = null;

// ---- what is drawn ------------------------------------------------------------------------------------------
function rows() { // a branch that is still being written is not in the tree yet
  const open = shown.open ?? {};
  return tree.some((row) => row.run === shown.run) ? tree : [...tree, { run: shown.run, ...open, n: shown.toks.length }];
}
// A branch and those that it was made from. What comes after equal beginnings is equal, so an end is kept with the one
// whose own token stands there.
function lineOf(run) {
  const all = new Map(rows().map((row) => [row.run, row])), line = [];
  for (let row = all.get(run); row && !line.includes(row); row = all.get(row.parent)) line.push(row);
  return line;
}
const ownerAt = (line, pos) => line.find((row) => row.parent == null || pos > row.at)?.run;
function answerEnd(answer) { // without a known answer: whether it is that of the branch on screen, once that is there
  const known = !!shown.open?.known, own = shown.result?.answer?.text ?? null;
  if (!answer || (!known && !shown.result)) return endOf(null);
  return endOf({ text: answer.text, correct: known ? answer.correct : answer.text !== null && answer.text === own }, known);
}
export function endAt(pos, id, taken = leaves(), line = lineOf(shown.run)) {
  if (presenter.on && !settled) return endOf(null); // a replay must not give an end away
  const branch = taken.find((leaf) => leaf.leaves === pos && leaf.id === id && leaf.direct);
  if (branch) return answerEnd(branch.row.answer);
  return answerEnd(ends.get(ownerAt(line, pos))?.get(pos)?.get(id));
}
const leaves = () => layLanes(rows().filter((row) => row.run && (row.answer || row.run === shown.run)), shown.run);
// The branch in which this word was taken before and led to an end of its own, if any.
export function takenAt(pos, id) {
  const leaf = leaves().find((one) => one.leaves === pos && one.id === id && one.direct);
  return leaf && !["cancelled", "error"].includes(leaf.row.stop) ? leaf.row.run : null;
}
function fanData() {
  const b = shown, far = els.length, known = !!b.open?.known, hidden = presenter.on && !settled;
  const taken = leaves().filter((leaf) => !hidden || leaf.leaves < far).map((leaf) => ({ ...leaf, row: { ...leaf.row, end: hidden ? endOf(null) : answerEnd(leaf.row.answer) } }));
  const line = lineOf(b.run), places = forks.map((pos) => forkAt(pos, b.toks[pos], taken, line));
  return { length: far, size: settled ? far : roundUp(Math.max(far, Math.min(b.toks.length, 2 * far))), done: settled, forks: places, taken, selected, known, answer: settled ? answerEnd(b.result?.answer) : null };
}
const parsed = new WeakMap(); // token -> its alternatives, read once
function othersOf(tok) {
  if (!parsed.has(tok)) parsed.set(tok, tok[5] ? JSON.parse(tok[5]) : [null, []]);
  return parsed.get(tok);
}
function forkAt(pos, tok, taken, line) {
  const [text, H] = tok, [id, top] = othersOf(tok), worth = outcomesAt(pos);
  const alts = top.filter((alt) => alt[0] !== id).map(([other, p, word]) => ({ id: other, p, text: word, end: endAt(pos, other, taken, line), worth: worth(other) }));
  return { pos, text, H: H ?? 0, alts };
}
const roundUp = (n) => [...Array(40).keys()].map((k) => Math.ceil(48 * 1.25 ** k)).find((size) => size >= n); // a growing axis moves seldom

// ---- drawing ------------------------------------------------------------------------------------------------
export function fanSoon() { // a text that grows is drawn a few times a second, whatever its pace
  if (ui.fan.hidden && els.length) return renderFan(); // at once where it comes up: it would push the text down
  timer ||= setTimeout(() => (pressed ? ((timer = 0), fanSoon()) : renderFan()), SOON); // a click ends on the mark on which it began
}
export function renderFan() {
  clearTimeout(timer);
  timer = 0;
  ui.fan.hidden = !shown || !els.length;
  const width = ui.fanPlot.clientWidth;
  if (ui.fan.hidden || !width) return;
  data = fanData();
  const unit = presenter.on ? Math.max(1, Math.min(1.9, innerWidth / 1000)) : 1, place = focusedMark();
  svg = drawFan(data, { width, unit });
  markFan();
  ui.fanPlot.dataset.drawings = Number(ui.fanPlot.dataset.drawings ?? 0) + 1;
  ui.fanPlot.replaceChildren(svg);
  svg.append(drawn("path", { class: "fan-reader", d: "" }));
  setStop(place);
  if (ui.fanTable.open) renderRows();
}
const marksOf = () => [ // each fork before its words, which are drawn under it
  ...[...(svg?.querySelectorAll(".fan-branching") ?? [])].flatMap((group) => [group.querySelector(".fan-fork"), ...group.querySelectorAll(".fan-ray")]),
  ...(svg?.querySelectorAll(".fan-lane") ?? []),
];
const nameOfMark = (node) => [node.dataset.pos, node.dataset.id, node.dataset.run].join();
const focusedMark = () => (svg?.contains(document.activeElement) ? nameOfMark(document.activeElement) : null);
function setStop(name) { // one stop for the Tab key; drawing anew keeps the focus where it was
  const all = marksOf(), mine = name !== null && all.find((node) => nameOfMark(node) === name);
  (mine || all.find((node) => node.classList.contains("selected")) || all[0])?.setAttribute("tabindex", 0);
  if (mine) mine.focus({ preventScroll: true });
}
export function markFan() { // which fork is in hand
  for (const node of svg?.querySelectorAll(".fan-fork, .fan-catch[data-pos]") ?? []) node.classList.toggle("selected", Number(node.dataset.pos) === selected);
}
function renderRows() {
  const cell = (text) => attrs(make("td", "", text), { dir: "auto" });
  ui.fanRows.replaceChildren(...fanRows(data).slice(0, 600).map((row) => make("tr", "", ...row.map(cell))));
}
ui.fanTable.addEventListener("toggle", () => ui.fanTable.open && data && renderRows());
new ResizeObserver(() => svg && ui.fanPlot.clientWidth !== svg.width.baseVal.value && renderFan()).observe(ui.fanPlot);

// ---- pointing -----------------------------------------------------------------------------------------------
function tipOf(node) {
  if (node.row) return [make("p", "", node.getAttribute("aria-label"))];
  const { fork, alt } = node, line = (one) => make("p", "", make("span", "", nameOf(one.text), " ", make("span", "num soft", odds(one.p))), make("span", `fan-said fan-${one.end.kind}`, endMark(one.end) || "?"));
  if (alt) return [line(alt), make("p", "soft", `in place of ${plainName(fork.text)} at token ${count(fork.pos)}`)];
  return [make("p", "", nameOf(fork.text), make("span", "soft", `token ${count(fork.pos)}`)), ...fork.alts.map(line), make("p", "soft", undecided(fork.H))];
}
function point(node) {
  held = node;
  if (!node || presenter.on) return ui.tip.matches(":popover-open") && ui.tip.hidePopover();
  ui.tip.replaceChildren(...tipOf(node));
  if (!ui.tip.matches(":popover-open")) ui.tip.showPopover();
  putNear(ui.tip, (node.querySelector(".fan-mark, .fan-node, .fan-lane-name") ?? node).getBoundingClientRect());
}
const markAt = (e) => e.target.closest(".fan-ray, .fan-fork, .fan-lane, .fan-catch");
ui.fanPlot.addEventListener("pointerover", (e) => e.pointerType !== "touch" && markAt(e) !== held && point(markAt(e)));
ui.fanPlot.addEventListener("pointerleave", () => point(null));
ui.fanPlot.addEventListener("focusin", (e) => e.target.matches(":focus-visible") && point(e.target));
ui.fanPlot.addEventListener("focusout", () => point(null));

// ---- taking, and going through the text ---------------------------------------------------------------------
let drag = null, pressed = false; // { from, moved } while the pointer is down on the trunk
function take(node) {
  point(null);
  if (node.row) return visit(node.dataset.run);
  const pos = Number(node.dataset.pos);
  return node.alt ? choose(pos, node.alt.id) : select(pos, false);
}
ui.fanPlot.addEventListener("click", (e) => {
  const node = markAt(e), scrubbed = drag?.moved;
  drag = null;
  e.stopPropagation();
  if (node && !scrubbed) take(node);
});
ui.fanPlot.addEventListener("pointerdown", (e) => {
  const box = svg?.getBoundingClientRect(), near = box && Math.abs(e.clientY - box.top - svg.place.trunk) < 12 * svg.place.unit;
  drag = near ? { from: e.clientX, moved: false } : null;
  pressed = true;
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => setTimeout(() => (pressed = false)), { once: true });
});
ui.fanPlot.addEventListener("pointermove", (e) => {
  if (!drag || !e.buttons) return;
  if (!drag.moved && Math.abs(e.clientX - drag.from) < 4) return;
  if (!drag.moved) ui.fanPlot.setPointerCapture(e.pointerId);
  drag.moved = true;
  readAt(e.clientX - svg.getBoundingClientRect().left);
});
ui.fanPlot.addEventListener("lostpointercapture", () => readTo(null));
function readAt(x) {
  readTo(Math.max(0, Math.min(els.length - 1, Math.round(svg.place.posAt(x)))));
}
function readTo(pos) { // the text stands still at a token, and the trunk shows where that is
  ui.flow.querySelector(".pointed")?.classList.remove("pointed");
  const line = svg.querySelector(".fan-reader"), span = pos === null ? null : els[pos], { trunk, unit, xOf } = svg.place;
  line?.setAttribute("d", span ? `M${xOf(pos)} ${trunk - 16 * unit}v${32 * unit}` : "");
  if (!span) return say(ui.fanSaid, "");
  span.classList.add("pointed");
  span.scrollIntoView({ block: "center", container: "nearest" });
  say(ui.fanSaid, `token ${count(pos)}: ${plainName(shown.toks[pos][0])}`);
}
ui.fanPlot.addEventListener("keydown", (e) => {
  const all = marksOf(), node = e.target.closest(".fan-ray, .fan-fork, .fan-lane"), tops = all.filter((one) => !one.alt);
  const own = node?.alt ? node.parentNode.querySelector(".fan-fork") : node, along = { ArrowRight: 1, ArrowLeft: -1 }[e.key], across = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (!node) return;
  if (e.key === "Enter" || e.key === " ") take(node);
  else if (along) moveTo(node, tops[tops.indexOf(own) + along]);
  else if (across) moveTo(node, all[all.indexOf(node) + across]);
  else return;
  e.preventDefault();
  e.stopPropagation();
});
function moveTo(node, next) {
  if (!next) return;
  node.setAttribute("tabindex", -1);
  attrs(next, { tabindex: 0 }).focus({ preventScroll: true });
}

// ---- the ends, asked for while nothing else is under way ----------------------------------------------------
export function endsLater() {
  clearTimeout(later);
  later = setTimeout(askEnds, IDLE);
}
function askEnds() {
  const key = `${shown?.run} ${tau}`, recorded = shown?.open?.origin?.kind === "recorded";
  if (!shown || !settled || recorded || asked.has(key) || document.hidden || !server.inspect) return;
  if (measuring()) return endsLater();
  asked.add(key);
  trigger("ends", { run: shown.run, tau });
}
document.addEventListener("visibilitychange", () => !document.hidden && endsLater());
// {"kind": "ends", "run", "ends": [[position, [[id, text, correct] | [id], ...]], ...]}; an id alone came to no end in time.
export function receiveEnds(m) {
  const line = shown ? lineOf(m.run) : [];
  for (const [pos, found] of m.ends ?? []) {
    const run = ownerAt(line, pos) ?? m.run, places = ends.get(run) ?? ends.set(run, new Map()).get(run), place = places.get(pos) ?? new Map();
    for (const [id, ...answer] of found) if (answer.length) place.set(id, { text: answer[0], correct: answer[1] });
    places.set(pos, place);
  }
  if (m.done && !m.complete) asked.delete(`${m.run} ${tau}`); // it gave way to something a person did
  if (m.run !== shown?.run) return;
  fanSoon();
  renderEnds();
}

// ---- taken home ---------------------------------------------------------------------------------------------
// The fan as a file, "svg" or "png"; as "card" with the problem over it, in the size that networks show.
export async function fanFile(kind) {
  const words = (shown.open?.title ?? "").toLowerCase().match(/[a-z0-9]+/g)?.join("-").slice(0, 48) || "solution";
  const text = drawingSvg(kind === "card" ? card() : drawFan({ ...data, selected: null }, { width: 1200, unit: 1.4 }), root);
  if (kind === "svg") return { name: `${words}-fan.svg`, blob: svgFile(text) };
  return { name: `${words}-${kind === "card" ? "card" : "fan"}.png`, blob: await pngOf(text, kind === "card" ? 1 : 2) };
}
function card() { // the problem, the answer and what it was before the last swap, the fan
  const fan = drawFan({ ...data, selected: null }, { width: 1120, unit: 1.7 }), words = showOdd(clip(shown.open?.title ?? "", 170)).split(/\s+/), lines = [""];
  for (const word of words) (lines.at(-1) + word).length > 58 ? lines.push(word) : (lines[lines.length - 1] += ` ${word}`);
  const write = (text, y, size, cls = "", ...parts) => drawn("text", { x: 40, y, "font-size": size, class: `fan-words ${cls}` }, text, ...parts);
  const part = (text, end) => drawn("tspan", end ? { class: `fan-answer fan-${end.kind}` } : { class: "fan-soft" }, text);
  const all = drawn("svg", { class: "fan-drawing", width: 1200, height: 630, viewBox: "0 0 1200 630" }, drawn("rect", { class: "fan-paper", width: 1200, height: 630 }));
  all.append(...lines.slice(0, 3).map((line, k) => write(line.trim(), 74 + 46 * k, 36)), write("rmx · the few words that decide an answer", 600, 24, "fan-soft"));
  const { from_text: from, to_text: to } = shown.open ?? {}, before = tree.find((row) => row.run === shown.open?.parent)?.answer, was = before && answerEnd(before), now = data.answer;
  const turned = was && now && was.text !== now.text, under = 74 + 46 * Math.min(3, lines.length);
  if (turned) all.append(write("", under + 32, 56, "", part(endMark(was, 12), was), part(" → "), part(endMark(now, 12), now), drawn("tspan", { class: "fan-soft", "font-size": 28, dx: 28 }, `“${plainName(to).replace(/^␣+/, "")}” in place of “${plainName(from).replace(/^␣+/, "")}”`)));
  all.append(attrs(fan, { x: 40, y: Math.max(under + (turned ? 46 : 0), 562 - fan.place.height), height: Math.min(fan.place.height, 390) }));
  return all;
}
