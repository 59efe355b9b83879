"""KL(teacher || student) from the teacher's likeliest tokens alone. Pure tensors, one value for each row.

Of the teacher's distribution over V tokens only K are kept, and how much lies outside of them. What is done with that
rest is the `tail`:

    renormalise  the teacher is p'_v = p_v / sum over the K of p; the student keeps its whole distribution.
                 KL(p' || q) = sum over the K of p'_v (ln p'_v - ln q_v). It is smallest at q = p', not at q = p: the
                 student is told to put nothing outside of the K.
    bucket       everything outside is one more outcome, for both: KL over K + 1 outcomes. Merging outcomes can only
                 lower a KL, so this is a lower bound of KL(p || q), and it is 0 where q = p.

The paper says that the teacher's top-64 logits are cached. Those alone give no normaliser, hence `renormalise` is the
reading that needs nothing else, and the default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rmx.recipes.distill import Tail


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """What is kept of a teacher's distributions at N positions."""

    ids: Tensor  # (N, K) int64, likeliest first
    logp: Tensor  # (N, K) natural log of their probabilities, over the whole vocabulary
    rest: Tensor  # (N,) natural log of the probability of all other tokens; -inf where there are none

    def __len__(self) -> int:
        return len(self.rest)


def teacher_rows(logits: Tensor, k: int) -> TeacherRows:
    """The k likeliest tokens of each row.

    Args:
        logits: (N, V), any float dtype; computed in fp32.
        k: bounded by V.
    """
    logp = logits.float().log_softmax(-1)
    top, ids = logp.topk(min(k, logp.shape[-1]), dim=-1)
    return TeacherRows(ids, top, _outside(logp, ids))


def topk_kl(logits: Tensor, teacher: TeacherRows, tail: Tail) -> Tensor:
    """KL(teacher || student) of each row, as the module's docstring defines it.

    Args:
        logits: (N, V) of the student, fp32 or fp64; carries the gradient.

    Returns:
        (N,) nats.

    Source: arXiv 2605.06241, section 4; what becomes of the tail is ours, see above.
    """
    logp = logits.log_softmax(-1)
    ours = logp.gather(-1, teacher.ids)
    if tail == "renormalise":
        kept = teacher.logp - teacher.logp.logsumexp(-1, keepdim=True)
        return _kl(kept, ours)
    inside = _kl(teacher.logp, ours)
    if teacher.ids.shape[-1] == logits.shape[-1]:
        return inside
    return inside + _kl(teacher.rest[:, None], _outside(logp, teacher.ids)[:, None])


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, K) log-probabilities -> (N,) sum of p (ln p - ln q); an outcome that the teacher excludes adds nothing."""
    p = teacher.exp()
    return torch.where(p > 0, p * (teacher - student), 0.0).sum(-1)


def _outside(logp: Tensor, ids: Tensor) -> Tensor:
    """(N,) log of the probability outside of `ids`.

    Summed over those tokens: 1 minus the others would lose every digit where the rest is small.
    """
    return logp.scatter(-1, ids, -torch.inf).logsumexp(-1)
