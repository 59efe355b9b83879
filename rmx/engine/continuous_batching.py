"""Samples of many prompts from one batch: each prompt is prefilled once, and a row that ends makes room for the next.

A sample depends on (seed, prompt, sample number, position) and on nothing else, as far as floating point allows: a
batch of another shape rounds differently in the last digit, and where a draw falls on the edge between two tokens that
makes it the other one. How often: rarely under a nucleus (3 in a million tokens of SmolLM2 at temperature 0.6, top-p
0.95), often where thousands of tokens share the mass (1 in a thousand at temperature 1; 1.5 in a million of mini's).
What is interrupted is therefore gone on with in the very same shapes: samples that exist already keep their place in
the batch as ghosts, by their lengths alone. Stretches where all rows are ghosts are passed over.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rmx.config import Sampling
from rmx.engine import decoding_memory
from rmx.engine.batch import takes_mask
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.engine.kv_cache import Layers, Slots, preallocated
from rmx.engine.prefix_cache import plain_cache, select_rows
from rmx.engine.token_draws import draw_rows, prompt_key, uniform
from rmx.records import Stop

ROUND_SECONDS = 0.25  # the engine is held this long before others get their turn

# prompt number, sample number, token -> what the sample is over by; True: its answer
Over = Callable[[int, int, int], Stop | bool | None]


def never(prompt: int, sample: int, token: int) -> None:
    """No ending but the end token and the limits."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt and the samples that are wanted of it."""

    prompt_ids: tuple[int, ...]
    made: tuple[int | None, ...]  # for each sample: None where it is to be made, else how many tokens it has already


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished completion; every figure comes from the logits that chose the token."""

    prompt: int  # place among the asks
    number: int  # among the samples of its prompt
    ids: tuple[int, ...]  # the end token included
    entropies: tuple[float, ...]  # nats, temperature 1
    logps: tuple[float, ...]  # of the chosen tokens, temperature 1
    stop: Stop


@dataclass(slots=True)
class _SampledRow:
    """A sample under way."""

    prompt: int
    number: int
    key: bytes  # of its draws
    room: int  # tokens it may have
    made: int | None  # length of a ghost
    length: int = 0
    ids: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    @property
    def ghost(self) -> bool:
        """Whether the row is replayed: its tokens are known, and it only keeps the batch's shape."""
        return self.made is not None


def sample_continuously(
    engine: Engine,
    asks: Sequence[SampleRequest],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    rows: int = 64,
    over: Over = never,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[list[Sample]]:
    """Make every sample that is asked for; the engine's turn is taken for each round, and given back in between.

    Memory for all its rows is taken from the process's budget before the first round and held until the last.

    Prompts begin in their order, samples of one prompt in theirs. Where rows of different lengths cannot share a batch
    (a sliding window, recurrent state, a network that takes no mask) each prompt has a batch of its own.

    Args:
        stop_ids: tokens that end a sample; they belong to it.
        rows: samples decoded at once, at most.
        over: called with each token of each sample in order; returns what ends it, that token included, or None.
        cancelled: asked between steps; ends the iteration.

    Yields:
        After each round the samples that ended in it, often none.

    Raises:
        PromptError: a prompt that this model cannot take.
    """
    rows = min(rows, sum(len(ask.made) for ask in asks))
    longest = max((len(ask.prompt_ids) for ask in asks), default=0) + sampling.max_new_tokens
    needed = rows * decoding_memory.row_bytes(engine, longest)
    with decoding_memory.budget_of(engine.device).held(needed, cancelled) as mine:
        if mine:
            loop = Loop(engine, asks, sampling, stop_ids, rows, over, adapter)
            yield from _rounds(loop, engine, adapter, cancelled)


def _rounds(loop: "Loop", engine: Engine, adapter: str | None, cancelled: Callable[[], bool]) -> Iterator[list[Sample]]:
    while not loop.done and not cancelled():
        with engine.queue.when_free(cancelled) as mine:
            if not mine:
                return
            with engine.using(adapter):
                ended = loop.round(cancelled)
        yield ended


class Loop:
    """The batch, the rows in it and those that wait."""

    def __init__(
        self,
        engine: Engine,
        asks: Sequence[SampleRequest],
        sampling: Sampling,
        stop_ids: frozenset[int],
        rows: int,
        over: Over,
        adapter: str | None,
    ) -> None:
        self._engine, self._asks, self._sampling, self._adapter = engine, asks, sampling, adapter
        self._stop_ids, self._over = stop_ids, over
        masked = takes_mask(engine) and plain_cache(DynamicCache(config=engine.config))
        self._batch = _Ragged(engine, rows) if masked else _Even(engine, rows)
        self._waiting = deque(self._rows_of_all())
        self._live: list[_SampledRow] = []  # in the order of the batch
        self._next: list[int] = []  # the token that each of them is fed next
        self._prefilled: tuple[int, Tensor, Any] | None = None  # the last prompt: its number, logits (1, V), cache
        self._ended: list[Sample] = []

    @property
    def done(self) -> bool:
        """Whether nothing is left that anyone asked for."""
        return not any(not row.ghost for row in (*self._live, *self._waiting))

    @torch.inference_mode()
    def round(self, cancelled: Callable[[], bool]) -> list[Sample]:
        """Decode for a while; returns the samples that ended. The caller holds the engine's turn."""
        began = time.monotonic()
        while not self.done and not cancelled():
            self._admit(cancelled)
            if self._live:
                self._step()
            if time.monotonic() - began >= ROUND_SECONDS:
                break
        ended, self._ended = self._ended, []
        return ended

    # -- rows that begin ------------------------------------------------------------------------------------------

    def _rows_of_all(self) -> Iterator[_SampledRow]:
        for i, ask in enumerate(self._asks):
            key = prompt_key(ask.prompt_ids)
            room = min(self._sampling.max_new_tokens, self._engine.context - len(ask.prompt_ids))
            for number, made in enumerate(ask.made):
                yield _SampledRow(i, number, key, room, made)

    def _admit(self, cancelled: Callable[[], bool]) -> None:
        """Begin waiting rows while there is room; a row that ends with its first token needs none."""
        while self._waiting and (free := self._batch.free(len(self._live))):
            self._begin([self._waiting.popleft() for _ in range(self._alike(free))])
            self._engine.give_way(cancelled)

    def _alike(self, most: int) -> int:
        """How many of the next rows, `most` at most, continue the same prompt."""
        first, n = self._waiting[0].prompt, 0
        for row in self._waiting:
            if n == most or row.prompt != first:
                break
            n += 1
        return n

    def _begin(self, rows: list[_SampledRow]) -> None:
        """Choose the first tokens of rows of one prompt and put them into the batch."""
        prompt, cache = rows[0].prompt, None
        tokens = [0] * len(rows)
        if any(not row.ghost for row in rows):
            logits, cache = self._prefill(prompt)
            tokens = self._choose(logits.expand(len(rows), -1), rows)
        staying = [i for i, token in enumerate(tokens) if not self._take(rows[i], token)]
        if staying:
            self._batch.put(len(self._asks[prompt].prompt_ids), len(staying), cache)
            self._live += [rows[i] for i in staying]
            self._next += [tokens[i] for i in staying]

    def _prefill(self, prompt: int) -> tuple[Tensor, Any]:
        """Logits (1, V) behind a prompt and its cache. What others computed is not reused: it may round otherwise."""
        if self._prefilled is None or self._prefilled[0] != prompt or not self._batch.keeps_prompts:
            stream = self._engine.open(self._asks[prompt].prompt_ids, adapter=self._adapter, reuse=False)
            self._prefilled = prompt, stream.logits[None], self._engine.expand(stream, 1)
        return self._prefilled[1:]

    # -- rows that go on ------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """One token for every row; those that end leave."""
        if all(row.ghost for row in self._live):
            self._batch.skip()
            tokens = [0] * len(self._live)
        else:
            tokens = self._choose(self._batch.feed(self._next), self._live)
        gone = [i for i, (row, token) in enumerate(zip(self._live, tokens, strict=True)) if self._take(row, token)]
        self._next = tokens
        if gone:
            order = self._batch.drop(gone)
            self._live = [self._live[i] for i in order]
            self._next = [tokens[i] for i in order]

    def _choose(self, logits: Tensor, rows: Sequence[_SampledRow]) -> list[int]:
        """The next token of each row, noted with its entropy and log-probability; one transfer for all of it."""
        found = capture(logits, 1)
        if self._sampling.greedy:
            ids = found.top_ids[:, 0]
        else:
            seed = self._sampling.seed
            u = [0.0 if row.ghost else uniform(seed, row.key, row.number, row.length) for row in rows]
            ids = draw_rows(logits, self._sampling.temperature, self._sampling.top_p, u)
        logp = logits.gather(-1, ids[:, None])[:, 0].float() - found.lse
        tokens, entropies, logps = torch.stack([ids.double(), found.entropy.double(), logp.double()]).tolist()
        for row, token, entropy, value in zip(rows, tokens, entropies, logps, strict=True):
            if not row.ghost:
                row.ids.append(int(token))
                row.entropies.append(entropy)
                row.logps.append(value)
        return [0 if row.ghost else int(token) for row, token in zip(rows, tokens, strict=True)]

    def _take(self, row: _SampledRow, token: int) -> bool:
        """Count a row's new token; True where the row ends with it."""
        row.length += 1
        if row.ghost:
            return row.length == row.made
        stop = self._stop(row, token)
        if stop is None:
            return False
        figures = tuple(row.ids), tuple(row.entropies), tuple(row.logps)
        self._ended.append(Sample(row.prompt, row.number, *figures, stop))
        return True

    def _stop(self, row: _SampledRow, token: int) -> Stop | None:
        ended = self._over(row.prompt, row.number, token)
        if token in self._stop_ids:
            return "eos"
        if ended:
            return "answer" if ended is True else ended
        if row.length == row.room:
            return "length" if row.room == self._sampling.max_new_tokens else "context"
        return None


# -- the two kinds of batch -------------------------------------------------------------------------------------------


class _Ragged:
    """Rows of any prompts together."""

    keeps_prompts = True

    def __init__(self, engine: Engine, rows: int) -> None:
        self._slots = Slots(engine, rows)

    def free(self, live: int) -> int:
        """How many rows of one prompt may begin beside the live ones."""
        return self._slots.size - live

    def put(self, length: int, rows: int, cache: Any) -> None:
        """Add rows behind a prompt; without its cache they are ghosts."""
        layers: Layers | None = None if cache is None else [(layer.keys, layer.values) for layer in cache.layers]
        self._slots.put(length, rows, layers)

    def feed(self, tokens: Sequence[int]) -> Tensor:
        return self._slots.feed(tokens)

    def skip(self) -> None:
        self._slots.skip()

    def drop(self, gone: Sequence[int]) -> list[int]:
        """Take rows out; returns for each remaining row where it was."""
        return self._slots.close_up(gone)


class _Even:
    """Rows of one prompt, which are equally long and need no mask."""

    keeps_prompts = False  # the rows write into the cache of their prompt

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self._most, self._rows, self._cache = engine, rows, 0, None

    def free(self, live: int) -> int:
        return 0 if live else self._most

    def put(self, length: int, rows: int, cache: Any) -> None:
        self._rows, self._cache = rows, None if cache is None else preallocated(cache, rows)

    def feed(self, tokens: Sequence[int]) -> Tensor:
        return self._engine.forward([[token] for token in tokens], self._cache, keep=1)[:, -1]

    def skip(self) -> None:
        pass

    def drop(self, gone: Sequence[int]) -> list[int]:
        left = set(gone)
        order = [i for i in range(self._rows) if i not in left]
        self._rows = len(order)
        if order and self._cache is not None:
            select_rows(self._cache, torch.tensor(order, device=self._engine.device))
        return order
