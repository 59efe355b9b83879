"""The placebo: as large as the adapter layer by layer, as often another choice, the same every time."""

import pytest
import torch

from rmx.compare.controls import HALVINGS, STRONGEST, WEAKEST, add_placebo, check_base, choices, placebo_pair
from rmx.compare.shift_set import greedy_ids, places_of
from rmx.engine.engine import adapter_key, split_key
from rmx.models.adapters import adapted_layers, lora_factors, lora_norm
from rmx.models.model_pair import Pair, make_pair
from rmx.models.workspace import Workspace
from tests.conftest import qwen, wrap
from tests.helpers.pairs import prompts, tiny_pair, whole_logits


@pytest.fixture(scope="module")
def texts(rl):
    """Solutions of 20 problems by the base."""
    with rl.turn():
        return [([*p, *greedy_ids(rl.base, p, None, 200)], len(p) - 1) for p in prompts(rl.base, 20)]


def disagreements(pair: Pair, texts) -> int:
    return sum(int(places_of(pair, "x", text, 0.0).differs.sum()) for text in texts)


@pytest.mark.long
def test_it_reranks_as_often_as_the_adapter(rl, texts):
    with rl.turn():
        noise = placebo_pair(rl, texts)
    wanted, got = disagreements(rl, texts), disagreements(noise, texts)
    assert wanted > 5
    assert abs(got - wanted) <= 1
    assert WEAKEST < noise.strength < STRONGEST
    assert noise.base is rl.base
    assert check_base(rl, texts[0][0]).holds


@pytest.mark.slow
def test_the_closest_step_that_was_tried_is_taken(rl, texts, monkeypatch):
    tried: dict[str, int] = {}
    with rl.turn():
        ours = choices(rl.base, None, texts[:4])

        def noted(model, adapter, some):
            found = choices(model, adapter, some)
            if adapter and adapter.startswith("placebo"):
                tried[adapter] = sum(int((a != b).sum()) for a, b in zip(ours, found, strict=True))
            return found

        monkeypatch.setattr("rmx.compare.controls.choices", noted)
        noise = placebo_pair(rl, texts[:4], seed=5)
    wanted = disagreements(rl, texts[:4])
    assert 1 <= len(tried) <= HALVINGS
    assert abs(tried[noise.adapter] - wanted) == min(abs(n - wanted) for n in tried.values())
    assert tried[noise.adapter] == disagreements(noise, texts[:4])


@pytest.mark.slow
def test_choices_are_those_of_a_plain_network_at_the_completions_places(rl, texts, plain_mini, plain_rl):
    with rl.turn():
        base, adapted = (choices(rl.base, a, texts[:2]) for a in (None, rl.adapter))
    for (ids, start), ours, theirs in zip(texts[:2], base, adapted, strict=True):
        assert ours.tolist() == whole_logits(plain_mini, ids[:-1], start).argmax(-1).tolist()
        assert theirs.tolist() == whole_logits(plain_rl, ids[:-1], start).argmax(-1).tolist()


def test_each_layer_is_as_large_as_the_adapters(rl):
    with rl.turn():
        name = add_placebo(rl.base, "rl", seed=1)
    layers = adapted_layers(rl.base, name)
    assert len(layers) == len(adapted_layers(rl.base, "rl")) > 4
    for layer in layers:
        assert lora_norm(layer, name) == pytest.approx(lora_norm(layer, "rl"), rel=1e-4)
        assert not torch.equal(lora_factors(layer, name)[0], lora_factors(layer, "rl")[0])


def factors(pair: Pair, name: str) -> list[torch.Tensor]:
    return [f.clone() for layer in adapted_layers(pair.base, name) for f in lora_factors(layer, name)]


def test_the_same_seed_makes_the_same_noise_and_another_one_another():
    pairs = [make_pair(Workspace("cpu"), "mini", "rl") for _ in range(2)]
    torch.manual_seed(3)  # the global generator has no say
    one = factors(pairs[0], add_placebo(pairs[0].base, "rl", 7))
    again = factors(pairs[1], add_placebo(pairs[1].base, "rl", 7))
    other = factors(pairs[1], add_placebo(pairs[1].base, "rl", 8))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert add_placebo(pairs[0].base, "rl", 7) == "placebo-7-rl"  # asked twice, made once


def test_adapter_and_base_are_what_they_were(tmp_path):
    pair = tiny_pair(tmp_path)
    ids = [1, 2, 3, 4]

    def logits(adapter: str | None) -> torch.Tensor:
        with pair.base.engine.using(adapter):
            return pair.base.engine.open(ids, adapter=adapter, reuse=False).logits

    before = logits(None), logits(pair.adapter)
    noise = placebo_pair(pair, [(ids, 0)])
    logits(noise.adapter)
    assert torch.equal(logits(None), before[0])
    assert torch.equal(logits(pair.adapter), before[1])
    assert pair.base.engine.model.peft_config[split_key(pair.adapter)[0]].r == 4


def test_a_pair_that_agrees_everywhere_gets_no_noise(tmp_path):
    pair = tiny_pair(tmp_path, size=0.0)
    noise = placebo_pair(pair, [(list(range(1, 30)), 4)])
    assert noise.strength == 0.0
    assert disagreements(noise, [(list(range(1, 30)), 4)]) == 0


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
        {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        {"use_rslora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
)
def test_it_has_the_shape_of_any_plain_lora(tmp_path, config):
    pair = tiny_pair(tmp_path, **config)
    name = add_placebo(pair.base, pair.adapter)
    layers, trained = adapted_layers(pair.base, name), adapted_layers(pair.base, pair.adapter)
    assert layers == trained
    for layer in layers:
        assert [f.shape for f in lora_factors(layer, name)] == [f.shape for f in lora_factors(layer, pair.adapter)]
        assert lora_norm(layer, name) == pytest.approx(lora_norm(layer, pair.adapter), rel=1e-4)
    assert check_base(pair, [1, 2, 3]).holds


@pytest.mark.parametrize("config", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_beside_an_adapter_that_does_not_scale_stands_a_lora_of_its_own(tmp_path, config):
    pair = tiny_pair(tmp_path, **config)
    ids = [(list(range(1, 40)), 4)]
    noise = placebo_pair(pair, ids)
    assert split_key(noise.adapter)[0] == "placebo-0"
    for layer in adapted_layers(pair.base, "placebo-0"):
        assert lora_norm(layer, "placebo-0") == pytest.approx(
            0.01 * float(layer.get_base_layer().weight.norm()), rel=1e-4
        )
    assert check_base(pair, ids[0][0]).holds


def test_beside_two_checkpoints_it_stands_on_the_base():
    pair = Pair(wrap(qwen(0)), wrap(qwen(1)), None)
    ids = list(range(1, 40))
    before = pair.base.engine.open(ids, reuse=False).logits
    noise = placebo_pair(pair, [(ids, 4)])
    assert noise.adapted is pair.base
    assert noise.base.engine.scales(noise.adapter)
    with pair.base.engine.using(None):
        assert torch.equal(pair.base.engine.open(ids, reuse=False).logits, before)
    assert check_base(pair, ids).holds


@pytest.mark.slow
def test_a_stop_ends_the_search(rl, texts):
    with rl.turn():
        noise = placebo_pair(rl, texts[:2], seed=9, cancelled=lambda: True)
    assert noise.adapter == adapter_key("placebo-9-rl", 0.0)
