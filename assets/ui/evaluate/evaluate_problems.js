// Which problems were won, which lost, and which only because an answer was cut off; each with both answers, and a way
// to the other tabs.
import { attrs, clip, count, make, oneLine, showOdd } from "../common/text.js";
import { mark } from "../common/answers.js";
import { cell, header, keyed, plain } from "../common/tables.js";
import { figure } from "../common/estimates.js";
import { ui } from "./context.js";
import { chips, job, others, samplesOf, shortName, shown } from "./evaluate_table.js";

const GROUPS = { won: "won", lost: "lost", cut: "changed by truncation", all: "all" };
const RULES = {
  greedy: "By the greedy answer: won is wrong before and right after, lost the other way round. Where one of the two was cut off, the difference may be the limit’s.",
  samples: "By the samples: won is half or less right before and more than half after, lost the other way round.",
};
const baseName = () => job.report?.models?.[0]?.name;
const shareOf = (found) => (found?.samples ? found.right / found.samples : null);

// What has become of a problem: "won", "lost" or "", whether a cut may be the reason, and how far it moved.
function fate(row, name = shown.name, by = shown.by) {
  const before = row.models?.[baseName()], after = row.models?.[name];
  const judge = by === "greedy" ? (found) => found?.greedy?.correct : (found) => (shareOf(found) == null ? null : shareOf(found) > 0.5);
  const [was, is] = [judge(before), judge(after)];
  if (typeof was !== "boolean" || typeof is !== "boolean") return { change: "", cut: false, moved: 0 };
  const cutOff = (found) => (by === "greedy" ? !!found.greedy.truncated : found.truncated > 0);
  const change = was === is ? "" : is ? "won" : "lost";
  return { change, cut: !!change && (cutOff(before) || cutOff(after)), moved: (shareOf(after) ?? 0) - (shareOf(before) ?? 0) };
}
export function inPart() {
  const rows = [...job.rows.values()].filter(({ row }) => !shown.part || row.part === shown.part);
  return rows.map((entry) => ({ ...entry, fate: fate(entry.row) }));
}
const fits = { won: (f) => f.change === "won", lost: (f) => f.change === "lost", cut: (f) => f.cut, all: () => true };
function ordered(rows) { // what moved furthest first; in the list of all, the order of the set
  const byPlace = (a, b) => a.place - b.place;
  return rows.sort(shown.group === "all" ? byPlace : (a, b) => Math.abs(b.fate.moved) - Math.abs(a.fate.moved) || byPlace(a, b));
}
export function renderProblems() {
  const paired = others().length > 0, rows = inPart();
  ui.problems.hidden = !job.rows.size;
  if (!paired) shown.group = "all";
  ui.listTitle.textContent = paired ? "Won and lost" : "The problems";
  const tally = Object.entries(GROUPS).map(([key, words]) => [key, words, rows.filter((entry) => fits[key](entry.fate)).length]);
  chips(ui.groups, "group", paired ? tally : []);
  chips(ui.by, "by", paired && samplesOf() ? [["greedy", "greedy answer"], ["samples", "by samples"]] : []);
  chips(ui.names, "name", others().map((name) => [name, shortName(name)]));
  ui.rule.hidden = !paired;
  ui.rule.textContent = RULES[shown.by];
  const found = ordered(rows.filter((entry) => fits[shown.group](entry.fate))), some = found.slice(0, shown.most);
  keyed(ui.list, some, problemItem);
  ui.noSuch.hidden = found.length > 0;
  ui.noSuch.textContent = { won: "No problem was won.", lost: "No problem was lost.", cut: "No problem changed because an answer was cut off.", all: "No problem is complete yet." }[shown.group];
  ui.more.hidden = found.length <= some.length;
  ui.more.textContent = `Show ${count(Math.min(100, found.length - some.length))} more of ${count(found.length)}`;
}

// ---- one problem --------------------------------------------------------------------------------------------
const answerMark = (found) => {
  if (!found?.greedy) return make("span", "soft", "–");
  const node = mark({ text: found.greedy.answer, correct: found.greedy.correct });
  if (found.greedy.truncated) node.append(make("span", "soft cut", " cut off"));
  return node;
};
function shareMark(found) {
  if (!found?.samples) return make("span", "soft", "–");
  const meter = attrs(make("i", "share-bar"), { style: `--p: ${shareOf(found)}`, "aria-hidden": "true" });
  return make("span", "num", `${count(found.right)}/${count(found.samples)}`, meter);
}
function problemItem({ row, fate: { change } }) {
  const open = shown.open.has(row.id), before = row.models?.[baseName()], after = row.models?.[shown.name];
  const sides = after ? [answerMark(before), unread(" → "), answerMark(after)] : [answerMark(before)];
  const shares = samplesOf() ? [shareMark(before), ...(after ? [unread(" → "), shareMark(after)] : [])] : [];
  const sign = { won: ["right", "✓"], lost: ["wrong", "✗"] }[change] ?? ["none", "·"];
  const opener = make("button", "opener", make("span", `${sign[0]} sign`, sign[1]), make("span", "text-line", oneLine(row.problem ?? "")),
    make("span", "sides", ...sides), make("span", "sides shares", ...shares));
  attrs(opener, { type: "button", "aria-expanded": String(open), "data-open": row.id });
  return make("li", open ? "is-open" : "", opener, ...(open ? [problemDetail(row)] : []));
}
const unread = (sign) => attrs(make("span", "soft", sign), { "aria-hidden": "true" });
function problemDetail(row) {
  const n = samplesOf(), columns = ["model", "greedy answer", ...(n ? ["samples right", "cut off, no answer"] : []), ""];
  const body = make("tbody", "", ...Object.entries(row.models ?? {}).map(([name, found]) => make("tr", "",
    attrs(make("th", "", shortName(name)), { scope: "row", title: plain(name) }), cell("greedy answer", answerMark(found)),
    ...(n ? [cell("samples right", shareMark(found)), cell("cut off, no answer", figure(`${count(found.truncated ?? 0)}, ${count(found.unparsed ?? 0)}`))] : []),
    cell("", goButtons(row, name)))));
  const about = [plain(row.id, 80), row.part && plain(row.part, 60), row.cluster != null && plain(row.cluster, 60)].filter(Boolean).join(" · ");
  return attrs(make("div", "detail", make("p", "label", about), attrs(make("p", "whole", showOdd(clip(row.problem ?? "", 8000))), { dir: "auto" }),
    make("p", "", make("span", "soft", "Known answer "), make("span", "num", plain(row.answer ?? "none", 300))),
    make("table", "figures each", header(columns), body)), { role: "group", "aria-label": `Problem ${plain(row.id, 80)}` });
}
function goButtons(row, name) {
  const button = (words, where) => {
    const made = attrs(make("button", "button small", words), { type: "button", "data-go": where });
    Object.assign(made.dataset, { problem: row.id, name });
    return attrs(made, { "aria-label": `${words}: ${shortName(name)}` });
  };
  return make("span", "go", button("Open in Explore", "explore"), ...(name === baseName() ? [] : [button("Compare", "compare")]));
}
export function openProblem(id, on = !shown.open.has(id)) {
  on ? shown.open.add(id) : shown.open.delete(id);
  renderProblems();
}
// From elsewhere: a problem's detail, whatever is listed now.
export function showProblem(id) {
  const entry = job.rows.get(id);
  if (!entry) return;
  const listed = () => [...ui.list.querySelectorAll("[data-open]")].find((node) => node.dataset.open === id);
  shown.open.add(id);
  const { change } = fate(entry.row);
  shown.group = change || "all";
  renderProblems();
  while (!listed() && !ui.more.hidden) {
    shown.most += 100;
    renderProblems();
  }
  listed()?.scrollIntoView({ block: "center" });
  listed()?.focus({ preventScroll: true });
}
