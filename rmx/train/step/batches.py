"""A micro-batch as tensors: padded ids, and one row for each position that the loss looks at."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmx.recipes.recipe import KlOn, LossConfig
from rmx.train.step.items import Item


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of at most T tokens, and the N positions in them that carry a coefficient.

    Sequences are padded on the right: under causal attention no position that counts can see the padding.
    """

    items: tuple[Item, ...]
    ids: Tensor  # (B, T) int64
    row: Tensor  # (N,) which sequence
    pred_pos: Tensor  # (N,) which position of it
    places: tuple[Tensor, ...]  # the same positions, sequence by sequence, on the CPU
    target: Tensor  # (N,) the token that is there at pred_pos + 1
    pull: Tensor  # (N,) clipped advantage of the sequence
    weight: Tensor  # (N,)
    decision: Tensor  # (N,) bool: in the decision term; every other row is in the anchor
    anchors: int  # positions of the anchor, counted even where kl_weight is 0 and none has a row
    valid: int  # positions that predict a token

    @property
    def decisions(self) -> int:
        return sum(len(item.trained) for item in self.items)


def make_batch(items: Sequence[Item], loss: LossConfig, device: torch.device) -> Batch:
    """Pad items and list their rows: sequence by sequence, positions ascending."""
    width = max(len(item.rollout.input_ids) for item in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    rows: list[Tensor] = []
    places: list[Tensor] = []
    for i, item in enumerate(items):
        tokens = torch.tensor(item.rollout.input_ids, dtype=torch.long)
        ids[i, : len(tokens)] = tokens
        decision = torch.zeros(len(tokens) - 1, dtype=torch.bool)
        decision[list(item.trained)] = True
        wanted = decision.clone()
        if loss.kl_weight:
            wanted[anchor_start(item, loss.kl_on) :] = True
        at = wanted.nonzero()[:, 0]
        places.append(at)
        columns = (torch.full_like(at, i), at, tokens[at + 1], decision[at].long())
        rows.append(torch.stack(columns))
    row, pred_pos, target, chosen = torch.cat(rows, dim=1).to(device)
    pulls = torch.tensor([item.pull for item in items], device=device)
    weights = torch.tensor([item.weight for item in items], device=device)
    return Batch(
        items=tuple(items),
        ids=ids.to(device),
        row=row,
        pred_pos=pred_pos,
        places=tuple(places),
        target=target,
        pull=pulls[row],
        weight=weights[row],
        decision=chosen.bool(),
        anchors=sum(anchors(item, loss.kl_on) for item in items),
        valid=sum(item.positions for item in items),
    )


def anchor_start(item: Item, kl_on: KlOn) -> int:
    """The first position that may be in the anchor."""
    return 0 if kl_on == "all" else min(item.first, item.positions)


def anchors(item: Item, kl_on: KlOn) -> int:
    """How many positions of an item are in the anchor."""
    return item.positions - anchor_start(item, kl_on) - len(item.trained)


def mass(items: Sequence[Item], loss: LossConfig) -> tuple[float, float]:
    """Summed weights of the decision term and of the anchor: their denominators."""
    decisions = sum(item.weight * len(item.trained) for item in items)
    return decisions, sum(item.weight * anchors(item, loss.kl_on) for item in items)
