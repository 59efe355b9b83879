"""The verb about money: `rmx cost`, what runs took and cost, at which rates."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

NONE = "–"


def define_cost(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx cost`."""
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="NAME=USD",
        help="enter a rate of your own, dollars per hour (cpu=0.05); NAME=none takes it back",
    )
    parser.add_argument("--json", action="store_true")
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
    runs = [(r["id"], r["device"] or "not noted", hours(r["seconds"]), usd(r["usd"])) for r in found["runs"]]
    paper = [
        (
            r["base"],
            _score(r["base_score"]),
            _score(r["rl_score"]),
            _score(r["score"]),
            span(r["rl_usd"]),
            f"{r['usd']}",
        )
        for r in found["paper"]["rows"]
    ]
    parts = [
        table(("machine", "USD/h", "date", "source"), rates),
        f"this machine: {found['machine']['device']}. {found['machine']['sentence']}",
        table(("run", "machine", "measured", "USD"), runs) if runs else "No run has measured anything yet.",
        summed(found["sum"]) if runs else "",
        f"For comparison, the paper's table ({found['paper']['source']}). {found['paper']['note']}",
        table(("base", "pass@1", "best RL", "ReasonMaxxer", "RL, USD", "its, USD"), paper),
    ]
    return "\n\n".join(part for part in parts if part)


def summed(total: dict[str, Any]) -> str:
    """One sentence."""
    without = total["without"]
    rest = f" {without} of them on machines without a rate, which are not in it." if without else ""
    runs = f"{total['runs']} run{'s' * (total['runs'] != 1)}"
    dollars = f"{usd(total['usd'])} USD" if total["usd"] is not None else "no dollars known"
    return f"sum: {dollars} for {hours(total['seconds'])} of {runs}.{rest}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def usd(value: float | None) -> str:
    """Cents where there are any, else as many digits as show something."""
    if value is None:
        return NONE
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def span(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{low:,.0f}" if low == high else f"{low:,.0f} – {high:,.0f}"


def _score(value: float) -> str:
    return f"{value:.3f}"
