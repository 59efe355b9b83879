// The claims view: a board of all verdicts, and under the tile that is chosen the whole claim. A message holds the whole
// state; what never changes came with the page.
import { drawn } from "../common/svg.js";
import { attrs, clip, count, make, showOdd } from "../common/text.js";
import { saveReply } from "../common/figures.js";
import { openView } from "../common/view.js";

const { root, ui, props, server, trigger, hear, ask, sayError } = openView(window.rmxViews["claims/claims_view"]);
const VERDICTS = {
  "agrees": ["✓", "yes"], "differs": ["✗", "no"], "not enough data": ["?", "open"], "by construction": ["≡", "built"],
  "not measured": ["–", "nothing"], "open in the paper": ["○", "open"], "no verdict": ["!", "nothing"],
};
const KEPT = "rmx-claims", EVERY = 1500; // ms between two looks at a job that no stream tells of
const cards = new Map(), shown = { job: null, done: true, asking: null, recorded: false };
const UNMEASURED = { verdict: "not measured", why: "", text: "–", bars: [], state: "waiting" };

// ---- the board ----------------------------------------------------------------------------------------------
function buildBoard() {
  for (const claim of props.claims) {
    const part = {
      badge: make("span", "claim-badge"), where: make("p", "soft where"), text: make("p", "text"), bars: make("div", "bars"),
      why: make("p", "why"), button: attrs(make("button", "button", claim.button), { type: "button" }),
      sign: attrs(make("span", "tile-sign"), { "aria-hidden": "true" }), word: make("span", "tile-word"), figure: make("span", "tile-figure num"),
      graph: make("span", "tile-graph"), section: claim.section ? `section ${claim.section}` : "a control of ours",
    };
    const title = attrs(make("h2", "name-of", claim.claim), { id: `claim-${claim.id}` });
    const notes = make("ul", "", ...claim.caveats.map((c) => make("li", "", c)));
    const how = make("details", "", make("summary", "", "How it is measured"), make("p", "", claim.how), notes);
    part.button.setAttribute("aria-describedby", title.id);
    part.button.dataset.claim = claim.id;
    part.card = attrs(make("section", "card"), { id: `claim-card-${claim.id}`, "aria-labelledby": title.id, "data-claim": claim.id });
    part.card.hidden = true;
    part.card.append(
      make("div", "card-head", title, part.badge), part.where,
      make("div", "sides", make("div", "", make("h3", "", "The paper"), make("p", "", claim.paper)),
        make("div", "", make("h3", "", "Here"), part.text)),
      part.bars, part.why, make("div", "card-foot", how, part.button),
    );
    part.tile = attrs(make("button", "tile", part.sign, make("span", "tile-name", claim.claim), part.figure, part.graph, part.word),
      { type: "button", "aria-expanded": "false", "aria-controls": part.card.id, tabindex: cards.size ? -1 : 0, "data-tile": claim.id });
    cards.set(claim.id, part);
    ui.cards.append(make("li", "", part.tile, part.card)); // the list item has no box of its own: both are cells of one grid
    renderRow({ ...UNMEASURED, id: claim.id });
  }
}
function renderRow(row) {
  const part = cards.get(row.id);
  if (!part) return;
  const measuring = row.state === "measuring", word = measuring ? "measuring" : row.verdict;
  const [sign, kind] = measuring ? ["…", "nothing"] : (VERDICTS[row.verdict] ?? ["–", "nothing"]);
  part.badge.className = `claim-badge ${kind}`;
  part.badge.replaceChildren(attrs(make("span", "", sign), { "aria-hidden": "true" }), ` ${word}`);
  const n = typeof row.n === "number" ? ` · n = ${count(row.n)}` : "";
  const took = typeof row.minutes === "number" && row.minutes > 0 ? ` · ${row.minutes.toFixed(1)} min` : "";
  const rule = row.rule ? ` · judged by: ${row.rule}` : "";
  part.where.textContent = `${part.section}${n}${rule}${took}${row.state === "stopped" ? " · stopped" : ""}`;
  part.text.textContent = showOdd(clip(String(row.text ?? "–"), 1200));
  part.why.textContent = ["waiting", "measuring"].includes(row.state) ? "" : showOdd(clip(String(row.why ?? ""), 900));
  part.why.classList.toggle("wrong", row.state === "failed");
  part.bars.replaceChildren(...(row.bars ?? []).map(makeBar));
  part.button.disabled = !shown.done;
  renderTile(part, kind, sign, row.state === "failed" ? "failed" : word, row.bars?.[0]);
}
const OPEN = "open in the paper";
function renderTile(part, kind, sign, word, bar) { // the figure that the verdict is about stands first among the bars
  part.tile.className = `tile ${kind}`;
  part.sign.textContent = sign;
  part.word.textContent = word;
  // Where no verdict says which way a figure points, its name does.
  part.figure.textContent = bar ? [bar.numbers, word === OPEN ? bar.name : ""].join(" ").trim() : "";
  part.graph.replaceChildren(...(bar ? [graphOf(bar)] : []));
}
function graphOf(bar) {
  const line = (cls, a, b, top, bottom) => drawn("line", { class: cls, x1: a, x2: b, y1: top, y2: bottom });
  const band = bar.band ? [drawn("rect", { class: "band", x: bar.band[0], y: 0, width: Math.max(0, bar.band[1] - bar.band[0]), height: 10 })] : [];
  return drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, ...band,
    line("zero", bar.zero, bar.zero, 0, 10), line("span", bar.low, bar.high, 5, 5), line("dot", bar.value, bar.value, 1.5, 8.5));
}
function makeBar(bar) {
  const whole = attrs(make("div", "bar", make("span", "", bar.name), graphOf(bar), make("span", "num", bar.numbers)), { role: "img" });
  return attrs(whole, { "aria-label": bar.said });
}
// One claim at a time is open, under the row of its tile.
function openClaim(id) {
  for (const [name, { tile, card }] of cards) {
    card.hidden = name !== id || !card.hidden;
    tile.setAttribute("aria-expanded", String(!card.hidden));
  }
  cards.get(id)?.card.scrollIntoView({ block: "nearest" });
}
function focusTile(tile) {
  for (const part of cards.values()) part.tile.tabIndex = part.tile === tile ? 0 : -1;
  tile.focus();
}
ui.cards.addEventListener("keydown", (e) => {
  const tiles = [...cards.values()].map((part) => part.tile), at = tiles.indexOf(e.target);
  if (e.key === "Escape") {
    const open = tiles.find((tile) => tile.ariaExpanded === "true");
    if (!open) return;
    openClaim(open.dataset.tile);
    return focusTile(open);
  }
  const columns = getComputedStyle(ui.cards).gridTemplateColumns.split(" ").length;
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: tiles.length - 1 }[e.key];
  if (at < 0 || !tiles[to]) return;
  e.preventDefault();
  focusTile(tiles[to]);
});

// ---- the state ----------------------------------------------------------------------------------------------
function receive(m) {
  if (!m || typeof m !== "object") return;
  if (m.kind === "refused") return sayError(clip(String(m.error), 600));
  if (m.kind !== "claims") return;
  const fresh = m.id !== shown.job;
  if (fresh && shown.recorded) clearExample();
  Object.assign(shown, { job: m.id, done: !!m.done, told: Date.now(), recorded: !!m.recorded });
  if (fresh && !m.recorded) remember(m.id);
  sayError(m.error ? clip(String(m.error), 600) : "");
  ui.stop.hidden = ui.going.hidden = shown.done;
  ui.stop.disabled = !!m.stopped;
  ui.does.textContent = m.stopped ? "stopping …" : m.does ? m.does[0].toUpperCase() + m.does.slice(1) : "";
  ui.count.textContent = m.of ? `${count(m.at)} of ${count(m.of)}` : "";
  m.of ? attrs(ui.bar, { max: m.of, value: m.at }) : ["max", "value"].forEach((name) => ui.bar.removeAttribute(name));
  for (const row of m.rows) renderRow(row);
  if (!m.rows.length) for (const part of cards.values()) part.button.disabled = !shown.done;
  ui.report.disabled = !m.rows.some((row) => row.verdict !== "not measured");
  renderTally(m.rows);
  if (m.pair) renderFacts(m);
  if (Array.isArray(m.caveats)) ui.caveats.replaceChildren(...m.caveats.map((c) => make("li", "", c)));
  if (!shown.done) lookSoon();
}
function clearExample() { // it gives way to what the visitor measures
  for (const id of cards.keys()) renderRow({ ...UNMEASURED, id });
  ui.facts.replaceChildren();
  ui.made.hidden = ui.examples.hidden = true;
}
async function showExample(id) {
  try {
    const m = await server.claims_tail({ id });
    if (m?.kind === "claims" && (!shown.job || shown.recorded)) receive(m);
  } catch { /* nothing to show, then */ }
}
function renderTally(rows) {
  const counts = new Map();
  for (const row of rows) if (row.verdict !== "not measured") counts.set(row.verdict, (counts.get(row.verdict) ?? 0) + 1);
  const order = Object.keys(VERDICTS).filter((verdict) => counts.has(verdict));
  ui.tally.replaceChildren(...order.map((verdict) => {
    const [sign, kind] = VERDICTS[verdict];
    return make("li", "", make("span", `claim-badge ${kind}`, attrs(make("span", "", sign), { "aria-hidden": "true" }), ` ${verdict}`), ` ${counts.get(verdict)}`);
  }));
}
function renderFacts(m) {
  const pair = make("bdi", "", showOdd(clip(String(m.pair), 160)));
  ui.facts.replaceChildren(pair, ` · the first ${count(m.n)} problems of ${showOdd(clip(String(m.set), 120))} (${m.licence}) · threshold ${m.tau} nats · seed ${m.seed}`,
    m.calibration ? ` · ${showOdd(clip(String(m.calibration.sentence), 300))}` : "");
  if (m.recorded) ui.facts.prepend(make("span", "recorded", "a recorded example"), " ");
  ui.examples.hidden = !m.recorded || props.recorded.length < 2;
  for (const button of ui.examples.children) button.ariaPressed = String(button.dataset.example === m.id);
  ui.made.hidden = !m.command;
  ui.made.replaceChildren("The same from a shell: ", make("code", "num", showOdd(clip(String(m.command ?? ""), 900))));
}

// ---- what is pressed ----------------------------------------------------------------------------------------
root.addEventListener("click", (e) => {
  const example = e.target.closest("[data-example]")?.dataset.example;
  if (example) return showExample(example);
  const claim = e.target.closest("[data-claim]")?.dataset.claim, tile = e.target.closest("[data-tile]"), go = e.target.closest("[data-do]")?.dataset.do;
  if (tile) {
    focusTile(tile);
    openClaim(tile.dataset.tile);
  } else if (e.target.closest("button[data-claim]")) {
    sayError();
    trigger("measure", { claim, before: shown.job });
  } else if (go === "stop") {
    ui.stop.disabled = true;
    trigger("halt", { id: shown.job });
  } else if (go === "report") ask("claims_export", { id: shown.job }).then(saveReply);
});

// ---- a page that was reloaded, or a stream that broke off ----------------------------------------------------
function remember(id) {
  try {
    sessionStorage.setItem(KEPT, id);
  } catch { /* a browser that keeps nothing */ }
}
function lookSoon() {
  clearTimeout(shown.asking);
  shown.asking = setTimeout(look, EVERY);
}
async function look() {
  if (!root.isConnected || shown.done) return;
  if (document.hidden || Date.now() - shown.told < EVERY) return lookSoon();
  try {
    const m = await server.claims_tail({ id: shown.job });
    if (m?.kind === "claims" && m.id === shown.job && !shown.done) receive(m);
  } catch { /* asked again */ }
  if (!shown.done) lookSoon();
}
async function resumeSight() {
  let kept = null;
  try {
    kept = sessionStorage.getItem(KEPT);
  } catch { /* as above */ }
  for (const id of [kept, props.recorded[0]?.id]) if (id && !shown.job) await showExample(id);
}

window.rmxClaims = Object.assign(window.rmxClaims ?? {}, { job: () => shown.job });
ui.examples.append("Recorded: ", ...props.recorded.map(({ id, label }) => attrs(make("button", "button", label), { type: "button", "data-example": id })));
buildBoard();
hear(receive);
resumeSight();
