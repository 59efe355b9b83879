"""Many sequences side by side in one cache of static shape: one pass over the weights gives each its next token.

A row is a slot: its keys and values, and the position at which it goes on. Rows come, go and differ in length; a mask
hides what lies behind a row's own position. Slots and the width of a pass come in buckets, so that few shapes occur.
What a row computes depends on the bucket and on nothing that the other rows hold, to the last bit.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rmx.engine.engine import Engine, base_network
from rmx.engine.kv_cache import Layers, SlotLayer
from rmx.engine.prefix_cache import plain_cache

WIDTH = 256  # positions by which the width of a pass grows


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

    @property
    def slots(self) -> int:
        """Rows of a pass, free slots included."""
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Positions that a pass looks at."""
        longest = max((length for length in self.lengths if length is not None), default=0)
        return -(-(longest + 1) // WIDTH) * WIDTH

    @property
    def bucket(self) -> tuple[int, int]:
        """The shape on which the rounding of every row depends: slots and width."""
        return self.slots, self.width

    def put(self, length: int, layers: Layers) -> int:
        """Copy a sequence of `length` tokens into a free slot, which is returned.

        Args:
            layers: keys and values of each layer, (1, heads, length or more, head_dim).
        """
        if None not in self.lengths:
            self._resize(max(2, 2 * self.slots), layers)
        slot = self.lengths.index(None)
        self.lengths[slot] = length
        self._widen()
        for layer, (keys, values) in zip(self._cache.layers, layers, strict=True):
            layer.put(slot, 1, keys[:, :, :length], values[:, :, :length])
        return slot

    def take(self, slot: int) -> Any:
        """Free a slot; returns an ordinary cache of its row."""
        length = self.lengths[slot]
        assert length is not None
        self.lengths[slot] = None
        return self._engine.cache_of([layer.row(slot, length) for layer in self._cache.layers], length)

    def shrink(self) -> dict[int, int]:
        """Halve the slots where most of them are free; returns where rows have moved, old slot -> new slot."""
        live = [slot for slot, length in enumerate(self.lengths) if length is not None]
        if not live:
            self.lengths, self._cache, self._capacity = [], None, 0
        if len(live) > 3 * self.slots // 8:
            return {}
        half = self.slots // 2
        free = [slot for slot in range(half) if self.lengths[slot] is None]
        moves = dict(zip([slot for slot in live if slot >= half], free, strict=False))
        for old, new in moves.items():
            self.lengths[new] = self.lengths[old]
        self.lengths = self.lengths[:half]
        for layer in self._cache.layers if half else ():
            layer.move(list(moves), list(moves.values()), self.width)
            layer.resize(half, self._capacity)
        return moves

    @torch.inference_mode()
    def feed(self, tokens: dict[int, int]) -> Tensor:
        """Append a token to some rows, slot -> token; logits (slots, V), of which theirs are of use."""
        device = self._engine.device
        positions = torch.tensor([length or 0 for length in self.lengths], device=device)
        ids = torch.tensor([[tokens.get(slot, 0)] for slot in range(self.slots)], device=device)
        self._widen()
        width = self.width
        for layer in self._cache.layers:
            layer.show(width - 1, positions)
        # A row that sits this pass out writes behind its end, where its next token will be written.
        logits = row_step(self._engine, ids, positions[:, None], torch.arange(width, device=device), self._cache)
        for slot in tokens:
            length = self.lengths[slot]
            assert length is not None
            self.lengths[slot] = length + 1
        return logits

    def _resize(self, slots: int, layers: Layers) -> None:
        self.lengths += [None] * (slots - self.slots)
        if self._cache is None:
            self._capacity = WIDTH
            self._cache = DynamicCache(config=self._engine.config)
            self._cache.layers = [SlotLayer(slots, k, v, self._capacity) for k, v in layers]
        for layer in self._cache.layers:
            layer.resize(slots, self._capacity)

    def _widen(self) -> None:
        if self.width > self._capacity:
            self._capacity = self.width
            for layer in self._cache.layers:
                layer.resize(self.slots, self._capacity)


def row_step(engine: Engine, ids: Tensor, positions: Tensor, columns: Tensor, cache: Any) -> Tensor:
    """One token of each row through the network; no value is read on the way, so that it can be traced as one graph.

    Args:
        ids: (slots, 1). positions: (slots, 1), where each row goes on. columns: (width,), 0 … width - 1.

    Returns:
        Logits (slots, V).
    """
    seen = (columns <= positions)[:, None, None, :]
    if engine.config._attn_implementation != "sdpa":
        dtype = engine.model.dtype
        seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
    return engine.forward(ids, cache, keep=1, attention_mask=seen, position_ids=positions)[:, -1]


def takes_rows(engine: Engine) -> bool:
    """Whether a network can decode rows of different lengths together: full attention, mask, positions, one device."""
    named = inspect.signature(base_network(engine.model).forward).parameters
    places = getattr(engine.model, "hf_device_map", None) or {}
    plain = plain_cache(DynamicCache(config=engine.config))
    return plain and "attention_mask" in named and "position_ids" in named and len(set(places.values())) < 2
