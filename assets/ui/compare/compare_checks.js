// Is it real? The base against the untouched checkpoint, noise of the same size, and what rounding alone does.
import { count, make, plural, showOdd } from "../common/text.js";
import { figure } from "../common/estimates.js";
import { ask, ui } from "./context.js";
import { share } from "./compare_stream.js";
import { map } from "./compare_map.js";

export function resetChecks() {
  ui.check.replaceChildren(make("span", "soft", "not checked yet"));
  ui.loud.hidden = ui.checkFacts.hidden = true;
  ui.checkButton.disabled = ui.copyButton.disabled = false;
  ui.checkButton.textContent = "Check";
  ui.mapStatus.textContent = "";
  for (const place of [ui.placebo, ui.noise]) place.replaceChildren(make("span", "soft", "–"));
  ui.largest.replaceChildren(make("li", "soft", "They are listed when the text is done."));
}
export async function check(copy) {
  const run = map.run;
  if (!run) return;
  ui.checkButton.disabled = ui.copyButton.disabled = true;
  ui.check.replaceChildren(make("span", "soft", copy ? "loading a second copy …" : "checking …"));
  const reply = await ask("pair_check", { id: run.id, copy });
  if (run !== map.run) return;
  ui.checkButton.disabled = ui.copyButton.disabled = false;
  if (reply) renderCheck(reply);
  else ui.check.replaceChildren(make("span", "soft", "not checked"));
}
export function renderCheck(r) {
  const weights = r.weights, zero = !!r.adapter?.zero;
  const equal = r.holds ?? (r.max_dlogit === 0 && !r.probe && !r.copy && weights?.equal === weights?.tensors);
  const parts = equal ? [make("span", "right", "✓ the same"), " largest |Δlogit| ", figure(small(r.max_dlogit))]
    : [make("span", "wrong", `✗ not the same: ${showOdd(r.sentence ?? "")}`), "; adapter off against the bare network ", figure(small(r.max_dlogit))];
  parts.push(` over ${plural(r.positions ?? 0, "position")}`);
  if (weights) parts.push("; tensors equal to the file ", figure(`${count(weights.equal)}/${count(weights.tensors)}`));
  if (r.probe != null) parts.push("; probe ", figure(small(r.probe)));
  if (r.copy != null) parts.push("; against a second copy ", figure(small(r.copy)));
  ui.check.replaceChildren(...parts);
  ui.checkButton.textContent = "Check again";
  ui.checkFacts.textContent = showOdd([r.how, adapterFacts(r.adapter), r.seconds >= 0.05 && `${r.seconds.toFixed(1)} s`].filter(Boolean).join(" · "));
  ui.checkFacts.hidden = false;
  ui.loud.hidden = !zero;
  ui.loud.textContent = zero ? "This adapter changes nothing: all its weights are zero. Base and adapted are the same model." : "";
}
const small = (x) => (x === 0 ? "0" : x == null ? "–" : x < 0.001 ? x.toExponential(1) : x.toFixed(3));
function adapterFacts(a) {
  if (!a) return null;
  const facts = [a.name, a.type, a.rank != null && `rank ${a.rank}`, a.alpha != null && `alpha ${a.alpha}`, a.norm != null && `norm ${small(a.norm)}`];
  facts.push(a.folded && `begun as ${a.folded}, made a plain LoRA of twice its rank`);
  facts.push(a.targets?.length && `on ${a.targets.join(" ")}`, a.parameters && `${count(a.parameters)} parameters`, a.revision && `revision ${String(a.revision).slice(0, 15)}`);
  return facts.filter(Boolean).join(", ");
}
export function renderPlacebo(run) {
  const p = run.result?.placebo, { all, reranked, shifted, near } = map.counts;
  if (!p) return ui.placebo.replaceChildren(make("span", "soft", "not measured for this map"));
  const valueOf = (figure) => figure?.value ?? (typeof figure === "number" ? figure : null);
  const [rank, ratio] = ["mean_rank", "entropy_ratio"].map((name) => valueOf(run.result.figures?.[name]));
  const here = [`Here ${share(reranked + shifted + near, all)} differ`, rank && `mean rank ${rank.toFixed(1)}`, ratio && `entropy ratio ${ratio.toFixed(1)}`];
  const facts = [` reranks `, figure(share(p.reranked, 1)), ", shifts ", figure(share(p.shifted, 1))];
  if (p.mean_rank != null) facts.push("; mean rank ", figure(p.mean_rank.toFixed(1)));
  if (p.entropy_ratio != null) facts.push(", entropy ratio ", figure(p.entropy_ratio.toFixed(1)));
  ui.placebo.replaceChildren(`Noise of the same size (a random LoRA${(p.strength ?? 1) === 1 ? "" : ` at strength ${p.strength}`})`,
    ...facts, ". ", make("span", "soft", `${here.filter(Boolean).join(", ")}.`));
}
export function renderNoise(noise) {
  if (!noise) return ui.noise.replaceChildren(make("span", "soft", "not measured"));
  ui.noise.replaceChildren("Rounding alone moves a logit by up to ", figure(small(noise.max_dlogit)),
    ` and changes ${noise.argmax_changed ? count(noise.argmax_changed) : "no"} choice${noise.argmax_changed === 1 ? "" : "s"} in ${plural(noise.positions ?? 0, "position")}`);
}
