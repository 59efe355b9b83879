"""What stands before the page: a password where one is set, the size of what is sent, how often one visitor may ask,
and a refusal where the line of the model is full. Everything else goes through untouched, streams too."""

import base64
import binascii
import hmac
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.ui.owners import Owners

MOST_BYTES = 6_000_000  # of one request: a file of problems or a saved tree, as JSON
OPEN = ("/health",)  # asked for by the machine that looks after the container
CALLS = "/gradio_api/call/"  # the named endpoints
# Paths whose POSTs start work; the questions of an open page are many and small, so more of them are allowed.
WORK = (CALLS, "/gradio_api/queue/join", "/gradio_api/mcp", "/gradio_api/run/", "/gradio_api/api/")
QUESTIONS = ("/gradio_api/component_server",)
CROWD = 8  # visitors that may share one address: a household, a classroom, a booth
MOST_KNOWN = 20_000  # visitors whose allowance is remembered


class Allowance:
    """A token bucket for each key: `burst` at once, `rate` per second after that.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.rate, self._clock = burst, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (what is left, when)
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take one; returns 0, or after how many seconds to come again."""
        now = self._clock()
        with self._lock:
            left, then = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + max(0.0, now - then) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - allowed, now)
            while len(self._left) > MOST_KNOWN:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


class Gate:
    """ASGI middleware.

    Args:
        waiting: how many hold or wait for a model now. most: how many may.
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
        self._work, self._crowd = Allowance(60, 4, clock), Allowance(60 * CROWD, 4 * CROWD, clock)
        self._asked, self._asked_crowd = Allowance(200, 25, clock), Allowance(200 * CROWD, 25 * CROWD, clock)
        self._wrong = Allowance(10, 0.1, clock)  # wrong passwords from one address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # the page has none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        refused = self._refusal(request, scope["method"])
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self.app(scope, _measured(receive), send)

    def _refusal(self, request: HTTPConnection, method: str) -> Response | None:
        path = request.url.path
        if self._auth is not None and path not in OPEN and (refused := self._locked(request)) is not None:
            return refused
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return PlainTextResponse(f"At most {MOST_BYTES // 1_000_000} MB may be sent at once.", 413)
        if method != "POST":
            return None
        if self.limited and (wait := self._too_often(request, path)):
            return _later("That was a lot at once. Wait a moment, then go on.", wait)
        if path.startswith(CALLS) and (ahead := self.waiting()) >= self.most:
            return _later(f"{ahead} requests wait for this model already. Try again in a moment.", 5, waiting=ahead)
        return None

    def _too_often(self, request: HTTPConnection, path: str) -> float:
        """After how many seconds this visitor may ask again; 0: now."""
        if path.startswith(WORK):
            one, crowd = self._work, self._crowd
        elif path.startswith(QUESTIONS):
            one, crowd = self._asked, self._asked_crowd
        else:
            return 0.0
        address, key = self.owners.address_of(request), self.owners.key_of(request)
        # Who has no cookie is only known by an address, which many may share.
        return crowd.take(address) or (one.take(key) if key != address else 0.0)

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


def _basic(header: str) -> bytes | None:
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _later(sentence: str, seconds: float, **facts: Any) -> Response:
    shown = {"Retry-After": str(max(1, math.ceil(seconds)))}
    return JSONResponse({"error": sentence, "detail": sentence, **facts}, 429, shown)


def _measured(receive: Receive) -> Receive:
    """Pass a body on until it is longer than allowed: without a content-length only reading it tells."""
    seen = 0

    async def measured() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_BYTES:
            return {"type": "http.disconnect"}
        return message

    return measured
