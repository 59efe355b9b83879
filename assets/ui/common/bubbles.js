// Groups of things over two shares: where a group stands says what it was before and is after, its area how many are in it.
//
//   const chart = bubbles(box)
//   chart.set({ title, x, y, series: [{ name, style, shape, points: [[x, y, things], ...] }], says, onPick })
//     x, y      what the shares are shares of              says      ([x, y, things]) => string, where the reader points
//     shape     number of the marker, where it is not the style's own   onPick    (things) => told when the reader presses there
// One of the marks is a stop of the Tab key; the arrow keys walk through all of them.
import { attrs, count, make, say } from "./text.js";
import { axes, drawn, px, SHAPES, styleSign } from "./svg.js";
import { build } from "./charts.js";

const PLACE = { left: 56, right: 12, top: 6, foot: 300, height: 340 }, AIR = 0.04, QUARTERS = [0, 0.25, 0.5, 0.75, 1]; // px, and a share
const percentText = (share) => `${100 * share}\u202f%`;

export function bubbles(box) {
  const parts = build(box);
  let o = { series: [] }, width = 0, drawnAs = "";
  attrs(parts.plot, { role: "group" }).removeAttribute("tabindex");
  parts.figure.classList.add("curves-still");

  function set(options) {
    o = options;
    say(parts.title, o.title);
    parts.legend.replaceChildren(...o.series.map((s) => make("li", "", styleSign(s.style, "bubbles", s.shape), make("span", "curves-name", `${s.name} (${count(s.points.reduce((n, p) => n + p[2].length, 0))})`))));
    attrs(parts.plot, { "aria-label": `${o.title}: ${o.y} over ${o.x}` });
    draw();
  }
  function draw() {
    const what = JSON.stringify([width, o.x, o.y, o.series]);
    if (!width || what === drawnAs) return; // a mark that is drawn anew loses the pointer
    drawnAs = what;
    const { left, top, foot, height } = PLACE, right = width - PLACE.right, part = (v) => (v + AIR) / (1 + 2 * AIR);
    const X = (v) => left + (right - left) * part(v), Y = (v) => foot - (foot - top) * part(v);
    attrs(parts.plot, { viewBox: `0 0 ${width} ${height}`, width, height });
    parts.grid.replaceChildren(
      ...axes({ left, right, foot }, QUARTERS.map((v) => [Y(v), percentText(v), v === 0]), QUARTERS.map((v) => [X(v), [percentText(v)]])),
      drawn("text", { x: px((left + right) / 2), y: height - 6, "text-anchor": "middle", class: "curves-x" }, o.x),
      drawn("text", { x: 0, y: 0, "text-anchor": "middle", class: "curves-y", transform: `translate(11 ${(top + foot) / 2}) rotate(-90)` }, o.y),
      drawn("line", { x1: X(0), y1: Y(0), x2: X(1), y2: Y(1), class: "curves-ref" }),
    );
    const most = Math.max(...o.series.flatMap((s) => s.points.map((p) => p[2].length)), 1), held = [...parts.dots.children].indexOf(document.activeElement);
    const marks = o.series.flatMap((s) => s.points.map((point) => {
      const big = 9 + 21 * Math.sqrt((point[2].length - 1) / Math.max(most - 1, 1)); // the area follows the count; one alone can still be hit
      return Object.assign(drawn("path", {
        class: `curves-bubble curve-${s.style}`, d: SHAPES[s.shape ?? s.style](0, 0), role: "button", tabindex: -1, "aria-label": o.says(point),
        transform: `translate(${px(X(point[0]))} ${px(Y(point[1]))}) scale(${(big / 7).toFixed(2)})`,
      }), { point });
    }));
    parts.dots.replaceChildren(...marks);
    const stop = marks[Math.max(0, Math.min(held, marks.length - 1))];
    stop?.setAttribute("tabindex", 0);
    if (held >= 0) stop?.focus({ preventScroll: true });
  }
  const markAt = (event) => event.target.closest(".curves-bubble");
  for (const name of ["pointerover", "focusin"]) parts.plot.addEventListener(name, (e) => say(parts.about, markAt(e) ? o.says(markAt(e).point) : ""));
  parts.plot.addEventListener("pointerleave", () => say(parts.about, ""));
  parts.plot.addEventListener("click", (e) => markAt(e) && o.onPick(markAt(e).point[2]));
  parts.plot.addEventListener("keydown", (e) => {
    const mark = markAt(e), all = [...parts.dots.children], way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[e.key];
    if (!mark) return;
    if (e.key === "Enter" || e.key === " ") o.onPick(mark.point[2]);
    else if (way) moveTo(mark, all[all.indexOf(mark) + way] ?? mark);
    else return;
    e.preventDefault();
  });
  function moveTo(from, to) {
    from.setAttribute("tabindex", -1);
    attrs(to, { tabindex: 0 }).focus({ preventScroll: true });
  }
  new ResizeObserver(([entry]) => {
    width = Math.floor(entry.contentRect.width);
    draw();
  }).observe(parts.figure);
  return { set, figure: parts.figure };
}
