"""Whose turn it is: of the runs of one folder that wait, the one that came first. Decided by files, under one lock.

A run on a command line waits in its own process. One that a store has queued is a file until its turn: its status
says "queued" and holds the flags that it is to be started with. Whoever looks starts those whose turn has come: a run
that ends, a run that waits, a store. The status of a queued run is written by who is `deciding`, and by nobody else.
"""

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rmx.errors import RmxError, TrainError
from rmx.runs import spawning
from rmx.runs.folder import CONFIG, STATUS, RunFolder
from rmx.runs.spawning import NICE, mind, spawn
from rmx.storage.files import disk

VARIABLE = "RMX_RUNS_AT_ONCE"
PAUSE = 0.5  # seconds between two looks
QUEUE = ".queue"  # the file whose lock says who decides
WAITED = "It was stopped while it waited."
Child = subprocess.Popen[bytes]


def runs_at_once() -> int:
    """How many runs may train beside each other on this machine.

    Raises:
        RmxError: the variable holds no count.
    """
    text = os.environ.get(VARIABLE, "").strip() or "1"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RmxError(f"{VARIABLE} must be a whole number, 1 or more; it is {text!r}.")
    return int(text)


def silent(ahead: int) -> None:
    """Tell nobody."""


def wait_for_turn(folder: RunFolder, pause: float = PAUSE, tell: Callable[[int], None] = silent) -> bool:
    """Wait until this run may begin, first come first served; False where it was asked to stop before.

    `tell` hears how many go before it, whenever that changes.

    The caller holds the run's lock. The runs beside it in the same folder count if their processes live, and those
    that are queued without a process: whoever waits starts them when their turn has come. A run that another process
    has started came when that was asked, not when its own process was ready.
    """
    limit, came = runs_at_once(), time.time()
    if folder.begun_for_us:
        came = folder.status.get("came") or came
    else:
        folder.set_status(state="queued", came=came, ahead=None)
    shown = None
    while not folder.stop_wanted():
        with deciding(folder.path.parent):
            ahead, running = _before(folder, came)
            if running + ahead < limit:
                folder.set_status(state="running", ahead=None, started=round(time.time(), 3))
                return True
        if (before := max(1, running + ahead - limit + 1)) != shown:
            folder.set_status(ahead=before)
            tell(before)
            shown = before
        if ahead:
            look(folder.path.parent, nice=niceness(folder))
        time.sleep(pause)
    return False


def niceness(folder: RunFolder) -> int:
    """What the process of this run adds to its own niceness where it starts another run."""
    return 0 if folder.begun_for_us else NICE


def waiting_runs(root: Path) -> list[RunFolder]:
    """The runs that wait for their turn."""
    return [folder for folder in _runs(root) if (s := folder.status)["alive"] and s["state"] == "queued"]


# -- runs that are queued without a process ---------------------------------------------------------------------------


def look(root: Path, program: tuple[str, ...] | None = None, nice: int = NICE) -> int:
    """Start the queued runs whose turn has come, and tell the others their place; returns how many have no process yet.

    Raises:
        RmxError: the disk refuses, or `RMX_RUNS_AT_ONCE` holds no count.
    """
    if not os.access(root, os.W_OK) or not any(folder.waiting for folder in _runs(root)):
        return 0
    with deciding(root):
        begun, left = begin_due(root, program, nice)
    for folder, child in begun:
        threading.Thread(target=mind, args=(folder, child), daemon=True).start()
    return left


def begin_due(
    root: Path, program: tuple[str, ...] | None = None, nice: int = NICE
) -> tuple[list[tuple[RunFolder, Child]], int]:
    """The same, for a caller that is `deciding` and minds the processes itself; returns them and how many are left."""
    limit, (running, line) = runs_at_once(), _line(root)
    begun, left, place = [], 0, 0
    for folder in line:
        ahead = running + place - limit + 1
        if folder.waiting and not folder.held and _is_ours(folder.path):
            if ahead > 0:
                if folder.status.get("ahead") != ahead:
                    folder.set_status(ahead=ahead)
            elif (child := _begin(folder, program or spawning.PROGRAM, nice)) is not None:
                begun.append((folder, child))
            elif not folder.waiting:  # it has failed, and holds nobody up
                continue
        place, left = place + 1, left + folder.waiting
    return begun, left


def _begin(folder: RunFolder, program: tuple[str, ...], nice: int) -> Child | None:
    """Give a queued run its process; None where that was not to be had, and it has failed.

    Its flags are taken away after the process is there, by this one or by that one: whoever is killed in between, the
    run is neither lost nor started twice, for the new process holds its lock from its first moment.
    """
    words = [*program, "train", "--resume", folder.id, *folder.flags]
    try:
        with folder.lock_for_another() as lock:
            child = spawn(folder, words, lock, nice)
    except (TrainError, OSError) as error:
        if folder.waiting and not folder.held:  # else a process has it, or somebody removes it
            folder.set_status(state="failed", message=str(error), flags=None, ahead=None)
        return None
    folder.set_status(flags=None, ahead=None)
    return child


def _line(root: Path) -> tuple[int, list[RunFolder]]:
    """How many runs are at work, and those that wait, with and without a process, the first to come first."""
    running, line = 0, []
    for folder in _runs(root):
        if not (status := folder.status)["alive"]:
            continue
        if status["state"] == "queued":
            line.append((status.get("came") or 0.0, folder.id, folder))
        else:
            running += 1
    return running, [folder for _, _, folder in sorted(line, key=lambda one: one[:2])]


def _is_ours(path: Path) -> bool:
    """Whether the run is of this user, or of whose the runs are: what others left in a shared folder starts nothing."""
    with suppress(FileNotFoundError):  # removed in between
        return {_owner(one) for one in (path, path / CONFIG, path / STATUS)} <= {os.geteuid(), _owner(path.parent)}
    return False


def _owner(path: Path) -> int:
    return path.lstat().st_uid


@contextmanager
def deciding(root: Path) -> Iterator[None]:
    """One process at a time looks and decides. Where nothing may be written, nobody can queue and nobody need wait."""
    if not os.access(root, os.W_OK):
        yield
        return
    with ExitStack() as held:
        with disk(root / QUEUE):
            file = held.enter_context((root / QUEUE).open("a+b"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _before(folder: RunFolder, came: float) -> tuple[int, int]:
    """How many runs wait that came earlier, and how many run."""
    ahead = running = 0
    for other in _runs(folder.path.parent):
        if other.id == folder.id or not (status := other.status)["alive"]:
            continue
        if status["state"] == "queued":
            ahead += (status.get("came") or 0.0, other.id) < (came, folder.id)
        else:
            running += 1
    return ahead, running


def _runs(root: Path) -> Iterator[RunFolder]:
    for path in root.iterdir():
        if not path.name.startswith(".") and (path / STATUS).is_file():
            yield RunFolder(path)
