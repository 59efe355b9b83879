"""The verbs about one solution: `rmx trace`, `rmx outcomes`, `rmx rescue` and `rmx sofar`."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from rmx.cli.options import add_request, document_of, request_of, show
from rmx.errors import RmxError
from rmx.service.requests import OutcomesRequest, RescueRequest, SofarRequest, SwapRequest, TraceRequest


def define_trace(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx trace`."""
    add_request(parser, TraceRequest)
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
    if estimate["value"] is None:
        return "-"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


# -- trace ------------------------------------------------------------------------------------------------------------


def run_trace(args: argparse.Namespace) -> None:
    """Show one solution, or with `--swap` several."""
    if args.swap and args.read is not None:
        raise RmxError("--read scores a text and --swap makes new ones; use one of them.")
    asked = request_of(args, SwapRequest, swaps=",".join(args.swap)) if args.swap else request_of(args, TraceRequest)
    found = document_of(args, asked)
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
    line, table = (_curve_line, _curve_table) if args.pos is None else (_outcomes_line, _outcomes_table)
    show(args, document_of(args, request_of(args, OutcomesRequest), _Teller(line)), table)


def _outcomes_line(state: Any) -> str:
    return f"{max(a.samples for a in state.alternatives)} samples each: {state.verdict}"


def _curve_line(state: Any) -> str:
    return f"{state.at} of {state.of} forks"


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
    show(args, document_of(args, request_of(args, RescueRequest), tell), _rescue_table)


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
    show(args, document_of(args, request_of(args, SofarRequest)), _sofar_table)


def _sofar_table(found: dict[str, Any]) -> str:
    mark = {True: "right", False: "wrong", None: ""}
    lines = [f"{p['pos']:4d}  {p['answer'] or '-':10s} {mark[p['correct']]}" for p in found["points"]]
    mode = found["mode"]
    share = "" if mode["share"] is None else f", {100 * mode['share']:.0f} % of the sentences"
    return "\n".join([*lines, f"most frequent: {mode['answer'] or 'none'}{share} {mark[mode['correct']]}"])
