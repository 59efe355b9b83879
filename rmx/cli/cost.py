"""The verb about money: `rmx cost`, what runs took and cost, at which rates."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rmx.cli.terminal import JSON_HELP, columns
from rmx.stats.text import MISSING


def define_cost(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx cost`."""
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="NAME=USD",
        help="enter a rate of your own, dollars per hour (cpu=0.05); NAME=none takes it back",
    )
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.set_defaults(run=_cost)


def _cost(args: argparse.Namespace) -> None:
    from rmx.runs.rates import named_rate, set_rate
    from rmx.runs.row import costs
    from rmx.runs.store import RunStore
    from rmx.train.plan.probe import this_device

    store = RunStore()
    for name, usd in [named_rate(text) for text in args.rate]:  # all are read before one is entered
        set_rate(name, usd, store.root)
    found = costs(store.all(), this_device(), store.root)
    print(json.dumps(found) if args.json else told(found))


def told(found: dict[str, Any]) -> str:
    """The whole of it for the terminal."""
    rates = [(r["name"], f"{r['usd_per_hour']:.2f}", r["date"], r["source"]) for r in found["rates"]]
    runs = [(r["id"], r["device"] or "not noted", _hours(r["seconds"]), _usd(r["usd"])) for r in found["runs"]]
    scores = ("base_score", "rl_score", "score")
    paper = [
        (r["base"], *(f"{r[score]:.3f}" for score in scores), _span(r["rl_usd"]), f"{r['usd']}")
        for r in found["paper"]["rows"]
    ]
    parts = [
        _table(("machine", "USD/h", "date", "source"), rates),
        f"this machine: {found['machine']['device']}. {found['machine']['sentence']}",
        _table(("run", "machine", "measured", "USD"), runs) if runs else "No run has measured anything yet.",
        _summed(found["sum"]) if runs else "",
        f"For comparison, the paper's table ({found['paper']['source']}). {found['paper']['note']}",
        _table(("base", "pass@1", "best RL", "ReasonMaxxer", "RL, USD", "its, USD"), paper),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(columns([heads, *rows]))


def _summed(total: dict[str, Any]) -> str:
    without = total["without"]
    rest = f" {without} of them on machines without a rate, which are not in it." if without else ""
    runs = f"{total['runs']} run{'s' * (total['runs'] != 1)}"
    dollars = f"{_usd(total['usd'])} USD" if total["usd"] is not None else "no dollars known"
    return f"sum: {dollars} for {_hours(total['seconds'])} of {runs}.{rest}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _usd(value: float | None) -> str:
    """Cents where there are any, else as many digits as show something."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def _span(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:,.0f}" if low == high else f"{low:,.0f} – {high:,.0f}"
