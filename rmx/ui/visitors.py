"""Which run each open page has under way, so that a new one stops the old and a closed page stops its own."""

import threading
from collections import OrderedDict
from typing import Protocol, TypeVar


class Haltable(Protocol):
    """Anything that ends at its next step when it is asked to."""

    def halt(self) -> None: ...


Work = TypeVar("Work", bound=Haltable)


class Visitors:
    """Session hash → what its page is doing; bounded, the oldest forgotten first."""

    def __init__(self, limit: int = 2000) -> None:
        self._current: OrderedDict[str, Haltable] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def begin(self, session: str | None, run: Work) -> Work:
        """Stop what this page was doing and note what it does now."""
        if session is None:
            return run
        with self._lock:
            old = self._current.pop(session, None)
            self._current[session] = run
            while len(self._current) > self._limit:
                self._current.popitem(last=False)
        if old is not None:
            old.halt()
        return run

    def leave(self, session: str | None) -> None:
        """The page was closed."""
        with self._lock:
            old = self._current.pop(session, None) if session else None
        if old is not None:
            old.halt()
