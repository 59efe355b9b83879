"""What policy and base say at the rows of a micro-batch."""

import torch
from torch import Tensor

from rmx.train.step.base_figures import BaseFigures, BaseTokens
from rmx.train.step.batches import Batch
from rmx.train.step.head import ce_and_kl
from rmx.train.step.items import Item
from rmx.train.step.lora_policy import LoraPolicy
from rmx.train.step.loss import Rows
from rmx.train.step.scoring import base_block, own_key, prompt_key


def read_rows(policy: LoraPolicy, batch: Batch, figures: BaseFigures) -> Rows:
    """Cross entropy, KL and the base's log-probability at each row, with gradient to the adapter.

    Where base and policy share a plainly linear head, logits are made in chunks, for these rows only, and the base
    enters by its figures; those that are not kept cost a pass of the base. Other models take the general path.
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
    with policy.base():
        base = _log_softmax(policy.logits(batch.ids), batch)
    ours = _log_softmax(policy.logits(batch.ids), batch)
    target = batch.target[:, None]
    kl = torch.where(base == -torch.inf, 0.0, base.exp() * (base - ours)).sum(-1)
    return Rows(ce=-ours.gather(1, target)[:, 0], kl=kl, base_logp=base.gather(1, target)[:, 0])


def _log_softmax(logits: Tensor, batch: Batch) -> Tensor:
    """(B, T, V) -> (N, V) fp32."""
    return logits[batch.row, batch.pred_pos].float().log_softmax(-1)


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
