"""Estimators of the evaluation: against brute force over every draw, closed forms, tables, and at the edges."""

import itertools
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from rmx.data.problem_sets import load_set
from rmx.evaluate.eval_report import Scored, clusters_of, crossing, model_figures, paired_figures, parts_of
from rmx.stats.intervals import exact_edge, paired_difference, share
from rmx.stats.paired import (
    difference_estimates,
    greedy_difference,
    mean_estimates,
    needed,
    sampled_differences,
    share_estimate,
    sign_flip,
    units_of,
)
from rmx.stats.pass_at_k import clopper_pearson, incomplete_beta, majority_profile, pass_at_k, powers, t_quantile

NONE = -1


def bounds(found) -> tuple[float, float]:
    return found["low"], found["high"]


def mean_estimate(values, clusters=None) -> dict:
    return mean_estimates(np.asarray(values, dtype=float)[:, None], clusters)[0]


def difference_estimate(before, after, clusters=None) -> dict:
    columns = [np.asarray(values, dtype=float)[:, None] for values in (before, after)]
    return difference_estimates(*columns, clusters)[0]


# -- pass@k -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, [c], k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_is_exact_for_256_samples():
    for c, k in [(1, 128), (3, 64), (128, 2), (200, 1), (255, 1), (2, 255), (1, 256), (0, 256)]:
        exact = 1 - Fraction(math.comb(256 - c, k), math.comb(256, k))
        assert pass_at_k(256, [c], k)[0] == float(exact)


def test_pass_at_1_is_the_share_of_right_samples_and_k_of_n_asks_for_one():
    assert pass_at_k(4, [0, 1, 4], 1).tolist() == [0.0, 0.25, 1.0]
    assert pass_at_k(4, [0, 1, 4], 4).tolist() == [0.0, 1.0, 1.0]
    assert pass_at_k([2, 4], [1, 1], 2).tolist() == [1.0, 0.5]  # problems may differ in samples


@pytest.mark.parametrize(("n", "c", "k"), [(4, [1], 5), (4, [1], 0), (4, [5], 2), (4, [-1], 2), ([4, 2], [1, 1], 3)])
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_powers_end_with_n_itself():
    assert powers(0) == ()
    assert powers(1) == (1,)
    assert powers(16) == (1, 2, 4, 8, 16)
    assert powers(12) == (1, 2, 4, 8, 12)


# -- majority@k -------------------------------------------------------------------------------------------------------


def every_vote(votes, right, k) -> float:
    """The mean credit over all subsets of k samples, by the definition."""
    is_right, credit, subsets = dict(zip(votes, right, strict=True)), Fraction(0), 0
    for pick in itertools.combinations(votes, k):
        subsets += 1
        counts = Counter(vote for vote in pick if vote != NONE)
        winners = [vote for vote, count in counts.items() if count == max(counts.values())]
        if winners:
            credit += Fraction(sum(is_right[vote] for vote in winners), len(winners))
    return float(credit / subsets)


def test_a_majority_vote_against_every_draw():
    draw = np.random.default_rng(0)
    for _ in range(120):
        n = int(draw.integers(1, 10))
        votes = draw.integers(NONE, 5, n).tolist()
        right_ones = set(draw.choice(5, int(draw.integers(0, 3)), replace=False).tolist())
        right = [vote in right_ones for vote in votes]
        ks = list(range(1, n + 1))
        brute = [every_vote(votes, right, k) for k in ks]
        assert majority_profile(votes, right, ks) == pytest.approx(brute, abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "right", "k", "credit"),
    [
        ([0, 0, 1], [True, True, False], 3, 1.0),
        ([0, 1, 1], [True, False, False], 3, 0.0),
        ([0, 1], [True, False], 2, 0.5),  # a tie is shared
        ([0, 1, 2], [True, False, False], 3, 1 / 3),
        ([0, 1, 2], [True, True, False], 3, 2 / 3),
        ([0, NONE, NONE], [True, False, False], 3, 1.0),  # no answer, no vote
        ([0, NONE, NONE], [True, False, False], 1, 1 / 3),
        ([0, NONE, NONE], [True, False, False], 2, 2 / 3),
        ([NONE, NONE], [False, False], 2, 0.0),
        ([0, 0, 1], [True, True, False], 2, 1 / 3 + 2 / 3 / 2),  # one pair agrees, two tie
    ],
)
def test_majority_votes_by_hand(votes, right, k, credit):
    assert majority_profile(votes, right, [k])[0] == pytest.approx(credit)


def test_one_vote_is_the_share_of_right_samples_and_all_votes_the_plain_majority():
    draw = np.random.default_rng(1)
    votes = draw.integers(NONE, 7, 256)
    right = votes == 3
    counts = Counter(votes[votes != NONE].tolist())
    winners = [vote for vote in counts if counts[vote] == max(counts.values())]
    found = majority_profile(votes, right, (1, 256))
    assert found == pytest.approx([right.mean(), (3 in winners) / len(winners)])


def test_the_credits_of_all_answers_add_up_to_1():
    """Whoever wins, somebody does, unless nobody votes; 256 samples, so any loss of digits would show."""
    counts = (60, 50, 40, 40, 20, 10, 5, 1, 1)
    votes = [answer for answer, count in enumerate(counts) for _ in range(count)] + [NONE] * (256 - sum(counts))
    ks = powers(256)
    total = sum(majority_profile(votes, [v == answer for v in votes], ks) for answer in range(len(counts)))
    silent = [math.comb(votes.count(NONE), k) / math.comb(256, k) for k in ks]
    assert total == pytest.approx(1 - np.array(silent), abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "right", "k"),
    [([0, 1], [True, False], 3), ([0, 1], [True, False], 0), ([0, 0], [True, False], 1), ([NONE], [True], 1)],
)
def test_votes_that_contradict_themselves_are_refused(votes, right, k):
    with pytest.raises(ValueError):
        majority_profile(votes, right, [k])


# -- quantiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dof", "t"),
    [(1, 12.7062), (2, 4.30265), (4, 2.77645), (10, 2.22814), (17, 2.10982), (29, 2.04523), (1e7, 1.95996)],
)
def test_student_quantiles_are_those_of_the_tables(dof, t):
    assert t_quantile(dof) == pytest.approx(t, abs=1e-5)


def test_the_incomplete_beta_is_a_binomial_tail():
    """I_x(a, n - a + 1) is the chance of at least a heads in n throws."""
    for n, a, x in [(5, 2, 0.3), (20, 19, 0.9), (60, 1, 0.02), (200, 120, 0.6)]:
        tail = sum(math.comb(n, i) * x**i * (1 - x) ** (n - i) for i in range(a, n + 1))
        assert incomplete_beta(x, a, n - a + 1) == pytest.approx(tail, rel=1e-10)


def test_clopper_pearson_solves_its_equations():
    low, high = clopper_pearson(3, 10)
    assert (low, high) == pytest.approx((0.0667395, 0.6524529), abs=1e-6)
    assert sum(math.comb(10, i) * low**i * (1 - low) ** (10 - i) for i in range(3, 11)) == pytest.approx(0.025)
    assert sum(math.comb(10, i) * high**i * (1 - high) ** (10 - i) for i in range(4)) == pytest.approx(0.025)
    assert clopper_pearson(0, 60) == (0.0, pytest.approx(exact_edge(60)))
    assert clopper_pearson(60, 60) == (pytest.approx(1 - exact_edge(60)), 1.0)


# -- intervals over problems and clusters -----------------------------------------------------------------------------


def test_a_bootstrap_is_over_problems_and_repeats():
    values = np.random.default_rng(2).beta(2, 2, 120)
    found = mean_estimate(values)
    assert found["value"] == pytest.approx(values.mean())
    assert found["n"] == 120
    error = values.std(ddof=1) / math.sqrt(120)
    assert bounds(found) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error
    )
    assert found == mean_estimate(values)
    assert "exact" not in found


@pytest.mark.parametrize("size", [20, 120])
def test_clusters_of_one_are_problems(size):
    draw = np.random.default_rng(3)
    old, new = draw.random(size), draw.random(size)
    marks, alone = draw.random(size) < 0.5, [f"p{i}" for i in range(size)]
    assert mean_estimate(old, alone) == mean_estimate(old)
    assert difference_estimate(old, new, alone) == difference_estimate(old, new)
    assert share_estimate(marks, alone) == share_estimate(marks) == share(int(marks.sum()), size)
    assert greedy_difference(marks, old < 0.5, alone) == greedy_difference(marks, old < 0.5)


def test_clusters_that_agree_within_widen_every_interval():
    """Sixty wordings, each asked five times with the same outcome, tell no more than sixty problems."""
    by_wording = np.random.default_rng(4).random(60) < 0.5
    marks, labels = np.repeat(by_wording, 5), np.repeat(np.arange(60), 5).tolist()
    values, changed = marks.astype(float), ~marks

    def width(found):
        return found["high"] - found["low"]

    assert width(mean_estimate(values, labels)) == pytest.approx(
        width(mean_estimate(by_wording.astype(float))), rel=1e-9
    )
    assert width(mean_estimate(values, labels)) > 1.8 * width(mean_estimate(values))
    assert width(share_estimate(marks, labels)) > 1.8 * width(share_estimate(marks))
    assert width(difference_estimate(values, changed, labels)) > 1.8 * width(difference_estimate(values, changed))


def test_few_clusters_by_hand():
    """Six clusters of two: linearised standard error, t of 3 degrees of freedom."""
    old, new = np.zeros(12), np.array([0.5, 0.3, 0.4, 0.4, 0.1, 0.3, 0.2, 0.4, 0.3, 0.5, 0.0, 0.4])
    labels = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    means = new.reshape(6, 2).mean(axis=1)
    half = t_quantile(5) * means.std(ddof=1) / math.sqrt(6)
    assert bounds(difference_estimate(old, new, labels)) == pytest.approx((means.mean() - half, means.mean() + half))


def test_unequal_clusters_weigh_by_their_problems():
    values = np.array([1.0] * 6 + [0.0] * 2)
    found = mean_estimate(values, [0] * 6 + [1, 2])
    assert found["value"] == pytest.approx(0.75)  # not 1/3, the mean of cluster means
    assert found["n"] == 8


def test_lone_problems_and_clusters_are_strata():
    """That wordings are harder than numbers is no uncertainty: how many there are of each is fixed."""
    labels = list(range(30)) + [100 + i // 5 for i in range(50)]
    units = units_of(80, labels)
    assert [len(part) for part in units.strata] == [30, 10]
    draw = np.random.default_rng(5)
    noise = draw.uniform(-0.05, 0.05, 80)
    apart = np.array([0.9] * 30 + [0.3] * 50) + noise
    found, alike = mean_estimate(apart, labels), mean_estimate(np.full(80, 0.5) + noise, labels)
    assert found["high"] - found["low"] == pytest.approx(alike["high"] - alike["low"], rel=0.05)
    assert [len(part) for part in units_of(6, [0, 1, 2, 2, 3, 3]).strata] == [4]  # too few of a sort: one stratum


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("clusters", "units"), [(None, 60), ([i // 3 for i in range(60)], 20)])
def test_saturation_gets_an_exact_bound_over_units(value, clusters, units):
    found = mean_estimate([value] * 60, clusters)
    edge = exact_edge(units)
    assert found["exact"] is True
    assert bounds(found) == pytest.approx((0, edge) if value == 0 else (1 - edge, 1))
    assert found["n"] == 60


def test_saturation_of_strata_is_that_of_the_few_wordings():
    """All right in 60 lone problems and in 6 wordings: the wordings, a quarter of the set, are the less known part."""
    labels = list(range(60)) + [100 + i // 4 for i in range(24)]
    found = mean_estimate([1.0] * 84, labels)
    distance = math.hypot(60 / 84 * exact_edge(60), 24 / 84 * exact_edge(6))
    assert bounds(found) == pytest.approx((1 - distance, 1.0))
    assert found["exact"] is True


def test_next_to_saturation_the_bound_is_exact_too_and_wilson_takes_over_from_the_bootstrap():
    near = mean_estimate([1.0] * 98 + [0.0] * 2)
    assert near["exact"] is True
    assert bounds(near) == pytest.approx(clopper_pearson(98, 100))
    further = mean_estimate([1.0] * 90 + [0.0] * 10)
    assert "exact" not in further
    assert bounds(further) == pytest.approx(bounds(share(90, 100)), abs=0.002)


def test_problems_that_all_agree_inside_get_a_bound_and_not_a_point():
    found = mean_estimate([0.5] * 40)
    assert found["exact"] is True
    assert found["low"] < 0.4
    assert found["high"] > 0.6


def test_no_change_at_all_is_known_to_an_exact_edge():
    found = difference_estimate([0.25] * 50, [0.25] * 50)
    assert found["value"] == 0
    assert bounds(found) == pytest.approx((-exact_edge(50), exact_edge(50)))
    assert found["exact"] is True
    every = difference_estimate([0.0] * 50, [1.0] * 50)
    assert every["value"] == every["high"] == 1.0
    assert 0.85 < every["low"] < 1


def test_means_that_are_no_shares_are_refused():
    with pytest.raises(ValueError, match="share"):
        mean_estimate([3.0, 0.5])


def test_nothing_and_one_unit_have_no_interval():
    assert mean_estimate([]) == {"value": None, "low": None, "high": None, "n": 0}
    assert difference_estimate([], []) == {"value": None, "low": None, "high": None, "n": 0}
    assert mean_estimate([0.25]) == {"value": 0.25, "low": None, "high": None, "n": 1}
    assert mean_estimate([0.25, 0.75], ["a", "a"]) == {"value": 0.5, "low": None, "high": None, "n": 2}
    assert share_estimate([True, False], ["a", "a"]) == {"value": 0.5, "low": None, "high": None, "n": 2}
    with pytest.raises(ValueError, match="labels"):
        mean_estimate([0.25, 0.75], ["a"])


def test_very_many_problems_are_resampled_in_blocks():
    values = np.random.default_rng(6).random(5000)
    found = mean_estimate(values)
    error = values.std() / math.sqrt(5000)
    assert bounds(found) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


# -- paired figures ---------------------------------------------------------------------------------------------------


def test_mcnemar_against_the_binomial():
    for won, lost in itertools.product(range(9), range(9)):
        n, fewer = won + lost, min(won, lost)
        tail = sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n
        assert sign_flip([1] * won + [-1] * lost) == pytest.approx(min(1.0, 2 * tail))
    assert sign_flip([1] * 0 + [-1] * 0) == 1.0
    assert sign_flip([1] * 10 + [-1] * 2) == pytest.approx(0.03857421875)  # 2 (1 + 12 + 66) / 4096


def test_sign_flips_against_every_pattern():
    for nets in ([3, -1, 2, 0, 2], [1, 1, -1], [5], [-4, 4], [2, 2, 2, -1, 1, -3]):
        sums = [
            sum(s * x for s, x in zip(signs, nets, strict=True))
            for signs in itertools.product((1, -1), repeat=len(nets))
        ]
        assert sign_flip(nets) == pytest.approx(sum(abs(s) >= abs(sum(nets)) for s in sums) / len(sums))


def test_a_greedy_difference_is_newcombes_with_its_counts():
    before = [True] * 20 + [False] * 12 + [True] * 2 + [False] * 16
    after = [True] * 20 + [True] * 12 + [False] * 2 + [False] * 16
    found = greedy_difference(before, after)
    assert {key: found[key] for key in ("value", "low", "high", "n")} == paired_difference(before, after)
    assert (found["won"], found["lost"]) == (12, 2)
    assert found["p"] == pytest.approx(sign_flip([1] * 12 + [-1] * 2))
    spread = math.sqrt((14 - 50 * 0.2**2) / 49)
    assert found["needed"] == math.floor((1.959964 * spread / 0.2) ** 2) + 1 == 24


def test_a_clustered_greedy_difference_counts_wordings():
    """Ten wordings of five: four won whole, none lost. The problems look sure, the wordings are not."""
    before, after = [False] * 50, [True] * 20 + [False] * 30
    labels = [i // 5 for i in range(50)]
    alone, clustered = greedy_difference(before, after), greedy_difference(before, after, labels)
    assert (clustered["won"], clustered["lost"]) == (20, 0)
    assert clustered["p"] == pytest.approx(2 / 2**4)
    assert alone["p"] < 1e-5
    assert clustered["low"] < alone["low"]
    assert clustered["needed"] > alone["needed"]


def test_needed_is_where_the_interval_leaves_0():
    """Value less z standard errors is above 0 from `needed` problems on, and not before."""
    assert needed(0.0, 0.3) is None
    assert needed(0.1, 0.5) == 97  # (1.96 * 0.5 / 0.1)^2 = 96.04
    assert needed(-0.1, 0.5) == 97
    assert needed(0.5, 0.0) == 1
    n = needed(0.02, 0.37)
    assert 1.959964 * 0.37 / math.sqrt(n) < 0.02
    assert 1.959964 * 0.37 / math.sqrt(n - 1) >= 0.02


def test_needed_agrees_with_the_interval_shown():
    draw = np.random.default_rng(7)
    seen = Counter()
    for _ in range(60):
        before = draw.random(80) < 0.5
        after = np.where(draw.random(80) < 0.3, draw.random(80) < 0.65, before)
        for found in (greedy_difference(before, after), *sampled_differences(before[:, None], after[:, None])):
            if found["value"]:
                excluded = found["low"] > 0 or found["high"] < 0
                assert (found["needed"] <= 80) == excluded
                seen[excluded] += 1
    assert min(seen.values()) > 5


# -- figures ----------------------------------------------------------------------------------------------------------


def scored(counts, n: int, greedy=None, unparsed: int = 0) -> Scored:
    """So many right samples of n in each problem; wrong ones all give one answer, the last few none at all."""
    right = np.arange(n)[None, :] < np.asarray(counts)[:, None]
    votes = np.where(right, 0, 1)
    votes[:, n - unparsed :] = NONE
    marks = None if greedy is None else np.asarray(greedy, dtype=bool)
    no = None if greedy is None else np.zeros(len(right), dtype=bool)
    return Scored(marks, right, votes, no, no, np.zeros_like(right), votes == NONE)


def crossing_from(before, after, ks) -> dict:
    """The crossing that the marks of two models show."""
    return crossing({int(k): found for k, found in paired_figures(before, after, ks)["pass@k"].items()})


def test_the_figures_of_a_model_by_hand():
    found = model_figures(scored([4, 2, 0], 4, greedy=[True, True, False], unparsed=0), (1, 2, 4))
    assert found["greedy"] == share(2, 3)
    assert [found["pass@k"][k]["value"] for k in ("1", "2", "4")] == pytest.approx([0.5, (1 + 5 / 6) / 3, 2 / 3])
    assert [found["majority"][k]["value"] for k in ("1", "2", "4")] == pytest.approx([0.5, 0.5, 0.5])
    assert found["avg"] == found["pass@k"]["1"]
    assert found["truncated"] == {"greedy": 0, "sampled": 0}
    json.dumps(found, allow_nan=False)


def test_samples_without_an_answer_are_counted_and_cast_no_vote():
    found = model_figures(scored([2, 2], 4, unparsed=2), (4,))
    assert found["unparsed"] == {"greedy": 0, "sampled": 4}
    assert found["majority"]["4"]["value"] == 1.0


def test_greedy_alone_and_sampling_alone():
    quick = scored([0, 0], 0, greedy=[True, False])
    assert model_figures(quick, ())["greedy"]["value"] == 0.5
    assert model_figures(quick, ())["pass@k"] == {}
    assert model_figures(quick, ())["avg"]["value"] is None
    assert paired_figures(quick, quick, ())["greedy"]["value"] == 0
    sampled = scored([1, 2], 4)
    assert model_figures(sampled, (1,))["greedy"]["value"] is None
    assert paired_figures(sampled, sampled, (1,))["greedy"]["needed"] is None
    json.dumps([model_figures(quick, ()), paired_figures(sampled, sampled, (1,))], allow_nan=False)


def test_no_complete_problem_yet_has_no_values():
    nothing = scored(np.zeros(0, dtype=int), 4, greedy=[])
    found = {**model_figures(nothing, (1, 4)), "paired": paired_figures(nothing, nothing, (1, 4))}
    assert found["pass@k"]["4"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["paired"]["pass@k"]["4"]["value"] is None
    assert crossing_from(nothing, nothing, (1, 4))["k"] is None
    json.dumps(found, allow_nan=False)


def test_paired_figures_are_on_the_same_problems():
    old, new = scored([1, 2, 0, 4] * 30, 4, [False, True] * 60), scored([2, 2, 1, 4] * 30, 4, [True, True] * 60)
    found = paired_figures(old, new, (1, 4))
    assert found["pass@k"]["1"]["value"] == pytest.approx(0.125)
    assert found["pass@k"]["1"]["low"] > 0
    assert found["pass@k"]["1"]["needed"] <= 120
    assert found["pass@k"]["4"]["value"] == pytest.approx(0.25)
    assert found["greedy"]["won"] == 60
    swapped = paired_figures(new, old, (1, 4))
    assert swapped["pass@k"]["1"]["value"] == pytest.approx(-0.125)


# -- crossings --------------------------------------------------------------------------------------------------------


def differences(*rows) -> dict:
    """(k, value, low, high) in points."""
    return {k: {"value": v / 100, "low": low / 100, "high": high / 100, "n": 100} for k, v, low, high in rows}


@pytest.mark.parametrize(
    ("rows", "k", "sure", "sentence"),
    [
        (
            [(1, 5, 2, 8), (64, 1, -0.5, 2.5)],
            None,
            False,
            "pass@k does not cross up to k = 64: rl stays +1.0 points [-0.5, +2.5] ahead of base, "
            "which may be chance: the interval includes zero.",
        ),
        (
            [(1, 5, 2, 8), (64, 3, 0.5, 5)],
            None,
            False,
            "pass@k does not cross up to k = 64: rl stays +3.0 points [+0.5, +5.0] ahead of base.",
        ),
        (
            [(1, 5, 2, 8), (8, -3, -5, -1)],
            8,
            True,
            "pass@k crosses at k = 8: rl is +5.0 points [+2.0, +8.0] ahead of base at k = 1 and "
            "-3.0 points [-5.0, -1.0] behind base at k = 8, and both intervals exclude zero.",
        ),
        (
            [(1, 5, 2, 8), (8, -1, -3, 1)],
            8,
            False,
            "pass@k crosses at k = 8, where rl is -1.0 points [-3.0, +1.0] behind base, "
            "but the interval there includes zero: not enough data.",
        ),
        (
            [(1, 5, -2, 12), (8, -3, -5, -1)],
            8,
            False,
            "pass@k crosses at k = 8, where rl is -3.0 points [-5.0, -1.0] behind base, "
            "but the intervals before it include zero: not enough data.",
        ),
        (
            [(1, -2, -4, 0.5), (8, -3, -5, -1)],
            None,
            False,
            "Nothing crosses: rl is not ahead at any k; at k = 8 it is -3.0 points [-5.0, -1.0] behind base.",
        ),
        (
            [(1, -2, -4, 0.5), (8, 3, 1, 5)],
            None,
            False,
            "pass@k does not cross up to k = 8: rl starts behind and is +3.0 points [+1.0, +5.0] ahead of base.",
        ),
        (
            [(1, 5, 2, 8), (8, 0, -1, 1)],
            None,
            False,
            "pass@k does not cross up to k = 8: rl starts ahead and is level with base [-1.0, +1.0], "
            "which may be chance: the interval includes zero.",
        ),
        (
            [(4, 5, 2, 8)],
            None,
            False,
            "Only k = 4 was measured, and a crossing takes two; there, rl is +5.0 points [+2.0, +8.0] ahead of base.",
        ),
        ([], None, False, "No problem has samples of both yet, so there is nothing to compare."),
    ],
)
def test_crossings_and_their_sentences(rows, k, sure, sentence):
    found = crossing(differences(*rows), ("base", "rl"))
    assert (found["k"], found["sure"], found["sentence"]) == (k, sure, sentence)
    assert (found["name"], found["against"]) == ("rl", "base")


def test_a_crossing_is_sure_of_its_range_when_only_its_first_k_is_not():
    found = crossing(differences((1, 5, 2, 8), (2, 1, -1, 3), (4, -1, -3, 1), (8, -4, -6, -2)))
    assert (found["k"], found["sure"], found["from"], found["to"]) == (4, True, 1, 8)
    assert "at k = 4 itself the interval includes zero" in found["sentence"]


def test_a_second_crossing_back_is_told():
    found = crossing(differences((1, 5, 2, 8), (2, -1, -3, 1), (4, 2, 1, 3)))
    assert found["k"] == 2
    assert found["sure"] is False
    assert found["sentence"].endswith("At k = 4, rl is ahead again.")


def test_a_narrowing_adapter_crosses_from_marks():
    """The adapted model is right always or never, the base now and then: ahead at k = 1, behind at k = 8."""
    base, adapted = scored([2] * 200, 8), scored(([8] * 3 + [0] * 2) * 40, 8)
    found = crossing_from(base, adapted, (1, 8))
    assert (found["k"], found["sure"]) == (8, True)
    assert crossing_from(adapted, base, (1, 8))["k"] is None


# -- clusters of the bundled set --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "numbers", "wordings"), [("test", 300, 100), ("validation", 150, 50)])
def test_held_out_wordings_of_mini_are_clusters(split, numbers, wordings):
    problems = load_set(f"mini:{split}")
    labels, what = clusters_of(problems)
    parts = parts_of(problems)
    assert what == "wording"
    assert Counter(parts) == {"held-out numbers": numbers, "held-out wordings": wordings}
    by_part = {part: [x for x, its in zip(labels, parts, strict=True) if its == part] for part in set(parts)}
    assert len(set(by_part["held-out numbers"])) == numbers
    assert len(set(by_part["held-out wordings"])) == 18
    openings = {}
    for problem, label in zip(problems, labels, strict=True):
        openings.setdefault(label, []).append(problem.problem)
    asked = openings[next(label for label in by_part["held-out wordings"])]
    shared = set.intersection(*(set(text.split()) for text in asked))
    assert len(shared) >= 5  # one wording: the same words but for names, things and numbers


def test_other_sets_and_single_parts_have_neither():
    assert clusters_of(load_set("arith:test")) == (None, None)
    assert parts_of(load_set("arith:test")) is None
    assert clusters_of([]) == (None, None)
    training = load_set("mini:train")[:20]
    assert clusters_of(training) == (None, None)
    assert parts_of(training) is None
    lone = [p for p, part in zip(load_set("mini:test"), parts_of(load_set("mini:test")), strict=True) if "num" in part]
    assert clusters_of(lone[:30]) == (None, None)
    mixed = load_set("mini:test")[:3] + load_set("arith:test")[:3]
    assert clusters_of(mixed) == (None, None)
