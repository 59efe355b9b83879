"""Branches and the trees they form: every completion of a prompt, what was forced in it, what came of it."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from rmx.errors import SwapError
from rmx.explore.generate import Generation, Job
from rmx.models import Model
from rmx.records import TokenDist, Trace


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
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))  # unguessable: knowing it is the permission
    created: float = field(default_factory=time.time)
    tokens: list[TokenDist] = field(default_factory=list)
    waiting: int = 0  # requests ahead of this one
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
    """The branches in memory, by id. Whole trees leave, the least recently used first, when tokens run over."""

    def __init__(self, max_tokens: int = 400_000) -> None:
        self.max_tokens = max_tokens
        self._trees: OrderedDict[str, list[Run]] = OrderedDict()
        self._by_id: dict[str, Run] = {}
        self._lock = threading.Lock()

    def add(self, run: Run) -> Run:
        with self._lock:
            self._trees.setdefault(run.tree, []).append(run)
            self._trees.move_to_end(run.tree)
            self._by_id[run.id] = run
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
                self._trees.move_to_end(run.tree)
            return run

    def branches(self, tree: str) -> list[Run]:
        """All branches of a tree in the order they were made."""
        with self._lock:
            return list(self._trees.get(tree, []))

    def _trim(self, keep: str) -> None:
        total = sum(len(r.tokens) for tree in self._trees.values() for r in tree)
        for tree in list(self._trees):
            if total <= self.max_tokens or tree == keep:
                return
            if all(r.done for r in self._trees[tree]):
                gone = self._trees.pop(tree)
                total -= sum(len(r.tokens) for r in gone)
                for run in gone:
                    del self._by_id[run.id]
