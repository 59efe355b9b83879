// A token of a solution as the views and the exported file show it.
import { attrs, count, fill, make, meaningOf, nameOf, odds, splitSpace } from "./text.js";

export const CEILING = 2.5; // the ramp of entropy is full at so many nats, for every model alike

export function tokenSpan(text, pos, kinds = {}) { // `kinds` names what else it is, such as forced or special
  const span = attrs(make("span", "t"), { "data-i": pos }), all = { part: text === "", blank: /^ +$/.test(text), ...kinds };
  fill(span, text);
  if (kinds.special && meaningOf(text)) span.dataset.means = meaningOf(text);
  for (const kind in all) if (all[kind]) span.classList.add(kind);
  return span;
}
export function tint(span, heat) { // from 0 to 1
  const h = Math.min(1, heat);
  if (h > 0.04) splitSpace(span);
  if (h > 0.008) span.style.setProperty("--h", h.toFixed(3));
  else span.style.removeProperty("--h");
}
export function underline(span, entropy) { // a fork: the thicker, the more undecided
  splitSpace(span);
  span.style.setProperty("--u", (1 + 3 * Math.min(1, entropy / CEILING)).toFixed(1));
}
// A token that could stand there, with its probability: a row with `more` below it, and a badge where it is the one.
export function altRow(tag, alt, rank, badge, ...more) {
  const bar = make("i", "meter"), name = make("span", "what", nameOf(alt.text ?? "")), p = odds(alt.p ?? 0);
  bar.style.setProperty("--p", alt.p ?? 0);
  if (badge) name.append(make("span", "badge", badge));
  const row = make(tag, "alt", make("kbd", "", count(rank)), name, make("span", "num", p), bar, ...more);
  return tag === "button" ? attrs(row, { type: "button" }) : row;
}
