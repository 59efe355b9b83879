"""A fair queue in front of an engine: first come, first served, with the place in line visible."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rmx.errors import Busy


class Cancelled(Exception):
    """The one who waited gave up; not an error to show."""


class Turns:
    """One holder at a time. Unlike threading.Lock it may be released from another thread and it is fair."""

    def __init__(self, limit: int = 64) -> None:
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # the first one holds the engine
        self.limit = limit

    def waiting(self) -> int:
        """How many hold the engine or wait for it."""
        with self._changed:
            return len(self._line)

    @contextmanager
    def turn(
        self, cancelled: Callable[[], bool] = lambda: False, on_wait: Callable[[int], None] | None = None
    ) -> Iterator[None]:
        """Wait for the engine, hold it, give it back.

        Args:
            cancelled: asked while waiting; True leaves the line.
            on_wait: told the number of visitors ahead whenever it changes.

        Raises:
            Busy: the line is full. Cancelled: `cancelled` said so while waiting.
        """
        ticket = object()
        with self._changed:
            if len(self._line) >= self.limit:
                raise Busy(f"{len(self._line)} requests wait for this model already. Try again in a moment.")
            self._line.append(ticket)
        try:
            self._wait(ticket, cancelled, on_wait)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: object, cancelled: Callable[[], bool], on_wait: Callable[[int], None] | None) -> None:
        told = 0
        while True:
            with self._changed:
                ahead = self._line.index(ticket)
                if ahead == told and ahead:
                    self._changed.wait(timeout=0.1)  # a cancel has no way to notify
                    ahead = self._line.index(ticket)
            if ahead == 0:
                return
            if cancelled():
                raise Cancelled
            if ahead != told and on_wait:
                on_wait(ahead)
            told = ahead
