// What a row opens: what to do with the run, its recipe, the command, files, a note. Built once per opening; afterwards
// only what changed is written, so a half-written note or a form survives the next poll.
import { attrs, count, make, plural, showOdd } from "../common/text.js";
import { keyed, plain } from "../common/tables.js";
import { around, written } from "../common/estimates.js";
import { ask, props, trigger } from "./context.js";
import {
  ACTIVE, all, BUILT, bytes, COLUMNS, ENDED, entryOf, fieldName, fieldValue, mine, renderRows, rowOf,
} from "./runs_table.js";
import { buildSweep, loadSweep } from "./runs_sweep.js";
import { pollSoon } from "./runs_view.js";

const WAIT = 15_000; // ms that an asked action stays "…" without news of its run
const NOT_OWN = "Only the visitor who started it, or the owner of the machine, stops, resumes, pushes or deletes it.";

export function openRun(id, on = all.open !== id) {
  const before = all.entries.get(all.open), row = rowOf(id);
  if (before) {
    before.opener.setAttribute("aria-expanded", "false");
    before.tr.classList.remove("is-open");
    before.detail = null;
  }
  all.open = on && row ? id : null;
  if (all.open) {
    const entry = entryOf(row);
    entry.opener.setAttribute("aria-expanded", "true");
    entry.tr.classList.add("is-open");
    entry.detail = buildDetail(row);
    renderDetail(row);
    loadFiles(id);
  }
  renderRows();
}

// ---- building -----------------------------------------------------------------------------------------------
function buildDetail(row) {
  const parts = {
    actions: make("p", "actions"), reason: make("p", "soft reason"), ask: make("div", "ask-first"), told: attrs(make("p", "told"), { role: "status" }),
    about: make("p", "soft about"), message: make("p", "message"), recipe: make("dl", "departs"), command: make("pre", "command"), files: make("ul", "files"), note: make("div", "note"),
    sweep: row.taus ? buildSweep() : null,
  };
  attrs(parts.command, { tabindex: 0, "aria-label": "Command" });
  const copy = attrs(make("button", "link", "Copy"), { type: "button", "data-do": "copy" });
  parts.filesHead = make("p", "label", "Files");
  const left = make("div", "detail-main", parts.about, parts.message, block("The run’s command", [copy], parts.command), block("What departs from the paper", [], parts.recipe));
  const right = make("div", "detail-side", make("div", "block", parts.filesHead, parts.files), block("Note", [], parts.note));
  const head = make("div", "detail-head", parts.actions, parts.reason, parts.ask, parts.told);
  const cell = attrs(make("td", "", attrs(make("div", "detail", head, ...(parts.sweep ? [parts.sweep] : []), left, right), { role: "group", "aria-label": `Run ${plain(row.id, 60)}` })), { colspan: Object.keys(COLUMNS).length + 1 });
  const tr = make("tr", "run-detail", cell);
  tr.dataset.run = row.id;
  return Object.assign(tr, { parts });
}
const block = (title, beside, ...kids) => make("div", "block", make("p", "label", title, ...beside), ...kids);

export function renderDetail(row) {
  const parts = entryOf(row).detail?.parts;
  if (!parts) return;
  renderActions(row, parts);
  parts.about.textContent = aboutRun(row);
  parts.message.hidden = !row.message;
  parts.message.textContent = plain(row.message, 2000);
  parts.command.textContent = showOdd(row.command ?? "");
  const differs = Object.entries(row.differs ?? {}), paper = props.paper ?? {};
  keyed(parts.recipe, differs.length ? differs : [null], (pair) => {
    if (!pair) return make("div", "", make("dt", "", "nothing"), make("dd", "soft", "the recipe is the paper’s"));
    const was = pair[0] in paper ? [make("span", "soft", `${fieldValue(paper[pair[0]])} → `)] : [];
    return make("div", "", make("dt", "", fieldName(pair[0])), make("dd", "num", ...was, fieldValue(pair[1])));
  });
  renderNote(row, parts);
  if (parts.sweep) loadSweep(row.id);
}

function aboutRun(row) {
  const at = new Date(1000 * (row.created ?? 0)), day = at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
  const n = row.after?.n ?? row.before?.n, e = row.vs_base, gain = e?.value == null ? null : `${written(e.value, "points")} points, interval ${around(e, "points")}`;
  const facts = [`Started ${day}, ${at.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`, n && `measured on ${count(n)} held-out problems`, gain];
  return `${facts.filter(Boolean).join("; ")}.${row.by_construction ? ` ${BUILT}` : ""}`;
}

// ---- actions ------------------------------------------------------------------------------------------------
export const pending = new Map(); // id -> {what, state, until}
const waits = (row, what) => {
  const p = pending.get(row.id);
  return p?.what === what && p.state === row.state && performance.now() < p.until;
};
export function awaitNews(row, what) {
  pending.set(row.id, { what, state: row.state, until: performance.now() + WAIT });
  renderDetail(row);
  pollSoon();
}
function actionsOf(row) { // name, label, offered at all, allowed
  const active = ACTIVE.includes(row.state), own = mine(row);
  return [
    ["watch", "Watch", active, true],
    ["stop", waits(row, "stop") || row.state === "stopping" ? "Stopping …" : "Stop", active, own && row.state !== "stopping" && !waits(row, "stop")],
    ["resume", waits(row, "resume") ? "Resuming …" : "Resume", ENDED.includes(row.state), own && !waits(row, "resume")],
    ["explore", "Open in Explore", row.has_adapter, true],
    ["adapted", "Open in Compare", row.has_adapter, true],
    ["watch", "Show in Train", !active, true],
    ["download", "Download", row.has_adapter, true],
    ["push", "Push to Hub …", row.has_adapter, own],
    ["remove", waits(row, "remove") ? "Deleting …" : "Delete …", !active, own && !waits(row, "remove")],
  ].filter(([, , offered]) => offered);
}
function renderActions(row, parts) {
  const offered = actionsOf(row);
  keyed(parts.actions, offered, ([name, label, , allowed], k) => {
    const button = attrs(make("button", `button${k ? "" : " main"}${name === "remove" ? " apart" : ""}`, label), { type: "button", "data-do": name });
    button.disabled = !allowed;
    return button;
  });
  parts.reason.hidden = mine(row);
  parts.reason.textContent = NOT_OWN;
}
// A question in the page, under the buttons: what is asked, and the buttons that answer it.
export function askFirst(id, ...kids) {
  const place = all.entries.get(id)?.detail?.parts.ask;
  place?.replaceChildren(...kids);
  place?.classList.toggle("grave", !!place.querySelector(".danger"));
  place?.querySelector("[data-first]")?.focus();
}
const no = (label = "Cancel") => attrs(make("button", "button", label), { type: "button", "data-do": "unask" });
export function askRemove(row) {
  const entry = all.entries.get(row.id), size = entry.bytes ? ` and its ${bytes(entry.bytes)}` : "";
  const yes = attrs(make("button", "button danger", "Delete for good"), { type: "button", "data-do": "removeNow" });
  askFirst(row.id, make("p", "", `Delete this run${size}? Its rollouts, checkpoints and adapter cannot be brought back.`), make("p", "actions", attrs(no("Keep it"), { "data-first": "" }), yes));
}
export function askPush(row) {
  const field = (label, pairs) => make("label", "", label, attrs(make("input"), { autocomplete: "off", spellcheck: "false", maxlength: 200, ...pairs }));
  const repo = field("Repository", { type: "text", name: "repo", placeholder: "you/mini-reasonmaxxer", "data-first": "" });
  const token = field("Token", { type: "password", name: "token", placeholder: "hf_…", autocomplete: "new-password" });
  const hidden = make("label", "tick", attrs(make("input"), { type: "checkbox", name: "private", checked: "" }), "private repository");
  const form = attrs(make("form", "push", repo, token, hidden), { "aria-label": "Push to Hub" });
  const wrong = attrs(make("p", "wrong small", ""), { role: "alert", "data-wrong": "" });
  form.append(wrong, make("p", "soft small", "The token is sent once, for this push, and kept nowhere."), make("p", "actions", no(), attrs(make("button", "button main", "Push"), { type: "submit" })));
  askFirst(row.id, form);
}
export function sendPush(form, id) {
  const { repo, token, private: hidden } = form.elements, name = repo.value.trim(), secret = token.value.trim();
  const bad = !/^[\w.-]{1,96}\/[\w.-]{1,96}$/.test(name) ? "Name the repository as owner/name." : !secret ? "A push needs a token that may write." : "";
  form.querySelector("[data-wrong]").textContent = bad;
  if (bad) return;
  token.value = "";
  trigger("push", { id, repo: name, token: secret, private: hidden.checked });
  tellRun(id, `Pushing to ${name} …`);
  askFirst(id);
}
export function tellRun(id, text, url = null) { // a sentence of the server about this run, perhaps with a place on the Hub
  const place = all.entries.get(id)?.detail?.parts.told;
  if (!place) return;
  const link = typeof url === "string" && /^https:\/\/huggingface\.co\//.test(url) ? [" ", attrs(make("a", "", plain(url, 200)), { href: url, target: "_blank", rel: "noopener noreferrer" })] : [];
  place.replaceChildren(plain(text, 600), ...link);
}

// ---- note, files, command -----------------------------------------------------------------------------------
const drafts = new Map(); // run -> a note that was not saved yet; it outlives the row's closing
function renderNote(row, parts) {
  const box = parts.note.querySelector("textarea");
  if (!mine(row)) return void parts.note.replaceChildren(make("p", row.note ? "said" : "soft", row.note ? plain(row.note, 2000) : "None. Its owner can write one."));
  if (box) { // what is being written stays
    if (box.value === (box.dataset.kept ?? "")) box.value = row.note ?? "";
    box.dataset.kept = row.note ?? "";
    return noteState(box, row.id);
  }
  const text = attrs(make("textarea"), { rows: 3, maxlength: 2000, "aria-label": "Note", placeholder: "What you tried, and what came of it" });
  text.dataset.kept = row.note ?? "";
  text.value = drafts.get(row.id) ?? row.note ?? "";
  parts.note.replaceChildren(text, make("p", "actions", attrs(make("button", "button small", "Save note"), { type: "button", "data-do": "note" })));
  noteState(text, row.id);
}
export function noteState(box, id) {
  const saved = box.value === (box.dataset.kept ?? "");
  box.parentNode.querySelector("[data-do=note]").hidden = saved;
  saved ? drafts.delete(id) : drafts.set(id, box.value);
}
export function saveNote(row) {
  const box = all.entries.get(row.id).detail.parts.note.querySelector("textarea");
  trigger("note", { id: row.id, text: box.value });
  box.dataset.kept = box.value;
  noteState(box, row.id);
  pollSoon();
}
export async function loadFiles(id, whole = false) {
  const reply = await ask("run_files", { id }), entry = all.entries.get(id), parts = entry?.detail?.parts;
  if (!parts) return;
  const files = reply?.files ?? [], shown = whole ? files : folded(files);
  entry.bytes = files.reduce((sum, file) => sum + (file.bytes ?? 0), 0);
  parts.filesHead.textContent = files.length ? `Files, ${bytes(entry.bytes)}` : "Files";
  parts.files.replaceChildren(...shown.map((file) => make("li", "", make("span", "path num", plain(file.path, 160)), make("span", "soft", file.n ? plural(file.n, "file") : ""), make("span", "num soft", bytes(file.bytes ?? 0)))));
  if (!files.length) parts.files.append(make("li", "soft", reply ? "None yet." : "They could not be read."));
  if (shown.length < files.length) parts.files.append(make("li", "", attrs(make("button", "link", `show all ${count(files.length)}`), { type: "button", "data-do": "allFiles" })));
}
function folded(files) { // folders as one line each
  const tops = new Map();
  for (const { path, bytes = 0 } of files) {
    const top = path.includes("/") ? `${path.split("/")[0]}/` : path, seen = tops.get(top) ?? { path: top, bytes: 0, n: 0 };
    tops.set(top, { path: top, bytes: seen.bytes + bytes, n: top === path ? 0 : seen.n + 1 });
  }
  return [...tops.values()];
}
