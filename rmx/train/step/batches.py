"""A micro-batch as tensors: padded ids, and one row for each position that the loss looks at."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmx.recipes.recipe import KlOn, LossConfig
from rmx.train.step.base_figures import BaseFigures, BaseTokens
from rmx.train.step.head import ce_and_kl
from rmx.train.step.items import Item
from rmx.train.step.lora_policy import LoraPolicy
from rmx.train.step.loss import Rows
from rmx.train.step.scoring import base_block, own_key, prompt_key


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


def make_batch(items: Sequence[Item], loss: LossConfig, device: torch.device) -> Batch:
    """Pad items and list their rows: sequence by sequence, positions ascending."""
    width = max(len(item.rollout.input_ids) for item in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    rows, places = list[Tensor](), list[Tensor]()
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
        rows.append(torch.stack((torch.full_like(at, i), at, tokens[at + 1], decision[at].long())))
    row, pred_pos, target, chosen = torch.cat(rows, dim=1).to(device)
    pulls = torch.tensor([item.pull for item in items], device=device)
    weights = torch.tensor([item.weight for item in items], device=device)
    return Batch(
        items=tuple(items), ids=ids.to(device), row=row, pred_pos=pred_pos, places=tuple(places), target=target,
        pull=pulls[row], weight=weights[row], decision=chosen.bool(),
        anchors=sum(anchors(item, loss.kl_on) for item in items), valid=sum(item.positions for item in items),
    )  # fmt: skip


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


def read_rows(policy: LoraPolicy, batch: Batch, figures: BaseFigures) -> Rows:
    """Cross entropy, KL and the base's log-probability at each row, with gradient to the adapter.

    With a shared linear head, logits are made in chunks, for these rows only, and the base enters by its figures.
    The caller is inside `policy.learning()`, or inside `engine.using(NAME)` where no gradient is wanted.
    """
    if policy.head is None:
        return read_rows_whole(policy, batch)
    base = base_rows(policy, batch, figures)
    hidden = policy(batch.ids)[batch.row, batch.pred_pos].float()
    ce, kl = ce_and_kl(policy.head, hidden, batch.target, base.mean, base.offset)
    return Rows(ce, kl, base.logp)


def read_rows_whole(policy: LoraPolicy, batch: Batch) -> Rows:
    """The same by the full logits of both: right for every model, at the price of time and memory."""

    def logp() -> Tensor:  # (N, V) fp32
        return policy.logits(batch.ids)[batch.row, batch.pred_pos].float().log_softmax(-1)

    with policy.base():
        base = logp()
    ours = logp()
    target = batch.target[:, None]
    kl = torch.where(base == -torch.inf, 0.0, base.exp() * (base - ours)).sum(-1)
    return Rows(ce=-ours.gather(1, target)[:, 0], kl=kl, base_logp=base.gather(1, target)[:, 0])


def base_rows(policy: LoraPolicy, batch: Batch, figures: BaseFigures) -> BaseTokens:
    """The base's figures at the rows of a micro-batch, on the policy's device."""
    found = [_of_item(policy, item, at, figures) for item, at in zip(batch.items, batch.places, strict=True)]
    mean, offset, logp = (torch.cat(column).to(policy.device) for column in zip(*found, strict=True))
    return BaseTokens(mean, offset, logp)


def _of_item(policy: LoraPolicy, item: Item, at: Tensor, figures: BaseFigures) -> tuple[Tensor, Tensor, Tensor]:
    """Figures at positions `at` (ascending) of one sequence, on the CPU."""
    rollout, first = item.rollout, item.first
    parts = []
    if len(at) and int(at[0]) < first:
        parts.append((base_block(policy, prompt_key(rollout), figures), at[at < first]))
    if len(at) and int(at[-1]) >= first:
        parts.append((base_block(policy, own_key(rollout), figures), at[at >= first] - first))
    if not parts:
        width = policy.head.width if policy.head else 0
        return torch.empty(0, width), torch.empty(0), torch.empty(0)
    columns = ((b.mean[i], b.offset[i], b.logp[i]) for b, i in parts)
    mean, offset, logp = (torch.cat(column) for column in zip(*columns, strict=True))
    return mean, offset, logp
