"""`rmx bench pair`: both sides do the same work, and the figures mean what they say."""

import json
from functools import partial

import pytest
import torch
from torch import nn

from rmx.bench.base_and_adapter import (
    READ_TOKENS,
    _streams,
    _text,
    bench_pair,
    one_set,
    peaks,
    reading_difference,
    step_difference,
    two_models,
    weight_bytes,
)
from rmx.cli.main import main
from rmx.models.load import load
from rmx.models.model_pair import read_both
from tests.conftest import qwen, wrap

pytestmark = pytest.mark.slow

LOADS = {"tiny": lambda: wrap(qwen()), "mini": partial(load, "mini", "cpu")}
RATIO = {"value", "low", "high", "n"}
PEAKS = {"imports": 300.0, "one_set": 400.0, "two_models": 800.0}


@pytest.fixture(params=LOADS)
def pairs(request):
    fetch = LOADS[request.param]
    return one_set(fetch()), two_models(fetch(), fetch())


def document(capsys, *argv):
    assert main(["bench", *argv, "--model", "mini", "--device", "cpu", "--json"]) in (0, None)
    return json.loads(capsys.readouterr().out)


def test_bench_pair_gives_every_figure(capsys, monkeypatch):
    monkeypatch.setattr("rmx.bench.base_and_adapter.peaks_of", lambda *_: PEAKS)  # which starts three processes
    got = document(capsys, "pair", "--rounds", "1")
    for name in ("read_one_set / read_two_models", "read_one_set / read_merged", "two_steps / mixed_step"):
        assert set(got[name]) == RATIO
        assert got[name]["n"] == 1
        assert got[name]["value"] > 0
    assert got["read_tokens"] == READ_TOKENS
    assert got["max_logit_difference"]["reading"] < 1e-4
    assert 0 < got["max_logit_difference"]["reading_merged"] < 1e-2
    assert got["max_logit_difference"]["step"] < 1e-3
    assert got["weights_mb"]["one_set"] < got["weights_mb"]["two_models"]
    quotient = got["weights_mb"]["one_set"] / got["weights_mb"]["two_models"]
    assert got["weights_one_set / weights_two_models"] == pytest.approx(quotient)
    assert set(got["read_ms"]) == {"one_set", "two_models", "merged"}
    assert set(got["step_ms"]) == {"two_steps", "mixed_step"}
    assert got["peak_mb"] == PEAKS
    assert got["peak_one_set / peak_two_models"] == 0.5
    assert got["environment"]["model"] == "mini"


@pytest.mark.long
def test_each_side_tells_the_peak_of_a_process_of_its_own():
    found = peaks("mini", "cpu", "float32")
    told = found["peak_mb"]
    assert 100 < told["imports"] < told["one_set"]  # resident, with torch in it
    assert found["peak_one_set / peak_two_models"] == pytest.approx(told["one_set"] / told["two_models"])


def test_one_set_scores_a_text_as_two_models_do(pairs):
    one, two = pairs
    ids, start = _text(one.base)
    assert 0 < start < len(ids) < one.base.engine.context
    assert reading_difference(one, two, ids, start) < 1e-5


def test_a_mixed_step_equals_two_steps(pairs):
    one, two = pairs
    ids, start = _text(one.base)
    with _streams(one, two, ids[: start + 1]) as (mixed, separate):
        assert [len(stream._halves) for stream in (mixed, separate)] == [1, 2]  # passes of a step
    assert step_difference(one, two, ids[: start + 1]) < 1e-3


def test_the_difference_sees_the_adapter(pairs):
    """The adapter does something, and only the side that has it on shows it."""
    one, two = pairs
    ids, start = _text(one.base)
    seen = []
    with two.turn():
        read_both(two, ids, start, lambda _, base, adapted: seen.append((base - adapted).abs().max()))
    assert max(seen) > 0.01
    swapped = type(two)(two.adapted, two.base, None)
    assert reading_difference(one, swapped, ids, start) == pytest.approx(float(max(seen)), rel=1e-3)


def test_two_models_never_switch(pairs, monkeypatch):
    _, two = pairs
    monkeypatch.setattr(type(two.adapted.engine.model), "set_adapter", lambda *_, **__: pytest.fail("switched on"))
    monkeypatch.setattr("rmx.engine.engine._switched_off", lambda *_: pytest.fail("switched off"))
    ids, start = _text(two.base)
    with two.turn():
        read_both(two, ids[: start + 2], start, lambda *_: None, reuse=False)


def test_bench_pair_leaves_the_base_plain():
    base = wrap(qwen())
    got = bench_pair(base, LOADS["tiny"], 1)
    assert not base.engine.adapters
    assert not [name for name, _ in base.engine.model.named_parameters() if "lora" in name]
    assert got["weights_one_set / weights_two_models"] > 0.5


def test_weights_are_counted_once_however_often_they_are_seen():
    a, b = nn.Linear(10, 20, bias=False), nn.Linear(10, 20, bias=False)
    assert weight_bytes([a]) == 800
    assert weight_bytes([a, a]) == 800
    assert weight_bytes([a, b]) == 1600
    b.weight = a.weight  # tied
    a.register_buffer("part", a.weight.data[:5])  # a view
    assert weight_bytes([a, b]) == 800
    a.register_buffer("own", torch.zeros(3, dtype=torch.float64))
    assert weight_bytes([a, b]) == 824


def test_one_set_weighs_the_base_and_the_adapter(pairs):
    one, two = pairs
    base = weight_bytes([two.base.engine.model])
    adapted = weight_bytes([two.adapted.engine.model])
    assert weight_bytes([one.base.engine.model, one.adapted.engine.model]) == adapted
    assert weight_bytes([two.base.engine.model, two.adapted.engine.model]) == base + adapted
    layers = [w for name, w in two.adapted.engine.model.named_parameters() if "lora_" in name]
    assert adapted - base == sum(w.numel() * w.element_size() for w in layers) > 0
