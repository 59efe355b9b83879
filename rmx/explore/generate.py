"""Prompt to Trace: one completion, token by token, with the statistics of the very pass that chose each token."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rmx.arguments import Sampling
from rmx.engine.decoder import AHEAD, Decoding, Prefix
from rmx.engine.decoding_memory import row_bytes
from rmx.engine.fair_queue import Ticket, never
from rmx.engine.scheduler import scheduler_of
from rmx.engine.token_draws import TokenFigures, figures_of, prompt_key, uniform
from rmx.errors import PromptError
from rmx.grading.answers import CUT
from rmx.models.load import Model
from rmx.models.stopping import CompletionEnd
from rmx.records import Candidate, Reuse, StepPath, Stop, TokenDist, Trace
from rmx.zerogpu.calls import decoding, on_gpu_worker, without_alternatives


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate: a prompt, perhaps a kept beginning, perhaps tokens forced after it, and how to go on."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    tau: float
    adapter: str | None = None
    known: str | None = None  # the known answer, to grade against
    kept: tuple[TokenDist, ...] = ()  # of the branch that this one leaves, statistics included
    forced: tuple[int, ...] = ()  # put in after the kept tokens
    fork: TokenDist | None = None  # the token that forced[0] replaces: it was chosen from the same distribution
    read: tuple[int, ...] | None = None  # score these tokens instead of generating
    cold: bool = False  # reuse nothing, read the kept tokens anew


@dataclass
class Generation:
    """An iterable over the tokens that are new; `trace()` gives the whole completion, also after a cancel.

    Iterating holds a seat at the engine, beside other streams, from the first token to the last, or until the iterator
    is closed (see rmx/engine/scheduler.py). A caller that has a ticket already iterates over `tokens_held(ticket)`.
    """

    model: Model
    job: Job
    cancelled: Callable[[], bool] = never
    tokens: list[TokenDist] = field(default_factory=list)
    reuse: Reuse = Reuse(0, 0)
    path: StepPath | None = None
    stop: Stop = "cancelled"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.job.cold:
            self.tokens.extend(self.job.kept)

    def __iter__(self) -> Generator[TokenDist]:
        with self.model.engine.queue.turn(seat_bytes=self.seat_bytes()) as ticket:
            yield from self.tokens_held(ticket)

    def seat_bytes(self) -> int | None:
        """Memory that its keys and values may take; None where they are in another process."""
        engine, job = self.model.engine, self.job
        if engine.remote is not None:
            return None
        tokens = len(job.prompt_ids) + max(job.sampling.max_new_tokens, len(job.kept) + len(job.forced))
        return 0 if engine.fault is not None else row_bytes(engine, tokens)

    def tokens_held(self, ticket: Ticket) -> Iterator[TokenDist]:
        """The new tokens, for a caller whose `ticket` has come to its turn."""
        began = time.perf_counter()
        far = self.model.engine.remote is not None
        try:
            with closing(self._from_afar() if far else self._from_here(ticket)) as tokens:
                for token in tokens:
                    self.seconds = time.perf_counter() - began
                    yield token
        finally:
            self.seconds = time.perf_counter() - began

    def run(self) -> Trace:
        """Generate to the end and return the trace."""
        for _ in self:
            pass
        return self.trace()

    def trace(self) -> Trace:
        """The completion so far."""
        job, model = self.job, self.model
        ids = [t.id for t in self.tokens]
        return Trace(
            model=model.spec,
            adapter=job.adapter,
            revision=model.revision,
            dtype=model.dtype,
            prompt_ids=job.prompt_ids,
            seed=job.sampling.seed,
            temperature=job.sampling.temperature,
            top_p=job.sampling.top_p,
            tau=job.tau,
            tokens=tuple(self.tokens),
            answer=model.grade(job.prompt_ids, ids, job.known, cut=self.stop in CUT),
            stop=self.stop,
            reuse=self.reuse,
            seconds=self.seconds,
            style=model.style,
            path=self.path,
        )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _from_here(self, ticket: Ticket) -> Generator[TokenDist]:
        row, given = self._decoding(), len(self.tokens)
        with closing(scheduler_of(self.model.engine).run([row], ticket)) as news:
            for _ in news:
                self.path = row.path
                fresh = self.tokens[given:]  # more of them may come while these are looked at
                given += len(fresh)
                yield from fresh

    def _from_afar(self) -> Generator[TokenDist]:
        """The new tokens as another process makes them."""
        for item in complete(self.model, self.job, cancelled=self.cancelled):
            if isinstance(item, TokenDist):
                self.tokens.append(item)
                yield item
            elif isinstance(item, Reuse):
                self.reuse = item
            else:
                self.stop, self.path = item

    def _decoding(self) -> Decoding:
        """What the scheduler is asked for: to read the ids, of which some are new tokens, and to decode behind them."""
        job, model = self.job, self.model
        kept = () if job.cold else job.kept
        given = tuple(t.id for t in job.kept[len(kept) :]) + (job.forced if job.read is None else job.read)
        first = self._known_first(kept)
        # Index i of the sequence decides token i + 1: the first given token is decided by the last kept one.
        start = len(job.prompt_ids) + len(kept) - 1 + (first is not None)
        found: list[TokenDist] = [] if first is None else [first]
        pieces, end = model.detokenizer.stream(), CompletionEnd(model, job.prompt_ids, job.sampling.max_new_tokens)
        key = prompt_key(job.prompt_ids)

        def opened(reuse: Reuse) -> bool:
            self.reuse = reuse
            self.tokens.extend(found)
            stop: Stop | None = None
            for token in self.tokens:
                pieces.feed(token.id)
                stop = end.feed(token.id, token.text)
            return self._over(stop if job.read is None else "read")

        def take(chosen: TokenFigures) -> bool:
            token = self._dist(len(self.tokens), chosen, pieces.feed(chosen.token_id), False)
            self.tokens.append(token)
            return self._over(end.feed(token.id, token.text))

        prefix = Prefix(
            [*job.prompt_ids, *(t.id for t in kept), *given],
            job.adapter,
            reuse=not job.cold,
            cold=job.cold,
            read_from=start if start < len(job.prompt_ids) + len(kept) + len(given) - 1 else None,
            on_read=self._reader(given, len(kept), found),
        )
        return Decoding(
            prefix,
            job.sampling,
            take,
            draw=lambda: uniform(job.sampling.seed, key, 0, len(self.tokens)),
            opened=opened,
            cancelled=self.cancelled,
            alone=job.cold,
            ahead=AHEAD,
            keeps=True,
        )

    def _known_first(self, kept: Sequence[TokenDist]) -> TokenDist | None:
        """The forced token's statistics where the replaced token's distribution already holds them."""
        fork, forced = self.job.fork, self.job.forced
        if fork is None or not forced or self.job.cold:
            return None
        place = next((i for i, c in enumerate(fork.top) if c.id == forced[0]), None)
        if place is None:
            return None
        logp = fork.logp if forced[0] == fork.id else float(torch.tensor(fork.top[place].p).log())
        text = self.model.detokenizer.stream([t.id for t in kept]).feed(forced[0])
        return replace(fork, id=forced[0], text=text, logp=logp, rank=place + 1, forced=True)

    def _reader(self, given: Sequence[int], kept: int, found: list[TokenDist]) -> Callable[[int, Tensor], None]:
        """A callback that turns logits of given tokens into their TokenDists."""
        pieces = self.model.detokenizer.stream([t.id for t in self.tokens])
        prompt = len(self.job.prompt_ids)
        for token_id in given[: len(found)]:
            pieces.feed(token_id)

        def on_read(index: int, logits: Tensor) -> None:
            pos = index + 1 - prompt  # completion position that the first of these logits decides
            ids = given[pos - kept : pos - kept + len(logits)]
            if not ids:
                return
            rows = figures_of(logits[: len(ids)], torch.tensor(ids, device=logits.device))
            for i, figures in enumerate(rows, pos):
                found.append(self._dist(i, figures, pieces.feed(figures.token_id), self._is_forced(i)))

        return on_read

    def _is_forced(self, pos: int) -> bool:
        kept = self.job.kept
        return self.job.read is None and (pos >= len(kept) or kept[pos].forced)

    def _over(self, stop: Stop | None) -> bool:
        """Note what the completion ends by, if it does; returns whether."""
        self.stop = stop or self.stop
        return stop is not None

    def _dist(self, pos: int, figures: TokenFigures, piece: str, forced: bool) -> TokenDist:
        text = self.model.detokenizer.token_text
        top = tuple(Candidate(i, text(i), p) for i, p in figures.top)
        return TokenDist(pos, figures.token_id, piece, figures.entropy, figures.logp, figures.rank, forced, top)


def _steps(model: Model, job: Job, **_: object) -> float:
    """Seconds of GPU."""
    given = len(job.prompt_ids) + len(job.kept) + len(job.forced) + len(job.read or ())
    return decoding(0 if job.read is not None else job.sampling.max_new_tokens - len(job.kept), read=given)


@on_gpu_worker(seconds=_steps, slim=lambda job: (replace(job, kept=tuple(without_alternatives(t) for t in job.kept)),))
def complete(
    model: Model, job: Job, cancelled: Callable[[], bool] = never
) -> Iterator[Reuse | TokenDist | tuple[Stop, StepPath | None]]:
    """A generation for one who is not in this process: what was reused, each new token, and how it ended."""
    generation = Generation(model, job, cancelled)
    reported = False
    for token in generation:
        if not reported:
            reported = True
            yield generation.reuse
        yield token
    yield generation.stop, generation.path


def solve_anew(model: Model, job: Job, cancelled: Callable[[], bool] = never) -> Trace:
    """Generate with nothing reused, and leave the text in the prefix cache.

    What goes on from it then does not depend on what else was computed before, to the last bit.
    """
    trace = Generation(model, replace(job, cold=True), cancelled).run()
    engine = model.engine
    if engine.remote is None and trace.tokens:
        with engine.queue.turn(), engine.using(job.adapter):
            engine.open([*job.prompt_ids, *trace.ids], adapter=job.adapter, cold=True).save()
    return trace


def read_job(model: Model, prompt_ids: tuple[int, ...], text: str, tau: float, known: str | None = None) -> Job:
    """Score a pasted text after a prompt: tokenised apart from the prompt and appended.

    Raises:
        PromptError: the text is empty.
    """
    ids = model.encode(text)
    if not ids:
        raise PromptError("The text to read is empty. Paste a solution first.")
    return Job(prompt_ids, Sampling(max_new_tokens=len(ids)), tau, known=known, read=tuple(ids))
