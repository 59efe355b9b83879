"""Where things are on the page, by role and label; shared by the tests of the view and of the app."""

from playwright.sync_api import Locator, Page


def status(page: Page) -> Locator:
    return page.locator(".rmx").get_by_role("status")


def answer(page: Page) -> Locator:
    return page.get_by_role("group", name="Answer")


def inspector(page: Page) -> Locator:
    return page.get_by_role("region", name="Inspector")
