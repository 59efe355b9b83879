"""Pictures of the scripted view: `python tests/browser/shots.py FOLDER [NAME ...]`; look as a designer would."""

from collections.abc import Callable

import scripted_app as app
from playwright.sync_api import Page
from shooting import main


def solve(page: Page, script: str = "beads", tokens: int = 400) -> None:
    if script != "beads":
        page.get_by_label(script, exact=True).check()
    page.locator("#limit input").fill(str(tokens))
    page.locator("#pause input").fill("1")
    page.get_by_role("button", name="Solve").click()
    page.locator(".rmx [role=status]:not(:empty)").wait_for(timeout=20_000)
    page.wait_for_timeout(300)


def swap(page: Page) -> None:
    solve(page)
    page.locator(".flow .fork").nth(1).click()
    page.locator(".alt .ahead:not(:empty)").first.wait_for()
    page.keyboard.press("2")
    page.locator(".rmx .verdict:has-text('was')").wait_for()
    page.wait_for_timeout(900)


def two_swaps(page: Page) -> None:
    swap(page)
    page.keyboard.press("n")
    page.keyboard.press("n")
    page.keyboard.press("3")
    page.locator(".fan-lane").nth(1).wait_for()
    page.get_by_role("button", name="Compare with before").click()
    page.get_by_role("button", name="Undo").hover()
    page.wait_for_timeout(900)


def hover(page: Page) -> None:
    solve(page)
    page.locator(".flow .fork").nth(2).hover()
    page.wait_for_timeout(600)


def streaming(page: Page) -> None:
    page.locator("#pause input").fill("60")
    page.get_by_role("button", name="Solve").click()
    page.locator(".flow .fork").nth(2).wait_for()


def fail(page: Page) -> None:
    page.get_by_label("error").check()
    page.get_by_role("button", name="Solve").click()
    page.locator(".rmx [role=alert]").wait_for()


def tour(page: Page) -> None:
    solve(page)
    page.get_by_role("button", name="tour").click()
    page.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("button", name="Next", exact=True).click()
    page.wait_for_timeout(700)


def keys(page: Page) -> None:
    solve(page)
    page.keyboard.press("?")


def present(page: Page, pace: int = 0) -> None:
    solve(page)
    page.evaluate(f"window.rmx.presenter(true, {{pace: {pace}, pauseAtForks: true}})")
    page.locator(".stage .alt").first.wait_for()


def present_choice(page: Page) -> None:
    present(page)
    page.keyboard.press("1")
    page.wait_for_timeout(400)


def present_end(page: Page) -> None:
    present_choice(page)
    page.keyboard.press("2")
    page.wait_for_timeout(900)
    for _ in range(3):
        page.keyboard.press("PageDown")
        page.wait_for_timeout(300)
    page.locator(".rmx [role=status]:not(:empty)").wait_for(state="attached")
    page.wait_for_timeout(500)


def fan(page: Page, forks: int) -> None:
    solve(page, "many", 60 * forks)
    page.locator(f".fan-drawing[aria-label*=' {forks} forks; other words: ']").wait_for()
    page.locator(".fan").evaluate("e => e.scrollIntoView({ block: 'center' })")
    page.mouse.move(0, 0)
    page.wait_for_timeout(900)


FANS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    f"fan-{forks}-{width}{'-dark' if dark else ''}": (
        lambda page, forks=forks: fan(page, forks),
        {"width": width, "height": 900, "dark": dark},
    )
    for forks in (3, 12, 40)
    for width in (360, 390, 1920)
    for dark in (False, True)
}
SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "first": (lambda page: None, {}),
    "solved": (solve, {}),
    "hover": (hover, {}),
    "swapped": (swap, {}),
    "swapped-dark": (swap, {"dark": True}),
    "compare": (two_swaps, {}),
    "compare-dark": (two_swaps, {"dark": True}),
    "streaming": (streaming, {}),
    "long": (lambda page: solve(page, "long", 900), {}),
    "hostile": (lambda page: solve(page, "hostile"), {}),
    "error": (fail, {}),
    "tour": (tour, {}),
    "keys": (keys, {}),
    "phone": (solve, {"width": 360, "height": 760}),
    "phone-sheet": (swap, {"width": 360, "height": 760}),
    "phone-sheet-dark": (swap, {"width": 360, "height": 760, "dark": True}),
    "tablet": (swap, {"width": 900, "height": 1100}),
    "presenter": (present_choice, {"width": 1920, "height": 1080}),
    "presenter-end": (present_end, {"width": 1920, "height": 1080}),
    "presenter-dark": (present_choice, {"width": 1280, "height": 720, "dark": True}),
    **FANS,
}


if __name__ == "__main__":
    main(app.build, SHOTS)
