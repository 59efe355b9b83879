// The evaluation: follows a job of the server, passes on what is pressed.
import { make, plural, showOdd } from "../common/text.js";
import { copyText, keyed, plain } from "../common/tables.js";
import { clock } from "../common/estimates.js";
import { saveCharts, saveReply } from "../common/figures.js";
import { openCompare } from "../common/tabs.js";
import { ask, hear, props, root, sayError, server, trigger, ui } from "./context.js";
import { chips, isOver, job, ks, others, renderAgainst, renderHead, renderSolved, shown } from "./evaluate_table.js";
import { drawPlots } from "./evaluate_plots.js";
import { openProblem, renderProblems, showProblem } from "./evaluate_problems.js";

const EVERY = 700; // ms between two looks
let polling = 0;

// ---- following a job ----------------------------------------------------------------------------------------
function follow(id) {
  if (job.id !== id) {
    Object.assign(job, { id, m: null, report: null, rows: new Map(), stamp: 0, notes: {} });
    Object.assign(shown, { k: null, part: "", name: "", group: "won", open: new Set(), most: 30 });
    ui.results.hidden = ui.exports.hidden = true;
  }
  if (id !== props.recorded) sessionStorage.setItem(props.storage_key, id);
  sayError();
  ui.welcome.hidden = id !== props.recorded;
  root.classList.toggle("is-recorded", id === props.recorded);
  clearTimeout(polling);
  poll();
}
async function poll() {
  const id = job.id;
  try {
    const m = await server.eval_tail({ id, since: job.stamp });
    if (id !== job.id) return;
    if (m?.kind === "gone") return forget();
    if (m?.error && !m.kind) sayError(m.error);
    else if (m?.kind === "eval") receiveJob(m);
  } catch {
    ui.status.textContent = "no reply from the server; trying again"; // what is on screen stays
  }
  if (root.isConnected && !isOver(job.m)) polling = setTimeout(poll, EVERY);
}
function forget() {
  sessionStorage.removeItem(props.storage_key);
  if (job.m && !isOver(job.m)) sayError("The server has forgotten this evaluation. Press Evaluate: what was made is kept on disk.");
  if (job.m) job.m.state = "stopped";
  else welcome();
}
function welcome() { // with a finished example, where there is one
  ui.welcome.hidden = false;
  if (props.recorded) follow(props.recorded);
}
function receiveJob(m) {
  const news = m.stamp > job.stamp;
  Object.assign(job, { m, stamp: m.stamp });
  if (m.command != null) Object.assign(job, { command: m.command, own: m.own, notes: m.notes ?? {} });
  if (m.report) job.report = m.report;
  for (const [place, row] of m.rows ?? []) job.rows.set(row.id, { place, row });
  if (m.error) sayError(plain(m.error, 600));
  if (!m.recorded) ui.plan.hidden = true; // beside an example it is what the visitor's own would take
  renderHead();
  if (job.command) renderCommand(job.command, job.own);
  if (news && job.report) render();
}
function render() {
  const report = job.report, parts = report.parts ?? [];
  ui.results.hidden = !(report.models?.length && report.problems);
  if (ui.results.hidden) return;
  if (!parts.some((part) => part.name === shown.part)) shown.part = "";
  if (!ks().includes(shown.k)) shown.k = ks().find((k) => Number(k) >= 8) ?? ks().at(-1) ?? null;
  if (!others().includes(shown.name)) shown.name = others()[0] ?? "";
  chips(ui.parts, "part", parts.length ? [["", "all", report.problems], ...parts.map((part) => [part.name, plain(part.name, 40), part.problems])] : []);
  chips(ui.ks, "k", ks().map((k) => [k, `k = ${k}`]));
  renderSolved();
  renderAgainst();
  const sentences = shown.part ? [] : (report.crossings ?? []).map((one) => one.sentence).filter(Boolean);
  keyed(ui.reading, sentences, (sentence) => make("li", "", plain(sentence, 400)));
  renderProblems();
  renderTake();
  drawPlots();
}

// ---- what can be taken home ---------------------------------------------------------------------------------
function renderCommand(command, own) {
  ui.take.hidden = false;
  ui.command.textContent = showOdd(command);
  ui.commandNote.hidden = !own;
}
function renderTake() {
  const { licence, source } = job.report;
  ui.exports.hidden = false;
  ui.csv.hidden = !job.rows.size;
  ui.origin.textContent = [licence && `Licence of the set: ${plain(licence, 120)}.`, source && `Source: ${plain(source, 300)}`].filter(Boolean).join(" ");
}
const saveAs = async (format) => saveReply(await ask("eval_export", { id: job.id, format }), `evaluation.${format}`);
function savePlots(kind) {
  const name = `evaluation-${String(job.report?.set ?? "set").replace(/[^\w-]+/g, "-")}`;
  for (const [box, what] of [[ui.curves, "curves"], [ui.scatter, "problems"]]) if (box.offsetWidth) saveCharts(box, `${name}-${what}`, kind, sayError);
}

// ---- messages from Python -----------------------------------------------------------------------------------
function receive(m) {
  if (!m || typeof m !== "object") return;
  if (m.kind === "job" && typeof m.id === "string") follow(m.id);
  else if (m.kind === "refused") sayError(plain(m.error, 600));
  else if (m.kind === "plan") renderPlan(m);
  else if (m.kind === "unplanned" && !job.m) ui.plan.hidden = ui.take.hidden = true;
  props.value = null; // else the same words a second time would be no news
}
function renderPlan(m) {
  if (job.m && !isOver(job.m)) return; // what runs now is more worth knowing
  ui.plan.hidden = false;
  const time = m.seconds == null ? "How long it takes is known after the first problems." : `About ${clock(m.seconds)}, as fast as it went here last; what is known already takes no time.`;
  const set = m.set ? `${plain(m.set.title, 120)}. Licence: ${plain(m.set.licence, 80)}. Source: ${plain(m.set.source, 240)}` : "";
  const command = job.m ? `From a shell: ${showOdd(m.command)}` : "";
  keyed(ui.plan, [[`Evaluate makes at most ${plural(m.samples, "completion")}. ${time}`, ""], [set, "soft"], [command, "soft"]].filter(([words]) => words), ([words, cls]) => make("span", `line ${cls}`, words));
  if (!job.m) renderCommand(m.command, m.own); // beside figures stands the command that makes them
}

// ---- what is pressed ----------------------------------------------------------------------------------------
const actions = {
  halt: () => job.id && (trigger("halt", { id: job.id }), (ui.status.textContent = "stopping")),
  json: () => saveAs("json"), csv: () => saveAs("csv"), png: () => savePlots("png"), svg: () => savePlots("svg"), copy: () => copyText(ui.command, ui.copy),
  more: () => ((shown.most += 100), renderProblems()),
};
function choose(key, value) {
  shown[key] = value;
  if (key !== "k") shown.most = 30;
  if (job.report) render();
}
async function openProblemIn(where, problem) {
  if (where === "compare") await openCompare();
  trigger("open", { ...problem, where });
}
root.addEventListener("click", (e) => {
  const find = (selector) => e.target.closest(selector)?.dataset;
  const [act, chip, go, opener] = ["[data-do]", "[data-choose]", "[data-go]", "[data-open]"].map(find);
  if (act) actions[act.do]?.();
  else if (chip) choose(chip.choose, chip.value);
  else if (go) openProblemIn(go.go, { id: job.id, problem: go.problem, name: go.name });
  else if (opener) openProblem(opener.open);
});

// ---- the start ----------------------------------------------------------------------------------------------
window.rmxEval = Object.assign(window.rmxEval ?? {}, { show: showProblem, follow });
hear(receive);
const kept = sessionStorage.getItem(props.storage_key);
if (!job.id) kept ? trigger("attach", { id: kept }) : welcome();
