"""The adapter that learns: where it comes from, how it is kept, and a bf16 body under an fp32 head."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from rmx.errors import TrainError
from rmx.models.adapters import add_adapter
from rmx.models.load import load
from rmx.runs.recipe import AdapterConfig
from rmx.train.step.lora_policy import NAME, make_policy
from rmx.train.step.trainer import Trainer
from tests.conftest import qwen, wrap
from tests.helpers.training import QUICK, items_of, made_by, policy_of, rollouts, weights


@pytest.fixture
def folder(tmp_path):
    """An adapter of rank 3 on two kinds of layers, with B != 0."""
    policy = policy_of(wrap(qwen()), QUICK.with_(rank=3, alpha=12, targets=("q_proj", "down_proj")))
    policy.save_adapter(tmp_path / "start")
    return tmp_path / "start"


def test_an_adapter_is_gone_on_from_as_it_is(folder):
    policy = make_policy(wrap(qwen()), AdapterConfig(rank=32), folder, seed=0)
    stored = load_file(folder / "adapter_model.safetensors")
    mine = weights(policy)
    assert len(mine) == len(stored) == 8
    for name, value in mine.items():
        assert torch.equal(value, stored[name.replace(f".{NAME}.", ".")])
    config = policy.network.peft_config[NAME]
    assert (config.r, config.lora_alpha, set(config.target_modules)) == (3, 12, {"q_proj", "down_proj"})


def test_a_saved_adapter_says_what_it_belongs_to(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["inference_mode"], config["peft_type"]) == ("tiny", True, "LORA")


def test_an_adapter_of_the_bundled_model_names_it(tmp_path):
    policy = make_policy(load("mini", "cpu"), AdapterConfig(), None, seed=0)
    policy.save_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "mini"


def test_other_adapters_on_the_model_stay_as_they_are(folder):
    model = wrap(qwen())
    other = add_adapter(model, str(folder))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad(), model.engine.using(other):
        before = model.engine.model(input_ids=ids).logits
    policy = policy_of(model)
    made_by(Trainer(policy, items_of(rollouts()), QUICK))
    beside = weights(policy)
    with torch.no_grad(), model.engine.using(other):
        assert torch.equal(model.engine.model(input_ids=ids).logits, before)
    by_itself = policy_of(wrap(qwen()))
    made_by(Trainer(by_itself, items_of(rollouts()), QUICK))
    assert all(torch.equal(beside[name], value) for name, value in weights(by_itself).items())


@pytest.mark.parametrize("harm", ["missing", "incomplete", "foreign", "biases", "not a lora"])
def test_adapters_that_cannot_be_trained_further_are_refused(folder, harm):
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, stored = load_file(file), json.loads(config.read_text())
    if harm == "missing":
        shutil.rmtree(folder)
    elif harm == "incomplete":
        save_file(dict(list(tensors.items())[:-1]), file)
    elif harm == "foreign":
        save_file({name.replace("layers.0", "layers.7"): value for name, value in tensors.items()}, file)
    elif harm == "biases":
        config.write_text(json.dumps(stored | {"bias": "all"}))
    else:
        config.write_text(json.dumps({"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}))
    with pytest.raises(TrainError):
        make_policy(wrap(qwen()), AdapterConfig(), folder, seed=0)


def test_layers_that_cannot_be_computed_twice_are_said(monkeypatch):
    monkeypatch.setattr("rmx.train.step.lora_policy.GradientCheckpointingLayer", LoraConfig)  # what no layer is
    with pytest.raises(TrainError, match="--recompute"):
        policy_of(wrap(qwen()), recompute=True)


@pytest.mark.slow
def test_a_bf16_body_has_an_fp32_head_and_an_fp32_adapter(mini):
    full = policy_of(load("mini", "cpu"), QUICK)
    half = policy_of(load("mini", "cpu", "bfloat16"), QUICK)
    assert half.head.weight.dtype == torch.float32
    assert {p.dtype for p in half.trained().values()} == {torch.float32}
    made = rollouts(problems=3, k=4, vocabulary=600)
    exact, _ = made_by(Trainer(full, items_of(made), QUICK))
    rounded, updates = made_by(Trainer(half, items_of(made), QUICK))
    for mine, wanted in zip(rounded, exact, strict=True):
        assert mine.loss == pytest.approx(wanted.loss, abs=0.1 * max(1, abs(wanted.loss)))
        assert mine.kl_loss == pytest.approx(wanted.kl_loss, abs=0.02 * max(1, wanted.kl_loss))
    assert updates[-1].grad_norm > 0


def test_plain_peft_loads_what_was_saved(folder):
    plain = PeftModel.from_pretrained(qwen().eval(), folder)
    policy = make_policy(wrap(qwen()), AdapterConfig(), folder, seed=0)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), policy.learning():
        assert torch.allclose(plain(ids).logits, policy.logits(ids), atol=1e-5)


@pytest.mark.gpu
def test_training_on_cuda_in_bf16_stays_near_the_cpu():
    made = rollouts(problems=3, k=4, vocabulary=600)
    exact, _ = made_by(Trainer(policy_of(load("mini", "cpu"), QUICK), items_of(made), QUICK))
    policy = policy_of(load("mini", "cuda"), QUICK)
    assert policy.model.dtype == "bfloat16"
    steps, updates = made_by(Trainer(policy, items_of(made), QUICK))
    for mine, wanted in zip(steps, exact, strict=True):
        assert mine.loss == pytest.approx(wanted.loss, abs=0.1 * max(1, abs(wanted.loss)))
    assert updates[-1].grad_norm > 0
