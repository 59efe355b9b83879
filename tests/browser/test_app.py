"""The real app in Chromium: mini, and a scripted model for what a real one would only do by chance."""

import re
import shutil
import time
from collections.abc import Callable

import pytest

pytest.importorskip("playwright")
from places import answer, inspector, lanes, status
from playwright.sync_api import Locator, Page, expect
from real_app import SLOW

from rmx.config import ASSETS
from rmx.data.problem_sets import examples, of_kind
from rmx.models.stand_ins import NEWLINES

Open = Callable[..., Page]
FIRST = examples()[0]


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    opened = open_page(url)
    expect(opened.locator("#view").get_by_role("status")).to_contain_text("tokens", timeout=30_000)
    expect(opened.locator(".fan-ray.fan-unknown")).to_have_count(0)  # the fan is as high as it will be
    return opened


def alternatives(page: Page) -> Locator:
    return inspector(page).get_by_role("list", name="Alternatives").get_by_role("button")


def token(page: Page, pos: int) -> Locator:
    return page.locator(f".flow .t[data-i='{pos}']")


def shown(page: Page) -> list[str]:
    return page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)")


def choose_model(page: Page, name: str) -> None:
    page.get_by_role("button", name="Model").click()
    page.get_by_label("Model", exact=True).last.fill(name)
    page.keyboard.press("Enter")
    expect(page.locator("#model-note")).to_contain_text("context", timeout=30_000)


def solve(page: Page, problem: str | None = None) -> None:
    if problem is not None:
        page.get_by_label("Problem", exact=True).first.fill(problem)
    page.get_by_role("button", name="Solve").click()


def test_the_first_screen_has_a_solved_example_with_forks(page: Page) -> None:
    expect(page.get_by_role("group", name="Solution").locator(".fork").first).to_be_visible()
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(token(page, FIRST.pos)).to_have_class(re.compile("fork"))
    expect(page.get_by_role("slider", name=re.compile("^Entropy"))).to_be_visible()
    marks_follow_the_threshold(page)
    the_line_of_the_threshold_is_moved(page)
    a_click_on_the_strip_goes_to_the_token(page)
    an_alternative_says_what_comes_next_and_turns_wrong_into_right(page)
    a_reload_brings_the_same_solution_back(page)


def marks_follow_the_threshold(page: Page) -> None:
    few = page.locator(".flow .fork").count()
    assert few > 0
    box = page.locator("#tau input[type=number]")
    for tau, count in (("3.5", 0), ("1", few)):
        box.fill(tau)
        box.press("Tab")
        expect(page.locator(".flow .fork")).to_have_count(count)


def the_line_of_the_threshold_is_moved(page: Page) -> None:
    box, few, grip = (
        page.locator("#tau input[type=number]"),
        page.locator(".flow .fork").count(),
        page.locator(".strip .curves-grip"),
    )
    place = grip.bounding_box()
    assert place
    page.mouse.move(place["x"] + 5, place["y"] + 8)
    page.mouse.down()
    page.mouse.move(place["x"] + 5, place["y"] - 30, steps=4)
    page.mouse.up()
    expect(page.locator(".flow .fork")).not_to_have_count(few)
    assert 1.2 < float(box.input_value()) < 1.8
    expect(page.locator(".rmx .legend [data-ui=tau]")).to_have_text(f"{float(box.input_value()):.2f}")
    grip.press("Home")
    grip.press("PageUp")
    grip.press("PageUp")
    expect(box).to_have_value("1")
    expect(page.locator(".flow .fork")).to_have_count(few)


def a_click_on_the_strip_goes_to_the_token(page: Page) -> None:
    strip, count = page.locator(".strip .curves-plot"), page.locator(".flow .t").count()
    grid = page.locator(".strip .curves-rule").first
    expect(grid).to_be_attached()
    box, ground = strip.bounding_box(), grid.bounding_box()
    assert box
    assert ground
    place = ground["x"] - box["x"] + ground["width"] * (FIRST.pos + 0.5) / count
    strip.hover(position={"x": place, "y": 60})
    expect(page.locator(".strip .curves-about")).to_contain_text(f"{FIRST.pos}: ")
    strip.click(position={"x": place, "y": 60})
    expect(inspector(page)).to_contain_text(f"at {FIRST.pos}")


def modules(page: Page) -> list[str]:
    """What the page has fetched of its own modules, templates and style sheets."""
    fetched = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    return [
        address.partition("/assets/ui/")[2].partition("/")[2]
        for address in fetched
        if "/assets/ui/" in address and not address.endswith(".svg")
    ]


@pytest.mark.long
def test_the_modules_of_a_tab_are_loaded_once_when_it_is_first_opened(page: Page) -> None:
    assert "explore/token_view.js" in modules(page)
    assert not [
        path for path in modules(page) if path.startswith(("compare/", "train/", "evaluate/", "runs/", "claims/"))
    ]
    for tab in ("Compare", "Explore", "Compare"):
        page.get_by_role("tab", name=tab, exact=True).click()
        expect(page.locator("#pair .rmx" if tab == "Compare" else "#view .rmx")).to_be_visible()
    found = modules(page)
    assert {"compare/compare_map.js", "compare/compare_view.css", "compare/compare_view.html"} <= set(found)
    assert len(found) == len(set(found))  # what the two tabs have in common came once
    assert not [path for path in found if path.startswith("train/")]


def an_alternative_says_what_comes_next_and_turns_wrong_into_right(page: Page) -> None:
    alternative = inspector(page).locator(f".alts .alt[data-id='{FIRST.token_id}']")
    expect(alternative.locator(".ahead-words")).not_to_be_empty()
    expect(alternative.locator(".then")).to_contain_text(f"✓ {FIRST.swapped_answer}")  # its own end, though advised
    ahead = alternative.locator(".ahead-words").inner_text().split()
    alternative.click()
    expect(answer(page)).to_contain_text("✓ right")
    expect(answer(page)).to_contain_text(FIRST.answer)
    expect(status(page)).to_contain_text("computed 1")
    expect(token(page, FIRST.pos)).to_have_class(re.compile("forced"))
    tail = "".join(shown(page)[FIRST.pos + 1 :]).split()
    assert tail[: len(ahead) - 1] == ahead[:-1]


def test_keys_take_a_word_and_bad_input_is_a_sentence(page: Page) -> None:
    keys_walk_the_forks_swap_undo_and_redo(page)
    bad_input_is_a_sentence_and_the_session_goes_on(page)


def keys_walk_the_forks_swap_undo_and_redo(page: Page) -> None:
    before = shown(page)
    page.locator("body").press("n")
    expect(inspector(page)).to_contain_text("Fork at")
    forks = page.eval_on_selector_all(".flow .fork", "els => els.map(e => +e.dataset.i)")
    for _ in range(forks.index(FIRST.pos)):
        page.keyboard.press("n")
    expect(inspector(page)).to_contain_text(f"at {FIRST.pos}")
    expect(alternatives(page).filter(has_text=FIRST.token_text.strip())).to_have_count(1)
    texts = alternatives(page).all_inner_texts()
    place = next(i for i, text in enumerate(texts) if FIRST.token_text.strip() in text)
    page.keyboard.press(str(place + 1))
    expect(answer(page)).to_contain_text("✓ right")
    page.keyboard.press("u")
    expect(answer(page)).to_contain_text("✗ wrong")
    assert shown(page) == before
    page.keyboard.press("r")
    expect(answer(page)).to_contain_text("✓ right")


def test_the_examples_show_what_their_buttons_name(page: Page) -> None:
    examples_of_both_directions_and_a_harmless_fork(page)
    an_example_is_left_to_who_goes_elsewhere_in_time(page)


def examples_of_both_directions_and_a_harmless_fork(page: Page) -> None:
    for kind, button in (("break", "right → wrong"), ("harmless", "harmless fork"), ("rescue", "wrong → right")):
        example = of_kind(kind)[0]  # type: ignore[arg-type]
        page.get_by_role("button", name=re.compile(button)).click()
        expect(page.locator(".rmx .title")).to_have_text(example.problem)
        expect(inspector(page)).to_contain_text(f"at {example.pos}", timeout=15_000)
        # The page makes the swap that the button names, and says what the answer was before.
        expect(token(page, example.pos)).to_have_class(re.compile("forced"))
        expect(answer(page).locator(".value")).to_have_text(example.swapped_answer)
        expect(answer(page)).to_contain_text("✓ right" if example.swapped_answer == example.answer else "✗ wrong")
        before = "as before" if example.swapped_answer == example.base_answer else example.base_answer
        expect(answer(page).locator(".verdict")).to_contain_text(before)
        expect(inspector(page)).to_contain_text(f"at {example.pos}")


def an_example_is_left_to_who_goes_elsewhere_in_time(page: Page) -> None:
    page.get_by_role("button", name="wrong → right").click()
    expect(page.locator(".flow .spot")).to_have_count(1, timeout=15_000)  # the fork is shown before its word is taken
    page.get_by_role("button", name="Close inspector").click()
    expect(page.locator(".flow .spot")).to_have_count(0)
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(lanes(page)).to_have_count(0)
    page.get_by_role("button", name="wrong → right").click()
    expect(page.locator(".flow .spot")).to_have_count(1, timeout=15_000)
    page.locator("#problem textarea").press("End")  # who writes is about to ask for something else
    expect(page.locator(".flow .spot")).to_have_count(0)
    page.wait_for_timeout(300)
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(lanes(page)).to_have_count(0)


def a_reload_brings_the_same_solution_back(page: Page) -> None:
    expect(lanes(page)).to_have_count(1)
    expect(token(page, FIRST.pos)).to_have_class(re.compile("forced"))
    expect(status(page)).to_contain_text("reused")  # it is finished, and the address names it
    before = shown(page)
    page.reload()
    expect(token(page, FIRST.pos)).to_have_class(re.compile("forced"), timeout=20_000)
    assert shown(page) == before


def test_who_stops_waits_or_leaves_frees_the_engine(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_model(page, "slow")
    it_streams_and_stop_frees_the_engine_and_keeps_what_is_there(page)
    who_waits_sees_the_place_in_line_and_the_wait(page, monkeypatch)
    closing_the_page_frees_the_engine(page)


def stream(page: Page, problem: str) -> None:
    """Solve by the slow model, until some tokens are there."""
    solve(page, problem)
    expect(page.locator(".rmx .title")).to_have_text(problem, timeout=20_000)
    expect(page.locator(".flow .t").nth(5)).to_be_attached(timeout=20_000)


def it_streams_and_stop_frees_the_engine_and_keeps_what_is_there(page: Page) -> None:
    stream(page, "Go on.")
    early = page.locator(".flow .t").count()
    expect(page.locator(".flow .t").nth(early + 10)).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    expect(status(page)).to_contain_text("tokens")
    count = page.locator(".flow .t").count()
    assert 10 <= count < 400
    assert SLOW.engine.queue.waiting() == 0
    page.wait_for_timeout(400)
    assert page.locator(".flow .t").count() == count


def who_waits_sees_the_place_in_line_and_the_wait(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SLOW.engine.queue
    monkeypatch.setattr(queue, "_mean", 30.0)  # a turn takes that long, lately
    holder = queue.enter()
    try:
        solve(page, "Wait.")
        waiting = page.get_by_text(re.compile(r"waiting: 1 request before yours, about (2[0-9]|30) s"))
        expect(waiting).to_be_visible(timeout=20_000)
    finally:
        queue.leave(holder)
    expect(page.locator(".rmx .title")).to_have_text("Wait.", timeout=20_000)
    expect(page.locator(".flow .t").nth(5)).to_be_attached(timeout=20_000)
    page.get_by_role("button", name="Stop").click()
    expect(status(page)).to_contain_text("tokens")


def closing_the_page_frees_the_engine(page: Page) -> None:
    stream(page, "Leave.")
    assert SLOW.engine.queue.waiting()
    page.goto("about:blank")
    deadline = time.monotonic() + 4  # to its end the solution would take twice as long
    while SLOW.engine.queue.waiting() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert SLOW.engine.queue.waiting() == 0


@pytest.mark.long
def test_hostile_tokens_are_text(page: Page) -> None:
    choose_model(page, "hostile")
    solve(page, "<img src=x onerror=window.PWN=1> ${window.PWN=1} {{x}}")
    expect(status(page)).to_contain_text(re.compile("39[0-9]|[34][0-9][0-9] tokens"), timeout=30_000)
    text = "".join(shown(page))
    assert "<script>window.PWN=1</script>" in text
    assert "${window.PWN=1}" in text
    assert "\u202e" not in text
    page.locator(".flow .fork").first.click()
    expect(alternatives(page)).to_have_count(5)
    alternatives(page).nth(1).click()
    expect(lanes(page)).to_have_count(1)


def test_ten_thousand_newlines_do_not_bury_the_page(page: Page) -> None:
    run_id = page.evaluate("new URL(location).searchParams.get('run')")
    assert run_id
    choose_model(page, "lines")
    solve(page, "Lines.")
    expect(status(page)).to_contain_text(re.compile(r"\b[45]\d tokens"), timeout=30_000)
    assert page.evaluate("document.documentElement.scrollHeight") < 30_000
    assert len(NEWLINES) == 10_000


def bad_input_is_a_sentence_and_the_session_goes_on(page: Page) -> None:
    solve(page, "   ")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("empty")
    solve(page, "x " * 3000)
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("holds")
    solve(page, FIRST.problem)
    expect(status(page)).to_contain_text("tokens")
    expect(page.locator(".rmx").get_by_role("alert")).to_be_hidden()
    page.get_by_label("Problem", exact=True).first.fill("Why is the sky blue?")
    expect(page.locator("#banner")).to_contain_text("Outside what mini was trained on")
    page.get_by_label("Problem", exact=True).first.fill(FIRST.problem)
    expect(page.locator("#banner")).to_be_hidden()
    page.get_by_role("button", name="Model").click()
    page.get_by_label("Model", exact=True).last.fill("no-such-model")
    page.keyboard.press("Enter")
    expect(page.locator("#model-note")).to_contain_text("Unknown model", timeout=20_000)
    expect(page.locator("#model-note")).to_contain_text("mini stays available")


@pytest.mark.long
def test_the_builder_makes_a_problem_with_its_answer(page: Page) -> None:
    page.get_by_role("button", name="Build a problem").click()
    page.get_by_role("button", name="Use this problem").click()
    box = page.get_by_label("Problem", exact=True).first
    expect(box).not_to_have_value(FIRST.problem)
    solve(page)
    expect(page.locator(".rmx .title")).to_have_text(box.input_value())
    expect(answer(page)).to_contain_text(re.compile("right|wrong"))


@pytest.mark.long
def test_a_pasted_solution_is_scored(page: Page) -> None:
    page.get_by_role("button", name="Read a pasted solution").click()
    page.locator("#paste textarea").fill(" We add 42 and 11: 42 + 11 = 53. So the answer is \\boxed{53}.")
    page.get_by_role("button", name="Score this text").click()
    expect(page.locator(".rmx .meta")).to_contain_text("read")
    expect(answer(page)).to_contain_text("53")
    assert "".join(shown(page)).startswith(" We add 42")


def test_a_phone_has_no_sideways_scroll_and_a_sheet(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=740)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    token(page, FIRST.pos).scroll_into_view_if_needed()
    token(page, FIRST.pos).click()
    expect(alternatives(page).first).to_be_in_viewport()
    alternatives(page).filter(has_text=FIRST.token_text.strip()).first.click()
    expect(answer(page)).to_contain_text("✓ right")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.long
def test_presenter_mode_pauses_at_a_fork_and_lets_the_room_choose(page: Page) -> None:
    page.get_by_role("button", name="Present").click()
    stage = page.get_by_role("group", name="Which word comes next?")
    expect(stage.get_by_role("button")).to_have_count(5)
    expect(page.locator(".rmx.presenting")).to_have_count(1)
    stage.get_by_role("button").nth(1).click()  # not what the model said: the room takes another way
    expect(token(page, 0)).to_have_class(re.compile("forced"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Present")).to_be_visible()
    expect(lanes(page)).to_have_count(1)


def test_a_clicker_walks_the_playlist(page: Page) -> None:
    page.get_by_role("button", name="Present").click()
    expect(page.locator(".rmx.presenting")).to_have_count(1)  # the button's own pace is set by then
    page.evaluate("window.rmx.presenter(true, {pace: 0, pauseAtForks: false})")
    expect(answer(page)).to_contain_text("✗ wrong")
    page.keyboard.press("PageDown")  # the swap that is worth trying
    expect(answer(page)).to_contain_text("✓ right")
    page.keyboard.press("PageDown")
    expect(page.locator(".rmx .title")).to_have_text(examples()[1].problem, timeout=15_000)


def test_nothing_but_a_clicker_flips_an_answer_and_goes_on(page: Page) -> None:
    page.get_by_role("button", name="Present").click()
    expect(page.locator(".rmx.presenting .stage .alt")).to_have_count(5)  # it pauses at the first fork
    verdicts: list[str] = []
    while page.locator(".rmx .title").inner_text() == FIRST.problem:
        page.keyboard.press("PageDown")
        page.wait_for_timeout(700)
        verdicts.append(answer(page).locator(".verdict").inner_text())
        assert len(verdicts) < 20
    said = " ".join(verdicts)
    assert said.index("✗ wrong") < said.index("✓ right")


@pytest.mark.long
def test_the_tour_has_five_steps(page: Page) -> None:
    page.get_by_role("button", name="Tour", exact=True).first.click()
    for step, button in enumerate(("Next", f"Take “{FIRST.token_text.strip()}”", "Next", "Next", "Done"), 1):
        expect(page.get_by_text(f"{step} of 5")).to_be_visible()
        page.get_by_role("button", name=button, exact=True).click()
        if step == 2:  # the visitor has turned the answer
            expect(answer(page)).to_contain_text("✓ right")
    expect(page.get_by_text("5 of 5")).to_be_hidden()


def test_two_visitors_do_not_see_each_other(open_page: Open, url: str) -> None:
    one, two = open_page(url), open_page(url)
    for page in (one, two):
        expect(status(page)).to_contain_text("tokens", timeout=30_000)
    token(one, FIRST.pos).click()
    alternatives(one).filter(has_text=FIRST.token_text.strip()).first.click()
    expect(answer(one)).to_contain_text("✓ right")
    expect(answer(two)).to_contain_text("✗ wrong")
    expect(lanes(two)).to_have_count(0)


def solved(page: Page, problem: str) -> None:
    solve(page, problem)
    expect(page.locator(".rmx .title")).to_have_text(problem, timeout=30_000)
    expect(status(page)).to_contain_text("tokens", timeout=30_000)


def test_a_model_is_unloaded_and_loaded_again(page, tmp_path):
    copy = shutil.copytree(ASSETS / "mini", tmp_path / "copy")
    choose_model(page, str(copy))
    solved(page, "Ann has 3 pears.")
    memory = page.locator("#memory")
    mine = memory.get_by_label(f"{copy} · 0.0")
    expect(mine).to_be_visible()
    expect(memory.get_by_label(re.compile("^mini "))).to_have_count(0)  # it always stays
    mine.check()
    memory.get_by_role("button", name="Unload").click()
    expect(page.locator("#model-note")).to_contain_text("was unloaded: 0.0")
    expect(mine).to_have_count(0)
    solved(page, "Ben has 4 pears.")  # what is asked for again is loaded again
    expect(page.locator("#model-note")).not_to_contain_text("⚠")
