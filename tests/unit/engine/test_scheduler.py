"""Many streams from one step: the same tokens as alone, each stream's affairs its own."""

import random
import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from rmx.arguments import Sampling
from rmx.engine import fair_queue, scheduler
from rmx.engine.arena import WIDTH, Arena, row_step, takes_rows
from rmx.engine.batch import continue_batch
from rmx.engine.engine import RowAdapters, lora_layers
from rmx.engine.fair_queue import FairQueue, Kind, RequestOwner, as_owner
from rmx.engine.scheduler import AHEAD, Decoder, Decoding, Prefix, scheduler_of
from rmx.errors import ModelError
from rmx.explore.generate import Branch, Generation, Job, swap_job
from rmx.explore.greedy_answers import look_ahead
from rmx.records import StepPath

pytestmark = pytest.mark.slow

TEXTS = ("What is 2 + 2?", "x", "How many pens has Tom, who has 5 and buys 4 more?", "7 * 6 = ")
SETTINGS = (
    Sampling(max_new_tokens=30),
    Sampling(1.0, 1.0, 3, 24),
    Sampling(0.8, 0.9, 4, 40),
    Sampling(max_new_tokens=9),
)


def jobs(model, adapters=(None,), **fields):
    return [
        Job(tuple(model.prompt_ids(text)), setting, 1.0, adapter, **fields)
        for text, setting in zip(TEXTS, SETTINGS, strict=True)
        for adapter in adapters
    ]


def interleave(generations, at_step=lambda: None):
    """Listen to all of them in turn, one token each, in this thread."""
    streams = [iter(one) for one in generations]
    while streams:
        for stream in list(streams):
            if next(stream, None) is None:
                streams.remove(stream)
        at_step()
    return [one.trace() for one in generations]


def figures(trace):
    return [(t.id, t.entropy, t.logp, t.rank, t.top) for t in trace.tokens]


def close(a, b):
    assert a.ids == b.ids
    assert (a.stop, a.answer) == (b.stop, b.answer)
    for x, y in zip(a.tokens, b.tokens, strict=True):
        assert (x.text, x.rank) == (y.text, y.rank)
        assert (x.entropy, x.logp) == pytest.approx((y.entropy, y.logp), abs=1e-4)


def test_streams_together_write_what_each_writes_alone(tiny):
    asked = jobs(tiny)
    alone = [Generation(tiny, job).run() for job in asked]
    tiny.engine.prefixes.clear()
    buckets = set()
    together = interleave(
        [Generation(tiny, job) for job in asked], lambda: buckets.add(scheduler_of(tiny.engine).bucket)
    )
    for one, other in zip(alone, together, strict=True):
        close(one, other)
    assert {slots for slots, _ in buckets - {None}} >= {4}
    assert {trace.path for trace in alone} == {StepPath("eager", 1)}
    assert {trace.path for trace in together} == {StepPath("eager", 4)}
    assert tiny.engine.queue.waiting() == 0
    assert scheduler_of(tiny.engine).bucket is None


def test_a_stream_alone_computes_what_a_cold_run_computes_to_the_last_bit(tiny):
    for job in jobs(tiny):
        assert figures(Generation(tiny, job).run()) == figures(Generation(tiny, replace(job, cold=True)).run())


def test_adapters_and_strengths_share_a_step(rl):
    model = rl.base
    asked = jobs(model, (None, rl.adapter, f"{rl.adapter}*0.5", f"{rl.adapter}*0"))
    alone = [Generation(model, replace(job, cold=True)).run() for job in asked]
    for one, other in zip(alone, interleave([Generation(model, job) for job in asked]), strict=True):
        close(one, other)
    assert len({str(figures(trace)) for trace in alone}) > 8  # the adapters do matter
    assert all(isinstance(layer.scaling[rl.adapter], float) for layer in lora_layers(model.engine.model))


def arena_of(engine, texts, adapters):
    """An arena with one row for each text, read under its adapter."""
    arena = Arena(engine)
    for ids, adapter in zip(texts, adapters, strict=True):
        with engine.using(adapter):
            stream = engine.open(ids, adapter=adapter, reuse=False)
        assert arena.put(len(ids), [(layer.keys, layer.values) for layer in stream.cache.layers]) < len(texts)
    return arena


def test_neighbours_do_not_matter_to_the_last_bit(mini):
    draw, found = random.Random(5), []
    mine = [draw.randrange(5, 1000) for _ in range(50)]
    for _ in range(4):
        others = [[draw.randrange(5, 1000) for _ in range(draw.randrange(130, 180))] for _ in range(7)]
        with mini.engine.using(None):
            arena = arena_of(mini.engine, [mine, *others], [None] * 8)
            logits = [arena.feed(dict.fromkeys(range(8), [77 + step]))[0] for step in range(5)]
        assert arena.bucket == (8, 192)
        found.append(torch.stack(logits))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_rows_at_strength_0_are_those_of_a_network_that_never_saw_an_adapter_to_the_last_bit(rl, mini):
    texts = [list(rl.base.prompt_ids(text)) for text in TEXTS]
    keys = [None, rl.adapter, f"{rl.adapter}*0.5", f"{rl.adapter}*0"]
    engine, fed = rl.base.engine, dict.fromkeys(range(4), [77])

    def step(adapters, switched):
        arena = arena_of(engine, texts, adapters)
        with switched:
            return arena.feed(fed)

    mixed = step(keys, engine.switched_by_row(RowAdapters(tuple(keys))))
    untouched = arena_of(mini.engine, texts, [None] * 4).feed(fed)
    assert torch.equal(mixed[0], untouched[0])
    assert torch.equal(mixed[3], untouched[3])
    for row in (1, 2):
        whole = step([keys[row]] * 4, engine.switched(keys[row]))
        assert torch.equal(mixed[row], whole[row])
        assert not torch.equal(mixed[row], untouched[row])


def test_the_step_traces_as_one_graph(rl):
    engine, keys = rl.base.engine, [None, rl.adapter]
    arena = arena_of(engine, [[5, 6, 7], [8, 9]], keys)
    positions = torch.tensor([[3], [2]])
    for layer in arena._cache.layers:
        layer.show(WIDTH, positions)
    arguments = (engine, torch.tensor([[4], [5]]), positions, torch.arange(WIDTH), arena._cache)
    with torch.inference_mode(), engine.switched_by_row(RowAdapters(tuple(keys))):
        expected = row_step(*arguments)
        found = torch.compile(row_step, fullgraph=True, backend="eager")(*arguments)
    assert torch.equal(found, expected)


def test_streams_come_and_go_and_slots_are_used_again(tiny):
    """Rows begin and end at any time, are swapped and closed; what is left writes what it writes alone."""
    draw, kept = random.Random(2), []
    engine = tiny.engine
    arrivals = [replace(draw.choice(jobs(tiny)), prompt_ids=tuple(draw.choices(range(256), k=20))) for _ in range(24)]
    running: list = []
    while arrivals or running:
        if arrivals and draw.random() < 0.3:
            generation = Generation(tiny, arrivals.pop())
            running.append((generation, iter(generation), draw.random() < 0.3))
        for entry in list(running):
            generation, stream, leaves = entry
            if next(stream, None) is None:
                kept.append(generation)
                running.remove(entry)
            elif leaves and len(generation.tokens) > 3:
                stream.close()
                running.remove(entry)
                assert generation.trace().stop == "cancelled"
    assert (engine.queue.waiting(), scheduler_of(engine).bucket) == (0, None)
    for generation in kept:
        close(generation.trace(), Generation(tiny, replace(generation.job, cold=True)).run())


def test_swaps_beside_other_streams_go_on_from_what_is_kept(tiny):
    asked = jobs(tiny)
    traces = [Generation(tiny, job).run() for job in asked]
    swaps = [swap_job(job, t.tokens, 4, [t.tokens[4].top[1].id], 258) for job, t in zip(asked, traces, strict=True)]
    together = interleave([Generation(tiny, job) for job in swaps])
    for job, trace in zip(swaps, together, strict=True):
        assert trace.reuse.computed <= 2
        close(trace, Generation(tiny, replace(job, cold=True)).run())


def test_look_aheads_go_on_beside_a_stream_and_are_those_of_a_batch(rl):
    model = rl.base
    for adapter in (None, rl.adapter):
        trace = Generation(model, replace(jobs(model)[2], adapter=adapter)).run()
        prefix, firsts = [*trace.prompt_ids, *trace.ids[:5]], [c.id for c in trace.tokens[5].top[:5]]
        with model.engine.queue.turn():
            given, over = [(first,) for first in firsts], lambda row, token: token in model.stop_ids
            expected = continue_batch(model.engine, prefix, given, max_new=9, over=over, adapter=adapter)
        watched = Generation(model, jobs(model)[0])
        stream = iter(watched)
        next(stream)
        assert look_ahead(model, prefix, firsts, adapter, length=8) == expected
        assert len(watched.tokens) > 5  # it has gone on meanwhile
        list(stream)
        close(watched.trace(), Generation(model, replace(watched.job, cold=True)).run())
        assert scheduler_of(model.engine).bucket is None


def test_models_that_cannot_share_a_step_take_theirs_in_turn(recurrent):
    assert not takes_rows(recurrent.engine)
    asked = jobs(recurrent)
    alone = [Generation(recurrent, job).run() for job in asked]
    assert {trace.path for trace in alone} == {StepPath("general", 1)}
    order = []
    generations = [Generation(recurrent, job) for job in asked]
    together = interleave(generations, lambda: order.append([len(g.tokens) for g in generations]))
    assert [figures(t) for t in together] == [figures(t) for t in alone]
    assert min(order[5]) > 1  # none waits for the end of another


def test_sliding_windows_share_a_step_past_their_windows(sliding):
    asked = [replace(job, sampling=replace(job.sampling, max_new_tokens=40)) for job in jobs(sliding)]
    alone = [Generation(sliding, replace(job, cold=True)).run() for job in asked]
    buckets = set()
    made = [Generation(sliding, job) for job in asked]
    together = interleave(made, lambda: buckets.add(scheduler_of(sliding.engine).bucket))
    for one, other in zip(alone, together, strict=True):
        close(one, other)
    assert {slots for slots, _ in buckets - {None}} >= {2, 4}
    assert max(len(trace.prompt_ids) + len(trace.ids) for trace in alone) > 60  # the window has 16


def test_a_cold_run_is_the_reference_also_beside_others(tiny):
    first, *others = jobs(tiny)
    alone = Generation(tiny, replace(first, cold=True)).run()
    beside = interleave([Generation(tiny, replace(first, cold=True)), *(Generation(tiny, job) for job in others)])
    assert figures(beside[0]) == figures(alone)


def test_an_error_in_one_stream_is_its_own(tiny):
    bad, *others = [Generation(tiny, job) for job in jobs(tiny)]

    def fail():
        if len(bad.tokens) > 2:
            raise KeyError("mine")
        return False

    bad.cancelled = fail
    streams = [iter(one) for one in others]
    first = iter(bad)
    for _ in range(3):
        for stream in (first, *streams):
            next(stream)
    for stream in streams:
        list(stream)
    with pytest.raises(KeyError, match="mine"):
        list(first)
    assert [g.stop for g in others] == [Generation(tiny, g.job).run().stop for g in others]
    assert tiny.engine.queue.waiting() == 0


def test_an_adapter_that_is_not_there_is_an_error_of_its_stream(rl):
    model = rl.base
    good, bad = Generation(model, jobs(model)[0]), Generation(model, replace(jobs(model)[1], adapter="nowhere"))
    stream = iter(good)
    next(stream)
    with pytest.raises(ModelError, match="not loaded"):
        list(bad)
    list(stream)
    close(good.trace(), Generation(model, replace(good.job, cold=True)).run())


def test_a_slow_listener_is_not_run_away_from_and_holds_nobody_up(tiny):
    slow, fast = (Generation(tiny, replace(jobs(tiny)[0], sampling=Sampling(2.0, 1.0, s, 100))) for s in (1, 2))
    listened = iter(slow)
    next(listened)
    assert len(list(fast)) == 100
    assert 1 < len(slow.tokens) <= 2 + AHEAD
    assert len(list(listened)) == 99
    close(slow.trace(), Generation(tiny, replace(slow.job, cold=True)).run())


def test_whoever_needs_the_engine_alone_gets_it_between_two_steps(tiny, monkeypatch):
    monkeypatch.setattr(fair_queue, "SLICE", 0.0)
    monkeypatch.setattr(fair_queue, "LOOK", 0.0)
    generations = [Generation(tiny, replace(job, sampling=Sampling(2.0, 1.0, 1, 150))) for job in jobs(tiny)]
    seen = []

    def alone():
        with as_owner(RequestOwner("other", "there")), tiny.engine.queue.turn():
            seen.append([len(g.tokens) for g in generations])

    def listen(i):
        with as_owner(RequestOwner(f"visitor {i}", f"address {i}")):
            generations[i].run()

    threads = [threading.Thread(target=listen, args=[i]) for i in range(len(generations))]
    for thread in threads:
        thread.start()
    while not generations[-1].tokens:
        time.sleep(0.001)
    alone()
    for thread in threads:
        thread.join()
    assert seen[0] != [len(g.tokens) for g in generations]
    for generation in generations:
        close(generation.trace(), Generation(tiny, replace(generation.job, cold=True)).run())


def test_many_visitors_in_threads_get_their_own_tokens(mini):
    asked = [
        Job(tuple(mini.prompt_ids(f"Tom has {n} pens and buys {n + 3} more. How many pens has Tom?")), setting, 1.0)
        for n in range(2, 10)
        for setting in (Sampling(max_new_tokens=50), Sampling(1.0, 1.0, n, 50))
    ]
    alone = [Generation(mini, job).run() for job in asked]
    found = {}

    def visit(i):
        with as_owner(f"visitor {i}"):
            run = Branch(mini, asked[i], prompt="", tree="")
            counts = [count for count in run.steps() if count]
            assert counts == sorted(counts)
            assert counts[-1] == len(run.tokens)
            found[i] = run.trace

    threads = [threading.Thread(target=visit, args=[i]) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, one in enumerate(alone):
        close(found[i], one)
    assert mini.engine.queue.waiting() == 0


def test_long_prompts_are_read_in_pieces_between_the_steps_of_others(tiny, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 16)
    writing = Generation(tiny, replace(jobs(tiny)[0], sampling=Sampling(2.0, 1.0, 1, 100)))
    stream = iter(writing)
    next(stream)
    long = Generation(tiny, Job(tuple([7, 9] * 80), Sampling(max_new_tokens=5), 1.0))
    assert next(iter(long)).pos == 0
    assert 8 <= len(writing.tokens) <= 12  # ten pieces
    close(long.trace(), long.trace())
    stream.close()


# -- seats ------------------------------------------------------------------------------------------------------------


def seat(queue, owner, nbytes=0):
    with as_owner(owner):
        return queue.enter(nbytes)


def test_shared_tickets_hold_together_and_one_that_is_not_waits_for_all_of_them():
    queue = FairQueue()
    a, b = seat(queue, "anna"), seat(queue, "ben")
    alone = queue.enter()
    c = seat(queue, "carl")
    assert [queue.holds(t) for t in (a, b, alone, c)] == [True, True, False, True]
    for ticket in (a, b, c):
        assert queue.wait(alone, 0.0) > 0
        queue.leave(ticket)
    assert queue.holds(alone)
    d = seat(queue, "dora")
    assert not queue.holds(d)
    queue.leave(alone)
    assert queue.holds(d)


def test_seats_are_bounded_by_number_owner_and_memory(monkeypatch):
    monkeypatch.setattr(fair_queue, "SEATS", 5)
    monkeypatch.setattr(fair_queue, "SEATS_EACH", 2)
    monkeypatch.setattr(fair_queue, "SEAT_BYTES", 100)
    queue = FairQueue()
    mine = [seat(queue, "anna", 10) for _ in range(3)]
    assert [queue.holds(t) for t in mine] == [True, True, False]
    large, small = seat(queue, "ben", 90), seat(queue, "carl", 10)
    assert [queue.holds(t) for t in (large, small)] == [False, True]
    assert queue.wait(large, 0.0) > 0
    queue.leave(mine[0])
    assert queue.holds(mine[2])
    for ticket in (mine[1], mine[2]):
        queue.leave(ticket)
    assert queue.holds(large)
    huge = seat(queue, "dora", 1000)
    for ticket in (large, small):
        queue.leave(ticket)
    assert queue.holds(huge)  # one may always begin


def test_who_shares_gives_way_together_and_each_counts_its_part(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(fair_queue.time, "monotonic", lambda: clock[0])
    queue = FairQueue()
    a, b = seat(queue, "anna"), seat(queue, "ben")
    alone = queue.enter()
    clock[0] = 1.0
    assert queue.overdue()  # the one alone has had nothing
    assert {*queue.step_back()} == {a, b}
    assert queue.holds(alone)
    for ticket in (a, b):
        queue.rejoin(ticket)
    assert (queue._owners.of("anna", 1.0), queue._owners.of("ben", 1.0)) == (0.5, 0.5)
    queue.leave(alone)
    assert queue.holds(a)
    assert queue.holds(b)


@pytest.mark.parametrize(
    ("kinds", "shares"),
    [
        ((Kind.WATCHED,), (1 / 3,)),  # a question about a text
        ((Kind.MEASURED,), (1 / 3,)),
        ((Kind.BULK,), (1 / 9,)),
        ((Kind.UNASKED,), (1 / 9,)),
        ((Kind.MEASURED, Kind.MEASURED), (1 / 6, 1 / 6)),
        ((Kind.MEASURED, Kind.BULK), (0.32, 0.02)),  # the other kind is not forgotten
    ],
)
def test_a_shared_turn_that_never_ends_gives_others_a_share_of_the_time(kinds, shares, monkeypatch):
    """Also where whoever asks has had most: streams of others may join for ever."""
    clock, step = [0.0], 0.02
    monkeypatch.setattr(fair_queue.time, "monotonic", lambda: clock[0])
    queue, had = FairQueue(), dict.fromkeys(range(len(kinds)), 0.0)
    for name in ("anna", "ben"):
        seat(queue, name)
    others = []
    for i, kind in enumerate(kinds):
        with as_owner(RequestOwner(f"visitor {i}", f"address {i}", kind)):
            others.append(queue.enter())
    while clock[0] < 120.0:
        clock[0] += step
        for i, ticket in enumerate(others):
            had[i] += step * queue.holds(ticket)
        if queue.overdue():
            for ticket in queue.step_back():
                queue.rejoin(ticket)
    for i, share in enumerate(shares):
        assert had[i] / clock[0] == pytest.approx(share, rel=0.25)


def test_streams_of_bulk_work_give_way_to_what_is_watched_at_once(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(fair_queue.time, "monotonic", lambda: clock[0])
    queue = FairQueue()
    with as_owner(RequestOwner("anna", kind=Kind.BULK)):
        queue.enter(0)
    with as_owner("ben"):
        question = queue.enter()
    clock[0] = 1.01 * fair_queue.SLICE
    assert queue.overdue()
    queue.step_back()
    assert queue.holds(question)


def arrive_together(engine, prefixes, owners, monkeypatch, **options):
    """Streams that ask in the same moment, 6 greedy tokens each: streams, their figures, the shapes of all passes."""
    shapes, made, rows, forward = [], [[] for _ in prefixes], [], engine.forward

    def counted(ids, *args, **named):
        shapes.append(tuple(torch.as_tensor(ids).shape))
        return forward(ids, *args, **named)

    def take(to, figures):
        to.append(figures)
        return len(to) == 6

    monkeypatch.setattr(engine, "forward", counted)
    for prefix, to, owner in zip(prefixes, made, owners, strict=True):
        rows.append(Decoding(prefix, Sampling(), partial(take, to), owner=RequestOwner(owner), **options))
    decoder = Decoder(engine, visitors=True)
    decoder.live += rows
    with engine.queue.turn(), decoder.rows:
        while decoder.live:
            decoder.step()
    monkeypatch.undo()
    return rows, made, shapes


def check_against_a_cold_run(engine, prefix, made):
    with engine.queue.turn(), engine.using(prefix.adapter):
        stream = engine.open(prefix.ids, adapter=prefix.adapter, reuse=False)
        for figures in made:
            assert figures.token_id == int(stream.logits.argmax())
            assert figures.logp == pytest.approx(float(stream.logits.double().log_softmax(-1).max()), abs=1e-4)
            stream.feed(figures.token_id)


def test_prompts_that_wait_together_are_read_together(sliding, monkeypatch):
    """In few passes of similar lengths; a prompt that is refused is its owner's affair alone."""
    engine = sliding.engine
    texts = [tuple(range(60 + i, 80 + 3 * i)) for i in range(8)]
    prefixes = [Prefix(ids, reuse=False) for ids in (*texts, (1, 2, 10**6), tuple(range(200)))]
    rows, made, shapes = arrive_together(engine, prefixes, map(str, range(10)), monkeypatch)
    assert [shape for shape in shapes if shape[1] > 1] == [(7, 32), (1, 34), (1, 200)]
    assert [row.error is not None for row in rows] == [i == 8 for i in range(10)]
    assert "does not exist" in str(rows[8].error)
    for i in (*range(8), 9):
        check_against_a_cold_run(engine, prefixes[i], made[i])


def test_swaps_of_several_people_are_read_together(rl, monkeypatch):
    """Each goes on from what its owner has computed, under its own adapter: one pass reads the new token of all."""
    engine, prefixes, owners = rl.base.engine, [], [f"visitor {i}" for i in range(8)]
    for i, owner in enumerate(owners):
        ids, adapter = rl.base.prompt_ids(f"Tom has {i} pens and buys 4 more."), (None, rl.adapter)[i % 2]
        with as_owner(owner), engine.queue.turn(), engine.using(adapter):
            engine.open(ids, adapter=adapter).save()
        prefixes.append(Prefix([*ids[:-1], 40 + i], adapter))
    rows, made, shapes = arrive_together(engine, prefixes, owners, monkeypatch)
    assert set(shapes) == {(8, 1)}
    assert len(shapes) == 6  # of which the first reads, and the others decode
    for prefix, figures in zip(prefixes, made, strict=True):
        check_against_a_cold_run(engine, prefix, figures)


def test_cold_prompts_are_read_alone(tiny, monkeypatch):
    prefixes = [Prefix(tuple(range(60 + i, 80 + i)), reuse=False) for i in range(3)]
    _, _, shapes = arrive_together(tiny.engine, prefixes, "abc", monkeypatch, alone=True)
    assert set(shapes) == {(1, 20), (1, 1)}
