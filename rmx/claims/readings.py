"""Read verdicts off the studies of a pair, off what is sampled or swapped on the base alone, and off pass@k."""

from collections.abc import Callable, Sequence
from typing import Any

from rmx.claims.claim import (
    FEWEST,
    Judged,
    Reading,
    Subject,
    above,
    below,
    inside,
    no_better,
    not_below,
    nothing_to_judge,
    span_of,
    too_wide,
)
from rmx.claims.studies import Swaps
from rmx.compare.intervene import Arm
from rmx.compare.intervene_set import InterveneReport
from rmx.compare.shift_set import ShiftFigures, ShiftReport
from rmx.evaluate.eval_report import EvalReport
from rmx.explore.flip_rates import ARMS, Flip, summarise
from rmx.explore.gate_recall import LocatorReport
from rmx.records import is_fork
from rmx.stats.intervals import Estimate, difference_of_ratios, exact_share, ratio_of_sums
from rmx.stats.paired import tested_difference
from rmx.stats.text import brief


def swaps(study: Swaps, subject: Subject) -> Reading:
    """Chance that a token drawn from the alternatives flips the answer: at a fork minus elsewhere."""
    forks, elsewhere = _flips_of(study, True), _flips_of(study, False)
    here, there = ratio_of_sums(*forks, counts=False), ratio_of_sums(*elsewhere, counts=False)
    excess = difference_of_ratios(*forks, *elsewhere)
    text = (
        f"Another token, drawn as often as the model would, flips the answer with chance {brief(here, '%')} at a fork "
        f"and {brief(there, '%')} elsewhere ({len(study.flips):,} swaps)"
    )
    judged = above(excess, "A swap at a fork decides more than one elsewhere")
    figures = {"forks": here, "elsewhere": there, "excess": excess}
    if study.controls:
        said, more = _controls(study)
        text, figures, judged = text + said, figures | more, _sound(study, subject, judged)
    return Reading(text, judged, figures, excess["n"])


def _controls(study: Swaps) -> tuple[str, dict[str, Estimate]]:
    """What forcing the second choice, forcing the token that is there, and forcing nothing do at the same forks."""
    found = summarise(study.controls)
    figures: dict[str, Estimate] = {arm: found[arm]["flip"] for arm in ARMS}
    second, null, sampled, resampled = (brief(figure, "%") for figure in figures.values())
    text = (
        f". Controls at {found['forks']:,} forks of {found['problems']} problems: the second choice flips {second}, "
        f"the token that is there {null} (the same tokens in {found['null']['same_tokens']:,}); sampled on at "
        f"temperature 1 the second choice flips {sampled}, nothing forced {resampled}"
    )
    return text, figures


def _sound(study: Swaps, subject: Subject, judged: Judged) -> Judged:
    """The verdict, unless the gate is too wide, or forcing the token that is there changes answers as well."""
    tokens, forks = (sum(getattr(p, name) for p in study.controls) for name in ("tokens", "forks"))
    changed = sum(t.other_answer for p in study.controls for t in p.tried if t.arm == "null")
    if (wide := too_wide(forks / tokens if tokens else None, subject.tau)) is not None:
        return wide
    if changed:
        why = f"Forcing the token that is there already changed the answer at {changed:,} of {forks:,} forks: rounding."
        return Judged("no verdict", why, None)
    return judged


def _flips_of(study: Swaps, fork: bool) -> tuple[list[float], list[float]]:
    """Per problem: probability of the swaps that flip, and places that were looked at."""
    flips: dict[str, list[Flip]] = {problem: [] for problem in study.problems}
    for flip in study.flips:
        if flip.fork == fork:
            flips[flip.problem].append(flip)
    flipped = [sum(f.p for f in fs if f.flipped) for fs in flips.values()]
    return flipped, [float(len({f.pos for f in fs})) for fs in flips.values()]


def locator(report: LocatorReport, subject: Subject) -> Reading:
    """What the gate misses and what it takes in vain; the paper says nothing of either per token."""
    if not report.problems:
        why = f"{report.config.budget:,} tokens are too few for one problem. Allow more (--budget)."
        return Reading("–", nothing_to_judge(why, "not measured"))
    all_figures = report.figures()
    figures = {name: all_figures[name] for name in ("missed", "precision", "decides_nothing")}
    missed = figures["missed"]
    text = (
        f"{brief(missed, '%')} of what single choices decide lies outside the gate; of the gated tokens "
        f"{brief(figures['precision'], '%')} decide, {brief(figures['decides_nothing'], '%')} surely do not "
        f"({report.problems} problem{'s' * (report.problems != 1)}, {report.tokens_spent:,} tokens sampled)"
    )
    tokens = sum(one.tokens for one in report.each)
    gated = sum(one.gated for one in report.each) / tokens if tokens else None
    if (wide := too_wide(gated, subject.tau)) is not None:
        judged = wide
    elif missed["value"] is None:
        judged = nothing_to_judge("No choice was found to decide anything, so there is nothing to find.")
    else:
        why = f"The paper measures no such thing; here {brief(missed, '%')} of the decisive weight is out of the "
        why += "gate's sight."
        if report.problems < FEWEST:
            why += f" With fewer than {FEWEST} problems the intervals are rough."
        judged = nothing_to_judge(why, "open in the paper")
    return Reading(text, judged, figures, report.problems)


def pass_at_k(report: EvalReport, subject: Subject) -> Reading:
    """The difference between the two models at k = 1 and at the greatest k; the paper tested k = 1 alone."""
    paired: dict[str, Any] | None = next((p for p in report.json()["paired"] if p.get("pass@k")), None)
    if paired is None or not any(found["value"] is not None for found in paired["pass@k"].values()):
        return Reading("–", nothing_to_judge("No problem is done yet.", "not measured"))
    ks = sorted(paired["pass@k"], key=int)
    plain = ("value", "low", "high", "n")
    first, last = ({key: paired["pass@k"][k].get(key) for key in plain} for k in (ks[0], ks[-1]))
    text = f"Adapted minus base: pass@{ks[0]} {brief(first, 'points')}, pass@{ks[-1]} {brief(last, 'points')}"
    figures = {f"pass@{ks[0]}": first, f"pass@{ks[-1]}": last}
    return Reading(text, nothing_to_judge(_trend(first, last, ks), "open in the paper"), figures, first["n"])


def _trend(first: Estimate, last: Estimate, ks: list[str]) -> str:
    if first["low"] is None or last["low"] is None:
        return "Too few problems to say whether the advantage shrinks with k."
    if last["high"] < 0:
        return f"The advantage turns: at k = {ks[-1]} the base solves more."
    if last["high"] < first["low"]:
        return f"The advantage shrinks from k = {ks[0]} to k = {ks[-1]}; both intervals lie apart."
    if last["low"] > first["high"]:
        return f"The advantage grows from k = {ks[0]} to k = {ks[-1]}; both intervals lie apart."
    return f"Whether the advantage shrinks up to k = {ks[-1]} cannot be said: the intervals overlap. Sample more (--n)."


# -- Readings of the studies of a pair --------------------------------------------------------------------------------


def reranked(report: ShiftReport, subject: Subject) -> Reading:
    """Share of positions with another choice inside the base's top 5, against 1.0 to 4.1 %."""
    share = report.figures.shares()["reranked"]
    near = sum(int(p.near.sum()) for p in report.figures.places)
    text = f"{brief(share, '%')} of {report.figures.positions:,} positions"
    text += f"; {near} of the disagreements are ties within rounding" if near else ""
    return Reading(text, inside(share, *span_of("reranked")), {"reranked": share}, share["n"])


def shifted(report: ShiftReport, subject: Subject) -> Reading:
    """Share outside the base's top 5: nearly none, so less than the paper's least agrees too."""
    share = report.figures.shares()["shifted"]
    judged = below(share, "Nearly none, as the paper says", span_of("shifted")[1], "%")
    text = f"{brief(share, '%')} of {report.figures.positions:,} positions"
    return Reading(text, judged, {"shifted": share}, share["n"])


def mean_rank(report: ShiftReport, subject: Subject) -> Reading:
    """Mean rank of the adapted choice under the base where they disagree, against 2.14 to 2.39."""
    behind = f" at {report.figures.disagreements:,} disagreements"
    return _beside_noise(report, "mean_rank", "placebo_rank", ShiftFigures.mean_rank, behind)


def entropy_ratio(report: ShiftReport, subject: Subject) -> Reading:
    """Base entropy where reranked over where unshifted, against 5 to 12."""
    return _beside_noise(report, "entropy_ratio", "placebo_ratio", ShiftFigures.entropy_ratio, " times")


def _beside_noise(
    report: ShiftReport, name: str, noise_name: str, figure: Callable[[ShiftFigures], Estimate], behind: str
) -> Reading:
    """A figure inside its range, with the same of noise that reranks as often, where there is a placebo."""
    value = figure(report.figures)
    figures, text = {name: value}, f"{brief(value)}{behind}"
    if report.placebo:
        figures[noise_name] = noise = figure(report.placebo)
        text += f"; noise that reranks as often: {brief(noise)}"
    return Reading(text, inside(value, *span_of(name)), figures, value["n"])


def on_forks(report: ShiftReport, subject: Subject) -> Reading:
    """Share of disagreements on forks minus the share of positions that are forks."""
    shares, places = report.figures.shares(), report.figures.places
    forks = [is_fork(p.entropy, report.tau) for p in places]
    excess = difference_of_ratios(
        [float((p.differs & f).sum()) for p, f in zip(places, forks, strict=True)],
        [float(p.differs.sum()) for p in places],
        [float(f.sum()) for f in forks],
        [float(len(f)) for f in forks],
    )
    here, chance = shares["on_forks"], shares["on_forks_by_chance"]
    text = f"{brief(here, '%')} of disagreements lie on forks; by chance {brief(chance, '%')} would"
    figures = {"on_forks": here, "by_chance": chance, "excess": excess}
    judged = above(excess, "More disagreements lie on forks than chance puts there")
    return Reading(text, too_wide(chance["value"], subject.tau) or judged, figures, excess["n"])


def gain(report: InterveneReport, subject: Subject) -> Reading:
    """The adapted model's pass@1 minus the base's, greedy, on the same problems."""
    difference = _difference(report, "teacher", "base")
    text = f"Base {_accuracy(report, 'base')}, adapted {_accuracy(report, 'teacher')}: {brief(difference, 'points')}"
    judged = above(difference, "The adapted model is right more often than the base", unit="points")
    return Reading(text, judged, {"gain": difference}, difference["n"])


def oracle(report: InterveneReport, subject: Subject) -> Reading:
    """Problems on which the oracle's answer is right or wrong as the teacher's is, and how few tokens it takes."""
    ours, theirs = report.right("oracle"), report.right("teacher")
    same = exact_share(sum(a == b for a, b in zip(ours, theirs, strict=True)), len(ours))
    touched = _touched(report, "oracle", [p.results["oracle"].patches for p in report.problems])
    text = (
        f"The teacher's outcome on {brief(same, '%')} of the problems (pass@1 {_accuracy(report, 'oracle')}, teacher "
        f"{_accuracy(report, 'teacher')}), with {brief(touched, '%')} of the tokens patched"
    )
    judged = inside(same, *span_of("same_outcome"))
    return Reading(text, judged, {"same_outcome": same, "touched": touched}, same["n"])


def random_control(report: InterveneReport, subject: Subject) -> Reading:
    """A random token at the places where the models disagree, against the base."""
    difference = _difference(report, "random", "base")
    elsewhere = _difference(report, "matched", "base")
    text = (
        f"Random control {_accuracy(report, 'random')}, base {_accuracy(report, 'base')}: {brief(difference, 'points')}"
        f"; at as many places anywhere: {brief(elsewhere, 'points')}"
    )
    judged = no_better(difference, "A random token there is no better than the base's own", span_of("random")[1])
    return Reading(text, judged, {"random": difference, "anywhere": elsewhere}, difference["n"])


def gate(report: InterveneReport, subject: Subject) -> Reading:
    """The entropy gate against the teacher; it asks nothing where the teacher is not better than the base."""
    short = _difference(report, "entropy", "teacher")
    won = _difference(report, "teacher", "base")
    text = f"Gate {_accuracy(report, 'entropy')}, teacher {_accuracy(report, 'teacher')}: {brief(short, 'points')}"
    judged = not_below(short, "The gate comes near the teacher", -span_of("gate_minus_teacher")[0])
    if judged.verdict != "not enough data" and won["verdict"] != "better":
        judged = nothing_to_judge(
            "The adapted model cannot be told from the base here, so there is no gain that the gate could match."
        )
    judged = too_wide(_gated(report)["value"], subject.tau) or judged
    return Reading(text, judged, {"gate_minus_teacher": short}, short["n"])


def gate_share(report: InterveneReport, subject: Subject) -> Reading:
    """Share of tokens above tau, where the gate takes the teacher's token, against 1.2 to 8.3 %."""
    gated = _gated(report)
    changed = _touched(report, "entropy", [p.results["entropy"].patches for p in report.problems])
    text = f"{brief(gated, '%')} of tokens are gated at tau {subject.tau:g} nats; {brief(changed, '%')} really change"
    judged = too_wide(gated["value"], subject.tau) or inside(gated, *span_of("gated"))
    return Reading(text, judged, {"gated": gated, "changed": changed}, gated["n"])


def placebo(shifts: ShiftReport, report: InterveneReport, subject: Subject) -> Reading:
    """The adapted model against noise of the same size and as many reranked tokens, on the same problems."""
    noise = report.placebo
    if noise is None or not noise.right:
        reason = "No placebo could be put on this model." if report.done else "The placebo has not been run yet."
        return Reading("–", nothing_to_judge(reason, "not measured"))
    n = len(noise.right)
    better = tested_difference(noise.right, report.right("teacher")[:n])
    alone = tested_difference(report.right("base")[:n], noise.right)
    right = exact_share(sum(noise.right), n)
    text = (
        f"Noise {brief(right, '%')}, {brief(alone, 'points')} from the base; the adapter minus noise: "
        f"{brief(better, 'points')}"
    )
    figures = {"adapter_minus_noise": better, "noise_minus_base": alone}
    if shifts.placebo:
        rank, ratio = shifts.placebo.mean_rank(), shifts.placebo.entropy_ratio()
        figures |= {"noise_mean_rank": rank, "noise_entropy_ratio": ratio}
        text += f". Noise alone has a mean rank of {brief(rank)} and an entropy ratio of {brief(ratio)}"
    judged = above(better, "The adapter does more than noise of its size", unit="points")
    return Reading(text, judged, figures, better["n"])


def _difference(report: InterveneReport, one: Arm, other: Arm) -> Estimate:
    return tested_difference(report.right(other), report.right(one))


def _accuracy(report: InterveneReport, arm: Arm) -> str:
    right = report.right(arm)
    return brief(exact_share(sum(right), len(right)), "%")


def _gated(report: InterveneReport) -> Estimate:
    """Share of the tokens of the gated decoding that lie above tau."""
    return _touched(report, "entropy", [p.results["entropy"].gated for p in report.problems])


def _touched(report: InterveneReport, arm: Arm, counts: Sequence[int]) -> Estimate:
    return ratio_of_sums(counts, [p.results[arm].tokens for p in report.problems])
