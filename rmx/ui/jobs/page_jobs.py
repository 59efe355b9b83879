"""Work that a page or a call has asked for: the thread it runs in, its messages, its end, and its line in the log."""

import asyncio
import json
import logging
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rmx.engine.decoding_memory import is_out_of_memory
from rmx.engine.fair_queue import Kind, RequestOwner, as_owner, current_owner
from rmx.errors import Busy, RmxError
from rmx.models.workspace import Workspace
from rmx.storage.job_store import bytes_of

log = logging.getLogger("rmx.requests")
Item = TypeVar("Item")
REGISTRY = CollectorRegistry()
REQUESTS = Counter("rmx_requests", "Requests by verb and by how they ended", ["verb", "outcome"], registry=REGISTRY)
TOKENS = Counter("rmx_tokens", "Tokens made or read", ["verb"], registry=REGISTRY)
SPANS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
WHOLE = "Seconds from the request to its end, waiting included"
SECONDS = Histogram("rmx_request_seconds", WHOLE, ["verb"], buckets=SPANS, registry=REGISTRY)
WAITING = Gauge("rmx_waiting", "Requests that hold or wait for a model", registry=REGISTRY)
KEPT = Gauge("rmx_tokens_kept", "Tokens of solutions in memory", registry=REGISTRY)
BYTES = Gauge("rmx_bytes_kept", "Bytes in memory of what visitors have sent and made", registry=REGISTRY)
Facts = dict[str, Any]  # "outcome", and "model" and "tokens" where they are known


def observed(verb: str, steps: Iterator[Item], about: Callable[[], Facts]) -> Iterator[Item]:
    """Pass `steps` on and log the request when they are over, also where the visitor has left before.

    Args:
        about: the facts at the end; "outcome" is "done" where it has no other.
    """
    began, ended = time.monotonic(), "left"
    try:
        yield from steps
        ended = "done"
    except RmxError:
        ended = "refused"
        raise
    except Exception:
        ended = "fault"
        raise
    finally:
        facts = about()
        log_request(verb, time.monotonic() - began, facts if ended == "done" else facts | {"outcome": ended})


def log_request(verb: str, seconds: float, facts: Facts) -> None:
    """Count one request and write its line."""
    outcome, tokens = str(facts.get("outcome") or "done"), int(facts.get("tokens") or 0)
    REQUESTS.labels(verb, outcome).inc()
    TOKENS.labels(verb).inc(tokens)
    SECONDS.labels(verb).observe(seconds)
    line = {"t": round(time.time(), 3), "verb": verb, "model": facts.get("model"), "tokens": tokens}
    log.info(json.dumps(line | {"seconds": round(seconds, 3), "outcome": outcome}))


def metrics(waiting: int, tokens: int, nbytes: int) -> bytes:
    """All counters in Prometheus' text format; `tokens` and `nbytes` are those that visitors keep in memory."""
    WAITING.set(waiting)
    KEPT.set(tokens)
    BYTES.set(nbytes)
    return generate_latest(REGISTRY)


def write_lines() -> None:
    """Let the lines appear on stderr, one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


# -- Long work in a thread of its own, as an iterator -----------------------------------------------------------------


def fill_queue(steps: Iterator[Any], put: Callable[[str, Any], None], left: Callable[[], bool]) -> None:
    """Go through steps in a thread of its own, in the caller's context: its owner pays for them.

    Args:
        put: is called with ("item", what) for each step, ("error", what) where they fail, ("end", None) at last.
        left: whether the listener has gone; then the steps are closed.
    """

    def go() -> None:
        try:
            for item in steps:
                put("item", item)
                if left():
                    break
        except BaseException as error:  # noqa: BLE001  it is raised again in the listener
            put("error", error)
        finally:
            getattr(steps, "close", lambda: None)()
            put("end", None)

    threading.Thread(target=copy_context().run, args=(go,), name="ahead", daemon=True).start()


def prefetch(steps: Iterator[Item], halt: Callable[[], None]) -> Iterator[Item]:
    """Yield what `steps` yields, made in a thread of its own; its errors are raised here.

    Args:
        halt: asks the work to end at its next step; called where the rest is not taken.
    """
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    left = threading.Event()
    fill_queue(steps, lambda kind, what: made.put((kind, what)), left.is_set)
    over = False
    try:
        while True:
            kind, what = made.get()
            over = kind != "item"
            if kind == "end":
                return
            if kind == "error":
                raise what
            yield what
    finally:
        left.set()
        if not over:
            halt()


_under_way: "WeakSet[threading.Event]" = WeakSet()  # what asks each piece of work to come to its end
Work = Callable[[Callable[[], bool]], Iterator[Item]]  # is given `cancelled`


def finish_all() -> None:
    """Ask all work that is under way to stop at its next step; each still yields its last item."""
    for finish in list(_under_way):
        finish.set()


async def in_thread(
    work: "Work[Item]", owner: str | None | RequestOwner = None, kind: Kind | None = None
) -> AsyncIterator[Item]:
    """Yield what `work` yields, as it comes; its errors are raised here.

    Args:
        owner, kind: of the work, by which it waits for an engine; see `as_owner`.
    """
    loop, items, stop = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]](), threading.Event()
    finish = threading.Event()
    _under_way.add(finish)

    def put(kind: str, what: Any) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(items.put_nowait, (kind, what))

    with as_owner(owner, kind):
        fill_queue(work(lambda: stop.is_set() or finish.is_set()), put, stop.is_set)
    try:
        while True:
            found, what = await items.get()
            if found == "end":
                return
            if found == "error":
                raise what
            yield what
    finally:
        stop.set()


# -- Work that a page has asked for -----------------------------------------------------------------------------------


Message = dict[str, Any]
BASE_BYTES = 10_000  # of a job that has found nothing yet: its decoders and locks
PATIENCE = 8.0  # seconds that a question of the page waits for the engine
INTERVAL = 0.08  # seconds between messages while tokens are streamed
STATE_INTERVAL = 0.5  # seconds between messages that hold a whole state
RECORDED = "recorded"  # the id of the bundled example that a page shows until its visitor has made something
FAULT = "This did not work, and it is a fault of rmx. Its log says more."
TOO_LONG = "Shorten the text or take a smaller model."  # where memory has run out


@dataclass(eq=False, kw_only=True)
class PageJob:
    """Work of one visitor. Its id is unguessable: knowing it is the permission to look at it and to stop it."""

    who: RequestOwner = field(default_factory=current_owner.get)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    waiting: int = 0  # requests ahead of this one
    expected: float | None = None  # seconds until its turn, by the latest turns
    error: str | None = None
    done: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def owner(self) -> str | None:
        """The visitor who asked for it."""
        return self.who.owner

    def parts(self) -> list[Any]:
        """What it keeps in memory."""
        return []

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps in memory."""
        return BASE_BYTES + bytes_of(*self.parts())

    def halt(self) -> None:
        """Have it end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()

    def join(self, session: str) -> None:
        """Note that the page of this session looks at it."""

    def leave(self, session: str) -> None:
        """Note that the page of this session looks at it no longer; by default the work ends then."""
        self.halt()


def stream_job(
    job: Any,
    steps: Iterator[bool],
    message: Callable[[int], Message],
    interval: float,
    *,
    full: Callable[[], str],
    finish: Callable[[], None],
    made: Callable[[], int] = lambda: 0,
    sent: int = 0,
) -> Iterator[Message]:
    """Do the work of a job and yield messages about it; one comes at the end, whatever happens.

    Args:
        job: its `error` becomes the sentence of what went wrong.
        steps: the work; yields True where a message is due at once, such as another place in line, else False.
        message: the state of the job, with what was made after the first so many.
        full: the sentence for memory that has run out.
        finish: called when the work is over, also where the stream was closed before.
        made: how many tokens there are. sent: how many the page has.
    """
    due = 0.0
    try:
        for at_once in steps:
            if at_once:
                yield message(sent)
            elif time.monotonic() >= due:
                yield message(sent)
                sent, due = made(), time.monotonic() + interval
    except RmxError as error:
        job.error = str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            job.error = FAULT
            raise
        job.error = full()
    finally:
        finish()
    yield message(sent)


def report_steps(job: Any, reports: Callable[[], Iterable[Any]]) -> Iterator[bool]:
    """The steps of a job whose `report` is the latest of these."""
    yield True
    for report in reports():
        job.report = report
        if not report.done:
            yield False


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many jobs of one sort may be under way on a public site; 0: any number.

    Args:
        one, many: what a job is called, such as "evaluation" and "evaluations".
        private: how many on a private app, of all visitors.
    """

    one: str
    many: str
    most: int = 0
    per_owner: int = 0
    per_address: int = 0
    private: int = 0

    def admit(self, who: RequestOwner, running: Iterable[RequestOwner]) -> None:
        """Check that one more may begin beside those of `running`.

        Raises:
            Busy: too many of all, of this visitor, or from this address.
        """
        others = list(running)
        if self.most and len(others) >= self.most:
            raise Busy(f"{self.most} {self.many} are under way. Try again when one of them is over.")
        if self.per_owner and sum(other.owner == who.owner for other in others) >= self.per_owner:
            article = "An" if self.one[0] in "aeiou" else "A"
            raise Busy(f"{article} {self.one} of yours is under way already. Stop it, or wait for its end.")
        near = sum(other.address == who.address for other in others) if who.address is not None else 0
        if self.per_address and near >= self.per_address:
            raise Busy(f"{near} {self.many} from your network are under way. Try again when one of them is over.")

    def begin(self, job: PageJob, space: Workspace) -> None:
        """Count a job of the page or of the API among those of its app, until it is done or stopped; may raise Busy."""
        rule = self if space.policy.public else JobLimits(self.one, self.many, self.private)
        with _beginning:
            jobs = _begun.setdefault(space, {}).setdefault(self.one, WeakSet())
            rule.admit(job.who, [one.who for one in jobs if not one.done and not one.stopped])
            jobs.add(job)


EVALUATIONS = JobLimits("evaluation", "evaluations", most=6, per_owner=1, per_address=2, private=6)
MEASURED_CLAIMS = JobLimits("measurement of claims", "measurements of claims", most=4, per_owner=1, per_address=2)
SET_RUNS = JobLimits("run over a set", "runs over a set", most=4, per_owner=1, per_address=2)
_begun: WeakKeyDictionary[Workspace, dict[str, WeakSet[PageJob]]] = WeakKeyDictionary()
_beginning = threading.Lock()


class OpenPages:
    """Which job each open page looks at, so that a new one ends the old and a closed page ends its own.

    It is bounded, the oldest page is forgotten first, and it holds no job in memory.
    """

    def __init__(self, limit: int = 2000) -> None:
        self._current: OrderedDict[str, ReferenceType[Any]] = OrderedDict()
        self._limit, self._lock = limit, threading.Lock()

    def begin(self, session: str | None, job: Item) -> Item:
        """Note that a page looks at `job`, a new one, and end what it looked at before; returns the job."""
        if (old := self._note(session, job)) is not None:
            old.halt()
        return job

    def follow(self, session: str | None, job: Any) -> None:
        """Note that a page looks at `job`, one that is under way, or at none; it leaves what it looked at before."""
        old = self._note(session, job)
        if isinstance(old, PageJob):
            old.leave(str(session))
        elif old is not None:
            old.halt()

    def busy(self, session: str | None) -> bool:
        """Whether what a page looks at is under way; then nothing that nobody has asked for begins."""
        with self._lock:
            current = self._current.get(session) if session is not None else None
        job = current() if current is not None else None
        return job is not None and not job.done

    def leave(self, session: str | None) -> None:
        """Note that a page was closed."""
        self.follow(session, None)

    def _note(self, session: str | None, job: Any) -> Any:
        """Put a page down for `job`, if any; returns another that it looked at before, where that is still there."""
        if session is None:
            return None
        with self._lock:
            old = self._current.pop(session, None)
            if job is not None:
                self._current[session] = ref(job)
            while len(self._current) > self._limit:
                self._current.popitem(last=False)
        if isinstance(job, PageJob):
            job.join(session)
        before = old() if old is not None else None
        return before if before is not job else None


def line_and_error(job: Any) -> Message:
    """A job's place in line and its error as a part of a message; empty where there is neither."""
    line = {"waiting": job.waiting, "expected": job.expected} if job.waiting else {}
    return line | ({"error": job.error} if job.error else {})


def field_of(data: object, key: str) -> Any:
    """A field of what a page has sent; None where it is missing, or what was sent has no fields."""
    return data.get(key) if isinstance(data, dict) else None


def start_of(data: object) -> int:
    """The place from which on a page asks for news; 0 where it names none."""
    start = field_of(data, "start")
    return start if type(start) is int and start > 0 else 0


def whole(value: object, what: str, least: int, most: int) -> int:
    """Check that a value of a form is a whole number from `least` to `most`, and return it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value % 1:
        raise RmxError(f"The {what} must be a whole number between {least:,} and {most:,}.")
    return int(value)


def number(value: object, what: str, least: float, most: float) -> float:
    """Check that a value of a form is a number from `least` to `most`, and return it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise RmxError(f"The {what} must lie between {least:g} and {most:g}.")
    return float(value)


def download(name: str, texts: dict[str, Callable[[], str]], wanted: object) -> Message:
    """A file for the page, {"name", "mime", "text"}, in the wanted format.

    Args:
        name: without an ending. texts: by format, what makes the text.
    """
    if wanted not in texts:
        *first, last = (name.upper() for name in texts)
        raise RmxError(f"Files are {', '.join(first)} or {last}.")
    return {"name": f"{name}.{wanted}", "mime": MIME[str(wanted)], "text": texts[str(wanted)]()}


MIME = {"json": "application/json", "csv": "text/csv", "html": "text/html", "svg": "image/svg+xml"}
