// What the colour of a token tells: the entropy of the choice, or of the token that stands there its surprise or rank.
// Entropy is about the distribution alone; a wrong token of a pasted text shows
// by its surprise, -ln p.
import { count, nameOf, odds, undecided } from "../common/text.js";
import { CEILING, tint } from "../common/tokens.js";
import { root, ui } from "./context.js";
import { els, forks, keepTabStop, markToken, presenter, settled, shown, summary, tree } from "./token_view.js";

export const surpriseOf = ([, , p]) => (p > 0 ? -Math.log(Math.min(1, p)) : Infinity);
const NAT = "A nat is a unit of information: 0.69 nats are as undecided as between two equal words, 1.10 as between three.";
const SHADES = { // heat from 0 to 1, and the ends of the scale
  entropy: { heat: ([, H]) => (H ?? 0) / CEILING, scale: `0 – ${CEILING}+`, unit: "nats of entropy: how undecided the model was" },
  surprise: { heat: (tok) => surpriseOf(tok) / 7, scale: "0 – 7+", unit: "nats of surprise, −ln p of the token that stands there" },
  rank: { heat: ([, , , rank]) => Math.log10(Math.max(1, rank ?? 1)), scale: "1 – 10+", unit: "rank of the token that stands there" },
};
const SURPRISING = 0.01; // probability below which a token that stands there is marked
export let shade = "entropy";

export const isUnlikely = (tok) => shade !== "entropy" && (tok[2] ?? 1) < SURPRISING;
export const nats = (x) => (Number.isFinite(x) ? Math.max(0, x).toFixed(2) : "∞");
export const tintToken = (span, tok) => tint(span, SHADES[shade].heat(tok));
export function setShade(name) {
  if (!SHADES[name]) return;
  shade = name;
  for (const other in SHADES) root.classList.toggle(`by-${other}`, other === name);
  for (const input of ui.shades.querySelectorAll("input")) input.checked = input.value === name;
  ui.scale.textContent = SHADES[name].scale;
  ui.unit.textContent = SHADES[name].unit;
  ui.unit.title = name === "rank" ? "" : NAT;
  ui.unlikelyKey.hidden = name === "entropy";
  els.forEach((span, pos) => (tintToken(span, shown.toks[pos]), markToken(span, shown.toks[pos], pos)));
  keepTabStop();
  if (settled) ui.status.textContent = summary(shown);
}
// A text that was read is judged token by token; what the model wrote itself holds few surprises.
export function shadeFor(b) {
  const first = tree.some((row) => row.run === b.run) && tree.find((row) => row.run && !row.parent);
  setShade([b.open?.label, first?.label].includes("read") ? "surprise" : "entropy");
}
export const nextShade = () => setShade(Object.keys(SHADES)[(Object.keys(SHADES).indexOf(shade) + 1) % 3]);
ui.shades.addEventListener("change", (e) => setShade(e.target.value));

// The tokens that n and p walk: what the colour marks.
export const unlikely = () => els.flatMap((_, pos) => (isUnlikely(shown.toks[pos]) ? [pos] : []));
export function stops() {
  const marked = presenter.on ? [] : unlikely();
  return marked.length ? marked : forks;
}

// ---- the sentence about the token that stands there --------------------------------------------------------
export function standsThere([text, , p, rank], expected) {
  const here = nameOf(text), said = odds(p ?? 0);
  if (rank === 1) return ["The model expected ", here, ` here with ${said}.`];
  if (!expected) return [here, ` has ${said} here (rank ${count(rank)}).`];
  return ["The model expected ", nameOf(expected.text), ` here with ${odds(expected.p ?? 0)}; `, here, ` has ${said} (rank ${count(rank)}).`];
}
export const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
export const aboutChoice = ([, H, , rank]) => (rank > 1 && Math.exp(H ?? 0) < 1.05 ? "practically decided, for another token" : undecided(H));
