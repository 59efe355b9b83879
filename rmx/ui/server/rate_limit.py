"""What stands before the page: a password where one is set, the size and the pace of what is sent, how often one
visitor may ask, and a refusal where the line of the model is full. All else goes through untouched, streams too."""

import asyncio
import base64
import binascii
import hmac
import math
import re
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.ui.server.connections import Allowance, ConcurrencyLimit
from rmx.ui.server.doors import SMALL, Door, Kind, door_of
from rmx.ui.visitor_cookie import Owners

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
    """ASGI middleware.

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
        self._streams = ConcurrencyLimit(STREAMS)
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
        with self._streams.hold(self.owners.address_of(request)) as free:
            inside = self.app if free else _later("Too many pages of this address are open. Close one of them.", 10)
            await inside(scope, receive, send)

    def _refusal(self, request: HTTPConnection, method: str, door: Door) -> Response | None:
        path = request.scope["path"]
        if self._auth is not None and path not in OPEN and (refused := self._locked(request)) is not None:
            return refused
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:12]) > door.most_bytes:
            sentence = f"At most {door.most_bytes:,} bytes may be sent here at once."
            return JSONResponse({"error": sentence, "detail": sentence}, 413)
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
