"""Visitors by signed cookies: what is forged counts for nothing, the owner's token opens all and shows up nowhere."""

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import fastapi
import gradio as gr
import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from rmx.errors import RmxError, TrainError
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore
from rmx.ui.jobs.training import Training
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import (
    SECRET,
    TOKEN,
    Greeter,
    Owners,
    Visitor,
    is_loopback,
    is_near,
    owners_of,
    stranger,
)

pytestmark = pytest.mark.slow

KEY = "a-token-of-the-owner/+&="


@pytest.fixture
def owners():
    return Owners(b"k" * 32, token=KEY)


def site(owners) -> fastapi.FastAPI:
    """A page that says who looks, behind the middleware."""
    api = fastapi.FastAPI()
    api.add_middleware(Greeter, owners=owners)

    @api.get("/")
    @api.get("/who")
    @api.post("/who")
    def who(request: fastapi.Request) -> dict[str, object]:
        visitor = owners.visitor_of(request)
        return {"public": visitor.public, "admin": visitor.admin, "query": request.url.query}

    return api


@pytest.fixture
def client(owners):
    with TestClient(site(owners), base_url="http://rmx.example") as client:
        yield client


# -- cookies ----------------------------------------------------------------------------------------------------------


def test_a_cookie_says_who_and_no_more(owners):
    visitor = stranger()
    assert owners.read(owners.value(visitor)) == visitor
    assert owners.read(owners.value(Visitor(visitor.id, admin=True))) == Visitor(visitor.id, admin=True)
    assert stranger().id != visitor.id
    assert len(visitor.public) == 12
    assert visitor.public not in visitor.id
    assert Visitor(visitor.id, admin=True).public == visitor.public  # the owner keeps what was started before


@pytest.mark.parametrize(
    "forge",
    [
        lambda good, _: None,
        lambda good, _: "",
        lambda good, _: ".",
        lambda good, _: good.partition(".")[0],
        lambda good, _: "0" * 32 + "." + good.partition(".")[2],
        lambda good, _: good[:-1] + ("0" if good[-1] != "0" else "1"),
        lambda good, _: good.replace(".", "-owner."),
        lambda good, _: good + ".",
        lambda good, _: good.partition(".")[0] + "." + "é" * 64,
        lambda good, visitor: Owners(b"other" * 8, token=KEY).value(visitor),
        lambda good, visitor: Owners(b"k" * 32, token="another token!").value(Visitor(visitor.id, admin=True)),
    ],
)
def test_what_is_forged_counts_for_nothing(owners, forge):
    visitor = stranger()
    assert owners.read(forge(owners.value(visitor), visitor)) is None


def test_another_token_ends_the_owners_rights_and_leaves_visitors_be(owners):
    admin, plain = Visitor("a" * 32, admin=True), Visitor("b" * 32)
    later = Owners(b"k" * 32, token="a token of later days")
    assert later.read(owners.value(admin)) is None
    assert later.read(owners.value(plain)) == plain
    assert Owners(b"k" * 32).read(owners.value(admin)) is None


def test_apps_with_other_secrets_use_cookies_of_other_names(owners):
    assert Owners(b"x" * 32).cookie != owners.cookie
    assert Owners(b"k" * 32).cookie == owners.cookie


# -- what a visitor may -----------------------------------------------------------------------------------------------


def test_only_who_started_a_run_and_the_owner_may_change_it():
    mine, other, admin = stranger(), stranger(), Visitor("c" * 32, admin=True)
    assert mine.may_change(mine.public)
    assert not other.may_change(mine.public)
    assert not mine.may_change(None)  # a run of the command line
    assert admin.may_change(mine.public)
    assert admin.may_change(None)
    assert not Visitor(mine.public).may_change(mine.public)  # what everybody may see opens nothing


def test_another_visitors_run_cannot_be_touched_through_the_pages(tmp_path):
    store = RunStore(tmp_path)
    training, mine, other = Training(Workspace(), store), stranger(), stranger()
    run = store.create(TrainJob(), owner=mine.public)
    for act in (training.stop, training.resume, training.remove, training.note, training.push):
        with pytest.raises(TrainError, match="Only who started a run, or the owner of this machine"):
            act({"id": run.id, "text": "mine now"}, other)
    assert run.config["note"] == ""
    training.note({"id": run.id, "text": "first"}, mine)
    training.note({"id": run.id, "text": "second"}, Visitor("d" * 32, admin=True))
    assert run.config["note"] == "second"
    training.remove({"id": run.id}, mine)
    assert store.all() == []


# -- the middleware ---------------------------------------------------------------------------------------------------


def test_the_first_page_sets_a_cookie_and_the_next_ones_know_it(client, owners):
    first = client.get("/")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(owners.cookie + "=")
    for flag in ("HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=31536000"):
        assert flag in cookie
    assert "Secure" not in cookie
    again = client.get("/")
    assert "set-cookie" not in again.headers
    assert client.get("/who").json()["public"] == again.json()["public"]
    assert not again.json()["admin"]


def test_what_is_no_page_sets_none(client):
    assert "set-cookie" not in client.get("/who").headers


@pytest.mark.parametrize("proto", ["https", "https,http", "https, http"])
def test_over_https_a_frame_of_another_site_gets_it_too(client, proto):
    cookie = client.get("/", headers={"x-forwarded-proto": proto}).headers["set-cookie"]
    for flag in ("SameSite=None", "Secure", "Partitioned", "HttpOnly"):
        assert flag in cookie


def test_a_forged_cookie_gets_a_new_one(client, owners):
    client.cookies.set(owners.cookie, "0" * 32 + "-owner." + "0" * 64)
    page = client.get("/")
    assert "set-cookie" in page.headers
    assert not page.json()["admin"]


def test_the_token_opens_the_owners_rights_and_leaves_the_address(client, owners):
    before = client.get("/").json()
    before = client.get("/").json()
    answer = client.get("/", params={"owner": KEY, "tab": "runs & more", "empty": ""}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "?tab=runs+%26+more&empty="
    assert answer.headers["cache-control"] == "no-store"
    after = client.get("/").json()
    assert (after["admin"], after["public"]) == (True, before["public"])
    assert client.get("/", params={"owner": KEY}, follow_redirects=False).headers["location"] == "."
    assert client.get("/", params={"owner": KEY}).url == "http://rmx.example/"


@pytest.mark.parametrize("given", ["", "wrong", KEY + "x", KEY[:-1], "é"])
def test_a_wrong_token_opens_nothing_and_says_so(client, given):
    answer = client.get("/", params={"owner": given}, follow_redirects=False)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert not client.get("/").json()["admin"]


def test_without_a_token_none_is_right():
    with TestClient(site(Owners(b"k" * 32))) as client:
        for given in ("", "None"):
            assert client.get("/", params={"owner": given}, follow_redirects=False).status_code == 403


def test_the_redirect_leads_to_no_other_host(owners):
    with TestClient(site(owners)) as client:
        answer = client.get("http://testserver//evil.example/", params={"owner": KEY}, follow_redirects=False)
        assert answer.headers["location"] == "."
        host = {"host": "evil.example"}
        answer = client.get("/", params={"owner": KEY}, headers=host, follow_redirects=False)
        assert "evil" not in answer.headers["location"]


@pytest.mark.parametrize(
    ("where", "code"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_a_page_of_another_site_cannot_act_for_a_visitor(client, where, code):
    assert client.post("/who", headers={"sec-fetch-site": where}).status_code == code
    assert client.get("/who", headers={"sec-fetch-site": where}).status_code == 200  # a frame may be opened
    assert client.post("/who").status_code == 200  # a program


# -- whose machine it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "near"),
    [
        ({"host": "127.0.0.1:7860"}, True),
        ({"host": "localhost:7860"}, True),
        ({"host": "localhost"}, True),
        ({"host": "[::1]:7860"}, True),
        ({"host": "[::1]"}, True),
        ({"host": "rmx.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "[oops"}, False),
        ({}, False),
        ({"host": "localhost:7860", "x-forwarded-for": "203.0.113.7"}, False),
        ({"host": "localhost:7860", "forwarded": "for=203.0.113.7"}, False),
    ],
)
def test_near_is_who_names_this_machine_without_a_proxy_between(headers, near):
    class Request:
        cookies: dict[str, str] = {}

    request = Request()
    request.headers = headers
    assert is_near(request) is near
    assert Owners(b"k" * 32, everybody=True).visitor_of(request).admin is near
    assert not Owners(b"k" * 32).visitor_of(request).admin


@pytest.mark.parametrize(
    ("host", "token", "everybody"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", True),
        ("::1", "", True),
        ("0.0.0.0", "", False),
        ("127.0.0.1", KEY, False),
    ],
)
def test_everybody_is_the_owner_where_only_this_machine_reaches_the_app(monkeypatch, host, token, everybody):
    monkeypatch.setenv(TOKEN, token)
    with TestClient(site(owners_of(host)), base_url="http://localhost:7860") as client:
        assert client.get("/").json()["admin"] is everybody


def test_loopback_names():
    assert [is_loopback(h) for h in ("127.3.2.1", "::1", "LOCALHOST", "0.0.0.0", "", "10.0.0.1")] == [True] * 3 + [
        False
    ] * 3


@pytest.mark.parametrize(("variable", "least"), [(SECRET, 32), (TOKEN, 12)])
def test_what_could_be_guessed_is_refused_at_start(monkeypatch, variable, least):
    monkeypatch.setenv(variable, "x" * (least - 1))
    with pytest.raises(RmxError, match=f"{variable} must have at least {least}"):
        owners_of("127.0.0.1")


# -- the secret -------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv(SECRET, raising=False)
    return tmp_path / "runs"


def test_a_secret_is_made_once_and_only_its_user_reads_it(runs):
    cookie = owners_of("0.0.0.0").value(Visitor("e" * 32))
    assert owners_of("0.0.0.0").read(cookie) == Visitor("e" * 32)  # the app, started again
    path = runs / ".secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert [p.name for p in runs.iterdir()] == [".secret"]


def test_several_apps_that_start_together_have_one_secret(runs):
    script = (
        "from rmx.ui.visitor_cookie import _secret; from rmx.config import runs_dir; print(_secret(runs_dir()).hex())"
    )
    made = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in made}) == 1


def test_who_comes_second_leaves_the_first_one_s_secret(runs):
    from rmx.ui.visitor_cookie import _make_secret

    runs.mkdir()
    _make_secret(runs / ".secret")
    first = (runs / ".secret").read_bytes()
    _make_secret(runs / ".secret")  # it had found none either
    assert (runs / ".secret").read_bytes() == first
    assert [p.name for p in runs.iterdir()] == [".secret"]


def test_a_secret_of_the_environment_makes_no_file(runs, monkeypatch):
    monkeypatch.setenv(SECRET, "one secret for several machines, long enough")
    first, second = owners_of("0.0.0.0"), Owners(b"one secret for several machines, long enough")
    assert second.read(first.value(Visitor("f" * 32))) == Visitor("f" * 32)
    assert not runs.exists()


def test_a_secret_that_was_cut_short_is_made_anew(runs):
    runs.mkdir()
    (runs / ".secret").write_bytes(b"")
    owners_of("0.0.0.0")
    assert len((runs / ".secret").read_bytes()) == 32


def test_without_hard_links_it_is_moved_into_place(runs, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    cookie = owners_of("0.0.0.0").value(Visitor("e" * 32))
    assert owners_of("0.0.0.0").read(cookie) == Visitor("e" * 32)
    assert [p.name for p in runs.iterdir()] == [".secret"]


def test_where_nothing_can_be_kept_the_app_still_starts(runs, caplog):
    runs.write_text("a file in the way")
    owners = owners_of("0.0.0.0")
    assert owners.read(owners.value(Visitor("e" * 32))) == Visitor("e" * 32)
    assert "until the app ends" in caplog.text


# -- a running app ----------------------------------------------------------------------------------------------------


class Serving:
    """An app on a port of its own, for the length of a `with` block; every line that its server logs is kept."""

    def __init__(self, api):
        self.server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, log_level="info"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.lines: list[str] = []

    def __enter__(self):
        kept = logging.Handler()
        kept.emit = lambda record: self.lines.append(record.getMessage())
        logging.getLogger("uvicorn.access").addHandler(kept)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)


def gradio_site(owners) -> fastapi.FastAPI:
    """A gradio page whose callbacks say who called: in the queue, past it, and as a server function."""
    api = fastapi.FastAPI()
    api.add_middleware(Greeter, owners=owners)

    def who(request: gr.Request) -> dict[str, object]:
        visitor = owners.visitor_of(request)
        return {"public": visitor.public, "admin": visitor.admin}

    with gr.Blocks(analytics_enabled=False) as demo:
        button, out = gr.Button("Who"), gr.JSON()
        button.click(who, None, out, api_name="queued")
        button.click(who, None, out, api_name="direct", queue=False)
    return gr.mount_gradio_app(api, demo, path="/")


def called(client: httpx.Client, name: str) -> dict[str, object]:
    """What a callback answers, called as a page calls it."""
    import json

    index = next(d["id"] for d in client.get("/config").json()["dependencies"] if d["api_name"] == name)
    body = {"data": [], "fn_index": index, "session_hash": "s"}
    if name == "direct":
        return client.post("/gradio_api/run/predict", json=body).json()["data"][0]
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s"}) as stream:
        for line in stream.iter_lines():
            told = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if told.get("msg") == "process_completed":
                return told["output"]["data"][0]
    raise AssertionError("no answer")


def test_callbacks_of_a_running_page_know_their_visitor(owners):
    with (
        Serving(gradio_site(owners)) as app,
        httpx.Client(base_url=app.url) as one,
        httpx.Client(base_url=app.url) as two,
    ):
        for client in (one, two):
            client.get("/")
        first = called(one, "queued")
        assert first == called(one, "direct")
        assert called(two, "queued")["public"] != first["public"]
        assert not first["admin"]
        two.get("/", params={"owner": KEY}, follow_redirects=True).raise_for_status()
        assert called(two, "queued")["admin"]
        assert called(two, "direct")["admin"]
        assert not called(one, "direct")["admin"]
        two.cookies.clear()
        assert not called(two, "direct")["admin"]


def test_the_token_is_in_no_line_of_the_log(owners):
    with Serving(site(owners)) as app, httpx.Client(base_url=app.url) as client:
        client.get("/", params={"owner": KEY, "tab": "runs"}, follow_redirects=True).raise_for_status()
        client.get("/", params={"owner": KEY + "wrong"})
        client.get("/nowhere", params={"owner": KEY})
    logged = "\n".join(app.lines)
    assert "GET /?tab=runs" in logged
    assert "/nowhere" in logged
    assert "owner" not in logged
    assert KEY[:7] not in logged


def test_the_app_itself_greets(monkeypatch):
    monkeypatch.setenv(TOKEN, KEY)
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(web_app(space, Settings()), base_url="http://localhost") as client:
        page = client.get("/")
        assert "rmx_visitor_" in page.headers["set-cookie"]
        assert "Content-Security-Policy" in page.headers
        assert "set-cookie" not in client.get("/health").headers
        assert client.get("/", params={"owner": KEY}, follow_redirects=False).status_code == 303


def test_a_served_app_prints_no_token(tmp_path):
    """The command as it is given, with everything that it writes."""
    more = {TOKEN: KEY, "RMX_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rmx", "serve", "--port", "0"]
    app = subprocess.Popen(
        command,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        url = app.stdout.readline().split()[3]
        with httpx.Client(base_url=url) as client:
            answer = client.get("/", params={"owner": KEY}, follow_redirects=True)
            assert answer.status_code == 200
            assert "owner" not in str(answer.url)
            assert KEY not in answer.text
            client.get("/gradio_api/info", params={"owner": KEY})
    finally:
        app.terminate()
        said = app.communicate(timeout=30)[0]
    assert KEY[:7] not in said
