// How figures are written: seconds, shares and points, and an estimate with its 95 % interval.
const clock = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`);
const figure = (value) => make("span", "num", value);
const signed = (x, digits) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${(100 * Math.abs(x)).toFixed(digits)}`;
const fixed = (x) => x.toFixed(Math.abs(x) >= 10 ? 1 : 2);
const UNITS = { // how a value is written, how the ends of its interval are, what joins them, what follows
  share: [(x) => (100 * x).toFixed(x > 0 && x < 0.001 ? 2 : 1), null, " – ", "\u202f%"],
  points: [(x) => signed(x, 1), (x) => signed(x, 0), " to ", ""],
  ratio: [fixed, null, " – ", "×"],
  number: [fixed, null, " – ", ""],
  nats: [(x) => x.toFixed(3), null, " – ", ""],
};
function written(x, unit) {
  const [write, , , suffix] = UNITS[unit] ?? UNITS.number;
  return x == null ? "–" : write(x) + suffix;
}
function around(e, unit) {
  const [write, ends, join, suffix] = UNITS[unit] ?? UNITS.number, side = ends ?? write;
  return e?.low == null ? "" : side(e.low) + join + side(e.high) + suffix;
}
function estimate(e, unit) {
  if (e?.value == null) return make("span", "soft", "–");
  return make("span", "num", written(e.value, unit), make("span", "soft interval", around(e, unit)));
}
const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, pairs) {
  return attrs(document.createElementNS(SVG, tag), pairs);
}
