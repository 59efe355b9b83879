"""What is sent to gradio's own doors, looked at before gradio sees it: a body that it would trip over gets a sentence.

Gradio takes names, numbers of events and components from a request as they are, and a wrong one ends as a bare 500. It
also answers a visitor's mistake with 500 where an event has no queue; that becomes 422, with the same sentence.
"""

import json
import math
import re
from contextlib import suppress
from typing import Any

import fastapi
import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rmx.service import VERBS
from rmx.service.arguments import arguments_of, count_later, shown
from rmx.storage.strict_json import without_half_characters

ROOT = "/gradio_api"
FILES = "/files/"  # plain text, read by routes of our own
BY_NAME = re.compile(rf"{ROOT}/(call|run|api)/(v2/)?([^/]*)/?")
FILE_DATA = "gradio.FileData"  # how gradio's clients mark a file; nothing here takes one by its path
DEEPEST = 64  # levels of a body
SESSION = re.compile(r"[\w-]{0,64}", re.ASCII)  # what gradio's clients make up
Refusal = tuple[int, str]
Body = dict[str, Any]


def guard_bodies(app: fastapi.FastAPI, demo: gr.Blocks) -> None:
    """Put it inside everything else that stands before the page."""
    app.user_middleware.append(Middleware(Bodies, demo=demo))


class Bodies:
    """ASGI middleware around gradio's app."""

    def __init__(self, app: ASGIApp, demo: gr.Blocks) -> None:
        self.app, self.demo = app, demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or path.startswith(FILES):
            await self.app(scope, receive, send)
            return
        content = await _read(receive)
        refused: Refusal | None = (400, "The request is too long, or ended too early.")
        if content is not None:
            content = _filled(path, content)
            refused = self.refusal(path, content)
        if refused is not None:
            await _answer(*refused)(scope, receive, send)
            return
        unqueued = path.startswith((f"{ROOT}/run/", f"{ROOT}/api/"))
        await self.app(scope, _again(content or b"", receive), _mistakes(send) if unqueued else send)

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
    return _answer(422, f"The body has another shape than this address takes: look at {', '.join(places) or 'it'}.")


def _answer(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence, "detail": sentence}, status)


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


async def _read(receive: Receive) -> bytes | None:
    """The whole body, its size bounded outside, without half characters: gradio cannot send them back.

    None where it breaks off. One that is not UTF-8 is refused later.
    """
    parts, more = list[bytes](), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
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
