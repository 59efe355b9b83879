"""The verbs that train: `rmx rollouts`, `rmx train` and `rmx distill`.

The verbs that train: `rmx rollouts` and `rmx train`.

The verb that distils: `rmx distill`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.cli.options import add_model, add_style, default_model, refuse_placing, style_of
from rmx.cli.terminal import JSON_HELP, DistillTeller, Teller
from rmx.errors import RmxError
from rmx.progress import Progress
from rmx.recipes.job import add_recipe, recipe_of
from rmx.storage.safe_files import sendable

SAMPLING = ("k", "problems", "temperature", "top_p", "max_new_tokens", "seed")


def define_rollouts(rollouts: argparse.ArgumentParser) -> None:
    """Options of `rmx rollouts`."""
    add_model(rollouts)
    _add_problems(rollouts)
    rollouts.add_argument("--out", required=True, metavar="FILE", help="JSON lines; a file that is there is completed")
    rollouts.add_argument("--format", choices=["rmx", "official"], default="rmx", help="official: selected and scored")
    rollouts.add_argument("--json", action="store_true", help=JSON_HELP)
    add_recipe(rollouts, (*SAMPLING, "select", "trim", "tau", "tau_share"))
    rollouts.set_defaults(run=_rollouts)


def define_train(train: argparse.ArgumentParser) -> None:
    """Options of `rmx train`."""
    add_model(train)
    _add_problems(train)
    train.add_argument("--from-rollouts", metavar="FILE", help="rollouts that are there already (ours or official)")
    train.add_argument("--init-adapter", metavar="DIR", help="an adapter that is trained further")
    presets = ["paper", "small", "floor", "quick"]
    train.add_argument("--preset", choices=presets, default="paper", help="where the recipe begins (default paper)")
    where = train.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="the run's folder (default: a new one in RMX_RUNS)")
    where.add_argument("--resume", metavar="ID", help="go on with a run that was stopped or interrupted")
    train.add_argument("--sweep-tau", metavar="A,B", help="one adapter for each threshold in nats; validation chooses")
    train.add_argument("--dry-run", action="store_true", help="stop after the gate and say what training would cost")
    train.add_argument("--json", action="store_true", help="one JSON line per micro-batch, and a last one")
    add_recipe(train)
    train.set_defaults(run=_train)


def _add_problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", default=None, metavar="NAME", help="mini, arith, gsm8k or a file (default: mini)")
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server that samples the rollouts")
    add_style(parser)


def job_of(args: argparse.Namespace) -> Any:
    """The job that the flags of `rmx train` describe; refused where they do not go together."""
    from rmx.recipes.job import TrainJob, resolved

    if args.adapter:
        raise RmxError("To train an adapter further, name it with --init-adapter.")
    taus = _taus(args)
    set_name = args.set or (None if args.from_rollouts else "mini")
    model = args.model or default_model()
    return resolved(
        TrainJob(
            model, set_name, recipe_of(args, args.preset), args.preset, args.from_rollouts, args.server,
            args.init_adapter, args.device, args.dtype, taus=taus, style=style_of(args),
        )
    )  # fmt: skip


def _taus(args: argparse.Namespace) -> tuple[float, ...]:
    """The thresholds of `--sweep-tau`; none without it."""
    from rmx.recipes.recipe import NO_DRY, ONE_PROCESS, taus_of

    if args.sweep_tau is None:
        return ()
    if args.recipe_tau not in (None, "none") or args.recipe_tau_share not in (None, "none"):
        raise RmxError("--sweep-tau names the thresholds itself. Leave out --tau and --tau-share.")
    if args.dry_run:
        raise RmxError(NO_DRY)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RmxError(ONE_PROCESS)
    return taus_of(args.sweep_tau)


def _train(args: argparse.Namespace) -> int:
    from rmx.recipes.recipe import NO_DRY
    from rmx.train.drive import drive

    refuse_placing(args)
    folder = _resumed(args) if args.resume else _new_run(args)
    if args.dry_run and folder.config.get("kind") == "sweep":
        raise RmxError(NO_DRY)
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    teller = DistillTeller if folder.config.get("kind") == "distill" else Teller  # a resumed run may be of either kind
    drive(folder, dry=args.dry_run, tell=_json_lines(folder, args.dry_run) if args.json else teller())
    return 0


def _new_run(args: argparse.Namespace) -> Any:
    """The folder of a new run. Of several processes the first makes it, and the others wait for it."""
    from rmx.runs.folder import CONFIG, RunFolder
    from rmx.runs.store import RunStore

    job = job_of(args)
    out = Path(args.out).absolute() if args.out else None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if out is None:
            raise RmxError("Several processes must agree on the run's folder. Name it with --out DIR.")
        if int(os.environ.get("RANK", "0")):
            while not (out / CONFIG).exists():
                time.sleep(0.1)
            return RunFolder(out)
    return RunStore().create(job, path=out)


def _resumed(args: argparse.Namespace) -> Any:
    """The run that is gone on with, by its id or its folder. Its threshold may still be changed before it trains.

    Raises:
        RmxError: no such run, or a change that comes too late.
    """
    from rmx.recipes.recipe import field_types
    from rmx.runs.folder import CONFIG, RunFolder
    from rmx.runs.store import RunStore
    from rmx.train.training_stage import CHECKPOINTS, written

    path = Path(args.resume).expanduser()
    folder = RunFolder(path.absolute()) if (path / CONFIG).is_file() else RunStore().get(args.resume)
    given = [name for name in field_types() if getattr(args, f"recipe_{name}") is not None]
    swept = tuple(folder.config.get("taus") or ())
    if args.sweep_tau is not None and _taus(args) != swept:
        raise RmxError("A sweep goes on with the thresholds that it began with. Leave out --sweep-tau.")
    if style_of(args).given:
        raise RmxError("A run goes on with the prompts that it began with. Leave out --style and what belongs to it.")
    if not given:
        return folder
    if swept:
        raise RmxError("A sweep goes on as it began, with its own thresholds. Leave out the flags of the recipe.")
    if not set(given) <= {"tau", "tau_share"} or written(folder.path / CHECKPOINTS):
        raise RmxError("A run goes on as it began; only --tau or --tau-share may change, and only before it trains.")
    folder.change(_with_gate(folder.config, args))
    return folder


def _with_gate(config: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The config with another threshold, in recipe and command alike."""
    from dataclasses import replace

    from rmx.recipes.job import TrainJob

    job = TrainJob.from_json(config)
    changed = {"tau": args.recipe_tau, "tau_share": args.recipe_tau_share}
    none = {name: None if value == "none" else value for name, value in changed.items()}
    return config | replace(job, recipe=job.recipe.with_(**none)).json()


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


# -- rollouts ---------------------------------------------------------------------------------------------------------


def _rollouts(args: argparse.Namespace) -> None:
    from rmx.recipes.job import TrainJob
    from rmx.train.data_stages import sample_to_file

    model = args.model or default_model()
    refuse_placing(args)
    about = {"server": args.server, "device": args.device, "dtype": args.dtype, "style": style_of(args)}
    job = TrainJob(model, args.set or "mini", recipe_of(args), **about)
    out, figures, tell = Path(args.out).absolute(), dict[str, Any](), Teller()
    for kind, told in sample_to_file(job, out, official=args.format == "official"):
        figures = told if kind == "rollouts" else figures
        if kind == "stage" or not args.json:
            tell(kind, told)
    tell.progress.close()
    if args.json:
        print(json.dumps(figures | {"file": str(out)}))


# -- The verb that distils --------------------------------------------------------------------------------------------


def define_distill(distill: argparse.ArgumentParser) -> None:
    """Options of `rmx distill`."""
    from rmx.recipes.distill_job import DistillRecipe
    from rmx.recipes.job import add_flags

    add_model(distill)
    distill.add_argument("--teacher", metavar="S", help="the teacher: a checkpoint, or an adapter on the base")
    distill.add_argument("--set", default=None, metavar="NAME", help="mini, arith, gsm8k or a file (default: mini)")
    distill.add_argument(
        "--preset", choices=["paper", "small"], help="where the recipe begins (default: small for mini)"
    )
    where = distill.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="the run's folder (default: a new one in RMX_RUNS)")
    where.add_argument("--resume", metavar="ID", help="go on with a run that was stopped or interrupted")
    distill.add_argument("--json", action="store_true", help="one JSON line per update and check, and a last one")
    add_style(distill)
    add_flags(distill.add_argument_group("recipe (defaults: the preset's)"), DistillRecipe)
    distill.set_defaults(run=_distill)


def distill_job_of(args: argparse.Namespace) -> Any:
    """The job that the flags describe.

    Raises:
        RmxError: flags that do not go together, or values that cannot be used.
    """
    from rmx.recipes.distill_job import PRESETS, DistillJob, DistillRecipe, default_preset, resolved
    from rmx.recipes.job import given
    from rmx.recipes.recipe import field_types

    model = args.model or default_model()
    preset = args.preset or default_preset(model)
    recipe = PRESETS[preset].with_(**given(args, field_types(DistillRecipe)))
    who = model, args.set or "mini", args.adapter, args.teacher
    return resolved(DistillJob(*who, recipe, args.device, args.dtype, style_of(args), preset))


def _distill(args: argparse.Namespace) -> int:
    from rmx.runs.store import RunStore
    from rmx.train.drive import drive

    refuse_placing(args)
    if args.resume:
        folder = _resumed_distillation(args)
    else:
        folder = RunStore().create(
            distill_job_of(args), kind="distill", path=Path(args.out).absolute() if args.out else None
        )
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    drive(folder, tell=_distill_json_lines() if args.json else DistillTeller())
    return 0


def _resumed_distillation(args: argparse.Namespace) -> Any:
    """The run that is gone on with, by its id or its folder.

    Raises:
        RmxError: no such run, it is of another kind, or a flag would change it.
    """
    from rmx.recipes.distill_job import DistillRecipe
    from rmx.recipes.job import given
    from rmx.recipes.recipe import field_types
    from rmx.runs.folder import CONFIG, RunFolder
    from rmx.runs.store import RunStore

    path = Path(args.resume).expanduser()
    folder = RunFolder(path.absolute()) if (path / CONFIG).is_file() else RunStore().get(args.resume)
    if folder.config.get("kind") != "distill":
        raise RmxError(f"{folder.id} is no distillation. Go on with it by: rmx train --resume {folder.id}")
    named = args.preset, args.set, args.teacher, args.adapter
    if given(args, field_types(DistillRecipe)) or any(named) or style_of(args).given:
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
