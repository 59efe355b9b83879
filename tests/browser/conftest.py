"""One Chromium for the whole session, one page per test; each page proves that it stayed offline and clean."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

expect.set_options(timeout=15_000)  # a busy machine is slow, not wrong
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def chromium() -> str | None:
    """A system browser where there is one; else the one that playwright downloaded."""
    paths = (os.environ.get("CHROMIUM", ""), "/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
    return next((path for path in paths if path and Path(path).exists()), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as p:
        running = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The address of the real app, one for all tests of a process. Files with apps of their own redefine it."""
    from real_app import STAND_INS, serving  # it takes its port from here

    with serving(STAND_INS) as address:
        yield address


class BrowserTab:
    """A tab with one visitor after the other; it comes up much faster where the page's scripts ran before."""

    def __init__(self, page: Page) -> None:
        self.page, self.origin, self.bad = page, "", list[str]()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.bad.append(str(error)))
        page.on("request", self.note_stranger)

    def note_stranger(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.bad.append(request.url)

    def open(self, url: str, width: int, height: int) -> None:
        self.origin, self.bad = "/".join(url.split("/")[:3]), []
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(url)

    def check(self) -> None:
        """No page error, no remote request, no injected code."""
        assert self.bad == []
        assert self.page.evaluate("window.PWN ?? null") is None

    def leave(self) -> None:
        """Nothing of the app runs in the tab any more, and nothing is remembered but scripts."""
        self.page.goto(f"{self.origin}/health")
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.context.clear_cookies()
        self.page.context.clear_permissions()
        self.page.unroute_all()
        self.page.mouse.move(-1, -1)
        for other in set(self.page.context.pages) - {self.page}:
            other.close()


@pytest.fixture(scope="session")
def idle() -> list[BrowserTab]:
    """Tabs that earlier tests are done with."""
    return []


@pytest.fixture
def open_page(browser: Browser, idle: list[BrowserTab]) -> Iterator[Callable[..., Page]]:
    """`open_page(url, width=...)`, each a visitor; at the end all of their pages are checked.

    Options of a browser context may follow. `keep=False`: the test leaves in its tab what stays there, a clock.
    """
    opened: list[tuple[BrowserTab, bool]] = []

    def open_one(url: str, width: int = 1400, height: int = 900, keep: bool = True, **options: Any) -> Page:
        keep = keep and not options and url.startswith("http")
        tab = idle.pop() if keep and idle else BrowserTab(browser.new_context(**options).new_page())
        opened.append((tab, keep))
        tab.open(url, width, height)
        return tab.page

    yield open_one
    try:
        for tab, _ in opened:
            tab.check()
    finally:
        for tab, keep in opened:
            if keep and tab.page.url.startswith(f"{tab.origin}/"):
                tab.leave()
                idle.append(tab)
            else:
                tab.page.context.close()
