"""Prompt to Trace: one completion, token by token, with the statistics of the very pass that chose each token."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rmx.config import TOP_KEPT, Sampling
from rmx.engine.engine import Stream
from rmx.engine.entropy import Capture, capture, logp_and_rank
from rmx.engine.token_draws import Chooser
from rmx.errors import PromptError
from rmx.grading.answers import CUT, StopRule
from rmx.models.load import Model
from rmx.models.stopping import stop_after
from rmx.records import Candidate, Reuse, Stop, TokenDist, Trace
from rmx.zerogpu.calls import decoding, never, on_gpu_worker, without_alternatives


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

    Iterating holds the engine's turn from the first token to the last, or until the iterator is closed, and gives way
    in between (see rmx/engine/fair_queue.py); a caller that has the turn already iterates over `tokens_held()`.
    """

    model: Model
    job: Job
    cancelled: Callable[[], bool] = never
    tokens: list[TokenDist] = field(default_factory=list)
    reuse: Reuse = Reuse(0, 0)
    stop: Stop = "cancelled"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.job.cold:
            self.tokens.extend(self.job.kept)

    def __iter__(self) -> Iterator[TokenDist]:
        with self.model.engine.queue.turn():
            yield from self.tokens_held()

    def tokens_held(self) -> Iterator[TokenDist]:
        """The new tokens, for a caller that holds the engine's turn."""
        if self.model.engine.remote is not None:
            yield from self._from_afar()
            return
        began = time.perf_counter()
        stream: Stream | None = None
        with self.model.engine.using(self.job.adapter):
            try:
                for token in self._begin():
                    if isinstance(token, Stream):
                        stream = token
                        continue
                    self.tokens.append(token)
                    self.seconds = time.perf_counter() - began
                    yield token
                    self.model.engine.give_way(self.cancelled)
            finally:
                self.seconds = time.perf_counter() - began
                if stream is not None and not self.job.cold:
                    stream.save()

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
        )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _from_afar(self) -> Iterator[TokenDist]:
        """The new tokens as another process makes them."""
        began = time.perf_counter()
        try:
            for item in complete(self.model, self.job, cancelled=self.cancelled):
                if isinstance(item, TokenDist):
                    self.tokens.append(item)
                    self.seconds = time.perf_counter() - began
                    yield item
                elif isinstance(item, Reuse):
                    self.reuse = item
                else:
                    self.stop = item.stop
        finally:
            self.seconds = time.perf_counter() - began

    def _begin(self) -> Iterator[TokenDist | Stream]:
        """Kept, forced or read tokens, the stream that stands behind them, then the tokens the model chooses."""
        job = self.job
        kept = () if job.cold else job.kept
        given = tuple(t.id for t in job.kept[len(kept) :]) + (job.forced if job.read is None else job.read)
        first = self._known_first(kept)
        # Index i of the sequence decides token i + 1: the first given token is decided by the last kept one.
        start = len(job.prompt_ids) + len(kept) - 1 + (first is not None)
        ids = [*job.prompt_ids, *(t.id for t in kept), *given]
        found: list[TokenDist] = [] if first is None else [first]
        on_read = self._reader(given, len(kept), start, found)
        stream = self.model.engine.open(
            ids, adapter=job.adapter, reuse=not job.cold, read_from=start if given else None, on_read=on_read
        )
        self.reuse = stream.reuse
        yield stream
        yield from found
        if job.read is not None:
            self.stop = "read"
            return
        yield from self._decode(stream)

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

    def _reader(
        self, given: Sequence[int], kept: int, start: int, found: list[TokenDist]
    ) -> Callable[[int, Tensor], None]:
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
            rows = logits[: len(ids)]
            cap = capture(rows, TOP_KEPT)
            chosen = torch.tensor(ids, device=rows.device)
            logp, rank = (x.tolist() for x in logp_and_rank(rows, cap.lse, chosen))
            for i, token_id in enumerate(ids):
                piece = pieces.feed(token_id)
                found.append(self._dist(pos + i, token_id, piece, cap, i, logp[i], rank[i], self._is_forced(pos + i)))

        return on_read

    def _is_forced(self, pos: int) -> bool:
        kept = self.job.kept
        return self.job.read is None and (pos >= len(kept) or kept[pos].forced)

    @torch.inference_mode()
    def _decode(self, stream: Stream) -> Iterator[TokenDist]:
        job, model = self.job, self.model
        pieces = model.detokenizer.stream([t.id for t in self.tokens])
        rule = model.stop_rule(job.prompt_ids)
        choose = Chooser(job.sampling, job.prompt_ids)
        if self._over(rule, self.tokens):
            return
        while not self.cancelled():
            pos = len(self.tokens)
            cap = capture(stream.logits[None], TOP_KEPT)
            best = int(cap.top_ids[0, 0])
            token_id = choose(stream.logits, best, pos)
            if token_id == best:
                logp, rank = float(cap.top_logp[0, 0]), 1
            else:
                chosen = torch.tensor([token_id], device=stream.logits.device)
                logps, ranks = logp_and_rank(stream.logits[None], cap.lse, chosen)
                logp, rank = float(logps), int(ranks)
            token = self._dist(pos, token_id, pieces.feed(token_id), cap, 0, logp, rank, False)
            yield token
            if self._over(rule, [token]):
                return
            stream.feed(token_id)

    def _over(self, rule: StopRule, tokens: Sequence[TokenDist]) -> bool:
        """Feed tokens to the stopping rule; set `stop` and return whether the completion ends here."""
        for token in tokens:
            rule.feed(token.text)
        last = tokens[-1].id if tokens else None
        room = self.model.engine.context - len(self.job.prompt_ids)
        most = self.job.sampling.max_new_tokens
        stop = stop_after(rule, last, self.model.stop_ids, len(self.tokens), most, room)
        self.stop = stop or self.stop
        return stop is not None

    def _dist(
        self, pos: int, token_id: int, piece: str, cap: Capture, row: int, logp: float, rank: int, forced: bool
    ) -> TokenDist:
        lone = self.model.detokenizer.token_text
        ids, probabilities = cap.top_ids[row].tolist(), cap.top_logp[row].exp().tolist()
        top = tuple(Candidate(i, lone(i), p) for i, p in zip(ids, probabilities, strict=True))
        return TokenDist(pos, token_id, piece, float(cap.entropy[row]), logp, rank, forced, top)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a completion ended that another process made."""

    stop: Stop


def _steps(model: Model, job: Job, **_: object) -> float:
    """Seconds of GPU."""
    given = len(job.prompt_ids) + len(job.kept) + len(job.forced) + len(job.read or ())
    return decoding(0 if job.read is not None else job.sampling.max_new_tokens - len(job.kept), read=given)


@on_gpu_worker(seconds=_steps, slim=lambda job: (replace(job, kept=tuple(without_alternatives(t) for t in job.kept)),))
def complete(model: Model, job: Job, cancelled: Callable[[], bool] = never) -> Iterator[Reuse | TokenDist | Ended]:
    """A generation for one who is not in this process: what was reused, each new token, and how it ended."""
    generation = Generation(model, job, cancelled)
    reported = False
    for token in generation:
        if not reported:
            reported = True
            yield generation.reuse
        yield token
    yield Ended(generation.stop)


def solve_anew(model: Model, job: Job, cancelled: Callable[[], bool] = never) -> Trace:
    """Generate with nothing reused, and leave the text in the prefix cache.

    What goes on from it then does not depend on what else was computed before, to the last bit.
    """
    trace = Generation(model, replace(job, cold=True), cancelled).run()
    engine = model.engine
    if engine.remote is None and trace.tokens:
        with engine.queue.turn(), engine.using(job.adapter):
            engine.open([*job.prompt_ids, *trace.ids], adapter=job.adapter, reuse=False).save()
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
