"""Branches of a solution and the trees they form: the swaps that make them, and what came of each."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Literal

import torch

from rmx.arguments import Sampling
from rmx.engine.decoder import Decoding, Prefix
from rmx.engine.decoding_memory import row_bytes
from rmx.engine.entropy import capture, logp_and_rank
from rmx.engine.scheduler import scheduler_of
from rmx.engine.token_draws import TokenFigures
from rmx.errors import RmxError, SwapError
from rmx.explore.generate import Generation, Job
from rmx.models.detokenizer import Detokenizer
from rmx.models.load import Model
from rmx.records import TokenDist, Trace
from rmx.storage.job_store import TOKEN_BYTES, JobStore, MemoryShares, bytes_of
from rmx.zerogpu.calls import decoding, on_gpu_worker

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


LOOK_AHEAD = 16  # tokens after the alternative itself


@on_gpu_worker(seconds=lambda model, prefix, *_, length=LOOK_AHEAD, **__: decoding(length + 1, read=len(prefix)))
def look_ahead(
    model: Model,
    prefix: Sequence[int],
    alternatives: Sequence[int],
    adapter: str | None = None,
    length: int = LOOK_AHEAD,
    patience: float | None = None,
) -> list[list[int]]:
    """Greedy continuations of `prefix`, one for each alternative; each list begins with its alternative.

    Args:
        prefix: prompt and kept tokens, as ids.
        alternatives: token ids that could follow it.
        length: tokens after the alternative; a row ends early at an end token.
        patience: seconds to wait for the engine, see `Turns.turn`.
    """
    engine, most = model.engine, min(length + 1, model.engine.context - len(prefix))
    rows, read = [[token] for token in alternatives], Prefix(prefix, adapter, save=True)

    def take(row: list[int], figures: TokenFigures) -> bool:
        row.append(figures.token_id)
        return len(row) == most or figures.token_id in model.stop_ids

    asked = [
        Decoding(read, Sampling(), partial(take, row), given=tuple(row), top=1)
        for row in rows
        if row[0] not in model.stop_ids and most > 1
    ]
    seat_bytes = 0 if engine.fault is not None else len(asked) * row_bytes(engine, len(prefix) + length + 1)
    with engine.queue.turn(patience, seat_bytes) as ticket:
        for _ in scheduler_of(engine).run(asked, ticket):
            pass
    return rows


@lru_cache(maxsize=4)
def _texts(detokenizer: Detokenizer, size: int) -> tuple[str, ...]:
    return tuple(detokenizer.token_text(i).lower() for i in range(size))


@on_gpu_worker(seconds=lambda model, prefix, *_, **__: decoding(1, read=len(prefix)))
def search(
    model: Model,
    prefix: Sequence[int],
    query: str,
    adapter: str | None = None,
    limit: int = 30,
    patience: float | None = None,
) -> list[tuple[int, str, float, int]]:
    """Tokens whose text contains `query`, as (id, text, probability, rank) given `prefix`.

    All matches of the vocabulary are ranked before the list is cut. A query that is a token's whole text, give or
    take a leading space, comes first.
    """
    wanted = query.lower()
    engine = model.engine
    texts = _texts(model.detokenizer, engine.vocab_size)
    matches = [i for i, text in enumerate(texts) if wanted in text] if wanted else []
    if not matches:
        return []
    with engine.queue.turn(patience), engine.using(adapter):
        logits = engine.open(prefix, adapter=adapter).logits.float()
    ids = torch.tensor(matches, device=logits.device)
    rows = logits.expand(len(matches), -1)
    lse = capture(logits[None], 1).lse
    order = logits[ids].argsort(descending=True)[: 4 * limit]
    ids = ids[order]
    logp, rank = logp_and_rank(rows[: len(ids)], lse.expand(len(ids)), ids)
    found = [
        (int(i), model.detokenizer.token_text(int(i)), float(p), int(r))
        for i, p, r in zip(ids, logp.exp(), rank, strict=True)
    ]
    found.sort(key=lambda f: texts[f[0]].strip() != wanted.strip())
    return found[:limit]


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
