"""What visitors have in memory: the items by id, each visitor's share of the bytes, and how freed memory goes back.

Solutions, comparisons and evaluations lie under unguessable ids and are counted in bytes: of each visitor a share, of
all together a limit. Who is over the share loses what was looked at longest ago of that one's own; where all together
are over the limit, it is taken from whoever keeps the most. So nobody loses anything for as long as somebody else keeps
more, however many visitors somebody pretends to be.
"""

import ctypes
import math
import os
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, is_dataclass
from sys import getsizeof
from typing import Any, Generic, TypeVar

from rmx.errors import RmxError

TOKEN_BYTES = 4_000  # a decoded token with its alternatives: 2.7 kB by tracemalloc, 3.0 by the resident set; rounded up
Clock = Callable[[], float]


def bytes_of(*values: Any, seen: dict[int, Any] | None = None) -> int:
    """Bytes that values take: texts, numbers, containers, records and tensors, each object once.

    Other objects count without what they refer to: a record may name a model that is everybody's. Objects that are
    `seen`, by their ids, are counted already; those that are counted now are added.
    """
    seen = {} if seen is None else seen
    tensor = getattr(sys.modules.get("torch"), "Tensor", ())  # who has a tensor has loaded torch; others need not
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
        elif isinstance(value, tensor):
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


# -- What visitors have under way or left behind, in memory under unguessable ids -------------------------------------


Item = TypeVar("Item", bound=Any)  # has `id`, `owner` and `nbytes`; of a job also `done` and `halt()`


def _nbytes(items: list[Item]) -> int:
    return sum(item.nbytes for item in items)


class JobStore(Generic[Item]):
    """Items by id. They leave memory in whole groups, as the account of `MemoryShares` has it; a busy group stays.

    Args:
        gone: a sentence for the page, that of the `error` that `get` raises: no such item, or not any more.
        kept: the account; by default one of its own, without a share for each visitor.
        most: groups in memory; the oldest one over it is halted and forgotten.
        group: the key of an item's group; by default each item is one of its own.
        needs: the key of the group without which an item is of no use; it is forgotten together with that one.
        size: bytes of a group.
    """

    def __init__(
        self,
        gone: str,
        kept: MemoryShares | None = None,
        most: int | None = None,
        group: Callable[[Item], str] = lambda item: str(item.id),
        needs: Callable[[Item], str | None] = lambda item: None,
        size: Callable[[list[Item]], int] = _nbytes,
        error: type[RmxError] = RmxError,
    ) -> None:
        self.kept, self._most = kept or MemoryShares(), most
        self._gone, self._error = gone, error
        self._group, self._needs, self._size = group, needs, size
        self._by_id: dict[str, Item] = {}
        self._groups: dict[str, list[Item]] = {}
        self._lock = threading.Lock()

    def add(self, *items: Item, check: Callable[[list[Item]], None] | None = None) -> Item:
        """Keep items of one group, or have `check` raise over everything that is kept; returns the first."""
        key = self._group(items[0])
        with self._lock:
            if check is not None:
                check(list(self._by_id.values()))
            self._groups.setdefault(key, []).extend(items)
            self._by_id |= {item.id: item for item in items}
            over = list(self._groups)[: -self._most] if self._most else []

        def is_busy() -> bool:
            return not all(getattr(item, "done", True) for item in self.group(key))

        self.kept.put(key, self._size(self.group(key)), items[0].owner, lambda: self.forget(key), is_busy)
        for old in over:
            for item in self.group(old):
                item.halt()
            self.forget(old)
        return items[0]

    def find(self, item_id: object) -> Item | None:
        """The item of this id, which counts as looked at; None where there is none (any more)."""
        with self._lock:
            item = self._by_id.get(item_id) if isinstance(item_id, str) else None
        if item is not None:
            self.kept.touch(self._group(item))
        return item

    def get(self, item_id: object, kind: type[Any] = object) -> Any:
        """The item of this id; raises where there is none (any more), or one of another kind."""
        item = self.find(item_id)
        if item is None or not isinstance(item, kind):
            raise self._error(self._gone)
        return item

    def group(self, key: str) -> list[Item]:
        """All items of a group in the order in which they were added."""
        with self._lock:
            return list(self._groups.get(key, []))

    def items(self) -> list[Item]:
        """Everything that is kept."""
        with self._lock:
            return list(self._by_id.values())

    def grow(self, item: Item) -> None:
        """Count an item's group anew, now that it has grown."""
        key = self._group(item)
        self.kept.grow(key, self._size(self.group(key)))

    def halt(self, item_id: object) -> None:
        """Have a job end at its next step; unknown ids are ignored."""
        if (job := self.find(item_id)) is not None:
            job.halt()

    def halt_all(self) -> None:
        """Have every job end at its next step."""
        for job in self.items():
            if not job.done:
                job.halt()

    def forget(self, key: str) -> None:
        """Let go of a group, and of all groups that need it."""
        with self._lock:
            for item in self._groups.pop(key, []):
                del self._by_id[item.id]
            others = {self._group(item) for item in self._by_id.values() if self._needs(item) == key}
        self.kept.drop(key)
        for other in others:
            self.forget(other)


# -- Memory that is freed goes back -----------------------------------------------------------------------------------


M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # as in malloc.h
ARENAS = 2
LARGE = 1 << 20  # bytes


def few_arenas() -> bool:
    """Let all threads share two arenas of glibc's malloc; returns whether it was done.

    By itself it makes up to eight for each core, and each keeps what its largest hour took: with 32 visitors 180 MB
    that nobody uses, and growing, instead of 40 (mallinfo2, under `rmx bench public`).
    """
    return _set(M_ARENA_MAX, ARENAS, "MALLOC_ARENA_MAX")


def large_blocks_apart() -> bool:
    """Take every block of a megabyte or more from the system and give it back when it is freed; returns whether so.

    By itself malloc does so only until the first one is freed. From then on blocks of up to 32 MB, as keys and values
    of a batch are, come from the arenas, where a small object above them keeps them from going back.
    """
    return _set(M_MMAP_THRESHOLD, LARGE, "MALLOC_MMAP_THRESHOLD_")


def give_back() -> bool:
    """Give the free pages of all arenas back to the system, after a long job; returns whether this C library can."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
    return trim is not None


def _set(option: int, value: int, variable: str) -> bool:
    """Set an option of malloc, unless a variable of the environment sets it."""
    tune = _of_glibc("mallopt")
    return tune is not None and variable not in os.environ and bool(tune(option, value))


def _of_glibc(name: str) -> "ctypes._NamedFuncPointer | None":
    """A function of malloc; None with another C library."""
    try:
        return ctypes.CDLL(None)[name] if sys.platform.startswith("linux") else None
    except (AttributeError, OSError):
        return None
