// Tokens pinned for training: a small mark in the text, a row of chips under it. The page keeps {run, pos}; who trains is
// told by the event "pins". A pin outlives swaps and new problems, and goes when the server no longer holds its run.
import { attrs, make, nameOf, oneLine, plainName, splitSpace } from "../common/text.js";
import { sayError, server, trigger, ui } from "./context.js";
import { branches, els, presenter, sameToken, select, selected, shown, visit } from "./token_view.js";

const MOST_PINS = 8;
const pins = []; // {run, pos, said, text}: the token and what stands before it
let pinTurn = 0;

// The place of a pin on another branch: the same one as long as nothing was swapped before it.
function pinnedHere(pin, b = shown) {
  if (!b || pin.run === b.run) return b?.run === pin.run;
  const its = branches.get(pin.run);
  return !!its?.open && its.open.tree === b.open?.tree && pin.pos < b.toks.length
    && its.toks.slice(0, pin.pos + 1).every((tok, k) => sameToken(tok, b.toks[k]));
}
const pinAt = (pos) => pins.findIndex((pin) => pin.pos === pos && pinnedHere(pin));

export function togglePin() {
  const pos = selected, at = pos === null ? -1 : pinAt(pos);
  if (pos === null || presenter.on) return false;
  if (at >= 0) return void unpin(at);
  if (pins.length >= MOST_PINS) return sayError(`${MOST_PINS} tokens are pinned already. Take one out first.`);
  const text = shown.toks.slice(Math.max(0, pos - 12), pos).map((tok) => tok[0]).join("");
  pins.push({ run: shown.run, pos, said: shown.toks[pos][0], text });
  return void pinsChanged();
}
function unpin(at) {
  pins.splice(at, 1);
  pinsChanged();
}
// One message for a change, and for quick changes only the last of them: two that overtake each other would leave the old.
async function pinsChanged() {
  const turn = ++pinTurn;
  renderPins();
  const gone = await gonePins();
  if (turn !== pinTurn) return;
  if (gone.size) {
    pins.splice(0, pins.length, ...pins.filter((pin) => !gone.has(pin)));
    sayError(gone.size === 1 ? "A pinned token went: its solution is no longer in memory." : `${gone.size} pinned tokens went: their solutions are no longer in memory.`);
    renderPins();
  }
  trigger("pins", { pins: pins.map(({ run, pos }) => ({ run, pos })) });
}
// Those that the server no longer holds; an answer that does not come says nothing.
async function gonePins() {
  const asked = [...pins], replies = await Promise.allSettled(asked.map(({ run, pos }) => server.inspect({ run, pos })));
  return new Set(asked.filter((_, k) => replies[k].value?.error));
}

// ---- in sight -----------------------------------------------------------------------------------------------
export function renderPins() {
  markPins();
  renderPinButton();
  ui.pins.hidden = !pins.length;
  ui.pinCount.textContent = `${pins.length} of ${MOST_PINS}`;
  ui.pinList.replaceChildren(...pins.map(pinChip));
}
function pinChip(pin, k) {
  const text = make("bdi", "pin-text", oneLine(pin.text).slice(-28)), said = nameOf(pin.said);
  const go = attrs(make("button", "pin-go", text, said), { type: "button", "data-pin": k, title: "Show it in the text" });
  go.setAttribute("aria-label", `Pinned: ${plainName(pin.said)} at token ${pin.pos}`);
  const off = attrs(make("button", "pin-off", "×"), { type: "button", "data-unpin": k, "aria-label": `Unpin ${plainName(pin.said)} at token ${pin.pos}` });
  return make("li", pinnedHere(pin) ? "" : "elsewhere", go, off);
}
function markPins() { // spans come and go with branches, so the marks are set anew
  for (const span of ui.flow.querySelectorAll(".pinned")) span.classList.remove("pinned");
  for (const pin of pins) {
    const span = pinnedHere(pin) && els[pin.pos];
    if (!span) continue;
    splitSpace(span);
    span.classList.add("pinned");
  }
}
export function renderPinButton() {
  if (selected === null) return;
  const on = pinAt(selected) >= 0;
  ui.pin.setAttribute("aria-pressed", String(on));
  ui.pinWord.textContent = on ? "Pinned for training" : "Pin for training";
}
async function visitPin(pin) {
  if (!pinnedHere(pin)) await visit(pin.run);
  if (pinnedHere(pin) && els[pin.pos]) select(pin.pos);
  else pinsChanged();
}
export const pinActions = { pin: togglePin };
ui.pins.addEventListener("click", (e) => {
  const [go, off] = ["[data-pin]", "[data-unpin]"].map((selector) => e.target.closest(selector)?.dataset);
  if (go) visitPin(pins[Number(go.pin)]);
  else if (off) unpin(Number(off.unpin));
});
