// Runs of the comparison: tokens arrive in deltas, any of which may be lost or repeated; gaps are fetched.
import { attrs, clip, make, nameOf, percent, showOdd } from "../common/text.js";
import { offerKnown, STOPS, textOf, verdictOn } from "../common/answers.js";
import { ask, root, sayError } from "./context.js";
import { lookAfterSet, receiveSet } from "./compare_set.js";

export const runs = new Map(); // id -> {id, kind, map, toks, want, open, result, done, waiting, answers, patches, changed}
const lastNews = new Map(); // id -> when something was last heard of it

const whole = (run) => run.toks.length >= run.want;
export const complete = (run) => run.done && !!run.open && whole(run);
const blankRun = (m) => ({
  id: m.id, kind: m.kind, map: m.map ?? null, toks: [], want: 0, open: null, result: null, done: false, waiting: 0,
  answers: null, patches: null, changed: [],
});

function absorb(m) {
  const run = runs.get(m.id) ?? blankRun(m), start = m.start ?? 0, toks = m.toks ?? [];
  runs.set(m.id, run);
  run.want = Math.max(run.want, start + toks.length);
  if (start <= run.toks.length) toks.forEach((tok, k) => put(run, start + k, tok));
  for (const key of ["open", "result", "answers", "patches", "map"]) if (m[key] != null) run[key] = m[key];
  run.waiting = m.waiting ?? 0;
  run.expected = m.expected ?? null;
  run.done ||= !!m.done || !!m.error;
  lastNews.set(m.id, performance.now());
  return run;
}
// What was measured later (a near tie, say) may come again for tokens that are already on screen.
function put(run, pos, tok) {
  if (pos < run.toks.length && String(run.toks[pos]) !== String(tok)) run.changed.push(pos);
  run.toks[pos] = tok;
}

// Each pane has `bring(run)` for a run seen first and `flow(run)` for more of the one on screen.
export const panes = {};
export function receive(m) {
  if (!m || typeof m !== "object") return;
  sayError(m.error);
  if (m.kind === "set") return receiveSet(m);
  const pane = panes[m.kind];
  if (!pane || !m.id) return pane?.failed?.(m);
  const seen = runs.has(m.id), run = absorb(m);
  if (!run.open || !whole(run)) repair(run);
  if (!seen) pane.bring(run);
  else if (pane.shown() === run) pane.flow(run);
}
function repair(run) {
  const fetch = async () => {
    for (let tries = 0; tries < 4; tries++) {
      const m = await ask("pair_tail", { id: run.id, start: run.open ? run.toks.length : 0 });
      if (m) absorb({ ...m, id: run.id, kind: run.kind });
      if (!m || (run.open && whole(run))) break;
    }
    run.repairing = null;
    if (panes[run.kind].shown() === run) panes[run.kind].flow(run);
  };
  return (run.repairing ??= fetch());
}
// The last message can be lost too, and then nothing else would reveal the gap.
const unfinished = () => Object.values(panes).map((pane) => pane.shown()).filter((run) => run && !run.done);
const watchdog = setInterval(() => {
  if (!root.isConnected) return clearInterval(watchdog);
  for (const run of unfinished()) if (performance.now() - lastNews.get(run.id) > 4000) repair(run);
  lookAfterSet();
}, 2000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !root.isConnected) return;
  unfinished().forEach(repair);
  lookAfterSet(0);
});

// ---- figures ------------------------------------------------------------------------------------------------
export const nats = (x, digits = 2) => (x == null ? "∞" : x.toFixed(digits)); // infinite where one model excludes a token
export const share = (part, all) => (part ? percent(part / all) : "0\u202f%");
export const named = (text) => nameOf(text ?? "");
export function answerBox(label, answer, waiting = false) {
  const text = textOf(answer);
  const value = waiting ? make("span", "none", "…") : text === null ? make("span", "none", "–") : showOdd(clip(text, 60));
  const verdict = waiting ? make("span", "soft", "not there yet") : verdictOn(answer);
  return attrs(make("div", "answer", make("p", "label", `Answer, ${label}`), make("p", "value", value), make("p", "verdict", verdict)),
    { role: "group", "aria-label": `${label} answer` });
}
const UNJUDGED = "No answer is known of this problem, so none is called right or wrong. ";
export function renderUnjudged(node, open) {
  node.hidden = !!open.known;
  if (!open.known) node.replaceChildren(UNJUDGED, ...offerKnown("pair-answer"));
}
export const ending = (result) =>
  `${result?.seconds === undefined ? "" : `; ${result.seconds.toFixed(1)} s`}${STOPS[result?.stop] ?? ""}`;
