// "Where they part": one text, two layers of marks. A line above a word is the adapted model's, a line below the base's.
import {
  attrs, clip, count, fill, make, nameOf, odds, percent, plainName, plural, showOdd, splitSpace, waitingText,
} from "../common/text.js";
import { knownText, mark } from "../common/answers.js";
import { followed, prose } from "../common/prose.js";
import { drawBoxes } from "../common/boxes.js";
import { tokenSpan } from "../common/tokens.js";
import { figure } from "../common/estimates.js";
import { ask, root, tooltip, ui } from "./context.js";
import { answerBox, complete, ending, named, nats, renderUnjudged, share } from "./compare_stream.js";
import { renderCheck, renderNoise, renderPlacebo, resetChecks } from "./compare_checks.js";
import { forgetPatches } from "./compare_patch.js";
import { showPane } from "./compare_view.js";

const CLASSES = ["unshifted", "reranked", "shifted"], NEAR = 1, FORK = 2, MAP_SPECIAL = 4, KL_FULL = 1; // tint full at 1 nat
export const map = { run: null, selected: null, tabStop: null, settled: false, quiet: 0.05, only: "all", counts: {} };
const mapProse = prose(ui.mapFlow), mapEls = mapProse.els;
const mapFollow = followed(ui.mapText, ui.mapFlow, ui.mapEnd, () => map.selected === null && !map.settled);

const parted = (tok) => tok[1] > 0;
const isNear = (tok) => parted(tok) && !!(tok[2] & NEAR);
const isKind = {
  all: () => true,
  parted,
  reranked: (tok) => tok[1] === 1 && !isNear(tok),
  shifted: (tok) => tok[1] === 2 && !isNear(tok),
  near: isNear,
  fork: (tok) => !!(tok[2] & FORK),
};
const KINDS = ["all", "reranked", "shifted", "near", "fork"];

// ---- tokens -------------------------------------------------------------------------------------------------
function mapSpan(tok, pos) {
  const span = tokenSpan(tok[0], pos, { special: tok[2] & MAP_SPECIAL });
  markDifference(span, tok, pos);
  return span;
}
function markDifference(span, tok, pos) {
  const [text, , flags] = tok;
  for (const kind of KINDS.slice(1)) span.classList.toggle(kind, isKind[kind](tok));
  if (parted(tok) || flags & FORK) splitSpace(span);
  tint(span, tok);
  if (!parted(tok)) return;
  const kind = isNear(tok) ? "near tie" : CLASSES[tok[1]], fork = flags & FORK ? ", on a fork" : "";
  const label = `Token ${pos}: ${JSON.stringify(plainName(text))}, ${kind}${fork}, KL ${nats(tok[3])}`;
  attrs(span, { role: "button", "aria-label": label });
  if (!span.hasAttribute("tabindex")) span.tabIndex = -1;
}
function tint(span, tok) {
  const kl = tok[3] ?? Infinity;
  if (kl < map.quiet || kl <= 0) return span.style.removeProperty("--h");
  splitSpace(span);
  span.style.setProperty("--h", (0.15 + 0.85 * Math.min(1, kl / KL_FULL)).toFixed(2));
}
export function setQuiet(x) {
  map.quiet = x;
  ui.quietValue.textContent = ui.rampFrom.textContent = x.toFixed(2);
  mapEls.forEach((span, pos) => tint(span, map.run.toks[pos]));
}
function setTabStop(span) {
  if (map.tabStop) map.tabStop.tabIndex = -1;
  (map.tabStop = span).tabIndex = 0;
}

// ---- the run on screen --------------------------------------------------------------------------------------
export const mapPane = {
  shown: () => map.run,
  bring: (run) => {
    deselect();
    mapProse.cut([], 0);
    Object.assign(map, { run, settled: false, resultOf: undefined, tabStop: null, counts: Object.fromEntries(KINDS.map((kind) => [kind, 0])) });
    mapFollow.on = true;
    forgetPatches(run);
    showOnly("all");
    resetChecks();
    ui.solutions.hidden = true;
    showPane("map");
    mapPane.flow(run);
  },
  flow: (run) => {
    if (run.open && run.open !== map.headOf) renderMapHead(run);
    for (const pos of run.changed.splice(0)) mapEls[pos] && remark(run, pos);
    for (let pos = mapEls.length; pos < run.toks.length; pos++) addToMap(run, pos);
    renderCounts();
    if (complete(run) && run.result !== map.resultOf) settleMap(run); // again where more was measured since
    const soFar = `${plural(mapEls.length, "token")}, ${plural(differences(), "difference")} …`;
    const waiting = waitingText(run.waiting, run.expected);
    ui.mapCount.textContent = map.settled ? "" : run.waiting ? waiting : soFar;
  },
  failed: () => {},
};
const differences = () => map.counts.reranked + map.counts.shifted;
function addToMap(run, pos) {
  const tok = run.toks[pos], span = mapSpan(tok, pos);
  mapProse.place(span, tok[0], run.toks[pos - 1]?.[0]);
  for (const kind of KINDS) map.counts[kind] += isKind[kind](tok);
  if (parted(tok) && !map.tabStop) setTabStop(span);
}
function remark(run, pos) {
  markDifference(mapEls[pos], run.toks[pos], pos);
  map.counts = Object.fromEntries(KINDS.map((kind) => [kind, run.toks.slice(0, mapEls.length).filter(isKind[kind]).length]));
}
function renderCounts() {
  for (const chip of ui.classes.children) chip.lastElementChild.textContent = count(map.counts[chip.dataset.only] ?? 0);
}
function renderMapHead(run) {
  const open = (map.headOf = run.open);
  ui.map.classList.remove("none-yet");
  ui.map.dataset.run = run.id;
  ui.mapTitle.textContent = showOdd(clip(open.title || (open.prompt ?? "").trim() || "Untitled problem", 600));
  const text = { base: "the base's solution", adapted: "the adapted model's solution", text: "a given text" }[open.source];
  const strength = (open.strength ?? 1) === 1 ? "" : `strength ${open.strength}`;
  const meta = [`${open.base} and ${open.adapted}`, text, strength, knownText(open)];
  ui.mapMeta.textContent = showOdd(meta.filter(Boolean).join(" · "));
  renderUnjudged(ui.mapUnjudged, open);
  ui.promptBox.hidden = !open.prompt;
  ui.prompt.textContent = showOdd(open.prompt ?? "");
  ui.promptStyle.textContent = showOdd(open.style ?? "");
  ui.mapTau.textContent = nats(open.tau ?? 0);
  renderNoise(open.noise);
  renderMapAnswers(run);
}
function renderMapAnswers(run) {
  const r = run.result, own = { base: "base", adapted: "adapted", text: "this text" }[run.open?.source] ?? "base";
  const boxes = [answerBox(own, r?.answer, !r && !run.done)];
  if (own !== "adapted" && (r?.adapted_answer || !r)) boxes.push(answerBox("adapted", r?.adapted_answer, !r && !run.done));
  ui.mapAnswers.replaceChildren(...boxes);
  ui.mapAnswers.classList.toggle("stale", !r);
  ui.map.classList.toggle("live", !run.done);
  ui.mapStop.hidden = run.done;
}
function settleMap(run) {
  map.settled = true;
  map.resultOf = run.result;
  renderMapAnswers(run);
  drawBoxes(mapEls);
  renderSolutions(run);
  renderNoise(run.open.noise);
  renderPlacebo(run);
  if (run.result?.check) renderCheck(run.result.check); // taken without being asked, where it costs a moment only
  renderLargest(run.result?.largest ?? []);
  ui.mapStatus.replaceChildren(...mapSummary(run));
  if (run.result?.check) renderCheck(run.result.check);
}
function mapSummary(run) {
  const { all, reranked, shifted, near } = map.counts, on = run.result?.on_forks;
  const rest = [`${plural(all, "token")}: ${count(reranked)} reranked (${share(reranked, all)}), ${count(shifted)} shifted (${share(shifted, all)})`];
  if (near) rest.push(`${plural(near, "near tie")} apart`);
  const headline = on?.disagreements ? `${count(on.on_forks)} of ${plural(on.disagreements, "disagreement")} on forks, which are ${percent(on.by_chance)} of the tokens.`
    : "The two agree at every token.";
  return [...(on ? [make("strong", "", headline), " "] : []), rest.join("; ") + ending(run.result)];
}

// ---- both solutions -----------------------------------------------------------------------------------------
// Row by row beside each other: what both say in the same row, quiet; the first row where they differ is marked.
function renderSolutions(run) {
  const beside = run.result?.beside, rows = beside?.rows ?? [], adapted = run.open.source === "adapted";
  ui.solutions.hidden = !rows.length && !beside?.unwritten;
  ui.solutionsTable.hidden = !rows.length;
  ui.unwritten.hidden = !!rows.length;
  ui.unwritten.firstElementChild.textContent = beside?.unwritten ?? "";
  ui.write.dataset.arm = beside?.arm ?? "";
  if (!rows.length) return;
  const [mine, other] = adapted ? ["adapted", "base"] : [run.open.source === "text" ? "this text" : "base", "adapted"];
  ui.solutionsMine.replaceChildren(`${mine} `, mark(run.result.answer));
  ui.solutionsOther.replaceChildren(`${other} `, mark(beside.answer));
  const parting = rows.findIndex(([, , same]) => !same);
  ui.solutionsRows.replaceChildren(...rows.map(([a, b, same], k) => {
    const row = make("tr", same ? "both" : k === parting ? "parting" : "", solutionCell(a, same ? "both" : mine), solutionCell(b, other));
    if (k === parting) row.firstChild.prepend(make("span", "parts-here", "they part here"));
    return row;
  }));
  for (const side of [1, 2]) { // a box may begin in one row and end in another
    const cells = [...ui.solutionsRows.querySelectorAll(`td:nth-child(${side}) .t`)], texts = cells.map((cell) => cell.textContent);
    drawBoxes(cells);
    cells.forEach((cell, k) => cell.querySelector(".tex") && (cell.title = texts[k]));
  }
  if (parting < 0) ui.solutionsRows.append(make("tr", "", attrs(make("td", "soft", "The two solutions are the same, token by token."), { colspan: 2 })));
}
function solutionCell(text, name) {
  const said = make("span", "t meant");
  fill(said, text.replace(/^ /, ""));
  if (!text) said.append(make("span", "soft", "nothing"));
  return attrs(make("td", "", said), { dir: "auto", "data-name": name });
}

// ---- filter -------------------------------------------------------------------------------------------------
export function showOnly(kind) {
  map.only = kind;
  ui.mapFlow.className = kind === "all" ? "flow" : `flow only only-${kind}`;
  for (const chip of ui.classes.children) chip.setAttribute("aria-pressed", String(chip.dataset.only === kind));
}
export function stepDifference(way) {
  const wanted = isKind[map.only === "all" ? "parted" : map.only], here = map.selected ?? (way > 0 ? -1 : mapEls.length);
  for (let pos = here + way; mapEls[pos]; pos += way) if (wanted(map.run.toks[pos])) return selectToken(pos);
  return false;
}
export function stepToken(way) {
  const focused = document.activeElement?.closest?.(".map .flow .t")?.dataset.i;
  const to = Number(map.selected ?? focused ?? -way) + way;
  return mapEls[to] ? selectToken(to) : false;
}

// ---- inspector: both lists ----------------------------------------------------------------------------------
const inspected = new Map(); // "id:pos" -> promise of the server's reply
function inspectAt(pos) {
  const key = `${map.run.id}:${pos}`;
  if (!inspected.has(key)) {
    const reply = ask("pair_inspect", { id: map.run.id, pos });
    inspected.set(key, reply);
    reply.then((r) => r ?? inspected.delete(key));
    if (inspected.size > 400) inspected.delete(inspected.keys().next().value);
  }
  return inspected.get(key);
}
export function selectToken(pos, focus = true) {
  const span = mapEls[pos];
  if (!span) return;
  deselect(false);
  mapTipGone(0);
  map.selected = pos;
  splitSpace(span);
  span.classList.add("selected");
  setTabStop(span);
  root.classList.add("open");
  if (focus) span.focus({ preventScroll: true });
  renderInspector(pos);
  span.scrollIntoView({ block: "nearest", inline: "nearest" });
}
function deselect(close = true) {
  mapEls[map.selected]?.classList.remove("selected");
  map.selected = null;
  if (close) root.classList.remove("open");
}
export const closeInspector = () => [mapEls[map.selected], deselect()][0]?.focus({ preventScroll: true });
async function renderInspector(pos) {
  const run = map.run, tok = run.toks[pos], [text, cls, flags, kl, H, G] = tok;
  const kind = isNear(tok) ? "near" : CLASSES[cls], said = [kind === "near" ? "near tie" : kind, flags & FORK && "on a fork"];
  ui.where.replaceChildren(make("i", `key ${kind}`), `Token ${pos}, ${said.filter(Boolean).join(", ")}`);
  ui.chosen.replaceChildren(nameOf(text));
  const figures = [["KL, nats", nats(kl)], ["entropy, base", nats(H ?? 0)], ["adapted", nats(G ?? 0)]];
  ui.facts.replaceChildren(...figures.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "num", value))));
  const waiting = setTimeout(() => [ui.says, ui.baseTop, ui.adaptedTop].forEach((list) => list.replaceChildren("…")), 120);
  const reply = await inspectAt(pos);
  clearTimeout(waiting);
  if (run !== map.run || map.selected !== pos) return;
  ui.says.replaceChildren(...(reply ? sentences(reply) : []));
  ui.baseTop.replaceChildren(...topRows(reply, "base"));
  ui.adaptedTop.replaceChildren(...topRows(reply, "adapted"));
}
function sentences(reply) {
  const ours = reply.base.top[0]?.text, theirs = reply.adapted.top[0]?.text, say = (...parts) => make("p", "", ...parts);
  if (!reply.cls) {
    const p = say("Both choose ", named(ours), ": base ", figure(odds(reply.p)), ", adapted ", figure(odds(reply.back_p)), ".");
    return reply.base.rank > 1 ? [p, say("The token on screen is the base's number ", figure(reply.base.rank), ".")] : [p];
  }
  const sides = [["adapted model", theirs, "base", reply.rank, reply.p], ["base", ours, "adapted model", reply.back_rank, reply.back_p]];
  const parted = sides.map(([who, word, other, rank, p]) =>
    say(`The ${who}'s choice `, named(word), ` is the ${other}'s number `, figure(count(rank)), ", ", figure(odds(p ?? 0)), "."));
  if (reply.near_tie) parted.push(make("p", "soft", "Rounding alone could make the two agree here."));
  return parted;
}
function topRows(reply, side) {
  const view = reply?.[side], rows = (view?.top ?? []).slice(0, 5).map((alt, k) => topRow(alt, k + 1, alt.text === reply.text));
  if (view && !rows.some((row) => row.hasAttribute("aria-current"))) {
    rows.push(topRow({ text: reply.text, p: Math.exp(view.logp ?? -Infinity) }, view.rank, true));
  }
  return rows;
}
function topRow(alt, rank, here) {
  const p = odds(alt.p ?? 0), bar = make("i", "meter");
  bar.style.setProperty("--p", alt.p ?? 0);
  const row = make("li", "top", make("span", "num soft", count(rank)), make("span", "what", nameOf(alt.text)), make("span", "num", p), bar);
  row.title = `${rank}: ${plainName(alt.text)}, ${p}${here ? ", on screen" : ""}`;
  if (here) row.setAttribute("aria-current", "true");
  return row;
}
export const mapTipGone = tooltip(ui.mapFlow, (span) => {
  const pos = Number(span.dataset.i), tok = map.run?.toks[pos];
  if (!tok || map.selected === pos || root.classList.contains("presenting")) return [];
  const [text, cls, , kl, , , p, q] = tok, num = (k, v) => make("span", "num", make("i", "quiet", k), v);
  const kind = isNear(tok) ? "near tie" : CLASSES[cls];
  return [make("p", "", nameOf(text), make("span", "soft", `${kind}, token ${pos}`)),
    make("p", "", num("KL ", nats(kl)), num("base ", odds(p ?? 0)), num("adapted ", odds(q ?? 0)))];
});
ui.mapText.addEventListener("scroll", () => mapTipGone(0), { passive: true });

// ---- largest differences ------------------------------------------------------------------------------------
function renderLargest(rows) {
  const most = Math.max(...rows.map((row) => row.kl ?? KL_FULL), 1e-9);
  ui.largest.replaceChildren(...rows.map((row) => largestRow(row, most)));
  if (!rows.length) ui.largest.append(make("li", "soft", "None: the two agree at every token."));
}
function largestRow(row, most) {
  const changes = row.cls ? [make("i", "quiet", " → "), named(row.adapted)] : [make("span", "soft", " for both")];
  const words = make("span", "what", named(row.base), ...changes), bar = make("i", "meter");
  bar.style.setProperty("--p", Math.min(1, (row.kl ?? KL_FULL) / most));
  const kind = make("i", `key ${isNear(map.run.toks[row.pos] ?? []) ? "near" : CLASSES[row.cls]}`);
  const entry = make("button", "alt", kind, make("span", "unseen", CLASSES[row.cls]), words, make("span", "soft at", `token ${count(row.pos)}`), make("span", "num", nats(row.kl)), bar);
  return make("li", "", attrs(entry, { type: "button", "data-go": row.pos }));
}
