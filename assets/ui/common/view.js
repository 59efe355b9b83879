// A view of the page: its nodes, what it asks the server, what it hears, its tooltip and its keys.
// All text of a model enters the page as text nodes or attributes, never as markup: the templates are constant.
import { attrs } from "./text.js";

// `handles` are gradio's: element, trigger, props, server; and `hear(listener)`, which passes on what Python says.
export function openView({ element, ...handles }) {
  const { server } = handles, root = element.querySelector(".rmx"), ui = {};
  for (const node of [root, ...root.querySelectorAll("[data-ui]")]) ui[node.dataset.ui] = node;
  const sayError = (sentence) => Object.assign(ui.error, { hidden: !sentence, textContent: sentence ?? "" });
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
  new ResizeObserver(([entry]) => {
    const isWide = entry.contentRect.width >= 600;
    for (const name of ["wide", "narrow"]) root.classList.toggle(name, isWide === (name === "wide"));
  }).observe(root);
  return {
    ...handles, root, ui, ask, sendFile, sayError,
    tooltip: (flow, describe) => tooltip(ui.tip, flow, describe), listenToKeys: (keys, awake) => listenToKeys(root, keys, awake),
  };
}

// ---- tooltip ------------------------------------------------------------------------------------------------
export function putNear(box, spot) {
  const beside = spot.height > innerHeight / 3 && spot.left > box.offsetWidth + 24; // what is tall would be covered
  const below = spot.bottom + box.offsetHeight + 12 < innerHeight;
  const left = beside ? spot.left - box.offsetWidth - 16 : Math.min(spot.left, innerWidth - box.offsetWidth - 8);
  const top = beside ? spot.top + 8 : below ? spot.bottom + 9 : spot.top - box.offsetHeight - 9;
  Object.assign(box.style, { left: `${Math.max(8, left)}px`, top: `${Math.max(8, top)}px` });
}
// After a short rest of the pointer, what `describe(span)` says of a token; it returns no nodes where nothing is to say.
function tooltip(tip, flow, describe) {
  let timer = 0, at = null;
  const soon = (span) => (clearTimeout(timer), (timer = setTimeout(show, at ? 0 : 300, span)));
  const gone = (wait = 80) => (clearTimeout(timer), (timer = setTimeout(hide, wait)));
  function hide() {
    at = at?.removeAttribute("aria-describedby");
    if (tip.matches(":popover-open")) tip.hidePopover();
  }
  function show(span) {
    const says = span.isConnected ? describe(span) : [];
    if (!says.length) return;
    at?.removeAttribute("aria-describedby");
    at = attrs(span, { "aria-describedby": tip.id });
    tip.replaceChildren(...says);
    if (!tip.matches(":popover-open")) tip.showPopover();
    putNear(tip, span.getClientRects()[0] ?? span.getBoundingClientRect());
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
const FOREIGN = "[role=slider], [role=listbox], [role=option], [role=menu], [role=tab], [role=combobox]";
// `keys` names a function per key; false from it means "not mine". `awake` tells if the view is the one in sight.
function listenToKeys(root, keys, awake) {
  const onKey = (e) => {
    if (!root.isConnected) return document.removeEventListener("keydown", onKey);
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
