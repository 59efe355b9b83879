"""Branches and the trees they form: every completion of a prompt, what was forced in it, what came of it."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rmx.errors import SwapError
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model
from rmx.records import TokenDist, Trace
from rmx.storage.job_store import JobStore
from rmx.storage.memory_shares import TOKEN_BYTES, MemoryShares, bytes_of

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
        """The origin for the page."""
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
        made = Branch(self.model, job, self.prompt, self.tree, self, self.title, owner=self.owner)
        made.known_computed = self.known_computed
        return made

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
