"""What a threshold would gate, for every threshold at once, before anything is trained."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.records import Rollout

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
    """The message that a page needs to move tau without asking again.

    Args:
        rollouts: selected ones, with advantages and entropies. Tokens beyond `max_seq_len` are cut, as training does.
        selection, estimate: their JSON, passed on.

    Raises:
        TrainError: there is no rollout. ValueError: one has no entropies or no advantage.
    """
    if not rollouts:
        raise TrainError("There is no rollout to look at. Sample some first, or name a file that has some.")
    read = [(r, _nats(r, max_seq_len)) for r in rollouts]
    right, wrong, zero = ([h for r, h in read if _sign(r) == sign] for sign in (1, -1, 0))
    return {
        "kind": "dry",
        "run": run,
        "tau": tau,
        "k": k,
        "rollouts": [_shown(model, r, max_seq_len) for r in shown(rollouts)],
        "levels": list(LEVELS),
        "gated_right": counts_above(right),
        "gated_wrong": counts_above(wrong),
        "gated_zero": counts_above(zero),
        "tokens": sum(len(h) for _, h in read),
        "of_rollouts": len(rollouts),
        "selection": selection,
        "estimate": estimate,
    }


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
        "problem_id": rollout.problem_id,
        "gen": rollout.gen_index,
        "correct": rollout.correct,
        "advantage": rollout.advantage,
        "toks": [[text, round(h, 6)] for text, h in zip(texts, nats, strict=True)],
    }
