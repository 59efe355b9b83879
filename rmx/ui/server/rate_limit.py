"""What each visitor and address may have: connections, bodies and their pace, requests, a place in a model's line, and
lines of the log.

Uvicorn bounds no connections: those that say nothing hold a descriptor each, and a process that has none left cannot
accept any more, not even one to end it. Logs stay short whatever strangers send: a wrong value of 60 kB is not written
down, and no traceback twice.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import math
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.queueing
import gradio.routes
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rmx.ui.server.doors import SMALL, Door, Kind, door_of, refuse
from rmx.ui.visitor_cookie import Allowance, Owners, is_nearby, visitor_address

OPEN = ("/health",)  # asked for by the machine that looks after the container
CALLS = "/gradio_api/call/"  # the named endpoints
OTHER = Door(frozenset(), re.compile(""), "question", SMALL)  # where `Doors` does not stand before
CROWD = 8  # visitors that may share one address: a household, a classroom, a booth
BODY_SECONDS = 20.0  # that a body may take to arrive
STREAMS = 96  # that one address may hold: two for each open page
# What one visitor may do at once, and per second after that.
PACE: dict[Kind, tuple[float, float]] = {
    "work": (60, 4),
    "question": (200, 25),  # of an open page: many and small
    "stream": (120, 8),
    "page": (30, 1),
    "file": (10, 0.2),
}


class AccessGate:
    """ASGI middleware: a password where one is set, size and pace of what is sent, how often one visitor may ask.

    Args:
        waiting: how many hold or wait for a model now; `most` may.
        auth: NAME:PASSWORD, or None. limited: whether visitors' requests are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        owners: Owners,
        waiting: Callable[[], int],
        most: int,
        auth: str | None = None,
        limited: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app, self.owners, self.waiting, self.most, self.limited = app, owners, waiting, most, limited
        self._auth = auth.encode() if auth else None
        self._one = {kind: Allowance(burst, rate, clock) for kind, (burst, rate) in PACE.items()}
        self._crowd = {kind: Allowance(CROWD * burst, CROWD * rate, clock) for kind, (burst, rate) in PACE.items()}
        self._streams = Counter[str]()  # by address
        self._wrong = Allowance(10, 0.1, clock)  # wrong passwords from one address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, method = HTTPConnection(scope), scope["method"]
        door = scope.get("rmx.door") or door_of(method, scope["path"]) or OTHER
        refused = self._refusal(request, method, door)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if door.kind != "stream" or not self.limited:
            await self.app(scope, _measured(receive, door.most_bytes), send)
            return
        address = self.owners.address_of(request)
        if self._streams[address] >= STREAMS:
            await _later("Too many pages of this address are open. Close one of them.", 10)(scope, receive, send)
            return
        self._streams[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            _take_off(self._streams, address)

    def _refusal(self, request: HTTPConnection, method: str, door: Door) -> Response | None:
        path = request.scope["path"]
        if self._auth is not None and path not in OPEN and (refused := self._locked(request)) is not None:
            return refused
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:12]) > door.most_bytes:
            return refuse(413, f"At most {door.most_bytes:,} bytes may be sent here at once.")
        if self.limited and (wait := self._too_often(request, door.kind)):
            return _later("That was a lot at once. Wait a moment, then go on.", wait)
        if method == "POST" and path.startswith(CALLS) and (ahead := self.waiting()) >= self.most:
            return _later(f"{ahead} requests wait for this model already. Try again in a moment.", 5, waiting=ahead)
        return None

    def _too_often(self, request: HTTPConnection, kind: Kind) -> float:
        """After how many seconds this visitor may ask again; 0: now."""
        if kind not in PACE:
            return 0.0
        address, key = self.owners.address_of(request), self.owners.key_of(request)
        # Who has no cookie is only known by an address, which many may share.
        return self._crowd[kind].take(address) or (self._one[kind].take(key) if key != address else 0.0)

    def _locked(self, request: HTTPConnection) -> Response | None:
        """A refusal where the password is wrong or missing."""
        address = self.owners.address_of(request)
        given = _basic(request.headers.get("authorization", ""))
        if given is not None and self._auth is not None and hmac.compare_digest(given, self._auth):
            return None
        if given is not None and (wait := self._wrong.take(address)):
            return _later("Too many wrong passwords. Wait a moment.", wait)
        shown = {"WWW-Authenticate": 'Basic realm="rmx", charset="UTF-8"'}
        return PlainTextResponse("This site asks for a name and a password.", 401, shown)


def _take_off(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


def _basic(header: str) -> bytes | None:
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _later(sentence: str, seconds: float, **facts: Any) -> Response:
    return refuse(429, sentence, {"Retry-After": str(max(1, math.ceil(seconds)))}, **facts)


def _measured(receive: Receive, most: int) -> Receive:
    """Pass a body on until it is longer than allowed or takes too long: only reading shows a body's length."""
    seen, whole, began = 0, False, time.monotonic()

    async def measured() -> Message:
        nonlocal seen, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(began + BODY_SECONDS - time.monotonic()):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        seen += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message if seen <= most else {"type": "http.disconnect"}

    return measured


# -- connections -------------------------------------------------------------------------------------------------------


RESERVED = 96  # descriptors for everything that is no connection: files of runs and models, pipes, sockets of the Hub
MOST = 2000
SHARE = 4  # one address may hold a fourth of them
HEAD_SECONDS = 10.0  # from the first byte of a request, or from the connection, to the end of its head


def raise_descriptor_limit() -> int:
    """Allow this process as many open files as the system lets it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(descriptors: int) -> int:
    """How many connections a process with so many descriptors may hold."""
    return max(16, min(MOST, descriptors - RESERVED))


class Connections:
    """Counts open connections by address.

    Args:
        most: of all together. per_address: of one; an address nearby may be a proxy and is not counted.
    """

    def __init__(self, most: int, per_address: int | None = None) -> None:
        self.most, self.per_address = most, per_address or max(8, most // SHARE)
        self._by_address: Counter[str] = Counter()

    def enter(self, peer: str) -> bool:
        """Count a connection; False where there is no room for it, and it is not counted."""
        key = visitor_address(peer, ())
        full = self._by_address[key] >= self.per_address and not is_nearby(peer)
        if full or self._by_address.total() >= self.most:
            return False
        self._by_address[key] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count no longer."""
        _take_off(self._by_address, visitor_address(peer, ()))

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection, bounded by these counts."""
        return type("BoundedProtocol", (_Bounded,), {"counts": self})


class _Bounded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's protocol; closes connections that are too many or do not come to the point."""

    counts: Connections
    counted: str | None = None
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        name = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        if not self.counts.enter(name):
            transport.abort()
            return
        self.counted = name
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if self.counted is not None:
            self.counts.leave(self.counted)
            self.counted = None
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock while a head is awaited, stop it once a request is being answered."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        elif not busy and self.deadline is None:
            self.deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self.deadline = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


# -- Logs -------------------------------------------------------------------------------------------------------------


log = logging.getLogger(__name__)
LONGEST = 2000  # characters of a message, and of a traceback
WRITTEN = 200  # characters of a value in a message, and of what an exception says
CHAIN = 3  # exceptions of a chain, each the cause of the next, that are written down: the newest
FRAMES = 20  # of a traceback that are looked at, the innermost


def keep_logs_short() -> None:
    """Bound every record that this process logs from now on, and have gradio log what it would print."""
    if not isinstance(logging.getLogRecordFactory(), _ShortRecords):
        logging.setLogRecordFactory(_ShortRecords(logging.getLogRecordFactory()))
    # Gradio prints what goes wrong in an event, and takes a wrong value for something that has gone wrong.
    printer = SimpleNamespace(print_exc=lambda *_, **__: log_fault(sys.exc_info()[1]))
    for module in (gradio.queueing, gradio.routes):
        setattr(module, "traceback", printer)  # noqa: B010 - the name is theirs


def log_fault(error: BaseException | None) -> None:
    """Log what gradio has caught: a visitor's mistake by what it says, anything else with where it came from."""
    if isinstance(error, gr.Error):
        log.warning("a request was refused: %s", error)
    else:
        log.error("an event has failed", exc_info=error)


class _ShortRecords:
    """Makes records as `make` does, and cuts them. Handlers and formatters, whosever they are, see them cut."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*args, **kwargs)
        if isinstance(record.args, Mapping):
            record.args = {name: _cut(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_cut, record.args))
        if isinstance(record.msg, str):
            record.msg = record.msg[:LONGEST]
        if record.exc_info and record.exc_info[1] is not None:
            record.exc_text = in_short(record.exc_info[1])  # which formatters take for what they have made themselves
        return record


def _cut(value: Any) -> Any:
    """What stands in a message: as it is, or the beginning of how it would be written."""
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 4 * WRITTEN):
        return value
    text = _text(value)
    return value if len(text) <= WRITTEN else f"{text[: WRITTEN - 1]}…"


def _text(value: Any) -> str:
    try:
        return str(value)
    except (ValueError, RecursionError):  # a number too long to be written out, a list too deep
        return f"a {type(value).__name__}"


def in_short(error: BaseException) -> str:
    """A traceback of at most about `LONGEST` characters: the innermost frames, and the beginning of its message."""
    chain = [error]
    while len(chain) < CHAIN:
        last = chain[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or before in chain:
            break
        chain.append(before)
    return "\n".join(_frames_of(one, LONGEST // len(chain)) for one in reversed(chain))


def _frames_of(error: BaseException, room: int) -> str:
    message = f"{type(error).__name__}: " + _text(error)[:WRITTEN].encode("unicode_escape").decode()[:WRITTEN]
    frames: list[str] = []
    for frame in reversed(traceback.format_tb(error.__traceback__, limit=-FRAMES)):
        room -= len(frame)
        if room < len(message):
            break
        frames.insert(0, frame)
    return "".join(("Traceback (most recent call last):\n", *frames, message))


class SeldomRepeated(logging.Filter):
    """Let a message of the same template through once in a while: a server in distress says it at every connection."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds, self._last = seconds, dict[str, float]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        key, now = str(record.msg)[:200], time.monotonic()
        if now - self._last.get(key, -self.seconds) < self.seconds:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[key] = now
        return True


def calm_logs() -> None:
    """Have the event loop and the server say each thing at most once a minute."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(SeldomRepeated())
