// What a choice is worth: the outcomes of each alternative in the inspector and, for a whole solution, the smallest
// rescue and the answer so far; which forks decide is in worth_plot.js.
// Every message holds the whole state of its job, so one may be lost; what is known is kept by run and place.
import { attrs, clip, count, make, nameOf, percent, plural, showOdd } from "../common/text.js";
import { kindOf, offerKnown } from "../common/answers.js";
import { root, sayError, trigger, ui } from "./context.js";
import { endsLater, fanSoon } from "./fan.js";
import { importanceState, renderImportance } from "./worth_plot.js";
import {
  altItem, answerOf, branches, els, ensure, presenter, select, selected, settled, shown, visit,
} from "./token_view.js";

const JOBS = { outcomes: "outcomes", importance: "importance", rescue: "rescue", sofar: "sofar", stop: "haltjob" };
const CONTENT = { outcomes: "alternatives", importance: "points", rescue: "tried", sofar: "points" }; // a field that a state has
const SILENT = 25_000; // milliseconds without a word after which a job may be started again
export const worth = { jobs: new Map(), tones: new Map(), open: null, pressed: false };

// ---- jobs ---------------------------------------------------------------------------------------------------
const jobKey = (kind, run, pos) => (kind === "outcomes" ? `${kind} ${run} ${pos}` : `${kind} ${run}`);
const jobOf = (kind, pos = selected) => worth.jobs.get(jobKey(kind, shown?.run, pos)) ?? null;
const running = (job) => !!job && !job.gone && !job.m?.done;
// The server measures one thing for a page at a time: another one, or a swap, ends what is under way.
const COMPLETE = {
  outcomes: (m) => m.verdict !== "open", importance: (m) => m.at >= m.of, rescue: (m) => !!m.found || !!m.exhausted,
  sofar: (m) => m.points.length >= (m.of ?? 0),
};
const broken = (job) => !!job.m?.done && (job.stopping || job.displaced || !!job.m.error) && !COMPLETE[job.kind](job.m);
const restartable = (job) => !job || job.gone || broken(job);
const displace = () => worth.jobs.forEach((job) => running(job) && (job.displaced = true));

export const measuring = () => [...worth.jobs.values()].some(running);
// What was sampled of each alternative at a place, for the fan.
export function outcomesAt(pos) {
  const found = jobOf("outcomes", pos)?.m?.alternatives ?? [];
  return (id) => {
    const alt = found.find((one) => one.id === id);
    return alt?.samples ? { samples: alt.samples, share: alt.correct?.value ?? null } : null;
  };
}

function beginJob(kind, more = {}) {
  displace();
  const job = { kind, run: shown.run, pos: more.pos, goal: more.goal, m: null, heard: performance.now(), tree: shown.open?.tree };
  worth.jobs.set(jobKey(kind, job.run, job.pos), job);
  if (worth.jobs.size > 200) worth.jobs.delete(worth.jobs.keys().next().value);
  sayError();
  trigger(JOBS[kind], { run: job.run, ...more });
  return job;
}
function stopJob(job) {
  if (!running(job) || !job.m?.job) return;
  job.stopping = true;
  trigger(JOBS.stop, { job: job.m.job });
  renderJob(job);
}
export function receiveWorth(m) {
  if (m.error) sayError(m.error);
  const field = CONTENT[m.kind];
  if (!field) return;
  const waiting = [...worth.jobs.values()].filter((job) => job.kind === m.kind && !job.m && (!m.run || job.run === m.run));
  const pos = m.pos ?? (waiting[0]?.run === m.run ? waiting[0].pos : undefined), key = jobKey(m.kind, m.run, pos);
  const job = worth.jobs.get(key) ?? { kind: m.kind, run: m.run, pos, tree: branches.get(m.run)?.open?.tree };
  const before = job.m, same = before?.job === m.job;
  if (same && before?.done && !m.done) return; // late news of an earlier moment
  const now = { ...(same ? before : null), ...m };
  if (!m.run || now[field] === undefined) { // refused: nothing was measured
    for (const [at, other] of worth.jobs) if (waiting.includes(other) || other === job) worth.jobs.delete(at);
    return renderWorth();
  }
  Object.assign(job, { m: now, heard: performance.now(), gone: false });
  if (!same) job.stopping = job.displaced = false;
  worth.jobs.set(key, job);
  renderJob(job);
  if (now.done) endsLater(); // they gave way to this
  if (job.kind === "rescue" && now.done && now.branch) bringRescued(job);
}
function renderJob(job) {
  if (job.run !== shown?.run && job !== panelJob()) return;
  if (job.kind === "outcomes") fanSoon();
  if (job.kind !== "outcomes") renderMeasure();
  else if (job.pos === selected) renderOutcomes();
}
export function renderWorth() {
  renderMeasure();
  if (selected !== null) renderOutcomes();
}
// The last message can be lost; a job that says nothing any more may be started anew.
const listener = setInterval(() => {
  if (!root.isConnected) return clearInterval(listener);
  for (const job of worth.jobs.values()) {
    if (!running(job) || performance.now() - job.heard < (job.stopping ? SILENT / 4 : SILENT)) continue;
    job.gone = true;
    renderJob(job);
  }
}, 2000);
// Called by the view: another branch is on screen; a new problem ends what was being measured for the old one.
export function worthShows(b, old) {
  clearChips();
  if (!b.done) displace();
  if (old && old.open?.tree !== b.open?.tree) {
    worth.open = null;
    for (const job of worth.jobs.values()) if (running(job) && job.tree !== b.open?.tree) job.gone = true;
  }
  renderMeasure();
}

// ---- answers and their colours ------------------------------------------------------------------------------
// An answer keeps its colour over all measures of one problem; the solution's own wrong answer comes first.
const TONES = 8;
export function toneOf(text, correct, known = true) {
  if (text === null) return "none";
  if (correct) return known ? "right" : "same";
  const tree = shown?.open?.tree, own = answerOf(shown?.run);
  const tones = worth.tones.get(tree) ?? new Map(own?.text != null && own.correct === false ? [[own.text, 0]] : []);
  worth.tones.set(tree, tones);
  if (!tones.has(text)) tones.set(text, tones.size);
  return `other-${Math.min(tones.get(text), TONES - 1)}`;
}
const signOf = (tone, known) => ({ right: "✓", same: "=", none: "–", rest: "" })[tone] ?? (known ? "✗" : "");
export const writeAnswer = (text, most = 24) => (text === null ? "none" : showOdd(clip(text, most)).replace(/\s+/g, " "));
export function answerLabel(text, tone, known, figure) {
  const key = make("i", `tone tone-${tone}`), sign = signOf(tone, known);
  const name = make("bdi", tone === "right" ? "right" : "", `${sign ? `${sign} ` : ""}${writeAnswer(text)}`);
  return make("span", "said", key, name, ...(figure ? [make("span", "num", figure)] : []));
}
export const round = (p) => Math.round(100 * p);
export const interval = (e) => `[${round(e.low)}, ${round(e.high)}]`;
export const WHENEVER = "95 % interval, valid whenever one looks";
export function targetText(target) {
  if (!target) return "";
  const text = writeAnswer(target.text, 40);
  return target.known ? `right means ${text}` : `no known answer: share that reaches ${text}, the answer of this solution`;
}
export function renderTarget(node, target, text) { // rewritten only where it has changed: its button may hold the focus
  if (node.firstChild?.data === text) return;
  node.replaceChildren(text, ...(target?.known === false ? [" ", ...offerKnown("answer")] : []));
}
export const spentText = (m) => `${count(m.tokens_spent ?? 0)} of ${count(m.budget ?? 0)} tokens`;

// ---- outcomes: in the inspector -----------------------------------------------------------------------------
const VERDICTS = { decides: "This choice decides", same: "It makes no difference", open: "Not decided yet" };
export function askOutcomes() {
  if (selected === null || !settled || presenter.on) return false;
  if (restartable(jobOf("outcomes"))) beginJob("outcomes", { pos: selected });
  renderOutcomes();
}
export function renderOutcomes() {
  const job = jobOf("outcomes"), m = job?.m, live = running(job);
  ui.outcomes.hidden = !settled;
  ui.sample.hidden = !restartable(job);
  ui.sample.firstChild.data = job ? "Sample again " : "What is it worth? ";
  ui.sampleStop.hidden = !live || !m;
  ui.sampleStop.disabled = !!job?.stopping;
  ui.outcomes.classList.toggle("live", live);
  ui.decides.hidden = !job;
  ui.outcomeFacts.hidden = !m;
  ui.alts.classList.toggle("weighed", !!m);
  if (!m) {
    ui.decides.textContent = job ? (job.gone ? "No news from the server" : "Waiting for the model …") : "";
    return ui.alts.querySelectorAll(".outcome").forEach((node) => node.remove());
  }
  const verdict = VERDICTS[m.verdict] ?? VERDICTS.open;
  if (ui.decides.textContent !== verdict) ui.decides.textContent = verdict;
  ui.decides.dataset.verdict = m.verdict;
  renderTarget(ui.outcomeTarget, m.target, targetText(m.target));
  ui.outcomeSpent.textContent = `${spentText(m)}${outcomeState(job)}`;
  ui.outcomeSpent.style.setProperty("--p", Math.min(1, (m.tokens_spent ?? 0) / (m.budget || 1)));
  ui.outcomeRule.textContent = m.rule ?? "";
  giveTones(m);
  m.alternatives.forEach((alt, k) => outcomeRow(alt, k, m));
}
function giveTones(m) { // the most frequent answers get the colours that differ most
  const times = new Map(), known = m.target?.known !== false;
  for (const alt of m.alternatives) for (const [text, n, correct] of alt.answers ?? []) if (!correct) times.set(text, (times.get(text) ?? 0) + n);
  [...times.keys()].sort((a, b) => times.get(b) - times.get(a)).forEach((text) => toneOf(text, false, known));
}
function outcomeState(job) {
  if (running(job)) return job.stopping ? ", stopping …" : ", sampling …";
  return job.gone ? ", broken off" : ended(job);
}
const ended = (job) => (!broken(job) ? "" : job.stopping ? ", stopped by hand" : job.m.error ? ", broken off" : ", stopped early");
function outcomeRow(alt, k, m) {
  const find = () => [...ui.alts.querySelectorAll(".alt")].find((row) => Number(row.dataset.id) === alt.id);
  if (!find() && !ui.alts.querySelector(".alt")) return; // the list is on its way
  if (!find()) ui.alts.append(altItem(alt, k + 1, alt.chosen)); // a verdict must not rest on a row out of sight
  const item = find().parentNode;
  const box = item.querySelector(".outcome") ?? item.appendChild(outcomeBox());
  const e = alt.correct, known = m.target?.known !== false, n = alt.samples ?? 0;
  box.figures.replaceChildren(...(e && e.value !== null ? [make("b", "", `${round(e.value)} %`), ` ${interval(e)} `, make("i", "quiet", `n ${count(n)}`)]
    : [make("i", "quiet", `n ${count(n)}`)]));
  const { low, high } = e ?? { low: 0, high: 1 }, value = e?.value ?? null;
  attrs(box.reach, { "aria-label": value === null ? "not sampled yet" : `${round(value)} %, ${WHENEVER}: ${round(low)} to ${round(high)} %` });
  box.reach.classList.toggle("unknown", value === null);
  Object.entries({ low, high, value: value ?? 0.5 }).forEach(([name, x]) => box.reach.style.setProperty(`--${name}`, x));
  box.strip.style.setProperty("--weight", n / (n + 12)); // the strip grows with what is known
  fillStrip(box, alt.answers ?? [], n, known);
}
function outcomeBox() {
  const reach = attrs(make("div", "reach", make("i", "whisker"), make("i", "point")), { role: "img", title: WHENEVER });
  const box = make("div", "outcome", attrs(make("p", "num shares"), { title: WHENEVER }), reach, make("div", "reached"), make("p", "soft most"));
  return Object.assign(box, { figures: box.children[0], reach, strip: box.children[2], most: box.children[3], parts: new Map() });
}
function fillStrip(box, answers, n, known) {
  const rank = (a) => (a[2] ? 0 : a[0] === null ? 2 : 1), rows = [...answers].sort((a, b) => rank(a) - rank(b));
  const seen = new Set();
  for (const [text, times, correct] of rows) {
    const tone = toneOf(text, correct, known), id = JSON.stringify([text, correct]), part = box.parts.get(id) ?? make("i", `tone-${tone}`);
    box.parts.set(id, part);
    seen.add(id);
    part.style.setProperty("--share", n ? times / n : 0);
    part.textContent = tone === "right" ? "✓" : "";
    part.title = `${signOf(tone, known)} ${writeAnswer(text, 80)}: ${count(times)} of ${count(n)}`.trim();
  }
  for (const [id, part] of box.parts) if (!seen.has(id)) [part.remove(), box.parts.delete(id)];
  const order = rows.map(([text, , correct]) => box.parts.get(JSON.stringify([text, correct])));
  if (order.some((part, k) => box.strip.children[k] !== part)) box.strip.replaceChildren(...order);
  const named = answers.filter((answer, k) => k < 2 || answer[2]), more = answers.length - named.length;
  const labels = named.map(([text, times, correct]) => answerLabel(text, toneOf(text, correct, known), known, count(times)));
  box.most.replaceChildren(...labels, ...(more ? [make("span", "rest", `+${more} more`)] : []));
}
// In a room: under each choice what is known of it.
export function stageOutcomes(pos) {
  const m = jobOf("outcomes", pos)?.m;
  if (!m) return;
  for (const alt of m.alternatives) {
    const row = ui.choices.querySelector(`.alt[data-id="${Number(alt.id)}"]`), p = alt.correct?.value;
    if (row && p != null) row.append(make("span", "stage-worth", `${round(p)} % ${m.target?.known === false ? "the same answer" : "right"}`));
  }
}

// ---- the whole solution: one quiet row, one panel -----------------------------------------------------------
const NO_GOAL = "A rescue looks for swaps that turn a wrong answer right, so it needs the known answer. None is known of this problem: give it beside the problem and press Solve.";
const PANELS = { importance: "Which forks decide?", sofar: "Answer so far", rescue: "The smallest rescue" };
// A rescue is also told on the branch that it found.
export function panelJob(kind = worth.open) {
  if (!kind || !shown) return null;
  return jobOf(kind) ?? (kind === "rescue" ? [...worth.jobs.values()].find((job) => job.kind === kind && job.m?.branch === shown.run) : null) ?? null;
}
function rescueGoal() { // null where it takes a known answer and there is none
  if (!shown?.open?.known) return null;
  return answerOf(shown.run)?.correct === true ? "wrong" : "right";
}
function measure(kind) {
  if (!settled) return;
  if (kind === "rescue" && !rescueGoal()) {
    worth.open = worth.open === kind ? null : kind;
    return renderMeasure();
  }
  const job = panelJob(kind), own = job && job.run === shown.run;
  if (worth.open === kind && own && !restartable(job)) worth.open = null;
  else {
    if (restartable(own ? job : null)) beginJob(kind, kind === "rescue" ? { goal: rescueGoal() } : {});
    worth.open = kind;
  }
  renderMeasure();
}
function renderMeasure() {
  const goal = rescueGoal();
  ui.measure.hidden = !settled;
  if (!settled) return;
  ui.askRescue.textContent = goal === "wrong" ? "Find the smallest break" : "Find the smallest rescue";
  for (const [kind, button] of [["importance", ui.askImportance], ["sofar", ui.askSofar], ["rescue", ui.askRescue]]) {
    button.setAttribute("aria-expanded", String(worth.open === kind && (panelJob(kind)?.run === shown.run || (kind === "rescue" && !goal))));
    button.classList.toggle("busy", running(jobOf(kind)));
  }
  renderPanel();
}
function renderPanel() {
  const job = panelJob(), m = job?.m, live = running(job), goalless = !job && worth.open === "rescue" && !rescueGoal();
  ui.panel.hidden = !job && !goalless;
  if (!job || worth.open !== "sofar") clearChips();
  if (goalless) return renderGoalless();
  if (!job) return;
  const breaks = job.kind === "rescue" && (m?.goal ?? job.goal) === "wrong";
  ui.panelTitle.textContent = breaks ? "The smallest break" : PANELS[job.kind];
  ui.panelStop.hidden = !live || !m;
  ui.panelStop.disabled = !!job.stopping;
  ui.panelAgain.hidden = !restartable(job);
  ui.panelState.textContent = panelState(job);
  ui.panelState.classList.toggle("live", live);
  ui.panelState.style.setProperty("--p", m?.budget ? Math.min(1, (m.tokens_spent ?? 0) / m.budget) : 0);
  ui.panelRule.hidden = !m?.rule;
  ui.panelRuleText.textContent = m?.rule ?? "";
  if (ui.panelBody.dataset.kind !== job.kind || worth.drawn !== job) ui.panelBody.replaceChildren();
  ui.panelBody.dataset.kind = job.kind;
  worth.drawn = job;
  if (m && !worth.pressed) ({ importance: renderImportance, rescue: renderRescue, sofar: renderSofar })[job.kind](m, job);
}
// A click ends on the node on which it began: news that arrives in between is drawn afterwards.
ui.panelBody.addEventListener("pointerdown", () => {
  worth.pressed = true;
  const release = () => setTimeout(() => { // after the click
    worth.pressed = false;
    renderMeasure();
  });
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, release, { once: true });
});
function renderGoalless() {
  ui.panelTitle.textContent = PANELS.rescue;
  ui.panelState.textContent = "";
  ui.panelState.classList.remove("live");
  ui.panelStop.hidden = ui.panelAgain.hidden = ui.panelRule.hidden = true;
  if (!worth.drawn && ui.panelBody.dataset.kind === "goalless") return;
  worth.drawn = null;
  ui.panelBody.dataset.kind = "goalless";
  ui.panelBody.replaceChildren(make("p", "", NO_GOAL), make("p", "", ...offerKnown("answer")));
}
function panelState(job) {
  const m = job.m;
  if (job.gone) return "No news from the server; it may be started again.";
  if (!m) return "Waiting for the model …";
  const words = { importance: importanceState, rescue: rescueState, sofar: sofarState }[job.kind](m);
  return `${words}${running(job) ? (job.stopping ? ", stopping …" : " …") : ended(job)}`;
}

// ---- the smallest rescue ------------------------------------------------------------------------------------
const rescueState = (m) => [plural(m.tried ?? 0, "swap") + " tried", spentText(m), m.depth > 1 ? `${m.depth} at once` : ""].filter(Boolean).join(", ");
function renderRescue(m, job) {
  const breaks = m.goal === "wrong", word = breaks ? "wrong" : "right", lines = [];
  if (m.found) {
    lines.push(make("p", "finding", ...swapsText(m)));
    const here = shown.run === m.branch, goTo = here ? job.run : m.branch;
    const button = attrs(make("button", "button", here ? "Back to the solution" : "Show the branch"), { type: "button", "data-run": goTo ?? "" });
    button.classList.add("rescued");
    if (goTo) lines.push(make("p", "", button));
  } else if (m.done) {
    lines.push(make("p", "finding", m.sentence ? sentenceCase(m.sentence) : `No swap was found that makes the answer ${word}.`));
  }
  const searched = `The search uses the known answer ${writeAnswer(m.known ?? null, 40)}: it shows what one word can do, not how to solve the problem.`;
  lines.push(make("p", "soft", searched));
  const r = m.resampling;
  if (r?.samples) {
    const share = r["pass@n"]?.value ?? null, note = share === null ? "" : `; the chance of at least one ${word} among ${count(r.samples)} is ${percent(share)}`;
    lines.push(make("p", "soft", `Plain resampling with as many tokens: ${plural(r.samples, "sample")}, ${count(r.hits ?? 0)} ${word}${note}.`));
  }
  ui.panelBody.replaceChildren(...lines);
}
const sentenceCase = (s) => showOdd(clip(`${String(s ?? "")[0]?.toUpperCase() ?? ""}${String(s ?? "").slice(1)}`, 300));
function swapsText(m) {
  const text = (s, side) => s[`${side}_text`] ?? s[side], swaps = m.swaps ?? [];
  if (!swaps.length || swaps.some((s) => typeof text(s, "from") !== "string" || typeof text(s, "to") !== "string")) return [sentenceCase(m.sentence)];
  const lead = swaps.length === 1 ? "One token: " : `${["", "", "Two", "Three"][swaps.length] ?? swaps.length} tokens: `;
  const each = swaps.flatMap((s, k) => [k ? "; " : "", nameOf(text(s, "from")), make("i", "quiet", " → "), nameOf(text(s, "to")), ` at ${count(s.pos)}`]);
  return [lead, ...each];
}
// What was found is shown at once, unless the reader has gone elsewhere meanwhile; then a button leads there.
async function bringRescued(job) {
  if (job.brought) return;
  job.brought = true;
  if (shown?.run === job.run && settled && !presenter.on) await visitRescued(job.m.branch);
}
async function visitRescued(run) {
  const b = await ensure(run), up = b?.open?.parent;
  if (up && !branches.has(up)) await ensure(up); // its marks tell what it changed
  if (b) await visit(run);
  const span = shown?.run === run && els[shown.open?.at];
  if (span) ui.text.scrollTop += span.getBoundingClientRect().top - ui.text.getBoundingClientRect().top - ui.text.clientHeight / 3;
}

// ---- the answer so far --------------------------------------------------------------------------------------
const sofarState = (m) => (m.done || !m.of ? plural((m.points ?? []).length, "sentence") : `${count((m.points ?? []).length)} of ${plural(m.of, "sentence")}`);
const sofarTone = (point) => toneOf(point.answer ?? null, point.correct === true, !!shown?.open?.known);
function renderSofar(m) {
  const points = [...(m.points ?? [])].sort((a, b) => a.pos - b.pos), known = !!shown.open?.known, lines = [];
  if (m.mode && points.length) {
    const mode = m.mode.answer ?? null, of = points.find((point) => (point.answer ?? null) === mode), tone = of ? sofarTone(of) : "none";
    const said = make("bdi", kindOf({ text: mode, correct: of?.correct }), `${signOf(tone, known)}\u00a0${writeAnswer(mode, 40)}`.trim());
    lines.push(make("p", "finding", "Mode over the trace: ", said, ` (${percent(m.mode.share ?? 0)})`));
  }
  const stays = stretches(points), strip = make("div", "timeline", ...stays.map((stay) => stretch(stay, known)));
  lines.push(strip, make("p", "soft", settlesAt(stays, points.length, m.done)));
  ui.panelBody.replaceChildren(...lines);
  if (nameStretches(strip)) strip.after(make("p", "answers-legend", ...sofarLegend(stays, known)));
  drawChips(points, known);
}
function nameStretches(strip) { // a word that does not fit is left out; the legend has it then
  const parts = [...strip.children], tight = parts.filter((part) => part.firstChild.offsetWidth > part.clientWidth);
  for (const part of tight) part.firstChild.hidden = true;
  return tight.length > 0;
}
function sofarLegend(stays, known) {
  const firsts = new Map(stays.map(({ point }) => [point.answer ?? null, point])), most = [...firsts].slice(0, 8);
  return most.map(([text, point]) => answerLabel(text, sofarTone(point), known));
}
// Sentences in a row with the same answer are one stretch of the timeline.
function stretches(points) {
  const found = [];
  points.forEach((point, k) => {
    const last = found.at(-1), same = last && (last.point.answer ?? null) === (point.answer ?? null);
    if (!same) found.push({ point, from: k, to: k, start: points[k - 1]?.pos ?? -1, end: point.pos });
    else Object.assign(last, { to: k, end: point.pos });
  });
  return found;
}
function stretch({ point, from, to, start, end }, known) {
  const tone = sofarTone(point), text = `${signOf(tone, known)} ${writeAnswer(point.answer ?? null, 60)}`.trim();
  const says = `${from === to ? `sentence ${from + 1}` : `sentences ${from + 1} to ${to + 1}`}: ${text}`;
  const part = attrs(make("button", `tone-${tone}`, make("span", "", text)), { type: "button", title: says, "aria-label": says, "data-pos": point.pos });
  part.style.setProperty("--length", end - start);
  return part;
}
function settlesAt(stays, sentences, done) {
  const lead = "After each sentence, the answer that the model would give if it had to answer there.", last = stays.at(-1);
  if (!done || !last) return lead;
  const none = (last.point.answer ?? null) === null, answer = writeAnswer(last.point.answer ?? null, 40);
  if (last.from === 0) return `${lead} ${none ? "There is none after any sentence." : `It is ${answer} from the first sentence on.`}`;
  return `${lead} From sentence ${last.from + 1} of ${sentences} on ${none ? "there is none" : `it stays ${answer}`}.`;
}
// A chip is an empty element with generated content: it is neither copied nor part of the token's text.
function drawChips(points, known) {
  clearChips();
  for (const point of points) {
    let pos = point.pos;
    while (pos > 0 && els[pos] && !shown.toks[pos][0].trim()) pos--; // behind the word, not on the next line
    const span = els[pos];
    if (!span || !shown.toks[pos][0].trim()) continue;
    const tone = sofarTone(point), says = `${signOf(tone, known)} ${writeAnswer(point.answer ?? null, 16)}`;
    const chip = attrs(make("i", `so-far chip-${tone.split("-")[0]}`), { "data-say": says, role: "img", "aria-label": `answer so far: ${says}` });
    chip.title = `Stopped here, the model would answer ${writeAnswer(point.answer ?? null, 60)}`;
    const breaks = [...span.children].findLast((node) => node.matches(".nl"));
    breaks ? breaks.before(chip) : span.append(chip);
  }
}
const clearChips = () => ui.flow.querySelectorAll(".so-far").forEach((chip) => chip.remove());

// ---- clicks -------------------------------------------------------------------------------------------------
export const worthActions = {
  outcomes: askOutcomes, sampleStop: () => stopJob(jobOf("outcomes")),
  importance: () => measure("importance"), sofar: () => measure("sofar"), rescue: () => measure("rescue"),
  panelStop: () => stopJob(panelJob()), panelAgain: () => worth.open && measure(worth.open),
  panelClose: () => ((worth.open = null), renderMeasure()),
};
ui.panel.addEventListener("click", (e) => {
  const [place, run] = ["[data-pos]", ".rescued"].map((s) => e.target.closest(s));
  if (place) select(Number(place.dataset.pos));
  else if (run) shown.run === panelJob()?.m.branch ? visit(run.dataset.run) : visitRescued(run.dataset.run);
});
