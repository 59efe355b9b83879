"""A cache layer with room to grow: appending a token writes into spare space instead of copying all that is there.

transformers' own layer concatenates at each step. For one row that is cheap; for 64 rows behind a long prefix it
costs as much as a good part of the network.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rmx.engine.engine import Engine

ROOM = 32  # spare positions made at once


class PreallocatedLayer(DynamicLayer):
    """Full attention over every position, as `DynamicLayer`; keys and values are views of larger buffers."""

    def __init__(self, keys: Tensor, values: Tensor, rows: int) -> None:
        """`rows` equal rows of keys and values (1, heads, T, head_dim)."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self._buffers = [_with_room(t.expand(rows, -1, -1, -1)) for t in (keys, values)]
        self._show(keys.shape[-2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, n, head_dim); returns all keys and values so far."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            self._buffers = [_with_room(buffer[:, :, :start], end - start) for buffer in self._buffers]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        length = self.get_seq_length()
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (buffer[:, :, :length] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values


def preallocated(cache: Any, rows: int) -> Any:
    """Turn a cache of one row into one of `rows` equal rows, with room where its layers are plain ones."""
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.batch_repeat_interleave(rows)
        return cache
    cache.layers = [PreallocatedLayer(layer.keys, layer.values, rows) for layer in cache.layers]
    return cache


def _with_room(old: Tensor, more: int = 0) -> Tensor:
    rows, heads, length, dim = old.shape
    new = torch.empty((rows, heads, length + more + ROOM, dim), dtype=old.dtype, device=old.device)
    new[:, :, :length] = old
    return new


GROWTH = 64  # buffers grow by so many positions at once

Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values of one sequence, each (1, heads, T, head_dim)


class Slots:
    """Rows side by side in one cache, without a forward pass until one is asked for.

    Args:
        size: how many rows there may be.
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self.size = engine, size
        self.lengths: list[int] = []  # of each row, in tokens; row i is in slot i
        self._capacity = 0
        self._cache: Any = None  # made when keys and values are first put in

    @property
    def width(self) -> int:
        """Positions of the longest row."""
        return max(self.lengths, default=0)

    def put(self, length: int, rows: int, layers: Layers | None) -> None:
        """Fill the next free slots with equal rows; without `layers` they only take their place."""
        first = len(self.lengths)
        if first + rows > self.size:
            raise ValueError(f"{rows} rows do not fit: {first} of {self.size} slots are taken")
        self.lengths += [length] * rows
        self._make_room(length)
        if layers is None:
            return
        if self._cache is None:
            self._cache = DynamicCache(config=self._engine.config)
            self._cache.layers = [SlotLayer(self.size, k, v, self._capacity) for k, v in layers]
        for layer, (keys, values) in zip(self._cache.layers, layers, strict=True):
            layer.put(first, rows, keys, values)

    def close_up(self, gone: Sequence[int]) -> list[int]:
        """Free some slots; the last rows move into them.

        Returns:
            For each remaining slot the slot where its row was before.
        """
        keep = len(self.lengths) - len(gone)
        holes = sorted(slot for slot in gone if slot < keep)
        left = set(gone)
        movers = [slot for slot in range(keep, len(self.lengths)) if slot not in left]
        order = list(range(keep))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        self.lengths = [self.lengths[slot] for slot in order]
        if self._cache is not None and movers:
            for layer in self._cache.layers:
                layer.move(movers, holes, self.width)
        return order

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; logits (rows, V) of the next."""
        width, lengths = self.width, torch.tensor(self.lengths, device=self._engine.device)
        self._make_room(width + 1)
        hidden = any(n < width for n in self.lengths)
        mask = (torch.arange(width + 1, device=lengths.device) <= lengths[:, None]).long() if hidden else None
        for layer in self._cache.layers:
            layer.show(width, lengths)
        logits = self._engine.forward(
            [[token] for token in tokens],
            self._cache,
            keep=1,
            attention_mask=mask,
            position_ids=lengths[:, None],
        )
        self.lengths = [n + 1 for n in self.lengths]
        return logits[:, -1]

    def skip(self) -> None:
        """Count a token of each row where no logits are needed: nothing is computed, what was stored is dropped."""
        self._cache = None
        self._make_room(self.width + 1)
        self.lengths = [n + 1 for n in self.lengths]

    def _make_room(self, width: int) -> None:
        if width <= self._capacity:
            return
        self._capacity = -(-width // GROWTH) * GROWTH
        if self._cache is not None:
            for layer in self._cache.layers:
                layer.resize(self.size, self._capacity)


class SlotLayer(DynamicLayer):
    """One layer's keys and values, (slots, heads, capacity, head_dim) each, of which a pass sees the beginning."""

    def __init__(self, slots: int, keys: Tensor, values: Tensor, capacity: int) -> None:
        """`keys`, `values`: of any sequence, for their shape alone."""
        super().__init__()
        self.lazy_initialization(keys, values)
        self._buffers = [_zeros(t, slots, capacity) for t in (keys, values)]
        self._width = 0

    def show(self, width: int, lengths: Tensor) -> None:
        """Before a pass: how far the longest row reaches, and where each row (rows,) goes on."""
        self._width, self._rows, self._ends = width, torch.arange(len(lengths), device=lengths.device), lengths

    def get_seq_length(self) -> int:
        """Return the number of positions that the longest row holds, as transformers asks for it."""
        return self._width

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one position behind each row; returns what the pass may look at, up to the mask."""
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[self._rows, :, self._ends] = new[:, :, 0]
        keys, values = (buffer[: len(self._rows), :, : self._width + 1] for buffer in self._buffers)
        return keys, values

    def put(self, first: int, rows: int, keys: Tensor, values: Tensor) -> None:
        """Write the keys and values (rows, heads, T, head_dim) of new rows into the slots from `first` on."""
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[first : first + rows, :, : new.shape[-2]] = new

    def move(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Copy the first `width` positions of the slots `sources` into the slots `targets`."""
        for buffer in self._buffers:
            for source, target in zip(sources, targets, strict=True):
                buffer[target, :, :width] = buffer[source, :, :width]

    def row(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values (1, heads, length, head_dim) of one slot."""
        keys, values = (buffer[slot : slot + 1, :, :length].clone() for buffer in self._buffers)
        return keys, values

    def resize(self, slots: int, capacity: int) -> None:
        """Have so many slots with room for `capacity` positions each; what fits of the old ones stays."""
        for i, old in enumerate(self._buffers):
            kept = old[:slots]
            self._buffers[i] = _zeros(old, slots, capacity)
            self._buffers[i][: len(kept), :, : old.shape[-2]] = kept


def _zeros(like: Tensor, rows: int, capacity: int) -> Tensor:
    """Zeros: memory as it comes may hold NaN, which no mask hides."""
    _, heads, _, dim = like.shape
    return torch.zeros((rows, heads, capacity, dim), dtype=like.dtype, device=like.device)
