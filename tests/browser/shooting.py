"""What the scripts of pictures have in common: a scripted page, a scene, a picture."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conftest import FLAGS, chromium, free_port
from playwright.sync_api import Browser, Error, Page, sync_playwright
from scripted_page import LAUNCH

Scene = tuple[Callable[[Page], None], Mapping[str, object]]  # what to do; width, height, dark, full
READY = ".rmx .legend, .rmx .panes, .rmx.runs, .rmx.evaluation"


def shoot(browser: Browser, url: str, name: str, scene: Scene, folder: Path) -> None:
    """Play one scene; where it fails, the picture shows why and the others are still taken."""
    act, how = scene
    size = {"width": int(str(how.get("width", 1400))), "height": int(str(how.get("height", 900)))}
    page = browser.new_page(viewport=size)  # type: ignore[arg-type]
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda e: print(name, e))
    page.on("console", lambda m: print(name, m.text) if m.type == "error" else None)
    page.goto(url + ("?__theme=dark" if how.get("dark") else "?__theme=light"))
    page.locator(READY).first.wait_for(state="attached")
    try:
        act(page)
    except Error as error:
        print(name, str(error).splitlines()[0])
    page.screenshot(path=folder / f"{name}.png", full_page=bool(how.get("full")))
    page.close()


def main(build: Callable[[], Any], scenes: Mapping[str, Scene]) -> None:
    """`SCRIPT FOLDER [NAME ...]`: take the named pictures, or all of them."""
    folder, names = Path(sys.argv[1]), [name for name in scenes if name in sys.argv[2:] or not sys.argv[2:]]
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    demo = build()
    demo.launch(prevent_thread_lock=True, quiet=True, server_port=port, **LAUNCH)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name in names:
            shoot(browser, f"http://127.0.0.1:{port}/", name, scenes[name], folder)
        browser.close()
    demo.close(verbose=False)
