"""Whose turn it is: of the runs of one folder that wait, the one that came first. Decided by files, under one lock.

A run on a command line waits in its own process. One that a store has queued is a file until its turn: its status
says "queued" and holds the flags that it is to be started with. Whoever looks starts those whose turn has come: a run
that ends, a run that waits, a store. The status of a queued run is written by who is `deciding`, and by nobody else.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rmx.errors import RmxError, TrainError, first_line
from rmx.runs.folder import CONFIG, LEFT, LOG, OVER, STATUS, RunFolder
from rmx.storage.safe_files import disk

PROGRAM = (sys.executable, "-m", "rmx")  # what runs are started with; the words that follow `rmx` come behind it
NICE = 10  # what a run's process adds to the niceness of an app or of a command line
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # of `accelerate launch`: for its own run alone
PATIENCE = 30.0  # seconds that a new process may take to begin


def spawn(folder: RunFolder, words: list[str], lock: int, nice: int) -> "subprocess.Popen[bytes]":
    """The run's process: out of this one's session, at low priority, with a core left for the app."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores - 1))
    limits = {name: os.environ.get(name, threads) for name in THREADS}
    ours = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    given = {"RMX_RUNS": str(folder.path.parent), "PYTHONUNBUFFERED": "1", LEFT: str(lock)}
    if nice and shutil.which("nice"):
        words = ["nice", "-n", str(nice), *words]
    with disk(folder.path), (folder.path / LOG).open("ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        about: dict[str, Any] = {"env": ours | given | limits, "start_new_session": True, "pass_fds": (lock,)}
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **about)


def await_first_word(
    folder: RunFolder, child: "subprocess.Popen[bytes]", before: Mapping[str, Any] | None = None
) -> str | None:
    """Wait until the process has taken over; returns what one that could not begin has said, else None.

    Such a run is failed, or as it stood `before`, where somebody is told at once.
    """
    limit = time.monotonic() + PATIENCE
    while child.poll() is None and folder.pid is None:
        if time.monotonic() > limit:
            return None
        time.sleep(0.05)
    if not child.poll() or folder.status["state"] != "interrupted":
        return None
    lines = (folder.path / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = first_line(lines[-1], 500) if lines else f"see {LOG}"
    stood = before is not None and before["state"] in OVER
    state, message = (before["state"], before.get("message")) if before and stood else ("failed", said)
    with folder.lock_for_another():
        folder.set_status(state=state, message=message)
    return said


def mind(folder: RunFolder, child: "subprocess.Popen[bytes]", first_word: bool = True) -> None:
    """Stay with a process to its end: no zombie stays, and one that cannot begin (`first_word`) counts as failed."""
    if first_word:
        await_first_word(folder, child)
    child.wait()


VARIABLE = "RMX_RUNS_AT_ONCE"
PAUSE = 0.5  # seconds between two looks
QUEUE = ".queue"  # the file whose lock says who decides
WAITED = "It was stopped while it waited."
Child = subprocess.Popen[bytes]


def runs_at_once() -> int:
    """How many runs may train beside each other on this machine."""
    text = os.environ.get(VARIABLE, "").strip() or "1"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RmxError(f"{VARIABLE} must be a whole number, 1 or more; it is {text!r}.")
    return int(text)


def wait_for_turn(folder: RunFolder, pause: float = PAUSE, tell: Callable[[int], None] = lambda ahead: None) -> bool:
    """Wait until this run may begin, first come first served; False where it was asked to stop before.

    The caller holds its lock. `tell` hears how many go before it, whenever that changes. A run that another process has
    started came when that was asked. Whoever waits starts queued runs without a process when their turn has come.
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


def look(root: Path, program: tuple[str, ...] | None = None, nice: int = NICE) -> int:
    """Start the queued runs whose turn has come, tell the others their place; returns how many have no process yet."""
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
    for _, _, folder in line:
        ahead = len(running) + place - limit + 1
        if folder.waiting and not folder.held and _is_ours(folder.path):
            if ahead > 0:
                if folder.status.get("ahead") != ahead:
                    folder.set_status(ahead=ahead)
            elif (child := _begin(folder, program or PROGRAM, nice)) is not None:
                begun.append((folder, child))
            elif not folder.waiting:  # it has failed, and holds nobody up
                continue
        place, left = place + 1, left + folder.waiting
    return begun, left


def _begin(folder: RunFolder, program: tuple[str, ...], nice: int) -> Child | None:
    """Give a queued run its process; None where that was not to be had, and it has failed.

    Its flags are taken away after the process is there: whoever is killed in between, the run is neither lost nor
    started twice, for the new process holds its lock from its first moment.
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


def _line(root: Path) -> tuple[list[str], list[tuple[float, str, RunFolder]]]:
    """The runs at work; and those that wait, with and without a process, as (when it came, id, run) in their order."""
    running, line = [], []
    for folder in _runs(root):
        if not (status := folder.status)["alive"]:
            continue
        if status["state"] == "queued":
            line.append((status.get("came") or 0.0, folder.id, folder))
        else:
            running.append(folder.id)
    return running, sorted(line, key=lambda one: one[:2])


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
    running, line = _line(folder.path.parent)
    ahead = sum(id_ != folder.id and (when, id_) < (came, folder.id) for when, id_, _ in line)
    return ahead, sum(id_ != folder.id for id_ in running)


def _runs(root: Path) -> Iterator[RunFolder]:
    for path in root.iterdir():
        if not path.name.startswith(".") and (path / STATUS).is_file():
            yield RunFolder(path)
