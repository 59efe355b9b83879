"""The miniature's two adapters, by reinforcement learning and by ReasonMaxxer, and the model cards.

The RL is on-policy REINFORCE with a binary reward and advantages normalised within each problem's group of rollouts,
which is GRPO with one optimizer step per batch: the policy that sampled is the policy that learns, so there is no
importance ratio to clip, and there is no KL term. An iteration's problems and samples depend only on the seed, the
iteration and the weights, so a run that was cut off goes on from its checkpoint as if nothing had happened.

ReasonMaxxer runs as the default, the paper's preset, our extension and two ablations, with three seeds each. All are
trained and checked on train and validation problems first. Only then is the test split opened, once, for all of them;
the adapter that ships was chosen before, on the validation split.
"""

import json
import platform
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from rmx.data.problem_sets import load_set
from rmx.mini import task as wordings
from rmx.mini.build.mini_figures import KINDS, counted, measure_pair, percent, points, sampled
from rmx.mini.build.miniature import MAX_NEW_TOKENS, TRAINING, Mini, right_padded, write_json
from rmx.mini.problem_sets import mini_set
from rmx.mini.task import MiniProblem, make_problem, right_plans
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.models.load import Model
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import PRESETS, Recipe
from rmx.records import Problem, Rollout
from rmx.stats.intervals import Estimate
from rmx.storage.rendering import render
from rmx.storage.safe_files import read_json
from rmx.train.data_stages import ROLLOUTS, VALIDATION
from rmx.train.heldout import Solutions, best_of, solve
from rmx.train.pipeline import Pipeline
from rmx.train.reinforce import Ids, ReinforceConfig, Reinforcer, sampled_mask, write_adapter
from rmx.train.step.lora_policy import NAME


@dataclass(frozen=True, slots=True)
class RLConfig(ReinforceConfig):
    """Everything that the adapter depends on, beside the base. Any other temperature would be off-policy."""

    seed: int = 0
    problems: int = 16  # per iteration
    rollouts: int = 12  # per problem
    temperature: float = 1.0
    max_new_tokens: int = MAX_NEW_TOKENS
    lr: float = 2.5e-3
    rank: int = 32
    alpha: int = 64


def token_logp(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, T, V) logits at (B, T) tokens -> (B, T - 1) log-probability of each token but the first."""
    return -F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")


def draw_problems(config: RLConfig, iteration: int) -> list[MiniProblem]:
    """Fresh problems with numbers of the train split and trained wordings."""
    numbers, words = (random.Random(f"rl {kind}/{config.seed}/{iteration}") for kind in ("numbers", "text"))
    return [make_problem(numbers, "train", text_rng=words) for _ in range(config.problems)]


class RLTrainer(Reinforcer):
    """Trains the partner of a base, by the very problems, draws and sums that the bundled one rests on."""

    rows = 64

    def __init__(self, base: Model, config: RLConfig) -> None:
        super().__init__(base, (), config)
        self.mini = Mini(base, NAME)

    def _sample(self) -> list[Rollout]:
        config: Any = self.config
        problems, seed = draw_problems(config, self.done), 1_000_000 * config.seed + self.done
        rewards, prompts, completions = sampled(self.mini, problems, config.temperature, config.rollouts, seed)
        return [
            Rollout(str(n // config.rollouts), n % config.rollouts, (*prompt, *completion), len(prompt), bool(right))
            for n, (prompt, completion, right) in enumerate(
                zip(prompts, completions, rewards.flatten().tolist(), strict=True)
            )
        ]

    def _logp(self, rollouts: Sequence[Rollout], shared: Ids) -> tuple[Tensor, Tensor]:
        ids = right_padded([list(r.input_ids) for r in rollouts])
        return token_logp(self.policy.logits(ids), ids), sampled_mask(rollouts)

    def ship(self, folder: Path, base: str) -> None:
        """Write the adapter for shipping, and in `training.json` where it comes from, with the base's fingerprint."""
        with tempfile.TemporaryDirectory() as work:
            self.policy.save_adapter(Path(work))
            write_adapter(Path(work), folder, base_model_name_or_path="mini")
        write_json(folder / TRAINING, {"base": base, "config": asdict(self.config)})


# -- ReasonMaxxer on the miniature ------------------------------------------------------------------------------------


SEEDS = (1, 2, 3)
RESULT = "result.json"
MAX_NEW = 220  # tokens of a test solution; the longest has about 100

Json = dict[str, Any]
Tell = Callable[[str], None]


def setting() -> str:
    """Versions and machine, on which the weights rest."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    return f"{versions}, {platform.machine()}, one thread"


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
    tell(setting())
    for seed in seeds:
        for variant in variants:
            folder = work / f"{variant.name}-{seed}"
            if not (folder / RESULT).exists():
                write_json(folder / RESULT, train_one(base, folder, variant, seed))
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
    checks = read_json(folder / "checks.json")["checks"]
    best = best_of(checks)
    assert best is not None
    departures = {name: list(pair) for name, pair in recipe.departures().items() if name not in ("seed", "test")}
    return {
        "variant": variant.name, "seed": seed, "departures": departures,
        "rollouts": {key: last["selection"][key] for key in ("sampled", "kept", "rollouts", "right", "wrong")},
        "gate": {key: last["gate"][key] for key in ("tau", "share")}, "updates": last["done"]["updates"],
        "seconds": last["done"]["seconds"], "checkpoint": f"step_{best['optimizer_step']}",
        "ended": next((last[kind]["message"] for kind in ("guard", "early") if kind in last), None),
        "validation": {"base": checks[0]["pass@1"], "adapted": best["pass@1"], "change": best["vs_base"]},
        "gap": best["gap"],
    }  # fmt: skip


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
    write_adapter(run / "adapter", out, base_model_name_or_path="mini")
    write_json(out / TRAINING, read_json(run / "adapter" / TRAINING) | {"adapter": models.fingerprint(out)})


def evaluate_runs(base: str, work: Path, runs: Sequence[Json], problems: Sequence[Problem]) -> Iterator[Json]:
    """Each run with its greedy accuracy on `problems`, held-out numbers and held-out wordings apart."""
    model = models.load(base, device="cpu", dtype="float32")

    def solved(adapter: str | None) -> Solutions:
        with model.engine.queue.turn():
            return solve(model, problems, adapter, MAX_NEW)

    before = solved(None)
    for run in runs:
        name = add_adapter(model, str(work / f"{run['variant']}-{run['seed']}" / "adapter"))
        after = solved(name)
        model.engine.model.delete_adapter(name)
        del model.engine.adapters[name]
        yield run | compared([p.id for p in problems], before, after)


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
    shipped, tested = {key: best[key] for key in ("variant", "seed", "checkpoint")}, []
    for run in evaluate_runs(base, work, runs, load_set("mini:test")):
        tell(json.dumps({key: run[key] for key in ("variant", "seed", *KINDS)}))
        tested.append(run)
    return {"shipped": shipped, "runs": tested} | measure_pair(base, out)


# -- The model cards of the miniature and of its two adapters, written from their measured figures --------------------


SPEAK = {"percent": percent, "counted": counted, "points": points}


def base_card(figures: Json) -> str:
    """Write `assets/mini/README.md`."""
    shares = [  # of the right plans, one for each trained wording
        sum(template.wordings[i].weights[plan.name] for plan in right_plans(template))
        for template in wordings.TEMPLATES.values()
        for i in template.wordings_of("train")
    ]
    return render("mini_card.md.jinja", figures=figures, mix=wordings, right_shares=shares, **SPEAK)


def rl_card(figures: Json) -> str:
    """Write `assets/mini/rl/README.md`, which counts wordings: still wrong more often than not, worse than the base."""
    cells = figures["cells"]
    kinds = {name: [c["greedy"] for c in cells if c["held_out"] == name] for name in ("numbers", "wording")}
    counts = {
        "wordings": {name: len(found) for name, found in kinds.items()},
        "unsolved": {name: sum(g["adapted"] < 0.5 for g in found) for name, found in kinds.items()},
        "worse": sum(c["greedy"]["adapted"] < c["greedy"]["base"] for c in cells),
    }
    return render("mini_rl_card.md.jinja", figures=figures, **counts, **SPEAK)


def reasonmaxxer_card(figures: Json) -> str:
    """Write `assets/mini/reasonmaxxer/README.md`."""
    shipped, runs = figures["shipped"], figures["runs"]
    return render(
        "mini_reasonmaxxer_card.md.jinja", figures=figures, kinds=list(KINDS), **SPEAK,
        run=next(r for r in runs if (r["variant"], r["seed"]) == (shipped["variant"], shipped["seed"])),
        seeds=sum(r["variant"] == DEFAULT for r in runs), titles={v.name: v.title for v in VARIANTS},
    )  # fmt: skip
