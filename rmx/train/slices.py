"""A run in slices, where a GPU is lent for a minute at a time: each does what fits, and the next one goes on.

A slice is the pipeline of every run, asked to stop when its seconds are nearly over, so the run comes to the same
adapter as an unbroken one. The app holds the run's lock throughout, and slices of several runs take turns.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from pathlib import Path

from rmx.engine.fair_queue import FairQueue
from rmx.errors import RmxError, Stopped, TrainError
from rmx.models.zerogpu import START, NoGpu
from rmx.records import RemoteCaller
from rmx.runs.folder import RunFolder, release_lock
from rmx.runs.queue import WAITED
from rmx.runs.store import SliceStarter
from rmx.train.drive import DRY, STOPPED, Told, pipeline

SLICE = 60.0 - START  # seconds of GPU, the start not counted: what ZeroGPU lends where nothing is said
REST = 12.0  # of them kept for the last step and its checkpoint
IDLE = 2  # slices without anything new on disk, after which it is no use to go on
BETWEEN = "Waits for its next slice of GPU."
TOO_SHORT = (
    "A slice of GPU is over before the run has anything to keep. Take fewer problems, shorter completions or fewer "
    "checks, or train where a GPU stays."
)
clock = time.monotonic
_line = FairQueue()  # of the slices of all runs
Over = tuple[str, str | None]  # state and message


def slice_of(path: str, seconds: float, dry: bool) -> Iterator[Over]:
    """Work on a run for some seconds; yields ("", kind) of each event and last how it stands, "again" if it goes on."""
    folder, ends = RunFolder(Path(path)), clock() + seconds
    told = Told(folder)
    try:
        told("state", {"state": "running"})
        for kind, figures in pipeline(folder, dry, None, lambda: folder.stop_wanted() or clock() > ends):
            told(kind, figures)
            yield "", kind
    except Stopped:
        yield ("stopped", STOPPED) if folder.stop_wanted() else ("again", None)
        return
    finally:
        folder.close()
    yield ("stopped", DRY) if dry else ("done", told.struck)


def slicer_of(remote_of: Callable[[str], RemoteCaller | None]) -> Callable[[str], SliceStarter | None]:
    """What a run store asks for the starter of a model's runs: None where they get a process of their own."""

    def starter(model: str) -> SliceStarter | None:
        carrier = remote_of(model)
        return None if carrier is None else lambda folder, dry: begin(folder, carrier, dry)

    return starter


def begin(folder: RunFolder, carrier: RemoteCaller, dry: bool = False) -> threading.Thread:
    """Start or resume a run in slices, beside the caller; its GPU time is that of the visitor who asked."""
    held = ExitStack()
    held.enter_context(holding(folder))
    try:
        if folder.status["state"] == "done":
            raise TrainError(f"The run {folder.id} is done; there is nothing left to do. Start a new one.")
        folder.clear_stop()
        folder.set_status(state="queued", came=time.time(), ahead=None, message=None, left=None, pid=None)
    except BaseException:
        held.close()
        raise

    def work() -> None:
        with held:
            run_slices(folder, carrier, dry)

    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread


@contextmanager
def holding(folder: RunFolder) -> Iterator[None]:
    """Hold a run's lock, unsigned: nobody may end this process for it. The GPU's process, a copy of this one that may
    live on, keeps nothing of it.
    """
    with folder.lock_for_another() as number:
        try:
            yield
        finally:
            release_lock(number)


def run_slices(folder: RunFolder, carrier: RemoteCaller, dry: bool = False, seconds: float = SLICE) -> str:
    """Slice after slice until the run is over; returns the state that it ends in. The caller holds its lock."""
    idle, before = 0, _made(folder)
    try:
        state, message = "again", None
        while state == "again":
            folder.set_status(state="queued", message=BETWEEN)
            state, message = _next(folder, carrier, dry, seconds)
            idle, before = (idle + 1 if _made(folder) == before else 0), _made(folder)
            if state == "again" and idle >= IDLE:
                state, message = "failed", TOO_SHORT
    except NoGpu as error:  # nothing is wrong with the run
        state, message = "stopped", f"{error} Resume goes on from there."
    except RmxError as error:
        state, message = "failed", str(error)
    Told(folder).over(state, message)
    folder.close()
    return state


def _next(folder: RunFolder, carrier: RemoteCaller, dry: bool, seconds: float) -> Over:
    with _line.when_free(folder.stop_wanted) as mine:
        if not mine or folder.stop_wanted():
            return "stopped", WAITED
        folder.set_status(state="running", ahead=None, message=None, started=round(time.time(), 3))
        events = carrier.stream(slice_of, None, (str(folder.path), seconds - REST, dry), {}, seconds)
        return deque(events, maxlen=1).pop()


def _made(folder: RunFolder) -> list[dict[str, object]]:
    """What the run has to go on from: its files and their sizes, without those that only tell how it stands."""
    telling = ("status.json", "events.jsonl", "summary.json", "stages.json", "lock", "stop")
    return [file for file in folder.files() if file["path"] not in telling]
