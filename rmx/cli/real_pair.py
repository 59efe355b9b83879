"""The verb `rmx recipe`: the commands that make a pair on any base and ask it the paper's question.

They train RL and ReasonMaxxer, test both, and measure the claims. Each is what one would type by hand, and goes on
where it was cut off. The problems of the test split are opened once, for all adapters together.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rmx.arguments import Flag, argument
from rmx.cli.options import add_options, request_of
from rmx.errors import RmxError
from rmx.models.presets import SMOLLM2
from rmx.runs.folder import CONFIG
from rmx.service.checks import Request

RL, TEST, CLAIMS = "rl", "test", "claims"
# What is trained of one seed's rollouts, and how it differs from its preset.
ARMS: dict[str, tuple[str, ...]] = {
    "small": ("--preset", "small"),
    "floor": ("--preset", "floor"),
    "paper": (),
    "positive": ("--preset", "small", "--positive-only"),
    "random": ("--preset", "small", "--gate", "random"),
}
DONE = ".done"


class RecipeCommand(Request):
    """Print or run the commands that make a pair on any base and measure it."""

    name: Literal["real-pair"] = argument("real-pair: RL and ReasonMaxxer on one base", Flag("name", required=True))
    model: str = argument("the base: any model spec", Flag(metavar="S"), default=SMOLLM2)
    set: str = argument(
        "problem set with train, validation and test splits, or a file", Flag(metavar="NAME"), default="words"
    )
    style: str | None = argument("a prompt style by its name (default: the set's or the model's own)")
    out: str = argument("folder of all that is made", Flag(metavar="DIR"), default="real-pair")
    go: bool = argument("run the commands instead of printing them", Flag("--run"), default=False)
    arms: str = argument("which ways of training ReasonMaxxer, with commas", default=",".join(ARMS))
    seeds: int = argument("every training has the seeds 1 to N", default=1, ge=1, le=100)
    iterations: int = argument("of RL", default=100, ge=1)
    problems: int = argument("problems whose solutions ReasonMaxxer learns from", default=150, ge=1)
    k: int = argument("solutions of each of them", default=16, ge=2)
    select: int = argument("problems of these that are trained on", default=50, ge=1)
    temperature: float = argument("of all samples", default=0.6, gt=0, le=10)
    max_new_tokens: int = argument("upper bound of each solution, in tokens", default=40, ge=1)
    tau_share: float = argument("share of the tokens that are taken as forks", default=0.05, gt=0, lt=1)
    validation: int = argument("problems of the validation split", default=120, ge=1)
    limit: int = argument("problems of the test split", default=320, ge=1)
    n: int = argument("samples of each of them, beside the greedy answer", default=0, ge=0)
    claims: int = argument("problems of the test split that the claims are measured on", default=300, ge=1)


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, and the file that says that it has been done."""

    name: str
    argv: tuple[str, ...]  # behind the interpreter
    done: Path
    output: Path | None = None  # its standard output, where that is a document

    def line(self) -> str:
        """The command as one types it."""
        words = ["rmx", *self.argv[2:]] if self.argv[:2] == ("-m", "rmx") else ["python", *self.argv]
        return shlex.join(words) + (f" > {shlex.quote(str(self.output))}" if self.output else "")


def stages_of(o: RecipeCommand) -> list[Stage]:
    """List the stages of a real pair in their order."""
    arms = [arm.strip() for arm in o.arms.split(",") if arm.strip()]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise RmxError(f"There is no arm {', '.join(unknown)}. Choose from {', '.join(ARMS)}.")
    out, found = Path(o.out), list[Stage]()
    style = ("--style", o.style) if o.style else ()
    asked = ("--model", o.model, "--set", o.set, *style)
    sampled = ("--temperature", f"{o.temperature:g}", "--max-new-tokens", str(o.max_new_tokens))
    adapters = list[str]()

    def add(name: str, *argv: str, output: Path | None = None) -> None:
        found.append(Stage(name, argv, out / f"{name}{DONE}", output))

    for seed in range(1, o.seeds + 1):
        rl = out / f"{RL}-{seed}"
        add(
            rl.name, "-m", "rmx.train.reinforce", str(rl), *asked, "--seed", str(seed), *sampled,
            "--iterations", str(o.iterations), "--validation", str(o.validation),
        )  # fmt: skip
        adapters.append(str(rl / "adapter"))
        drawn = out / f"rollouts-{seed}.jsonl"
        if arms:
            add(
                f"rollouts-{seed}", "-m", "rmx", "rollouts", *asked, "--seed", str(seed), *sampled,
                "--problems", str(o.problems), "--k", str(o.k), "--out", str(drawn),
            )  # fmt: skip
        for arm in arms:
            run = out / f"{arm}-{seed}"
            add(
                run.name, "-m", "rmx", "train", *asked, "--from-rollouts", str(drawn), "--out", str(run),
                *ARMS[arm], "--seed", str(seed), "--tau-share", f"{o.tau_share:g}", "--select", str(o.select),
                "--max-new-tokens", str(o.max_new_tokens), "--rank", "16", "--alpha", "32",
                "--validation", str(o.validation), "--validation-k", "1", "--test", "0",
            )  # fmt: skip
            adapters.append(str(run / "adapter"))
    tried = [word for adapter in adapters for word in ("--adapter", adapter)]
    report = out / f"{TEST}.json"
    add(
        TEST, "-m", "rmx", "eval", "--model", o.model, "--set", f"{o.set}:test", "--limit", str(o.limit),
        "--n", str(o.n), *style, *sampled, *tried, "--json", output=report,
    )  # fmt: skip
    add(
        CLAIMS, "-m", "rmx", "claims", "--model", o.model, "--adapter", adapters[0], "--set", f"{o.set}:test",
        "--limit", str(o.claims), "--tau-share", f"{o.tau_share:g}", "--max-new-tokens", str(o.max_new_tokens),
        *style, "--html", str(out / f"{CLAIMS}.html"), "--json", output=out / f"{CLAIMS}.json",
    )  # fmt: skip
    return found


def define_recipe(recipe: argparse.ArgumentParser) -> None:
    """Options of `rmx recipe`."""
    add_options(recipe, RecipeCommand)
    recipe.add_argument("--json", action="store_true", help="print the commands as one JSON document")
    recipe.set_defaults(run=_recipe)


def _recipe(args: argparse.Namespace) -> None:
    asked = request_of(args, RecipeCommand)
    stages = stages_of(asked)
    if asked.go:
        run_stages(stages, Path(asked.out))
    elif args.json:
        print(json.dumps({"recipe": asked.name, "stages": [{"name": s.name, "command": s.line()} for s in stages]}))
    else:
        print("\n".join(stage.line() for stage in stages))


def run_stages(stages: Sequence[Stage], out: Path) -> None:
    """Run the stages that have not been done, one after the other; a run that was cut off is gone on with.

    Raises:
        RmxError: a stage failed; what it printed stands in OUT/NAME.log.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if stage.done.exists():
            print(f"{stage.name}: done before", flush=True)
            continue
        print(f"{stage.name}: {stage.line()}", flush=True)
        log = out / f"{stage.name}.log"
        with log.open("ab") as errors:
            made = subprocess.run(
                [sys.executable, *_resumed(stage)], stdin=subprocess.DEVNULL, stderr=errors,
                stdout=subprocess.PIPE if stage.output else errors, check=False,
            )  # fmt: skip
        if made.returncode:
            raise RmxError(f"{stage.name} ended with code {made.returncode}. What it printed stands in {log}.")
        if stage.output:
            stage.output.write_bytes(made.stdout)
        stage.done.touch()


def _resumed(stage: Stage) -> Sequence[str]:
    """The command that goes on with a training run that has begun, or the stage's own."""
    if stage.argv[2] != "train":
        return stage.argv
    folder = stage.argv[stage.argv.index("--out") + 1]
    return ("-m", "rmx", "train", "--resume", folder) if (Path(folder) / CONFIG).exists() else stage.argv
