"""Different prompts as one batch: shorter ones stand to the right, and the padding before them is hidden."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from rmx.engine.engine import Engine, select_rows


class PaddedBatch:
    """Rows with prompts of their own that are decoded together. `logits` (rows, V) decide the next tokens.

    The caller holds the engine's turn and is inside `engine.using(adapter)`. The prefix cache has no part in it.
    """

    def __init__(self, engine: Engine, prompts: Sequence[Sequence[int]]) -> None:
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=engine.device)
        lengths = torch.tensor([[len(p)] for p in prompts], device=engine.device)
        places = torch.arange(width, device=engine.device) - (width - lengths)  # (rows, T), negative on padding
        self._engine, self._cache = engine, DynamicCache(config=engine.config)
        self._mask = (places >= 0).long()
        self._next = lengths  # (rows, 1) position of the next token
        self.room = engine.context - width  # tokens that still fit behind the longest prompt
        self.logits = self._forward(ids, places.clamp_min(0))

    def feed(self, tokens: Tensor) -> None:
        """Append one token (rows,) to each row."""
        self._mask = pad(self._mask, (0, 1), value=1)
        self.logits = self._forward(tokens[:, None], self._next)
        self._next = self._next + 1
        self.room -= 1

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; their logits stay."""
        kept = torch.tensor(rows, device=self._engine.device)
        select_rows(self._cache, kept)
        self._mask, self._next, self.logits = self._mask[kept], self._next[kept], self.logits[kept]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        out = self._engine.forward(ids, self._cache, keep=1, attention_mask=self._mask, position_ids=positions)
        return out[:, -1]
