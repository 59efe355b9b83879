// Sample solutions before and after, side by side; what both say up to the first difference is quiet.
import { attrs, clip, count, fill, make, say, showOdd } from "../common/text.js";
import { mark } from "../common/answers.js";
import { ui } from "./context.js";
import { run } from "./train_poll.js";

export function renderSamples() {
  const s = run.samples, problems = s?.problems ?? [];
  ui.samplesPanel.hidden = !problems.length;
  const kept = Number(/^step_(\d+)$/.exec(run.done?.best ?? "")?.[1] ?? NaN), at = s?.optimizer_step ?? 0;
  const other = Number.isFinite(kept) && kept !== at ? ` The adapter that was kept is that of update ${count(kept)}.` : "";
  say(ui.samplesAbout, `Greedy, base against update ${count(at)}; grey is what both say.${other}`);
  ui.samples.replaceChildren(...problems.slice(0, 24).map(sampleCard));
}
function sampleCard({ problem, known, before, after }) {
  const same = sharedStart(before?.text ?? "", after?.text ?? "");
  const title = attrs(make("p", "sample-title", showOdd(clip(String(problem ?? ""), 600))), { dir: "auto" });
  if (known != null) title.append(make("span", "soft", ` known answer ${showOdd(clip(String(known), 60))}`));
  return make("article", "sample", title, make("div", "pair-of", solution("base", before, same), solution("adapted", after, same)));
}
function solution(name, s, same) {
  const text = s?.text ?? "", head = make("p", "label", name, mark({ text: s?.answer ?? null, correct: s?.correct }));
  const body = attrs(make("div", "solution"), { dir: "auto", tabindex: 0, role: "group", "aria-label": `Solution, ${name}` });
  const [shared, own] = [make("span", "t shared"), make("span", "t")];
  fill(shared, text.slice(0, same));
  fill(own, text.slice(same));
  body.append(shared, own);
  return make("div", "side-of", head, body);
}
function sharedStart(a, b) { // up to the last whole word that both have
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  if (n === a.length && n === b.length) return n;
  while (n > 0 && /[\w\ud800-\udbff]/.test(a[n - 1])) n--; // nor through the middle of an emoji
  return n;
}
