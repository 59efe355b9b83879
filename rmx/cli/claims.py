"""The verbs `rmx claims` and `rmx locator`."""

import argparse
import shlex
import sys
from collections import Counter
from typing import Any

from rmx.cli.options import Place, add_request, request_of, show, study, style_of
from rmx.service.requests import ClaimsRequest, LocatorRequest
from rmx.storage.safe_files import write_text


def define_claims(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx claims`."""
    add_request(parser, ClaimsRequest)
    parser.add_argument("--html", metavar="FILE", help="also write the report, one file that opens offline")
    parser.set_defaults(run=run_claims)


# -- rmx claims -------------------------------------------------------------------------------------------------------


def run_claims(args: argparse.Namespace) -> None:
    """Show a verdict for each claim."""
    from rmx.claims.html_report import command_of, html_report
    from rmx.claims.verdicts import FEWEST, NO_VERDICT

    asked: dict[str, Any] = {}

    def place(report: Any) -> Place | None:
        count = len(report.subject.problems)
        if not asked and count < FEWEST:
            print(f"{count} problems: {NO_VERDICT} Take --limit {FEWEST} or more for one.", file=sys.stderr)
        asked.update(report.subject.asked)
        return (report.does, report.at, report.of, "") if report.study else None

    found = study(args, request_of(args, ClaimsRequest), place)
    if args.html:
        style = {"style": shlex.join(style_of(args).words())}
        write_text(args.html, html_report(found, command_of(found, asked | style)))
    show(args, found, table)


def table(found: dict[str, Any]) -> str:
    """The rows for the terminal: claim and verdict, then paper, figures and reason below each other."""
    lines = [
        f"{found['pair']} on {found['n']} problems of {found['set']}, tau {found['tau']:g} nats, seed {found['seed']}"
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


def run_locator(args: argparse.Namespace) -> None:
    """Show what high entropy finds of the tokens that decide."""

    def place(report: Any) -> Place:
        return "problems", report.problems, report.of, f"{report.tokens_spent:,} tokens"

    show(args, study(args, request_of(args, LocatorRequest), place), locator_table)


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
