"""Where the bars of a row stand: intervals of one unit on one scale, and what agrees with the claim behind them.

Places are per cent of the bar's width, so that the report and the page draw the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rmx.claims.figures import told

Figures = Mapping[str, Any]
THIN = 0.4  # per cent; the least that can be seen


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure."""

    name: str
    numbers: str
    said: str  # the whole of it in words
    low: float
    value: float
    high: float
    zero: float
    band: tuple[float, float] | None

    def json(self) -> dict[str, Any]:
        return asdict(self)


def bars_of(row: Figures) -> list[Bar]:
    """The bars of a row of `rmx claims`; figures without an interval have none."""
    named = row.get("labels", {})
    shown = [(named[n], f) for n, f in row["measured"]["figures"].items() if n in named and f.get("low") is not None]
    units = {label["unit"] for label, _ in shown}
    scales = {unit: scale_of([pair for pair in shown if pair[0]["unit"] == unit]) for unit in units}
    return [_bar(label, figure, scales[label["unit"]]) for label, figure in shown]


def scale_of(bars: Sequence[tuple[Figures, Figures]]) -> tuple[float, float]:
    """From the least to the greatest of intervals and ranges, 0 among them, with a little room at either end."""
    ends = [0.0]
    for label, figure in bars:
        ends += [float(x) for x in (figure["low"], figure["high"], label["low"], label["high"]) if x is not None]
    room = 0.04 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _bar(label: Figures, figure: Figures, scale: tuple[float, float]) -> Bar:
    left, right = scale

    def at(x: float) -> float:
        return round(100 * (x - left) / (right - left), 2)

    numbers, exact = told(dict(figure), label["unit"]), " (exact bound)" if figure.get("exact") else ""
    said, band = f"{label['text']}: {numbers}, 95 % interval{exact}", None
    if label["low"] is not None or label["high"] is not None:
        a, b = (end if x is None else at(x) for x, end in ((label["low"], 0.0), (label["high"], 100.0)))
        band = a, max(b, a + THIN)
        said += f"; {'margin of ours' if label['ours'] else 'paper'}: {_edges(label)}"
    low, value, high = (at(float(figure[key])) for key in ("low", "value", "high"))
    return Bar(label["text"], numbers, said, low, value, max(high, low + THIN), at(0.0), band)


def _edges(label: Figures) -> str:
    """What agrees, in words."""
    ends = [
        None if x is None else told({"value": x, "low": None}, label["unit"]) for x in (label["low"], label["high"])
    ]
    low, high = ends
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
