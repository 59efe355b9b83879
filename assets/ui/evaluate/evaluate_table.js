// What was measured, as tables: what each model solves, and what has changed against the base. Every figure stands with
// its interval. `job` is the evaluation that the page follows, `shown` what the visitor has chosen to see of it.
import { attrs, count, make, percent, plural } from "../common/text.js";
import { SIGNS } from "../common/answers.js";
import { cell, header, keyed, plain } from "../common/tables.js";
import { around, clock, estimate, figure, intervalBar, written } from "../common/estimates.js";
import { root, ui } from "./context.js";

export const job = { id: null, m: null, report: null, rows: new Map(), stamp: 0, notes: {}, command: "", own: false };
export const shown = { k: null, part: "", name: "", by: "greedy", group: "won", open: new Set(), most: 30 };
const BUILT = "This miniature was built with a few decisive forks: what training gains on it, it gains by construction.";

const dollars = (usd) => (usd == null ? "" : usd === 0 ? "free" : usd < 0.01 ? "< $0.01" : `$${usd.toFixed(2)}`);
export const scope = () => job.report?.parts?.find((part) => part.name === shown.part) ?? job.report;
export const ks = () => (job.report?.k ?? []).map(String).filter((k) => scope()?.models?.some((model) => model["pass@k"]?.[k]));
export const samplesOf = () => job.report?.samples ?? 0;
export const shortName = (name) => plain(/^\d{8}-\d{4}-(.+)$/.exec(name)?.[1] ?? name, 60);
export const others = () => (job.report?.models ?? []).slice(1).map((model) => model.name);

export function chips(node, key, choices) { // [value, words, figure?]; a single choice is none
  keyed(node, choices.length > 1 ? choices : [], ([value, words, n]) => {
    const chip = attrs(make("button", "chip", words, ...(n == null ? [] : [" ", make("span", "num", count(n))])), { type: "button", "data-choose": key, "data-value": value });
    return attrs(chip, { "aria-pressed": String(shown[key] === value) });
  });
}

// ---- what each solves ---------------------------------------------------------------------------------------
function modelName(model, place) {
  const th = attrs(make("th", "", make("span", "first", shortName(model.name))), { scope: "row", title: plain(model.name) });
  const note = job.notes[model.name] ?? (place === 0 ? model.label : "");
  if (note && note !== model.name) th.append(make("span", "second soft", plain(note, 80)));
  if (model.seen > 0) th.append(make("span", "second wrong", `! trained on ${count(model.seen)} of these`));
  return th;
}
function lost(found, total) { // answers that were cut off or held no answer: greedy and sampled together
  const all = (found?.greedy ?? 0) + (found?.sampled ?? 0);
  return { all, text: total ? percent(all / total).replace("<0.1\u202f%", all ? "<0.1\u202f%" : "0\u202f%") : "", title: `${count(found?.greedy ?? 0)} greedy, ${count(found?.sampled ?? 0)} sampled` };
}
function lostCell(model, problems) {
  const total = problems * ((model.greedy?.value == null ? 0 : 1) + samplesOf());
  const line = (word, found) => attrs(make("span", "line", figure(count(found.all)), make("span", "soft", ` ${word}`), make("span", "soft interval", found.all ? found.text : "")), { title: found.title });
  return [line("cut off", lost(model.truncated, total)), line("no answer", lost(model.unparsed, total))];
}
function spentCell(model) {
  if (!model.tokens) return [make("span", "line soft", "nothing new")];
  const time = [model.seconds > 0 ? clock(model.seconds) : "", dollars(model.usd)].filter(Boolean).join(" · ");
  return [make("span", "line", figure(count(model.tokens ?? 0)), make("span", "soft", " tokens")), make("span", "line soft", time)];
}
export function renderSolved() {
  const { models, problems } = scope(), k = shown.k, n = samplesOf(), sampled = k !== null;
  const greedy = models.some((model) => model.greedy?.value != null);
  const columns = [
    ...(greedy ? [["greedy", (model) => [estimate(model.greedy, "share")]]] : []),
    ...(sampled ? [[`average of ${count(n)}`, (model) => [estimate(model.avg ?? model["pass@k"]?.["1"], "share")]]] : []),
    ...(sampled && k !== "1" ? [[`pass@${k}`, (model) => [estimate(model["pass@k"]?.[k], "share")]], [`majority of ${k}`, (model) => [estimate(model.majority?.[k], "share")]]] : []),
    ["cut off, no answer", (model) => lostCell(model, problems)],
    ["spent", spentCell],
  ];
  keyed(ui.solved, ["head", "body"], (part) => part === "head" ? header(["model", ...columns.map(([name]) => name)])
    : make("tbody", "", ...models.map((model, i) => make("tr", "", modelName(model, i), ...columns.map(([name, fill]) => cell(name, ...fill(model)))))));
  ui.built.hidden = !job.report.by_construction;
  ui.built.textContent = BUILT;
}

// ---- against the base ---------------------------------------------------------------------------------------
const tone = (e) => ({ better: "right", worse: "wrong" })[e?.verdict] ?? "none";
function chance(p) {
  const digits = Math.abs(p - 0.05) < 0.0006 ? 6 : p < 0.1 ? 3 : 2; // rounding never carries it over 0.05
  return p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(digits)}`;
}
function verdict(e, problems) { // what the row's own rule allows to say, and how many problems would say more
  const word = { right: "better", wrong: "worse" }[tone(e)];
  const counted = e.won == null ? "" : `won ${count(e.won)}, lost ${count(e.lost)}${e.p == null ? "" : `, ${chance(e.p)}`}`;
  if (word) return [make("span", tone(e), `${SIGNS[tone(e)]} ${word}`), make("span", "soft second", counted)];
  const wanted = e.needed == null ? "no difference seen" : e.needed > problems ? `about ${count(e.needed)} problems would show this` : "not shown";
  return [make("span", "", `${SIGNS.none} ${wanted}`), make("span", "soft second", counted)];
}
function measures(pair, k, n) { // [words, estimate] of one adapter
  const found = [["greedy", pair.greedy]];
  if (k !== null) found.push([`average of ${count(n)}`, pair.avg ?? pair["pass@k"]?.["1"]]);
  if (k !== null && k !== "1") found.push([`pass@${k}`, pair["pass@k"]?.[k]], [`majority of ${k}`, pair.majority?.[k]]);
  return found.filter(([, e]) => e?.value != null);
}
export function renderAgainst() {
  const { paired, problems } = scope(), rows = (paired ?? []).map((pair) => [pair, measures(pair, shown.k, samplesOf())]);
  ui.againstBox.hidden = !rows.some(([, found]) => found.length);
  if (ui.againstBox.hidden) return;
  ui.againstOf.textContent = `paired over ${plural(problems, "problem")}`;
  ui.rules.textContent = job.report.verdict_rule ?? "";
  const ends = rows.flatMap(([, found]) => found.flatMap(([, e]) => [e.low, e.high, e.value])).filter((v) => Number.isFinite(v)).map(Math.abs);
  const most = Math.max(0.05, ...ends), reach = [0.1, 0.2, 0.3, 0.5].find((r) => r >= most) ?? 1;
  keyed(ui.against, [null, ...rows], (row) => row === null ? header(["model", "measure", "points, 95 % interval", "", "what it shows"]) : against(row, reach, problems));
}
function against([pair, found], reach, problems) {
  return make("tbody", "", ...found.map(([words, e], i) => {
    const label = `${pair.name}, ${words}: ${written(e.value, "points")} points, ${around(e, "points")}`;
    const name = i === 0 ? attrs(make("th", "", shortName(pair.name)), { scope: "rowgroup", rowspan: found.length, title: plain(pair.name) }) : null;
    return make("tr", "", ...(name ? [name] : []), cell("measure", words), cell("points", estimate(e, "points")), cell("", intervalBar(e, label, { from: -reach, to: reach, mark: 0, width: 160, look: `gain ${tone(e)}` })), cell("", ...verdict(e, problems)));
  }));
}

// ---- over the tables ----------------------------------------------------------------------------------------
const STATES = { loading: "loading the model and the problems", running: "", done: "done", stopped: "stopped", failed: "broken off" };
const passed = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);
export function renderHead() {
  const m = job.m, report = job.report, ended = isOver(m);
  ui.head.hidden = false;
  const about = report ? [`${plain(report.set, 80)}`, report.samples ? `${plural(report.samples, "sample")} per problem at temperature ${report.temperature}, top-p ${report.top_p}` : "greedy only",
    `seed ${report.seed}`, `at most ${count(report.max_new_tokens)} tokens`] : [];
  ui.meta.replaceChildren(...(m.recorded ? [make("span", "recorded", "a recorded example"), " "] : []), about.join(" · "));
  const clusters = report?.clusters ? `, intervals over ${count(report.clusters.n)} groups (problems of one ${plain(report.clusters.what, 40)} count together)` : "";
  const of = report?.of_problems != null && report.of_problems !== report.problems ? ` of ${count(report.of_problems)}` : "";
  ui.title.textContent = report ? `${count(report.problems)}${of} problems${clusters}` : "Getting ready";
  attrs(ui.progress, { max: Math.max(1, m.of), value: m.at });
  ui.counted.textContent = m.of ? (m.state === "done" ? count(m.of) : `${count(m.at)} of ${count(m.of)}`) : "";
  ui.counted.nextSibling.data = m.of ? " completions " : " ";
  ui.left.textContent = ended || !m.of ? "" : `· ${passed(m.seconds)} so far${m.left == null ? "" : `, about ${clock(m.left)} left`}`;
  const on = report?.machine ? ` on ${plain(report.machine, 100)}` : "";
  const state = m.recorded ? `· recorded in ${passed(m.seconds)}${on}` : ended ? `${m.of ? "· " : ""}${STATES[m.state]}${m.seconds ? ` after ${passed(m.seconds)}` : ""}` : (STATES[m.state] ?? "");
  if (ui.status.textContent !== state) ui.status.textContent = state;
  ui.progress.hidden = !!m.recorded;
  ui.stop.hidden = ended;
  root.classList.toggle("working", !ended);
  ui.known.hidden = !(m.cached > 0) && m.state !== "stopped";
  const cached = m.cached > 0 ? `${percent(m.cached / Math.max(1, m.at))} was known already.` : "";
  ui.known.textContent = [cached, m.state === "stopped" ? "What was made is kept; Evaluate goes on from here." : ""].filter(Boolean).join(" ");
  const warned = [report?.base_check?.holds === false && report.base_check.sentence, report?.fault].filter(Boolean).join(" ");
  if (warned) [ui.known.textContent, ui.known.hidden] = [plain(warned, 600), false];
}
export const isOver = (m) => ["done", "stopped", "failed"].includes(m?.state);
