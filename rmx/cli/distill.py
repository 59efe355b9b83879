"""The verb that distils: `rmx distill`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.cli.options import add_model, add_style, default_model, refuse_placing, style_of
from rmx.cli.terminal import DistillTeller
from rmx.errors import RmxError
from rmx.progress import Progress


def define_distill(distill: argparse.ArgumentParser) -> None:
    """Options of `rmx distill`."""
    from rmx.recipes.distill_job import DistillRecipe
    from rmx.recipes.flags import add_flags

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


def job_of(args: argparse.Namespace) -> Any:
    """The job that the flags describe.

    Raises:
        RmxError: flags that do not go together, or values that cannot be used.
    """
    from rmx.recipes.distill_job import PRESETS, DistillJob, DistillRecipe, default_preset, resolved
    from rmx.recipes.flags import given
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
        folder = _resumed(args)
    else:
        folder = RunStore().create(job_of(args), kind="distill", path=Path(args.out).absolute() if args.out else None)
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    drive(folder, tell=_json_lines() if args.json else DistillTeller())
    return 0


def _resumed(args: argparse.Namespace) -> Any:
    """The run that is gone on with, by its id or its folder.

    Raises:
        RmxError: no such run, it is of another kind, or a flag would change it.
    """
    from rmx.recipes.distill_job import DistillRecipe
    from rmx.recipes.flags import given
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


def _json_lines() -> Callable[[str, dict[str, Any]], None]:
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
