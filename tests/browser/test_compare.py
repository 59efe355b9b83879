"""The Compare tab of the real app: mini and its RL partner, and a slow pair for what has to be stopped."""

import csv
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect
from real_app import SLOW, SLOW_TOO

from rmx.data.problem_sets import examples

Open = Callable[..., Page]
FIRST = examples()[0]


def status(page: Page) -> Locator:
    return page.locator("#pair").get_by_role("tabpanel").get_by_role("status").filter(visible=True)


def open_compare(open_page: Open, url: str, **kwargs: int) -> Page:
    page = open_page(url, **kwargs)
    page.get_by_role("tab", name="Compare").click()
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    return page


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    return open_compare(open_page, url)


def own_pair(page: Page, base: str, teacher: str, problem: str) -> None:
    page.locator("#pair-preset input").click()
    page.get_by_role("option", name="another pair").click()
    page.locator("#pair-base input").fill(base)
    page.locator("#pair-base input").press("Enter")
    page.locator("#pair-teacher textarea, #pair-teacher input").fill(teacher)
    page.locator("#pair-problem textarea").fill(problem)
    page.get_by_role("button", name="Compare", exact=True).click()


def solution(page: Page) -> Locator:
    return page.get_by_role("group", name="Where they part")


def test_the_tab_opens_with_the_pair_on_an_example(page: Page) -> None:
    checks = page.locator(".checks")
    expect(checks).to_contain_text("38/38", timeout=20_000)
    expect(checks).to_contain_text(re.compile("rank 32"))
    expect(checks).to_contain_text("random LoRA")
    expect(checks).not_to_contain_text("not measured")
    page.locator("#present").click()  # the buttons over the tabs act on the view in sight
    expect(page.locator("#pair .rmx.presenting")).to_have_count(1)
    expect(page.locator("#view .rmx.presenting")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("#pair .rmx.presenting")).to_have_count(0)
    expect(page.get_by_role("group", name="Answers")).to_contain_text("✗")
    marked = solution(page).locator(".t.reranked")
    expect(marked).to_have_count(1)
    marked.click()
    inspector = page.get_by_role("region", name="Inspector").filter(visible=True)
    expect(inspector.get_by_role("list", name="Base, five likeliest").get_by_role("listitem")).to_have_count(5)
    expect(inspector.get_by_role("list", name="Adapted, five likeliest").get_by_role("listitem")).to_have_count(5)
    page.locator("#tour").click()
    expect(page.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_text("1 of 5")).to_be_visible()


def test_the_oracle_turns_wrong_into_right_step_by_step(page: Page) -> None:
    page.get_by_role("tab", name="Patch").click()
    page.get_by_role("button", name="Run all arms").click()
    rows = page.locator(".arm-table tbody tr")
    expect(rows.filter(has_text="entropy gate")).to_contain_text(re.compile("[✓✗]"), timeout=30_000)
    oracle, adapted = rows.filter(has_text="oracle"), rows.filter(has_text="adapted")
    expect(rows.filter(has_text=re.compile("^base"))).to_contain_text("✗")
    expect(oracle).to_contain_text(f"✓ {FIRST.answer}")
    expect(adapted).to_contain_text(f"✓ {FIRST.answer}")
    page.get_by_role("button", name="oracle", exact=True).click()
    answer = page.get_by_role("group", name="Answer of this arm")
    expect(answer).to_contain_text("✓ right")
    page.get_by_role("button", name="One patch back").click()
    expect(answer).to_contain_text("✗ wrong")
    expect(page.get_by_role("group", name="Patched solution").locator(".t.forced")).to_have_count(0)
    page.keyboard.press(".")
    expect(answer).to_contain_text("✓ right")
    expect(page.get_by_role("group", name="Patched solution").locator(".t.forced")).to_have_count(1)


@pytest.mark.long
def test_the_strength_slider_leads_back_to_the_base(page: Page) -> None:
    box = page.locator("#pair-strength input[type=number]")
    box.fill("0")
    box.press("Tab")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".map .meta")).to_contain_text("rl*0", timeout=20_000)
    expect(solution(page).locator(".t.reranked")).to_have_count(0)


def run_set(page: Page, button: str, problems: int) -> None:
    page.get_by_role("button", name="On a problem set").click()
    box, tries = page.locator("#pair-limit input"), 20
    while tries:  # a section that is just opening may mount its boxes once more, with what they had at first
        box.fill(str(problems))
        box.blur()
        page.wait_for_timeout(400)
        tries = 0 if box.input_value() == str(problems) else tries - 1
    expect(box).to_have_value(str(problems))
    page.get_by_role("button", name=button).click()


def test_shifts_over_a_set_with_placebo_figure_and_exports(page: Page, tmp_path: Path) -> None:
    run_set(page, "Measure where they part", 3)
    pane = page.locator(".pane.set")
    expect(pane).to_contain_text("Reranked", timeout=60_000)
    expect(pane.get_by_role("button", name="Stop")).to_be_hidden(timeout=60_000)
    expect(pane).to_contain_text("1.0 – 4.1 %")
    expect(pane.locator(".figure .curves-plot").first).to_be_visible()
    with page.expect_download() as download:
        pane.get_by_role("button", name="JSON").click()
    document = json.loads(Path(download.value.path()).read_text())
    assert document["problems"] == 3
    assert abs(document["unshifted"] + document["reranked"] + document["shifted"] - 1) < 1e-9
    with page.expect_download() as download:
        pane.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert {"reranked", "mean_rank", "entropy_ratio"} <= {row["figure"] for row in rows}


def test_interventions_over_a_set_and_the_figure_as_svg(page: Page) -> None:
    run_set(page, "Run all interventions", 3)
    pane = page.locator(".pane.set")
    expect(pane).to_contain_text("3 of 3", timeout=60_000)
    for arm in ("base", "adapted", "oracle", "random", "matched", "entropy"):
        expect(pane).to_contain_text(arm)
    expect(pane.locator(".figure .curves-plot").first).to_be_visible()
    with page.expect_download() as download:
        pane.get_by_role("button", name="Plot as SVG").click()
    picture = Path(download.value.path()).read_text()
    assert picture.startswith("<svg")
    assert "oracle" in picture
    with page.expect_download() as download:
        pane.get_by_role("button", name="Plot as PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_a_set_is_stopped_and_keeps_what_it_has(page: Page) -> None:
    run_set(page, "Measure where they part", 300)
    pane = page.locator(".pane.set")
    expect(pane).to_contain_text(re.compile(r"[1-9]\d* of 300"), timeout=30_000)
    pane.get_by_role("button", name="Stop").click()
    expect(pane.get_by_role("button", name="Stop")).to_be_hidden(timeout=20_000)
    expect(pane).to_contain_text("Reranked")
    expect(pane).to_contain_text(re.compile("stopped", re.I))


def quiet(timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while (SLOW.engine.queue.waiting() or SLOW_TOO.engine.queue.waiting()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not SLOW.engine.queue.waiting() and not SLOW_TOO.engine.queue.waiting()


def test_a_map_streams_and_stop_frees_both_engines(page: Page) -> None:
    own_pair(page, "slow", "slow-too", "Go on.")
    expect(page.locator(".map .title")).to_have_text("Go on.", timeout=20_000)
    expect(solution(page).locator(".t").nth(8)).to_be_attached(timeout=20_000)
    page.locator(".pane.map").get_by_role("button", name="Stop").click()
    expect(status(page)).to_contain_text("tokens")
    assert quiet()
    assert solution(page).locator(".t").count() < 400


@pytest.mark.long
def test_a_patched_decode_is_stopped_too(page: Page) -> None:
    own_pair(page, "slow", "slow-too", "Go on.")
    expect(solution(page).locator(".t").nth(4)).to_be_attached(timeout=20_000)
    page.locator(".pane.map").get_by_role("button", name="Stop").click()
    assert quiet()
    page.get_by_role("tab", name="Patch").click()
    page.get_by_role("button", name="entropy gate", exact=True).click()
    patched = page.get_by_role("group", name="Patched solution")
    expect(patched.locator(".t").nth(5)).to_be_attached(timeout=20_000)
    page.locator(".pane.patch").get_by_role("button", name="Stop").click()
    assert quiet()


@pytest.mark.long
def test_closing_the_page_frees_both_engines(open_page: Open, url: str) -> None:
    page = open_compare(open_page, url)
    own_pair(page, "slow", "slow-too", "Go on.")
    expect(solution(page).locator(".t").nth(5)).to_be_attached(timeout=20_000)
    page.goto("about:blank")
    assert quiet()


@pytest.mark.long
def test_hostile_tokens_are_text(page: Page) -> None:
    own_pair(page, "hostile", "hostile-too", "<img src=x onerror=window.PWN=1> ${window.PWN=1} {{x}}")
    expect(status(page)).to_contain_text(re.compile(r"\d+ tokens"), timeout=30_000)
    expect(solution(page).locator(".t").nth(100)).to_be_attached(timeout=30_000)
    assert "<script>window.PWN=1</script>" in solution(page).inner_text()


@pytest.mark.long
def test_a_pair_that_cannot_be_had_is_a_sentence(page: Page) -> None:
    own_pair(page, "mini", "no-such-model", FIRST.problem)
    expect(page.locator("#pair").get_by_role("alert").filter(visible=True)).to_contain_text("Unknown model")
    own_pair(page, "mini", "slow", FIRST.problem)
    expect(page.locator("#pair").get_by_role("alert").filter(visible=True)).to_contain_text("different vocabularies")


@pytest.mark.long
def test_a_phone_has_no_sideways_scroll(open_page: Open, url: str) -> None:
    page = open_compare(open_page, url, width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("tab", name="Patch").click()
    page.get_by_role("button", name="Run all arms").click()
    expect(page.locator(".arm-table tbody tr").filter(has_text="oracle")).to_contain_text("✓", timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_two_visitors_keep_their_own_pairs(open_page: Open, url: str) -> None:
    one, two = open_compare(open_page, url), open_compare(open_page, url)
    one.locator("#pair-source").get_by_label("adapted model's own").check()
    one.get_by_role("button", name="Compare", exact=True).click()
    expect(one.get_by_role("group", name="Answers")).to_contain_text("✓", timeout=20_000)
    expect(two.get_by_role("group", name="Answers")).to_contain_text("✗")
