"""A run's process: how it is made, and what is said where it ends before it could begin. No torch here."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmx.errors import first_line
from rmx.runs.folder import LOG, OVER, RunFolder
from rmx.runs.lock import LEFT
from rmx.storage.files import disk

PROGRAM = (sys.executable, "-m", "rmx")  # what runs are started with; the words that follow `rmx` come behind it
NICE = 10  # what a run's process adds to the niceness of an app or of a command line
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # of `accelerate launch`: for its own run alone
PATIENCE = 30.0  # seconds that a new process may take to begin


def spawn(folder: RunFolder, words: list[str], lock: int, nice: int) -> "subprocess.Popen[bytes]":
    """The run's process: out of this one's session, at low priority, with a core left for the app, with the run's lock.

    Args:
        lock: the open file that holds the run's lock.
        nice: what it adds to this process's niceness.

    Raises:
        TrainError: the disk refuses. OSError: the system does.
    """
    threads = str(max(1, _cores() - 1))
    limits = {name: os.environ.get(name, threads) for name in THREADS}
    ours = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    given = {"RMX_RUNS": str(folder.path.parent), "PYTHONUNBUFFERED": "1", LEFT: str(lock)}
    if nice and shutil.which("nice"):
        words = ["nice", "-n", str(nice), *words]
    with disk(folder.path), (folder.path / LOG).open("ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            words,
            env=ours | given | limits,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock,),
        )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def await_first_word(
    folder: RunFolder, child: "subprocess.Popen[bytes]", before: Mapping[str, Any] | None = None
) -> str | None:
    """Wait until the process has taken over. One that ends before leaves the run as failed, or as it stood.

    Args:
        before: the status that the run had, where somebody is told at once that it could not be started.

    Returns:
        What a process that could not begin has said; None of one that has begun.
    """
    limit = time.monotonic() + PATIENCE
    while child.poll() is None and folder.pid is None:
        if time.monotonic() > limit:
            return None
        time.sleep(0.05)
    if not child.poll() or folder.status["state"] != "interrupted":
        return None
    said = _last_line(folder.path / LOG)
    stood = before is not None and before["state"] in OVER
    state, message = (before["state"], before.get("message")) if before and stood else ("failed", said)
    with folder.lock_for_another():
        folder.set_status(state=state, message=message)
    return said


def mind(folder: RunFolder, child: "subprocess.Popen[bytes]", first_word: bool = True) -> None:
    """Stay with a process to its end, so that no zombie stays and one that cannot begin is known as failed.

    Args:
        first_word: whether it may not have begun yet. Of one that has, a sudden end is an interruption.
    """
    if first_word:
        await_first_word(folder, child)
    child.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return first_line(lines[-1], 500) if lines else f"see {path.name}"
