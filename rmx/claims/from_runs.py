"""Readings of finished training runs of this model. Without a run the row tells the command that would make one."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rmx.claims.claim import Reading, StudyName, Subject, floor_of, span_of
from rmx.claims.own_runs import OwnRun, OwnRuns, same_set
from rmx.claims.verdicts import Judged, above, inside, not_below, nothing_to_judge
from rmx.data.problem_sets import split_name
from rmx.recipes.distill_job import DistillRecipe
from rmx.recipes.recipe import Recipe, command
from rmx.stats.intervals import Estimate, quotient
from rmx.stats.paired import tested_difference
from rmx.stats.text import brief

Found = Mapping[StudyName, Any]
LOW_RANK = 32
TAUS = (1.0, 2.2)  # nats
DEAREST = 25.0  # USD, of the paper's runs


def distilled(found: Found, subject: Subject) -> Reading:
    """A low-rank adapter trained on the teacher's distributions, against the teacher."""
    teacher = subject.asked.get("teacher") or subject.asked.get("adapter")
    ours = [
        r for r in _runs(found).distilled(teacher) if isinstance(r.recipe, DistillRecipe) and r.recipe.rank <= LOW_RANK
    ]
    if not ours:
        whom = ["--teacher", subject.asked.get("teacher")] if subject.asked.get("teacher") else ["--adapter", teacher]
        return _missing("distillation", ["distill", *_base(subject), *(w for w in whom if w)])
    run = ours[0]
    short: Estimate = run.done["vs_teacher"]
    text = (
        f"{run.id} (rank {_rank(run)}, teacher {run.teacher}): {brief(run.done['after'], '%')} against the teacher's "
        f"{brief(run.done['teacher'], '%')}, {brief(short, 'points')}{_where(run, subject)}{_more(ours)}"
    )
    figures = {"vs_teacher": short}
    judged = not_below(short, "The low-rank adapter comes near its teacher", -floor_of("vs_teacher"))
    return Reading(text, judged, figures, short["n"])


def reasonmaxxer(found: Found, subject: Subject) -> Reading:
    """The newest entropy-gated run's pass@1 on test problems minus the base's. The newest, not the best, of several."""
    ours = _runs(found).trained()
    if not ours:
        return _missing("ReasonMaxxer run that was checked on test problems", ["train", *_base(subject)])
    run, gain = ours[0], ours[0].gain
    text = (
        f"{run.id}: {brief(run.done['before'], '%')} to {brief(run.done['after'], '%')}, {brief(gain, 'points')}"
        f"{_where(run, subject)}{_more(ours)}"
    )
    judged = above(gain, "ReasonMaxxer raises pass@1", unit="points")
    return Reading(text, judged, {"run_gain": gain}, gain["n"])


def positive_only(found: Found, subject: Subject) -> Reading:
    """The gain of a run that raises right choices only, over the gain of its twin."""
    runs = _runs(found)
    twins = runs.twins(runs.trained(), runs.trained(positive_only=True))
    if twins is None:
        words = _twin(subject, runs.trained(), runs.trained(positive_only=True), "positive_only", (False, True))
        return _missing("pair of runs that differ in --positive-only alone", words)
    full, half = twins.one, twins.other
    table, ones = np.asarray(twins.outcomes, dtype=float), [1.0] * len(twins.outcomes)
    ratio = quotient(list(table[:, 2] - table[:, 0]), ones, list(table[:, 1] - table[:, 0]), ones)
    text = (
        f"{brief(half.gain, 'points')} with right rollouts alone ({half.id}), {brief(full.gain, 'points')} with both "
        f"({full.id}): a share of {brief(ratio)}"
    )
    judged = inside(ratio, *span_of("share_of_gain"))
    if full.gain["low"] is None or full.gain["low"] <= 0:
        judged = nothing_to_judge("The full recipe's own gain cannot be told from 0, so half of it means nothing.")
    figures = {"share_of_gain": ratio, "positive_only": half.gain, "both": full.gain}
    return Reading(text, judged, figures, ratio["n"])


def random_gate(found: Found, subject: Subject) -> Reading:
    """The entropy gate's run minus a run whose gate is as large but drawn by chance."""
    runs = _runs(found)
    twins = runs.twins(runs.trained(), runs.trained(gate="random"))
    if twins is None:
        words = _twin(subject, runs.trained(), runs.trained(gate="random"), "gate", ("entropy", "random"))
        return _missing("pair of runs that differ in --gate random alone", words)
    entropy, chance = twins.one, twins.other
    better = tested_difference([c for _, _, c in twins.outcomes], [e for _, e, _ in twins.outcomes])
    text = (
        f"Gate by entropy {brief(entropy.gain, 'points')} ({entropy.id}), by chance {brief(chance.gain, 'points')} "
        f"({chance.id}): {brief(better, 'points')} apart"
    )
    figures = {"entropy_minus_random": better, "by_entropy": entropy.gain, "at_random": chance.gain}
    judged = above(better, "The entropy gate does more than one of the same size drawn by chance", unit="points")
    return Reading(text, judged, figures, better["n"])


def tau_range(found: Found, subject: Subject) -> Reading:
    """Every threshold of a sweep that lies in the paper's range must raise pass@1 by itself."""
    sweeps = _runs(found).sweeps()
    if not sweeps:
        return _missing("sweep of thresholds", ["train", *_base(subject), "--sweep-tau", "1.0,1.4,1.8,2.2"])
    run = sweeps[0]
    assert run.sweep is not None
    tried = [t for t in run.sweep["taus"] if isinstance(t.get("test_vs_base"), dict)]
    figures = {f"tau {t['tau']:g}": t["test_vs_base"] for t in tried}
    text = f"{run.id}: " + ", ".join(f"{name} {brief(gain, 'points')}" for name, gain in figures.items())
    within = [t for t in tried if TAUS[0] <= t["tau"] <= TAUS[1]]
    if not within:
        judged = nothing_to_judge("No threshold of this sweep was checked on test problems within 1.0 to 2.2 nats.")
        return Reading(text, judged, figures)
    judged = _all_work(within)
    broken = [f"{t['tau']:g}" for t in run.sweep["taus"] if TAUS[0] <= t["tau"] <= TAUS[1] and t not in tried]
    if broken and judged.verdict == "agrees":
        judged = nothing_to_judge(f"The others raise pass@1, but {', '.join(broken)} nats made no adapter to test.")
    return Reading(text, judged, figures, min(t["test_vs_base"]["n"] for t in within))


def _all_work(tried: list[dict[str, Any]]) -> Judged:
    """All agree: agrees. One differs: differs. Else the first that cannot be told."""
    each = [(t["tau"], above(t["test_vs_base"], f"tau {t['tau']:g} raises pass@1", unit="points")) for t in tried]
    if (worst := next((j for _, j in each if j.verdict == "differs"), None)) is not None:
        return worst
    if all(j.verdict == "agrees" for _, j in each):
        named = ", ".join(f"{tau:g}" for tau, _ in each)
        return Judged("agrees", f"Every threshold tried between 1.0 and 2.2 nats raises pass@1 by itself: {named}.")
    return next(j for _, j in each if j.verdict == "not enough data")


def cost(found: Found, subject: Subject) -> Reading:
    """What the newest run with the paper's recipe cost: an amount, not an estimate, so it has no interval."""
    ours = [r for r in _runs(found).all if r.kind == "train" and r.done.get("usd") is not None]
    if not ours:
        return _missing("run on a machine whose hourly rate is known (RMX_USD_PER_HOUR)", ["train", *_base(subject)])
    whole = [r for r in ours if not _smaller(r)]
    run = (whole or ours)[0]
    usd = float(run.done["usd"])
    text = f"{run.id}: {usd:.2f} USD for {float(run.done['seconds']) / 60:.0f} minutes"
    figures = {"usd": {"value": usd, "low": None, "high": None, "n": 1}}
    if not whole:
        why = "This run samples or trains on less than the paper's recipe, so its cost is not comparable."
        return Reading(text, nothing_to_judge(why), figures)
    if usd <= DEAREST:
        judged = Judged("agrees", f"One run, one amount: no more than the paper's dearest, {DEAREST:g} USD.")
    else:
        judged = Judged("differs", f"One run, one amount: more than the paper's dearest, {DEAREST:g} USD.")
    return Reading(text, judged, figures)


# -- inside -----------------------------------------------------------------------------------------------------------


def _smaller(run: OwnRun) -> bool:
    """Whether the run did less work than the paper's recipe asks for."""
    flat, paper = run.recipe.flat(), type(run.recipe)().flat()
    counts = ("problems", "k", "max_new_tokens", "select", "epochs")
    return any(flat[name] < paper[name] for name in counts if name in paper) or flat.get("max_steps") is not None


def _runs(found: Found) -> OwnRuns:
    runs: OwnRuns = found["runs"]
    return runs


def _base(subject: Subject) -> list[str]:
    """Options of a run of this model on this set's training problems, asked as it is here."""
    words = ["--model", subject.asked.get("model") or subject.model, "--set", split_name(subject.set_name)[0]]
    return words + shlex.split(subject.asked.get("style") or "")


def _twin(
    subject: Subject, plain: Sequence[OwnRun], other: Sequence[OwnRun], field: str, values: tuple[Any, Any]
) -> list[str]:
    """The command of the run that is missing: of the twin of the newest one that is there, or of a first one.

    Args:
        plain: the usual runs. other: their twins. field: of the recipe, in which they differ by these two values.
    """
    usual, twin = values
    if newest := next(iter(plain or other), None):
        return newest.command(**{field: twin if plain else usual})[1:]
    return ["train", *_base(subject), *command(Recipe().with_(**{field: twin}))]


def _missing(what: str, words: list[str]) -> Reading:
    line = shlex.join(["rmx", *words])
    return Reading("–", nothing_to_judge(f"This model has no finished {what} here. Make one: {line}", "not measured"))


def _rank(run: OwnRun) -> Any:
    return run.recipe.flat()["rank"]


def _where(run: OwnRun, subject: Subject) -> str:
    """The run's own problems, where they are not those of the other rows."""
    split = run.done.get("split") or "held-out"
    other = "" if same_set(run, subject.set_name) else ", another set than above"
    return f" on {split} problems of {run.set_name}{other}"


def _more(runs: list[OwnRun]) -> str:
    """That there were others, so that nobody thinks the best was picked."""
    others = [brief(found, "points") for r in runs[1:4] if (found := r.done.get("vs_base"))]
    if not others:
        return ""
    left = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
    return f". The newest of {len(runs)} runs; those before it, against the base: {'; '.join(others)}{left}"
