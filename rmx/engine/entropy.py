"""Logits to entropies, log-probabilities and the best tokens. Pure tensors, fp32, temperature 1."""

from typing import NamedTuple

import torch
from torch import Tensor


class Capture(NamedTuple):
    """Statistics of N distributions over V tokens; nothing here grows with V."""

    entropy: Tensor  # (N,) nats
    lse: Tensor  # (N,) log-sum-exp of the logits: logp of token v is logits[v] - lse
    top_ids: Tensor  # (N, k) best first
    top_logp: Tensor  # (N, k)


def capture(logits: Tensor, k: int) -> Capture:
    """Entropy, log-normaliser and the k best tokens of each row.

    With d = logits - max, Z = sum exp(d):  H = ln Z - sum exp(d) d / Z. The shift by the maximum keeps the fp32 error
    near 1e-5 nats, where softmax followed by log would lose three more digits on confident rows.

    Args:
        logits: (N, V), any float dtype; computed in fp32.
        k: how many tokens to keep; bounded by V.

    Source: arXiv 2605.06241, section 3 (H_t over the full vocabulary, natural logarithm).
    """
    logits = logits.float()
    top, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    d = logits - top[:, :1]
    e = d.exp()
    z = e.sum(-1)
    # 0 * -inf: a masked token has probability 0 and adds nothing to the entropy.
    entropy = z.log() - (e * d.masked_fill(d == -torch.inf, 0.0)).sum(-1) / z
    lse = z.log() + top[:, 0]
    # Rounding can leave -1e-9 on a certain row; an entropy is never negative.
    return Capture(entropy.clamp_min(0.0), lse, ids, top - lse[:, None])


def logp_and_rank(logits: Tensor, lse: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and rank of one token per row; rank 1 is the most likely, equals share the better rank.

    Args:
        logits: (N, V). lse: (N,). ids: (N,) token of each row.

    Returns:
        logp (N,) and rank (N,) int64.
    """
    logits = logits.float()
    own = logits.gather(-1, ids[:, None])
    return own[:, 0] - lse, 1 + (logits > own).sum(-1)
