"""What strangers send is not written to the log at length, whoever writes: gradio, its server, or rmx."""

import json
import logging
import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.ui.server.rate_limit import LONGEST, WRITTEN, keep_logs_short
from tests.helpers.fuzzing import Request, exchange
from tests.helpers.live import running

TEXT = " ".join(f"w{n:05}" for n in range(8500))  # 60 kB in which each word says where it stands
LINES = TEXT.replace(" ", "\n")
BYTES = 5000  # of the log for one request, at most
CHOICES = {"dropdown", "radio", "checkboxgroup"}
Said = Callable[[], str]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Said:
    """What was written since the last look, to stderr, stdout and the log."""

    def look() -> str:
        seen = capfd.readouterr()
        text = seen.err + seen.out + caplog.text
        caplog.clear()
        return text

    return look


@pytest.fixture
def address(mini, said: Said, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("rmx.ui.server.rate_limit.AccessGate._too_often", lambda *_: 0.0)
    space = Workspace("cpu", loader=lambda spec: mini, policy=SiteRules(public=True, training="off"))
    space.model("mini")
    with running(space, public=True, training="off", max_new_tokens=12) as url:
        yield url


def check(text: str, request: Request) -> None:
    """It is short, and of what was sent hardly more is in it than its beginning."""
    assert len(text.encode()) < BYTES, (len(text), request.path, request.body[:200], text[:3000])
    beyond = [found for found in re.findall(r"w(\d{5})", text) if 7 * int(found) > WRITTEN]
    assert not beyond, (request.path, request.body[:200], text[:3000])


def wrong_requests(address: str) -> Iterator[Request]:
    """Each event of the page that has a choice among its inputs, with a text of 60 kB where the choice should be."""
    config = httpx.get(f"{address}/config").json()
    parts = {c["id"]: c for c in config["components"]}
    for event in config["dependencies"]:
        places = [n for n, one in enumerate(event["inputs"]) if parts[one]["type"] in CHOICES]
        if event["backend_fn"] and places:
            data = [parts[one]["props"].get("value") for one in event["inputs"]]
            data[places[-1]] = TEXT
            body = {"data": data, "fn_index": event["id"], "session_hash": "long"}
            path = "/gradio_api/run/predict" if event["queue"] is False else "/gradio_api/queue/join"
            yield Request("POST", path, json.dumps(body).encode(), session="long")


@pytest.mark.slow
def test_a_long_wrong_value_is_not_repeated_by_the_log(address: str, said: Said) -> None:
    port, written, tried = int(address.rpartition(":")[2]), "", 0
    said()
    for request in wrong_requests(address):
        assert len(request.body) < 62_000
        assert all(reply.status < 500 for reply in exchange(port, request))
        check(text := said(), request)
        written, tried = written + text, tried + 1
    assert tried > 10
    assert "Value: w00000" in written  # gradio's own words, kept short


@pytest.mark.slow
@pytest.mark.parametrize("text", [TEXT, LINES])
def test_a_fault_that_holds_what_was_sent_is_written_in_short(
    text: str, address: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise ValueError(text) from error

    config = httpx.get(f"{address}/config").json()
    look = next(
        {"component_id": c["id"], "fn_name": name, "data": {}, "session_hash": "long"}
        for c in config["components"]
        for name in c["props"].get("server_fns") or []
        if name == "look"
    )
    monkeypatch.setattr("rmx.ui.jobs.explorer.Explorer._place", break_off)
    monkeypatch.setattr("rmx.ui.endpoints.call", break_off)
    port = int(address.rpartition(":")[2])
    said()
    for request in (
        Request("POST", "/gradio_api/call/v2/trace", b'{"prompt": "x"}', follow="/gradio_api/call/trace"),
        Request("POST", "/gradio_api/component_server", json.dumps(look).encode()),
    ):
        exchange(port, request)
        written = said()
        check(written, request)
        assert "ValueError: " in written
        assert "break_off" in written  # where it broke is still to be seen
        assert "w00003" in written


def test_records_of_every_logger_are_short(said: Said) -> None:
    keep_logs_short()
    keep_logs_short()  # twice is once
    for name in ("somebody", "somebody.else"):
        log = logging.getLogger(name)
        said()
        log.error("%s", TEXT)
        log.error("%(what)s", {"what": TEXT})
        log.error("kept: %s %d", "short", 7)
        log.error(TEXT)
        try:
            int(TEXT)
        except ValueError:
            log.exception("it broke")
        written = said()
        assert "kept: short 7" in written
        assert "ValueError: invalid literal for int() with base 10: 'w00000" in written
        assert "Traceback" in written
        assert len(written) < 3 * LONGEST + BYTES
    assert len(logging.getLogRecordFactory()("x", 40, "f", 1, TEXT, (), None).getMessage()) == LONGEST
