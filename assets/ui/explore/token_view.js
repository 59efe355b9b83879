// The explorer view: the text, its forks, the inspector, the history of swaps, and what a room sees.
// Python sends deltas; a branch is kept whole here, so undo, redo, tau and marks need no round trip.
import {
  attrs, clip, count, howOften, make, nameOf, odds, oneLine, plainName, plural, showOdd, splitSpace, undecided, waitingText,
} from "../common/text.js";
import { giveKnown, kindOf, knownText, mark, offerKnown, STOPS, textOf, valueOf, verdictOn } from "../common/answers.js";
import { curves } from "../common/charts.js";
import { clearBoxes, drawBoxes } from "../common/boxes.js";
import { endMark } from "../common/fan.js";
import { followed, prose } from "../common/prose.js";
import { altRow, tokenSpan, underline } from "../common/tokens.js";
import { readdress } from "../common/address.js";
import { putNear } from "../common/view.js";
import { ask, hear, listenToKeys, props, root, sayError, server, tooltip, trigger, ui } from "./context.js";
import {
  askOutcomes, receiveWorth, renderOutcomes, renderWorth, stageOutcomes, worthActions, worthShows,
} from "./worth.js";
import { endAt, endsLater, fanSoon, markFan, receiveEnds, renderFan, takenAt } from "./fan.js";
import { pinActions, renderPinButton, renderPins, togglePin } from "./pins.js";
import { linkGone, renderOrigin, shareActions } from "./share.js";
import {
  aboutChoice, isUnlikely, nats, nextShade, sentence, setShade, shade, shadeFor, standsThere, stops,
  surpriseOf, tintToken, unlikely,
} from "./shades.js";

const FORCED = 1, SPECIAL = 2;

// ---- state --------------------------------------------------------------------------------------------------
export const branches = new Map(); // run -> {run, toks, want, open, result, done, reveal, kept}
export let shown = null, settled = false; // the branch on screen; is it finished, and all of it visible?
export let tree = [], past = [], future = [];
export const { els, place, cut } = prose(ui.flow); // spans on screen by position
export let forks = [], marked = []; // positions of forks, ascending; spans with diff marks
export let tau = 1.0, tauByHand = false;
export let selected = null, reselect = null, tabStop = null;
let lastNews = 0, oldAnswer = null;

const isFork = (tok) => (tok[1] ?? 0) > tau;
const whole = (b) => b.toks.length >= b.want;
export const sameToken = (a, b) => a === b || (a[0] === b[0] && a[1] === b[1] && a[2] === b[2] && a[4] === b[4]);
function keptWith(b) { // how many tokens on screen stay where they are when b comes
  let n = 0;
  while (shown && n < els.length && n < b.toks.length && sameToken(shown.toks[n], b.toks[n])) n++;
  return n;
}
const parentOf = (b) => branches.get(b?.open?.parent) ?? null;
// Of a prepared problem it is known which swap is worth trying, and what comes of it.
const exampleOf = (b) => (b?.open && !b.open.parent && b.open.model === "mini" && props.examples?.find((e) => e.problem === b.open.title)) || null;

// ---- tokens to spans ----------------------------------------------------------------------------------------
function spanOf(tok, pos) {
  const span = tokenSpan(tok[0], pos, { forced: tok[4] & FORCED, special: tok[4] & SPECIAL });
  tintToken(span, tok);
  if (isFork(tok) || isUnlikely(tok)) markToken(span, tok, pos);
  return span;
}
export function markToken(span, tok, pos) {
  const [text, H, p, rank] = tok, fork = isFork(tok), odd = isUnlikely(tok);
  span.classList.toggle("fork", fork);
  span.classList.toggle("unlikely", odd);
  if (!fork && !odd) return ["role", "aria-label", "tabindex"].forEach((name) => span.removeAttribute(name));
  fork ? underline(span, H) : splitSpace(span);
  const facts = [`entropy ${(H ?? 0).toFixed(2)}`, ...(odd ? [`probability ${odds(p)}`, `rank ${count(rank)}`, `surprise ${nats(surpriseOf(tok))}`] : [])];
  const label = `${fork ? "Fork" : "Surprising token"} at ${fork ? "token " : ""}${pos}: ${JSON.stringify(plainName(text))}, ${facts.join(", ")}`;
  attrs(span, { role: "button", "aria-label": label });
  if (!span.hasAttribute("tabindex")) span.tabIndex = -1;
}
function append(b, upTo) {
  for (let pos = els.length; pos < upTo; pos++) {
    const tok = b.toks[pos], span = spanOf(tok, pos);
    place(span, tok[0], b.toks[pos - 1]?.[0]);
    if (isFork(tok)) addFork(pos);
    else if (isUnlikely(tok) && !tabStop?.isConnected) setTabStop(span);
  }
}
function addFork(pos) {
  if (pos === (exampleOf(shown)?.pos ?? (forks.length ? null : pos))) els[pos].classList.add("first");
  forks.push(pos);
  if (!tabStop?.isConnected) setTabStop(els[pos]);
}
function truncate(toks, length) {
  cut(toks, length);
  while (forks.length && forks.at(-1) >= length) forks.pop();
}
function setTabStop(span) { // one stop for the Tab key; the other keys move it
  if (tabStop) tabStop.tabIndex = -1;
  (tabStop = span).tabIndex = 0;
}
export function keepTabStop() { // where its span is marked no longer, the first marked one takes it over
  if (tabStop?.isConnected && tabStop.hasAttribute("tabindex")) return;
  const first = ui.flow.querySelector(".t[tabindex]");
  if (first) setTabStop(first);
}
function setTau(x) {
  if (!Number.isFinite(Number(x))) return;
  tau = Number(x);
  ui.tau.textContent = tau.toFixed(2);
  ui.flow.querySelector(".first")?.classList.remove("first");
  forks = [];
  els.forEach((span, pos) => {
    const tok = shown.toks[pos], on = isFork(tok);
    if (on !== span.classList.contains("fork")) markToken(span, tok, pos);
    if (on) addFork(pos);
  });
  keepTabStop();
  if (settled) {
    ui.status.textContent = summary(shown);
    drawStrip(shown);
    endsLater();
  }
  fanSoon();
  if (selected !== null) renderKind();
}

const follow = followed(ui.text, ui.flow, ui.end, () => selected === null && !settled);
ui.text.addEventListener("scroll", () => tipGone(0), { passive: true });

// ---- messages from Python -----------------------------------------------------------------------------------
function absorb(m) {
  const blank = { run: m.run, toks: [], want: 0, open: null, result: null, done: false, reveal: Infinity, kept: false };
  const b = branches.get(m.run) ?? blank;
  branches.set(m.run, b);
  if (m.open) b.open = m.open;
  const parent = parentOf(b);
  if (parent && !b.toks.length) b.toks = parent.toks.slice(0, b.open.at); // kept tokens are not sent again
  const start = m.start ?? 0, toks = m.toks ?? [];
  b.want = Math.max(b.want, start + toks.length);
  if (start <= b.toks.length) for (const tok of toks.slice(b.toks.length - start)) b.toks.push(tok);
  if (m.result) b.result = m.result;
  if (m.tree) tree = m.tree;
  b.waiting = m.waiting ?? 0;
  b.expected = m.expected ?? null;
  b.done ||= !!m.done;
  lastNews = performance.now();
  return b;
}
async function receive(m) {
  if (!m || typeof m !== "object") return;
  if (m.kind === "ends") return receiveEnds(m);
  if (m.kind) return receiveWorth(m);
  sayError(m.error);
  if (m.error) root.classList.remove("leaving");
  if (!m.run) return;
  const before = branches.get(m.run), again = !before || (m.open && before.done && before !== shown);
  const b = absorb(m);
  if (!b.open || !whole(b)) await repair(b);
  if (again) bring(b);
  else if (b === shown) flow();
  if (m.open && b === shown) renderOrigin(b);
}
// Deltas are lost when the view is not mounted yet or the browser tab sleeps; each gap is fetched from the server.
function repair(b) {
  const fetch = async () => {
    for (let tries = 0; tries < 4; tries++) {
      const m = await ask("tail", { run: b.run, start: b.open ? b.toks.length : 0 });
      const now = m && absorb({ ...m, run: b.run });
      if (!now || (now.open && whole(now))) break;
    }
    b.repairing = null;
    if (b === shown) flow();
  };
  return (b.repairing ??= fetch());
}
// The last message can be lost too, and then nothing else would reveal the gap.
const watchdog = setInterval(() => {
  if (!root.isConnected) clearInterval(watchdog);
  else if (shown && !shown.done && performance.now() - lastNews > 4000) repair(shown);
}, 2000);
document.addEventListener("visibilitychange", () => !document.hidden && shown && !shown.done && repair(shown));

// ---- the branch on screen -----------------------------------------------------------------------------------
function bring(b) {
  const related = shown && b.open?.parent && shown.open?.tree === b.open.tree;
  past = !related ? ancestors(b) : shown === b ? past : [...past, shown.run];
  future = [];
  if (related) root.classList.remove("fresh");
  if (!tauByHand && b.open?.tau !== undefined) tau = b.open.tau;
  if (!related) shadeFor(b);
  show(b);
  if (!related) fillForm(b);
}
// The form shows what is on screen, also where that was recorded or came with a link.
function fillForm({ open }) {
  const box = document.querySelector("#problem textarea");
  if (!box || !open || box.value === open.title) return;
  trigger("opened", { problem: open.title ?? "", answer: open.known ?? "", tau: open.tau });
}
function ancestors(b) {
  const chain = [], row = new Map(tree.map((r) => [r.run, r]));
  for (let up = row.get(b.run)?.parent; row.has(up) && !chain.includes(up); up = row.get(up).parent) chain.unshift(up);
  return chain;
}
function show(b) {
  const old = shown, same = keptWith(b);
  clearMarks();
  root.classList.remove("leaving");
  shown = b;
  settled = false;
  reselect = selected !== null && selected === same ? selected : null;
  if (selected !== null && selected >= same) deselect(reselect === null);
  clearBoxes(els);
  truncate(b.toks, same);
  if (old?.open?.tree !== b.open?.tree) [follow.on, oldAnswer] = [true, null];
  if (presenter.on) hideStage();
  Object.assign(presenter, { asking: null, passed: -1 });
  b.reveal = presenter.on && !b.seen ? Math.max(same, (b.open?.at ?? 0) + (b.open?.forced ?? 0)) : Infinity;
  renderHead(b);
  setTau(tau);
  worthShows(b, old);
  flow();
  presenter.on && play(true);
}
function flow() {
  const b = shown, upTo = Math.min(b.toks.length, b.reveal);
  if (els.length < upTo) append(b, upTo);
  if (reselect !== null && els.length > reselect) {
    const pos = reselect;
    reselect = null;
    if (!presenter.on) select(pos);
  }
  if (!settled && b.done && whole(b) && els.length >= b.toks.length) settle(b);
  if (settled) return;
  fanSoon();
  const soFar = `${plural(els.length, "token")}, ${plural(forks.length, "fork")} …`;
  ui.count.textContent = b.waiting ? waitingText(b.waiting, b.expected) : soFar;
}
// Entropy by token below the text, the threshold as a line, forks above it by colour too.
const strip = curves(ui.strip, {
  title: "Entropy", about: "nats, by token", x: "token", height: 128, zero: true, legend: false, empty: "No token yet.",
  says: (pos) => `${pos}: ${plainName(shown.toks[pos]?.[0] ?? "")}, ${nats(shown.toks[pos]?.[1] ?? 0)} nats`, onPick: (pos) => select(pos),
  grip: { sign: "τ", name: "Fork threshold, nats", most: 4, onMove: moveTau },
});
function moveTau(x) { // the slider of the form follows
  window.rmx.setTau(x);
  const box = document.querySelector("#tau input[type=number]");
  if (box) Object.assign(box, { value: x }).dispatchEvent(new Event("input", { bubbles: true }));
}
function drawStrip(b) {
  const points = b.toks.map((tok, pos) => [pos, tok[1] ?? 0]), bars = (id, style, above) => (
    { id: `${b.run} ${tau} ${id}`, style, look: "bars", band: false, points: points.filter((_, pos) => isFork(b.toks[pos]) === above) });
  ui.strip.hidden = !points.length;
  strip.set({ series: [bars("sure", 4, false), bars("fork", 1, true)], lines: [{ y: tau }] });
}
function settle(b) {
  settled = b.seen = true;
  drawBoxes(els);
  b.reveal = Infinity;
  ui.count.textContent = "";
  ui.status.textContent = summary(b);
  renderAnswer(b);
  renderDiff(b);
  renderFan();
  renderButtons();
  renderPins();
  if (selected !== null) renderLook(selected);
  renderWorth();
  readdress({ run: b.run, ...linkGone(b) });
  drawStrip(b);
  if (tourAt !== null) tour(tourAt); // what it points at has moved
  if (b.open?.show != null && !b.visited && !presenter.on) demonstrate(b);
  presenter.on && renderDeck();
  endsLater();
}
// A prepared example opens the place worth looking at, once, and there takes the word that is worth trying.
function demonstrate(b) {
  const pos = b.open.show, span = els[pos], wide = root.classList.contains("wide"), example = exampleOf(b);
  b.visited = true;
  wide ? select(pos, false) : ui.problem.scrollIntoView({ block: "start" }); // there the inspector would cover the answer
  if (example?.pos !== pos) return;
  span.classList.add("spot");
  const listening = new AbortController();
  let touched = false; // by a person, whose next wish this must not overtake
  for (const kind of ["pointerdown", "keydown", "input"]) {
    document.addEventListener(kind, () => (touched = true), { capture: true, signal: listening.signal });
  }
  setTimeout(() => {
    listening.abort();
    span.classList.remove("spot");
    const same = shown === b && settled && selected === (wide ? pos : null) && !presenter.on && tourAt === null;
    if (same && !touched) choose(pos, example.token_id);
  }, 1500);
}
const CUT = new Set(["length", "context"]); // what a limit has cut off is wrong, whatever stands in it
export function summary(b) {
  const r = b.result ?? {}, reuse = r.reuse ? `; reused ${count(r.reuse.reused)}, computed ${count(r.reuse.computed)}` : "";
  const odd = unlikely().length, below = shade === "entropy" ? "" : `; ${odd ? plural(odd, "token") : "none"} below 1\u202f%`;
  const time = r.seconds === undefined ? "" : `; ${r.seconds.toFixed(r.seconds < 10 ? 1 : 0)} s`;
  return `${plural(b.toks.length, "token")}, ${plural(forks.length, "fork")}${below}${reuse}${time}${STOPS[r.stop] ?? ""}`;
}
function renderHead(b) {
  const open = b.open ?? {};
  root.classList.remove("empty");
  ui.title.textContent = showOdd(clip(open.title || (open.prompt ?? "").trim() || "Untitled problem", 600));
  ui.meta.textContent = [open.model, open.label, knownText(open)].filter(Boolean).join(" · ");
  renderOrigin(b);
  ui.promptBox.hidden = !open.prompt;
  ui.prompt.textContent = showOdd(open.prompt ?? "");
  ui.promptStyle.textContent = showOdd(open.style ?? "");
  ui.status.textContent = "";
  renderAnswer(b);
  renderButtons();
}
function renderButtons() {
  const busy = shown && !settled && !shown.done;
  root.classList.toggle("live", !!busy);
  ui.stop.hidden = !busy;
  ui.share.hidden = !settled || !server.share_link;
  ui.undo.disabled = !past.length;
  ui.redo.disabled = !future.length;
  const pending = settled && !!shown.open?.parent && !shown.kept;
  ui.keep.hidden = ui.compare.hidden = !pending;
  if (!pending) compare(false);
}

// ---- undo, redo, keep, tree ---------------------------------------------------------------------------------
export async function ensure(run) {
  const b = branches.get(run) ?? { run, toks: [], want: 0 };
  if (!b.done || !whole(b)) await repair(b);
  return branches.get(run) ?? null;
}
async function travel(run, steps) { // steps() brings the history up to date
  const old = shown, b = run && run !== old.run && (await ensure(run));
  if (!b || shown !== old) return;
  if (!old.done) trigger("halt", { run: old.run });
  steps();
  sayError();
  show(b);
}
const undo = () => travel(past.at(-1), () => future.push(shown.run) && past.pop());
const redo = () => travel(future.at(-1), () => past.push(shown.run) && future.pop());
export const visit = (run) => travel(run, () => past.push(shown.run) && (future = []));
function keep() {
  shown.kept = true;
  clearMarks();
  renderButtons();
  renderAnswer(shown);
}
function tintUndo(on) {
  const target = on && branches.get(past.at(-1)), from = target ? keptWith(target) : Infinity;
  root.classList.toggle("undoing", !!target);
  els.forEach((span, pos) => span.classList.toggle("doomed", pos >= from));
}
export const answerOf = (run) => branches.get(run)?.result?.answer ?? tree.find((row) => row.run === run)?.answer ?? null;

// ---- the answer ---------------------------------------------------------------------------------------------
function renderAnswer(b) {
  const answer = b.result?.answer, text = textOf(answer), kind = kindOf(answer);
  ui.answerBox.classList.toggle("stale", !settled);
  ui.mini.replaceChildren(settled ? mark(answer) : "…"); // a phone's sheet covers the page, so it carries the answer along
  if (!settled) {
    // An old answer stays in sight only where it belongs to the same problem, and is called old.
    if (oldAnswer === null) ui.answer.replaceChildren(make("span", "none", "…"));
    const note = oldAnswer === null ? "not there yet" : "before; a new one is being written";
    return ui.verdict.replaceChildren(make("span", "soft", note));
  }
  ui.verdict.replaceChildren(verdictOn(answer));
  if (kind === "none" && text !== null && !b.open?.known) ui.verdict.append(make("span", "soft", "no known answer"), ...offerKnown("answer"));
  if (kind === "wrong" && CUT.has(b.result.stop)) ui.verdict.append(make("span", "soft", "cut off"));
  const before = b.open?.parent && !b.kept ? answerOf(b.open.parent) : null;
  if (before && textOf(before) === text) ui.verdict.append(make("span", "soft", "as before"));
  else if (before) ui.verdict.append(make("span", "soft was", "was ", mark(before)));
  const said = [...ui.verdict.childNodes].map((node) => node.textContent).join(" ");
  ui.spoken.textContent = `Answer: ${text === null ? "none" : plainName(clip(text, 120))}. ${said.replace(/^[✓✗–] /, "")}`;
  swapValue(answer, before);
}
function swapValue(answer, before) {
  const text = textOf(answer), now = valueOf(answer, before && textOf(before) !== text ? before : null);
  const old = ui.answer.firstChild, changed = oldAnswer !== null && oldAnswer !== (text ?? "");
  oldAnswer = text ?? "";
  ui.answer.replaceChildren(now);
  if (!changed || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  old.className = "gone"; // the old answer leaves upwards while the new one rises
  ui.answer.append(old);
  now.animate({ opacity: [0, 1], transform: ["translateY(.5em)", "none"] }, { duration: 180, easing: "ease-out" });
  const leaving = old.animate({ opacity: [0.8, 0], transform: ["none", "translateY(-.5em)"] }, { duration: 160 });
  leaving.finished.finally(() => old.remove()).catch(() => {});
}

// ---- what a swap changed ------------------------------------------------------------------------------------
// Longest common subsequence of the two tails by text; a tail too long for the table is marked whole.
function difference(before, after) {
  const n = before.length, m = after.length, [lost, fresh] = [n, m].map((size) => new Uint8Array(size).fill(1));
  let head = 0, end = 0;
  while (head < n && head < m && before[head][0] === after[head][0]) head++;
  while (end < n - head && end < m - head && before[n - 1 - end][0] === after[m - 1 - end][0]) end++;
  lost.fill(0, 0, head).fill(0, n - end);
  fresh.fill(0, 0, head).fill(0, m - end);
  const rows = n - head - end, cols = m - head - end;
  if (rows * cols > 4e6) return { lost, fresh };
  const table = new Uint16Array((rows + 1) * (cols + 1)), at = (i, j) => i * (cols + 1) + j;
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = cols - 1; j >= 0; j--) {
      const equal = before[head + i][0] === after[head + j][0];
      table[at(i, j)] = equal ? table[at(i + 1, j + 1)] + 1 : Math.max(table[at(i + 1, j)], table[at(i, j + 1)]);
    }
  }
  for (let i = 0, j = 0; i < rows && j < cols; ) {
    if (before[head + i][0] === after[head + j][0]) lost[head + i++] = fresh[head + j++] = 0;
    else if (table[at(i + 1, j)] >= table[at(i, j + 1)]) i++;
    else j++;
  }
  // One equal digit between two changed ones is chance, not agreement; left alone it would make confetti.
  for (const m of [lost, fresh]) for (let k = 1; k + 1 < m.length; k++) if (m[k - 1] && m[k + 1]) m[k] = 1;
  return { lost, fresh };
}
function renderDiff(b) {
  const parent = parentOf(b);
  if (!parent || b.kept) return;
  const at = b.open.at, { fresh } = difference(parent.toks.slice(at), b.toks.slice(at));
  marked = els.slice(at).filter((_, k) => fresh[k]);
  marked.forEach(splitSpace);
  for (const span of marked) span.classList.add("fresh-token");
}
const clearMarks = () => marked.splice(0).forEach((span) => span.classList.remove("fresh-token"));
async function compare(on) {
  ui.compare.setAttribute("aria-pressed", String(on));
  ui.before.hidden = !on;
  if (!on) return ui.before.replaceChildren();
  const b = shown, parent = await ensure(b.open.parent);
  if (!parent || b !== shown) return;
  const at = b.open.at, tail = parent.toks.slice(at), { lost } = difference(tail, b.toks.slice(at));
  const text = attrs(make("p", "old"), { dir: "auto" });
  tail.forEach((tok, k) => {
    const [, space, word] = /^( *)(.*)$/s.exec(showOdd(tok[0]));
    text.append(k ? space : "", lost[k] ? make("s", "", word) : word);
  });
  const answer = make("p", "verdict", make("span", "soft", "answer"), mark(answerOf(parent.run)));
  ui.before.replaceChildren(make("p", "label", `Before, from token ${at}`), text, answer);
}

// ---- tooltip ------------------------------------------------------------------------------------------------
const tipGone = tooltip(ui.flow, (span) => {
  const pos = Number(span.dataset.i), tok = shown?.toks[pos];
  if (!tok || presenter.on || selected === pos) return [];
  const [text, H, p, rank] = tok, num = (k, v) => make("span", "num", make("i", "quiet", k), v);
  const name = make("p", "", nameOf(text), make("span", "soft", `token ${pos}`));
  const surprise = num("−ln p ", nats(surpriseOf(tok)));
  const figures = make("p", "", num("H ", (H ?? 0).toFixed(2)), surprise, num("p ", odds(p ?? 0)), num("rank ", rank));
  const stands = rank > 1 ? [make("p", "", make("span", "", ...standsThere(tok)))] : [];
  const boxed = text.includes("\\boxed") ? [make("p", "", "\\boxed{…} holds the final answer.")] : [];
  return [name, figures, ...boxed, ...stands, make("p", "soft", aboutChoice(tok))];
});

// ---- inspector ----------------------------------------------------------------------------------------------
const known = new Map(); // "inspect run:pos" -> promise of the server's reply
function cached(name, pos) {
  const key = `${name} ${shown.run}:${pos}`;
  if (!known.has(key)) {
    const reply = ask(name, { run: shown.run, pos });
    known.set(key, reply);
    reply.then((r) => r ?? known.delete(key));
    if (known.size > 400) known.delete(known.keys().next().value);
  }
  return known.get(key);
}
export function select(pos, focus = true) {
  const span = els[pos];
  if (!span) return;
  deselect(false);
  tipGone(0);
  selected = pos;
  splitSpace(span);
  span.classList.add("selected");
  markFan();
  setTabStop(span);
  if (focus) span.focus({ preventScroll: true });
  if (presenter.on) showChoices(pos);
  else openInspector(pos);
  span.scrollIntoView({ block: "nearest", inline: "nearest" });
}
function deselect(close = true) {
  els[selected]?.classList.remove("selected");
  selected = null;
  markFan();
  if (!close) return;
  ui.inspector.hidden = true;
  ui.hint.hidden = false;
  root.classList.remove("open");
  hideStage();
}
const closeInspector = () => [els[selected], deselect()][0]?.focus({ preventScroll: true });
function openInspector(pos) {
  ui.inspector.hidden = false;
  ui.hint.hidden = true;
  root.classList.add("open");
  const tok = shown.toks[pos], [text, H, p, rank] = tok;
  ui.chosen.replaceChildren(nameOf(text));
  const figures = [["entropy", (H ?? 0).toFixed(2)], ["surprise", nats(surpriseOf(tok))], ["probability", odds(p ?? 0)], ["rank", count(rank)]];
  ui.facts.replaceChildren(...figures.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "num", value))));
  ui.stands.replaceChildren(...standsThere(tok));
  ui.undecided.textContent = sentence(aboutChoice(tok));
  ui.query.value = "";
  ui.found.replaceChildren();
  ui.words.value = text.startsWith(" ") ? " " : "";
  renderKind();
  renderPinButton();
  renderOutcomes();
  renderAlternatives(pos);
}
function renderKind() {
  const tok = shown.toks[selected], fork = isFork(tok), forced = tok[4] & FORCED, special = tok[4] & SPECIAL;
  ui.where.textContent = `${fork ? "Fork" : "Token"} at ${selected}${special ? ", special token" : ""}`;
  ui.where.classList.toggle("is-fork", fork);
  ui.swap.hidden = !forced;
  ui.swap.textContent = `Forced by a swap; left alone, the model says it ${howOften(tok[2])}.`;
}
async function renderAlternatives(pos, all = false) {
  const b = shown, waiting = setTimeout(() => ui.alts.replaceChildren(make("li", "soft", "…")), 120); // no flash when quick
  const reply = await cached("inspect", pos);
  clearTimeout(waiting);
  if (b !== shown || selected !== pos) return;
  if (reply?.top?.[0]) ui.stands.replaceChildren(...standsThere(b.toks[pos], reply.top[0]));
  const top = reply?.top ?? [], rows = top.slice(0, all ? 20 : 5);
  ui.alts.replaceChildren(...rows.map((alt, k) => altItem(alt, k + 1, alt.id === reply.id)));
  if (reply && !rows.some((alt) => alt.id === reply.id)) ui.alts.append(altItem(reply, reply.rank, true));
  ui.more.hidden = top.length <= 5;
  ui.more.textContent = all ? "show 5" : `show ${top.length}`;
  ui.more.setAttribute("aria-expanded", String(all));
  renderLook(pos);
  renderOutcomes();
}
export function altItem(alt, rank, chosen) {
  const example = exampleOf(shown), advised = example?.token_id === alt.id && [selected, presenter.asking].includes(example.pos) && !chosen;
  const badge = chosen ? "chosen" : advised ? (example.swapped_answer === example.base_answer ? "try: same answer" : `try: answer ${example.swapped_answer}`) : "";
  const row = attrs(altRow("button", alt, rank, badge, make("span", "ahead", make("span", "then"), make("span", "ahead-words meant"))), { "data-id": alt.id });
  row.classList.toggle("advised", advised);
  return make("li", "", row);
}
async function renderLook(pos) {
  const b = shown, rows = [...ui.alts.querySelectorAll(".alt")].slice(0, 5);
  if (!b.done || !rows.length) return;
  const tell = (words) => rows.forEach((row) => {
    const place = row.querySelector(".ahead-words");
    place.replaceChildren(words(row.dataset.id));
    drawBoxes([place]);
  });
  const waiting = setTimeout(tell, 200, () => "…");
  renderEnds();
  const ahead = new Map((await cached("look", pos))?.alternatives?.map((alt) => [String(alt.id), oneLine(alt.text)]));
  clearTimeout(waiting);
  tell((id) => ahead.get(id) ?? "");
}
// What each of the five leads to, where that is known; of what stands there it is the answer of this solution.
export function renderEnds() {
  if (selected === null || !settled) return;
  for (const row of ui.alts.querySelectorAll(".alt")) {
    const end = endAt(selected, Number(row.dataset.id)), words = row.matches(".alt:not(.advised):has(.badge)") ? mark(shown.result?.answer) : make("span", end.kind, endMark(end));
    row.querySelector(".then").replaceChildren(...(words.textContent ? ["→ ", words, " "] : []));
  }
}
let asked = 0, searchTimer = 0;
async function searchNow() {
  const q = ui.query.value, mine = ++asked, pos = selected;
  if (!q || pos === null) return ui.found.replaceChildren();
  const reply = await ask("search", { run: shown.run, pos, q });
  if (mine !== asked || pos !== selected) return;
  const found = reply?.tokens ?? [];
  ui.found.replaceChildren(...found.slice(0, 20).map((alt) => altItem(alt, alt.rank ?? 1, false)));
  if (!found.length) ui.found.append(make("li", "soft", "No token contains this."));
}
ui.query.addEventListener("input", () => (clearTimeout(searchTimer), (searchTimer = setTimeout(searchNow, 150))));
ui.say.addEventListener("submit", (e) => {
  e.preventDefault();
  if (ui.words.value.trim() && selected !== null) pick(selected, { text: ui.words.value });
});

function pick(pos, what) {
  root.classList.remove("fresh");
  sayError();
  hideStage();
  // Until the server replies, the tail that is going to be rewritten steps back; no reply, and it returns.
  els.forEach((span, k) => span.classList.toggle("going", k > pos));
  root.classList.add("leaving");
  setTimeout(() => root.classList.remove("leaving"), 8000);
  trigger("pick", { run: shown.run, pos, ...what });
}
async function takeNumber(k) {
  const pos = selected, run = shown?.run;
  if (pos === null) return;
  const alt = (await cached("inspect", pos))?.top?.[k - 1];
  if (alt && selected === pos && shown.run === run) choose(pos, alt.id);
}

// ---- presenter ----------------------------------------------------------------------------------------------
// The bundled model writes faster than a room can read, so the page holds tokens back and lets them out at a pace.
export const presenter = { on: false, pace: 6, pauseAtForks: true, playing: false, timer: 0, asking: null, passed: -1 };
function present(on, { pace = presenter.pace, pauseAtForks = presenter.pauseAtForks } = {}) {
  if (on && !presenter.on && !root.offsetParent) return; // on another tab nobody would see it
  Object.assign(presenter, { pace: Number(pace) || 0, pauseAtForks: !!pauseAtForks });
  if (presenter.on !== !!on) {
    presenter.on = !!on;
    ui.deck.hidden = !on;
    root.classList.toggle("presenting", presenter.on);
    document.documentElement.classList.toggle("rmx-presenting", presenter.on);
    presenter.asking = null;
    deselect();
    tipGone(0);
    if (on) {
      replay();
      document.activeElement?.blur?.(); // the button that was pressed is covered, and would take Space and Enter
    } else if (shown) {
      shown.reveal = Infinity;
      flow();
    }
  }
  play(presenter.on);
  noPause();
}
function noPause() {
  if (presenter.asking !== null && !presenter.pauseAtForks) goOn(presenter.asking); // told while it was pausing
}
function replay() {
  Object.assign(presenter, { asking: null, passed: -1 });
  deselect();
  if (!shown) return;
  clearMarks();
  settled = false;
  oldAnswer = null; // a replay must not give the end away
  follow.on = true;
  shown.reveal = 0;
  truncate(shown.toks, 0);
  renderHead(shown);
  play(true);
}
function play(on) {
  presenter.playing = on;
  clearTimeout(presenter.timer);
  renderDeck();
  if (on && presenter.on && shown && !settled) presenter.timer = setTimeout(beat, presenter.pace ? 1000 / presenter.pace : 60);
}
function beat() {
  if (presenter.asking !== null) return;
  release(shown, presenter.pace ? 1 : Infinity);
  play(true);
}
function release(b, count, stop = presenter.pauseAtForks) {
  if (b.reveal === Infinity) return;
  for (; count > 0 && b.reveal < b.toks.length; count--) {
    const tok = b.toks[b.reveal];
    if (stop && isFork(tok) && !(tok[4] & FORCED) && presenter.passed !== b.reveal) {
      presenter.asking = b.reveal;
      root.classList.add("asking");
      showChoices(b.reveal);
      break;
    }
    b.reveal++;
  }
  flow();
}
async function showChoices(pos) {
  const b = shown, reply = await cached("inspect", pos);
  if (b !== shown || !presenter.on || (presenter.asking !== pos && selected !== pos)) return;
  const [text, H] = shown.toks[pos], asking = presenter.asking === pos;
  const question = asking ? "What comes next?" : make("span", "", "The model said ", nameOf(text), ". What if not?");
  ui.ask.replaceChildren(question, make("span", "soft", undecided(H)));
  const rows = (reply?.top ?? []).slice(0, 5);
  ui.choices.replaceChildren(...rows.map((alt, k) => altItem(alt, k + 1, !asking && alt.id === reply.id)));
  ui.choices.dataset.pos = pos;
  stageOutcomes(pos);
  ui.stage.hidden = false;
  els[pos]?.scrollIntoView({ block: "nearest" });
}
function hideStage() {
  root.classList.remove("asking");
  ui.stage.hidden = true;
  ui.choices.replaceChildren();
}
export async function choose(pos, id) {
  const asking = presenter.asking === pos, reply = asking && (await cached("inspect", pos));
  if (asking && presenter.asking !== pos) return;
  if (asking && reply?.id === id) return goOn(pos); // the room chose what the model said
  presenter.asking = null;
  const before = takenAt(pos, id), there = before && branches.get(before);
  if (!before) return pick(pos, { token_ids: [id] });
  if (there && presenter.on) there.seen = false; // a room reads it again
  hideStage();
  visit(before);
}
function goOn(pos) {
  Object.assign(presenter, { asking: null, passed: pos });
  hideStage();
  play(true);
}
// For clickers, forward lets the text run to the next fork; at the end it asks for the next problem of the playlist.
function stepFork(way, clicker = true) {
  if (presenter.on && !settled && shown) {
    if (way < 0) return replay();
    return presenter.asking !== null ? goOn(presenter.asking) : release(shown, Infinity, true);
  }
  const places = stops(), here = selected ?? (way > 0 ? -1 : els.length), atEnd = presenter.on && clicker && way > 0 && selected === null;
  const next = way > 0 ? places.find((pos) => pos > here) : places.findLast((pos) => pos < here);
  if (next !== undefined && !atEnd) return select(next);
  if (!presenter.on) return false;
  deselect();
  const example = way > 0 && clicker && exampleOf(shown);
  if (example && els[example.pos]) return choose(example.pos, example.token_id); // the room sees what it was, then what it becomes
  return trigger("next", { step: way });
}
function renderDeck() {
  ui.play.textContent = presenter.playing && !settled ? "Pause" : "Play";
  ui.play.disabled = settled;
  ui.pauses.checked = presenter.pauseAtForks;
  for (const input of ui.paces.querySelectorAll("input")) input.checked = Number(input.value) === presenter.pace;
}
ui.deck.addEventListener("change", (e) => {
  if (e.target.name === "rmx-pace") presenter.pace = Number(e.target.value);
  if (e.target === ui.pauses) presenter.pauseAtForks = ui.pauses.checked;
  noPause();
  if (presenter.playing) play(true);
});
let idleTimer = 0;
root.addEventListener("pointermove", () => {
  root.classList.remove("idle");
  clearTimeout(idleTimer);
  if (presenter.on) idleTimer = setTimeout(() => presenter.on && root.classList.add("idle"), 2500);
});

// ---- tour and help ------------------------------------------------------------------------------------------
const inspectorInSight = () => (root.classList.contains("wide") || root.classList.contains("open") ? ui.side : null);
const TOUR = [ // where it points, what it says, what it says where nothing is there
  [() => ui.problem, "The problem. The model reads exactly this prompt, token by token."],
  [() => els[exampleOf(shown)?.pos ?? forks[0]], "A fork: a token where the model was undecided. The thicker the line, the more words competed.",
    "Forks would be underlined here. None is on screen: lower the threshold, or give the model a problem."],
  [() => ui.answerBox, "The answer. After a swap it shows the new one, and what it was before."],
  [inspectorInSight, "The inspector: the five likeliest tokens and what would follow each. Click one, or press 1 to 5.",
    "The inspector opens when you take a token. There you choose what the model should have said."],
  [() => (ui.measure.hidden ? ui.text : ui.askImportance), "Many forks are harmless: another word, the same answer. Which ones decide can be measured here."],
];
const FORK_STEP = 1, INSPECTOR_STEP = 3;
let tourAt = null;
// At the fork the visitor makes the swap by the tour's own button, where it is known which one turns the answer.
const tourSwap = () => (tourAt === FORK_STEP && !presenter.on && exampleOf(shown)) || null;
function tourNext() {
  const swap = tourSwap();
  if (swap) choose(swap.pos, swap.token_id);
  tour(tourAt + 1);
}
function tour(step = 0) {
  clearSpot();
  tourAt = step;
  if (step < 0 || step >= TOUR.length) return tourEnd();
  const here = shown?.open?.at ?? exampleOf(shown)?.pos ?? forks[0], wide = root.classList.contains("wide");
  if (step === INSPECTOR_STEP && wide && els[here] && selected === null && !presenter.on) select(here, false);
  const [find, text, instead] = TOUR[step], place = shown || !instead ? find() : null;
  const target = place?.getClientRects().length ? place : null;
  ui.tourCount.textContent = `${step + 1} of ${TOUR.length}`;
  const swap = tourSwap();
  ui.tourText.textContent = swap ? `The fork that decides: the model was undecided here. Take “${swap.token_text.trim()}” instead, and watch the answer.` : target || !instead ? text : instead;
  ui.tourBack.disabled = step === 0;
  ui.tourNext.textContent = swap ? `Take “${swap.token_text.trim()}”` : step === TOUR.length - 1 ? "Done" : "Next";
  if (!ui.callout.matches(":popover-open")) ui.callout.showPopover();
  target?.classList.add("spot");
  target?.scrollIntoView({ block: wide ? "nearest" : "start" }); // on a phone the callout has its room below
  putNear(ui.callout, (target ?? ui.text).getBoundingClientRect());
  ui.tourNext.focus({ preventScroll: true });
}
const clearSpot = () => root.querySelectorAll(".spot").forEach((node) => node.classList.remove("spot"));
function tourEnd() {
  clearSpot();
  tourAt = null;
  if (ui.callout.matches(":popover-open")) ui.callout.hidePopover();
  tabStop?.focus({ preventScroll: true });
}
const showRaw = () => ui.raw.setAttribute("aria-pressed", String(!root.classList.toggle("means")));
const help = () => ui.help.togglePopover();

// ---- clicks and keys ----------------------------------------------------------------------------------------
const actions = {
  halt: () => shown && trigger("halt", { run: shown.run }),
  close: closeInspector,
  more: () => selected !== null && renderAlternatives(selected, ui.more.getAttribute("aria-expanded") !== "true"),
  compare: () => compare(ui.compare.getAttribute("aria-pressed") !== "true"),
  raw: showRaw, keep, undo, redo, help, replay, ...worthActions, ...pinActions, ...shareActions,
  giveKnown: () => (present(false), giveKnown("answer")),
  tour: () => tour(0), tourEnd, tourBack: () => tour(tourAt - 1), tourNext,
  back: () => stepFork(-1), forward: () => stepFork(1), play: () => play(!presenter.playing), leave: () => present(false),
};
root.addEventListener("click", (e) => {
  const [go, alt, span] = ["[data-do]", ".alt", ".flow .t"].map((s) => e.target.closest(s));
  if (go) actions[go.dataset.do]?.();
  else if (alt) choose(ui.choices.contains(alt) ? Number(ui.choices.dataset.pos) : selected, Number(alt.dataset.id));
  else if (span && getSelection().isCollapsed) select(Number(span.dataset.i)); // a drag selects text
});
for (const [on, off] of [["pointerenter", "pointerleave"], ["focus", "blur"]]) {
  ui.undo.addEventListener(on, () => tintUndo(true));
  ui.undo.addEventListener(off, () => tintUndo(false));
}
const keys = {
  n: () => stepFork(1, false), p: () => stepFork(-1, false), PageDown: () => stepFork(1), PageUp: () => stepFork(-1),
  u: undo, r: redo, x: showRaw, o: askOutcomes, t: togglePin, c: nextShade, "?": help,
  ArrowRight: () => stepToken(1), ArrowLeft: () => stepToken(-1),
  Enter: () => enter(), " ": () => space(), Escape: () => escape(),
};
for (const k of "12345") keys[k] = () => number(Number(k));
const focused = () => (document.activeElement?.matches(".flow .t") ? Number(document.activeElement.dataset.i) : null);
function stepToken(way) {
  if (!shown || presenter.asking !== null) return false;
  const to = (selected ?? focused() ?? (forks[0] ?? 0) - way) + way;
  return els[to] ? select(to) : false;
}
function number(k) {
  const row = presenter.asking !== null && ui.choices.querySelectorAll(".alt")[k - 1];
  if (row) return choose(presenter.asking, Number(row.dataset.id));
  return selected === null ? false : void takeNumber(k);
}
function enter() {
  if (focused() !== null && focused() !== selected) return select(focused());
  if (presenter.on && !settled) return space();
  return settled && shown.open?.parent && !shown.kept ? keep() : false;
}
function space() {
  if (presenter.on) return presenter.asking !== null ? goOn(presenter.asking) : play(!presenter.playing);
  return focused() !== null ? select(focused()) : false;
}
function escape() {
  if (tourAt !== null) return tourEnd();
  if (ui.help.matches(":popover-open")) return ui.help.hidePopover();
  if (ui.shareMenu.matches(":popover-open")) return ui.shareMenu.hidePopover();
  if (selected !== null) return closeInspector();
  return presenter.on ? present(false) : false;
}
listenToKeys(keys, () => root.offsetParent || presenter.on);

// ---- hooks for the rest of the page, and the start ----------------------------------------------------------
window.rmx = Object.assign(window.rmx ?? {}, {
  setTau: (x) => setTau(x, (tauByHand = true)),
  goto: (pos) => shown && select(Math.max(0, Math.min(els.length - 1, Math.round(pos)))),
  presenter: present,
  tour: () => tour(0),
  open: async (run) => { // a tree that was opened elsewhere on the page
    const old = shown, b = await ensure(run);
    if (!b?.open || shown !== old) return;
    if (old && !old.done) trigger("halt", { run: old.run });
    sayError();
    bring(b);
    ui.problem.scrollIntoView({ block: "nearest" });
  },
});
setShade(shade);
ui.tau.textContent = tau.toFixed(2);
async function start() {
  if (hear(receive)) return;
  const run = new URL(location).searchParams.get("run");
  const b = run && (await ensure(run));
  if (b && !shown) bring(b);
}
start();
