"""The verbs that train: `rmx rollouts` and `rmx train`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.cli.placing import refuse_placing
from rmx.cli.style import add_style, style_of
from rmx.errors import RmxError
from rmx.progress import Progress
from rmx.storage.files import clean

AddModel = Callable[[argparse.ArgumentParser], None]
SAMPLING = ("k", "problems", "temperature", "top_p", "max_new_tokens", "seed")


def add_verbs(verbs: Any, add_model: AddModel) -> None:
    """Define both verbs; `add_model` gives them the options that all verbs share."""
    from rmx.recipes.flags import add_recipe

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
    train.add_argument("--preset", choices=["paper", "small", "floor", "quick"], default="paper")
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
    """The job that the flags of `rmx train` describe.

    Raises:
        RmxError: flags that do not go together.
    """
    from rmx.recipes.flags import recipe_of
    from rmx.recipes.job import TrainJob, resolved

    if args.adapter:
        raise RmxError("To train an adapter further, name it with --init-adapter.")
    taus = _taus(args)
    set_name = args.set or (None if args.from_rollouts else "mini")
    model = args.model or os.environ.get("RMX_MODEL", "mini")
    return resolved(
        TrainJob(
            model, set_name, recipe_of(args, args.preset), args.preset, args.from_rollouts, args.server,
            args.init_adapter, args.device, args.dtype, taus=taus, style=style_of(args),
        )
    )  # fmt: skip


def _taus(args: argparse.Namespace) -> tuple[float, ...]:
    """The thresholds of `--sweep-tau`; none without it.

    Raises:
        RmxError: it holds no thresholds, or does not go together with another flag.
    """
    from rmx.recipes.sweep import NO_DRY, ONE_PROCESS, taus_of

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
    from rmx.recipes.sweep import NO_DRY
    from rmx.train.drive import drive

    refuse_placing(args)
    folder = _resumed(args) if args.resume else _new_run(args)
    if args.dry_run and folder.config.get("kind") == "sweep":
        raise RmxError(NO_DRY)
    if not args.json:
        print(f"run {folder.id} in {folder.path}", flush=True)
    drive(folder, dry=args.dry_run, tell=_json_lines(folder, args.dry_run) if args.json else _teller(folder))
    return 0


def _teller(folder: Any) -> "Teller":
    """A run that is gone on with may be of the other kind."""
    from rmx.cli.distill import DistillTeller

    return DistillTeller() if folder.config.get("kind") == "distill" else Teller()


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
    from rmx.recipes.flags import field_types
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
            progress.say(json.dumps(clean(figures)))
        elif kind == "tau" or (dry and kind in ("estimate", "gate")):
            progress.say(json.dumps(clean({"kind": kind, **figures})))
        elif kind == "update":
            tokens += figures["tokens"]
        elif kind == "done":
            progress.close()
            progress.say(json.dumps(clean({**figures, "tokens": tokens, "run": str(folder.path)})))
        elif kind in ("guard", "early", "note") or (kind == "state" and figures["state"] != "running"):
            said = figures.get("message")
            if said:
                print(f"rmx train: {said}", file=sys.stderr)

    return tell


class Teller:
    """A run for the terminal: on stdout what each stage found and each check, on stderr how far it is."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.losses = ""  # of the last update

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        if kind == "update":
            self.losses = self._update(figures)
        elif kind == "stage":
            self.progress(figures["stage"], figures["at"], figures["of"], self.losses)
        elif line := self.line(kind, figures):
            self.progress.say(line)

    def line(self, kind: str, figures: dict[str, Any]) -> str | None:
        """What is said of an event; nothing of those that are for the page."""
        say = getattr(self, f"_{kind}", None)
        return say(figures) if say else None

    def _rollouts(self, f: dict[str, Any]) -> str | None:
        if f["at"] < f["of"]:
            return None
        return (
            f"rollouts   {f['at']} of {f['of']} problems, {f['rollouts']} rollouts: {f['right']} right, "
            f"{f['truncated']} truncated, {f['unparsed']} without an answer{_ids_of(f.get('server'))}"
        )

    def _head(self, f: dict[str, Any]) -> str:
        if not f["tf32"]:
            return f"head       --tf32 has no effect. {f['why']}"
        return (
            f"head       products in TF32: on a fixed text a log-probability moves by up to {f['logp_error']:.1e} "
            f"nats, a mean of the head's rows by {100 * f['mean_error']:.1e} %"
        )

    def _selection(self, f: dict[str, Any]) -> str:
        out = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in f["out"].items() if n)
        return (
            f"selection  {f['kept']} problems kept{f' (out: {out})' if out else ''}, {f['rollouts']} rollouts: "
            f"{f['right']} right, {f['wrong']} wrong; {f['trimmed']} of the longest left out"
        )

    def _gate(self, f: dict[str, Any]) -> str:
        from rmx.train.plan.estimate_ahead import lines

        tau = "the file's own positions" if f["tau"] is None else f"tau {f['tau']:.3g} nats"
        said = (
            f"gate       {f['gate']}, {tau}: {f['gated']} of {f['tokens']} tokens ({100 * f['share']:.2f} %), "
            f"{f['gated_right']} in right and {f['gated_wrong']} in wrong rollouts"
        )
        return (
            "\n".join([said, "estimate   of what is still to come:", *lines(f["estimate"])])
            if f.get("estimate")
            else said
        )

    def _estimate(self, f: dict[str, Any]) -> str:
        from rmx.train.plan.estimate_ahead import lines

        return "\n".join(["estimate   before the rollouts, of the whole run:", *lines(f)])

    def _update(self, f: dict[str, Any]) -> str:
        losses = f"decision {f['decision_loss']:+.4f}, KL {f['kl_loss']:.5f}"
        return f"{losses}, gradient {f['grad_norm']:.3f}, lr {f['lr']:.2e}"

    def _check(self, f: dict[str, Any]) -> str:
        gap = f"  gap {f['gap']:+.4f}" if f["gap"] is not None else ""
        against = f"  {points(f['vs_base'])} against the base" if f["vs_base"] else ""
        return f"check      at {f['optimizer_step']:4d}: pass@1 {percent(f['pass@1'])}{against}{gap}"

    def _tau(self, f: dict[str, Any]) -> str:
        said = (
            f"{percent(f['validation'])} on validation ({points(f['vs_base'])}), {f['best']}" if f["best"] else "none"
        )
        return f"threshold  tau {f['tau']:g} nats, {f['nth']} of {f['of']}: {100 * f['share']:.2f} % gated; best {said}"

    def _guard(self, f: dict[str, Any]) -> str:
        return str(f["message"])

    _early = _note = _guard

    def _state(self, f: dict[str, Any]) -> str | None:
        return f"{f['state']}: {f['message']}" if f.get("message") else None

    def _done(self, f: dict[str, Any]) -> str:
        self.progress.close()
        told = f"done       {f['updates']} updates in {f['seconds']:.0f} s"
        if f["after"]:
            told += (
                f"; {f['split']}, n = {f['after']['n']}: {percent(f['before'])} -> {percent(f['after'])} "
                f"({points(f['vs_base'])})"
            )
        if sweep := f.get("sweep"):
            return "\n".join([*sweep_lines(sweep), told + ("; its adapter is the run's" if f["adapter"] else "")])
        return told + (f"; adapter of {f['best']}" if f["adapter"] else "; no checkpoint was written")


def sweep_lines(sweep: dict[str, Any]) -> list[str]:
    """The curve of a sweep as a table: one line for the base, one for each threshold, a star at the chosen one."""

    def said(e: dict[str, Any] | None) -> str:
        return percent(e) if e else "–"

    base = sweep["base"]
    lines = [f"  {'tau':>6s}  {'gated':>7s}  {'validation':22s}{'test':22s}against the base, test"]
    lines.append(f"  {'base':>6s}  {'–':>7s}  {said(base['validation']):22s}{said(base['test'])}")
    for one in sweep["taus"]:
        star, against = "*" if one["tau"] == sweep["chosen"] else " ", one["test_vs_base"]
        lines.append(
            f"{star} {one['tau']:6g}  {100 * one['share']:5.2f} %  {said(one['validation']):22s}{said(one['test']):22s}"
            f"{points(against) if against else ''}".rstrip()
        )
    return [*lines, f"* {sweep['rule']}"]


def _ids_of(server: dict[str, Any] | None) -> str:
    """What is to be said of rollouts from a server whose token ids it did not tell."""
    if not server or not server["told"] + server["read_again"] + server["doubtful"]:
        return ""
    return f"; token ids in doubt: {server['doubtful']} ({100 * server['share']:.1f} %)"


def percent(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:.1f} % [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def points(estimate: dict[str, Any]) -> str:
    return f"{100 * estimate['value']:+.1f} points [{100 * estimate['low']:+.1f}, {100 * estimate['high']:+.1f}]"


# -- rollouts ---------------------------------------------------------------------------------------------------------


def _rollouts(args: argparse.Namespace) -> None:
    from rmx.recipes.flags import recipe_of
    from rmx.recipes.job import TrainJob
    from rmx.train.sample_to_file import sample_to_file

    model = args.model or os.environ.get("RMX_MODEL", "mini")
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
