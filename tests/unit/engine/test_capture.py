"""Recorded passes: what is replayed is what would be computed, and what changes is recorded anew."""

from dataclasses import replace

import pytest
import torch

from rmx.arguments import Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.capture import SEEN, CapturedPass
from rmx.engine.engine import lora_layers
from rmx.engine.scheduler import scheduler_of
from rmx.explore.generate import Generation, Job
from rmx.records import StepPath


class Replay:
    """Does on a processor what a CUDA graph does: the work again on the tensors of the recording, into its result."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def record(self, work):
        self.recorded += 1
        result = work().clone()

        def replay():
            self.replayed += 1
            result.copy_(work())

        return replay, result


@pytest.fixture
def recorder(tiny):
    tiny.engine.recorder = Replay()
    return tiny.engine.recorder


def test_a_pass_is_recorded_once_its_shape_has_lasted_and_anew_when_it_changes():
    recorder = Replay()
    captured, shapes = CapturedPass(recorder), [4] * 7 + [6] * 2 + [4] * 5
    for i, size in enumerate(shapes):
        x = torch.full((size,), float(i))
        assert torch.equal(captured(size, (x,), lambda t: 2 * t), 2 * x)
    assert recorder.recorded == 2
    assert recorder.replayed == (7 - SEEN) + (5 - SEEN)


def test_work_that_cannot_be_recorded_is_done_each_time(caplog):
    class Refuses:
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing")

    captured = CapturedPass(Refuses())
    for i in range(6):
        assert captured("key", (torch.tensor(i),), lambda t: t + 1) == i + 1
    assert caplog.text.count("cannot be recorded") == 1


def test_batches_are_the_same_replayed(tiny, recorder):
    prefix = list(range(30, 60))

    def rows():
        with tiny.engine.queue.turn():
            return continue_batch(
                tiny.engine, prefix, [(3,), (5,), (9,)], max_new=80, over=lambda row, token: token % 31 == 0
            )

    replayed = rows()
    assert recorder.recorded > 1  # rows leave, and the width grows
    assert recorder.replayed > 20
    tiny.engine.recorder = None
    assert rows() == replayed


def test_streams_are_the_same_replayed_alone_and_beside_others(tiny, recorder):
    job = Job(tuple(tiny.prompt_ids("What is 2 + 2?")), Sampling(1.0, 1.0, 4, 40), 1.0)
    other = Job(tuple(tiny.prompt_ids("7 * 6 =")), Sampling(max_new_tokens=25), 1.0)
    alone = Generation(tiny, job).run()
    assert recorder.replayed > 20  # a stream that is alone is a row too
    streams = [Generation(tiny, job), Generation(tiny, other)]
    for _ in zip(*streams, strict=False):
        pass
    cold = Generation(tiny, replace(job, cold=True)).run()
    beside = streams[0].trace()
    assert [one.path for one in (alone, beside, cold)] == [
        StepPath("cuda graph", 1),
        StepPath("cuda graph", 2),
        StepPath("eager", 1),
    ]
    for trace in (alone, beside):
        assert trace.ids[:25] == cold.ids[:25]
        assert [t.entropy for t in trace.tokens[:25]] == pytest.approx([t.entropy for t in cold.tokens[:25]], abs=1e-4)


def test_strengths_that_change_are_recorded_anew(rl):
    engine = rl.base.engine
    ids, engine.recorder = tuple(rl.base.prompt_ids("Tom has 5 pens and buys 4 more. How many?")), Replay()
    try:
        for keys in ((None, rl.adapter), (f"{rl.adapter}*0.5", rl.adapter), (None, None)):
            made = [Generation(rl.base, Job(ids, Sampling(max_new_tokens=30), 1.0, key)) for key in keys]
            for _ in zip(*made, strict=False):
                pass
            for one in made:
                cold = Generation(rl.base, replace(one.job, cold=True)).run()
                assert one.trace().ids == cold.ids[: len(one.tokens)]
        assert engine.recorder.recorded >= 3
        assert engine.recorder.replayed > 30
    finally:
        engine.recorder = None


def test_a_recording_outlives_others_who_have_the_engine_in_between_and_reads_the_tensors_it_was_made_with(rl):
    engine, adapter = rl.base.engine, rl.adapter

    class Strict(Replay):
        """As a CUDA graph it knows nothing but the tensors of the recording."""

        def record(self, work):
            replay, result = super().record(work)
            read = self.strengths()

            def checked():
                assert all(now is then for now, then in zip(self.strengths(), read, strict=True))
                replay()

            return checked, result

        def strengths(self):
            return [layer.scaling[adapter] for layer in lora_layers(engine.model)]

    def recorded(between, steps=range(100)):
        engine.recorder = Strict()
        ids = tuple(rl.base.prompt_ids("Tom has 5 pens and buys 4 more. How many?"))
        made = [Generation(rl.base, Job(ids, Sampling(max_new_tokens=30), 1.0, key)) for key in (None, adapter)]
        for i, _ in enumerate(zip(*made, strict=False)):
            if i in steps:
                between()
        assert engine.recorder.replayed > 20
        return engine.recorder.recorded

    try:
        plain = recorded(lambda: None)
        assert recorded(scheduler_of(engine)._decoder.rows.leave) == plain  # before others have their turn
        assert recorded(engine.prefixes.clear, steps=[12]) > plain  # as where weights have changed
    finally:
        engine.recorder = None
