"""The Evaluate tab in Chromium, on a scripted document. Found by role and label; every assertion waits."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")
import scripted_evaluate as app
from places import opened
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

from tests.helpers.live import until

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with shown(lambda: app.build(tmp_path_factory.mktemp("runs"))) as address:
        yield address


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    app.GO_ON.set()
    app.OPENED.clear()
    yield
    app.GO_ON.set()


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    return evaluated(open_page(url))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def evaluated(page: Page, seed: int = 0, samples: str | None = None) -> Page:
    """The scripted evaluation, done. Seed 13 is the scene with hostile words."""
    if seed:
        opened(page, "Decoding", "#evaluate-seed input").fill(str(seed))
    if samples is not None:
        page.locator("#evaluate-n").get_by_text(samples, exact=True).click()
    press(page, "Evaluate")
    expect(status(page)).to_contain_text("done after")
    return page


def scatter(page: Page) -> Locator:
    return page.get_by_role("region", name="Each problem before and after")


def status(page: Page) -> Locator:
    return page.locator("#evaluate .run [role=status]")


def table(page: Page, name: str) -> Locator:
    return page.get_by_role("table", name=name, exact=True)


def rows(page: Page, name: str) -> Locator:
    return table(page, name).locator("tbody tr")


def chip(page: Page, group: str, words: str) -> Locator:
    return page.get_by_role("group", name=group).get_by_role("button", name=re.compile(f"^{re.escape(words)}"))


def listed(page: Page) -> Locator:
    return page.locator("#evaluate .list > li")


# ---- before ---------------------------------------------------------------------------------------------------------
def test_it_says_what_to_do_and_what_it_would_take(open_page: Open, url: str) -> None:
    page = open_page(url)
    expect(page.get_by_text("Is it better, and would you see it again")).to_be_visible()
    page.locator("#evaluate-n").get_by_text("64", exact=True).click()
    expect(page.get_by_text("at most 13,000 completions")).to_be_visible()
    expect(page.locator("#evaluate .plan")).to_contain_text("Licence: Apache-2.0")
    expect(page.locator("#evaluate .plan")).to_contain_text("--adapter rl --set mini:test --limit 100 --n 64")


def test_it_opens_with_a_recorded_example_that_an_own_evaluation_replaces(open_page: Open, url: str) -> None:
    page = open_page(url)
    expect(page.locator("#evaluate .run-head")).to_contain_text("a recorded example")
    expect(status(page)).to_have_text(re.compile("^· recorded in 13 min on one thread of two shared cores"))
    expect(rows(page, "What each solves")).to_have_count(3)
    expect(rows(page, "Differences to the base").first).to_contain_text("✓ better")
    expect(page.get_by_label("Command", exact=True)).to_contain_text("--adapter rl --adapter reasonmaxxer")
    expect(scatter(page)).to_be_hidden()  # it has no row for each problem
    expect(page.get_by_role("region", name="Problems")).to_be_hidden()
    expect(page.get_by_role("button", name="CSV by problem")).to_be_hidden()
    evaluated(page)
    expect(page.get_by_text("a recorded example")).to_be_hidden()
    expect(rows(page, "What each solves")).not_to_have_count(3)
    expect(scatter(page)).to_be_visible()
    page.reload()
    expect(status(page)).to_contain_text("done after")  # the visitor's own, not the example


def test_a_wrong_value_is_one_sentence(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.locator("#evaluate-limit input").fill("0")
    press(page, "Evaluate")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_text(
        "The number of problems must be a whole number between 1 and 5,000."
    )
    page.locator("#evaluate-limit input").fill("40")
    press(page, "Evaluate")
    expect(status(page)).to_contain_text("done")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)


def test_an_own_file_is_read_in_the_browser(open_page: Open, url: str) -> None:
    page = open_page(url)
    page.locator("#evaluate-set input").click()
    page.get_by_role("option", name="a file of your own").click()
    box, told = page.locator("#evaluate-file input"), page.locator("#evaluate-file [role=status]")
    box.set_input_files({"name": "b.csv", "mimeType": "text/csv", "buffer": b"x,y\n1,2\n"})
    expect(page.locator("#evaluate-file [role=alert]")).to_contain_text("b.csv, line 1")
    box.set_input_files({"name": "big.jsonl", "mimeType": "", "buffer": b"x" * 2_100_000})
    expect(page.locator("#evaluate-file [role=alert]")).to_contain_text("at most 2 MB")
    box.set_input_files({"name": "latin.csv", "mimeType": "", "buffer": "é".encode("latin-1")})
    expect(page.locator("#evaluate-file [role=alert]")).to_contain_text("not UTF-8")
    rows = '{"problem": "1 + 1?", "answer": "2"}\n{"problem": "<b>2</b>?", "answer": "2"}\n'
    box.set_input_files({"name": "<i>mine.jsonl", "mimeType": "", "buffer": rows.encode()})
    expect(told).to_have_text("✓ <i>mine.jsonl: 2 problems")
    expect(page.locator("#evaluate .plan")).to_contain_text("at most 68 completions")
    press(page, "Evaluate")
    expect(status(page)).to_contain_text("done")
    expect(page.get_by_text("The name is that of the file you chose here")).to_be_visible()


# ---- figures --------------------------------------------------------------------------------------------------------
def test_what_each_solves_stands_with_its_intervals(page: Page) -> None:
    groups = "40 problems, intervals over 12 groups (problems of one wording count together)"
    expect(page.locator("#evaluate .run-head")).to_contain_text(groups)
    expect(page.locator("#evaluate .run-head")).to_contain_text("25 % was known already.".replace(" %", "\u202f%"))
    heads = table(page, "What each solves").get_by_role("columnheader")
    expect(heads).to_have_text(
        ["model", "greedy", "average of 16", "pass@8", "majority of 8", "cut off, no answer", "spent"]
    )
    base, rl = rows(page, "What each solves").nth(0), rows(page, "What each solves").nth(1)
    expect(base).to_contain_text("52.0\u202f%47.0 – 57.0\u202f%")
    expect(rl).to_contain_text("65.7\u202f%60.7 – 70.7\u202f%")
    for words in ("7 cut off", "13 no answer", "123,456 tokens", "2 min · $0.04"):
        expect(rl).to_contain_text(words)
    expect(page.get_by_text("it gains by construction")).to_be_visible()
    chip(page, "k of pass@k", "k = 16").click()
    expect(heads.nth(3)).to_have_text("pass@16")
    expect(rl).to_contain_text("82.1\u202f%")  # 1 - (1 - 0.657) * 0.85 ** 4


def test_differences_say_what_they_show(page: Page) -> None:
    found = rows(page, "Differences to the base")
    expect(found).to_have_count(4)
    expect(found.nth(0)).to_contain_text("+13.7+9 to +18")
    expect(found.nth(0)).to_contain_text("✓ betterwon 9, lost 4, p = 0.004")
    expect(found.nth(2)).to_contain_text("– not shown")
    page.locator("#evaluate-adapters input").fill("reasonmaxxer")
    page.keyboard.press("Enter")
    press(page, "Evaluate")
    expect(found).to_have_count(8)
    expect(found.nth(4)).to_contain_text("about 350 problems would show this")
    expect(found.nth(4)).to_contain_text("p = 0.51")
    chip(page, "Compared with the base", "reasonmaxxer").click()
    expect(scatter(page).locator(".curves-y")).to_have_text("right by reasonmaxxer")


def test_no_row_calls_better_what_its_own_p_does_not(open_page: Open, url: str) -> None:
    """Seed 14: 11 won and 3 lost of 40, p = 0.057, though the interval leaves 0 out."""
    page = evaluated(open_page(url), seed=14)
    found = rows(page, "Differences to the base")
    expect(found.nth(0)).to_contain_text("– not shownwon 11, lost 3, p = 0.057")
    assert found.nth(0).locator("svg.gain.right").count() == 0
    expect(page.locator("#evaluate")).to_contain_text("where the exact test has p < 0.05")


def test_curves_on_a_log_axis_and_a_reading(page: Page) -> None:
    curves = page.get_by_role("region", name="Curves of pass@k")
    names = curves.locator(".curves-grid text")
    at = [names.get_by_text(text, exact=True).bounding_box() for text in ("1", "2", "4", "8", "k 16")]
    centres = [box["x"] + box["width"] / 2 for box in at if box]
    steps = [b - a for a, b in zip(centres, centres[1:], strict=False)]
    assert max(steps) - min(steps) < 5  # each doubling is one step; the first label begins where the axis does
    expect(curves.locator(".curves-end")).to_have_text(["base", "rl"])
    expect(curves.locator(".curves-band[d]")).to_have_count(2)
    expect(page.get_by_role("list", name="Reading of the curves")).to_contain_text("up to k = 8")


def test_a_press_on_a_mark_of_the_scatter_lists_its_problem(page: Page) -> None:
    mark = scatter(page).locator(".curves-bubble").last
    mark.hover()
    expect(scatter(page).locator(".curves-about")).to_contain_text("mini-test-")
    mark.click()
    expect(page.get_by_role("group", name=re.compile("^Problem mini-test"))).not_to_have_count(0)


@pytest.mark.long
def test_parts_are_a_switch(page: Page) -> None:
    chip(page, "Part of the set", app.WORDINGS).click()
    expect(rows(page, "What each solves").nth(0)).to_contain_text("44.0\u202f%")
    expect(page.locator("#evaluate .sub").first).to_contain_text("10 problems")
    expect(chip(page, "Show only", "won")).to_have_text("won 3")  # 0, 4, 8
    chip(page, "Part of the set", "all").click()
    expect(rows(page, "What each solves").nth(0)).to_contain_text("52.0\u202f%")
    expect(chip(page, "Show only", "won")).to_have_text("won 9")


@pytest.mark.long
def test_greedy_alone_has_no_curves(open_page: Open, url: str) -> None:
    page = evaluated(open_page(url), samples="0")
    expect(table(page, "What each solves").get_by_role("columnheader")).to_have_text(
        ["model", "greedy", "cut off, no answer", "spent"]
    )
    expect(page.locator("#evaluate .plots")).to_be_hidden()
    expect(listed(page)).to_have_count(9)


# ---- problems -------------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_won_lost_and_cut_off(page: Page) -> None:
    expect(page.get_by_role("group", name="Show only").get_by_role("button")).to_have_text(
        ["won 9", "lost 4", "changed by truncation 1", "all 40"]
    )
    expect(listed(page)).to_have_count(9)
    chip(page, "Show only", "changed by truncation").click()
    expect(listed(page)).to_have_count(1)
    expect(listed(page).first).to_contain_text("– none cut off")
    chip(page, "Show only", "all").click()
    expect(listed(page)).to_have_count(30)
    press(page, "Show 10 more of 40")
    expect(listed(page)).to_have_count(40)
    chip(page, "Counted by", "by samples").click()
    expect(chip(page, "Show only", "lost")).to_have_text("lost 4")
    expect(page.get_by_text("half or less right before")).to_be_visible()


def test_a_problem_opens_in_another_tab(page: Page) -> None:
    listed(page).nth(1).get_by_role("button").click()
    detail = page.get_by_role("group", name="Problem mini-test-0005")
    expect(detail).to_contain_text("Known answer 25")
    expect(detail).to_contain_text("held-out numbers · wording 5")
    expect(detail.locator("tbody tr").nth(0)).to_contain_text("✗ 25")
    expect(detail.locator("tbody tr").nth(1)).to_contain_text("14/16")
    detail.get_by_role("button", name="Open in Explore: rl").click()
    until(lambda: len(app.OPENED) > 0)  # gradio drops an event of the same kind while one is under way
    detail.get_by_role("button", name="Compare: rl").click()
    page.wait_for_timeout(400)  # long enough for a third to come
    until(lambda: len(app.OPENED) > 1)
    where = [{k: data[k] for k in ("problem", "name", "where")} for data in app.OPENED]
    assert where == [
        {"problem": "mini-test-0005", "name": "rl", "where": "explore"},
        {"problem": "mini-test-0005", "name": "rl", "where": "compare"},
    ]


def test_hostile_words_are_words(open_page: Open, url: str) -> None:
    page = evaluated(open_page(url), seed=13)
    expect(page.get_by_text("<img src=x onerror=window.PWN=1>").first).to_be_visible()
    listed(page).filter(has_text="<img").first.get_by_role("button").click()
    expect(page.get_by_role("group", name="Problem mini-test-0003")).to_contain_text("{{value}} ⟪202e⟫gnp.exe `")
    chip(page, "Compared with the base", "<img").click()
    expect(page.locator("#evaluate .curves-end").filter(has_text="<img")).to_have_count(1)
    assert page.locator("#evaluate img").count() == 0


# ---- while it runs --------------------------------------------------------------------------------------------------
def test_results_come_while_it_runs_and_survive_a_reload(open_page: Open, url: str) -> None:
    app.GO_ON.clear()
    page = open_page(url)
    press(page, "Evaluate")
    head = page.locator("#evaluate .run-head")
    expect(head).to_contain_text("10 of 40 problems")
    expect(head).to_contain_text("340 of 1,360 completions")
    expect(head).to_contain_text("2 min so far, about 5 min left")
    assert page.get_by_role("progressbar").evaluate("e => e.value / e.max") == 0.25
    page.reload()
    expect(head).to_contain_text("10 of 40 problems")
    expect(rows(page, "What each solves")).to_have_count(2)
    app.GO_ON.set()
    expect(status(page)).to_contain_text("done after 7 min")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_stop_keeps_what_is_there(open_page: Open, url: str) -> None:
    app.GO_ON.clear()
    page = open_page(url)
    press(page, "Evaluate")
    press(page, "Stop")
    expect(status(page)).to_contain_text("stopped after 2 min")
    expect(page.get_by_text("Evaluate goes on from here.")).to_be_visible()
    expect(rows(page, "What each solves")).to_have_count(2)


def test_another_visitor_sees_nothing_of_it(page: Page, open_page: Open, url: str) -> None:
    other = open_page(url)
    expect(other.get_by_text("Is it better, and would you see it again")).to_be_visible()
    other.wait_for_timeout(800)
    expect(other.locator("#evaluate .run-head")).to_contain_text("a recorded example")


# ---- to take home, and how it looks ---------------------------------------------------------------------------------
def test_files_and_the_command(page: Page) -> None:
    with page.expect_download() as download:
        press(page, "JSON")
    assert json.loads(Path(download.value.path()).read_text()) == json.loads(json.dumps(app.document()))
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^CSV")).click()
    found = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert len(found) == 80
    assert {row["model"] for row in found} == {"base", "rl"}
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(page, "Copy")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("rmx eval --model mini --adapter rl")


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_a_phone_needs_no_sideways_scroll(open_page: Open, url: str, theme: str) -> None:
    page = evaluated(open_page(f"{url}?__theme={theme}", width=360, height=760), seed=13)
    listed(page).first.get_by_role("button").first.click()
    expect(scatter(page).locator(".curves-plot")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for selector in (".label", ".interval", ".curves-end", ".curves-grid text"):
        node = page.locator(f"#evaluate {selector}").first
        assert contrast(page, node) >= 4.5, selector


def contrast(page: Page, node: Locator) -> float:
    """WCAG contrast of a text on the page's ground."""
    text, ground = node.evaluate(
        """e => {
          const ground = (n) => (n ? getComputedStyle(n).backgroundColor : "rgb(255, 255, 255)");
          let at = e;
          while (at && /, 0\\)$|transparent/.test(ground(at))) at = at.parentElement;
          return [e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color, ground(at)];
        }"""
    )

    def light(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(text), light(ground)))
    return (bright + 0.05) / (dark + 0.05)
