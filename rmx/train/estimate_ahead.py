"""The estimate of a run that has no rollouts yet, and every estimate in words."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from rmx.errors import RmxError, TrainError
from rmx.models.load import Model
from rmx.recipes.job import Problems, TrainJob
from rmx.records import Rollout
from rmx.runs.folder import CONFIG, RunFolder
from rmx.train.estimate import Estimate, Span, estimate, work_ahead
from rmx.train.probe import Speeds

SAME = ("model", "set", "dtype", "style")  # of a config: what the length of a completion depends on
SAME_RECIPE = ("temperature", "top_p", "max_new_tokens")
USUAL_LOW, USUAL_HIGH = 0.85, 1.2  # of a length that another run has measured: other problems, other draws
ENOUGH = 40  # rollouts from which a mean is taken over


def usual_length(folder: Path, config: Mapping[str, Any]) -> Span | None:
    """Tokens of a completion of this model on this set, as the newest other run beside this one has measured them."""
    found = []
    with os.scandir(folder.parent) as there:
        beside = [folder.parent / one.name for one in there if one.name != folder.name]
    for path in beside:
        if not os.access(path / CONFIG, os.R_OK):  # what may not be looked at is none
            continue
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


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    one, two = theirs.get("recipe") or {}, ours.get("recipe") or {}
    same = all(theirs.get(name) == ours.get(name) for name in SAME)
    return same and all(one.get(name) == two.get(name) for name in SAME_RECIPE)


def estimate_ahead(job: TrainJob, problems: Problems, speeds: Speeds, usual: Span | None) -> Estimate:
    """What a run will take of which nothing is there yet."""
    counts = len(problems.train), len(problems.validation), len(problems.test)
    made = estimate(work_ahead(job.recipe, speeds, *counts, length=usual), speeds, job.recipe)
    return made.swept(len(job.taus)) if job.taus else made


def ahead_figures(made: Estimate, speeds: Speeds, usual: Span | None) -> dict[str, Any]:
    """The event `estimate`: figures, and where the length of a completion comes from."""
    seen = len(speeds.lengths.ended) + len(speeds.lengths.cut)
    basis = "another run on this set" if usual else f"{seen} completions of a second's probe"
    return made.json() | {"basis": basis}


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


LEVELS = tuple(round(0.05 * i, 2) for i in range(81))  # nats, 0 to 4
SHOWN = 24  # rollouts whose tokens are sent


def dry_message(
    model: Model,
    rollouts: Sequence[Rollout],
    *,
    run: str | None,
    tau: float,
    k: int,
    max_seq_len: int,
    selection: dict[str, Any],
    estimate: dict[str, Any] | None,
) -> dict[str, Any]:
    """The message that a page needs to move tau without asking again."""
    if not rollouts:
        raise TrainError("There is no rollout to look at. Sample some first, or name a file that has some.")
    read = [(r, _nats(r, max_seq_len)) for r in rollouts]
    right, wrong, zero = ([h for r, h in read if _sign(r) == sign] for sign in (1, -1, 0))
    return {
        "kind": "dry", "run": run, "tau": tau, "k": k,
        "rollouts": [_shown(model, r, max_seq_len) for r in shown(rollouts)], "levels": list(LEVELS),
        "gated_right": counts_above(right), "gated_wrong": counts_above(wrong), "gated_zero": counts_above(zero),
        "tokens": sum(len(h) for _, h in read), "of_rollouts": len(rollouts), "selection": selection,
        "estimate": estimate,
    }  # fmt: skip


def counts_above(entropies: Iterable[Sequence[float]], levels: Sequence[float] = LEVELS) -> list[int]:
    """For each level how many entropies exceed it; one that equals the level does not, as in the gate."""
    pooled = np.sort(np.concatenate([np.zeros(0), *(np.asarray(h, dtype=float) for h in entropies)]))
    return (len(pooled) - np.searchsorted(pooled, levels, side="right")).tolist()


def shown(rollouts: Sequence[Rollout], limit: int = SHOWN) -> list[Rollout]:
    """At most `limit` rollouts: from each problem in turn one right and one wrong, then second ones, and so on."""
    problems: dict[str, tuple[list[Rollout], list[Rollout]]] = {}
    for rollout in rollouts:
        problems.setdefault(rollout.problem_id, ([], []))[0 if rollout.correct else 1].append(rollout)
    pairs = ([[r for r in pair if r] for pair in zip_longest(*sides)] for sides in problems.values())
    rounds = zip_longest(*pairs, fillvalue=())
    return [r for round_ in rounds for pair in round_ for r in pair][:limit]


def _nats(rollout: Rollout, max_seq_len: int) -> Sequence[float]:
    if rollout.entropies is None or rollout.advantage is None:
        raise ValueError(f"{rollout.problem_id}/{rollout.gen_index} has no entropies or no advantage")
    return rollout.entropies[: max(max_seq_len - rollout.prompt_length, 0)]


def _sign(rollout: Rollout) -> int:
    advantage = rollout.advantage or 0.0
    return (advantage > 0) - (advantage < 0)


def _shown(model: Model, rollout: Rollout, max_seq_len: int) -> dict[str, Any]:
    nats, pieces = _nats(rollout, max_seq_len), model.detokenizer.stream()
    texts = [pieces.feed(token) for token in rollout.completion_ids[: len(nats)]]
    if texts:
        texts[-1] += pieces.flush()
    return {
        "problem_id": rollout.problem_id, "gen": rollout.gen_index, "correct": rollout.correct,
        "advantage": rollout.advantage, "toks": [[text, round(h, 6)] for text, h in zip(texts, nats, strict=True)],
    }  # fmt: skip
