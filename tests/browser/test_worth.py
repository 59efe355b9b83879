"""What a choice is worth, in Chromium on the scripted server: outcomes, importance, rescue, the answer so far."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
import scripted_app as app
import scripted_worth as worth
from places import answer, inspector, lanes, status
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(worth.build) as address:
        yield address


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    app.EVENTS.clear()
    worth.PACE["seconds"] = 0.02
    yield
    app.UNKNOWN.clear()
    worth.LOSE_LAST.clear()


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    return open_page(url)


def solve(page: Page, script: str = "beads") -> app.Run:
    page.get_by_label(script, exact=True).check()
    page.locator("#pause input").fill("0")
    page.get_by_role("button", name="Solve").click()
    expect(status(page)).to_contain_text("tokens")
    return list(app.RUNS.values())[-1]


def fork(page: Page, text: str) -> Locator:
    return page.get_by_role("group", name="Solution").get_by_role("button", name=re.compile(f'Fork.*{text}"')).first


def outcomes(page: Page) -> Locator:
    return inspector(page).get_by_role("group", name="Outcomes")


def rows(page: Page) -> Locator:
    return inspector(page).get_by_role("list", name="Alternatives").get_by_role("listitem")


def weigh(page: Page, text: str = "add") -> None:
    fork(page, text).click()
    expect(rows(page)).to_have_count(5)
    outcomes(page).get_by_role("button", name="What is it worth?").click()


def measure(page: Page, name: str) -> Locator:
    page.get_by_role("region", name="Worth").get_by_role("button", name=name).click()
    return page.get_by_role("group", name="Measurement")


def events(name: str) -> list[dict[str, Any]]:
    return [data for event, data in app.EVENTS if event == name]


# ---- outcomes -------------------------------------------------------------------------------------------------
def test_outcomes_fill_until_the_verdict(page: Page) -> None:
    worth.PACE["seconds"] = 0.4
    run = solve(page)
    weigh(page)
    expect(rows(page).nth(1)).to_contain_text(re.compile(r"n (8|16|24|32)\b"))
    first = rows(page).nth(1).locator(".whisker").evaluate("e => e.offsetWidth")
    expect(outcomes(page).get_by_role("button", name="Stop sampling")).to_be_visible()
    expect(outcomes(page)).to_contain_text("sampling …")
    expect(outcomes(page)).to_contain_text("This choice decides")
    expect(outcomes(page).get_by_role("button", name="Stop sampling")).to_be_hidden()
    expect(rows(page).nth(1)).to_contain_text("n 64")
    assert rows(page).nth(1).locator(".whisker").evaluate("e => e.offsetWidth") < first
    assert events("outcomes") == [{"run": run.id, "pos": 13}]
    expect(page.locator(".fan-worth")).to_have_count(4)  # the fan shows the samples at the ends of its words


def test_the_figures_are_those_of_the_message(page: Page) -> None:
    run = solve(page)
    weigh(page)
    expect(outcomes(page)).to_contain_text("This choice decides")
    state = list(worth.outcomes(worth.Measurement("outcomes", run), 13))[-1]
    for row, alt in zip(rows(page).all(), state["alternatives"], strict=True):
        e = alt["correct"]
        figures = f"{100 * e['value']:.0f} % [{100 * e['low']:.0f}, {100 * e['high']:.0f}] n {alt['samples']}"
        expect(row.locator(".shares")).to_have_text(re.compile(re.escape(figures).replace("\\ ", r"\s")))
        times = row.locator(".most .num").all_inner_texts()
        named = [a for k, a in enumerate(alt["answers"]) if k < 2 or a[2]]  # two, and the right one in any case
        assert times == [str(n) for _, n, _ in named]
        shares = [
            float(e.evaluate("e => e.style.getPropertyValue('--share')")) for e in row.locator(".reached i").all()
        ]
        assert sum(shares) == pytest.approx(1)
    assert "valid whenever one looks" in (rows(page).first.locator(".shares").get_attribute("title") or "")
    right = rows(page).nth(1).locator(".reached i").first
    expect(right).to_have_attribute("title", re.compile(r"✓ 73: \d+ of 64"))
    box, point = right.bounding_box(), rows(page).nth(1).locator(".point").bounding_box()
    assert box is not None
    assert point is not None
    assert abs(box["x"] + box["width"] - point["x"] - 4) < 3  # one scale for bar and strip
    outcomes(page).get_by_text("when it stops").click()
    expect(outcomes(page)).to_contain_text("Sampling stops as soon as")
    expect(outcomes(page)).to_contain_text(f"{state['tokens_spent']:,} of 60,000 tokens")
    expect(outcomes(page)).to_contain_text("right means 73")


@pytest.mark.long
def test_each_fork_keeps_its_outcomes(page: Page) -> None:
    solve(page)
    weigh(page)
    expect(outcomes(page)).to_contain_text("This choice decides")
    fork(page, "Then").click()
    expect(outcomes(page)).not_to_contain_text("This choice decides")
    expect(page.locator(".outcome")).to_have_count(0)
    page.keyboard.press("o")
    expect(outcomes(page)).to_contain_text("It makes no difference")
    fork(page, "add").click()
    expect(outcomes(page)).to_contain_text("This choice decides")
    expect(page.locator(".outcome")).to_have_count(5)
    page.keyboard.press("o")  # known already: nothing is asked again
    page.keyboard.press("2")  # a branch has its own
    expect(answer(page)).to_contain_text("✓ right")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "13")
    expect(outcomes(page)).not_to_contain_text("This choice decides")
    page.keyboard.press("u")
    expect(outcomes(page)).to_contain_text("This choice decides")
    assert len(events("outcomes")) == 2


def test_stop_and_sample_again(page: Page) -> None:
    worth.PACE["seconds"] = 1.0
    solve(page)
    weigh(page)
    expect(rows(page).first).to_contain_text(re.compile(r"n (8|16)\b"))
    outcomes(page).get_by_role("button", name="Stop sampling").click()
    expect(outcomes(page)).to_contain_text("stopped by hand")
    expect(outcomes(page)).to_contain_text("Not decided yet")
    (job,) = events("haltjob")
    assert worth.MEASUREMENTS[job["job"]].halt.is_set()
    worth.PACE["seconds"] = 0.02
    outcomes(page).get_by_role("button", name=re.compile("What is it worth|Sample again")).click()
    expect(outcomes(page)).to_contain_text("This choice decides")
    expect(outcomes(page)).not_to_contain_text("stopped")


def test_without_a_known_answer(page: Page) -> None:
    app.UNKNOWN.set()
    solve(page)
    weigh(page)
    expect(outcomes(page)).to_contain_text("no known answer: share that reaches 95, the answer of this solution")
    expect(page.locator(".outcome").first).to_contain_text("=")
    expect(page.locator(".outcome .right, .outcome .wrong, .tone-right")).to_have_count(0)
    worth_row = page.get_by_role("region", name="Worth")
    expect(worth_row.get_by_role("button", name="Answer so far")).to_be_visible()
    expect(worth_row.get_by_role("button", name=re.compile("smallest"))).to_be_visible()  # and says what it needs


def test_a_refusal_is_one_sentence_and_leaves_the_button(page: Page) -> None:
    run = solve(page)
    fork(page, "add").click()
    expect(rows(page)).to_have_count(5)
    app.RUNS.pop(run.id)
    page.keyboard.press("o")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("no longer held")
    expect(outcomes(page).get_by_role("button", name=re.compile("What is it worth|Sample again"))).to_be_visible()
    panel = measure(page, "Which forks decide?")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("no longer held")
    expect(panel).to_be_hidden()


@pytest.mark.long
def test_a_new_problem_ends_what_was_running(page: Page) -> None:
    worth.PACE["seconds"] = 1.0
    solve(page)
    measure(page, "Which forks decide?")
    expect(page.get_by_role("button", name="Stop measuring")).to_be_visible()
    solve(page)
    expect(page.get_by_role("button", name="Stop measuring")).to_be_hidden()
    expect(page.locator(".measures .busy")).to_have_count(0)
    expect(page.locator(".panel")).to_be_hidden()


@pytest.mark.long
def test_another_measurement_ends_the_one_before(page: Page) -> None:
    worth.PACE["seconds"] = 0.6
    run = solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel.locator(".fork-column")).to_have_count(1)
    weigh(page)
    for job in worth.MEASUREMENTS.values():  # as the app does: a page measures one thing at a time
        if job.run is run and job.kind == "importance":
            job.halt.set()
    expect(panel).to_contain_text("stopped early")
    worth.PACE["seconds"] = 0.02
    panel.get_by_role("button", name="Start again").click()
    expect(panel).to_contain_text("5 of 5 forks")
    expect(panel).not_to_contain_text("stopped")


@pytest.mark.long
def test_a_job_that_falls_silent_may_be_started_again(open_page: Open, url: str) -> None:
    page = open_page(url, keep=False)
    worth.LOSE_LAST.set()
    solve(page)
    weigh(page)
    expect(rows(page).first).to_contain_text("n 64")
    expect(outcomes(page)).to_contain_text("sampling …")
    page.clock.install()
    page.clock.fast_forward(120_000)
    expect(outcomes(page)).to_contain_text("broken off")
    worth.LOSE_LAST.clear()
    outcomes(page).get_by_role("button", name=re.compile("What is it worth|Sample again")).click()
    expect(outcomes(page)).not_to_contain_text("broken off")


# ---- importance -----------------------------------------------------------------------------------------------
def test_importance_draws_every_fork_and_a_click_selects_it(page: Page) -> None:
    worth.PACE["seconds"] = 0.6
    run = solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel).to_contain_text(re.compile(r"[1-4] of 5 forks, [\d,]+ of 120,000 tokens"))
    expect(panel).to_contain_text("5 of 5 forks")
    state = list(worth.importance(worth.Measurement("importance", run)))[-1]
    forks = panel.locator(".fork-column")
    assert [int(f.get_attribute("data-pos") or -1) for f in forks.all()] == [p["pos"] for p in state["points"]]
    second = state["points"][1]["importance"]
    figures = [round(100 * second[k]) for k in ("value", "low", "high")]
    expect(forks.nth(1)).to_have_attribute(
        "aria-label", f'Fork at token 13: "␣add", importance {figures[0]} %, from {figures[1]} to {figures[2]} %'
    )
    forks.nth(1).hover()
    expect(panel.locator(".readout")).to_contain_text(f"{figures[0]} % [{figures[1]}, {figures[2]}]")
    expect(panel.locator(".readout")).to_contain_text(f"P(right) {100 * state['points'][1]['correct']:.0f} %")
    expect(page.locator(".flow .pointed")).to_have_attribute("data-i", "13")
    forks.nth(1).click(position={"x": 6, "y": 40})
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "13")
    expect(inspector(page)).to_contain_text("Fork at 13")
    expect(panel.get_by_role("listitem")).to_have_count(4)
    expect(panel.get_by_role("listitem").nth(2)).to_contain_text("2 forks")
    last = panel.get_by_role("listitem").nth(3)
    expect(last.locator(".boxed")).to_have_text("95")
    expect(last.locator(".boxed")).to_have_css("border-top-style", "solid")
    expect(last.locator(".tex").first).to_have_css("font-size", "0px")
    expect(last.locator(".sentence")).to_have_attribute("title", re.compile(r"\\boxed\{95\}"))
    last.get_by_role("button").click()
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", str(state["points"][4]["pos"]))


@pytest.mark.long
def test_a_click_counts_although_news_arrives_while_the_button_is_down(page: Page) -> None:
    worth.PACE["seconds"] = 0.6
    solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel.get_by_role("listitem").first).to_be_visible()
    first = panel.get_by_role("listitem").first.get_by_role("button")
    place = first.get_attribute("data-pos")
    first.hover()
    page.mouse.down()
    expect(panel).to_contain_text("5 of 5 forks")
    page.mouse.up()
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", str(place))
    expect(panel.get_by_role("listitem")).to_have_count(4)


@pytest.mark.long
def test_the_areas_stand_for_the_shares_and_end_at_their_fork(page: Page) -> None:
    run = solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel).to_contain_text("5 of 5 forks")
    point = list(worth.importance(worth.Measurement("importance", run)))[-1]["points"][1]
    boxes = panel.locator(".area").evaluate_all(
        "els => els.map(e => [e.getAttribute('class'), ...['x', 'width', 'height'].map(k => +e.getAttribute(k))])"
    )
    second = [b for b in boxes if b[1] == boxes_start(boxes, 1)]
    assert sum(b[3] for b in second) == pytest.approx(132, abs=0.5)
    (right,) = [b[3] for b in second if "tone-right" in b[0]]
    assert right == pytest.approx(132 * point["correct"], abs=0.1)
    line = float(panel.locator(".fork-column").nth(1).locator(".fork-line").get_attribute("x1") or 0)
    assert second[0][1] < line < second[0][1] + second[0][2] < line + 12


def boxes_start(boxes: list[list[Any]], nth: int) -> float:
    return sorted({float(b[1]) for b in boxes})[nth]


@pytest.mark.long
def test_the_plot_by_keys(page: Page) -> None:
    solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel).to_contain_text("5 of 5 forks")
    assert panel.locator(".fork-column[tabindex='0']").count() == 1
    panel.locator(".fork-column").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(panel.locator(".fork-column").nth(2)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "29")


def test_stop_measuring(page: Page) -> None:
    worth.PACE["seconds"] = 0.5
    solve(page)
    panel = measure(page, "Which forks decide?")
    expect(panel.locator(".fork-column")).to_have_count(1)
    page.get_by_role("button", name="Stop measuring").click()
    expect(panel).to_contain_text("stopped by hand")
    assert panel.locator(".fork-column").count() < 5
    expect(panel.get_by_role("button", name="Start again")).to_be_visible()
    panel.get_by_role("button", name="Close measurement").click()
    expect(panel).to_be_hidden()


# ---- rescue ---------------------------------------------------------------------------------------------------
def test_a_rescue_is_found_and_shown_as_a_branch(page: Page) -> None:
    root = solve(page)
    panel = measure(page, "Find the smallest rescue")
    expect(panel.locator(".finding")).to_have_text(re.compile(r"One token: ␣add → ␣subtract at 13"))
    expect(answer(page)).to_contain_text("✓ right")
    expect(answer(page)).to_contain_text("was ✗ 95")
    expect(page.locator(".flow .forced")).to_have_text(" subtract", use_inner_text=False)
    expect(lanes(page)).to_have_count(1)
    expect(panel).to_contain_text("uses the known answer 73")
    expect(panel).to_contain_text("5 swaps tried")
    expect(panel).to_contain_text(re.compile(r"Plain resampling with as many tokens: 24 samples, \d+ right"))
    assert events("rescue") == [{"run": root.id, "goal": "right"}]
    panel.get_by_role("button", name="Back to the solution").click()
    expect(answer(page)).to_contain_text("✗ wrong")
    panel.get_by_role("button", name="Show the branch").click()
    expect(answer(page)).to_contain_text("✓ right")
    page.keyboard.press("u")
    expect(answer(page)).to_contain_text("✗ wrong")


@pytest.mark.long
def test_a_right_answer_is_broken(page: Page) -> None:
    solve(page)
    fork(page, "add").click()
    inspector(page).get_by_role("button", name=re.compile("^2.*subtract")).click()
    expect(answer(page)).to_contain_text("✓ right")
    panel = measure(page, "Find the smallest break")
    expect(panel).to_contain_text("The smallest break")
    expect(panel.locator(".finding")).to_contain_text("One token:")
    expect(answer(page)).to_contain_text("✗ wrong")
    assert events("rescue")[-1]["goal"] == "wrong"


@pytest.mark.long
def test_not_found_says_what_was_tried(page: Page) -> None:
    solve(page, "hostile")
    panel = measure(page, "Find the smallest rescue")
    expect(panel.locator(".finding")).to_have_text(re.compile(r"No swap found in \d+ branches; nothing is left to try"))
    expect(panel).to_contain_text("swaps tried")
    expect(panel.get_by_role("button", name=re.compile("branch"))).to_have_count(0)


# ---- the answer so far ----------------------------------------------------------------------------------------
def test_chips_follow_the_sentences_and_are_no_text(page: Page) -> None:
    run = solve(page)
    before = page.locator(".flow").evaluate("e => e.textContent")
    panel = measure(page, "Answer so far")
    expect(panel.locator(".finding")).to_have_text(re.compile(r"Mode over the trace: ✗\s95 \(50\s%\)"))
    expect(panel).to_contain_text("From sentence 3 of 4 on it stays 95.")
    chips = page.locator(".flow .so-far")
    assert chips.evaluate_all("els => els.map(e => e.dataset.say)") == ["– none", "✗ 53", "✗ 95", "✗ 95"]
    ends = chips.evaluate_all("els => els.map(e => +e.parentNode.dataset.i)")
    assert ends == [10, 28, 46, 55]  # before the line break that ends the first sentence
    assert page.locator(".flow").evaluate("e => e.textContent") == before == "".join(run.said)
    copied = page.evaluate(
        "() => { getSelection().selectAllChildren(document.querySelector('.flow')); return getSelection().toString(); }"
    )
    page.evaluate("getSelection().removeAllRanges()")
    assert "none" not in copied
    assert copied.count("53") == before.count("53")
    expect(panel.locator(".timeline button")).to_have_text(["– none", "✗ 53", "✗ 95"])  # the last two are one stretch
    expect(panel.locator(".timeline button").last).to_have_attribute("title", "sentences 3 to 4: ✗ 95")
    panel.locator(".timeline button").nth(1).click()
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "28")
    page.get_by_role("button", name="Close measurement").click()
    expect(chips).to_have_count(0)


@pytest.mark.long
def test_chips_belong_to_their_branch(page: Page) -> None:
    solve(page)
    measure(page, "Answer so far")
    expect(page.locator(".flow .so-far")).to_have_count(4)
    fork(page, "add").click()
    inspector(page).get_by_role("button", name=re.compile("^2.*subtract")).click()
    expect(answer(page)).to_contain_text("✓ right")
    expect(page.locator(".flow .so-far")).to_have_count(0)
    page.keyboard.press("u")
    expect(page.locator(".flow .so-far")).to_have_count(4)


# ---- everywhere -----------------------------------------------------------------------------------------------
def test_hostile_answers_and_tokens_are_text(page: Page) -> None:
    solve(page, "hostile")
    page.locator(".flow .fork").first.click()
    expect(rows(page)).to_have_count(5)
    page.keyboard.press("o")
    expect(page.locator(".outcome").first).to_contain_text("n 64")
    said = page.locator(".reached i").evaluate_all("els => els.map(e => e.title).join('|')")
    for harm in ("<img src=x onerror", "⟪202e⟫", "${window.PWN=1}"):
        assert harm in said
    panel = measure(page, "Which forks decide?")
    expect(panel).to_contain_text(re.compile(r"(\d+) of \1 forks"), timeout=40_000)
    expect(panel.locator(".answers-legend")).to_contain_text("<img src=x onerror")
    panel.locator(".fork-column").nth(1).hover(position={"x": 2, "y": 20})
    expect(panel.locator(".readout")).to_contain_text("<script>")
    measure(page, "Answer so far")
    expect(page.locator(".flow .so-far").first).to_be_attached()
    assert page.locator(".rmx img, .rmx script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400


@pytest.mark.parametrize(
    ("theme", "script"), [("light", "beads"), pytest.param("dark", "hostile", marks=pytest.mark.long)]
)
def test_a_phone_scrolls_in_one_direction_only(open_page: Open, url: str, theme: str, script: str) -> None:
    page = open_page(f"{url}?__theme={theme}", width=360, height=760)
    solve(page, script)
    page.locator(".flow .fork").first.click()
    expect(rows(page)).to_have_count(5)
    page.keyboard.press("o")
    expect(page.locator(".outcome").first).to_contain_text(re.compile(r"n \d\d"))
    expect(outcomes(page).get_by_role("button", name="Stop sampling")).to_be_hidden()
    assert inspector(page).evaluate("e => e.scrollWidth - e.clientWidth") <= 0
    page.keyboard.press("Escape")
    for name in ("Answer so far", "Which forks decide?", "Find the smallest rescue"):
        panel = measure(page, name)
        expect(panel.locator(".panel-body > *").first).to_be_attached()
        expect(page.get_by_role("button", name="Stop measuring")).to_be_hidden(timeout=40_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert panel.evaluate("e => e.scrollWidth - e.clientWidth") <= 0


@pytest.mark.long
def test_the_stage_tells_what_is_known(page: Page) -> None:
    solve(page)
    weigh(page)
    expect(outcomes(page)).to_contain_text("This choice decides")
    page.evaluate("window.rmx.presenter(true, {pace: 0, pauseAtForks: true})")
    stage = page.get_by_role("group", name="Which word comes next?")
    expect(stage.get_by_role("button").first).to_contain_text("First")
    page.keyboard.press("PageDown")
    expect(stage.get_by_role("button").nth(1)).to_contain_text("30 % right")
