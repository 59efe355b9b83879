"""Long work: many continuations of one sequence, and samples of many prompts, each as rows of the same steps.

A sequence is read once, rows that end leave at once, and where many prompts wait a row that ends makes room for the
next.

A sample depends on (seed, prompt, sample number, position) and on nothing else, as far as floating point allows: a pass
of another shape rounds differently in the last digit, and where a draw falls on the edge between two tokens that makes
it the other one. How often: rarely under a nucleus (3 in a million tokens of SmolLM2 at temperature 0.6, top-p 0.95),
often where thousands of tokens share the mass (1 in a thousand at temperature 1; 1.5 in a million of mini's). So may
samples differ that are made after a break from those that would have been made without it.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rmx.arguments import Sampling
from rmx.engine import decoding_memory
from rmx.engine.arena import bucket_of
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import never
from rmx.engine.scheduler import Decoder, Decoding, Prefix, decode
from rmx.engine.token_draws import TokenFigures, prompt_key, uniform
from rmx.records import Stop

GREEDY = Sampling()
Over = Callable[[int, int], bool]  # row number, token id -> this row is finished
Draw = Callable[[int, int], float]  # row number, place of the token in its row -> uniform number


def continue_batch(
    engine: Engine,
    prefix: Sequence[int],
    given: Sequence[Sequence[int]],
    *,
    max_new: int,
    over: Over,
    sampling: Sampling = GREEDY,
    draw: Draw | None = None,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
    reuse: bool = True,
) -> list[list[int]]:
    """Run `decode_steps` to its end, or until `cancelled` is true between two steps; return the rows so far."""
    steps = decode_steps(
        engine, prefix, given, max_new=max_new, over=over, sampling=sampling, draw=draw, adapter=adapter, reuse=reuse,
        cancelled=cancelled,
    )  # fmt: skip
    rows: list[list[int]] = [[] for _ in given]
    for so_far in steps:
        rows = so_far
        if cancelled():
            break
    return rows


def decode_steps(
    engine: Engine,
    prefix: Sequence[int],
    given: Sequence[Sequence[int]],
    *,
    max_new: int,
    over: Over,
    sampling: Sampling = GREEDY,
    draw: Draw | None = None,
    seen: Callable[[int, int, TokenFigures], None] | None = None,
    adapter: str | None = None,
    reuse: bool = True,
    cancelled: Callable[[], bool] = never,
) -> Generator[list[list[int]]]:
    """Continue `prefix` once for each of `given`, row by row in the same steps; row i starts with the tokens given[i].

    The caller holds the engine's turn; between two steps others get theirs.

    Args:
        prefix: prompt and kept tokens.
        given: the first token of each row, or () where the model chooses it too.
        max_new: tokens per row, the given one counted.
        over: called with each token of each row in order; True ends the row, that token included.
        draw: of rows that are sampled.
        seen: called with each token that was chosen, as (row, place in it, token), before `over`.
        cancelled: shortens the waits in between; the caller asks it after each step.

    Yields:
        The rows so far, after each step: for each row its tokens, the given one included. It is one growing list.
        When the generator ends by itself, every row is over or has `max_new` tokens (or fills the context).
    """
    out = [list(tokens) for tokens in given]
    room = min(max_new, engine.context - len(prefix))
    read = Prefix(prefix, adapter, reuse, save=reuse)

    def take(row: int, figures: TokenFigures) -> bool:
        if seen is not None:
            seen(row, len(out[row]), figures)
        out[row].append(figures.token_id)
        return over(row, figures.token_id) or len(out[row]) >= room

    rows = [
        Decoding(
            read,
            sampling,
            lambda figures, i=i: take(i, figures),  # type: ignore[misc]
            draw=lambda i=i: draw(i, len(out[i])) if draw else 0.0,  # type: ignore[misc]
            given=tokens,
            top=1 if seen is None else Decoding.top,
        )
        for i, tokens in enumerate(given)
        if len(tokens) < room and not any(over(i, token) for token in tokens)
    ]
    yield out
    for _ in decode(engine, rows, cancelled=cancelled):
        yield out


def continue_prefixes(
    engine: Engine,
    ids: Sequence[int],
    lengths: Sequence[int],
    given: Sequence[int],
    *,
    max_new: int,
    over: Over,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> list[list[int]]:
    """Put the same `given` tokens behind several beginnings of one sequence and decode each greedily.

    The sequence is read once; where its cache cannot be cropped (a full window, recurrent state), each beginning is
    read anew. The caller holds the engine's turn.

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
    longest = max(lengths[i] for i in fits)
    crops = engine.crops(longest)
    whole = Prefix(ids[:longest], adapter)

    def take(row: int, figures: TokenFigures) -> bool:
        out[row].append(figures.token_id)
        return over(row, figures.token_id) or len(out[row]) >= room[row]

    rows = [
        Decoding(
            whole if crops else Prefix([*ids[: lengths[i]], *given], adapter),
            GREEDY,
            lambda figures, i=i: take(i, figures),  # type: ignore[misc]
            cancelled=cancelled,
            given=given if crops else (),
            keep=lengths[i] if crops else None,
            top=1,
        )
        for i in fits
    ]
    for _ in decode(engine, rows, cancelled=cancelled):
        pass
    return out


def greedy_rows(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    take: Callable[[int, int], bool],
    *,
    max_new: int,
    rows: int,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> None:
    """Complete prompts greedily, `rows` of them at once; nothing is reused or kept. The caller holds the engine's turn.

    Args:
        take: called with each token, as (prompt, token); True ends the completion, that token included.
        max_new: tokens of a completion at most, 1 or more; less where the context ends.
    """
    sampling = replace(GREEDY, max_new_tokens=max_new)
    made = [0] * len(prompts)

    def took(i: int, figures: TokenFigures) -> bool:
        made[i] += 1
        return take(i, figures.token_id) or made[i] >= min(max_new, engine.context - len(prompts[i]))

    wanted = (
        Decoding(
            Prefix(prompt, adapter, reuse=False),
            sampling,
            lambda figures, i=i: took(i, figures),  # type: ignore[misc]
            cancelled=cancelled,
            top=1,
        )
        for i, prompt in enumerate(prompts)
    )
    for _ in decode(engine, wanted, most=rows, cancelled=cancelled):
        pass


# -- Samples of many prompts ------------------------------------------------------------------------------------------


ROUND_SECONDS = 0.25  # the engine is held this long before others get their turn

# prompt number, sample number, token -> what the sample is over by; True: its answer
Ends = Callable[[int, int, int], Stop | bool | None]


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
    over: Ends = not_over,
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
    over: Ends,
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
    over: Ends
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
