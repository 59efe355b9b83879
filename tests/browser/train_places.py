"""Where things are in the scripted Train view, and what it asked and sent; shared by its tests."""

from collections.abc import Callable
from typing import Any

import scripted_train as app
from playwright.sync_api import Locator, Page, expect


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def send(page: Page, *messages: dict[str, Any]) -> None:
    app.SEND.extend(messages)
    press(page, "Send")


def watch(page: Page, run: str) -> None:
    page.get_by_label(run, exact=True).check()
    press(page, "Watch")
    expect(page.locator(".who .label")).to_have_text(run)


def part(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def unfolded(page: Page, name: str) -> Locator:
    """A panel that is folded once there are curves, opened by its title."""
    region = part(page, name)
    expect(region.locator("details")).to_have_js_property("open", False)
    region.get_by_role("heading").click()
    expect(region.locator("details")).to_have_js_property("open", True)
    return region


def state(page: Page) -> Locator:
    return page.locator(".state")


def leg(page: Page, name: str) -> Locator:
    return page.get_by_role("list", name="Stages").get_by_role("listitem").filter(has_text=name)


def sent(name: str) -> list[dict[str, Any]]:
    return [data for event, data in app.EVENTS if event == name]


def polls(run: str) -> list[dict[str, Any]]:
    return [poll for poll in app.POLLS if poll["id"] == run]


def until(page: Page, met: Callable[[], bool], seconds: float = 15) -> None:
    for _ in range(int(seconds / 0.05)):
        if met():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come to pass")
