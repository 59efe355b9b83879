"""The two terms of the loss, and what is logged of a micro-batch. Pure tensors, one value for each row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rmx.recipes.recipe import LossConfig


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
