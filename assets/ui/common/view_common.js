// What the views share. Python puts text.js and this before a view's own script, in the function that gr.HTML makes of
// all and runs once per mount, with element, trigger, props, server, watch in scope.
// All text of a model enters the page as text nodes or attributes, never as markup: the templates are constant.

// ---- small helpers ------------------------------------------------------------------------------------------
const root = element.querySelector(".rmx"), ui = {};
for (const node of [root, ...root.querySelectorAll("[data-ui]")]) ui[node.dataset.ui] = node;

// ---- prose: tokens as paragraphs ----------------------------------------------------------------------------
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
function prose(flow) {
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
function followed(box, flow, end, wanted) {
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

// ---- the server ---------------------------------------------------------------------------------------------
async function heed(asking) {
  try {
    const reply = await asking();
    if (reply?.error) sayError(reply.error);
    if (!reply?.error || reply.run || reply.id) return reply; // a run that failed half way is still worth showing
  } catch {
    sayError("The server did not reply. What is on screen stays; try again in a moment.");
  }
  return null;
}
const ask = (name, question) => heed(() => server[name](question));
const sendFile = (kind, about, text) => heed(async () => {
  const reply = await fetch(`files/${kind}?${new URLSearchParams(about)}`, { method: "POST", body: text });
  return reply.json();
});
const sayError = (sentence) => Object.assign(ui.error, { hidden: !sentence, textContent: sentence ?? "" });

// ---- the address --------------------------------------------------------------------------------------------
// The address names what is on screen, so that it can be passed on. In a frame nobody sees it, so the page around is
// told, as the Hub documents it. Only the Hub, and origins that the owner of the app has named, get to know it: ids of
// runs are the permission to see them. Of what the Hub itself adds only the theme goes back: "__sign" opens a private
// Space.
const HUB = "https://huggingface.co";
function readdress(changed) {
  const url = new URL(location);
  for (const [name, value] of Object.entries(changed)) value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
  history.replaceState(history.state, "", url);
  if (window.parent !== window) tellParent(url);
}
function tellParent({ searchParams, hash }) {
  const told = new URLSearchParams([...searchParams].filter(([name]) => name === "__theme" || !name.startsWith("__")));
  const named = document.querySelector("meta[name=rmx-parents]")?.content.split(" ").filter(Boolean) ?? [];
  const around = location.ancestorOrigins?.[0]; // not known everywhere; the browser compares origins in any case
  for (const origin of [HUB, ...named]) {
    if (!around || around === origin) window.parent.postMessage({ queryString: told.toString(), hash }, origin);
  }
}

// ---- answers ------------------------------------------------------------------------------------------------
const textOf = (answer) => answer?.text ?? null;
const kindOf = (a) => (textOf(a) === null || typeof a.correct !== "boolean" ? "none" : a.correct ? "right" : "wrong");
const SIGNS = { right: "✓", wrong: "✗", none: "–" };
const mark = (a) => make("span", kindOf(a), `${SIGNS[kindOf(a)]} `, textOf(a) === null ? "none" : showOdd(clip(textOf(a), 60)));

// ---- the known answer ---------------------------------------------------------------------------------------
const knownText = ({ known, known_computed }) => (known ? `known answer ${known}${known_computed ? ", computed from the text" : ""}` : "no known answer");
// Its box stands beside the problem's, outside the view; a button leads there, where there is such a box.
const knownBox = (id) => document.querySelector(`#${id} input, #${id} textarea`);
function giveKnown(id) {
  const box = knownBox(id);
  box?.focus({ preventScroll: true });
  box?.scrollIntoView({ block: "center" });
}
const offerKnown = (id) => (knownBox(id) ? [attrs(make("button", "link give-known", "Give the known answer"), { type: "button", "data-do": "giveKnown" })] : []);

// ---- tooltip ------------------------------------------------------------------------------------------------
function putNear(box, spot) {
  const beside = spot.height > innerHeight / 3 && spot.left > box.offsetWidth + 24; // what is tall would be covered
  const below = spot.bottom + box.offsetHeight + 12 < innerHeight;
  const left = beside ? spot.left - box.offsetWidth - 16 : Math.min(spot.left, innerWidth - box.offsetWidth - 8);
  const top = beside ? spot.top + 8 : below ? spot.bottom + 9 : spot.top - box.offsetHeight - 9;
  Object.assign(box.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
}
// After a short rest of the pointer, what `describe(span)` says of a token; it returns no nodes where nothing is to say.
function tooltip(flow, describe) {
  let timer = 0, at = null;
  const soon = (span) => (clearTimeout(timer), (timer = setTimeout(show, at ? 0 : 300, span)));
  const gone = (wait = 80) => (clearTimeout(timer), (timer = setTimeout(hide, wait)));
  function hide() {
    at = at?.removeAttribute("aria-describedby");
    if (ui.tip.matches(":popover-open")) ui.tip.hidePopover();
  }
  function show(span) {
    const says = span.isConnected ? describe(span) : [];
    if (!says.length) return;
    at?.removeAttribute("aria-describedby");
    at = attrs(span, { "aria-describedby": ui.tip.id });
    ui.tip.replaceChildren(...says);
    if (!ui.tip.matches(":popover-open")) ui.tip.showPopover();
    putNear(ui.tip, span.getClientRects()[0] ?? span.getBoundingClientRect());
  }
  flow.addEventListener("pointerover", (e) => {
    const span = e.pointerType !== "touch" && !e.buttons && e.target.closest(".t");
    span ? soon(span) : gone();
  });
  flow.addEventListener("pointerleave", () => gone());
  flow.addEventListener("focusin", (e) => e.target.matches(".t:focus-visible") && soon(e.target));
  flow.addEventListener("focusout", () => gone());
  return gone;
}

// ---- keys ---------------------------------------------------------------------------------------------------
const EDITABLE = "input:not([type=radio]):not([type=checkbox]):not([type=range]), textarea, select, [contenteditable=true], [role=textbox]";
const FOREIGN = "[role=slider], [role=listbox], [role=option], [role=menu], [role=tab], [role=combobox], .js-plotly-plot";
// `keys` names a function per key; false from it means "not mine". `awake` tells if the view is the one in sight.
function listenToKeys(keys, awake) {
  const onKey = (e) => {
    if (!element.isConnected) return document.removeEventListener("keydown", onKey);
    const target = e.target instanceof Element ? e.target : document.body, inside = root.contains(target);
    if (e.ctrlKey || e.metaKey || e.altKey || e.defaultPrevented || !awake()) return;
    if (e.key === "Escape" && inside && target.matches(EDITABLE)) return target.blur();
    if (target.closest(EDITABLE) || (!inside && target.closest(FOREIGN))) return;
    const pressable = target.closest("button, a, [role=button], label, summary") && !target.closest(".flow .t");
    if ((e.key === "Enter" || e.key === " ") && pressable) return; // the control itself answers
    if (e.key.startsWith("Arrow") && (inside ? target.matches("input") : target !== document.body)) return;
    if (e.key.startsWith("Page") && target.matches("[type=range]")) return;
    if (Object.hasOwn(keys, e.key) && keys[e.key]() !== false) e.preventDefault();
  };
  document.addEventListener("keydown", onKey);
}

new ResizeObserver(([entry]) => {
  const isWide = entry.contentRect.width >= 720;
  for (const name of ["wide", "narrow"]) root.classList.toggle(name, isWide === (name === "wide"));
}).observe(root);
