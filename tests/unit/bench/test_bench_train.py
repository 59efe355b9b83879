"""`rmx bench train`: both sides make the same updates, and the figures mean what they say."""

import json

import pytest
import torch

from rmx.bench.timing import peaks_of
from rmx.bench.train_step import SIDES, OneSet, TwoModels, peaks, sample, two_windows
from rmx.cli.main import main
from rmx.models.load import load
from rmx.models.stand_ins import random_model
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
    monkeypatch.setattr("rmx.bench.train_step.TOKENS", 30)
    told = {side: 100.0 * n for n, side in enumerate(SIDES, 1)}
    monkeypatch.setattr("rmx.bench.train_step.peaks_of", lambda *_: told)  # which starts four processes
    assert main(["bench", "train", "--model", "mini", "--device", "cpu", "--rounds", "1", "--json"]) in (0, None)
    got = json.loads(capsys.readouterr().out)
    assert set(got["two_models / one_set"]) == {"value", "low", "high", "n"}
    assert got["max_loss_difference"] < 5e-5 < got["largest_loss"]
    assert got["base_passes_after_scoring"] == 0
    assert got["tokens_per_rollout"] > 30
    assert got["figures_mb"] > 0
    assert got["peak_mb"] == told
    assert got["peak_one_set / peak_two_models"] == 1.5
    assert got["peak_recomputed / peak_two_models"] == 2.0


@pytest.mark.long
def test_each_side_tells_the_peak_of_a_process_of_its_own(rollouts):
    told = peaks(rollouts, "mini", "cpu", "float32")["peak_mb"]
    assert list(told) == list(SIDES)
    assert 100 < told["imports"] < told["one_set"]  # resident, with torch in it


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(two_windows, "__module__", "json.tool")  # to which the side is a file that is not there
    with pytest.raises(RuntimeError, match="(?s)the memory of two_models failed.*two_models"):
        peaks_of(two_windows, ["two_models"], "cpu")


def test_on_a_gpu_the_allocator_tells_the_peaks_and_no_process_is_started(monkeypatch):
    """With a stand-in for the allocator: each side counts from what is there when it begins."""
    there = {"now": 300e6, "peak": 900e6}

    def work(side: str, device: str, size: str) -> None:
        there["peak"] = max(there["peak"], there["now"] + float(size) * len(side))

    monkeypatch.setattr("subprocess.run", None)
    monkeypatch.setattr("rmx.bench.timing.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: there["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: there["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: there.update(peak=there["now"]))
    assert peaks_of(work, ["a", "bbb", "cc"], "cuda", "5e6") == {"a": 5.0, "bbb": 15.0, "cc": 10.0}


@pytest.mark.gpu
def test_two_models_take_more_memory_than_one_on_a_gpu():
    model = random_model("qwen2.5-0.5b", "cuda")
    told = peaks(sample(model), model.spec, "cuda", "auto")["peak_mb"]
    assert told["imports"] == 0
    assert told["one_set_recomputed"] <= told["one_set"] < told["two_models"]
    weights = sum(p.nbytes for p in model.engine.model.parameters()) / 1e6
    assert told["one_set"] > weights


def test_a_tiny_model_can_be_measured_too():
    network = wrap(qwen())
    made = sample(network)
    ours, theirs = OneSet(network, made), TwoModels(wrap(qwen()), wrap(qwen()), made)
    ours.window()
    theirs.window()
    assert ours.losses == pytest.approx(theirs.losses, abs=5e-5)
