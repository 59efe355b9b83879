"""Readings of what is sampled or swapped on the base alone, and of pass@k."""

from typing import Any

from rmx.claims.claim import Found, Reading, Subject
from rmx.claims.studies import Swaps
from rmx.claims.verdicts import FEWEST, Judged, above, nothing_to_judge, too_wide
from rmx.explore.flip_rates import Flip
from rmx.explore.gate_recall import LocatorReport
from rmx.explore.swap_controls import ARMS, summarise
from rmx.stats.intervals import Estimate, difference_of_ratios, ratio_of_sums
from rmx.stats.text import brief


def swaps(found: Found, subject: Subject) -> Reading:
    """Chance that a token drawn from the alternatives flips the answer: at a fork minus elsewhere."""
    study: Swaps = found["swaps"]
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


def locator(found: Found, subject: Subject) -> Reading:
    """What the gate misses and what it takes in vain; the paper says nothing of either per token."""
    report: LocatorReport = found["locator"]
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


def pass_at_k(found: Found, subject: Subject) -> Reading:
    """The difference between the two models at k = 1 and at the greatest k; the paper tested k = 1 alone."""
    report: dict[str, Any] = found["evaluation"].json()
    paired = next((p for p in report["paired"] if p.get("pass@k")), None)
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
