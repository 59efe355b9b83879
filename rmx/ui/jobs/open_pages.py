"""Which run each open page has under way, so that a new one stops the old and a closed page stops its own."""

import threading
from collections import OrderedDict
from typing import Protocol, TypeVar
from weakref import ReferenceType, ref


class Haltable(Protocol):
    """Anything that ends at its next step when it is asked to."""

    def halt(self) -> None: ...


Work = TypeVar("Work", bound=Haltable)


class Visitors:
    """Session hash → what its page is doing; bounded, the oldest forgotten first.

    It holds nothing in memory: what is over and forgotten elsewhere is gone here too.
    """

    def __init__(self, limit: int = 2000) -> None:
        self._current: OrderedDict[str, ReferenceType[Haltable]] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def begin(self, session: str | None, run: Work) -> Work:
        """Stop what this page was doing and note what it does now."""
        if session is None:
            return run
        with self._lock:
            old = self._current.pop(session, None)
            self._current[session] = ref(run)
            while len(self._current) > self._limit:
                self._current.popitem(last=False)
        _halt(old)
        return run

    def leave(self, session: str | None) -> None:
        """The page was closed."""
        with self._lock:
            old = self._current.pop(session, None) if session else None
        _halt(old)


def _halt(work: ReferenceType[Haltable] | None) -> None:
    if work is not None and (there := work()) is not None:
        there.halt()
