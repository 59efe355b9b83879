// The rollouts: how many problems had how many right, which of them can teach, and what the selection kept.
import { attrs, count, make, percent, plural, say } from "../common/text.js";
import { ui } from "./context.js";
import { run } from "./train_poll.js";

export function renderRollouts() {
  const { rollouts, selection } = run.told;
  ui.rolloutsPanel.hidden = !(rollouts || selection);
  if (ui.rolloutsPanel.hidden) return;
  const histogram = rollouts?.histogram ?? selection?.histogram ?? [], k = histogram.length - 1;
  say(ui.rolloutsAbout, rollouts ? `${count(rollouts.at)} of ${plural(rollouts.of, "problem")}, ${count(rollouts.k)} solutions each` : "");
  ui.histogram.parentNode.hidden = k < 1;
  if (k > 0) renderHistogram(histogram, selection?.kept_histogram?.length === histogram.length ? selection.kept_histogram : null);
  if (rollouts) ui.rolloutsTally.replaceChildren(...rolloutFacts(rollouts));
  renderSelection(selection);
}
const fact = (name, figure, more = "") => make("div", "", make("dt", "", name), make("dd", "", make("span", "num", figure), more && make("span", "soft", ` ${more}`)));
function rolloutFacts(r) {
  const part = (n) => (r.rollouts ? percent(n / r.rollouts).replace("<0.1", n ? "<0.1" : "0") : "");
  const facts = [["rollouts", count(r.rollouts)], ["right", count(r.right), part(r.right)]];
  facts.push(["truncated", count(r.truncated), part(r.truncated)], ["no answer", count(r.unparsed), part(r.unparsed)]);
  const s = r.server; // of rollouts that a server sampled: how many may be other tokens than it chose
  if (s) facts.push(["ids in doubt", count(s.doubtful), percent(s.share).replace("<0.1", s.doubtful ? "<0.1" : "0")]);
  return facts.map((row) => fact(...row));
}

// ---- the histogram ------------------------------------------------------------------------------------------
function renderHistogram(bins, kept) {
  const k = bins.length - 1, top = Math.max(1, ...bins), all = bins.reduce((a, b) => a + b, 0), usable = all - bins[0] - bins[k];
  const columns = bins.map((n, right) => {
    const bar = make("i"), column = make("div", right === 0 || right === k ? "column useless" : "column usable", make("span", "n num", n ? count(n) : ""), bar);
    bar.style.height = `${(100 * n) / top}%`;
    if (kept && n) {
      const inner = make("b");
      inner.style.height = `${(100 * (kept[right] ?? 0)) / n}%`;
      bar.append(inner);
    }
    column.title = `${right} of ${k} right: ${plural(n, "problem")}${kept ? `, ${count(kept[right] ?? 0)} kept` : ""}`;
    return column;
  });
  const plot = attrs(make("div", kept ? "columns with-kept" : "columns", ...columns), {
    role: "img", "aria-label": `Of ${plural(all, "problem")}: ${count(bins[0])} never right, ${count(bins[k])} always right, ${count(usable)} in between, usable`,
  });
  const spread = make("div", "bracket");
  spread.style.margin = `0 ${100 / (k + 1)}%`;
  const axis = make("div", "axis", make("span", "num", "0"), make("span", "", "the usable middle: right sometimes"), make("span", "num", `${k}`));
  ui.histogram.replaceChildren(plot, spread, axis, histogramKey(bins, kept, usable));
}
function histogramKey(bins, kept, usable) {
  const item = (cls, words) => make("li", "", make("i", `swatch ${cls}`), words), all = kept?.reduce((a, b) => a + b, 0);
  const lost = item("useless", `never right ${count(bins[0])}, always right ${count(bins.at(-1))}: nothing to tell apart`);
  const middle = kept ? [item("kept", `kept ${count(all)}`), item("usable", `usable, not kept ${count(usable - all)}`)] : [item("kept", `usable ${count(usable)}`)];
  return make("ul", "legend", ...middle, lost);
}

// ---- what was kept ------------------------------------------------------------------------------------------
const REASONS = { all_wrong: "never right", all_right: "always right", further_from_half: "further from one half than those kept" };
function renderSelection(s) {
  if (!s) return ui.selection.replaceChildren(make("p", "soft", "Kept will be the problems whose pass rate is nearest to one half."));
  const rollouts = `${plural(s.rollouts, "rollout")} to learn from, ${count(s.right)} right and ${count(s.wrong)} wrong`;
  const trimmed = s.trimmed ? `; the ${count(s.trimmed)} longest were left out` : "";
  const first = make("p", "", make("strong", "", `Kept ${count(s.kept)} of ${plural(s.problems, "problem")}: `), `${rollouts}${trimmed}.`);
  const alike = s.alike ? make("p", "soft alike", `Of ${plural(s.alike, "kept problem")} all rollouts left have the same result: nothing to learn from.`) : "";
  const out = Object.entries(s.out ?? {}).filter(([, n]) => n > 0);
  const why = out.map(([name, n]) => make("li", "", make("span", "num", count(n)), make("span", "", REASONS[name] ?? name.replaceAll("_", " "))));
  ui.selection.replaceChildren(first, ...(why.length ? [make("p", "soft", "Fell out:"), make("ul", "why", ...why)] : []), alike);
}
