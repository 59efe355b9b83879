"""Keys and values that were computed before: kept for later prefixes, found again, cropped."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

MOST_HEADS = 16  # that are kept, of all adapters and strengths


@dataclass(frozen=True, slots=True)
class Saved:
    """Keys and values of one sequence, kept for later prefixes."""

    adapter: str | None
    ids: Tensor  # (T,) int64 on the CPU
    layers: tuple[tuple[Tensor, Tensor], ...]  # each (1, heads, T, head_dim)
    owner: str | None = None  # visitor who computed it; other visitors cannot reuse it, and so learn nothing from it

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(k.nbytes + v.nbytes for k, v in self.layers)


class PrefixCache:
    """Sequences already computed, found by longest common prefix; least recently used out, bounded in bytes.

    Heads are apart from them: what the prompts of a built-in style begin with, such as solved examples. They are read
    by themselves, once, and serve every owner, so that what is computed behind them does not depend on who was there
    before.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.heads: tuple[tuple[int, ...], ...] = ()  # replaced whole, since other threads go through it
        self._read_heads: OrderedDict[tuple[str | None, tuple[int, ...]], Saved] = OrderedDict()
        self._saved: OrderedDict[int, Saved] = OrderedDict()
        self._next = 0
        self.cleared = 0  # how often something was forgotten since its weights are gone or others
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all saved sequences and heads."""
        return sum(s.nbytes for s in [*self._saved.values(), *self._read_heads.values()])

    def __len__(self) -> int:
        return len(self._saved)

    def find(self, adapter: str | None, ids: Sequence[int], owner: str | None = None) -> tuple[Saved, int] | None:
        """The owner's saved sequence that shares the longest prefix with `ids`, and how many tokens they share."""
        wanted = torch.tensor(ids, dtype=torch.long)
        best: tuple[int, int] | None = None
        with self._lock:
            for key, saved in self._saved.items():
                mine = saved.adapter == adapter and saved.owner == owner
                shared = _common_prefix(saved.ids, wanted) if mine else 0
                if shared and (best is None or shared >= best[1]):
                    best = (key, shared)
            if best is None:
                return None
            self._saved.move_to_end(best[0])
            return self._saved[best[0]], best[1]

    def keep(self, saved: Saved) -> None:
        """Store a sequence; sequences that it extends are dropped, the oldest go when the bytes run out."""
        if saved.nbytes > self.max_bytes:
            return
        with self._lock:
            covered = [
                key
                for key, old in self._saved.items()
                if (old.adapter, old.owner) == (saved.adapter, saved.owner)
                and _common_prefix(old.ids, saved.ids) == len(old.ids)
            ]
            for key in covered:
                del self._saved[key]
            self._saved[self._next] = saved
            self._next += 1
            while self._saved and self.nbytes > self.max_bytes:
                self._saved.popitem(last=False)

    def add_head(self, head: Sequence[int]) -> None:
        """Have what begins with these ids read from here on behind a head of its own."""
        with self._lock:
            if (wanted := tuple(head)) not in self.heads:
                self.heads = (*self.heads, wanted)

    def find_head(self, adapter: str | None, head: tuple[int, ...]) -> Saved | None:
        """Keys and values of a head; None where they have to be computed."""
        with self._lock:
            if (found := self._read_heads.get((adapter, head))) is not None:
                self._read_heads.move_to_end((adapter, head))
            return found

    def keep_head(self, saved: Saved) -> Saved:
        """Store a head that was computed; the one used least lately goes where there are too many."""
        with self._lock:
            self._read_heads[saved.adapter, tuple(saved.ids.tolist())] = saved
            if len(self._read_heads) > MOST_HEADS:
                self._read_heads.popitem(last=False)
        return saved

    def clear(self, adapter: str | None = None) -> None:
        """Forget everything, or all that one adapter computed."""
        self.forget(lambda key: adapter is None or key == adapter)

    def forget(self, where: Callable[[str | None], bool]) -> None:
        """Forget all that was computed under the adapters for whose keys `where` is true."""
        with self._lock:
            self.cleared += 1
            everything: tuple[OrderedDict[Any, Saved], ...] = self._saved, self._read_heads
            for kept in everything:
                for key in [k for k, s in kept.items() if where(s.adapter)]:
                    del kept[key]


def _common_prefix(a: Tensor, b: Tensor) -> int:
    n = min(len(a), len(b))
    differs = (a[:n] != b[:n]).nonzero()
    return int(differs[0]) if len(differs) else n


def whole_length(cache: Any) -> int:
    """Positions that every layer holds: a pass that broke half way leaves some layers with more than others."""
    return min((int(layer.get_seq_length()) for layer in cache.layers), default=0)


def croppable(cache: Any) -> bool:
    """Whether positions can be taken off the end of this cache and the rest is still what a cold run computes.

    Full attention keeps every position. A sliding window forgets once it is full; recurrent state cannot go back.
    """
    for layer in cache.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            if layer.cumulative_length >= layer.sliding_window:
                return False
        elif type(layer) is not DynamicLayer:
            return False
    return bool(cache.layers)


def windowed(cache: Any) -> bool:
    """Whether all of this cache is keys and values, of every position or of those in a sliding window."""
    return bool(cache.layers) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )
