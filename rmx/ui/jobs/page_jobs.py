"""Which run each open page has under way, so that a new one stops the old and a closed page stops its own."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from weakref import ReferenceType, ref

from rmx.engine.fair_queue import RequestOwner
from rmx.errors import Busy


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


@dataclass(frozen=True, slots=True)
class AtOnce:
    """The limits; 0: none.

    Args:
        one, many: what a job is called, such as "evaluation" and "evaluations".
    """

    one: str
    many: str
    most: int = 0
    per_owner: int = 0
    per_address: int = 0

    def admit(self, who: RequestOwner, running: Iterable[RequestOwner]) -> None:
        """Whether one more may begin beside those of `running`.

        Raises:
            Busy: too many of all, of this visitor, or from this address.
        """
        others = list(running)
        if self.most and len(others) >= self.most:
            raise Busy(f"{self.most} {self.many} are under way. Try again when one of them is over.")
        if self.per_owner and sum(other.owner == who.owner for other in others) >= self.per_owner:
            article = "An" if self.one[0] in "aeiou" else "A"
            raise Busy(f"{article} {self.one} of yours is under way already. Stop it, or wait for its end.")
        near = sum(other.address == who.address for other in others) if who.address is not None else 0
        if self.per_address and near >= self.per_address:
            raise Busy(f"{near} {self.many} from your network are under way. Try again when one of them is over.")
