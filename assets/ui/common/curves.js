// Curves over training: several series in one SVG panel, without a library. Needs nothing but curves.css around it.
//
//   const chart = curves(box, options)      builds one panel inside the element `box`
//   options (all but title optional; each may be changed later by set)
//     title     name of the figure, read aloud too           about     one quiet sentence beside it, such as the unit
//     x         what x counts ("update")                     percent   y is a share: write it in per cent
//     height    of the drawing in px (160)                   within    [low, high] that the y axis never leaves
//     zero      y axis reaches 0                             xmax      x axis reaches at least this
//     smooth    0 to 0.99, exponential; the raw line stays faint behind (0)
//     empty     what to say while there are no points        names     false: the legend has marks and values only
//     legend    false: no legend line for a lone series      format    (y) => string, instead of the own writing
//     onCursor  (x | null) => told when the reader points    lines     [{y, low?, high?, name?}] horizontal references
//     marks     [{x, name?}] vertical references             xticks    [x, ...] instead of round whole numbers
//     rest      x whose values the legend shows while nobody points (the last)   room   x axis wider by this share, each side
//     series    see below; `below` on a line puts its name under it
//   chart.set({series, ...options})         series: [{id, name, points: [[x, y, low?, high?], ...], style?, band?, smooth?}]
//       x ascending; y null leaves a gap. `style` 0 to 6 picks colour, dash and marker together (default: its place);
//       `band` false hides low to high, "bars" draws it as a bar at each point, moved by `shift` px; `smooth` false leaves this series as it is. A list that continues the one that
//       stands costs only what is new; one that does not is drawn anew.
//   chart.add(id, points)                   further points of one series
//   chart.cursor(x | null)                  point at x, as if by mouse; does not call onCursor
//   chart.light(id | null)                  the other series step back
//   chart.remove()
//   curves.sign(style), curves.styles       dash and marker of a style as a small drawing, for a legend elsewhere; how many
// Drawing happens once per frame, and not at all while the panel is out of sight.
export const curves = (() => {
  const NS = "http://www.w3.org/2000/svg", PAD = { top: 10, right: 12, bottom: 22 };
  // Colour by CSS (.curve-k); dash and marker here, so that no two series differ by colour alone.
  const DASHES = ["", "7 4", "2 3.5", "11 4 2 4", "5 2.5", "1.5 3 6 3", "14 5"];
  const SHAPES = [
    (x, y) => `M${x - 3.2} ${y}a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0`, (x, y) => `M${x - 3} ${y - 3}h6v6h-6z`,
    (x, y) => `M${x} ${y - 4}l3.8 6.6h-7.6z`, (x, y) => `M${x} ${y - 4.2}l4.2 4.2l-4.2 4.2l-4.2 -4.2z`,
    (x, y) => `M${x} ${y + 4}l3.8 -6.6h-7.6z`, (x, y) => `M${x - 1.3} ${y - 3.6}h2.6v7.2h-2.6z`, (x, y) => `M${x - 3.6} ${y - 1.3}h7.2v2.6h-7.2z`,
  ];
  const DEFAULTS = { title: "", about: "", x: "step", height: 160, within: null, zero: false, percent: false, smooth: 0, names: true,
    legend: true, xmax: null, lines: [], marks: [], xticks: null, rest: null, room: 0, format: null, onCursor: null, empty: "Nothing yet.", series: [] };

  // ---- small helpers ----------------------------------------------------------------------------------------
  const svg = (tag, pairs = {}) => put(document.createElementNS(NS, tag), pairs);
  function put(node, pairs) {
    for (const [name, value] of Object.entries(pairs)) if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
    return node;
  }
  function html(tag, cls, ...kids) {
    const node = Object.assign(document.createElement(tag), { className: cls });
    node.append(...kids);
    return node;
  }
  const say = (node, text) => node.textContent !== text && (node.textContent = text); // an equal text must not touch the page
  const good = (v) => typeof v === "number" && Number.isFinite(v);
  const px = (v) => Math.round(v * 10) / 10;
  const minus = (text) => text.replace("-", "−");
  function written(v, percent, digits = null) {
    if (!good(v)) return "–";
    if (percent) return `${minus((100 * v).toFixed(digits ?? 1))}\u202f%`;
    const size = Math.abs(v);
    if (size > 0 && size < 1e-3 && digits === null) return minus(v.toExponential(1)).replace("e−", "e-");
    if (size >= 1000) return minus(Math.round(v).toLocaleString("en"));
    return minus(v.toFixed(digits ?? (size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)));
  }
  // At most about `n` round values inside [low, high].
  function ticks(low, high, n, whole = false) {
    const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough)), found = [1, 2, whole ? 5 : 2.5, 5, 10].find((m) => m * power >= rough) * power;
    const step = whole ? Math.max(1, Math.round(found)) : found, made = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) made.push(k * step || 0);
    return { step, values: made };
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
  function markerPath(points, value, X, Y, shape) { // on each point where there is room, else one now and then, and the last
    let drawn = "", last = -Infinity;
    const shown = points.map((p, i) => [X(p[0]), value(p, i)]).filter(([, y]) => good(y)), room = shown.length > 1 ? Math.abs(shown.at(-1)[0] - shown[0][0]) / shown.length : 99;
    shown.forEach(([x, y], i) => {
      if (i < shown.length - 1 && x - last < (room < 9 ? 64 : 9)) return;
      if (i < shown.length - 1) last = x;
      drawn += shape(px(x), px(Y(y)));
    });
    return drawn;
  }

  // ---- the panel --------------------------------------------------------------------------------------------
  function build(box) {
    const parts = {
      title: html("span", "curves-title"), about: html("span", "curves-about"),
      legend: html("ul", "curves-legend"), empty: html("p", "curves-empty"), plot: svg("svg", { class: "curves-plot", role: "slider", tabindex: 0 }),
    };
    parts.figure = html("figure", "curves", html("figcaption", "curves-head", parts.title, parts.about), parts.legend, parts.plot, parts.empty);
    for (const name of ["grid", "refs", "bands", "raw", "lines", "dots", "point"]) parts.plot.append((parts[name] = svg("g", { class: `curves-${name}` })));
    box.replaceChildren(parts.figure);
    return parts;
  }
  function sign(k) {
    const made = svg("svg", { class: "curves-sign", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" });
    made.append(svg("path", { class: `curves-line curve-${k}`, d: "M1 5H25", "stroke-dasharray": DASHES[k] }));
    made.append(svg("path", { class: `curves-dot curve-${k}`, d: SHAPES[k](13, 5) }));
    return made;
  }
  function seriesNodes(parts, s) {
    const k = s.style ?? s.k % SHAPES.length, cls = `curve-${k}`;
    const nodes = {
      band: svg("path", { class: `${s.band === "bars" ? "curves-bars" : "curves-band"} ${cls}` }), raw: svg("path", { class: `curves-raw ${cls}` }),
      line: svg("path", { class: `curves-line ${cls}`, "stroke-dasharray": DASHES[k] }), dots: svg("path", { class: `curves-dot ${cls}` }),
      name: html("span", "curves-name"), value: html("span", "curves-value"), extra: html("span", "curves-extra"),
    };
    nodes.item = html("li", "", sign(k), nodes.name, nodes.value, nodes.extra);
    nodes.dot = svg("circle", { class: `curves-here ${cls}`, r: 4.5 });
    parts.bands.append(nodes.band);
    parts.raw.append(nodes.raw);
    parts.lines.append(nodes.line);
    parts.dots.append(nodes.dots);
    parts.legend.append(nodes.item);
    return Object.assign(nodes, { shape: SHAPES[k] });
  }
  const forget = (s) => s.nodes && ["band", "raw", "line", "dots", "item", "dot"].forEach((name) => s.nodes[name].remove());

  function panel(box, options = {}) {
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
        const id = given.id ?? given.name, s = all.get(id) ?? bare(id, k), moved = s.shift !== given.shift || s.band !== given.band;
        const restyled = s.nodes && (s.k !== k || s.style !== given.style || moved);
        const renamed = s.name !== (given.name ?? String(id));
        all.set(id, s);
        if (restyled) (forget(s), (s.nodes = null));
        const banded = s.band === given.band;
        Object.assign(s, { name: given.name ?? String(id), style: given.style, band: given.band, smooth: given.smooth, shift: given.shift, k });
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
    function extent() {
      let low = Infinity, high = -Infinity, x0 = Infinity, x1 = -Infinity;
      for (const s of all.values()) {
        [low, high] = [Math.min(low, s.low), Math.max(high, s.high)];
        if (s.points.length) [x0, x1] = [Math.min(x0, s.points[0][0]), Math.max(x1, s.points.at(-1)[0])];
      }
      if (!good(low) || !good(x0)) return null;
      for (const ref of o.lines) for (const v of [ref.y, ref.low, ref.high]) if (good(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
      if (o.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
      const room = (high - low) * 0.07 || Math.abs(high) * 0.1 || 0.5, [floor, ceiling] = o.within ?? [-Infinity, Infinity];
      const [y0, y1] = [Math.max(floor, low - room), Math.min(ceiling, high + room)];
      x1 = Math.max(x1, o.xmax ?? x1);
      [x0, x1] = [x0 - o.room * (x1 - x0), x1 + o.room * (x1 - x0)];
      return { y0, y1: y1 > y0 ? y1 : y0 + 1, x0: Math.min(x0, x1 > x0 ? x0 : x0 - 1), x1 };
    }
    function draw() {
      const e = extent(), none = !e;
      heads(none);
      if (none || !width) return;
      const y = ticks(e.y0, e.y1, o.height > 120 ? 4 : 3), labels = y.values.map((v) => tickText(v, y.step));
      const left = 10 + 6.7 * Math.max(...labels.map((text) => text.length), 1), key = JSON.stringify([e, width, o.height, o.percent, left, o.lines, o.marks, o.xticks, o.x, o.names]);
      if (scale?.key !== key) {
        scale = { key, left, e };
        scale.X = (x) => left + ((x - e.x0) / (e.x1 - e.x0)) * (width - left - PAD.right);
        scale.Y = (v) => PAD.top + (1 - (v - e.y0) / (e.y1 - e.y0)) * (o.height - PAD.top - PAD.bottom);
        put(parts.plot, { viewBox: `0 0 ${width} ${o.height}`, width, height: o.height });
        grid(y.values, labels);
        references();
        for (const s of all.values()) s.dirty = true;
      }
      for (const s of all.values()) if (s.dirty) drawSeries(s);
      if (pointed !== null) point(pointed);
    }
    function tickText(v, step) {
      if (o.format && !o.percent) return o.format(v);
      const unit = o.percent ? 100 * step : step, digits = [0, 1, 2, 3].find((d) => Math.abs(unit * 10 ** d - Math.round(unit * 10 ** d)) < 1e-6 * 10 ** d * unit) ?? 4;
      return v === 0 ? (o.percent ? "0\u202f%" : "0") : written(v, o.percent, digits > 3 ? null : digits);
    }
    function grid(values, labels) {
      const { X, Y, left, e } = scale, made = [], right = width - PAD.right, foot = o.height - PAD.bottom;
      const text = (pairs, content) => made.push(Object.assign(svg("text", pairs), { textContent: content }));
      values.forEach((v, i) => {
        made.push(svg("line", { x1: left, x2: right, y1: px(Y(v)), y2: px(Y(v)), class: v === 0 ? "curves-zero" : "curves-rule" }));
        text({ x: left - 6, y: px(Y(v)) + 4, "text-anchor": "end" }, labels[i]);
      });
      const x = o.xticks ?? ticks(e.x0, e.x1, Math.max(2, Math.min(6, Math.floor(right / 75))), true).values;
      x.forEach((v, i) => {
        const last = i === x.length - 1, near = right - X(v) < 24;
        text({ x: px(X(v)), y: foot + 16, "text-anchor": near ? "end" : v === e.x0 ? "start" : "middle" }, `${last && x.length > 1 && width > 300 ? `${o.x} ` : ""}${v.toLocaleString("en")}`);
      });
      parts.grid.replaceChildren(...made);
    }
    function references() {
      const { X, Y, left, e } = scale, right = width - PAD.right, made = [];
      const label = (x, y, anchor, name) => name && made.push(Object.assign(svg("text", { x, y, "text-anchor": anchor }), { textContent: name }));
      for (const ref of o.lines.filter((r) => good(r.y))) {
        const y = px(Y(ref.y));
        if (good(ref.low) && good(ref.high)) made.push(svg("rect", { x: left, width: right - left, y: px(Y(ref.high)), height: px(Math.max(0.5, Y(ref.low) - Y(ref.high))), class: "curves-refband" }));
        made.push(svg("line", { x1: left, x2: right, y1: y, y2: y, class: "curves-ref" }));
        label(right, y - PAD.top > 14 && !ref.below ? y - 4 : y + 13, "end", ref.name);
      }
      for (const mark of o.marks.filter((m) => good(m.x) && m.x >= e.x0 && m.x <= e.x1)) {
        const x = px(X(mark.x)), late = x > (left + right) / 2;
        made.push(svg("line", { x1: x, x2: x, y1: PAD.top, y2: o.height - PAD.bottom, class: "curves-ref" }));
        label(late ? x - 4 : x + 4, PAD.top + 9, late ? "end" : "start", mark.name);
      }
      parts.refs.replaceChildren(...made);
    }
    function drawSeries(s) {
      const { Y } = scale, X = (x) => scale.X(x) + (s.shift ?? 0), nodes = (s.nodes ??= seriesNodes(parts, s)), raw = (p) => p[1], mean = (p, i) => s.smoothed[i];
      put(nodes.band, { d: s.band === false ? "" : s.band === "bars" ? barPath(s.points, X, Y) : bandPath(s.points, X, Y, width) });
      put(nodes.raw, { d: s.factor ? path(s.points, raw, X, Y, width) : "" });
      put(nodes.line, { d: path(s.points, mean, X, Y, width) });
      put(nodes.dots, { d: markerPath(s.points, mean, X, Y, nodes.shape) });
      s.dirty = false;
      dim(s);
      legend(s);
    }

    // -- words
    function heads(none) {
      for (const [node, text] of [[parts.title, o.title], [parts.about, pointed === null ? o.about : at(pointed)], [parts.empty, o.empty]]) say(node, text);
      if (parts.figure.classList.contains("curves-none") !== none) parts.figure.classList.toggle("curves-none", none);
      if (parts.plot.classList.contains("curves-many") !== all.size > 3) parts.plot.classList.toggle("curves-many");
      parts.legend.hidden = none || (!o.legend && all.size < 2);
      put(parts.empty, { style: `height: ${o.height}px` });
      put(parts.plot, { "aria-label": none ? `${o.title}: ${o.empty}` : `${o.title}. ${sentence(null)}`, "aria-disabled": none });
    }
    const at = (x) => `at ${o.x} ${x.toLocaleString("en")}`;
    const writes = (v) => (good(v) ? (o.format ? o.format(v) : written(v, o.percent)) : "–");
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
      say(s.nodes.value, writes(y));
      say(s.nodes.extra, extra.join(", "));
    }
    function sentence(x) {
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
      const here = px(scale.X(x)), made = [svg("line", { x1: here, x2: here, y1: PAD.top, y2: o.height - PAD.bottom, class: "curves-cursor" })];
      for (const s of all.values()) {
        if (!s.nodes) continue;
        const its = told(s, x);
        legend(s, x);
        if (good(its?.y)) made.push(put(s.nodes.dot, { cx: px(scale.X(its.p[0]) + (s.shift ?? 0)), cy: px(scale.Y(its.y)) }));
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
      const spot = parts.plot.getBoundingClientRect(), { left, e } = scale, share = (event.clientX - spot.left - left) / (width - left - PAD.right);
      byHand(e.x0 + Math.max(0, Math.min(1, share)) * (e.x1 - e.x0));
    }
    function fromKey(event) {
      const list = allX(), at = pointed === null ? list.length : list.indexOf(pointed), far = Math.max(1, Math.round(list.length / 10));
      const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageUp: at - far, PageDown: at + far, Home: 0, End: list.length - 1 }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || !list.length) return;
      if (event.key === "Escape" && pointed !== null) byHand(null);
      else if (to !== undefined) byHand(list[Math.max(0, Math.min(list.length - 1, to))]);
      else return;
      event.preventDefault();
    }
    for (const name of ["pointermove", "pointerdown"]) parts.plot.addEventListener(name, fromPointer);
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
  return Object.assign(panel, { sign, styles: SHAPES.length });
})();
