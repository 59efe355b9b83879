"""Quantised weights and models over several GPUs: what transformers is asked for, and what is refused.

There is no GPU here: that bitsandbytes then does what it was asked for is not shown.
"""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

import rmx.models.load
from rmx.cli.main import main
from rmx.compare.controls import check_loaded, dtype_noise
from rmx.errors import ModelError
from rmx.evaluate.eval_report import key_of
from rmx.models.load import Placing, check_in_memory, load, split_dtype
from rmx.models.model_pair import Pair
from rmx.models.workspace import Workspace


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What `from_pretrained` is asked for on a machine that seems to have CUDA and bitsandbytes."""
    seen: list[dict] = []
    real, found = rmx.models.load.AutoModelForCausalLM.from_pretrained, importlib.util.find_spec

    def from_pretrained(place, **options):
        seen.append(options)
        kept = {k: v for k, v in options.items() if k not in ("quantization_config", "device_map")}
        return real(place, **kept)

    monkeypatch.setattr(rmx.models.load.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr("rmx.models.load.choose_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: True if name == "bitsandbytes" else found(name, *a)
    )
    monkeypatch.setattr("rmx.models.load.BitsAndBytesConfig", lambda **options: SimpleNamespace(**options))
    return seen


@pytest.mark.parametrize(
    ("quantize", "config"),
    [
        ("8bit", {"load_in_8bit": True}),
        ("4bit", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}),
    ],
)
def test_quantised_weights_are_asked_for_and_named(asked, quantize, config):
    model = load("mini", placing=Placing(quantize))
    assert vars(asked[0]["quantization_config"]) == config
    assert asked[0]["device_map"] == {"": torch.device("cuda")}
    assert asked[0]["dtype"] == torch.bfloat16
    assert model.dtype == f"bfloat16+{quantize}"
    assert split_dtype(model.dtype) == ("bfloat16", quantize)


def test_a_model_over_several_gpus(asked):
    model = load("mini", placing=Placing(device_map="auto"))
    assert asked[0]["device_map"] == "auto"
    assert "quantization_config" not in asked[0]
    assert model.dtype == "bfloat16"
    both = load("mini", placing=Placing("4bit", "auto"))
    assert asked[1]["device_map"] == "auto"
    assert both.dtype == "bfloat16+4bit"


def test_a_workspace_loads_all_models_so(asked):
    space = Workspace(placing=Placing("4bit"))
    assert space.model("mini").dtype == "bfloat16+4bit"


def test_nothing_is_asked_for_by_itself(monkeypatch):
    seen = []
    real = rmx.models.load.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        rmx.models.load.AutoModelForCausalLM, "from_pretrained", lambda place, **o: seen.append(o) or real(place, **o)
    )
    assert load("mini", "cpu").dtype == "float32"
    assert {"device_map", "quantization_config"}.isdisjoint(seen[0])


def test_accelerate_itself_places_a_model_here():
    model = load("mini", dtype="float32", placing=Placing(device_map="auto"))
    plain = load("mini", dtype="float32")
    ids = [[1, 2, 3]]
    logits = [m.engine.forward(ids, DynamicCache(config=m.engine.config), keep=3) for m in (model, plain)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("placing", "device", "said"),
    [
        (Placing("4bit"), "cpu", "--quantize 4bit needs a CUDA GPU, and the model would be on 'cpu'"),
        (Placing("8bit"), "cpu", "--quantize 8bit needs a CUDA GPU"),
        (Placing(device_map="auto"), "cpu", "takes all GPUs. Leave --device out"),
    ],
)
def test_what_this_machine_cannot_do_is_a_sentence(placing, device, said):
    with pytest.raises(ModelError, match=said):
        load("mini", device, placing=placing)


def test_a_missing_package_is_named_with_the_command_that_installs_it(asked, monkeypatch):
    monkeypatch.setattr("rmx.models.load.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'rmx-explorer\[quantize\]'"):
        load("mini", placing=Placing("4bit"))
    assert asked == []


@pytest.mark.parametrize("wrong", [{"quantize": "3bit"}, {"quantize": ""}, {"device_map": "balanced"}])
def test_unknown_values(wrong):
    with pytest.raises(ModelError, match="Unknown"):
        Placing(**wrong)


def test_a_part_that_was_left_on_the_cpu_or_the_disk_is_refused():
    for places in ({"a": 0, "b": "disk"}, {"a": 0, "b": "cpu"}, {"": "disk"}):
        with pytest.raises(ModelError, match="does not fit into the memory of these GPUs"):
            check_in_memory("m", SimpleNamespace(hf_device_map=places))
    for places in ({"a": 0, "b": 1}, {"": "cpu"}, {"": torch.device("cuda")}, None):
        check_in_memory("m", SimpleNamespace(hf_device_map=places))


def test_what_was_kept_of_whole_weights_is_not_taken_for_quantised_ones(tiny):
    whole = key_of(tiny, None)
    tiny.dtype = "float32+4bit"
    quantised = key_of(tiny, None)
    tiny.dtype = "float32+8bit"
    assert len({whole, quantised, key_of(tiny, None)}) == 3


def test_quantised_tensors_are_not_compared_with_the_file(asked):
    model = load("mini", placing=Placing("4bit"))
    check = check_loaded(Pair(model, model, None))
    assert check.weights is None
    assert check.holds
    with model.engine.queue.turn():
        assert dtype_noise(model, [1, 2, 3]) is None


# -- the command line -------------------------------------------------------------------------------------------------

QUESTION = ["trace", "What?", "--max-new-tokens", "2", "--json"]


@pytest.mark.parametrize(
    "words",
    [
        QUESTION,
        ["outcomes", "What?", "--pos", "0"],
        ["shifts", "What?"],
        ["intervene", "--limit", "1"],
        ["claims", "--limit", "1"],
        ["eval", "--limit", "1"],
        ["bench", "decode", "--model", "mini"],
    ],
)
def test_verbs_that_load_a_model_say_what_is_missing(words, capsys):
    assert main([*words, "--device", "cpu", "--quantize", "4bit"]) == 2
    said = capsys.readouterr()
    assert "needs a CUDA GPU" in said.err
    assert said.out == ""
    assert main([*words, "--device-map", "rows"]) == 2
    assert "Unknown device map 'rows'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["train"], ["train", "--resume", "x"], ["rollouts", "--out", "x"], ["distill"]])
def test_training_is_refused(verb, capsys):
    for flag, value in (("--quantize", "4bit"), ("--device-map", "auto")):
        assert main([*verb, flag, value]) == 2
        assert f"whole weights on one device. Leave {flag} out" in capsys.readouterr().err


def test_a_trace_says_how_the_weights_are_kept(asked, capsys):
    assert main([*QUESTION, "--quantize", "8bit"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "bfloat16+8bit"


def test_pairs_are_measured_with_whole_weights(capsys):
    for words in (["pair"], ["train"], ["decode", "--model", "random:qwen2.5-0.5b"]):
        assert main(["bench", *words, "--quantize", "4bit"]) == 2
        assert "whole weights on one device" in capsys.readouterr().err
