"""The comparison in Chromium, on the scripted server. Found by role and label; every assertion waits."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
import scripted_pair as app
from places import inspector
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

from tests.helpers.live import until

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(app.build) as address:
        yield address


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    app.EVENTS.clear()
    app.DROP.clear()
    return open_page(url)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def status(page: Page) -> Locator:
    return page.get_by_role("tabpanel").get_by_role("status")


def text_of(page: Page, name: str = "Where they part") -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def marked(page: Page, kind: str) -> list[int]:
    return page.eval_on_selector_all(f".map .flow .{kind}", "els => els.map(e => +e.dataset.i)")


def spoken(page: Page, pane: str = "map") -> list[str]:
    return page.eval_on_selector_all(f".{pane} .flow .t", "els => els.map(e => e.textContent)")


def mapped(page: Page, script: str = "beads", limit: int = 400, pause: float = 0, wait: bool = True) -> None:
    page.get_by_label(script, exact=True).check()
    page.locator("#limit input").fill(str(limit))
    page.locator("#pause input").fill(str(pause))
    earlier = len(app.JOBS)
    press(page, "Map")
    while len(app.JOBS) == earlier:
        page.wait_for_timeout(20)
    expect(page.locator(f".map[data-run='{last_job().id}']")).to_be_visible(timeout=30_000)
    if wait:
        expect(status(page)).to_contain_text("tokens", timeout=60_000)


def last_job() -> app.Job:
    return list(app.JOBS.values())[-1]


def sent(name: str) -> list[dict[str, Any]]:
    return [data for event, data in app.EVENTS if event == name]


def big(page: Page) -> Locator:
    return page.locator(".counter .big")


# ---- where they part --------------------------------------------------------------------------------------------
def test_the_first_screen_says_what_to_do(page: Page) -> None:
    expect(page.get_by_text("Two models read one text. See at which words they part.")).to_be_visible()
    page.get_by_role("tab", name="Patch").click()
    expect(page.get_by_role("button", name="Run the oracle")).to_be_visible()
    page.get_by_role("tab", name="On a problem set").click()
    expect(page.get_by_text("Measure where they part")).to_be_visible()


def test_the_text_is_exact_and_both_layers_are_marked(page: Page) -> None:
    mapped(page)
    job = last_job()
    assert spoken(page) == job.said
    near = [i for i, t in enumerate(job.toks) if t[1] and t[2] & 1]
    assert marked(page, "reranked") == [13]
    assert marked(page, "shifted") == [29]
    assert marked(page, "near") == near == [47]
    assert marked(page, "fork") == [i for i, t in enumerate(job.toks) if t[2] & 2]
    expect(page.get_by_role("group", name="base answer")).to_contain_text("95")
    expect(page.get_by_role("group", name="base answer")).to_contain_text("✗ wrong")
    expect(page.get_by_role("group", name="adapted answer")).to_contain_text("✓ right")
    expect(status(page)).to_contain_text("3 of 3 disagreements on forks, which are 8.8")
    expect(status(page)).to_contain_text("57 tokens: 1 reranked (1.8 %), 1 shifted (1.8 %); 1 near tie apart")


def test_marks_differ_in_shape_and_not_by_colour_alone(page: Page) -> None:
    mapped(page)
    style = """e => { const s = getComputedStyle(e.querySelector('b'));
      return (parseFloat(s.borderTopWidth) ? s.borderTopStyle : 'none') + ' ' + s.textDecorationLine; }"""
    shapes = {
        kind: page.locator(f".map .flow .{kind}").first.evaluate(style) for kind in ("reranked", "shifted", "near")
    }
    assert shapes == {"reranked": "solid underline", "shifted": "double underline", "near": "dotted underline"}
    assert page.locator(".map .flow .fork").first.evaluate(style) == "none underline"


@pytest.mark.long
def test_marks_appear_while_the_text_streams(page: Page) -> None:
    mapped(page, pause=60, wait=False)
    expect(page.locator(".map .flow .reranked")).to_have_count(1)
    expect(page.get_by_role("group", name="base answer")).to_contain_text("not there yet")
    assert page.locator(".map .flow .t").count() < 50
    press(page, "Stop")
    expect(status(page)).to_contain_text("stopped by hand")
    assert sent("halt") == [{"id": last_job().id}]


@pytest.mark.long
def test_the_filter_dims_the_rest_and_leads_the_keys(page: Page) -> None:
    mapped(page)
    chips = page.get_by_role("group", name="Show only").get_by_role("button")
    expect(chips).to_have_text(["all 57", "reranked 1", "shifted 1", "near ties 1", "forks 5"])
    plain, fork = page.locator(".map .t[data-i='1']"), page.locator(".map .t[data-i='0']")
    colour = "e => getComputedStyle(e).color"
    ink = plain.evaluate(colour)
    chips.nth(4).click()
    expect(chips.nth(4)).to_have_attribute("aria-pressed", "true")
    assert plain.evaluate(colour) != ink
    assert fork.evaluate(colour) == ink
    page.keyboard.press("n")
    expect(page.locator(".map .selected")).to_have_attribute("data-i", "0")
    chips.nth(0).click()
    assert plain.evaluate(colour) == ink
    page.keyboard.press("n")  # from all: the next difference
    expect(page.locator(".map .selected")).to_have_attribute("data-i", "13")


def test_the_inspector_shows_both_lists_and_both_ranks(page: Page) -> None:
    mapped(page)
    text_of(page).get_by_role("button", name=re.compile("Token 13.*add.*reranked, on a fork")).click()
    side = inspector(page)
    expect(side).to_contain_text("Token 13, reranked, on a fork")
    expect(side).to_contain_text("The adapted model's choice ␣subtract is the base's number 2, 27 %.")
    expect(side).to_contain_text("The base's choice ␣add is the adapted model's number 2, 14 %.")
    base = side.get_by_role("list", name="Base, five likeliest").get_by_role("listitem")
    adapted = side.get_by_role("list", name="Adapted, five likeliest").get_by_role("listitem")
    expect(base).to_have_count(5)
    expect(adapted).to_have_count(5)
    expect(base.first).to_contain_text("␣add")
    expect(base.first).to_contain_text("41")
    expect(adapted.first).to_contain_text("␣subtract")
    expect(side.locator(".top[aria-current]")).to_have_count(2)
    expect(side.locator(".facts dd")).to_have_text(["0.49", "1.38", "0.93"])
    page.keyboard.press("ArrowRight")
    expect(side).to_contain_text("Token 14, unshifted")
    expect(side).to_contain_text("Both choose")
    page.keyboard.press("n")
    expect(side).to_contain_text("Token 29, shifted")
    expect(side).to_contain_text("the base's number 8")
    page.keyboard.press("n")
    expect(side).to_contain_text("Rounding alone could make the two agree here.")
    page.keyboard.press("p")
    expect(side).to_contain_text("Token 29")
    page.keyboard.press("Escape")
    expect(side).to_be_hidden()
    expect(page.locator(".map .t[data-i='29']")).to_be_focused()


@pytest.mark.long
def test_the_largest_differences_lead_to_their_places(page: Page) -> None:
    mapped(page)
    rows = page.get_by_role("group", name="Largest differences").get_by_role("button")
    expect(rows).to_have_count(3)
    expect(rows.first).to_have_accessible_name(re.compile("shifted.*Then.*Finally.*token 29.*0.7"))
    rows.first.click()
    expect(page.locator(".map .selected")).to_have_attribute("data-i", "29")
    expect(inspector(page)).to_contain_text("Token 29")


@pytest.mark.long
def test_the_quiet_zone_decides_what_is_tinted(page: Page) -> None:
    mapped(page)

    def tinted() -> list[int]:
        pick = "els => els.filter(e => e.style.getPropertyValue('--h')).map(e => +e.dataset.i)"
        return page.eval_on_selector_all(".map .flow .t", pick)

    kl = [t[3] for t in last_job().toks]
    assert tinted() == [i for i, x in enumerate(kl) if x >= 0.05]
    page.get_by_label(re.compile("quiet below")).fill("0.5")
    assert tinted() == [i for i, x in enumerate(kl) if x >= 0.5] == [29]
    assert marked(page, "reranked") == [13]  # classes stay marked: they are not a matter of degree
    page.get_by_label(re.compile("quiet below")).fill("1")
    assert tinted() == []


@pytest.mark.long
def test_agreement_is_said_in_words(page: Page) -> None:
    mapped(page, "agree")
    expect(page.get_by_role("group", name="Largest differences")).to_contain_text("None: the two agree at every token.")
    expect(page.locator(".map .flow [role=button]")).to_have_count(0)
    page.locator(".map .flow .t").nth(3).click()
    expect(inspector(page)).to_contain_text("unshifted")


@pytest.mark.long
def test_lost_deltas_are_fetched(page: Page) -> None:
    mapped(page, "long", 300, pause=10, wait=False)
    expect(page.locator(".map .flow .t").nth(20)).to_be_attached()
    app.DROP.set()
    page.wait_for_timeout(600)
    app.DROP.clear()
    expect(status(page)).to_contain_text("300 tokens", timeout=30_000)
    assert spoken(page) == last_job().said
    assert marked(page, "reranked") == [i for i, t in enumerate(last_job().toks) if t[1] == 1]


@pytest.mark.long
def test_a_repeated_message_changes_nothing_but_what_was_measured_since(page: Page) -> None:
    mapped(page)
    before = page.locator(".map .flow").inner_html()
    job = last_job()
    job.toks[13] = [job.toks[13][0], 1, 3, *job.toks[13][3:]]  # found to be a near tie after all
    app.REPEAT.append(job)
    press(page, "Repeat")
    expect(page.locator(".map .flow .near")).to_have_count(2)
    assert marked(page, "near") == [13, 47]
    assert spoken(page) == job.said
    assert page.locator(".map .flow").inner_html() != before
    expect(page.get_by_role("group", name="Show only").get_by_role("button").nth(3)).to_have_text("near ties 2")


def test_base_is_base_and_a_zero_adapter_is_told_loudly(page: Page) -> None:
    mapped(page)
    expect(page.get_by_text("not checked yet")).to_be_visible()
    press(page, "Check")
    line = page.locator(".checks dd").first
    expect(line).to_contain_text("✓ the same largest |Δlogit| 0 over 58 positions; tensors equal to the file 47/47")
    expect(line).to_contain_text("rl, LORA, rank 32, alpha 64, norm 3.214, on q_proj k_proj v_proj o_proj")
    expect(line).to_contain_text("196,608 parameters, revision 4f1c2a9")
    expect(line).not_to_contain_text("second copy 0")
    expect(page.get_by_text("This adapter changes nothing")).to_be_hidden()
    press(page, "against a full second copy")
    expect(line).to_contain_text("against a second copy 0")
    page.get_by_label("Zero adapter").check()
    mapped(page)
    expect(page.get_by_text("not checked yet")).to_be_visible()
    press(page, "Check")
    expect(page.get_by_text("This adapter changes nothing")).to_be_visible()


@pytest.mark.long
def test_a_base_that_has_changed_is_said_with_what_has(page: Page) -> None:
    mapped(page)
    app.CHANGED.append("3 of 47 tensors in memory are not those that were loaded")
    try:
        press(page, "Check")
        line = page.locator(".checks dd").first
        said = "✗ not the same: THE BASE HAS CHANGED: 3 of 47 tensors in memory are not those that were loaded"
        expect(line).to_contain_text(said)
        expect(line).not_to_contain_text("largest |Δlogit| 0")
    finally:
        app.CHANGED.clear()


def test_placebo_and_noise_stand_beside_the_map(page: Page) -> None:
    mapped(page)
    checks = page.locator(".checks")
    expect(checks).to_contain_text("reranks 1.7 %, shifts 0 %; mean rank 2.3, entropy ratio 6.1")
    expect(checks).to_contain_text("Here 5.3 % differ")
    expect(checks).to_contain_text("Rounding alone moves a logit by up to 0.002 and changes no choices in 58 positions")


def test_an_error_leaves_the_view_usable(page: Page) -> None:
    mapped(page)
    page.get_by_label("error").check()
    press(page, "Map")
    expect(page.locator(".pair > .error")).to_contain_text("The model is busy")
    mapped(page)
    expect(page.locator(".pair > .error")).to_be_hidden()


# ---- patch ------------------------------------------------------------------------------------------------------
def oracle(page: Page) -> None:
    mapped(page)
    page.get_by_role("tab", name="Patch").click()
    press(page, "Run the oracle")
    expect(status(page)).to_contain_text("oracle: 3 patches in 57 tokens; answer 73")


def test_the_oracle_marks_its_patches_and_counts_them(page: Page) -> None:
    oracle(page)
    job = last_job()
    assert sent("patch") == [{"map": job.of_map.id, "arm": "oracle", "budget": None}]  # type: ignore[union-attr]
    assert spoken(page, "patch") == job.said
    expect(big(page)).to_have_text("3")
    expect(page.locator(".counter")).to_contain_text("patches in 57 tokens, 5.3 %")
    names = page.eval_on_selector_all(".patch .flow .forced", "els => els.map(e => e.getAttribute('aria-label'))")
    assert names[0] == 'Patch at token 13: "␣subtract" instead of "␣add"'
    assert len(names) == 3
    assert page.locator(".patch .flow .forced b").first.get_attribute("data-from") == "add"
    answer = page.get_by_role("group", name="Answer of this arm")
    expect(answer).to_contain_text("73")
    expect(answer).to_contain_text("✓ right")


def test_the_budget_slider_asks_on_release_and_keeps_the_common_text(page: Page) -> None:
    oracle(page)
    page.evaluate("document.querySelectorAll('.patch .flow .t').forEach((e) => (e.old = true))")
    slider = page.get_by_label("Allow the first patches")
    slider.evaluate("e => { e.value = 1; e.dispatchEvent(new Event('input')); }")
    assert len(sent("patch")) == 1  # not while it moves
    slider.dispatch_event("change")
    expect(big(page)).to_have_text("1")
    assert sent("patch")[-1]["budget"] == 1
    expect(page.locator(".patch .flow .refused")).to_have_count(2)
    kept = page.eval_on_selector_all(".patch .flow .t", "els => els.map(e => !!e.old)")
    assert kept == [i < 29 for i in range(57)]  # up to the first token that differs
    assert spoken(page, "patch") == last_job().said


def test_steps_by_key_and_button_turn_the_answer(page: Page) -> None:
    oracle(page)
    answer = page.get_by_role("group", name="Answer of this arm")
    page.keyboard.press(".")  # from all patches a step starts over
    expect(big(page)).to_have_text("0")
    expect(answer).to_contain_text("✗ wrong")
    page.keyboard.press("PageDown")
    expect(big(page)).to_have_text("1")
    expect(answer).to_contain_text("✓ right")
    press(page, "Next patch")
    expect(big(page)).to_have_text("2")
    asked = len(sent("patch"))
    page.keyboard.press(",")
    expect(big(page)).to_have_text("1")
    page.keyboard.press("PageUp")
    expect(big(page)).to_have_text("0")
    expect(page.get_by_role("button", name="One patch back")).to_be_disabled()
    page.evaluate("window.rmxPair.budget(3)")
    expect(big(page)).to_have_text("3")
    assert len(sent("patch")) == asked  # all of these were decoded before
    assert [p["budget"] for p in sent("patch")] == [None, 0, 1, 2]


def test_all_arms_fill_the_table_one_after_the_other(page: Page) -> None:
    mapped(page)
    page.get_by_role("tab", name="Patch").click()
    press(page, "Run all arms")
    rows = page.get_by_role("table", name="Answers by arm").locator("tbody tr")
    expect(rows).to_have_text(
        ["base✗ 950", "adapted✓ 73–", "oracle✓ 733", "random✗ 5043", "matched– none1", "entropy gate✓ 733"]
    )
    assert [p["arm"] for p in sent("patch")] == ["base", "teacher", "oracle", "random", "matched", "entropy"]
    expect(status(page)).to_contain_text("oracle: 3 patches")  # and the oracle is shown at the end
    page.get_by_role("group", name="Arm").get_by_role("button", name="entropy gate").click()
    expect(page.get_by_text("wherever the base is undecided")).to_be_visible()
    expect(status(page)).to_contain_text("entropy gate: 3 patches")
    assert len(sent("patch")) == 6


@pytest.mark.long
def test_a_new_map_forgets_the_old_patches(page: Page) -> None:
    oracle(page)
    mapped(page, "agree")
    page.get_by_role("tab", name="Patch").click()
    expect(page.get_by_role("button", name="Run the oracle")).to_be_visible()
    expect(page.locator(".patch .flow .t")).to_have_count(0)
    expect(page.get_by_role("table", name="Answers by arm")).not_to_contain_text("73")


def test_where_the_other_solution_was_not_written_one_sentence_says_so_and_one_click_writes_it(page: Page) -> None:
    mapped(page, "long", 60)
    both = page.get_by_role("region", name="Both solutions")
    expect(both).to_contain_text(app.UNWRITTEN["unwritten"])
    expect(both.get_by_role("table")).to_be_hidden()
    both.get_by_role("button", name="Write it now").click()
    expect(page.get_by_role("tab", name="Patch")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("button", name="adapted", exact=True)).to_have_attribute("aria-pressed", "true")


def test_both_solutions_stand_side_by_side_and_the_parting_is_marked(page: Page) -> None:
    mapped(page)
    both = page.get_by_role("region", name="Both solutions")
    expect(both.get_by_role("columnheader")).to_have_text(["base ✗ 95", "adapted ✓ 73"])
    rows = both.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_have_class("both")
    expect(rows.nth(1)).to_contain_text("they part here")
    mine, theirs = (rows.nth(1).locator("td").nth(k) for k in (0, 1))
    expect(mine).to_contain_text("add 11.")
    expect(theirs).to_have_text("subtract 11.")
    left, right = mine.bounding_box(), theirs.bounding_box()
    assert left
    assert right
    assert left["y"] == right["y"]
    assert right["x"] >= left["x"] + left["width"]
    page.set_viewport_size({"width": 390, "height": 844})
    expect(rows.nth(0).locator("td:visible")).to_have_count(1)  # what both say is there once
    left, right = mine.bounding_box(), theirs.bounding_box()
    assert left
    assert right
    assert right["y"] >= left["y"] + left["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.long
def test_presenting_is_large_and_hides_the_rest(page: Page) -> None:
    oracle(page)
    press(page, "Present")
    assert page.locator(".patch .flow").evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 24
    expect(page.get_by_role("tablist")).to_be_hidden()
    page.keyboard.press("PageDown")
    expect(big(page)).to_have_text("0")
    page.keyboard.press("PageDown")
    expect(big(page)).to_have_text("1")
    before = "e => getComputedStyle(e, '::before').content"
    turned = page.get_by_role("group", name="Answer of this arm").locator("[data-before]")
    expect(turned).to_have_text("73")
    assert turned.evaluate(before) == '"✗ 95 → "'  # what it was stands in front of what it is, as large
    expect(page.locator(".patch .flow .forced")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.get_by_role("tablist")).to_be_visible()
    assert turned.evaluate(before) == "none"


# ---- on a problem set -------------------------------------------------------------------------------------------
def test_shifts_on_a_set_with_intervals_paper_and_placebo(page: Page) -> None:
    page.locator("#pause input").fill("10")
    press(page, "Shifts on a set")
    expect(status(page)).to_contain_text("done in 60 s")
    row = page.get_by_role("row", name=re.compile("reranked"))
    expect(row.first).to_contain_text("4.5 %")
    expect(row.first).to_contain_text("4.1 – 4.9 %")
    expect(row.first).to_contain_text("1.0 – 4.1 %")
    expect(row.first).to_contain_text("1.3 %")
    expect(page.get_by_role("list", name="Reading").get_by_role("listitem")).to_have_count(2)
    expect(page.locator(".set-head")).to_contain_text("200 of 200")
    charts = page.locator(".set .figure .curves")
    expect(charts.nth(0).locator(".curves-fill.curve-6").first).to_be_visible()
    expect(charts.nth(0).locator(".curves-name")).to_have_text(["unshifted (300)", "reranked (40)"])
    charts.nth(1).locator(".curves-plot").hover()
    expect(charts.nth(1).locator(".curves-value")).to_have_text("100.0\u202f%")


def test_arms_on_a_set_have_drawn_intervals(page: Page) -> None:
    page.locator("#pause input").fill("10")
    press(page, "Patches on a set")
    expect(status(page)).to_contain_text("done")
    bar = page.get_by_role("img", name="oracle: 86.0 %, interval 81.2 – 90.8 %")
    expect(bar).to_be_visible()
    x1, x2 = (float(bar.locator(".span").get_attribute(k) or 0) for k in ("x1", "x2"))
    assert 4 + 112 * 0.81 < x1 < 4 + 112 * 0.86 < x2 < 4 + 112 * 0.92
    expect(page.get_by_role("row", name=re.compile("random token"))).to_contain_text("−19.0")
    expect(page.get_by_text("the same text on 200 of 200 problems")).to_be_visible()


def test_a_job_is_stopped_and_says_so(page: Page) -> None:
    page.locator("#pause input").fill("400")
    press(page, "Patches on a set")
    expect(page.locator(".set-head")).to_contain_text(re.compile(r"\d+ of 200.*about \d+ s left"))
    bar = page.get_by_role("progressbar", name="Problems done")
    assert 25 <= float(bar.get_attribute("value") or 0) <= 175
    press(page, "Stop")
    expect(status(page)).to_contain_text("stopped after")
    assert sent("halt") == [{"id": list(app.SETS)[-1]}]
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


@pytest.mark.long
def test_the_last_message_of_a_job_may_be_lost(page: Page) -> None:
    page.locator("#pause input").fill("3000")
    press(page, "Shifts on a set")
    expect(page.locator(".set-head")).to_contain_text(re.compile(r"\d+ of 200 problems"))
    app.DROP.set()
    until(lambda: list(app.SETS.values())[-1]["done"])
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(status(page)).to_contain_text("done in 60 s")
    app.DROP.clear()


def saved(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as info:
        press(page, button)
    path = info.value.path()
    return info.value.suggested_filename, Path(path).read_bytes()


def test_tables_and_plot_are_saved(page: Page) -> None:
    page.locator("#pause input").fill("10")
    press(page, "Shifts on a set")
    expect(status(page)).to_contain_text("done")
    name, text = saved(page, "CSV")
    assert (name, text.decode().splitlines()[2]) == ("shifts.csv", "reranked,0.045")
    name, text = saved(page, "JSON")
    assert [row["name"] for row in json.loads(text)][:2] == ["unshifted", "reranked"]
    expect(page.get_by_role("button", name="Plot as SVG")).to_be_visible(timeout=30_000)
    name, text = saved(page, "Plot as SVG")
    assert name == "mini-test-shifts.svg"
    assert text.startswith(b"<svg xmlns=")
    for words in ("Base entropy, by class", "unshifted (300)", "Disagreements inside", "nats 3"):
        assert words.encode() in text
    assert b"var(--" not in text  # it needs no style sheet
    name, text = saved(page, "Plot as PNG")
    width, height = (int.from_bytes(text[k : k + 4], "big") for k in (16, 20))
    box = page.locator(".set .figure").bounding_box()
    assert text[:8] == b"\x89PNG\r\n\x1a\n"
    assert box
    assert abs(width - 2 * box["width"]) <= 2
    assert abs(height - 2 * box["height"]) <= 2


# ---- everywhere -------------------------------------------------------------------------------------------------
def test_hostile_tokens_are_text(page: Page) -> None:
    mapped(page, "hostile")
    flow = page.locator(".map .flow")
    for text in ("<script>", "<img src=x onerror", "${window.PWN=1}", "{{value}}", "⟪202e⟫abc", "⟪0000⟫", "⟪200b⟫"):
        expect(flow).to_contain_text(text)
    assert flow.locator("script, img, div").count() == 0
    assert flow.evaluate("e => e.scrollHeight") < 2000
    expect(page.locator(".map .title")).to_contain_text("<b>Tokens</b>")
    expect(page.get_by_role("group", name="Largest differences")).to_contain_text("<b>bold</b>")
    page.locator(".map .flow .t").nth(8).click()
    expect(inspector(page).locator(".chosen")).to_contain_text("⟪202e⟫abc")
    expect(inspector(page).locator(".lists")).to_contain_text("${window.PWN=1}")
    page.get_by_role("tab", name="Patch").click()
    press(page, "Run the oracle")
    expect(status(page)).to_contain_text("oracle")
    assert page.locator(".patch .flow").locator("script, img, div").count() == 0
    assert page.locator(".patch .flow").evaluate("e => e.scrollHeight") < 3000


def wide(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.parametrize("script", [pytest.param("beads", marks=pytest.mark.long), "hostile"])
def test_a_phone_has_a_sheet_and_no_sideways_scroll(open_page: Open, url: str, script: str) -> None:
    page = open_page(url, width=360, height=760)
    mapped(page, script)
    assert wide(page) <= 360
    page.locator(".map .flow [role=button]").first.click()
    expect(inspector(page)).to_be_in_viewport(ratio=0.5)
    assert page.locator(".map .selected").bounding_box()["y"] < inspector(page).bounding_box()["y"]  # type: ignore[index]
    press(page, "Close inspector")
    expect(inspector(page)).not_to_be_in_viewport()
    page.get_by_role("tab", name="Patch").click()
    press(page, "Run the oracle")
    expect(status(page)).to_contain_text("oracle")
    assert wide(page) <= 360
    page.locator("#pause input").fill("5")
    press(page, "Patches on a set")
    expect(status(page)).to_contain_text("done")
    expect(page.get_by_role("button", name="Plot as PNG")).to_be_visible(timeout=30_000)
    assert wide(page) <= 360


@pytest.mark.long
def test_tabs_follow_the_arrow_keys_and_texts_have_one_tab_stop(page: Page) -> None:
    mapped(page)
    assert page.locator(".map .flow [tabindex='0']").count() == 1
    page.get_by_role("tab", name="Where they part").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Patch")).to_be_focused()
    expect(page.get_by_role("tab", name="Patch")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tabpanel", name="Patch")).to_be_visible()
    page.keyboard.press("End")
    expect(page.get_by_role("tabpanel", name="On a problem set")).to_be_visible()
    page.evaluate("window.rmxPair.pane('map')")
    expect(page.get_by_role("tabpanel", name="Where they part")).to_be_visible()


CONTRAST = """(selector) => {
  const lin = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const lum = ([r, g, b]) => 0.2126 * lin(r) + 0.7152 * lin(g) + 0.0722 * lin(b);
  const probe = (colour) => {
    const c = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
    c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const span = document.querySelector(selector);
  let behind = span;
  do behind = behind.parentElement; while (behind && probe(getComputedStyle(behind).backgroundColor)[3] < 255);
  const page = behind ? probe(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
  span.style.setProperty('--h', 1);
  const word = span.querySelector('b');
  const [r, g, b, a] = getComputedStyle(word).backgroundColor.match(/[\\d.]+/g).map(Number);
  const under = [r, g, b].map((v, i) => v * a + page[i] * (1 - a));
  const text = probe(getComputedStyle(word).color), [hi, lo] = [lum(text), lum(under)].sort((x, y) => y - x);
  return (hi + 0.05) / (lo + 0.05); }"""


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_marked_words_are_readable_at_the_deepest_tint(open_page: Open, url: str, theme: str) -> None:
    page = open_page(f"{url}?__theme={theme}")
    mapped(page)
    for selector, least in ((".map .flow .fork", 7), (".map .flow .reranked", 4.5), (".map .flow .shifted", 4.5)):
        assert page.evaluate(CONTRAST, selector) >= least, selector


@pytest.mark.long
def test_an_update_costs_the_same_at_4000_tokens(page: Page) -> None:
    """What one update adds to the page does not grow with the text: new spans only, no old one is touched."""
    mapped(page, "long", 4000, pause=0, wait=False)
    expect(page.locator(".map .flow .t").nth(3500)).to_be_attached(timeout=60_000)
    page.evaluate("""() => { window.touched = 0;
      new MutationObserver((all) => all.forEach((m) => { window.touched += m.removedNodes.length; }))
        .observe(document.querySelector('.map .flow'), {childList: true, subtree: true}); }""")
    expect(status(page)).to_contain_text("4,000 tokens", timeout=60_000)
    assert page.locator(".map .flow .t").count() == 4000
    assert page.evaluate("window.touched") < 100
