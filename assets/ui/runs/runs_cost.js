// What the runs cost: a folded section under the table. Asked for when it is opened, and again when a run or a rate changes.
import { attrs, count, make, plural } from "../common/text.js";
import { keyed, plain } from "../common/tables.js";
import { ask, sayError, trigger, ui } from "./context.js";
import { all, number, STAGES } from "./runs_table.js";
import { pollSoon } from "./runs_view.js";

const cost = { busy: false, again: false, said: "", rates: "" };
const usdText = (usd) => (usd == null ? "–" : usd === 0 ? "$0" : usd < 0.01 ? `$${usd.toPrecision(1)}` : `$${usd.toFixed(2)}`);
const hoursText = (s) => (s >= 3600 ? `${(s / 3600).toFixed(1)} h` : s >= 90 ? `${(s / 60).toFixed(1)} min` : `${Math.round(s)} s`);
const amountText = ([low, high]) => (low === high ? `$${count(low)}` : `$${count(low)} – ${count(high)}`);

// ---- asking -------------------------------------------------------------------------------------------------
export function renderCostHead() { // the sum, also while the section is folded
  const known = all.rows.map((row) => number(row.usd)).filter((usd) => usd !== null), open = ui.cost.open;
  const sum = known.reduce((a, b) => a + b, 0);
  ui.costSum.textContent = !all.rows.length ? "" : known.length ? `${usdText(sum)} for ${plural(known.length, "run")}` : "no rate is known for this machine yet";
  const said = JSON.stringify(all.rows.map((row) => [row.id, row.state, row.usd]));
  if (open && said !== cost.said) loadCosts();
  cost.said = said;
}
export async function loadCosts() {
  if (cost.busy) return void (cost.again = true);
  cost.busy = true;
  const reply = await ask("costs", {});
  cost.busy = false;
  if (reply?.rates) renderCosts(reply);
  if (cost.again) ((cost.again = false), loadCosts());
}
ui.cost.addEventListener("toggle", () => ui.cost.open && loadCosts());

// ---- drawing ------------------------------------------------------------------------------------------------
function renderCosts(found) {
  const { machine, sum } = found;
  ui.costHere.textContent = `This machine: ${plain(machine.device, 80)}. ${plain(machine.rate ? machine.sentence : all.me.admin ? "No hourly rate is known for it. Enter one below to see dollars." : "No hourly rate is known for it.", 300)}`;
  renderRates(found);
  const without = sum.without ? ` ${plural(sum.without, "run")} on machines without a rate ${sum.without === 1 ? "is" : "are"} not in it.` : "";
  ui.costTotal.textContent = sum.runs ? `${sum.usd == null ? "No dollars known" : usdText(sum.usd)} in all, for ${hoursText(sum.seconds)} of ${plural(sum.runs, "run")}.${without}` : "No run has measured anything yet.";
  ui.costScroll.hidden = !found.runs.length;
  keyed(ui.costRuns, found.runs.length ? [costHead(["run", "machine", "measured", "cost"]), make("tbody", "", ...found.runs.map(costLine))] : [], (node) => node);
  renderPaper(found.paper);
}
const costHead = (names) => make("thead", "", make("tr", "", ...names.map((name, k) => attrs(make("th", k ? "to-right" : "", name), { scope: "col" }))));
const cell = (name, cls, ...kids) => attrs(make("td", `${cls} to-right`.trim(), ...kids), { "data-name": name });
function costLine(run) {
  const stages = Object.entries(run.stages ?? {}).filter(([, s]) => s >= 0.5).map(([name, s]) => `${STAGES[name] ?? plain(name, 20)} ${hoursText(s)}`);
  const id = attrs(make("th", "", make("span", "num first", plain(run.id, 60)), make("span", "soft second", stages.join(" · "))), { scope: "row" });
  const rate = run.rate ? `at $${run.rate.usd_per_hour.toFixed(2)}` : run.device ? "no rate" : "";
  return make("tr", "", id, 
    cell("machine", "", make("span", "first", plain(run.device ?? "not noted", 60)), make("span", "soft second", rate)), cell("measured", "num", hoursText(run.seconds)), cell("cost", "num", usdText(run.usd)));
}
function renderPaper(paper) {
  const rows = (paper?.rows ?? []).map((r) => make("tr", "", attrs(make("th", "", plain(r.base, 40)), { scope: "row" }),
    cell("pass@1 → ReasonMaxxer", "num", make("span", "soft", `${shareText(r.base_score)} → `), shareText(r.score), make("span", "soft second", `best RL ${shareText(r.rl_score)}`)),
    cell("RL", "num", amountText(r.rl_usd)), cell("ReasonMaxxer", "num", `$${count(r.usd)}`)));
  keyed(ui.costPaper, rows.length ? [costHead(["base", "pass@1 → ReasonMaxxer", "RL", "ReasonMaxxer"]), make("tbody", "", ...rows)] : [], (node) => node);
  ui.costNote.textContent = paper ? `${plain(paper.source, 60)}. ${plain(paper.note, 600)}` : "";
}
const shareText = (x) => x.toFixed(3).replace(/^0/, "");

// ---- rates --------------------------------------------------------------------------------------------------
function renderRates(found) {
  const key = JSON.stringify([found.rates, found.override, found.machine, all.me.admin]), field = document.activeElement;
  const written = ui.costRates.contains(field) && field.matches("input") && field.value !== field.defaultValue; // what is being written stays
  if (key === cost.rates || written) return;
  cost.rates = key;
  const list = found.rates.map((rate) => rateLine(rate, all.me.admin));
  ui.costRates.replaceChildren(...list, ...(all.me.admin ? [rateForm(found.machine)] : []));
  ui.costMay.hidden = all.me.admin;
  ui.costOver.hidden = found.override == null;
  ui.costOver.textContent = found.override == null ? "" : `RMX_USD_PER_HOUR is set: every machine counts as $${found.override} an hour.`;
}
function rateLine(rate, may) {
  const name = plain(rate.name, 80), from = make("span", "soft rate-from", [plain(rate.source, 80), plain(rate.date, 20)].filter(Boolean).join(", "));
  if (!may) return make("li", "rate", make("span", "rate-name", name), make("span", "num", `$${rate.usd_per_hour.toFixed(2)}`), from);
  const box = attrs(make("input"), { type: "text", name: "usd", inputmode: "decimal", autocomplete: "off", maxlength: 12, value: rate.usd_per_hour.toFixed(2), "aria-label": `Dollars an hour for ${name}` });
  const save = attrs(make("button", "button small", "Save"), { type: "submit", "aria-label": `Save the rate of ${name}` });
  const back = rate.own ? [attrs(make("button", "link", "Take back"), { type: "button", "data-do": "takeBack", "data-name": rate.name, "aria-label": `Take back the rate of ${name}` })] : [];
  const form = make("form", "rate rate-form", make("span", "rate-name", name), make("span", "rate-set", make("span", "soft", "$"), box, save), make("span", "rate-from", from, ...back));
  form.dataset.name = rate.name;
  return make("li", "", form);
}
function rateForm(machine) {
  const known = machine.rate && machine.rate.source !== "RMX_USD_PER_HOUR";
  const name = attrs(make("input"), { type: "text", name: "name", autocomplete: "off", maxlength: 80, value: known ? "" : machine.device, placeholder: "another machine", "aria-label": "Machine" });
  const usd = attrs(make("input"), { type: "text", name: "usd", inputmode: "decimal", autocomplete: "off", maxlength: 12, placeholder: "0.00", "aria-label": "Dollars an hour" });
  return make("li", "", make("form", "rate rate-form rate-new", name, make("span", "rate-set", make("span", "soft", "$"), usd, attrs(make("button", "button small", "Add"), { type: "submit" })), make("span", "soft rate-from", "a machine’s name, or words of it: cpu, A100")));
}
export function sendRate(form) {
  const name = form.dataset.name ?? form.elements.name.value.trim(), usd = form.elements.usd.value.trim();
  const bad = !name ? "Name the machine: cpu, or words of the GPU’s name." : !usd || !(Number(usd) >= 0) ? `The rate of ${plain(name, 60)} is an amount in US dollars, such as 2.49.` : "";
  sayError(bad);
  if (!bad) giveRate(name, usd);
}
export function giveRate(name, usd) {
  cost.rates = "";
  document.activeElement?.blur();
  trigger("rate", { name, usd });
  setTimeout(loadCosts, 300);
  setTimeout(loadCosts, 1500); // a busy server
  pollSoon();
}
