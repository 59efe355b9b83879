// Files and figures that a visitor takes home: Python or the page makes them, the browser saves them.
import { drawn } from "./svg.js";
import { attrs, make } from "./text.js";

export function saveFile(name, blob) {
  const link = attrs(make("a"), { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
const svgFile = (text) => new Blob([text], { type: "image/svg+xml" });
// A drawing as PNG, at twice its size, for slides and print. Null where the browser cannot draw it.
export async function pngOf(text) {
  const url = URL.createObjectURL(svgFile(text)), image = new Image();
  image.src = url;
  try {
    await image.decode();
    const canvas = attrs(make("canvas"), { width: 2 * image.width, height: 2 * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob(done));
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}
// A Plotly figure is several SVG layers one above the other; together they are one drawing.
export const plotIn = (box) => box.querySelector(".js-plotly-plot .main-svg")?.closest(".js-plotly-plot");
function plotSvg(plot) {
  const layers = [...plot.querySelectorAll(".main-svg")], { width, height } = layers[0].getBoundingClientRect();
  const all = drawn("svg", { width: Math.round(width), height: Math.round(height), viewBox: `0 0 ${width} ${height}` });
  all.append(drawn("rect", { width: "100%", height: "100%", fill: paper(plot) }), ...layers.map((layer) => layer.cloneNode(true)));
  for (const layer of all.querySelectorAll(".main-svg")) layer.style.background = "none";
  return new XMLSerializer().serializeToString(all);
}
function paper(plot) { // the first colour behind it
  for (let node = plot.parentElement; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/^rgba\(.*, 0\)$|transparent/.test(colour)) return colour;
  }
  return "#fff";
}
// Saves a plot as "svg" or "png"; `sayError` is told where the browser cannot.
export async function savePlot(plot, name, kind, sayError) {
  const text = plotSvg(plot), blob = kind === "svg" ? svgFile(text) : await pngOf(text);
  if (blob) saveFile(`${name}.${kind}`, blob);
  else sayError("The browser could not draw the plot. Take the SVG instead.");
}
