"""The verbs that train: `rmx rollouts` and `rmx train`."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.errors import RmxError

AddModel = Callable[[argparse.ArgumentParser], None]
SAMPLING = ("k", "problems", "temperature", "top_p", "max_new_tokens", "seed")


def add_verbs(verbs: Any, add_model: AddModel) -> None:
    """Define both verbs; `add_model` gives them the options that all verbs share."""
    from rmx.train.flags import add_recipe

    rollouts = verbs.add_parser("rollouts", help="sample and grade solutions of the base, with entropies")
    add_model(rollouts)
    _add_problems(rollouts)
    rollouts.add_argument("--out", required=True, metavar="FILE", help="JSON lines; a file that is there is completed")
    rollouts.add_argument("--format", choices=["rmx", "official"], default="rmx", help="official: selected and scored")
    rollouts.add_argument("--json", action="store_true")
    add_recipe(rollouts, (*SAMPLING, "select", "trim", "tau", "tau_share"))
    rollouts.set_defaults(run=_rollouts)

    train = verbs.add_parser("train", help="ReasonMaxxer: rollouts, gate, contrastive LoRA")
    add_model(train)
    _add_problems(train)
    train.add_argument("--from-rollouts", metavar="FILE", help="rollouts that are there already (ours or official)")
    train.add_argument("--init-adapter", metavar="DIR", help="an adapter that is trained further")
    train.add_argument("--preset", choices=["paper", "small", "floor"], default="paper")
    where = train.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="the run's folder (default: a new one in RMX_RUNS)")
    where.add_argument("--resume", metavar="ID", help="go on with a run that was stopped or interrupted")
    train.add_argument("--dry-run", action="store_true", help="stop after the gate and say what training would cost")
    train.add_argument("--json", action="store_true", help="one JSON line per micro-batch, and a last one")
    add_recipe(train)
    train.set_defaults(run=_train)


def _add_problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", default=None, metavar="NAME", help="mini, arith, gsm8k or a file (default: mini)")
    parser.add_argument("--server", metavar="URL", help="an OpenAI-compatible server that samples the rollouts")


def job_of(args: argparse.Namespace) -> Any:
    """The job that the flags of `rmx train` describe.

    Raises:
        RmxError: flags that do not go together.
    """
    from rmx.train.flags import recipe_of
    from rmx.train.job import TrainJob, resolved

    if args.adapter:
        raise RmxError("To train an adapter further, name it with --init-adapter.")
    set_name = args.set or (None if args.from_rollouts else "mini")
    model = args.model or os.environ.get("RMX_MODEL", "mini")
    return resolved(
        TrainJob(
            model, set_name, recipe_of(args, args.preset), args.preset, args.from_rollouts, args.server,
            args.init_adapter, args.device, args.dtype,
        )
    )  # fmt: skip


def _train(args: argparse.Namespace) -> int:
    from rmx.train.process import run_here

    if args.resume:
        return run_here(args.resume, changed=_changes(args), dry=args.dry_run, tell=_teller(args.json))
    return run_here(None, job=job_of(args), out=args.out, dry=args.dry_run, tell=_teller(args.json))
