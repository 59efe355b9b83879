"""`rmx bench train`: both sides make the same updates, and the figures mean what they say."""

import json

import pytest

from rmx.bench.timing import peaks_of
from rmx.bench.train_step import SIDES, OneSet, TwoModels, peaks, sample
from rmx.cli.main import main
from rmx.models.load import load
from tests.conftest import qwen, wrap

pytestmark = pytest.mark.slow


def fetch():
    return load("mini", "cpu")


@pytest.fixture(scope="module")
def rollouts():
    return sample(fetch())


def test_rollouts_are_of_one_length_with_a_twentieth_of_decisions(rollouts):
    assert len(rollouts) == 4
    for r in rollouts:
        assert r.completion_length == 180
        assert len(r.decision_positions) == 9
        assert all(r.prompt_length - 1 <= p < len(r.input_ids) - 1 for p in r.decision_positions)
    assert sorted(r.advantage for r in rollouts) == [-1, -1, 1, 1]


def test_both_sides_make_the_same_updates(rollouts):
    ours, theirs = OneSet(fetch(), rollouts), TwoModels(fetch(), fetch(), rollouts)
    passes = ours.trainer.policy.base_passes
    for _ in range(4):
        ours.window()
        theirs.window()
    assert ours.losses == pytest.approx(theirs.losses, abs=5e-5)
    assert ours.losses[:4] != pytest.approx(ours.losses[-4:], abs=1e-4)  # it does learn meanwhile
    assert ours.trainer.policy.base_passes == passes
    mine = ours.trainer.policy.trained()
    for name, p in theirs.policy.named_parameters():
        if name in mine:
            assert float((mine[name] - p).detach().abs().max()) < 1e-4, name


def test_the_document_has_every_figure(capsys, monkeypatch):
    told = {side: 100.0 * n for n, side in enumerate(SIDES, 1)}
    monkeypatch.setattr("rmx.bench.train_step.peaks_of", lambda *_: told)  # which starts four processes
    assert main(["bench", "train", "--model", "mini", "--device", "cpu", "--rounds", "1", "--json"]) in (0, None)
    got = json.loads(capsys.readouterr().out)
    assert set(got["two_models / one_set"]) == {"value", "low", "high", "n"}
    assert got["max_loss_difference"] < 5e-5 < got["largest_loss"]
    assert got["base_passes_after_scoring"] == 0
    assert got["tokens_per_rollout"] > 180
    assert got["figures_mb"] > 0
    assert got["peak_mb"] == told
    assert got["peak_one_set / peak_two_models"] == 1.5
    assert got["peak_recomputed / peak_two_models"] == 2.0


@pytest.mark.long
def test_each_side_tells_the_peak_of_a_process_of_its_own(rollouts):
    told = peaks(rollouts, "mini", "cpu", "float32")["peak_mb"]
    assert list(told) == list(SIDES)
    assert 100 < told["imports"] < told["one_set"]  # resident, with torch in it


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="(?s)the memory of two_models failed.*two_models"):
        peaks_of("json.tool", ["two_models"])  # a file that is not there


def test_a_tiny_model_can_be_measured_too():
    network = wrap(qwen())
    made = sample(network)
    ours, theirs = OneSet(network, made), TwoModels(wrap(qwen()), wrap(qwen()), made)
    ours.window()
    theirs.window()
    assert ours.losses == pytest.approx(theirs.losses, abs=5e-5)
