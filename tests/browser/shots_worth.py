"""Pictures of what a choice is worth: `python tests/browser/shots_worth.py FOLDER [NAME ...]`; see shots.py."""

from collections.abc import Callable

import scripted_app as app
import scripted_worth as worth
from playwright.sync_api import Page
from shooting import main
from shots import solve, swap


def weighed(page: Page, fork: int = 1, script: str = "beads") -> None:
    solve(page, script)
    page.locator(".flow .fork").nth(fork).click()
    page.locator(".alt").nth(4).wait_for()
    page.keyboard.press("o")
    page.locator(".outcomes:not(.live) .outcome-facts").wait_for(timeout=20_000)
    page.wait_for_timeout(400)


def sampling(page: Page) -> None:
    worth.PACE["seconds"] = 0.6
    solve(page)
    page.locator(".flow .fork").nth(2).click()
    page.locator(".alt").nth(4).wait_for()
    page.keyboard.press("o")
    page.locator(".shares:has-text('n 16')").first.wait_for()
    page.wait_for_timeout(300)
    worth.PACE["seconds"] = 0.02


def unknown(page: Page) -> None:
    app.UNKNOWN.set()
    weighed(page)
    app.UNKNOWN.clear()


def measured(page: Page, name: str, before: Callable[[Page], None] = solve) -> None:
    before(page)
    page.locator(".measures").get_by_role("button", name=name).click()
    page.locator(".panel [data-ui=panelState]:not(.live)").wait_for(timeout=20_000)
    page.wait_for_timeout(500)
    page.locator(".panel").evaluate("e => e.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(200)


def plotted(page: Page) -> None:
    measured(page, "Which forks decide?")
    page.locator(".fork-column").nth(1).hover()
    page.wait_for_timeout(200)


def plotting(page: Page) -> None:
    worth.PACE["seconds"] = 1.5
    solve(page)
    page.locator(".measures").get_by_role("button", name="Which forks decide?").click()
    page.locator(".fork-column").nth(2).wait_for()
    page.locator(".panel").evaluate("e => e.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(200)
    worth.PACE["seconds"] = 0.02


def rescued(page: Page) -> None:
    measured(page, "Find the smallest rescue")
    page.wait_for_timeout(600)


def so_far(page: Page) -> None:
    measured(page, "Answer so far")
    page.locator(".text").evaluate("e => e.scrollIntoView()")


def presented(page: Page) -> None:
    weighed(page)
    page.evaluate("window.rmx.presenter(true, {pace: 0, pauseAtForks: true})")
    page.locator(".stage .alt").first.wait_for()
    page.keyboard.press("PageDown")
    page.locator(".stage-worth").first.wait_for()


PHONE, DARK = {"width": 360, "height": 760}, {"dark": True}
SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "quiet": (solve, {}),
    "outcomes": (weighed, {}),
    "outcomes-dark": (weighed, DARK),
    "outcomes-sampling": (sampling, {}),
    "outcomes-same": (lambda page: weighed(page, 0), {}),
    "outcomes-unknown": (unknown, {}),
    "outcomes-hostile": (lambda page: weighed(page, 0, "hostile"), {}),
    "outcomes-phone": (weighed, PHONE),
    "outcomes-phone-dark": (weighed, PHONE | DARK),
    "plot": (plotted, {}),
    "plot-dark": (plotted, DARK),
    "plot-running": (plotting, {}),
    "plot-phone": (plotted, PHONE),
    "rescue": (rescued, {}),
    "rescue-dark": (rescued, DARK),
    "rescue-phone": (rescued, PHONE),
    "break": (lambda page: measured(page, "Find the smallest break", swap), {}),
    "sofar": (so_far, {}),
    "sofar-dark": (so_far, DARK),
    "sofar-panel": (lambda page: measured(page, "Answer so far"), {}),
    "sofar-phone": (lambda page: measured(page, "Answer so far"), PHONE),
    "stage": (presented, {"width": 1920, "height": 1080}),
}


if __name__ == "__main__":
    main(worth.build, SHOTS)
