"""The verbs that measure one solution: `rmx outcomes`, `rmx rescue` and `rmx sofar`."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from rmx.cli.options import add_options, add_style, placing_of, style_of

AddModel = Callable[[argparse.ArgumentParser], None]


def add_verbs(verbs: Any, add_model: AddModel) -> None:
    """Define the verbs; `add_model` gives them the options that all verbs share."""
    outcomes = verbs.add_parser("outcomes", help="what each alternative of a place is worth, by sampling on from it")
    _add_solution(outcomes, add_model)
    outcomes.add_argument(
        "--pos",
        type=int,
        default=None,
        metavar="N",
        help="measure the alternatives at this position (default: at the forks)",
    )
    outcomes.add_argument(
        "--forks", type=int, default=16, help="without --pos: how many forks, those of the highest entropy (16)"
    )
    outcomes.add_argument(
        "--samples", type=int, default=None, help="samples of each alternative, at most (64; 24 without --pos)"
    )
    outcomes.add_argument(
        "--budget", type=int, default=None, help="tokens to sample in all, at most (50,000; 200,000 without --pos)"
    )
    sampled = {"default": 1.0, "help": "temperature of the samples (default 1)"}
    add_options(outcomes, "--temperature", "--top-p", "--seed", temperature=sampled)
    outcomes.set_defaults(run=_outcomes)

    rescue = verbs.add_parser("rescue", help="the fewest swaps that turn a wrong answer right, or break a right one")
    _add_solution(rescue, add_model)
    rescue.add_argument(
        "--goal",
        choices=["right", "wrong"],
        default=None,
        help="what the answer shall become (default: what it is not)",
    )
    rescue.add_argument(
        "--budget", type=int, default=20_000, help="tokens that the search may generate (default 20,000)"
    )
    rescue.add_argument("--swaps", type=int, default=3, help="how many swaps a rescue may need, at most (default 3)")
    add_options(rescue, "--seed")
    rescue.set_defaults(run=_rescue)

    sofar = verbs.add_parser("sofar", help="the answer that the model would give at the end of each sentence")
    _add_solution(sofar, add_model)
    sofar.set_defaults(run=_sofar)


def _add_solution(parser: argparse.ArgumentParser, add_model: AddModel) -> None:
    """Which solution: a prompt or a problem, solved greedily."""
    add_options(parser, "prompt", "--problem", "--set", "--answer", "--raw")
    add_model(parser)
    add_options(parser, "--tau", "--max-new-tokens", "--json")
    add_style(parser)


def _solution(args: argparse.Namespace) -> Any:
    from rmx.service.measure import TraceOptions

    return TraceOptions(
        prompt=args.prompt,
        problem=args.problem,
        set_name=args.set,
        raw=args.raw,
        answer=args.answer,
        model=args.model or os.environ.get("RMX_MODEL", "mini"),
        adapter=args.adapter,
        device=args.device,
        dtype=args.dtype,
        max_new_tokens=args.max_new_tokens,
        tau=args.tau,
        style=style_of(args),
        placing=placing_of(args),
    )


class _Teller:
    """Says on stderr where a job stands, each time that the line changes."""

    def __init__(self, line: Callable[[Any], str]) -> None:
        self.line = line
        self.said = ""

    def __call__(self, state: Any) -> None:
        line = self.line(state)
        if line != self.said:
            self.said = line
            print(f"{line}, {state.tokens_spent:,} tokens", file=sys.stderr, flush=True)


def _print(args: argparse.Namespace, document: dict[str, Any], table: Callable[[dict[str, Any]], str]) -> None:
    print(json.dumps(document, ensure_ascii=False) if args.json else table(document))


def _share(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "-"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


# -- outcomes ---------------------------------------------------------------------------------------------------------


def _outcomes(args: argparse.Namespace) -> None:
    from rmx.explore.outcomes import OutcomeConfig
    from rmx.service.measure import measure_importance, measure_outcomes

    samples, budget = (64, 50_000) if args.pos is not None else (24, 200_000)
    config = OutcomeConfig(
        samples=samples if args.samples is None else args.samples,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        budget=budget if args.budget is None else args.budget,
        max_new_tokens=args.max_new_tokens,
    )
    if args.pos is None:
        _print(args, measure_importance(_solution(args), config, args.forks, _Teller(_curve_line)), _curve_table)
    else:
        _print(args, measure_outcomes(_solution(args), config, args.pos, _Teller(_outcomes_line)), _outcomes_table)


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


def _rescue(args: argparse.Namespace) -> None:
    from rmx.explore.rescue import RescueConfig
    from rmx.service.measure import measure_rescue

    config = RescueConfig(args.goal, args.budget, args.swaps, seed=args.seed, max_new_tokens=args.max_new_tokens)
    _print(args, measure_rescue(_solution(args), config, _Teller(lambda state: state.sentence)), _rescue_table)


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


def _sofar(args: argparse.Namespace) -> None:
    from rmx.service.measure import measure_sofar

    _print(args, measure_sofar(_solution(args)), _sofar_table)


def _sofar_table(found: dict[str, Any]) -> str:
    mark = {True: "right", False: "wrong", None: ""}
    lines = [f"{p['pos']:4d}  {p['answer'] or '-':10s} {mark[p['correct']]}" for p in found["points"]]
    mode = found["mode"]
    share = "" if mode["share"] is None else f", {100 * mode['share']:.0f} % of the sentences"
    return "\n".join([*lines, f"most frequent: {mode['answer'] or 'none'}{share} {mark[mode['correct']]}"])
