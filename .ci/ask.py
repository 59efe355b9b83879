"""Ask a running app what a visitor would: is it well, the page, one streamed trace. Standard library only."""

import json
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

PROBLEM = "What is 3 + 4 * 2?"


def health(address: str, patience: float, alive: Callable[[], bool]) -> tuple[float, dict[str, Any]]:
    """Seconds until /health answered, and what it said.

    Raises:
        TimeoutError: it did not within `patience` seconds, or the app has ended.
    """
    began = time.monotonic()
    while True:
        try:
            return time.monotonic() - began, _json(f"{address}/health")
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() - began > patience or not alive():
                raise TimeoutError(f"{address}/health does not answer: {error}") from error
            time.sleep(0.5)


def page(address: str) -> int:
    """Bytes of the page, which must be ours."""
    with urllib.request.urlopen(f"{address}/", timeout=30) as answer:
        html = answer.read()
    if b"rmx" not in html or b"gradio" not in html:
        raise ValueError(f"That is not the page: {html[:200]!r}")
    return len(html)


def streamed_trace(address: str) -> tuple[str, int, str]:
    """One solution, part by part: by which endpoint, how many parts, and what the last of them, the whole, has to say.

    Raises:
        ValueError: it came in one piece, or an error came instead.
    """
    known = _json(f"{address}/gradio_api/info")["named_endpoints"].get("/trace")
    name, events = _by_the_api(address, known["parameters"]) if known else _as_a_page(address)
    parts, last = 0, None
    for kind, content in events:
        if kind == "error":
            raise ValueError(f"{name} answered with an error: {content}")
        parts, last = parts + 1, content
    if parts < 3 or not last:
        raise ValueError(f"{name} did not stream: {parts} parts, the last one {str(last)[:200]}")
    whole = last[0] if isinstance(last, list) else last
    if not isinstance(whole, dict) or "tokens" not in whole:
        return name, parts, str(whole)[:200]
    return name, parts, f"{len(whole['tokens'])} tokens, stop {whole['stop']}, answer {whole['answer']}"


def _by_the_api(address: str, parameters: list[dict[str, Any]]) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The documented way: call /trace with its defaults, then read its events."""
    call = f"{address}/gradio_api/call/trace"
    given = [PROBLEM if p["parameter_name"] == "prompt" else p.get("parameter_default") for p in parameters]
    event = _json(call, {"data": given})["event_id"]
    return "/trace", ((kind, data) for kind, data in _events(f"{call}/{event}") if kind != "heartbeat")


def _as_a_page(address: str) -> tuple[str, Iterator[tuple[str, Any]]]:
    """What the page does when it opens: it asks for the first problem's solution and shows it as it comes."""
    config = _json(f"{address}/config")
    view = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "view")
    opening = next(
        d
        for d in config["dependencies"]
        if view in d["outputs"] and any(target[1] == "load" for target in d["targets"]) and not d["inputs"]
    )
    session = secrets.token_hex(6)
    asked = {"data": [], "fn_index": opening["id"], "session_hash": session, "event_data": None, "trigger_id": None}
    _json(f"{address}/gradio_api/queue/join", asked)
    return "the page's opening", _messages(f"{address}/gradio_api/queue/data?session_hash={session}")


def _messages(address: str) -> Iterator[tuple[str, Any]]:
    for _, message in _events(address):
        kind = message.get("msg")
        if kind in ("process_generating", "process_completed"):
            yield ("part" if message["success"] else "error"), message["output"]
        if kind == "process_completed":
            return


def _events(address: str) -> Iterator[tuple[str, Any]]:
    """Server-sent events: their name and their JSON."""
    kind = "message"
    with urllib.request.urlopen(address, timeout=120) as stream:
        for raw in stream:
            name, _, value = raw.decode("utf-8").strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def _json(address: str, sent: Any = None) -> Any:
    body = None if sent is None else json.dumps(sent).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
