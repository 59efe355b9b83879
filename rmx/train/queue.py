"""Whose turn it is: of the runs of one folder that wait, the one that came first. Decided by files, under one lock."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rmx.errors import RmxError
from rmx.train.run_folder import STATUS, RunFolder

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


def silent(ahead: int) -> None:
    """Tell nobody."""


def wait_for_turn(folder: RunFolder, pause: float = PAUSE, tell: Callable[[int], None] = silent) -> bool:
    """Wait until this run may begin, first come first served; False where it was asked to stop before.

    `tell` hears how many go before it, whenever that changes.

    The caller holds the run's lock. The runs beside it in the same folder count if their processes live. A run that
    another process has started came when that was asked, not when its own process was ready.
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
        time.sleep(pause)
    return False


def waiting_runs(root: Path) -> list[RunFolder]:
    """The runs that wait for their turn."""
    return [folder for folder in _runs(root) if (s := folder.status)["alive"] and s["state"] == "queued"]


@contextmanager
def deciding(root: Path) -> Iterator[None]:
    """One process at a time looks and decides. Where nothing may be written, nobody can queue and nobody need wait."""
    if not os.access(root, os.W_OK):
        yield
        return
    with (root / ".queue").open("a+b") as file:
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
