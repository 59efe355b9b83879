"""What visitors have under way or left behind, in memory under unguessable ids: solutions, comparisons, evaluations."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rmx.errors import RmxError
from rmx.storage.memory_shares import MemoryShares

Item = TypeVar("Item", bound=Any)  # has `id`, `owner` and `nbytes`; of a job also `done` and `halt()`


def _nbytes(items: list[Any]) -> int:
    return sum(item.nbytes for item in items)


class JobStore(Generic[Item]):
    """Items by id. They leave memory in whole groups, as the account of `memory_shares` has it; a busy group stays.

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
