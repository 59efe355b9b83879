"""Make the miniature again: `python -m rmx.mini.build.build`.

Stages: `base` trains the weights from a seed, measures them and writes the model card; `examples` searches the
prepared examples; `rl` trains the base's partner with a binary reward, as an adapter in `rl`, and measures the pair;
`reasonmaxxer` trains the bundled base by ReasonMaxxer in several ways and keeps the best default run in `reasonmaxxer`.
Each stage but the last reads what the one before wrote to `--out`.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import transformers

from rmx.config import ASSETS, runs_dir
from rmx.mini.build import adapters as reasonmaxxer
from rmx.mini.build.adapters import Json, RLConfig, RLTrainer, Tell, base_card, reasonmaxxer_card, rl_card
from rmx.mini.build.mini_figures import find_examples, greedy, measure, measure_pair, summary
from rmx.mini.build.miniature import Mini, PretrainConfig, Pretrainer, build_tokenizer, load, save_tokenizer, write_json
from rmx.mini.problem_sets import mini_set

CHECKPOINT = "base.checkpoint"
LOG_EVERY = 250  # steps
RL_CHECKPOINT = "rl.checkpoint"


def log_to(folder: Path) -> Tell:
    """A function that writes a line to the screen and to `build.log` in the folder."""

    def tell(line: str) -> None:
        print(line, flush=True)
        with (folder / "build.log").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return tell


def tell_setting(tell: Tell, config: PretrainConfig | RLConfig) -> None:
    """Tell versions, machine and settings, on which the weights rest."""
    tell(reasonmaxxer.setting())
    tell(json.dumps(asdict(config)))


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


def publish(folder: Path, measured: Callable[[], Json], card: Callable[[Json], str], tell: Tell) -> None:
    """Write figures.json and the model card into `folder`, and the figures with intervals to the log."""
    began = time.monotonic()
    figures = measured()
    write_json(folder / "figures.json", figures)
    (folder / "README.md").write_text(card(figures), encoding="utf-8")
    for line in summary(figures):
        tell(line)
    tell(f"measured in {time.monotonic() - began:.0f} s")


def base_stage(args: argparse.Namespace) -> None:
    """Train unless only the figures are wanted, then measure."""
    tell = log_to(args.out)
    if not args.evaluate_only:
        train_base(args.out, PretrainConfig(steps=args.steps, seed=args.seed), tell)
    publish(args.out, lambda: measure(load(args.out)), base_card, tell)


def examples_stage(args: argparse.Namespace) -> None:
    """Search the prepared examples with the weights in `out`."""
    examples = find_examples(load(args.out))
    write_json(args.out / "examples.json", [asdict(example) for example in examples])
    for example in examples:
        print(f"{example.kind:9s} {example.problem_id}  {example.title}")


def _validation_line(policy: Mini) -> str:
    """Greedy accuracy on mini:validation, which training never sees; the test set stays closed until the end."""
    problems, told = mini_set("validation"), []
    right = greedy(policy, problems).right
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


def rl_stage(args: argparse.Namespace) -> None:
    """Train the adapter unless only the figures are wanted, then measure the pair."""
    out = args.out / "rl"
    out.mkdir(exist_ok=True)
    tell = log_to(out)
    if not args.evaluate_only:
        train_rl(args.out, RLConfig(iterations=args.iterations, seed=args.seed), tell)
    publish(out, lambda: measure_pair(str(args.out), out), rl_card, tell)


def reasonmaxxer_stage(args: argparse.Namespace) -> None:
    """Train the bundled base in all ways unless that was done, then measure; the runs lie among the other runs."""
    out = args.out / "reasonmaxxer"
    out.mkdir(exist_ok=True)
    tell, work = log_to(out), runs_dir() / "mini-reasonmaxxer"
    build = partial(reasonmaxxer.build, out, work, tell, evaluate_only=args.evaluate_only)
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
