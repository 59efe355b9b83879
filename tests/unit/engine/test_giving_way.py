"""Who gives way between two steps goes on as if nothing had been in between: same tokens, nobody waits for ever."""

import threading
import time
from collections.abc import Callable

import pytest
import torch

from rmx.arguments import Sampling
from rmx.compare.intervene import AllArms, ArmProblem
from rmx.compare.shift_map import MapJob, ShiftMap
from rmx.engine.batch import SampleRequest, continue_batch, sample_continuously
from rmx.engine.engine import HeldEngines
from rmx.engine.fair_queue import FairQueue, Kind, RequestOwner, as_owner
from rmx.errors import ModelError
from rmx.explore.generate import Branch, Generation, Job
from rmx.models.model_pair import Pair
from rmx.train.probe import probe
from tests.conftest import qwen, wrap

pytestmark = pytest.mark.slow

PROBLEMS = ("Tom has 5 pens and buys 4 more. How many pens has Tom?", "Mia has 9 figs and eats 2. How many are left?")
SAMPLED = Sampling(1.2, 1.0, 3, 60)
PATIENCE = 60.0


@pytest.fixture
def eager(monkeypatch):
    """Everybody gives way after each step to whoever waits and had less."""
    monkeypatch.setattr("rmx.engine.fair_queue.SLICE", 0.0)
    monkeypatch.setattr("rmx.engine.fair_queue.LOOK", 0.0)


@pytest.fixture
def stepped(monkeypatch):
    """How often somebody gave way."""
    count = []
    step_back = FairQueue.step_back

    def noted(self):
        count.append(1)
        return step_back(self)

    monkeypatch.setattr(FairQueue, "step_back", noted)
    return count


def together(*works: Callable[[], object], first: int = 0) -> list[object]:
    """What each piece of work returns, each in a thread and for an asker of its own, all at the same time."""
    found: dict[int, object] = {}

    def do(i):
        with as_owner(RequestOwner(f"owner {first + i}", f"address {first + i}")):
            found[i] = works[i]()

    threads = [threading.Thread(target=do, args=[i], daemon=True) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == list(range(len(works))), "one of them has failed, or waits for ever"
    return [found[i] for i in range(len(works))]


def figures(trace):
    return [(t.id, t.entropy, t.logp, t.rank) for t in trace.tokens]


def test_cold_runs_beside_each_other_under_different_adapters_are_those_of_undisturbed_runs(rl, eager, stepped):
    model = rl.base
    jobs = [
        Job(model.prompt_ids(problem), sampling, 1.0, adapter, cold=True)
        for problem, sampling in zip(PROBLEMS, (Sampling(max_new_tokens=60), SAMPLED), strict=True)
        for adapter in (None, rl.adapter, f"{rl.adapter}*0.5")
    ]
    alone = [Generation(model, job).run() for job in jobs]
    beside = together(*[lambda job=job: Generation(model, job).run() for job in jobs])
    assert stepped == []  # they hold the engine together
    assert [figures(t) for t in beside] == [figures(t) for t in alone]
    assert len({str(figures(t)) for t in alone}) == len(jobs)  # the adapters do matter
    assert model.engine.queue.waiting() == 0
    assert model.engine.held.used == []


def test_a_swap_from_the_cache_is_the_same_beside_another_ones_stream(rl, eager):
    """The prefix cache belongs to its owner, also where two streams grow at the same time."""
    model = rl.base
    job = Job(model.prompt_ids(PROBLEMS[0]), SAMPLED, 1.0, rl.adapter)
    cold = Generation(model, Job(job.prompt_ids, SAMPLED, 1.0, rl.adapter, cold=True)).run()

    def twice():
        Generation(model, job).run()
        return Generation(model, job).run()

    other = Job(model.prompt_ids(PROBLEMS[1]), SAMPLED, 1.0)
    first, _, second = together(twice, lambda: Generation(model, other).run(), twice)
    for trace in (first, second):
        assert trace.ids == cold.ids
        assert trace.reuse.reused > 0


def test_batches_maps_and_arms_beside_each_other_are_those_of_undisturbed_runs(rl, eager, stepped):
    model = rl.base
    ids = [model.prompt_ids(problem) for problem in PROBLEMS]

    def batch():
        with model.engine.queue.turn():
            given = [(first,) for first in range(5, 12)]
            return continue_batch(
                model.engine, ids[0], given, max_new=90, over=lambda *_: False, adapter=rl.adapter, reuse=False
            )

    def mapped():
        found = ShiftMap(rl, MapJob(ids[1], Sampling(max_new_tokens=60), 1.0)).run()
        return [(s.id, s.rank, s.base.entropy, s.adapted.entropy) for s in found.shifts]

    def arms():
        asked = [ArmProblem(str(i), prompt, None) for i, prompt in enumerate(ids)]
        with rl.turn():
            found = AllArms(rl, asked, ("base", "teacher", "oracle"), 1.0, max_new=90).run()
        return [{arm: result.ids for arm, result in one.items()} for one in found]

    def samples():
        asks = [SampleRequest(prompt, range(3), SAMPLED, rl.adapter) for prompt in ids]
        stops = frozenset(model.stop_ids)
        made = sample_continuously(model.engine, asks, stop_ids=stops, rows=4)
        return sorted((s.prompt, s.number, s.ids) for ended in made for s in ended)

    works = (batch, mapped, arms, samples)
    model.engine.prefixes.clear()  # a prefix that was read in other pieces rounds otherwise
    alone = [found for i, work in enumerate(works) for found in together(work, first=i)]
    assert stepped == []
    for _ in range(6):  # how soon they meet depends on the machine
        model.engine.prefixes.clear()
        assert together(*works, lambda: Generation(model, Job(ids[0], SAMPLED, 1.0)).run().ids)[:4] == alone
        if len(stepped) > 50:
            break
    assert len(stepped) > 50


def test_two_engines_that_are_held_together_go_and_come_back_together(eager, stepped):
    """One thread holds both and gives way to threads that hold the one, the other, or both in turn."""
    base, teacher = wrap(qwen(0)), wrap(qwen(1))
    pair = Pair(base, teacher, None)
    ids = base.prompt_ids("7")

    def one(model):
        return lambda: Generation(model, Job(ids, Sampling(max_new_tokens=40), 1.0, cold=True)).run().ids

    def both():
        found = ShiftMap(pair, MapJob(ids, Sampling(max_new_tokens=40), 1.0)).run()
        return [(s.id, s.rank) for s in found.shifts]

    def half():
        """A batch of one engine only while both are held, as where a set is solved."""
        with pair.turn():
            return continue_batch(base.engine, ids, [(3,), (4,)], max_new=40, over=lambda *_: False, reuse=False)

    works = (one(base), one(teacher), both, half)
    alone = [work() for work in works]
    assert together(*works, *works) == alone * 2
    assert len(stepped) > 50
    assert all(m.engine.held.engines == [m.engine] and not m.engine.held.used for m in (base, teacher))


def test_a_long_generation_does_not_keep_another_visitor_waiting_for_its_end(rl):
    """The second one has its first tokens, and its end, before the long one is over."""
    model, order = rl.base, []
    long, short = (
        Job(model.prompt_ids(p), Sampling(2.0, 1.0, 1, n), 1.0) for p, n in zip(PROBLEMS, (400, 5), strict=True)
    )

    def write(name, job):
        for _ in Generation(model, job):
            order.append(name)
            time.sleep(0.005)

    def later():
        while "long" not in order:
            time.sleep(0.001)
        write("short", short)

    together(lambda: write("long", long), later)
    assert order[-1] == "long"
    assert order.count("short") == 5
    assert order.index("long") < order.index("short")


def test_who_is_stopped_while_others_have_the_engine_ends_soon_and_keeps_its_tokens(rl, eager):
    model = rl.base
    job = Job(model.prompt_ids(PROBLEMS[0]), Sampling(2.0, 1.0, 1, 2000), 1.0, cold=True)
    run = Branch(model, job, prompt="", tree="")

    def stopping():
        with as_owner(RequestOwner("stopped", "there", Kind.BULK)):
            for count in run.steps():
                if count == 10:
                    ticket = enter_as(model.engine.queue, RequestOwner("other", "here"))
                    threading.Timer(0.1, run.halt).start()
        assert model.engine.queue.holds(ticket)  # its end does not wait for the other's
        model.engine.queue.leave(ticket)
        return len(run.tokens)

    def enter_as(turns, who):
        with as_owner(who):
            return turns.enter()

    (count,) = together(stopping)
    assert run.trace.stop == "cancelled"
    assert 10 <= count < 15
    assert model.engine.queue.waiting() == 0


def test_an_adapter_that_is_dropped_meanwhile_is_an_error_and_leaves_the_engine_whole(rl, eager):
    model = rl.base
    engine = model.engine
    job = Job(model.prompt_ids(PROBLEMS[0]), Sampling(max_new_tokens=40), 1.0, rl.adapter, cold=True)
    with as_owner(RequestOwner("anna", "her place")):
        tokens = iter(Generation(model, job))
        next(tokens)
    place = engine.adapters.pop(rl.adapter)
    try:
        with as_owner(RequestOwner("ben", "his place")):
            ticket = engine.queue.enter()
        with pytest.raises(ModelError, match="not loaded"):
            next(tokens)
        engine.queue.leave(ticket)
    finally:
        tokens.close()
        engine.adapters[rl.adapter] = place
    assert engine.queue.waiting() == 0
    assert engine.held == HeldEngines([engine])
    base = Job(job.prompt_ids, job.sampling, 1.0, None, cold=True)
    assert Generation(model, base).run().ids == Generation(model, base).run().ids


def test_the_probe_lets_others_in_between(rl, eager, stepped):
    model = rl.base
    with model.engine.using(None):
        before = model.engine.model(torch.tensor([model.prompt_ids("7")])).logits.clone()
    problems = [type("P", (), {"problem": text})() for text in PROBLEMS]
    job = Job(model.prompt_ids(PROBLEMS[0]), SAMPLED, 1.0, rl.adapter, cold=True)
    alone = Generation(model, job).run().ids

    def measured():
        with as_owner(RequestOwner("planner", "there", Kind.BULK)), model.engine.queue.turn():
            return probe(model, problems, temperature=1.0, micro_batch=2, seconds=0.5)

    def again():
        return [Generation(model, job).run().ids for _ in range(3)]

    found, ids = together(measured, again)
    assert min(found.decode_step, found.read_token, found.train_token) > 0
    assert ids == [alone] * 3
    assert stepped
    with model.engine.using(None):
        assert torch.equal(model.engine.model(torch.tensor([model.prompt_ids("7")])).logits, before)
