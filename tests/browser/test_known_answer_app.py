"""A typed problem is judged by its own answer: given beside it, computed from it, or not at all. The real app."""

import re
from collections.abc import Callable

import pytest

pytest.importorskip("playwright")
from places import answer, status
from playwright.sync_api import Page, expect

from rmx.data.problem_sets import examples

Open = Callable[..., Page]
FIRST = examples()[0]
TYPED = "Ann has 5 apples. Ben has 3 more. How many apples do they have together?"
FREE = "Once Ann had 5 apples and Ben had 3. Who has more?"
BOX = "#answer input, #answer textarea"


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    opened = open_page(url)
    expect(status(opened)).to_contain_text("tokens", timeout=30_000)
    return opened


def write(page: Page, text: str) -> None:
    page.locator("#problem textarea").fill(text)


def solved(page: Page, text: str, button: str = "Solve") -> None:
    page.get_by_role("button", name=button, exact=True).click()
    expect(page.locator(".rmx .title").first).to_have_text(text, timeout=20_000)
    expect(status(page)).to_contain_text("tokens", timeout=20_000)


def meta(page: Page):  # noqa: ANN201
    return page.locator("#view .meta")


def test_a_typed_problem_is_judged_by_the_answer_computed_from_it(page: Page) -> None:
    expect(page.locator(BOX)).to_be_visible()  # beside the problem, in no closed section
    expect(page.locator(BOX)).to_have_value(FIRST.answer)
    write(page, TYPED)
    expect(page.locator(BOX)).to_have_value("")
    expect(page.locator(BOX)).to_have_attribute("placeholder", "computed from the text: 13")
    solved(page, TYPED)
    expect(meta(page)).to_contain_text("known answer 13, computed from the text")
    expect(page.locator("#view")).not_to_contain_text(f"known answer {FIRST.answer}")
    said = page.locator("#view .value").inner_text()
    expect(answer(page)).to_contain_text("✓ right" if said == "13" else "✗ wrong")


def test_solve_pressed_at_once_does_not_take_the_old_answer(page: Page) -> None:
    """Text and click within one task of the page: no event of the change has been handled by then."""
    expect(page.locator("#problem textarea")).to_be_visible()  # it comes after the first solution
    page.evaluate(
        """(text) => {
          const box = document.querySelector("#problem textarea");
          box.value = text;
          box.dispatchEvent(new Event("input", {bubbles: true}));
          document.querySelector("#solve").click();
        }""",
        TYPED,
    )
    title = page.locator("#view .title")
    expect(title).to_have_text(TYPED, timeout=20_000)
    expect(status(page)).to_contain_text("tokens", timeout=20_000)
    expect(meta(page)).to_contain_text("known answer 13, computed from the text")


def test_an_answer_given_for_the_typed_text_judges_it(page: Page) -> None:
    write(page, FREE)
    expect(page.locator(BOX)).to_have_value("")
    page.locator(BOX).fill("123456")
    solved(page, FREE, "Solve anyway")  # a text that the miniature was not trained on
    expect(meta(page)).to_contain_text("known answer 123456")
    expect(meta(page)).not_to_contain_text("computed")
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(page.locator(BOX)).to_have_value("123456")
    write(page, f"{FREE} ")  # white space is no other problem
    page.wait_for_timeout(300)
    expect(page.locator(BOX)).to_have_value("123456")


def test_without_a_known_answer_each_measure_says_so_and_offers_the_box(page: Page) -> None:
    write(page, FREE)
    solved(page, FREE, "Solve anyway")  # a text that the miniature was not trained on
    offer = answer(page).get_by_role("button", name="Give the known answer")
    expect(answer(page)).to_contain_text("no known answer")
    offer.click()
    expect(page.locator(BOX)).to_be_focused()
    worth = page.get_by_role("region", name="Worth")
    worth.get_by_role("button", name="Find the smallest rescue").click()
    panel = page.get_by_role("group", name="Measurement")
    expect(panel).to_contain_text("needs the known answer")
    expect(panel.get_by_role("button", name=re.compile("Stop|Start"))).to_have_count(0)
    panel.get_by_role("button", name="Give the known answer").click()
    expect(page.locator(BOX)).to_be_focused()
    worth.get_by_role("button", name="Find the smallest rescue").click()
    expect(panel).to_be_hidden()
    page.locator("#view .flow .t").first.click()
    page.get_by_role("button", name="What is it worth?").click()
    facts = page.locator("#view .outcome-facts")
    expect(facts.or_(page.locator("#view .error:visible")).first).to_contain_text(
        re.compile("no known answer|none is known"), timeout=20_000
    )


def test_problems_that_come_with_an_answer_bring_it_along(page: Page) -> None:
    write(page, FREE)
    expect(page.locator(BOX)).to_have_value("")
    problem = page.locator("#problem textarea")
    page.get_by_role("button", name="right → wrong").click()
    expect(problem).not_to_have_value(FREE, timeout=20_000)  # the two boxes do not change in the same moment
    expect(page.locator(BOX)).not_to_have_value("", timeout=20_000)
    expect(status(page)).to_contain_text("tokens", timeout=20_000)
    expect(meta(page)).not_to_contain_text("computed")
    expect(answer(page)).to_contain_text("✓ right")
    page.get_by_role("button", name="Build a problem").click()
    example, known = problem.input_value(), page.locator(BOX).input_value()
    page.get_by_role("button", name="Use this problem").click()
    expect(problem).not_to_have_value(example)
    expect(page.locator(BOX)).not_to_have_value(known)
    given = page.locator(BOX).input_value()
    assert given
    solved(page, problem.input_value())
    expect(meta(page)).to_contain_text(f"known answer {given}")
    write(page, problem.input_value() + " Please.")
    expect(page.locator(BOX)).to_have_value("")


@pytest.mark.long
def test_compare_judges_a_typed_problem_by_its_own_answer(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    box = page.locator("#pair-answer input, #pair-answer textarea")
    expect(box).to_have_value(FIRST.answer)
    expect(page.locator(".map .meta")).to_contain_text("known answer", timeout=30_000)
    page.locator("#pair-problem textarea").fill(FREE)
    expect(box).to_have_value("")
    page.locator("#pair-compare").click()
    expect(page.locator(".map .title")).to_have_text(FREE, timeout=30_000)
    expect(page.locator(".map .unjudged")).to_contain_text("none is called right or wrong")
    page.locator(".map .unjudged").get_by_role("button", name="Give the known answer").click()
    expect(box).to_be_focused()
    page.locator("#pair-problem textarea").fill(TYPED)
    expect(box).to_have_attribute("placeholder", "computed from the text: 13")
    page.locator("#pair-compare").click()
    expect(page.locator(".map .meta")).to_contain_text("known answer 13, computed from the text", timeout=30_000)
    expect(page.locator(".map .unjudged")).to_be_hidden()
