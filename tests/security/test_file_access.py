"""No road leads to a file of the machine, and nothing a visitor sends makes the server look up a name."""

import json
import os
import re
import socket
import tempfile
from pathlib import Path

import gradio as gr
import httpx
import pytest

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from tests.helpers.live import running

CANARY = "the canary of this test"
FILE_DATA = {"_type": "gradio.FileData"}
# 5: each event by one of its six doors.
EVERY = pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A file outside everything that the app may touch."""
    path = tmp_path_factory.mktemp("machine") / "canary.txt"
    path.write_text(CANARY, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["private", "public"])
def app(request):
    """The app's address and what its page offers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmx.ui.server.rate_limit.AccessGate._too_often", lambda *_: 0.0)
        space = Workspace(loader=lambda spec: scripted_model())
        space.model("mini")
        with running(space, public=request.param) as url:
            yield url, httpx.get(f"{url}/config").json()


def file_objects(path):
    """A file as gradio's clients describe it, in the places where one could hide."""
    plain = {"path": str(path), "meta": FILE_DATA}
    return [plain, {"url": str(path), **plain}, [[plain]], {"deep": {"deeper": [plain]}}, {**plain, "meta": 1}]


def doors(config, every):
    """Each road that hands a body to gradio, with an event or a question behind it; of all of them each `every`-th."""
    return list(all_doors(config))[::every]


def all_doors(config):
    for event in config["dependencies"]:
        for road in ("run/predict", "queue/join"):
            yield road, {"fn_index": event["id"], "session_hash": "x"}, len(event["inputs"])
        if event["api_name"]:
            for road in ("call", "run", "api", "call/v2"):
                yield f"{road}/{event['api_name']}", {"session_hash": "x"}, len(event["inputs"])


def temporary_files():
    """Everything in the folders where gradio keeps files."""
    roots = {Path(tempfile.gettempdir()) / "gradio", Path(os.environ.get("GRADIO_TEMP_DIR", "/nowhere"))}
    return {path for root in roots if root.is_dir() for path in root.rglob("*") if path.is_file()}


@EVERY
def test_no_event_takes_a_file_by_its_path(app, canary, every):
    url, config = app
    before = temporary_files()
    objects = file_objects(canary)
    with httpx.Client(base_url=f"{url}/gradio_api/") as client:
        for n, (road, body, inputs) in enumerate(doors(config, every)):
            for value in objects if every == 1 and road == "run/predict" else [objects[n % len(objects)]]:
                given = {"data": [value, *[None] * (inputs - 1)]} if inputs else {"data": value}
                answer = client.post(road, json=body | given)
                assert 400 <= answer.status_code < 500, (road, body, answer.text)
                assert CANARY not in answer.text
                assert str(canary.parent) not in answer.text
    assert temporary_files() == before


def test_no_question_takes_a_file_by_its_path(app, canary):
    url, config = app
    asked = 0
    for component in config["components"]:
        for name in component["props"].get("server_fns") or []:
            body = {"component_id": component["id"], "fn_name": name, "session_hash": "x"}
            given = {"data": {"path": str(canary), "meta": FILE_DATA}}
            answer = httpx.post(f"{url}/gradio_api/component_server", json=body | given)
            assert answer.status_code == 422, (name, answer.text)
            asked += 1
    assert asked > 10


def test_a_file_object_is_found_behind_escapes_and_other_encodings(app, canary):
    url, config = app
    body = {"data": [{"path": str(canary), "meta": FILE_DATA}], "fn_index": 0, "session_hash": "x"}
    text = json.dumps(body)
    escaped = text.replace("gradio.FileData", "\\u0067radio.FileData").replace('"meta"', '"\\u006deta"')
    assert json.loads(escaped) == body
    for content in (escaped.encode(), text.encode("utf-16"), text.encode("utf-32-le"), text.encode("utf-8-sig")):
        for kind in ("application/json", "text/plain", "application/JSON; charset=utf-16"):
            answer = httpx.post(f"{url}/gradio_api/run/predict", content=content, headers={"content-type": kind})
            assert 400 <= answer.status_code < 500, answer.text


@EVERY
def test_no_name_is_looked_up(app, monkeypatch, every):
    """A file object with an http path made gradio resolve the name and fetch what it found."""
    url, config = app
    asked, real = [], socket.getaddrinfo

    def look_up(host, *rest, **more):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in ("127.0.0.1", "localhost", None):
            asked.append(name)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    value = {"path": "http://canary.invalid/x", "url": "http://canary.invalid/y", "meta": FILE_DATA}
    with httpx.Client(base_url=f"{url}/gradio_api/") as client:
        for road, body, inputs in doors(config, every):
            client.post(road, json=body | {"data": [value, *[None] * max(0, inputs - 1)]})
    assert asked == []


@pytest.mark.parametrize(
    "way", ["file=", "file/", "file=/", "file%3D", "%66ile=", "file=./", "/file=", "proxy=", "stream/"]
)
def test_the_file_routes_are_closed_even_for_what_gradio_made(app, way):
    """What lies in gradio's own folder would be served to anybody who knows its name."""
    url, _ = app
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "made.txt"
    made.write_text(CANARY, encoding="utf-8")
    for name in (made, canary_in_cwd()):
        answer = httpx.get(f"{url}/gradio_api/{way}{name}")
        assert answer.status_code in (403, 404), way
        assert CANARY not in answer.text


def canary_in_cwd():
    return Path.cwd() / "pyproject.toml"


def test_gradio_keeps_its_files_in_a_folder_of_the_app_alone(app):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    assert folder != Path(tempfile.gettempdir()) / "gradio"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_gradio_checks_paths_once_the_page_is_mounted(canary):
    """The second depth: were a file object to get through, gradio would refuse to copy the file."""
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import move_files_to_cache

    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    app = web_app(space, Settings())
    (page,) = (route.app.blocks for route in app.routes if hasattr(getattr(route, "app", None), "blocks"))
    box = next(block for block in page.blocks.values() if isinstance(block, gr.HTML))
    token = LocalContext.blocks.set(page)
    try:
        with pytest.raises(InvalidPathError):
            move_files_to_cache({"path": str(canary), "meta": FILE_DATA}, box, check_in_upload_folder=True)
    finally:
        LocalContext.blocks.reset(token)


# -- a page of another site whose name resolves to this machine -------------------------------------------------------

NEAR = ["127.0.0.1", "localhost", "[::1]", "127.0.0.1:7860", "LOCALHOST:1", "192.168.1.20:7860", "[fd00::7]"]
FAR = [
    "evil.example",
    "evil.example:7860",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "",
    "a b",
    "127.0.0.1@evil",
]


def status_of(url, host, path="/config"):
    """What a private app answers when it is called by another name."""
    port = int(re.search(r":(\d+)$", url)[1])
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(plain.makefile("rb").readline().split()[1])


@pytest.mark.parametrize(
    "path", ["/", "/config", "/health", "/gradio_api/info", "/gradio_api/mcp", "/runs/x/adapter.zip"]
)
def test_a_private_app_answers_to_its_own_names_only(app, path):
    url, config = app
    if config_is_public(url):
        assert status_of(url, "any.example") == 200
        return
    for host in NEAR:
        assert status_of(url, host, path) in (200, 307, 404), host
    for host in FAR:
        assert status_of(url, host, path) in (400, 421), host


def config_is_public(url):
    return httpx.get(f"{url}/config", headers={"host": "some.example"}).status_code == 200


def test_names_of_a_private_app_are_a_setting(monkeypatch):
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    monkeypatch.setenv("RMX_HOSTS", "demo.example, *.lab.example")
    with running(space, public=False, hosts=Settings().hosts) as url:
        assert status_of(url, "demo.example:80") == 200
        assert status_of(url, "gpu.lab.example") == 200
        assert status_of(url, "lab.example") == 421
        assert status_of(url, "evil.example") == 421
