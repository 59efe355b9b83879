"""Whose turn it is: of the runs of one folder that wait, the one that came first. Decided by files, under one lock."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmx.errors import RmxError
from rmx.train.run_folder import RunFolder

VARIABLE = "RMX_RUNS_AT_ONCE"
PAUSE = 0.5  # seconds between two looks


def runs_at_once() -> int:
    """How many runs may train beside each other on this machine.

    Raises:
        RmxError: the variable holds no count.
    """
    text = os.environ.get(VARIABLE, "").strip() or "1"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise RmxError(f"{VARIABLE} must be a whole number, 1 or more; it is {text!r}.")
    return int(text)


def wait_for_turn(folder: RunFolder, pause: float = PAUSE) -> bool:
    """Wait until this run may begin, first come first served; False where it was asked to stop before.

    The caller holds the run's lock. The runs beside it in the same folder count if their processes live.
    """
    limit, came = runs_at_once(), time.time()
    folder.set_status(state="queued", came=came, ahead=0)
    while not folder.stop_wanted():
        with _decision(folder.path.parent):
            ahead, running = _before(folder, came)
            if running + ahead < limit:
                folder.set_status(state="running", ahead=0)
                return True
        folder.set_status(ahead=max(1, running + ahead - limit + 1))
        time.sleep(pause)
    return False


def _before(folder: RunFolder, came: float) -> tuple[int, int]:
    """How many runs wait that came earlier, and how many run."""
    ahead = running = 0
    for path in folder.path.parent.iterdir():
        if path.name.startswith(".") or path == folder.path or not (path / "status.json").is_file():
            continue
        status = RunFolder(path).status
        if not status["alive"]:
            continue
        if status["state"] == "queued":
            ahead += (status.get("came", 0.0), path.name) < (came, folder.path.name)
        else:
            running += 1
    return ahead, running


@contextmanager
def _decision(root: Path) -> Iterator[None]:
    """One run at a time looks and decides."""
    with (root / ".queue").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
