"""The rows of the table over a problem set: figure, interval, the paper's range, and what noise gives."""

from typing import Any

from rmx.compare.shift_set import PAPER, ShiftReport

ROWS: tuple[tuple[str, str, str], ...] = (
    ("reranked", "Reranked: another choice, inside the base's top 5", "share"),
    ("shifted", "Shifted: outside the base's top 5", "share"),
    ("mean_rank", "Mean rank of the adapted model's choice", "number"),
    ("entropy_ratio", "Base entropy where reranked, over elsewhere", "ratio"),
    ("on_forks", "Disagreements that fall on forks", "share"),
    ("on_forks_by_chance", "… expected by chance", "share"),
    ("within_top_2", "Disagreements inside the base's top 2", "share"),
    ("within_top_10", "Disagreements inside the base's top 10", "share"),
    ("untouched", "Solutions without any disagreement", "share"),
    ("mean_kl", "KL(base ‖ adapted), mean over all tokens", "nats"),
)


def shift_rows(report: ShiftReport) -> list[dict[str, Any]]:
    """One row per figure."""
    ours = _estimates(report.figures)
    noise = _estimates(report.placebo) if report.placebo else {}
    return [
        {
            "name": name,
            "label": label,
            "unit": unit,
            "value": ours[name],
            "paper": PAPER.get(name),
            "placebo": noise.get(name),
        }
        for name, label, unit in ROWS
    ]


def _estimates(figures: Any) -> dict[str, Any]:
    return figures.shares() | {"mean_rank": figures.mean_rank(), "entropy_ratio": figures.entropy_ratio()}
