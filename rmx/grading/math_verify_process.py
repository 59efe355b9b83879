"""The math-verify library in processes of its own: are two expressions equal, within limits of time and memory.

math-verify 0.9 bounds its own time with SIGALRM, which works in a main thread only, and no thread can interrupt a
`9**9**9` that is being computed. So the library runs in small helper processes (`python -m` with this module), one
comparison at a time, and a process that is late is killed. Each "equal" of the library is then checked at a few numeric
points, because the library calls 1/2004! and 1/2006! equal.

The first half of this file runs in the program, the second in the helper process.
"""

import atexit
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import IO, Any

from rmx.paths import PACKAGE

logger = logging.getLogger(__name__)

MAX_LATEX = 300  # characters of one expression given to the library
CPU_LIMIT = 0.75  # seconds of processor time for one comparison by the library, so that a busy machine grades the same
WALL_LIMIT = 2.0  # seconds after which the worker is killed, whatever it does
START_LIMIT = 30.0  # seconds for the worker to import the library
WORKERS = 2
WORKER_MEMORY = 2 << 30  # bytes of address space
COMMAND = ("-m", "rmx.grading.math_verify_process")  # what Python runs in a worker


# ------------------------------------------------------------------------------------------------- in the program

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
    if not given or not known or max(len(given), len(known)) > MAX_LATEX:
        return False
    if _TOO_DEEP.search(given) or _TOO_DEEP.search(known):
        return False
    if _spent.seconds > WALL_LIMIT:  # a list of parts that are slow each
        raise Late
    return _pool.ask(given, known)


class _Worker:
    """A helper process that answers one comparison at a time and is killed when it is late."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._owner = 0  # a forked child must not talk into its parent's pipe

    def ask(self, given: str, known: str) -> bool:
        if self._owner != os.getpid() or self._process is None or self._process.poll() is not None:
            self.start()
        if not self._ready and self._line(START_LIMIT) != "ready":
            raise OSError("the comparison worker did not start in time")
        self._ready = True
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([given, known]) + "\n")
        self._process.stdin.flush()
        start = time.monotonic()
        reply = self._line(WALL_LIMIT)
        _spent.seconds += time.monotonic() - start
        if reply is None:
            self.start()  # it warms up while nobody waits
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
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # the rest of a line that a dead process will not read
                    logger.debug("pipe of a killed worker", exc_info=True)

    def _line(self, limit: float) -> str | None:
        """The next line, or None when the process is late and had to be killed. OSError: it died by itself."""
        assert self._process is not None
        process, late = self._process, threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        killer = threading.Timer(limit, kill)
        killer.daemon = True
        killer.start()
        try:
            line = process.stdout.readline().strip() if process.stdout else ""
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


# --------------------------------------------------------------------------------------------------- in the worker


class _OutOfTime(BaseException):
    """Not an Exception: the library swallows those."""


def serve() -> None:
    """Reads ["given", "known"] lines, writes "equal", "different" or "late"."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that the library prints is an answer
    _limit_memory()
    logging.disable(logging.CRITICAL)
    compare = _comparer()
    compare("x^2-1", "(x-1)(x+1)")  # the first comparison imports and compiles
    print("ready", file=replies, flush=True)
    _answer_lines(sys.stdin, replies, compare)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit alone has to do
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = WORKER_MEMORY if hard == resource.RLIM_INFINITY else min(WORKER_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _answer_lines(questions: IO[str], replies: IO[str], compare: Callable[[str, str], bool]) -> None:
    def late(*_: Any) -> None:
        raise _OutOfTime

    timer = getattr(signal, "ITIMER_PROF", None)
    if timer is not None:
        signal.signal(signal.SIGPROF, late)
    for line in questions:
        given, known = json.loads(line)
        try:
            if timer is not None:
                signal.setitimer(timer, CPU_LIMIT)
            try:
                reply = "equal" if compare(given, known) else "different"
            finally:
                if timer is not None:
                    signal.setitimer(timer, 0)
        except _OutOfTime:
            reply = "late"
        except Exception:  # noqa: BLE001  whatever sympy and the LaTeX parser raise on strange input: not equal
            reply = "different"
        print(reply, file=replies, flush=True)


def _comparer() -> Callable[[str, str], bool]:
    """math-verify's parse and verify with its timeouts off, and a second look at what it calls equal."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Units are ours: the library takes the m of 3m for metres.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=normal, boxed_match_priority=-1)]

    @lru_cache(maxsize=512)
    def read(answer: str) -> Any:
        # Without the other modes: they take a number out of a formula that could not be read, and compare that.
        found = parse(
            f"${answer}$",
            config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        return found[0] if found else None

    def compare(given: str, known: str) -> bool:
        target, gold = read(given), read(known)
        if target is None or gold is None:
            return False
        allow = bool(re.search(r"[<>]|\\[lg]e(?![a-zA-Z])", given + known))
        same = verify(gold, target, timeout_seconds=None, allow_set_relation_comp=allow)
        return bool(same) and _agree_numerically(gold, target)

    return compare


def _agree_numerically(first: Any, second: Any) -> bool:
    """A second look at two expressions called equal: False where their values differ at some point.

    Values are compared relative to their size; the library rounds the difference to zero when both are tiny.
    Relations, sets and matrices are left as the library found them.
    """
    from sympy import Expr, Float, Rational

    if not isinstance(first, Expr) or not isinstance(second, Expr):
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if first.free_symbols != second.free_symbols and (first.is_Symbol or second.is_Symbol):
        return True  # one word against the product of its letters
    tolerance = 1e-6 if first.has(Float) or second.has(Float) else 1e-12
    for values in _points(len(symbols)):
        point = {s: Rational(*value) for s, value in zip(symbols, values, strict=True)}
        x, y = (e.subs(point).doit().evalf(40, maxn=4000) for e in (first, second))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        size = max(abs(x), abs(y))
        if size != 0 and abs(x - y) > tolerance * size:
            return _percent_reading(first, second)
    return True


def _percent_reading(first: Any, second: Any) -> bool:
    """10% against 10: the library's own reading, which the numbers cannot confirm."""
    from math_verify.grader import get_pct_val

    return bool((get_pct_val(first) is None) != (get_pct_val(second) is None))


def _points(symbols: int) -> Iterator[list[tuple[int, int]]]:
    """Three fixed points with rational coordinates, none of them special."""
    for shift in (0, 1, 2) if symbols else (0,):
        yield [(7 * i + 5 + 11 * shift, 3 * i + 4) for i in range(symbols)]


if __name__ == "__main__":
    serve()
