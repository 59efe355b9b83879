"""One Chromium for the whole session, one page per test; each page proves that it stayed offline and clean."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright

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
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    return path if Path(path).exists() else None


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as p:
        running = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`open_page(url, width=..., dark=...)`; at the end: no page error, no remote request, no injected code."""
    opened: list[tuple[Page, list[str]]] = []

    def open_one(url: str, width: int = 1400, height: int = 900, **context: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": height}, **context)
        bad: list[str] = []
        origin = "/".join(url.split("/")[:3])
        page.on("pageerror", lambda e: bad.append(str(e)))
        page.on("request", lambda r: None if r.url.startswith((origin, "data:", "blob:")) else bad.append(r.url))
        page.set_default_timeout(15_000)
        page.goto(url)
        opened.append((page, bad))
        return page

    yield open_one
    for page, bad in opened:
        pwned = page.evaluate("window.PWN ?? null")
        page.close()
        assert bad == []
        assert pwned is None
