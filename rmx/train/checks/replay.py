"""Forks watched while a run trains: at every checkpoint, what the policy would say there now.

The base's five likeliest tokens are candidates for the whole run; the policy's own later ones are added behind them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rmx.engine.batch import PaddedBatch
from rmx.engine.entropy import capture
from rmx.models.load import Model
from rmx.train.step.scoring import teacher_forced

SHOWN = 5
WATCHED = 6  # forks where nothing is pinned
PER_PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Fork:
    """A place in a completion, given by the ids before it; nothing is ever re-tokenised."""

    key: str
    prompt_ids: tuple[int, ...]
    before: tuple[int, ...]  # completion ids before the place
    said: int  # the token that stood there
    known: str | None = None  # the problem's known answer


@dataclass(frozen=True, slots=True)
class BaseSolution:
    """A completion of the base in which forks are looked for."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]  # completion
    known: str | None


class ForkReplay:
    """The watched forks of one run. The caller holds the turn of the model's engine in every call."""

    def __init__(self, model: Model, forks: Sequence[Fork]) -> None:
        self.model, self.forks = model, tuple(forks)
        self._candidates: list[list[int]] | None = None

    def event(self, optimizer_step: int, adapter: str | None) -> dict[str, Any]:
        """The figures of the replay event; `adapter` None is the base."""
        if not self.forks:
            return {"optimizer_step": optimizer_step, "forks": []}
        if self._candidates is None:
            self._candidates = capture(self._logits(None), SHOWN).top_ids.tolist()
        logits = self._logits(adapter)
        found, token_text = capture(logits, SHOWN), self.model.detokenizer.token_text
        forks = []
        for row, fork in enumerate(self.forks):
            ids = list(dict.fromkeys([*self._candidates[row], *found.top_ids[row].tolist()]))
            p = (logits[row, ids].float() - found.lse[row]).exp().tolist()
            top = [{"id": i, "text": token_text(i), "p": value} for i, value in zip(ids, p, strict=True)]
            about: dict[str, Any] = {
                "key": fork.key,
                "before": self.model.detokenizer.text(fork.before),
                "said": token_text(fork.said),
            }
            forks.append(about | {"known": fork.known, "entropy": float(found.entropy[row]), "top": top})
        return {"optimizer_step": optimizer_step, "forks": forks}

    def _logits(self, adapter: str | None) -> Tensor:
        """(forks, V) of the token that each fork decides, all prefixes as one batch."""
        with self.model.engine.using(adapter):
            return PaddedBatch(self.model.engine, [[*f.prompt_ids, *f.before] for f in self.forks]).logits


def default_forks(
    model: Model, solved: Sequence[BaseSolution], limit: int = WATCHED, per_problem: int = PER_PROBLEM
) -> list[Fork]:
    """The places of highest entropy in the base's solutions, in their order. The caller holds the engine's turn."""
    forks: list[Fork] = []
    for one in solved:
        if len(forks) >= limit:
            break
        if one.ids:
            entropies = teacher_forced(model, [*one.prompt_ids, *one.ids], len(one.prompt_ids))
            places = entropies.topk(min(per_problem, limit - len(forks), len(entropies))).indices.tolist()
            key, prompt, ids, known = one.problem_id, one.prompt_ids, one.ids, one.known
            forks += [Fork(f"{key}@{at}", prompt, ids[:at], ids[at], known) for at in sorted(places)]
    return forks
