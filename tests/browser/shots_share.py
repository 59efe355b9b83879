"""Pictures of sharing, on the real app: `python tests/browser/shots_share.py FOLDER`. The Share menu, the gallery, a
recorded tree, a link, and the exported page; light, dark and narrow."""

import sys
from collections.abc import Callable
from pathlib import Path

from conftest import FLAGS, chromium
from playwright.sync_api import Error, Page, sync_playwright
from real_app import serving

from rmx.trees.gallery import list_trees, load_tree
from rmx.trees.tree_page import tree_html


def menu(page: Page) -> None:
    page.get_by_role("button", name="Share", exact=True).click()


def saving(page: Page) -> None:
    menu(page)
    page.get_by_role("button", name="Save to a Hub dataset").click()


def gallery(page: Page) -> None:
    page.get_by_role("button", name="Recorded trees").click()
    page.locator(".piece").first.wait_for()
    page.locator("#recorded").scroll_into_view_if_needed()


def recorded(page: Page) -> None:
    gallery(page)
    page.locator(".piece").first.click()
    page.locator(".origin").wait_for()
    page.wait_for_timeout(500)


def fork(page: Page) -> None:
    page.keyboard.press("n")
    page.keyboard.press("n")


SCENES: dict[str, tuple[Callable[[Page], None], int, int, bool]] = {
    "menu": (menu, 1400, 900, False),
    "menu-dark": (saving, 1400, 900, True),
    "menu-360": (menu, 360, 780, False),
    "gallery": (gallery, 1400, 900, False),
    "gallery-360": (gallery, 360, 780, False),
    "recorded": (recorded, 1400, 900, False),
    "recorded-dark": (recorded, 1400, 900, True),
    "recorded-360": (recorded, 360, 780, False),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with serving({}) as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name, (act, width, height, dark) in SCENES.items():
            if sys.argv[2:] and name not in sys.argv[2:]:
                continue
            page = browser.new_page(viewport={"width": width, "height": height}, permissions=["clipboard-write"])
            page.goto(url + ("?__theme=dark" if dark else "?__theme=light"))
            page.locator(".rmx [role=status]:not(:empty)").first.wait_for(timeout=60_000)
            try:
                act(page)
            except Error as error:
                print(name, str(error).splitlines()[0])  # noqa: T201
            page.wait_for_timeout(300)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        for name, width, scheme in (("page", 1000, "light"), ("page-dark", 1000, "dark"), ("page-360", 360, "light")):
            if sys.argv[2:] and name not in sys.argv[2:]:
                continue
            file = folder / "page.html"
            file.write_text(tree_html(load_tree(list_trees()[0].name)), encoding="utf-8")
            context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(file.as_uri())
            fork(page)
            page.screenshot(path=folder / f"{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
