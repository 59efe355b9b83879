"""A fair queue in front of an engine: first come, first served, with the place in line visible."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rmx.errors import Busy


class Ticket:
    """A place in line."""


class Turns:
    """One holder at a time. Unlike threading.Lock it is fair, and a turn may be given back from another thread."""

    def __init__(self, limit: int = 64) -> None:
        self._changed = threading.Condition()
        self._line: deque[Ticket] = deque()  # the first one holds the engine
        self.limit = limit

    def waiting(self) -> int:
        """How many hold the engine or wait for it."""
        with self._changed:
            return len(self._line)

    def enter(self) -> Ticket:
        """Join the line.

        Raises:
            Busy: the line is full.
        """
        ticket = Ticket()
        with self._changed:
            if len(self._line) >= self.limit:
                raise Busy(f"{len(self._line)} requests wait for this model already. Try again in a moment.")
            self._line.append(ticket)
        return ticket

    def wait(self, ticket: Ticket, timeout: float | None = None) -> int:
        """Wait until the ticket's turn comes or `timeout` seconds pass; returns how many are still ahead."""
        with self._changed:
            self._changed.wait_for(lambda: self._line[0] is ticket, timeout)
            return self._line.index(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Give the turn, or the place in line, back. A ticket may be given back once only."""
        with self._changed:
            self._line.remove(ticket)
            self._changed.notify_all()

    @contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """Wait for the engine, hold it, give it back.

        Args:
            patience: seconds to wait at most. A server has few threads: one that waits without end for a generation
                may hold the very thread that the generation needs for its next step.

        Raises:
            Busy: the line is full, or the turn did not come in time.
        """
        ticket = self.enter()
        try:
            if self.wait(ticket, patience):
                raise Busy("The model is busy with another solution. Try again when it is done.")
            yield
        finally:
            self.leave(ticket)

    @contextmanager
    def when_free(self, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Wait as long as it takes, unless `cancelled` says otherwise; yields whether the turn came.

        For long jobs, which take one turn per round, so that others get theirs in between.

        Raises:
            Busy: the line is full.
        """
        ticket = self.enter()
        try:
            while ahead := self.wait(ticket, timeout=0.25):
                if cancelled():
                    break
            yield not ahead
        finally:
            self.leave(ticket)
