// How figures are written: seconds, shares and points, and an estimate with its 95 % interval.
import { drawn } from "./svg.js";
import { make } from "./text.js";

export const clock = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`);
export const figure = (value) => make("span", "num", value);
const signed = (x, digits) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${(100 * Math.abs(x)).toFixed(digits)}`;
const fixed = (x) => x.toFixed(Math.abs(x) >= 10 ? 1 : 2);
const UNITS = { // how a value is written, how the ends of its interval are, what joins them, what follows
  share: [(x) => (100 * x).toFixed(x > 0 && x < 0.001 ? 2 : 1), null, " – ", "\u202f%"],
  points: [(x) => signed(x, 1), (x) => signed(x, 0), " to ", ""],
  ratio: [fixed, null, " – ", "×"],
  number: [fixed, null, " – ", ""],
  nats: [(x) => x.toFixed(3), null, " – ", ""],
};
export function written(x, unit) {
  const [write, , , suffix] = UNITS[unit] ?? UNITS.number;
  return x == null ? "–" : write(x) + suffix;
}
export function around(e, unit) {
  const [write, ends, join, suffix] = UNITS[unit] ?? UNITS.number, side = ends ?? write;
  return e?.low == null ? "" : side(e.low) + join + side(e.high) + suffix;
}
export function estimate(e, unit) {
  if (e?.value == null) return make("span", "soft", "–");
  return make("span", "num", written(e.value, unit), make("span", "soft interval", around(e, unit)));
}
// An estimate on a scale that all rows share: the thick line is the interval, the dot the value, the thin line `mark`.
export function intervalBar(e, label, { from, to, mark = null, width = 120, height = 16, look = "gain" }) {
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: look, role: "img", "aria-label": label }), y = height / 2;
  const x = (v) => 4 + (width - 8) * Math.max(0, Math.min(1, (v - from) / (to - from)));
  const line = (x1, x2, y1, y2, part) => svg.append(drawn("line", { x1, x2, y1, y2, class: part }));
  line(4, width - 4, y, y, "rail");
  if (mark != null) line(x(mark), x(mark), 1, height - 1, "zero");
  if (e?.low != null && e.value != null) line(x(e.low), x(e.high), y, y, "span");
  if (e?.value != null) svg.append(drawn("circle", { cx: x(e.value), cy: y, r: 3.5 }));
  return svg;
}
