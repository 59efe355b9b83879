// What charts are drawn of: nodes, marks, axes and how their figures are written.
import { attrs } from "./text.js";

// Exported pages carry this and hold no address, not even that of a namespace.
const NAMESPACE = new DOMParser().parseFromString("<svg></svg>", "text/html").body.firstChild.namespaceURI;
export function drawn(tag, pairs = {}, ...kids) {
  const node = attrs(document.createElementNS(NAMESPACE, tag), pairs);
  node.append(...kids);
  return node;
}
export const px = (v) => Math.round(v * 10) / 10;
export const good = (v) => typeof v === "number" && Number.isFinite(v);

// ---- marks: colour by style sheet (.curve-k), dash and shape here, so that no two series differ by colour alone -----
export const DASHES = ["", "7 4", "2 3.5", "11 4 2 4", "5 2.5", "1.5 3 6 3", "14 5"];
export const SHAPES = [
  (x, y) => `M${x - 3.2} ${y}a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0`, (x, y) => `M${x - 3} ${y - 3}h6v6h-6z`,
  (x, y) => `M${x} ${y - 4}l3.8 6.6h-7.6z`, (x, y) => `M${x} ${y - 4.2}l4.2 4.2l-4.2 4.2l-4.2 -4.2z`,
  (x, y) => `M${x} ${y + 4}l3.8 -6.6h-7.6z`, (x, y) => `M${x - 1.3} ${y - 3.6}h2.6v7.2h-2.6z`, (x, y) => `M${x - 3.6} ${y - 1.3}h7.2v2.6h-7.2z`,
];
export const STYLES = SHAPES.length;
// A style as a small drawing for a legend: as "line", "bars" or "bubbles".
export function styleSign(style, look = "line", shape = style) {
  const box = { class: "curves-sign", viewBox: "0 0 26 10", width: 26, height: 10, "aria-hidden": "true" };
  if (look === "bars") return drawn("svg", box, drawn("rect", { x: 7, width: 12, height: 10, class: `curves-fill curve-${style}` }));
  const dot = drawn("path", { class: `${look === "bubbles" ? "curves-bubble" : "curves-dot"} curve-${style}`, d: SHAPES[shape](13, 5) });
  if (look === "bubbles") return drawn("svg", box, dot);
  return drawn("svg", box, drawn("path", { class: `curves-line curve-${style}`, d: "M1 5H25", "stroke-dasharray": DASHES[style] }), dot);
}

// ---- figures and ticks --------------------------------------------------------------------------------------
const minus = (text) => text.replace("-", "−");
export function figureText(v, percent, digits = null) {
  if (!good(v)) return "–";
  if (percent) return `${minus((100 * v).toFixed(digits ?? 1))}\u202f%`;
  const size = Math.abs(v);
  if (size > 0 && size < 1e-3 && digits === null) return minus(v.toExponential(1)).replace("e−", "e-");
  if (size >= 1000) return minus(Math.round(v).toLocaleString("en"));
  return minus(v.toFixed(digits ?? (size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)));
}
export function tickText(v, step, percent) {
  const unit = percent ? 100 * step : step, digits = [0, 1, 2, 3].find((d) => Math.abs(unit * 10 ** d - Math.round(unit * 10 ** d)) < 1e-6 * 10 ** d * unit) ?? 4;
  return v === 0 ? (percent ? "0\u202f%" : "0") : figureText(v, percent, digits > 3 ? null : digits);
}
// At most about `n` round values inside [low, high].
export function ticks(low, high, n, whole = false) {
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough)), found = [1, 2, whole ? 5 : 2.5, 5, 10].find((m) => m * power >= rough) * power;
  const step = whole ? Math.max(1, Math.round(found)) : found, made = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) made.push(k * step || 0);
  return { step, values: made };
}
// The grid of a chart: rows are [y, text, is it zero?], columns [x, lines of text, anchor]; `turned` where they are long.
export function axes({ left, right, foot }, rows, columns, turned = false) {
  const across = rows.flatMap(([y, text, zero]) => [
    drawn("line", { x1: left, x2: right, y1: px(y), y2: px(y), class: zero ? "curves-zero" : "curves-rule" }),
    drawn("text", { x: left - 6, y: px(y) + 4, "text-anchor": "end" }, text),
  ]);
  const below = columns.flatMap(([x, lines, anchor]) => (turned
    ? [drawn("text", { x: px(x), y: foot + 14, "text-anchor": "end", transform: `rotate(-35 ${px(x)} ${foot + 14})` }, lines[0])]
    : lines.map((text, k) => drawn("text", { x: px(x), y: foot + 16 + 14 * k, "text-anchor": anchor ?? "middle" }, text))));
  return [...across, ...below];
}
