"""Many sequences side by side in one cache of static shape: one pass over the weights gives each its next token.

A row is a slot: its keys and values, and the position at which it goes on. Rows come, go and differ in length; a mask
hides what lies behind a row's own position, and in layers with a sliding window what has left the window. Slots and
the width of a pass come in buckets, so that few shapes occur. What a row computes depends on the bucket and on nothing
that the other rows hold, to the last bit.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rmx.engine.acceleration import CapturedPass
from rmx.engine.engine import Engine, RowAdapters, base_network
from rmx.records import Step

WIDTH = 64  # positions by which the width of a pass grows
KINDS = ("full_attention", "sliding_attention")  # of layers, by transformers' names

Layers = Sequence[tuple[Tensor, Tensor]]  # keys and values of one sequence, each (1, heads, T, head_dim)


def bucket_of(rows: int) -> int:
    """Slots for so many rows: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, …"""
    power = 1 << (rows - 1).bit_length()
    return 3 * power // 4 if power >= 4 and rows <= 3 * power // 4 else power


def wide(positions: int) -> int:
    """Width of a pass that looks at so many positions."""
    return -(-positions // WIDTH) * WIDTH


class Arena:
    """The rows of one engine that are decoded together.

    Raises:
        ValueError: the engine's network cannot have rows of different lengths, see `takes_rows`.
    """

    def __init__(self, engine: Engine) -> None:
        if not takes_rows(engine):
            raise ValueError("this network cannot decode rows of different lengths together")
        self._engine = engine
        self.lengths: list[int | None] = []  # of each slot, in tokens; None: it is free
        self._cache: Any = None
        self._capacity = 0
        self._made = 0  # how often its tensors were made anew
        self.adapters = RowAdapters((None,))  # of its rows; the caller switches them on before a pass
        self._pass = CapturedPass(engine.recorder)

    @property
    def slots(self) -> int:
        """Rows of a pass, free slots included."""
        return len(self.lengths)

    @property
    def live(self) -> int:
        """Slots that hold a row."""
        return sum(length is not None for length in self.lengths)

    @property
    def bucket(self) -> tuple[int, int]:
        """The shape on which the rounding of every row depends: slots and the width of a pass of one token."""
        return self.slots, wide(self._longest + 1)

    @property
    def replayed(self) -> bool:
        """Whether the latest pass was replayed."""
        return self._pass.replayed

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(layer.nbytes for layer in self._cache.layers) if self._cache else 0

    def put(self, length: int, layers: Layers) -> int:
        """Copy a sequence of `length` tokens into a free slot, which is returned.

        Args:
            layers: keys and values of each layer, (1, heads, T, head_dim): of the first T tokens, which are `length` or
                more, or of the last T where a window has dropped the others; not looked at where the length is 0.
        """
        if None not in self.lengths:
            self.reserve(self.slots + 1)
        slot = self.lengths.index(None)
        self.lengths[slot] = length
        self._widen(self._longest + 1)
        if length:
            for layer, (keys, values) in zip(self._cache.layers, layers, strict=True):
                layer.put(slot, length, keys, values)
        return slot

    def reserve(self, rows: int) -> None:
        """Have slots for so many rows at least."""
        slots = self._slots_for(rows)
        if slots <= self.slots:
            return
        self.lengths += [None] * (slots - self.slots)
        if self._cache is None:
            self._capacity = WIDTH
            self._cache = DynamicCache(config=self._engine.config)
            windows = [getattr(layer, "sliding_window", None) for layer in self._cache.layers]
            self._cache.layers = [SlotLayer(slots, self._capacity, window) for window in windows]
        self._resize(slots)

    def take(self, slot: int) -> Any:
        """Free a slot; returns an ordinary cache of its row."""
        length = self.lengths[slot]
        assert length is not None
        self.lengths[slot] = None
        return self._engine.cache_of([layer.row(slot, length) for layer in self._cache.layers], length)

    def shrink(self) -> dict[int, int]:
        """Have no more slots than are needed; returns where rows have moved, old slot -> new slot."""
        live = [slot for slot, length in enumerate(self.lengths) if length is not None]
        if not live:
            self.lengths, self._cache, self._capacity = [], None, 0
        slots = self._slots_for(len(live)) if live else 0
        if slots == self.slots or not live:
            return {}
        free = [slot for slot in range(slots) if self.lengths[slot] is None]
        moves = dict(zip([slot for slot in live if slot >= slots], free, strict=False))
        for old, new in moves.items():
            self.lengths[new] = self.lengths[old]
        self.lengths = self.lengths[:slots]
        for layer in self._cache.layers:
            layer.move(list(moves), list(moves.values()))
        self._resize(slots)
        return moves

    @torch.inference_mode()
    def feed(self, tokens: Mapping[int, Sequence[int]]) -> Tensor:
        """Append tokens to some rows, slot -> tokens; returns logits (slots, V) of the next of theirs.

        Rows with fewer tokens than others are padded in front. What a row is padded with is written behind its end,
        where its next token will be written; so is what is computed of a row that sits the pass out.
        """
        device, n = self._engine.device, max(map(len, tokens.values()))
        ids, positions = [], []
        for slot, length in enumerate(self.lengths):
            new, start = tokens.get(slot, ()), length or 0
            end, short = start + len(new), n - len(new)
            ids.append([0] * short + list(new))
            positions.append([end] * short + list(range(start, end)))
            if new:
                self.lengths[slot] = end
        width = wide(max(map(max, positions)) + 1)
        self._widen(width)
        # Adapters that are off for a while are then what they were. Where weights change the prefixes are cleared.
        key = self.slots, n, width, self._made, self.adapters.keys, self._engine.prefixes.cleared
        inputs = torch.tensor(ids, device=device), torch.tensor(positions, device=device)
        return self._pass(key, inputs, partial(self._compute, width))

    def _compute(self, width: int, ids: Tensor, positions: Tensor) -> Tensor:
        for layer in self._cache.layers:
            layer.show(width, positions)
        return row_step(self._engine, ids, positions, torch.arange(width, device=ids.device), self._cache)

    def _slots_for(self, rows: int) -> int:
        """Few sizes where passes are recorded; otherwise no slot is computed for nothing."""
        return rows if self._engine.recorder is None else bucket_of(rows)

    @property
    def _longest(self) -> int:
        return max((length for length in self.lengths if length is not None), default=0)

    def _widen(self, positions: int) -> None:
        if positions > self._capacity:
            self._capacity = wide(positions)
            self._resize(self.slots)

    def _resize(self, slots: int) -> None:
        self._made += 1
        for layer in self._cache.layers:
            layer.resize(slots, self._capacity)


class SlotLayer(DynamicLayer):
    """One layer's keys and values, (slots, heads, capacity, head_dim) each, of which a pass sees the beginning.

    Args:
        window: positions that a token of this layer sees, itself counted; None: all.
    """

    def __init__(self, slots: int, capacity: int, window: int | None) -> None:
        super().__init__()
        self._slots, self._capacity, self._width, self.window = slots, capacity, 0, window
        self._buffers: list[Tensor] = []  # none before anything is written

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def show(self, width: int, positions: Tensor) -> None:
        """Before a pass: how far it looks, and where each row's new tokens (slots, n) are written."""
        self._width, self._positions = width, positions
        self._rows = torch.arange(len(positions), device=positions.device)[:, None]

    def get_seq_length(self) -> int:
        """Return the number of positions before the new ones, as transformers asks for it."""
        return self._width - self._positions.shape[1]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new positions of each row; returns what the pass may look at, up to the mask."""
        self._begin(key_states, value_states)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[self._rows, :, self._positions] = new.transpose(1, 2)
        keys, values = (buffer[: len(self._rows), :, : self._width] for buffer in self._buffers)
        return keys, values

    def put(self, slot: int, length: int, keys: Tensor, values: Tensor) -> None:
        """Write a sequence of `length` tokens into a slot, see `Arena.put`."""
        self._begin(keys, values)
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            first = max(0, length - new.shape[-2])
            buffer[slot, :, first:length] = new[0, :, : length - first]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy the slots `sources` into the slots `targets`."""
        for buffer in self._buffers:
            for source, target in zip(sources, targets, strict=True):
                buffer[target] = buffer[source]

    def row(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values (1, heads, T, head_dim) of one slot, as far as they are still looked at."""
        first = 0 if self.window is None else max(0, length - self.window + 1)
        keys, values = (buffer[slot : slot + 1, :, first:length].clone() for buffer in self._buffers)
        return keys, values

    def resize(self, slots: int, capacity: int) -> None:
        """Have room for so many slots of `capacity` positions each; what fits of the old ones stays."""
        self._slots, self._capacity = slots, capacity
        for i, old in enumerate(self._buffers):
            if not slots <= old.shape[0] < 2 * slots or old.shape[2] != capacity:
                kept = old[:slots]
                self._buffers[i] = _zeros(old, slots, capacity)
                self._buffers[i][: len(kept), :, : old.shape[-2]] = kept

    def _begin(self, keys: Tensor, values: Tensor) -> None:
        """Make the buffers like the first keys and values that come."""
        if not self._buffers:
            self.lazy_initialization(keys, values)
            self._buffers = [_zeros(t, self._slots, self._capacity) for t in (keys, values)]


def _zeros(like: Tensor, rows: int, capacity: int) -> Tensor:
    """Zeros: memory as it comes may hold NaN, which no mask hides."""
    _, heads, _, dim = like.shape
    return torch.zeros((rows, heads, capacity, dim), dtype=like.dtype, device=like.device)


def row_step(engine: Engine, ids: Tensor, positions: Tensor, columns: Tensor, cache: Any) -> Tensor:
    """New tokens of each row through the network; no value is read on the way, so that it can be traced as one graph.

    Args:
        ids, positions: (slots, n), the new tokens and where they stand. columns: (width,), 0 … width - 1.

    Returns:
        Logits (slots, V) behind the last of them.
    """
    windows = dict.fromkeys(layer.window for layer in cache.layers)
    masks = {KINDS[window is not None]: _mask(engine, positions, columns, window) for window in windows}
    mask = masks if len(masks) > 1 else next(iter(masks.values()))
    return engine.forward(ids, cache, keep=1, attention_mask=mask, position_ids=positions)[:, -1]


def _mask(engine: Engine, positions: Tensor, columns: Tensor, window: int | None) -> Tensor:
    """(slots, 1, n, width): where a token may look, or what is added to its scores."""
    seen = columns <= positions[..., None]
    if window is not None:
        seen = seen & (columns > positions[..., None] - window)
    if engine.config._attn_implementation == "sdpa":
        return seen[:, None]
    dtype = engine.model.dtype
    bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return bias.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def windows_of(engine: Engine) -> dict[str, int | None]:
    """The kinds of attention layers of a network, by transformers' names, and how far they see; None: all the way."""
    layers = DynamicCache(config=engine.config).layers
    names: dict[type, str] = dict(zip((DynamicLayer, DynamicSlidingWindowLayer), KINDS, strict=True))
    return {names.get(type(layer), "other"): getattr(layer, "sliding_window", None) for layer in layers}


def step_of(engine: Engine) -> Step:
    """Return how the steps of an engine are computed."""
    if not takes_rows(engine):
        return "general"
    return "eager" if engine.recorder is None else "cuda graph"


def takes_rows(engine: Engine) -> bool:
    """Whether a network can decode rows of different lengths together: attention, mask, positions, one device."""
    network = base_network(engine.model)
    named = inspect.signature(network.forward).parameters
    places = getattr(engine.model, "hf_device_map", None) or {}
    windows = windows_of(engine)
    # A network with two kinds of layers takes a mask for each, if it takes any that was made for it.
    by_kind = len(windows) < 2 or "causal_mask_mapping" in inspect.getsource(sys.modules[type(network).__module__])
    able = windows.keys() <= {*KINDS} and bool(windows) and by_kind
    return able and "attention_mask" in named and "position_ids" in named and len(set(places.values())) < 2
