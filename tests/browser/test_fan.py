"""The fork fan in Chromium, on the scripted server, where every end is known."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
import scripted_app as app
from places import answer, inspector, lanes, status
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

Open = Callable[..., Page]
GAP, SLOTS = 15, 4  # pixels that a fork needs at least, words of one fork that are drawn


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(app.build) as address:
        yield address


@pytest.fixture
def page(open_page: Open, url: str) -> Iterator[Page]:
    app.EVENTS.clear()
    app.DROP.clear()
    yield open_page(url)
    app.END_PACE["pause"] = 0.0
    app.UNKNOWN.clear()


def fan(page: Page) -> Locator:
    return page.get_by_role("group", name="Branches")


def ray(page: Page, pos: int, text: str) -> Locator:
    """The words of an alternative, or its mark where there is no room for words."""
    found = fan(page).locator(f".fan-ray[data-pos='{pos}'][data-id='{app.token_id(text)}']")
    return found.locator(".fan-mark")


def solve(page: Page, script: str = "beads", limit: int = 400) -> None:
    page.get_by_label(script, exact=True).check()
    page.locator("#limit input").fill(str(limit))
    page.locator("#pause input").fill("0")
    page.get_by_role("button", name="Solve").click()
    expect(status(page)).to_contain_text("tokens", timeout=30_000)


def kinds(page: Page) -> dict[str, int]:
    """How many words end how."""
    classes = fan(page).locator(".fan-ray").evaluate_all("all => all.map(e => e.classList[1].slice(4))")
    return {kind: classes.count(kind) for kind in dict.fromkeys(classes)}


def picks() -> list[dict[str, Any]]:
    return [data for name, data in app.EVENTS if name == "pick"]


def rays_of(run: app.Run) -> int:
    return sum(len(run.choices(run.said[:pos])[:5]) - 1 for pos, tok in enumerate(run.toks) if tok[1] > run.tau)


def last_run() -> app.Run:
    return list(app.RUNS.values())[-1]


def test_every_other_word_at_a_fork_ends_in_its_answer(page: Page) -> None:
    solve(page)
    run = last_run()
    expect(fan(page).locator(".fan-ray")).to_have_count(rays_of(run))
    expect(fan(page).locator(".fan-ray.fan-unknown")).to_have_count(0)
    expect(ray(page, 13, " subtract").locator("..")).to_have_class("fan-ray fan-right")
    expect(ray(page, 13, " multiply").locator("..")).to_have_class("fan-ray fan-wrong")
    ends = [
        app.end_of(run, pos, t)
        for pos, tok in enumerate(run.toks)
        if tok[1] > 1
        for t, _ in run.choices(run.said[:pos])[:5]
        if t != run.said[pos]
    ]
    assert kinds(page)["right"] == sum(end[-1] is True for end in ends)
    assert kinds(page)["wrong"] == sum(end[-1] is False for end in ends)


def test_what_ends_right_stands_above_the_trunk_and_all_else_below(page: Page) -> None:
    solve(page)
    expect(fan(page).locator(".fan-ray.fan-unknown")).to_have_count(0)
    trunk = page.locator(".fan-trunk").evaluate("e => e.getBoundingClientRect().top")
    for kind, above in (("right", True), ("wrong", False)):
        tops = (
            fan(page)
            .locator(f".fan-ray.fan-{kind} .fan-mark")
            .evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        )
        assert tops
        assert all((top < trunk) is above for top in tops)


def test_a_word_is_as_wide_as_it_is_likely(page: Page) -> None:
    solve(page)
    wide = {
        text: float(ray(page, 13, text).locator("..").locator(".fan-way").get_attribute("stroke-width") or 0)
        for text, _ in app.VERBS[1:4]
    }
    for text, p in app.VERBS[1:4]:
        assert wide[text] / wide[" subtract"] == pytest.approx(p / 0.27, abs=0.04)


def test_an_end_that_was_not_computed_is_never_guessed(page: Page) -> None:
    app.END_PACE["pause"] = 30.0
    solve(page)
    expect(fan(page).locator(".fan-ray")).to_have_count(rays_of(last_run()))
    page.wait_for_timeout(1500)
    assert set(kinds(page)) == {"unknown"}
    app.END_PACE["pause"] = 0.0
    solve(page, "long", 200)  # its alternatives go on for ever
    page.wait_for_timeout(1500)
    assert set(kinds(page)) == {"unknown"}


def test_without_a_known_answer_ends_are_the_same_or_another(page: Page) -> None:
    app.UNKNOWN.set()
    solve(page)
    expect(fan(page).locator(".fan-ray.fan-unknown")).to_have_count(0)
    assert set(kinds(page)) == {"same", "other"}


def test_a_click_takes_a_word_and_the_same_word_again_leads_to_the_old_branch(page: Page) -> None:
    solve(page)
    first = last_run()
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    branch = last_run()
    assert picks() == [{"run": first.id, "pos": 13, "token_ids": [app.token_id(" subtract")]}]
    expect(lanes(page)).to_have_text(["first solution"])
    page.locator("body").press("u")
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(lanes(page)).to_have_text(["add → subtract"])
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    assert len(picks()) == 1
    assert branch.id in page.url
    ray(page, 13, " add").click()  # what stood there before leads back
    expect(answer(page)).to_contain_text("✗ wrong")
    assert len(picks()) == 1
    assert first.id in page.url


@pytest.mark.long
def test_a_click_counts_although_ends_come_in_while_the_button_is_down(page: Page) -> None:
    app.END_PACE["pause"] = 0.4
    solve(page)
    expect(fan(page).locator(".fan-ray:not(.fan-unknown)").first).to_be_attached()
    while (box := ray(page, 47, " Thus").bounding_box()) is None:  # it is drawn anew with each end that comes in
        page.wait_for_timeout(50)
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.wait_for_timeout(900)
    page.mouse.up()
    expect(status(page)).to_contain_text("reused")
    expect(lanes(page)).to_have_text(["first solution"])
    assert [data["token_ids"] for data in picks()] == [[app.token_id(" Thus")]]


@pytest.mark.long
def test_a_branch_that_was_stopped_by_hand_is_made_anew(page: Page) -> None:
    solve(page)
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    last_run().stop = "cancelled"
    page.reload()
    expect(answer(page)).to_contain_text("✓ right")
    lanes(page).click()
    expect(answer(page)).to_contain_text("✗ wrong")
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    assert len(picks()) == 2


@pytest.mark.long
def test_branches_of_branches_stay_and_lead_to_their_answers(page: Page) -> None:
    solve(page)
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    ray(page, 31, " multiply").click()
    expect(answer(page)).to_contain_text("1302")
    expect(lanes(page)).to_have_count(2)
    lanes(page).filter(has_text="first solution").click()
    expect(answer(page)).to_contain_text("95")
    expect(lanes(page)).to_have_text(["add → subtract", "add → multiply"])
    expect(fan(page).locator(".fan-lane.fan-right")).to_have_count(1)
    lanes(page).nth(1).click()
    expect(answer(page)).to_contain_text("1302")


def test_the_inspector_says_where_each_of_the_five_leads(page: Page) -> None:
    solve(page)
    page.evaluate("window.rmx.goto(13)")
    rows = inspector(page).get_by_role("list", name="Alternatives").get_by_role("button")
    expect(rows.first.locator(".then")).to_have_text("→ ✗ 95 ")  # what stands there
    expect(rows.nth(1).locator(".then")).to_have_text("→ ✓ 73 ")
    expect(rows.nth(2).locator(".then")).to_have_text("→ ✗ 504 ")


def test_keys_walk_through_the_fan_and_take_a_word(page: Page) -> None:
    solve(page)
    expect(fan(page).locator(".fan-ray.fan-unknown")).to_have_count(0)
    assert fan(page).locator("[tabindex='0'].fan-fork, [tabindex='0'].fan-ray").count() == 1
    fan(page).locator(".fan-fork").first.focus()
    page.keyboard.press("ArrowRight")
    expect(fan(page).locator(".fan-fork[data-pos='13']")).to_be_focused()
    expect(page.get_by_role("tooltip")).to_contain_text("as undecided as between 4.0 words")
    page.keyboard.press("ArrowDown")
    expect(ray(page, 13, " subtract").locator("..")).to_be_focused()
    expect(page.get_by_role("tooltip")).to_contain_text("✓ 73")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("✓ right")
    fan(page).locator(".fan-fork[data-pos='13']").focus()
    page.keyboard.press(" ")
    expect(inspector(page)).to_contain_text("Fork at 13")
    expect(fan(page).locator(".fan-fork.selected")).to_have_attribute("data-pos", "13")


def test_the_threshold_decides_which_forks_fan_out(page: Page) -> None:
    solve(page)
    forks = fan(page).locator(".fan-fork")
    expect(forks).to_have_count(5)
    page.evaluate("window.rmx.setTau(1.35)")
    expect(forks).to_have_count(3)
    expect(page.locator(".fan-drawing")).to_have_attribute(
        "aria-label", "57 tokens, 3 forks; other words: 2 right, 10 wrong"
    )
    page.evaluate("window.rmx.setTau(0.001)")
    expect(page.locator(".fan-ticks")).not_to_have_attribute("d", "")


def test_dragging_along_the_trunk_goes_through_the_text(page: Page) -> None:
    solve(page, "long", 600)
    box = page.locator(".fan-trunk").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 5, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, y, steps=4)
    middle = int(page.locator(".flow .pointed").get_attribute("data-i") or -1)
    page.mouse.move(box["x"] + box["width"], y, steps=4)
    expect(page.locator(".flow .pointed")).to_have_attribute("data-i", "599")
    assert 200 < middle < 400
    expect(page.locator(".flow .pointed")).to_be_in_viewport()
    page.mouse.up()
    expect(page.locator(".flow .pointed")).to_have_count(0)
    expect(inspector(page).locator(".chosen")).to_be_hidden()  # it was no click
    assert picks() == []


def test_the_table_says_what_the_drawing_shows(page: Page) -> None:
    solve(page)
    expect(fan(page).locator(".fan-ray.fan-unknown")).to_have_count(0)
    page.get_by_text("as a table").click()
    rows = page.get_by_role("region", name="Other words and their ends").get_by_role("row")
    expect(rows).to_have_count(1 + rays_of(last_run()))
    expect(rows.filter(has_text="subtract").first).to_contain_text("73, right")
    expect(rows.filter(has_text="subtract").first).to_contain_text("27")
    ray(page, 13, " subtract").click()
    expect(rows.filter(has_text="taken: 95, wrong")).to_have_count(1)


@pytest.mark.parametrize(("limit", "forks"), [(720, 12), pytest.param(2400, 40, marks=pytest.mark.long)])
def test_many_forks_keep_apart(page: Page, limit: int, forks: int) -> None:
    solve(page, "long", limit)
    run = last_run()
    assert sum(tok[1] > 1 for tok in run.toks) >= forks
    spots = fan(page).locator(".fan-node").evaluate_all("all => all.map(e => +e.getAttribute('cx'))")
    assert len(spots) >= min(forks, 30)
    assert all(b - a > 0.5 * GAP for a, b in zip(spots, spots[1:], strict=False))


OVER = """() => {
  const edge = (node) => node.getBoundingClientRect();
  const spots = [...document.querySelectorAll(".fan-node")].map((node) => edge(node).left);
  const most = edge(document.querySelector(".fan-drawing")).right;
  return [...document.querySelectorAll(".fan-label")].filter((label) => {
    const next = spots.find((spot) => spot > edge(label.parentNode.parentNode.querySelector(".fan-node")).right);
    return edge(label).right > (next ?? most) + 1;
  }).map((label) => label.textContent);
}"""


@pytest.mark.parametrize(("width", "forks"), [(390, 3), (1920, 12), pytest.param(1920, 3, marks=pytest.mark.long)])
def test_each_word_is_written_out_beside_its_mark_and_ends_before_the_next_fork(
    open_page: Open, url: str, width: int, forks: int
) -> None:
    page = open_page(url, width=width)
    solve(page, "many", 60 * forks)
    expect(fan(page).locator(".fan-fork")).to_have_count(forks)
    last = fan(page).locator(".fan-branching").last
    expect(last.locator(".fan-ray:not(.fan-unknown)").first).to_be_attached()
    assert {"right", "wrong", "unknown"} == set(kinds(page))
    names = fan(page).locator(".fan-name").all_text_contents()
    assert len(names) == fan(page).locator(".fan-ray").count() == 4 * forks
    assert {"but", "so", "wait", "hence", "now"} >= set(names)
    assert page.evaluate(OVER) == []
    page.set_viewport_size({"width": 360, "height": 760})
    expect(fan(page).locator(".fan-drawing")).not_to_have_attribute("width", re.compile(r"\d{4}"))
    assert page.evaluate(OVER) == []


def test_4000_tokens_are_drawn_a_few_times_a_second_and_never_more_than_fit(page: Page) -> None:
    began = time.monotonic()
    solve(page, "long", 4000)
    seconds = time.monotonic() - began
    drawings = int(page.locator(".fan-plot").get_attribute("data-drawings") or 0)
    assert 1 <= drawings <= 4 * seconds + 3
    page.evaluate("window.rmx.setTau(0.05)")
    page.wait_for_timeout(600)
    width = page.locator(".fan-plot").evaluate("e => e.clientWidth")
    assert fan(page).locator(".fan-fork").count() <= width / GAP + 1
    assert page.locator(".fan-plot *").count() <= (width / GAP + 1) * (6 * SLOTS + 5)


def test_it_grows_while_the_text_streams(page: Page) -> None:
    page.get_by_label("long", exact=True).check()
    page.locator("#limit input").fill("300")
    page.locator("#pause input").fill("20")
    page.get_by_role("button", name="Solve").click()
    nodes = fan(page).locator(".fan-fork")
    expect(nodes).to_have_count(1)
    expect(page.locator(".fan-goal")).to_have_count(0)
    expect(nodes).to_have_count(3)
    expect(status(page)).to_contain_text("300 tokens", timeout=30_000)
    expect(page.locator(".fan-goal")).to_have_count(1)


def test_a_replay_does_not_give_the_ends_away(page: Page) -> None:
    solve(page)
    ray(page, 13, " subtract").click()
    expect(answer(page)).to_contain_text("✓ right")
    page.get_by_role("button", name="Present").click()
    choices = page.get_by_role("group", name="Which word comes next?").get_by_role("button")
    expect(choices).to_have_count(5)
    page.keyboard.press("PageDown")
    expect(page.locator(".flow .t")).to_have_count(29)
    expect(fan(page).locator(".fan-fork")).to_have_count(2)
    assert set(kinds(page)) == {"unknown"}
    expect(fan(page).locator(".fan-lane.fan-wrong")).to_have_count(0)
    for _ in range(3):
        expect(choices.first).to_be_visible()
        page.keyboard.press("PageDown")
        expect(choices.first).to_be_hidden()
    expect(answer(page)).to_contain_text("✓ right")
    expect(fan(page).locator(".fan-ray.fan-right").first).to_be_attached()


def test_hostile_tokens_are_text_in_the_fan(page: Page) -> None:
    solve(page, "hostile")
    page.get_by_text("as a table").click()
    assert page.locator(".fan-plot :is(script, img, foreignObject), .fan-scroll :is(script, img)").count() == 0


def test_a_phone_shows_the_whole_fan(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=760)
    solve(page)
    expect(fan(page).locator(".fan-ray")).to_have_count(rays_of(last_run()))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator(".fan-drawing").evaluate("e => e.getBoundingClientRect().right") <= 360
