"""An evaluation under way: what was asked, the latest figures, which rows are new, and whether anybody still looks."""

import secrets
import shlex
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

from rmx.engine.fair_queue import RequestOwner
from rmx.models.style_options import StyleOptions
from rmx.records import Problem
from rmx.storage.memory_shares import bytes_of

BASE_BYTES = 5_000  # of an evaluation that has found nothing yet
GRACE = 30.0  # seconds after its last page has left that an evaluation goes on: a reload takes less
UNSEEN = 180.0  # seconds after the last look at it, on a public site; a page that is hidden looks once a minute
Message = dict[str, Any]
NOBODY = RequestOwner()


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
        words = ["rmx", "eval", "--model", self.model]
        for adapter in self.adapters:
            words += ["--adapter", adapter]
        words += ["--set", self.set_name, "--limit", str(self.limit), "--n", str(self.n)]
        words += ["--temperature", f"{self.temperature:g}", "--top-p", f"{self.top_p:g}", "--seed", str(self.seed)]
        words += ["--max-new-tokens", str(self.max_new_tokens), *self.style.words()]
        return shlex.join([*words, "--json"])


class EvalJob:
    """One evaluation. A thread of its own feeds it; any page that knows its id may look.

    Its id is unguessable and is the permission.

    Args:
        who: asks for it. unseen: seconds without a look after which it ends; None: never.
    """

    def __init__(
        self,
        asked: EvaluateForm,
        clock: Callable[[], float] = time.monotonic,
        who: RequestOwner = NOBODY,
        unseen: float | None = None,
    ) -> None:
        self.asked, self.who, self._unseen = asked, who, unseen
        self.id = secrets.token_urlsafe(16)
        self.state = "loading"  # then running; at last done, stopped or failed
        self.error: str | None = None
        self.document: dict[str, Any] = {}  # the report's JSON
        self.rows: dict[str, tuple[int, int, Message]] = {}  # problem's id -> stamp of its last change, place, row
        self.notes: dict[str, str] = {}  # of the runs among the contestants
        self.stamp = 0
        self.nbytes = BASE_BYTES + bytes_of(asked)  # that it keeps in memory
        self._places: dict[str, int] = {}
        self._clock, self._begun = clock, clock()
        self._seen = self._begun  # when it was last looked at
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._watchers: set[str] = set()
        self._alone: float | None = None  # since when nobody looks

    # -- what feeds it ------------------------------------------------------------------------------------------------

    def begin(self, problems: Sequence[Problem]) -> None:
        """The problems are there, in the order in which pages list them."""
        with self._lock:
            self._places = {problem.id: i for i, problem in enumerate(problems)}
            self.state = "running"
            self.stamp += 1

    def take(self, document: dict[str, Any]) -> None:
        """A newer report."""
        with self._lock:
            self.stamp += 1
            rows = document.get("per_problem", [])
            for row in rows:
                known = self.rows.get(row["id"])
                if known is None or known[2] != row:
                    place = self._places.get(row["id"], len(self._places) + len(self.rows))
                    self.rows[row["id"]] = (self.stamp, place, row)
                    self.nbytes += bytes_of(row) - (bytes_of(known[2]) if known else 0)
            # Each row is there once, however many reports have told it.
            self.document = document | ({"per_problem": [self.rows[row["id"]][2] for row in rows]} if rows else {})

    def end(self, error: str | None = None) -> None:
        with self._lock:
            self.error = error
            done = bool(self.document.get("done"))
            self.nbytes += bytes_of({key: value for key, value in self.document.items() if key != "per_problem"})
            self.state = "failed" if error else "done" if done else "stopped"
            self.stamp += 1

    # -- what looks at it ---------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return self.state in ("done", "stopped", "failed")

    def message(self, since: int = 0) -> Message:
        """Its state; figures and rows that have changed after `since`, a stamp of an earlier message."""
        with self._lock:
            self._seen = self._clock()
            said: Message = {"kind": "eval", "id": self.id, "state": self.state, "stamp": self.stamp}
            said |= self._progress()
            if self.error:
                said["error"] = self.error
            if since < self.stamp and self.document:
                said["report"] = {key: value for key, value in self.document.items() if key != "per_problem"}
                said["rows"] = [[place, row] for stamp, place, row in self.rows.values() if stamp > since]
            if since <= 0:
                said |= {"command": self.asked.command(), "own": self.asked.own is not None, "notes": self.notes}
            return said

    def _progress(self) -> Message:
        at, of, cached = (int(self.document.get(key) or 0) for key in ("at", "of", "cached"))
        seconds = float(self.document.get("seconds") or 0.0)
        made = at - cached
        # What was known already came at once: only what is made tells how fast the rest comes.
        left = seconds / made * (of - at) if made > 0 and not self.over else None
        passed = seconds if self.over or seconds else self._clock() - self._begun
        return {"at": at, "of": of, "cached": cached, "seconds": round(passed, 1), "left": left}

    # -- who looks ----------------------------------------------------------------------------------------------------

    def join(self, session: str) -> None:
        """A page looks."""
        with self._lock:
            self._watchers.add(session)
            self._alone = None

    def leave(self, session: str) -> None:
        """A page looks no longer. After the last one it goes on for a moment, for a page that is being reloaded."""
        with self._lock:
            self._watchers.discard(session)
            if not self._watchers:
                self._alone = self._clock()

    def halt(self) -> None:
        """End at the next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it shall end: it was told to, its pages are closed, or nobody looks at it."""
        alone, now = self._alone, self._clock()
        if self._unseen is not None and now - self._seen > self._unseen:
            return True
        return self._stop.is_set() or (alone is not None and now - alone > GRACE)


class Watching:
    """Which evaluation each open page looks at; bounded, the oldest forgotten first. It keeps none in memory."""

    def __init__(self, limit: int = 2000) -> None:
        self._current: OrderedDict[str, ReferenceType[EvalJob]] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def join(self, session: str | None, job: EvalJob, instead: bool = False) -> None:
        """This page looks at `job` now; `instead` of what it looked at before, which is stopped."""
        if session is None:
            return
        with self._lock:
            seen = self._current.pop(session, None)
            self._current[session] = ref(job)
            if len(self._current) > self._limit:
                self._current.popitem(last=False)
        old = seen() if seen is not None else None
        if old is not None and old is not job:
            old.halt() if instead else old.leave(session)
        job.join(session)

    def leave(self, session: str | None) -> None:
        """The page was closed."""
        with self._lock:
            seen = self._current.pop(session, None) if session else None
        job = seen() if seen is not None else None
        if job is not None and session:
            job.leave(session)
