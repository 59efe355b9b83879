"""The null swap changes nothing, resampling is seeded, and both are counted with n and interval."""

import json

import pytest

from rmx.claims import readings as from_sampling
from rmx.claims.studies import Swaps
from rmx.cli.main import main
from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.explore.flip_rates import ARMS, Flip, ProblemControls, Tried, controls_of, summarise
from tests.unit.claims.test_claims import subject

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("problems", "least"), [(1, 1), pytest.param(3, 10, marks=pytest.mark.long)])
def test_forcing_the_token_that_is_there_changes_no_token(mini, problems, least):
    null = second = 0
    for problem in load_set("mini")[:problems]:
        found = controls_of(mini, problem, 0.6)
        assert len(found.tried) == found.forks * len(ARMS)
        for tried in found.tried:
            if tried.arm == "null":
                assert tried.same_tokens
                assert not tried.flipped
                assert not tried.other_answer
                null += 1
            second += tried.arm == "second" and tried.same_tokens
    assert null > least
    assert second == 0  # another token was really forced


@pytest.mark.long
def test_the_null_swap_is_exact_on_a_real_model(smol):
    found = controls_of(smol, load_set("arith")[1], tau=3.0, max_new=24)
    null = [t for t in found.tried if t.arm == "null"]
    assert null
    assert all(t.same_tokens and not t.other_answer for t in null)


@pytest.mark.long
def test_draws_repeat_with_their_seed(mini):
    problem = load_set("mini")[0]
    runs = [controls_of(mini, problem, 0.6, temperature=1.5, seed=seed).tried for seed in (7, 7, 8)]
    assert runs[0] == runs[1]
    assert len({tuple(t for t in run if t.arm == "resampled") for run in runs}) > 1


@pytest.mark.long
def test_a_cold_resampling_is_the_greedy_solution(mini):
    """At a temperature of almost 0 nothing that is drawn differs: the sampled road grades as the greedy one does."""
    for problem in load_set("mini")[:3]:
        by = {arm: [t for t in controls_of(mini, problem, 1.0, temperature=1e-6).tried if t.arm == arm] for arm in ARMS}
        assert all(t.same_tokens and not t.other_answer for t in by["resampled"])
        pairs = zip(by["second"], by["second_sampled"], strict=True)
        assert all((a.flipped, a.other_answer) == (b.flipped, b.other_answer) for a, b in pairs)


def tried(arm, pos, flipped):
    return Tried(arm, pos, flipped, flipped, not flipped)


def controls(problems=40, tokens=100, null=False):
    """Two forks a problem: the second choice flips at the first, resampling at the first of every fourth problem."""

    def flips(arm, pos, i):
        return {"second": pos == 1, "null": null, "resampled": pos == 1 and i % 4 == 0}.get(arm, False)

    return tuple(
        ProblemControls(str(i), tokens, 2, tuple(tried(a, pos, flips(a, pos, i)) for pos in (1, 2) for a in ARMS))
        for i in range(problems)
    )


def test_rates_are_over_forks_with_intervals_over_problems():
    found = summarise((*controls(), ProblemControls("none", 30, 0, ())))
    assert (found["problems"], found["forks"]) == (40, 80)
    assert found["second"]["flip"]["value"] == pytest.approx(0.5)
    assert found["resampled"]["flip"]["value"] == pytest.approx(10 / 80)
    assert found["resampled"]["flip"]["low"] < 10 / 80 < found["resampled"]["flip"]["high"]
    assert found["null"]["flip"] | {"high": 0} == {"value": 0.0, "low": 0.0, "high": 0, "n": 40, "exact": True}
    assert 0 < found["null"]["flip"]["high"] < 0.06  # 80 forks without one
    assert found["null"]["same_tokens"] == 80
    assert summarise(())["null"]["flip"]["value"] is None


def read(of):
    flips = [Flip(str(i), True, 1, 0.4, False, True, True) for i in range(40)]
    flips += [Flip(str(i), False, 7, 0.01, False, i % 2 == 0, True) for i in range(40)]
    return from_sampling.swaps(Swaps(tuple(map(str, range(40))), tuple(flips), of), subject())


def test_the_control_row_of_claims_carries_them():
    reading = read(controls())
    assert "80 forks of 40 problems" in reading.text
    assert "the token that is there 0 %" in reading.text
    assert "the same tokens in 80" in reading.text
    assert {"second", "null", "second_sampled", "resampled"} <= reading.figures.keys()
    assert reading.judged.verdict == "agrees"
    assert read(controls(null=True)).judged.verdict == "no verdict"
    assert "80 of 80 forks" in read(controls(null=True)).judged.why
    assert "more than a fifth" in read(controls(tokens=9)).judged.why


def test_the_bench_prints_them(capsys):
    assert main(["bench", "forks", "--limit", "1", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["controls"]["null"]["flip"]["value"] == 0
    assert found["controls"]["null"]["same_tokens"] == found["controls"]["forks"] > 0
    assert found["controls"]["temperature"] == 1.0
    assert main(["bench", "forks", "--limit", "1"]) == 0
    assert "null" in capsys.readouterr().out
    assert main(["bench", "forks", "--limit", "0"]) == 2
    assert main(["bench", "forks", "--limit", "1", "--temperature", "0"]) == 2


def test_the_page_tells_of_the_controls():
    small = (ASSETS / "ui/explore/token_view.html").read_text(encoding="utf-8")
    assert "the null swap, forcing the token that is there already, at 0&#8239;% [0, 2.6]" in small
    assert "142 forks of 40 problems" in small
