"""The two terms of the loss, what is logged of a micro-batch, and the vocabulary head in chunks of rows.

Logits are linear in the hidden state: l = s (W h + b). So one hidden-sized vector a row, E_p[W] = sum of p(v) W_v over
the vocabulary, is all that a gradient needs of a distribution; a chunk's logits are dropped before the next is made.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from rmx.engine.engine import CHUNK_BYTES
from rmx.runs.recipe import LossConfig


@dataclass(frozen=True, slots=True)
class Rows:
    """What both models say at N positions: policy with gradient, base without."""

    ce: Tensor  # (N,) nats: -log p of the target under the policy
    kl: Tensor  # (N,) nats: KL(base || policy); rounding may leave it slightly below 0, and it is not clamped
    base_logp: Tensor  # (N,) of the target under the base

    @property
    def delta(self) -> Tensor:
        """(N,) log p of the target, policy minus base."""
        return -self.ce - self.base_logp


def decision_terms(rows: Rows, pull: Tensor, loss: LossConfig) -> Tensor:
    """What each row would add to the decision term (N,), before averaging; `pull` (N,) is never 0.

    With a the clipped advantage, CE = -ln p_policy and D = ln p_policy - ln p_base of the observed token:
    adv_ce:      a CE,                    times beta_neg where a < 0
    delta_hinge: |a| relu(pos_margin - D) where a > 0,  |a| relu(D + neg_margin) beta_neg where a < 0
    correct_sft: CE

    With `neg_floor_nats` = X, adv_ce has CE = min(CE, CE_base + X) where a < 0: a wrong token that lies X nats below
    the base is not pushed further, but stays in the denominator. That is our extension, not the paper's.

    Source: arXiv 2605.06241, section 5; the other objectives as the official trainer names them.
    """
    wrong = pull < 0
    scale = torch.where(wrong, loss.beta_neg, 1.0)
    if loss.objective == "correct_sft":
        return rows.ce
    if loss.objective == "delta_hinge":
        right = torch.relu(loss.pos_margin - rows.delta)
        return pull.abs() * scale * torch.where(wrong, torch.relu(rows.delta + loss.neg_margin), right)
    ce = rows.ce
    if loss.neg_floor_nats is not None:
        ce = torch.where(wrong, torch.minimum(ce, loss.neg_floor_nats - rows.base_logp), ce)
    return pull * scale * ce


@dataclass(frozen=True, slots=True)
class Sums:
    """A micro-batch's terms as weighted sums, to be divided by whichever mass the normalisation asks for."""

    decision: Tensor  # () with gradient
    anchor: Tensor  # ()

    def loss(self, decision_mass: float, anchor_mass: float, kl_weight: float) -> Tensor:
        """Decision term plus weighted anchor; a term without any token is 0."""
        return self.decision / (decision_mass or 1.0) + kl_weight * self.anchor / (anchor_mass or 1.0)


def objective(rows: Rows, pull: Tensor, weight: Tensor, decision: Tensor, loss: LossConfig) -> tuple[Sums, Tensor]:
    """The two terms as sums over rows (N,), and (4, 2) float64 sums over the decision rows, right and wrong rollouts:
    CE, delta, weighted absolute term, 1. Rows that are no decision are in the anchor.
    """
    chosen = Rows(rows.ce[decision], rows.kl[decision], rows.base_logp[decision])
    terms = decision_terms(chosen, pull[decision], loss)
    sums = Sums((weight[decision] * terms).sum(), (weight[~decision] * rows.kl[~decision]).sum())
    with torch.no_grad():
        right = pull[decision] > 0
        pressure = weight[decision] * terms.abs()
        values = torch.stack((chosen.ce, chosen.delta, pressure, torch.ones_like(terms))).double()
        seen = torch.stack(((values * right).sum(1), (values * ~right).sum(1)), dim=1)
    return sums, seen


# -- The vocabulary head in chunks of rows, with its gradient in closed form ------------------------------------------


STRETCH = 16.0  # hidden states of the test, beside themselves, that show whether the head is linear


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A frozen head that base and policy share: logits = scale * (weight @ hidden + bias)."""

    weight: Tensor  # (V, D) fp32: a bf16 head would drown the KL in its rounding
    bias: Tensor | None  # (V,) fp32
    scale: float
    tf32: bool = False  # whether its products are made in TF32, see `products`

    @property
    def width(self) -> int:
        return int(self.weight.shape[1])

    @property
    def chunk_rows(self) -> int:
        """Rows of logits alive at once."""
        room = CHUNK_BYTES if self.weight.device.type == "cpu" else 8 * CHUNK_BYTES
        return max(16, room // (4 * self.weight.shape[0]))


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep over the vocabulary leaves of N rows."""

    lse: Tensor  # (N,) log-sum-exp of the logits
    own: Tensor  # (N,) logit of the target
    entropy: Tensor | None  # (N,) nats
    expected: Tensor | None  # (N, D) E_p[W]


@torch.no_grad()
def sweep(head: LinearHead, hidden: Tensor, target: Tensor, *, entropy: bool, expected: bool) -> Swept:
    """Read the distributions of N rows, chunk by chunk, and keep nothing that grows with the vocabulary.

    `hidden` is (N, D) fp32, `target` (N,) the token of each row; `expected` costs a second product with the head.
    """
    with products(head):
        return _swept(head, hidden, target, entropy, expected)


def _swept(head: LinearHead, hidden: Tensor, target: Tensor, entropy: bool, expected: bool) -> Swept:
    n, step = len(hidden), head.chunk_rows
    buffer = hidden.new_empty(min(n, step), len(head.weight))
    lse, own = hidden.new_empty(n), hidden.new_empty(n)
    entropies = hidden.new_empty(n) if entropy else None
    means = torch.empty_like(hidden) if expected else None
    for a in range(0, n, step):
        at = slice(a, min(a + step, n))
        logits = _logits(head, hidden[at], buffer[: at.stop - a])
        own[at] = logits.gather(1, target[at, None])[:, 0]
        top = logits.amax(1, keepdim=True)
        logits.sub_(top)
        if entropies is None:
            e = logits.exp_()
            z = e.sum(1)
        else:
            e = logits.exp()
            z = e.sum(1)
            # With d = logits - max:  H = ln Z - sum e^d d / Z
            entropies[at] = (z.log() - torch.linalg.vecdot(e, logits) / z).clamp_min(0.0)
        lse[at] = z.log() + top[:, 0]
        if means is not None:
            torch.mm(e, head.weight, out=means[at])
            means[at].div_(z[:, None])
    return Swept(lse, own, entropies, means)


def _logits(head: LinearHead, hidden: Tensor, out: Tensor) -> Tensor:
    if head.bias is None:
        torch.mm(hidden, head.weight.T, out=out)
    else:
        torch.addmm(head.bias, hidden, head.weight.T, out=out)
    return out if head.scale == 1 else out.mul_(head.scale)


def ce_and_kl(head: LinearHead, hidden: Tensor, target: Tensor, mean: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the target and KL(base || policy), each (N,) nats, with gradient to the hidden states (N, D).

        KL(base || policy) = lse_policy - s (m . h + c) - H_base,   m = E_base[W], c = E_base[b]

    The base enters by `mean` = m (N, D) and by `offset` = H_base + s c (N,) alone. Small negative values are rounding.
    """
    ce, kl = _CeAndKl.apply(hidden, target, mean, offset, head)
    return ce, kl


class _CeAndKl(torch.autograd.Function):
    """d ce / d h = s (E_policy[W] - W_target),  d kl / d h = s (E_policy[W] - m)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, target: Tensor, mean: Tensor, offset: Tensor, head: LinearHead
    ) -> tuple[Tensor, Tensor]:
        swept = sweep(head, hidden, target, entropy=False, expected=ctx.needs_input_grad[0])
        ctx.head = head
        ctx.save_for_backward(target, mean, swept.expected)
        return swept.lse - swept.own, anchor(head, swept.lse, mean, hidden) - offset

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_ce, by_kl = grads
        target, mean, expected = ctx.saved_tensors
        grad = expected * (by_ce + by_kl)[:, None]
        grad.addcmul_(mean, by_kl[:, None], value=-1)
        pulled = by_ce.nonzero()[:, 0]  # few rows: the others are anchors
        grad[pulled] -= by_ce[pulled, None] * ctx.head.weight[target[pulled]]
        return grad.mul_(ctx.head.scale), None, None, None, None


def anchor(head: LinearHead, lse: Tensor, mean: Tensor, hidden: Tensor) -> Tensor:
    """(N,) lse - s m . h. Of the base itself this is the offset, so that an unchanged policy has KL 0."""
    return lse - head.scale * torch.linalg.vecdot(mean, hidden)


@contextmanager
def products(head: LinearHead) -> Iterator[None]:
    """The head's products in the precision that it asks for, for the length of a `with` block.

    TF32 rounds the factors to 10 bits behind the point and adds up in fp32. bf16 weights and hidden states have 7, so
    their logits lose nothing; probabilities do. The switch is the whole process's.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        if head.tf32:
            matmul.fp32_precision = "tf32"
        yield
    finally:
        if head.tf32:
            matmul.fp32_precision = before


@dataclass(frozen=True, slots=True)
class Products:
    """How the head's products are made, where TF32 was asked for, and what that changes on a fixed text."""

    tf32: bool
    why: str | None = None  # a sentence where it is off all the same
    logp_error: float | None = None  # nats, largest change of a target's log-probability
    mean_error: float | None = None  # largest change of E_p[W], as a share of its largest component

    def json(self) -> dict[str, Any]:
        return asdict(self)


def with_tf32(head: LinearHead, hidden: Tensor, target: Tensor) -> tuple[LinearHead, Products]:
    """The same head with its products in TF32, where its device has that."""
    if hidden.device.type != "cuda":
        return head, Products(False, "TF32 exists on CUDA only: the products of the head stay in fp32.")
    rough = replace(head, tf32=True)
    ours, exact = (sweep(h, hidden, target, entropy=False, expected=True) for h in (rough, head))
    assert ours.expected is not None
    assert exact.expected is not None
    logp = (ours.own - ours.lse) - (exact.own - exact.lse)
    mean = (ours.expected - exact.expected).abs().max() / exact.expected.abs().max()
    return rough, Products(True, None, float(logp.abs().max()), float(mean))


def find_head(causal: Any) -> LinearHead | None:
    """The head that base and policy share, where there is one and it is plainly linear; None calls for full logits.

    Out are heads that an adapter changes, capped logits, and whatever else does more than one product: that is tried
    out on a few rows, as they are and stretched, since capping hardly shows on small logits.
    """
    linear, embeddings = causal.get_output_embeddings(), causal.get_input_embeddings()
    config = causal.config.get_text_config()
    adapted = isinstance(embeddings, BaseTunerLayer | AuxiliaryTrainingWrapper)
    if type(linear) is not nn.Linear or (adapted and getattr(config, "tie_word_embeddings", False)):
        return None
    if getattr(config, "final_logit_softcapping", None):
        return None
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    bias = None if linear.bias is None else linear.bias.detach().float()
    head = LinearHead(linear.weight.detach().float(), bias, scale)
    return head if _agrees(causal, head) else None


@torch.no_grad()
def _agrees(causal: Any, head: LinearHead) -> bool:
    """Whether the model's own logits are those of the head, at hidden states as they are and stretched."""
    ids = torch.arange(8, device=head.weight.device)[None] % len(head.weight)
    tolerance = 1e-4 if causal.dtype == torch.float32 else 2e-2
    for factor in (1.0, STRETCH):
        hidden: list[Tensor] = []
        handle = causal.base_model.register_forward_hook(_stretch(factor, hidden))
        try:
            theirs = causal(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            handle.remove()
        if not hidden:
            return False
        ours = F.linear(hidden[0][0].float(), head.weight, head.bias) * head.scale
        if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > tolerance * float(ours.abs().max()):
            return False
    return True


def _stretch(factor: float, seen: list[Tensor]) -> Callable[..., Any]:
    """A hook that multiplies the last hidden state and notes it."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        if not isinstance(getattr(output, "last_hidden_state", None), Tensor):
            return output
        output.last_hidden_state = output.last_hidden_state * factor
        seen.append(output.last_hidden_state)
        return output

    return hook
