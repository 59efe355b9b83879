// A box is drawn around the final answer where \boxed{…} stands. The command stays in the text, unseen: it is copied
// with it, and shown where its token is a fork, is selected, or the raw text is wanted.
import { make } from "./text.js";

// From where to where: of each box the command, what is inside, and the brace that closes it.
export function findBoxes(text) {
  const found = [];
  for (const match of text.matchAll(/\\boxed\s*\{/g)) {
    const begin = match.index + match[0].length;
    let end = begin, depth = 1;
    for (; end < text.length && depth; end++) depth += text[end] === "{" && text[end - 1] !== "\\" ? 1 : text[end] === "}" && text[end - 1] !== "\\" ? -1 : 0;
    if (!depth && end - 1 > begin) found.push([match.index, begin, "tex"], [begin, end - 1, "boxed"], [end - 1, end, "tex"]);
  }
  return found;
}
export function drawBoxes(els) {
  clearBoxes(els);
  const nodes = els.flatMap(textNodes), found = findBoxes(nodes.map((node) => node.data).join("")).reverse();
  let at = nodes.reduce((sum, node) => sum + node.length, 0);
  for (const node of nodes.reverse()) { // from the end, so that places stay what they are while nodes are split
    at -= node.length;
    for (const [from, to, kind] of found) {
      const begin = Math.max(0, from - at), end = Math.min(node.length, to - at);
      if (begin >= end) continue;
      const part = begin ? node.splitText(begin) : node, ends = `${from >= at ? " box-begins" : ""}${to - at === end ? " box-ends" : ""}`;
      if (end - begin < part.length) part.splitText(end - begin);
      const wrap = make("i", kind === "boxed" ? `boxed${ends}` : kind);
      part.replaceWith(wrap);
      wrap.append(part);
    }
  }
}
export function clearBoxes(els) {
  for (const span of els) {
    const parts = span.querySelectorAll(".tex, .boxed");
    for (const part of parts) part.replaceWith(...part.childNodes);
    if (parts.length) span.normalize();
  }
}
function textNodes(span) {
  const walker = document.createTreeWalker(span, NodeFilter.SHOW_TEXT), nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  return nodes;
}
