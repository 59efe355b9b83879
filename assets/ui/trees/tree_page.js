// A tree of solutions in a file of its own: nothing is fetched, everything stands in the block #tree, and the modules
// that are imported here stand before this, in the same script.
import { mark, verdictOn } from "../common/answers.js";
import { drawFan, endOf, fanRows, layLanes } from "../common/fan.js";
import { prose } from "../common/prose.js";
import {
  attrs, clip, count, make, nameOf, plainName, plural, showOdd, splitSpace, undecided,
} from "../common/text.js";
import { altRow, CEILING, tint, tokenSpan, underline } from "../common/tokens.js";

const tree = JSON.parse(document.getElementById("tree").textContent);
const ui = {};
for (const node of document.querySelectorAll("[data-ui]")) ui[node.dataset.ui] = node;
const branches = [tree, ...tree.branches], texts = tree.texts ?? {}, tau = tree.tau;
const whole = branches.reduce((all, b, k) => [...all, k ? [...all[b.parent].slice(0, b.at), ...b.tokens] : b.tokens], []);
const textAt = (t) => t.text ?? texts[t.id] ?? "", isFork = (t) => t.entropy > tau;
const { els, place, cut } = prose(ui.flow);
let shown = null, selected = null, forks = [];

// ---- the text -----------------------------------------------------------------------------------------------
function spanOf(t, pos) {
  const text = textAt(t), span = tokenSpan(text, pos, { forced: t.forced, special: tree.special?.includes(t.id) });
  tint(span, t.entropy / CEILING);
  if (t.forced) splitSpace(span);
  if (!isFork(t)) return span;
  span.classList.add("fork");
  underline(span, t.entropy);
  const name = `Fork at token ${pos}: ${JSON.stringify(plainName(text))}, entropy ${t.entropy.toFixed(2)}`;
  return attrs(span, { role: "button", tabindex: -1, "aria-haspopup": "dialog", "aria-label": name });
}
function show(k, focus = null) {
  close();
  const from = shown === null ? null : branchingOf(shown, k);
  shown = k;
  cut([], 0);
  whole[k].forEach((t, pos) => {
    const span = spanOf(t, pos);
    if (from !== null && pos > from) span.classList.add("fresh");
    place(span, textAt(t), pos ? textAt(whole[k][pos - 1]) : undefined);
  });
  forks = els.flatMap((span, pos) => (span.classList.contains("fork") ? [pos] : []));
  if (forks.length) els[forks[0]].tabIndex = 0;
  for (const pos of forks) if (alternatives(pos).size) els[pos].classList.add("tried");
  renderAnswer();
  renderFan();
  if (focus !== null) {
    els[focus]?.scrollIntoView({ block: "nearest" });
    if (forks.includes(focus)) els[focus].focus({ preventScroll: true });
  }
}
function branchingOf(a, b) { // the first position where two branches part
  const [x, y] = [whole[a], whole[b]], at = x.findIndex((t, i) => t.id !== y[i]?.id);
  return at < 0 ? x.length : at;
}
function alternatives(pos) { // token id at pos -> the branch where it was tried
  const found = new Map(), here = whole[shown];
  branches.forEach((b, k) => {
    const there = whole[k];
    if (k === shown || there.length <= pos || there[pos].id === here[pos].id || found.has(there[pos].id)) return;
    if (branchingOf(shown, k) === pos) found.set(there[pos].id, k);
  });
  return found;
}
function renderAnswer() {
  const { answer } = branches[shown], none = answer?.text == null;
  ui.answer.textContent = none ? "–" : showOdd(clip(answer.text, 120));
  ui.verdict.replaceChildren(verdictOn(answer));
  const parent = branches[branches[shown].parent];
  if (parent) ui.verdict.append(make("span", "soft", "was ", mark(parent.answer)));
  ui.status.textContent = `${plural(whole[shown].length, "token")}, ${plural(forks.length, "fork")}`;
}
// ---- the fan ------------------------------------------------------------------------------------------------
const rows = branches.map((b, k) => {
  const [old, forced] = k ? [whole[b.parent][b.at], b.tokens.slice(0, b.forced)] : [null, []], answer = b.answer && { ...b.answer };
  const swap = k ? { from_id: old.id, from_text: textAt(old), to_ids: forced.map((t) => t.id), to_text: forced.map(textAt).join(""), to_p: Math.exp(forced.reduce((sum, t) => sum + t.logp, 0)) } : {};
  return { run: k, parent: k ? b.parent : null, at: b.at, n: whole[k].length, answer, ...swap };
});
const topOf = (t) => (t.top ?? []).slice(0, 5).map((c) => (Array.isArray(c) ? { id: c[0], p: c[1], text: texts[c[0]] ?? "" } : c));
function answerEnd(answer) { // without a known answer: whether it is that of the branch on screen
  const same = answer?.text != null && answer.text === branches[shown].answer?.text;
  return endOf(answer && { text: answer.text, correct: tree.known ? answer.correct : same }, !!tree.known);
}
const computed = JSON.parse(ui.fan.dataset.ends); // of each branch: position -> [[id, text, correct], ...]
function computedEnd(pos, id) { // kept with the branch whose own token stands there
  let k = shown;
  while (k && pos <= branches[k].at) k = branches[k].parent;
  const [, ...found] = computed[k]?.[pos]?.find((end) => end[0] === id) ?? [];
  return answerEnd(found.length ? { text: found[0], correct: found[1] } : null);
}
function renderFan() {
  const taken = layLanes(rows, shown).map((leaf) => ({ ...leaf, row: { ...leaf.row, end: answerEnd(leaf.row.answer) } }));
  const endAt = (pos, id) => taken.find((leaf) => leaf.leaves === pos && leaf.id === id && leaf.direct)?.row.end ?? computedEnd(pos, id);
  const places = forks.map((pos) => {
    const t = whole[shown][pos], alts = topOf(t).filter((c) => c.id !== t.id);
    return { pos, text: textAt(t), H: t.entropy, alts: alts.map((c) => ({ ...c, text: c.text ?? "", end: endAt(pos, c.id) })) };
  });
  const length = whole[shown].length, data = { length, size: length, done: true, forks: places, taken, selected, answer: answerEnd(branches[shown].answer) };
  ui.fanPlot.replaceChildren(drawFan(data, { width: Math.max(240, ui.fanPlot.clientWidth), unit: 1 }));
  for (const mark of ui.fanPlot.querySelectorAll(".fan-fork, .fan-lane")) mark.setAttribute("tabindex", 0);
  ui.fanRows.replaceChildren(...fanRows(data).slice(0, 600).map((row) => make("tr", "", ...row.map((cell) => make("td", "", cell)))));
}
function takeMark(mark) { // a branch is shown, a word that was taken leads to its branch, any other opens its fork
  if (mark.row) return show(mark.row.run);
  const pos = mark.fork.pos, tried = mark.alt && alternatives(pos).get(mark.alt.id);
  return tried === undefined ? open(pos) : show(tried, pos);
}
ui.fanPlot.addEventListener("click", (e) => {
  const mark = e.target.closest(".fan-ray, .fan-fork, .fan-lane, .fan-catch");
  if (mark) takeMark(mark);
});
ui.fanPlot.addEventListener("keydown", (e) => {
  if (e.key !== "Enter" && e.key !== " ") return;
  e.preventDefault();
  e.stopPropagation();
  takeMark(e.target);
});
new ResizeObserver(([entry]) => shown !== null && Math.abs(entry.contentRect.width - (ui.fanPlot.firstChild?.width.baseVal.value ?? 0)) > 1 && renderFan()).observe(ui.fanPlot);

// ---- the popover --------------------------------------------------------------------------------------------
function open(pos) {
  close();
  const span = els[pos], t = whole[shown][pos];
  if (!span) return;
  selected = pos;
  splitSpace(span);
  span.classList.add("selected");
  const tried = alternatives(pos);
  const five = topOf(t);
  ui.where.textContent = `${isFork(t) ? "Fork" : "Token"} at ${pos}`;
  ui.where.classList.toggle("is-fork", isFork(t));
  ui.facts.textContent = `entropy ${t.entropy.toFixed(2)} nats, ${undecided(t.entropy)}`;
  ui.alts.replaceChildren(...five.map((c, k) => altItem(c, k + 1, t, tried)));
  const others = [...tried].filter(([id]) => !five.some((c) => c.id === id)); // tried, though not among the five
  ui.alts.append(...others.map(([id, k]) => altItem({ id, text: textAt(whole[k][pos]), p: Math.exp(whole[k][pos].logp) }, whole[k][pos].rank ?? 1, t, tried)));
  ui.box.showPopover();
  putBeside(ui.box, span.getClientRects()[0] ?? span.getBoundingClientRect());
  span.scrollIntoView({ block: "nearest" });
  (ui.alts.querySelector("button") ?? ui.box).focus({ preventScroll: true });
}
function altItem(c, rank, t, tried) {
  const branch = tried.get(c.id), row = altRow(branch === undefined ? "div" : "button", c, rank, c.id === t.id ? "here" : "");
  if (branch === undefined) return make("li", "", row);
  row.append(make("span", "leads", "tried: ", mark(branches[branch].answer)));
  row.title = "Show this branch";
  return make("li", "", attrs(row, { "data-branch": branch }));
}
function close() {
  if (selected !== null) els[selected]?.classList.remove("selected");
  selected = null;
  if (ui.box.matches(":popover-open")) ui.box.hidePopover();
}
function putBeside(box, spot) {
  const below = spot.bottom + box.offsetHeight + 12 < innerHeight || spot.top < box.offsetHeight + 12;
  box.style.left = `${Math.max(8, Math.min(spot.left, document.documentElement.clientWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${Math.max(8, below ? spot.bottom + 8 : spot.top - box.offsetHeight - 8)}px`;
}
ui.box.addEventListener("toggle", (e) => e.newState === "closed" && selected !== null && close());
addEventListener("scroll", () => selected !== null && putBeside(ui.box, els[selected].getClientRects()[0]), { passive: true });
addEventListener("resize", () => selected !== null && putBeside(ui.box, els[selected].getClientRects()[0]));

// ---- clicks and keys ----------------------------------------------------------------------------------------
document.addEventListener("click", (e) => {
  const [go, span] = ["[data-branch]", ".flow .t"].map((s) => e.target.closest(s));
  if (go) show(Number(go.dataset.branch), selected);
  else if (span && getSelection().isCollapsed) open(Number(span.dataset.i));
  else if (e.target.closest("[data-do=close]")) leave();
});
function step(way) {
  const here = selected ?? (way > 0 ? -1 : els.length);
  const next = way > 0 ? forks.find((pos) => pos > here) : forks.findLast((pos) => pos < here);
  if (next !== undefined) open(next);
}
function leave() {
  const pos = selected;
  close();
  els[pos]?.focus({ preventScroll: true });
}
const focused = () => (document.activeElement?.matches(".flow .t") ? Number(document.activeElement.dataset.i) : null);
const keys = {
  n: () => step(1), p: () => step(-1), PageDown: () => selected !== null && step(1), PageUp: () => selected !== null && step(-1),
  ArrowRight: () => selected !== null && els[selected + 1] && open(selected + 1),
  ArrowLeft: () => selected !== null && els[selected - 1] && open(selected - 1),
  Escape: leave, Enter: () => focused() !== null && open(focused()), " ": () => focused() !== null && open(focused()),
};
for (const k of "12345") keys[k] = () => ui.alts.children[k - 1]?.querySelector("button")?.click();
document.addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || !Object.hasOwn(keys, e.key)) return;
  if ((e.key === "Enter" || e.key === " ") && e.target.closest("button, summary, a")) return;
  if (keys[e.key]() !== false) e.preventDefault();
});

// ---- the start ----------------------------------------------------------------------------------------------
ui.title.textContent = showOdd(clip(tree.title || tree.prompt?.trim() || "Untitled problem", 2000));
const how = tree.temperature ? `temperature ${tree.temperature}, top-p ${tree.top_p}, seed ${tree.seed}` : "greedy";
ui.meta.textContent = [tree.adapter ? `${tree.model} + ${tree.adapter}` : tree.model, how, tree.known && `known answer ${tree.known}`].filter(Boolean).map(showOdd).join(" · ");
ui.promptBox.hidden = !tree.prompt;
ui.prompt.textContent = showOdd(tree.prompt ?? "");
const style = tree.style, ends = style?.stops?.length ? `stops at ${style.stops.map((s) => JSON.stringify(s)).join(", ")}` : "";
const asked = style ? [`prompt style ${style.name}`, style.why, style.system && `system line: ${style.system}`, ends] : [];
ui.promptStyle.textContent = asked.filter(Boolean).map(showOdd).join("; ");
ui.tau.textContent = tau.toFixed(2);
const made = [`weights ${tree.revision}`, tree.dtype, tree.licence && `licence of the weights: ${tree.licence}`, `${count(branches.length)} branch${branches.length === 1 ? "" : "es"}`];
ui.made.textContent = made.filter(Boolean).map(showOdd).join(" · ");
show(Math.min(tree.shown ?? 0, branches.length - 1));
