"""What policy and base say at the rows of a micro-batch."""

import torch
from torch import Tensor

from rmx.train.batches import Batch
from rmx.train.loss import Rows
from rmx.train.policy import Policy


def read_rows(policy: Policy, batch: Batch) -> Rows:
    """By the full logits of both: right for every model, and the slower way."""
    with policy.base():
        base = _log_softmax(policy.logits(batch.ids), batch)
    with policy.learning():
        ours = _log_softmax(policy.logits(batch.ids), batch)
    target = batch.target[:, None]
    kl = torch.where(base == -torch.inf, 0.0, base.exp() * (base - ours)).sum(-1)
    return Rows(ce=-ours.gather(1, target)[:, 0], kl=kl, base_logp=base.gather(1, target)[:, 0])


def _log_softmax(logits: Tensor, batch: Batch) -> Tensor:
    """(B, T, V) -> (N, V) fp32."""
    return logits[batch.row, batch.pred_pos].float().log_softmax(-1)
