"""The page around the views, in Chromium: tabs and the address, keys, full screen, what links to it show elsewhere."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlparse

import pytest

pytest.importorskip("playwright")
from places import answer, status
from playwright.sync_api import Locator, Page, expect

from rmx.data.problem_sets import examples

Open = Callable[..., Page]
FIRST = examples()[0]


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    opened = open_page(url)
    expect(status(opened)).to_contain_text("tokens", timeout=30_000)
    return opened


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("tab", name=name, exact=True)


def open_tab(page: Page, name: str) -> None:
    tab(page, name).click()
    expect(tab(page, name)).to_have_attribute("aria-selected", "true")


def named_tab(page: Page) -> str | None:
    return parse_qs(urlparse(page.url).query).get("tab", [None])[0]


def view_class(page: Page) -> str:
    return page.locator("#view .rmx").first.get_attribute("class") or ""


# ---- full screen -------------------------------------------------------------------------------------------------
def test_space_and_enter_go_on_after_present_was_clicked(page: Page) -> None:
    page.locator("#present").click()
    stage, play = page.locator("[data-ui=stage]"), page.locator("[data-ui=play]")
    for key in (" ", "Enter"):
        expect(stage).to_be_visible()
        page.keyboard.press(key)
        expect(stage).to_be_hidden()
        page.keyboard.press(" ")
        expect(play).to_have_text("Play")
        page.keyboard.press(" ")
        expect(play).to_have_text("Pause")
    page.keyboard.press("Escape")
    expect(page.locator("html")).not_to_have_class(re.compile("rmx-presenting"))


def test_present_is_off_with_its_reason_where_nothing_can_fill_the_screen(page: Page) -> None:
    present = page.locator("#present")
    for name in ("Train", "Evaluate", "Claims", "Runs"):
        open_tab(page, name)
        expect(present).to_be_disabled()
        expect(present).to_have_attribute("title", re.compile("open Explore or Compare"))
    page.evaluate("window.rmx.presenter(true)")
    expect(page.locator("html")).not_to_have_class(re.compile("rmx-presenting"))
    open_tab(page, "Explore")
    expect(present).to_be_enabled()


# ---- tabs in the address -----------------------------------------------------------------------------------------
def test_the_address_names_the_tab_for_reload_and_back(page: Page) -> None:
    for name in ("Train", "Runs"):
        open_tab(page, name)
        expect(page).to_have_url(re.compile(f"tab={name.lower()}"))
    page.reload()
    expect(tab(page, "Runs")).to_have_attribute("aria-selected", "true", timeout=30_000)
    page.go_back()
    expect(tab(page, "Train")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(tab(page, "Explore")).to_have_attribute("aria-selected", "true")
    assert named_tab(page) is None
    page.go_forward()
    expect(tab(page, "Train")).to_have_attribute("aria-selected", "true")


# ---- keys and what is read aloud ---------------------------------------------------------------------------------
def test_the_first_tab_stop_leads_past_the_form_to_the_first_fork(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the solution")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".flow .fork").first).to_be_focused()


def test_control_and_enter_solve_what_stands_in_the_box(page: Page) -> None:
    box = page.get_by_label("Problem", exact=True).first
    box.fill("Ann has 3 pens. Ben has 4 more. How many pens do they have together?")
    box.press("Control+Enter")
    expect(page.locator("#view .title")).to_contain_text("Ann has 3 pens")
    expect(status(page)).to_contain_text("tokens", timeout=30_000)


def test_a_new_answer_is_read_aloud(page: Page) -> None:
    spoken = page.locator("#view [aria-live=polite][data-ui=spoken]")
    expect(spoken).to_contain_text("wrong")
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    alternatives = page.get_by_role("list", name="Alternatives").get_by_role("button")
    alternatives.filter(has_text=FIRST.token_text.strip()).first.click()
    expect(answer(page)).to_contain_text("✓ right")
    expect(spoken).to_contain_text(f"Answer: {FIRST.answer}. right")


def test_headings_lead_through_the_page(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("rmx")
    for name in ("Problem", "Answer", "Solution", "Fork"):
        expect(page.get_by_role("heading", level=2, name=name, exact=False).first).to_be_attached()


# ---- what others show of a link ----------------------------------------------------------------------------------
def test_a_link_unfurls_as_rmx(page: Page, url: str) -> None:
    shown = page.evaluate(
        """() => [...document.querySelectorAll('head meta[property], head meta[name]')]
            .map((tag) => [tag.getAttribute('property') ?? tag.name, tag.content])"""
    )
    named = [name for name, _ in shown if name.startswith(("og:", "twitter:"))]
    assert sorted(named) == sorted(set(named))
    about = dict(shown)
    root = page.locator("link[rel=canonical]").get_attribute("href")
    assert root == about["og:url"] == url
    assert about["og:title"] == about["twitter:title"] == page.title() == "rmx · fork tokens"
    assert "few words" in about["og:description"]
    assert not re.search("gradio", str(shown), re.IGNORECASE)
    assert page.locator("link[rel~=icon]").count() == 1
    for address in (about["og:image"], page.evaluate("document.querySelector('link[rel~=icon]').href")):
        reply = page.request.get(address)
        assert reply.ok
        assert reply.headers["content-type"].startswith("image/")
