// Reads a file of problems in the browser and hands its text to the server; what comes back is this component's value.
import { clip, count, make, plural, showOdd } from "../common/text.js";
import { openView } from "../common/view.js";

export function mount(handles) {
  const { props, sayError, sendFile, ui } = openView(handles);
  async function readFile(file) {
    sayError();
    if (file.size > props.most_bytes) return refuse(`${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${props.most_bytes / 1e6} MB are read here. A larger one goes by its path.`);
    ui.told.textContent = `Reading ${showOdd(clip(file.name, 80))} …`;
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      return refuse(`${file.name} is not UTF-8 text. Save it as UTF-8, as .jsonl or .csv.`);
    }
    const reply = await sendFile("problems", { name: file.name }, text);
    if (!reply?.file) return refuse(null);
    const unknown = reply.problems - reply.answers;
    ui.told.replaceChildren(make("span", "right", "✓ "), `${showOdd(clip(reply.name, 80))}: ${plural(reply.problems, "problem")}`,
      unknown ? `, ${count(unknown)} without a known answer` : "");
    props.value = reply;
  }
  function refuse(sentence) { // null: it has been said
    if (sentence) sayError(showOdd(clip(sentence, 300)));
    ui.told.textContent = "No file is chosen.";
    props.value = null;
  }
  ui.input.addEventListener("change", () => {
    const file = ui.input.files[0];
    ui.input.value = ""; // so that the same file can be chosen again, after it was mended
    if (file) readFile(file);
  });
}
