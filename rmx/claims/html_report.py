"""The claims as one HTML file: no script, no request, light and dark, narrow and on paper.

Everything that comes from outside (names of models, sets, tokens) is escaped by the template and nowhere else.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rmx import __version__
from rmx.claims.registry import CLAIMS
from rmx.data.problem_sets import SETS, split_name
from rmx.errors import RmxError
from rmx.stats.text import brief
from rmx.storage.rendering import render

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

    def lines(self) -> tuple[tuple[str, float, float, float, float], ...]:
        """The strokes of its picture, back to front: kind, both ends in x, both ends in y."""
        return (
            ("zero", self.zero, self.zero, 0, 10),
            ("span", self.low, self.high, 5, 5),
            ("dot", self.value, self.value, 1.5, 8.5),
        )


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

    numbers, exact = brief(dict(figure), label["unit"]), " (exact bound)" if figure.get("exact") else ""
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
        None if x is None else brief({"value": x, "low": None}, label["unit"]) for x in (label["low"], label["high"])
    ]
    low, high = ends
    return f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"


# Sign, and the class that colours it: a verdict is never told by colour alone.
SIGNS = {
    "agrees": ("✓", "yes"),
    "differs": ("✗", "no"),
    "not enough data": ("?", "open"),
    "by construction": ("≡", "built"),
    "not measured": ("–", "none"),
    "open in the paper": ("○", "open"),
    "no verdict": ("!", "none"),
}


def command_of(found: Figures, asked: Mapping[str, str | None]) -> str:
    """The command that makes this document again."""
    words = ["rmx", "claims", "--model", str(asked.get("model") or found["model"])]
    for flag in ("adapter", "teacher"):
        if asked.get(flag):
            words += [f"--{flag}", str(asked[flag])]
    words += ["--set", str(found["set"]), "--limit", str(found["n"]), "--tau", f"{found['tau']:g}"]
    words += ["--seed", str(found["seed"]), "--n", str(found["samples"])]
    words += ["--max-new-tokens", str(found["max_new_tokens"]), *shlex.split(asked.get("style") or "")]
    if len(found["rows"]) < len(CLAIMS):
        words += ["--only", ",".join(row["id"] for row in found["rows"])]
    return shlex.join(words)


def html_report(found: Figures, command: str, when: datetime | None = None) -> str:
    """The whole file.

    Args:
        found: the document of `rmx claims`. command: that made it. when: now, in UTC, by default.
    """
    counts = Counter(str(row["verdict"]) for row in found["rows"])
    return render(
        "claims_report.html",
        found=found,
        rows=[{"how": "", "caveats": (), "rule": None, "minutes": None} | row for row in found["rows"]],
        command=command,
        signs=SIGNS,
        tally=[(verdict, counts[verdict]) for verdict in SIGNS if counts[verdict]],
        facts=_facts(found, when or datetime.now(UTC)),
        bars_of=bars_of,
        version=__version__,
    )


def _facts(found: Figures, when: datetime) -> list[tuple[str, Any]]:
    """What was measured: names and values."""
    licence, source = set_facts(str(found["set"]))
    against = found.get("teacher") or found.get("adapter") or found["pair"]
    return [
        ("Base", found["model"]),
        ("Compared with", against),
        ("Problems", f"the first {found['n']} of {found['set']}"),
        ("Licence of the set", licence),
        ("Source of the set", source),
        ("Fork threshold", f"{found['tau']:g} nats"),
        *([("Found from", calibrated["sentence"])] if (calibrated := found.get("calibration")) else []),
        ("Seed", found["seed"]),
        ("Device", f"{found['device']}, {found['dtype']}"),
        ("Weights", found["revision"]),
        ("Measured", f"{when:%Y-%m-%d %H:%M} UTC, {found['seconds'] / 60:.1f} minutes"),
    ]


def set_facts(name: str) -> tuple[str, str]:
    """Licence and source of a named set; of a file its owner knows them."""
    try:
        info = SETS.get(split_name(name)[0])
    except RmxError:
        info = None
    return (info.licence, info.source) if info else ("of the file's owner", "a file of the user")
