// The address names what is on screen, so that it can be passed on. In a frame nobody sees it, so the page around is
// told, as the Hub documents it. Only the Hub, and origins that the owner of the app has named, get to know it: ids of
// runs are the permission to see them. Of what the Hub itself adds only the theme goes back: "__sign" opens a private
// Space.
const HUB = "https://huggingface.co";
// `step`: Back returns to the address before.
export function readdress(changed, step = false) {
  const url = new URL(location);
  for (const [name, value] of Object.entries(changed)) value ? url.searchParams.set(name, value) : url.searchParams.delete(name);
  history[step ? "pushState" : "replaceState"](history.state, "", url);
  if (window.parent !== window) tellParent(url);
}
function tellParent({ searchParams, hash }) {
  const told = new URLSearchParams([...searchParams].filter(([name]) => name === "__theme" || !name.startsWith("__")));
  const named = document.querySelector("meta[name=rmx-parents]")?.content.split(" ").filter(Boolean) ?? [];
  const around = location.ancestorOrigins?.[0]; // not known everywhere; the browser compares origins in any case
  for (const origin of [HUB, ...named]) {
    if (!around || around === origin) window.parent.postMessage({ queryString: told.toString(), hash }, origin);
  }
}
