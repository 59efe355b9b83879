"""Draws: what they depend on, and what they follow."""

import re

import pytest
import torch

from rmx.arguments import Sampling
from rmx.config import check_tau
from rmx.engine.token_draws import Chooser, draw, draw_rows, prompt_key, uniform
from rmx.errors import RmxError


def test_a_draw_depends_on_seed_prompt_sample_and_position_only():
    a, b = prompt_key([1, 2, 3]), prompt_key([1, 2, 4])
    points = {uniform(s, k, i, p) for s in (0, 1) for k in (a, b) for i in (0, 1) for p in (0, 1)}
    assert len(points) == 16
    assert uniform(0, a, 0, 0) == uniform(0, prompt_key((1, 2, 3)), 0, 0)
    assert all(0 <= u < 1 for u in points)


def test_draws_are_uniform():
    us = torch.tensor([uniform(7, b"12345678", 0, p) for p in range(20_000)])
    histogram = torch.histc(us, 10, 0, 1)
    assert ((histogram - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_frequencies_follow_the_tempered_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    n = 20_000
    u = [uniform(1, b"k", 0, i) for i in range(n)]
    counts = torch.bincount(draw_rows(logits.expand(n, -1), 0.7, 1.0, u), minlength=4)
    assert (counts / n - (logits / 0.7).softmax(-1)).abs().max() < 0.015


def test_top_p_keeps_the_token_that_crosses():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = {draw(logits, 1.0, 0.6, u / 100) for u in range(100)}
    assert drawn == {0, 1}  # 0.5 is below 0.6, the second token crosses it, the third stays out
    assert {draw(logits, 1.0, 0.5, u / 100) for u in range(100)} == {0}


def test_extremes_of_u_stay_inside():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert draw(logits, 1.0, 0.9, 0.0) == int(logits.argmax())
    assert 0 <= draw(logits, 1.0, 1.0, 1 - 2**-53) < 50


def slowly(logits: torch.Tensor, temperature: float, top_p: float, u: float) -> int:
    """The rule as a plain loop over fp64 probabilities."""
    p = (logits.double() / temperature).softmax(-1).tolist()
    order = list(range(len(p)))
    if top_p < 1:
        order.sort(key=lambda i: (-p[i], i))
        before, kept = 0.0, []
        for i in order:
            if before >= top_p:
                break
            kept.append(i)
            before += p[i]
        order = kept
    target, so_far = u * sum(p[i] for i in order), 0.0
    for i in order:
        so_far += p[i]
        if so_far > target:
            return i
    return order[-1]


@pytest.mark.parametrize("vocabulary", [2, 5, 256, 257, 619, 3000])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.9), (1.3, 0.5), (0.5, 0.999)])
def test_rows_are_drawn_as_a_plain_loop_draws_them(vocabulary, temperature, top_p):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 3 * torch.randn(64, vocabulary, generator=generator)
    logits[:, 0] = -torch.inf
    u = torch.rand(64, generator=generator, dtype=torch.float64).tolist()
    got = draw_rows(logits, temperature, top_p, u).tolist()
    assert got == [slowly(row, temperature, top_p, x) for row, x in zip(logits, u, strict=True)]


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(9, 3000, generator=torch.Generator().manual_seed(1))
    logits[4] *= 20  # a nucleus of a token or two among flat ones, whose nuclei are wider than the quick look
    u = [uniform(0, b"k", i, 0) for i in range(9)]
    for top_p in (1.0, 0.95):
        together = draw_rows(logits, 1.0, top_p, u).tolist()
        assert together == [draw(row, 1.0, top_p, x) for row, x in zip(logits, u, strict=True)]
        assert together[::-1] == draw_rows(logits.flip(0), 1.0, top_p, u[::-1]).tolist()


def test_equal_tokens_are_taken_in_the_order_of_their_ids():
    """bf16 logits are often equal; which of them a nucleus holds must not depend on how it was found."""
    flat = torch.zeros(1, 4096)
    assert [int(draw_rows(flat, 1.0, 0.5, [u])[0]) for u in (0.0, 0.5, 0.9999)] == [0, 1024, 2047]
    few = torch.full((1, 3000), -9.0)
    few[0, [7, 2000, 2999]] = 5.0
    assert [int(draw_rows(few, 1.0, 0.5, [u])[0]) for u in (0.0, 0.9)] == [7, 2000]


def test_frequencies_of_many_rows_follow_the_distribution():
    logits = 2 * torch.randn(700, generator=torch.Generator().manual_seed(3))
    n = 50_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(4), dtype=torch.float64).tolist()
    counts = torch.bincount(draw_rows(logits.expand(n, -1), 1.0, 1.0, u), minlength=700)
    expected = n * logits.softmax(-1)
    common = expected > 5
    chi = ((counts - expected)[common] ** 2 / expected[common]).sum() / common.sum()
    assert 0.8 < chi < 1.25


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((2, 600), -torch.inf)
    logits[0, [3, 400]], logits[1, 599] = 0.0, 0.0
    for top_p in (1.0, 0.9):
        assert draw_rows(logits, 1.0, top_p, [0.0, 0.0]).tolist() == [3, 599]
        assert draw_rows(logits, 1.0, top_p, [1 - 2**-53] * 2).tolist() == [400, 599]


def test_greedy_takes_the_best():
    assert Chooser(Sampling(), [1])(torch.tensor([0.0, 9.0]), 1, 0) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1e9},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"max_new_tokens": 0},
        {"seed": -1},
        {"seed": 1.5},
        {"seed": 2**63},
        {"seed": float("inf")},
        {"seed": float("nan")},
        {"seed": True},
        {"seed": "1"},
        {"top_p": float("nan")},
        {"top_p": True},
        {"temperature": float("inf")},
        {"temperature": 10**400},
        {"temperature": True},
        {"temperature": "0.5"},
        {"temperature": None},
        {"max_new_tokens": float("inf")},
        {"max_new_tokens": True},
        {"max_new_tokens": [3]},
    ],
)
def test_settings_out_of_range_are_explained(bad):
    (name, value) = next(iter(bad.items()))
    with pytest.raises(RmxError, match=f"^{name} must be a (whole )?number.*; got {re.escape(repr(value)[:3])}"):
        Sampling(**bad)


@pytest.mark.parametrize("value", [10**5000, "x" * 10**6, float("nan"), -1, True, None, "1"], ids=range(7))
def test_a_threshold_that_cannot_be_is_explained_shortly(value):
    with pytest.raises(RmxError) as refused:
        check_tau(value)
    assert len(str(refused.value)) < 200


COLD = [1e-3, 1e-30, 1e-38, 1e-45, 1e-308, 5e-324]


@pytest.mark.parametrize("top_p", [1.0, 0.9, 1e-308, 5e-324])
@pytest.mark.parametrize("temperature", COLD)
def test_the_coldest_draws_are_greedy(temperature, top_p):
    logits = 5 * torch.randn(8, 3000, generator=torch.Generator().manual_seed(2))
    logits[:, 7] = -torch.inf
    u = torch.linspace(0, 1 - 2**-53, 8, dtype=torch.float64).tolist()
    assert draw_rows(logits, temperature, top_p, u).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", COLD)
def test_equal_tokens_share_the_coldest_draws(temperature):
    logits = torch.tensor([1.0, 40.0, 2.0, 40.0])
    assert [draw(logits, temperature, 1.0, u) for u in (0.0, 0.49, 0.51, 0.99)] == [1, 1, 3, 3]


def test_a_cold_draw_keeps_what_two_near_tokens_differ_by():
    """Divided first, logits of 1e8 would be rounded to multiples of 8 before they are compared."""
    logits = torch.tensor([100.0, 100.0 - 2**-17])  # neighbours among fp32 numbers
    assert [draw(logits, 1e-6, 1.0, u) for u in (0.0, 0.9994, 0.9996)] == [0, 0, 1]
