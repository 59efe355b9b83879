"""The Claims tab on the real app: rows measured one by one and all at once, stopped, reloaded, taken home."""

import re
from collections.abc import Callable

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect

from rmx.claims.board import CLAIMS

Open = Callable[..., Page]
HOSTILE = "<img src=x onerror=window.pwned=1>${7*7}{{this}}"
LONG = 120_000


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    return opened(open_page(url))


def opened(page: Page) -> Page:
    expect(page.get_by_role("tab", name="Claims")).to_be_visible(timeout=60_000)
    page.get_by_role("tab", name="Claims").click()
    expect(page.locator(".claims .card")).to_have_count(len(CLAIMS))
    fill(page, "limit", 2)
    page.get_by_role("button", name="How much, and how").click()
    fill(page, "max-new", 96)
    fill(page, "budget", 500)
    fill(page, "samples", 2)
    return page


def fill(page: Page, name: str, value: object) -> None:
    box = page.locator(f"#claims-{name} input")
    box.fill(str(value))
    box.blur()


def card(page: Page, name: str) -> Locator:
    return page.locator(f".claims .card[data-claim='{name}']")


def tile(page: Page, name: str) -> Locator:
    return page.locator(f".claims [data-tile='{name}']")


def shown(page: Page, name: str) -> Locator:
    """The card of a claim, opened by its tile."""
    if tile(page, name).get_attribute("aria-expanded") == "false":
        tile(page, name).click()
    expect(card(page, name)).to_be_visible()
    return card(page, name)


def measure(page: Page, name: str) -> None:
    shown(page, name).get_by_role("button").click()


def badge(page: Page, name: str) -> Locator:
    return card(page, name).locator(".card-head .claim-badge")


def stop(page: Page) -> Locator:
    return page.locator(".claims [data-do='stop']")


def test_every_claim_can_be_read_before_anything_is_measured_and_a_wrong_number_is_explained(page: Page) -> None:
    reranked = shown(page, "reranked")
    expect(reranked).to_contain_text("1.0 to 4.1 % of positions")
    reranked.get_by_text("How it is measured").click()
    expect(reranked).to_contain_text("another of the base's top 5")
    expect(page.get_by_role("region", name="What this cannot say")).to_contain_text("whole 95 % interval")
    fill(page, "limit", 0)
    page.get_by_role("button", name="Measure all").click()
    expect(page.locator(".claims .error")).to_contain_text(
        "number of problems must be a whole number between 1 and 500"
    )


def test_it_opens_with_a_recorded_example_as_a_board_on_one_screen(open_page: Open, url: str) -> None:
    page = open_page(url, width=1280, height=900)
    page.get_by_role("tab", name="Claims").click()
    expect(page.get_by_text("a recorded example")).to_be_visible()
    expect(tile(page, "gain")).to_have_text(re.compile(r"^≡RL raises pass@1\+\d.*by construction$"))
    expect(page.locator(".claims .tile svg").first).to_be_visible()
    last = page.locator(".claims .tile").last.bounding_box()
    assert last is not None
    assert last["y"] + last["height"] <= 900
    expect(page.locator(".claims .card:visible")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download report").click()
    assert "mini + rl" in download.value.path().read_text(encoding="utf-8")


def test_a_click_shows_the_recorded_claims_of_a_real_model(page: Page) -> None:
    examples = page.get_by_role("group", name="Recorded examples")
    mini, real = (
        examples.get_by_role("button", name="mini+rl"),
        examples.get_by_role("button", name="smollm2+rl, n = 300"),
    )
    expect(mini).to_have_attribute("aria-pressed", "true")
    real.click()
    expect(real).to_have_attribute("aria-pressed", "true")
    expect(mini).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".claims .claim-facts")).to_contain_text("the first 300 problems of words:test")
    expect(tile(page, "gain")).to_have_text(re.compile(r"^✓RL raises pass@1\+18\.7 points.*agrees$"))
    expect(tile(page, "gate")).to_contain_text("differs")
    expect(tile(page, "swaps")).to_contain_text("10 % [8.35, 11.9]agrees")
    expect(tile(page, "pass-at-k")).to_contain_text("open in the paper")
    expect(tile(page, "locator")).to_contain_text("83.2 % [67.2, 95.4] out of the gate's sight")
    expect(page.locator(".claims .made")).to_contain_text("rmx claims --model smollm2-135m-instruct-q4_1 --adapter rl")
    mini.click()
    expect(page.locator(".claims .claim-facts")).to_contain_text("mini + rl")
    expect(tile(page, "gain")).to_contain_text("by construction")


def test_the_board_obeys_keys_and_opens_one_claim_at_a_time(page: Page) -> None:
    expect(page.get_by_text("a recorded example")).to_be_visible()
    first, second = page.locator(".claims .tile").nth(0), page.locator(".claims .tile").nth(1)
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(second).to_be_focused()
    page.keyboard.press("Enter")
    expect(second).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_role("region", name="RL changes few choices")).to_contain_text("The paper")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator(".claims .card:visible")).to_have_count(1)
    page.keyboard.press("End")
    expect(page.locator(".claims .tile").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".claims .card:visible")).to_have_count(0)
    expect(first).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().left")
    assert below == first.evaluate("(node) => node.getBoundingClientRect().left")


def test_one_row_is_measured_and_the_next_goes_on_from_it(page: Page) -> None:
    measure(page, "gain")
    expect(page.get_by_text("a recorded example")).to_be_hidden(timeout=LONG)
    expect(badge(page, "gain")).to_have_text("≡ by construction", timeout=LONG)
    expect(card(page, "gain")).to_contain_text(re.compile(r"Base \d.*adapted \d"))
    expect(card(page, "gain")).to_contain_text("no verdict is given below 30")
    expect(card(page, "gain").get_by_role("img", name=re.compile("gain over the base:.*95 % interval"))).to_be_visible()
    expect(badge(page, "reranked")).to_have_text("– not measured")
    expect(stop(page)).to_be_hidden()
    measure(page, "low-rank")
    expect(card(page, "low-rank")).to_contain_text("rmx distill --model mini --set mini --adapter rl", timeout=LONG)
    expect(badge(page, "gain")).to_have_text("≡ by construction")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download report").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert download.value.suggested_filename == "claims.html"
    assert "The paper on your model" in text
    assert "mini + rl" in text


def test_all_rows_a_stop_in_the_middle_and_a_reload(page: Page) -> None:
    fill(page, "limit", 200)  # more than can be done before it is stopped
    page.get_by_role("button", name="Measure all").click()
    expect(badge(page, "reranked")).to_have_text("… measuring", timeout=LONG)
    expect(tile(page, "reranked")).to_contain_text("measuring")
    expect(shown(page, "reranked").get_by_role("button")).to_be_disabled()
    expect(page.locator(".claims .going")).to_contain_text(re.compile(r"solutions [2-9] of 200"), timeout=LONG)
    stop(page).click()
    expect(stop(page)).to_be_hidden(timeout=LONG)
    expect(badge(page, "reranked")).to_have_text("≡ by construction")
    expect(card(page, "reranked").locator(".where")).to_contain_text("stopped")
    expect(badge(page, "gain")).to_have_text("– not measured")
    expect(page.locator(".claims .tally")).to_contain_text("by construction")
    expect(page.get_by_role("region", name="What this cannot say")).to_contain_text("The bundled miniature was built")
    page.reload()
    page.get_by_role("tab", name="Claims").click()
    expect(badge(page, "reranked")).to_have_text("≡ by construction")


@pytest.mark.long
def test_hostile_names_are_text(page: Page) -> None:
    page.locator("#claims-preset input").click()
    page.get_by_role("option", name="another pair").click()
    page.get_by_label("Adapter (bundled").fill(HOSTILE)
    page.get_by_label("Adapter (bundled").blur()
    measure(page, "gain")
    expect(page.locator(".claims .error")).to_contain_text(HOSTILE, timeout=LONG)
    assert page.evaluate("window.pwned") is None
    expect(shown(page, "gain").get_by_role("button")).to_be_enabled()


@pytest.mark.long
def test_on_a_phone_nothing_is_wider_than_the_screen(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=740)
    page.get_by_role("tab", name="Claims").click()
    expect(page.locator(".claims .card")).to_have_count(len(CLAIMS))
    expect(page.get_by_role("button", name="Measure all")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shown(page, "gain")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (
        page.locator(".claims .board").evaluate("(node) => getComputedStyle(node).gridTemplateColumns").count(" ") == 0
    )
    expect(page.get_by_role("tab", name="Runs")).to_be_visible()
