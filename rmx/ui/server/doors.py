"""Which paths of the server are open, to which methods, for bodies of which size. Everything else is closed.

One table decides, and one reading of the path: the percent signs, double slashes, dots and the prefix of a proxy are
taken out of it before anybody looks, and what comes further in sees the same path that was looked up here.
"""

import os
import posixpath
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rmx.ui.server.connections import parse_address

SMALL = 64_000  # bytes of a body
LARGE = 6_000_000  # of a file of problems or a saved tree, as text
DEEPEST_QUOTING = 4  # times that a path may be percent-encoded
# What gradio builds addresses from; only a proxy may set the second one, and `Doors` knows whether there is one.
NEVER_READ, PROXYS = b"x-gradio-server", (b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for", b"forwarded")
# How often a door may be used: work starts something, a question is answered at once, a page costs its making,
# a stream stays open, a file is large. A free one costs next to nothing.
Kind = Literal["free", "page", "stream", "question", "work", "file"]
NAME = r"[\w.-]{1,100}"


@dataclass(frozen=True, slots=True)
class Door:
    """One open path. `path` is a regular expression for all of it."""

    methods: frozenset[str]
    path: re.Pattern[str]
    kind: Kind
    most_bytes: int = 0  # of a body


def _door(methods: str, path: str, kind: Kind, most_bytes: int = 0) -> Door:
    return Door(frozenset(methods.split()), re.compile(path, re.ASCII), kind, most_bytes)


DOORS = (
    # our own
    _door("GET HEAD", r"/health", "free"),
    _door("GET", r"/metrics", "question"),
    _door("GET HEAD", rf"/runs/{NAME}/adapter\.zip", "work"),
    _door("POST", r"/files/(problems|tree)", "file", LARGE),
    # the page and what it is made of
    _door("GET HEAD", r"/", "page"),
    _door("GET", r"/config/?", "page"),
    _door("GET", r"/gradio_api/info/?", "page"),
    _door("GET HEAD", r"/(assets|static)/[\w./@+-]{1,300}", "free"),
    _door("GET HEAD", r"(/gradio_api)?/theme\.css", "free"),
    _door("GET HEAD", r"/(favicon\.ico|robots\.txt|manifest\.json|pwa_icon)", "free"),
    _door("GET", r"/gradio_api/(app_id|startup-events)/?", "free"),
    # events: asked, listened to, given up
    _door("POST", r"/gradio_api/queue/join", "work", SMALL),
    _door("POST", rf"/gradio_api/(run|api)/{NAME}/?", "work", SMALL),
    _door("POST", rf"/gradio_api/call/(v2/)?{NAME}/?", "work", SMALL),
    _door("POST", r"/gradio_api/component_server/?", "question", SMALL),
    _door("POST", r"/gradio_api/(cancel|reset)/?", "question", SMALL),
    _door("GET", r"/gradio_api/queue/data", "stream"),
    _door("GET", rf"/gradio_api/call/(v2/)?{NAME}/{NAME}", "stream"),
    _door("GET", r"/gradio_api/heartbeat/[\w-]{1,64}", "stream"),
    # tools for language models
    _door("GET", r"/gradio_api/mcp/?", "stream"),
    _door("POST DELETE", r"/gradio_api/mcp/?", "work", SMALL),
)


def door_of(method: str, path: str) -> Door | None:
    """The open door of a path as `normal_path` gives it; None where it is closed."""
    return next((d for d in DOORS if method in d.methods and d.path.fullmatch(path)), None)


def normal_path(path: str, prefix: str = "") -> str | None:
    """The one spelling of a path: decoded, no double slashes, no dots, without the prefix of a proxy.

    None where it is encoded over and over, or holds a character that no path of ours has.
    """
    for _ in range(DEEPEST_QUOTING):
        if path == (path := unquote(path)):
            break
    else:
        return None
    if not path.startswith("/") or any(c in path for c in "\\%") or not path.isprintable():
        return None
    path = posixpath.normpath("/" + path.lstrip("/")) + ("/" if path.endswith("/") and path.strip("/") else "")
    while prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :] or "/"
    return path


class Doors:
    """ASGI middleware: close everything that the table does not name.

    Args:
        prefix: where a proxy serves the app below a path.
        proxied: whether a proxy stands before the app, whose headers are believed.
    """

    def __init__(self, app: ASGIApp, prefix: str = "", proxied: bool = False) -> None:
        self.app, self.prefix = app, prefix
        self.dropped = {NEVER_READ} if proxied else {NEVER_READ, *PROXYS[:1]}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})  # the page has none
            return
        path = normal_path(scope["path"], self.prefix)
        door = door_of(scope["method"], path) if path is not None else None
        if path is None or door is None:
            await PlainTextResponse("not here", 404)(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in self.dropped]
        seen: dict[str, Any] = {"path": path, "raw_path": quote(path).encode(), "headers": headers, "rmx.door": door}
        await self.app({**scope, **seen}, receive, send)


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class HostCheck:
    """ASGI middleware: refuse a request whose Host header is not a name of this app.

    An IP address is always accepted: a page cannot be served under somebody else's address.

    Args:
        names: host names beside this machine's own, `*.example.org` stands for all below example.org; None: any name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None) -> None:
        self.app = app
        self.names = None if names is None else {*own_names(), *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.names is None or self.answers_to(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
            return
        sentence = "This app does not answer to this host name. If the name is yours, add it to RMX_HOSTS."
        await PlainTextResponse(sentence, 421)(scope, receive, send)

    def answers_to(self, host: str) -> bool:
        """Whether a Host header names this app."""
        if not _HOST.fullmatch(host) or self.names is None:
            return False
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        parent = name.partition(".")[2]
        return parse_address(name) is not None or name in self.names or f"*.{parent}" in self.names


def own_names() -> set[str]:
    """The names by which this machine knows itself, and the one that a Space is served under."""
    own = socket.gethostname().lower()
    return {"localhost", own, f"{own}.local", *filter(None, [os.environ.get("SPACE_HOST", "").lower()])}
