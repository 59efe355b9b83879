"""Two models side by side: a mixed batch equals two passes, ragged rows equal lone ones, strengths stay apart."""

import pytest
import torch
from transformers import DynamicCache, Qwen2ForCausalLM

from rmx.compare.intervene import AllArms, ArmProblem, Intervention, PatchJob
from rmx.compare.shift_set import greedy_ids
from rmx.data.problem_sets import load_set
from rmx.engine.engine import adapter_key, split_key, why_not_linear
from rmx.errors import ModelError
from rmx.models.adapters import add_adapter, facts
from rmx.models.load import Model
from rmx.models.model_pair import Pair, PairStream, check_same_tokens, make_pair, open_pair, read_both
from rmx.models.workspace import Workspace
from tests.conftest import SHAPE, qwen, wrap
from tests.helpers.pairs import prompts, save_lora, script_model, tiny_pair, whole_logits

RAGGED = ([1, 2, 3, 4, 5, 6, 7], [40, 41, 42], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [77])
FED = ([11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [51, 52, 53, 54])


def cold(pair: Pair, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token logits under both, each in a pass of its own, nothing reused."""
    found = []
    for model, adapter in ((pair.base, None), (pair.adapted, pair.adapter)):
        with model.engine.using(adapter):
            found.append(model.engine.open(ids, adapter=adapter, reuse=False).logits[: pair.vocab_size])
    return found[0], found[1]


def assert_is(stream: PairStream, pair: Pair, rows: list[list[int]], atol: float = 1e-4) -> None:
    for i, ids in enumerate(rows):
        base, adapted = cold(pair, ids)
        assert torch.allclose(stream.base[i], base, atol=atol), f"base row {i}"
        assert torch.allclose(stream.adapted[i], adapted, atol=atol), f"adapted row {i}"
        assert int(stream.base[i].argmax()) == int(base.argmax())
        assert int(stream.adapted[i].argmax()) == int(adapted.argmax())


# -- one batch for both ------------------------------------------------------------------------------------------------


def test_a_mixed_batch_equals_two_passes_on_a_tiny_model(tmp_path):
    pair = tiny_pair(tmp_path)
    prefix = [1, 2, 3, 4, 5]
    with open_pair(pair, [prefix], reuse=False) as stream:
        assert (stream.base - stream.adapted).abs().max() > 0.1  # otherwise the test would prove nothing
        ids = list(prefix)
        for token in (9, 8, 200, 3):
            stream.feed([token])
            ids.append(token)
            assert_is(stream, pair, [ids])


def test_a_mixed_batch_equals_two_plain_networks_on_mini(rl, plain_mini, plain_rl):
    prompt = prompts(rl.base, 1)[0]
    with rl.turn(), open_pair(rl, [prompt], reuse=False) as stream:
        ids = list(prompt)
        for _ in range(20):
            token = int(stream.base[0].argmax())
            ids.append(token)
            stream.feed([token])
            base, adapted = (whole_logits(n, ids, len(ids) - 1)[0] for n in (plain_mini, plain_rl))
            assert torch.allclose(stream.base[0], base, atol=1e-4)
            assert torch.allclose(stream.adapted[0], adapted, atol=1e-4)
            assert int(stream.base.argmax()) == int(base.argmax())
            assert int(stream.adapted.argmax()) == int(adapted.argmax())


@pytest.mark.parametrize("config", [{}, {"use_dora": True}])  # mixed, and by two passes
def test_ragged_rows_equal_lone_ones_also_after_rows_have_left(tmp_path, config):
    pair = tiny_pair(tmp_path, **config)
    rows = [list(r) for r in RAGGED]
    with open_pair(pair, rows, reuse=False) as stream:
        assert_is(stream, pair, rows)
        stream.feed([f[0] for f in FED])
        rows = [[*r, f[0]] for r, f in zip(rows, FED, strict=True)]
        assert_is(stream, pair, rows)
        stream.select([3, 0, 1])  # the longest leaves, the order changes
        rows = [rows[i] for i in (3, 0, 1)]
        assert stream.ids == rows
        stream.feed([f[1] for f in FED[:3]])
        rows = [[*r, f[1]] for r, f in zip(rows, FED, strict=False)]
        assert_is(stream, pair, rows)
        stream.select([2])
        rows = [rows[2]]
        for token in (99, 98):
            stream.feed([token])
            rows[0].append(token)
            assert_is(stream, pair, rows)


def test_equal_prefixes_are_prefilled_once_and_their_rows_go_their_own_way(tmp_path, monkeypatch):
    pair = tiny_pair(tmp_path)
    opened = []
    original = pair.base.engine.open
    monkeypatch.setattr(pair.base.engine, "open", lambda ids, **k: opened.append(list(ids)) or original(ids, **k))
    with open_pair(pair, [[1, 2, 3]] * 3, reuse=False) as stream:
        assert len(opened) == 2  # base and adapted
        stream.feed([7, 8, 9])
        monkeypatch.undo()
        assert_is(stream, pair, [[1, 2, 3, 7], [1, 2, 3, 8], [1, 2, 3, 9]])


# -- the prefix cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"use_dora": True}])
def test_what_was_saved_gives_the_same_as_a_cold_run(tmp_path, config):
    pair = tiny_pair(tmp_path, **config)
    prefixes = [[1, 2, 3, 4, 5, 6], [1, 2, 3]]
    with open_pair(pair, prefixes) as stream:
        for a, b in ((10, 20), (11, 21), (12, 22)):
            stream.feed([a, b])
        stream.save(0)
        stream.save(1)
    ids = [1, 2, 3, 4, 5, 6, 10, 11, 12]
    for adapter in (None, pair.adapter):
        saved, shared = pair.base.engine.prefixes.find(adapter, ids)
        assert shared == 9
        assert len(saved.ids) == 9
    assert pair.base.engine.prefixes.find(None, [1, 2, 3, 20, 21, 22])[1] == 6
    with open_pair(pair, [[*ids, 5]]) as stream:
        assert_is(stream, pair, [[*ids, 5]])
        stream.feed([6])
        assert_is(stream, pair, [[*ids, 5, 6]])


def test_the_row_that_is_saved_is_the_row_that_was_asked_for(tmp_path):
    pair = tiny_pair(tmp_path)
    with open_pair(pair, [[1, 2, 3]] * 3) as stream:
        stream.feed([7, 8, 9])
        stream.select([0, 2])
        stream.feed([70, 90])
        stream.save(1)
    for adapter in (None, pair.adapter):
        assert pair.base.engine.prefixes.find(adapter, [1, 2, 3, 9, 90])[1] == 5
        assert pair.base.engine.prefixes.find(adapter, [1, 2, 3, 7, 70])[1] == 3
    with open_pair(pair, [[1, 2, 3, 9, 90, 4]]) as stream:
        assert_is(stream, pair, [[1, 2, 3, 9, 90, 4]])


def test_base_strengths_and_adapters_never_share_a_prefix(tmp_path):
    pair = tiny_pair(tmp_path)
    name = split_key(pair.adapter)[0]
    ids = [5, 6, 7, 8]
    pairs = [Pair(pair.base, pair.base, adapter_key(name, s)) for s in (1.0, 0.5, 0.0, 1.5)]
    for one in pairs * 2:  # the second round reuses the first one's prefixes
        expected = cold(one, [*ids, 9])
        with open_pair(one, [ids]) as stream:
            stream.feed([9])
            assert torch.allclose(stream.base[0], expected[0], atol=1e-4)
            assert torch.allclose(stream.adapted[0], expected[1], atol=1e-4)
            stream.save()


def test_a_pass_that_breaks_half_way_poisons_no_prefix(tmp_path):
    pair = tiny_pair(tmp_path)
    second = pair.base.engine.model.get_base_model().model.layers[1]
    prompt = tuple(range(1, 9))
    decode = Intervention(pair, PatchJob(prompt, "oracle", 1.0, max_new=12))
    tokens = iter(decode)
    for _ in range(4):
        next(tokens)
    handle = second.register_forward_pre_hook(broken)
    with pytest.raises(torch.OutOfMemoryError):
        next(tokens)
    handle.remove()
    assert pair.base.engine.queue.waiting() == 0
    ids = [*prompt, *decode.ids]
    with open_pair(pair, [[*ids, 5]]) as stream:
        assert_is(stream, pair, [[*ids, 5]])


def broken(*_):
    raise torch.OutOfMemoryError("no room")


def hooks(model: Model) -> int:
    return sum(len(m._forward_pre_hooks) for m in model.engine.model.modules())


def test_a_mixed_pass_that_breaks_leaves_no_hooks_and_the_base_is_the_base(tmp_path):
    pair = tiny_pair(tmp_path)
    before = hooks(pair.base)
    base, adapted = cold(pair, [1, 2, 3])
    second = pair.base.engine.model.get_base_model().model.layers[1].mlp
    original, second.forward = second.forward, broken
    with pytest.raises(torch.OutOfMemoryError), open_pair(pair, [[1, 2, 3]], reuse=False):
        pass
    del second.forward
    with open_pair(pair, [[1, 2, 3]], reuse=False) as stream:
        second.forward = broken
        with pytest.raises(torch.OutOfMemoryError):
            stream.feed([4])
    second.forward = original
    assert hooks(pair.base) == before
    again = cold(pair, [1, 2, 3])
    assert torch.equal(again[0], base)
    assert torch.equal(again[1], adapted)


# -- strength ----------------------------------------------------------------------------------------------------------


def scaled_by_hand(folder, strength: float) -> Qwen2ForCausalLM:
    """The tiny model with strength * scaling * B A added to its weights, from the adapter's file."""
    from safetensors.torch import load_file

    network = qwen()
    weights = load_file(str(folder / "adapter_model.safetensors"))
    for name, a in weights.items():
        if name.endswith("lora_A.weight"):
            target = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = weights[name.replace("lora_A", "lora_B")]
            network.get_submodule(target).weight.data += strength * 2.0 * b @ a  # alpha 8 over rank 4
    return network.eval()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_strength_multiplies_the_update(tmp_path, strength):
    pair = tiny_pair(tmp_path, strength)
    ids = [1, 2, 3, 4, 5]
    by_hand = scaled_by_hand(tmp_path / "lora", strength)
    with open_pair(pair, [ids], reuse=False) as stream:
        for token in (6, 7):
            stream.feed([token])
            ids.append(token)
        assert torch.allclose(stream.adapted[0], whole_logits(by_hand, ids, len(ids) - 1)[0], atol=2e-4)
    read: list[torch.Tensor] = []
    read_both(pair, ids, 0, lambda _, base, adapted: read.append(adapted), reuse=False)
    assert torch.allclose(torch.cat(read), whole_logits(by_hand, ids, 0), atol=2e-4)


def test_strength_0_is_the_base_bit_for_bit(tmp_path):
    pair = tiny_pair(tmp_path, 0.0)
    base, adapted = cold(pair, [1, 2, 3, 4])
    assert torch.equal(base, adapted)


def test_a_strength_is_gone_when_its_block_ends_also_by_an_error(tmp_path):
    pair = tiny_pair(tmp_path)
    name = split_key(pair.adapter)[0]
    plain = cold(pair, [1, 2, 3])[1]
    with pytest.raises(KeyError), pair.base.engine.using(adapter_key(name, 0.25)):
        raise KeyError
    assert torch.equal(cold(pair, [1, 2, 3])[1], plain)


@pytest.mark.parametrize("key", [("rl", 1.0), ("rl", 0.5), ("rl", 0.0), ("a/b_c", 1.25)])
def test_keys_split_into_what_they_were_made_of(key):
    assert split_key(adapter_key(*key)) == key


# -- adapters that do not scale ----------------------------------------------------------------------------------------


UNEVEN = [
    ({"use_dora": True}, "DoRA"),
    ({"modules_to_save": ["lm_head"]}, "modules"),
    ({"bias": "all"}, "biases"),
    ({"trainable_token_indices": [3, 4]}, "tokens"),
]


@pytest.mark.parametrize(("config", "said"), UNEVEN)
def test_other_adapters_refuse_a_strength_and_say_why(tmp_path, config, said):
    folder = save_lora(tmp_path / "lora", qwen(), **config)
    space = Workspace(loader=lambda spec: wrap(qwen()))
    with pytest.raises(ModelError, match=said):
        make_pair(space, "tiny", folder, strength=0.5)
    pair = make_pair(space, "tiny", folder)
    assert why_not_linear(pair.base.engine.model.peft_config[pair.adapter])


@pytest.mark.parametrize(("config", "said"), UNEVEN)
def test_other_adapters_are_compared_by_two_passes_and_base_stays_base(tmp_path, config, said):
    from peft import PeftModel

    pair = tiny_pair(tmp_path, **config)
    plain, tuned = qwen().eval(), PeftModel.from_pretrained(qwen(), str(tmp_path / "lora")).eval()
    ids = [1, 2, 3, 4, 5]
    for _ in range(2):  # a second time, after the adapter was on
        with open_pair(pair, [ids, [9, 9]], reuse=False) as stream:
            stream.feed([6, 6])
        assert torch.allclose(stream.base[0], whole_logits(plain, [*ids, 6], 5)[0], atol=1e-4)
        assert torch.allclose(stream.adapted[0], whole_logits(tuned, [*ids, 6], 5)[0], atol=1e-4)
        assert torch.allclose(stream.adapted[1], whole_logits(tuned, [9, 9, 6], 2)[0], atol=1e-4)
        assert (stream.base - stream.adapted).abs().max() > 0.1


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan")])
def test_impossible_strengths_are_refused(strength):
    space = Workspace(loader=lambda spec: wrap(qwen()))
    with pytest.raises(ModelError, match="between 0 and 1.5"):
        make_pair(space, "tiny", "x", strength=strength)


@pytest.mark.parametrize("named", [(None, None), ("rl", "mini")])
def test_exactly_one_thing_to_compare_with(named):
    with pytest.raises(ModelError, match="Name what to compare"):
        make_pair(Workspace("cpu"), "mini", *named)


def test_the_strength_of_a_checkpoint_cannot_be_set():
    with pytest.raises(ModelError, match="full checkpoint"):
        make_pair(Workspace("cpu"), "mini", teacher="mini", strength=0.5)


# -- two engines -------------------------------------------------------------------------------------------------------


def padded(seed: int, rows: int) -> Qwen2ForCausalLM:
    """The tiny model with a longer output; the padding would win every argmax."""
    from transformers import Qwen2Config

    torch.manual_seed(seed)
    network = Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"vocab_size": rows})).eval()
    network.lm_head.weight.data.mul_(30)
    network.lm_head.weight.data[258:] = 0
    network.generation_config.eos_token_id = None
    return network


def test_two_checkpoints_of_one_tokenizer(tmp_path):
    pair = Pair(wrap(qwen(0)), wrap(qwen(1)), None)
    assert (pair.one_set, pair.strength) == (False, 1.0)
    rows = [list(r) for r in RAGGED]
    with pair.turn(), open_pair(pair, rows) as stream:
        assert pair.base.engine.queue.waiting() == pair.adapted.engine.queue.waiting() == 1
        stream.feed([f[0] for f in FED])
        rows = [[*r, f[0]] for r, f in zip(rows, FED, strict=True)]
        assert_is(stream, pair, rows)
        stream.select([2, 0])
        rows = [rows[2], rows[0]]
        stream.feed([1, 2])
        assert_is(stream, pair, [[*rows[0], 1], [*rows[1], 2]])
        stream.save(0)
    assert pair.base.engine.queue.waiting() == pair.adapted.engine.queue.waiting() == 0
    with open_pair(pair, [[*rows[0], 1, 5]]) as stream:
        assert_is(stream, pair, [[*rows[0], 1, 5]])


def test_the_padding_of_longer_outputs_is_cut_off():
    base, adapted = wrap(padded(0, 258)), wrap(padded(1, 320))
    pair = Pair(base, adapted, None)
    assert pair.vocab_size == 258
    ids = list(range(1, 20))
    with open_pair(pair, [ids]) as stream:
        assert stream.base.shape == stream.adapted.shape == (1, 258)
        stream.feed([3])
        assert stream.base.shape == stream.adapted.shape == (1, 258)
        assert_is(stream, pair, [[*ids, 3]])
    seen = {}
    read_both(pair, ids, 4, lambda at, b, a: seen.update({at + i: (b[i], a[i]) for i in range(len(b))}))
    plain = whole_logits(adapted.engine.model, ids, 0)
    assert sorted(seen) == list(range(4, 19))
    assert all(torch.allclose(seen[i][1], plain[i, :258], atol=1e-4) for i in seen)
    check_same_tokens(base, adapted)


def test_different_vocabularies_are_refused_with_a_sentence():
    mini = make_pair(Workspace("cpu"), "mini", "rl").base
    with pytest.raises(ModelError, match="different vocabularies.*Compare models of one family"):
        check_same_tokens(mini, wrap(qwen()))
    longer = script_model(lambda pos, last: {})
    longer.tokenizer.add_tokens([f" word{i}" for i in range(40)])
    with pytest.raises(ModelError, match=r"257 and 297 tokens"):
        check_same_tokens(wrap(qwen()), longer)


def test_reading_in_chunks_reports_every_index_once(tmp_path, monkeypatch):
    monkeypatch.setattr("rmx.engine.engine.CHUNK_BYTES", 1)
    pair = tiny_pair(tmp_path)
    ids, seen = [i % 200 + 1 for i in range(90)], {}
    for _ in range(2):  # the second time out of the prefix cache
        seen.clear()
        read_both(pair, ids, 7, lambda at, b, a: seen.update({at + i: (b[i], a[i]) for i in range(len(b))}))
        assert sorted(seen) == list(range(7, 90))
        whole = whole_logits(qwen().eval(), ids, 0)
        assert all(torch.allclose(seen[i][0], whole[i], atol=1e-4) for i in seen)


# -- windows that slide ------------------------------------------------------------------------------------------------


def sliding_pair(sliding: Model, tmp_path) -> Pair:
    from copy import deepcopy

    folder = save_lora(tmp_path / "lora", deepcopy(sliding.engine.model))
    return Pair(sliding, sliding, add_adapter(sliding, folder))


@pytest.mark.slow
@pytest.mark.parametrize("length", [5, 15, 16, 17, 40])
def test_a_sliding_window_steps_like_one_pass(sliding, tmp_path, length):
    pair = sliding_pair(sliding, tmp_path)
    ids = [i % 200 + 1 for i in range(length)]
    rows = [list(ids), [*ids[:-1], 201]]
    for _ in range(2):  # the second time with what was kept
        with open_pair(pair, rows) as stream:
            fed = [list(r) for r in rows]
            for token in range(30, 50):  # over the edge of the window
                stream.feed([token, token + 100])
                fed = [[*fed[0], token], [*fed[1], token + 100]]
            assert_is(stream, pair, fed)
            stream.select([1])
            stream.feed([7])
            assert_is(stream, pair, [[*fed[1], 7]])
            stream.save()


@pytest.mark.slow
def test_all_arms_on_a_sliding_window_equal_one_problem_at_a_time(sliding, tmp_path):
    pair = sliding_pair(sliding, tmp_path)
    asked = [ArmProblem(str(n), tuple(i % 200 + 1 for i in range(n)), "1") for n in (3, 14, 30)]
    arms = ("base", "teacher", "oracle", "random", "matched", "entropy")
    together = AllArms(pair, asked, arms, 1.0, max_new=24).run()
    for problem, found in zip(asked, together, strict=True):
        assert AllArms(pair, [problem], arms, 1.0, max_new=24).run()[0] == found
        assert list(found["base"].ids) == greedy_plain(pair, problem.prompt_ids, None, 24)
        assert list(found["teacher"].ids) == greedy_plain(pair, problem.prompt_ids, pair.adapter, 24)


def greedy_plain(pair: Pair, prompt, adapter: str | None, count: int) -> list[int]:
    """Greedy without reuse, every token by a pass over everything."""
    ids = list(prompt)
    with pair.base.engine.using(adapter):
        for _ in range(count):
            cache = DynamicCache(config=pair.base.engine.config)
            ids.append(int(pair.base.engine.forward([ids], cache, keep=1)[0, -1].argmax()))
    return ids[len(prompt) :]


# -- the set's own decoding --------------------------------------------------------------------------------------------


def test_greedy_completions_are_those_of_the_plain_networks(rl, plain_rl):
    prompt = prompts(rl.base, 1)[0]
    with rl.turn():
        found = greedy_ids(rl.base, prompt, rl.adapter, 200)
    rows = whole_logits(plain_rl, [*prompt, *found[:-1]], len(prompt) - 1)
    assert found == rows.argmax(-1).tolist()
    assert found[-1] in rl.base.stop_ids


def test_the_bundled_partner_solves_more(rl):
    assert rl.name == "mini + rl"
    assert load_set("mini")[0].answer is not None


# -- facts of an adapter -----------------------------------------------------------------------------------------------


def test_the_norm_is_that_of_the_dense_update(tmp_path):
    pair = tiny_pair(tmp_path, lora_alpha=12)
    dense = 0.0
    for layer in pair.base.engine.model.modules():
        if hasattr(layer, "lora_A") and len(layer.lora_A):
            a, b = layer.lora_A[pair.adapter].weight, layer.lora_B[pair.adapter].weight
            dense += float((3.0 * b.double() @ a.double()).square().sum())
    found = facts(pair.base, pair.adapter)
    assert found.norm == pytest.approx(dense**0.5, rel=1e-9)
    assert (found.type, found.rank, found.alpha, found.zero) == ("LORA", 4, 12, False)
    assert found.targets == ("o_proj", "q_proj", "v_proj")
    # q and o: 32 x 32, v: 16 x 32, two layers
    assert found.parameters == 2 * (2 * 4 * 64 + 4 * 48)


def test_a_zero_adapter_is_called_zero_and_one_that_replaces_a_module_is_not(tmp_path):
    zero = tiny_pair(tmp_path / "a", size=0.0)
    assert facts(zero.base, zero.adapter).zero
    assert facts(zero.base, zero.adapter).norm == 0.0
    base, adapted = cold(zero, [1, 2, 3])
    assert torch.equal(base, adapted)
    saved = tiny_pair(tmp_path / "b", modules_to_save=["lm_head"])
    for layer in saved.base.engine.model.modules():
        if hasattr(layer, "lora_B") and len(layer.lora_B):
            layer.lora_B[saved.adapter].weight.data.zero_()
    base, adapted = cold(saved, [1, 2, 3])
    assert not torch.equal(base, adapted)
    assert not facts(saved.base, saved.adapter).zero


def test_an_adapter_is_not_taken_for_another_whose_name_it_begins(tmp_path):
    model = wrap(qwen())
    folder = save_lora(tmp_path / "x", qwen())
    name = add_adapter(model, folder)
    alone = facts(model, name).parameters
    save_lora(tmp_path / "x_2", qwen(), r=8)
    add_adapter(model, str(tmp_path / "x_2"))
    assert facts(model, name).parameters == alone
