"""Draws: what they depend on, and what they follow."""

import pytest
import torch

from rmx.config import Sampling
from rmx.errors import RmxError
from rmx.sampling import Chooser, draw, prompt_key, uniform


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
    counts = torch.zeros(4)
    for i in range(n):
        counts[draw(logits, 0.7, 1.0, uniform(1, b"k", 0, i))] += 1
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
    ],
)
def test_settings_out_of_range_are_explained(bad):
    with pytest.raises(RmxError, match=str(next(iter(bad.values())))[:3]):
        Sampling(**bad)
