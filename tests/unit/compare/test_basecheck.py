"""Base is base: the check holds where it should, and each kind of tampering is found by the look meant for it."""

import json

import pytest
import torch

from rmx.compare.controls import against_file, check_base, dtype_noise, shape_noise
from rmx.models.base_state import without_adapters
from rmx.models.model_pair import Pair, make_pair
from rmx.models.workspace import Workspace
from tests.conftest import qwen, wrap
from tests.helpers.pairs import prompts, save_lora, tiny_pair


@pytest.fixture
def fresh() -> Pair:
    """Mini with its partner, to be tampered with."""
    return make_pair(Workspace("cpu"), "mini", "rl")


def text_of(pair: Pair) -> list[int]:
    return list(prompts(pair.base, 1)[0])


def snapshot(pair: Pair) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in pair.base.engine.model.state_dict().items()}


def assert_unchanged(pair: Pair, before: dict[str, torch.Tensor]) -> None:
    after = pair.base.engine.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_the_base_of_the_bundled_pair_is_the_base(rl):
    ids = text_of(rl)
    found = check_base(rl, ids, copy=True)
    assert found.holds
    assert (found.max_dlogit, found.probe, found.copy) == (0.0, 0.0, 0.0)
    assert found.positions == len(ids)
    assert found.weights.equal == found.weights.tensors == 38
    assert (found.adapter.name, found.adapter.type, found.adapter.rank, found.adapter.zero) == ("rl", "LORA", 32, False)
    assert json.loads(json.dumps(found.json(), allow_nan=False))["holds"] is True
    assert rl.base.engine.queue.waiting() == 0


def test_one_changed_weight_is_found(fresh):
    down = fresh.base.engine.model.get_base_model().model.layers[1].mlp.down_proj
    with torch.inference_mode(False):
        down.weight.data[3, 4] += 1e-3
    found = check_base(fresh, text_of(fresh), copy=True)
    assert not found.holds
    assert found.weights.equal == found.weights.tensors - 1
    assert found.probe > 0
    assert found.copy > 0
    assert found.max_dlogit == 0.0  # with the adapter off the changed base still equals itself


def test_a_changed_weight_under_an_adapter_layer_is_found(fresh):
    layer = fresh.base.engine.model.get_base_model().model.layers[0].self_attn.q_proj
    layer.get_base_layer().weight.data[0, 0] += 1e-3
    found = check_base(fresh, text_of(fresh))
    assert (found.holds, found.weights.equal) == (False, found.weights.tensors - 1)
    assert found.probe > 0
    assert found.copy is None


def test_without_a_file_the_probe_alone_finds_it(tmp_path):
    pair = tiny_pair(tmp_path)
    assert check_base(pair, [1, 2, 3]).holds
    pair.base.engine.model.get_base_model().lm_head.weight.data[5, 5] += 1e-3
    found = check_base(pair, [1, 2, 3])
    assert (found.weights, found.max_dlogit, found.holds) == (None, 0.0, False)
    assert found.probe > 0


def test_an_adapter_left_merged_is_found(fresh):
    fresh.base.engine.model.merge_adapter()
    found = check_base(fresh, text_of(fresh))
    assert not found.holds
    assert found.weights.equal < found.weights.tensors


def test_a_base_of_nan_is_not_called_the_base(fresh):
    fresh.base.engine.model.get_base_model().model.norm.weight.data[0] = float("nan")
    found = check_base(fresh, text_of(fresh))
    assert not found.holds
    assert found.weights.equal == found.weights.tensors - 1
    assert not found.probe < 1.0


def test_an_adapter_that_stays_on_is_found(fresh, monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr(fresh.base.engine, "using", lambda adapter: nullcontext())  # "off" that switches nothing off
    found = check_base(fresh, text_of(fresh))
    assert not found.holds
    assert found.max_dlogit > 0.1
    assert found.weights.equal == found.weights.tensors


def test_a_zero_adapter_says_so(tmp_path):
    pair = tiny_pair(tmp_path, size=0.0)
    found = check_base(pair, [1, 2, 3])
    assert found.holds
    assert (found.adapter.zero, found.adapter.norm) == (True, 0.0)
    assert found.weights is None  # no file stands behind this model


@pytest.mark.parametrize(
    "config",
    [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"trainable_token_indices": [1]}],
)
def test_the_check_holds_under_every_sort_of_adapter(tmp_path, config):
    pair = tiny_pair(tmp_path, **config)
    before = snapshot(pair)
    for _ in range(2):
        found = check_base(pair, [1, 2, 3, 4])
        assert found.holds
        assert not found.adapter.zero
        with pair.base.engine.using(pair.adapter):
            pair.base.engine.open([1, 2, 3], adapter=pair.adapter, reuse=False)
    assert_unchanged(pair, before)


def test_bare_takes_everything_out_and_puts_it_back_also_after_an_error(tmp_path):
    pair = tiny_pair(tmp_path)
    engine = pair.base.engine
    wrapper, adapters, before = engine.model, engine.adapters, snapshot(pair)
    plain = qwen().eval()
    ids = torch.tensor([[1, 2, 3]])

    def break_inside() -> None:
        with without_adapters(engine):
            assert not any("lora" in name for name, _ in engine.model.named_modules())
            assert list(engine.model.state_dict()) == list(plain.state_dict())
            with engine.using(None):
                assert torch.equal(engine.model(ids).logits, plain(ids).logits)
            raise KeyError

    with pytest.raises(KeyError):
        break_inside()
    assert engine.model is wrapper
    assert engine.adapters is adapters
    assert_unchanged(pair, before)
    with engine.using(pair.adapter):
        adapted = engine.open([1, 2, 3], adapter=pair.adapter, reuse=False).logits
    assert (adapted - plain(ids).logits[0, -1]).abs().max() > 0.1


def test_without_an_adapter_there_is_nothing_to_take_out():
    engine = wrap(qwen()).engine
    network = engine.model
    with without_adapters(engine):
        assert engine.model is network


def test_two_checkpoints_have_nothing_on_the_base():
    found = check_base(Pair(wrap(qwen(0)), wrap(qwen(1)), None), [1, 2, 3])
    assert (found.holds, found.adapter, found.probe) == (True, None, None)
    assert "two sets of weights" in found.how


def test_the_file_is_compared_in_the_dtype_that_was_loaded():
    pair = make_pair(Workspace("cpu", "bfloat16"), "mini", "rl")
    found = against_file(pair.base)
    assert (found.equal, found.tensors, found.file) == (38, 38, "model.safetensors")


def test_noise_leaves_every_weight_as_it_was(fresh):
    before = snapshot(fresh)
    ids = text_of(fresh)
    shape, dtype = shape_noise(fresh.base.engine, ids), dtype_noise(fresh.base, ids)
    assert_unchanged(fresh, before)
    assert 0 <= shape.max_dlogit < 1e-3
    assert 1e-3 < dtype.max_dlogit < 3
    assert dtype.positions == len(ids)
    assert check_base(fresh, ids).holds


def test_a_text_that_fills_the_context_can_be_checked(tmp_path):
    pair = tiny_pair(tmp_path)
    full = [i % 200 for i in range(pair.base.engine.context)]
    assert check_base(pair, full).positions == len(full) - 1


def test_the_dtypes_noise_is_that_of_rounded_weights(fresh, plain_mini):
    from copy import deepcopy

    ids = torch.tensor([text_of(fresh)])
    with torch.inference_mode():
        rounded = deepcopy(plain_mini).to(torch.bfloat16)(input_ids=ids).logits.float()
        exact = plain_mini(input_ids=ids).logits
    assert dtype_noise(fresh.base, ids[0].tolist()).max_dlogit == pytest.approx(
        float((rounded - exact).abs().max()), abs=1e-4
    )


def test_noise_is_read_without_the_adapter_and_from_few_ids(tmp_path):
    model = wrap(qwen())
    alone = shape_noise(model.engine, list(range(1, 40)))
    pair = tiny_pair(tmp_path, model=model)
    with pair.base.engine.using(pair.adapter):
        pass
    assert shape_noise(model.engine, list(range(1, 40))) == alone
    assert shape_noise(model.engine, [1, 2]).positions == 3
    save_lora(tmp_path / "other", qwen())
