"""A cache layer with room to grow: appending a token writes into spare space instead of copying all that is there.

transformers' own layer concatenates at each step. For one row that is cheap; for 64 rows behind a long prefix it
costs as much as a good part of the network.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

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
