"""The page in a frame of another origin, as on a Space: it works where the policy allows it, else nothing is shown."""

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, FrameLocator, Page, expect
from real_app import serving

from rmx.data.problem_sets import examples
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.recipe import SMALL
from rmx.runs.store import RunStore
from rmx.ui.server.page_files import VARIABLE
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Visitor, stranger

Visit = Callable[..., Page]
Framed = Callable[..., str]
FIRST = examples()[0]
# What the page of a Space does: it frames the app, hands its own query on, and hears of the app's.
AROUND = """<!doctype html><title>around</title><script>
window.heard = [];
addEventListener("message", (e) => heard.push([e.origin, e.data]));
</script><iframe name="app" src="%s" width="1300" height="850"></iframe>"""


class Around:
    """A page on another origin; its frame shows `of`, with the query of the page's own address."""

    def __init__(self) -> None:
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = self.path.partition("?")[2]
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write((AROUND % (page.of + (f"?{query}" if query else ""))).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.of = ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def around() -> Iterator[Around]:
    page = Around()
    yield page
    page.server.shutdown()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For https on this machine: a frame of another site gets cookies over https only."""
    folder = tmp_path_factory.mktemp("certificate")
    key, made = str(folder / "key.pem"), str(folder / "made.pem")
    about = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", made]
    subprocess.run(["openssl", "req", "-x509", *kind, *about], check=True, capture_output=True)
    return {"ssl_keyfile": key, "ssl_certfile": made}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    return RunStore()


@pytest.fixture
def framed(around: Around) -> Iterator[Framed]:
    """Start an app that strangers may visit, in the frame; it ends after the pages that look at it."""
    with ExitStack() as stack:

        def start(named: str, **server_options: Any) -> str:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv(VARIABLE, named)
            around.of = stack.enter_context(serving({}, Settings(host="0.0.0.0"), **server_options))
            return around.of

        yield start


@pytest.fixture
def visit(browser: Browser, around: Around, framed: Framed) -> Iterator[Visit]:
    """Open the page around the frame; at the end: no page error, no request to a third origin, no injected code."""
    opened: list[tuple[Page, list[str]]] = []

    def open_one(query: str = "") -> Page:
        page = browser.new_page(viewport={"width": 1400, "height": 900}, ignore_https_errors=True)
        bad: list[str] = []
        ours = (around.origin, around.of, "data:", "blob:")
        page.on("pageerror", lambda e: bad.append(str(e)))
        page.on("request", lambda r: None if r.url.startswith(ours) else bad.append(r.url))
        page.set_default_timeout(15_000)
        page.goto(f"{around.origin}/{query}")
        opened.append((page, bad))
        return page

    yield open_one
    for page, bad in opened:
        pwned = [frame.evaluate("window.PWN ?? null") for frame in page.frames if frame.url.startswith("http")]
        page.context.close()
        assert bad == []
        assert set(pwned) == {None}


def app(page: Page) -> FrameLocator:
    return page.frame_locator("iframe")


def address(page: Page) -> dict[str, list[str]]:
    """The query in the frame's own address."""
    frame = page.frame("app")
    assert frame
    return parse_qs(frame.evaluate("location.search.slice(1)"))


def heard(page: Page) -> list[tuple[str, dict[str, list[str]]]]:
    """What the page around has heard of the frame's address: (who told it, the query)."""
    messages = page.evaluate("heard")
    return [(origin, parse_qs(data["queryString"])) for origin, data in messages if "queryString" in (data or {})]


def settled(page: Page) -> None:
    expect(app(page).locator(".rmx").get_by_role("status").first).to_contain_text("tokens", timeout=30_000)


def run_of(page: Page, store: RunStore) -> RunFolder:
    """A run of whoever looks at the frame, as their cookie says; a stranger's where the frame has none."""
    cookies = [c for c in page.context.cookies() if c["name"].startswith("rmx_visitor_")]
    visitor = Visitor(cookies[0]["value"].partition(".")[0]) if cookies else stranger()
    folder = store.create(TrainJob(recipe=SMALL, preset="small"), owner=visitor.public)
    folder.set_status(state="stopped", message=None)
    return folder


def open_run(page: Page, folder: RunFolder) -> None:
    app(page).get_by_role("tab", name="Runs").click()
    app(page).locator(f"[data-open='{folder.id}']").click()


def test_in_a_frame_of_another_origin_all_of_it_works(
    visit: Visit, around: Around, framed: Framed, certificate: dict[str, str], store: RunStore
) -> None:
    url = framed(around.origin, **certificate)
    page = visit("?__theme=dark&__sign=secret&kept=1")
    settled(page)
    first = address(page)["run"]
    assert heard(page)[-1] == (url.rstrip("/"), {"__theme": ["dark"], "kept": ["1"], "run": first})

    app(page).locator(f".flow .t[data-i='{FIRST.pos}']").click()
    inspector = app(page).get_by_role("region", name="Inspector")
    inspector.get_by_role("button").filter(has_text=FIRST.token_text.strip()).first.click()
    expect(app(page).get_by_role("group", name="Answer")).to_contain_text("✓ right")
    second = address(page)["run"]
    assert second != first
    assert heard(page)[-1][1]["run"] == second

    (cookie,) = [c for c in page.context.cookies() if c["name"].startswith("rmx_visitor_")]
    assert (cookie["sameSite"], cookie["secure"], cookie["httpOnly"]) == ("None", True, True)
    assert cookie["partitionKey"] == "http://localhost"
    folder = run_of(page, store)
    open_run(page, folder)
    expect(app(page).locator("td.cell-owner")).to_have_text("you")
    app(page).get_by_role("button", name="Delete …").click()
    app(page).get_by_role("button", name="Delete for good").click()
    expect(app(page).locator(f"[data-open='{folder.id}']")).to_have_count(0)
    assert not folder.path.exists()

    again = visit(f"?run={second[0]}")  # the link, passed on as the page around shows it
    settled(again)
    expect(app(again).get_by_role("group", name="Answer")).to_contain_text("✓ right")
    assert address(again)["run"] == second


def test_without_https_a_frame_shows_runs_and_owns_none(
    visit: Visit, around: Around, framed: Framed, store: RunStore
) -> None:
    framed(around.origin)
    page = visit()
    settled(page)
    assert [c for c in page.context.cookies() if c["name"].startswith("rmx_visitor_")] == []
    folder = run_of(page, store)
    open_run(page, folder)
    expect(app(page).locator("#runs")).to_contain_text("Only the visitor who started it, or the owner")
    expect(app(page).get_by_role("button", name="Delete …")).to_be_disabled()


@pytest.mark.parametrize("named", [pytest.param("", marks=pytest.mark.long), "https://own.example"])
def test_a_page_that_is_not_named_shows_nothing(browser: Browser, around: Around, framed: Framed, named: str) -> None:
    framed(named)
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(around.origin, wait_until="load")
    page.wait_for_timeout(500)
    assert any(re.search("frame-ancestors", line) for line in said), said
    assert app(page).locator("#top").count() == 0
    assert heard(page) == []
    page.close()
