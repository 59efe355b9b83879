"""The verb that brings a checkout to a Space of the Hugging Face Hub: `rmx deploy`."""

import argparse
import json
import os
from typing import Any

from rmx.cli.terminal import JSON_HELP


def define_deploy(deploy: argparse.ArgumentParser) -> None:
    """Options of `rmx deploy`."""
    deploy.add_argument("--space", required=True, metavar="OWNER/NAME", help="the Space, made if it is not there")
    deploy.add_argument(
        "--hardware",
        metavar="H",
        help="what the Space runs on: cpu-basic, cpu-upgrade, t4-small, l4x1, … (a GPU: CUDA image)",
    )
    deploy.add_argument("--storage", metavar="BUCKET", help="a storage bucket on /data, made if it is not there")
    deploy.add_argument("--private", action="store_true", help="only its owner sees it")
    deploy.add_argument("--zerogpu", action="store_true", help="a Gradio Space on ZeroGPU instead of a Docker one")
    deploy.add_argument("--env", action="append", default=[], metavar="K=V", help="a variable, public; several times")
    deploy.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="K",
        help="a secret, read from the environment, or K=V; never shown; several times",
    )
    deploy.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do nothing; needs neither token nor network"
    )
    deploy.add_argument("--json", action="store_true", help=JSON_HELP)
    deploy.set_defaults(run=_deploy)


def _deploy(args: argparse.Namespace) -> None:
    from rmx.space.plan import plan, settings

    made = plan(
        args.space,
        hardware=args.hardware,
        storage=args.storage,
        private=args.private,
        zerogpu=args.zerogpu,
        variables=settings(args.env, "--env"),
        secrets=settings(args.secret, "--secret", os.environ),
    )
    files = [{"path": file.path, "bytes": file.bytes} for file in made.files]
    told: dict[str, Any] = {"space": made.space, "sdk": made.sdk, "dry_run": args.dry_run}
    if args.dry_run:
        told |= {"steps": list(made.steps), "files": files}
        print(json.dumps(told) if args.json else "\n".join([*made.steps, *(f"  {file['path']}" for file in files)]))
        return
    from rmx.space.plan import carry_out

    done = []
    for line in carry_out(made):
        done.append(line)
        if not args.json:
            print(line, flush=True)
    if args.json:
        print(json.dumps(told | {"done": done, "files": files}))
