"""The first ten seconds as ten pictures: `python tests/browser/film_strip.py FOLDER`; look as a visitor would.

Each strip is one picture, FOLDER/light.png, dark.png and phone.png: the page comes up, its branches find their ends,
and after four seconds the visitor presses "wrong → right".
"""

import sys
import time
from base64 import b64encode
from pathlib import Path
from typing import Literal

from conftest import FLAGS, chromium
from playwright.sync_api import Browser, sync_playwright
from real_app import serving

MOMENTS = (0.4, 0.8, 1.2, 2, 3, 4, 5, 6.5, 8, 10)  # seconds after the address was entered
PRESSED = 4  # seconds
Theme = Literal["light", "dark"]
STRIPS: dict[str, tuple[int, int, Theme]] = {
    "light": (1280, 800, "light"),
    "dark": (1280, 800, "dark"),
    "phone": (390, 844, "light"),
}


def frames(browser: Browser, url: str, width: int, height: int, theme: Theme) -> list[tuple[float, bytes]]:
    """Visit the page; returns a picture for each moment, with the second at which it was really taken."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
    begin, taken = time.monotonic(), list[tuple[float, bytes]]()
    page.goto(url, wait_until="commit")
    for moment in MOMENTS:
        page.wait_for_timeout(max(0.0, 1000 * (begin + moment - time.monotonic())))
        taken.append((time.monotonic() - begin, page.screenshot()))
        if moment == PRESSED:
            page.get_by_role("button", name="wrong → right").click()
    page.close()
    return taken


def strip(browser: Browser, taken: list[tuple[float, bytes]], width: int, path: Path) -> None:
    """Put the pictures side by side, five in a row, each under its second."""
    shown = "".join(
        f'<figure>{second:.1f} s<img src="data:image/png;base64,{b64encode(png).decode()}"></figure>'
        for second, png in taken
    )
    across = min(width, 640)
    style = (
        f"body{{display:grid;grid-template-columns:repeat(5,{across}px);gap:8px;font:20px sans-serif;background:#888}}"
    )
    page = browser.new_page(viewport={"width": 5 * across + 60, "height": 600})
    page.set_content(f"<style>{style} figure{{margin:0}} img{{width:100%}}</style>{shown}")
    page.screenshot(path=path, full_page=True)
    page.close()


def main(folder: Path) -> None:
    """Take the three strips of an app that was just started."""
    folder.mkdir(parents=True, exist_ok=True)
    with serving({}) as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name, (width, height, theme) in STRIPS.items():
            strip(browser, frames(browser, url, width, height, theme), width, folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
