"""What travels between the modules of the claims: a claim, what was found for it, and its row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmx.claims.labels import label_of
from rmx.claims.verdicts import Judged, Verdict
from rmx.compare.base_check import BaseCheck
from rmx.evaluate.store import SampleStore
from rmx.explore.calibration import Calibration
from rmx.models.pair import Pair
from rmx.records import Problem
from rmx.stats.intervals import Estimate

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
    max_new: int = 512
    samples: int = 8  # of one problem, for pass@k
    budget: int = 200_000  # tokens that the search for deciding places may sample
    # The specs as given (model, adapter, teacher) and, as options of the command line, what is asked of the prompt.
    asked: Mapping[str, str | None] = field(default_factory=dict)
    by_construction: bool = False
    private_runs: bool = False  # whether runs of others stay out; see RunStore
    calibration: Calibration | None = None  # what tau came from, where a share of tokens was asked for
    check: BaseCheck | None = None  # whether the base is what its file says, with the adapter on it
    store: SampleStore | None = None  # what earlier studies of the same have found, and where these are kept

    @property
    def model(self) -> str:
        return self.pair.base.spec


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found for one claim."""

    text: str  # the figures in a sentence
    judged: Judged
    figures: dict[str, Estimate] = field(default_factory=dict)
    n: int | None = None  # problems behind the figure that decides


Read = Callable[[Mapping[StudyName, Any], Subject], Reading]


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the paper says, or that should be asked of it, and how it is measured here."""

    id: str
    section: str  # of the paper; "" for a control of ours
    title: str
    paper: str  # what it says, with its figures
    how: str  # it is measured
    caveats: tuple[str, ...]
    button: str
    studies: tuple[StudyName, ...]
    read: Read


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
    def rule(self) -> str | None:
        """By which the verdict was given; None where nothing was judged."""
        return self.reading.judged.rule if self.reading else None

    @property
    def why(self) -> str:
        if self.reading:
            return self.reading.judged.why
        return self.error or "It has not been measured yet."

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
            "rule": self.rule,
            "why": self.why,
            "minutes": round(self.seconds / 60, 1) if self.state in ("done", "stopped") and found else None,
            "button": claim.button,
            "state": self.state,
        }
