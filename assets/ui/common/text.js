// Text of a model on a page, shared by the views and by the file that a tree is exported to.
// All of it enters the page as text nodes or attributes, never as markup.
export function make(tag, cls = "", ...kids) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  node.append(...kids);
  return node;
}
export const attrs = (node, pairs) => (Object.entries(pairs).forEach(([key, value]) => node.setAttribute(key, value)), node);
export const say = (node, text) => node.textContent !== text && (node.textContent = text); // an equal text must not touch the page
export const count = (n) => (Number.isInteger(n) ? String(n).replace(/\B(?=(\d{3})+$)/g, ",") : n.toLocaleString("en")); // that takes long once
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const waitingText = (ahead, seconds) => // the place in the model's line, and the wait by the turns of late
  `waiting: ${plural(ahead, "request")} before yours${seconds >= 1 ? `, about ${Math.round(seconds)} s` : ""} …`;
export function percent(p) {
  const figure = p >= 0.9995 ? "100" : p >= 0.1 ? (100 * p).toFixed(0) : p >= 0.001 ? (100 * p).toFixed(1) : "<0.1";
  return `${figure}\u202f%`;
}
// A token's probability: never a round 100 %, which would leave nothing for the others.
export const odds = (p) => (p >= 0.9995 ? ">99.9\u202f%" : p >= 0.99 ? `${(Math.floor(1000 * p) / 10).toFixed(1)}\u202f%` : percent(p));

export function howOften(p) { // p = 0.07 is "1 time in 14"
  if (!(p > 0)) return "practically never";
  if (p > 0.55) return p > 0.95 ? "nearly always" : `${Math.round(10 * p)} times in 10`;
  return p < 1e-6 ? "less than once in a million" : `1 time in ${count(Math.round(1 / p))}`;
}
export function undecided(entropy) {
  const words = Math.exp(entropy ?? 0);
  return words < 1.05 ? "practically decided" : `as undecided as between ${words.toFixed(1)} words`;
}

// Characters that are invisible or that reorder what follows (one bidi override turns a whole paragraph) become
// visible. The two joiners stay as they are: emoji and Arabic need them.
const ODD = new RegExp("[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e" +
  "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}]", "gu");
export const showOdd = (s) => s.replace(ODD, (c) => `⟪${c.codePointAt(0).toString(16).padStart(4, "0")}⟫`);
export const clip = (s, n) => (s.length > n ? `${s.slice(0, n)}…(+${count(s.length - n)} characters)` : s);

// One line that names a token: quiet signs for what cannot be seen.
export function plainName(text) {
  if (text === "") return "▪";
  const short = clip(text.replace(/\n{4,}/g, (m) => `↵×${count(m.length)}`), 60);
  const spaced = showOdd(short).replace(/^ +| +$/g, (m) => "␣".repeat(m.length));
  return spaced.replaceAll("\n", "↵").replaceAll("\t", "⇥");
}
export function nameOf(text) {
  const parts = plainName(text).split(/([␣↵⇥▪]+)/).filter(Boolean), means = meaningOf(text);
  const name = make("bdi", "name", ...parts.map((s) => (/^[␣↵⇥▪]/.test(s) ? make("i", "quiet", s) : s)));
  if (means) attrs(name, { class: "name meant", "data-means": means, title: text });
  return name;
}
// What an end token means; "" for any other text. A page shows it in place of the text, which a tooltip then has.
const END = /^<(\/s|eos|[|｜]?(end|im_end|eot|eot_id|endoftext|end_of_text|end_of_turn|end▁of▁sentence)[|｜]?)>$/;
export const meaningOf = (text) => (END.test(text) ? "end of the solution" : "");
export const oneLine = (text) => showOdd(clip(text, 240)).replace(/\n+/g, " ↵ ").replaceAll("\t", " ");

// ---- one token as text --------------------------------------------------------------------------------------
export function fill(span, text) {
  for (const part of clip(text, 20_000).split(/(\n+|\t+)/)) {
    const n = part.length, breaks = part[0] === "\n";
    if (!breaks && part[0] !== "\t") span.append(showOdd(clip(part, 4000)));
    // A token of 10,000 line breaks must not push the page away: four are drawn, the number is written.
    else span.append(attrs(make("i", "nl", breaks ? "\n".repeat(Math.min(n, 4)) : part), { "data-mark": signs(part[0], n) }));
  }
}
const signs = (c, n) => (c === "\t" ? "⇥" : n > 4 ? `↵×${count(n)}` : "↵".repeat(n));

export function splitSpace(span) {
  // Marks belong to the word, not to the space before it.
  const first = span.firstChild, lead = /^ +(?=\S)/.exec(first?.nodeType === 3 ? first.data : "");
  if (!lead || span.classList.contains("split")) return;
  const word = first.splitText(lead[0].length), rest = make("b");
  word.replaceWith(rest);
  rest.append(word);
  span.classList.add("split");
}
