"""A share of tokens becomes one threshold in nats."""

import json

import pytest
import torch

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError
from rmx.explore import calibration
from rmx.explore.calibration import STORED, calibrate, calibration_of
from rmx.explore.generate import Generation, Job
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES
from rmx.ui.jobs.claims_jobs import Claims
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.settings import Settings
from rmx.ui.tabs.compare_tab import ClaimsTab
from rmx.ui.tabs.explore_tab import ExploreTab

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_the_share_of_tokens_above_the_threshold_is_the_share_asked_for(mini):
    for share in (0.02, 0.05, 0.09):
        tau = calibration_of(mini, share).tau
        above = total = 0
        for i, problem in enumerate(load_set("mini:train")[:40]):
            job = Job(mini.prompt_ids(problem.problem), Sampling(1.0, seed=i), tau)
            trace = Generation(mini, job).run()
            above += len(list(trace.forks()))
            total += len(trace.tokens)
        assert above / total == pytest.approx(share, abs=0.02)


def test_it_is_interpolated_between_quantiles(mini, tmp_path, monkeypatch):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"quantiles": [0.0, 1.0, 3.0]}))
    monkeypatch.setitem(calibration.STORED, "mini", path)
    assert calibration_of(mini, 0.5).tau == 1.0
    assert calibration_of(mini, 0.25).tau == 2.0
    assert calibration_of(mini, 0.75).tau == 0.5


def test_a_share_is_one(tiny):
    for share in (0, 1, 1.5, float("nan"), True):
        with pytest.raises(RmxError, match="between 0 and 1"):
            calibration_of(tiny, share)


def test_the_stored_set_belongs_to_these_weights(mini):
    assert json.loads(STORED["mini"].read_text())["revision"] == mini.revision


def test_calibrating_repeats(mini):
    problems = load_set("mini:train")[:2]
    first = calibrate(mini, problems)
    assert first == calibrate(mini, problems)
    assert first["quantiles"] == sorted(first["quantiles"])


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_CACHE", str(tmp_path))
    return tmp_path / "calibration"


@pytest.fixture
def few(monkeypatch):
    """A calibration in a moment."""
    monkeypatch.setattr(calibration, "PROBLEMS", 3)
    monkeypatch.setattr(calibration, "LONGEST", 24)


def test_any_model_is_calibrated_once_and_found_again(tiny, own_cache, few, monkeypatch):
    made = calibration_of(tiny, 0.2, "arith")
    assert (made.kept, made.problems, made.temperature, made.style) == (False, 3, 0.0, "boxed")
    record = json.loads(next(own_cache.glob("*.json")).read_text())
    assert record["tokens"] == made.tokens
    assert 3 <= made.tokens <= 3 * 24
    monkeypatch.setattr(calibration, "calibrate_greedily", None)  # nothing is decoded again
    again = calibration_of(tiny, 0.2, "arith")
    assert again.kept
    assert again.tau == made.tau
    assert calibration_of(tiny, 0.1, "arith").tau >= made.tau
    assert f"{made.tokens} tokens of 3 greedy solutions of arith" in made.sentence


def test_the_share_of_greedy_tokens_above_the_threshold_is_the_share_asked_for(tiny, own_cache, few):
    tau = calibration_of(tiny, 0.25, "arith").tau
    entropies = []
    for problem in load_set("arith")[:3]:
        job = Job(tiny.prompt_ids(problem.problem), Sampling(max_new_tokens=24), tau)
        entropies += [t.entropy for t in Generation(tiny, job).run().tokens]
    assert sum(e > tau for e in entropies) / len(entropies) == pytest.approx(0.25, abs=0.03)


def test_weights_style_and_set_each_have_their_own(tiny, own_cache, few):
    calibration_of(tiny, 0.2, "arith")
    calibration_of(tiny, 0.2, "mini")
    calibration_of(tiny.with_style(STYLES["abel"]), 0.2, "arith")
    assert len(list(own_cache.glob("*.json"))) == 3
    with torch.no_grad():
        head = tiny.engine.model.lm_head.weight
        head[0, 0] += 1
        calibration._weights.clear()  # as in the next process
        try:
            calibration_of(tiny, 0.2, "arith")
        finally:
            head[0, 0] -= 1
            calibration._weights.clear()
    assert len(list(own_cache.glob("*.json"))) == 4


def test_it_is_redone_on_demand_and_a_broken_file_is_none(tiny, own_cache, few, monkeypatch):
    first = calibration_of(tiny, 0.2, "arith")
    path = next(own_cache.glob("*.json"))
    path.write_text('{"quantiles": [9.0, 9.0], "tokens": 2, "problems": 1, "temperature": 0.0}')
    assert calibration_of(tiny, 0.2, "arith").tau == 9.0
    redone = calibration_of(tiny, 0.2, "arith", again=True)
    assert (redone.tau, redone.kept) == (first.tau, False)
    path.write_text('{"quantiles": "no')
    assert calibration_of(tiny, 0.2, "arith").tau == first.tau


def test_the_miniature_brings_its_own_unless_it_is_asked_otherwise(mini, own_cache, few):
    assert calibration_of(mini, 0.05, "mini").temperature == 1.0
    assert not own_cache.exists()
    assert calibration_of(mini, 0.05, "arith").temperature == 0.0
    assert len(list(own_cache.glob("*.json"))) == 1


def test_the_command_says_what_came_out(own_cache, few, capsys):
    trace = ["trace", "--problem", "0", "--set", "arith", "--tau-share", "0.1", "--json"]
    assert main(trace) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tau"] == found["calibration"]["tau"]
    assert found["calibration"]["set"] == "arith"
    assert main([*trace, "--recalibrate"]) == 0
    assert main([*trace[:-3], "--recalibrate"]) == 2
    assert "--tau-share" in capsys.readouterr().err
    shifts = ["shifts", "--set", "arith", "--limit", "2", "--max-new-tokens", "24", "--no-placebo", "--json"]
    assert main([*shifts, "--tau-share", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["tau"] == found["tau"]
    assert main([*shifts, "--tau-share", "0.1", "--tau", "1"]) == 2


def test_a_share_holds_on_a_real_model(smol, own_cache, monkeypatch):
    """The family's 1.4 nats take half of SmolLM2's tokens; a share of 5 % takes about that."""
    monkeypatch.setattr(calibration, "PROBLEMS", 4)
    monkeypatch.setattr(calibration, "LONGEST", 32)
    made = calibration_of(smol, 0.05, "arith")
    quantiles = json.loads(next(own_cache.glob("*.json")).read_text())["quantiles"]
    assert sum(q > smol.tau for q in quantiles) / len(quantiles) > 0.2
    assert made.tau > 2 * smol.tau
    assert sum(q > made.tau for q in quantiles) / len(quantiles) == pytest.approx(0.05, abs=0.005)


def test_the_form_sets_the_threshold_by_a_share(mini, own_cache, few):
    tab = ExploreTab(Explorer(Workspace(loader=lambda _: mini)), Settings())
    slider, said = tab.set_share(10, "mini", "arith", "", "", "", "", "")
    made = calibration_of(mini, 0.1, "arith")
    assert made.kept
    assert slider.value == round(made.tau, 2)
    assert "greedy solutions of arith" in said
    assert ClaimsTab(Claims(Workspace(loader=lambda _: mini)), Settings()).options(
        "own", "mini", "rl", "", "mini", 50, True, 1.0, 5, 8, 60_000, 0, 512
    ).pair.tau_share == pytest.approx(0.05)
