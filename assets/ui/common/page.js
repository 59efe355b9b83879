// The page around the views: which tab the address names, a way past the form, and what keys and buttons do on every tab.
import { readdress } from "./address.js";

// ---- tabs in the address ------------------------------------------------------------------------------------
// Going to another tab is a step that Back takes back; a reload stays on the tab.
const tabs = () => [...document.querySelectorAll("#tabs [role=tab]")];
const chosen = () => tabs().find((tab) => tab.ariaSelected === "true")?.dataset.tabId;
const named = () => new URL(location).searchParams.get("tab") ?? tabs()[0]?.dataset.tabId;
const openNamed = () => named() !== chosen() && tabs().find((tab) => tab.dataset.tabId === named())?.click();
let before = null; // the tab that was open; null until the one that the address names was opened
function follow() {
  const now = chosen();
  if (!now || now === before) return;
  if (before === null) openNamed();
  else if (now !== named()) readdress({ tab: now === tabs()[0].dataset.tabId ? null : now }, true);
  before = now;
  renderPresent();
}
window.addEventListener("popstate", openNamed);
new MutationObserver(follow).observe(document.documentElement, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });

// ---- Present ------------------------------------------------------------------------------------------------
const SHOWN = ["explore", "compare"]; // tabs with something that can fill the screen
function renderPresent() {
  const button = document.getElementById("present");
  if (!button) return;
  button.disabled = !SHOWN.includes(chosen());
  button.title = button.disabled ? "A solution fills the screen, or a comparison: open Explore or Compare first." : "";
}

// ---- past the form ------------------------------------------------------------------------------------------
const visible = (selector) => [...document.querySelectorAll(selector)].find((node) => node.offsetParent);
const skip = Object.assign(document.createElement("a"), { id: "skip", href: "#tabs", textContent: "Skip to the solution" });
skip.addEventListener("click", (e) => {
  e.preventDefault();
  const view = visible(".rmx:not(.share-panel)"), target = view?.querySelector(".flow .t[tabindex='0']") ?? view;
  if (target === view) view?.setAttribute("tabindex", "-1");
  target?.focus();
});
document.addEventListener("DOMContentLoaded", () => document.body.prepend(skip));
if (document.readyState !== "loading") document.body.prepend(skip);

// ---- keys ---------------------------------------------------------------------------------------------------
document.addEventListener("keydown", (e) => {
  if (e.key !== "Enter" || !(e.ctrlKey || e.metaKey)) return;
  const button = visible(".controls button.primary:not(:disabled)");
  if (!button || e.defaultPrevented) return;
  e.preventDefault();
  document.activeElement?.blur?.(); // what is typed is sent when its box is left
  setTimeout(() => button.click(), 150);
}, true);
