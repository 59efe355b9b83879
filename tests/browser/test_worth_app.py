"""Measuring on the real app: outcome bars, importance, a rescue, the answer so far, and stopping each of them."""

import re
import time
from collections.abc import Callable

import pytest

pytest.importorskip("playwright")
from places import answer, inspector, lanes, opened, status
from playwright.sync_api import Locator, Page, expect
from real_app import SLOW

from rmx.data.problem_sets import examples

Open = Callable[..., Page]
FIRST = examples()[0]


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    opened = open_page(url)
    expect(status(opened)).to_contain_text("tokens", timeout=30_000)
    return opened


def select(page: Page, pos: int) -> None:
    page.locator(f".flow .t[data-i='{pos}']").click()
    expect(rows(page).first).to_be_visible()


def rows(page: Page) -> Locator:
    return inspector(page).get_by_role("list", name="Alternatives").get_by_role("listitem")


def outcomes(page: Page) -> Locator:
    return inspector(page).get_by_role("group", name="Outcomes")


def measure(page: Page, name: str) -> Locator:
    page.get_by_role("region", name="Worth").get_by_role("button", name=name).click()
    return page.get_by_role("group", name="Measurement")


def test_outcome_bars_fill_in_the_inspector(page: Page) -> None:
    select(page, FIRST.pos)
    page.keyboard.press("o")
    expect(rows(page).first).to_contain_text(re.compile(r"n (8|16|24|32|40|48|56|64)\b"))
    expect(outcomes(page)).to_contain_text("This choice decides", timeout=30_000)
    expect(outcomes(page)).to_contain_text(f"right means {FIRST.answer}")
    good = rows(page).filter(has_text=FIRST.token_text.strip()).first
    expect(good).to_contain_text(re.compile(r"100.?%"))


def test_the_importance_of_every_fork(page: Page) -> None:
    forks = page.locator(".flow .fork").count()
    panel = measure(page, "Which forks decide?")
    expect(panel).to_contain_text(f"{forks} of {forks} forks", timeout=60_000)
    expect(panel.locator(".fork-column")).to_have_count(forks)
    panel.locator(f".fork-column[data-pos='{FIRST.pos}']").click()
    expect(inspector(page)).to_contain_text(f"at {FIRST.pos}")


def test_a_rescue_becomes_a_branch(page: Page) -> None:
    panel = measure(page, "Find the smallest rescue")
    expect(panel.locator(".finding")).to_contain_text("One token:", timeout=30_000)
    expect(answer(page)).to_contain_text("✓ right", timeout=20_000)
    expect(lanes(page)).to_have_count(1)
    expect(panel).to_contain_text(f"uses the known answer {FIRST.answer}")
    expect(panel).to_contain_text("Plain resampling")
    page.get_by_role("button", name="Undo").click()
    expect(answer(page)).to_contain_text("✗ wrong")


def test_the_answer_so_far_stands_after_each_sentence(page: Page) -> None:
    before = page.locator(".flow").evaluate("e => e.textContent")
    panel = measure(page, "Answer so far")
    expect(panel.locator(".finding")).to_contain_text("Mode over the trace", timeout=20_000)
    chips = page.locator(".flow .so-far")
    expect(chips).to_have_count(before.count(". ") + 1)
    expect(chips.last).to_have_attribute("data-say", re.compile(FIRST.base_answer))
    assert page.locator(".flow").evaluate("e => e.textContent") == before


def solve_slowly(page: Page) -> None:
    """A solution of a slow model, short, wrong, with a known answer and many forks."""
    opened(page, "Decoding", "#max-new input").fill("24")
    page.get_by_role("button", name="Model").click()
    page.get_by_label("Model", exact=True).last.fill("slow")
    page.keyboard.press("Enter")
    expect(page.locator("#model-note")).to_contain_text("context", timeout=30_000)
    page.get_by_label("Problem", exact=True).first.fill("Go on.")
    expect(page.locator("#answer input, #answer textarea")).to_have_value("")  # that of the problem before is gone
    page.locator("#answer input, #answer textarea").fill("123456")
    page.get_by_role("button", name="Solve").click()
    expect(page.locator(".rmx .title")).to_have_text("Go on.", timeout=20_000)
    expect(status(page)).to_contain_text("24 tokens", timeout=30_000)


def quiet(timeout: float = 10) -> bool:
    deadline = time.monotonic() + timeout
    while SLOW.engine.queue.waiting() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not SLOW.engine.queue.waiting()


@pytest.mark.long
def test_outcomes_stop_in_the_middle(page: Page) -> None:
    solve_slowly(page)
    page.locator(".flow .fork").first.click()
    page.keyboard.press("o")
    expect(outcomes(page).get_by_role("button", name="Stop sampling")).to_be_visible()
    expect(rows(page).first).to_contain_text("n 8", timeout=20_000)
    outcomes(page).get_by_role("button", name="Stop sampling").click()
    expect(outcomes(page)).to_contain_text("stopped by hand")
    assert quiet()


@pytest.mark.parametrize(
    "what", ["Which forks decide?", pytest.param("Find the smallest rescue", marks=pytest.mark.long)]
)
def test_a_measurement_stops_in_the_middle(page: Page, what: str) -> None:
    solve_slowly(page)
    panel = measure(page, what)
    expect(panel).to_contain_text(re.compile(r"\b[1-9][\d,]* of [\d,]+ tokens"), timeout=20_000)
    panel.get_by_role("button", name="Stop measuring").click()
    expect(panel).to_contain_text("stopped by hand")
    assert quiet()


@pytest.mark.long
def test_a_closed_page_ends_its_measurement(page: Page) -> None:
    solve_slowly(page)
    panel = measure(page, "Find the smallest rescue")
    expect(panel).to_contain_text(re.compile(r"\b[1-9][\d,]* of [\d,]+ tokens"), timeout=20_000)
    page.goto("about:blank")
    assert quiet()
