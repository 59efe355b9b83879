"""Flip rates counted by hand, and the same answers as swaps one by one."""

import random

import pytest

from rmx.arguments import Sampling
from rmx.data.problem_sets import load_set
from rmx.explore.flip_rates import Flip, bench_forks, summary, swaps_of
from rmx.explore.generate import Generation, Job, swap


def flip(problem, pos, p, was, now, fork=True):
    return Flip(problem, fork, pos, p, was, now, was != now)


def test_rates_are_counted_as_defined():
    flips = [flip("a", 1, 0.3, False, True), flip("a", 1, 0.1, False, False), flip("a", 5, 0.2, False, True),
             flip("b", 2, 0.4, True, True)]  # fmt: skip
    got = summary(flips)
    assert (got["places"], got["swaps"]) == (3, 4)
    assert got["flip"]["value"] == 0.5
    assert got["wrong_to_right"] | {"low": 0, "high": 0} == {"value": pytest.approx(2 / 3), "low": 0, "high": 0, "n": 3}
    assert got["right_to_wrong"]["value"] == 0
    assert got["weighted_flip_per_place"] == pytest.approx(0.5 / 3)
    assert got["places_that_can_flip"]["value"] == pytest.approx(2 / 3)
    assert got["flip"]["low"] < 0.5 < got["flip"]["high"]


def test_nothing_measured_is_no_number():
    assert summary([])["flip"] == {"value": None, "low": 0.0, "high": 1.0, "n": 0}


@pytest.mark.slow
def test_batched_swaps_reach_the_answers_of_single_swaps(mini):
    problem = load_set("mini")[0]
    job = Job(mini.prompt_ids(problem.problem), Sampling(max_new_tokens=160), 1.0, known=problem.answer)
    trace = Generation(mini, job).run()
    flips = list(swaps_of(mini, problem, 1.0, random.Random(0)))
    forks = [t for t in trace.tokens if t.entropy > 1.0]
    assert sorted({f.pos for f in flips if f.fork}) == [t.pos for t in forks]
    for token in forks:
        for candidate in token.top[:5]:
            if candidate.id == token.id:
                continue
            _, branch = swap(mini, job, trace, token.pos, candidate.id)
            found = next(f for f in flips if f.pos == token.pos and f.p == pytest.approx(candidate.p, rel=1e-3))
            assert found.is_right == bool(branch.answer.correct)
            assert found.other_answer == (branch.answer.text != trace.answer.text)


@pytest.mark.long
def test_forks_of_mini_flip_more_often_than_other_places(mini):
    got = bench_forks(mini, limit=12)
    assert got["forks"]["flip"]["value"] > got["elsewhere"]["weighted_flip_per_place"]
    assert got["forks"]["weighted_flip_per_place"] > 3 * got["elsewhere"]["weighted_flip_per_place"]
