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
// Saves a file that the server made: { name, mime, text }.
export const saveReply = (reply, name) => reply?.text != null && saveFile(String(reply.name ?? name), new Blob([reply.text], { type: reply.mime ?? "text/plain" }));
export const svgFile = (text) => new Blob([text], { type: "image/svg+xml" });
// A drawing as PNG, by default at twice its size, for slides and print. Null where the browser cannot draw it.
export async function pngOf(text, scale = 2) {
  const url = URL.createObjectURL(svgFile(text)), image = new Image();
  image.src = url;
  try {
    await image.decode();
    const canvas = attrs(make("canvas"), { width: scale * image.width, height: scale * image.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob(done));
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}
// Charts inside a box as one drawing that needs no style sheet: each plot, sign and word where it stands on the page.
const WORDS = ".curves-title, .curves-about, .curves-name, .curves-value, .curves-extra";
const LOOK = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "paint-order", "opacity", "font-family", "font-size", "font-weight"];
function chartsSvg(box) {
  const { left, top, width, height } = box.getBoundingClientRect(), size = { width: Math.ceil(width), height: Math.ceil(height) };
  const all = drawn("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}` }, drawn("rect", { width: "100%", height: "100%", fill: paper(box) }));
  for (const plot of box.querySelectorAll(".curves svg")) {
    const spot = plot.getBoundingClientRect();
    if (spot.width) all.append(attrs(styled(plot), { x: spot.left - left, y: spot.top - top, overflow: "visible" }));
  }
  for (const words of box.querySelectorAll(WORDS)) {
    const spot = words.getBoundingClientRect(), look = getComputedStyle(words), place = { x: spot.left - left, y: spot.top - top + 0.72 * spot.height };
    if (spot.width) all.append(drawn("text", { ...place, fill: look.color, "font-family": look.fontFamily, "font-size": look.fontSize, "font-weight": look.fontWeight }, words.textContent));
  }
  return new XMLSerializer().serializeToString(all);
}
function styled(plot) { // a copy with what style sheets say of each node written into it
  const copy = plot.cloneNode(true), nodes = [plot, ...plot.querySelectorAll("*")], copies = [copy, ...copy.querySelectorAll("*")];
  nodes.forEach((node, k) => {
    const look = getComputedStyle(node);
    attrs(copies[k], Object.fromEntries(LOOK.map((name) => [name, look.getPropertyValue(name)])));
    copies[k].removeAttribute("class");
  });
  return copy;
}
// A drawing of ours as a file that needs no style sheet; it is put into `home` for a moment to be styled.
export function drawingSvg(drawing, home) {
  home.append(drawing);
  const all = styled(drawing), size = { width: drawing.width.baseVal.value, height: drawing.height.baseVal.value };
  drawing.remove();
  all.prepend(drawn("rect", { ...size, fill: paper(home) }));
  return new XMLSerializer().serializeToString(all);
}
function paper(box) { // the first colour behind it
  for (let node = box; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/^rgba\(.*, 0\)$|transparent/.test(colour)) return colour;
  }
  return "#fff";
}
// Saves the charts of a box as "svg" or "png"; `sayError` is told where the browser cannot.
export async function saveCharts(box, name, kind, sayError) {
  const text = chartsSvg(box), blob = kind === "svg" ? svgFile(text) : await pngOf(text);
  if (blob) saveFile(`${name}.${kind}`, blob);
  else sayError("The browser could not draw the plot. Take the SVG instead.");
}
