"""Every path is closed but those of one table, however it is spelt; and the table is compared with the app's routes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.responses import JSONResponse
from starlette.routing import Mount

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.doors import DOORS, LARGE, SMALL, Doors, door_of, normal_path
from rmx.ui.server.rate_limit import CROWD, PACE
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

# What gradio 6.31 and this app answer to, and whether it is open. A release with another route has to be looked at.
OPEN = """
GET /health | GET /metrics |  GET /runs/{run}/adapter.zip | POST /files/problems | POST /files/tree
GET /assets/ui/{version}/{path:path} | HEAD /assets/ui/{version}/{path:path}
GET / | HEAD / | GET /config | GET /config/ | GET /gradio_api/info | GET /gradio_api/info/
GET /static/{path:path} | GET /assets/{path:path} | GET /favicon.ico | GET /robots.txt | GET /pwa_icon
GET /manifest.json | GET /theme.css | GET /gradio_api/theme.css | GET /gradio_api/app_id | GET /gradio_api/app_id/
GET /gradio_api/startup-events | GET /gradio_api/heartbeat/{session_hash} | GET /gradio_api/queue/data
POST /gradio_api/queue/join | POST /gradio_api/run/{api_name} | POST /gradio_api/run/{api_name}/
POST /gradio_api/api/{api_name} | POST /gradio_api/api/{api_name}/ | POST /gradio_api/call/{api_name}
POST /gradio_api/call/{api_name}/ | POST /gradio_api/call/v2/{api_name} | POST /gradio_api/call/v2/{api_name}/
GET /gradio_api/call/{api_name}/{event_id} | GET /gradio_api/call/v2/{api_name}/{event_id}
GET /opening | GET /assets/ui/{digest}.css | HEAD /assets/ui/{digest}.css
POST /gradio_api/component_server | POST /gradio_api/component_server/ | POST /gradio_api/cancel
POST /gradio_api/reset | POST /gradio_api/reset/
"""
CLOSED = """
GET /openapi.json | HEAD /openapi.json | GET /gradio_api/mcp/schema | HEAD /gradio_api/mcp/schema
GET /gradio_api/mcp/sse | HEAD /gradio_api/mcp/sse | POST /login | POST /login/ | GET /logout
GET /svelte/{path:path} | GET /gradio_api/deep_link | GET /pwa_icon/{size} | GET /monitoring
GET /monitoring/summary | GET /monitoring/{key} | GET /gradio_api/user | GET /gradio_api/user/
GET /gradio_api/login_check | GET /gradio_api/login_check/ | GET /gradio_api/token | GET /gradio_api/token/
GET /gradio_api/dev/reload | GET /gradio_api/runs | GET /gradio_api/runs/ | POST /gradio_api/run-history/connect
GET /gradio_api/run-history/buckets | GET /gradio_api/run-history/records
GET /gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id} | GET /gradio_api/openapi.json
GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name} | HEAD /gradio_api/proxy={url_path:path}
GET /gradio_api/proxy={url_path:path} | HEAD /gradio_api/file={path_or_url:path}
GET /gradio_api/file={path_or_url:path} | POST /gradio_api/stream/{event_id} | POST /gradio_api/stream/{event_id}/close
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file | GET /gradio_api/file/{path:path}
GET /gradio_api/queue/status | GET /gradio_api/upload_progress | POST /gradio_api/upload
POST /gradio_api/process_recording | POST /gradio_api/vibe-edit/ | POST /gradio_api/vibe-edit
POST /gradio_api/undo-vibe-edit/ | POST /gradio_api/undo-vibe-edit | GET /gradio_api/vibe-code/
GET /gradio_api/vibe-code | POST /gradio_api/vibe-code/ | POST /gradio_api/vibe-code
POST /gradio_api/vibe-starter-queries/ | POST /gradio_api/vibe-starter-queries
"""
MOUNTS = {"", "/gradio_api/mcp", "/gradio_api/mcp/messages"}


def table(text):
    return {row.strip() for line in text.strip().splitlines() for row in line.split("|")}


def web(**settings):
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    return web_app(space, Settings(**settings))


def routes_of(app, prefix=""):
    """METHOD /path of every route, those of included and mounted applications too."""
    for route in app.routes:
        if isinstance(route, Mount):
            assert prefix + route.path in MOUNTS, route.path
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None:
            yield from routes_of(inner, prefix)
        elif getattr(route, "methods", None):
            yield from (f"{method} {prefix}{route.path}" for method in route.methods)
        elif isinstance(route, Mount) and hasattr(route, "routes"):
            yield from routes_of(route, prefix + route.path)


def test_the_table_knows_every_route_and_what_it_may_do():
    found = set(routes_of(web()))
    assert len(found) > 80  # gradio's own are among them
    assert found - table(OPEN) - table(CLOSED) == set()
    examples = {"{path:path}": "x.js", "{path_or_url:path}": "/etc/passwd", "{url_path:path}": "x", "{run}": "r1"}
    for row in table(OPEN) | table(CLOSED):
        method, path = row.split()
        for name, value in examples.items():
            path = path.replace(name, value)
        path = path.replace("{", "").replace("}", "")
        assert (door_of(method, path) is not None) == (row in table(OPEN)), row


def test_bodies_are_small_but_for_the_two_doors_that_take_files():
    large = [door.path.pattern for door in DOORS if door.most_bytes > SMALL]
    assert large == [r"/files/(problems|tree)"]
    assert all(door.most_bytes == 0 for door in DOORS if not {"POST", "DELETE"} & door.methods)
    assert SMALL <= 65_536 < LARGE


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("/", "/"),
        ("/config/", "/config/"),
        ("//gradio_api//upload", "/gradio_api/upload"),
        ("/gradio_api/./upload", "/gradio_api/upload"),
        ("/assets/../gradio_api/upload", "/gradio_api/upload"),
        ("/%67radio_api/upload", "/gradio_api/upload"),
        ("/gradio_api%2fupload", "/gradio_api/upload"),
        ("/gradio_api%252fupload", "/gradio_api/upload"),
        ("/rmx/gradio_api/upload", "/gradio_api/upload"),
        ("/rmx/rmx/gradio_api/upload", "/gradio_api/upload"),
        ("/rmx//rmx/./gradio_api/upload", "/gradio_api/upload"),
        ("/rmx", "/"),
        ("/rmx/", "/"),
        ("/rmxx/", "/rmxx/"),
        ("/a%25252525252f", None),
        ("/a\\b", None),
        ("/a\nb", None),
        ("/a%00b", None),
        ("upload", None),
        ("*", None),
    ],
)
def test_a_path_has_one_spelling(given, found):
    assert normal_path(given, "/rmx") == found


SPELLINGS = [
    "/rmx/gradio_api/upload", "/rmx/rmx/gradio_api/upload", "//rmx/gradio_api/upload", "/rmx//gradio_api/upload",
    "/rmx/%67radio_api/upload", "/rmx/gradio_api/%75pload", "/%72mx/gradio_api/upload", "/gradio_api/upload",
    "/rmx/assets/../gradio_api/upload", "/rmx/./gradio_api/upload", "/rmx/gradio_api/upload/",
    "/rmx/gradio_api%2Fupload",
]  # fmt: skip


@pytest.fixture(scope="module")
def below():
    """A public app that a proxy serves below /rmx."""
    with TestClient(web(public=True, root_path="/rmx")) as client:
        yield client


@pytest.mark.parametrize("path", SPELLINGS)
def test_a_prefix_opens_no_closed_door(below, path):
    answer = below.post(path, files={"files": ("x.txt", b"content")})
    assert answer.status_code == 404, answer.text


def test_a_prefix_lifts_no_limit(monkeypatch):
    monkeypatch.setitem(PACE, "work", (6, 1e-6))  # few, and none more while the test runs
    paths = ["/rmx/gradio_api/queue/join", "/rmx/rmx/gradio_api/queue/join", "/gradio_api/queue/join"]
    with TestClient(web(public=True, root_path="/rmx")) as client:
        codes = [client.post(path, json={}).status_code for _ in range(30) for path in paths]
    assert 0 < len(codes) - codes.count(429) <= CROWD * 6
    assert all(429 in codes[which :: len(paths)] for which in range(len(paths)))


def test_the_page_works_below_its_prefix(below):
    for path in ("/rmx/", "/"):
        page = below.get(path)
        assert page.status_code == 200
        assert '"root":"http://testserver/rmx"' in page.text.replace(" ", "")
    body = {"prompt": "1 + 1", "max_new_tokens": 3, "brief": True}
    event = below.post("/rmx/gradio_api/call/v2/trace", json=body).json()["event_id"]
    assert '"length"' in below.get(f"/rmx/gradio_api/call/trace/{event}").text


def test_what_comes_further_in_sees_the_path_that_was_looked_up():
    seen = []

    async def inner(scope, receive, send):
        seen.append((scope["path"], scope["raw_path"], scope["rmx.door"].kind))
        await JSONResponse({})(scope, receive, send)

    async def ask(path):
        transport = httpx.ASGITransport(Doors(inner, prefix="/rmx"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get(path)).status_code

    with ThreadPoolExecutor(1) as thread:  # the browser tests leave a running loop in this one
        assert thread.submit(asyncio.run, ask("/rmx//%67radio_api/./info")).result() == 200
        assert thread.submit(asyncio.run, ask("/rmx/gradio_api/file=/etc/passwd")).result() == 404
    assert seen == [("/gradio_api/info", b"/gradio_api/info", "page")]


# -- what is answered -------------------------------------------------------------------------------------------------


def test_the_description_of_the_api_does_not_keep_a_strangers_address(below):
    for header in ("x-forwarded-host", "x-gradio-server"):
        assert below.get("/gradio_api/info", headers={header: "http://evil.example"}).status_code == 200
        assert "evil.example" not in below.get("/gradio_api/info").text
        assert "evil.example" not in below.get("/").text
    assert "evil.example" not in below.get("/", headers={"x-gradio-server": "http://evil.example"}).text


def test_the_page_is_made_once_for_each_address(monkeypatch):
    made = []
    real = gr.route_utils.update_root_in_config
    monkeypatch.setattr(gr.route_utils, "update_root_in_config", lambda *a: made.append(a[1]) or real(*a))
    with TestClient(web(), base_url="http://localhost") as client:
        first, second = client.get("/"), client.get("/?__theme=dark", headers={"cookie": "x=y"})
        assert first.text == second.text
        assert made == ["http://localhost"]
        client.get("/", headers={"host": "127.0.0.1:80"})
        assert made == ["http://localhost", "http://127.0.0.1:80"] or len(made) == 2
        assert first.headers["set-cookie"] != second.headers["set-cookie"]


def test_no_other_origin_may_read_answers(below):
    for path in ("/", "/config", "/gradio_api/info", "/health"):
        headers = below.get(path, headers={"origin": "https://evil.example"}).headers
        assert not [name for name in headers if name.startswith("access-control-")]
    assert below.options("/gradio_api/info", headers={"origin": "https://evil.example"}).status_code == 404


def test_https_is_asked_for_where_it_is_certain(below):
    assert "strict-transport-security" not in below.get("/health").headers
    assert (
        "max-age" in below.get("/health", headers={"x-forwarded-proto": "https"}).headers["strict-transport-security"]
    )
    with TestClient(web(), base_url="http://localhost") as private:  # nobody vouches for the header there
        assert "strict-transport-security" not in private.get("/health", headers={"x-forwarded-proto": "https"}).headers


@pytest.mark.parametrize(
    "door", ["cancel", "reset", "component_server", "run/predict", "queue/join", "call/trace", "mcp/"]
)
def test_a_large_body_is_refused_before_it_is_read(below, door):
    answer = below.post(f"/gradio_api/{door}", content=b'{"a":[' + b"[]," * 2_000_000 + b"[]]}")
    assert answer.status_code == 413
    assert len(answer.content) < 300


def test_a_refusal_of_a_body_does_not_repeat_it(below):
    word = "x" * 5000
    for door in ("cancel", "reset"):
        answer = below.post(
            f"/gradio_api/{door}", json={"session_hash": "x", "fn_index": {"a": word}, "event_id": [word]}
        )
        assert len(answer.content) < 500, answer.text[:300]
