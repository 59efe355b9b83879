"""Read verdicts off finished training runs of one model, by their files only.

Without a run the row tells the command that would make one.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmx.claims.claim import Judged, Reading, Subject, above, inside, not_below, nothing_to_judge, span_of
from rmx.data.problem_sets import split_name
from rmx.errors import RmxError
from rmx.runs.folder import SWEEP, RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.rates import Rates, load_rates
from rmx.runs.recipe import DistillRecipe, Recipe, command
from rmx.runs.store import RunStore, dollars
from rmx.stats.intervals import Estimate, quotient
from rmx.stats.paired import tested_difference
from rmx.stats.text import brief
from rmx.storage.safe_files import read_json

EVALUATION = "evaluation.json"


@dataclass(frozen=True, slots=True)
class OwnRun:
    """One finished run."""

    id: str
    kind: str  # train, distill, sweep
    set_name: str | None
    recipe: Recipe | DistillRecipe
    done: dict[str, Any]  # its last event
    right: dict[str, dict[str, bool]] | None = None  # "before" and "after": problem -> right, on the test problems
    sweep: dict[str, Any] | None = None
    teacher: str | None = None
    job: TrainJob | None = None  # what it was asked; None for a distillation

    @property
    def is_tested(self) -> bool:
        """Whether it was compared with the base on test problems."""
        found = self.done.get("vs_base")
        return self.done.get("split") == "test" and isinstance(found, dict) and found.get("value") is not None

    @property
    def gain(self) -> Estimate:
        """Its pass@1 minus the base's, of a run that `is_tested`."""
        found: Estimate = self.done["vs_base"]
        return found


# Two runs that differ in one choice alone; and per test problem whether the base, the one and the other are right.
Twins = tuple[OwnRun, OwnRun, list[tuple[bool, bool, bool]]]


@dataclass(frozen=True, slots=True)
class OwnRuns:
    """All finished runs of a model, the newest first."""

    all: tuple[OwnRun, ...]

    def trained(self, *, gate: str = "entropy", positive_only: bool = False) -> list[OwnRun]:
        """ReasonMaxxer runs with this gate, checked on test problems."""
        return [
            run
            for run in self.all
            if run.kind == "train"
            and isinstance(run.recipe, Recipe)
            and run.recipe.gate.gate == gate
            and run.recipe.loss.positive_only == positive_only
            and run.recipe.loss.objective == "adv_ce"
            and run.is_tested
        ]

    def distilled(self, teacher: str | None) -> list[OwnRun]:
        """Distillations with a comparison to their teacher; those of this teacher first."""
        found = [run for run in self.all if run.kind == "distill" and run.done.get("vs_teacher")]
        return sorted(found, key=lambda run: run.teacher != teacher)

    def twins(self, ones: Sequence[OwnRun], others: Sequence[OwnRun]) -> Twins | None:
        """The newest pair whose recipes differ in gate or positive-only alone, over the same test problems."""
        for one in ones:
            for other in others:
                if not one.right or not other.right or _asked(one) != _asked(other):
                    continue
                before, a, b = one.right["before"], one.right["after"], other.right["after"]
                if a.keys() == b.keys() and (found := [(before[key], a[key], b[key]) for key in a if key in before]):
                    return one, other, found
        return None


def read_runs(store: RunStore, model: str) -> OwnRuns:
    """Runs that are done. What cannot be read is left out: it is no evidence either way."""
    rates = load_rates(store.root)
    found = [_read(folder, rates) for folder in store.all()]
    name = model.partition("@")[0]
    return OwnRuns(tuple(run for spec, run in filter(None, found) if spec.partition("@")[0] == name))


def _read(folder: RunFolder, rates: Rates) -> tuple[str, OwnRun] | None:
    try:
        config, summary = folder.config, folder.summary
        sweep = read_json(folder.path / SWEEP)
        kind = str(config.get("kind", "train"))
        if folder.status["state"] != "done" or not (summary.get("done") or sweep):
            return None
        done = dict(summary.get("done") or {})
        done["usd"] = dollars(folder.path, done.get("seconds"), done.get("usd"), rates)  # as `rmx cost` has it
        recipe = (DistillRecipe if kind == "distill" else Recipe).from_json(config["recipe"])
        run = OwnRun(
            folder.id,
            kind,
            config.get("set"),
            recipe,
            done,
            _right(read_json(folder.path / EVALUATION)),
            sweep if isinstance(sweep, dict) and isinstance(sweep.get("taus"), list) else None,
            config.get("teacher") or config.get("adapter"),
            None if kind == "distill" else TrainJob.from_json(config),
        )
        return str(config["model"]), run
    except (RmxError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _right(found: Any) -> dict[str, dict[str, bool]] | None:
    """Right or wrong per problem, of an evaluation.json that has both sides."""
    problems = found.get("problems") if isinstance(found, dict) else None
    if not isinstance(problems, dict) or not {"before", "after"} <= problems.keys():
        return None
    return {side: {str(s["id"]): bool(s["correct"]) for s in problems[side]} for side in ("before", "after")}


def _asked(run: OwnRun) -> Any:
    """What a run was asked, but for what twins may differ in: the gate, and what becomes of wrong rollouts."""
    recipe = run.recipe.with_(gate="entropy", positive_only=False) if isinstance(run.recipe, Recipe) else run.recipe
    return recipe, run.set_name, (run.job.style, run.job.init_adapter) if run.job else None


def same_set(run: OwnRun, set_name: str) -> bool:
    """Whether a run trained on the set that the claims are measured on, whichever split."""
    try:
        return run.set_name is not None and split_name(run.set_name, "train")[0] == split_name(set_name)[0]
    except RmxError:
        return False


# -- Readings of finished training runs of this model -----------------------------------------------------------------


LOW_RANK = 32
TAUS = (1.0, 2.2)  # nats
DEAREST = 25.0  # USD, of the paper's runs


def distilled(runs: OwnRuns, subject: Subject) -> Reading:
    """A low-rank adapter trained on the teacher's distributions, against the teacher."""
    teacher = subject.asked.get("teacher") or subject.asked.get("adapter")
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


def reasonmaxxer(runs: OwnRuns, subject: Subject) -> Reading:
    """The newest entropy-gated run's pass@1 on test problems minus the base's. The newest, not the best, of several."""
    ours = runs.trained()
    if not ours:
        return _missing("ReasonMaxxer run that was checked on test problems", ["train", *_base(subject)])
    run, gain = ours[0], ours[0].gain
    text = (
        f"{run.id}: {brief(run.done['before'], '%')} to {brief(run.done['after'], '%')}, {brief(gain, 'points')}"
        f"{_where(run, subject)}{_more(ours)}"
    )
    judged = above(gain, "ReasonMaxxer raises pass@1", unit="points")
    return Reading(text, judged, {"run_gain": gain}, gain["n"])


def positive_only(runs: OwnRuns, subject: Subject) -> Reading:
    """The gain of a run that raises right choices only, over the gain of its twin."""
    twins = _twins(runs, subject, "--positive-only", "positive_only", (False, True))
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


def random_gate(runs: OwnRuns, subject: Subject) -> Reading:
    """The entropy gate's run minus a run whose gate is as large but drawn by chance."""
    twins = _twins(runs, subject, "--gate random", "gate", ("entropy", "random"))
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


def tau_range(runs: OwnRuns, subject: Subject) -> Reading:
    """Every threshold of a sweep that lies in the paper's range must raise pass@1 by itself."""
    sweeps = [run for run in runs.all if run.sweep]
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


def cost(runs: OwnRuns, subject: Subject) -> Reading:
    """What the newest run with the paper's recipe cost: an amount, not an estimate, so it has no interval."""
    ours = [r for r in runs.all if r.kind == "train" and r.done.get("usd") is not None]
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
