"""The formulas of the loss against plain loops over floats, written from the paper."""

import math

import pytest
import torch

from rmx.runs.recipe import LossConfig
from rmx.train.step.loss import Rows, decision_terms, objective
from rmx.train.step.scoring import anchors, make_batch, mass
from tests.helpers.training import QUICK, items_of, rollout, rollouts

N = 24
CONFIGS = [
    LossConfig(),
    LossConfig(beta_neg=0.3),
    LossConfig(objective="delta_hinge", pos_margin=0.5, neg_margin=0.2, beta_neg=2.0),
    LossConfig(objective="correct_sft"),
    LossConfig(neg_floor_nats=0.1),
]


@pytest.fixture
def rows():
    draws = torch.Generator().manual_seed(0)
    ce, kl, base = (torch.rand(N, generator=draws) for _ in range(3))
    return Rows(ce.requires_grad_(), kl.requires_grad_(), -base)


@pytest.fixture
def pull():
    return torch.tensor([1.5, -0.7, 2.5, -2.5] * (N // 4))


def one_term(ce, base_logp, a, loss):
    """What one token adds, in words of the paper."""
    if loss.objective == "correct_sft":
        return ce
    delta = -ce - base_logp
    beta = loss.beta_neg if a < 0 else 1.0
    if loss.objective == "delta_hinge":
        room = loss.pos_margin - delta if a > 0 else delta + loss.neg_margin
        return abs(a) * beta * max(0.0, room)
    if a < 0 and loss.neg_floor_nats is not None:
        ce = min(ce, -base_logp + loss.neg_floor_nats)
    return a * beta * ce


@pytest.mark.parametrize("loss", CONFIGS)
def test_terms_are_those_of_a_plain_loop(rows, pull, loss):
    got = decision_terms(rows, pull, loss).tolist()
    columns = zip(rows.ce.tolist(), rows.base_logp.tolist(), pull.tolist(), strict=True)
    assert got == pytest.approx([one_term(ce, base, a, loss) for ce, base, a in columns], abs=1e-6)


@pytest.mark.parametrize("loss", CONFIGS)
def test_both_terms_are_weighted_means_over_their_own_tokens(rows, pull, loss):
    decision = torch.arange(N) % 3 == 0
    weight = torch.rand(N, generator=torch.Generator().manual_seed(1)) + 0.5
    sums, _ = objective(rows, pull, weight, decision, loss)
    total = sums.loss(float(weight[decision].sum()), float(weight[~decision].sum()), loss.kl_weight)
    ce, kl, base, a, w, d = (x.tolist() for x in (rows.ce, rows.kl, rows.base_logp, pull, weight, decision))
    terms = math.fsum(w[i] * one_term(ce[i], base[i], a[i], loss) for i in range(N) if d[i])
    masses = math.fsum(w[i] for i in range(N) if d[i]), math.fsum(w[i] for i in range(N) if not d[i])
    anchor = math.fsum(w[i] * kl[i] for i in range(N) if not d[i])
    assert float(total.detach()) == pytest.approx(terms / masses[0] + 0.2 * anchor / masses[1], abs=1e-6)


def test_right_tokens_are_raised_and_wrong_ones_lowered(rows, pull):
    decision_terms(rows, pull, LossConfig()).sum().backward()
    assert rows.ce.grad.tolist() == pytest.approx(pull.tolist())  # less CE where a > 0, more where a < 0


def test_no_push_beyond_the_floor():
    base_logp = torch.tensor([-1.0, -1.0, -1.0])
    ce = torch.tensor([1.4, 1.6, 1.6], requires_grad=True)  # 0.4 and 0.6 nats below the base
    terms = decision_terms(
        Rows(ce, torch.zeros(3), base_logp), torch.tensor([-1.0, -1.0, 1.0]), LossConfig(neg_floor_nats=0.5)
    )
    terms.sum().backward()
    assert ce.grad.tolist() == [-1.0, 0.0, 1.0]
    assert terms.tolist() == pytest.approx([-1.4, -1.5, 1.6])


def test_what_is_logged_counts_right_and_wrong_apart(rows, pull):
    decision = torch.arange(N) < 8
    weight = torch.full((N,), 2.0)
    rows = Rows(rows.ce.detach(), rows.kl.detach(), rows.base_logp)
    _, seen = objective(rows, pull, weight, decision, LossConfig(beta_neg=0.5))
    right = [i for i in range(8) if pull[i] > 0]
    wrong = [i for i in range(8) if pull[i] < 0]
    assert seen[3].tolist() == [len(right), len(wrong)]
    assert seen[0].tolist() == pytest.approx([float(rows.ce[i].sum()) for i in (right, wrong)], abs=1e-6)
    assert seen[1].tolist() == pytest.approx([float(rows.delta[i].sum()) for i in (right, wrong)], abs=1e-6)
    pressure = [float((2 * pull[i].abs() * rows.ce[i]).sum()) for i in (right, wrong)]
    assert seen[2].tolist() == pytest.approx([pressure[0], 0.5 * pressure[1]], abs=1e-5)


def test_rollouts_with_no_advantage_join_the_anchor():
    loss = LossConfig()
    item = items_of([rollout(advantage=0.0)])[0]
    assert item.decisions == (3, 5)
    assert item.trained == ()
    batch = make_batch([item], loss, torch.device("cpu"))
    assert (batch.anchors, int(batch.decision.sum()), len(batch.row)) == (7, 0, 7)


def test_rows_are_the_positions_that_carry_a_coefficient():
    items = items_of([rollout("a"), rollout("b", input_ids=(1, 2, 3, 4), entropies=(2.0,), advantage=-1.0)])
    everything = make_batch(items, LossConfig(), torch.device("cpu"))
    assert everything.row.tolist() == [0] * 7 + [1] * 3
    assert everything.pred_pos.tolist() == [*range(7), *range(3)]
    assert everything.target.tolist() == [6, 7, 10, 11, 12, 13, 14, 2, 3, 4]
    assert everything.decision.nonzero()[:, 0].tolist() == [3, 5, 9]
    assert everything.pull.tolist() == [1.0] * 7 + [-1.0] * 3
    no_prompt = make_batch(items, LossConfig(kl_on="completion"), torch.device("cpu"))
    assert no_prompt.pred_pos.tolist() == [2, 3, 4, 5, 6, 2]
    no_anchor = make_batch(items, LossConfig(kl_weight=0), torch.device("cpu"))
    assert no_anchor.pred_pos.tolist() == [3, 5, 2]
    assert no_anchor.anchors == everything.anchors == 7


def test_masses_are_the_summed_weights_of_the_rows():
    made, loss = rollouts(), LossConfig(weigh_problems=True, kl_on="completion")
    items = items_of(made[:5], QUICK.with_(weigh_problems=True, kl_on="completion"))
    batch = make_batch(items, loss, torch.device("cpu"))
    wanted = float(batch.weight[batch.decision].sum()), float(batch.weight[~batch.decision].sum())
    assert mass(items, loss) == pytest.approx(wanted)
    assert sum(anchors(item, "completion") for item in items) == int((~batch.decision).sum()) == batch.anchors
