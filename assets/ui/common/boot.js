// What gradio runs when a view is mounted, which is when its tab is first opened: fetch what it is made of, then start it.
// Python puts `base`, `name`, `styles` and `modules` before this, and the names of the view's events: gradio looks for them.
const place = new URL(base, document.baseURI), at = (file) => new URL(file, place).href, news = [props.value];
let receive = (message) => news.push(message); // what Python says before the view is there waits for it
watch("value", () => receive(props.value));
const hear = (listener) => {
  const waiting = news.splice(0).filter(Boolean);
  receive = listener;
  waiting.forEach(listener);
  return waiting.length > 0;
};
const linked = (rel, file) => {
  const known = [...document.querySelectorAll(`link[rel=${rel}]`)].find((link) => link.href === at(file));
  const link = known ?? Object.assign(document.createElement("link"), { rel, href: at(file) });
  if (!known) document.head.append(link);
  return link;
};
const styled = (link) => link.sheet ?? new Promise((done) => ["load", "error"].forEach((end) => link.addEventListener(end, done)));
const text = async (reply) => (reply.ok ? reply.text() : Promise.reject(new Error(`${reply.status} ${reply.url}`)));
async function start() {
  if (window.rmxEarly?.name === name) {
    window.rmxEarly.moveTo(element, { trigger, server });
    return hear(window.rmxEarly.tell);
  }
  modules.forEach((file) => linked("modulepreload", file)); // at once, not one after the other as they are imported
  const [html] = await Promise.all([fetch(at(`${name}.html`)).then(text), ...styles.map((file) => styled(linked("stylesheet", file)))]);
  element.innerHTML = html;
  const handles = ((window.rmxViews ??= {})[name] = { element, trigger, props, server, hear });
  (await import(at(`${name}.js`))).mount?.(handles);
}
start().catch((error) => {
  console.error(error);
  element.innerHTML = '<p role="alert">This part of the page could not be loaded. Reload the page.</p>';
});
