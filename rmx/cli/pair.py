"""The verbs that compare two models: `rmx shifts` and `rmx intervene`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.cli.options import add_options, add_share, add_style, placing_of, style_of
from rmx.cli.terminal import _progress, stopped_by_hand
from rmx.errors import RmxError
from rmx.stats.text import MISSING, in_format

AddModel = Callable[[argparse.ArgumentParser], None]
ReadText = Callable[[str | None], str | None]


def add_verbs(verbs: Any, add_model: AddModel, read_text: ReadText) -> None:
    """Define both verbs; `add_model` gives them the options that all verbs share."""
    shifts = verbs.add_parser("shifts", help="where base and adapted model part")
    add_options(shifts, "prompt", "--problem", "--answer", "--raw")
    shifts.add_argument(
        "--source", choices=["base", "adapted"], default="base", help="the model whose solution both read"
    )
    shifts.add_argument("--read", metavar="FILE", help="have both read the solution in this file ('-' = stdin)")
    add_options(shifts, "--temperature", "--top-p")
    _add_pair(shifts, add_model)
    shifts.set_defaults(run=lambda args: _shifts(args, read_text))

    intervene = verbs.add_parser("intervene", help="patch tokens of the base and count right answers")
    intervene.add_argument(
        "--arms",
        default="base,teacher,oracle,random,matched,entropy",
        help="the arms to run, separated by commas (default: all six)",
    )
    intervene.add_argument("--csv", metavar="FILE", help="also write one line per problem and arm")
    _add_pair(intervene, add_model)
    intervene.set_defaults(run=_intervene)


def _add_pair(parser: argparse.ArgumentParser, add_model: AddModel) -> None:
    add_model(parser)
    add_options(parser, "--pair", "--teacher")
    parser.add_argument("--strength", type=float, default=1.0, help="strength of a plain LoRA, 0 to 1.5 (default 1)")
    add_options(parser, "--set", "--limit", "--tau")
    add_share(parser)
    add_options(parser, "--seed", "--max-new-tokens")
    parser.add_argument("--no-placebo", action="store_true", help="do not measure the random adapter of equal size")
    add_options(parser, "--no-cache", "--json")
    add_style(parser)


def pair_options(args: argparse.Namespace) -> Any:
    """The pair and the problems that the arguments name; a verb that lacks an option takes its default."""
    import os

    from rmx.compare.pair_options import PairOptions

    return PairOptions(
        model=args.model or os.environ.get("RMX_MODEL", "mini"),
        adapter=args.adapter,
        teacher=getattr(args, "teacher", None),
        preset=getattr(args, "pair", None),
        strength=getattr(args, "strength", 1.0),
        device=args.device,
        dtype=args.dtype,
        tau=args.tau,
        tau_share=args.tau_share,
        recalibrate=args.recalibrate,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        set_name=args.set,
        limit=args.limit,
        style=style_of(args),
        placing=placing_of(args),
    )


def _shifts(args: argparse.Namespace, read_text: ReadText) -> None:
    from rmx.compare.pair_options import MapOptions, shift_map, shift_set
    from rmx.storage.line_store import LineStore

    options = pair_options(args)
    if args.prompt is not None or args.problem is not None:
        text = read_text(args.read)
        one = MapOptions(
            args.prompt, args.problem, args.answer, args.raw, args.source, text, args.temperature, args.top_p
        )
        found = shift_map(options.pair(one=one), options, one)
        print(json.dumps(found, ensure_ascii=False) if args.json else _map_text(found))
        return
    if args.read is not None:
        raise RmxError("--read needs the PROMPT or --problem that the text answers.")
    with stopped_by_hand() as stopped:
        store = LineStore(keep=not args.no_cache)
        report = shift_set(options, _progress("problems"), not args.no_placebo, cancelled=stopped, store=store)
    print(json.dumps(report.json()) if args.json else _shift_table(report.json()))


def _intervene(args: argparse.Namespace) -> None:
    from rmx.compare.pair_options import intervene_set
    from rmx.storage.line_store import LineStore

    arms = tuple(a.strip() for a in args.arms.split(",") if a.strip())
    options, store = pair_options(args), LineStore(keep=not args.no_cache)
    with stopped_by_hand() as stopped:
        report = intervene_set(
            options, arms, _progress("problems"), not args.no_placebo, cancelled=stopped, store=store
        )
    found = report.json()
    if args.csv:
        _write_csv(args.csv, found)
    print(json.dumps(found) if args.json else _arms_table(found))


def _write_csv(path: str, found: dict[str, Any]) -> None:
    from rmx.compare.intervene_set import arms_csv

    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            file.write(arms_csv(found))
    except OSError as error:
        raise RmxError(f"Cannot write {path}: {error.strerror}.") from error


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
    noise = found["placebo"]
    lines = [
        f"{found['base']} against {found['adapted']}: {found['problems']} problems of {found['set']}, "
        f"{found['positions']} positions, {found['disagreements']} disagreements ({found['near_ties']} near ties)",
        f"{'':36s}{'adapted':>24s}{'placebo':>24s}   paper",
    ]
    for name, label, scale, unit in ROWS:
        ours = found[name] if name in found and isinstance(found[name], dict) else found["intervals"][name]
        theirs = None
        if noise:
            theirs = noise[name] if isinstance(noise.get(name), dict) else noise["intervals"][name]
        lines.append(
            f"{label:36s}{_estimate(ours, scale, unit):>24s}{_estimate(theirs, scale, unit):>24s}   "
            f"{found['paper'].get(name, '')}"
        )
    batch, dtype = found["noise"]["batch_shape"], found["noise"]["dtype"]
    for what, n in (("batch shape alone", batch), ("dtype alone", dtype)):
        if n:
            lines.append(
                f"{what}: logits move by up to {n['max_dlogit']:.2g}, "
                f"{n['argmax_changed']} of {n['positions']} choices change"
            )
    if found["calibration"]:
        lines.append(found["calibration"]["sentence"])
    return "\n".join(lines)


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
    for arm, figures in found["arms"].items():
        against = _estimate(figures.get("vs_base"), 100, " points")
        touched = f"{100 * figures['touched']:.2f} %"
        lines.append(f"{arm:10s}{_estimate(figures['pass@1'], 100, ' %'):>24s}{touched:>10s}{against:>30s}")
    if noise := found["placebo"]:
        against = _estimate(noise["vs_base"], 100, " points")
        touched = f"{100 * noise['touched']:.2f} %"
        lines.append(f"{'placebo':10s}{_estimate(noise['pass@1'], 100, ' %'):>24s}{touched:>10s}{against:>30s}")
    same = found["oracle_equals_teacher"]
    if same:
        lines.append(f"oracle and adapted model: the same tokens in {same['same']} of {same['of']} problems")
    if found["calibration"]:
        lines.append(found["calibration"]["sentence"])
    return "\n".join([*lines, *found["reading"]])
