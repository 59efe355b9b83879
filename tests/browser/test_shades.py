"""Entropy, surprise and rank as the colour of tokens; a pasted text opens on surprise. The real app."""

import math
import re
from collections.abc import Callable

import pytest

pytest.importorskip("playwright")
from places import answer, inspector, opened, status
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Page]
TYPED = "Ann has 5 apples. Ben has 9 more. How many apples do they have together?"
WRONG = " First, the facts are 5, 9. We add 5 and 9: 5 + 9 = 99. So the answer is \\boxed{99}."
MARKED = ".flow .t.unlikely"


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    page = open_page(url)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    return page


def shades(page: Page) -> Locator:
    return page.get_by_role("radiogroup", name="Colour the tokens by")


def read(page: Page) -> None:
    page.locator("#problem textarea").fill(TYPED)
    opened(page, "Read a pasted solution", "#paste textarea").fill(WRONG)
    page.get_by_role("button", name="Score this text").click()
    expect(page.locator("#view .meta")).to_contain_text("read", timeout=20_000)
    expect(status(page)).to_contain_text("tokens", timeout=20_000)


def heat(page: Page) -> list[float]:
    return page.eval_on_selector_all(".flow .t", "els => els.map(e => Number(e.style.getPropertyValue('--h') || 0))")


def wrong_digit(page: Page) -> int:
    """The miniature writes a number digit by digit: this is the first of the wrong 99."""
    said = page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)")
    place = said.index(" =") + 1
    assert said[place : place + 2] == [" 9", "9"]
    return place


def test_a_wrong_number_of_a_pasted_text_is_marked_and_tooltip_and_inspector_say_why(page: Page) -> None:
    expect(shades(page).get_by_role("radio", name="entropy")).to_be_checked()
    expect(page.locator(MARKED)).to_have_count(0)
    read(page)
    expect(shades(page).get_by_role("radio", name="surprise")).to_be_checked()
    wrong = wrong_digit(page)
    span = page.locator(f".flow .t[data-i='{wrong}']")
    expect(span).to_have_class(re.compile("unlikely"))
    expect(span).to_have_attribute("aria-label", re.compile(r'"␣9".*rank \d+, surprise \d+\.\d\d'))
    assert heat(page)[wrong] == 1
    assert heat(page)[wrong - 2] < 0.5
    expect(status(page)).to_contain_text("below 1")
    span.hover()
    tip = page.get_by_role("tooltip")
    for words in ("␣9 has <0.1", "−ln p", "practically decided, for another token"):
        expect(tip).to_contain_text(words)
    span.click()
    said = inspector(page).locator(".stands")
    sentence = r"^The model expected ␣1 here with >99\.9\s%; ␣9 has <0\.1\s% \(rank [2-9]\)\.$"
    expect(said).to_have_text(re.compile(sentence))
    expect(inspector(page)).to_contain_text("Practically decided, for another token.")
    expect(inspector(page).locator(".facts")).to_contain_text("surprise")
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(page.locator("#view .meta")).to_contain_text("known answer 19, computed from the text")


def test_the_switch_is_walked_by_keys_and_each_measure_has_its_legend(page: Page) -> None:
    read(page)
    legend = page.get_by_role("list", name="Legend")
    expect(legend).to_contain_text("nats of surprise")
    surprise, wrong = heat(page), wrong_digit(page)
    said = page.locator(f".flow .t[data-i='{wrong}']").get_attribute("aria-label") or ""
    shades(page).get_by_role("radio", name="surprise").focus()
    page.keyboard.press("ArrowRight")
    expect(shades(page).get_by_role("radio", name="rank")).to_be_checked()
    expect(legend).to_contain_text("1 – 10+ rank")
    rank = heat(page)
    page.keyboard.press("ArrowRight")
    expect(shades(page).get_by_role("radio", name="entropy")).to_be_checked()
    expect(legend).to_contain_text("0 – 2.5+ nats of entropy")
    expect(page.locator(MARKED)).to_have_count(0)
    entropy = heat(page)
    assert (entropy[wrong], surprise[wrong]) == (0, 1)
    place = int(re.search(r"rank (\d+)", said).group(1))  # type: ignore[union-attr]
    assert rank[wrong] == pytest.approx(min(1, math.log10(place)), abs=0.001)
    page.locator("body").press("c")
    page.locator("body").press("c")
    expect(shades(page).get_by_role("radio", name="rank")).to_be_checked()


def test_n_walks_the_surprising_tokens_and_one_tab_stop_remains(page: Page) -> None:
    read(page)
    marked = page.eval_on_selector_all(MARKED, "els => els.map(e => +e.dataset.i)")
    assert wrong_digit(page) in marked
    for pos in marked:
        page.locator("body").press("n")
        expect(inspector(page)).to_contain_text(re.compile(rf"at {pos}\b"))
    assert page.locator(".flow .t[tabindex='0']").count() == 1
    page.locator("body").press("Escape")
    page.locator("body").press("c")
    page.locator("body").press("c")
    expect(page.locator(MARKED)).to_have_count(0)
    assert page.locator(".flow .t[tabindex='0']").count() == 1
    assert page.locator(".flow .t[tabindex='0']:not([role=button])").count() == 0


def test_what_the_model_writes_next_opens_on_entropy_and_a_reload_on_what_was_read(page: Page) -> None:
    read(page)
    page.reload()
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    expect(shades(page).get_by_role("radio", name="surprise")).to_be_checked()
    page.locator("#solve").click()
    expect(shades(page).get_by_role("radio", name="entropy")).to_be_checked(timeout=20_000)
