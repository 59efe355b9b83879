"""The verbs that compare two models: `rmx shifts` and `rmx intervene`."""

import argparse
from typing import Any

from rmx.cli.options import Place, add_request, document_of, request_of, show, study
from rmx.service.requests import InterveneRequest, ShiftsRequest
from rmx.stats.text import MISSING, in_format
from rmx.storage.safe_files import write_text


def define_intervene(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx intervene`."""
    add_request(parser, InterveneRequest)
    parser.add_argument("--csv", metavar="FILE", help="also write one line per problem and arm")
    parser.set_defaults(run=run_intervene)


def run_shifts(args: argparse.Namespace) -> None:
    """Show where two models part on one solution, or over a set."""
    request = request_of(args, ShiftsRequest)
    if request.prompt is not None or request.problem is not None:
        show(args, document_of(args, request), _map_text)
        return

    def place(report: Any) -> Place:
        return "problems", report.at, report.of, "placebo" if report.stage == "placebo" else ""

    show(args, study(args, request, place), _shift_table, escaped=True)


def run_intervene(args: argparse.Namespace) -> None:
    """Show what patching tokens of the base does to its answers."""
    from rmx.compare.intervene_set import arms_csv

    request = request_of(args, InterveneRequest)
    found = study(args, request, lambda report: ("problems", len(report.problems), report.of, ""))
    if args.csv:
        write_text(args.csv, arms_csv(found))
    show(args, found, _arms_table, escaped=True)


# -- for the terminal -------------------------------------------------------------------------------------------------


def _map_text(found: dict[str, Any]) -> str:
    """A completion with its disagreements in brackets: base's token → adapted model's."""
    marks = {"unshifted": "", "reranked": "", "shifted": "!"}
    shown = "".join(
        t["text"]
        if t["class"] == "unshifted"
        else f"[{t['base']['top'][0]['text']} →{t['adapted']['top'][0]['text']}{marks[t['class']]}|{t['kl']:.2f}]"
        for t in found["tokens"]
    )
    return (
        f"{shown}\n  {found['positions']} tokens, {found['disagreements']} disagreements "
        f"({found['near_ties']} near ties) · answer {found['answer']['text']} · {found['base_check']['sentence']}"
    )


def _estimate(value: Any, scale: float = 1.0, unit: str = "") -> str:
    return MISSING if value is None else in_format(value, f"{{:.3g}}{unit}", "  [{:.3g}, {:.3g}]", scale=scale)


def _shift_table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['base']} against {found['adapted']}: {found['problems']} problems of {found['set']}, "
        f"{found['positions']} positions, {found['disagreements']} disagreements ({found['near_ties']} near ties)",
        f"{'':36s}{'adapted':>24s}{'placebo':>24s}   paper",
    ]
    for name, label, scale, unit in ROWS:
        ours, theirs = (_estimate(_figure(one, name), scale, unit) for one in (found, found["placebo"]))
        lines.append(f"{label:36s}{ours:>24s}{theirs:>24s}   {found['paper'].get(name, '')}")
    for what, key in (("batch shape alone", "batch_shape"), ("dtype alone", "dtype")):
        if n := found["noise"][key]:
            lines.append(
                f"{what}: logits move by up to {n['max_dlogit']:.2g}, "
                f"{n['argmax_changed']} of {n['positions']} choices change"
            )
    if found["calibration"]:
        lines.append(found["calibration"]["sentence"])
    return "\n".join(lines)


def _figure(found: dict[str, Any] | None, name: str) -> Any:
    """A figure of a document or of its placebo, with its interval."""
    if not found:
        return None
    return found[name] if isinstance(found.get(name), dict) else found["intervals"][name]


ROWS = (
    ("unshifted", "same choice", 100, " %"),
    ("reranked", "reranked (inside the base's top 5)", 100, " %"),
    ("shifted", "shifted (outside)", 100, " %"),
    ("mean_rank", "mean rank of the adapted choice", 1, ""),
    ("entropy_ratio", "entropy, reranked / unshifted", 1, "x"),
    ("on_forks", "disagreements on forks", 100, " %"),
    ("on_forks_by_chance", "  … expected by chance", 100, " %"),
    ("untouched", "solutions without disagreement", 100, " %"),
)


def _arms_table(found: dict[str, Any]) -> str:
    lines = [
        f"{found['base']} and {found['adapted']}: {found['n']} problems of {found['set']}, tau {found['tau']}",
        f"{'arm':10s}{'pass@1':>24s}{'touched':>10s}{'against the base':>30s}",
    ]
    noise = {"placebo": found["placebo"]} if found["placebo"] else {}
    for arm, figures in (found["arms"] | noise).items():
        against = _estimate(figures.get("vs_base"), 100, " points")
        touched = f"{100 * figures['touched']:.2f} %"
        lines.append(f"{arm:10s}{_estimate(figures['pass@1'], 100, ' %'):>24s}{touched:>10s}{against:>30s}")
    if same := found["oracle_equals_teacher"]:
        lines.append(f"oracle and adapted model: the same tokens in {same['same']} of {same['of']} problems")
    if found["calibration"]:
        lines.append(found["calibration"]["sentence"])
    return "\n".join([*lines, *found["reading"]])
