"""A training run in slices of a lent GPU: the same figures as an unbroken one, stops, quotas, turns."""

import threading
from collections.abc import Iterator

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file

from rmx.errors import TrainError
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import ZeroGpuCaller
from rmx.runs.folder import RunFolder
from rmx.runs.store import RunStore
from rmx.train import slices
from tests.helpers.other_process import OtherProcess
from tests.helpers.training_runs import TINY, begin, tiny_run

pytestmark = pytest.mark.slow

SHORT = TINY.with_(epochs=1, problems=6, k=4, select=3, validation=3, test=3)
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture
def gpu() -> Iterator[OtherProcess]:
    other = OtherProcess()
    yield other
    other.close()


@pytest.fixture
def events_as_seconds(monkeypatch) -> None:
    """A second passes with every update, check and finished set of rollouts, so slices do not depend on the machine."""
    now, work = [0.0], slices.pipeline

    def slow(*args: object) -> Iterator[tuple[str, dict]]:
        for kind, figures in work(*args):  # type: ignore[arg-type]
            now[0] += kind in ("update", "check", "rollouts")
            yield kind, figures

    monkeypatch.setattr(slices, "clock", lambda: now[0])
    monkeypatch.setattr(slices, "pipeline", slow)


@pytest.fixture
def carrier(gpu) -> ZeroGpuCaller:
    return ZeroGpuCaller(gpu, Workspace("cpu"))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run to its end in one go, in a process of its own."""
    folder = tiny_run(tmp_path_factory.mktemp("unbroken"), recipe=SHORT)
    process = begin(folder)
    process.join(120)
    assert folder.state == "done", folder.status
    return folder


def updates(folder: RunFolder) -> dict[int, tuple[float, float, float]]:
    found = (e for e in folder.events()[0] if e["kind"] == "update")
    return {e["optimizer_step"]: (e["loss"], e["grad_norm"], e["lr"]) for e in found}


def checks(folder: RunFolder) -> list:
    return [e["pass@1"] for e in folder.events()[0] if e["kind"] == "check"]


def run(folder: RunFolder, carrier: ZeroGpuCaller, seconds: float) -> str:
    with slices.holding(folder):
        return slices.run_slices(folder, carrier, seconds=slices.REST + seconds)


@pytest.mark.long
def test_a_run_in_slices_is_the_unbroken_one(unbroken, carrier, gpu, tmp_path, events_as_seconds):
    folder = tiny_run(tmp_path, recipe=SHORT)
    assert run(folder, carrier, seconds=2.5) == "done"
    assert len(gpu.sent) >= 3  # slices
    assert max(gpu.sent) < 1000
    assert max(gpu.got) < 500  # bytes of an event: what it tells is on the disk
    assert updates(folder) == updates(unbroken)
    assert checks(folder) == checks(unbroken)
    made, whole = load_file(folder.path / WEIGHTS), load_file(unbroken.path / WEIGHTS)
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[name], whole[name]) for name in whole)
    assert folder.summary["done"]["after"] == unbroken.summary["done"]["after"]
    assert gpu.started == 1


def test_between_slices_a_run_counts_as_alive_and_can_be_stopped(carrier, tmp_path, monkeypatch, events_as_seconds):
    seen = []
    ask = slices._next

    def watched(folder: RunFolder, *rest: object) -> slices.Over:
        other = RunFolder(folder.path)
        seen.append((other.status["state"], other.status["alive"], other.pid))
        with pytest.raises(TrainError, match="under way already"), other.lock_for_another():
            pass
        if len(seen) == 2:
            other.request_stop()
        return ask(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(slices, "_next", watched)
    folder = tiny_run(tmp_path, recipe=SHORT)
    assert run(folder, carrier, seconds=0.5) == "stopped"
    assert seen[0] == ("queued", True, None)  # no process is named that `kill` could end: it would be the app
    assert len(seen) == 2
    assert not folder.alive


def test_a_quota_that_runs_out_leaves_a_run_that_can_be_resumed(carrier, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "slice_of", said_done)
    folder = tiny_run(tmp_path, recipe=SHORT)
    said = "You have exceeded your free ZeroGPU quota (60s requested vs. 9s left). Try again in 3:00:00."
    monkeypatch.setattr(gpu, "refusal", gr.Error(said, title="ZeroGPU quota exceeded", print_exception=False))
    assert run(folder, carrier, seconds=1.0) == "stopped"
    assert said in folder.status["message"]
    assert folder.status["message"].endswith("Resume goes on from there.")
    monkeypatch.setattr(gpu, "refusal", None)
    assert run(folder, carrier, seconds=60.0) == "done"
    assert folder.status["message"] is None


def test_slices_that_keep_nothing_end_with_what_to_do(carrier, tmp_path):
    folder = tiny_run(tmp_path, recipe=SHORT)
    assert run(folder, carrier, seconds=-1.0) == "failed"
    assert folder.status["message"] == slices.TOO_SHORT


def test_a_mistake_in_the_run_is_its_last_word(carrier, tmp_path):
    folder = tiny_run(tmp_path, recipe=SHORT, init_adapter=str(tmp_path / "nowhere"))
    assert run(folder, carrier, seconds=60.0) == "failed"
    assert folder.status["message"]


def test_the_store_starts_slices_where_a_process_would_get_no_gpu(carrier, tmp_path, monkeypatch):
    began: list[threading.Thread] = []
    begin_slices = slices.begin
    monkeypatch.setattr(slices, "begin", lambda *a, **k: began.append(begin_slices(*a, **k)))
    monkeypatch.setattr(slices, "slice_of", said_done)
    store = RunStore(tmp_path, slicer=slices.slicer_of(lambda spec: carrier if spec == "mini" else None))
    folder = tiny_run(tmp_path, recipe=SHORT)
    with pytest.raises(TrainError, match="goes on as it began"):
        store.start(folder.id, "--tau", "1.4")
    store.start(folder.id)
    began[0].join(60)
    assert folder.state == "done"
    with pytest.raises(TrainError, match="nothing left to do"):
        store.start(folder.id)


def said_done(path: str, seconds: float, dry: bool) -> Iterator[slices.Over]:
    yield "done", None
