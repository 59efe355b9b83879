"""A claim, what was found for it, and the verdict: when a figure agrees with the paper, and when it differs.

Every rule looks at the whole 95 % interval, never at the value alone; whether a model answers more problems than
another, asked greedily, is judged by the exact test, as everywhere (see rmx/stats/paired.py). Each row says which:

    agrees            the interval lies inside the paper's range, or excludes the opposite of what the paper claims
    differs           the interval lies outside the range altogether, or excludes what the paper claims
    not enough data   anything else, fewer than `FEWEST` problems, or no spread between them; with the number of
                      problems that would do, where it can be told

Three more are given without an interval: "not measured", "open in the paper" where it makes no claim, and "no verdict"
where the gate takes more than a fifth of the tokens, so that its places are no forks. On the bundled
miniature every figure reads "by construction" instead: it was built to show what the paper shows.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, Literal

from rmx.compare.controls import BaseCheck
from rmx.config import ASSETS, NEW_TOKENS
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.calibration import Calibration
from rmx.models.model_pair import Pair
from rmx.records import Problem, as_json
from rmx.stats.intervals import Estimate
from rmx.stats.paired import BY_TEST, tested, with_verdict, write_p

Verdict = Literal[
    "agrees", "differs", "not enough data", "by construction", "not measured", "open in the paper", "no verdict"
]
MOST_GATED = 0.2  # of the tokens; the paper's gates take 1.2 to 8.3 %
FEWEST = 30  # problems; bootstrap intervals over fewer are too narrow to be believed
NO_VERDICT = f"no verdict is given below {FEWEST}, whatever they show."
MOST_NEEDED = 1_000_000  # problems; more than that is no advice
WHOLE_INTERVAL = "whole 95 % interval"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and the sentence that gives its reason."""

    verdict: Verdict
    why: str
    rule: str | None = WHOLE_INTERVAL  # by which it was judged; None where nothing was


def inside(found: Estimate, low: float, high: float, unit: str = "") -> Judged:
    """Agrees where low <= interval <= high, both ends; differs where the interval and the range share no point."""
    if (short := _too_few(found)) is not None:
        return short
    a, b, value = found["low"], found["high"], found["value"]
    span = f"{_number(low, unit)} to {_number(high, unit)}"
    if low <= a and b <= high:
        return Judged("agrees", f"The whole interval lies inside the paper's range, {span}.")
    if b < low or a > high:
        side = "below" if b < low else "above"
        return Judged("differs", f"The whole interval lies {side} the paper's range, {span}.")
    if low <= value <= high:
        rooms = [(value - a, value - low), (b - value, high - value)]
    else:
        rooms = [(value - a, value - high) if value > high else (b - value, low - value)]
    return _open(found, f"The interval reaches across the edge of the paper's range, {span}", rooms)


def above(found: Estimate, what: str, floor: float = 0.0, unit: str = "") -> Judged:
    """Agrees where the interval lies above `floor`, differs where it lies below; `what` names the claimed direction.

    Above 0, a paired difference that brings its exact test is judged by that test instead.
    """
    if (short := _too_few(found)) is not None:
        return short
    if floor == 0 and tested(found):
        return _more_by_test(found, what)
    a, b, value = found["low"], found["high"], found["value"]
    mark = _number(floor, unit)
    if a > floor:
        return Judged("agrees", f"{what}: the interval lies above {mark}.")
    if b < floor:
        return Judged("differs", f"Not so here: {_lower(what)} would need values above {mark}; the interval is below.")
    room = (value - a, value - floor) if value > floor else (b - value, floor - value)
    return _open(found, f"The interval holds {mark}, so it cannot be said whether {_lower(what)}", [room])


def below(found: Estimate, what: str, ceiling: float, unit: str = "") -> Judged:
    """Agrees where the interval ends at `ceiling` or below it, differs where it begins above: a claim of "no more"."""
    if (short := _too_few(found)) is not None:
        return short
    a, b, value = found["low"], found["high"], found["value"]
    mark = _number(ceiling, unit)
    if b <= ceiling:
        return Judged("agrees", f"{what}: the interval ends at or below {mark}.")
    if a > ceiling:
        return Judged("differs", f"Not so here: the whole interval lies above {mark}.")
    room = (b - value, ceiling - value) if value < ceiling else (value - a, value - ceiling)
    return _open(found, f"The interval reaches across {mark}", [room])


def no_better(found: Estimate, what: str, margin: float) -> Judged:
    """For "no better than": a paired difference. Better at all differs, `margin` at most agrees.

    No interval can show that a difference is exactly 0, hence the margin; it is ours and is told.
    """
    if (short := _too_few(found)) is not None:
        return short
    if with_verdict(found)["verdict"] == "better":
        if tested(found):
            return Judged("differs", f"Not so here: it is better; the exact test has {write_p(found['p'])}.", BY_TEST)
        return Judged("differs", "Not so here: the interval lies above 0.")
    judged = below(found, what, margin, "points")
    if judged.verdict == "differs":  # by the interval, while the exact test does not say that it is better at all
        why = f"The interval lies above the margin, yet the exact test has {write_p(found['p'])}, which may be chance."
        return Judged("not enough data", why, BY_TEST)
    return replace(judged, why=judged.why.rstrip(".") + " (a margin of ours).")


def not_below(found: Estimate, what: str, margin: float) -> Judged:
    """For "matches or comes near": a paired difference that may fall short by `margin` at most; the margin is ours."""
    judged = above(found, what, -margin, "points")
    return replace(judged, why=judged.why.rstrip(".") + " (a margin of ours).") if _too_few(found) is None else judged


def nothing_to_judge(reason: str, verdict: Verdict = "not enough data") -> Judged:
    """Where the question itself falls away, such as matching a teacher that is no better than the base."""
    return Judged(verdict, reason, None)


def too_wide(gated: float | None, tau: float) -> Judged | None:
    """No verdict on a gate that takes more than `MOST_GATED` of the tokens; None where it takes less."""
    if gated is None or gated <= MOST_GATED:
        return None
    why = (
        f"The gate takes {100 * gated:.0f} % of the tokens at tau {tau:.3g} nats, more than a fifth, so it does not "
        "pick out forks; measure again with a share of the tokens, such as --tau-share 0.05."
    )
    return Judged("no verdict", why, None)


def by_construction(judged: Judged) -> Judged:
    """On the miniature: the relation to the paper is still told, the verdict is not given."""
    if judged.verdict in ("not measured", "no verdict"):
        return judged
    why = f"{judged.why} The miniature was built to show this: no evidence either way."
    return replace(judged, verdict="by construction", why=why)


def _more_by_test(found: Estimate, what: str) -> Judged:
    """`above` 0 by the exact test alone."""
    verdict, said = with_verdict(found)["verdict"], write_p(found["p"])
    if verdict == "better":
        return Judged("agrees", f"{what}: the exact test has {said}.", BY_TEST)
    if verdict == "worse":
        return Judged("differs", f"Not so here: {_lower(what)} does not hold; the exact test has {said}.", BY_TEST)
    a, b, value = found["low"], found["high"], found["value"]
    why = f"The exact test has {said}, so it cannot be said whether {_lower(what)}"
    if a > 0 or b < 0:
        return Judged("not enough data", f"{why}, although the interval of the difference leaves 0 out.", BY_TEST)
    return replace(_open(found, why, [(value - a, value) if value > 0 else (b - value, -value)]), rule=BY_TEST)


def _too_few(found: Estimate) -> Judged | None:
    if found["value"] is None:
        return Judged("not enough data", "There was nothing to count.", None)
    if found["n"] < FEWEST or found["low"] is None:
        n = found["n"]
        return Judged("not enough data", f"{n} problem{'s' * (n != 1)}: {NO_VERDICT}", None)
    if found["low"] == found["high"] and not found.get("exact"):
        why = "All problems say the same, so their spread, and with it an interval, is unknown."
        return Judged("not enough data", why, None)
    return None


def needed(n: int, rooms: list[tuple[float, float]], exact: bool = False) -> int | None:
    """How many problems would settle it if value and spread stay as seen; None for more than a million, or on an edge.

    Intervals shrink with the root of n; the exact bound of a count of none, or of all, with n itself.

    Args:
        rooms: for each side that matters (width of the interval on that side, distance from the value to the edge).
    """
    factor = 1.0
    for width, distance in rooms:
        if width <= 0:
            continue
        if distance <= 0:
            return None
        factor = max(factor, width / distance)
    wanted = n * factor if exact else n * factor * factor
    return math.ceil(wanted) if wanted <= MOST_NEEDED else None


def _open(found: Estimate, why: str, rooms: list[tuple[float, float]]) -> Judged:
    wanted = needed(found["n"], rooms, bool(found.get("exact")))
    if wanted is None:
        return Judged("not enough data", f"{why}; how many problems would settle it cannot be told from these.")
    wanted = max(wanted, found["n"] + 1)
    return Judged("not enough data", f"{why}; about {wanted:,} problems would settle it if nothing else changed.")


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit == "points":
        return f"{100 * value:+.3g} points" if value else "0"
    return f"{value:.3g}{unit}"


def _lower(what: str) -> str:
    return what[:1].lower() + what[1:]


# -- What travels between the modules of the claims -------------------------------------------------------------------


TABLE: dict[str, Any] = tomllib.loads((ASSETS / "claims.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Label:
    """One kind of figure. `low` and `high` are what agrees with the claim; None where that side is open."""

    text: str
    unit: str = ""  # "%" for shares, "points" for differences of shares, "x" for ratios
    low: float | None = None
    high: float | None = None
    ours: bool = False  # the edge is a margin of ours, not the paper's figure

    def json(self) -> dict[str, Any]:
        return asdict(self)


LABELS = {name: Label(**row) for name, row in TABLE["labels"].items()}


def label_of(name: str) -> Label:
    """The label of a figure; those named after a number are differences in points."""
    return LABELS.get(name) or Label(name.replace("_", " "), "points" if name.startswith(("pass@", "tau ")) else "")


def span_of(name: str) -> tuple[float, float, str]:
    """What agrees with a figure's claim, from least to most, infinite where that side is open; and the unit."""
    label = LABELS[name]
    return -inf if label.low is None else label.low, inf if label.high is None else label.high, label.unit


StudyName = Literal["shifts", "interventions", "swaps", "locator", "runs", "evaluation"]
State = Literal["waiting", "measuring", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What the claims are measured on."""

    pair: Pair
    set_name: str
    problems: tuple[Problem, ...]
    tau: float
    seed: int = 0
    max_new: int = NEW_TOKENS
    samples: int = 8  # of one problem, for pass@k
    budget: int = 200_000  # tokens that the search for deciding places may sample
    # The specs as given (model, adapter, teacher) and, as options of the command line, what is asked of the prompt.
    asked: Mapping[str, str | None] = field(default_factory=dict)
    by_construction: bool = False
    private_runs: bool = False  # whether runs of others stay out; see RunStore
    calibration: Calibration | None = None  # what tau came from, where a share of tokens was asked for
    check: BaseCheck | None = None  # whether the base is what its file says, with the adapter on it
    store: SampleStore | None = None  # what earlier studies of the same have found, and where these are kept


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found for one claim."""

    text: str  # the figures in a sentence
    judged: Judged
    figures: dict[str, Estimate] = field(default_factory=dict)
    n: int | None = None  # problems behind the figure that decides


Read = Callable[..., Reading]  # of what each of its studies has found, in their order, and the subject


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the paper says, or that should be asked of it, and how it is measured here."""

    id: str
    section: str  # of the paper; "" for a control of ours
    title: str
    paper: str  # what it says, with its figures
    how: str  # it is measured
    caveats: Sequence[str]  # a key of the table's shared ones stands for its text
    button: str
    studies: Sequence[StudyName]
    read: Read

    def __post_init__(self) -> None:
        object.__setattr__(self, "caveats", tuple(TABLE["shared"].get(text, text) for text in self.caveats))
        object.__setattr__(self, "studies", tuple(self.studies))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    claim: Claim
    reading: Reading | None = None
    state: State = "waiting"
    seconds: float = 0.0  # that its studies took; studies are shared between claims
    error: str | None = None

    @property
    def verdict(self) -> Verdict:
        return self.reading.judged.verdict if self.reading else "not measured"

    @property
    def why(self) -> str:
        return self.reading.judged.why if self.reading else self.error or "It has not been measured yet."

    def json(self) -> dict[str, Any]:
        """A row of the document of `rmx claims`."""
        claim, found = self.claim, self.reading
        return {
            **as_json(claim, "id", "section"),
            "claim": claim.title,
            **as_json(claim, "paper", "how", "caveats"),
            "measured": {"text": found.text, "figures": found.figures} if found else {"text": "–", "figures": {}},
            "labels": {name: label_of(name).json() for name in found.figures} if found else {},
            "n": found.n if found else None,
            "verdict": self.verdict,
            "rule": found.judged.rule if found else None,
            "why": self.why,
            "minutes": round(self.seconds / 60, 1) if self.state in ("done", "stopped") and found else None,
            "button": claim.button,
            "state": self.state,
        }
