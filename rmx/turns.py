"""A fair queue in front of an engine: first come, first served; place and wait are visible."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rmx.errors import Busy

SMOOTH = 0.2  # weight of the newest turn in the mean length of a turn
# Who asks: set while work of a visitor is done, so that nobody takes more than a share of the line.
asker: ContextVar[str | None] = ContextVar("asker", default=None)
Item = TypeVar("Item")


class Ticket:
    """A place in line."""

    def __init__(self, owner: str | None) -> None:
        self.owner = owner
        self.since: float | None = None  # when its turn came, on the monotonic clock


class Turns:
    """One holder at a time. Unlike threading.Lock it is fair, and a turn may be given back from another thread.

    Args:
        limit: who holds or waits at most. per_owner: how many of those may be one asker's; 0: no limit.
    """

    def __init__(self, limit: int = 64, per_owner: int = 0) -> None:
        self._changed = threading.Condition()
        self._line: deque[Ticket] = deque()  # the first one holds the engine
        self.limit, self.per_owner = limit, per_owner
        self._mean: float | None = None  # seconds that a turn takes, lately
        self._closed = False

    def waiting(self) -> int:
        """How many hold the engine or wait for it."""
        with self._changed:
            return len(self._line)

    @property
    def full(self) -> bool:
        return self.waiting() >= self.limit

    def enter(self) -> Ticket:
        """Join the line.

        Raises:
            Busy: the line is full, or this asker has a full share of it.
        """
        ticket = Ticket(asker.get())
        with self._changed:
            if self._closed:
                raise Busy("rmx is being stopped. Try again when it is back.")
            if len(self._line) >= self.limit:
                raise Busy(f"{len(self._line)} requests wait for this model already. Try again in a moment.")
            mine = sum(t.owner == ticket.owner for t in self._line) if ticket.owner is not None else 0
            if self.per_owner and mine >= self.per_owner:
                raise Busy(f"{mine} requests of yours are under way already. Wait for one of them, or stop it.")
            self._line.append(ticket)
            self._called()
        return ticket

    def close(self) -> None:
        """Let nobody join any more: long jobs, which take one turn per round, end before their next round."""
        with self._changed:
            self._closed = True

    def wait(self, ticket: Ticket, timeout: float | None = None) -> int:
        """Wait until the ticket's turn comes or `timeout` seconds pass; returns how many are still ahead."""
        with self._changed:
            self._changed.wait_for(lambda: self._line[0] is ticket, timeout)
            return self._line.index(ticket)

    def expected(self, ahead: int) -> float | None:
        """Seconds until the turn of one who has `ahead` before it, by the turns of late; None where none was seen."""
        with self._changed:
            if self._mean is None or not self._line or not ahead:
                return None
            since = self._line[0].since
            held = time.monotonic() - since if since is not None else 0.0
            return max(0.0, self._mean - held) + (ahead - 1) * self._mean

    def leave(self, ticket: Ticket) -> None:
        """Give the turn, or the place in line, back. A ticket may be given back once only."""
        with self._changed:
            self._line.remove(ticket)
            if ticket.since is not None:
                held = time.monotonic() - ticket.since
                self._mean = held if self._mean is None else (1 - SMOOTH) * self._mean + SMOOTH * held
            self._called()
            self._changed.notify_all()

    def _called(self) -> None:
        """Note when the turn of the first in line came; the caller holds the lock."""
        if self._line and self._line[0].since is None:
            self._line[0].since = time.monotonic()

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


@contextmanager
def asking(owner: str | None) -> Iterator[None]:
    """What is done in the `with` block is done for this asker."""
    token = asker.set(owner)
    try:
        yield
    finally:
        asker.reset(token)


def asked_by(owner: str | None, steps: Iterator[Item]) -> Iterator[Item]:
    """Go through `steps` as the work of one asker.

    A server may run each step in another thread and context, so who asks is said anew for every one.
    """
    try:
        while True:
            with asking(owner):
                try:
                    item = next(steps)
                except StopIteration:
                    return
            yield item
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
