"""Addresses that cannot be made up, connections that cannot use up the machine, counted guesses, and an app that
looks for its own leaks before it lets anybody in."""

import ipaddress
import socket
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from rmx.errors import RmxError
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server import rate_limit as gate_module
from rmx.ui.server.rate_limit import Connections, SeldomRepeated, most_connections
from rmx.ui.server.serve import Server, listen, server_config
from rmx.ui.server.web_app import check_no_file_is_served, web_app
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Owners, parse_address, visitor_address
from tests.helpers.live import tell_to_stop, until

PROXY = "10.0.0.1"


def web(**settings):
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    return web_app(space, Settings(**settings))


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "lines", "found"),
    [
        (PROXY, ["203.0.113.7"], "203.0.113.7"),
        (PROXY, ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # what stands before was invented
        (PROXY, ["203.0.113.7", "6.6.6.6"], "6.6.6.6"),  # two header lines are one list
        (PROXY, ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
        (PROXY, ["203.0.113.7:4711"], "203.0.113.7"),
        (PROXY, ["[2001:db8:1:2::9]:443"], "2001:db8:1:2::/64"),
        (PROXY, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (PROXY, ["2001:db8:1:2:ffff::1"], "2001:db8:1:2::/64"),
        (PROXY, ["::ffff:203.0.113.7"], "203.0.113.7"),
        (PROXY, ["unknown"], PROXY),
        (PROXY, [], PROXY),
        ("203.0.113.9", ["6.6.6.6"], "203.0.113.9"),  # who comes by themselves may write what they like
        ("2001:db8::1", ["6.6.6.6"], "2001:db8::/64"),
        ("", ["203.0.113.7"], "203.0.113.7"),  # a Unix socket
        (PROXY, ["203.0.113.7, 198.51.100.2"], "203.0.113.7"),  # a second proxy that was named
        ("198.51.100.2", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_an_address_is_what_the_nearest_proxy_saw(peer, lines, found):
    assert visitor_address(peer, lines, [ipaddress.ip_network("198.51.100.0/24")]) == found


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "::g", "[::g]", "%", "1.2.3.4, 5.6.7.8", "0x7f.1"])
def test_what_is_no_address_is_none(text):
    assert parse_address(text) is None


def test_the_limits_know_the_same_addresses():
    owners = Owners(b"s" * 32, proxied=True)

    class Asked:
        cookies, client = {}, None

        def __init__(self, *lines):
            self.headers = httpx.Headers([("x-forwarded-for", line) for line in lines])

    same = {owners.address_of(Asked(f"2001:db8:1:2::{i:x}")) for i in range(50)}
    same |= {owners.address_of(Asked(f"2001:db8:1:2::1:{port}")) for port in (1, 80)}
    assert len(same) == 1
    assert owners.address_of(Asked("2001:db8:1:3::1")) not in same
    assert len({owners.address_of(Asked(f"203.0.113.7:{port}")) for port in (1, 80, 443)}) == 1


def test_networks_of_proxies_are_checked_at_start(monkeypatch):
    monkeypatch.setenv("RMX_PROXIES", "203.0.113.7, 2001:db8::/32")
    assert Settings.from_environment().proxies == ("203.0.113.7", "2001:db8::/32")
    monkeypatch.setenv("RMX_PROXIES", "cdn.example")
    with pytest.raises(RmxError, match="RMX_PROXIES"):
        Settings.from_environment()


# -- the owner's token ------------------------------------------------------------------------------------------------


def test_tokens_of_the_owner_cannot_be_tried_without_end(monkeypatch):
    monkeypatch.setenv("RMX_OWNER_TOKEN", "a token that is long")
    with TestClient(web(public=True), follow_redirects=False) as client:
        codes = [client.get(f"/?owner=guess{i}").status_code for i in range(14)]
        assert codes[:10] == [403] * 10
        assert codes[-1] == 429
        assert client.get("/?owner=a token that is long").status_code == 303


def test_a_password_stands_before_the_owners_token_too(monkeypatch):
    monkeypatch.setenv("RMX_OWNER_TOKEN", "a token that is long")
    with TestClient(web(auth="anna:correct horse"), base_url="http://localhost", follow_redirects=False) as client:
        assert client.get("/?owner=a token that is long").status_code == 401


# -- connections ------------------------------------------------------------------------------------------------------


def test_connections_are_counted_in_all_and_by_address():
    counts = Connections(10, per_address=3)
    assert [counts.enter("203.0.113.7") for _ in range(4)] == [True, True, True, False]
    assert [counts.enter("2001:db8::1"), counts.enter("2001:db8::2")] == [True, True]
    assert [counts.enter(PROXY) for _ in range(6)] == [True] * 5 + [False]  # a proxy has all there are
    counts.leave("203.0.113.7")
    assert counts.enter("2001:db8::3")
    assert not counts.enter("198.51.100.1")  # all places are taken
    counts.leave(PROXY)
    assert counts.enter("198.51.100.1")


def test_descriptors_are_left_for_everything_else():
    assert most_connections(256) == 160
    assert most_connections(64) == 16
    assert most_connections(10**6) == 2000


class Served:
    """The whole app on a port, served as `rmx serve` does."""

    def __init__(self, app):
        self.door = listen("127.0.0.1", 0)
        self.port = self.door.getsockname()[1]
        self.server = Server(server_config(app), app.state.halt, app.state.hang_up)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.door]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        until(lambda: self.server.started)
        return self

    def __exit__(self, *_):
        if self.thread.is_alive():
            self.server.should_exit = True
            self.thread.join(20)
        self.door.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


def test_connections_that_say_nothing_are_closed_and_others_go_on(monkeypatch):
    monkeypatch.setattr(gate_module, "HEAD_SECONDS", 0.5)
    with Served(web()) as site:
        silent = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
        slow = socket.create_connection(("127.0.0.1", site.port))
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        assert httpx.get(f"{site.url}/health").status_code == 200
        for line in [*silent, slow]:
            line.settimeout(10)
            assert line.recv(100) == b""  # closed by the app
            line.close()


def test_more_connections_than_there_is_room_for_leave_the_app_reachable(monkeypatch, caplog):
    monkeypatch.setattr("rmx.ui.server.serve.raise_descriptor_limit", lambda: 120)  # room for 24
    with Served(web()) as site:
        many = []
        for _ in range(80):
            line = socket.create_connection(("127.0.0.1", site.port))
            line.sendall(b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            many.append(line)
        time.sleep(0.5)
        assert len(site.server.server_state.connections) <= 24 + 8
        for line in many:
            line.close()
        until(lambda: _answers(site.url), 15)
    assert len([r for r in caplog.records if "concurrency" in r.getMessage()]) <= 1


def _answers(url):
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_server_in_distress_says_so_once_a_minute(caplog):
    import logging

    calm = SeldomRepeated(60)
    records = [logging.makeLogRecord({"msg": "socket.accept() out of system resource"}) for _ in range(500)]
    assert sum(map(calm.filter, records)) == 1
    assert calm.filter(logging.makeLogRecord({"msg": "something else"}))


def test_streams_of_one_address_are_bounded(monkeypatch):
    monkeypatch.setattr(gate_module, "STREAMS", 3)
    with Served(web(public=True)) as site, httpx.Client(base_url=site.url) as client:
        held = [client.stream("GET", f"/gradio_api/heartbeat/s{i}") for i in range(3)]
        opened = [one.__enter__() for one in held]
        assert [answer.status_code for answer in opened] == [200] * 3
        assert client.get("/gradio_api/heartbeat/s9").status_code == 429
        assert client.get("/health").status_code == 200
        other = client.stream("GET", "/gradio_api/heartbeat/o", headers={"x-forwarded-for": "203.0.113.7"})
        with other as answer:
            assert answer.status_code == 200
        for one in held:
            one.__exit__(None, None, None)


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch):
    monkeypatch.setattr(gate_module, "BODY_SECONDS", 0.5)
    with Served(web()) as site, socket.create_connection(("127.0.0.1", site.port)) as line:
        head = "POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        line.settimeout(10)
        assert b" 400 " in line.recv(200)


def test_open_pages_do_not_use_up_the_time_of_a_stop(monkeypatch):
    with Served(web()) as site, httpx.stream("GET", f"{site.url}/gradio_api/heartbeat/x", timeout=30) as stream:
        words = stream.iter_lines()
        assert next(words) == "data: ALIVE"
        tell_to_stop(site.server, monkeypatch)
        began = time.monotonic()
        list(words)
        site.thread.join(20)
        assert not site.thread.is_alive()
        assert time.monotonic() - began < 4.5  # the grace is 5 seconds


# -- the two doors that take files ------------------------------------------------------------------------------------


def test_files_are_read_as_text_and_nothing_else():
    with TestClient(web(), base_url="http://localhost") as client:
        rows = '{"problem": "1 + 1?", "answer": "2"}\n'
        taken = client.post("/files/problems?name=mine.jsonl", content=rows.encode())
        assert taken.status_code == 200
        assert (taken.json()["name"], taken.json()["problems"]) == ("mine.jsonl", 1)
        assert "line 1" in client.post("/files/problems?name=b.csv", content=b"x,y\n1,2\n").json()["error"]
        assert client.post("/files/tree", content=b"\xff\xfe").status_code == 422
        assert "error" in client.post("/files/tree", content=b"[]").json()
        assert client.post("/files/other", content=b"x").status_code == 404
        foreign = client.post("/files/tree", content=b"[]", headers={"sec-fetch-site": "cross-site"})
        assert foreign.status_code == 403


def test_files_of_problems_count_in_the_sites_one_account():
    rows = "problem\n" + f"How much is one and one? {'Think. ' * 300}\n" * 100
    with TestClient(web(public=True, kept_tokens=100), base_url="http://localhost") as client:  # a visitor has 100 kB
        refused = client.post("/files/problems?name=mine.csv", content=rows.encode()).json()["error"]
    assert refused.startswith("mine.csv takes 0.")
    assert "0.1 MB are kept of one visitor" in refused


# -- the check at start -----------------------------------------------------------------------------------------------


def test_an_app_that_gives_nothing_away_starts():
    check_no_file_is_served(web(public=True))


def test_an_app_that_would_hand_out_a_file_does_not_start(monkeypatch):
    """As 0.1.0 did: its guards and gradio's own check taken away, the canary is found."""
    monkeypatch.setattr("rmx.ui.server.doors.objection", lambda body: None)
    monkeypatch.setattr("rmx.ui.server.doors.DOORS", (*_doors(), _file_door()))
    app = web(public=True)
    for route in app.routes:
        if hasattr(getattr(route, "app", None), "blocks"):
            route.app.blocks.has_launched = False
    with pytest.raises(RmxError, match="would hand out files"):
        check_no_file_is_served(app)


def _doors():
    from rmx.ui.server.doors import DOORS

    return DOORS


def _file_door():
    from rmx.ui.server.doors import _door

    return _door("GET", r"/gradio_api/file=.*", "free")


def test_the_check_itself_sees_a_file_that_is_served():
    async def leaky(scope, receive, send):
        path = scope["path"]
        text = open(path.partition("file=")[2]).read() if "file=/" in path else "nothing"  # noqa: SIM115
        await PlainTextResponse(text)(scope, receive, send)

    with pytest.raises(RmxError, match="would hand out files"):
        check_no_file_is_served(leaky)
