// Charts of the views: several series in one SVG panel, without a library.
//
//   const chart = curves(box, options)      builds one panel inside the element `box`
//   options (each may be changed later by set)
//     title     name of the figure, read aloud too           about     one quiet sentence beside it, such as the unit
//     x         what x counts ("update")                     percent   y is a share: write it in per cent
//     height    of the drawing in px (160)                   within    [low, high] that the y axis never leaves
//     zero      y axis reaches 0                             xmax      x axis reaches at least this
//     smooth    0 to 0.99, exponential; the raw line stays faint behind (0)
//     empty     what to say while there are no points        format    (y) => string, instead of the own writing
//     names     false: the legend has marks and values only; "ends": names stand at the ends of the lines
//     legend    false: no legend                             log       x is drawn by its logarithm; give xticks
//     onCursor  (x | null) => told when the reader points    onPick    (x) => told when the reader presses there
//     says      (x) => string, instead of "at update x"      lines     [{y, low?, high?, name?}] horizontal references
//     marks     [{x, name?}] vertical references             xticks    [x or [x, lines of text], ...] instead of round whole numbers
//     rest      x whose values the legend shows while nobody points (the last)   room   x axis wider by this share, each side
//     series    see below; `below` on a line puts its name under it
//   chart.set({series, ...options})         series: [{id, name, points: [[x, y, low?, high?], ...], style?, band?, smooth?}]
//       x ascending; y null leaves a gap. `style` 0 to 6 picks colour, dash and marker together (default: its place);
//       `band` false hides low to high, "bars" draws it as a bar at each point, moved by `shift` px; `smooth` false leaves this series as it is.
//       `look` "bars" draws bars from 0, `wide` on x. A list that continues the one that stands costs only what is new; another is drawn anew.
//   chart.add(id, points)                   further points of one series
//   chart.cursor(x | null)                  point at x, as if by mouse; does not call onCursor
//   chart.light(id | null)                  the other series step back
//   chart.remove()
// Drawing happens once per frame, and not at all while the panel is out of sight.
import { make, say } from "./text.js";
import { axes, DASHES, drawn, figureText, good, px, SHAPES, styleSign, ticks, tickText } from "./svg.js";

const TOP = 10, RIGHT = 12, BOTTOM = 22, LETTER = 7; // px
const DEFAULTS = { title: "", about: "", x: "step", height: 160, within: null, zero: false, percent: false, smooth: 0, names: true, log: false,
  legend: true, xmax: null, lines: [], marks: [], xticks: null, rest: null, room: 0, format: null, onCursor: null, onPick: null, says: null, empty: "Nothing yet.", series: [] };

function put(node, pairs) { // an equal value must not touch the page
  for (const [name, value] of Object.entries(pairs)) if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  return node;
}
function nearest(points, x) { // index of the point nearest to x; -1 of none
  let a = 0, b = points.length - 1;
  if (b < 0) return -1;
  while (a < b) {
    const mid = (a + b) >> 1;
    if (points[mid][0] < x) a = mid + 1;
    else b = mid;
  }
  return a > 0 && x - points[a - 1][0] <= points[a][0] - x ? a - 1 : a;
}

// ---- data -------------------------------------------------------------------------------------------------
const bare = (id, k) => ({ id, k, name: "", points: [], smoothed: [], mean: 0, weight: 0, low: Infinity, high: -Infinity, dirty: true, nodes: null });
function reset(s) {
  return Object.assign(s, { points: [], smoothed: [], mean: 0, weight: 0, low: Infinity, high: -Infinity, dirty: true });
}
// Takes new points in: extent, and the running mean. The mean starts unbiased: early points are not pulled to 0.
function extend(s, points, smooth) {
  for (const p of points) {
    s.points.push(p);
    for (const v of s.band === false ? [p[1]] : [p[1], p[2], p[3]]) if (good(v)) [s.low, s.high] = [Math.min(s.low, v), Math.max(s.high, v)];
    if (good(p[1])) {
      s.mean = smooth * s.mean + (1 - smooth) * p[1];
      s.weight = smooth * s.weight + (1 - smooth);
    }
    s.smoothed.push(good(p[1]) ? s.mean / s.weight : null);
  }
  s.dirty ||= points.length > 0;
}
const same = (a, b) => a && b && a[0] === b[0] && a[1] === b[1] && a[2] === b[2] && a[3] === b[3];
function continues(old, points) {
  const n = old.length;
  return points.length >= n && (n === 0 || (same(old[0], points[0]) && same(old[n - 1], points[n - 1])));
}

// ---- lines ------------------------------------------------------------------------------------------------
// More points than pixels: of each column the first, the lowest, the highest and the last stay, in their order.
function thinned(xy, width) {
  if (xy.length < 3 * width) return xy;
  const kept = [];
  for (let i = 0; i < xy.length; ) {
    const column = Math.floor(xy[i][0]);
    let j = i, low = i, high = i;
    for (; j < xy.length && Math.floor(xy[j][0]) === column; j++) {
      if (xy[j][1] < xy[low][1]) low = j;
      if (xy[j][1] > xy[high][1]) high = j;
    }
    for (const k of [...new Set([i, low, high, j - 1])].sort((a, b) => a - b)) kept.push(xy[k]);
    i = j;
  }
  return kept;
}
function strokes(points, value, X, Y) { // runs without a gap, in pixels
  const runs = [[]];
  points.forEach((p, i) => {
    const y = value(p, i);
    if (good(y)) runs.at(-1).push([X(p[0]), Y(y)]);
    else if (runs.at(-1).length) runs.push([]);
  });
  return runs.filter((run) => run.length);
}
const line = (xy) => xy.map(([x, y], i) => `${i ? "L" : "M"}${px(x)} ${px(y)}`).join("");
const path = (points, value, X, Y, width) => strokes(points, value, X, Y).map((run) => line(thinned(run, width))).join("");
function bandPath(points, X, Y, width) {
  const both = points.filter((p) => good(p[2]) && good(p[3]));
  if (!both.length) return "";
  if (both.length === 1) return `M${px(X(both[0][0]) - 3)} ${px(Y(both[0][3]))}h6V${px(Y(both[0][2]))}h-6z`;
  const top = thinned(both.map((p) => [X(p[0]), Y(p[3])]), width), base = thinned(both.map((p) => [X(p[0]), Y(p[2])]), width);
  return `${line(top)}L${line(base.reverse()).slice(1)}z`;
}
function barPath(points, X, Y) { // low to high at each point, with a foot at both ends
  const both = points.filter((p) => good(p[2]) && good(p[3])).map((p) => [px(X(p[0])), px(Y(p[2])), px(Y(p[3]))]);
  return both.map(([x, low, high]) => `M${px(x - 3.5)} ${low}h7M${x} ${low}V${high}M${px(x - 3.5)} ${high}h7`).join("");
}
function columnPath(points, wide, X, Y) { // a column from 0 at each point; thin ones keep a hair of their own
  const ground = px(Y(0));
  return points.filter((p) => good(p[1])).map(([x, y]) => `M${px(X(x - 0.4 * wide))} ${ground}V${px(Y(y))}H${px(Math.max(X(x + 0.4 * wide), X(x - 0.4 * wide) + 0.6))}V${ground}z`).join("");
}
function markerPath(points, value, X, Y, shape) { // on each point where there is room, else one now and then, and the last
  let dots = "", last = -Infinity;
  const shown = points.map((p, i) => [X(p[0]), value(p, i)]).filter(([, y]) => good(y)), room = shown.length > 1 ? Math.abs(shown.at(-1)[0] - shown[0][0]) / shown.length : 99;
  shown.forEach(([x, y], i) => {
    if (i < shown.length - 1 && x - last < (room < 9 ? 64 : 9)) return;
    if (i < shown.length - 1) last = x;
    dots += shape(px(x), px(Y(y)));
  });
  return dots;
}

// ---- the panel --------------------------------------------------------------------------------------------
export function build(box) {
  const parts = {
    title: make("span", "curves-title"), about: make("span", "curves-about"),
    legend: make("ul", "curves-legend"), empty: make("p", "curves-empty"), plot: drawn("svg", { class: "curves-plot", role: "slider", tabindex: 0, "aria-valuenow": 0 }),
  };
  parts.figure = make("figure", "curves", make("figcaption", "curves-head", parts.title, parts.about), parts.legend, parts.plot, parts.empty);
  for (const name of ["grid", "refs", "bands", "raw", "lines", "dots", "ends", "point"]) parts.plot.append((parts[name] = drawn("g", { class: `curves-${name}` })));
  box.replaceChildren(parts.figure);
  return parts;
}
function seriesNodes(parts, s) {
  const k = s.style ?? s.k % SHAPES.length, cls = `curve-${k}`, bars = s.look === "bars";
  const nodes = {
    band: drawn("path", { class: `${s.band === "bars" ? "curves-bars" : "curves-band"} ${cls}` }), raw: drawn("path", { class: `curves-raw ${cls}` }),
    line: drawn("path", { class: `${bars ? "curves-fill" : "curves-line"} ${cls}`, "stroke-dasharray": DASHES[k] }), dots: drawn("path", { class: `curves-dot ${cls}` }),
    name: make("span", "curves-name"), value: make("span", "curves-value"), extra: make("span", "curves-extra"),
  };
  nodes.item = make("li", "", styleSign(k, s.look), nodes.name, nodes.value, nodes.extra);
  nodes.dot = drawn("circle", { class: `curves-here ${cls}`, r: 4.5 });
  parts[bars ? "lines" : "bands"].append(nodes.band);
  parts.raw.append(nodes.raw);
  parts[bars ? "bands" : "lines"].append(nodes.line);
  parts.dots.append(nodes.dots);
  parts.legend.append(nodes.item);
  return Object.assign(nodes, { shape: SHAPES[k] });
}
const forget = (s) => s.nodes && ["band", "raw", "line", "dots", "item", "dot"].forEach((name) => s.nodes[name].remove());

export function curves(box, options = {}) {
  const parts = build(box), o = { ...DEFAULTS }, all = new Map();
  let frame = 0, width = 0, scale = null, pointed = null, xs = null, lit = null;

  // -- taking in
  function set(changes = {}) {
    const smooth = changes.smooth ?? o.smooth, resmooth = smooth !== o.smooth;
    Object.assign(o, changes);
    if (changes.series) takeSeries(changes.series);
    else if (resmooth) for (const s of all.values()) again(s);
    if (changes.format) scale = null;
    later();
  }
  const smoothOf = (s) => (s.smooth === false ? 0 : Math.min(0.99, Math.max(0, o.smooth)));
  const again = (s) => { const { points } = s; extend(reset(s), points, smoothOf(s)); s.factor = smoothOf(s); };
  function takeSeries(list) {
    const wanted = new Set(list.map((s) => s.id ?? s.name));
    for (const [id, s] of all) if (!wanted.has(id)) (forget(s), all.delete(id));
    list.forEach((given, k) => {
      const id = given.id ?? given.name, s = all.get(id) ?? bare(id, k), moved = ["shift", "band", "look", "wide"].some((key) => s[key] !== given[key]);
      const restyled = s.nodes && (s.k !== k || s.style !== given.style || moved);
      const renamed = s.name !== (given.name ?? String(id));
      all.set(id, s);
      if (restyled) (forget(s), (s.nodes = null));
      const banded = s.band === given.band, { style, band, smooth, shift, look, wide } = given;
      Object.assign(s, { name: given.name ?? String(id), style, band, smooth, shift, look, wide, k });
      const factor = smoothOf(s), points = given.points ?? [];
      if (!continues(s.points, points) || s.factor !== factor || !banded) reset(s);
      s.factor = factor;
      extend(s, points.slice(s.points.length), factor);
      s.dirty ||= restyled || renamed;
    });
    xs = null;
  }
  function add(id, points) {
    const s = all.get(id);
    if (!s || !points.length) return;
    extend(s, points, s.factor);
    xs = null;
    later();
  }
  function later() {
    frame ||= requestAnimationFrame(() => ((frame = 0), draw()));
  }

  // -- drawing
  const along = (x) => (o.log ? Math.log10(x) : x);
  function extent() { // x as it is drawn, which is its logarithm where that is asked for
    let low = Infinity, high = -Infinity, x0 = Infinity, x1 = -Infinity;
    for (const s of all.values()) {
      [low, high] = [Math.min(low, s.low), Math.max(high, s.high)];
      if (s.points.length) [x0, x1] = [Math.min(x0, s.points[0][0]), Math.max(x1, s.points.at(-1)[0])];
    }
    if (!good(low) || !good(x0)) return null;
    const half = Math.max(0, ...[...all.values()].map((s) => (s.look === "bars" ? (s.wide ?? 1) / 2 : 0)));
    for (const ref of o.lines) for (const v of [ref.y, ref.low, ref.high]) if (good(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
    if (o.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    const room = (high - low) * 0.07 || Math.abs(high) * 0.1 || 0.5, [floor, ceiling] = o.within ?? [-Infinity, Infinity];
    const [y0, y1] = [Math.max(floor, low - room), Math.min(ceiling, high + room)];
    [x0, x1] = [along(x0 - half), along(Math.max(x1, o.xmax ?? x1) + half)];
    [x0, x1] = [x0 - o.room * (x1 - x0), x1 + o.room * (x1 - x0)];
    return { y0, y1: y1 > y0 ? y1 : y0 + 1, x0: Math.min(x0, x1 > x0 ? x0 : x0 - 1), x1 };
  }
  function draw() {
    const e = extent(), none = !e;
    heads(none);
    if (none || !width) return;
    const y = ticks(e.y0, e.y1, o.height > 120 ? 4 : 3), labels = y.values.map((v) => (o.format && !o.percent ? o.format(v) : tickText(v, y.step, o.percent)));
    const names = [...all.values()].map((s) => s.name), left = 10 + 6.7 * Math.max(...labels.map((text) => text.length), 1);
    const key = JSON.stringify([e, width, o.height, o.percent, left, o.lines, o.marks, o.xticks, o.x, o.names, o.names === "ends" && names]);
    if (scale?.key !== key) {
      const right = width - (o.names === "ends" ? 24 + LETTER * Math.max(...names.map((name) => name.length)) : RIGHT);
      const columns = columnsOf(e, right), room = (right - left) / columns.length;
      for (const column of columns) column[1] = column[1].filter((text, k) => k === 0 || text.length * LETTER <= room); // the chart says the rest where one points
      const turned = columns.some(([, lines]) => lines[0].length * LETTER > room) && Array.isArray(o.xticks?.[0]);
      const foot = o.height - BOTTOM - (turned ? 36 : 14 * (Math.max(1, ...columns.map(([, lines]) => lines.length)) - 1));
      scale = { key, left, right, foot, e };
      scale.X = (x) => left + ((along(x) - e.x0) / (e.x1 - e.x0)) * (right - left);
      scale.Y = (v) => TOP + (1 - (v - e.y0) / (e.y1 - e.y0)) * (foot - TOP);
      put(parts.plot, { viewBox: `0 0 ${width} ${o.height}`, width, height: o.height });
      const rows = y.values.map((v, i) => [scale.Y(v), labels[i], v === 0]);
      parts.grid.replaceChildren(...axes(scale, rows, columns.map(([x, lines]) => [scale.X(x), lines, anchorAt(x)]), turned));
      references();
      for (const s of all.values()) s.dirty = true;
    }
    for (const s of all.values()) if (s.dirty) drawSeries(s);
    if (o.names === "ends") nameEnds();
    if (pointed !== null) point(pointed);
  }
  function columnsOf(e, right) { // each tick of x with what stands under it; the last one says what x counts
    const values = o.xticks ?? ticks(e.x0, e.x1, Math.max(2, Math.min(6, Math.floor(right / 75))), true).values;
    return values.map((v, i) => (Array.isArray(v) ? [...v] : [v, [`${i === values.length - 1 && i && width > 300 ? `${o.x} ` : ""}${v.toLocaleString("en")}`]]));
  }
  const anchorAt = (x) => (width - scale.X(x) < 36 ? "end" : along(x) === scale.e.x0 ? "start" : "middle");
  function nameEnds() { // names beside the ends of their lines, pushed apart where the lines meet
    const ends = [...all.values()].filter((s) => s.points.length).map((s) => ({ s, y: scale.Y(s.points.at(-1)[1]) })).sort((a, b) => b.y - a.y);
    let last = Infinity;
    for (const end of ends) last = end.at = Math.min(end.y, last - 14);
    const over = Math.max(0, TOP - last);
    parts.ends.replaceChildren(...ends.map(({ s, at }) => drawn("text", { x: scale.right + 10, y: px(at + over + 4), class: "curves-end" }, s.name)));
  }
  function references() {
    const { X, Y, left, right, foot, e } = scale, made = [];
    const label = (x, y, anchor, name) => name && made.push(drawn("text", { x, y, "text-anchor": anchor }, name));
    for (const ref of o.lines.filter((r) => good(r.y))) {
      const y = px(Y(ref.y));
      if (good(ref.low) && good(ref.high)) made.push(drawn("rect", { x: left, width: right - left, y: px(Y(ref.high)), height: px(Math.max(0.5, Y(ref.low) - Y(ref.high))), class: "curves-refband" }));
      made.push(drawn("line", { x1: left, x2: right, y1: y, y2: y, class: "curves-ref" }));
      label(right, y - TOP > 14 && !ref.below ? y - 4 : y + 13, "end", ref.name);
    }
    for (const mark of o.marks.filter((m) => good(m.x) && along(m.x) >= e.x0 && along(m.x) <= e.x1)) {
      const x = px(X(mark.x)), late = x > (left + right) / 2;
      made.push(drawn("line", { x1: x, x2: x, y1: TOP, y2: foot, class: "curves-ref" }));
      label(late ? x - 4 : x + 4, TOP + 9, late ? "end" : "start", mark.name);
    }
    parts.refs.replaceChildren(...made);
  }
  function drawSeries(s) {
    const { Y } = scale, X = (x) => scale.X(x) + (s.shift ?? 0), nodes = (s.nodes ??= seriesNodes(parts, s)), raw = (p) => p[1], mean = (p, i) => s.smoothed[i];
    put(nodes.band, { d: s.band === false ? "" : s.band === "bars" ? barPath(s.points, X, Y) : bandPath(s.points, X, Y, width) });
    put(nodes.raw, { d: s.factor ? path(s.points, raw, X, Y, width) : "" });
    put(nodes.line, { d: s.look === "bars" ? columnPath(s.points, s.wide ?? 1, X, Y) : path(s.points, mean, X, Y, width) });
    put(nodes.dots, { d: s.look === "bars" ? "" : markerPath(s.points, mean, X, Y, nodes.shape) });
    s.dirty = false;
    dim(s);
    legend(s);
  }

  // -- words
  function heads(none) {
    for (const [node, text] of [[parts.title, o.title], [parts.about, pointed === null ? o.about : at(pointed)], [parts.empty, o.empty]]) say(node, text);
    if (parts.figure.classList.contains("curves-none") !== none) parts.figure.classList.toggle("curves-none", none);
    if (parts.plot.classList.contains("curves-many") !== all.size > 3) parts.plot.classList.toggle("curves-many");
    parts.legend.hidden = none || !o.legend;
    put(parts.empty, { style: `height: ${o.height}px` });
    put(parts.plot, { "aria-label": none ? `${o.title}: ${o.empty}` : `${o.title}. ${sentence(null)}`, "aria-disabled": none });
  }
  const at = (x) => o.says?.(x) ?? `at ${o.x} ${x.toLocaleString("en")}`;
  const writes = (v) => (good(v) ? (o.format ? o.format(v) : figureText(v, o.percent)) : "–");
  const allX = () => (xs ??= [...new Set([...all.values()].flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b));
  function told(s, at) { // the point of a series that belongs to x: the last one, or the nearest where it is not too far
    const x = at ?? o.rest;
    let i = x === null ? s.points.length - 1 : nearest(s.points, x);
    if (x === null) while (i > 0 && !good(s.points[i][1])) i--;
    if (i < 0) return null;
    const p = s.points[i], apart = s.points.length > 1 ? (s.points.at(-1)[0] - s.points[0][0]) / (s.points.length - 1) : 1;
    return x !== null && Math.abs(p[0] - x) > Math.max(apart, 1) ? null : { p, i, y: s.smoothed[i] };
  }
  function legend(s, x = pointed) {
    const here = told(s, x), { p, y } = here ?? { p: [], y: null }, extra = [];
    if (s.band !== false && good(p[2]) && good(p[3])) extra.push(`${writes(p[2])} to ${writes(p[3])}`);
    if (s.factor && good(p[1]) && all.size === 1) extra.push(`raw ${writes(p[1])}`);
    s.nodes.name.hidden = !o.names;
    put(s.nodes.item, { title: o.names ? "" : s.name });
    say(s.nodes.name, s.name);
    say(s.nodes.value, x === null && s.look === "bars" ? "" : writes(y)); // the last bar says nothing of the others
    say(s.nodes.extra, extra.join(", "));
  }
  function sentence(x) {
    if (o.says) return o.says(x ?? o.rest ?? allX().at(-1) ?? 0);
    const last = allX().at(-1), at = `${o.x} ${(x ?? o.rest ?? last ?? 0).toLocaleString("en")}`;
    const values = [...all.values()].filter((s) => s.points.length).map((s) => {
      const here = told(s, x), p = here?.p ?? [], around = s.band !== false && good(p[2]) ? `, ${writes(p[2])} to ${writes(p[3])}` : "";
      return `${s.name} ${writes(here?.y)}${around}`;
    });
    return `${x === null && o.rest === null ? "Latest, at" : "At"} ${at}: ${values.join("; ")}`;
  }

  // -- pointing
  function point(x) {
    const list = allX();
    if (!scale || !list.length) return;
    pointed = x;
    const here = px(scale.X(x)), made = [drawn("line", { x1: here, x2: here, y1: TOP, y2: scale.foot, class: "curves-cursor" })];
    for (const s of all.values()) {
      if (!s.nodes) continue;
      const its = told(s, x);
      legend(s, x);
      if (good(its?.y) && s.look !== "bars") made.push(put(s.nodes.dot, { cx: px(scale.X(its.p[0]) + (s.shift ?? 0)), cy: px(scale.Y(its.y)) }));
    }
    parts.point.replaceChildren(...made);
    say(parts.about, at(x));
    put(parts.plot, { "aria-valuemin": list[0], "aria-valuemax": list.at(-1), "aria-valuenow": x, "aria-valuetext": sentence(x) });
  }
  function leave() {
    if (pointed === null) return;
    pointed = null;
    parts.point.replaceChildren();
    say(parts.about, o.about);
    for (const s of all.values()) if (s.nodes) legend(s, null);
  }
  function cursor(x) {
    if (!good(x) || !allX().length) return leave();
    const list = allX().map((v) => [v]);
    point(list[nearest(list, x)][0]);
  }
  const byHand = (x) => (x === null ? leave() : cursor(x), o.onCursor?.(pointed));
  function fromPointer(event) {
    if (!scale) return;
    const x = event.clientX - parts.plot.getBoundingClientRect().left, list = allX().map((v) => [scale.X(v), v]);
    byHand(list[nearest(list, x)]?.[1] ?? null);
    if (event.type === "click" && pointed !== null) o.onPick?.(pointed);
  }
  function fromKey(event) {
    const list = allX(), at = pointed === null ? list.length : list.indexOf(pointed), far = Math.max(1, Math.round(list.length / 10));
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageUp: at - far, PageDown: at + far, Home: 0, End: list.length - 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !list.length) return;
    if (event.key === "Enter" && pointed !== null && o.onPick) o.onPick(pointed);
    else if (event.key === "Escape" && pointed !== null) byHand(null);
    else if (to !== undefined) byHand(list[Math.max(0, Math.min(list.length - 1, to))]);
    else return;
    event.preventDefault();
  }
  for (const name of ["pointermove", "pointerdown", "click"]) parts.plot.addEventListener(name, fromPointer);
  parts.plot.addEventListener("pointerleave", () => document.activeElement !== parts.plot && byHand(null));
  parts.plot.addEventListener("blur", () => byHand(null));
  parts.plot.addEventListener("keydown", fromKey);

  // -- one series before the others
  const dim = (s) => ["band", "raw", "line", "dots", "item"].forEach((name) => s.nodes[name].classList.toggle("curves-back", lit !== null && lit !== s.id));
  function light(id) {
    lit = all.has(id) ? id : null;
    parts.plot.classList.toggle("curves-lit", lit !== null);
    for (const s of all.values()) if (s.nodes) dim(s);
  }

  const seen = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width) return;
    width = now;
    later();
  });
  seen.observe(parts.figure);
  set(options);
  return { set, add, cursor, light, remove: () => (seen.disconnect(), cancelAnimationFrame(frame), parts.figure.remove()), figure: parts.figure };
}
