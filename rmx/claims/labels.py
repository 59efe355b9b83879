"""The figures of the claims: how each is called, its unit, and where the paper, or a margin of ours, puts it."""

from dataclasses import dataclass
from typing import Any


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
