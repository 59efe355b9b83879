"""Two next-token distributions with known answers: KL in closed form, ranks, ties, gaps, classes, near ties."""

import math

import pytest
import torch

from rmx.engine.entropy import compare, difference, is_near_tie, kind_of

INF = float("inf")


def logits(*probabilities: float) -> torch.Tensor:
    """A row whose softmax is these probabilities; the constant must not matter."""
    return torch.tensor([[math.log(p) + 3.7 if p else -INF for p in probabilities]])


def test_kl_in_closed_form_and_its_direction():
    found = compare(logits(0.5, 0.25, 0.25), logits(0.25, 0.25, 0.5))
    assert float(found.kl) == pytest.approx(0.25 * math.log(2), abs=1e-6)
    skewed = compare(logits(0.9, 0.1), logits(0.5, 0.5))
    assert float(skewed.kl) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), abs=1e-6)
    other = compare(logits(0.5, 0.5), logits(0.9, 0.1))  # KL is not symmetric
    assert float(other.kl) == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(5), abs=1e-6)


def test_a_token_that_the_base_excludes_adds_nothing_and_one_that_only_the_adapted_model_excludes_is_infinite():
    gone = compare(logits(0.5, 0.5, 0.0), logits(0.25, 0.25, 0.5))
    assert float(gone.kl) == pytest.approx(math.log(2), abs=1e-6)
    assert float(gone.p) == 0.0  # the adapted model's choice is one that the base excludes
    assert float(gone.base_gap) == INF
    assert float(compare(logits(0.5, 0.25, 0.25), logits(0.5, 0.5, 0.0)).kl) == INF
    both = compare(logits(0.5, 0.5, 0.0), logits(0.25, 0.75, 0.0))
    assert float(both.kl) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_equal_rows_have_no_divergence_at_all():
    row = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 8
    found = compare(row, row.clone())
    assert found.kl.tolist() == [0.0] * 5
    assert found.rank.tolist() == found.back_rank.tolist() == [1] * 5
    assert found.base_gap.tolist() == found.adapted_gap.tolist() == [0.0] * 5


def test_a_constant_added_to_all_logits_changes_nothing():
    row = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    other = row.roll(1, 0)
    a, b = compare(row, other), compare(row + 40, other - 25)
    assert torch.allclose(a.kl, b.kl, atol=1e-5)
    assert torch.equal(a.rank, b.rank)


def test_ranks_and_probabilities_both_ways():
    base = logits(0.4, 0.3, 0.2, 0.1)
    adapted = logits(0.05, 0.15, 0.2, 0.6)
    found = compare(base, adapted)
    assert (int(found.base_choice), int(found.adapted_choice)) == (0, 3)
    assert (int(found.rank), int(found.back_rank)) == (4, 4)
    assert float(found.p) == pytest.approx(0.1, abs=1e-6)
    assert float(found.back_p) == pytest.approx(0.05, abs=1e-6)
    assert float(found.base_gap) == pytest.approx(math.log(4), abs=1e-5)
    assert float(found.adapted_gap) == pytest.approx(math.log(12), abs=1e-5)
    lopsided = compare(logits(0.4, 0.3, 0.2, 0.1), logits(0.3, 0.1, 0.5, 0.1))
    assert (int(lopsided.rank), int(lopsided.back_rank)) == (3, 2)


def test_equals_share_the_better_rank():
    tied = compare(torch.tensor([[2.0, 2.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]]))
    assert (int(tied.rank), float(tied.base_gap)) == (1, 0.0)  # the base likes both alike: unshifted
    below = compare(torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.5]]), torch.tensor([[0.0, 0.0, 0.0, 9.0, 0.0]]))
    assert int(below.rank) == 3  # three equals behind two better ones
    back = compare(torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    assert (int(back.back_rank), float(back.adapted_gap)) == (1, 0.0)


@pytest.mark.parametrize(("rank", "kind"), [(1, "unshifted"), (2, "reranked"), (5, "reranked"), (6, "shifted")])
def test_the_classes_part_between_the_first_and_second_and_between_the_fifth_and_sixth(rank, kind):
    base = torch.tensor([[float(9 - i) for i in range(9)]])
    adapted = torch.zeros(1, 9)
    adapted[0, rank - 1] = 5.0
    found = compare(base, adapted)
    assert int(found.rank) == rank
    assert kind_of(int(found.rank)) == kind


@pytest.mark.parametrize(
    ("rank", "gaps", "near"),
    [
        (2, (0.2, 3.0), True),  # exactly twice the noise, under the base
        (2, (3.0, 0.2), True),  # or under the adapted model
        (2, (0.20001, 3.0), False),
        (6, (0.1, 3.0), True),
        (1, (0.0, 0.0), False),  # no disagreement, no tie
    ],
)
def test_a_near_tie_is_within_twice_the_noise(rank, gaps, near):
    assert is_near_tie(rank, *gaps, noise=0.1) is near


def test_without_noise_only_exact_ties_are_near():
    assert is_near_tie(2, 0.0, 1.0, 0.0)
    assert not is_near_tie(2, 1e-6, 1.0, 0.0)


def plain_kl(base: list[float], adapted: list[float]) -> float:
    """From the definition, in Python's 64-bit floats."""
    lse = [max(r) + math.log(math.fsum(math.exp(x - max(r)) for x in r)) for r in (base, adapted)]
    return math.fsum(math.exp(a - lse[0]) * ((a - lse[0]) - (b - lse[1])) for a, b in zip(base, adapted, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "push"), [(3.0, 0.01), (12.0, 5.0)])
def test_fp32_agrees_with_a_float64_loop(size, push):
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(2, 5000, generator=generator) * size
    adapted = base + torch.randn(2, 5000, generator=generator) * push
    found = compare(base, adapted)
    for i, (b, a) in enumerate(zip(base.tolist(), adapted.tolist(), strict=True)):
        assert float(found.kl[i]) == pytest.approx(plain_kl(b, a), abs=2e-6, rel=1e-5)
        choice = max(range(5000), key=a.__getitem__)
        assert int(found.adapted_choice[i]) == choice
        assert int(found.rank[i]) == 1 + sum(x > b[choice] for x in b)
        assert int(found.back_rank[i]) == 1 + sum(x > a[int(found.base_choice[i])] for x in a)


def test_bf16_logits_are_compared_in_fp32():
    base = torch.randn(2, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    found = compare(base, base.flip(-1))
    assert found.kl.dtype == torch.float32
    assert torch.equal(found.kl, compare(base.float(), base.flip(-1).float()).kl)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        compare(torch.zeros(2, 3), torch.zeros(2, 4))


def test_difference_counts_moved_choices_but_not_exact_ties():
    one = torch.tensor([[1.0, 0.0], [1.0, 0.9], [5.0, 5.0]])
    two = torch.tensor([[1.0, 0.25], [0.9, 1.0], [5.0, 5.0]])
    found = difference([one], [two])
    assert found.max_dlogit == pytest.approx(0.25)
    assert (found.argmax_changed, found.positions) == (1, 3)
    halves = difference([one[:1], one[1:]], [two[:1], two[1:]])
    assert halves == found


def test_a_token_that_both_exclude_is_no_difference_and_nan_is_never_taken_for_none():
    excluded = torch.tensor([[1.0, -INF]])
    assert difference([excluded], [excluded.clone()]).max_dlogit == 0.0
    assert difference([excluded], [torch.tensor([[1.0, 0.0]])]).max_dlogit == INF
    broken = torch.tensor([[float("nan"), 1.0]])
    for pair in ((broken, torch.ones(1, 2)), (torch.ones(1, 2), broken), (broken, broken)):
        assert not difference([pair[0]], [pair[1]]).max_dlogit <= 1e9


def test_nothing_read_is_no_difference():
    assert difference([], []) == (0.0, 0, 0)
