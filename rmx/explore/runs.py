"""Branches and the trees they form: every completion of a prompt, what was forced in it, what came of it."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rmx.errors import SwapError
from rmx.explore.generate import Generation, Job
from rmx.models import Model
from rmx.records import TokenDist, Trace

Clock = Callable[[], float]


@dataclass
class Origin:
    """A tree that came in from outside; all its branches share one, and a check fills in what it found."""

    kind: Literal["link", "recorded", "again"]  # again: recorded, and decoded here
    licence: str | None = None
    adapter_hash: str | None = None  # as the file has it
    same: bool | None = None  # whether decoding it here gave the same tokens; None: not checked
    said: str | None = None  # the verdict in a sentence

    def json(self) -> dict[str, Any]:
        return {"kind": self.kind, "licence": self.licence, "same": self.same, "said": self.said}


@dataclass
class Run:
    """One branch: how it was made, its tokens so far, and its end."""

    model: Model
    job: Job
    prompt: str  # the exact text that the model was asked with
    tree: str
    parent: "Run | None" = None
    title: str | None = None
    show: int | None = None  # the place worth opening when it is done
    owner: str | None = None  # the visitor whose it is
    origin: Origin | None = None  # where it comes from, unless it was asked for on this page
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))  # unguessable: knowing it is the permission
    created: float = field(default_factory=time.time)
    tokens: list[TokenDist] = field(default_factory=list)
    waiting: int = 0  # requests ahead of this one
    expected: float | None = None  # seconds until its turn, by the turns of late
    trace: Trace | None = None
    error: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def at(self) -> int | None:
        """Completion position of the swap that made this branch."""
        return len(self.job.kept) if self.parent is not None else None

    @property
    def done(self) -> bool:
        return self.trace is not None or self.error is not None

    def halt(self) -> None:
        """Ask a running generation to end at the next step."""
        self._stop.set()

    def steps(self) -> Iterator[int]:
        """Generate; yields the number of tokens after each one, 0 while waiting for the engine.

        Closing the iterator frees the engine at once and keeps what is there as a cancelled trace.
        """
        turns = self.model.engine.turns
        generation = Generation(self.model, self.job, self._stop.is_set, self.tokens)
        ticket = turns.enter()
        try:
            while not self._stop.is_set():
                self.waiting = turns.wait(ticket, timeout=0.25)
                self.expected = turns.expected(self.waiting)
                if not self.waiting:
                    break
                yield 0
            if not self.waiting:
                for _ in generation.tokens_held():
                    yield len(self.tokens)
        finally:
            turns.leave(ticket)
            self.waiting = 0
            self.trace = generation.trace()


class Runs:
    """The branches in memory, by id. Whole trees leave, the least recently used first: those that nobody has looked at
    for long, then an owner's own when that one's tokens run over, then anybody's when all tokens run over.

    Args:
        max_tokens: of all trees together. per_owner: of one owner's. idle_seconds: how long a tree stays unused.
    """

    def __init__(
        self,
        max_tokens: int = 400_000,
        per_owner: int = 100_000,
        idle_seconds: float = 24 * 3600,
        clock: Clock = time.monotonic,
    ) -> None:
        self.max_tokens, self.per_owner, self.idle_seconds = max_tokens, per_owner, idle_seconds
        self._clock = clock
        self._trees: OrderedDict[str, list[Run]] = OrderedDict()
        self._used: dict[str, float] = {}  # tree -> when it was last asked for
        self._by_id: dict[str, Run] = {}
        self._lock = threading.Lock()

    def add(self, run: Run) -> Run:
        with self._lock:
            self._trees.setdefault(run.tree, []).append(run)
            self._by_id[run.id] = run
            self._touch(run.tree)
            self._trim(run.tree)
        return run

    def get(self, run_id: object) -> Run:
        """The run of this id.

        Raises:
            SwapError: no such run (any more).
        """
        run = self.find(run_id)
        if run is None:
            raise SwapError("This solution is no longer in memory. Solve the problem again.")
        return run

    def find(self, run_id: object) -> Run | None:
        with self._lock:
            run = self._by_id.get(run_id) if isinstance(run_id, str) else None
            if run is not None:
                self._touch(run.tree)
            return run

    def branches(self, tree: str) -> list[Run]:
        """All branches of a tree in the order they were made."""
        with self._lock:
            return list(self._trees.get(tree, []))

    @property
    def tokens(self) -> int:
        """Tokens in memory."""
        with self._lock:
            return sum(map(_size, self._trees.values()))

    def halt_all(self) -> None:
        """Ask every generation to end at its next step."""
        with self._lock:
            under_way = [run for run in self._by_id.values() if not run.done]
        for run in under_way:
            run.halt()

    def _touch(self, tree: str) -> None:
        self._trees.move_to_end(tree)
        self._used[tree] = self._clock()

    def _trim(self, keep: str) -> None:
        now, owner = self._clock(), self._trees[keep][0].owner
        sizes = {tree: _size(runs) for tree, runs in self._trees.items()}
        mine = {tree for tree, runs in self._trees.items() if owner is not None and runs[0].owner == owner}
        for tree in [t for t in self._trees if t != keep]:
            idle = now - self._used[tree] > self.idle_seconds
            if not idle and not all(run.done for run in self._trees[tree]):
                continue
            over_own = tree in mine and sum(sizes[t] for t in mine if t in sizes) > self.per_owner
            if idle or over_own or sum(sizes.values()) > self.max_tokens:
                del sizes[tree], self._used[tree]
                for run in self._trees.pop(tree):
                    del self._by_id[run.id]


def _size(runs: list[Run]) -> int:
    return sum(len(run.tokens) for run in runs)
