// What a visitor takes home: a link, files, a dataset on the Hub; and where a tree comes from that was opened here.
// Python makes the text of each file, the browser saves it; nothing is stored on the server.
import { clip, make, plainName, showOdd } from "../common/text.js";
import { putNear } from "../common/view.js";
import { pngOf, saveFile } from "../common/figures.js";
import { server, trigger, ui } from "./context.js";
import { fanFile } from "./fan.js";
import { selected, shown, tau } from "./token_view.js";

const origins = new Map(); // tree -> the newest that is known of where it comes from

// ---- where it comes from ------------------------------------------------------------------------------------
const KINDS = { link: "From a link", recorded: "Recorded", again: "Decoded again here" };
export function renderOrigin(b) {
  const own = b.open?.origin ?? null;
  if (own && (own.said || !origins.has(b.open.tree))) origins.set(b.open.tree, own);
  ui.origin.hidden = !own;
  if (!own) return;
  const { kind, licence, said, same } = origins.get(b.open.tree) ?? own;
  ui.originKind.textContent = KINDS[kind] ?? "Recorded";
  const sign = same === true ? make("span", "right", "✓ ") : same === false ? make("span", "wrong", "✗ ") : "";
  const what = said ?? (kind === "recorded" ? "nothing of this was computed now" : "decoding it again …");
  ui.originSaid.replaceChildren(sign, showOdd(clip(what, 400)), licence ? make("span", "soft", ` · weights ${showOdd(clip(licence, 60))}`) : "");
  ui.verify.hidden = kind !== "recorded" || !server.share_link;
  ui.verify.setAttribute("aria-label", `Verify: decode it again with ${plainName(b.open.model ?? "")}`);
}
function verify() {
  if (!shown) return;
  ui.originSaid.textContent = "loading the model, then decoding again …";
  ui.verify.hidden = true;
  trigger("verify", { run: shown.run });
}
// A link's own part of the address goes as soon as something else is on screen.
export const linkGone = (b) => (b.open?.origin?.kind === "link" ? {} : { s: null });

// ---- the menu -----------------------------------------------------------------------------------------------
function toggleShare() {
  tellShare("");
  ui.saveForm.hidden = true;
  ui.shareMenu.togglePopover();
  if (!ui.shareMenu.matches(":popover-open")) return;
  putNear(ui.shareMenu, ui.share.getBoundingClientRect());
  ui.shareMenu.querySelector("button").focus({ preventScroll: true });
}
ui.shareMenu.addEventListener("toggle", (e) => ui.share.setAttribute("aria-expanded", String(e.newState === "open")));
function tellShare(sentence, good = true) {
  ui.shareSaid.replaceChildren(sentence && make("span", good ? "right" : "wrong", good ? "✓ " : "✗ "), sentence);
  ui.shareSaid.hidden = !sentence;
}
const sharedNow = (more) => ({ run: shown?.run, pos: selected, tau, ...more });
async function askShare(name, more) {
  if (!shown) return null;
  ui.shareMenu.setAttribute("aria-busy", "true");
  try {
    const reply = await server[name](sharedNow(more));
    if (reply?.error) tellShare(reply.error, false);
    return reply?.error ? null : reply;
  } catch {
    tellShare("The server did not reply. Try again in a moment.", false);
    return null;
  } finally {
    ui.shareMenu.removeAttribute("aria-busy");
  }
}
async function copyLink() {
  const reply = await askShare("share_link");
  if (!reply) return;
  const url = new URL(location.pathname, location.origin);
  url.searchParams.set("s", reply.s);
  ui.linkText.value = url.href;
  ui.linkRow.hidden = true;
  try {
    await navigator.clipboard.writeText(url.href);
    tellShare("Link copied. Whoever opens it decodes the tree anew and is told if it parts.");
  } catch { // no permission, or no https: then by hand
    ui.linkRow.hidden = false;
    ui.linkText.select();
    tellShare("Copy the link from the box.");
  }
}
async function download(format) {
  const reply = await askShare("share_file", { format: format === "png" ? "svg" : format });
  if (!reply) return;
  const blob = format === "png" ? await pngOf(reply.text) : new Blob([reply.text], { type: `${reply.mime};charset=utf-8` });
  if (!blob) return tellShare("The browser could not draw the figure. Take the SVG instead.", false);
  saved(reply.name.replace(/svg$/, format === "png" ? "png" : "svg"), blob);
}
async function downloadFan(kind) { // the page has drawn it already
  const { name, blob } = await fanFile(kind);
  if (!blob) return tellShare("The browser could not draw the figure. Take the SVG instead.", false);
  saved(name, blob);
}
function saved(name, blob) {
  saveFile(name, blob);
  tellShare(`${name}, ${blob.size < 1e6 ? `${Math.ceil(blob.size / 1000)} kB` : `${(blob.size / 1e6).toFixed(1)} MB`}`);
}
ui.saveForm.addEventListener("submit", async (e) => {
  e.preventDefault();
  const token = ui.saveToken.value;
  ui.saveToken.value = ""; // for this one upload only
  tellShare("Saving …");
  const reply = await askShare("share_save", { repo: ui.saveRepo.value, token });
  if (reply) tellShare(`Saved: ${reply.url}`);
});

export const shareActions = {
  share: toggleShare, copyLink, verify,
  getJson: () => download("json"), getHtml: () => download("html"), getCsv: () => download("csv"),
  fanSvg: () => downloadFan("svg"), fanPng: () => downloadFan("png"), fanCard: () => downloadFan("card"),
  getSvg: () => download("svg"), getPng: () => download("png"),
  toHub: () => {
    ui.saveForm.hidden = !ui.saveForm.hidden;
    const over = ui.shareMenu.getBoundingClientRect().bottom - innerHeight + 8; // it grew; it moves no more than it must
    if (over > 0) ui.shareMenu.style.top = `${Math.max(8, ui.shareMenu.offsetTop - over)}px`;
    if (!ui.saveForm.hidden) ui.saveRepo.focus({ preventScroll: true });
  },
};
