"""Which paths are open, to which methods, for bodies of which size, and which bodies gradio gets to see.

One table decides, and one reading of the path: the percent signs, double slashes, dots and the prefix of a proxy are
taken out of it before anybody looks, and what comes further in sees the same path that was looked up here.

Gradio takes names, numbers of events and components from a request as they are, and a wrong one ends as a bare 500:
here it gets a sentence. Where an event has no queue gradio answers a visitor's mistake with 500 too; that becomes 422.
"""

import json
import math
import os
import posixpath
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.arguments import arguments_of
from rmx.service import VERBS
from rmx.service.checks import count_later, shown
from rmx.storage.safe_files import without_half_characters
from rmx.ui.visitor_cookie import parse_address

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
    _door("GET", r"/opening", "stream"),
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
        host = socket.gethostname().lower()  # and a Space is served under a name of its own
        own = {"localhost", host, f"{host}.local", *filter(None, [os.environ.get("SPACE_HOST", "").lower()])}
        self.names = None if names is None else own | {name.lower() for name in names}

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


# -- What is sent to gradio's own doors, looked at before gradio sees it ----------------------------------------------


ROOT = "/gradio_api"
FILES = "/files/"  # plain text, read by routes of our own
BY_NAME = re.compile(rf"{ROOT}/(call|run|api)/(v2/)?([^/]*)/?")
FILE_DATA = "gradio.FileData"  # how gradio's clients mark a file; nothing here takes one by its path
DEEPEST = 64  # levels of a body
SESSION = re.compile(r"[\w-]{0,64}", re.ASCII)  # what gradio's clients make up
Refusal = tuple[int, str]
Body = dict[str, Any]


class Bodies:
    """ASGI middleware around gradio's app, inside everything else that stands before the page."""

    def __init__(self, app: ASGIApp, demo: gr.Blocks) -> None:
        self.app, self.demo = app, demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or path.startswith(FILES):
            await self.app(scope, receive, send)
            return
        try:
            content = _filled(path, await _read(scope, receive))
            refused = self.refusal(path, content)
        except ClientDisconnect:
            refused = (400, "The request is too long, or ended too early.")
        if refused is not None:
            await refuse(*refused)(scope, receive, send)
            return
        unqueued = path.startswith((f"{ROOT}/run/", f"{ROOT}/api/"))
        await self.app(scope, _again(content, receive), _mistakes(send) if unqueued else send)

    def refusal(self, path: str, content: bytes) -> Refusal | None:
        """Why a body cannot be used; None where gradio may have it."""
        try:
            body = json.loads(content.decode(), parse_constant=_finite, parse_float=_finite)
        except RecursionError:
            return 400, "The body is nested too deeply."
        except ValueError:  # no JSON, not in UTF-8, or a number that JSON does not have
            return 400, "The body is not JSON."
        if sentence := objection(body):
            return 422, sentence
        if path.startswith(f"{ROOT}/mcp"):
            return None if isinstance(body, dict) else (400, "Send one JSON-RPC message at a time.")
        if not isinstance(body, dict):
            return 422, "The body must be a JSON object."
        if (found := BY_NAME.fullmatch(path)) and found[2]:
            return self._by_name_and_arguments(found[3], body)
        session = body.get("session_hash")
        if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
            return 422, "session_hash must be a short name."
        if body.get("batched"):
            return 422, "Nothing here takes batches."
        if path.startswith(f"{ROOT}/component_server"):
            return self._question(body)
        if found or path.startswith(f"{ROOT}/queue/join"):
            return self._event(found, body)
        return None

    def _by_name_and_arguments(self, name: str, body: Body) -> Refusal | None:
        if name not in VERBS:
            return 404, f"There is no endpoint {shown(name)}. Known: {', '.join(VERBS)}."
        known = arguments_of(VERBS[name])
        wrong = next((key for key in body if key not in known), None)
        return None if wrong is None else (422, f"There is no argument {shown(wrong)}. Known: {', '.join(known)}.")

    def _event(self, found: re.Match[str] | None, body: Body) -> Refusal | None:
        name = found[3] if found else None
        index, events = body.get("fn_index"), self.demo.fns
        if index is not None and (type(index) is not int or index not in events):
            return 404, f"There is no event {shown(index)}."
        named = (e for e in events.values() if name and e.api_name == name)
        event = events[index] if index is not None else next(named, None)
        if event is None:
            return 404, f"There is no endpoint {shown(name)}. Known: {', '.join(VERBS)}."
        if event.queue and found and found[1] != "call":
            return 404, "This goes through the queue only."
        data, inputs = body.get("data"), event.inputs
        if not isinstance(data, list) or len(data) not in (len(inputs), sum(not i.skip_api for i in inputs)):
            return 422, f"data must be a list of {len(inputs)} values."
        if len(data) == len(inputs):
            for place, (block, value) in enumerate(zip(inputs, data, strict=True), 1):
                if value is not None and (wanted := _wanted(block, value)):
                    return 422, f"Value {place} of data must be {wanted}."
        return None

    def _question(self, body: Body) -> Refusal | None:
        component, name = body.get("component_id"), body.get("fn_name")
        if type(component) is not int or component not in self.demo.blocks or not isinstance(name, str):
            return 404, "There is no such component or question."
        return None if "data" in body else (422, "A question needs data.")


def objection(body: Any) -> str | None:
    """What is wrong with a body wherever in it: a file given by its path, or too many levels; None: nothing."""
    level, depth = [body], 0
    while level:
        objects = [value for value in level if isinstance(value, dict)]
        if any(_is_file(value) for value in objects):
            return "Files cannot be given by their path. Paste the text instead."
        inside = [*(value.values() for value in objects), *(value for value in level if isinstance(value, list))]
        level = [item for items in inside for item in items]
        depth += 1
        if level and depth > DEEPEST:
            return "The body is nested too deeply."
    return None


def _is_file(value: dict[str, Any]) -> bool:
    meta = value.get("meta")
    marked = isinstance(meta, dict) and meta.get("_type") == FILE_DATA
    return marked or ("path" in value and "meta" in value)  # gradio looks for both keys, and trips over other metas


def _wanted(block: Any, value: Any) -> str | None:
    """What a component takes, where this value is not that; None where it is, or where the component looks itself."""
    if isinstance(block, gr.Number | gr.Slider):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(block, gr.Textbox):
        return None if isinstance(value, str) else "text"
    if isinstance(block, gr.Checkbox):
        return None if isinstance(value, bool) else "true or false"
    return None


async def refuse_body(request: Any, error: Exception) -> Response:
    """Answer a body of another shape without repeating it: the framework's own answer holds all of it, thrice."""
    places = [".".join(map(str, one.get("loc", ())))[:80] for one in getattr(error, "errors", list)()[:3]]
    return refuse(422, f"The body has another shape than this address takes: look at {', '.join(places) or 'it'}.")


def refuse(status: int, sentence: str, headers: dict[str, str] | None = None, **facts: Any) -> Response:
    """A refusal with a sentence, where clients of gradio and of everything else look for it."""
    return JSONResponse({"error": sentence, "detail": sentence, **facts}, status, headers)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not in JSON")
    return value


def _filled(path: str, content: bytes) -> bytes:
    """A call by position of somebody who does not know the arguments that came later: null, their default, for each."""
    found = BY_NAME.fullmatch(path)
    if found is None or found[2] or found[3] not in VERBS:
        return content
    count, later = len(arguments_of(VERBS[found[3]])), count_later(VERBS[found[3]])
    with suppress(ValueError, RecursionError):  # what is no JSON is refused with a sentence
        body = json.loads(content)
        given = body.get("data") if isinstance(body, dict) else None
        if isinstance(given, list) and count - later <= len(given) < count:
            return json.dumps(body | {"data": given + [None] * (count - len(given))}).encode()
    return content


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The whole body, its size bounded outside, without half characters: gradio cannot send them back.

    One that is not UTF-8 is refused later. Raises ClientDisconnect where it breaks off.
    """
    body = await Request(scope, receive).body()
    with suppress(UnicodeDecodeError):
        return without_half_characters(body.decode()).encode()
    return body


def _again(content: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes."""
    first = True

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": content, "more_body": False}
        return await receive()

    return again


def _mistakes(send: Send) -> Send:
    """Pass a reply on; a 500 whose JSON has a sentence for the visitor becomes 422."""
    held: list[Message] = []

    async def pass_on(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500:
            held.append(message)
            return
        if held:
            start = held.pop()
            with suppress(ValueError):  # no JSON: nothing for the visitor
                found = json.loads(message.get("body", b""))
                if isinstance(found, dict) and isinstance(found.get("error"), str):
                    start["status"] = 422
            await send(start)
        await send(message)

    return pass_on
