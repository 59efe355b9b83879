"""How results show themselves: HTML for a notebook, rows for pandas, a bar for whoever waits.

The HTML has no script and asks for nothing; it takes the colours of the notebook's theme. Templates escape whatever
they are given.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from rmx.errors import RmxError
from rmx.stats.intervals import Estimate
from rmx.stats.text import brief

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTH, HEIGHT, LEFT, BOTTOM = 480, 200, 46, 24  # of a chart, in pixels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind readers too


def to_frame(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Make a pandas data frame of rows.

    Raises:
        RmxError: pandas is not installed.
    """
    try:
        import pandas  # noqa: PLC0415  only those who ask for a frame need it
    except ImportError as error:
        raise RmxError("A data frame needs pandas, which is not installed. Run: pip install pandas") from error
    return pandas.DataFrame(list(rows))


def flat(name: str, estimate: Estimate | None) -> dict[str, Any]:
    """Spread an estimate over the columns `name`, `name_low` and `name_high`."""
    found = estimate or {}
    return {name: found.get("value"), f"{name}_low": found.get("low"), f"{name}_high": found.get("high")}


def cell(estimate: Estimate | None, unit: str = "%", scale: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
    """Describe an estimate for a table: its text and, where it has an interval, a bar.

    Args:
        estimate: a share, or a difference of shares. unit: "%" or "points".
        scale: the values at the left and the right edge of the bar.
    """
    if estimate is None or estimate["value"] is None:
        return {"text": "–", "bar": None}
    bar, (left, right) = None, scale
    if estimate["low"] is not None:
        low, value, high = (
            100 * (min(max(estimate[key], left), right) - left) / (right - left) for key in ("low", "value", "high")
        )
        bar = {"low": round(low, 2), "width": round(max(high - low, 0.5), 2), "value": round(value, 2)}
    return {"text": brief(estimate, unit), "bar": bar}


def chart(series: Mapping[str, Sequence[tuple[float, Estimate]]], x: str, y: str) -> dict[str, Any]:
    """Lay out curves with their 95 % bands as the points of an SVG.

    Args:
        series: name of a curve -> its (place, share) in order; shares are from 0 to 1.
        x, y: labels of the axes.

    Returns:
        What the template chart.html draws; curves without a point are left out.
    """
    drawn = {name: points for name, points in series.items() if points}
    places = sorted({place for points in drawn.values() for place, _ in points}) or [0.0]
    inner = WIDTH - LEFT - 16
    across = {p: LEFT + inner * (i / (len(places) - 1) if len(places) > 1 else 0.5) for i, p in enumerate(places)}

    def point(place: float, share: float) -> str:
        return f"{across[place]:.1f},{12 + (HEIGHT - BOTTOM - 24) * (1 - share):.1f}"

    curves = []
    for number, (name, points) in enumerate(drawn.items()):
        upper = [point(p, e["high"]) for p, e in points if e["high"] is not None]
        lower = [point(p, e["low"]) for p, e in reversed(points) if e["low"] is not None]
        curves.append(
            {
                "name": name,
                "colour": COLOURS[number % len(COLOURS)],
                "line": " ".join(point(p, e["value"]) for p, e in points),
                "band": " ".join([*upper, *lower]),
                "dots": [{"at": point(p, e["value"]).split(","), "text": f"{p:g}: {brief(e, '%')}"} for p, e in points],
            }
        )
    ticks = [{"at": round(across[p], 1), "text": f"{p:g}"} for p in places]
    rows = [{"at": point(places[0], s).split(",")[1], "text": f"{100 * s:g} %"} for s in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "x": x, "y": y, "curves": curves, "ticks": ticks, "rows": rows,
    }  # fmt: skip


class NotebookProgress:
    """The progress of one job, stage by stage: a widget in a notebook, a line elsewhere.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown, self._what = shown, ""
        self._bar: Any = None

    def __enter__(self) -> "NotebookProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, at: int, of: int) -> None:
        """Say that `at` of `of` are done; another `what` begins another bar."""
        if not self._shown:
            return
        if what != self._what or self._bar is None:
            self.__exit__()
            self._what, self._bar = what, tqdm(total=of, desc=what)
        self._bar.total = of
        self._bar.update(at - self._bar.n)
