"""Logits to entropies, log-probabilities and the best tokens, and where two models part. Pure tensors, fp32, T 1."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

FAR = -1000.0  # nats below the likeliest token: exp is 0 in fp32


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
    # 0 * -inf: a masked token has probability 0, as any below FAR, and adds nothing to the entropy.
    entropy = z.log() - e.mul_(d.clamp_min_(FAR)).sum(-1) / z
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


# -- Two models on one prefix -----------------------------------------------------------------------------------------


Kind = Literal["unshifted", "reranked", "shifted"]
KINDS: tuple[Kind, ...] = ("unshifted", "reranked", "shifted")
RERANKED = 5  # a choice among the base's five best is reranked, one beyond them is shifted


class Compared(NamedTuple):
    """N positions read by both models; "choice" is a model's argmax."""

    kl: Tensor  # (N,) KL(base || adapted) in nats
    base_choice: Tensor  # (N,) token ids
    adapted_choice: Tensor  # (N,)
    rank: Tensor  # (N,) rank of the adapted model's choice under the base; 1 = the base's own choice or its equal
    p: Tensor  # (N,) the base's probability of the adapted model's choice
    back_rank: Tensor  # (N,) rank of the base's choice under the adapted model
    back_p: Tensor  # (N,)
    base_gap: Tensor  # (N,) logits from the base's choice down to the adapted model's, under the base; 0 if equal
    adapted_gap: Tensor  # (N,) the same under the adapted model


def compare(base: Tensor, adapted: Tensor) -> Compared:
    """Compare next-token distributions row by row, in fp32 at temperature 1.

    Equals share the better rank, as everywhere here: where the base likes two tokens exactly alike and the adapted
    model takes the second, its rank is 1 and the position counts as unshifted. In bf16 such ties are common.

    Args:
        base, adapted: (N, V) logits on the same prefixes.

    Raises:
        ValueError: shapes differ.

    Source: arXiv 2605.06241, section 2 (unshifted, reranked, shifted); KL(p||q) = sum p (ln p - ln q).
    """
    if base.shape != adapted.shape:
        raise ValueError(f"{base.shape=} differs from {adapted.shape=}")
    base, adapted = base.float(), adapted.float()
    logp, logq = base.log_softmax(-1), adapted.log_softmax(-1)
    # 0 * -inf: a token that the base excludes adds nothing; one that only the adapted model excludes makes KL infinite.
    terms = logp.exp() * (logp - logq)
    kl = terms.masked_fill(logp == -torch.inf, 0.0).sum(-1).clamp_min(0.0)
    base_choice, adapted_choice = base.argmax(-1), adapted.argmax(-1)
    theirs, ours = _at(base, adapted_choice), _at(adapted, base_choice)
    return Compared(
        kl,
        base_choice,
        adapted_choice,
        1 + (base > theirs[:, None]).sum(-1),
        _at(logp, adapted_choice).exp(),
        1 + (adapted > ours[:, None]).sum(-1),
        _at(logq, base_choice).exp(),
        _at(base, base_choice) - theirs,
        _at(adapted, adapted_choice) - ours,
    )


def _at(rows: Tensor, ids: Tensor) -> Tensor:
    return rows.gather(-1, ids[:, None])[:, 0]


def kind_of(rank: int) -> Kind:
    """The class of a position, by the rank of the adapted model's choice under the base.

    Source: arXiv 2605.06241, section 2.
    """
    return "unshifted" if rank <= 1 else "reranked" if rank <= RERANKED else "shifted"


def is_near_tie(rank: int, base_gap: float, adapted_gap: float, noise: float) -> bool:
    """Whether a disagreement is within what rounding alone can turn round.

    Args:
        base_gap, adapted_gap: logits, see `Compared`.
        noise: largest change of a logit by batch shape or dtype alone; two logits can each move by it.
    """
    return rank > 1 and min(base_gap, adapted_gap) <= 2 * noise


class Difference(NamedTuple):
    """How far two readings of the same text by the same model lie apart."""

    max_dlogit: float
    argmax_changed: int
    positions: int

    def json(self) -> dict[str, float | int]:
        """Return the figures as documents hold them."""
        return self._asdict()


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> Difference:
    """Largest change of a logit, and how often the choice changed, over readings in equal chunks (n, V).

    A token that both exclude has not changed; a NaN on either side counts as an infinite change.
    """
    largest, changed, positions = 0.0, 0, 0
    for one, two in zip(a, b, strict=True):
        one, two = one.float(), two.float()
        apart = (one - two).abs().masked_fill(one == two, 0.0).nan_to_num(torch.inf, torch.inf)
        largest = max(largest, float(apart.max()))
        # An exact tie may fall either way without any change of a logit.
        moved = _at(two, one.argmax(-1)) < two.max(-1).values
        changed, positions = changed + int(moved.sum()), positions + len(one)
    return Difference(largest, changed, positions)
