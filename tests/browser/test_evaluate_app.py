"""The Evaluate tab of the real app: mini and its RL adapter on a few problems, and the way to the other tabs."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("playwright")
from playwright.sync_api import Locator, Page, expect
from real_app import serving

Open = Callable[..., Page]
LONG = 90_000  # ms: a small evaluation on a busy machine


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMX_CACHE", str(tmp_path_factory.mktemp("cache")))  # nothing is known yet
        with serving({}) as address:
            yield address


def opened(open_page: Open, url: str) -> Page:
    page = open_page(url)
    page.get_by_role("tab", name="Evaluate").click()
    expect(page.get_by_text("Is it better, and would you see it again")).to_be_visible()
    return page


def fill(page: Page, problems: int, samples: str) -> None:
    page.locator("#evaluate-limit input").fill(str(problems))
    page.locator("#evaluate-n").get_by_text(samples, exact=True).click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def head(page: Page) -> Locator:
    return page.locator("#evaluate .run-head")


def test_it_opens_with_the_recorded_example_and_after_a_forgotten_evaluation_too(open_page: Open, url: str) -> None:
    page = opened(open_page, url)
    expect(head(page)).to_contain_text("a recorded example", timeout=LONG)
    expect(page.get_by_role("table", name="What each solves").locator("tbody tr")).not_to_have_count(0)
    page.evaluate("sessionStorage.setItem('rmx-evaluation', 'of a server that is gone')")
    page.reload()
    page.get_by_role("tab", name="Evaluate").click()
    expect(head(page)).to_contain_text("a recorded example", timeout=LONG)
    assert page.evaluate("sessionStorage.getItem('rmx-evaluation')") is None


def test_stop_and_evaluate_again_goes_on_from_what_is_known(open_page: Open, url: str) -> None:
    page = opened(open_page, url)
    fill(page, 40, "4")  # of fewer nothing is left to do when Stop is pressed
    press(page, "Evaluate")
    expect(page.locator("#evaluate .run .num")).to_have_text(re.compile("^[1-9][0-9]* of 400"), timeout=LONG)
    press(page, "Stop")
    expect(head(page)).to_contain_text("stopped", timeout=LONG)
    expect(head(page)).to_contain_text("Evaluate goes on from here.")
    press(page, "Evaluate")
    expect(head(page)).to_contain_text("40 problems", timeout=LONG)
    expect(head(page)).to_contain_text("done", timeout=LONG)
    expect(head(page)).to_contain_text("was known already")
    solved = page.get_by_role("table", name="What each solves")
    expect(solved.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("table", name="Differences to the base")).to_contain_text(re.compile("won [0-9]+, lost"))
    expect(page.locator("#evaluate .curves-end").first).to_be_visible(timeout=LONG)
    with page.expect_download() as saved:
        press(page, "Plots as SVG")
    assert saved.value.suggested_filename == "evaluation-mini-test-curves.svg"
    figure = saved.value.path().read_text(encoding="utf-8")
    assert ElementTree.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg"
    assert "over samples k, log scale" in figure


@pytest.mark.long
def test_a_problem_opens_in_explore_and_in_compare(open_page: Open, url: str) -> None:
    page = opened(open_page, url)
    fill(page, 4, "0")
    press(page, "Evaluate")
    expect(head(page)).to_contain_text("done", timeout=LONG)
    page.locator("#evaluate .list > li").first.get_by_role("button").click()
    detail = page.get_by_role("group", name=re.compile("^Problem "))
    text = detail.locator(".whole").text_content() or ""
    answer = (detail.locator("tbody tr").nth(1).locator("td").first.text_content() or "")[2:]
    detail.get_by_role("button", name="Open in Explore: rl").click()
    expect(page.locator("#view .title")).to_have_text(text, timeout=LONG)
    expect(page.locator("#view .meta")).to_contain_text("mini + rl")
    expect(page.locator("#view .value")).to_contain_text(answer, timeout=LONG)
    expect(page.locator("#problem textarea")).to_have_value(text)
    page.get_by_role("tab", name="Evaluate").click()
    detail.get_by_role("button", name="Compare: rl").click()
    expect(page.locator("#pair .map .title")).to_have_text(text, timeout=LONG)
    expect(page.locator("#pair .map .meta")).to_contain_text("mini + rl", timeout=LONG)
