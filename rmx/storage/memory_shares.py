"""What visitors leave in memory, counted in bytes: of each visitor a share, of all together a limit.

Who is over the share loses what was looked at longest ago of that one's own; where all together are over the limit, it
is taken from whoever keeps the most. So nobody loses anything for as long as somebody else keeps more, however many
visitors somebody pretends to be.
"""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, is_dataclass
from sys import getsizeof
from typing import Any

import torch

from rmx.errors import RmxError

TOKEN_BYTES = 4_000  # a decoded token with its alternatives: 2.7 kB by tracemalloc, 3.0 by the resident set; rounded up
Clock = Callable[[], float]


def bytes_of(*values: Any, seen: dict[int, Any] | None = None) -> int:
    """Bytes that values take: texts, numbers, containers, records and tensors, each object once.

    Other objects count without what they refer to: a record may name a model that is everybody's. Objects that are
    `seen`, by their ids, are counted already; those that are counted now are added.
    """
    seen = {} if seen is None else seen
    total, ahead = 0, list(values)
    while ahead:
        value = ahead.pop()
        if value is None or id(value) in seen:
            continue
        seen[id(value)] = value  # held, so that no other object gets its id meanwhile
        total += (getsizeof(value) + 15) & ~15  # malloc hands out multiples of 16
        if isinstance(value, dict):
            ahead += value.keys()
            ahead += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            ahead += value
        elif isinstance(value, torch.Tensor):
            total += value.nbytes
        elif is_dataclass(value):
            ahead += (getattr(value, name, None) for name in value.__dataclass_fields__)
    return total


@dataclass(slots=True)
class _Entry:
    """Something that is kept."""

    owner: str | None
    nbytes: int
    forget: Callable[[], None]
    is_busy: Callable[[], bool]
    used: float


class MemoryShares:
    """The account. Its callers hold no lock of their own while they call it: what has to go is forgotten at once.

    Args:
        most: bytes of all together. share: of one visitor's. idle_seconds: entries not looked at for so long go.
    """

    def __init__(
        self,
        most: int = 400_000 * TOKEN_BYTES,
        share: int | None = None,
        idle_seconds: float = math.inf,
        clock: Clock = time.monotonic,
    ) -> None:
        self.most, self.share, self.idle_seconds = most, most if share is None else share, idle_seconds
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # the one used last is the last
        self._lock = threading.Lock()

    def admit(self, nbytes: int, owner: str | None, what: str) -> None:
        """Raise RmxError where `what`, a noun, is larger than a visitor's share, or than all that may be kept."""
        room = self.share if owner is not None else self.most
        if nbytes > room:
            size, most = (f"{n / 1e6:,.1f} MB" for n in (nbytes, room))
            raise RmxError(f"{what} takes {size} of memory, and {most} are kept of one visitor. Take a smaller one.")

    def put(
        self,
        key: Hashable,
        nbytes: int,
        owner: str | None,
        forget: Callable[[], None],
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Count something that was admitted, new or grown. Others go where there is no room, busy ones do not."""
        with self._lock:
            self._entries[key] = _Entry(owner, nbytes, forget, is_busy, self._clock())
        self._make_room(key)

    def grow(self, key: Hashable, nbytes: int) -> None:
        """Count something that is kept anew, now that it has grown. If it is too large, it goes when the next comes."""
        with self._lock:
            if key in self._entries:
                self._entries[key].nbytes = nbytes
        self._make_room(key)

    def touch(self, key: Hashable) -> None:
        """Note that somebody looks at it."""
        with self._lock:
            self._use(key)

    def drop(self, key: Hashable) -> None:
        """Take something off the account that its keeper has let go of."""
        with self._lock:
            self._entries.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def _use(self, key: Hashable) -> bool:
        """Note that an entry is used now; False where it is not there."""
        if key in self._entries:
            self._entries[key].used = self._clock()
            self._entries.move_to_end(key)
        return key in self._entries

    def _make_room(self, newest: Hashable) -> None:
        """Have everything forgotten that has to go beside `newest`."""
        with self._lock:
            gone = self._take_out(newest) if self._use(newest) else []
        for entry in gone:
            entry.forget()

    def _take_out(self, newest: Hashable) -> list[_Entry]:
        """Take out what has to go beside `newest`; the caller holds the lock and forgets it after."""
        now, owner = self._clock(), self._entries[newest].owner
        late = [key for key, one in self._entries.items() if key != newest and now - one.used > self.idle_seconds]
        gone = [self._entries.pop(key) for key in late]
        held = Counter[str | None]()
        for one in self._entries.values():
            held[one.owner] += one.nbytes
        while owner is not None and held[owner] > self.share:
            if (entry := self._pop_oldest(owner, newest)) is None:
                return gone  # the rest of it is being worked on; other owners lose nothing for it
            held[owner] -= entry.nbytes
            gone.append(entry)
        busy = set[str | None]()  # owners with nothing that may go
        while held.total() > self.most and (others := held.keys() - busy):
            heaviest = max(others, key=lambda one: held[one])
            if (entry := self._pop_oldest(heaviest, newest)) is None:
                busy.add(heaviest)
                continue
            held[heaviest] -= entry.nbytes
            gone.append(entry)
        return gone

    def _pop_oldest(self, owner: str | None, newest: Hashable) -> _Entry | None:
        """Take out what was used longest ago of one visitor's; None where all of it has to stay."""
        for key, entry in self._entries.items():
            if entry.owner == owner and key != newest and not entry.is_busy():
                return self._entries.pop(key)
        return None
