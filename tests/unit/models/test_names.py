"""An adapter's name on the engine: PEFT allows no dot in it, and no two adapters share one."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmx.arguments import Sampling
from rmx.engine.engine import adapter_key, split_key
from rmx.explore.generate import Generation, Job
from rmx.models.names import adapter_name
from rmx.models.workspace import Workspace
from rmx.records import shown_adapter
from tests.conftest import qwen, wrap
from tests.helpers.pairs import save_lora

SPECS = st.text(st.sampled_from("ab._*%25EA/-~"), max_size=6) | st.text(max_size=6)


@pytest.mark.slow
@given(SPECS, SPECS)
def test_two_specs_have_two_names_that_peft_takes(one, other):
    assert (adapter_name(one) == adapter_name(other)) == (one == other)
    assert not {".", "*"} & set(adapter_name(one))
    assert shown_adapter(adapter_name(one)) == one


def test_plain_names_stay_as_they_are():
    for name in ("rl", "reasonmaxxer", "20260101-120000-1a2b3c", "run/step_12", "org/some-lora_v2@main"):
        assert adapter_name(name) == name


def test_a_name_is_shown_as_its_spec_with_its_strength():
    key = adapter_key(adapter_name("org/qwen2.5-lora"), 0.5)
    assert split_key(key) == (adapter_name("org/qwen2.5-lora"), 0.5)
    assert shown_adapter(key) == "org/qwen2.5-lora*0.5"
    assert shown_adapter(None) is None


@pytest.mark.slow
def test_adapters_with_like_names_are_both_on_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = ["a/x.y", "a/x_y", "a/x%2Ey", "a/x%y", "a/x*y"]
    for seed, spec in enumerate(specs):
        save_lora(tmp_path / spec, qwen(), seed=seed)
    model = wrap(qwen())
    space = Workspace("cpu", loader=lambda spec: model)
    model = space.model("tiny")
    names = [space.adapter(model, spec) for spec in specs]
    assert [space.adapter(model, spec) for spec in specs] == names
    ids, logits = [1, 2, 3, 4], []
    for name in names:
        with model.engine.using(name):
            logits.append(model.engine.open(ids, adapter=name).logits)
    for seed, spec in enumerate(specs):
        alone = wrap(qwen())
        name = Workspace("cpu", loader=lambda spec, alone=alone: alone).adapter(alone, spec)
        with alone.engine.using(name):
            assert torch.allclose(alone.engine.open(ids, adapter=name).logits, logits[seed], atol=1e-5), spec
    apart = [float((a - b).abs().max()) for i, a in enumerate(logits) for b in logits[:i]]
    assert min(apart) > 0.01
    trace = Generation(model, Job((1, 2, 3), Sampling(max_new_tokens=2), 1.0, names[0])).run()
    assert json.loads(json.dumps(trace.json()))["adapter"] == "a/x.y"
