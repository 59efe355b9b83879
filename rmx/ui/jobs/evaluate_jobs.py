"""An evaluation under way: what is asked, the latest figures, which rows are new, and which pages look at it."""

import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmx.models.style_options import StyleOptions
from rmx.records import Problem
from rmx.storage.memory_shares import bytes_of
from rmx.ui.jobs.page_jobs import Message, PageJob, line_and_error

GRACE = 30.0  # seconds after its last page has left that an evaluation goes on: a reload takes less
UNSEEN = 180.0  # seconds after the last look at it, on a public site; a page that is hidden looks once a minute


@dataclass(frozen=True, slots=True)
class EvaluateForm:
    """What a visitor wants measured, checked. `own` are the problems of a file that was read in the browser."""

    model: str
    adapters: tuple[str, ...]
    set_name: str
    limit: int
    n: int
    temperature: float
    top_p: float
    seed: int
    max_new_tokens: int
    own: tuple[Problem, ...] | None = None
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt

    @property
    def samples(self) -> int:
        """Completions that it takes at most, the greedy ones included."""
        problems = self.limit if self.own is None else min(self.limit, len(self.own))
        return problems * (self.n + 1) * (1 + len(self.adapters))

    def command(self) -> str:
        """The same evaluation from a shell."""
        adapters = [word for adapter in self.adapters for word in ("--adapter", adapter)]
        words = ["rmx", "eval", "--model", self.model, *adapters, "--set", self.set_name, "--limit", str(self.limit)]
        words += f"--n {self.n} --temperature {self.temperature:g} --top-p {self.top_p:g} --seed {self.seed}".split()
        return shlex.join([*words, "--max-new-tokens", str(self.max_new_tokens), *self.style.words(), "--json"])


@dataclass(eq=False)
class EvalJob(PageJob):
    """One evaluation. A thread of its own feeds it; any page that knows its id may look."""

    asked: EvaluateForm
    clock: Callable[[], float] = time.monotonic
    unseen: float | None = None  # seconds without a look after which it ends; None: never
    state: str = "loading"  # then running; at last done, stopped or failed
    document: Message = field(default_factory=dict)  # the report's JSON
    rows: dict[str, tuple[int, int, Message]] = field(default_factory=dict)  # id -> stamp of last change, place, row
    notes: dict[str, str] = field(default_factory=dict)  # of the runs among the contestants
    stamp: int = 0
    _found: int = 0  # bytes of what it has found
    _places: dict[str, int] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)
    _watchers: set[str] = field(default_factory=set)
    _alone: float | None = None  # since when no page looks at it

    def __post_init__(self) -> None:
        self._begun = self._seen = self.clock()  # when it began, and when it was last looked at

    def parts(self) -> list[Any]:
        """What it keeps in memory beside what it has found."""
        return [self.asked]

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return super().nbytes + self._found

    def begin(self, problems: Sequence[Problem]) -> None:
        """Take the problems, in the order in which pages list them."""
        with self._lock:
            self._places = {problem.id: i for i, problem in enumerate(problems)}
            self.state = "running"
            self.stamp += 1

    def take(self, document: dict[str, Any]) -> None:
        """Take a newer report."""
        with self._lock:
            self.stamp += 1
            rows = document.get("per_problem", [])
            for row in rows:
                known = self.rows.get(row["id"])
                if known is None or known[2] != row:
                    place = self._places.get(row["id"], len(self._places) + len(self.rows))
                    self.rows[row["id"]] = (self.stamp, place, row)
                    self._found += bytes_of(row) - (bytes_of(known[2]) if known else 0)
            # Each row is there once, in however many reports it came.
            self.document = document | ({"per_problem": [self.rows[row["id"]][2] for row in rows]} if rows else {})

    def end(self, error: str | None = None) -> None:
        """Note that nothing more comes, and what went wrong."""
        with self._lock:
            self.error = error
            done = bool(self.document.get("done"))
            self._found += bytes_of({key: value for key, value in self.document.items() if key != "per_problem"})
            self.state = "failed" if error else "done" if done else "stopped"
            self.stamp += 1
            self.done = True

    def message(self, since: int = 0) -> Message:
        """Its state; figures and rows that have changed after `since`, a stamp of an earlier message."""
        with self._lock:
            self._seen = self.clock()
            news: Message = {"kind": "eval", "id": self.id, "state": self.state, "stamp": self.stamp}
            news |= self._progress() | line_and_error(self)
            if since < self.stamp and self.document:
                news["report"] = {key: value for key, value in self.document.items() if key != "per_problem"}
                news["rows"] = [[place, row] for stamp, place, row in self.rows.values() if stamp > since]
            if since <= 0:
                news |= {"command": self.asked.command(), "own": self.asked.own is not None, "notes": self.notes}
            return news

    def _progress(self) -> Message:
        at, of, cached = (int(self.document.get(key) or 0) for key in ("at", "of", "cached"))
        seconds = float(self.document.get("seconds") or 0.0)
        made = at - cached
        # What was known already came at once: the speed is that of what is made.
        left = seconds / made * (of - at) if made > 0 and not self.done else None
        passed = seconds if self.done or seconds else self.clock() - self._begun
        return {"at": at, "of": of, "cached": cached, "seconds": round(passed, 1), "left": left}

    def join(self, session: str) -> None:
        """Note that a page looks at it."""
        with self._lock:
            self._watchers.add(session)
            self._alone = None

    def leave(self, session: str) -> None:
        """Note that a page looks no longer. After the last one it goes on for a moment: a page may be reloaded."""
        with self._lock:
            self._watchers.discard(session)
            if not self._watchers:
                self._alone = self.clock()

    @property
    def stopped(self) -> bool:
        """Whether it shall end: it was asked to, its pages are closed, or no page looks at it."""
        alone, now = self._alone, self.clock()
        if self.unseen is not None and now - self._seen > self.unseen:
            return True
        return self._stop.is_set() or (alone is not None and now - alone > GRACE)
