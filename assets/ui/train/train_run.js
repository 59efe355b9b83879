// The run's head: what state it is in, what can be done with it, how far each stage is, what stopped it, what came of it.
import { drawn } from "../common/svg.js";
import { attrs, clip, count, make, percent, plural, say, showOdd } from "../common/text.js";
import { SIGNS } from "../common/answers.js";
import { root, sayError, trigger, ui } from "./context.js";
import { hurry, OVER, run, stateOf } from "./train_poll.js";
import { renderRollouts } from "./train_rollouts.js";
import { clearGate, gate, renderGate, retryDry } from "./train_gate.js";
import { clearCurves, renderCurves } from "./train_curves.js";
import { clearReplay, renderReplay } from "./train_replay.js";
import { renderSamples } from "./train_samples.js";
import { renderForm, setStarting } from "./train_form.js";

const STAGES = [["rollouts", "Rollouts"], ["selection", "Selection"], ["gate", "Gate"], ["training", "Training"], ["final", "Final check"]];
const SHOWN_IN = { rollouts: "rolloutsPanel", selection: "rolloutsPanel", gate: "gatePanel", training: "curvesPanel", final: "result" };
const DISTILL_STAGES = [["rollouts", "Teacher’s solutions"], ["teacher", "Teacher’s figures"], ["training", "Training"]];
const STATES = { // words, and a sign that is told apart without colour
  queued: ["Queued", "M8 1.8a6.2 6.2 0 1 0 0 12.4a6.2 6.2 0 1 0 0-12.4M8 4.6V8l2.4 1.6"], running: ["Running", "M4.5 2.6v10.8L13.2 8z"],
  stopping: ["Stopping", "M3.5 3.5h9v9h-9z"], stopped: ["Stopped", "M3.5 3.5h9v9h-9z"], interrupted: ["Interrupted", "M9.6 1.6L3.4 9h4l-1 5.4L12.6 7h-4z"],
  failed: ["Failed", "M3.5 3.5l9 9M12.5 3.5l-9 9"], done: ["Done", "M2.4 8.4l4 4 7.2-9"],
};
const PENDING = { stop: ["Stop", "stopping …"], resume: ["Resume", "resuming …"] };
export const isDry = () => stateOf(run) === "stopped" && /^Dry run/.test(run.status.message ?? "");
const RUN_LAST = 20_000; // ms to wait for a run to obey before its button can be pressed again
export let pending = null; // what was asked of the run and not obeyed yet: {what, from, id, at}
let me = null; // {owner, admin}: who looks at the page
export const setVisitor = (visitor) => (me = visitor);

// ---- words --------------------------------------------------------------------------------------------------
const pct = (x, digits = 1) => `${(100 * x).toFixed(digits)}\u202f%`;
export function spanText(s) {
  if (!(s >= 0)) return "–";
  if (s < 90) return `${Math.max(1, Math.round(s))} s`;
  const minutes = Math.round(s / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
const secondsText = (s) => (s >= 0 ? spanText(s) : "");
export const megabytes = (mb) => (mb >= 1000 ? `${(mb / 1024).toFixed(1)} GB` : `${Math.round(mb)} MB`);
export const dollars = (usd) => (usd < 0.005 ? (usd > 0 ? "less than 1 cent" : "$0") : `$${usd.toFixed(usd < 100 ? 2 : 0)}`);
const signedPoints = (x) => `${x > 0 ? "+" : x < 0 ? "−" : "±"}${(100 * Math.abs(x)).toFixed(1)}`;
const betweenOf = (e, write, join) => (e?.low == null || e?.high == null ? "" : `${write(e.low)} ${join} ${write(e.high)}`);
const signOf = (name) => {
  const svg = drawn("svg", { viewBox: "0 0 16 16", width: 16, height: 16, class: `sign ${name}` });
  svg.append(drawn("path", { d: STATES[name][1] }));
  return svg;
};

// ---- the whole run ------------------------------------------------------------------------------------------
export function clearRun() {
  pending = null;
  root.classList.toggle("no-run", !run);
  delete root.dataset.state;
  for (const panel of [ui.rolloutsPanel, ui.gatePanel, ui.curvesPanel, ui.replayPanel, ui.samplesPanel, ui.result, ui.by]) panel.hidden = true;
  for (const name of ["stateName", "stateMore", "runTitle", "runMeta", "offline"]) ui[name].textContent = "";
  ui.runId.textContent = run?.id ?? "";
  for (const box of [ui.stages, ui.notices, ui.stateIcon, ui.histogram, ui.rolloutsTally, ui.selection]) box.replaceChildren();
  delete ui.notices.dataset.key;
  ui.plan.open = !run;
  stageParts.clear();
  clearGate();
  clearCurves();
  clearReplay();
  renderActions();
}
// `changed` holds the kinds of events that came; only the panels that show them are drawn again.
export function renderRun(changed) {
  settlePending();
  const any = (...kinds) => kinds.some((kind) => changed.has(kind));
  const panels = [renderHead, renderStages, renderNotices, renderResult];
  if (any("rollouts", "selection")) panels.push(renderRollouts);
  if (any("gate", "selection")) panels.push(renderGate);
  if (any("update", "check", "done")) panels.push(renderCurves);
  if (any("replay")) panels.push(renderReplay);
  if (any("samples", "done")) panels.push(renderSamples);
  panels.forEach(contained);
  contained(retryDry);
}
// Files of a run may be damaged, or somebody else's: what cannot be drawn of them leaves everything else be, and is said.
export function contained(part) {
  try {
    part();
  } catch (error) {
    console.error(error);
    sayError("Some figures of this run cannot be shown: its files hold something else than a run writes.");
  }
}
function renderHead() {
  const { config, status } = run, state = stateOf(run);
  const from = [config?.model, config?.adapter].filter(Boolean).join(" + "), on = config?.set ? ` on ${config.set}` : "";
  const preset = config?.preset && `${config.preset} preset`, kind = config?.kind === "distill" && "distillation";
  say(ui.runId, run.id);
  say(ui.runTitle, showOdd(clip(from ? `${from}${on}` : "Run", 200)));
  say(ui.runMeta, showOdd(clip([kind, preset, config?.note].filter(Boolean).join(" · "), 300)));
  ui.by.hidden = config?.model !== "mini";
  const look = isDry() ? "dry" : (state ?? "");
  if (root.dataset.state !== look) {
    root.dataset.state = look;
    ui.stateIcon.replaceChildren(...(STATES[state] ? [signOf(look === "dry" ? "done" : state)] : []));
  }
  say(ui.stateName, look === "dry" ? "Dry run done" : (STATES[state]?.[0] ?? "…"));
  say(ui.stateMore, stateMore(state, status));
  renderActions();
}
function stateMore(state, status) {
  if (state === "queued") return status.ahead ? `${plural(status.ahead, "run")} ahead; it starts by itself` : "next; it starts by itself";
  if (state === "stopping") return "the step under way is finished and kept";
  if (state === "running") return nowText();
  if (state === "done" && run.done) return doneText(run.done);
  return "";
}
function nowText() {
  const name = run.stage ?? run.status.stage, part = run.stages[name];
  if (!name) return "getting ready";
  const what = { rollouts: "rollout", training: "update", final: "problem", selection: "problem", gate: "rollout", teacher: "solution" }[name] ?? "step";
  const title = stagesOf(run).find(([key]) => key === name)?.[1] ?? name;
  const far = part?.of > 1 ? `${what} ${count(part.at)} of ${count(part.of)}` : "";
  return [title.toLowerCase(), far, part?.left != null && `about ${spanText(part.left)} left`].filter(Boolean).join(" · ");
}
function doneText(d) {
  const facts = [d.seconds != null && `in ${spanText(d.seconds)}`, d.peak_rss_mb && `${megabytes(d.peak_rss_mb)} at most`, d.tokens && `${count(d.tokens)} tokens`,
    d.updates != null && plural(d.updates, "update"), d.usd != null && dollars(d.usd), d.best && `best checkpoint ${d.best}`];
  return showOdd(facts.filter(Boolean).join(" · "));
}

// ---- what can be done ---------------------------------------------------------------------------------------
export const isMine = () => !me || me.admin || (run.config?.owner != null && run.config.owner === me.owner);
export const sweeps = () => run.config?.kind === "sweep";
const hasAdapter = () => !!run.done?.adapter || (sweeps() ? run.taus.some((one) => one.adapter) : run.checks.some((c) => c.optimizer_step > 0 && c.checkpoint));
function renderActions() {
  const state = run && stateOf(run), alive = ["queued", "running", "stopping"].includes(state), mine = run && isMine();
  ui.stopButton.hidden = !(alive && mine);
  ui.resumeButton.hidden = !(mine && ["stopped", "interrupted", "failed"].includes(state));
  for (const name of ["explore", "compare", "download"]) ui[`${name}Button`].hidden = !run || !hasAdapter();
  for (const [what, [idle, busy]] of Object.entries(PENDING)) {
    const wait = pending?.what === what || (what === "stop" && state === "stopping");
    say(ui[`${what}Button`], wait ? busy : what === "resume" && run && isDry() ? "Train" : idle);
    ui[`${what}Button`].disabled = wait;
  }
  renderForm();
}
export function request(what) { // the poll tells when the run has obeyed
  pending = { what, from: stateOf(run), id: run.id, at: performance.now() };
  sayError();
  if (what === "stop") trigger("stop", { id: run.id });
  else trigger("resume", { id: run.id, ...chosenTau() });
  renderActions();
  hurry();
}
// A run of which nothing is trained yet can go on with the threshold that the slider shows.
function chosenTau() {
  const moved = isDry() && gate.m?.run === run.id && Math.abs(gate.tau - (gate.m.tau ?? gate.tau)) > 1e-6;
  return moved ? { tau: gate.tau } : {};
}
function settlePending() {
  if (!pending) return;
  const obeyed = pending.id !== run.id || stateOf(run) !== pending.from;
  if (obeyed || performance.now() - pending.at > RUN_LAST) pending = null;
}
export function refused(sentence) {
  pending = null;
  setStarting(false);
  renderActions();
  sayError(sentence);
}

// ---- stages -------------------------------------------------------------------------------------------------
const stageParts = new Map(); // stage -> its nodes
function stagesOf(r) {
  return r.config?.kind === "distill" ? DISTILL_STAGES : STAGES;
}
function renderStages() {
  const list = stagesOf(run);
  if (stageParts.size !== list.length) {
    stageParts.clear();
    ui.stages.replaceChildren(...list.map(([name, title]) => stageItem(name, title)));
  }
  const state = stateOf(run), here = list.findIndex(([name]) => name === (run.stage ?? run.status.stage));
  list.forEach(([name], k) => {
    const part = run.stages[name] ?? {}, over = state === "done" ? !!run.stages[name] : k < here, now = !over && k === here;
    renderStage(name, part, over ? "over" : now ? (!OVER.has(state) ? "now" : part.of == null ? "ahead" : "halted") : state === "done" ? "left-out" : "ahead");
  });
}
function stageItem(name, title) {
  const parts = { sign: make("span", "leg-sign"), bar: make("i"), far: make("span", "leg-far"), time: make("span", "leg-time num") };
  attrs(parts.sign, { "aria-hidden": "true" });
  parts.word = make("span", "unseen");
  const go = attrs(make("button", "leg-go", title), { type: "button", title: `Show ${title.toLowerCase()}` });
  go.dataset.go = SHOWN_IN[name];
  parts.item = make("li", "leg", make("p", "leg-name", parts.sign, go, parts.word), make("div", "leg-bar", parts.bar), make("p", "leg-says", parts.far, parts.time));
  stageParts.set(name, parts);
  return parts.item;
}
const STAGE_WORDS = { over: ["✓", "done"], now: ["▸", "under way"], halted: ["■", "not finished"], ahead: ["", "to come"], "left-out": ["–", "left out"] };
function renderStage(name, part, phase) {
  const nodes = stageParts.get(name), share = phase === "over" ? 1 : part.of ? part.at / part.of : 0;
  if (nodes.item.dataset.phase !== phase) {
    nodes.item.dataset.phase = phase;
    if (phase === "now") attrs(nodes.item, { "aria-current": "step" });
    else nodes.item.removeAttribute("aria-current");
    say(nodes.sign, STAGE_WORDS[phase][0]);
    say(nodes.word, `, ${STAGE_WORDS[phase][1]}`);
  }
  nodes.bar.style.width = `${(100 * Math.min(1, share)).toFixed(1)}%`;
  say(nodes.far, phase === "left-out" ? "left out" : stageFar(name, part, phase));
  say(nodes.time, phase === "over" ? secondsText(run.done?.stages?.[name] ?? part.seconds) : phase === "now" && part.left != null ? `${spanText(part.left)} left` : "");
}
function stageFar(name, part, phase) {
  const { selection, gate } = run.told;
  if (name === "selection" && selection && phase !== "ahead") return `${count(selection.kept)} of ${count(selection.problems)} problems`;
  if (name === "gate" && gate && phase !== "ahead") return `${percent(gate.share)} of tokens`;
  if (part.of == null) return "";
  const word = { rollouts: "rollouts", training: "updates", final: "problems", selection: "problems", gate: "rollouts", teacher: "solutions" }[name];
  const learned = name === "rollouts" && run.told.rollouts ? run.told.rollouts.of * run.told.rollouts.k : 0;
  if (phase === "over" && learned && part.of > learned) return `${count(learned)} rollouts, ${count(part.of - learned)} of validation`;
  return phase === "over" || part.at === part.of ? `${count(part.of)} ${word}` : `${count(part.at)} of ${count(part.of)} ${word}`;
}

// ---- what stopped it ----------------------------------------------------------------------------------------
const RULES = { validation: "Guard: worse than the base on validation", kl: "Guard: the model drifts from the base", finite: "Guard: a figure is not finite" };
function keptText() {
  const rollouts = run.told.rollouts?.rollouts ?? run.stages.rollouts?.at, last = run.checks.findLast((c) => c.optimizer_step > 0 && c.checkpoint)?.checkpoint;
  const facts = [rollouts && plural(rollouts, "rollout"), run.told.selection && "the selection", last ? `checkpoint ${last}` : run.updates.length && plural(run.updates.length, "update")];
  const list = facts.filter(Boolean);
  return list.length ? `Kept: ${list.join(", ")}. ` : "";
}
function noticesOf() {
  const state = stateOf(run), message = run.status.message, at = (e) => (e.tau == null ? "" : ` at τ ${e.tau}`);
  const told = run.guards.map((g) => [`${RULES[g.rule] ?? "Guard"}${at(g)}`, g.message, "guard"]);
  const goesOn = "Resume goes on from there, to the same figures as an unbroken run.";
  if (run.early) told.push([`Stopped early${at(run.early)}`, run.early.message, "early"]);
  if (state === "failed") told.push(["The run failed", `${message ?? "It gave no reason."} ${keptText()}Resume tries again from there.`, "guard"]);
  if (state === "interrupted") told.push(["Interrupted", `The process ended without a word: it was killed, or the machine went down. ${keptText()}${goesOn}`, "guard"]);
  if (isDry()) told.push(["Nothing is trained yet", "Move the threshold below, then press Train.", "early"]);
  else if (state === "stopped" && !told.length) told.push(["Stopped", `${/^Stopped/.test(message ?? "Stopped") ? "" : `${message} `}${keptText()}${goesOn}`, "early"]);
  if (["queued", "running"].includes(state) && !isMine()) told.push(["Another visitor's run", "Watch as you like; only they can stop it.", "early"]);
  told.push(...run.notes.map((note) => ["Memory or disk", note.message, "early"]));
  return told;
}
function renderNotices() {
  const told = noticesOf(), key = JSON.stringify(told);
  if (ui.notices.dataset.key === key) return;
  ui.notices.dataset.key = key;
  ui.notices.replaceChildren(...told.map(([title, sentence, look]) =>
    attrs(make("div", `notice ${look}`, make("strong", "", title), make("p", "", showOdd(clip(String(sentence ?? ""), 1200)))), { role: "note" })));
}

// ---- what came of it ----------------------------------------------------------------------------------------
function renderResult() {
  const d = run.done;
  ui.result.hidden = !(d?.before && d?.after);
  if (ui.result.hidden || ui.result.dataset.of === run.id) return;
  ui.result.dataset.of = run.id;
  const gain = d.vs_base, [kind, words] = verdictOf(gain);
  ui.result.replaceChildren(
    bigFigure("pass@1 before", pct(d.before.value), betweenOf(d.before, (x) => pct(x), "–")),
    bigFigure("after", pct(d.after.value), betweenOf(d.after, (x) => pct(x), "–")),
    ...(gain ? [bigFigure("points", signedPoints(gain.value), betweenOf(gain, signedPoints, "to"))] : []),
    make("p", `verdict-line ${kind}`, `${SIGNS[kind]} ${words}`, make("span", "soft", ` ${plural(d.after.n ?? 0, "problem")}, 95\u202f% intervals`)));
}
function verdictOf(gain) {
  if (gain?.low == null) return ["none", "no paired difference"];
  if (gain.low > 0) return ["right", "better than the base: the interval excludes zero."];
  return gain.high < 0 ? ["wrong", "worse than the base: the interval excludes zero."] : ["none", "no difference shown: the interval includes zero."];
}
const bigFigure = (label, value, interval) => make("div", "big-figure", make("p", "label", label), make("p", "value num", value), make("p", "interval num", interval));
