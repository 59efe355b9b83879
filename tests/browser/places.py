"""Where things are on the page, by role and label; shared by the tests of the view and of the app."""

from playwright.sync_api import Locator, Page, expect


def status(page: Page) -> Locator:
    return page.locator(".rmx").get_by_role("status")


def answer(page: Page) -> Locator:
    return page.get_by_role("group", name="Answer")


def inspector(page: Page) -> Locator:
    return page.get_by_role("region", name="Inspector")


def lanes(page: Page) -> Locator:
    """The other branches in the fan, by the words on them."""
    return page.get_by_role("group", name="Branches").locator(".fan-lane-name")


def opened(page: Page, accordion: str, box: str) -> Locator:
    """The box in an accordion, which is opened. Gradio mounts the box then and may put its first value back into it, so
    wait until it has stood still: nobody types this soon, but a test does."""
    page.get_by_role("button", name=accordion).click()
    found = page.locator(box)
    expect(found).to_be_visible()
    page.wait_for_timeout(500)
    return found
