"""The verbs that train: `rmx rollouts`, `rmx train` and `rmx distill`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rmx.arguments import Flag, argument
from rmx.cli.options import (
    ModelRequest,
    add_flags,
    add_options,
    add_recipe,
    add_style,
    changed_fields,
    default_model,
    recipe_of,
    request_of,
    style_of,
)
from rmx.cli.terminal import JSON_HELP, DistillTeller, Teller
from rmx.errors import RmxError, TrainError
from rmx.progress import Progress
from rmx.recipes.job import DistillJob, TrainJob, resolved
from rmx.recipes.recipe import (
    DISTILL_PRESETS,
    NO_DRY,
    NONE,
    ONE_PROCESS,
    DistillRecipe,
    default_preset,
    field_types,
    taus_of,
)
from rmx.runs.folder import CONFIG, RunFolder
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


class TrainCommand(SamplingCommand):
    """Train a LoRA at the forks of graded solutions."""

    from_rollouts: str | None = argument("rollouts that are there already (ours or official)", Flag(metavar="FILE"))
    init_adapter: str | None = argument("an adapter that is trained further", Flag(metavar="DIR"))
    preset: Literal["paper", "small", "floor", "quick"] = argument(
        "where the recipe begins (default paper)", default="paper"
    )
    out: OutFolder = None
    resume: Resumed = None
    sweep_tau: str | None = argument("one adapter for each threshold in nats; validation chooses", Flag(metavar="A,B"))
    dry_run: bool = argument("stop after the gate and say what training would cost", default=False)


class DistillCommand(TrainingCommand):
    """Train a LoRA that follows a teacher's distributions."""

    teacher: str | None = argument("the teacher: a checkpoint, or an adapter on the base", Flag(metavar="S"))
    set: SetName = None
    preset: Literal["paper", "small"] | None = argument("where the recipe begins (default: small for mini)")
    out: OutFolder = None
    resume: Resumed = None


def define_rollouts(rollouts: argparse.ArgumentParser) -> None:
    """Options of `rmx rollouts`."""
    _define(rollouts, RolloutsCommand, JSON_HELP, _rollouts)
    add_recipe(rollouts, (*SAMPLING, "select", "trim", "tau", "tau_share"))


def define_train(train: argparse.ArgumentParser) -> None:
    """Options of `rmx train`."""
    _define(train, TrainCommand, "one JSON line per micro-batch, and a last one", _train)
    add_recipe(train)


def define_distill(distill: argparse.ArgumentParser) -> None:
    """Options of `rmx distill`."""
    _define(distill, DistillCommand, "one JSON line per update and check, and a last one", _distill)
    add_flags(distill.add_argument_group("recipe (defaults: the preset's)"), DistillRecipe)


def _define(parser: argparse.ArgumentParser, command: type[TrainingCommand], json_help: str, run: Any) -> None:
    add_options(parser, command)
    parser.add_argument("--json", action="store_true", help=json_help)
    add_style(parser)
    parser.set_defaults(run=run)


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
        raise RmxError(NO_DRY)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RmxError(ONE_PROCESS)
    return taus_of(asked.sweep_tau)


def _train(args: argparse.Namespace) -> None:
    asked = request_of(args, TrainCommand)
    asked.check()
    folder = _resumed(args, asked) if asked.resume else _new_run(job_of(args), asked.out)
    if asked.dry_run and folder.config.get("kind") == "sweep":
        raise RmxError(NO_DRY)
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    teller = DistillTeller if folder.config.get("kind") == "distill" else Teller  # a resumed run may be of either kind
    drive(folder, dry=asked.dry_run, tell=_json_lines(folder, asked.dry_run) if args.json else teller())


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


# -- rmx rollouts -----------------------------------------------------------------------------------------------------


def _rollouts(args: argparse.Namespace) -> None:
    from rmx.train.data_stages import sample_to_file

    asked = request_of(args, RolloutsCommand)
    asked.check()
    about: dict[str, Any] = {
        "server": asked.server,
        "device": asked.device,
        "dtype": asked.dtype,
        "style": style_of(args),
    }
    job = TrainJob(asked.model or default_model(), asked.set or "mini", recipe_of(args), **about)
    out, figures, tell = Path(asked.out).absolute(), dict[str, Any](), Teller()
    for kind, told in sample_to_file(job, out, official=asked.format == "official"):
        figures = told if kind == "rollouts" else figures
        if kind == "stage" or not args.json:
            tell(kind, told)
    tell.progress.close()
    if args.json:
        print(json.dumps(figures | {"file": str(out)}))


# -- rmx distill ------------------------------------------------------------------------------------------------------


def distill_job_of(args: argparse.Namespace) -> DistillJob:
    """The job that the flags describe.

    Raises:
        RmxError: flags that do not go together, or values that cannot be used.
    """
    asked = request_of(args, DistillCommand)
    model = asked.model or default_model()
    preset = asked.preset or default_preset(model)
    recipe = DISTILL_PRESETS[preset].with_(**changed_fields(args, field_types(DistillRecipe)))
    who = model, asked.set or "mini", asked.adapter, asked.teacher
    return resolved(DistillJob(*who, recipe, preset, asked.device, asked.dtype, style_of(args)))


def _distill(args: argparse.Namespace) -> None:
    asked = request_of(args, DistillCommand)
    asked.check()
    if asked.resume:
        folder = _resumed_distillation(args, asked)
    else:
        out = Path(asked.out).absolute() if asked.out else None
        folder = RunStore().create(distill_job_of(args), kind="distill", path=out)
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    drive(folder, tell=_distill_json_lines() if args.json else DistillTeller())


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
