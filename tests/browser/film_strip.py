"""The first ten seconds: `python tests/browser/film_strip.py FOLDER` takes ten pictures; without FOLDER it measures.

Each strip is one picture, FOLDER/light.png, dark.png and phone.png: the page comes up, its branches find their ends,
and after four seconds the visitor presses "wrong → right".

The figures are medians of three first visits, printed as JSON: on a slow machine and line, and on this one as it is.
"""

import json
import os
import sys
import time
from base64 import b64encode
from pathlib import Path
from statistics import median
from typing import Any, Literal

from conftest import FLAGS, chromium
from playwright.sync_api import Browser, CDPSession, sync_playwright
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
            page.mouse.move(-1, -1)  # a finger does not hover
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


# -- Figures ----------------------------------------------------------------------------------------------------------

LOADS, WATCHED = 3, 10  # visits of each kind; seconds of each
SLOW = {"rate": 4, "bits": 9e6, "latency": 60}  # times slower; bits a second; milliseconds to the server and back
# Runs before the page's own scripts. A shift counts as browsers count them: not just after somebody pressed something.
OBSERVER = """
const seen = (window.firstVisit = { token: null, blocks: [], shifts: [] });
const place = ({ node }) => node && `${node.nodeName}#${node.id ?? ""}.${node.className ?? ""}`;
const watch = (add) => new PerformanceObserver((list) => list.getEntries().forEach(add));
const note = (type, add) => watch(add).observe({ type, buffered: true });
note("longtask", (e) => seen.blocks.push([e.startTime, e.duration]));
note("layout-shift", (e) => e.hadRecentInput || seen.shifts.push([e.startTime, e.value, e.sources.map(place)]));
const look = () => {
  if (document.querySelector(".flow .t")) seen.token = performance.now();
  else requestAnimationFrame(look);
};
look();
"""


def count_transfers(line: CDPSession) -> dict[str, float]:
    """Count what comes over the line, packed as it is sent, by request; of an answer under way, what has come."""
    sent: dict[str, float] = {}

    def add(event: dict[str, Any]) -> None:
        sent[event["requestId"]] = sent.get(event["requestId"], 0) + event["encodedDataLength"]

    line.on("Network.requestWillBeSent", lambda event: sent.setdefault(event["requestId"], 0))
    line.on("Network.dataReceived", add)
    line.on("Network.loadingFinished", lambda event: sent.update({event["requestId"]: event["encodedDataLength"]}))
    line.send("Network.enable")
    return sent


def visit(browser: Browser, url: str, slow: bool) -> dict[str, Any]:
    """Visit the page with nothing in any cache; returns the figures of that visit."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(OBSERVER)
    line = context.new_cdp_session(page)
    sent, rate = count_transfers(line), SLOW["bits"] / 8
    if slow:
        conditions = {
            "offline": False,
            "latency": SLOW["latency"],
            "downloadThroughput": rate,
            "uploadThroughput": rate,
        }
        line.send("Network.emulateNetworkConditions", conditions)
        line.send("Emulation.setCPUThrottlingRate", {"rate": SLOW["rate"]})
    page.goto(url, wait_until="commit")
    page.locator("#view .rmx [role=status]:not(:empty)").wait_for(timeout=120_000)
    packed, requests = sum(sent.values()), len(sent)
    solved = page.evaluate("performance.now()")
    page.wait_for_timeout(max(0, 1000 * WATCHED - solved))
    seen = page.evaluate("window.firstVisit")
    context.close()
    return {
        "first token, s": seen["token"] / 1000,
        "first solution, s": solved / 1000,
        "longest block, ms": max((long for _, long in seen["blocks"]), default=0),
        "CLS": sum(value for _, value, _ in seen["shifts"]),
        "packed until the first solution, kB": packed / 1000,
        "requests until then": requests,
        "blocks": seen["blocks"],
        "shifts": seen["shifts"],
    }


def measure(browser: Browser, url: str, slow: bool) -> dict[str, Any]:
    """The medians of some visits, and what each found where."""
    visits = [visit(browser, url, slow) for _ in range(LOADS)]
    figures = {
        name: median(one[name] for one in visits) for name, value in visits[0].items() if not isinstance(value, list)
    }
    return {**{name: round(value, 3) for name, value in figures.items()}, "visits": visits}


def main(folder: Path | None) -> None:
    """Take the three strips of an app that was just started, or print its figures."""
    with serving({}) as url, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=FLAGS)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for name, (width, height, theme) in STRIPS.items():
                strip(browser, frames(browser, url, width, height, theme), width, folder / f"{name}.png")
        else:
            figures = {name: measure(browser, url, name == "slow") for name in ("slow", "as it is")}
            print(json.dumps({"load": os.getloadavg()[0], **figures}, indent=1))  # noqa: T201
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
