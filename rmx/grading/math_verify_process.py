"""The math-verify library in processes of its own: are two expressions equal, within limits of time and memory.

math-verify 0.9 bounds its own time with SIGALRM, which works in a main thread only, and no thread can interrupt a
`9**9**9` that is being computed. So the library runs in small helper processes (math_verify_worker.py), one
comparison at a time, and a process that is late is killed.
"""

import atexit
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from rmx.config import PACKAGE

MAX_LATEX = 300  # characters of one expression given to the library
CPU_LIMIT = 0.75  # seconds of processor time for one comparison by the library, so that a busy machine grades the same
WALL_LIMIT = 2.0  # seconds after which the worker is killed, whatever it does
START_LIMIT = 30.0  # seconds for the worker to import the library
WORKERS = 2
WORKER_MEMORY = 2 << 30  # bytes of address space
COMMAND = ("-m", "rmx.grading.math_verify_worker")  # what Python runs in a worker
# Powers and factorials of no use but to hang a program: refused at once, so that no worker has to be killed.
_TOO_DEEP = re.compile(r"\^\s*\{?\s*[-+]?\d{5,}|\d{5,}\s*!|!\s*!\s*!|(?:\^[\s{(]*\w+[\s})]*){3,}|\d{150,}")


class Late(Exception):
    """A comparison took longer than it may; the two answers count as different."""


class _Spent(threading.local):
    """What this thread's two answers have cost so far: a list is compared part by part."""

    seconds = 0.0


_spent = _Spent()


def new_answers() -> None:
    """The comparisons that follow in this thread belong to two other answers: their time counts from zero."""
    _spent.seconds = 0.0


def library_equal(given: str, known: str) -> bool:
    """Whether two expressions, in normal form and without units, are equal; Late where that takes too long."""
    if not all(text and len(text) <= MAX_LATEX and not _TOO_DEEP.search(text) for text in (given, known)):
        return False
    if _spent.seconds > WALL_LIMIT:  # a list of parts that are slow each
        raise Late
    return _pool.ask(given, known)


class _Worker:
    """A helper process that answers one comparison at a time and is killed when it is late."""

    def __init__(self) -> None:
        self._process: Any = None
        self._ready = False
        self._owner = 0  # a forked child must not talk into its parent's pipe

    def ask(self, given: str, known: str) -> bool:
        if self._owner != os.getpid() or self._process is None or self._process.poll() is not None:
            self.start()
        if not self._ready and self._line(START_LIMIT) != "ready":
            raise OSError("the comparison worker did not start in time")
        self._ready = True
        self._process.stdin.write(json.dumps([given, known]) + "\n")
        self._process.stdin.flush()
        start = time.monotonic()
        reply = self._line(WALL_LIMIT)
        _spent.seconds += time.monotonic() - start
        if reply is None:
            self.start()  # it warms up before the next question
        if reply in (None, "late"):
            raise Late
        return reply == "equal"

    def start(self) -> None:
        self.stop()
        self._owner, self._ready = os.getpid(), False
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            text=True,
            encoding="utf-8",
        )

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # the rest of a line that a dead process will not read
                pipe.close()

    def _line(self, limit: float) -> str | None:
        """The next line, or None when the process is late and had to be killed. OSError: it died by itself."""
        process, late = self._process, threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        killer = threading.Timer(limit, kill)
        killer.daemon = True
        killer.start()
        try:
            line: str = process.stdout.readline().strip()
        finally:
            killer.cancel()
        if not line and not late.is_set():
            raise OSError("the comparison worker died; is math-verify installed?")
        return line or None


class _Pool:
    """`WORKERS` workers, started when first needed; the one used last is used next."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._workers = [_Worker() for _ in range(WORKERS)]
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def ask(self, given: str, known: str) -> bool:
        worker = self._free.get()
        try:
            try:
                return worker.ask(given, known)
            except OSError:  # it died since the last question: once more, with a fresh one
                worker.stop()
                return worker.ask(given, known)
        except Late:
            raise
        except BaseException:
            worker.stop()  # whatever it still writes is no answer to the next question
            raise
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()


_pool = _Pool()
atexit.register(_pool.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)
