"""Samples of many prompts by the same steps: every sample is what it would be alone, whatever was made before."""

import random

import pytest
import torch

from rmx.arguments import Sampling
from rmx.engine.arena import WIDTH, bucket_of, takes_rows
from rmx.engine.batch import Sample, SampleRequest, sample_continuously
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.engine.token_draws import draw, prompt_key, uniform
from rmx.errors import PromptError

pytestmark = pytest.mark.slow

HOT = Sampling(temperature=1.0, top_p=1.0, seed=7, max_new_tokens=40)


@pytest.fixture
def prompts() -> list[tuple[int, ...]]:
    """Of quite different lengths, the longest not first."""
    generator = torch.Generator().manual_seed(5)
    return [tuple(torch.randint(0, 256, (n,), generator=generator).tolist()) for n in (9, 3, 70, 20)]


def ask(prompt, numbers, sampling=HOT, adapter=None) -> SampleRequest:
    return SampleRequest(prompt, numbers, sampling, adapter)


def every(engine: Engine, asks, **options) -> dict[tuple[int, int], Sample]:
    options = {"stop_ids": frozenset({65, 66, 67, 68, 69, 70})} | options
    ended = [s for found in sample_continuously(engine, asks, **options) for s in found]
    made = {(s.prompt, s.number): s for s in ended}
    assert len(made) == len(ended)
    return made


def alone(engine: Engine, prompt, number, sampling, stop_ids):
    """One sample, token by token, without a batch; entropies in float64."""
    stream, key, ids, entropies, logps = engine.open(prompt, reuse=False), prompt_key(prompt), [], [], []
    while len(ids) < sampling.max_new_tokens:
        u = uniform(sampling.seed, key, number, len(ids))
        ids.append(draw(stream.logits, sampling.temperature, sampling.top_p, u))
        logp = stream.logits.double().log_softmax(-1)
        entropies.append(float(-(logp.exp() * logp).sum()))
        logps.append(float(logp[ids[-1]]))
        if ids[-1] in stop_ids:
            break
        stream.feed(ids[-1])
    return ids, entropies, logps


@pytest.mark.parametrize("rows", [1, pytest.param(5, marks=pytest.mark.long), 64])
def test_a_sample_is_what_it_would_be_alone(tiny, prompts, rows):
    stop_ids = frozenset(range(60, 64))
    sampling = Sampling(temperature=0.9, top_p=0.95, seed=3, max_new_tokens=WIDTH + 10)
    made = every(tiny.engine, [ask(p, range(4), sampling) for p in prompts], rows=rows, stop_ids=stop_ids)
    assert set(made) == {(i, n) for i in range(4) for n in range(4)}
    for (i, number), sample in made.items():
        ids, entropies, logps = alone(tiny.engine, prompts[i], number, sampling, stop_ids)
        assert list(sample.ids) == ids
        assert sample.entropies == pytest.approx(entropies, abs=1e-4)
        assert sample.logps == pytest.approx(logps, abs=1e-4)
        assert sample.stop == ("eos" if ids[-1] in stop_ids else "length")
    assert {s.stop for s in made.values()} == {"eos", "length"}


def test_samples_of_other_kinds_of_networks_are_what_they_would_be_alone(sliding, recurrent, prompts):
    """Prompts that are longer than the window and shorter ones share a pass; recurrent state has steps of its own."""
    for model in (sliding, recurrent):
        assert takes_rows(model.engine) == (model is sliding)
        made = every(model.engine, [ask(p, range(3)) for p in prompts], rows=5)
        assert len(made) == 12
        for (i, number), sample in made.items():
            ids, entropies, _ = alone(model.engine, prompts[i], number, HOT, frozenset(range(65, 71)))
            assert list(sample.ids) == ids
            assert sample.entropies == pytest.approx(entropies, abs=1e-4)


def test_greedy_takes_the_likeliest(tiny, prompts):
    made = every(tiny.engine, [ask(prompts[0], range(2), Sampling(max_new_tokens=6))], stop_ids=frozenset())
    stream, ids = tiny.engine.open(prompts[0]), []
    for _ in range(6):
        ids.append(int(stream.logits.argmax()))
        stream.feed(ids[-1])
    assert [list(s.ids) for s in made.values()] == [ids, ids]


def test_what_is_missing_is_made_as_if_nothing_had_been_there(tiny, sliding, prompts):
    """The same tokens, with entropies that differ by rounding alone: the rows that are left have other shapes."""
    for engine in (tiny.engine, sliding.engine):
        whole = every(engine, [ask(p, range(6)) for p in prompts], rows=5)
        order, scattered = list(whole), random.Random(0).sample(list(whole), len(whole))
        for made in (order[:1], order[:17], scattered[:9], scattered[:23]):  # as a kill leaves them, and any
            asks = [ask(p, [n for n in range(6) if (i, n) not in made]) for i, p in enumerate(prompts)]
            rest = every(engine, asks, rows=5)
            assert rest.keys() == whole.keys() - made
            for key, sample in rest.items():
                assert sample.ids == whole[key].ids
                assert sample.entropies == pytest.approx(whole[key].entropies, abs=1e-4)


def test_each_prompt_is_prefilled_once(tiny, prompts, monkeypatch):
    opened, plain = [], Engine.begin
    monkeypatch.setattr(Engine, "begin", lambda self, ids, *rest: opened.append(ids) or plain(self, ids, *rest))
    every(tiny.engine, [ask(p, range(6)) for p in prompts], rows=4)
    assert opened == prompts


def test_rows_end_as_they_are_told_and_are_told_of_every_token(tiny, prompts):
    told: dict[tuple[int, int], list[int]] = {}

    def over(prompt, number, token):
        told.setdefault((prompt, number), []).append(token)
        return len(told[prompt, number]) == 1 + 3 * prompt + number

    made = every(tiny.engine, [ask(p, range(3)) for p in prompts], rows=4, over=over, stop_ids=frozenset())
    assert {key: list(s.ids) for key, s in made.items()} == told
    assert {key: len(s.ids) for key, s in made.items()} == {(i, n): 1 + 3 * i + n for i in range(4) for n in range(3)}
    assert {s.stop for s in made.values()} == {"answer"}


def test_a_full_context_ends_a_sample(tiny):
    prompt = (5,) * (tiny.engine.context - 3)
    made = every(tiny.engine, [ask(prompt, range(2))], stop_ids=frozenset())
    assert [(len(s.ids), s.stop) for s in made.values()] == [(3, "context")] * 2


def test_a_prompt_that_does_not_fit_says_so(tiny):
    with pytest.raises(PromptError, match="holds 256"):
        every(tiny.engine, [ask((5,) * 300, (0,))])


def test_others_get_their_turn_between_rounds(tiny, prompts, monkeypatch):
    monkeypatch.setattr("rmx.engine.batch.ROUND_SECONDS", 0.0)
    rounds = sample_continuously(tiny.engine, [ask(prompts[0], range(2))], stop_ids=frozenset())
    turns = 0
    for _ in rounds:
        with tiny.engine.queue.turn(patience=0.1):
            turns += 1
    assert turns >= HOT.max_new_tokens - 1


def test_a_cancel_ends_it_within_a_step(tiny, prompts):
    asked = 0

    def cancelled():
        nonlocal asked
        asked += 1
        return asked > 20

    every(tiny.engine, [ask(p, range(2)) for p in prompts], stop_ids=frozenset(), cancelled=cancelled)
    assert asked < 30
    assert tiny.engine.queue.waiting() == 0


def test_the_prefix_cache_of_others_stays_as_it_is(tiny, prompts):
    """What a visitor computed may round otherwise, so it is neither used nor replaced."""
    fresh = every(tiny.engine, [ask(prompts[3], range(2))])
    tiny.engine.open(prompts[3][:11]).save()
    kept = len(tiny.engine.prefixes)
    assert every(tiny.engine, [ask(prompts[3], range(2))]) == fresh
    assert len(tiny.engine.prefixes) == kept


def test_the_batch_speaks_for_an_adapter(rl):
    model = rl.adapted
    prompt = model.prompt_ids("Ann has 3 apples and buys 4 more. How many apples does Ann have?")
    made = every(model.engine, [ask(prompt, (0,), adapter=rl.adapter)], stop_ids=model.stop_ids)[0, 0]
    with model.engine.using(rl.adapter):
        logits = model.engine.open(prompt, adapter=rl.adapter, reuse=False).logits
    assert made.entropies[0] == pytest.approx(float(capture(logits[None], 1).entropy), abs=1e-6)


def test_prompts_share_a_batch_under_an_adapter_too(rl, monkeypatch):
    """The adapters' wrapper hides what the network's forward takes; prompt after prompt, this would be 36 passes."""
    model, sampling = rl.adapted, Sampling(temperature=1.0, top_p=1.0, seed=7, max_new_tokens=12)
    asked = [
        model.prompt_ids(f"Ann has {n} apples and buys 4 more. How many apples does Ann have?") for n in (3, 17, 5)
    ]
    asks = [ask(prompt, (0,), sampling, rl.adapter) for prompt in asked]
    one_by_one = [every(model.engine, [one], stop_ids=frozenset()) for one in asks]
    sizes, forward = [], Engine.forward

    def counted(self, tokens, *args, **kwargs):
        sizes.append(len(tokens))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Engine, "forward", counted)
    made = every(model.engine, asks, stop_ids=frozenset())
    assert sizes == [3] * 12  # the prompts, then their tokens, all of them together
    for i, alone_ in enumerate(one_by_one):
        assert made[i, 0].ids == alone_[0, 0].ids
        assert made[i, 0].entropies == pytest.approx(alone_[0, 0].entropies, abs=1e-4)


def test_base_and_adapter_share_a_batch_greedily_and_at_random(rl):
    """Each sample is what it is in a batch of its own kind; base rows are the base's."""
    model = rl.base
    prompts = [model.prompt_ids(f"Ann has {n} apples and buys 4 more. How many does she have?") for n in (3, 17)]
    cool = Sampling(temperature=0.7, top_p=0.9, seed=3, max_new_tokens=12)
    kinds = [(cool, None, range(3)), (Sampling(max_new_tokens=12), None, (0,)), (cool, rl.adapter, range(2))]
    mixed = every(model.engine, [ask(p, n, s, a) for p in prompts for s, a, n in kinds], stop_ids=model.stop_ids)
    for place, (sampling, adapter, numbers) in enumerate(kinds):
        asks = [ask(p, numbers, sampling, adapter) for p in prompts]
        apart = every(model.engine, asks, stop_ids=model.stop_ids)
        for (i, number), sample in apart.items():
            other = mixed[len(kinds) * i + place, number]
            assert other.ids == sample.ids
            assert other.entropies == pytest.approx(sample.entropies, abs=1e-4)
    assert mixed[0, 0].entropies[0] != mixed[2, 0].entropies[0]  # the adapter speaks in its own rows


def test_slots_come_in_few_sizes_and_hold_at_most_a_half_more_than_they_must():
    sizes = [bucket_of(rows) for rows in range(1, 200)]
    assert all(rows <= size <= 1.5 * rows for rows, size in enumerate(sizes, 1))
    assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
