// Tables and lists of figures: cells that name their column, and children that are made anew only where they say other things.
import { attrs, clip, make, showOdd } from "./text.js";

export const plain = (text, n = 200) => showOdd(clip(String(text ?? ""), n));
// Makes the children of a node anew, unless what they say is what stands there.
export function keyed(node, items, build) {
  const made = items.map(build), html = made.map((kid) => kid.outerHTML).join("");
  if (node.dataset.said === html) return;
  const at = [...node.children].findIndex((kid) => kid.contains(document.activeElement));
  node.replaceChildren(...made);
  node.dataset.said = html;
  if (at >= 0) node.children[Math.min(at, made.length - 1)]?.focus({ preventScroll: true });
}
export function cell(name, ...kids) { // on a phone each cell carries its column's name
  const td = make("td", "", ...kids);
  td.dataset.name = name;
  return td;
}
export const header = (names) => make("thead", "", make("tr", "", ...names.map((name) => attrs(make("th", "", name), { scope: "col" }))));
// Copies what a node says; the button tells whether it could. Without https there is no clipboard: the text is selected then.
export async function copyText(node, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    getSelection().selectAllChildren(node);
    done = document.execCommand?.("copy") ?? false;
  }
  button.textContent = done ? "Copied" : "Press Ctrl-C";
  setTimeout(() => (button.textContent = "Copy"), 4000);
}
