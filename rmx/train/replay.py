"""What training changes elsewhere: on held-out rollouts and at watched forks.

What training does to decisions that it does not train on: held-out rollouts, read under base and policy.

Forks watched while a run trains: at every checkpoint, what the policy would say there now.

The base's five likeliest tokens are candidates for the whole run; the policy's own later ones are added behind them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rmx.engine.engine import CHUNK_BYTES
from rmx.engine.entropy import capture
from rmx.models.load import Model
from rmx.recipes.recipe import GateConfig, LossConfig
from rmx.records import Rollout
from rmx.train.rollouts.selection import with_advantages
from rmx.train.step.items import Item, make_items
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.loss import objective
from rmx.train.step.processes import Team, collected, dealt
from rmx.train.step.scoring import BaseFigures, make_batch, read_rows, teacher_forced

LOSS = LossConfig(kl_on="completion")  # the paper's decision term; KL on the other completion positions
TOKENS = 4096  # padded tokens read together
GATE = GateConfig()  # by entropy, whatever gate a run trains with, so that its ablations can be compared


@dataclass(frozen=True, slots=True)
class Contrast:
    """Means over the decision tokens of held-out rollouts; None where there is no such token."""

    delta_logp_pos: float | None  # nats, policy minus base, on decision tokens of right rollouts
    delta_logp_neg: float | None  # of wrong ones
    pressure: float | None  # sum of |A| CE over wrong decision tokens / the same sum over right ones
    kl: float | None  # nats, mean KL(base || policy) over the completion positions that are no decisions

    @property
    def gap(self) -> float | None:
        """How much further right choices moved up than wrong ones: delta_logp_pos - delta_logp_neg."""
        if self.delta_logp_pos is None or self.delta_logp_neg is None:
            return None
        return self.delta_logp_pos - self.delta_logp_neg

    def json(self) -> dict[str, Any]:
        return {"gap": self.gap, **asdict(self)}


def contrast(seen: Tensor, kl_sum: float, kl_positions: int) -> Contrast:
    """Means out of the (4, 2) sums over decision tokens that `objective` gives.

    Source: contrastive gap and neg_pressure_sum / pos_pressure_sum as the official trainer logs them.
    """
    (_, _), (delta_pos, delta_neg), (push_pos, push_neg), (pos, neg) = seen.tolist()
    return Contrast(
        delta_pos / pos if pos else None,
        delta_neg / neg if neg else None,
        push_neg / push_pos if push_pos else None,
        kl_sum / kl_positions if kl_positions else None,
    )


def decision_items(rollouts: Sequence[Rollout], tau: float, max_seq_len: int) -> list[Item]:
    """Held-out rollouts as items, decided by entropy, with advantages among their problem's; shortest first."""
    items = make_items(with_advantages(rollouts), GATE, tau, LOSS, max_seq_len, seed=0)
    return sorted(items, key=lambda item: len(item.rollout.input_ids))


@torch.no_grad()
def diagnose(policy: LoraPolicy, items: Sequence[Item], figures: BaseFigures, team: Team | None = None) -> Contrast:
    """Read all items under the policy and, where `figures` does not know it yet, under the base.

    Several processes add up their sums in one order. The caller holds the engine's turn.
    """
    # Without a linear head all logits of the tokens that are read at once are there together.
    room = TOKENS if policy.head else CHUNK_BYTES // (4 * policy.model.engine.vocab_size)
    groups = list(_groups(items, room))
    mine = [(nth, _sums(policy, groups[nth], figures)) for nth in dealt(len(groups), team)]
    seen, kl_sum, kl_positions = torch.zeros(4, 2, dtype=torch.float64), 0.0, 0
    for _, (more, kl, positions) in collected(mine, lambda pair: pair[0], team):
        seen += more
        kl_sum += kl
        kl_positions += positions
    return contrast(seen, kl_sum, kl_positions)


def _sums(policy: LoraPolicy, group: Sequence[Item], figures: BaseFigures) -> tuple[Tensor, float, int]:
    """What one batch adds to the arguments of `contrast`; base and policy as they decode, without dropout."""
    batch = make_batch(group, LOSS, policy.device)
    with policy.model.engine.using(NAME):
        rows = read_rows(policy, batch, figures)
    sums, seen = objective(rows, batch.pull, torch.ones_like(batch.pull), batch.decision, LOSS)
    return seen.cpu(), float(sums.anchor), batch.anchors


def _groups(items: Sequence[Item], room: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    for item in items:
        width = max(len(i.rollout.input_ids) for i in (*group, item))
        if group and width * (len(group) + 1) > room:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


# -- Forks watched while a run trains ---------------------------------------------------------------------------------


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
        """(forks, V) of the token that each fork decides."""
        engine = self.model.engine
        with engine.using(adapter):
            texts = [[*fork.prompt_ids, *fork.before] for fork in self.forks]
            return torch.stack([engine.open(ids, adapter=adapter, reuse=False).logits for ids in texts])


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
