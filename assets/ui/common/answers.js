// Answers, right or wrong, and the known answer they are judged by.
import { attrs, clip, make, showOdd } from "./text.js";

export const textOf = (answer) => answer?.text ?? null;
export const kindOf = (a) => (textOf(a) === null || typeof a.correct !== "boolean" ? "none" : a.correct ? "right" : "wrong");
export const SIGNS = { right: "✓", wrong: "✗", none: "–" };
export const mark = (a) => make("span", kindOf(a), `${SIGNS[kindOf(a)]} `, textOf(a) === null ? "none" : showOdd(clip(textOf(a), 60)));
// The answer, large; `before` stands in front of it where it is shown to a room.
export function valueOf(answer, before = null) {
  const text = textOf(answer), value = text === null ? make("span", "none", "–") : make("span", "", showOdd(clip(text, 120)));
  if (before) value.dataset.before = `${SIGNS[kindOf(before)]} ${textOf(before) === null ? "none" : showOdd(clip(textOf(before), 12))} → `;
  if (before) value.classList.add(`from-${kindOf(before)}`);
  return value;
}
export function verdictOn(answer) {
  const kind = kindOf(answer), word = kind !== "none" ? kind : textOf(answer) === null ? "no answer" : "not checked";
  return make("span", kind, `${SIGNS[kind]} ${word}`);
}
export const STOPS = { // how a text ended, behind what is said of it
  cancelled: "; stopped by hand", length: "; cut at the length limit", context: "; the context is full", error: "; broken off",
  stop_sequence: "; ended by a stop text",
};

// ---- the known answer ---------------------------------------------------------------------------------------
export const knownText = ({ known, known_computed }) => (known ? `known answer ${known}${known_computed ? ", computed from the text" : ""}` : "no known answer");
// Its box stands beside the problem's, outside the view; a button leads there, where there is such a box.
const knownBox = (id) => document.querySelector(`#${id} input, #${id} textarea`);
export function giveKnown(id) {
  const box = knownBox(id);
  box?.focus({ preventScroll: true });
  box?.scrollIntoView({ block: "center" });
}
export const offerKnown = (id) => (knownBox(id) ? [attrs(make("button", "link give-known", "Give the known answer"), { type: "button", "data-do": "giveKnown" })] : []);
