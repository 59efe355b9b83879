// All runs as a table, or as cards where there is no room for one: columns, order, filters, the choice of runs.
// A row lives as long as its run; its figures are written again only when they have changed, so nothing loses the focus.
import { attrs, count, make, plural, showOdd } from "../common/text.js";
import { SIGNS } from "../common/answers.js";
import { keyed, plain } from "../common/tables.js";
import { around, clock, figure, intervalBar, written } from "../common/estimates.js";
import { STYLES } from "../common/svg.js";
import { props, sayError, ui } from "./context.js";
import { renderDetail } from "./runs_detail.js";

export const ACTIVE = ["queued", "running", "stopping"], ENDED = ["stopped", "interrupted", "failed"];
export const STATES = { // sign, word
  queued: ["○", "waiting"], running: ["▶", "running"], stopping: ["■", "stopping"], stopped: ["■", "stopped"],
  interrupted: ["!", "interrupted"], failed: ["✗", "failed"], done: ["✓", "done"],
};
export const STAGES = { rollouts: "sampling", selection: "selecting", gate: "gating", training: "training", final: "measuring" };
const GROUPS = { // chips over the table
  all: () => true, "under way": (row) => ACTIVE.includes(row.state), done: (row) => row.state === "done",
  "broken off": (row) => ENDED.includes(row.state),
};
export const BUILT = "This miniature was built with a few decisive forks: what training gains on it, it gains by construction.";
export const all = { rows: [], entries: new Map(), sort: ["run", -1], group: "all", model: "", open: null, me: { owner: null, admin: false } };
export const chosen = new Map(); // id -> style of its curves

export const rowOf = (id) => all.rows.find((row) => row.id === id) ?? null;
export const mine = (row) => all.me.admin || (row.owner != null && row.owner === all.me.owner);
const unread = (cls, sign) => attrs(make("i", cls, sign), { "aria-hidden": "true" });
const lines = (first, second) => [make("span", "first", ...[first].flat()), make("span", "second soft", ...[second].flat())];

// ---- how a figure is written --------------------------------------------------------------------------------
export function fieldName(name) {
  return name.replaceAll("_", " ");
}
export function fieldValue(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return plain(value.join(", "), 80);
  if (typeof value !== "number") return plain(value, 80);
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential().replace("e-", "e−") : String(value);
}
export const dollars = (usd) => (usd == null ? "–" : usd === 0 ? "free" : usd < 0.01 ? "< $0.01" : `$${usd.toFixed(2)}`);
export const minutes = (m) => (m == null ? "–" : m >= 100 ? `${(m / 60).toFixed(1)} h` : `${m.toFixed(m < 10 ? 1 : 0)} min`);
export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(n < 1e4 ? 1 : 0)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB` : `${(n / 1e9).toFixed(1)} GB`);
const gainTone = (e) => (e?.low == null ? "none" : e.low > 0 ? "right" : e.high < 0 ? "wrong" : "none");

// ---- cells --------------------------------------------------------------------------------------------------
// What the visitor changed stands first; what the preset changed is counted, and named in the detail.
function recipeCell(row) {
  const preset = props.presets?.[row.preset] ?? {}, differs = Object.entries(row.differs ?? {});
  const told = (pairs) => pairs.map(([name, value]) => `${fieldName(name)} ${fieldValue(value)}`);
  const own = told(differs.filter(([name, value]) => JSON.stringify(preset[name]) !== JSON.stringify(value))), rest = differs.length - own.length;
  const more = rest ? `${own.length ? `${count(rest)} more ${rest === 1 ? "departure" : "departures"}` : plural(rest, "departure")}` : own.length ? "" : "as in the paper";
  return lines(plain(row.preset ?? "own recipe", 40), attrs(make("span", "clamp", [...own, more].filter(Boolean).join(" · ")), { title: told(differs).join(" · ") }));
}
export const nothing = () => make("span", "soft none-yet", "–");
const some = (text) => (text === "–" ? nothing() : figure(text));
function accuracyCell(row) {
  if (row.after?.value == null) return row.before?.value == null ? [nothing()] : lines(figure(written(row.before.value, "share")), around(row.before, "share"));
  const [before, after] = [row.before, row.after].map((e) => written(e?.value, "share"));
  return lines([make("span", "num soft", before), make("span", "soft", " → "), make("span", "num", after)], around(row.after, "share"));
}
function gainCell(row, reach) { // the paired difference, all rows on one scale: right of the line is better
  const e = row.vs_base, tone = gainTone(e);
  if (e?.value == null) return [nothing()];
  const sign = SIGNS[tone], text = `${written(e.value, "points")} points, ${around(e, "points")}`;
  return [intervalBar(e, text, { from: -reach, to: reach, mark: 0, look: `gain ${tone}` }), make("span", "gain-text", make("span", `${tone} sign`, sign), figure(written(e.value, "points")),
    make("span", "soft interval", around(e, "points")))];
}
function stateCell(row) {
  const [sign, word] = STATES[row.state] ?? ["?", plain(row.state, 20)];
  const head = make("span", `state ${row.state in STATES ? row.state : ""}`, unread("sign", sign), word);
  if (row.state === "queued") return lines(head, row.ahead ? `${count(row.ahead)} before it` : "next");
  if (row.state === "interrupted") return lines(head, "its process ended; what it has is kept");
  if (!ACTIVE.includes(row.state)) return lines(head, attrs(make("span", "clamp", plain(row.message, 300)), { title: plain(row.message, 600) }));
  const left = row.left == null ? "" : `, ${clock(row.left)} left`, of = row.of ? ` ${count(row.at ?? 0)} of ${count(row.of)}` : "";
  const bar = attrs(make("progress"), { max: Math.max(1, row.of ?? 1), value: row.at ?? 0, "aria-label": "Progress" });
  return [...lines(head, `${STAGES[row.stage] ?? plain(row.stage, 20)}${of}${left}`), bar];
}
function ownerCell(row) {
  if (row.owner == null) return [attrs(make("span", "soft", "shell"), { title: "Started by command" })];
  const own = row.owner === all.me.owner, short = showOdd([...row.owner].slice(0, 6).join(""));
  return [attrs(make("span", own ? "own" : "soft num", own ? "you" : short), { title: own ? "" : plain(row.owner, 60) })];
}
function tauCell(row) {
  const tau = some(row.tau == null ? "–" : row.tau.toFixed(2));
  return row.taus ? lines(tau, `${row.state === "done" ? "best" : "sweep"} of ${count(row.taus.length)}`) : [tau];
}
function modelCell(row) {
  const about = row.by_construction ? [attrs(make("span", "built", "by construction"), { title: BUILT })] : [];
  return lines(plain(row.model, 40), [plain(row.set, 30), ...about]);
}
// key: name, how it sorts, which way first, what stands in it
export const number = (value) => (value == null || !Number.isFinite(value) ? null : value);
export const COLUMNS = {
  run: ["run", (row) => row.created, -1, null],
  model: ["model, set", (row) => `${row.model} ${row.set}`, 1, modelCell],
  recipe: ["recipe", (row) => row.preset ?? "", 1, recipeCell],
  tau: ["τ", (row) => number(row.tau), -1, tauCell],
  gated: ["gated", (row) => number(row.gated), -1, (row) => [some(written(row.gated, "share"))]],
  pass: ["before → after", (row) => number(row.after?.value), -1, accuracyCell],
  gain: ["points gained, 95 %", (row) => number(row.vs_base?.value), -1, gainCell],
  time: ["time", (row) => number(row.minutes), -1, (row) => [some(minutes(row.minutes))]],
  cost: ["cost", (row) => number(row.usd), -1, (row) => [some(dollars(row.usd))]],
  state: ["state", (row) => Object.keys(STATES).indexOf(row.state), 1, stateCell],
  owner: ["by", (row) => (row.owner === all.me.owner && row.owner != null ? "" : row.owner ?? "\uffff"), 1, ownerCell],
};

// ---- rows ---------------------------------------------------------------------------------------------------
export function entryOf(row) {
  const known = all.entries.get(row.id);
  if (known) return known;
  const check = attrs(make("input"), { type: "checkbox", "aria-label": `Choose ${plain(row.id, 60)}` }), sub = make("span", "second soft clamp");
  const opener = attrs(make("button", "opener", unread("chevron", "›"), plain(row.id, 60)), { type: "button", "aria-expanded": "false", "data-open": row.id });
  const tr = make("tr", "run-row", make("td", "choose", check), attrs(make("th", "cell-run", opener, sub), { scope: "row" }));
  for (const key of Object.keys(COLUMNS).slice(1)) {
    const td = make("td", `cell-${key}`);
    td.dataset.name = COLUMNS[key][0];
    tr.append(td);
  }
  check.dataset.choose = tr.dataset.run = row.id;
  check.disabled = !!row.recorded; // nothing more is known of it than its row
  const entry = { tr, check, opener, sub, detail: null, said: "" };
  all.entries.set(row.id, entry);
  return entry;
}
function fillRow(row, reach) {
  const entry = entryOf(row), says = JSON.stringify([row, reach, all.me.owner]);
  entry.check.checked = chosen.has(row.id);
  entry.tr.classList.toggle("is-chosen", chosen.has(row.id));
  if (entry.said === says) return entry;
  entry.said = says;
  entry.sub.textContent = plain(row.note, 160);
  Object.entries(COLUMNS).slice(1).forEach(([, column], k) => {
    const td = entry.tr.children[k + 2];
    td.replaceChildren(...column[3](row, reach));
    td.classList.toggle("blank", !!td.firstChild?.matches(".none-yet"));
  });
  entry.tr.classList.toggle("no-gain", row.vs_base?.value == null);
  if (all.open === row.id) renderDetail(row);
  return entry;
}
// One scale for all intervals: the widest of them, rounded up.
function reachOf(rows) {
  const most = Math.max(0.05, ...rows.flatMap((row) => [row.vs_base?.low, row.vs_base?.high]).filter((v) => number(v) !== null).map(Math.abs));
  return [0.1, 0.2, 0.3, 0.5].find((r) => r >= most) ?? 1;
}
function sorted(rows) {
  const [key, way] = all.sort, value = COLUMNS[key][1];
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(String(b)) : a - b);
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return x === y ? b.created - a.created : x === null ? 1 : -1; // what is not known goes last
    return way * compare(x, y) || b.created - a.created;
  });
}
export function renderRows() {
  const visible = sorted(all.rows.filter((row) => GROUPS[all.group](row) && (!all.model || row.model === all.model))), reach = reachOf(all.rows);
  const nodes = visible.flatMap((row) => {
    const entry = fillRow(row, reach);
    return all.open === row.id && entry.detail ? [entry.tr, entry.detail] : [entry.tr];
  });
  const there = [...ui.rows.children];
  if (nodes.length !== there.length || nodes.some((node, k) => node !== there[k])) {
    const held = document.activeElement;
    ui.rows.replaceChildren(...nodes);
    if (held !== document.activeElement && ui.rows.contains(held)) held.focus({ preventScroll: true }); // a row that moved keeps the focus
  }
  ui.noMatch.hidden = visible.length > 0 || !all.rows.length;
  const recorded = all.rows.length > 0 && all.rows.every((row) => row.recorded);
  ui.recorded.hidden = !recorded;
  ui.welcome.hidden = all.rows.length > 0 && !recorded;
  ui.all.classList.toggle("is-recorded", recorded);
  ui.tools.hidden = !all.rows.length;
  ui.table.hidden = !visible.length;
}

// ---- over the table -----------------------------------------------------------------------------------------
export function renderTools() {
  const tally = Object.entries(GROUPS).map(([name, fits]) => [name, all.rows.filter(fits).length]).filter(([name, n]) => n || name === all.group || name === "all");
  keyed(ui.states, tally, ([name, n]) => {
    const chip = attrs(make("button", "chip", `${name} `, make("span", "num", count(n))), { type: "button", "data-group": name });
    return attrs(chip, { "aria-pressed": String(name === all.group) });
  });
  const models = [...new Set(all.rows.map((row) => row.model))].sort();
  ui.modelBox.hidden = models.length < 2 && !all.model;
  keyed(ui.byModel, ["", ...models], (model) => Object.assign(make("option", "", model ? plain(model, 60) : "all"), { value: model }));
  ui.byModel.value = all.model;
  const queued = all.rows.filter((row) => row.state === "queued").length, running = all.rows.filter((row) => ["running", "stopping"].includes(row.state)).length;
  const words = [running && `${count(running)} running`, queued && `${count(queued)} waiting`].filter(Boolean).join(", ");
  if (ui.status.textContent !== words) ui.status.textContent = words;
}
export function buildHeads() {
  const heads = Object.entries(COLUMNS).map(([key, [name]]) => {
    const button = attrs(make("button", "", name, unread("arrow", "↓")), { type: "button", "data-sort": key });
    return attrs(make("th", `cell-${key}`, button), { scope: "col" });
  });
  ui.heads.append(make("td", "choose"), ...heads);
  ui.sortBy.append(...Object.entries(COLUMNS).map(([key, [name]]) => Object.assign(make("option", "", name), { value: key })));
}
export function sortBy(key, way = all.sort[0] === key ? -all.sort[1] : COLUMNS[key][2]) {
  all.sort = [key, way];
  for (const th of ui.heads.querySelectorAll("th")) {
    const here = th.firstChild.dataset.sort === key;
    th.querySelector(".arrow").textContent = here && way > 0 ? "↑" : "↓";
    here ? th.setAttribute("aria-sort", way > 0 ? "ascending" : "descending") : th.removeAttribute("aria-sort");
  }
  ui.sortBy.value = key;
  renderRows();
}
export function renderPicked() {
  ui.picked.hidden = !chosen.size;
  ui.all.classList.toggle("has-picked", chosen.size > 0);
  ui.pickedCount.textContent = chosen.size === 1 ? "1 run chosen; choose another to compare" : `${chosen.size} runs chosen`;
  ui.compare.disabled = chosen.size < 2;
}
export function choose(id, on) {
  if (!on) chosen.delete(id);
  else if (chosen.size >= STYLES) sayError(`At most ${STYLES} runs can be told apart in one panel. Take one out first.`);
  else {
    const taken = new Set(chosen.values());
    chosen.set(id, [...Array(STYLES).keys()].find((style) => !taken.has(style))); // a run keeps its colour
    sayError();
  }
  renderPicked();
  renderRows();
}
