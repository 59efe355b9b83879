"""The estimate of a run that has no rollouts yet, and every estimate in words."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmx.errors import RmxError
from rmx.recipes.job import Problems, TrainJob
from rmx.runs.folder import CONFIG, RunFolder
from rmx.train.plan.estimate import Estimate, Span, estimate, work_ahead
from rmx.train.plan.probe import Speeds

SAME = ("model", "set", "dtype", "style")  # of a config: what the length of a completion depends on
SAME_RECIPE = ("temperature", "top_p", "max_new_tokens")
USUAL_LOW, USUAL_HIGH = 0.85, 1.2  # of a length that another run has measured: other problems, other draws
ENOUGH = 40  # rollouts from which a mean is taken over


def usual_length(folder: Path, config: Mapping[str, Any]) -> Span | None:
    """Tokens of a completion of this model on this set, as the newest other run beside this one has measured them."""
    found = []
    for path in _beside(folder):
        try:
            other = RunFolder(path)
            theirs, seen = other.config, other.summary.get("rollouts", {})
        except RmxError:
            continue  # one that cannot be read tells nothing
        tokens, count = seen.get("tokens"), seen.get("rollouts")
        if _alike(theirs, config) and isinstance(tokens, int) and isinstance(count, int) and count >= ENOUGH:
            found.append((float(theirs.get("created") or 0.0), tokens / count))
    if not found:
        return None
    _, mean = max(found)
    return Span(mean, USUAL_LOW * mean, USUAL_HIGH * mean)


def _beside(folder: Path) -> list[Path]:
    """Other runs in the same place; what may not be looked at is none."""
    with os.scandir(folder.parent) as there:
        paths = [folder.parent / one.name for one in there if one.name != folder.name]
    return [path for path in paths if os.access(path / CONFIG, os.R_OK)]


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    recipes = theirs.get("recipe") or {}, ours.get("recipe") or {}
    return all(theirs.get(name) == ours.get(name) for name in SAME) and all(
        recipes[0].get(name) == recipes[1].get(name) for name in SAME_RECIPE
    )


def estimate_ahead(job: TrainJob, problems: Problems, speeds: Speeds, usual: Span | None) -> Estimate:
    """What a run will take of which nothing is there yet.

    Args:
        usual: tokens of a completion where they are known from another run; None: as the probe saw them.
    """
    counts = len(problems.train), len(problems.validation), len(problems.test)
    made = estimate(work_ahead(job.recipe, speeds, *counts, length=usual), speeds, job.recipe)
    return made.swept(len(job.taus)) if job.taus else made


def ahead_figures(made: Estimate, speeds: Speeds, usual: Span | None) -> dict[str, Any]:
    """The event `estimate`: figures, and where the length of a completion comes from."""
    seen = len(speeds.lengths.ended) + len(speeds.lengths.cut)
    basis = "another run on this set" if usual else f"{seen} completions of a second's probe"
    return made.json() | {"basis": basis}


# -- in words ---------------------------------------------------------------------------------------------------------


def lines(told: Mapping[str, Any]) -> list[str]:
    """An estimate as lines of text: time with its bounds, each stage, memory, disk, cost."""
    stages = {"rollouts": "rollouts", "gate": "scoring", "training": "training and checks", "final": "test"}
    each = [f"{name} {_time(told['stages'][key]['value'])}" for key, name in stages.items()]
    by = f", judged by {told['basis']}" if told.get("basis") else ""
    return [
        f"time       about {_time(told['seconds'])}, {_time(told['low'])} to {_time(told['high'])}{by}",
        f"           {', '.join(part for part, key in zip(each, stages, strict=True) if told['stages'][key]['value'])}",
        f"memory     about {_size(told['memory_mb'])}",
        f"disk       about {_size(told['disk_mb'])}{_figures(told)}",
        f"cost       {_cost(told)}",
    ]


def _figures(told: Mapping[str, Any]) -> str:
    """What is said of the base's figures."""
    if not told["figures_token"]:
        return "; the base's figures are not kept but read anew (--base-figures recompute)"
    kept = f"; {_size(told['figures_mb'])} of it for the base's figures, {told['figures_token']:,} bytes a token"
    if not told["left_out"]:
        return kept
    return (
        f"{kept}, where {100 * told['left_out']:.0f} % find no room within --base-disk-gb and are read anew, which "
        "takes longer (--base-figures bf16 halves them)"
    )


def _cost(told: Mapping[str, Any]) -> str:
    if told["usd"] is None:
        return f"unknown. {told['rate']}"
    bounds = [told["usd"] * told[side] / told["seconds"] if told["seconds"] else 0.0 for side in ("low", "high")]
    return f"about {_usd(told['usd'])}, {_usd(bounds[0])} to {_usd(bounds[1])}. {told['rate']}"


def _usd(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 0.1 else f"${usd:.4f}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(mb: float) -> str:
    return f"{mb / 1000:.1f} GB" if mb >= 1000 else f"{mb:.0f} MB" if mb >= 1 or not mb else f"{mb:.1f} MB"
