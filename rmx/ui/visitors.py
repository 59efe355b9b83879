"""Which run each open page has under way, so that a new one stops the old and a closed page stops its own."""

import threading
from collections import OrderedDict

from rmx.explore.runs import Run


class Visitors:
    """Session hash → the run on its page; bounded, the oldest forgotten first."""

    def __init__(self, limit: int = 2000) -> None:
        self._current: OrderedDict[str, Run] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def begin(self, session: str | None, run: Run) -> Run:
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
