"""Pictures of the scripted Train view: `python tests/browser/shots_train.py FOLDER [NAME ...]`."""

from collections.abc import Callable
from functools import partial

import scripted_train as app
from playwright.sync_api import Page
from shooting import main


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def watching(page: Page, run: str, to: str = ".stages") -> None:
    page.get_by_label(run, exact=True).check()
    press(page, "Watch")
    page.locator(f".train[data-state] {to}").first.wait_for()
    page.wait_for_timeout(1500)


def at(page: Page, run: str, panel: str) -> None:
    watching(page, run)
    page.get_by_role("region", name=panel, exact=True).evaluate(
        "e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 20)"
    )
    page.wait_for_timeout(900)


def planned(page: Page) -> None:
    press(page, "Plan")
    page.locator(".plan:not([hidden])").wait_for()


def dry(page: Page) -> None:
    press(page, "Dry run")
    page.locator(".gate .chip").first.wait_for()


def replayed(page: Page) -> None:
    at(page, "done", "Fork replay")


def smoothed(page: Page) -> None:
    at(page, "long", "Curves")
    page.get_by_label("smoothing").fill("0.9")
    page.locator(".multiple.loss svg.curves-plot").hover()
    page.wait_for_timeout(400)


PHONE = {"width": 360, "height": 760, "full": True}
SHOTS: dict[str, tuple[Callable[[Page], None], dict[str, object]]] = {
    "empty": (lambda page: None, {}),
    "plan": (planned, {}),
    "plan-dark": (planned, {"dark": True}),
    "rolling": (partial(watching, run="rolling"), {}),
    "training": (partial(watching, run="training"), {}),
    "training-dark": (partial(watching, run="training"), {"dark": True}),
    "done": (partial(watching, run="done"), {"full": True}),
    "done-dark": (partial(watching, run="done"), {"dark": True, "full": True}),
    "queued": (partial(watching, run="queued"), {}),
    "dry-run": (partial(watching, run="dry"), {}),
    "interrupted": (partial(watching, run="interrupted"), {}),
    "failed": (partial(watching, run="failed"), {}),
    "guarded": (partial(watching, run="guarded"), {}),
    "hostile": (partial(watching, run="hostile"), {"full": True}),
    "gate": (partial(at, run="done", panel="Gate"), {}),
    "gate-dark": (partial(at, run="done", panel="Gate"), {"dark": True}),
    "dry": (dry, {}),
    "curves": (partial(at, run="done", panel="Curves"), {}),
    "curves-dark": (partial(at, run="training", panel="Curves"), {"dark": True}),
    "curves-long": (smoothed, {}),
    "replay": (replayed, {}),
    "replay-dark": (replayed, {"dark": True}),
    "samples": (partial(at, run="done", panel="Sample solutions"), {}),
    "phone": (partial(watching, run="done"), PHONE),
    "phone-dark": (partial(watching, run="training"), PHONE | {"dark": True}),
    "phone-empty": (planned, PHONE),
    "projector": (partial(watching, run="training"), {"width": 1920, "height": 1080}),
}


if __name__ == "__main__":
    main(app.build, SHOTS)
