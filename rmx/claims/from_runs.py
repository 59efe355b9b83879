"""Readings of finished training runs of this model. Without a run the row tells the command that would make one."""

import shlex
from dataclasses import replace
from typing import Any

import numpy as np

from rmx.claims.claim import Found, Reading, Subject, span_of
from rmx.claims.own_runs import OwnRun, OwnRuns, Twins, same_set
from rmx.claims.verdicts import Judged, above, inside, not_below, nothing_to_judge
from rmx.data.problem_sets import split_name
from rmx.recipes.recipe import Recipe, command
from rmx.stats.intervals import Estimate, quotient
from rmx.stats.paired import tested_difference
from rmx.stats.text import brief

LOW_RANK = 32
TAUS = (1.0, 2.2)  # nats
DEAREST = 25.0  # USD, of the paper's runs


def distilled(found: Found, subject: Subject) -> Reading:
    """A low-rank adapter trained on the teacher's distributions, against the teacher."""
    teacher = subject.asked.get("teacher") or subject.asked.get("adapter")
    runs: OwnRuns = found["runs"]
    ours = [r for r in runs.distilled(teacher) if r.recipe.flat()["rank"] <= LOW_RANK]
    if not ours:
        whom = ["--teacher", subject.asked.get("teacher")] if subject.asked.get("teacher") else ["--adapter", teacher]
        return _missing("distillation", ["distill", *_base(subject), *(w for w in whom if w)])
    run = ours[0]
    short: Estimate = run.done["vs_teacher"]
    text = (
        f"{run.id} (rank {run.recipe.flat()['rank']}, teacher {run.teacher}): {brief(run.done['after'], '%')} against "
        f"the teacher's {brief(run.done['teacher'], '%')}, {brief(short, 'points')}{_where(run, subject)}{_more(ours)}"
    )
    judged = not_below(short, "The low-rank adapter comes near its teacher", -span_of("vs_teacher")[0])
    return Reading(text, judged, {"vs_teacher": short}, short["n"])


def reasonmaxxer(found: Found, subject: Subject) -> Reading:
    """The newest entropy-gated run's pass@1 on test problems minus the base's. The newest, not the best, of several."""
    ours = found["runs"].trained()
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
    twins = _twins(found["runs"], subject, "--positive-only", "positive_only", (False, True))
    if isinstance(twins, Reading):
        return twins
    full, half, outcomes = twins
    table, ones = np.asarray(outcomes, dtype=float), [1.0] * len(outcomes)
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
    twins = _twins(found["runs"], subject, "--gate random", "gate", ("entropy", "random"))
    if isinstance(twins, Reading):
        return twins
    entropy, chance, outcomes = twins
    better = tested_difference([c for _, _, c in outcomes], [e for _, e, _ in outcomes])
    text = (
        f"Gate by entropy {brief(entropy.gain, 'points')} ({entropy.id}), by chance {brief(chance.gain, 'points')} "
        f"({chance.id}): {brief(better, 'points')} apart"
    )
    figures = {"entropy_minus_random": better, "by_entropy": entropy.gain, "at_random": chance.gain}
    judged = above(better, "The entropy gate does more than one of the same size drawn by chance", unit="points")
    return Reading(text, judged, figures, better["n"])


def tau_range(found: Found, subject: Subject) -> Reading:
    """Every threshold of a sweep that lies in the paper's range must raise pass@1 by itself."""
    sweeps = [run for run in found["runs"].all if run.sweep]
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
    each = [above(t["test_vs_base"], f"tau {t['tau']:g} raises pass@1", unit="points") for t in tried]
    for verdict in ("differs", "not enough data"):
        if (worst := next((j for j in each if j.verdict == verdict), None)) is not None:
            return worst
    named = ", ".join(f"{t['tau']:g}" for t in tried)
    return Judged("agrees", f"Every threshold tried between 1.0 and 2.2 nats raises pass@1 by itself: {named}.")


def cost(found: Found, subject: Subject) -> Reading:
    """What the newest run with the paper's recipe cost: an amount, not an estimate, so it has no interval."""
    ours = [r for r in found["runs"].all if r.kind == "train" and r.done.get("usd") is not None]
    if not ours:
        return _missing("run on a machine whose hourly rate is known (RMX_USD_PER_HOUR)", ["train", *_base(subject)])
    whole = [r for r in ours if not _is_smaller(r)]
    run = (whole or ours)[0]
    usd = float(run.done["usd"])
    text = f"{run.id}: {usd:.2f} USD for {float(run.done['seconds']) / 60:.0f} minutes"
    if not whole:
        judged = nothing_to_judge(
            "This run samples or trains on less than the paper's recipe, so its cost is not comparable."
        )
    else:
        more = "no more" if usd <= DEAREST else "more"
        why = f"One run, one amount: {more} than the paper's dearest, {DEAREST:g} USD."
        judged = Judged("agrees" if usd <= DEAREST else "differs", why)
    return Reading(text, judged, {"usd": {"value": usd, "low": None, "high": None, "n": 1}})


def _is_smaller(run: OwnRun) -> bool:
    """Whether the run did less work than the paper's recipe asks for."""
    flat, paper = run.recipe.flat(), type(run.recipe)().flat()
    counts = ("problems", "k", "max_new_tokens", "select", "epochs")
    return any(flat[name] < paper[name] for name in counts if name in paper) or flat.get("max_steps") is not None


def _base(subject: Subject) -> list[str]:
    """Options of a run of this model on this set's training problems, asked as it is here."""
    words = ["--model", subject.asked.get("model") or subject.pair.base.spec, "--set", split_name(subject.set_name)[0]]
    return words + shlex.split(subject.asked.get("style") or "")


def _twins(runs: OwnRuns, subject: Subject, option: str, field: str, values: tuple[Any, Any]) -> Twins | Reading:
    """Two runs that differ in one field of the recipe alone, by these two values, the usual one first.

    Without them a reading with the command of what is missing: the newest run's twin, or a first run.
    """
    plain, other = runs.trained(), runs.trained(**{field: values[1]})
    if (twins := runs.twins(plain, other)) is not None:
        return twins
    if (newest := next(iter(plain or other), None)) and (job := newest.job):
        recipe = job.recipe.with_(**{field: values[1] if plain else values[0]})
        words = replace(job, recipe=recipe, taus=()).words()[1:]
    else:
        words = ["train", *_base(subject), *command(Recipe().with_(**{field: values[1]}))]
    return _missing(f"pair of runs that differ in {option} alone", words)


def _missing(what: str, words: list[str]) -> Reading:
    line = shlex.join(["rmx", *words])
    return Reading("–", nothing_to_judge(f"This model has no finished {what} here. Make one: {line}", "not measured"))


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
