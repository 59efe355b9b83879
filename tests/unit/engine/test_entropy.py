"""Statistics against plain Python and fp64."""

import math

import pytest
import torch

from rmx.engine.entropy import capture, logp_and_rank
from rmx.records import is_fork


def by_hand(logits: list[float]) -> tuple[float, list[float]]:
    """Entropy and log-probabilities as the paper writes them, in Python floats."""
    z = math.fsum(math.exp(x) for x in logits)
    logp = [x - math.log(z) for x in logits]
    return -math.fsum(math.exp(lp) * lp for lp in logp), logp


def test_entropy_and_logp_equal_the_formula():
    rows = [[0.3, -1.2, 2.5, 0.0], [4.0, 4.0, 4.0, 4.0], [-30.0, 0.0, 1.0, 30.0]]
    cap = capture(torch.tensor(rows), 4)
    for i, row in enumerate(rows):
        entropy, logp = by_hand(row)
        assert cap.entropy[i] == pytest.approx(entropy, abs=1e-6)
        ids = cap.top_ids[i].tolist()
        assert cap.top_logp[i].tolist() == pytest.approx([logp[j] for j in ids], abs=1e-6)


def test_uniform_over_n_words_is_ln_n():
    assert capture(torch.zeros(1, 5), 1).entropy.item() == pytest.approx(math.log(5), abs=1e-6)


def test_a_certain_row_has_entropy_zero_and_never_less():
    assert capture(torch.tensor([[1000.0, 0.0, -1000.0]]), 1).entropy.item() == 0.0


def test_masked_tokens_add_nothing():
    cap = capture(torch.tensor([[1.0, 1.0, -torch.inf]]), 3)
    assert cap.entropy.item() == pytest.approx(math.log(2), abs=1e-6)
    assert cap.top_logp[0, 2] == -torch.inf


def test_fp32_stays_near_fp64_over_a_large_vocabulary():
    torch.manual_seed(0)
    logits = 4 * torch.randn(50, 151_936)
    exact = logits.double().log_softmax(-1)
    entropy = -(exact.exp() * exact).sum(-1)
    cap = capture(logits, 20)
    assert (cap.entropy - entropy).abs().max() < 1e-4
    assert (cap.top_logp - exact.gather(-1, cap.top_ids)).abs().max() < 1e-4
    assert torch.equal(cap.top_ids, exact.topk(20).indices)


def test_bf16_logits_are_computed_in_fp32():
    logits = (3 * torch.randn(4, 1000)).bfloat16()
    assert capture(logits, 5).entropy.dtype == torch.float32
    assert torch.equal(capture(logits, 5).entropy, capture(logits.float(), 5).entropy)


def test_rank_counts_better_tokens():
    logits = torch.tensor([[0.0, 5.0, 3.0, 3.0]])
    lse = capture(logits, 1).lse
    ranks = [logp_and_rank(logits, lse, torch.tensor([i]))[1].item() for i in range(4)]
    assert ranks == [4, 1, 2, 2]


def test_a_fork_exceeds_the_threshold():
    assert [is_fork(h, 1.0) for h in (0.9, 1.0, 1.0001)] == [False, False, True]
