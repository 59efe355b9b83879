"""The verbs that train: `rmx rollouts`, `rmx train`, `rmx distill`; and `rmx recipe`, which runs them.

The recipe's commands make a pair on any base and ask it the paper's question: they train RL and ReasonMaxxer, test
both, and measure the claims. Each is what one would type by hand, and goes on where it was cut off. The problems of the
test split are opened once, for all adapters together.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rmx.arguments import Flag, argument
from rmx.cli import options
from rmx.cli.options import (
    AdapterName,
    Command,
    ModelRequest,
    changed_fields,
    default_model,
    recipe_of,
    request_of,
    style_of,
)
from rmx.cli.terminal import DistillTeller, Teller
from rmx.errors import RmxError, TrainError
from rmx.models.names import SMOLLM2
from rmx.progress import Progress
from rmx.runs import recipe as recipes
from rmx.runs.folder import CONFIG, RunFolder
from rmx.runs.job import DistillJob, TrainJob, resolved
from rmx.runs.recipe import NONE, DistillRecipe, field_types
from rmx.runs.store import RunStore
from rmx.storage.safe_files import sendable
from rmx.train.drive import drive

SAMPLING = ("k", "problems", "temperature", "top_p", "max_new_tokens", "seed")
SetName = Annotated[str | None, argument("mini, arith, gsm8k or a file (default: mini)", Flag(metavar="NAME"))]
OutFolder = Annotated[
    str | None, argument("the run's folder (default: a new one in RMX_RUNS)", Flag(metavar="DIR", either=True))
]
Resumed = Annotated[
    str | None, argument("go on with a run that was stopped or interrupted", Flag(metavar="ID", either=True))
]


class TrainingCommand(ModelRequest):
    """What the commands that train have in common, beside the style of the prompt and the recipe."""

    def check(self) -> None:
        """Refuse what spreads or quantizes a model: for training, and for the rollouts that it learns from."""
        if self.quantize or self.device_map:
            flag = "--quantize" if self.quantize else "--device-map"
            raise TrainError(f"Training and its rollouts need the whole weights on one device. Leave {flag} out.")


class SamplingCommand(TrainingCommand):
    """What rollouts are sampled of, and where."""

    set: SetName = None
    server: str | None = argument("an OpenAI-compatible server that samples the rollouts", Flag(metavar="URL"))


class RolloutsCommand(SamplingCommand):
    """Sample and grade solutions into a file."""

    out: str = argument(
        "JSON lines; a file that is there is completed", Flag(metavar="FILE", required=True), default=""
    )
    format: Literal["rmx", "official"] | None = argument("official: selected and scored")

    def run(self, args: argparse.Namespace) -> None:
        from rmx.train.data_stages import sample_to_file

        self.check()
        about: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "style": style_of(args)}
        who = self.model or default_model(), self.set or "mini", recipe_of(args)
        job = TrainJob(*who, server=self.server, **about)
        out, figures, tell = Path(self.out).absolute(), dict[str, Any](), Teller()
        for kind, told in sample_to_file(job, out, official=self.format == "official"):
            figures = told if kind == "rollouts" else figures
            if kind == "stage" or not args.json:
                tell(kind, told)
        tell.progress.close()
        if args.json:
            print(json.dumps(figures | {"file": str(out)}))


class TrainCommand(SamplingCommand):
    """Train a LoRA at the forks of graded solutions."""

    json_help = "one JSON line per micro-batch, and a last one"

    from_rollouts: str | None = argument("rollouts that are there already (ours or official)", Flag(metavar="FILE"))
    adapter: AdapterName = None
    init_adapter: str | None = argument("an adapter that is trained further", Flag(metavar="DIR"))
    preset: Literal["paper", "small", "floor", "quick"] = argument(
        "where the recipe begins (default paper)", default="paper"
    )
    out: OutFolder = None
    resume: Resumed = None
    sweep_tau: str | None = argument("one adapter for each threshold in nats; validation chooses", Flag(metavar="A,B"))
    dry_run: bool = argument("stop after the gate and say what training would cost", default=False)

    def run(self, args: argparse.Namespace) -> None:
        self.check()
        folder = _resumed(args, self) if self.resume else _new_run(job_of(args), self.out)
        if self.dry_run and folder.config.get("kind") == "sweep":
            raise RmxError(recipes.NO_DRY)
        if not args.json:
            print(f"run {folder.id} in {folder.path}", flush=True)
        distilled = folder.config.get("kind") == "distill"  # a resumed run may be of either kind
        teller = DistillTeller() if distilled else Teller()
        drive(folder, dry=self.dry_run, tell=_json_lines(folder, self.dry_run) if args.json else teller)


class DistillCommand(TrainingCommand):
    """Train a LoRA that follows a teacher's distributions."""

    json_help = "one JSON line per update and check, and a last one"

    adapter: AdapterName = None
    teacher: str | None = argument("the teacher: a checkpoint, or an adapter on the base", Flag(metavar="S"))
    set: SetName = None
    preset: Literal["paper", "small"] | None = argument("where the recipe begins (default: small for mini)")
    out: OutFolder = None
    resume: Resumed = None

    def run(self, args: argparse.Namespace) -> None:
        self.check()
        if self.resume:
            folder = _resumed_distillation(args, self)
        else:
            out = Path(self.out).absolute() if self.out else None
            folder = RunStore().create(distill_job_of(args), kind="distill", path=out)
        if not args.json:
            print(f"run {folder.id} in {folder.path}", flush=True)
        drive(folder, tell=_distill_json_lines() if args.json else DistillTeller())


def define_rollouts(rollouts: argparse.ArgumentParser) -> None:
    """Options of `rmx rollouts`."""
    options.add_style(rollouts)
    options.add_recipe(rollouts, (*SAMPLING, "select", "trim", "tau", "tau_share"))


def define_train(train: argparse.ArgumentParser) -> None:
    """Options of `rmx train`."""
    options.add_style(train)
    options.add_recipe(train)


def define_distill(distill: argparse.ArgumentParser) -> None:
    """Options of `rmx distill`."""
    options.add_style(distill)
    options.add_flags(distill.add_argument_group("recipe (defaults: the preset's)"), DistillRecipe)


def _find_run(resumed: str) -> RunFolder:
    """The run that is gone on with, by its id or its folder."""
    path = Path(resumed).expanduser()
    return RunFolder(path.absolute()) if (path / CONFIG).is_file() else RunStore().get(resumed)


# -- rmx train --------------------------------------------------------------------------------------------------------


def job_of(args: argparse.Namespace) -> TrainJob:
    """The job that the flags of `rmx train` describe; refused where they do not go together."""
    asked = request_of(args, TrainCommand)
    if asked.adapter:
        raise RmxError("To train an adapter further, name it with --init-adapter.")
    set_name = asked.set or (None if asked.from_rollouts else "mini")
    job = TrainJob(
        asked.model or default_model(), set_name, recipe_of(args, asked.preset), asked.preset, asked.from_rollouts,
        asked.server, asked.init_adapter, asked.device, asked.dtype, taus=_taus(args, asked), style=style_of(args),
    )  # fmt: skip
    return resolved(job)


def _taus(args: argparse.Namespace, asked: TrainCommand) -> tuple[float, ...]:
    """The thresholds of `--sweep-tau`; none without it."""
    if asked.sweep_tau is None:
        return ()
    if args.recipe_tau not in (None, NONE) or args.recipe_tau_share not in (None, NONE):
        raise RmxError("--sweep-tau names the thresholds itself. Leave out --tau and --tau-share.")
    if asked.dry_run:
        raise RmxError(recipes.NO_DRY)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RmxError(recipes.ONE_PROCESS)
    return recipes.taus_of(asked.sweep_tau)


def _new_run(job: TrainJob, named: str | None) -> RunFolder:
    """The folder of a new run. Of several processes the first makes it, and the others wait for it."""
    out = Path(named).absolute() if named else None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if out is None:
            raise RmxError("Several processes must agree on the run's folder. Name it with --out DIR.")
        if int(os.environ.get("RANK", "0")):
            while not (out / CONFIG).exists():
                time.sleep(0.1)
            return RunFolder(out)
    return RunStore().create(job, path=out)


def _resumed(args: argparse.Namespace, asked: TrainCommand) -> RunFolder:
    """The run that is gone on with. Its threshold may still be changed before it trains.

    Raises:
        RmxError: no such run, or a change that comes too late.
    """
    from rmx.train.training_stage import CHECKPOINTS, written

    folder, given = _find_run(asked.resume or ""), changed_fields(args, field_types())
    swept = tuple(folder.config.get("taus") or ())
    if asked.sweep_tau is not None and _taus(args, asked) != swept:
        raise RmxError("A sweep goes on with the thresholds that it began with. Leave out --sweep-tau.")
    if style_of(args).given:
        raise RmxError("A run goes on with the prompts that it began with. Leave out --style and what belongs to it.")
    if not given:
        return folder
    if swept:
        raise RmxError("A sweep goes on as it began, with its own thresholds. Leave out the flags of the recipe.")
    if not set(given) <= {"tau", "tau_share"} or written(folder.path / CHECKPOINTS):
        raise RmxError("A run goes on as it began; only --tau or --tau-share may change, and only before it trains.")
    job = TrainJob.from_json(folder.config)
    gate = {"tau": None, "tau_share": None} | given
    folder.change(folder.config | replace(job, recipe=job.recipe.with_(**gate)).json())
    return folder


def _json_lines(folder: Any, dry: bool) -> Callable[[str, dict[str, Any]], None]:
    """One line per micro-batch on stdout, one per threshold of a sweep, and a last one with what the run cost.

    A dry run has the estimates instead: before the rollouts, and with the gate.
    """
    tokens, progress = 0, Progress()

    def tell(kind: str, figures: dict[str, Any]) -> None:
        nonlocal tokens
        if kind == "stage":
            progress(figures["stage"], figures["at"], figures["of"])
        elif kind == "micro":
            progress.say(json.dumps(sendable(figures)))
        elif kind == "tau" or (dry and kind in ("estimate", "gate")):
            progress.say(json.dumps(sendable({"kind": kind, **figures})))
        elif kind == "update":
            tokens += figures["tokens"]
        elif kind == "done":
            progress.close()
            progress.say(json.dumps(sendable({**figures, "tokens": tokens, "run": str(folder.path)})))
        elif kind in ("guard", "early", "note") or (kind == "state" and figures["state"] != "running"):
            said = figures.get("message")
            if said:
                print(f"rmx train: {said}", file=sys.stderr)

    return tell


# -- rmx distill ------------------------------------------------------------------------------------------------------


def distill_job_of(args: argparse.Namespace) -> DistillJob:
    """The job that the flags describe.

    Raises:
        RmxError: flags that do not go together, or values that cannot be used.
    """
    asked = request_of(args, DistillCommand)
    model = asked.model or default_model()
    preset = asked.preset or recipes.default_preset(model)
    recipe = recipes.DISTILL_PRESETS[preset].with_(**changed_fields(args, field_types(DistillRecipe)))
    who = model, asked.set or "mini", asked.adapter, asked.teacher
    return resolved(DistillJob(*who, recipe, preset, asked.device, asked.dtype, style_of(args)))


def _resumed_distillation(args: argparse.Namespace, asked: DistillCommand) -> RunFolder:
    """The run that is gone on with.

    Raises:
        RmxError: no such run, it is of another kind, or a flag would change it.
    """
    folder = _find_run(asked.resume or "")
    if folder.config.get("kind") != "distill":
        raise RmxError(f"{folder.id} is no distillation. Go on with it by: rmx train --resume {folder.id}")
    named = asked.preset, asked.set, asked.teacher, asked.adapter
    if changed_fields(args, field_types(DistillRecipe)) or any(named) or style_of(args).given:
        raise RmxError("A run goes on as it began; --resume takes no other choices.")
    return folder


def _distill_json_lines() -> Callable[[str, dict[str, Any]], None]:
    """One line per update and check on stdout, and a last one; how far it is on stderr."""
    progress = Progress()

    def tell(kind: str, figures: dict[str, Any]) -> None:
        if kind == "stage":
            progress(figures["stage"], figures["at"], figures["of"])
        elif kind in ("update", "check", "done"):
            progress.say(json.dumps({"kind": kind, **figures}))
        if kind == "done":
            progress.close()

    return tell


# -- rmx recipe --------------------------------------------------------------------------------------------------------


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


class RecipeCommand(Command):
    """Print or run the commands that make a pair on any base and measure it."""

    json_help = "print the commands as one JSON document"

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

    def run(self, args: argparse.Namespace) -> None:
        stages = stages_of(self)
        if self.go:
            run_stages(stages, Path(self.out))
        elif args.json:
            print(json.dumps({"recipe": self.name, "stages": [{"name": s.name, "command": s.line()} for s in stages]}))
        else:
            print("\n".join(stage.line() for stage in stages))


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

    def resumed(self) -> Sequence[str]:
        """The command that goes on with a training run that has begun, or the stage's own."""
        if self.argv[2] != "train":
            return self.argv
        folder = self.argv[self.argv.index("--out") + 1]
        return ("-m", "rmx", "train", "--resume", folder) if (Path(folder) / CONFIG).exists() else self.argv


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
                [sys.executable, *stage.resumed()], stdin=subprocess.DEVNULL, stderr=errors,
                stdout=subprocess.PIPE if stage.output else errors, check=False,
            )  # fmt: skip
        if made.returncode:
            raise RmxError(f"{stage.name} ended with code {made.returncode}. What it printed stands in {log}.")
        if stage.output:
            stage.output.write_bytes(made.stdout)
        stage.done.touch()
