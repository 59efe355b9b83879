"""A helper process that compares expressions with the math-verify library, within limits of processor time and memory.

Each "equal" of the library is checked at a few numeric points, because the library calls 1/2004! and 1/2006! equal.
"""

import json
import logging
import re
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from math_verify.grader import get_pct_val
from sympy import Expr, Float, Rational

from rmx.grading.math_verify_process import CPU_LIMIT, WORKER_MEMORY

if sys.platform != "win32":
    import resource


class _OutOfTime(BaseException):
    """Not an Exception: the library swallows those."""


def serve() -> None:
    """Reads ["given", "known"] lines, writes "equal", "different" or "late"."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that the library prints is an answer
    if sys.platform != "win32":  # there the time limit alone has to do
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = WORKER_MEMORY if hard == resource.RLIM_INFINITY else min(WORKER_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    logging.disable(logging.CRITICAL)
    compare = _comparer()
    compare("x^2-1", "(x-1)(x+1)")  # the first comparison imports and compiles
    print("ready", file=replies, flush=True)
    _answer_lines(sys.stdin, replies, compare)


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
    # Units are ours: the library takes the m of 3m for metres.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=normal, boxed_match_priority=-1)]

    @lru_cache(maxsize=512)
    def read(answer: str) -> Any:
        # Without the other modes: they take a number out of a formula that could not be read, and compare that.
        found = parse(
            f"${answer}$", config, fallback_mode="no_fallback", extraction_mode="first_match", parsing_timeout=None
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
    """A second look at two expressions called equal: False where their values differ, relative to their size.

    Relations, sets and matrices are left as the library found them.
    """
    if not isinstance(first, Expr) or not isinstance(second, Expr):
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if first.free_symbols != second.free_symbols and (first.is_Symbol or second.is_Symbol):
        return True  # one word against the product of its letters
    tolerance = 1e-6 if first.has(Float) or second.has(Float) else 1e-12
    for shift in (0, 1, 2) if symbols else (0,):  # fixed points with rational coordinates, none of them special
        point = {s: Rational(7 * i + 5 + 11 * shift, 3 * i + 4) for i, s in enumerate(symbols)}
        x, y = (e.subs(point).doit().evalf(40, maxn=4000) for e in (first, second))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        size = max(abs(x), abs(y))
        if size != 0 and abs(x - y) > tolerance * size:
            # 10% against 10 is the library's own reading, which the numbers cannot confirm.
            return (get_pct_val(first) is None) != (get_pct_val(second) is None)
    return True


if __name__ == "__main__":
    serve()
