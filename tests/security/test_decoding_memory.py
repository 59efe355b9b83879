"""Keys and values of many evaluations at once: one budget for the process, given back as soon as a batch ends."""

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rmx.arguments import Sampling
from rmx.engine import decoding_memory
from rmx.engine.arena import SlotLayer
from rmx.engine.batch import Sample, SampleRequest, sample_continuously
from rmx.engine.decoding_memory import MemoryBudget, row_bytes

HOT = Sampling(temperature=1.0, seed=7, max_new_tokens=40)


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """A round is a step, so that a batch is seen under way."""
    monkeypatch.setattr("rmx.engine.batch.ROUND_SECONDS", 0.0)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.01)


def batch(engine, samples: int = 4, **options) -> Iterator[list[Sample]]:
    options = {"stop_ids": frozenset[int](), "rows": 4} | options
    return sample_continuously(engine, [SampleRequest((1, 2, 3), range(samples), HOT)], **options)


def layers() -> int:
    return sum(isinstance(one, SlotLayer) for one in gc.get_objects())


def test_keys_and_values_of_a_batch_that_is_over_are_freed_without_a_collection(tiny):
    gc.collect()
    gc.disable()
    try:
        steps = batch(tiny.engine)
        next(steps)
        assert layers() == tiny.engine.config.num_hidden_layers
        for _ in steps:
            pass
        assert layers() == 0
    finally:
        gc.enable()


# -- the budget -------------------------------------------------------------------------------------------------------


class Holder(threading.Thread):
    """Holds bytes of a budget until it is told to leave."""

    def __init__(self, budget: MemoryBudget, nbytes: int) -> None:
        super().__init__(daemon=True)
        self.budget, self.nbytes, self.got = budget, nbytes, None
        self.leave, self.cancel = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.budget.held(self.nbytes, self.cancel.is_set) as mine:
            self.got = mine
            if mine:
                self.leave.wait(20)

    def over(self) -> None:
        self.leave.set()
        self.join(20)
        assert not self.is_alive()


def test_what_is_more_than_is_left_waits_first_come_first_served():
    budget = MemoryBudget(100)
    first, second = Holder(budget, 60), Holder(budget, 40)
    until(lambda: first.got and second.got)
    large = Holder(budget, 70)
    until(lambda: budget.waiting == 1)
    small = Holder(budget, 10)
    until(lambda: budget.waiting == 2)
    second.over()  # 40 are free: the small one came later and does not slip past
    time.sleep(0.1)
    assert (large.got, small.got, budget.taken) == (None, None, 60)
    first.over()
    until(lambda: large.got and small.got)
    assert budget.taken == 80
    large.over(), small.over()
    assert (budget.taken, budget.waiting) == (0, 0)


def test_one_that_needs_more_than_there_is_has_it_alone():
    budget = MemoryBudget(100)
    first, huge = Holder(budget, 10), Holder(budget, 500)
    until(lambda: first.got and budget.waiting == 1)
    first.over()
    until(lambda: huge.got)
    next_one = Holder(budget, 1)
    until(lambda: budget.waiting == 1)
    huge.over()
    until(lambda: next_one.got)
    next_one.over()


def test_one_that_is_cancelled_while_it_waits_holds_nobody_up():
    budget = MemoryBudget(100)
    first, large = Holder(budget, 60), Holder(budget, 90)
    until(lambda: first.got and budget.waiting == 1)
    small = Holder(budget, 10)
    until(lambda: budget.waiting == 2)
    large.cancel.set()
    until(lambda: small.got)
    large.join(20)
    assert large.got is False
    first.over(), small.over()
    assert budget.taken == 0


# -- batches under it -------------------------------------------------------------------------------------------------


@pytest.fixture
def budget(tiny, monkeypatch) -> MemoryBudget:
    """Room for one batch of four rows, and half of another."""
    budget = MemoryBudget(6 * row_bytes(tiny.engine, 43))
    monkeypatch.setattr(decoding_memory, "budget_of", lambda device: budget)
    return budget


def test_a_second_batch_waits_until_the_first_is_over_and_makes_the_same_samples(tiny, budget):
    alone = [s for ended in batch(tiny.engine) for s in ended]
    first, made = batch(tiny.engine, over=lambda *_: False), []
    next(first)
    assert budget.taken == 4 * row_bytes(tiny.engine, 43)
    second = threading.Thread(target=lambda: made.extend(s for e in batch(tiny.engine) for s in e), daemon=True)
    second.start()
    until(lambda: budget.waiting == 1)
    assert made == []
    first.close()  # as a page that was closed does
    second.join(20)
    assert made == alone
    assert budget.taken == 0


def test_a_batch_takes_memory_for_the_samples_that_are_wanted_only(tiny, budget):
    steps = batch(tiny.engine, samples=1, rows=64)
    next(steps)
    assert budget.taken == row_bytes(tiny.engine, 43)
    assert {len(layer._buffers[0]) for layer in gc.get_objects() if isinstance(layer, SlotLayer)} == {1}
    steps.close()
    assert budget.taken == 0


def test_a_batch_that_is_cancelled_while_it_waits_ends_without_samples(tiny, budget):
    first, stop, made = batch(tiny.engine), threading.Event(), []
    next(first)
    second = threading.Thread(target=lambda: made.extend(batch(tiny.engine, cancelled=stop.is_set)), daemon=True)
    second.start()
    until(lambda: budget.waiting == 1)
    stop.set()
    second.join(20)
    assert (made, second.is_alive()) == ([], False)
    first.close()


def test_a_row_is_as_large_as_its_buffers_and_no_model_takes_more_rows_than_fit(tiny, mini):
    steps = batch(tiny.engine, samples=2, rows=2)
    next(steps)
    (layer, *_) = found = [one for one in gc.get_objects() if isinstance(one, SlotLayer)]
    held = sum(buffer.nbytes for one in found for buffer in one._buffers)
    assert held == 2 * row_bytes(tiny.engine, layer._buffers[0].shape[-2])
    steps.close()
    assert row_bytes(mini.engine, 10_000) == row_bytes(mini.engine, 512) == 512 * 4096  # its context is 512
    assert decoding_memory.fitting_rows(mini.engine, 512) == decoding_memory.ROWS
