// Fork replay: at each watched fork what the model would say, moving from checkpoint to checkpoint over the base's own bars.
import { attrs, clip, count, fill, make, nameOf, percent, plainName, say, showOdd } from "../common/text.js";
import { root, ui } from "./context.js";
import { run } from "./train_poll.js";

const replay = { at: 0, follow: true, timer: 0, cards: new Map() };
const STEP_MS = 850; // of Play: long enough to read one state
const CONTEXT = 170; // characters of the text before a fork

export function clearReplay() {
  pause();
  Object.assign(replay, { at: 0, follow: true });
  replay.cards.clear();
  ui.forks.replaceChildren();
}
const steps = () => run?.replays ?? [];
export function renderReplay() {
  const all = steps().filter((r) => r.forks?.length);
  ui.replayPanel.hidden = !all.length;
  if (!all.length) return;
  for (const fork of all.at(-1).forks) syncCard(fork);
  ui.scrub.max = steps().length - 1;
  ui.playButton.disabled = ui.scrub.disabled = steps().length < 2;
  goTo(replay.follow && !replay.timer ? steps().length - 1 : Math.min(replay.at, steps().length - 1));
}

// ---- cards --------------------------------------------------------------------------------------------------
const forkAt = (k, key) => steps()[k]?.forks.find((f) => f.key === key);
// Rows keep their place: the base's five first, then what rose into the five later.
function rowsOf(key) {
  const rows = new Map();
  for (const { forks } of steps()) {
    for (const { id, text, p } of forks.find((f) => f.key === key)?.top ?? []) {
      const row = rows.get(id) ?? { id, text, best: 0, place: rows.size };
      rows.set(id, Object.assign(row, { best: Math.max(row.best, p) }));
    }
  }
  return [...rows.values()].filter((row) => row.place < 5 || row.best > 0.02).slice(0, 8);
}
function syncCard(fork) {
  const rows = rowsOf(fork.key), ids = rows.map((row) => row.id).join(), card = replay.cards.get(fork.key);
  if (card?.ids === ids) return;
  const fresh = forkCard(fork, rows);
  if (card) card.node.replaceWith(fresh.node);
  else ui.forks.append(fresh.node);
  replay.cards.set(fork.key, Object.assign(fresh, { ids }));
}
function forkCard(fork, rows) {
  const context = attrs(make("p", "context"), { dir: "auto" }), cut = fork.before.length > CONTEXT, before = make("span", "t");
  if (cut) context.append(make("span", "soft", "… "));
  fill(before, cut ? fork.before.slice(-CONTEXT).replace(/^\S*\s/, "") : fork.before);
  context.append(before, " ", make("span", "gap", "?"));
  const list = attrs(make("ol", "bars"), { "aria-label": `What comes next; ${plainName(fork.said)} was said` }), bars = rows.map((row) => barRow(row, row.text === fork.said));
  list.append(...bars.map((bar) => bar.node));
  const facts = make("p", "soft fork-facts", ...(fork.known != null ? [`known answer ${showOdd(clip(String(fork.known), 40))} · `] : [])), entropy = make("span", "num");
  facts.append(entropy, " nats");
  return { node: make("article", "fork-card", context, list, facts), bars, entropy };
}
function barRow({ id, text }, isSaid) {
  const ghost = make("i", "ghost"), now = make("i", "now"), value = make("span", "num p"), moved = make("span", "num moved");
  const name = make("span", "what", nameOf(text));
  if (isSaid) name.append(make("span", "badge", "said"));
  const node = make("li", isSaid ? "guess spoken" : "guess", name, make("span", "track", ghost, now), value, moved);
  return { id, node, ghost, now, value, moved };
}

// ---- one checkpoint -----------------------------------------------------------------------------------------
function goTo(k) {
  replay.at = k;
  ui.scrub.value = k;
  const step = steps()[k]?.optimizer_step ?? 0, words = step === 0 ? "base, before training" : `update ${count(step)}`;
  say(ui.scrubWhere, words);
  attrs(ui.scrub, { "aria-valuetext": words });
  for (const [key, card] of replay.cards) showFork(card, forkAt(k, key), forkAt(0, key));
}
function showFork(card, fork, base) {
  const now = new Map(fork?.top.map((t) => [t.id, t.p])), before = new Map(base?.top.map((t) => [t.id, t.p]));
  say(card.entropy, fork?.entropy == null ? "–" : fork.entropy.toFixed(2));
  for (const bar of card.bars) {
    const p = now.get(bar.id), p0 = before.get(bar.id), moved = p == null || p0 == null ? 0 : Math.round(100 * (p - p0));
    bar.now.style.width = `${100 * (p ?? 0)}%`;
    bar.ghost.style.width = `${100 * (p0 ?? 0)}%`;
    say(bar.value, p == null ? "–" : percent(p));
    say(bar.moved, moved ? `${moved > 0 ? "↑" : "↓"}${Math.abs(moved)}` : "");
  }
}
// For a room: the forks alone, from checkpoint to checkpoint by arrows or a clicker.
export function present(on) {
  root.classList.toggle("presenting", on);
  document.documentElement.classList.toggle("rmx-presenting", on);
  ui.leave.hidden = !on;
  if (!on) return pause();
  document.activeElement?.blur?.();
  goTo(0); // a show begins with the base
  replay.follow = false;
}
export function stepReplay(way) {
  if (steps()[replay.at + way]) goTo(replay.at + way);
  pause();
}
export function play() {
  if (replay.timer) return pause();
  if (steps().length < 2) return;
  goTo(replay.at >= steps().length - 1 ? 0 : replay.at + 1);
  replay.timer = setInterval(() => {
    if (!root.isConnected || replay.at >= steps().length - 1) return pause();
    goTo(replay.at + 1);
  }, STEP_MS);
  say(ui.playButton, "Pause");
}
function pause() {
  clearInterval(replay.timer);
  replay.timer = 0;
  replay.follow = replay.at >= steps().length - 1;
  say(ui.playButton, "Play");
}
ui.scrub.addEventListener("input", () => {
  const k = Number(ui.scrub.value);
  goTo(k);
  pause();
});
