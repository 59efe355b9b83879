"""Make the miniature again: `python -m rmx.mini.build`.

Stages: `base` trains the weights from a seed, measures them and writes the model card; `examples` searches the
prepared examples. Each stage reads what the one before wrote to `--out`.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM

from rmx.mini.card import card
from rmx.mini.examples import write_examples
from rmx.mini.figures import load, measure, summary
from rmx.mini.pretrain import PretrainConfig, PretrainStep, pretrain
from rmx.mini.tokenizer import build_tokenizer, save_tokenizer
from rmx.paths import ASSETS

CHECKPOINT = "base.checkpoint"
LOG_EVERY = 250  # steps


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


def evaluate(out: Path, log: Log) -> None:
    """Measure the weights in `out`; write figures.json and the model card."""
    began = time.monotonic()
    figures = measure(load(out))
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(figures), encoding="utf-8")
    for line in summary(figures):
        log(line)
    log(f"measured in {time.monotonic() - began:.0f} s")


def base_stage(args: argparse.Namespace) -> None:
    """Train unless only the figures are wanted, then measure."""
    log = Log(args.out / "build.log")
    if not args.evaluate_only:
        train_base(args.out, PretrainConfig(steps=args.steps, seed=args.seed), log)
    evaluate(args.out, log)


def examples_stage(args: argparse.Namespace) -> None:
    """Search the prepared examples with the weights in `out`."""
    for example in write_examples(load(args.out), args.out / "examples.json"):
        print(f"{example.kind:9s} {example.problem_id}  {example.title}")


STAGES: Mapping[str, Callable[[argparse.Namespace], None]] = {"base": base_stage, "examples": examples_stage}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m rmx.mini.build", description=__doc__)
    defaults = PretrainConfig()
    made.add_argument("--stage", choices=list(STAGES), default="base")
    made.add_argument("--out", type=Path, default=ASSETS / "mini", help="folder to read and write (default: bundled)")
    made.add_argument("--steps", type=int, default=defaults.steps, help="optimizer steps of the base")
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
