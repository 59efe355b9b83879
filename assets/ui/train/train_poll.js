// The attached run: what is known of it, and the poll that learns more. The page asks only while it is in sight, and only
// for what is new; a run needs no page, so nothing is lost by asking less, or after a restart of the app.
import { readdress } from "../common/address.js";
import { root, sayError, server, ui } from "./context.js";
import { clearRun, contained, pending, renderRun } from "./train_run.js";

const PACE = { alive: 1000, over: 5000, silent: [1500, 3000, 5000], patience: 20_000 }; // ms
export const OVER = new Set(["done", "stopped", "interrupted", "failed"]);
const poller = { next: 0, due: 0, busy: false, misses: 0 };
export let run = null, restored = false; // the run on screen; was it remembered from an earlier visit?

const blankRun = (id) => ({
  id, config: null, status: {}, stages: Object.create(null), stage: null, told: {}, points: {}, updates: [], checks: [], replays: [], samples: null,
  guards: [], notes: [], early: null, done: null, taus: [], clock: null, heard: false, changed: new Set(),
});

// ---- which run ----------------------------------------------------------------------------------------------
// The address names the run, so that it can be passed on; this browser remembers the last one as well.
const KEY = "rmx.train";
function remember(id) {
  readdress({ train: id });
  try {
    if (id) localStorage.setItem(KEY, id);
    else localStorage.removeItem(KEY);
  } catch {
    return; // no storage in a private window: the address is enough
  }
}
export function remembered() {
  const named = new URL(location).searchParams.get("train");
  if (named) return named;
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}
export function attach(id, fromMemory = false) {
  if (run?.id === id) return hurry();
  [run, restored] = [blankRun(id), fromMemory];
  Object.assign(poller, { next: 0, due: 0, misses: 0 });
  remember(id);
  clearRun();
  hurry();
}
function detach() {
  [run, restored] = [null, false];
  remember(null);
  clearRun();
}

// ---- asking -------------------------------------------------------------------------------------------------
const inSight = () => document.visibilityState === "visible" && root.offsetParent !== null;
export const stateOf = (r) => (r.status.state === "running" && r.status.alive === false ? "interrupted" : (r.status.state ?? null));
const isOver = (r) => OVER.has(stateOf(r));
const late = (ms) => new Promise((_, reject) => setTimeout(reject, ms));

export function hurry() {
  poller.due = 0;
  tick();
}
function tick() {
  if (run && !poller.busy && performance.now() >= poller.due && inSight()) poll();
}
async function poll() {
  const asked = run, start = poller.next;
  poller.busy = true;
  let reply = null;
  try {
    reply = await Promise.race([server.run_tail({ id: asked.id, start }), late(PACE.patience)]);
  } catch {
    // told below: the run does not depend on the app
  }
  poller.busy = false;
  if (run !== asked) return tick(); // another run was chosen meanwhile
  if (!reply) return missed();
  poller.misses = 0;
  ui.offline.textContent = "";
  if (reply.error) return unknown(reply.error);
  take(reply, start);
}
function missed() {
  poller.due = performance.now() + PACE.silent[Math.min(poller.misses++, PACE.silent.length - 1)];
  const alive = run.heard && !isOver(run);
  if (poller.misses > 1) ui.offline.textContent = `The app does not answer${alive ? "; the run goes on" : ""}. This page asks again by itself.`;
}
function unknown(sentence) {
  const [id, quiet] = [run.id, restored];
  detach();
  sayError(quiet ? "" : sentence || `There is no run ${id}.`);
}
function take(reply, start) {
  if (reply.next < start) { // the file became shorter, as after a torn last line: read it anew
    const { config } = run;
    run = Object.assign(blankRun(run.id), { config });
    poller.next = 0;
    clearRun();
    return hurry();
  }
  if (reply.config) run.config = reply.config;
  Object.assign(run, { status: reply.status ?? {}, heard: true });
  poller.next = reply.next;
  absorb(run, reply.events ?? []);
  if (reply.more) return hurry(); // a long run comes in pieces, and is drawn once
  poller.due = performance.now() + (isOver(run) && !pending ? PACE.over : PACE.alive);
  renderRun(run.changed);
  run.changed = new Set();
}
const beat = setInterval(() => (root.isConnected ? tick() : clearInterval(beat)), 250);
document.addEventListener("visibilitychange", () => root.isConnected && inSight() && hurry());
new IntersectionObserver((seen) => seen.at(-1).isIntersecting && tick()).observe(root);

// ---- events -------------------------------------------------------------------------------------------------
// A run that was killed repeats the updates since its last checkpoint: what comes again replaces what was there.
function fromStep(list, step, stepOf = (e) => e.optimizer_step) {
  while (list.length && stepOf(list.at(-1)) >= step) list.pop();
  return list;
}
const FIGURES = ["loss", "agreement", "decision_loss", "kl_loss", "delta_logp_pos_mean", "delta_logp_neg_mean", "grad_norm", "lr"];
function addUpdate(r, e) {
  fromStep(r.updates, e.optimizer_step).push(e);
  for (const name of FIGURES) fromStep((r.points[name] ??= []), e.optimizer_step, (p) => p[0]).push([e.optimizer_step, e[name] ?? null]);
}
const TAKES = {
  state: (r, e) => e.state === "running" && Object.assign(r, { guards: [], notes: [], early: null, clock: null }),
  stage: (r, e) => {
    Object.assign(partOf(r, e.stage), { at: e.at, of: e.of, left: e.left });
  },
  rollouts: (r, e) => (r.told.rollouts = e),
  selection: (r, e) => (r.told.selection = e),
  gate: (r, e) => (r.told.gate = e),
  update: addUpdate,
  check: (r, e) => fromStep(r.checks, e.optimizer_step).push(e),
  replay: (r, e) => fromStep(r.replays, e.optimizer_step).push(e),
  samples: (r, e) => (r.samples = e),
  guard: (r, e) => r.guards.push(e),
  note: (r, e) => r.notes.push(e),
  early: (r, e) => (r.early = e),
  tau: (r, e) => fromStep(r.taus, e.tau, (t) => t.tau).push(e), // of a sweep: one threshold is trained
  done: (r, e) => (r.done = e),
};
function absorb(r, events) {
  for (const e of events) {
    if (!e || !Object.hasOwn(TAKES, e.kind)) continue;
    contained(() => TAKES[e.kind](r, e));
    r.stage = e.kind === "stage" ? e.stage : (WITHIN[e.kind] ?? r.stage);
    measure(r, e);
    r.stage = BEFORE[e.kind] ?? r.stage;
    r.changed.add(e.kind);
  }
}
// Selection and gate end with their event; what comes after it belongs to the next stage.
const WITHIN = { selection: "selection", gate: "gate", update: "training", check: "training" };
const BEFORE = { selection: "gate", gate: "training" };
const partOf = (r, name) => (r.stages[name] ??= { seconds: 0 });
// Seconds of a stage over all starts of the run: the time in which the run was not there does not count.
function measure(r, e) {
  if (typeof e.t !== "number") return;
  if (r.clock !== null && r.stage) partOf(r, r.stage).seconds += Math.max(0, e.t - r.clock);
  r.clock = e.t;
}
