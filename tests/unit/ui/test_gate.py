"""What stands before the page: passwords, sizes, how often one may ask, a full line; and what is told of requests."""

import asyncio
import base64
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.jobs.page_jobs import metrics, observed
from rmx.ui.server.doors import LARGE, SMALL
from rmx.ui.server.rate_limit import AccessGate
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Allowance, Owners, stranger

SECRET, RIGHT = b"s" * 32, "anna:correct horse"


@pytest.fixture(scope="module")
def real():
    """The whole app, behind a password."""
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(
        web_app(space, Settings(auth="anna:correct horse", metrics=False, hosts=("testserver",)))
    ) as client:
        yield client


def gated(waiting=lambda: 0, most=9, **kwargs):
    """Any app behind the gate."""
    inner = Starlette(
        routes=[Route("/{path:path}", lambda request: PlainTextResponse("inside"), methods=["GET", "POST"])]
    )
    return TestClient(AccessGate(inner, Owners(SECRET), waiting, most, **kwargs))


def known(client):
    """The same client with the cookie of a new visitor."""
    owners = Owners(SECRET)
    client.cookies.set(owners.cookie, owners.value(stranger()))
    return client


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_an_allowance_is_spent_and_comes_back():
    clock = Clock()
    allowance = Allowance(3, 0.5, clock)
    assert [allowance.take("a") for _ in range(3)] == [0, 0, 0]
    assert allowance.take("a") == 2.0  # half a request a second: one in two seconds
    assert allowance.take("b") == 0  # each for itself
    clock.now = 2.0
    assert [allowance.take("a"), allowance.take("a") > 0] == [0, True]
    clock.now = 1e6
    assert [allowance.take("a") for _ in range(4)][:3] == [0, 0, 0]  # never more than the burst
    clock.now = 0.0  # a clock that goes back gives nothing and takes nothing
    assert allowance.take("a") > 0


def test_allowances_do_not_grow_without_end(monkeypatch):
    monkeypatch.setattr("rmx.ui.visitor_cookie.MOST_KNOWN", 10)
    allowance = Allowance(1, 1, Clock())
    for i in range(50):
        allowance.take(str(i))
    assert len(allowance._left) == 10


# -- passwords --------------------------------------------------------------------------------------------------------


def basic(text):
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.slow
def test_a_password_stands_before_everything_but_the_health_check(real):
    assert real.get("/health").status_code == 200
    for path in ("/", "/config", "/gradio_api/info", "/runs/x/adapter.zip", "/metrics", "/gradio_api/mcp"):
        refused = real.get(path)
        assert refused.status_code == 401, path
        assert "Basic" in refused.headers["www-authenticate"]
        assert "Content-Security-Policy" in refused.headers
    assert real.post("/gradio_api/call/trace", json={"data": []}).status_code == 401
    assert real.get("/", headers=basic(RIGHT)).status_code == 200


def test_only_the_right_name_and_password_open():
    client = gated(auth=RIGHT)
    for wrong in ("anna:wrong", "ben:correct horse", "anna", ""):
        assert client.get("/", headers=basic(wrong)).status_code == 401
    assert client.get("/", headers={"Authorization": "Basic %%%"}).status_code == 401
    assert client.get("/", headers=basic(RIGHT)).text == "inside"


def test_passwords_cannot_be_tried_without_end_and_the_right_one_still_opens():
    client = gated(auth=RIGHT)
    codes = [client.get("/config", headers=basic(f"anna:{i}")).status_code for i in range(15)]
    assert codes[:10] == [401] * 10
    assert codes[-1] == 429
    assert client.get("/config", headers=basic(RIGHT)).status_code == 200


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_before_it_is_read():
    client = gated()
    assert client.post("/gradio_api/queue/join", content=b"x" * (SMALL + 1)).status_code == 413
    assert client.post("/files/tree", content=b"x" * (SMALL + 1)).status_code == 200
    assert client.post("/files/tree", content=b"x" * (LARGE + 1)).status_code == 413
    assert client.post("/gradio_api/queue/join", headers={"Content-Length": "-5"}, content=b"").status_code == 413
    assert client.post("/gradio_api/queue/join", content=b"x").status_code == 200


def test_a_body_without_a_length_is_cut_off_where_it_is_too_large():
    seen = []

    async def inner(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            seen.append(len(message["body"]))
        seen.append(message["type"])

    chunk = b"x" * 10_000

    async def receive():
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message):
        pass

    gate = AccessGate(inner, Owners(SECRET), lambda: 0, 9)
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "query_string": b"", "server": ("h", 80)}
    with ThreadPoolExecutor(1) as pool:  # the browser tests leave a running loop in this thread
        pool.submit(asyncio.run, gate(scope, receive, send)).result()
    assert seen[-1] == "http.disconnect"
    assert sum(seen[:-1]) <= SMALL


# -- how often --------------------------------------------------------------------------------------------------------


def join(client):
    return client.post("/gradio_api/queue/join", json={})


def test_one_visitor_cannot_ask_without_end_and_others_go_on():
    first = known(gated(limited=True, clock=Clock()))
    codes = [join(first).status_code for _ in range(80)]
    assert 429 not in codes[:60]
    assert codes.count(429) >= 10
    later = join(first)
    assert later.status_code == 429
    assert int(later.headers["Retry-After"]) >= 1
    assert "Wait a moment" in later.json()["error"]
    assert first.get("/").status_code == 200  # to look is always allowed
    assert first.post("/gradio_api/component_server", json={}).status_code == 200  # and to ask small questions
    assert join(known(first)).status_code == 200  # another visitor, at the same address


@pytest.mark.slow
def test_who_drops_the_cookie_each_time_is_stopped_by_the_address():
    client = gated(limited=True, clock=Clock())
    codes = [join(known(client)).status_code for _ in range(60 * 8 + 40)]
    assert 429 not in codes[: 60 * 8]
    assert 429 in codes[-20:]


def test_behind_a_proxy_addresses_are_told_apart_by_what_the_proxy_says():
    owners = Owners(SECRET, proxied=True)

    class Asked:
        cookies, client = {}, None

        def __init__(self, forwarded):
            self.headers = {"x-forwarded-for": forwarded}

    assert owners.address_of(Asked("6.6.6.6, 1.2.3.4")) == owners.address_of(
        Asked("7.7.7.7, 1.2.3.4")
    )  # invented first
    assert owners.address_of(Asked("1.2.3.4")) != owners.address_of(Asked("1.2.3.5"))
    assert "1.2.3" not in owners.address_of(Asked("1.2.3.4"))


def test_a_private_app_counts_nobody():
    client = known(gated())
    assert {join(client).status_code for _ in range(100)} == {200}


def test_a_full_line_is_a_429_on_the_api_before_anything_is_queued():
    line = [2]
    client = gated(lambda: line[0], most=2)
    refused = client.post("/gradio_api/call/trace", json={"data": ["1 + 1"]})
    assert refused.status_code == 429
    assert refused.json()["waiting"] == 2
    assert "Try again" in refused.json()["error"]
    assert refused.headers["Retry-After"]
    assert join(client).status_code == 200  # the page says it in words of its own
    line[0] = 1
    assert client.post("/gradio_api/call/trace", json={"data": ["1 + 1"]}).status_code == 200


# -- what is told -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "rmx.requests")
    return lambda: [json.loads(r.message) for r in caplog.records if r.name == "rmx.requests"]


def test_a_request_is_one_line_without_what_was_said(lines):
    assert list(observed("trace", iter("abc"), lambda: {"model": "mini", "tokens": 3})) == ["a", "b", "c"]
    (line,) = lines()
    assert {k: line[k] for k in ("verb", "model", "tokens", "outcome")} == {
        "verb": "trace", "model": "mini", "tokens": 3, "outcome": "done",
    }  # fmt: skip
    assert set(line) == {"t", "verb", "model", "tokens", "seconds", "outcome"}


def test_who_leaves_and_what_fails_is_told_too(lines):
    steps = observed("trace", iter("abc"), lambda: {"tokens": 1})
    next(steps)
    steps.close()

    def broken():
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        list(observed("swap", broken(), dict))
    assert [(line["verb"], line["outcome"]) for line in lines()] == [("trace", "left"), ("swap", "fault")]


def test_metrics_count_what_was_asked():
    list(observed("trace", iter("ab"), lambda: {"tokens": 2, "outcome": "eos"}))
    text = metrics(waiting=3, tokens=40, nbytes=160_000).decode()
    assert "rmx_waiting 3.0" in text
    assert "rmx_tokens_kept 40.0" in text
    assert "rmx_bytes_kept 160000.0" in text
    assert 'rmx_requests_total{outcome="eos",verb="trace"}' in text


def test_metrics_are_hidden_where_they_are_switched_off(real):
    assert real.get("/metrics", headers=basic(RIGHT)).status_code == 404


def test_pages_are_packed_and_the_policy_stays(real):
    page = real.get("/", headers={"Accept-Encoding": "gzip"} | basic(RIGHT))
    assert page.headers["content-encoding"] == "gzip"
    assert "default-src" in page.headers["Content-Security-Policy"]
    assert "rmx" in page.text
