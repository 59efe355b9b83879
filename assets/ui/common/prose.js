// Tokens as paragraphs.
import { attrs, make, splitSpace } from "./text.js";

// One block per paragraph keeps an update cheap: only the last block is laid out again. A paragraph without end is
// broken after a sentence; no return sign is drawn there, for the model wrote none.
// Paragraphs stand in sections: what a growing text costs then depends on the last section, not on its length.
const BARE = /^\n+$/;
function section(flow) {
  const last = flow.lastElementChild;
  if (last && last.childElementCount < 8) return last;
  return flow.appendChild(make("section", "section"));
}
function hideEdge(span) {
  // One space before the very first word, or after a break of ours, would look like an indent; it stays in the text.
  splitSpace(span);
  const space = span.classList.contains("split") && span.firstChild;
  if (space && space.data === " ") space.replaceWith(make("i", "edge", " "));
}
// `els` holds the span of each token; `place` appends one, `cut` takes away all from a position on.
export function prose(flow) {
  const els = [], block = { node: null, size: 0, blank: 0, flat: false };
  function place(span, text, before) {
    const bare = BARE.test(text), flat = bare && block.blank >= 3; // further empty lines are drawn as signs only
    if (flat) for (const sign of span.children) sign.textContent = "";
    const long = block.size > 480 || (block.size > 240 && /[.!?:]["')\]]?$/.test(before ?? "") && /^\s/.test(text));
    if (!block.node || long || block.flat !== flat) {
      if (!before?.endsWith("\n")) hideEdge(span);
      section(flow).append((block.node = attrs(make("p", "para"), { dir: "auto" })));
      Object.assign(block, { size: 0, flat });
    }
    block.node.append(span);
    block.size++;
    block.blank = bare ? block.blank + 1 : 0;
    if (text.endsWith("\n") && !flat) block.node = null;
    els.push(span);
  }
  function cut(toks, length) {
    const first = els[length];
    if (first) {
      const last = first.parentNode, home = last.parentNode;
      while (home.nextSibling) home.nextSibling.remove();
      while (last.nextSibling) last.nextSibling.remove();
      while (first.nextSibling) first.nextSibling.remove();
      first.remove();
      if (!last.firstChild) last.remove();
      if (!home.firstChild) home.remove();
      els.length = length;
    }
    resume(toks);
  }
  function resume(toks) {
    const last = els.at(-1)?.parentNode;
    let k = els.length;
    while (k > 0 && BARE.test(toks[k - 1][0])) k--;
    const blank = els.length - k, flat = blank > 3, ended = toks[els.length - 1]?.[0].endsWith("\n") && !flat;
    Object.assign(block, { node: ended ? null : (last ?? null), size: last?.childElementCount ?? 0, blank, flat });
  }
  return { els, place, cut };
}
// A text follows its stream until the reader scrolls up, and again once the end is in sight. Observers tell, after
// layout; reading scroll offsets while appending would force one layout more per update.
export function followed(box, flow, end, wanted) {
  const state = { on: true };
  let lastTop = 0;
  new ResizeObserver(() => state.on && wanted() && (box.scrollTop = 1e9)).observe(flow);
  new IntersectionObserver((seen) => (state.on ||= seen.at(-1).isIntersecting), { root: box }).observe(end);
  box.addEventListener("scroll", () => {
    if (box.scrollTop < lastTop - 2) state.on = false;
    lastTop = box.scrollTop;
  }, { passive: true });
  return state;
}
