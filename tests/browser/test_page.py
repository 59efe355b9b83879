"""The page around the views, in Chromium: tabs and the address, keys, full screen, what links to it show elsewhere."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

pytest.importorskip("playwright")
from places import answer, status
from playwright.sync_api import Browser, Locator, Page, expect

from rmx.data.problem_sets import examples
from tests.helpers.fake_hub import fake_hub

Open = Callable[..., Page]
FIRST = examples()[0]


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    opened = open_page(url)
    expect(opened.locator("#view").get_by_role("status")).to_contain_text("tokens", timeout=30_000)
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


# ---- the page as it opens ----------------------------------------------------------------------------------------
def test_the_page_as_it_opens(page: Page, url: str) -> None:
    headings_lead_through_the_page(page)
    the_badge_stands_on_the_fork_that_decides(page)
    a_link_unfurls_as_rmx(page, url)
    the_first_tab_stop_leads_past_the_form_to_the_first_fork(page)
    about_says_on_one_screen_what_this_is(page)
    the_marks_of_a_selected_token_leave_the_next_character_alone(page)
    a_new_answer_is_read_aloud(page)
    words_that_need_it_say_what_they_mean(page)
    the_strength_obeys_keys_and_its_number(page)


def test_what_is_typed_is_solved_or_refused_with_a_way_on(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    control_and_enter_solve_what_stands_in_the_box(page)
    a_text_outside_of_minis_world_leads_elsewhere_by_one_click(page)
    a_model_that_cannot_be_fetched_is_refused_within_seconds(page, monkeypatch)


def test_tabs_keep_their_address_and_say_what_can_fill_the_screen(page: Page) -> None:
    the_address_names_the_tab_for_reload_and_back(page)
    present_is_off_with_its_reason_where_nothing_can_fill_the_screen(page)


def test_after_presenting_a_recorded_tree_is_opened(page: Page) -> None:
    space_and_enter_go_on_after_present_was_clicked(page)
    the_form_shows_the_tree_that_was_opened(page)


SHIFTS = """
window.shifted = 0;
const add = (list) => list.getEntries().forEach((e) => (window.shifted += e.hadRecentInput ? 0 : e.value));
new PerformanceObserver(add).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_jumps_while_the_first_solution_comes_in(browser: Browser, url: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.add_init_script(SHIFTS)
    page.goto(url)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    expect(page.locator(".fan-ray.fan-right").first).to_be_attached()  # the ends are there
    shifted = page.evaluate("window.shifted")
    page.evaluate("document.body.style.paddingTop = '300px'")
    page.wait_for_function("before => window.shifted > before + 0.05", arg=shifted)  # it is counted here
    context.close()
    assert 0 <= shifted < 0.1  # browsers call 0.1 good; 0.2 and 0.97 before the places were kept free


PLACE = """(view) => {
  const { left, top, width } = view.getBoundingClientRect();
  return [left + scrollX, top + scrollY, width];
}"""


# No file of gradio's was asked for before the first solution had begun to come.
BEFORE = """() => {
  const files = performance.getEntriesByType("resource");
  const opening = files.find((file) => file.name.endsWith("/opening"));
  const gradio = files.filter((file) => /\\/assets\\/(?!ui\\/)[^/]+\\.js$/.test(file.name));
  return gradio.length > 10 && gradio.every((file) => file.startTime >= opening.responseStart);
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_first_solution_stands_in_its_place_before_gradios_page_is_there(
    browser: Browser, url: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page, held = context.new_page(), []
    page.route("**/Blocks-*.js", lambda route: held.append(route))  # noqa: PLW0108
    page.goto(url, wait_until="commit")
    view = page.locator(".rmx[data-ui=root]").first
    expect(view.get_by_role("status")).to_contain_text("tokens", timeout=30_000)
    expect(view.locator(".flow .t").first).to_be_visible()
    expect(page.locator("#tabs")).to_have_count(0)
    assert page.evaluate(BEFORE)
    view.locator(".flow .fork").first.click()  # what it asks of Python waits for gradio
    before = view.evaluate(PLACE)
    for route in held:
        route.continue_()
    expect(page.locator("#view .rmx .flow .t").first).to_be_visible(timeout=30_000)
    expect(page.locator("#early")).to_have_count(0)
    expect(page.get_by_role("list", name="Alternatives").get_by_role("button").first).to_be_attached()
    assert view.evaluate(PLACE) == before
    context.close()


def test_the_page_comes_up_also_where_the_first_solution_does_not(browser: Browser, url: str) -> None:
    page = browser.new_page()
    for failing in ("**/opening", "**/token_view.html"):
        page.route(failing, lambda route: route.abort())
    page.goto(url)
    expect(tab(page, "Explore")).to_have_attribute("aria-selected", "true", timeout=30_000)
    page.close()


# ---- full screen -------------------------------------------------------------------------------------------------
def space_and_enter_go_on_after_present_was_clicked(page: Page) -> None:
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


def present_is_off_with_its_reason_where_nothing_can_fill_the_screen(page: Page) -> None:
    present = page.locator("#present")
    for name, why in {"Train": "checkpoint first: then its fork replay", "Claims": "nothing to show"}.items():
        open_tab(page, name)
        expect(present).to_be_disabled()
        expect(present).to_have_attribute("title", re.compile(why))
        expect(present).to_have_attribute("aria-description", re.compile(why))
    page.reload()
    expect(page.get_by_role("tab", name="Claims")).to_have_attribute("aria-selected", "true")
    expect(present).to_be_disabled()  # also where a page begins with such a tab
    page.wait_for_function("() => !!window.rmx")  # Explore comes up behind that tab
    page.evaluate("window.rmx.presenter(true)")
    expect(page.locator("html")).not_to_have_class(re.compile("rmx-presenting"))
    open_tab(page, "Explore")
    expect(present).to_be_enabled()


# ---- tabs in the address -----------------------------------------------------------------------------------------
def the_address_names_the_tab_for_reload_and_back(page: Page) -> None:
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
def the_first_tab_stop_leads_past_the_form_to_the_first_fork(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the solution")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".flow .fork").first).to_be_focused()


def control_and_enter_solve_what_stands_in_the_box(page: Page) -> None:
    box = page.get_by_label("Problem", exact=True).first
    box.fill("Ann has 3 pens. Ben has 4 more. How many pens do they have together?")
    box.press("Control+Enter")
    expect(page.locator("#view .title")).to_contain_text("Ann has 3 pens")
    expect(status(page)).to_contain_text("tokens", timeout=30_000)


def a_new_answer_is_read_aloud(page: Page) -> None:
    spoken = page.locator("#view [aria-live=polite][data-ui=spoken]")
    expect(spoken).to_contain_text("wrong")
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    alternatives = page.get_by_role("list", name="Alternatives").get_by_role("button")
    alternatives.filter(has_text=FIRST.token_text.strip()).first.click()
    expect(answer(page)).to_contain_text("✓ right")
    expect(spoken).to_contain_text(f"Answer: {FIRST.answer}. right")


def headings_lead_through_the_page(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("rmx")
    for name in ("Problem", "Answer", "Solution", "Fork"):
        expect(page.get_by_role("heading", level=2, name=name, exact=False).first).to_be_attached()


# ---- the first ten seconds ---------------------------------------------------------------------------------------
def the_badge_stands_on_the_fork_that_decides(page: Page) -> None:
    expect(page.locator("#view .flow .first")).to_have_attribute("data-i", str(FIRST.pos))


def about_says_on_one_screen_what_this_is(page: Page) -> None:
    page.get_by_role("button", name="About").click()
    about = page.get_by_role("dialog", name="What a fork is, and why it matters")
    expect(about).to_be_visible()
    expect(about).to_contain_text("arXiv 2605.06241")
    assert about.evaluate("node => node.scrollHeight <= node.clientHeight")
    page.keyboard.press("Escape")
    expect(about).to_be_hidden()


def test_presenter_and_tour_fit_a_phone(open_page: Open, url: str) -> None:
    page = open_page(url, width=390, height=844)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    presenting_on_a_phone_leaves_room_for_the_solution(page)
    the_tour_covers_nothing_that_it_explains(page)


def presenting_on_a_phone_leaves_room_for_the_solution(page: Page) -> None:
    page.locator("#present").click()
    expect(page.locator("[data-ui=stage]")).to_be_visible()
    box = page.locator("#view .text").bounding_box()
    assert box
    assert box["height"] >= 240
    page.keyboard.press("Escape")
    expect(page.locator("html")).not_to_have_class(re.compile("rmx-presenting"))


def the_tour_covers_nothing_that_it_explains(page: Page) -> None:
    page.locator("#tour").click()
    callout, apart = page.get_by_role("dialog", name="Tour"), "([a, b]) => a.bottom <= b.top || a.top >= b.bottom"
    for button in ("Next", "Take “Then”", "Next", "Next", "Done"):
        expect(callout.get_by_role("button", name=button)).to_be_visible()
        if button.startswith("Next"):
            page.wait_for_timeout(300)
        rects = page.evaluate(
            "['.spot', '.callout'].map((name) => document.querySelector(name)?.getBoundingClientRect())"
        )
        assert rects[0] is None or page.evaluate(apart, rects)
        callout.get_by_role("button", name=button).click()
    expect(answer(page)).to_contain_text("✓ right")


def a_text_outside_of_minis_world_leads_elsewhere_by_one_click(page: Page) -> None:
    box = page.get_by_label("Problem", exact=True).first
    expect(page.locator("#nearest")).to_be_hidden()
    box.fill("Why is the sky blue over Paris in spring?")
    expect(page.locator("#banner")).to_contain_text("would be noise")
    expect(page.locator("#real")).to_be_visible()
    expect(page.locator("#real-about")).to_contain_text("0.5 GB in memory, Apache-2.0; solves 40 %")
    title, first = page.locator("#view .title"), page.locator("#view .title").inner_text()
    page.locator("#solve").click()
    expect(page.locator("#view").get_by_role("alert")).to_contain_text("Not solved")
    expect(title).to_have_text(first)
    page.locator("#anyway").click()
    expect(title).to_have_text(box.input_value())
    expect(page.locator("#view").get_by_role("alert")).to_be_hidden()
    page.locator("#nearest").click()
    expect(page.locator("#nearest")).to_be_hidden()
    expect(page.locator("#view .title")).to_have_text(box.input_value())
    assert "sky" not in box.input_value()


def words_that_need_it_say_what_they_mean(page: Page) -> None:
    for word in ("nats", "fork"):
        expect(page.locator("#view .legend abbr").filter(has_text=word).first).to_have_attribute(
            "title", re.compile("entropy|information")
        )
    page.locator("#view .flow .t").filter(has_text="boxed").first.hover()
    expect(page.get_by_role("tooltip").filter(visible=True)).to_contain_text("holds the final answer")
    open_tab(page, "Compare")
    for word in ("reranked", "shifted"):
        expect(page.locator(f"#pair [data-only={word}]")).to_have_attribute(
            "title", re.compile("base's five likeliest")
        )


def a_model_that_cannot_be_fetched_is_refused_within_seconds(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:9")  # nobody answers there
    page.get_by_role("button", name="Model").click()
    page.get_by_label("Model", exact=True).last.fill("nobody/nothing")
    page.keyboard.press("Enter")
    expect(page.locator("#model-note")).to_contain_text("the Hub cannot be reached", timeout=6_000)


@pytest.fixture
def slow_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A Hub with some/model, 40 MB, that takes its time."""
    with fake_hub(0.6) as address:
        for name, value in {"ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name, value in {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"}.items():
            monkeypatch.setenv(name, value)
        yield


def choose_in_explore(page: Page) -> str:
    page.get_by_role("button", name="Model").click()
    page.get_by_label("Model", exact=True).last.fill("some/model")
    page.keyboard.press("Enter")
    return "#model-note"


def choose_in_compare(page: Page) -> str:
    open_tab(page, "Compare")
    page.get_by_label("Pair", exact=True).click()
    page.get_by_role("option", name="another pair").click()
    page.locator("#pair-base input").fill("some/model")
    page.keyboard.press("Enter")
    page.locator("#pair-adapter textarea").fill("an/adapter")
    page.locator("#pair-compare").click()
    return "#pair-note"


def choose_in_evaluate(page: Page) -> str:
    open_tab(page, "Evaluate")
    page.locator("#evaluate-model input").fill("some/model")
    page.keyboard.press("Enter")
    page.locator("#evaluate-start").click()
    return "#evaluate-note"


@pytest.mark.usefixtures("slow_hub")
@pytest.mark.parametrize("choose", [choose_in_explore, choose_in_compare, choose_in_evaluate])
def test_a_download_says_how_far_it_is_and_cancel_ends_it(page: Page, choose: Callable[[Page], str]) -> None:
    note = page.locator(choose(page))
    expect(note).to_contain_text("of 40 MB", timeout=20_000)
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    cancel.click()
    expect(note).to_contain_text("stopped. Files that had come whole are kept")
    expect(cancel).to_be_hidden()
    if choose is choose_in_explore:
        expect(page.get_by_label("Model", exact=True).last).to_have_value(re.compile("mini"))


# ---- boxes and end tokens ----------------------------------------------------------------------------------------
COPIED = """() => {
  getSelection().selectAllChildren(document.querySelector("#view .flow"));
  const text = getSelection().toString();
  getSelection().removeAllRanges();
  return text;
}"""


def test_a_box_and_an_end_token_show_what_they_mean_and_are_copied_as_they_are(page: Page) -> None:
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    box, end = page.locator("#view .flow .boxed"), page.locator("#view .flow [data-means]")
    command, brace = page.locator("#view .flow .tex").first, page.locator("#view .flow .tex").last
    expect(box.first).to_be_visible(timeout=30_000)
    assert "".join(box.all_inner_texts()) == "33"
    expect(box.first).not_to_have_css("border-left-width", "0px")
    expect(box.last).not_to_have_css("border-right-width", "0px")
    for hidden in (command, brace, end):
        expect(hidden).to_have_css("font-size", "0px")
    assert "end of the solution" in end.evaluate("node => getComputedStyle(node, '::after').content")
    assert page.evaluate(COPIED).endswith("the answer is \\boxed{33}.<|end|>")
    page.keyboard.press("x")
    for shown in (command, brace, end):
        expect(shown).not_to_have_css("font-size", "0px")
    expect(box.first).to_have_css("border-left-width", "0px")
    page.get_by_role("button", name="Raw", exact=True).click()
    expect(command).to_have_css("font-size", "0px")
    take(page)  # the text is written anew from a fork, with a box of its own
    assert "".join(box.all_inner_texts()) == "52"
    page.evaluate("pos => window.rmx.goto(pos)", int(end.get_attribute("data-i") or 0))
    names = page.get_by_role("list", name="Alternatives").locator("[data-means]")
    expect(names.first).to_have_attribute("title", "<|end|>")
    expect(names.first).to_have_css("font-size", "0px")
    page.get_by_role("button", name="Raw", exact=True).click()
    expect(names.first).not_to_have_css("font-size", "0px")
    compare_shows_what_they_mean_too(page)


def compare_shows_what_they_mean_too(page: Page) -> None:
    open_tab(page, "Compare")  # it has no button for the raw text: who selects a token sees it
    read, end = page.locator("#pair .map .flow"), page.locator("#pair .map .flow [data-means]")
    expect(read.locator(".boxed").first).to_be_visible(timeout=30_000)
    for hidden in (*read.locator(".tex").all(), end):
        expect(hidden).to_have_css("font-size", "0px")
    solutions = page.locator("#pair [data-ui=solutionsRows]")
    expect(solutions.locator(".boxed")).to_have_text(["33", "52"], timeout=30_000)
    for command in solutions.locator(".tex").all():
        expect(command).to_have_css("font-size", "0px")
    expect(solutions.locator(".meant:has(.boxed)").last).to_have_attribute("title", "52}.")
    command = read.locator(".t:has(.tex)").first
    command.click()
    expect(command.locator(".tex").first).not_to_have_css("font-size", "0px")
    page.mouse.click(*end.evaluate("node => (({x, y, width}) => [x + width / 2, y])(node.getBoundingClientRect())"))
    name = page.locator("#pair .top [data-means]").first
    expect(name).to_have_attribute("title", "<|end|>")
    expect(name).to_have_css("font-size", "0px")
    assert "end of the solution" in name.evaluate("node => getComputedStyle(node, '::after').content")


# ---- swaps and trees ---------------------------------------------------------------------------------------------
def take(page: Page) -> None:
    page.locator(f"#view .flow .t[data-i='{FIRST.pos}']").click()
    alternatives = page.get_by_role("list", name="Alternatives").get_by_role("button")
    alternatives.filter(has_text=FIRST.token_text.strip()).first.click()
    expect(answer(page)).to_contain_text("✓ right")


def the_form_shows_the_tree_that_was_opened(page: Page) -> None:
    page.get_by_role("button", name="Recorded trees").click()
    page.locator(".piece").first.click()
    title = page.locator("#view .title")
    expect(title).not_to_have_text(FIRST.problem)
    expect(page.get_by_label("Problem", exact=True).first).to_have_value(title.inner_text())
    expect(page.get_by_label("Known answer").first).not_to_have_value(FIRST.answer)
    expect(page.locator("#tau input[type=number]")).to_have_value(
        str(float(page.locator("#view [data-ui=tau]").inner_text()))
    )


def the_marks_of_a_selected_token_leave_the_next_character_alone(page: Page) -> None:
    page.locator("#view .flow .fork b").first.click()
    chosen = page.locator("#view .t.selected b")
    expect(chosen).to_have_css("outline-style", "none")
    sides = chosen.evaluate("node => getComputedStyle(node).boxShadow.split(/,(?![^(]*\\))/)")
    for shadow in sides:  # to the right nothing goes beyond the word
        assert "inset" in shadow or re.search(r"\) 0px -?2px 0px 0px", shadow), shadow


def test_no_arrow_lies_over_the_text_of_a_drop_down(page: Page) -> None:
    open_tab(page, "Compare")
    expect(page.locator(".controls .secondary-wrap:visible").first).to_be_visible()
    room = page.locator(".controls .secondary-wrap:visible").evaluate_all(
        """wraps => wraps.map((wrap) => {
            const input = wrap.querySelector("input"), arrow = wrap.querySelector(".icon-wrap");
            const end = input.getBoundingClientRect().right - parseFloat(getComputedStyle(input).paddingRight);
            return arrow.getBoundingClientRect().left - end;
        })"""
    )
    assert room
    assert min(room) >= 0


def test_a_page_of_1024_pixels_keeps_the_inspector_beside_the_text(open_page: Open, url: str) -> None:
    page = open_page(url, width=1024, height=768)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    page.locator("#view .flow .fork").first.click()
    expect(page.get_by_role("region", name="Inspector")).to_contain_text("Fork at")
    page.locator("#solve").click(trial=True)  # nothing lies over it


# ---- sliders -----------------------------------------------------------------------------------------------------
def the_strength_obeys_keys_and_its_number(page: Page) -> None:
    open_tab(page, "Compare")
    said = page.locator("#pair .meta").first
    expect(said).to_contain_text("mini + rl", timeout=30_000)
    page.locator("#pair-strength input[type=range]").press("ArrowLeft")
    expect(said).to_contain_text("strength 0.95", timeout=30_000)
    number = page.locator("#pair-strength input[type=number]")
    number.fill("0.5")
    number.press("Enter")
    expect(said).to_contain_text("strength 0.5", timeout=30_000)


# ---- what others show of a link ----------------------------------------------------------------------------------
def a_link_unfurls_as_rmx(page: Page, url: str) -> None:
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
