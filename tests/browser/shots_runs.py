"""Pictures of the scripted runs: `python tests/browser/shots_runs.py FOLDER [NAME ...]`."""

from collections.abc import Callable

import scripted_runs as app
from playwright.sync_api import Page
from shooting import main

DONE, RUNNING, FAILED = "20261125-2142-mini-e210", "20261125-2201-mini-ab3f", "20261125-1930-mini-c8e9"


def listed(page: Page, scene: str = "usual") -> None:
    app.reset(scene)
    page.evaluate("window.rmxRuns.refresh()")
    page.locator("#runs .run-row, #runs .welcome:visible").first.wait_for()
    page.wait_for_timeout(300)


def opened(page: Page, run: str = DONE) -> None:
    listed(page)
    page.get_by_role("button", name=run).click()
    page.locator(".files li").nth(3).wait_for()
    page.wait_for_timeout(200)


def pushing(page: Page) -> None:
    opened(page)
    page.get_by_role("button", name="Push to Hub").click()


def deleting(page: Page) -> None:
    opened(page)
    page.get_by_role("button", name="Delete …").click()


def chosen(page: Page, *runs: str) -> None:
    listed(page)
    for run in runs or (DONE, "20261125-2120-mini-30c4", "20261125-1811-mini-a0a1"):
        page.get_by_label(f"Choose {run}").check()


def compared(page: Page) -> None:
    chosen(page)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".curves-line").nth(12).wait_for(state="attached")
    page.wait_for_timeout(400)


def pointed(page: Page) -> None:
    compared(page)
    page.locator(".curves-plot").nth(2).hover(position={"x": 200, "y": 60})
    page.wait_for_timeout(200)


def seven(page: Page) -> None:
    chosen(page, *[row["id"] for row in app.scene("usual")][2:9])
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_timeout(800)


def swept(page: Page) -> None:
    listed(page, "sweep")
    page.get_by_role("button", name=app.SWEEP).click()
    page.locator(".sweep .curves-dot").nth(4).wait_for(state="attached")
    page.locator(".sweep").scroll_into_view_if_needed()
    page.wait_for_timeout(400)


def priced(page: Page) -> None:
    listed(page, "sweep")
    page.get_by_role("button", name="Scripted").click()
    page.get_by_role("button", name="Be the owner").click()
    page.locator(".cost > summary").click()
    page.locator(".cost-table tbody tr").first.wait_for()
    page.locator(".cost").scroll_into_view_if_needed()
    page.wait_for_timeout(400)


PHONE = {"width": 360, "height": 760, "full": True}
SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "list": (listed, {}),
    "list-dark": (listed, {"dark": True}),
    "list-tablet": (listed, {"width": 800, "height": 1000}),
    "empty": (lambda page: listed(page, "none"), {}),
    "hostile": (lambda page: listed(page, "hostile"), {}),
    "opened": (opened, {}),
    "opened-dark": (opened, {"dark": True}),
    "failed": (lambda page: opened(page, FAILED), {"full": True}),
    "pushing": (pushing, {"dark": True}),
    "deleting": (deleting, {}),
    "chosen": (chosen, {}),
    "compared": (compared, {"full": True}),
    "compared-dark": (compared, {"dark": True, "full": True}),
    "pointed": (pointed, {}),
    "seven": (seven, {"full": True}),
    "swept": (swept, {"full": True}),
    "swept-dark": (swept, {"full": True, "dark": True}),
    "priced": (priced, {"full": True}),
    "priced-dark": (priced, {"full": True, "dark": True}),
    "phone": (listed, PHONE),
    "phone-swept": (swept, PHONE),
    "phone-priced": (priced, {**PHONE, "dark": True}),
    "phone-dark": (listed, {**PHONE, "dark": True}),
    "phone-opened": (opened, PHONE),
    "phone-compared": (compared, PHONE),
}


if __name__ == "__main__":
    main(app.build, SHOTS)
