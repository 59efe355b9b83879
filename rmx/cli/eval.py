"""`rmx eval`: accuracy of models side by side, with intervals."""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from rmx.cli.options import add_options, add_style, placing_of, style_of
from rmx.errors import RmxError
from rmx.stats.text import percent

AddModel = Callable[[argparse.ArgumentParser], None]


def add_verbs(verbs: Any, add_model: AddModel) -> None:
    """Define the verb; `add_model` gives it the options that all verbs share."""
    what = "accuracy with intervals: greedy, pass@k, majority; models side by side"
    parser = verbs.add_parser("eval", help=what, conflict_handler="resolve")
    add_model(parser)
    several = {"action": "append", "default": [], "metavar": "S"}
    parser.add_argument(
        "--adapter",
        **several,
        help="an adapter: a bundled name, a run, a folder or a Hub id; may be given several times",
    )
    parser.add_argument("--teacher", **several, help="a full checkpoint beside the base; may be given several times")
    add_options(parser, "--set", "--limit")
    parser.add_argument("--n", type=int, default=16, metavar="N", help="samples per problem, up to 256; 0: greedy only")
    parser.add_argument("--k", default=None, metavar="1,2,4", help="tries of pass@k (default: 1, 2, 4 ... n)")
    add_options(
        parser, "--temperature", "--top-p", "--seed", "--max-new-tokens", "--no-cache",
        temperature={"default": 0.6, "help": "temperature of the samples (default 0.6)"},
        top_p={"default": 0.95, "help": "nucleus sampling: share of the probability drawn from (default 0.95)"},
        max_new_tokens={"default": 2048, "help": "upper bound of a completion, in tokens (default 2048)"},
    )  # fmt: skip
    parser.add_argument("--no-greedy", action="store_true", help="draw samples only; leave the greedy answers out")
    parser.add_argument(
        "--regrade",
        action="store_true",
        help="make nothing: read and judge the kept completions again, and say which verdicts changed",
    )
    add_options(parser, "--json")
    add_style(parser)
    parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> None:
    from rmx.cli.terminal import stopped_by_hand
    from rmx.evaluate.config import EvalConfig, contestants_of, with_answers
    from rmx.evaluate.evaluate import Evaluation
    from rmx.evaluate.regrade import Regrading
    from rmx.evaluate.store import SampleStore
    from rmx.models.workspace import Workspace
    from rmx.progress import Progress

    if args.regrade and args.no_cache:
        raise RmxError("--regrade reads what is kept, and --no-cache keeps nothing. Leave one of them out.")
    config = EvalConfig(
        args.n, _numbers(args.k), args.temperature, args.top_p, args.seed, args.max_new_tokens, not args.no_greedy
    )
    problems = with_answers(args.set, args.limit)
    model = args.model or os.environ.get("RMX_MODEL", "mini")
    workspace = Workspace(args.device, args.dtype, placing=placing_of(args))
    contestants = contestants_of(workspace, model, args.adapter, args.teacher, style_of(args), args.set)
    store = SampleStore(keep=not args.no_cache)
    kind, report = Regrading if args.regrade else Evaluation, None
    with stopped_by_hand() as stopped, Progress() as tell:
        for report in kind(contestants, problems, config, args.set, store=store).run(stopped):
            tell("completions", report.at, report.of, f"{report.cached:,} known before" if report.cached else "")
    found = report.json() if report is not None else {}
    print(json.dumps(found) if args.json else table(found))


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError as error:
        raise RmxError(f"--k takes whole numbers with commas, such as 1,2,4; got '{text}'.") from error


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
