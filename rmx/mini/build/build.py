"""Make the miniature again: `python -m rmx.mini.build.build`.

Stages: `base` trains the weights from a seed, measures them and writes the model card; `examples` searches the
prepared examples; `rl` trains the base's partner with a binary reward, as an adapter in `rl`, and measures the pair;
`reasonmaxxer` trains the bundled base by ReasonMaxxer in several ways and keeps the best default run in `reasonmaxxer`.
Each stage but the last reads what the one before wrote to `--out`.
"""

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import LlamaForCausalLM

from rmx.mini.build import reasonmaxxer
from rmx.mini.build.cards import base_card, reasonmaxxer_card, rl_card
from rmx.mini.build.mini_figures import greedy, measure, measure_pair, pair_summary, summary
from rmx.mini.build.miniature import Mini, load, write_json
from rmx.mini.build.pretrain import PretrainConfig, PretrainStep, pretrain
from rmx.mini.build.rl import RLConfig, RLStep, RLTrainer
from rmx.mini.build.swap_examples import write_examples
from rmx.mini.build.tokenizer import build_tokenizer, save_tokenizer
from rmx.mini.problem_sets import mini_set
from rmx.paths import ASSETS, runs_dir

CHECKPOINT = "base.checkpoint"
LOG_EVERY = 250  # steps
RL_CHECKPOINT = "rl.checkpoint"
VALIDATE_EVERY = 10  # iterations of RL

Json = dict[str, Any]


class Log:
    """Lines that go to the screen and to `build.log`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class StepLog:
    """Running means of the losses, told every `LOG_EVERY` steps."""

    def __init__(self, log: Log) -> None:
        self.log, self.means = log, (0.0, 0.0)
        self.seen = 0

    def __call__(self, step: PretrainStep) -> None:
        self.seen += 1
        keep = 1 - 1 / min(self.seen, 30)
        new = (step.loss, step.digit_loss)
        self.means = (keep * self.means[0] + (1 - keep) * new[0], keep * self.means[1] + (1 - keep) * new[1])
        if step.step % LOG_EVERY == 0:
            loss, digits = self.means
            self.log(
                f"step {step.step:5d}  loss {loss:.4f}  result digits {digits:.4f}  "
                f"{step.tokens / 1e6:.2f} M tokens  {step.seconds:.0f} s"
            )


def _save_weights(model: LlamaForCausalLM, folder: Path) -> None:
    """fp16 on disk; readable by everyone."""
    model.half().save_pretrained(folder)
    for path in folder.iterdir():
        if path.is_file():
            os.chmod(path, 0o644)


def train_base(out: Path, config: PretrainConfig, log: Log) -> None:
    """Train the tokenizer and the weights into `out`."""
    log(f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}, one thread")
    log(json.dumps(asdict(config)))
    tokenizer = build_tokenizer()
    save_tokenizer(tokenizer, out)
    checkpoint = out / CHECKPOINT
    model = pretrain(config, tokenizer, checkpoint, StepLog(log))
    log(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens in the vocabulary")
    _save_weights(model, out)
    checkpoint.unlink()


def publish(
    folder: Path, figures: Json, card: Callable[[Json], str], told: Callable[[Json], list[str]], log: Log
) -> None:
    """Write figures.json and the model card into `folder`, and the main figures to the log."""
    write_json(folder / "figures.json", figures)
    (folder / "README.md").write_text(card(figures), encoding="utf-8")
    for line in told(figures):
        log(line)


def base_stage(args: argparse.Namespace) -> None:
    """Train unless only the figures are wanted, then measure."""
    log = Log(args.out / "build.log")
    if not args.evaluate_only:
        train_base(args.out, PretrainConfig(steps=args.steps, seed=args.seed), log)
    began = time.monotonic()
    publish(args.out, measure(load(args.out)), base_card, summary, log)
    log(f"measured in {time.monotonic() - began:.0f} s")


def examples_stage(args: argparse.Namespace) -> None:
    """Search the prepared examples with the weights in `out`."""
    for example in write_examples(load(args.out), args.out / "examples.json"):
        print(f"{example.kind:9s} {example.problem_id}  {example.title}")


def _rl_line(step: RLStep) -> str:
    return (
        f"iteration {step.iteration:4d}  reward {step.reward:.3f}  mixed {step.mixed:2d}  loss {step.loss:+.4f}  "
        f"gradient {step.grad_norm:.4f}  lr {step.lr:.6f}  {step.seconds:.0f} s"
    )


def _validation_line(policy: Mini) -> str:
    """Greedy accuracy on mini:validation, which training never sees; the test set stays closed until the end."""
    problems = mini_set("validation")
    right = dict(zip(problems, greedy(policy, problems).right, strict=True))
    told = []
    for kind, label in (("numbers", "held-out numbers"), ("wording", "held-out wordings")):
        hits = [ok for problem, ok in right.items() if problem.held_out == kind]
        told.append(f"{label} {100 * sum(hits) / len(hits):.1f} % (n={len(hits)})")
    return "validation, greedy: " + ", ".join(told)


def train_rl(out: Path, config: RLConfig, log: Log) -> None:
    """Train the adapter of the base in `out` into `out/rl`; what the last iteration leaves is what is kept."""
    checkpoint = out / RL_CHECKPOINT
    base = load(out).model
    trainer = RLTrainer(base, config)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        log(f"goes on after iteration {trainer.done}")
    else:
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
        log(f"{versions}, {platform.machine()}, one thread")
        log(json.dumps(asdict(config)))
        log(_validation_line(trainer.mini))
    for step in trainer.run():
        log(_rl_line(step))
        if step.iteration % VALIDATE_EVERY == 0 or step.iteration == config.iterations:
            log(_validation_line(trainer.mini))
            trainer.save(checkpoint)
    trainer.export(out / "rl", base.revision)
    log(f"{sum(p.numel() for p in trainer.weights)} parameters in the adapter")
    shutil.rmtree(checkpoint)


def rl_stage(args: argparse.Namespace) -> None:
    """Train the adapter unless only the figures are wanted, then measure the pair."""
    out = args.out / "rl"
    out.mkdir(exist_ok=True)
    log = Log(out / "build.log")
    if not args.evaluate_only:
        train_rl(args.out, RLConfig(iterations=args.iterations, seed=args.seed), log)
    began = time.monotonic()
    publish(out, measure_pair(str(args.out), out), rl_card, pair_summary, log)
    log(f"measured in {time.monotonic() - began:.0f} s")


def reasonmaxxer_stage(args: argparse.Namespace) -> None:
    """Train the bundled base in all ways unless that was done, then measure; the runs lie among the other runs."""
    out = args.out / "reasonmaxxer"
    out.mkdir(exist_ok=True)
    log = Log(out / "build.log")
    figures = reasonmaxxer.build(out, runs_dir() / "mini-reasonmaxxer", log, evaluate_only=args.evaluate_only)
    publish(out, figures, reasonmaxxer_card, pair_summary, log)


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
