"""Finished training runs of one model: what they say about the claims on training. Read from their files only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmx.data.problem_sets import split_name
from rmx.errors import RmxError
from rmx.recipes.distill_job import DistillRecipe
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import Recipe
from rmx.runs.folder import SWEEP, RunFolder
from rmx.runs.rates import Rates, load_rates
from rmx.runs.row import dollars
from rmx.runs.store import RunStore
from rmx.stats.intervals import Estimate
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
