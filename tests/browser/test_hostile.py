"""Words that want to be code, in a real browser: whatever they come in by, the page shows them and runs none."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Page, expect
from real_app import serving

from rmx.config import ASSETS
from rmx.models.stand_ins import scripted_model
from rmx.runs.job import TrainJob
from rmx.runs.recipe import SMALL
from rmx.runs.store import RunStore
from rmx.ui.settings import Settings

Open = Callable[..., Page]
SCRIPT = "window.PWN=1"
# Each has a mark of its own that stays visible where it is shown as text, and an element <u> that must never be made.
EVIL = (
    f"<img src=x onerror={SCRIPT}><svg onload={SCRIPT}></svg><u>mark</u></textarea></script><script>{SCRIPT}</script>"
    f" ${{{SCRIPT}}} {{{{constructor.constructor('{SCRIPT}')()}}}} [link](javascript:{SCRIPT})"
    f" <a href=javascript:{SCRIPT}>a</a> ![i](https://evil.example/i.png) $$\\href{{javascript:{SCRIPT}}}{{x}}$$"
    f' "onmouseover="{SCRIPT}" `\\` \u202egnp.exe\u2066'
)
SHORT = f"<img src=x onerror={SCRIPT}><u>mark</u> [l](javascript:{SCRIPT}) ${{{SCRIPT}}}"
HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("runs")
        patch.setenv("RMX_RUNS", str(folder))
        hostile(RunStore(folder))
        yield folder


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with serving({"hostile": scripted_model(end=300)}, Settings(host="0.0.0.0")) as address:
        yield address


def hostile(store: RunStore) -> None:
    """Runs that somebody copied in: words in every field, values of other types, names that objects have."""
    one = store.create(TrainJob(recipe=SMALL, preset="small"), path=store.root / "20260101-1200-mini-aaaa")
    shutil.copytree(ASSETS / "mini" / "rl", one.path / "adapter")
    estimate = HALF | {"low": EVIL, "n": {"x": EVIL}}
    with one.lock():
        one.event("stage", {"stage": "__proto__", "at": 1, "of": 2, "left": EVIL})
        one.event("gate", {"tau": EVIL, "share": EVIL, "tokens": EVIL, "message": EVIL})
        one.event("rollouts", {"at": EVIL, "of": 7, "k": EVIL, "rollouts": EVIL, "histogram": EVIL})
        one.event("selection", {"kept": EVIL, "problems": EVIL, "histogram": [EVIL]})
        one.event("check", {"optimizer_step": 0, "pass@1": HALF, "vs_base": estimate, "checkpoint": EVIL})
        one.event("update", {"optimizer_step": 1, "loss": EVIL, "kl_loss": [EVIL], "lr": {"x": EVIL}})
        one.event("samples", {"text": EVIL, "problem": EVIL, "solutions": [EVIL], "tokens": [[EVIL, EVIL]]})
        one.event("guard", {"rule": "constructor", "message": EVIL})
        one.event("early", {"message": EVIL})
        one.event("done", {"before": HALF, "after": HALF, "vs_base": HALF, "best": EVIL, "seconds": EVIL, "usd": EVIL})
    one.set_status(state="failed", message=EVIL, stage="constructor", at=EVIL, of=3)
    told = {
        "note": SHORT,
        "set": EVIL,
        "preset": "constructor",
        "command": ["rmx", EVIL],
        "owner": EVIL,
        "versions": EVIL,
    }
    config = one.config | told | {"adapter": EVIL, "kind": "toString"}
    (one.path / "config.json").write_text(json.dumps(config))
    other = store.create(
        TrainJob(recipe=SMALL, preset="small"), path=store.root / f"<u>mark<img src=x onerror={SCRIPT}>"
    )
    (other.path / "config.json").write_text(json.dumps(other.config | {"model": EVIL, "note": EVIL, "taus": [1.4]}))
    other.set_status(state="constructor")


def clean(page: Page) -> None:
    """No element was made of anybody's words. (That none ran, and none asked another host, the fixture sees to.)"""
    assert page.locator("u, img[src='x'], svg[onload], a[href^='javascript:'], [onmouseover], [onerror]").count() == 0
    assert page.locator("img[src*='evil.example'], a[href*='evil.example']").count() == 0


def opened(open_page: Open, url: str, tab: str | None = None, query: str = "") -> Page:
    page = open_page(f"{url}{query}")
    if tab:
        page.get_by_role("tab", name=tab).click()
    return page


def ready(page: Page) -> None:
    expect(page.locator(".rmx").get_by_role("status").first).to_contain_text("tokens", timeout=30_000)


def dropdown(page: Page, box: str, text: str) -> None:
    field = page.locator(f"{box} input").first
    field.fill(text)
    field.press("Enter")


def test_explore(open_page: Open, url: str) -> None:
    page = opened(open_page, url)
    ready(page)
    page.get_by_role("button", name="Model").click()
    dropdown(page, "#model", EVIL)
    expect(page.locator("#model-note")).to_contain_text("mark", timeout=20_000)
    expect(page.locator("#model-note")).to_contain_text("<u>mark</u>")
    clean(page)
    page.locator("#solve").click()
    expect(page.locator(".rmx").get_by_role("alert").first).to_contain_text("<u>mark</u>", timeout=20_000)
    clean(page)
    dropdown(page, "#model", "hostile")
    expect(page.locator("#model-note")).to_contain_text("context", timeout=20_000)
    dropdown(page, "#adapter", EVIL)
    page.locator("#solve").click()
    expect(page.locator(".rmx").get_by_role("alert").first).to_contain_text("adapter", timeout=20_000)
    dropdown(page, "#adapter", "none (base)")
    page.get_by_label("Problem", exact=True).first.fill(EVIL)
    expect(page.locator("#answer input, #answer textarea").first).to_have_value("")
    page.locator("#answer input, #answer textarea").first.fill(EVIL)
    page.locator("#solve").click()
    expect(page.locator(".rmx .title").first).to_contain_text("<u>mark</u>", timeout=20_000)
    expect(page.locator(".rmx .meta").first).to_contain_text("<u>mark</u>")
    ready(page)
    clean(page)
    page.get_by_role("button", name="Read a pasted solution").click()
    page.locator("#paste textarea").fill(EVIL)
    page.locator("#read").click()
    expect(page.locator(".flow").first).to_contain_text("<u>mark</u>", timeout=20_000)
    clean(page)


def test_compare(open_page: Open, url: str) -> None:
    page = opened(open_page, url, "Compare")
    page.locator("#pair-preset input").first.click()
    page.get_by_role("option", name="another pair").click()
    dropdown(page, "#pair-base", EVIL)
    page.locator("#pair-adapter input, #pair-adapter textarea").first.fill(EVIL)
    page.locator("#pair-compare").click()
    expect(page.locator("#pair, #pair-note").filter(has_text="mark").first).to_be_visible(timeout=20_000)
    clean(page)


def test_train(open_page: Open, url: str) -> None:
    page = opened(open_page, url, "Train")
    dropdown(page, "#train-model", EVIL)
    expect(page.locator("#train")).to_contain_text("<u>mark</u>", timeout=30_000)
    page.locator("#train-usual > button").click()
    rate = page.locator("#train-lr input, #train-lr textarea").first
    expect(rate).to_be_visible()
    page.wait_for_timeout(
        1000
    )  # an accordion that opens for the first time sets the values of its fields a moment later
    rate.fill(SHORT)
    rate.blur()
    expect(rate).to_have_value(SHORT)
    expect(page.locator("#train [role=alert]").first).to_contain_text("must be a number", timeout=20_000)
    clean(page)


def test_runs_that_somebody_copied_in(open_page: Open, url: str) -> None:
    page = opened(open_page, url, "Runs")
    expect(page.locator("#runs tr.run-row")).to_have_count(2, timeout=30_000)
    for opener in page.locator("#runs [data-open]").all():
        opener.click()
        page.wait_for_timeout(200)
        clean(page)
    page.get_by_label("Choose 20260101-1200-mini-aaaa").check()
    expect(page.locator("#runs")).to_contain_text("<u>mark</u>")
    opener = page.locator("#runs [data-open='20260101-1200-mini-aaaa']")
    if opener.get_attribute("aria-expanded") == "false":
        opener.click()
    page.get_by_role("button", name="Show in Train").click()
    expect(page.locator("#train section.run")).to_contain_text("20260101-1200-mini-aaaa", timeout=20_000)
    expect(page.locator("#train section.run")).to_contain_text("<u>mark</u>", timeout=20_000)
    expect(page.locator("#train section.run .state")).to_have_text(re.compile("failed", re.I))
    expect(page.locator("#train [role=alert]").first).to_contain_text("Some figures of this run cannot be shown")
    clean(page)
    assert page.evaluate("({}).at ?? null") is None  # nothing was written into the prototype of all objects


def test_evaluate(open_page: Open, url: str, runs: Path) -> None:
    page = opened(open_page, url, "Evaluate")
    page.locator("#evaluate-adapters input").first.click()
    expect(page.get_by_role("option").filter(has_text="mark").first).to_be_visible()  # the note of a run
    page.keyboard.press("Escape")
    page.locator("#evaluate-set input").first.fill("a file of your own")
    page.get_by_role("option", name="a file of your own").click()
    rows = [{"problem": EVIL, "answer": SHORT}, {"problem": f"{EVIL} 2", "answer": "2"}]
    content = "\n".join(map(json.dumps, rows)).encode()
    box = page.locator("#evaluate-file input")
    box.set_input_files({"name": f"{SHORT}.csv".replace("/", ""), "mimeType": "", "buffer": b"x,y\n1,2\n"})
    expect(page.locator("#evaluate-file [role=alert]")).to_contain_text("line 1")
    box.set_input_files({"name": "<u>mark.jsonl", "mimeType": "", "buffer": content})
    expect(page.locator("#evaluate-file [role=status]")).to_contain_text("<u>mark.jsonl: 2 problems")
    dropdown(page, "#evaluate-model", "hostile")
    page.locator("#evaluate-n").get_by_text("0", exact=True).click()
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluate .run-head")).to_contain_text("done", timeout=60_000)
    page.locator("#evaluate .list > li").first.get_by_role("button").click()
    expect(page.get_by_role("group", name=re.compile("^Problem "))).to_contain_text("<u>mark</u>")
    clean(page)
    dropdown(page, "#evaluate-model", EVIL)
    page.locator("#evaluate-start").click()
    expect(page.locator("#evaluate")).to_contain_text("There is no model", timeout=30_000)
    clean(page)


NAMES = ["run", "train", "share", "__theme"]


@pytest.mark.parametrize("names", [NAMES, *[pytest.param([name], marks=pytest.mark.long) for name in NAMES]])
def test_the_address(open_page: Open, url: str, names: list[str]) -> None:
    page = opened(open_page, url, query=f"?{'&'.join(f'{name}={quote(EVIL)}' for name in names)}#{quote(SHORT)}")
    ready(page)
    if "train" in names:
        page.get_by_role("tab", name="Train").click()
        expect(page.locator("#train")).to_contain_text("A run samples solutions", timeout=20_000)
    clean(page)
