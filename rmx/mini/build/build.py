"""Make the miniature again: `python -m rmx.mini.build.build`.

Stages: `base` trains the weights from a seed, measures them and writes the model card; `examples` searches the
prepared examples; `rl` trains the base's partner with a binary reward, as an adapter in `rl`, and measures the pair;
`reasonmaxxer` trains the bundled base by ReasonMaxxer in several ways and keeps the best default run in `reasonmaxxer`.
Each stage but the last reads what the one before wrote to `--out`.

The RL is on-policy REINFORCE with a binary reward and advantages normalised within each problem's group of rollouts,
which is GRPO with one optimizer step per batch: the policy that sampled is the policy that learns, so there is no
importance ratio to clip, and there is no KL term. An iteration's problems and samples depend only on the seed, the
iteration and the weights, so a run that was cut off goes on from its checkpoint as if nothing had happened.

ReasonMaxxer runs as the default, the paper's preset, our extension and two ablations, with three seeds each. All are
trained and checked on train and validation problems first. Only then is the test split opened, once, for all of them;
the adapter that ships was chosen before, on the validation split.
"""

import argparse
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from rmx.config import ASSETS, runs_dir
from rmx.data.problem_sets import load_set
from rmx.mini import task as wordings
from rmx.mini.build import mini_figures
from rmx.mini.build.mini_figures import KINDS, Json, counted, measure_pair, percent, points, sampled
from rmx.mini.build.miniature import (
    MAX_NEW_TOKENS,
    TRAINING,
    Mini,
    PretrainConfig,
    Pretrainer,
    build_tokenizer,
    load,
    right_padded,
    save_tokenizer,
    write_json,
)
from rmx.mini.problem_sets import mini_set
from rmx.mini.task import MiniProblem, make_problem, right_plans
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.models.load import Model
from rmx.records import Problem, Rollout
from rmx.runs.job import TrainJob
from rmx.runs.recipe import PRESETS, Recipe
from rmx.stats.intervals import Estimate
from rmx.storage.rendering import render
from rmx.storage.safe_files import read_json
from rmx.train.data_stages import ROLLOUTS, VALIDATION
from rmx.train.heldout import Solutions, best_of, solve
from rmx.train.pipeline import Pipeline
from rmx.train.reinforce import Ids, ReinforceConfig, Reinforcer, sampled_mask, write_adapter
from rmx.train.step.lora_policy import NAME

LOG_EVERY = 250  # steps
CHECKPOINT, RL_CHECKPOINT = "base.checkpoint", "rl.checkpoint"
Tell = Callable[[str], None]


def log_to(folder: Path) -> Tell:
    """A function that writes a line to the screen and to `build.log` in the folder."""

    def tell(line: str) -> None:
        print(line, flush=True)
        with (folder / "build.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return tell


def tell_setting(tell: Tell, config: Any = None) -> None:
    """Tell versions, machine and settings, on which the weights rest."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    tell(f"{versions}, {platform.machine()}, one thread")
    if config is not None:
        tell(json.dumps(asdict(config)))


def publish(folder: Path, measured: Callable[[], Json], card: Callable[[Json], str], tell: Tell) -> None:
    """Write figures.json and the model card into `folder`, and the figures with intervals to the log."""
    began = time.monotonic()
    figures = measured()
    write_json(folder / "figures.json", figures)
    (folder / "README.md").write_text(card(figures), encoding="utf-8")
    for line in mini_figures.summary(figures):
        tell(line)
    tell(f"measured in {time.monotonic() - began:.0f} s")


def train_base(out: Path, config: PretrainConfig, tell: Tell) -> None:
    """Train the tokenizer and the weights into `out`, going on from a checkpoint where there is one."""
    tell_setting(tell, config)
    tokenizer, checkpoint = build_tokenizer(), out / CHECKPOINT
    save_tokenizer(tokenizer, out)
    trainer = Pretrainer(config, tokenizer)
    if checkpoint.exists():
        trainer.restore(checkpoint)
    for step in trainer.run():
        if step.step % LOG_EVERY == 0 or step.step == config.steps:
            tell(
                f"step {step.step:5d}  loss {step.loss:.4f}  result digits {step.digit_loss:.4f}  "
                f"{step.tokens / 1e6:.2f} M tokens  {step.seconds:.0f} s"
            )
            trainer.save(checkpoint)
    model = trainer.model.eval()  # type: ignore[no-untyped-call]
    tell(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens in the vocabulary")
    model.half().save_pretrained(out)
    for path in out.iterdir():
        if path.is_file():
            os.chmod(path, 0o644)
    checkpoint.unlink()


# -- Reinforcement learning -------------------------------------------------------------------------------------------


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


def _validation_line(policy: Mini) -> str:
    """Greedy accuracy on mini:validation, which training never sees; the test set stays closed until the end."""
    problems, told = mini_set("validation"), []
    right = mini_figures.greedy(policy, problems).right
    for kind, label in (("numbers", "held-out numbers"), ("wording", "held-out wordings")):
        hits = [ok for problem, ok in zip(problems, right, strict=True) if problem.held_out == kind]
        told.append(f"{label} {100 * sum(hits) / len(hits):.1f} % (n={len(hits)})")
    return "validation, greedy: " + ", ".join(told)


def train_rl(out: Path, config: RLConfig, tell: Tell) -> None:
    """Train the adapter of the base in `out` into `out/rl`; what the last iteration leaves is what is kept."""
    checkpoint = out / RL_CHECKPOINT
    base = load(out).model
    trainer = RLTrainer(base, config)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        tell(f"goes on after iteration {trainer.done}")
    else:
        tell_setting(tell, config)
        tell(_validation_line(trainer.mini))
    for step in trainer.run():
        tell(
            f"iteration {step.iteration:4d}  reward {step.reward:.3f}  mixed {step.mixed:2d}  loss {step.loss:+.4f}  "
            f"gradient {step.grad_norm:.4f}  lr {step.lr:.6f}  {step.seconds:.0f} s"
        )
        if step.iteration % config.validate_every == 0 or step.iteration == config.iterations:
            tell(_validation_line(trainer.mini))
            trainer.save(checkpoint)
    trainer.ship(out / "rl", base.revision)
    tell(f"{sum(p.numel() for p in trainer.weights)} parameters in the adapter")
    shutil.rmtree(checkpoint)


# -- ReasonMaxxer on the miniature ------------------------------------------------------------------------------------


SEEDS = (1, 2, 3)
RESULT = "result.json"
MAX_NEW = 220  # tokens of a test solution; the longest has about 100


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
    tell_setting(tell)
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


# -- The stages -------------------------------------------------------------------------------------------------------


def base_stage(args: argparse.Namespace) -> None:
    """Train unless only the figures are wanted, then measure."""
    tell = log_to(args.out)
    if not args.evaluate_only:
        train_base(args.out, PretrainConfig(steps=args.steps, seed=args.seed), tell)
    publish(args.out, lambda: mini_figures.measure(load(args.out)), base_card, tell)


def examples_stage(args: argparse.Namespace) -> None:
    """Search the prepared examples with the weights in `out`."""
    examples = mini_figures.find_examples(load(args.out))
    write_json(args.out / "examples.json", [asdict(example) for example in examples])
    for example in examples:
        print(f"{example.kind:9s} {example.problem_id}  {example.title}")


def rl_stage(args: argparse.Namespace) -> None:
    """Train the adapter unless only the figures are wanted, then measure the pair."""
    out = args.out / "rl"
    out.mkdir(exist_ok=True)
    tell = log_to(out)
    if not args.evaluate_only:
        train_rl(args.out, RLConfig(iterations=args.iterations, seed=args.seed), tell)
    publish(out, lambda: measure_pair(str(args.out), out), rl_card, tell)


def reasonmaxxer_stage(args: argparse.Namespace) -> None:
    """Train the bundled base in all ways unless that was done, choose, ship, measure; its runs lie among the others."""
    out, base = args.out / "reasonmaxxer", "mini"
    out.mkdir(exist_ok=True)
    tell, work = log_to(out), runs_dir() / "mini-reasonmaxxer"

    def build() -> Json:
        if not args.evaluate_only:
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

    publish(out, build, reasonmaxxer_card, tell)


STAGES: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "base": base_stage,
    "examples": examples_stage,
    "rl": rl_stage,
    "reasonmaxxer": reasonmaxxer_stage,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m rmx.mini.build.build", description=__doc__)
    defaults = PretrainConfig()
    made.add_argument("--stage", choices=list(STAGES), default="base")
    made.add_argument("--out", type=Path, default=ASSETS / "mini", help="folder to read and write (default: bundled)")
    made.add_argument("--steps", type=int, default=defaults.steps, help="optimizer steps of the base")
    made.add_argument("--iterations", type=int, default=RLConfig().iterations, help="optimizer steps of the RL")
    made.add_argument("--seed", type=int, default=defaults.seed)
    made.add_argument("--evaluate-only", action="store_true", help="measure the weights that are there")
    return made


def main() -> None:
    """Run one stage in one thread."""
    args = parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
