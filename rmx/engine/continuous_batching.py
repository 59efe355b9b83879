"""Samples of many prompts by the same steps: each prompt is read once, and a row that ends makes room for the next.

A sample depends on (seed, prompt, sample number, position) and on nothing else, as far as floating point allows: a pass
of another shape rounds differently in the last digit, and where a draw falls on the edge between two tokens that makes
it the other one. How often: rarely under a nucleus (3 in a million tokens of SmolLM2 at temperature 0.6, top-p 0.95),
often where thousands of tokens share the mass (1 in a thousand at temperature 1; 1.5 in a million of mini's). So may
samples differ that are made after a break from those that would have been made without it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rmx.arguments import Sampling
from rmx.engine import decoding_memory
from rmx.engine.arena import bucket_of
from rmx.engine.decoder import Decoder, Decoding, Prefix
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import TokenFigures, prompt_key, uniform
from rmx.records import Stop

ROUND_SECONDS = 0.25  # the engine is held this long before others get their turn

# prompt number, sample number, token -> what the sample is over by; True: its answer
Over = Callable[[int, int, int], Stop | bool | None]


def not_over(prompt: int, sample: int, token: int) -> None:
    """No ending but the end token and the limits."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt and the numbers of the samples that are wanted of it, as one adapter or the base writes them."""

    prompt_ids: tuple[int, ...]
    numbers: Sequence[int]
    sampling: Sampling
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished completion; every figure comes from the logits that chose the token."""

    prompt: int  # place among the requests
    number: int  # among the samples of its prompt
    ids: tuple[int, ...]  # the end token included
    entropies: tuple[float, ...]  # nats, temperature 1
    logps: tuple[float, ...]  # of the chosen tokens, temperature 1
    stop: Stop


def sample_continuously(
    engine: Engine,
    requests: Sequence[SampleRequest],
    *,
    stop_ids: frozenset[int],
    rows: int = 64,
    over: Over = not_over,
    cancelled: Callable[[], bool] = never,
) -> Iterator[list[Sample]]:
    """Make every sample that is asked for; the engine's turn is taken for each round, and given back in between.

    Memory for all its rows is taken from the process's budget before the first round and held until the last. Nothing
    that others computed is reused: it may round otherwise. Prompts begin in their order, samples of one in theirs.

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
    rows = min(rows, sum(len(request.numbers) for request in requests))
    longest = longest_of(requests)
    needed = bucket_of(rows) * decoding_memory.row_bytes(engine, longest) if rows else 0
    ended: list[Sample] = []
    waiting = _wanted(engine, requests, stop_ids, over, ended)
    decoder = Decoder(engine)
    with decoding_memory.budget_of(engine.device).held(needed, cancelled) as mine:
        more = mine and rows > 0
        while more and not cancelled():
            with engine.queue.when_free(cancelled) as mine:
                if not mine:
                    return
                with decoder.rows:
                    more = _round(decoder, waiting, rows, cancelled)
            yield ended.copy()
            ended.clear()


def longest_of(requests: Sequence[SampleRequest]) -> int:
    """Most tokens that a sample may have, its prompt included."""
    return max((len(r.prompt_ids) + r.sampling.max_new_tokens for r in requests), default=0)


def _round(decoder: Decoder, waiting: Iterator[Decoding], rows: int, cancelled: Callable[[], bool]) -> bool:
    """Decode for a while; whether more is to be done. The caller holds the engine's turn."""
    began = time.monotonic()
    while decoder.fill(waiting, rows) and not cancelled():
        decoder.step(cancelled)
        if time.monotonic() - began >= ROUND_SECONDS:
            return True
    return False


def _wanted(
    engine: Engine,
    requests: Sequence[SampleRequest],
    stop_ids: frozenset[int],
    over: Over,
    ended: list[Sample],
) -> Iterator[Decoding]:
    """The streams of all samples, which are put into `ended` as they end."""
    for i, request in enumerate(requests):
        prefix, key = Prefix(request.prompt_ids, request.adapter, reuse=False), prompt_key(request.prompt_ids)
        sampling = request.sampling
        room = min(sampling.max_new_tokens, engine.context - len(request.prompt_ids))
        for number in request.numbers:
            row = _Row(i, number, key, room, sampling, stop_ids, over, ended)
            yield Decoding(prefix, sampling, row.take, draw=row.draw, top=1)


@dataclass(slots=True)
class _Row:
    """A sample under way."""

    prompt: int
    number: int
    key: bytes  # of its draws
    room: int  # tokens it may have
    sampling: Sampling
    stop_ids: frozenset[int]
    over: Over
    ended: list[Sample]
    tokens: list[TokenFigures] = field(default_factory=list)

    def draw(self) -> float:
        return uniform(self.sampling.seed, self.key, self.number, len(self.tokens))

    def take(self, figures: TokenFigures) -> bool:
        self.tokens.append(figures)
        stop = self._stop(figures.token_id)
        if stop is not None:
            ids, entropies, logps = zip(*((t.token_id, t.entropy, t.logp) for t in self.tokens), strict=True)
            self.ended.append(Sample(self.prompt, self.number, ids, entropies, logps, stop))
        return stop is not None

    def _stop(self, token: int) -> Stop | None:
        ended = self.over(self.prompt, self.number, token)
        if token in self.stop_ids:
            return "eos"
        if ended:
            return "answer" if ended is True else ended
        if len(self.tokens) == self.room:
            return "length" if self.room == self.sampling.max_new_tokens else "context"
        return None
