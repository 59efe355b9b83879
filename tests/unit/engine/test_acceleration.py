"""Recorded passes: what is replayed is what would be computed, and what changes is recorded anew.

On a CUDA device (`make test-gpu`) the passes are CUDA graphs; elsewhere a stand-in repeats the work.
"""

from dataclasses import replace

import pytest
import torch

from rmx.arguments import Sampling
from rmx.engine.acceleration import SEEN, CapturedPass
from rmx.engine.batch import continue_batch
from rmx.engine.engine import Engine, lora_layers
from rmx.engine.scheduler import scheduler_of
from rmx.explore.generate import Generation, Job, swap_job
from rmx.models.model_pair import make_pair
from rmx.models.workspace import Workspace
from rmx.records import StepPath
from tests.conftest import qwen, wrap


class Replay:
    """Does on a processor what a CUDA graph does: the work again on the tensors of the recording, into its result."""

    def record(self, work):
        result = work().clone()
        return lambda: result.copy_(work()), result


class Counted:
    """Counts what a recorder records, and how often that is replayed."""

    def __init__(self, recorder):
        self.recorder, self.recorded, self.replayed = recorder or Replay(), 0, 0

    def record(self, work):
        replay, result = self.recorder.record(work)
        self.recorded += 1

        def counted():
            self.replayed += 1
            replay()

        return counted, result


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture
def tiny(device):
    return wrap(qwen().to(device))


@pytest.fixture
def recorder(tiny):
    tiny.engine.recorder = Counted(tiny.engine.recorder)
    return tiny.engine.recorder


@pytest.fixture
def pair(device):
    """Mini and its RL partner, whose passes are recorded."""
    made = make_pair(Workspace(device, "float32"), "mini", "rl")
    made.base.engine.recorder = Counted(made.base.engine.recorder)
    return made


def side_by_side(*made):
    """Decode streams together until the first of them ends."""
    for _ in zip(*made, strict=False):
        pass


def assert_cold(generation):
    """Check what was decoded so far against a run that stands alone and reuses nothing."""
    cold = Generation(generation.model, replace(generation.job, cold=True)).run()
    assert generation.trace().ids == cold.ids[: len(generation.tokens)]
    assert len(generation.tokens) > 10


def test_a_pass_is_recorded_once_its_shape_has_lasted_and_anew_when_it_changes():
    recorder = Counted(None)
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
    side_by_side(*streams)
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


def test_a_swap_goes_on_from_the_rows_of_a_recorded_pass(tiny, recorder):
    job = Job(tuple(tiny.prompt_ids("What is 2 + 2?")), Sampling(max_new_tokens=40), 1.0)
    trace = Generation(tiny, job).run()
    branch = Generation(tiny, swap_job(job, trace.tokens, 20, [trace.tokens[20].top[1].id], tiny.engine.vocab_size))
    branch.run()
    assert branch.reuse.computed == 1
    assert recorder.replayed > 40
    assert_cold(branch)


def test_a_stream_that_is_stopped_leaves_its_row_and_the_others_are_recorded_anew(tiny, recorder):
    ids = [tuple(tiny.prompt_ids(text)) for text in ("What is 2 + 2?", "7 * 6 =", "1 + 1 =")]
    stopped: list[bool] = []
    made = [Generation(tiny, Job(one, Sampling(max_new_tokens=60), 1.0)) for one in ids[:2]]
    made.append(Generation(tiny, Job(ids[2], Sampling(max_new_tokens=60), 1.0), lambda: bool(stopped)))
    rows = [iter(one) for one in made]
    for _ in range(12):
        list(map(next, rows))
    before, slots = recorder.recorded, [scheduler_of(tiny.engine).bucket[0]]
    stopped.append(True)
    assert next(rows[2], None) is None
    for _ in range(12):
        list(map(next, rows[:2]))
    slots.append(scheduler_of(tiny.engine).bucket[0])
    for row in rows:
        list(row)
    assert slots == [3, 2]
    assert recorder.recorded > before
    for one in made:
        assert_cold(one)
    assert tiny.engine.queue.waiting() == 0


def test_two_models_replay_their_own_passes(device):
    models = [wrap(qwen(seed).to(device)) for seed in (0, 1)]
    for model in models:
        model.engine.recorder = Counted(model.engine.recorder)
    job = Job(tuple(models[0].prompt_ids("What is 2 + 2?")), Sampling(max_new_tokens=40), 1.0)
    made = [Generation(model, job) for model in models]
    side_by_side(*made)
    for one in made:
        assert one.model.engine.recorder.replayed > 20
        assert_cold(one)
    assert made[0].trace().ids != made[1].trace().ids


def test_without_memory_for_a_recording_every_step_is_computed(tiny):
    class Full:
        def record(self, work):
            raise torch.OutOfMemoryError("CUDA out of memory")

    tiny.engine.recorder = Full()
    stream = Generation(tiny, Job(tuple(tiny.prompt_ids("What is 2 + 2?")), Sampling(max_new_tokens=40), 1.0))
    stream.run()
    assert stream.path == StepPath("eager", 1)
    assert_cold(stream)


def test_where_memory_runs_out_in_a_step_the_next_solution_is_whole(tiny, recorder, monkeypatch):
    job = Job(tuple(tiny.prompt_ids("What is 2 + 2?")), Sampling(max_new_tokens=40), 1.0)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    stream = iter(Generation(tiny, job))
    next(stream)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            list(stream)
    again = Generation(tiny, job)
    again.run()
    assert recorder.replayed > 20
    assert_cold(again)
    assert tiny.engine.queue.waiting() == 0


def test_strengths_that_change_are_recorded_anew(pair):
    engine = pair.base.engine
    ids = tuple(pair.base.prompt_ids("Tom has 5 pens and buys 4 more. How many?"))
    for keys in ((None, pair.adapter), (f"{pair.adapter}*0.5", pair.adapter), (None, None)):
        made = [Generation(pair.base, Job(ids, Sampling(max_new_tokens=30), 1.0, key)) for key in keys]
        side_by_side(*made)
        for one in made:
            assert_cold(one)
    assert engine.recorder.recorded >= 3
    assert engine.recorder.replayed > 30


def test_a_recording_outlives_others_who_have_the_engine_in_between_and_reads_the_tensors_it_was_made_with(pair):
    engine, adapter = pair.base.engine, pair.adapter

    class Strict(Counted):
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

    record = engine.recorder.recorder

    def recorded(between, steps=range(100)):
        engine.recorder = Strict(record)
        ids = tuple(pair.base.prompt_ids("Tom has 5 pens and buys 4 more. How many?"))
        made = [Generation(pair.base, Job(ids, Sampling(max_new_tokens=30), 1.0, key)) for key in (None, adapter)]
        for i, _ in enumerate(zip(*made, strict=False)):
            if i in steps:
                between()
        assert engine.recorder.replayed > 20
        return engine.recorder.recorded

    plain = recorded(lambda: None)
    assert recorded(scheduler_of(engine)._decoder.rows.leave) == plain  # before others have their turn
    assert recorded(engine.prefixes.clear, steps=[12]) > plain  # as where weights have changed
