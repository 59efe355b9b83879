// The form's button beside this view: what was pressed is said at once, and while a run of this visitor goes on, it is Stop.
import { say } from "../common/text.js";
import { ui } from "./context.js";
import { run, stateOf } from "./train_poll.js";
import { isMine, request } from "./train_run.js";

const controls = document.getElementById("train-controls"), stop = document.getElementById("train-stop");
const PATIENCE = 90_000; // ms; then a start that nobody spoke of any more is over
let starting = 0;

export function setStarting(on) {
  clearTimeout(starting);
  starting = on ? setTimeout(setStarting, PATIENCE, false) : 0;
  say(ui.starting, on ? "Starting: the run gets a process of its own, which takes some seconds." : "");
  ui.starting.hidden = !on;
  renderForm();
}
export function renderForm() {
  if (!controls || !stop) return;
  if (starting && run?.heard) return setStarting(false);
  const state = run?.heard && isMine() ? stateOf(run) : null, busy = starting > 0 || state === "stopping";
  controls.classList.toggle("going", busy || state === "queued" || state === "running");
  say(stop, starting ? "Starting …" : busy ? "Stopping …" : "Stop this run");
  stop.disabled = busy;
}
controls?.addEventListener("click", (e) => {
  if (e.target.closest("#train-start, #train-dry")) setStarting(true);
  if (e.target.closest("#train-stop")) request("stop");
});
