// The first solution, seconds before gradio's page is there: its view opens where it is going to stand, and moves into
// gradio's component when that is mounted (boot.js). Until then what it asks of Python waits. Gradio's script keeps the
// line and the browser busy, so it begins once the first words stand there.
const NAME = "explore/token_view";
const PATIENCE = 4000; // ms that the rest of the page waits for the first words at most
const page = document.getElementById("early"), at = (file) => new URL(`../${file}`, import.meta.url).href;

async function begin(opening, shown) {
  const { props = {}, server_fns: names } = window.gradio_config.components.find((one) => one.props.elem_id === "view").props;
  const element = page.querySelector(".early-view"), waiting = [];
  let grant, receive = (message) => waiting.push(message);
  const handles = new Promise((done) => (grant = done)), tell = (message) => receive(message);
  const server = Object.fromEntries(names.map((name) => [name, async (question) => (await handles).server[name](question)]));
  const hear = (listener) => {
    waiting.splice(0).forEach((receive = listener));
    return true;
  };
  const trigger = (...event) => handles.then((its) => setTimeout(its.trigger, 0, ...event)); // gradio hears nothing while it mounts
  window.rmxViews = { ...window.rmxViews, [NAME]: { element, props, server, trigger, hear } };
  window.rmxEarly = {
    name: NAME,
    tell,
    async moveTo(place, its) { // gradio mounts first and shows later
      for (let k = 0; k < 100 && !place.checkVisibility({ visibilityProperty: true }); k++) await new Promise((done) => setTimeout(done, 20));
      place.replaceChildren(element);
      page.remove();
      grant(its);
    },
  };
  page.hidden = false;
  element.style.visibility = "hidden"; // until it knows how wide it is and has something to show: nothing jumps
  element.innerHTML = await (await fetch(at(`${NAME}.html`))).text();
  await import(at(`${NAME}.js`));
  await painted();
  const foot = element.querySelector(".foot").style;
  const show = () => {
    element.style.visibility = "";
    painted().then(shown);
  };
  await read(opening, async (message) => {
    if (message.start === 0 && message.done) { // its words first, then all that is drawn of a solution that is whole
      foot.visibility = "hidden"; // what stands below moves then
      tell({ ...message, done: false, result: undefined, tree: undefined });
      show();
      await painted();
      foot.visibility = "";
    }
    tell(message);
    show();
  }).finally(show);
}
const painted = () => new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame));
async function read(opening, tell) {
  const reader = (await opening).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part; !(part = await reader.read()).done; ) {
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) await tell(JSON.parse(event.replace("data: ", "")));
  }
}

// ---- the rest of the page -----------------------------------------------------------------------------------
const rest = document.getElementById("rest"), style = rest.content.querySelector("[rel=stylesheet]:not([disabled])");
const styled = style && new Promise((done) => ["load", "error"].forEach((end) => style.addEventListener(end, done)));
const fetchRest = () => document.head.append(rest.content);
const opening = window.rmxOpening, patience = new Promise((done) => setTimeout(done, PATIENCE));
const words = opening && new Promise((done) => begin(opening, done).catch(console.error).finally(done));
Promise.resolve(opening).catch(() => {}).then(fetchRest);
Promise.race([words, patience]).then(() => (fetchRest(), styled)).then(() => {
  if (rest.dataset.script) import(new URL(rest.dataset.script, document.baseURI).href);
});
