// The fork fan: one drawing of a solution and of all that branches off it. The solution is the trunk, from left to right.
// At each fork the other words fan out, as wide as they are likely, and end in the answer that follows them: above the
// trunk where it is right, below where it is not or is not known. Branches that were taken run below, each to its answer.
//
//   drawFan({ length, size, done, answer, forks, taken, selected }, { width, unit }) => <svg>
//     length, size  tokens so far; positions of the axis          answer  { kind, text } of the solution
//     forks      [{ pos, text, H, alts: [{ id, text, p, end: { kind, text }, worth }] }], in order; without what stands there
//     taken      [{ row, at, id }] of `branchesOff`, each row with its `end`
//     unit       pixels of the drawing for one of its own; more for a room
import { clip, count, howOften, odds, oneLine, plainName, plural, showOdd } from "./text.js";
import { drawn, px } from "./svg.js";

const FAN = { // in units
  left: 10, up: 28, down: 21, slot: 16, slots: 4, pad: 12, lane: 22, thick: 18, gap: 15, letter: 7, even: 0.6,
};
const FAN_SIGNS = { right: "✓", wrong: "✗", same: "=", other: "≠", none: "–", unknown: "" };
const FAN_WORDS = {
  right: "right", wrong: "wrong", same: "the same answer", other: "another answer", none: "no answer", unknown: "end not computed",
};
const FAN_SHAPES = { // colour never stands alone
  right: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  wrong: (r) => `M${-r} ${-r}L${r} ${r}M${-r} ${r}L${r} ${-r}`,
  same: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  other: (r) => `M0 ${-1.2 * r}L${1.2 * r} 0L0 ${1.2 * r}L${-1.2 * r} 0z`,
  none: (r) => `M${-r} 0H${r}`,
  unknown: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
};

// ---- what an end is -----------------------------------------------------------------------------------------
// From an answer { text, correct }; without a known answer `correct` says whether it is the solution's own.
export function endOf(answer, known) {
  if (!answer) return { kind: "unknown", text: null };
  const text = answer.text ?? null;
  if (text === null) return { kind: "none", text };
  if (typeof answer.correct !== "boolean") return { kind: "other", text };
  return { kind: answer.correct ? (known ? "right" : "same") : known ? "wrong" : "other", text };
}
const endText = ({ text }, most) => (text === null ? "none" : showOdd(clip(text, most)).replace(/\s+/g, " "));
export const endSays = (end) => (end.text === null ? FAN_WORDS[end.kind] : `${endText(end, 60)}, ${FAN_WORDS[end.kind]}`);
export const endMark = (end, most = 24) => (end.kind === "unknown" ? "" : `${FAN_SIGNS[end.kind]} ${endText(end, most)}`);

// ---- where branches leave a path ----------------------------------------------------------------------------
// Of each other branch of a tree: the position and the token id by which it leaves the path of `run`. `direct`: nothing
// else was swapped in it, so that it is what the model goes on with from there.
export function branchesOff(rows, run) {
  const all = new Map(rows.map((row) => [row.run, row]));
  const line = (at, found = []) => {
    for (let row = all.get(at); row && !found.includes(row); row = all.get(row.parent)) found.unshift(row);
    return found;
  };
  const mine = line(run);
  return rows.filter((row) => row.run !== run).flatMap((row) => {
    const its = line(row.run), common = mine.findIndex((one, k) => one !== its[k]), k = common < 0 ? mine.length : common;
    const [ours, other] = [mine[k], its[k]], back = ours && (!other || ours.at < other.at);
    if (!k || (!ours && !other)) return [];
    if (back) return [{ row, at: ours.at, id: ours.from_id, direct: !other }];
    return [{ row, at: other.at, id: other.to_ids?.[0], direct: other === row && other.to_ids?.length === 1 }];
  });
}

// ---- which forks fan out ------------------------------------------------------------------------------------
// As many as there is room for, the most undecided first; the others are ticks on the trunk.
export function roomyForks(forks, xOf, gap) {
  const best = new Map();
  for (const fork of forks) {
    const cell = Math.floor(xOf(fork.pos) / gap), held = best.get(cell);
    if (!held || fork.H > held.H) best.set(cell, fork);
  }
  const kept = [];
  for (const fork of best.values()) {
    const last = kept.at(-1), near = last && xOf(fork.pos) - xOf(last.pos) < 0.6 * gap;
    if (!near) kept.push(fork);
    else if (fork.H > last.H) kept[kept.length - 1] = fork;
  }
  return kept;
}

// Where a position stands, from 0 to 1: in part by the tokens before it, in part by the forks, so that two forks side by
// side still have room; increasing, and `back` is its inverse.
export function fanScale(forks, length, size) {
  const far = Math.min(1, length / Math.max(1, size)), marks = [[-0.5, 0], ...forks.map(({ pos }, k) => [pos, (far * (k + 0.35)) / forks.length]), [length, far], [size, 1]];
  const spot = marks.map(([pos, even]) => [pos, forks.length ? FAN.even * even + ((1 - FAN.even) * Math.max(0, pos + 0.5)) / (size + 0.5) : (pos + 0.5) / (size + 0.5)]);
  const between = (v, from, to) => {
    let low = 0, high = spot.length - 1;
    while (high - low > 1) (spot[(low + high) >> 1][from] <= v ? (low = (low + high) >> 1) : (high = (low + high) >> 1));
    const [a, b] = [spot[low], spot[high]], wide = b[from] - a[from];
    return a[to] + (wide > 0 ? Math.max(0, Math.min(1, (v - a[from]) / wide)) * (b[to] - a[to]) : 0);
  };
  return { to: (pos) => between(pos, 0, 1), back: (share) => between(share, 1, 0) };
}

// ---- the drawing --------------------------------------------------------------------------------------------
export function drawFan(data, { width, unit = 1 }) {
  const place = placeOf(data, width, unit), { u, trunk, xOf } = place, fanned = roomyForks(data.forks, xOf, u(FAN.gap)), open = new Set(fanned);
  const svg = drawn("svg", { class: "fan-drawing", viewBox: `0 0 ${width} ${place.height}`, width, height: place.height, role: "group", "aria-label": fanSays(data) });
  const ticks = data.forks.filter((fork) => !open.has(fork)).map(({ pos }) => `M${px(xOf(pos))} ${px(trunk - u(4))}v${px(u(8))}`);
  svg.append(
    drawn("g", { class: "fan-catches" }, ...fanned.map((fork, k) => fanCatch(fork, fanned[k - 1], fanned[k + 1], data, place))),
    drawn("g", { class: "fan-lanes" }, ...data.taken.map((leaf, k) => fanLane(leaf, k, data, place))),
    drawn("path", { class: "fan-trunk", d: `M${px(place.x0)} ${px(trunk)}H${px(data.done ? place.x1 : xOf(data.length))}`, "stroke-width": u(3) }),
    drawn("path", { class: "fan-ticks", d: ticks.join("") }),
    ...fanned.map((fork, k) => fanFork(fork, fanned[k + 1], place)),
  );
  if (data.answer) svg.append(fanGoal(data.answer, place.x1, trunk, place, "fan-goal"));
  return Object.assign(svg, { place });
}
const goesUp = ({ end }) => end.kind === "right" || end.kind === "same";
function placeOf(data, width, unit) {
  const u = (v) => v * unit, ends = [data.answer, ...data.taken.map(({ row }) => row.end)], longest = Math.max(0, ...ends.map((end) => (end ? endText(end, 16).length : 0)));
  const x0 = u(FAN.left), x1 = width - Math.min(0.34 * width, u(26 + 9 * longest)), { to, back } = fanScale(data.forks, data.length, data.size);
  const above = Math.max(2, ...data.forks.map(({ alts }) => alts.slice(0, FAN.slots).filter(goesUp).length)); // one that comes in must not move the page
  const trunk = u(FAN.up + FAN.slot * (above - 1) + FAN.pad), under = trunk + u(FAN.down + FAN.slot * (FAN.slots - 1) + FAN.pad);
  const height = Math.ceil(under + (data.taken.length ? u(FAN.lane * data.taken.length + 12) : 0));
  return { u, unit, width, x0, x1, trunk, under, height, xOf: (pos) => x0 + (x1 - x0) * to(pos), posAt: (x) => back((x - x0) / (x1 - x0)) };
}
export function fanSays({ forks, taken, length }) {
  const ends = forks.flatMap(({ alts }) => alts.map(({ end }) => end.kind)), kinds = Object.keys(FAN_WORDS).map((kind) => [kind, ends.filter((k) => k === kind).length]);
  const found = kinds.filter(([, n]) => n).map(([kind, n]) => `${count(n)} ${FAN_WORDS[kind]}`).join(", ");
  return `${plural(length, "token")}, ${plural(forks.length, "fork")}${found && `; other words: ${found}`}${taken.length ? `; ${count(taken.length)} other branch${taken.length === 1 ? "" : "es"}` : ""}`;
}
function fanCatch(fork, before, after, { selected }, { u, x0, x1, under, xOf }) { // where one points to mean a fork
  const x = xOf(fork.pos), from = before ? (xOf(before.pos) + x) / 2 : x0, to = after ? (x + xOf(after.pos)) / 2 : x1;
  const about = { class: selected === fork.pos ? "fan-catch selected" : "fan-catch", "data-pos": fork.pos, x: px(from), y: 0, width: px(Math.max(u(4), to - from)), height: px(under) };
  return Object.assign(drawn("rect", about), { fork });
}
function fanFork(fork, after, place) {
  const { u, trunk, xOf } = place, x = xOf(fork.pos), gap = (after ? xOf(after.pos) - u(5) : place.width) - x, rows = { up: 0, down: 0 };
  const reach = Math.min(u(34), Math.max(u(18), 0.25 * gap), 0.7 * gap), written = rayLabels(fork.alts, (gap - reach - u(9)) / u(FAN.letter));
  const group = drawn("g", { class: "fan-branching" });
  const button = drawn("g", { class: "fan-fork", role: "button", tabindex: -1, "data-pos": fork.pos, "aria-label": forkSays(fork) });
  for (const alt of fork.alts.slice(0, FAN.slots)) {
    const slot = goesUp(alt) ? -(FAN.up + FAN.slot * rows.up++) : FAN.down + FAN.slot * rows.down++;
    group.append(fanRay(fork, alt, x, trunk + u(slot), reach, written(alt), place));
  }
  button.append(drawn("circle", { class: "fan-node", cx: px(x), cy: px(trunk), r: px(u(3 + 1.6 * Math.min(1, fork.H / 2.5))) }));
  group.append(Object.assign(button, { fork }));
  const room = ((after ? xOf(after.pos) : place.x1) - x) / u(FAN.letter) - 2;
  if (room >= 3) group.append(drawn("text", { class: "fan-stands", x: px(x + u(8)), y: px(trunk - u(7)), "font-size": u(12) }, fanName(fork.text, room)));
  return group;
}
function fanName(text, letters) {
  const name = plainName(text).replace(/^␣+(?=.)/, "");
  return name.length > letters ? `${name.slice(0, Math.max(1, Math.floor(letters) - 1))}…` : name;
}
function fanRay(fork, alt, x, y, reach, [name, end], place) {
  const { u, trunk } = place, tip = x + reach, wide = Math.max(u(1), u(FAN.thick) * alt.p), { kind } = alt.end;
  const d = `M${px(x)} ${px(trunk)}C${px(x + 0.5 * reach)} ${px(trunk)} ${px(x + 0.35 * reach)} ${px(y)} ${px(tip)} ${px(y)}`;
  const ray = drawn("g", { class: `fan-ray fan-${kind}`, role: "button", tabindex: -1, "data-pos": fork.pos, "data-id": alt.id, "aria-label": raySays(alt) });
  ray.append(drawn("path", { class: "fan-hit", d: `${d}h${px(u(8))}`, "stroke-width": px(u(14)) }), drawn("path", { class: "fan-way", d, "stroke-width": px(wide) }), fanMark(kind, tip, y, u(kind === "unknown" ? 2.4 : 3.4)));
  if (alt.worth) ray.append(worthBar(alt.worth, tip + u(7), y, place));
  else if (name) ray.append(drawn("text", { class: "fan-label", x: px(tip + u(8)), y: px(y + u(4)), "font-size": u(12) }, drawn("tspan", { class: "fan-name" }, name), drawn("tspan", { class: "fan-answer" }, end && ` ${end}`)));
  return Object.assign(ray, { alt, fork });
}
// The word, which one clicks, comes before the answer, of which the mark already says the kind; all words of a fork alike.
function rayLabels(alts, letters) {
  const long = ({ text, end }) => bareName(text).length + (endMark(end, 12) ? endMark(end, 12).length + 1 : 0), both = alts.every((alt) => long(alt) <= letters);
  const words = letters >= 5 || alts.every(({ text }) => bareName(text).length <= letters);
  return ({ text, end }) => [words ? fanName(text, letters) : "", both ? endMark(end, 12) : ""];
}
function fanMark(kind, x, y, r) {
  return drawn("path", { class: `fan-mark fan-${kind}`, d: FAN_SHAPES[kind](r), transform: `translate(${px(x)} ${px(y)})` });
}
// What was sampled of an alternative: the more samples the thicker, the share that is right from the left.
function worthBar({ samples, share }, x, y, { u }) {
  const long = u(40), tall = u(3 + (9 * samples) / (samples + 12)), part = (from, wide, kind) => drawn("rect", { class: `fan-part fan-${kind}`, x: px(from), y: px(y - tall / 2), width: px(wide), height: px(tall) });
  return drawn("g", { class: "fan-worth" }, part(x, long, "wrong"), part(x, long * (share ?? 0), "right"));
}
function fanLane({ row, at, above }, k, data, place) {
  const { u, trunk, under, xOf, x1 } = place, level = (n) => under + u(10 + FAN.lane * (n + 0.5)), y = level(k), start = above >= 0 ? level(above) : trunk, x = xOf(at), bend = Math.min(u(18), x1 - x);
  const way = `M${px(x)} ${px(start)}C${px(x + 0.7 * bend)} ${px(start)} ${px(x + 0.2 * bend)} ${px(y)} ${px(x + bend)} ${px(y)}`;
  const over = Math.max(x + bend, Math.min(x1, xOf(row.n ?? data.size))), { kind } = row.end;
  const lane = drawn("g", { class: `branch fan-lane fan-${kind}`, role: "button", tabindex: -1, "data-run": row.run, "aria-label": laneSays(row, at) });
  lane.append(
    drawn("rect", { class: "fan-lane-catch", x: 0, y: px(y - u(FAN.lane) / 2), width: place.width, height: px(u(FAN.lane)) }),
    drawn("path", { class: "fan-way", d: `${way}H${px(over)}`, "stroke-width": px(u(2)) }),
    drawn("path", { class: "fan-rest", d: `M${px(over)} ${px(y)}H${px(x1)}` }), fanGoal(row.end, x1, y, place, "fan-lane-goal"),
  );
  const words = laneName(row), long = words.length * u(FAN.letter), early = x + bend + u(8) + long > x1 && x > long + u(12);
  const label = { class: "fan-lane-name", x: px(early ? x - u(4) : x + bend + u(6)), y: px(y - u(4)), "font-size": u(12), "text-anchor": early ? "end" : "start" };
  lane.append(drawn("text", label, early ? words : fanName(words, (x1 - x - bend - u(8)) / u(FAN.letter))));
  return Object.assign(lane, { row });
}
const bareName = (text) => plainName(text ?? "").replace(/^␣+(?=.)/, "");
const laneName = (row) => (row.parent == null ? "first solution" : `${bareName(row.from_text)} → ${bareName(row.to_text)}`);
function fanGoal(end, x, y, { u }, cls) {
  const big = cls === "fan-goal", size = u(big ? 15 : 13);
  return drawn("g", { class: `${cls} fan-${end.kind}` }, fanMark(end.kind, x + u(6), y, u(big ? 5 : 3.6)), drawn("text", { class: "fan-answer", x: px(x + u(16)), y: px(y + 0.36 * size), "font-size": size }, end.kind === "unknown" ? "" : endText(end, 16)));
}

// ---- in words -----------------------------------------------------------------------------------------------
export const forkSays = (fork) => `Fork at token ${fork.pos}: ${JSON.stringify(plainName(fork.text))}, entropy ${fork.H.toFixed(2)}`;
export const raySays = (alt) => `${`${bareName(alt.text)} ${endMark(alt.end, 12)}`.trim()}, ${odds(alt.p)}: ${endSays(alt.end)}`; // begins as it is written
const laneSays = (row, at) => `${laneName(row)}, ${row.parent == null ? plural(row.n ?? 0, "token") : `token ${row.at}, said ${howOften(row.to_p ?? 0)}`}, leaves at token ${at}: ${endSays(row.end)}`;
// The same as rows of a table: place, word, probability, what it ends in.
export function fanRows({ forks, taken }) {
  const rows = forks.flatMap((fork) => fork.alts.map((alt) => [count(fork.pos), oneLine(fork.text), oneLine(alt.text), odds(alt.p), endSays(alt.end)]));
  return [...rows, ...taken.map(({ row, at }) => [count(at), oneLine(row.from_text ?? ""), oneLine(row.to_text ?? row.label ?? ""), row.to_p == null ? "" : odds(row.to_p), `taken: ${endSays(row.end)}`])];
}
// Which of the drawn branches each one leaves: the one that it shares most with, or the trunk.
export function layLanes(rows, run) {
  const taken = branchesOff(rows, run).sort((a, b) => a.at - b.at || Number(b.direct) - Number(a.direct));
  const off = taken.map(({ row }) => new Map(branchesOff(rows, row.run).map((leaf) => [leaf.row.run, leaf.at])));
  return taken.map((leaf, k) => {
    let above = -1, at = leaf.at;
    for (let up = 0; up < k; up++) if ((off[up].get(leaf.row.run) ?? -1) > at) [above, at] = [up, off[up].get(leaf.row.run)];
    return { ...leaf, at, above, leaves: leaf.at };
  });
}
