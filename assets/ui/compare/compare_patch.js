// "Patch": the base's text with single words of the adapted model, and how few of them turn the answer.
import { attrs, clip, count, make, plainName, plural, showOdd, splitSpace, waitingText } from "../common/text.js";
import { knownText, mark, textOf, valueOf, verdictOn } from "../common/answers.js";
import { followed, prose } from "../common/prose.js";
import { drawBoxes } from "../common/boxes.js";
import { tokenSpan } from "../common/tokens.js";
import { sayError, trigger, ui } from "./context.js";
import { complete, ending, renderUnjudged, runs, share } from "./compare_stream.js";
import { showPane } from "./compare_view.js";

const PATCHED = 1, DIFFERS = 2, GATED = 4, PATCH_SPECIAL = 8, REFUSED = 16;
export const ARMS = { // arm: name, what it does
  base: ["base", "The base alone, no patch: the answer to start from."],
  teacher: ["adapted", "The adapted model alone, from the first token on."],
  oracle: ["oracle", "Where the two disagree, the base is given the adapted model's word. All else is the base's own."],
  random: ["random", "In the same places a random other word of the base's top 20. If this helped as much, the words would not matter."],
  matched: ["matched", "As many random words as the oracle gave, in random places."],
  entropy: ["entropy gate", "The adapted model's word wherever the base is undecided. No second model says where, only the base's entropy."],
};
const BUDGETED = new Set(["oracle", "random", "matched", "entropy"]);
export const patch = { run: null, map: null, arm: "oracle", budget: null, answers: {}, patches: {}, full: {}, queue: null, settled: false, flash: null };
const patchProse = prose(ui.patchFlow), patchEls = patchProse.els;
const patchFollow = followed(ui.patchText, ui.patchFlow, ui.patchEnd, () => patch.run && !patch.settled && !stepping());
const stepping = () => patch.budget !== null;

// ---- tokens -------------------------------------------------------------------------------------------------
function patchSpan(tok, pos) {
  const [text, flags, , from] = tok, patched = !!(flags & PATCHED), span = tokenSpan(text, pos, {
    forced: patched, refused: flags & REFUSED, differs: flags & DIFFERS && !(flags & (PATCHED | REFUSED)), fork: flags & GATED, special: flags & PATCH_SPECIAL,
  });
  if (patched || flags & (DIFFERS | GATED | REFUSED)) splitSpace(span);
  if (!patched) return span;
  const old = plainName(from ?? "").replace(/^␣/, "");
  (span.querySelector("b") ?? span).dataset.from = clip(old, 16);
  const label = `Patch at token ${pos}: ${JSON.stringify(plainName(text))} instead of ${JSON.stringify(plainName(from ?? ""))}`;
  return attrs(span, { role: "img", "aria-label": label });
}
const sameDecode = (a, b) => a !== undefined && b !== undefined && a[0] === b[0] && a[1] === b[1] && a[3] === b[3];

// ---- the decode on screen -----------------------------------------------------------------------------------
// What a new decode shares with the one on screen stays; its tail is replaced from the first difference on.
export const patchPane = {
  shown: () => patch.run,
  bring: (run) => {
    showPane("patch");
    showDecode(run);
  },
  flow: (run) => {
    const old = patch.onScreen;
    let same = 0;
    while (same < patchEls.length && same < run.toks.length && (run.toks[same] === old[same] || sameDecode(run.toks[same], old[same]))) same++;
    if (same < patchEls.length && (same < run.toks.length || complete(run))) {
      patchProse.cut(old, same);
      old.length = same;
    }
    for (let pos = patchEls.length; pos < run.toks.length; pos++) addToPatch(run, pos);
    run.changed.length = 0;
    if (run.open && run.open !== patch.headOf) renderPatchHead(run);
    renderCounter(run);
    if (run.answers || run.patches) learn(run);
    if (!patch.settled && (complete(run) || (run.done && !run.result))) settlePatch(run);
    ui.patchCount.textContent = patch.settled ? "" : run.waiting ? waitingText(run.waiting, run.expected) : `${plural(run.toks.length, "token")} …`;
  },
  failed: () => {
    ui.patch.classList.remove("pending");
    stopQueue();
    if (patch.run) showDecode(patch.run);
  },
};
function showDecode(run) {
  if (run.map !== patch.map && run.map !== null) forgetPatches({ id: run.map });
  Object.assign(patch, { run, settled: false, onScreen: patch.onScreen ?? [] });
  if (run.open) [patch.arm, patch.budget] = [run.open.arm, run.open.budget ?? null];
  patchFollow.on = true;
  ui.patch.classList.remove("none-yet", "pending");
  ui.patchStart.hidden = true;
  ui.patchStatus.textContent = "";
  patchPane.flow(run);
}
function addToPatch(run, pos) {
  const tok = run.toks[pos], span = patchSpan(tok, pos);
  patchProse.place(span, tok[0], run.toks[pos - 1]?.[0]);
  patch.onScreen[pos] = tok;
}
export function forgetPatches(run) {
  stopQueue();
  patchProse.cut([], 0);
  Object.assign(patch, { run: null, map: run.id ?? null, answers: {}, patches: {}, full: {}, onScreen: [], headOf: null, settled: false, budget: null, arm: "oracle" });
  ui.patch.classList.add("none-yet");
  ui.patchStart.hidden = false;
  ui.patchStop.hidden = true;
  ui.patchTitle.textContent = run.open ? showOdd(clip(run.open.title ?? "", 600)) : "";
  ui.patchAnswer.replaceChildren(make("span", "none", "–"));
  ui.patchVerdict.replaceChildren();
  ui.patchStatus.textContent = "";
  renderArms();
}
function renderPatchHead(run) {
  const open = (patch.headOf = run.open);
  [patch.arm, patch.budget] = [open.arm, open.budget ?? null];
  ui.patchTitle.textContent = showOdd(clip(open.title || "Untitled problem", 600));
  ui.patchMeta.textContent = showOdd([`${open.base} and ${open.adapted}`, knownText(open)].join(" · "));
  renderUnjudged(ui.patchUnjudged, open);
  renderArms();
}
function learn(run) {
  Object.assign(patch.answers, run.answers);
  Object.assign(patch.patches, run.patches);
  renderArms();
}
function settlePatch(run) {
  patch.settled = true;
  drawBoxes(patchEls);
  const r = run.result ?? {}, key = run.open?.arm, budget = run.open?.budget ?? null;
  const refused = run.toks.filter((tok) => tok[1] & REFUSED).length;
  if (key && (budget === null || !refused)) patch.full[key] = r.patches ?? 0;
  if (key && budget === null && r.answer) Object.assign(patch.answers, { [key]: r.answer });
  if (key && budget === null && r.patches !== undefined) Object.assign(patch.patches, { [key]: r.patches });
  if (budget === 0 && r.answer) patch.answers.base ??= r.answer; // no patch allowed: the base alone
  if (run.map !== null) decodes.set(decodeKey(run.map, key, budget), run.id);
  ui.patchStatus.textContent = patchSummary(run);
  renderCounter(run);
  renderArms();
  showNewest(run);
  if (patch.queue) nextArm();
}
function patchSummary(run) {
  const r = run.result;
  if (!r) return "Broken off.";
  const facts = [`${ARMS[run.open.arm]?.[0]}: ${plural(r.patches ?? 0, "patch")}`.replace("patchs", "patches"), `in ${plural(run.toks.length, "token")}`];
  const more = [`answer ${textOf(r.answer) === null ? "none" : clip(showOdd(textOf(r.answer)), 60)}`, r.disagreements != null && plural(r.disagreements, "disagreement")];
  return [facts.join(" "), ...more.filter(Boolean)].join("; ") + ending(r);
}
function renderCounter(run) {
  const n = run.toks.filter((tok) => tok[1] & PATCHED).length, all = run.toks.length, teacher = run.open?.arm === "teacher";
  const rest = `${n === 1 ? "patch" : "patches"} in ${plural(all, "token")}, ${share(n, all)}`;
  ui.counter.firstElementChild.textContent = teacher ? "–" : count(n);
  ui.counter.lastElementChild.textContent = teacher ? `every word of ${plural(all, "token")} is the adapted model's` : rest;
  const answer = run.result?.answer, text = textOf(answer);
  const busy = !patch.settled && !run.done;
  ui.patchStop.hidden = !busy;
  ui.patch.classList.toggle("live", busy);
  ui.patchAnswer.parentNode.classList.toggle("stale", !run.result);
  if (!run.result) return;
  const before = run.open?.arm === "base" || textOf(patch.answers.base) === text ? null : patch.answers.base;
  ui.patchAnswer.replaceChildren(valueOf(answer, before));
  ui.patchVerdict.replaceChildren(verdictOn(answer));
  if (before) ui.patchVerdict.append(make("span", "soft was", "base ", mark(before)));
}
// The newest patch comes into view and lights up for a moment.
function showNewest(run) {
  const pos = run.toks.findLastIndex((tok) => tok[1] & PATCHED), span = patchEls[pos];
  if (!span || !stepping() || ui.patch.hidden) return;
  span.scrollIntoView({ block: "nearest" });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const word = span.querySelector("b") ?? span;
  word.animate({ backgroundColor: ["rgb(86 180 233 / .7)", "rgb(86 180 233 / 0)"] }, { duration: 190, easing: "ease-in" });
}

// ---- arms, budget, steps ------------------------------------------------------------------------------------
const decodes = new Map(); // what was decoded already: "map arm budget" -> id
const decodeKey = (mapId, arm, budget) => `${mapId} ${arm} ${budget}`;
const held = (arm, budget) => runs.get(decodes.get(decodeKey(patch.map, arm, budget)));
// `full` is exact; before an arm has run to its end, what is known is what it has patched and what it was refused.
function knownPatches(arm = patch.arm) {
  if (patch.full[arm] !== undefined) return patch.full[arm];
  const here = patch.run?.open?.arm === arm ? patch.run.toks.filter((tok) => tok[1] & (PATCHED | REFUSED)).length : 0;
  return Math.max(here, patch.patches[arm] ?? 0);
}
function request(arm, budget = null) {
  if (!BUDGETED.has(arm)) budget = null;
  else if (budget !== null && patch.full[arm] !== undefined && budget >= patch.full[arm] && held(arm, null)) budget = null;
  const ready = held(arm, budget);
  Object.assign(patch, { arm, budget });
  renderArms();
  if (ready) return showDecode(ready);
  if (patch.run) ui.patch.classList.add("pending"); // the text stays until it is known where the new one differs
  ui.patchAnswer.parentNode.classList.add("stale");
  if (patch.run && !patch.run.done) trigger("halt", { id: patch.run.id });
  trigger("patch", { map: patch.map, arm, budget });
}
export function chooseArm(arm) {
  if (!Object.hasOwn(ARMS, arm)) return;
  stopQueue();
  sayError();
  request(arm);
}
export function setBudget(n) {
  stopQueue();
  request(BUDGETED.has(patch.arm) ? patch.arm : "oracle", Math.max(0, Math.round(n)));
}
// From all patches a step starts over: the first word alone, then the second, until the answer turns.
export function step(way = 1) {
  const arm = BUDGETED.has(patch.arm) ? patch.arm : "oracle", all = knownPatches(arm), wasAll = patch.budget === null;
  const started = patch.run && patch.run.open?.arm === arm;
  if (!started) return way > 0 ? setBudget(patch.arm === "base" && patch.run ? 1 : 0) : false;
  const next = wasAll ? (way > 0 ? 0 : all - 1) : patch.budget + way;
  if (next < 0 || (next > all && patch.full[arm] !== undefined)) return false;
  return setBudget(next);
}
export function renderArms() {
  const arm = patch.arm, all = knownPatches(), [name, says] = ARMS[arm] ?? [arm, ""];
  for (const chip of ui.arms.children) chip.setAttribute("aria-pressed", String(chip.dataset.arm === arm));
  ui.armName.textContent = `Answer, ${name}`;
  ui.armSays.textContent = says;
  const budgeted = BUDGETED.has(arm), value = patch.budget ?? all;
  ui.budgetBox.classList.toggle("off", !budgeted || !patch.run);
  attrs(ui.budget, { max: Math.max(all, value, 1), "aria-valuetext": `${value} of ${all} patches` });
  ui.budget.disabled = !budgeted || !patch.run;
  ui.budget.value = value;
  ui.budgetValue.textContent = allowed(patch.budget, all);
  const atEnd = patch.budget !== null && patch.full[arm] !== undefined && patch.budget >= patch.full[arm];
  ui.step.disabled = atEnd;
  ui.stepBack.disabled = !patch.run || patch.budget === 0 || !budgeted;
  renderArmRows();
}
const allowed = (budget, all) => (budget === null ? `all ${all ? `${count(all)} ` : ""}allowed` : `the first ${count(budget)} of ${count(all)} allowed`);
function renderArmRows() {
  ui.armRows.replaceChildren(...Object.keys(ARMS).map((arm) => {
    const answer = patch.answers[arm], waits = patch.queue?.includes(arm) || (patch.queue && arm === patch.arm && !answer);
    const row = make("tr", arm === patch.arm ? "here" : "", attrs(make("th", "", ARMS[arm][0]), { scope: "row" }));
    const patches = arm === "base" ? 0 : arm === "teacher" ? null : patch.patches[arm];
    row.append(make("td", "", answer ? mark(answer) : make("span", "soft", waits ? "…" : "–")), make("td", "num", patches == null ? "–" : count(patches)));
    return row;
  }));
  ui.runAll.textContent = patch.queue ? "Stop" : "Run all arms";
}
export function runAll() {
  if (patch.queue) return patch.run && !patch.run.done ? (trigger("halt", { id: patch.run.id }), stopQueue()) : stopQueue();
  sayError();
  const missing = Object.keys(ARMS).filter((arm) => !held(arm, null));
  patch.queue = missing.length ? missing : Object.keys(ARMS);
  nextArm();
}
function nextArm() {
  const arm = patch.queue.shift();
  if (arm === undefined) return stopQueue(), request("oracle");
  request(arm);
}
function stopQueue() {
  patch.queue = null;
  ui.runAll.textContent = "Run all arms";
}
for (const [arm, [name]] of Object.entries(ARMS)) {
  const chip = attrs(make("button", "chip", name), { type: "button", "aria-pressed": "false" });
  chip.dataset.arm = arm;
  ui.arms.append(chip);
}
ui.budget.addEventListener("input", () => {
  const n = Number(ui.budget.value), all = knownPatches(), ready = held(patch.arm, n >= all ? null : n);
  ui.budgetValue.textContent = allowed(n, all);
  if (ready) request(patch.arm, n); // decoded before: follows the thumb
});
ui.budget.addEventListener("change", () => setBudget(Number(ui.budget.value)));
