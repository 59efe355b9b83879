"""What travels between the modules of the claims: a claim, what was found for it, and its row."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal

from rmx.claims.verdicts import Judged, Verdict
from rmx.compare.base_check import BaseCheck
from rmx.config import NEW_TOKENS
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.calibration import Calibration
from rmx.models.model_pair import Pair
from rmx.paths import ASSETS
from rmx.records import Problem
from rmx.stats.intervals import Estimate

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


Found = Mapping[StudyName, Any]  # what each study has found
Read = Callable[[Found, Subject], Reading]


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
            "id": claim.id,
            "section": claim.section,
            "claim": claim.title,
            "paper": claim.paper,
            "how": claim.how,
            "caveats": list(claim.caveats),
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
