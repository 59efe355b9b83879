"""`rmx eval`: accuracy of models side by side, with intervals."""

import argparse
from typing import Any

from rmx.cli.options import Place, add_request, request_of, show, study
from rmx.service.requests import EvalRequest, RegradeRequest
from rmx.stats.text import percent


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

    show(args, study(args, request, place), table, escaped=True)


# -- for the terminal -------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
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
    return [told, *map(_change, found["changes"])]


def _change(change: dict[str, Any]) -> str:
    """One verdict that is another now."""
    word, sample = {True: "right", False: "wrong"}, change["sample"]
    before, after = (f"{one['answer']} ({word[one['correct']]})" for one in (change["before"], change["after"]))
    which = "greedy" if sample is None else f"sample {sample}"
    return f"  {change['id']}  {change['model']} {which}: {before} → {after}"


def _block(models: list[dict[str, Any]], paired: list[dict[str, Any]]) -> list[str]:
    lines = []
    for model in models:
        lines.append(model["label"])
        for name, value in _rows(model):
            lines.append(f"  {name:14s}{share(value)}")
        cut, without = model["truncated"], model["unparsed"]
        lines.append(f"  {'not finished':14s}{_both(cut)}; without an answer {_both(without)} (both count as wrong)")
    for pair in paired:
        lines.append(f"{pair['name']} against {pair['against']}")
        for name, value in _rows(pair):
            lines.append(f"  {name:14s}{points(value)}{_counts(value)}")
    return lines


def _rows(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rows = [("greedy", figures["greedy"])] if figures.get("greedy") else []
    rows += [(f"pass@{k}", value) for k, value in (figures.get("pass@k") or {}).items()]
    majority = figures.get("majority") or {}
    return rows + [(f"majority of {k}", value) for k, value in list(majority.items())[-1:]]


def share(value: dict[str, Any]) -> str:
    return percent(value, "{:5.1f} %", "  [{:.1f}, {:.1f}]")


def points(value: dict[str, Any]) -> str:
    return percent(value, "{:+5.1f} points", "  [{:.1f}, {:.1f}]")


def _counts(value: dict[str, Any]) -> str:
    from rmx.stats.paired import told_change

    won = f"  won {value['won']}, lost {value['lost']}," if value.get("won") is not None else " "
    told = f"{won} {told_change(value)}".rstrip()
    needed = value.get("needed")
    if value["verdict"] != "not shown" or not needed or needed <= value["n"]:
        return told
    return f"{told}  (about {needed} problems would show a difference of this size)"


def _both(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
