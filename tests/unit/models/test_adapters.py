"""Adapters of every kind: logits are those of PEFT's own model, and the base is the base bit for bit."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmx.compare.controls import check_base
from rmx.engine.engine import adapter_key, why_not_linear
from rmx.errors import ModelError, TrainError
from rmx.models.adapters import KINDS, add_adapter, drop_adapter, facts
from rmx.models.base_state import base_changes, base_tensors, key_of, probe
from rmx.models.load import Model
from rmx.models.model_pair import Pair, open_pair
from rmx.runs.recipe import AdapterConfig
from rmx.train.step.lora_policy import NAME, make_policy
from tests.conftest import qwen, wrap
from tests.helpers.adapter_kinds import FOLDED, IDS, WITH_INITIAL, WORKS, begin, logits, lora, other, save, tied, train

pytestmark = pytest.mark.slow

NOISE = 1e-4  # of fp32 logits that are about 10


def whole(model: Model, adapter: str | None) -> Tensor:
    """(n, V) at every position, by the engine in one pass."""
    rows: list[Tensor] = []
    with model.engine.using(adapter):
        model.engine.open(IDS, adapter=adapter, reuse=False, read_from=0, on_read=lambda _, chunk: rows.append(chunk))
    return torch.cat(rows).float()


def stepped(model: Model, adapter: str | None) -> Tensor:
    """The same from the fourth position on, token by token."""
    with model.engine.using(adapter):
        stream = model.engine.open(IDS[:4], adapter=adapter, reuse=False)
        return torch.stack([stream.logits, *(stream.feed(token) for token in IDS[4:])]).float()


class Untouched:
    """The base's logits, tensors and key, to be asked again."""

    def __init__(self, model: Model) -> None:
        self.model, self.logits, self.key = model, whole(model, None), key_of(model, None)
        self.tensors = {name: w.detach().clone() for name, w in base_tensors(model.engine).items()}

    def confirm(self) -> None:
        assert torch.equal(whole(self.model, None), self.logits)
        now = base_tensors(self.model.engine)
        assert now.keys() == self.tensors.keys()
        assert all(torch.equal(now[name], w) for name, w in self.tensors.items())
        assert key_of(self.model, None) == self.key
        assert not base_changes(self.model)
        assert self.model.engine.fault is None


def follow(model: Model, folder: str, expected: Tensor, noise: float = NOISE) -> str:
    """Put an adapter on and take it off again; returns its key in the store."""
    before = Untouched(model)
    name = add_adapter(model, folder)
    before.confirm()
    assert (whole(model, name) - expected).abs().max() < noise
    assert (stepped(model, name) - expected[3:]).abs().max() < noise
    pair = Pair(model, model, name)
    with open_pair(pair, [IDS[:-1]] * 2, reuse=False) as stream:  # as one batch with the base, where it can be
        stream.feed([IDS[-1]] * 2)
        assert (stream.adapted - expected[-1]).abs().max() < noise
        assert (stream.base - before.logits[-1]).abs().max() < noise
    before.confirm()
    check = check_base(pair, IDS)
    assert check.holds
    assert check.memory is not None
    assert json.loads(json.dumps(check.json(), allow_nan=False))["adapter"]["zero"] is False
    key = key_of(model, name)
    assert key != before.key
    drop_adapter(model, name)
    before.confirm()
    assert model.engine.attached == set()
    return key


def key_in_store(folder: str) -> str:
    """By which the store knows what a model says under the adapter in `folder`."""
    model = wrap(qwen())
    return key_of(model, add_adapter(model, folder))


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORKS)
def test_what_works_is_what_peft_computes_and_the_base_stays_the_base(tmp_path, kind):
    folder, expected = save(tmp_path / "a", WORKS[kind])
    assert (expected - logits(qwen().eval())).abs().max() > 0.1
    shutil.copytree(folder, tmp_path / "copy")
    key = follow(wrap(qwen()), folder, expected)
    assert key_in_store(str(tmp_path / "copy")) == key  # by its weights, not by its name


def test_every_kind_that_is_taken_is_tested():
    assert {getattr(make().peft_type, "value", "") for make in WORKS.values()} == set(KINDS)


@pytest.mark.parametrize("kind", FOLDED)
def test_adapters_begun_from_the_base_are_folded(tmp_path, kind):
    folder, expected = save(tmp_path / "a", FOLDED[kind])
    key = follow(wrap(qwen()), folder, expected)
    assert key_in_store(folder) == key


@pytest.mark.parametrize("kind", WITH_INITIAL)
def test_others_are_folded_with_the_initial_adapter_at_hand_and_refused_without(tmp_path, kind):
    stem = kind.partition("_niter")[0]
    folder, expected = save(tmp_path / "a", WITH_INITIAL[kind], initial=f"{stem}_init")
    assert (expected - logits(qwen().eval())).abs().max() > 0.1
    follow(wrap(qwen()), folder, expected)
    shutil.rmtree(tmp_path / "a" / f"{stem}_init")
    assert "cannot be computed again" in refusal(folder)


@pytest.mark.parametrize("kind", FOLDED)
def test_two_folded_adapters_do_not_hear_of_each_other(tmp_path, kind):
    (one, first), (two, second) = (save(tmp_path / str(seed), FOLDED[kind], seed=seed) for seed in (3, 4))
    assert (first - second).abs().max() > 0.1
    model = wrap(qwen())
    before, names = Untouched(model), []
    for folder in (one, two):
        names.append(add_adapter(model, folder))
    for name, expected in zip([*names, *names], [first, second, first, second], strict=True):
        assert (whole(model, name) - expected).abs().max() < NOISE
        before.confirm()


def test_folding_is_pefts_own_conversion(tmp_path):
    tuned = begin(lora(init_lora_weights="pissa"))
    tuned.save_pretrained(str(tmp_path / "pissa_init"))
    expected = train(tuned)
    tuned.save_pretrained(str(tmp_path / "as it is"))
    tuned.peft_config["default"].init_lora_weights = True
    tuned.save_pretrained(
        str(tmp_path / "converted"), path_initial_model_for_weight_conversion=str(tmp_path / "pissa_init")
    )
    plain = PeftModel.from_pretrained(qwen(), str(tmp_path / "converted")).eval()
    assert (logits(plain) - expected).abs().max() < NOISE
    follow(wrap(qwen()), str(tmp_path / "converted"), expected)
    follow(wrap(qwen()), str(tmp_path / "as it is"), expected)


def test_a_folded_adapter_is_a_plain_lora_of_twice_the_rank_and_says_so(tmp_path):
    folder, expected = save(tmp_path / "a", FOLDED["pissa"])
    model = wrap(qwen())
    name = add_adapter(model, folder)
    found = facts(model, name)
    assert (found.type, found.rank, found.alpha, found.folded) == ("LORA", 8, 12, "pissa")
    pair = Pair(model, model, adapter_key(name, 1.0))
    assert pair.base.engine.scales(pair.adapter)
    with open_pair(pair, [IDS[:-1]], reuse=False) as stream:
        stream.feed([IDS[-1]])
        assert (stream.adapted[0] - expected[-1]).abs().max() < NOISE
        assert (stream.base[0] - logits(qwen().eval())[-1]).abs().max() < NOISE
    plain, _ = save(tmp_path / "b", WORKS["lora"])
    assert facts(model, add_adapter(model, plain)).folded is None


@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_a_base_in_bf16_is_folded_within_its_own_rounding(tmp_path, begun):
    make = lora(init_lora_weights=begun)
    folder, expected = save(tmp_path / "a", make, qwen().to(torch.bfloat16))
    model = wrap(qwen().to(torch.bfloat16))
    before = Untouched(model)
    rounding = (logits(qwen().to(torch.bfloat16).eval()) - logits(qwen().eval())).abs().max()
    name = add_adapter(model, folder)
    assert (whole(model, name) - expected).abs().max() < 4 * rounding
    assert (expected - before.logits).abs().max() > 20 * rounding
    before.confirm()


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [1, 2]},
    ],
)
def test_tied_embeddings(tmp_path, options):
    folder, expected = save(tmp_path / "a", lora(**options), tied())
    follow(wrap(tied()), folder, expected)


# -- refused -----------------------------------------------------------------------------------------------------------


def refusal(folder: str, model: Model | None = None) -> str:
    """The sentence; the base is as it was, and PEFT has not been near it."""
    model = model or wrap(qwen())
    before, network = Untouched(model), model.engine.model
    with pytest.raises(ModelError) as raised:
        add_adapter(model, folder)
    before.confirm()
    assert model.engine.model is network
    assert not hasattr(network, "peft_config")
    assert (model.adapters, model.engine.biases) == ([], {})
    return str(raised.value)


CONFIGURED = [
    ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
    ({"init_lora_weights": "corda"}, "path_initial_model_for_weight_conversion"),
    ({"init_lora_weights": "lora_ga"}, "put the initial adapter"),
    ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "quantised weights"),
    ({"init_lora_weights": "of tomorrow"}, "does not know"),
    ({"kasa_config": {}, "use_kasa": True} | {"kasa_config": {"beta": 1.0}}, "KaSA"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "repeats layers"),
    ({"alora_invocation_tokens": [3, 4]}, "token by token"),
    ({"arrow_config": {"arrow_top_k": 2}}, "this variant"),
    ({"use_bdlora": {"nblocks": 2}}, "this variant"),
    ({"monteclora_config": {"num_samples": 2}}, "this variant"),
    ({"peft_type": "XLORA"}, "kind XLORA"),
    ({"peft_type": "POLY"}, "kind POLY"),
    ({"peft_type": "OF_TOMORROW"}, "kind OF_TOMORROW"),
    ({"peft_type": "PROMPT_TUNING"}, "learned positions"),
    ({"peft_type": "P_TUNING"}, "learned positions"),
    ({"peft_type": "PREFIX_TUNING"}, "learned positions"),
    ({"peft_type": "ADAPTION_PROMPT"}, "learned positions"),
]


@pytest.mark.parametrize(("options", "said"), CONFIGURED)
def test_what_cannot_be_right_is_refused_before_peft_sees_it(tmp_path, options, said):
    folder, _ = save(tmp_path / "a", WORKS["lora"])
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    assert said in refusal(folder)


@pytest.mark.parametrize("name", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_learned_prompts_as_peft_saves_them_are_refused(tmp_path, name):
    folder, _ = save(tmp_path / "a", other(name, task_type="CAUSAL_LM", num_virtual_tokens=3))
    assert "learned positions" in refusal(folder)


@pytest.mark.parametrize("begun", ["pissa", "olora"])
def test_factors_that_the_weights_do_not_determine_are_refused(tmp_path, begun):
    def alike():
        network = qwen()
        for layer in network.model.layers:
            weight = torch.eye(32)  # every direction is as large as any other, to within rounding
            weight[:, 0] = weight[:, 1] if begun == "olora" else weight[:, 0]
            layer.self_attn.q_proj.weight.data = weight
        return network

    folder, _ = save(tmp_path / "a", lora(init_lora_weights=begun, target_modules=["q_proj"]), alike())
    assert "do not determine" in refusal(folder, wrap(alike()))


@pytest.mark.parametrize("content", ["[]", "{}", '{"peft_type": 3}', "no json"])
def test_a_config_that_says_nothing(tmp_path, content):
    folder, _ = save(tmp_path / "a", WORKS["lora"])
    (tmp_path / "a" / "adapter_config.json").write_text(content)
    assert "adapter_config.json" in refusal(folder)


def test_an_initial_adapter_of_another_training(tmp_path):
    folder, _ = save(tmp_path / "a", WITH_INITIAL["pissa_niter_4"], initial="pissa_init")
    path = tmp_path / "a" / "pissa_init" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 99}))
    assert "differ in lora_alpha" in refusal(folder)


def change(folder: str, change_tensors) -> None:
    path = f"{folder}/adapter_model.safetensors"
    save_file(change_tensors(load_file(path)), path)


def test_an_adapter_that_lacks_weights_or_brings_unknown_ones_is_not_half_taken(tmp_path):
    folder, _ = save(tmp_path / "a", WORKS["lora"])
    change(folder, lambda tensors: dict(list(tensors.items())[1:]))
    assert "incomplete" in refusal(folder)
    folder, _ = save(tmp_path / "b", WORKS["lora"])
    change(folder, lambda tensors: tensors | {k.replace("layers.1", "layers.7"): v + 0 for k, v in tensors.items()})
    assert "layers.7" in refusal(folder)


def test_an_embedding_in_the_file_never_replaces_the_bases(tmp_path):
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    folder, expected = save(tmp_path / "a", WORKS["embeddings"])
    assert name in load_file(f"{folder}/adapter_model.safetensors")  # PEFT saves a copy
    follow(wrap(qwen()), folder, expected)
    change(folder, lambda tensors: tensors | {name: tensors[name] + 0.1})
    assert "embed_tokens.weight of its own" in refusal(folder)
    change(folder, lambda tensors: tensors | {name: torch.zeros(260, 32)})
    assert "embed_tokens.weight of its own" in refusal(folder)


# -- beside each other -------------------------------------------------------------------------------------------------


def test_after_the_last_adapter_one_of_another_kind_can_be_put_on(tmp_path):
    model = wrap(qwen())
    before = Untouched(model)
    for kind in ("IA3", "lora", "bias all", "bias lora_only", "LOHA"):
        folder, expected = save(tmp_path / kind.replace(" ", "_"), WORKS[kind])
        name = add_adapter(model, folder)
        assert (whole(model, name) - expected).abs().max() < NOISE
        drop_adapter(model, name)
        before.confirm()


def test_an_adapter_that_fails_beside_another_leaves_that_one_alone(tmp_path):
    one, expected = save(tmp_path / "a", WORKS["lora"])
    two, _ = save(tmp_path / "b", WORKS["lora"])
    change(two, lambda tensors: dict(list(tensors.items())[1:]))
    model = wrap(qwen())
    name = add_adapter(model, one)
    with pytest.raises(ModelError, match="incomplete"):
        add_adapter(model, two)
    assert model.engine.attached == {name}
    assert torch.equal(whole(model, name), whole(model, name))
    assert (whole(model, name) - expected).abs().max() < NOISE
    assert not base_changes(model)


@pytest.mark.parametrize("kind", ["parameters", "lora_bias", "IA3", "ADALORA"])
def test_what_does_not_scale_or_mix_says_so_and_is_read_by_two_passes(tmp_path, kind):
    folder, expected = save(tmp_path / "a", WORKS[kind])
    model = wrap(qwen())
    name = add_adapter(model, folder)
    assert why_not_linear(model.engine.model.peft_config[name])
    with open_pair(Pair(model, model, name), [IDS[:-1]], reuse=False) as stream:
        stream.feed([IDS[-1]])
        assert (stream.adapted[0] - expected[-1]).abs().max() < NOISE
        assert (stream.base[0] - logits(qwen().eval())[-1]).abs().max() < NOISE


# -- the store's keys --------------------------------------------------------------------------------------------------


def test_keys_tell_apart_what_answers_differently(tmp_path):
    model = wrap(qwen())
    folder, _ = save(tmp_path / "a", WORKS["lora"])
    scaled = shutil.copytree(folder, tmp_path / "b")
    config = scaled / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": {"q_proj": 3}}))
    one, two = add_adapter(model, folder), add_adapter(model, str(scaled))
    keys = [key_of(model, adapter) for adapter in (None, one, two, adapter_key(one, 0.5))]
    assert len(set(keys)) == 4
    model.engine.model.get_base_model().lm_head.weight.data[3, 4] += 1e-3
    assert key_of(model, None) != keys[0]  # of what is in memory, whatever file it came from
    assert key_of(model, one) != keys[1]


def test_biases_count_in_an_adapters_key(tmp_path):
    folder, _ = save(tmp_path / "a", WORKS["bias all"])
    name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"
    other_bias = shutil.copytree(folder, tmp_path / "b")
    key = next(key for key in load_file(f"{folder}/adapter_model.safetensors") if key.endswith("bias"))
    assert key.split(".")[-1] == name.split(".")[-1]
    change(str(other_bias), lambda tensors: tensors | {key: tensors[key] + 1})
    assert key_in_store(folder) != key_in_store(str(other_bias))


# -- training goes on from it ------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_folded_adapter(tmp_path):
    folder, expected = save(tmp_path / "a", FOLDED["pissa"])
    model = wrap(qwen())
    before = Untouched(model)
    policy = make_policy(model, AdapterConfig(), tmp_path / "a", seed=0)
    assert (whole(model, NAME) - expected).abs().max() < NOISE
    before.confirm()
    policy.save_adapter(tmp_path / "saved")
    follow(wrap(qwen()), str(tmp_path / "saved"), expected)


def test_training_refuses_what_cannot_be_put_on_the_base(tmp_path):
    save(tmp_path / "a", WITH_INITIAL["corda"])
    with pytest.raises(TrainError, match="cannot be computed again"):
        make_policy(wrap(qwen()), AdapterConfig(), tmp_path / "a", seed=0)


def test_the_probe_is_what_it_was_before_each(tmp_path):
    model = wrap(qwen())
    before = probe(model)
    for kind in ("lora", "dora"):
        folder, _ = save(tmp_path / kind, WORKS[kind])
        add_adapter(model, folder)
        assert model.engine.probe is not None
        assert torch.equal(model.engine.probe, before)
        with model.engine.using(None):
            assert torch.equal(probe(model), before)
