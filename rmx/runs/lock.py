"""Who works on a run: one process, known by a lock that the system frees when the process ends, however it ends.

The lock is `flock` on a file of the run's folder. Whoever starts a run takes it first and leaves it to the new process
as an open file, so there is no moment in which a started run looks dead, and nobody can start it twice.
"""

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import IO

LEFT = "RMX_RUN_LOCK"  # variable with the number of the open file that a starting process leaves to the new one
PATIENCE = 2.0  # seconds


def is_held(path: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        with path.open("rb") as file:
            return not _try(file, fcntl.LOCK_SH)
    except OSError:
        return False


def take(path: Path) -> IO[bytes] | None:
    """The lock, given back by closing the file; None where another process keeps it (a look holds it for a moment)."""
    file, limit = path.open("a+b"), time.monotonic() + PATIENCE
    while not _try(file, fcntl.LOCK_EX):
        if time.monotonic() > limit:
            file.close()
            return None
        time.sleep(0.02)
    file.truncate(0)
    return file


def left_to_us(path: Path) -> IO[bytes] | None:
    """The lock that the process which started this one took for it; None where there is none for this run."""
    number = os.environ.get(LEFT, "")
    try:
        if not number.isdigit() or not os.path.samestat(os.fstat(int(number)), path.stat()):
            return None
    except OSError:
        return None
    del os.environ[LEFT]  # for this process alone
    file = os.fdopen(int(number), "r+b")
    os.set_inheritable(file.fileno(), False)
    return file if _try(file, fcntl.LOCK_EX) else None


def release(number: int) -> None:
    """Give the lock of an open file back now, also where copies of this process still have the file open."""
    fcntl.flock(number, fcntl.LOCK_UN)


def sign(file: IO[bytes]) -> None:
    """Note which process holds the lock."""
    file.seek(0)
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()


def signed(path: Path) -> int | None:
    """The process that holds the lock; None where nobody does, or while it is only being started."""
    try:
        number = path.read_bytes()
    except OSError:
        return None
    return int(number) if number.isdigit() and is_held(path) else None


def _try(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
