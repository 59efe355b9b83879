"""Calls that run in another process: the same results, small messages, stops, errors as sentences."""

import inspect
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr
import pytest
import torch

from rmx.arguments import Sampling
from rmx.compare.controls import check_base
from rmx.compare.intervene import Intervention, PatchJob
from rmx.compare.shift_map import MapJob, ShiftMap
from rmx.data.problem_sets import load_set
from rmx.engine.fair_queue import RequestOwner, current_owner, never
from rmx.errors import ModelError, SwapError
from rmx.explore.generate import Generation, Job
from rmx.explore.greedy_answers import look_ahead, search, sofar
from rmx.explore.outcomes import OutcomeConfig, importance, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.models import zerogpu as carry
from rmx.models import zerogpu as gpu_time
from rmx.models.load import Model
from rmx.models.model_pair import make_pair
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import NoGpu, ZeroGpuCaller, on_gpu_worker
from rmx.records import Trace
from rmx.runs.store import RunStore
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer, Measurements
from tests.helpers.live import until
from tests.helpers.other_process import OtherProcess

PROBLEM = "Ann has 12 apples and gives 5 to Ben. Then Ann buys 9 more. How many apples does Ann have?"
FORM = {
    "model": "mini",
    "adapters": ["rl"],
    "set": "mini:test",
    "limit": 4,
    "n": 2,
    "temperature": 0.6,
    "top_p": 0.95,
    "seed": 0,
    "max_new_tokens": 64,
    "most": 512,
}
GREEDY = Sampling(max_new_tokens=96)
SMALL = OutcomeConfig(samples=2, round_size=2, max_new_tokens=80, budget=2000)


@pytest.fixture(scope="module")
def gpu() -> Iterator[OtherProcess]:
    other = OtherProcess()
    yield other
    other.close()


@pytest.fixture(scope="module")
def space(gpu) -> Workspace:
    """Mini with its RL partner; its weights are nowhere else used."""
    torch.set_num_threads(1)
    space = Workspace("cpu")
    space.adapter(space.model("mini"), "rl")
    return space


@pytest.fixture(scope="module")
def carrier(gpu, space) -> ZeroGpuCaller:
    return ZeroGpuCaller(gpu, space)


@pytest.fixture
def model(space) -> Model:
    return space.model("mini")


@pytest.fixture
def far(model, carrier) -> Iterator[Model]:
    model.engine.remote = carrier
    yield model
    model.engine.remote = None


@pytest.fixture(scope="module")
def job(space) -> Job:
    return Job(space.model("mini").prompt_ids(PROBLEM), GREEDY, 0.5, known="16")


@pytest.fixture(scope="module")
def here(space, job) -> Trace:
    """The same solution made in this process."""
    return Generation(space.model("mini"), job).run()


def both(model: Model, carrier: ZeroGpuCaller, ask):
    """What a question gives here, and what it gives in the other process."""
    near = ask()
    model.engine.remote = carrier
    try:
        return near, ask()
    finally:
        model.engine.remote = None


# -- explore ----------------------------------------------------------------------------------------------------------


def test_a_trace_is_made_in_another_process_and_is_the_same(far, job, here, gpu):
    kept = len(far.engine.prefixes)
    made = Generation(far, job).run()
    assert replace(made, seconds=0, reuse=here.reuse) == replace(here, seconds=0)
    assert made.stop in ("answer", "eos")
    assert len(far.engine.prefixes) == kept  # nothing was computed here
    assert gpu.pid not in (None, os.getpid())


def test_a_swap_goes_on_from_what_the_other_process_remembers(far, job, here, model):
    first = Generation(far, job).run()
    at = 10
    other = first.tokens[at].top[1].id
    branch = replace(job, kept=first.tokens[:at], forced=(other,), fork=first.tokens[at])
    made = Generation(far, branch).run()
    assert made.reuse.reused >= len(job.prompt_ids) + at - 1
    far.engine.remote = None
    near = Generation(far, branch).run()
    assert (made.ids, made.answer, made.stop) == (near.ids, near.answer, near.stop)
    # The two remember different beginnings, so the last digits may differ.
    assert [t.entropy for t in made.tokens] == pytest.approx([t.entropy for t in near.tokens], abs=1e-4)
    assert made.tokens[:at] == first.tokens[:at]  # alternatives of the kept tokens included
    assert made.tokens[at].forced


def test_what_one_visitor_computed_there_tells_another_nothing(far, job):
    other = replace(job, prompt_ids=far.prompt_ids("Ben has 7 pens and finds 8 more. How many pens does Ben have?"))
    token = current_owner.set(RequestOwner("ann"))
    try:
        Generation(far, other).run()
        assert Generation(far, other).run().reuse.reused > 0
        current_owner.set(RequestOwner("ben"))
        assert Generation(far, other).run().reuse.reused == 0
    finally:
        current_owner.reset(token)


def test_look_ahead_and_search_are_the_same(model, carrier, job, here):
    prefix = [*job.prompt_ids, *here.ids[:6]]
    ids = [c.id for c in here.tokens[6].top[:5]]
    near, there = both(model, carrier, lambda: look_ahead(model, prefix, ids, length=6, patience=8.0))
    assert there == near
    near, there = both(model, carrier, lambda: search(model, prefix, "1", patience=8.0))
    assert [f[:2] for f in there] == [f[:2] for f in near] != []


def test_outcomes_are_the_same(model, carrier, here):
    pos = max(range(len(here.tokens)), key=lambda i: here.tokens[i].entropy)
    near, there = both(model, carrier, lambda: list(outcomes(model, here, pos, SMALL, known="16"))[-1])
    assert there.json() == near.json()
    assert there.done
    assert sum(a.samples for a in there.alternatives) > 0


@pytest.mark.slow
def test_the_other_measures_are_the_same(model, carrier, here):
    near, there = both(model, carrier, lambda: list(sofar(model, here, known="16"))[-1])
    assert there == near
    near, there = both(model, carrier, lambda: list(importance(model, here, SMALL, known="16", forks=1))[-1])
    assert there.json() == near.json()
    aim = RescueConfig(goal="wrong" if here.answer.correct else "right", budget=150, most_swaps=1, max_new_tokens=64)
    near, there = both(model, carrier, lambda: list(rescue(model, here, aim, known="16"))[-1])
    assert there.json() == near.json()


# -- compare ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_map_and_a_patched_decode_are_the_same(model, carrier, space, job):
    pair = make_pair(space, "mini", "rl")
    one = MapJob(job.prompt_ids, Sampling(max_new_tokens=24), 0.5, known="16")
    near, there = both(model, carrier, lambda: ShiftMap(pair, one).run())
    assert there.shifts == near.shifts != []
    assert there.stop == near.stop
    assert there.noise is not None  # measured there, in the same call
    patch = PatchJob(job.prompt_ids, "oracle", 0.5, "16", max_new=24)
    near, there = both(model, carrier, lambda: Intervention(pair, patch).run())
    assert (there.result, there.tokens) == (near.result, near.tokens)
    ids = [*job.prompt_ids, *there.ids]
    near, there = both(model, carrier, lambda: check_base(pair, ids, patience=8.0))
    assert there.holds
    assert (there.max_dlogit, there.weights) == (near.max_dlogit, near.weights)


@pytest.mark.slow
def test_the_compare_page_shows_a_map_and_a_matched_decode(far, space):
    comparer = Comparer(space)
    run = comparer.map(make_pair(comparer.workspace, "mini", "rl", None, 1.0), PROBLEM, 0.5, known="16", max_new=16)
    last = list(comparer.stream(run))[-1]
    assert "error" not in last
    assert len(run.found.shifts) == 16
    patch = comparer.patch({"map": run.id, "arm": "matched", "budget": None})
    last = list(comparer.stream(patch))[-1]
    assert "error" not in last
    assert {"base", "oracle"} <= set(run.decoded)
    assert len(patch.decode.tokens) == 16


# -- what crosses -----------------------------------------------------------------------------------------------------


def test_what_crosses_is_small(far, job, here, gpu):
    gpu.sent.clear()
    gpu.got.clear()
    Generation(far, job).run()
    assert gpu.sent[0] < 2000
    assert sum(gpu.got) / len(here.tokens) < 1500  # bytes for a token with 20 alternatives
    at = len(here.tokens) - 2
    branch = replace(job, kept=here.tokens[:at], forced=(here.tokens[at].top[1].id,), fork=here.tokens[at])
    gpu.sent.clear()
    Generation(far, branch).run()
    assert gpu.sent[0] < 3000 + 150 * at  # kept tokens cross without their alternatives
    gpu.sent.clear()
    next(iter(outcomes(far, here, 3, SMALL, known="16")))
    assert gpu.sent[0] < 3000 + 150 * len(here.tokens)


def test_a_model_never_crosses(model):
    name = carry._name(model)
    assert len(pickle.dumps(name)) < 500


@pytest.mark.parametrize(("asked", "seconds"), [(16, gpu_time.FLOOR), (512, 34), (4096, gpu_time.CAP)])
def test_durations_follow_the_tokens_that_are_asked_for(far, job, gpu, asked, seconds):
    run = iter(Generation(far, replace(job, sampling=Sampling(max_new_tokens=asked))))
    next(run)
    run.close()
    assert gpu.durations[-1] == pytest.approx(seconds, abs=1)


# -- stops ------------------------------------------------------------------------------------------------------------


def test_a_stop_ends_the_other_side_at_its_next_step(far, space, gpu):
    explorer = Explorer(space)
    run = explorer.start("mini", None, PROBLEM, GREEDY, 0.5)
    process = gpu.pid
    for count in run.steps():
        if count == 5:
            run.halt()
    assert run.trace is not None
    assert run.trace.stop == "cancelled"
    assert 5 <= len(run.trace.tokens) <= 6
    assert gpu.stopped_after is not None
    assert gpu.stopped_after <= 60  # a pipe holds some; the process did not go on to the end of all 96
    again = explorer.start("mini", None, PROBLEM, GREEDY, 0.5)
    list(explorer.stream(again))
    assert again.trace is not None
    assert again.trace.stop != "cancelled"
    assert gpu.pid == process  # the same one, still usable
    assert far.engine.queue.waiting() == 0


def test_a_closed_page_frees_the_model(far, space):
    explorer = Explorer(space)
    run = explorer.start("mini", None, PROBLEM, GREEDY, 0.5)
    steps = run.steps()
    while next(steps) < 3:
        pass
    steps.close()
    assert far.engine.queue.waiting() == 0
    assert run.trace is not None
    assert run.trace.stop == "cancelled"


def test_a_stopped_measure_says_that_it_is_done(far, space):
    explorer = Explorer(space)
    run = explorer.start("mini", None, PROBLEM, GREEDY, 0.5, known="16")
    list(explorer.stream(run))
    worth = Measurements(explorer)
    job = worth.start("outcomes", {"run": run.id, "pos": 4})
    messages = []
    for message in worth.stream(job):
        messages.append(message)
        worth.jobs.halt(job.id)
    assert messages[-1]["done"]
    assert not any(a["open"] for a in messages[-1]["alternatives"])


def test_a_call_ends_itself_before_its_seconds_are_over(far, space, here, monkeypatch):
    monkeypatch.setattr(carry, "bounded", lambda seconds: gpu_time.START + 0.06)  # no more is left to work in
    explorer = Explorer(space)
    run = explorer.start("mini", None, PROBLEM, GREEDY, 0.5)
    last = list(explorer.stream(run))[-1]
    assert "seconds of GPU for one request are over" in last["error"]
    assert run.trace is not None
    assert len(run.tokens) == len(run.trace.tokens) < len(here.tokens)  # what is there is kept


# -- errors -----------------------------------------------------------------------------------------------------------


@on_gpu_worker(seconds=lambda *_, **__: 1.0)
def failing(model: Model, how: str) -> Iterator[int]:
    """Fails there in several ways."""
    yield os.getpid()
    if how == "user":
        raise SwapError("There is no such place.")
    if how == "memory":
        raise torch.OutOfMemoryError("out of memory")
    if how == "killed":
        os._exit(9)
    raise KeyError(how)


def test_a_user_mistake_there_is_the_same_mistake_here(far, gpu):
    before = gpu.started
    with pytest.raises(SwapError, match=r"There is no such place\."):
        list(failing(far, "user"))
    with pytest.raises(torch.OutOfMemoryError):
        list(failing(far, "memory"))
    assert next(iter(failing(far, "user"))) == gpu.pid
    assert gpu.started == before  # neither costs the process


@pytest.mark.parametrize(("how", "said"), [("bug", "failed on the GPU .KeyError"), ("killed", "was taken back before")])
def test_a_fault_there_is_a_sentence_here(far, gpu, how, said):
    with pytest.raises(NoGpu, match=said):
        list(failing(far, how))
    made = Generation(far, Job(far.prompt_ids(PROBLEM), Sampling(max_new_tokens=4), 0.5)).run()
    assert len(made.tokens) == 4  # in a new process


@pytest.mark.parametrize(
    "error",
    [
        gr.Error("You have exceeded your free ZeroGPU quota (34s requested vs. 3s left). Try again in 1:02:03. ",
                 title="ZeroGPU quota exceeded", print_exception=False),
        RuntimeError("ZeroGPU API /schedule error: 500 (Internal Server Error)"),
    ],
)  # fmt: skip
def test_a_quota_that_is_used_up_is_a_sentence(far, space, gpu, monkeypatch, error):
    monkeypatch.setattr(gpu, "refusal", error)
    explorer = Explorer(space)
    run = explorer.start("mini", None, PROBLEM, GREEDY, 0.5)
    last = list(explorer.stream(run))[-1]
    said = str(getattr(error, "message", error)).strip()
    assert last["error"].startswith(f"No GPU at the moment: {said}")
    assert last["error"].endswith("The bundled model mini needs none.")
    assert last["done"]


def test_what_is_not_carried_says_so(far):
    with pytest.raises(ModelError, match="not available on ZeroGPU"):
        far.engine.open([1, 2, 3])


def test_a_job_that_is_not_carried_ends_with_the_sentence(far, space, tmp_path):
    comparer = Comparer(space)
    problems = load_set("mini")[:2]
    run = comparer.over_set(make_pair(comparer.workspace, "mini", "rl", None, 1.0), "shifts", "mini", problems, 0.5, 16)
    last = list(comparer.stream(run))[-1]
    assert last["done"]
    assert "not available on ZeroGPU" in last["error"]
    evaluator = Evaluator(space, RunStore(tmp_path))
    job = evaluator.start(evaluator.asked(FORM))
    until(lambda: job.done)
    assert "not available on ZeroGPU" in str(job.error)


def test_in_one_process_nothing_is_wrapped(model, here):
    """Where nothing is far the function itself is called: its own generator, no loop around it."""
    made = outcomes(model, here, 3, SMALL, cancelled=never)
    assert made.gi_code is inspect.unwrap(outcomes).__code__
