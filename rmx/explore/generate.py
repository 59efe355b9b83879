"""Prompt to Trace: one completion, token by token, with the statistics of the very pass that chose each token.

A swap makes a branch of a solution; a solution and its branches are a tree.
"""

import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rmx.arguments import Sampling
from rmx.engine.decoding_memory import row_bytes
from rmx.engine.fair_queue import Ticket, never
from rmx.engine.scheduler import AHEAD, Decoding, Prefix, scheduler_of
from rmx.engine.token_draws import TokenFigures, figures_of, prompt_key, uniform
from rmx.errors import PromptError, RmxError, SwapError
from rmx.grading.answers import CUT
from rmx.models.load import Model
from rmx.models.stopping import CompletionEnd
from rmx.models.zerogpu import decoding, on_gpu_worker, without_alternatives
from rmx.records import Candidate, Reuse, StepPath, Stop, TokenDist, Trace
from rmx.storage.job_store import TOKEN_BYTES, JobStore, MemoryShares, bytes_of


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


# -- Branches ---------------------------------------------------------------------------------------------------------


POINTERS = 24  # bytes of one token in the list of a branch, in its trace, and among what a branch keeps


@dataclass
class Origin:
    """A tree that came in from outside; all its branches share one, and a check fills in what it found."""

    kind: Literal["link", "recorded", "again"]  # again: recorded, and decoded here
    licence: str | None = None
    adapter_hash: str | None = None  # as the file has it
    same: bool | None = None  # whether decoding it here gave the same tokens; None: not checked
    verdict: str | None = None  # in a sentence

    def json(self) -> dict[str, Any]:
        return {"kind": self.kind, "licence": self.licence, "same": self.same, "said": self.verdict}


@dataclass
class Branch:
    """One branch: how it was made, its tokens so far, and its end."""

    model: Model
    job: Job
    prompt: str  # the exact text that the model was asked with
    tree: str
    parent: "Branch | None" = None
    title: str | None = None
    show: int | None = None  # the place worth opening when it is done
    owner: str | None = None  # the visitor who asked for it
    known_computed: bool = False  # the known answer was computed from the text, not given
    origin: Origin | None = None  # where it comes from, unless it was asked for on this page
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))  # unguessable: knowing it is the permission
    created: float = field(default_factory=time.time)
    tokens: list[TokenDist] = field(default_factory=list)
    waiting: int = 0  # requests ahead of this one
    expected: float | None = None  # seconds until its turn, by the latest turns
    trace: Trace | None = None
    error: str | None = None
    stand_in: Any = None  # what a recorded tree keeps in place of its model
    ends: dict[int, Any] = field(default_factory=dict)  # of the alternatives at its own tokens, by position
    nbytes: int = 0  # that it keeps in memory beside what its parent keeps
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def at(self) -> int | None:
        """Completion position of the swap that made this branch."""
        return len(self.job.kept) if self.parent is not None else None

    @property
    def own(self) -> list[TokenDist]:
        """The tokens that are not its parent's."""
        return self.tokens[len(self.job.kept) :]

    @property
    def done(self) -> bool:
        """Whether it has come to its end, or failed."""
        return self.trace is not None or self.error is not None

    def parts(self) -> list[Any]:
        """What it keeps in memory beside what its parent keeps."""
        job, parts = self.job, [self.own, self.job.forced, self.job.read, self.error]
        return parts if self.parent else [*parts, self.prompt, self.title, job.prompt_ids, job.known, self.stand_in]

    def branch(self, job: Job) -> "Branch":
        """A branch of the same solution, not generated yet."""
        about: dict[str, Any] = {"owner": self.owner, "known_computed": self.known_computed}
        return Branch(self.model, job, self.prompt, self.tree, self, self.title, **about)

    def owner_at(self, pos: int) -> "Branch":
        """The branch whose own token stands at a position: before a swap, and at it, all is as in its parent."""
        return self if self.parent is None or self.at is None or pos > self.at else self.parent.owner_at(pos)

    def halt(self) -> None:
        """Ask a running generation to end at the next step."""
        self._stop.set()

    def steps(self) -> Iterator[int]:
        """Generate; yields the number of tokens after each one, 0 while waiting for the engine.

        Closing the iterator frees the engine at once and keeps what is there as a cancelled trace.
        """
        queue = self.model.engine.queue
        generation = Generation(self.model, self.job, self._stop.is_set, self.tokens)
        ticket = queue.enter(generation.seat_bytes())
        try:
            while not self._stop.is_set():
                self.waiting = queue.wait(ticket, timeout=0.25)
                self.expected = queue.expected(self.waiting)
                if not self.waiting:
                    break
                yield 0
            if not self.waiting:
                for _ in generation.tokens_held(ticket):
                    yield len(self.tokens)
        finally:
            queue.leave(ticket)
            self.waiting = 0
            self.trace = generation.trace()


class BranchStore(JobStore[Branch]):
    """The branches in memory, by id; whole trees leave it.

    Args:
        kept: the account; by default one of its own, without a share for each visitor.
    """

    def __init__(self, kept: MemoryShares | None = None) -> None:
        gone = "This solution is no longer in memory. Solve the problem again."
        super().__init__(gone, kept, group=lambda branch: branch.tree, size=tree_bytes, error=SwapError)

    def add(self, *branches: Branch, check: Callable[[list[Branch]], None] | None = None) -> Branch:
        """Keep branches of one tree, all of them or none; returns the first.

        Raises:
            RmxError: with them the tree is larger than what is kept of one visitor.
        """
        weigh(branches)
        known = self.group(branches[0].tree)
        what = "This solution with its branches" if known else "This solution"
        self.kept.admit(tree_bytes([*known, *branches]), branches[0].owner, what)
        return super().add(*branches, check=check)

    def weigh_again(self, branch: Branch) -> None:
        """Count a branch with the tokens that it has by now."""
        weigh([branch])
        self.grow(branch)

    @property
    def tokens(self) -> int:
        """Tokens in memory."""
        return sum(len(branch.own) for branch in self.items())


def weigh(runs: Sequence[Branch]) -> None:
    """Note the bytes of branches of one tree; what several of them have in common counts for the first."""
    seen: dict[int, Any] = {}
    for run in runs:
        run.nbytes = bytes_of(*run.parts(), seen=seen) + POINTERS * len(run.tokens)


def tree_bytes(runs: Sequence[Branch]) -> int:
    """Bytes of a tree: of tokens that are there, or still come in, no less than their usual size."""
    return max(TOKEN_BYTES * sum(len(run.own) for run in runs), sum(run.nbytes for run in runs))


# -- Swap one token of a trace and go on ------------------------------------------------------------------------------


def swap_job(job: Job, tokens: Sequence[TokenDist], pos: int, ids: Sequence[int], vocab_size: int) -> Job:
    """The job that keeps tokens 0 … pos-1, forces `ids` from `pos` on and continues as before.

    Args:
        job: what made `tokens`. tokens: the completion so far. pos: completion position to replace.
        ids: one token, or several for typed text.

    Raises:
        SwapError: the position or a token does not exist, nothing is forced, or it does not fit the length.
    """
    check_pos(pos, tokens)
    if not ids:
        raise SwapError("Nothing to force: pick a token or type some text.")
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise SwapError(f"Token id {token_id} does not exist; this model has the ids 0 to {vocab_size - 1}.")
    limit = job.sampling.max_new_tokens
    if pos + len(ids) > limit:
        raise SwapError(f"The forced text would end past the limit of {limit} tokens. Raise the limit or force less.")
    return replace(job, kept=tuple(tokens[:pos]), forced=tuple(ids), fork=tokens[pos], read=None)


def check_pos(pos: object, tokens: Sequence[TokenDist]) -> None:
    """Raise SwapError for what is no completion position of these tokens."""
    if type(pos) is not int or not 0 <= pos < len(tokens):
        raise SwapError(f"There is no token at position {pos}; this solution has positions 0 to {len(tokens) - 1}.")


def swap(model: Model, job: Job, trace: Trace, pos: int, token_id: int) -> tuple[Job, Trace]:
    """Force one token and decode to the end. Returns the job of the new branch and its trace."""
    branch = swap_job(job, trace.tokens, pos, [token_id], model.engine.vocab_size)
    return branch, Generation(model, branch).run()


def forks_of(trace: Trace) -> list[TokenDist]:
    """The tokens whose entropy exceeds the solution's threshold, in order.

    Raises:
        RmxError: there is none.
    """
    forks = list(trace.forks())
    if not forks:
        highest = max((t.entropy for t in trace.tokens), default=0.0)
        raise RmxError(f"No token exceeds {trace.tau:.2f} nats; the highest is {highest:.2f}. Lower the threshold.")
    return forks
