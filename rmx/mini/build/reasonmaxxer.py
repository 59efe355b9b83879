"""ReasonMaxxer on the miniature: the default, the paper's preset, our extension and two ablations, three seeds each.

All runs train and are checked on train and validation problems first. Only then is the test split opened, once, for
all of them; the adapter that ships was chosen before, on the validation split.
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from rmx.data.problem_sets import load_set
from rmx.mini.build.mini_figures import KINDS, measure_pair
from rmx.mini.build.miniature import TRAINING, write_adapter, write_json
from rmx.mini.problem_sets import mini_set
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.models.load import Model
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import PRESETS, Recipe
from rmx.records import Problem
from rmx.stats.intervals import Estimate
from rmx.storage.safe_files import read_json
from rmx.train.checks.greedy import Solutions, solve
from rmx.train.checks.heldout import Check, best_of
from rmx.train.data_stages import ROLLOUTS, VALIDATION
from rmx.train.pipeline import Pipeline

SEEDS = (1, 2, 3)
RESULT = "result.json"
MAX_NEW = 220  # tokens of a test solution; the longest has about 100

Json = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to train."""

    name: str
    preset: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self, seed: int) -> Recipe:
        """Its recipe; the run itself leaves the test split alone."""
        return PRESETS[self.preset].with_(**self.changes, seed=seed, test=0)


VARIANTS = (
    Variant("small", "small", "`small`, the default here"),
    Variant("paper", "paper", "the paper's preset as it stands"),
    Variant("floor", "floor", "`floor`, our extension"),
    Variant("positive_only", "small", "`small`, right rollouts only", {"positive_only": True}),
    Variant("random_gate", "small", "`small`, as many tokens at random", {"gate": "random"}),
)
DEFAULT = "small"


def train_variants(
    base: str, work: Path, tell: Tell, variants: Sequence[Variant] = VARIANTS, seeds: Sequence[int] = SEEDS
) -> None:
    """Run each variant of a base with each seed in a folder of its own; what is done already is left alone."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    tell(f"{versions}, {platform.machine()}, one thread")
    for seed in seeds:
        for variant in variants:
            folder = work / f"{variant.name}-{seed}"
            if not (folder / RESULT).exists():
                result = train_one(base, folder, variant, seed)
                write_json(folder / RESULT, result)
            tell(json.dumps(read_json(folder / RESULT)))


def train_one(base: str, folder: Path, variant: Variant, seed: int) -> Json:
    """One run from rollouts to the best checkpoint; goes on where it was cut off."""
    recipe = variant.recipe(seed)
    folder.mkdir(parents=True, exist_ok=True)
    _borrow_rollouts(folder, recipe)
    job = TrainJob(base, "mini", recipe, variant.preset, device="cpu", dtype="float32")
    config = job.json() | {"id": folder.name, "versions": {"torch": torch.__version__, "peft": peft.__version__}}
    (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    told: list[Json] = []
    for kind, figures in Pipeline(job, folder, config, events=lambda: told).events():
        if kind != "micro":
            told.append({"kind": kind} | figures)
    last = {event["kind"]: event for event in told}
    checks = [Check.from_json(event) for event in read_json(folder / "checks.json")["checks"]]
    best = best_of(checks)
    assert best is not None
    return {
        "variant": variant.name,
        "seed": seed,
        "departures": {name: list(pair) for name, pair in recipe.departures().items() if name not in ("seed", "test")},
        "rollouts": {key: last["selection"][key] for key in ("sampled", "kept", "rollouts", "right", "wrong")},
        "gate": {key: last["gate"][key] for key in ("tau", "share")},
        "updates": last["done"]["updates"],
        "seconds": last["done"]["seconds"],
        "checkpoint": f"step_{best.optimizer_step}",
        "ended": next((last[kind]["message"] for kind in ("guard", "early") if kind in last), None),
        "validation": {"base": checks[0].pass_at_1, "adapted": best.pass_at_1, "change": best.vs_base},
        "gap": best.contrast.gap,
    }


def _borrow_rollouts(folder: Path, recipe: Recipe) -> None:
    """Take over the rollouts of another run that sampled by the same settings and seed: they would be the same."""
    for other in sorted(folder.parent.glob(f"*-{recipe.seed}")):
        config = other / "config.json"
        if other == folder or not (other / RESULT).exists():
            continue
        theirs = Recipe.from_json(read_json(config)["recipe"])
        same = ("validation", "validation_k")
        if theirs.rollouts == recipe.rollouts and all(theirs.flat()[k] == recipe.flat()[k] for k in same):
            for name in (ROLLOUTS, VALIDATION):
                for path in other.glob(f"{name}*"):
                    shutil.copyfile(path, folder / path.name)
            return


def results(work: Path, variants: Sequence[Variant] = VARIANTS, seeds: Sequence[int] = SEEDS) -> list[Json]:
    """What the finished runs left, variant by variant."""
    names = [f"{variant.name}-{seed}" for variant in variants for seed in seeds]
    return [read_json(work / name / RESULT) for name in names]


def chosen(runs: Sequence[Json]) -> Json:
    """The default run that ships: highest validation pass@1, ties by the larger gap, then by the lower seed."""
    default = [run for run in runs if run["variant"] == DEFAULT]
    return min(default, key=lambda r: (-r["validation"]["adapted"]["value"], -r["gap"], r["seed"]))


def ship(run: Path, out: Path) -> None:
    """Put a run's adapter into `out`, with what it was trained by."""
    write_adapter(run / "adapter", out)
    write_json(out / TRAINING, read_json(run / "adapter" / TRAINING) | {"adapter": models.fingerprint(out)})


def evaluate_runs(base: str, work: Path, runs: Sequence[Json], problems: Sequence[Problem]) -> Iterator[Json]:
    """Each run with its greedy accuracy on `problems`, held-out numbers and held-out wordings apart."""
    model = models.load(base, device="cpu", dtype="float32")
    before = _solved(model, problems, None)
    for run in runs:
        folder = work / f"{run['variant']}-{run['seed']}"
        name = add_adapter(model, str(folder / "adapter"))
        after = _solved(model, problems, name)
        model.engine.model.delete_adapter(name)
        del model.engine.adapters[name]
        yield run | compared([p.id for p in problems], before, after)


def _solved(model: Model, problems: Sequence[Problem], adapter: str | None) -> Solutions:
    with model.engine.queue.turn():
        return solve(model, problems, adapter, MAX_NEW)


def compared(ids: Sequence[str], before: Solutions, after: Solutions) -> dict[str, dict[str, Estimate]]:
    """Shares before and after, and their paired difference, for each kind of held-out problem."""
    kinds = {problem.id: problem.held_out for problem in mini_set("test")}
    found = {}
    for name, kind in KINDS.items():
        mine = [i for i, problem in enumerate(ids) if kinds[problem] == kind]
        one, two = (Solutions(tuple(s.each[i] for i in mine)) for s in (before, after))
        found[name] = {"base": one.pass_at_1, "adapted": two.pass_at_1, "change": two.against(one)}
    return found


def build(out: Path, work: Path, tell: Tell, base: str = "mini", evaluate_only: bool = False) -> Json:
    """Train in the folder `work` what is not done there, choose, ship to `out`, open the test split; the figures."""
    if not evaluate_only:
        train_variants(base, work, tell)
    runs = results(work)
    best = chosen(runs)
    tell(f"ships: {best['variant']}, seed {best['seed']}, by its validation accuracy")
    ship(work / f"{best['variant']}-{best['seed']}", out)
    tested = []
    for run in evaluate_runs(base, work, runs, load_set("mini:test")):
        tell(json.dumps({key: run[key] for key in ("variant", "seed", *KINDS)}))
        tested.append(run)
    return {"shipped": {key: best[key] for key in ("variant", "seed", "checkpoint")}, "runs": tested} | measure_pair(
        base, out
    )
