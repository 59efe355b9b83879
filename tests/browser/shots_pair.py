"""Pictures of the scripted comparison: `python tests/browser/shots_pair.py FOLDER [NAME ...]`."""

from collections.abc import Callable

import scripted_pair as app
from playwright.sync_api import Page
from shooting import main


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def mapped(page: Page, script: str = "beads", tokens: int = 400) -> None:
    page.get_by_label(script, exact=True).check()
    page.locator("#limit input").fill(str(tokens))
    page.locator("#pause input").fill("1")
    press(page, "Map")
    page.locator(".map [role=status]:not(:empty)").wait_for(timeout=20_000)
    page.wait_for_timeout(300)


def inspected(page: Page) -> None:
    mapped(page)
    page.locator(".flow .reranked").first.click()
    page.locator(".top").nth(9).wait_for()
    page.wait_for_timeout(300)


def checked(page: Page) -> None:
    page.get_by_label("Zero adapter").check()
    mapped(page)
    press(page, "Check")
    page.locator(".checks .right").wait_for()


def filtered(page: Page) -> None:
    mapped(page)
    page.locator(".chip[data-only=fork]").click()


def streaming(page: Page) -> None:
    page.locator("#pause input").fill("60")
    press(page, "Map")
    page.locator(".flow .shifted").wait_for()


def patched(page: Page) -> None:
    mapped(page)
    page.get_by_role("tab", name="Patch").click()
    press(page, "Run all arms")
    page.locator(".arm-table tr:last-child td:first-of-type:has-text('73')").wait_for()
    page.wait_for_timeout(500)


def stepped(page: Page) -> None:
    patched(page)
    page.keyboard.press(".")
    page.wait_for_timeout(500)
    page.keyboard.press(".")
    page.locator(".big:text-is('1')").wait_for()
    page.wait_for_timeout(500)


def presenting(page: Page) -> None:
    stepped(page)
    press(page, "Present")
    page.wait_for_timeout(300)


def on_set(page: Page, name: str = "Shifts on a set") -> None:
    page.locator("#pause input").fill("5")
    press(page, name)
    page.locator(".set [role=status]:not(:empty)").wait_for(timeout=20_000)
    page.wait_for_timeout(2500 if name.startswith("Shifts") else 300)


def running(page: Page) -> None:
    page.locator("#pause input").fill("600")
    press(page, "Patches on a set")
    page.wait_for_timeout(2500)


SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "first": (lambda page: None, {}),
    "mapped": (mapped, {}),
    "inspected": (inspected, {}),
    "inspected-dark": (inspected, {"dark": True}),
    "checked": (checked, {}),
    "filtered": (filtered, {}),
    "streaming": (streaming, {}),
    "long": (lambda page: mapped(page, "long", 900), {}),
    "hostile": (lambda page: mapped(page, "hostile"), {}),
    "agree": (lambda page: mapped(page, "agree"), {}),
    "patched": (patched, {}),
    "patched-dark": (patched, {"dark": True}),
    "stepped": (stepped, {}),
    "presenting": (presenting, {"width": 1920, "height": 1080}),
    "presenting-dark": (presenting, {"width": 1280, "height": 720, "dark": True}),
    "set": (on_set, {"height": 1100}),
    "set-arms": (lambda page: on_set(page, "Patches on a set"), {}),
    "set-arms-dark": (lambda page: on_set(page, "Patches on a set"), {"dark": True}),
    "set-running": (running, {}),
    "phone": (mapped, {"width": 360, "height": 760, "full": True}),
    "phone-sheet": (inspected, {"width": 390, "height": 760}),
    "phone-patch": (stepped, {"width": 360, "height": 760, "full": True}),
    "phone-set": (
        lambda page: on_set(page, "Patches on a set"),
        {"width": 360, "height": 760, "dark": True, "full": True},
    ),
}


if __name__ == "__main__":
    main(app.build, SHOTS)
