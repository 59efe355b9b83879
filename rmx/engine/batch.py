"""Many continuations of one prefix as one batch: one prefill, finished rows dropped at once."""

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from rmx.engine.engine import Engine, base_network
from rmx.engine.kv_cache import preallocated
from rmx.engine.prefix_cache import plain_cache, select_rows

Choose = Callable[[Tensor, Sequence[int], int], Tensor]  # logits (B, V), row numbers, step -> ids (B,)
Over = Callable[[int, int], bool]  # row number, token id -> this row is finished


def greedy(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def continue_batch(
    engine: Engine,
    prefix: Sequence[int],
    firsts: Sequence[int],
    *,
    max_new: int,
    over: Over,
    choose: Choose = greedy,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    reuse: bool = True,
) -> list[list[int]]:
    """Run `decode_steps` to its end, or until `cancelled` is true between two steps; return the rows so far."""
    steps = decode_steps(
        engine,
        prefix,
        firsts,
        max_new=max_new,
        over=over,
        choose=choose,
        adapter=adapter,
        reuse=reuse,
        cancelled=cancelled,
    )
    rows: list[list[int]] = [[] for _ in firsts]
    for so_far in steps:
        rows = so_far
        if cancelled():
            break
    return rows


@torch.inference_mode()
def decode_steps(
    engine: Engine,
    prefix: Sequence[int],
    firsts: Sequence[int],
    *,
    max_new: int,
    over: Over,
    choose: Choose = greedy,
    adapter: str | None = None,
    reuse: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
) -> Generator[list[list[int]]]:
    """Continue `prefix` once for each token of `firsts`, as one batch; row i starts with firsts[i].

    The caller holds the engine's turn and is inside `engine.using(adapter)`; between two steps others get theirs.

    Args:
        prefix: prompt and kept tokens.
        firsts: the first token of each row; at least one.
        max_new: tokens per row, the first one counted.
        over: called with each token of each row in order; True ends the row, that token included.
        choose: picks the next ids; must not depend on which other rows are still there.
        cancelled: shortens the waits in between; the caller asks it after each step.

    Yields:
        The rows so far, after each step: for each row its tokens, the first one included. It is one growing list.
        When the generator ends by itself, every row is over or has `max_new` tokens (or fills the context).
    """
    stream = engine.open(prefix, adapter=adapter, reuse=reuse)
    if stream.reuse.computed > 1:  # else all but the last token is in the prefix cache already
        stream.save()
    cache = preallocated(engine.expand(stream, 1), len(firsts))
    out: list[list[int]] = [[] for _ in firsts]
    live = list(range(len(firsts)))
    ids = list(firsts)
    room = min(max_new, engine.context - len(prefix))
    for step in range(1, room + 1):
        going = [
            i for i, (row, token) in enumerate(zip(live, ids, strict=True)) if _goes_on(out[row], token, row, over)
        ]
        yield out
        if not going or step == room:
            return
        engine.give_way(cancelled)
        if len(going) < len(live):
            select_rows(cache, torch.tensor(going, device=engine.device))
            live, ids = [live[i] for i in going], [ids[i] for i in going]
        logits = engine.forward([[t] for t in ids], cache, keep=1)[:, -1]
        ids = choose(logits, live, step).tolist()


def _goes_on(row_tokens: list[int], token: int, row: int, over: Over) -> bool:
    row_tokens.append(token)
    return not over(row, token)


@torch.inference_mode()
def continue_prefixes(
    engine: Engine,
    ids: Sequence[int],
    lengths: Sequence[int],
    given: Sequence[int],
    *,
    max_new: int,
    over: Over,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """Put the same `given` tokens behind several beginnings of one sequence and decode each greedily, as one batch.

    All rows read the cache of the whole sequence, each with what lies behind its own beginning hidden, and count
    their positions from there. Where that cannot be done (a sliding window, recurrent state, a network that takes no
    mask) the rows are decoded one by one. The caller holds the engine's turn and is inside `engine.using(adapter)`.

    Args:
        ids: the sequence. lengths: how much of it each row keeps, 1 or more.
        given: at least one token.
        max_new: tokens per row behind the given ones; less where the context ends.
        over: called with each new token of each row in order; True ends the row, that token included.
        cancelled: asked between steps; what is there so far is returned.

    Returns:
        For each row its new tokens; none where the context leaves no room.
    """
    room = [min(max_new, engine.context - n - len(given)) for n in lengths]
    fits = [i for i, r in enumerate(room) if r > 0]
    out: list[list[int]] = [[] for _ in lengths]
    if not fits:
        return out

    def goes_on(row: int, token: int) -> bool:
        return _goes_on(out[row], token, row, over) and len(out[row]) < room[row] and not cancelled()

    cache = engine.expand(engine.open(ids[: max(lengths[i] for i in fits)], adapter=adapter), 1)
    if not (plain_cache(cache) and takes_mask(engine)):
        for row in fits:
            single = engine.open([*ids[: lengths[row]], *given], adapter=adapter)
            while goes_on(row, token := int(single.logits.argmax())):
                single.feed(token)
        return out
    batch = _Masked(engine, preallocated(cache, len(fits)), [lengths[i] for i in fits])
    live, logits = fits, batch.feed([given] * len(fits))
    while True:
        tokens = logits.argmax(-1).tolist()
        going = [i for i, (row, token) in enumerate(zip(live, tokens, strict=True)) if goes_on(row, token)]
        if not going:
            return out
        engine.give_way(cancelled)
        if len(going) < len(live):
            batch.select(going)
        live = [live[i] for i in going]
        logits = batch.feed([[tokens[i]] for i in going])


class _Masked:
    """Rows that share a cache and see different beginnings of it."""

    def __init__(self, engine: Engine, cache: Any, lengths: Sequence[int]) -> None:
        self._engine, self._cache = engine, cache
        self._next = torch.tensor(lengths, device=engine.device)[:, None]  # (rows, 1) position of the next token
        self._mask = (torch.arange(max(lengths), device=engine.device) < self._next).long()  # (rows, cached)

    def feed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append the same number of tokens to each row; logits (rows, V) of the next."""
        n = len(tokens[0])
        self._mask = torch.nn.functional.pad(self._mask, (0, n), value=1)
        position_ids = self._next + torch.arange(n, device=self._engine.device)
        self._next = self._next + n
        logits = self._engine.forward(tokens, self._cache, keep=1, attention_mask=self._mask, position_ids=position_ids)
        return logits[:, -1]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        kept = torch.tensor(rows, device=self._engine.device)
        select_rows(self._cache, kept)
        self._mask, self._next = self._mask[kept], self._next[kept]


def takes_mask(engine: Engine) -> bool:
    """Whether the network takes an attention mask."""
    # PEFT's wrapper passes on what it is given and names none of it
    return "attention_mask" in inspect.signature(base_network(engine.model).forward).parameters


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
