"""Intervals that hold whenever one stops: against the formula on a grid, and by simulation under the very rule."""

from math import factorial, prod
from statistics import NormalDist

import numpy as np
import pytest

from rmx.stats.intervals import anytime, decide, rule, wilson

ALPHA = 0.05 / 5


def ratio_on_a_grid(s: int, n: int, p: np.ndarray) -> np.ndarray:
    """B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) by products, over the likelihood."""
    mixture = prod(i + 0.5 for i in range(s)) * prod(i + 0.5 for i in range(n - s)) / factorial(n)
    with np.errstate(over="ignore", divide="ignore"):
        return mixture / (p**s * (1 - p) ** (n - s))


@pytest.mark.parametrize(("s", "n"), [(0, 1), (1, 1), (0, 8), (3, 8), (8, 8), (20, 24), (32, 64), (1, 64), (64, 64)])
@pytest.mark.parametrize("alpha", [0.05, ALPHA])
def test_it_is_the_set_that_the_formula_describes(s, n, alpha):
    grid = np.linspace(0, 1, 100_001)[1:-1]
    inside = grid[ratio_on_a_grid(s, n, grid) < 1 / alpha]
    low, high = anytime(s, n, alpha)
    assert low == pytest.approx(inside[0] if s else 0.0, abs=1.1e-5)
    assert high == pytest.approx(inside[-1] if s < n else 1.0, abs=1.1e-5)


def test_edges():
    assert anytime(0, 0) == (0.0, 1.0)
    assert anytime(0, 24, ALPHA)[0] == 0.0
    assert anytime(24, 24, ALPHA)[1] == 1.0
    assert anytime(10_000, 20_000, ALPHA)[1] < 0.525
    low, high = anytime(3, 20, ALPHA)
    assert anytime(17, 20, ALPHA) == pytest.approx((1 - high, 1 - low))


def test_it_is_wider_than_the_interval_for_one_look():
    for s, n in [(0, 24), (12, 24), (40, 64)]:
        low, high = anytime(s, n, 0.05)
        one_low, one_high = wilson(s, n)
        assert low <= one_low + 1e-12
        assert high >= one_high


@pytest.mark.parametrize(
    ("intervals", "margin", "verdict"),
    [
        ([(0.0, 0.3), (0.4, 0.9)], 0.3, "decides"),
        ([(0.0, 0.4), (0.4, 0.9)], 0.3, "open"),  # they touch
        ([(0.0, 0.2), (0.1, 0.9), (0.3, 0.95)], 0.3, "decides"),
        ([(0.1, 0.3), (0.15, 0.39)], 0.3, "same"),
        ([(0.1, 0.3), (0.15, 0.4)], 0.3, "open"),  # a span of the margin itself is not below it
        ([(0.0, 0.05), (0.06, 0.1)], 0.3, "decides"),  # a small difference is a difference
        ([(0.0, 1.0)] * 5, 0.3, "open"),
    ],
)
def test_the_verdict(intervals, margin, verdict):
    assert decide(intervals, margin) == verdict


def test_the_rule_is_a_sentence_with_its_numbers():
    said = rule(0.3, 64, 50_000)
    assert "0.3" in said
    assert "64 samples" in said
    assert "50,000 tokens" in said


# -- coverage at the stopping time ------------------------------------------------------------------------------------

PROBABILITIES = [
    [0.5, 0.5, 0.5, 0.5, 0.5],
    [0.2, 0.2, 0.2, 0.2, 0.2],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0, 1.0, 1.0],
    [1.0, 0.0, 0.0, 0.0, 0.0],
    [0.9, 0.1, 0.5, 0.5, 0.5],
    [0.6, 0.5, 0.5, 0.4, 0.4],
    [0.02, 0.5, 0.98, 0.5, 0.5],
    [0.05, 0.05, 0.05, 0.05, 0.05],
]


def covered(p, interval, trials=2000, samples=128, round_size=8, margin=0.3, seed=0):
    """Share of trials in which all five intervals hold p when sampling stops, and the shares of the verdicts."""
    p = np.array(p)
    hits = (np.random.default_rng(seed).random((trials, len(p), samples)) < p[:, None]).cumsum(-1)
    held = np.zeros(trials, bool)
    going = np.ones(trials, bool)
    verdicts = {"decides": 0, "same": 0, "open": 0}
    for n in range(round_size, samples + 1, round_size):
        table = [interval(s, n) for s in range(n + 1)]
        for trial in np.flatnonzero(going):
            found = [table[s] for s in hits[trial, :, n - 1]]
            verdict = decide(found, margin)
            if verdict != "open" or n == samples:
                going[trial] = False
                verdicts[verdict] += 1
                held[trial] = all(low <= q <= high for (low, high), q in zip(found, p, strict=True))
    return held.mean(), {name: count / trials for name, count in verdicts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("p", PROBABILITIES, ids=str)
def test_all_five_intervals_hold_together_when_the_rule_stops(p):
    held, _ = covered(p, lambda s, n: anytime(s, n, ALPHA))
    assert held >= 0.95 - 3 * (0.05 * 0.95 / 2000) ** 0.5


def test_the_rule_finds_what_is_there():
    ours = {str(p): covered(p, lambda s, n: anytime(s, n, ALPHA), trials=300)[1] for p in PROBABILITIES}
    assert ours["[1.0, 0.0, 0.0, 0.0, 0.0]"]["decides"] == 1
    assert ours["[0.9, 0.1, 0.5, 0.5, 0.5]"]["decides"] > 0.99
    assert ours["[0.0, 0.0, 0.0, 0.0, 0.0]"]["same"] == 1
    assert ours["[0.5, 0.5, 0.5, 0.5, 0.5]"]["decides"] < 0.05


def test_the_usual_interval_does_not_hold_at_the_stopping_time():
    """Wilson's, even at the level that five alternatives ask for: the tests above are no formality."""
    z = NormalDist().inv_cdf(1 - ALPHA / 2)
    held = [
        covered(p, lambda s, n: wilson(s, n, z))[0] for p in ([0.6, 0.5, 0.5, 0.4, 0.4], [0.02, 0.5, 0.98, 0.5, 0.5])
    ]
    assert max(held) < 0.94
    assert covered([0.5] * 5, wilson)[0] < 0.75
