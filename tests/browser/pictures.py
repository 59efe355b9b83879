"""The README's pictures and the page's card, from the real app: `python tests/browser/pictures.py [NAME ...]`."""

import sys
from collections.abc import Callable
from pathlib import Path

from conftest import FLAGS, chromium
from playwright.sync_api import Page, sync_playwright
from real_app import serving

from rmx.config import ASSETS
from rmx.data.problem_sets import examples

FIRST = examples()[0]
ENDS = "() => !document.querySelector('.fan-ray.fan-unknown')"  # all of them are there


def explore(page: Page) -> None:
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    page.locator(".alt .ahead-words:not(:empty)").first.wait_for()


def outcomes(page: Page) -> None:
    explore(page)
    page.keyboard.press("o")
    page.get_by_text("This choice decides").wait_for(timeout=60_000)
    page.get_by_role("button", name="Which forks decide?").click()
    page.get_by_text("3 of 3 forks").wait_for(timeout=90_000)
    page.get_by_role("button", name="Stop measuring").wait_for(state="hidden", timeout=90_000)
    page.wait_for_timeout(500)


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#pair .checks .right").wait_for(timeout=60_000)
    page.locator("#pair .flow .t.reranked").click()
    page.get_by_role("list", name="Adapted, five likeliest").get_by_role("listitem").nth(4).wait_for()


def patch(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#pair .checks .right").wait_for(timeout=60_000)
    page.get_by_role("tab", name="Patch").click()
    page.get_by_role("button", name="Run all arms").click()
    page.locator(".arm-table tr", has_text="entropy gate").get_by_text("✓").wait_for(timeout=60_000)
    page.get_by_role("button", name="oracle", exact=True).click()
    page.wait_for_timeout(800)


def present(page: Page) -> None:
    page.locator("#present").click()
    page.evaluate("window.rmx.presenter(true, {pace: 0, pauseAtForks: true})")
    page.locator(".stage .alt").nth(4).wait_for()
    page.wait_for_timeout(500)


def evaluate(page: Page) -> None:
    """The figures of assets/mini/evaluation.json; a quarter of an hour, unless its completions are in the cache."""
    page.get_by_role("tab", name="Evaluate").click()
    page.locator("#evaluate-adapters input").click()
    page.get_by_role("option", name="reasonmaxxer").click()
    page.keyboard.press("Escape")
    page.locator("#evaluate-limit input").fill("200")
    page.locator("#evaluate-n").get_by_text("64", exact=True).click()
    page.locator("#evaluate-decoding > button").click()
    for name, value in (("temperature", "1"), ("top-p", "1"), ("max-new", "160")):
        page.locator(f"#evaluate-{name} input[type=number]").fill(value)
        page.keyboard.press("Tab")
    page.locator("#evaluate-decoding > button").click()
    page.locator("#evaluate-start").click()
    page.get_by_text("39,000 completions · done").wait_for(timeout=3_600_000)
    page.locator(".evaluation .curves-bubble").first.wait_for()
    page.wait_for_timeout(3000)


def phone(page: Page) -> None:
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    page.locator(".alt .ahead-words:not(:empty)").first.wait_for()
    page.wait_for_timeout(400)


def card(page: Page) -> None:
    """What other sites show of a link: the card that Share makes, after the flip of the first example."""
    page.get_by_role("button", name="wrong → right").click()
    page.locator(".rmx .verdict", has_text="was").wait_for()
    page.wait_for_function(ENDS)
    page.get_by_role("button", name="Share", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Card for a post").click()
    saved.value.save_as(ASSETS / "ui/common/card.png")


SHOTS: dict[str, tuple[Callable[[Page], None], int, int, bool]] = {
    "explore": (explore, 1440, 860, False),
    "explore-dark": (explore, 1440, 860, True),
    "outcomes": (outcomes, 1440, 1240, False),
    "compare": (compare, 1440, 900, False),
    "patch": (patch, 1440, 860, False),
    "evaluate": (evaluate, 1440, 1700, False),
    "presenter": (present, 1440, 860, False),
    "phone": (phone, 360, 780, False),
    "card": (card, 1440, 860, False),
}


def main() -> None:
    """Take those that are named, or all."""
    folder: Path = ASSETS / "pictures"
    with serving({}) as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name, (scene, width, height, dark) in SHOTS.items():
            if len(sys.argv) > 1 and name not in sys.argv[1:]:
                continue
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(url + ("?__theme=dark" if dark else ""))
            page.locator(".rmx [role=status]:not(:empty)").first.wait_for(timeout=60_000)
            page.wait_for_function(ENDS)
            scene(page)
            if scene is not card:
                page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
