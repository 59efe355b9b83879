"""What travels between the modules of the claims: a claim, what was found for it, and its row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rmx.claims.verdicts import Judged, Verdict
from rmx.compare.base_check import BaseCheck
from rmx.config import NEW_TOKENS
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.calibration import Calibration
from rmx.models.model_pair import Pair
from rmx.records import Problem
from rmx.stats.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Label:
    """One kind of figure. `low` and `high` are what agrees with the claim; None where that side is open."""

    text: str
    unit: str = ""  # "%" for shares, "points" for differences of shares, "x" for ratios
    low: float | None = None
    high: float | None = None
    ours: bool = False  # the edge is a margin of ours, not the paper's figure

    def json(self) -> dict[str, Any]:
        return {"text": self.text, "unit": self.unit, "low": self.low, "high": self.high, "ours": self.ours}


LABELS = {
    "gain": Label("gain over the base", "points", 0.0),
    "reranked": Label("reranked", "%", 0.010, 0.041),
    "shifted": Label("shifted", "%", 0.0, 0.0012),
    "mean_rank": Label("mean rank", "", 2.14, 2.39),
    "entropy_ratio": Label("entropy ratio", "x", 5, 12),
    "on_forks": Label("on forks", "%"),
    "by_chance": Label("by chance", "%"),
    "excess": Label("more than elsewhere by", "points", 0.0),
    "same_outcome": Label("the teacher's outcome", "%", 0.98, 1.0, ours=True),
    "touched": Label("tokens patched", "%"),
    "random": Label("random token there", "points", None, 0.02, ours=True),
    "anywhere": Label("random token anywhere", "points"),
    "gate_minus_teacher": Label("gate minus teacher", "points", -0.05, None, ours=True),
    "gated": Label("tokens gated", "%", 0.012, 0.083),
    "changed": Label("tokens changed", "%"),
    "forks": Label("at a fork", "%"),
    "elsewhere": Label("elsewhere", "%"),
    "second": Label("second choice forced", "%"),
    "null": Label("token there forced", "%"),
    "second_sampled": Label("second choice, sampled on", "%"),
    "resampled": Label("nothing forced, sampled on", "%"),
    "missed": Label("out of the gate's sight", "%"),
    "precision": Label("gated tokens that decide", "%"),
    "decides_nothing": Label("that surely decide nothing", "%"),
    "adapter_minus_noise": Label("adapter minus noise", "points", 0.0),
    "noise_minus_base": Label("noise minus base", "points"),
    "noise_mean_rank": Label("mean rank of noise"),
    "noise_entropy_ratio": Label("entropy ratio of noise", "x"),
    "placebo_rank": Label("the same of noise"),
    "placebo_ratio": Label("the same of noise", "x"),
    "vs_teacher": Label("adapter minus teacher", "points", -0.02, None, ours=True),
    "run_gain": Label("gain on test problems", "points", 0.0),
    "share_of_gain": Label("share of the gain", "", 0.25, 0.75, ours=True),
    "positive_only": Label("gain with right ones alone", "points"),
    "both": Label("gain with both", "points"),
    "entropy_minus_random": Label("by entropy minus by chance", "points", 0.0),
    "by_entropy": Label("gain, gate by entropy", "points"),
    "at_random": Label("gain, gate by chance", "points"),
}


def label_of(name: str) -> Label:
    """The label of a figure; those named after a number are differences in points."""
    return LABELS.get(name) or Label(name.replace("_", " "), "points" if name.startswith(("pass@", "tau ")) else "")


def span_of(name: str) -> tuple[float, float, str]:
    """Low, high and unit of a figure whose range has both ends."""
    label = LABELS[name]
    if label.low is None or label.high is None:
        raise ValueError(f"{name} has no range with two ends")
    return label.low, label.high, label.unit


def floor_of(name: str) -> float:
    """The least that agrees."""
    low = LABELS[name].low
    if low is None:
        raise ValueError(f"{name} has no lower end")
    return low


def ceiling_of(name: str) -> float:
    """The most that agrees."""
    high = LABELS[name].high
    if high is None:
        raise ValueError(f"{name} has no upper end")
    return high


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
