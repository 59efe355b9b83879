"""The verbs `rmx claims` and `rmx locator`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmx.cli.options import add_options, add_share, add_style
from rmx.errors import RmxError

AddModel = Callable[[argparse.ArgumentParser], None]


def add_verbs(verbs: Any, add_model: AddModel) -> None:
    """Define both verbs; `add_model` gives them the options that all verbs share."""
    claims = verbs.add_parser("claims", help="the paper's claims, measured on your model")
    _add_common(claims, add_model)
    add_options(claims, "--pair", "--teacher")
    claims.add_argument("--only", metavar="ID,ID", help="measure these claims alone")
    claims.add_argument("--n", type=int, default=8, metavar="N", help="samples of each problem, for pass@k (default 8)")
    claims.add_argument("--html", metavar="FILE", help="also write the report, one file that opens offline")
    claims.set_defaults(run=_claims)

    locator = verbs.add_parser("locator", help="does high entropy find the tokens that decide?")
    _add_common(locator, add_model)
    locator.add_argument(
        "--samples", type=int, default=16, metavar="N", help="samples of each alternative, an even number (default 16)"
    )
    locator.set_defaults(run=_locator)


def _add_common(parser: argparse.ArgumentParser, add_model: AddModel) -> None:
    add_model(parser)
    first = {"default": 100, "help": "take the first N problems of the set (default 100)"}
    add_options(parser, "--set", "--limit", "--tau", limit=first)
    add_share(parser)
    add_options(parser, "--seed", "--max-new-tokens")
    spent = "tokens that sampling what choices decide may take (default 200,000)"
    parser.add_argument("--budget", type=int, default=200_000, metavar="TOKENS", help=spent)
    add_options(parser, "--no-cache", "--json")
    add_style(parser)


# -- rmx claims -------------------------------------------------------------------------------------------------------


def _claims(args: argparse.Namespace) -> None:
    from rmx.claims.ask import ClaimOptions
    from rmx.claims.board import Board
    from rmx.claims.registry import chosen
    from rmx.claims.verdicts import FEWEST, NO_VERDICT
    from rmx.cli.pair import pair_options
    from rmx.cli.terminal import stopped_by_hand
    from rmx.evaluate.store import SampleStore
    from rmx.progress import Progress

    wanted = chosen(tuple(i.strip() for i in args.only.split(",") if i.strip()) if args.only else None)
    subject = ClaimOptions(pair_options(args), args.n, args.budget).subject()
    subject = replace(subject, store=SampleStore(keep=not args.no_cache))
    if len(subject.problems) < FEWEST:
        print(f"{len(subject.problems)} problems: {NO_VERDICT} Take --limit {FEWEST} or more for one.", file=sys.stderr)
    with stopped_by_hand() as stopped, Progress() as tell:
        report: Any = None
        for report in Board(subject, wanted, stopped):
            if report.study:
                tell(report.does, report.at, report.of)
    found = report.json()
    if args.html:
        _write(args.html, found, subject.asked)
    print(json.dumps(found, ensure_ascii=False) if args.json else table(found))


def _write(path: str, found: dict[str, Any], asked: Any) -> None:
    from rmx.claims.html_report import command_of, html_report

    try:
        Path(path).write_text(html_report(found, command_of(found, asked)), encoding="utf-8")
    except OSError as error:
        raise RmxError(f"Cannot write {path}: {error.strerror}.") from error


def table(found: dict[str, Any]) -> str:
    """The rows for the terminal: claim and verdict, then paper, figures and reason below each other."""
    lines = [
        f"{found['pair']} on {found['n']} problems of {found['set']}, tau {found['tau']:g} nats, seed {found['seed']}",
    ]
    if found["calibration"]:
        lines.append(found["calibration"]["sentence"])
    for row in found["rows"]:
        section = f"section {row['section']}" if row["section"] else "a control"
        lines += [
            "",
            f"{row['verdict'].upper():16s} {row['claim']}  ({row['id']}, {section})",
            f"{'':16s} paper     {row['paper']}",
            f"{'':16s} measured  {row['measured']['text']}" + (f"  n = {row['n']}" if row["n"] is not None else ""),
            f"{'':16s} why       {row['why']}",
            *([f"{'':16s} rule      {row['rule']}"] if row["rule"] else []),
        ]
    counts = Counter(row["verdict"] for row in found["rows"])
    lines += ["", " · ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f" · {found['seconds']:.0f} s"]
    if found["stopped"]:
        lines.append("Stopped by hand: rows cover what was done by then.")
    return "\n".join([*lines, "", *(f"- {c}" for c in found["caveats"])])


# -- rmx locator ------------------------------------------------------------------------------------------------------


def _locator(args: argparse.Namespace) -> None:
    from rmx.cli.pair import pair_options
    from rmx.cli.terminal import stopped_by_hand
    from rmx.explore.gate_recall import Locator, LocatorConfig
    from rmx.models.workspace import Workspace
    from rmx.progress import Progress
    from rmx.storage.line_store import LineStore

    config = LocatorConfig(args.samples, seed=args.seed, budget=args.budget, max_new_tokens=args.max_new_tokens)
    options = pair_options(args)
    space = Workspace(args.device, args.dtype, placing=options.placing)
    problems = options.problems()
    model = space.model(options.model).ask_in(options.style, options.set_name)
    adapter, store = space.adapter(model, args.adapter), LineStore(keep=not args.no_cache)
    tau = options.threshold(model)
    with stopped_by_hand() as stopped, Progress() as tell:
        report: Any = None
        for report in Locator(model, problems, tau, config, args.set, stopped, adapter, store=store):
            tell("problems", report.problems, report.of, f"{report.tokens_spent:,} tokens")
    found = report.json() | {"dtype": model.dtype, "adapter": args.adapter, "style": model.style.json()}
    found["calibration"] = calibrated.json() if (calibrated := options.calibration(model)) else None
    print(json.dumps(found, ensure_ascii=False) if args.json else locator_table(found))


def locator_table(found: dict[str, Any]) -> str:
    """The figures for the terminal."""
    from rmx.stats.text import brief

    ended = {"budget": ", the budget is used up", "cancelled": ", stopped by hand"}.get(found["ended"] or "", "")
    rows = (
        ("missed", "decisive weight outside the gate"),
        ("recall", "decisive weight inside it (recall)"),
        ("recall_of_tokens", "deciding tokens inside it"),
        ("precision", "gated tokens that decide (precision)"),
        ("decides_nothing", "gated tokens that surely decide nothing"),
    )
    return "\n".join(
        [
            f"{found['model']}: {found['problems']} of {found['of']} problems of {found['set']}, tau {found['tau']:g}, "
            f"{found['gated']} gated of {found['tokens']} tokens, {found['looked_at_elsewhere']} others looked at, "
            f"{found['tokens_spent']:,} tokens sampled{ended}",
            *(f"{label:42s}{brief(found[name], '%')}" for name, label in rows),
            f"{'left out of sight at most (weight)':42s}{found['weight']['unseen_at_most']:.3g} against "
            f"{found['weight']['gated'] + found['weight']['elsewhere']:.3g} found",
            found["rule"],
        ]
    )
