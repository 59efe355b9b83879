"""Reuse equals a cold run; what cannot be reused is computed again; the cache keeps its bound."""

import pytest
import torch

from rmx.engine.engine import Engine
from rmx.engine.fair_queue import as_owner
from rmx.engine.prefix_cache import MOST_HEADS, PrefixCache, Saved
from rmx.errors import PromptError
from tests.conftest import qwen
from tests.helpers.pairs import tiny_pair


def grow(engine: Engine, ids: list[int], more: list[int], **kwargs):
    stream = engine.open(ids, **kwargs)
    for token in more:
        stream.feed(token)
    stream.save()
    return stream


def test_a_shared_prefix_is_reused_and_logits_equal_a_cold_run(tiny):
    engine = tiny.engine
    grow(engine, [1, 2, 3, 4], [5, 6, 7, 8])
    warm = engine.open([1, 2, 3, 4, 5, 6, 99])
    cold = engine.open([1, 2, 3, 4, 5, 6, 99], reuse=False)
    assert (warm.reuse.reused, warm.reuse.computed) == (6, 1)
    assert (cold.reuse.reused, cold.reuse.computed) == (0, 7)
    assert torch.allclose(warm.logits, cold.logits, atol=1e-5)


def test_the_old_branch_stays_intact_when_a_new_one_grows(tiny):
    engine = tiny.engine
    old = grow(engine, [1, 2, 3], [4, 5, 6, 7])
    grow(engine, [1, 2, 3, 4], [50, 51, 52])
    again = engine.open([1, 2, 3, 4, 5, 6, 7])
    assert again.reuse.computed == 1
    assert torch.allclose(again.logits, old.logits, atol=1e-5)


def test_step_by_step_equals_one_pass(tiny):
    ids = list(range(1, 40))
    stepped = grow(tiny.engine, ids[:1], ids[1:], reuse=False)
    whole = tiny.engine.model(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(stepped.logits, whole, atol=1e-5)


def test_reading_reports_every_wanted_position_once(tiny, monkeypatch):
    monkeypatch.setattr("rmx.engine.engine.CHUNK_BYTES", 1)  # the smallest chunks
    ids, seen = list(range(1, 100)), {}
    stream = tiny.engine.open(
        ids, read_from=10, on_read=lambda start, rows: seen.update({start + i: row for i, row in enumerate(rows)})
    )
    whole = tiny.engine.model(torch.tensor([ids])).logits[0]
    assert sorted(seen) == list(range(10, 99))
    assert all(torch.allclose(seen[i], whole[i], atol=1e-5) for i in seen)
    assert torch.allclose(stream.logits, whole[-1], atol=1e-5)


def test_reading_computes_the_positions_it_needs_although_they_are_cached(tiny):
    grow(tiny.engine, [1, 2, 3, 4, 5, 6], [7])
    seen = []
    stream = tiny.engine.open([1, 2, 3, 4, 5, 6], read_from=3, on_read=lambda start, rows: seen.append(len(rows)))
    assert sum(seen) == 3
    assert stream.reuse.reused == 3


def test_a_window_that_has_slid_is_never_reused(sliding):
    engine = sliding.engine
    long = list(range(1, 31))
    grow(engine, long[:8], long[8:])  # 30 positions, past the window of 16
    warm = engine.open([*long[:20], 77])
    whole = engine.model(torch.tensor([[*long[:20], 77]])).logits[0, -1]
    assert warm.reuse.reused == 0
    assert torch.allclose(warm.logits, whole, atol=1e-4)


def test_a_window_that_has_not_slid_is_reused(sliding):
    engine = sliding.engine
    grow(engine, [1, 2, 3, 4], [5, 6])
    warm = engine.open([1, 2, 3, 4, 5, 9])
    assert warm.reuse.reused == 5
    assert torch.allclose(warm.logits, engine.open([1, 2, 3, 4, 5, 9], reuse=False).logits, atol=1e-5)
    for token in range(10, 40):  # and it slides on correctly from there
        warm.feed(token)
    whole = engine.model(torch.tensor([warm.ids])).logits[0, -1]
    assert torch.allclose(warm.logits, whole, atol=1e-4)


def saved(ids: list[int], adapter=None, width: int = 8) -> Saved:
    tensor = torch.zeros(1, 1, len(ids), width)
    return Saved(adapter, torch.tensor(ids), ((tensor, tensor.clone()),))


def test_the_cache_keeps_its_bytes_and_drops_the_least_recently_used():
    one = saved([1, 2, 3]).nbytes
    cache = PrefixCache(2 * one)
    cache.keep(saved([1, 2, 3]))
    cache.keep(saved([4, 5, 6]))
    assert cache.find(None, [1, 2, 3]) is not None  # used just now
    cache.keep(saved([7, 8, 9]))
    assert cache.nbytes <= cache.max_bytes
    assert cache.find(None, [4, 5, 6]) is None
    assert cache.find(None, [1, 2, 3])[1] == 3


def test_a_sequence_larger_than_the_cache_is_not_kept():
    cache = PrefixCache(10)
    cache.keep(saved([1, 2, 3]))
    assert len(cache) == 0


def test_an_extension_replaces_what_it_extends_and_adapters_stay_apart():
    cache = PrefixCache(1 << 20)
    cache.keep(saved([1, 2]))
    cache.keep(saved([1, 2, 3]))
    cache.keep(saved([1, 2], adapter="a"))
    assert len(cache) == 2
    assert cache.find("a", [1, 2, 3])[1] == 2
    assert cache.find(None, [1, 2, 3])[1] == 3
    assert cache.find("b", [1, 2, 3]) is None


@pytest.mark.parametrize(("ids", "said"), [([], "empty"), ([5, 258], "258"), ([-1], "-1"), ([1] * 256, "256 tokens")])
def test_impossible_prompts_are_explained(tiny, ids, said):
    with pytest.raises(PromptError, match=said):
        tiny.engine.open(ids)


def test_base_means_base_with_adapters_on_the_same_weights(tmp_path):
    from peft import LoraConfig, get_peft_model

    from rmx.models.adapters import add_adapter
    from tests.conftest import wrap

    plain = qwen()
    expected = plain(torch.tensor([[1, 2, 3]]), logits_to_keep=1).logits[0, -1]
    tuned = get_peft_model(qwen(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    model = wrap(qwen())
    engine = model.engine
    name = add_adapter(model, str(tmp_path / "adapter"))
    with engine.using(name):
        adapted = grow(engine, [1, 2, 3], [4], adapter=name)
        adapted_first = engine.open([1, 2, 3], adapter=name, reuse=False).logits
    with engine.using(None):
        base = engine.open([1, 2, 3])
    assert base.reuse.reused == 0  # nothing of the adapter's is taken for the base's
    assert torch.equal(base.logits, expected)
    assert (adapted_first - base.logits).abs().max() > 1e-3
    assert adapted.ids == [1, 2, 3, 4]


def test_base_inside_base_stays_base_and_the_adapter_comes_back(tmp_path):
    pair = tiny_pair(tmp_path)
    engine, ids = pair.base.engine, [1, 2, 3]
    with engine.using(pair.adapter):
        adapted = engine.open(ids, reuse=False).logits
    with engine.using(None):
        base = engine.open(ids, reuse=False).logits
        with engine.using(None):
            assert torch.equal(engine.open(ids, reuse=False).logits, base)
        assert torch.equal(engine.open(ids, reuse=False).logits, base)
    assert not torch.equal(base, adapted)
    with pytest.raises(ZeroDivisionError), engine.using(None):
        _ = 1 / 0
    with engine.using(pair.adapter):
        assert torch.equal(engine.open(ids, reuse=False).logits, adapted)


def counted(engine: Engine, work) -> int:
    """Tokens that the network reads in the course of `work`."""
    read = []
    with pytest.MonkeyPatch.context() as patch:
        forward = engine.forward
        patch.setattr(engine, "forward", lambda ids, *a, **k: read.append(len(ids[0])) or forward(ids, *a, **k))
        work()
    return sum(read)


HEAD = tuple(range(1, 31))


@pytest.mark.parametrize("reuse", [True, False])
def test_a_head_is_read_once_for_all_and_leaves_logits_as_a_cold_run_has_them(tiny, reuse):
    engine = tiny.engine
    for head in (HEAD, HEAD[:10], HEAD):
        engine.prefixes.add_head(head)
    assert engine.prefixes.heads == (HEAD, HEAD[:10])
    ids, other = [*HEAD, 40, 41], [*HEAD, 50, 51, 52]
    assert counted(engine, lambda: engine.open(ids, reuse=reuse)) == 32
    assert counted(engine, lambda: engine.open(other, reuse=reuse)) == 3
    assert counted(engine, lambda: engine.open(other, cold=True)) == 33
    with as_owner("somebody else"):
        found = engine.open(other, reuse=reuse)
    assert (found.reuse.reused, found.reuse.computed) == (30, 3)
    assert torch.allclose(found.logits, engine.open(other, cold=True).logits, atol=1e-5)
    assert engine.open(HEAD[:20], reuse=False).reuse.reused == 10
    assert engine.open([2, *HEAD], reuse=False).reuse.reused == 0


def test_a_head_is_each_adapters_own_and_goes_with_it(tmp_path):
    pair = tiny_pair(tmp_path, 0.5)
    engine, ids = pair.base.engine, [*HEAD, 40, 41]
    (lora,) = engine.adapters
    engine.prefixes.add_head(HEAD)

    def opened(adapter, **how):
        with engine.using(adapter):
            return engine.open(ids, adapter=adapter, **how)

    for adapter in (None, pair.adapter, lora):
        cold, first, second = opened(adapter, cold=True), opened(adapter, reuse=False), opened(adapter, reuse=False)
        assert second.reuse.reused == 30
        assert torch.equal(first.logits, second.logits)
        assert torch.allclose(first.logits, cold.logits, atol=1e-5)
    assert (opened(None).logits - opened(lora).logits).abs().max() > 1e-3
    engine.prefixes.clear(lora)
    assert counted(engine, lambda: opened(lora, reuse=False)) == 32
    assert counted(engine, lambda: opened(pair.adapter, reuse=False)) == 2


def test_a_copy_of_the_process_knows_the_heads_and_nothing_that_was_computed_of_them(tiny):
    engine = tiny.engine
    engine.prefixes.add_head(HEAD)
    engine.open([*HEAD, 40], reuse=False)
    engine.forked()
    assert counted(engine, lambda: engine.open([*HEAD, 41], reuse=False)) == 31
    assert counted(engine, lambda: engine.open([*HEAD, 42], reuse=False)) == 1


def test_heads_count_as_memory_and_only_so_many_are_kept():
    cache = PrefixCache(10_000)
    for i in range(MOST_HEADS + 3):
        cache.keep_head(saved([i, 1, 2], adapter=f"a{i}"))
    assert cache.find_head("a2", (2, 1, 2)) is None
    assert cache.find_head("a3", (3, 1, 2)) is not None
    assert cache.nbytes == MOST_HEADS * saved([0, 1, 2]).nbytes
    cache.clear("a3")
    assert cache.find_head("a3", (3, 1, 2)) is None
