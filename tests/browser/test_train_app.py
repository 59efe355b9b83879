"""The Train and Runs tabs of the real app: runs on mini as processes of their own, watched, stopped, gone on with."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Browser, Locator, Page, expect
from real_app import serving

from rmx.runs.folder import RunFolder
from rmx.runs.store import RunStore
from rmx.ui.settings import Settings

Open = Callable[..., Page]
LONG = 240_000  # ms; a run on a busy machine
QUICK = {"problems": 8, "k": 6, "epochs": 2}  # beside what `hurry` sets
HIDDEN = {"select": 4, "validation": 6, "validation-k": 2, "test": 6, "rank": 4, "checkpoint-every": 0.5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the runs, for this app and for the processes that it starts."""
    folder = tmp_path_factory.mktemp("runs")
    before = {name: os.environ.get(name) for name in ("RMX_RUNS", "OMP_NUM_THREADS")}
    os.environ |= {"RMX_RUNS": str(folder), "OMP_NUM_THREADS": "1"}
    yield folder
    for one in RunStore(folder).all():
        if one.alive:
            os.kill(one.status["pid"], signal.SIGKILL)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    """An app that strangers may visit: who did not start a run may only look."""
    with serving({}, Settings(host="0.0.0.0")) as address:
        yield address


def open_train(open_page: Open, url: str, **kwargs: int) -> Page:
    page = open_page(url, **kwargs)
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train").get_by_text("rmx train --model mini")).to_be_visible(timeout=60_000)
    return page


def fill(page: Page, **fields: object) -> None:
    """Put values into fields of the recipe, in the folded part as well."""
    for panel in ("#train-usual", "#train-all"):
        button = page.locator(f"{panel} > button")
        if "open" not in (button.get_attribute("class") or ""):
            button.click()
    for name, value in fields.items():
        box = page.locator(f"#train-{name.replace('_', '-')}").locator("input, textarea").first
        box.fill(str(value))
        box.blur()


def hurry(page: Page, **more: object) -> None:
    """A run of seconds."""
    fill(page, **(QUICK | {name.replace("-", "_"): v for name, v in HIDDEN.items()} | more))


def state(page: Page) -> Locator:
    return page.locator("#train section.run .state")


def newest(runs: Path) -> RunFolder:
    return RunStore(runs).all()[0]


def wait_for(reached: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_run_from_the_form_to_the_table(open_page: Open, url: str, runs: Path) -> None:
    page = open_train(open_page, url)
    hurry(page)
    expect(page.locator("#train").get_by_text("--problems 8")).to_be_visible()
    start, stop = page.locator("#train-start"), page.locator("#train-stop")
    expect(stop).to_be_hidden()
    start.click()
    expect(stop).to_have_text("Starting …", timeout=500)  # at once, long before the run has a process
    expect(page.locator("#train").get_by_text("the run gets a process of its own")).to_be_visible(timeout=500)
    expect(start).to_be_hidden()
    expect(state(page)).to_contain_text(re.compile("running|queued", re.I), timeout=60_000)
    expect(stop).to_have_text("Stop this run")
    expect(state(page)).to_contain_text("done", timeout=LONG, ignore_case=True)
    expect(stop).to_be_hidden()
    expect(start).to_be_visible()
    run = newest(runs)
    expect(page.locator("#train")).to_contain_text(run.id)
    shown = page.get_by_role("group", name="Before and after")
    expect(shown).to_contain_text("6 problems")
    expect(page.locator("#train").get_by_label("Gate", exact=True)).to_contain_text("gated")
    page.get_by_role("tab", name="Runs").click()
    row = page.locator("#runs").get_by_role("row").filter(has_text=run.id)
    expect(row).to_contain_text("done")
    expect(row).to_contain_text("by construction")


@pytest.mark.long
def test_the_finished_adapter_opens_in_compare(open_page: Open, url: str, runs: Path) -> None:
    run = next(r for r in RunStore(runs).all() if r.state == "done")
    page = open_train(open_page, url)
    page.evaluate("(id) => window.rmxTrain.watch(id)", run.id)
    page.get_by_role("button", name="Open in Compare").click()
    expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true", timeout=30_000)
    adapter = page.locator("#pair-adapter textarea, #pair-adapter input")
    expect(adapter).to_have_value(run.id)
    status = page.locator("#pair").get_by_role("status").filter(visible=True)
    expect(status.first).to_contain_text("tokens", timeout=30_000)


def test_the_finished_adapter_opens_in_explore(open_page: Open, url: str, runs: Path) -> None:
    run = next(r for r in RunStore(runs).all() if r.state == "done")
    page = open_train(open_page, url)
    page.evaluate("(id) => window.rmxTrain.watch(id)", run.id)
    page.get_by_role("button", name="Open in Explore").click()
    expect(page.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true", timeout=30_000)
    expect(page.locator("#view")).to_contain_text("answer", timeout=30_000)


@pytest.mark.long
def test_stop_reload_and_resume(open_page: Open, url: str, runs: Path) -> None:
    page = open_train(open_page, url)
    hurry(page, epochs=60)
    page.locator("#train-start").click()
    expect(state(page)).to_contain_text("running", timeout=60_000, ignore_case=True)
    run = newest(runs)
    wait_for(lambda: (run.path / "checkpoints").exists())
    page.reload()
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train")).to_contain_text(run.id)
    expect(state(page)).to_contain_text("running", ignore_case=True)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(state(page)).to_contain_text("stopped", timeout=60_000, ignore_case=True)
    made = len([e for e in run.events()[0] if e["kind"] == "update"])
    page.locator("#train").get_by_role("button", name="Resume").click()
    expect(state(page)).to_contain_text("running", timeout=60_000, ignore_case=True)
    wait_for(lambda: len([e for e in run.events()[0] if e["kind"] == "update"]) > made)
    steps = [e["optimizer_step"] for e in run.events()[0] if e["kind"] == "update"]
    assert steps == sorted(set(steps))  # nothing was done twice
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(state(page)).to_contain_text("stopped", timeout=60_000, ignore_case=True)


@pytest.mark.long
def test_killed_process_shows_as_interrupted_with_resume(open_page: Open, url: str, runs: Path) -> None:
    page = open_train(open_page, url)
    hurry(page, epochs=60, seed=5)
    page.locator("#train-start").click()
    expect(state(page)).to_contain_text("running", timeout=60_000, ignore_case=True)
    run = newest(runs)
    wait_for(lambda: (run.path / "checkpoints").exists())
    os.kill(run.status["pid"], signal.SIGKILL)
    expect(state(page)).to_contain_text("interrupted", ignore_case=True)
    expect(page.locator("#train").get_by_role("button", name="Resume")).to_be_visible()


def test_while_a_run_trains_explore_answers_and_a_stranger_cannot_stop_it(
    open_page: Open, browser: Browser, url: str, runs: Path
) -> None:
    page = open_train(open_page, url)
    hurry(page, epochs=60, seed=6)
    page.locator("#train-start").click()
    expect(state(page)).to_contain_text("running", timeout=60_000, ignore_case=True)
    run = newest(runs)
    other = browser.new_context().new_page()
    other.goto(url)
    other.get_by_role("tab", name="Runs").click()
    expect(other.locator("#runs").get_by_role("row").filter(has_text=run.id)).to_contain_text("running", timeout=30_000)
    other.locator("#runs").get_by_role("button", name=run.id, exact=True).click()
    other.locator("#runs").get_by_role("button", name="Watch", exact=True).click()  # in a tab that was never open
    expect(other.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")
    expect(state(other)).to_contain_text("running", ignore_case=True)
    assert f"train={run.id}" in other.url
    other.reload()
    expect(state(other)).to_contain_text("running", ignore_case=True)
    expect(other.locator("#train").get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    other.close()
    page.get_by_role("tab", name="Explore").click()
    page.get_by_role("button", name="Solve").click()
    expect(page.locator("#view")).to_contain_text("answer", timeout=30_000)
    assert run.alive
    page.get_by_role("tab", name="Train").click()
    page.locator("#train-stop").click()  # the form's button, which was Start
    expect(state(page)).to_contain_text("stopped", timeout=60_000, ignore_case=True)
    expect(page.locator("#train-start")).to_be_visible()


def test_a_phone_reaches_every_tab_and_the_start_button(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=740)
    for name in ("Explore", "Compare", "Train", "Runs"):
        expect(page.get_by_role("tab", name=name)).to_be_visible()
    page.get_by_role("tab", name="Train").click()
    expect(page.locator("#train-start")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_value_that_cannot_be_used_is_said_each_time(open_page: Open, url: str, runs: Path) -> None:
    page, before = open_train(open_page, url), len(RunStore(runs).all())
    fill(page, lr="quick")
    alert = page.locator("#train [role=alert]")
    for _ in range(2):
        page.locator("#train-start").click()
        expect(alert).to_contain_text("lr must be a number")
        page.evaluate("document.querySelector('#train [role=alert]').textContent = ''")
    assert len(RunStore(runs).all()) == before


def test_thresholds_to_sweep_become_part_of_the_command(open_page: Open, url: str, runs: Path) -> None:
    page = open_train(open_page, url)
    before = len(RunStore(runs).all())
    fill(page, sweep="1.8, 1.2,1.4")
    expect(page.locator("#train")).to_contain_text("--sweep-tau 1.2,1.4,1.8")
    expect(page.locator("#train-start")).to_contain_text("3 thresholds")
    page.locator("#train-dry").click()
    expect(page.locator("#train [role=alert]")).to_contain_text("A dry run has nothing to sweep")
    fill(page, sweep="1.2, many")
    page.locator("#train-start").click()
    expect(page.locator("#train [role=alert]")).to_contain_text("got 'many'")
    fill(page, sweep="1.2", tau="1")
    page.locator("#train-start").click()
    expect(page.locator("#train [role=alert]")).to_contain_text("Leave out tau")
    assert len(RunStore(runs).all()) == before


@pytest.mark.long
def test_the_small_run_raises_accuracy_on_test_problems(open_page: Open, url: str, runs: Path) -> None:
    """The button as it stands, on another seed: minutes, and a gain whose paired interval lies above zero."""
    page = open_train(open_page, url)
    fill(page, seed=1)
    page.locator("#train-start").click()
    expect(state(page)).to_contain_text("done", ignore_case=True, timeout=600_000)
    done = newest(runs).summary["done"]
    assert done["vs_base"]["low"] > 0
    expect(page.get_by_role("group", name="Before and after")).to_contain_text(f"{100 * done['vs_base']['value']:.1f}")
