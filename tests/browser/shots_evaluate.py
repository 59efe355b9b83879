"""Pictures of the scripted evaluation: `python tests/browser/shots_evaluate.py FOLDER [NAME ...]`."""

from collections.abc import Callable
from pathlib import Path

import scripted_evaluate as app
from playwright.sync_api import Page
from shooting import main


def evaluated(page: Page, seed: str = "0", n: str | None = None, adapters: tuple[str, ...] = ()) -> None:
    app.GO_ON.set()
    page.get_by_role("button", name="Decoding").click()
    page.locator("#evaluate-seed input").fill(seed)
    page.get_by_role("button", name="Decoding").click()
    if n is not None:
        page.locator("#evaluate-n").get_by_text(n, exact=True).click()
    for adapter in adapters:
        page.locator("#evaluate-adapters input").fill(adapter)
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    page.get_by_text("done after").wait_for()
    if n != "0":
        page.locator(".evaluation .curves-bubble").first.wait_for()
    page.wait_for_timeout(700)


def opened(page: Page) -> None:
    evaluated(page)
    page.locator(".evaluation .opener").nth(1).click()
    page.wait_for_timeout(200)


def running(page: Page) -> None:
    app.GO_ON.clear()
    page.get_by_role("button", name="Evaluate", exact=True).click()
    page.get_by_text("10 of 40 problems").wait_for()
    page.wait_for_timeout(3000)


def own(page: Page) -> None:
    page.locator("#evaluate-set input").click()
    page.get_by_role("option", name="a file of your own").click()
    page.wait_for_timeout(500)


THREE = ("reasonmaxxer", "someone/mini-lora-of-a-long-name")
PHONE = {"width": 360, "height": 760, "full": True}
SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "empty": (lambda page: page.wait_for_timeout(800), {}),
    "done": (evaluated, {"full": True}),
    "dark": (evaluated, {"full": True, "dark": True}),
    "opened": (opened, {"full": True}),
    "running": (running, {}),
    "three": (lambda page: evaluated(page, adapters=THREE), {"full": True}),
    "greedy": (lambda page: evaluated(page, n="0"), {"full": True}),
    "hostile": (lambda page: evaluated(page, "13"), {"full": True}),
    "own": (own, {}),
    "phone": (opened, PHONE),
    "phone-dark": (evaluated, {**PHONE, "dark": True}),
    "phone-three": (lambda page: evaluated(page, adapters=THREE), PHONE),
}


if __name__ == "__main__":
    main(lambda: app.build(Path("runs")), SHOTS)
