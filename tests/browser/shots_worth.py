"""Pictures of what a choice is worth: `python tests/browser/shots_worth.py FOLDER [NAME ...]`; see shots.py."""

import sys
from collections.abc import Callable
from pathlib import Path

import scripted_app as app
import scripted_worth as worth
from conftest import FLAGS, chromium, free_port
from playwright.sync_api import Browser, Error, Page, sync_playwright
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


def shoot(browser: Browser, url: str, name: str, folder: Path) -> None:
    act, how = SHOTS[name]
    size = {"width": int(str(how.get("width", 1400))), "height": int(str(how.get("height", 900)))}
    page = browser.new_page(viewport=size)  # type: ignore[arg-type]
    page.set_default_timeout(8000)
    page.on("pageerror", lambda e: print(name, e))
    page.goto(url + ("?__theme=dark" if how.get("dark") else "?__theme=light"))
    page.locator(".rmx .legend").wait_for()
    act(page)
    page.screenshot(path=folder / f"{name}.png")
    page.close()


def main() -> None:
    folder, names = Path(sys.argv[1]), [name for name in SHOTS if name in sys.argv[2:] or not sys.argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    demo = worth.build()
    demo.launch(prevent_thread_lock=True, quiet=True, server_port=port, **app.LAUNCH)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name in names:
            try:
                shoot(browser, f"http://127.0.0.1:{port}/", name, folder)
            except Error as error:  # one failed picture must not cost the others
                print(name, error)
        browser.close()
    demo.close(verbose=False)


if __name__ == "__main__":
    main()
