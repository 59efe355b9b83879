"""What strangers may send to the app: requests to everything that can be reached, with values that nobody expects."""

import http.client
import json
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

TOKEN = "canary-7f3a91c2d4"  # in files that nobody may read
MOST = 2_000_000  # bytes of a reply that are read
PATIENCE, SOON = 10.0, 1.0  # seconds without a byte; after which work is given up that nobody needs


def words(text: str) -> list[str]:
    return text.split()


WORDS = words("""
mini rl 0 241 ../../../../../../etc/passwd /etc/passwd ~/.ssh/id_rsa file:///etc/passwd http://127.0.0.1:9/
http://169.254.169.254/latest/meta-data/ %2e%2e%2f <img/src=x/onerror=alert(1)> 28=879 999999999=1 1=1,2=2 ../runs con
a/b a/../b mini:train : @ 1e5 NaN {problem} %s%n base,oracle
""")
SPECIAL = ["", "2 + 3?", "x" * 3000, "\ud800", "\x00", "a\x00b", "\u0661\u0662"]
TAILS = words(r"""
/etc/passwd ../../../../../../../../etc/passwd /proc/self/environ %00 x%00.png ..\..\x http://127.0.0.1:9/ .
http://169.254.169.254/ https://example.com/ \\host\share .. pyproject.toml app.py .env
rmx/assets/mini/model.safetensors ../rmx/ui/page.py a/1/b/../../x x/adapter.zip ../adapter.zip
%2e%2e/adapter.zip ..%2f..%2fx/adapter.zip
0/1/2/playlist.m3u8 0/1/2/3.ts 0/1/2/playlist-file %ff%fe %c0%ae%c0%ae/
""")
ROOTS = words("""
/gradio_api/file= /gradio_api/file/ /static/ /assets/ /svelte/ /gradio_api/custom_component/ /runs/
/gradio_api/proxy= /gradio_api/stream/ /favicon.ico /theme.css /pwa_icon/ /monitoring/ /
/gradio_api/run-history/records/ /gradio_api/mcp/ /custom/ /gradio_api/heartbeat/
""")
POSTED = words("""
/gradio_api/cancel /gradio_api/reset /gradio_api/upload /gradio_api/queue/join
/gradio_api/component_server /gradio_api/stream/x /gradio_api/stream/x/close
/gradio_api/process_recording /gradio_api/vibe-edit /gradio_api/undo-vibe-edit /gradio_api/vibe-code
/gradio_api/vibe-starter-queries /login /gradio_api/run/predict /gradio_api/run-history/connect
/gradio_api/call/trace /gradio_api/call/v2/trace /gradio_api/mcp/http /gradio_api/mcp/messages/
/gradio_api/profiling/clear
""")
READS = words("""
/config /gradio_api/info /gradio_api/info?page=../x /gradio_api/info?all_endpoints=x
/gradio_api/queue/status /gradio_api/queue/data /gradio_api/queue/data?session_hash=%00
/gradio_api/call/trace/none /gradio_api/user /gradio_api/token /gradio_api/app_id
/gradio_api/openapi.json /gradio_api/runs /gradio_api/deep_link /?deep_link=..%2f..%2fx
/?__theme=%00 /?owner=x /gradio_api/startup-events /logout /manifest.json /robots.txt
/gradio_api/dev/reload /gradio_api/mcp/schema /gradio_api/mcp/schema?tools=%00
/gradio_api/upload_progress?upload_id=x /health /metrics /runs/x/adapter.zip
/gradio_api/run-history/buckets /gradio_api/run-history/records /monitoring
/gradio_api/profiling/traces
""")


LIKELY = {
    "intervene": ['{"limit": 1, "arms": "base,oracle", "placebo": false, '],
    "train_status": ["{"],
    "train": ["{", '{"k": 2, '],
    "train_stop": ["{"],
    "train_resume": ["{"],
    "rollouts": ['{"problems": 1, "k": 2, "max_new_tokens": 3, '],
    "eval": ['{"limit": 1, "n": 1, "max_new_tokens": 3, '],
    "claims": ['{"limit": 1, "n": 1, "max_new_tokens": 3, "only": "gain", '],
    "locator": ['{"limit": 1, "samples": 2, "budget": 100, "max_new_tokens": 3, '],
    "shifts": [
        '{"limit": 1, "placebo": false, ',
        '{"problem": "241", "max_new_tokens": 3, ',
        '{"prompt": "2?", "read": "5", ',
    ],
}


@dataclass(frozen=True)
class Request:
    """One request; `body` is sent as it stands."""

    method: str
    path: str
    body: bytes = b""
    kind: str = "application/json"
    follow: str | None = None  # where the events of a call are read: its path up to the id
    session: str | None = None  # or of a queue


@dataclass(frozen=True)
class Reply:
    status: int
    text: str


@dataclass
class Target:
    """The app: its port, what it offers, files beside it that hold the token."""

    port: int
    verbs: dict[str, list[str]]  # name -> its arguments
    events: list[dict[str, Any]]  # the page's: id, name, how many inputs and what is usually in them
    functions: list[tuple[int, str]]  # component and server function
    canaries: list[Path]
    sessions: list[str] = field(default_factory=lambda: ["fuzz0", "fuzz1"])


def send(port: int, request: Request, patience: float = PATIENCE) -> Reply:
    """Send one request over a connection of its own. An endless reply is read for `patience` seconds.

    Its head has `PATIENCE` in any case: on a busy machine it may take longer than a stream is worth listening to.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as line:
        head = f"{request.method} {request.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        head += f"Content-Type: {request.kind}\r\nAccept: application/json, text/event-stream\r\n"
        head += f"Content-Length: {len(request.body)}\r\n\r\n"
        with suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(head.encode("utf-8", "surrogatepass") + request.body)
        found = http.client.HTTPResponse(line, method=request.method)
        try:
            found.begin()
        except (http.client.HTTPException, ConnectionResetError):
            return Reply(400, "")  # cut off before an answer: not a request at all
        line.settimeout(patience)
        parts, end = [], time.monotonic() + patience
        with suppress(TimeoutError, http.client.HTTPException, ConnectionResetError):
            while (part := found.read1(65536)) and sum(map(len, parts)) < MOST and time.monotonic() < end:
                parts.append(part)
        return Reply(found.status, b"".join(parts).decode("utf-8", "replace"))


def exchange(port: int, request: Request) -> list[Reply]:
    """A request's reply and, where it started something, the events that followed."""
    first = send(port, request, SOON if "heartbeat" in request.path else PATIENCE)
    replies = [first]
    with suppress(ValueError, TypeError, KeyError):
        event = json.loads(first.text)["event_id"]
        if request.follow:
            replies.append(send(port, Request("GET", f"{request.follow}/{event}")))
        elif request.session:
            replies.append(send(port, Request("GET", f"/gradio_api/queue/data?session_hash={request.session}"), SOON))
    return replies


# -- values -----------------------------------------------------------------------------------------------------------


def values(target: Target) -> st.SearchStrategy[str]:
    """JSON texts of anything: numbers that are none, paths, addresses, broken characters, nesting."""
    places = [str(p) for p in target.canaries]
    strings = [*WORDS, *SPECIAL, *places, *(f"file://{p}" for p in places), *(f"../../../../../..{p}" for p in places)]
    file = {"path": places[0], "meta": {"_type": "gradio.FileData"}, "orig_name": "x", "url": f"file://{places[0]}"}
    numbers = [None, True, False, -1, 0, 1, 5, 2.5, 1e308, 10**18, 2**63, -(2**63)]
    things = [
        *numbers,
        [],
        {},
        [1],
        ["a"],
        [[1]],
        {"a": 1},
        file,
        {"run": places[0]},
        {"__type__": "update", "value": 1},
    ]
    texts = [json.dumps(x) for x in [*strings, *things]]
    texts += ["NaN", "Infinity", "-1e999", "1" * 5000, "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300]
    return st.sampled_from(texts) | st.text(max_size=20).map(json.dumps) | st.floats().map(json.dumps)


def listed(parts: list[str]) -> str:
    return f"[{', '.join(parts)}]"


def objects(names: list[str], value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A JSON object with some of the names, seldom another one."""
    known = st.dictionaries(st.sampled_from([*names, "x", "self", "__class__"]), value, max_size=4)
    return known.map(lambda found: "{" + ", ".join(f"{json.dumps(k)}: {v}" for k, v in found.items()) + "}")


# -- requests ---------------------------------------------------------------------------------------------------------


def requests(target: Target) -> st.SearchStrategy[Request]:
    """Requests to everything, each kind of door as often as another."""
    value = values(target)
    return st.one_of(
        _verbs(target, value),
        _events(target, value),
        _events(target, value),
        _calls(target, value),
        _questions(target, value),
        _tools(target, value),
        _files(target),
        _others(target, value),
    )


def _verbs(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    def of(name: str) -> st.SearchStrategy[Request]:
        address, follow = f"/gradio_api/call/v2/{name}", f"/gradio_api/call/{name}"
        likely = st.sampled_from(LIKELY.get(name, ['{"problem": "241", ', '{"prompt": "2 + 3?", ', "{"]))
        given = st.builds(lambda start, rest: start + rest[1:], likely, objects(target.verbs[name], value))
        return given.map(lambda text: Request("POST", address, text.replace(", }", "}").encode(), follow=follow))

    return st.sampled_from(sorted(target.verbs)).flatmap(of)


def _events(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    def of(event: dict[str, Any]) -> st.SearchStrategy[Request]:
        count = event["inputs"]
        right = st.lists(value, min_size=count, max_size=count)
        nearly = st.dictionaries(st.integers(0, max(0, count - 1)), value, max_size=2).map(
            lambda odd: [odd.get(i, json.dumps(usual)) for i, usual in enumerate(event["usual"])]
        )
        wrong = st.lists(value, max_size=count + 2)
        data = st.one_of(right, nearly, nearly, nearly, wrong).map(listed) | value
        extra = st.none() | value | objects(["run", "pos", "token_ids", "text", "id", "where", "job", "value"], value)
        session = st.sampled_from([json.dumps(s) for s in target.sessions])
        return st.builds(
            lambda data, extra, session: Request(
                "POST",
                "/gradio_api/queue/join" if event["queue"] else "/gradio_api/run/predict",
                f'{{"data": {data}, "fn_index": {event["id"]}, "session_hash": {session}, "event_data": '
                f'{extra or "null"}, "trigger_id": {event["trigger"]}}}'.encode(),
                session=json.loads(session),
            ),
            data,
            extra,
            session,
        )

    return st.sampled_from(target.events).flatmap(of)


def _calls(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    """Endpoints by name: the page's too, and names that there are not."""
    names = [e["name"] for e in target.events if e["name"]] + ["nothing", "..%2f", "%00", "trace%20"]
    data = st.lists(value, max_size=6).map(lambda parts: f'{{"data": {listed(parts)}}}') | value

    def build(name: str, version: str, text: str) -> Request:
        follow = f"/gradio_api/call/{name}"
        return Request("POST", f"/gradio_api/{version}/{name}", text.encode(), follow=follow)

    return st.builds(build, st.sampled_from(names), st.sampled_from(["call", "call/v2", "run", "api"]), data)


def _questions(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    keys = [
        "run",
        "pos",
        "q",
        "start",
        "id",
        "ids",
        "pins",
        "job",
        "name",
        "usd",
        "text",
        "set",
        "problem",
        "seed",
        "kind",
    ]
    data = value | objects(keys, value)

    def build(place: tuple[int, str], data: str, odd: str | None) -> Request:
        component, name = (json.dumps(x) for x in place)
        parts = {"component_id": component, "fn_name": name, "session_hash": '"fuzz0"', "data": data}
        if odd is not None:
            which, parts_value = odd
            parts[which] = parts_value
        text = "{" + ", ".join(f'"{k}": {v}' for k, v in parts.items()) + "}"
        return Request("POST", "/gradio_api/component_server", text.encode())

    odd = st.none() | st.none() | st.tuples(st.sampled_from(["component_id", "fn_name", "session_hash"]), value)
    return st.builds(build, st.sampled_from(target.functions), data, odd)


def _tools(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    def build(name: str, arguments: str, method: str) -> Request:
        params = f'{{"name": {name}, "arguments": {arguments}}}'
        text = f'{{"jsonrpc": "2.0", "id": 1, "method": {json.dumps(method)}, "params": {params}}}'
        return Request("POST", "/gradio_api/mcp/", text.encode())

    names = st.sampled_from([json.dumps(n) for n in sorted(target.verbs)]) | value
    keys = sorted({key for keys in target.verbs.values() for key in keys})
    methods = ["tools/call"] * 4 + [
        "tools/list",
        "resources/read",
        "prompts/get",
        "initialize",
        "completion/complete",
        "x",
    ]
    raw = value.map(lambda text: Request("POST", "/gradio_api/mcp/", text.encode()))
    return st.builds(build, names, objects(keys, value) | value, st.sampled_from(methods)) | raw


def _files(target: Target) -> st.SearchStrategy[Request]:
    tails = [f"{dots}{p}" for p in target.canaries for dots in ("", "../" * 12, "..//" * 12, "....//" * 6, "/", "//")]
    tails += [*TAILS, f"{tempfile.gettempdir()}/gradio", "x" * 3000, "\u202e", "é", ""]
    ways = [
        lambda t: t,
        quote,
        lambda t: quote(t, safe=""),
        lambda t: quote(quote(t, safe=""), safe=""),
        lambda t: t.replace(".", "%2e"),
    ]

    def build(root: str, tail: str, way: Any, method: str) -> Request:
        path = root + way(tail)
        return Request(method, path.replace(" ", "%20"))

    methods = st.sampled_from(["GET"] * 6 + ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
    return st.builds(build, st.sampled_from(ROOTS), st.sampled_from(tails), st.sampled_from(ways), methods)


def _others(target: Target, value: st.SearchStrategy[str]) -> st.SearchStrategy[Request]:
    """Everything else that gradio listens to, with bodies of any kind."""
    keys = words(
        """session_hash fn_index event_id data fn_name component_id trigger_id event_data simple_format batched request
        oauth_token prompt code"""
    )
    body = st.one_of(value, objects(keys, value), objects(keys, value)).map(str.encode) | st.binary(max_size=40)
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../../x.txt"\r\n\r\nhello\r\n--x--\r\n'
    kinds = ["application/json"] * 4 + ["text/plain", "multipart/form-data; boundary=x", "multipart/form-data", "x"]
    posts = st.builds(
        lambda path, body, kind: Request("POST", path, form if kind.endswith("=x") else body, kind),
        st.sampled_from(POSTED),
        body,
        st.sampled_from(kinds),
    )
    return posts | posts | st.sampled_from(READS).map(lambda path: Request("GET", path))
