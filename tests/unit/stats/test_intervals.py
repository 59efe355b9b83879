"""Intervals: against brute force, closed forms and published examples, and whether they cover what they promise."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from rmx.stats import intervals
from rmx.stats.intervals import exact_edge, paired_difference, quotient, ratio_of_sums, share, wilson


def bounds(estimate) -> tuple[float, float]:
    return estimate["low"], estimate["high"]


# -- ratios over problems ---------------------------------------------------------------------------------------------


def every_resample(rows, figure) -> tuple[float, float]:
    """The percentile interval over all n^n resamples, each as likely as the next."""
    drawn = [figure(pick) for pick in itertools.product(rows, repeat=len(rows))]
    return tuple(np.quantile([d for d in drawn if d is not None], [0.025, 0.975]))


def test_a_ratio_of_sums_is_no_mean_of_ratios_and_its_bootstrap_is_over_problems(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 40_000)
    above, below = [1, 0, 3, 2, 5], [10, 5, 12, 20, 9]
    found = ratio_of_sums(above, below)
    assert found["value"] == pytest.approx(11 / 56)
    rows = list(zip(above, below, strict=True))
    brute = every_resample(rows, lambda pick: sum(a for a, _ in pick) / sum(b for _, b in pick))
    assert bounds(found) == pytest.approx(brute, abs=0.006)
    assert found["n"] == 5
    assert "exact" not in found


def test_a_quotient_of_means_against_every_resample(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 40_000)
    a, a_n, b, b_n = [4.0, 1.0, 0.0, 6.0], [2, 1, 0, 3], [0.5, 1.0, 0.25, 2.0], [10, 8, 5, 20]
    found = quotient(a, a_n, b, b_n)
    assert found["value"] == pytest.approx((11 / 6) / (3.75 / 43))

    def figure(pick):
        s = [sum(column) for column in zip(*pick, strict=True)]
        return (s[0] / s[1]) / (s[2] / s[3]) if s[1] else None

    brute = every_resample(list(zip(a, a_n, b, b_n, strict=True)), figure)
    assert bounds(found) == pytest.approx(brute, rel=0.03)


def test_a_bootstrap_repeats():
    assert ratio_of_sums([1, 2, 0], [5, 5, 5]) == ratio_of_sums([1, 2, 0], [5, 5, 5])


@pytest.mark.parametrize("figure", [ratio_of_sums, lambda a, b: quotient(a, b, b, b)])
def test_nothing_and_one_problem_have_no_interval(figure):
    assert figure([], []) == {"value": None, "low": None, "high": None, "n": 0}
    assert figure([0, 0], [0, 0]) == {"value": None, "low": None, "high": None, "n": 2}
    one = figure([2], [8])
    assert (one["low"], one["high"], one["n"]) == (None, None, 1)
    assert one["value"] is not None


def test_a_quotient_without_anything_under_it_is_none_and_sparse_counts_give_numbers():
    assert quotient([0, 0], [0, 0], [1, 1], [4, 4])["value"] is None
    assert quotient([1, 1], [1, 1], [0, 0], [4, 4])["value"] is None  # nothing to divide by
    sparse = quotient([2.0] + [0.0] * 9, [1.0] + [0.0] * 9, [1.0] * 10, [10.0] * 10)
    assert bounds(sparse) == pytest.approx((20.0, 20.0))
    json.dumps(sparse, allow_nan=False)


@pytest.mark.parametrize("n", [1, 10, 60, 3000])
def test_the_exact_edge_solves_its_equation(n):
    """At the limit, finding none of n is exactly as unlikely as 2.5 %: (1 - p)^n = alpha / 2."""
    assert (1 - exact_edge(n)) ** n == pytest.approx(0.025)
    assert exact_edge(0) == 1.0


def test_an_exact_bound_stands_where_nothing_or_everything_was_found():
    none = ratio_of_sums([0, 0, 0], [20, 30, 10])
    assert none == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 60)), "n": 3, "exact": True}
    every = ratio_of_sums([20, 30], [20, 30])
    assert every == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 50)), "high": 1.0, "n": 2, "exact": True}


def test_what_is_no_share_gets_no_bound_of_one():
    """A mean of nats that is 0 everywhere is no count of which none was found."""
    nats = ratio_of_sums([0.0, 0.0, 0.0], [20, 30, 10], counts=False)
    assert nats == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 3}


def clustered(draw: random.Random, problems: int) -> tuple[list[int], list[int]]:
    """Counts in problems of different lengths and difficulty; longer ones are harder."""
    above, below = [], []
    for _ in range(problems):
        length = draw.randint(20, 80)
        p = draw.betavariate(3, 60) * length / 50
        below.append(length)
        above.append(sum(draw.random() < p for _ in range(length)))
    return above, below


@pytest.mark.slow
def test_the_bootstrap_covers_a_clustered_share(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 600)
    draw = random.Random(5)
    many = clustered(draw, 60_000)
    truth = sum(many[0]) / sum(many[1])
    hits = 0
    for _ in range(300):
        low, high = bounds(ratio_of_sums(*clustered(draw, 120)))
        hits += low <= truth <= high
    assert 0.92 <= hits / 300 <= 0.98  # 93 to 97 % give or take the simulation's own error


@pytest.mark.long
def test_the_bootstrap_covers_a_clustered_share_closely(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    draw = random.Random(6)
    many = clustered(draw, 200_000)
    truth = sum(many[0]) / sum(many[1])
    hits = 0
    for _ in range(4000):
        low, high = bounds(ratio_of_sums(*clustered(draw, 120)))
        hits += low <= truth <= high
    assert 0.93 <= hits / 4000 <= 0.97


# -- paired shares ----------------------------------------------------------------------------------------------------


def outcomes(both: int, won: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """(before, after) of so many problems."""
    pairs = [(True, True)] * both + [(False, True)] * won + [(True, False)] * lost + [(False, False)] * neither
    return [b for b, _ in pairs], [a for _, a in pairs]


def test_the_published_example():
    """Newcombe 1998, method 10: of 50 pairs 36 agree in one way, 12 and 2 part."""
    found = paired_difference(*outcomes(36, 12, 2, 0))
    assert found["value"] == pytest.approx(0.2)
    assert bounds(found) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def by_hand(both: int, won: int, lost: int, neither: int) -> tuple[float, float]:
    """Method 10 from its description: Wilson limits as roots of their quadratic, phi with its correction."""
    n, z = both + won + lost + neither, 1.959964
    x, y = (both + won) / n, (both + lost) / n
    (l1, u1), (l2, u2) = (sorted(np.roots([1 + z * z / n, -(2 * p + z * z / n), p * p]).real) for p in (x, y))
    a, b = both * neither, won * lost
    numerator = max(a - b - n / 2, 0) if a > b else a - b
    below = math.sqrt((both + won) * (lost + neither) * (both + lost) * (won + neither))
    phi = numerator / below if below else 0.0
    down = math.sqrt((x - l1) ** 2 - 2 * phi * (x - l1) * (u2 - y) + (u2 - y) ** 2)
    up = math.sqrt((u1 - x) ** 2 - 2 * phi * (u1 - x) * (y - l2) + (y - l2) ** 2)
    return x - y - down, x - y + up


@pytest.mark.parametrize(
    "table",
    [(36, 12, 2, 0), (20, 12, 2, 16), (60, 15, 5, 20), (4, 3, 3, 3), (53, 1, 0, 0), (30, 20, 0, 0), (1, 97, 0, 2)],
)
def test_paired_differences_follow_the_method(table):
    found, n = paired_difference(*outcomes(*table)), sum(table)
    assert found["value"] == pytest.approx((table[1] - table[2]) / n)
    assert found["n"] == n
    assert bounds(found) == pytest.approx(by_hand(*table), abs=1e-9)


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (5, 7, 1, 30), (0, 4, 0, 0), (9, 0, 0, 9), (0, 3, 3, 0)])
def test_exchanging_before_and_after_mirrors_the_interval(table):
    before, after = outcomes(*table)
    found, other = paired_difference(before, after), paired_difference(after, before)
    assert found["value"] == -other["value"]
    assert found["low"] == pytest.approx(-other["high"])
    assert found["high"] == pytest.approx(-other["low"])


@pytest.mark.parametrize("n", [1, 10, 200])
@pytest.mark.parametrize("right", [True, False])
def test_no_change_is_0_with_an_interval_that_narrows(n, right):
    found = paired_difference([right] * n, [right] * n)
    assert found["value"] == 0
    assert found["low"] == pytest.approx(-found["high"])
    assert found["high"] == pytest.approx(1 - wilson(n, n)[0])  # one of the two may be off by its Wilson width


def test_all_won_stays_inside_1_and_nothing_asked_has_no_value():
    found = paired_difference([False] * 4, [True] * 4)
    assert found["value"] == found["high"] == 1.0
    assert 0 < found["low"] < 1
    assert paired_difference([], []) == {"value": None, "low": None, "high": None, "n": 0}


@pytest.mark.parametrize("p", [(0.5, 0.25, 0.05, 0.2), (0.7, 0.1, 0.1, 0.1), (0.2, 0.02, 0.08, 0.7)])
def test_paired_intervals_cover_what_they_promise(p):
    draw = np.random.default_rng(11)
    truth, hits, trials = p[1] - p[2], 0, 3000
    for table in draw.multinomial(100, p, size=trials):
        low, high = bounds(paired_difference(*outcomes(*table)))
        hits += low <= truth <= high
    assert 0.93 <= hits / trials <= 0.985  # the method leans to the safe side


def test_a_share_without_observations_has_no_value():
    assert share(0, 0) == {"value": None, "low": 0.0, "high": 1.0, "n": 0}
    assert share(3, 4)["value"] == 0.75


def test_wilson_solves_its_equation():
    """Its ends are the shares from which the observed one lies exactly z standard errors away."""
    for successes, n in ((3, 20), (11, 12), (0, 7)):
        for end in wilson(successes, n):
            if 0 < end < 1:
                assert abs(successes / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), abs=1e-9)
