"""The verbs about problem sets: `rmx sets`, `rmx eval`, `rmx claims` and `rmx locator`."""

import argparse
import json
import shlex
import sys
import textwrap
from collections import Counter
from typing import Any

from rmx.cli.options import Place, add_request, request_of, show, study, style_of
from rmx.cli.terminal import JSON_HELP
from rmx.service.requests import ClaimsRequest, EvalRequest, LocatorRequest, RegradeRequest
from rmx.stats.text import percent
from rmx.storage.safe_files import write_text

BOUNDS = "  [{:.1f}, {:.1f}]"
OWN_FILES = """\
Or the path of a .jsonl, .csv or .parquet file with a column problem or question, and answer where it is known.
PATH:train, PATH:validation and PATH:test are what its column split says; without such a column three quarters, an
eighth and an eighth of it, dealt by the text of each problem. PATH alone is then all of it."""


def define_sets(sets: argparse.ArgumentParser) -> None:
    """Options of `rmx sets`."""
    sets.add_argument("--json", action="store_true", help=JSON_HELP)
    sets.set_defaults(run=_sets)


def _sets(args: argparse.Namespace) -> None:
    rows = listed()
    if args.json:
        print(json.dumps({"sets": rows, "own_files": " ".join(OWN_FILES.split())}, ensure_ascii=False))
        return
    print("\n\n".join(plain(row) for row in rows))
    print(f"\n{OWN_FILES}")


def listed() -> list[dict[str, Any]]:
    """One row per named set. A size is null where only the Hub could tell it, "hub" where the set is bundled."""
    from rmx.data.problem_sets import REPOSITORIES, SETS, sizes

    rows = []
    for name, info in SETS.items():
        what = {"name": name, "title": info.title, "splits": sizes(name), "hub": REPOSITORIES.get(name)}
        rows.append(what | {"licence": info.licence, "source": info.source, "note": info.note or None})
    return rows


def plain(row: dict[str, Any]) -> str:
    """A set for the terminal: its name and title, then one line for each thing to know."""
    splits = ", ".join(f"{split} ({'size not known here' if n is None else n})" for split, n in row["splits"].items())
    facts = {"splits": splits, "licence": row["licence"], "source": row["source"], "note": row["note"]}
    lines = [f"{row['name']}: {row['title']}"]
    for name, fact in facts.items():
        if fact:
            lines += textwrap.wrap(
                fact, 120, initial_indent=f"  {name:9s}", subsequent_indent=" " * 11,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


# -- `rmx eval` -------------------------------------------------------------------------------------------------------


def define_eval(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx eval`."""
    add_request(parser, EvalRequest)
    again = "make nothing: read and judge the kept completions again, and say which verdicts changed"
    parser.add_argument("--regrade", action="store_true", help=again)
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> None:
    request = request_of(args, RegradeRequest if args.regrade else EvalRequest)

    def place(report: Any) -> Place:
        return "completions", report.at, report.of, f"{report.cached:,} known before" if report.cached else ""

    show(args, study(args, request, place), eval_table, escaped=True)


# -- for the terminal -------------------------------------------------------------------------------------------------


def eval_table(found: dict[str, Any]) -> str:
    """The figures of an evaluation as lines of text."""
    from rmx.stats.paired import RULE

    missing = "" if found["done"] else f" (of {found['of_problems']}; stopped)"
    draws = f"{found['samples']} samples at T {found['temperature']:g}, top-p {found['top_p']:g}, seed {found['seed']}"
    lines = [f"{found['set']}: {found['problems']} problems{missing}, {draws}"]
    if (check := found.get("base_check")) and not check["holds"]:
        lines.append(check["sentence"])
    if not found["problems"]:
        return "\n".join([*lines, "Nothing is finished yet."])
    lines += _block(found["models"], found["paired"])
    for part in found["parts"]:
        lines += ["", f"{part['name']}: {part['problems']} problems", *_block(part["models"], part["paired"])]
    if found["paired"]:
        lines += ["", RULE]
    if found["crossings"]:
        lines += ["", *(c["sentence"] for c in found["crossings"])]
    lines += [
        f"{m['seen']} of these problems were in the training set of {m['name']}." for m in found["models"] if m["seen"]
    ]
    if clusters := found["clusters"]:
        lines.append(f"Intervals take problems of one {clusters['what']} as dependent ({clusters['n']} groups).")
    if found["by_construction"]:
        lines.append("By construction: the bundled miniature was made so that this can be seen.")
    if regraded := found.get("regraded"):
        lines += ["", *_regraded(regraded)]
    return "\n".join(lines)


def _regraded(found: dict[str, Any]) -> list[str]:
    """What a second look has changed: a line with the counts, and one for each verdict that is another now."""
    told = f"{found['completions']} kept completions looked at again: {found['changed']} verdicts changed, "
    told += f"{found['answers_changed']} answers"
    extras = (
        ("not_judged_before", "had not been judged before"),
        ("without_ids", "have no token ids, so only their verdict is new"),
        ("left_out", "problems are left out, as some of their completions are not kept"),
    )
    told += "".join(f"; {found[name]} {words}" for name, words in extras if found[name])
    lines, word = [told], {True: "right", False: "wrong"}
    for change in found["changes"]:
        before, after = (f"{one['answer']} ({word[one['correct']]})" for one in (change["before"], change["after"]))
        which = "greedy" if change["sample"] is None else f"sample {change['sample']}"
        lines.append(f"  {change['id']}  {change['model']} {which}: {before} → {after}")
    return lines


def _block(models: list[dict[str, Any]], paired: list[dict[str, Any]]) -> list[str]:
    lines = []
    for model in models:
        lines.append(model["label"])
        for name, value in _rows(model):
            lines.append(f"  {name:14s}{percent(value, '{:5.1f} %', BOUNDS)}")
        cut, without = (", ".join(f"{n} {name}" for name, n in model[key].items()) for key in ("truncated", "unparsed"))
        lines.append(f"  {'not finished':14s}{cut}; without an answer {without} (both count as wrong)")
    for pair in paired:
        lines.append(f"{pair['name']} against {pair['against']}")
        for name, value in _rows(pair):
            lines.append(f"  {name:14s}{percent(value, '{:+5.1f} points', BOUNDS)}{_counts(value)}")
    return lines


def _rows(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rows = [("greedy", figures["greedy"])] if figures.get("greedy") else []
    rows += [(f"pass@{k}", value) for k, value in (figures.get("pass@k") or {}).items()]
    majority = figures.get("majority") or {}
    return rows + [(f"majority of {k}", value) for k, value in list(majority.items())[-1:]]


def _counts(value: dict[str, Any]) -> str:
    from rmx.stats.paired import told_change

    won = f"  won {value['won']}, lost {value['lost']}," if value.get("won") is not None else " "
    told = f"{won} {told_change(value)}".rstrip()
    needed = value.get("needed")
    if value["verdict"] != "not shown" or not needed or needed <= value["n"]:
        return told
    return f"{told}  (about {needed} problems would show a difference of this size)"


# -- The verbs `rmx claims` and `rmx locator` -------------------------------------------------------------------------


def define_claims(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx claims`."""
    add_request(parser, ClaimsRequest)
    parser.add_argument("--html", metavar="FILE", help="also write the report, one file that opens offline")
    parser.set_defaults(run=run_claims)


# -- rmx claims -------------------------------------------------------------------------------------------------------


def run_claims(args: argparse.Namespace) -> None:
    """Show a verdict for each claim."""
    from rmx.claims.board import html_report
    from rmx.claims.claim import FEWEST, NO_VERDICT
    from rmx.service.studies import claims_command

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
        write_text(args.html, html_report(found, claims_command(found, asked | style)))
    show(args, found, claims_table)


def claims_table(found: dict[str, Any]) -> str:
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
