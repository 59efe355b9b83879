// The claims view: one card for each claim. A message holds the whole state; what never changes came with the page.
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
const cards = new Map(), shown = { job: null, done: true, asking: null };

// ---- cards --------------------------------------------------------------------------------------------------
function buildCards() {
  for (const claim of props.claims) {
    const part = {
      badge: make("span", "claim-badge"), where: make("p", "soft where"), text: make("p", "text"), bars: make("div", "bars"),
      why: make("p", "why"), button: attrs(make("button", "button small", claim.button), { type: "button" }),
    };
    const section = claim.section ? `section ${claim.section}` : "a control of ours";
    const title = attrs(make("h2", "name-of", claim.claim), { id: `claim-${claim.id}` });
    const notes = make("ul", "", ...claim.caveats.map((c) => make("li", "", c)));
    const how = make("details", "", make("summary", "", "How it is measured"), make("p", "", claim.how), notes);
    part.button.setAttribute("aria-describedby", title.id);
    part.button.dataset.claim = claim.id;
    part.section = section;
    const card = attrs(make("li", "card"), { "aria-labelledby": title.id, "data-claim": claim.id });
    card.append(
      make("div", "card-head", title, part.badge), part.where,
      make("div", "sides", make("div", "", make("h3", "", "The paper"), make("p", "", claim.paper)),
        make("div", "", make("h3", "", "Here"), part.text)),
      part.bars, part.why, make("div", "card-foot", how, part.button),
    );
    cards.set(claim.id, part);
    ui.cards.append(card);
    renderRow({ id: claim.id, verdict: "not measured", why: "", text: "–", bars: [], state: "waiting" });
  }
}
function renderRow(row) {
  const part = cards.get(row.id);
  if (!part) return;
  const measuring = row.state === "measuring";
  const [sign, kind] = measuring ? ["…", "nothing"] : (VERDICTS[row.verdict] ?? ["–", "nothing"]);
  part.badge.className = `claim-badge ${kind}`;
  part.badge.replaceChildren(attrs(make("span", "", sign), { "aria-hidden": "true" }), ` ${measuring ? "measuring" : row.verdict}`);
  const n = typeof row.n === "number" ? ` · n = ${count(row.n)}` : "";
  const took = typeof row.minutes === "number" && row.minutes > 0 ? ` · ${row.minutes.toFixed(1)} min` : "";
  const rule = row.rule ? ` · judged by: ${row.rule}` : "";
  part.where.textContent = `${part.section}${n}${rule}${took}${row.state === "stopped" ? " · stopped" : ""}`;
  part.text.textContent = showOdd(clip(String(row.text ?? "–"), 1200));
  part.why.textContent = ["waiting", "measuring"].includes(row.state) ? "" : showOdd(clip(String(row.why ?? ""), 900));
  part.why.classList.toggle("wrong", row.state === "failed");
  part.bars.replaceChildren(...(row.bars ?? []).map(makeBar));
  part.button.disabled = !shown.done;
}
function makeBar(bar) {
  const line = (cls, a, b, top, bottom) => drawn("line", { class: cls, x1: a, x2: b, y1: top, y2: bottom });
  const band = bar.band ? [drawn("rect", { class: "band", x: bar.band[0], y: 0, width: Math.max(0, bar.band[1] - bar.band[0]), height: 10 })] : [];
  const svg = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, ...band,
    line("zero", bar.zero, bar.zero, 0, 10), line("span", bar.low, bar.high, 5, 5), line("dot", bar.value, bar.value, 1.5, 8.5));
  const whole = attrs(make("div", "bar", make("span", "", bar.name), svg, make("span", "num", bar.numbers)), { role: "img" });
  return attrs(whole, { "aria-label": bar.said });
}

// ---- the state ----------------------------------------------------------------------------------------------
function receive(m) {
  if (!m || typeof m !== "object") return;
  if (m.kind === "refused") return sayError(clip(String(m.error), 600));
  if (m.kind !== "claims") return;
  const fresh = m.id !== shown.job;
  Object.assign(shown, { job: m.id, done: !!m.done, told: Date.now() });
  if (fresh) remember(m.id);
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
  ui.made.hidden = !m.command;
  ui.made.replaceChildren("The same from a shell: ", make("code", "num", showOdd(clip(String(m.command ?? ""), 900))));
}

// ---- what is pressed ----------------------------------------------------------------------------------------
root.addEventListener("click", (e) => {
  const claim = e.target.closest("[data-claim]")?.dataset.claim, go = e.target.closest("[data-do]")?.dataset.do;
  if (e.target.closest("button[data-claim]")) {
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
  let id = null;
  try {
    id = sessionStorage.getItem(KEPT);
  } catch { /* as above */ }
  if (!id || shown.job) return;
  try {
    const m = await server.claims_tail({ id });
    if (m?.kind === "claims" && !shown.job) receive(m);
  } catch { /* nothing to show, then */ }
}

window.rmxClaims = Object.assign(window.rmxClaims ?? {}, { job: () => shown.job });
buildCards();
hear(receive);
resumeSight();
