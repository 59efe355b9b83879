"""How often somebody may ask, and how many streams somebody may hold."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_KNOWN = 20_000  # visitors whose allowance is remembered


class Allowance:
    """A token bucket for each key: `burst` at once, `rate` per second after that.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.rate, self._clock = burst, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (what is left, when)
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take one; returns 0, or after how many seconds to come again."""
        now = self._clock()
        with self._lock:
            left, then = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + max(0.0, now - then) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - allowed, now)
            while len(self._left) > MOST_KNOWN:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


class ConcurrencyLimit:
    """At most so many places for each key at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """Hold a place for the length of a `with` block; yields whether there was one."""
        with self._lock:
            free = self._taken[key] < self.most
            self._taken[key] += free
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._taken[key] -= 1
                    if not self._taken[key]:
                        del self._taken[key]
