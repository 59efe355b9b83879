// Opens a tree of the gallery or a file: the file is read here, its text is checked by the server, the view shows it.
import { plain } from "../common/tables.js";
import { attrs, clip, count, make, showOdd } from "../common/text.js";
import { openView } from "../common/view.js";

export function mount(handles) {
  const { ask, props, sayError, sendFile, ui } = openView(handles);
  async function show(reply) {
    if (!reply?.run) return false;
    await window.rmx?.open?.(reply.run);
    return true;
  }
  async function readFile(file) {
    sayError();
    if (file.size > 4 * props.most) return refuse(`${file.name} has ${(file.size / 1e6).toFixed(0)} MB; at most ${props.most / 1e6} million characters are read.`);
    ui.told.textContent = `Reading ${showOdd(clip(file.name, 80))} …`;
    let text;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    } catch {
      return refuse(`${file.name} is not UTF-8 text. Choose a .json or .html that rmx has exported.`);
    }
    if (file.size > props.most_bytes) return refuse(`${file.name} is too large to be sent. A page (.html) of the same tree is smaller.`);
    if (await show(await sendFile("tree", {}, text))) ui.told.replaceChildren(make("span", "right", "✓ "), showOdd(clip(file.name, 80)));
    else refuse(null);
  }
  function refuse(sentence) { // null: it has been said
    if (sentence) sayError(showOdd(clip(sentence, 300)));
    ui.told.textContent = "A .json or .html that rmx has exported.";
  }
  ui.input.addEventListener("change", () => {
    const file = ui.input.files[0];
    ui.input.value = ""; // so that the same file can be chosen again
    if (file) readFile(file);
  });
  ui.pieces.replaceChildren(...(props.pieces ?? []).map((piece) => {
    const about = make("span", "soft", `${plain(piece.kind, 40)} · ${count(piece.branches)} branches`);
    const row = make("button", "piece", make("span", "piece-title", plain(piece.title, 120)), about, make("span", "soft", plain(piece.model, 60)));
    return make("li", "", attrs(row, { type: "button", "data-piece": piece.name }));
  }));
  ui.pieces.addEventListener("click", async (e) => {
    const piece = e.target.closest("[data-piece]");
    if (!piece) return;
    sayError();
    await show(await ask("open_piece", { name: piece.dataset.piece }));
  });
}
