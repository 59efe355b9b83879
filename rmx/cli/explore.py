"""The verbs about one solution or a pair of models: trace, outcomes, rescue, sofar, export, shifts, intervene."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rmx.arguments import Flag, argument
from rmx.cli.options import Command, Place, add_request, document_of, read_text, request_of, show, study
from rmx.errors import RmxError
from rmx.service import requests
from rmx.stats.text import MISSING, in_format
from rmx.storage.safe_files import write_text


def define_trace(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx trace`."""
    add_request(parser, requests.TraceRequest)
    parser.set_defaults(run=run_trace)
    forced = "force this token there and go on; may be given several times"
    parser.add_argument("--swap", action="append", default=[], metavar="POS=TOKEN_ID", help=forced)


class _Teller:
    """Says on stderr where a job stands, each time that the line changes; not where it begins."""

    def __init__(self, line: Callable[[Any], str]) -> None:
        self.line = line
        self.said: str | None = None

    def __call__(self, state: Any) -> None:
        before, self.said = self.said, self.line(state)
        if before not in (None, self.said):
            print(f"{self.said}, {state.tokens_spent:,} tokens", file=sys.stderr, flush=True)


def _share(estimate: dict[str, Any]) -> str:
    return "-" if estimate["value"] is None else in_format(estimate, "{:.2f}", " ({:.2f} to {:.2f})")


# -- trace ------------------------------------------------------------------------------------------------------------


def run_trace(args: argparse.Namespace) -> None:
    """Show one solution, or with `--swap` several."""
    if args.swap and args.read is not None:
        raise RmxError("--read scores a text and --swap makes new ones; use one of them.")
    asked = {"swaps": ",".join(args.swap)} if args.swap else {}
    found = document_of(args, request_of(args, requests.SwapRequest if args.swap else requests.TraceRequest, **asked))
    traces = found if args.swap else [found]
    show(args, found, lambda _: "\n".join(map(_plain, traces)))
    if args.tau_share is not None and not args.json:
        print(traces[0]["calibration"]["sentence"], file=sys.stderr)


def _plain(trace: dict[str, Any]) -> str:
    """A trace for the terminal: forks in brackets with their entropy."""
    answer, reuse, tokens = trace["answer"], trace["reuse"], trace["tokens"]
    marked = "".join(f"[{t['text']}|{t['entropy']:.2f}]" if t["fork"] else t["text"] for t in tokens)
    right = {True: "right", False: "wrong", None: "not graded"}[answer["correct"]]
    right += ", as it was cut off" if trace["stop"] in ("length", "context") and right == "wrong" else ""
    return (
        f"{marked}\n  answer {answer['text']} ({right}) · {len(tokens)} tokens, {sum(t['fork'] for t in tokens)} forks "
        f"· stop: {trace['stop']} · reused {reuse['reused']}, computed {reuse['computed']} · {trace['seconds']:.2f} s"
    )


# -- outcomes ---------------------------------------------------------------------------------------------------------


def run_outcomes(args: argparse.Namespace) -> None:
    """Show what the alternatives of one place, or of all forks, are worth."""
    request = request_of(args, requests.OutcomesRequest)

    def line(state: Any) -> str:
        if request.pos is None:
            return f"{state.at} of {state.of} forks"
        return f"{max(a.samples for a in state.alternatives)} samples each: {state.verdict}"

    show(args, document_of(args, request, _Teller(line)), _curve_table if request.pos is None else _outcomes_table)


def _outcomes_table(found: dict[str, Any]) -> str:
    target = found["target"]
    what = "right answer" if target["known"] else "answer of this solution (no known answer was given)"
    lines = [
        f"position {found['pos']} · {what}: {target['text']} · {found['tokens_spent']:,} tokens: {found['verdict']}"
    ]
    for a in found["alternatives"]:
        mark = "*" if a["chosen"] else " "
        answers = ", ".join(f"{text or 'none'} x{count}" for text, count in list(a["answers"].items())[:4])
        lines.append(
            f"{mark} {a['text']!r:14s} p {a['p']:.3f}  right {_share(a['correct']):22s} n {a['samples']:3d}  {answers}"
        )
    return "\n".join([*lines, found["rule"]])


def _curve_table(found: dict[str, Any]) -> str:
    lines = [
        f"answer {found['target']['text']} · {found['at']} of {found['of']} forks · {found['tokens_spent']:,} tokens"
    ]
    for point in found["points"]:
        mark = "!" if point["decides"] else " "
        lines.append(f"{mark} {point['pos']:4d} {point['text']!r:14s} importance {_share(point['importance'])}")
    for sentence in found["sentences"]:
        value = "-" if sentence["importance"] is None else f"{sentence['importance']:.2f}"
        lines.append(f"{value:>6s}  {sentence['text'].strip()}")
    return "\n".join([*lines, found["rule"]])


# -- rescue -----------------------------------------------------------------------------------------------------------


def run_rescue(args: argparse.Namespace) -> None:
    """Show the fewest swaps that turn the answer."""
    tell = _Teller(lambda state: state.sentence)
    show(args, document_of(args, request_of(args, requests.RescueRequest), tell), _rescue_table)


def _rescue_table(found: dict[str, Any]) -> str:
    lines = [f"{found['sentence']} ({found['tried']} branches, {found['tokens_spent']:,} tokens)"]
    if found["found"]:
        fewest = ", and fewer do not do it" if found["proven_fewest"] else ""
        lines.append(f"the answer becomes {found['answer']['text']} ({found['goal']}){fewest}")
    if again := found["resampling"]:
        hits = f"{again['hits']} of {again['samples']} whole solutions are {found['goal']}"
        lines.append(f"sampled anew for as many tokens: {hits}")
    return "\n".join([*lines, found["note"]])


# -- sofar ------------------------------------------------------------------------------------------------------------


def run_sofar(args: argparse.Namespace) -> None:
    """Show the answer at the end of each sentence."""
    show(args, document_of(args, request_of(args, requests.SofarRequest)), _sofar_table)


def _sofar_table(found: dict[str, Any]) -> str:
    mark = {True: "right", False: "wrong", None: ""}
    lines = [f"{p['pos']:4d}  {p['answer'] or '-':10s} {mark[p['correct']]}" for p in found["points"]]
    mode = found["mode"]
    share = "" if mode["share"] is None else f", {100 * mode['share']:.0f} % of the sentences"
    return "\n".join([*lines, f"most frequent: {mode['answer'] or 'none'}{share} {mark[mode['correct']]}"])


# -- a pair of models ------------------------------------------------------------------------------------------------


def define_intervene(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx intervene`."""
    add_request(parser, requests.InterveneRequest)
    parser.add_argument("--csv", metavar="FILE", help="also write one line per problem and arm")
    parser.set_defaults(run=run_intervene)


def run_shifts(args: argparse.Namespace) -> None:
    """Show where two models part on one solution, or over a set."""
    request = request_of(args, requests.ShiftsRequest)
    if request.prompt is not None or request.problem is not None:
        show(args, document_of(args, request), _map_text)
        return

    def place(report: Any) -> Place:
        return "problems", report.at, report.of, "placebo" if report.stage == "placebo" else ""

    show(args, study(args, request, place), _shift_table, escaped=True)


def run_intervene(args: argparse.Namespace) -> None:
    """Show what patching tokens of the base does to its answers."""
    from rmx.compare.intervene_set import arms_csv

    request = request_of(args, requests.InterveneRequest)
    found = study(args, request, lambda report: ("problems", len(report.problems), report.of, ""))
    if args.csv:
        write_text(args.csv, arms_csv(found))
    show(args, found, _arms_table, escaped=True)


# -- for the terminal -------------------------------------------------------------------------------------------------


def _map_text(found: dict[str, Any]) -> str:
    """A completion with its disagreements in brackets: base's token → adapted model's."""
    shown = ""
    for t in found["tokens"]:
        base, adapted = (t[side]["top"][0]["text"] for side in ("base", "adapted"))
        mark = "!" if t["class"] == "shifted" else ""
        shown += t["text"] if t["class"] == "unshifted" else f"[{base} →{adapted}{mark}|{t['kl']:.2f}]"
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


# -- export -----------------------------------------------------------------------------------------------------------


class ExportCommand(Command):
    """Write a solution that is there as files."""

    json_help = None

    trace: str = argument(
        "what rmx trace --json printed, or a tree ('-' = stdin)", Flag("trace", "TRACE.json", required=True), default=""
    )
    html: str | None = argument("one file with all branches, clickable, without a network", Flag(metavar="OUT"))
    tree: str | None = argument("the tree document ('-' = stdout)", Flag("--json", "OUT"))
    svg: str | None = argument("entropy over the tokens of the branch that was shown", Flag(metavar="OUT"))
    csv: str | None = argument("the tokens of that branch as a table", Flag(metavar="OUT"))
    title: str | None = argument("the problem, where the file does not hold it", Flag(metavar="TEXT"))

    def run(self, args: argparse.Namespace) -> None:
        from rmx.trees.tree_page import read_any, tree_texts

        wanted = {"html": self.html, "json": self.tree, "svg": self.svg, "csv": self.csv}
        if not any(wanted.values()):
            raise RmxError("Say what to make of it: --html OUT.html, --json OUT.json, --svg OUT.svg or --csv OUT.csv.")
        tree = read_any(read_text(self.trace))
        texts = tree_texts(replace(tree, title=self.title) if self.title else tree)
        for kind, path in wanted.items():
            if path == "-":
                print(texts[kind]())
            elif path:
                write_text(path, text := texts[kind]())
                print(f"{path}: {len(text.encode()) / 1000:,.0f} kB", file=sys.stderr)
