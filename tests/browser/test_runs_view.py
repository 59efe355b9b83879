"""The runs view in Chromium, on the scripted server. Found by role and label; every assertion waits."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
import scripted_runs as app
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

from rmx.ui.jobs.training import recorded_runs

Open = Callable[..., Page]
QUEUED, NEXT, RUNNING = "20261125-2214-mini-9c01", "20261125-2209-mini-77de", "20261125-2201-mini-ab3f"
BEST, SMALL, SMOL = "20261125-2142-mini-e210", "20261125-2120-mini-30c4", "20261125-2055-smol-b1b7"
STOPPED, INTERRUPTED, FAILED = "20261125-2031-mini-5512", "20261125-1958-mini-0fd2", "20261125-1930-mini-c8e9"
COLLAPSED = "20261125-1811-mini-a0a1"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(app.build) as address:
        yield address


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    app.reset()
    opened = open_page(url)
    expect(rows(opened)).to_have_count(10)
    expect(row(opened, NEXT)).to_contain_text("you")  # the view has been told who looks at it
    return opened


def rows(page: Page) -> Locator:
    return page.locator("#runs .run-row")


def row(page: Page, run: str) -> Locator:
    return page.locator(f"#runs .run-row[data-run='{run}']")


def ids(page: Page) -> list[str]:
    return rows(page).evaluate_all("els => els.map(e => e.dataset.run)")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def sent(name: str) -> list[dict[str, Any]]:
    return [data for event, data in app.EVENTS if event == name]


def wait_for_event(page: Page, name: str) -> dict[str, Any]:
    for _ in range(150):
        if sent(name):
            return sent(name)[-1]
        page.wait_for_timeout(50)
    raise AssertionError(f"no event {name}: {app.EVENTS}")


def opened(page: Page, run: str) -> Locator:
    page.get_by_role("button", name=run, exact=True).click()
    detail = page.get_by_role("group", name=f"Run {run}")
    expect(detail.locator(".files li").first).to_be_visible()
    return detail


def compared(page: Page, *runs: str) -> Locator:
    for run in runs:
        page.get_by_label(f"Choose {run}").check()
    press(page, "Compare")
    region = page.get_by_role("region", name="Comparison of runs")
    expect(region.locator(".panel-box").first.locator(".curves-legend li")).to_have_count(len(runs))
    return region


def value_of(region: Locator, panel: str, which: int) -> str:
    box = region.locator(".panel-box").filter(has_text=panel)
    return box.locator(".curves-value").nth(which).text_content() or ""


# A tab as gradio's, which this page has none of.
TABS = """() => {
  const tabs = '<div id="tabs"><button role="tab" data-tab-id="train">Train</button></div>';
  document.body.insertAdjacentHTML("beforeend", tabs);
  document.querySelector("#tabs button").addEventListener("click", (e) => (e.target.ariaSelected = "true"));
}"""


# ---- the table --------------------------------------------------------------------------------------------------
def test_without_runs_it_says_what_to_do(open_page: Open, url: str) -> None:
    app.reset("none")
    page = open_page(url)
    expect(page.get_by_text("There is none of yours yet.")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()
    page.evaluate(TABS)
    press(page, "Open Train")
    expect(page.get_by_role("tab", name="Train")).to_have_attribute("aria-selected", "true")


def test_where_there_is_no_run_a_recorded_example_shows_what_one_gains(open_page: Open, url: str) -> None:
    app.reset("none")
    app.RECORDED.extend(recorded_runs())
    page = open_page(url)
    expect(page.get_by_text("a recorded example")).to_be_visible()
    expect(page.locator("#runs .run-row")).to_have_count(15)
    shipped = row(page, "small-2")
    for text in ("bundled as reasonmaxxer", "63.0\u202f%", "69.3\u202f%", "+6.3", "by construction"):
        expect(shipped).to_contain_text(text)
    expect(shipped.get_by_role("checkbox")).to_be_hidden()  # there are no curves of it to compare
    shipped.get_by_role("button", name="small-2").click()
    detail = page.get_by_role("group", name="Run small-2")
    expect(detail.get_by_label("Command")).to_have_text("rmx train --model mini --set mini --preset small --seed 2")
    expect(detail).to_contain_text("Recorded when the adapter was built; measured on 300 held-out problems")
    expect(detail.get_by_role("button")).to_have_text(["Copy"])
    app.RUNS.update({one["id"]: one for one in app.scene("usual")[:1]})
    expect(page.locator("#runs .run-row")).to_have_count(1)  # an own run takes its place
    expect(page.get_by_text("a recorded example")).to_be_hidden()


def test_a_row_says_what_came_of_a_run_in_which_state_it_is_and_draws_its_gain(page: Page) -> None:
    best = row(page, BEST)
    for text in ("floor, second seed", "by construction", "floor", "13 departures", "1.40", "5.2\u202f%", "42.5\u202f%",
                 "56.2\u202f%", "51.3 – 61.1\u202f%", "✓", "+13.7", "+9 to +18", "9.8 min", "free", "done",
                 "you"):  # fmt: skip
        expect(best).to_contain_text(text)
    smol = row(page, SMOL)
    expect(smol).not_to_contain_text("by construction")
    expect(smol.locator(".gain-text")).to_have_text("–+1.1−2 to +4")  # the interval holds zero: no tick
    expect(smol).to_contain_text("5.2 h")
    expect(smol).to_contain_text("$4.37")
    expect(smol).to_contain_text("0b77f3")
    expect(row(page, COLLAPSED).locator(".gain-text")).to_contain_text("✗−21.4")
    expect(row(page, NEXT)).to_contain_text("positive only on · 11 more departures")
    expect(row(page, STOPPED)).to_contain_text("k 12")
    expect(row(page, STOPPED)).to_contain_text("shell")
    states_are_words_with_a_sign_and_progress(page)
    the_bars_of_gain_share_one_scale(page)


def states_are_words_with_a_sign_and_progress(page: Page) -> None:
    states = [(QUEUED, "waiting", "○"), (RUNNING, "running", "▶"), (BEST, "done", "✓"), (STOPPED, "stopped", "■"),
              (INTERRUPTED, "interrupted", "!"), (FAILED, "failed", "✗")]  # fmt: skip
    for run, word, sign in states:
        expect(row(page, run).locator(".state")).to_have_text(sign + word)
    expect(row(page, QUEUED)).to_contain_text("1 before it")
    expect(row(page, NEXT)).to_contain_text("next")
    expect(row(page, RUNNING)).to_contain_text("training 34 of 150, 2 min left")
    bar = row(page, RUNNING).get_by_role("progressbar")
    assert bar.evaluate("e => e.value / e.max") == pytest.approx(34 / 150)
    expect(page.locator("#runs [role=status]").first).to_have_text("1 running, 2 waiting")


def the_bars_of_gain_share_one_scale(page: Page) -> None:
    def centre(run: str) -> float:
        return float(row(page, run).locator(".gain circle").get_attribute("cx") or "nan") - 60

    assert centre(SMALL) / centre(BEST) == pytest.approx(0.058 / 0.137)
    assert centre(COLLAPSED) / centre(BEST) == pytest.approx(-0.214 / 0.137)
    half = row(page, SMOL).locator(".gain .span").evaluate("e => (e.x2.baseVal.value - e.x1.baseVal.value) / 2")
    assert half / centre(BEST) == pytest.approx(0.031 / 0.137, rel=1e-3)


def test_sorting(page: Page) -> None:
    assert ids(page) == [one["id"] for one in app.scene("usual")]
    head = page.get_by_role("columnheader", name="points gained")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    order = [one for one in ids(page) if app.RUNS[one]["vs_base"]]
    assert order == [BEST, SMALL, SMOL, STOPPED, COLLAPSED]
    assert ids(page)[:5] == order  # what is not known goes last
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert ids(page)[:5] == order[::-1]
    page.get_by_role("button", name="time", exact=True).click()
    assert ids(page)[0] == SMOL
    expect(page.get_by_role("columnheader", name="points gained")).not_to_have_attribute("aria-sort", "ascending")


def test_filters(page: Page) -> None:
    chips = page.get_by_role("group", name="Show only").get_by_role("button")
    expect(chips).to_have_text(["all 10", "under way 3", "done 4", "broken off 3"])
    press(page, "broken off 3")
    assert ids(page) == [STOPPED, INTERRUPTED, FAILED]
    expect(chips.nth(3)).to_be_focused()
    page.get_by_label("Model", exact=True).select_option("SmolLM2-135M-Instruct")
    expect(page.get_by_text("No run matches.")).to_be_visible()
    press(page, "Show all")
    assert len(ids(page)) == 10


def test_news_come_without_a_reload_and_leave_the_rest_alone(page: Page) -> None:
    page.evaluate("document.querySelectorAll('#runs .run-row td').forEach((e) => (e.firstChild.old = true))")
    page.get_by_role("button", name=SMALL, exact=True).focus()
    app.RUNS[RUNNING] |= {"at": 90, "left": 30}
    app.RUNS[QUEUED] |= {"ahead": 0}
    expect(row(page, RUNNING)).to_contain_text("90 of 150, 30 s left")
    expect(row(page, QUEUED)).to_contain_text("next")
    assert row(page, BEST).locator("td").evaluate_all("els => els.every(e => e.firstChild.old)")
    assert not row(page, RUNNING).locator(".cell-state").evaluate("e => !!e.firstChild.old")
    expect(page.get_by_role("button", name=SMALL, exact=True)).to_be_focused()


@pytest.mark.long
def test_a_hidden_page_asks_nothing(page: Page) -> None:
    page.evaluate("document.querySelector('#runs').style.display = 'none'")
    page.wait_for_timeout(300)
    app.CALLS.clear()
    page.wait_for_timeout(3600)
    assert app.CALLS == []
    page.evaluate("document.querySelector('#runs').style.display = ''")
    app.RUNS[RUNNING]["at"] = 120
    expect(row(page, RUNNING)).to_contain_text("120 of 150")


def test_a_server_that_is_gone_leaves_the_page_usable(page: Page) -> None:
    page.route("**/component_server**", lambda route: route.abort())
    expect(page.get_by_text("no reply from the server; trying again")).to_be_visible()
    assert len(ids(page)) == 10
    page.unroute("**/component_server**")
    expect(page.get_by_text("1 running, 2 waiting")).to_be_visible()


# ---- one run ----------------------------------------------------------------------------------------------------
def test_the_detail(page: Page) -> None:
    detail = opened(page, BEST)
    expect(page.get_by_role("button", name=BEST, exact=True)).to_have_attribute("aria-expanded", "true")
    expect(detail).to_contain_text("measured on 400 held-out problems; +13.7 points, interval +9 to +18")
    expect(detail).to_contain_text("it gains by construction")
    expect(detail.locator(".departs")).to_contain_text("neg floor natsnone → 0.5")
    expect(detail.locator(".departs")).to_contain_text("lr1e−4 → 0.001")
    expect(detail.get_by_label("Command")).to_have_text(app.RUNS[BEST]["command"])
    expect(detail).to_contain_text("Files, 27 MB")
    files = detail.locator(".files li")
    expect(files).to_contain_text(
        ["config.json2.1 kB", "events.jsonl62 kB", "rollouts.jsonl18 MB", "selection.json9.4 kB"]
    )
    expect(detail.locator(".files")).to_contain_text("checkpoints/6 files7.3 MB")
    press(page, "show all 12")
    expect(files).to_have_count(12)
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    expect(page.get_by_role("button", name=BEST, exact=True)).to_be_focused()


@pytest.mark.long
def test_one_detail_at_a_time_and_the_row_opens_it_too(page: Page) -> None:
    opened(page, BEST)
    row(page, FAILED).locator(".cell-state").click()
    detail = page.get_by_role("group", name=re.compile("^Run "))
    expect(detail).to_have_count(1)
    expect(detail).to_contain_text("Only 3 of 80 problems have mixed success; a run needs 8.")
    assert "train=" not in page.url


def test_the_command_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, SMALL)
    press(page, "Copy")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == app.RUNS[SMALL]["command"]


def test_watch_and_open(page: Page) -> None:
    opened(page, RUNNING)
    press(page, "Watch")
    expect(page).to_have_url(re.compile(f"[?&]train={RUNNING}"))  # Train begins with it
    detail = opened(page, BEST)
    detail.get_by_role("button", name="Open in Explore").click()
    assert wait_for_event(page, "open") == {"id": BEST, "where": "explore"}
    app.EVENTS.clear()
    detail.get_by_role("button", name="Open in Compare").click()
    assert wait_for_event(page, "open") == {"id": BEST, "where": "compare"}


def test_only_what_fits_the_state_is_offered(page: Page) -> None:
    names = ".detail-head button"
    for run, labels in [
        (RUNNING, ["Watch", "Stop"]), (FAILED, ["Resume", "Show in Train", "Delete …"]),
        (BEST, ["Open in Explore", "Open in Compare", "Show in Train", "Download", "Push to Hub …", "Delete …"]),
    ]:  # fmt: skip
        expect(opened(page, run).locator(names)).to_have_text(labels)


def test_stop_and_resume(page: Page) -> None:
    opened(page, RUNNING)
    press(page, "Stop")
    assert wait_for_event(page, "stop") == {"id": RUNNING}
    expect(page.get_by_role("button", name="Stopping …")).to_be_disabled()
    expect(row(page, RUNNING).locator(".state")).to_have_text("■stopping")
    app.RUNS[RUNNING]["state"] = "stopped"
    press(page, "Resume")
    assert wait_for_event(page, "resume") == {"id": RUNNING}
    expect(row(page, RUNNING).locator(".state")).to_have_text("○waiting")


def test_a_refusal_is_a_sentence_and_the_button_comes_back(page: Page) -> None:
    app.RUNS[RUNNING]["note"] = "cannot"
    opened(page, RUNNING)
    press(page, "Stop")
    expect(page.locator("#runs [role=alert]").first).to_have_text("This run belongs to somebody else.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()


def test_deleting_is_asked_in_the_page(page: Page) -> None:
    page.on("dialog", lambda dialog: pytest.fail("a window of the browser"))
    detail = opened(page, SMALL)
    press(page, "Delete …")
    expect(detail).to_contain_text("Delete this run and its 27 MB?")
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    press(page, "Keep it")
    expect(page.get_by_role("button", name="Delete for good")).to_be_hidden()
    assert sent("remove") == []
    press(page, "Delete …")
    press(page, "Delete for good")
    assert wait_for_event(page, "remove") == {"id": SMALL}
    expect(row(page, SMALL)).to_have_count(0)
    expect(rows(page)).to_have_count(9)


def test_others_see_why_they_may_not(page: Page) -> None:
    detail = opened(page, COLLAPSED)
    expect(detail.get_by_role("button", name="Delete …")).to_be_disabled()
    expect(detail.get_by_role("button", name="Push to Hub …")).to_be_disabled()
    expect(detail).to_contain_text("Only the visitor who started it, or the owner of the machine")
    expect(detail.get_by_role("textbox", name="Note")).to_have_count(0)
    expect(detail).to_contain_text("no floor at this rate: collapses")
    expect(detail.get_by_role("button", name="Download")).to_be_enabled()
    page.get_by_role("button", name="Scripted").click()
    press(page, "Be the owner of the machine")
    expect(detail.get_by_role("button", name="Delete …")).to_be_enabled()
    expect(detail.get_by_role("textbox", name="Note")).to_have_value("no floor at this rate: collapses")
    press(page, "Be a stranger")
    expect(detail.get_by_role("button", name="Delete …")).to_be_disabled()


def test_a_note_survives_the_polls_and_a_closed_row_until_it_is_saved(page: Page) -> None:
    detail = opened(page, SMALL)
    box = detail.get_by_role("textbox", name="Note")
    expect(box).to_have_value("small, as it comes")
    expect(detail.get_by_role("button", name="Save note")).to_be_hidden()
    box.fill("three seeds agree")
    app.RUNS[SMALL]["minutes"] = 4.3
    expect(row(page, SMALL)).to_contain_text("4.3 min")
    expect(box).to_have_value("three seeds agree")
    press(page, SMALL)
    expect(detail).to_be_hidden()
    opened(page, SMALL)
    expect(box).to_have_value("three seeds agree")
    press(page, "Save note")
    assert wait_for_event(page, "note") == {"id": SMALL, "text": "three seeds agree"}
    expect(row(page, SMALL)).to_contain_text("three seeds agree")
    expect(detail.get_by_role("button", name="Save note")).to_be_hidden()


def test_push_sends_the_token_once_keeps_it_nowhere_and_links_the_hub_alone(page: Page) -> None:
    detail = opened(page, BEST)
    press(page, "Push to Hub …")
    token = detail.get_by_label("Token")
    expect(token).to_have_attribute("type", "password")
    detail.get_by_label("Repository", exact=True).fill("no owner")
    token.fill("hf_secret")
    press(page, "Push")
    expect(detail.get_by_role("alert")).to_have_text("Name the repository as owner/name.")
    assert sent("push") == []
    detail.get_by_label("Repository", exact=True).fill("me/floor")
    detail.get_by_label("private repository").uncheck()
    press(page, "Push")
    assert wait_for_event(page, "push") == {"id": BEST, "repo": "me/floor", "token": "hf_secret", "private": False}
    expect(detail.get_by_role("link")).to_have_attribute("href", "https://huggingface.co/me/floor")
    assert "hf_secret" not in page.content()
    assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])").count("hf_secret") == 0
    press(page, "Push to Hub …")
    expect(token).to_have_value("")
    detail.get_by_label("Repository", exact=True).fill("me/floor")
    detail.get_by_label("private repository").check()
    token.fill("hf_secret")
    press(page, "Push")  # private: the scripted server answers with a hostile address
    expect(detail.get_by_role("link")).to_have_count(0)
    expect(detail).to_contain_text("Pushed. The adapter is at")


def test_a_file_comes_from_this_server_only(page: Page, url: str) -> None:
    page.evaluate(
        "() => { window.taken = []; HTMLAnchorElement.prototype.click = function () { taken.push(this.href) } }"
    )
    detail = opened(page, BEST)
    for times in (1, 2):  # the same message twice is two downloads
        press(page, "Download")
        expect(detail).to_contain_text("a.zip is on its way.")
        assert page.evaluate("taken") == [f"{url}files/a.zip"] * times
        page.evaluate("document.querySelector('.told').textContent = ''")
    for note in ("hostile", "foreign"):
        app.RUNS[BEST]["note"] = note
        press(page, "Download")
        expect(detail).to_contain_text("There is nothing to download.")
        page.evaluate("document.querySelector('.told').textContent = ''")
    assert len(page.evaluate("taken")) == 2


# ---- several ----------------------------------------------------------------------------------------------------
def test_curves_of_the_chosen_share_their_panels(page: Page) -> None:
    region = compared(page, BEST, COLLAPSED)
    expect(region.locator(".panel-box .curves-title")).to_have_text(
        ["pass@1", "Contrastive gap", "Decision loss", "KL to the base", "Δ log p, right", "Δ log p, wrong"]
    )
    best, worst = (app.curve(app.RUNS[run]) for run in (BEST, COLLAPSED))
    last = best["checks"][-1]["pass@1"]
    assert value_of(region, "pass@1", 0) == f"{100 * last['value']:.1f}\u202f%"
    expect(region.locator(".panel-box").first).to_contain_text(
        f"{100 * last['low']:.1f}\u202f% to {100 * last['high']:.1f}\u202f%"
    )
    assert value_of(region, "Contrastive gap", 1) == f"{worst['checks'][-1]['gap']:.3f}".replace("-", "−")
    assert region.locator(".panel-box").first.locator(".curves-bands path[d^=M]").count() == 2
    signs = region.locator(".keys .curves-line").evaluate_all("els => els.map(e => e.getAttribute('class'))")
    lines = (
        region.locator(".panel-box")
        .nth(2)
        .locator(".curves-lines path")
        .evaluate_all("els => els.map(e => e.getAttribute('class'))")
    )
    assert [s.split()[-1] for s in signs] == [s.split()[-1] for s in lines] == ["curve-0", "curve-1"]


@pytest.mark.long
def test_two_curves_are_pointed_at_lit_smoothed_and_what_differs_is_a_table(page: Page) -> None:
    region = compared(page, BEST, SMALL)
    region.locator(".curves-plot").nth(2).hover(position={"x": 200, "y": 60})
    expect(region.locator(".curves-about", has_text=re.compile("^at update"))).to_have_count(6)
    page.mouse.move(5, 5)
    expect(region.locator(".curves-about", has_text=re.compile("^at update"))).to_have_count(0)
    region.locator(".keys li").nth(1).hover()
    back = region.locator(".panel-box").nth(3).locator(".curves-lines path")
    assert back.evaluate_all("els => els.map(e => e.classList.contains('curves-back'))") == [True, False]
    smoothing_is_the_readers(region)
    what_differs_is_a_table(region)


def smoothing_is_the_readers(region: Locator) -> None:
    raw = app.curve(app.RUNS[BEST])["updates"][-1]["decision_loss"]
    plain = f"{raw:.3f}".replace("-", "−")
    assert value_of(region, "Decision loss", 0) != plain
    region.get_by_label("Smoothing").fill("0")
    expect(region.locator(".panel-box").nth(2).locator(".curves-value").first).to_have_text(plain)


def what_differs_is_a_table(region: Locator) -> None:
    table = region.get_by_role("table")
    lines = {line[0]: line[1:] for line in table.locator("tbody tr").evaluate_all(
        "els => els.map(tr => [...tr.children].map(td => td.textContent))")}  # fmt: skip
    assert lines["lr"] == ["0.001", "3e−4"]
    assert lines["neg floor nats"] == ["0.5", "none"]
    assert lines["epochs"] == ["2", "1"]  # the paper's value where a run does not depart
    assert lines["after"] == ["56.2\u202f%51.3 – 61.1\u202f%", "48.3\u202f%43.4 – 53.2\u202f%"]
    assert "temperature" not in lines  # equal in both
    assert "model" not in lines


@pytest.mark.long
def test_a_run_keeps_its_colour_when_another_is_taken_out(page: Page) -> None:
    region = compared(page, BEST, SMALL, SMOL)
    press(page, f"Take out {BEST}")
    expect(region.locator(".keys li")).to_have_count(2)
    expect(region.locator(".panel-box").first.locator(".curves-lines path")).to_have_count(2)
    lines = region.locator(".panel-box").first.locator(".curves-lines path")
    assert lines.evaluate_all("els => els.map(e => e.classList[1])") == ["curve-1", "curve-2"]
    press(page, "← All runs")
    expect(page.get_by_label(f"Choose {SMALL}")).to_be_checked()
    expect(page.get_by_label(f"Choose {BEST}")).not_to_be_checked()


@pytest.mark.long
def test_curves_of_a_running_one_go_on(page: Page) -> None:
    region = compared(page, RUNNING, BEST)
    last = app.curve(app.RUNS[RUNNING])["checks"][-1]["pass@1"]["value"]
    assert value_of(region, "pass@1", 0) == f"{100 * last:.1f}\u202f%"
    app.RUNS[RUNNING]["state"] = "done"  # the scripted curve is whole then
    app.RUNS[RUNNING]["note"] = "whole"
    expect(region.locator(".keys li").first).to_contain_text("whole")
    whole = app.curve(app.RUNS[RUNNING])["checks"][-1]["pass@1"]["value"]
    expect(region.locator(".panel-box").first.locator(".curves-value").first).to_have_text(f"{100 * whole:.1f}\u202f%")


@pytest.mark.long
def test_two_are_needed_to_compare_and_no_more_than_can_be_told_apart(page: Page) -> None:
    page.get_by_label(f"Choose {BEST}").check()
    bar = page.get_by_role("group", name="Chosen runs")
    expect(bar).to_contain_text("choose another to compare")
    expect(bar.get_by_role("button", name="Compare")).to_be_disabled()
    press(page, "Clear")
    expect(bar).to_be_hidden()
    expect(page.get_by_label(f"Choose {BEST}")).not_to_be_checked()
    for run in ids(page)[:7]:
        page.get_by_label(f"Choose {run}").check()
    page.get_by_label(f"Choose {FAILED}").click()
    expect(page.get_by_label(f"Choose {FAILED}")).not_to_be_checked()
    expect(page.locator("#runs [role=alert]").first).to_contain_text("At most 7 runs")


# ---- phones and strangers ---------------------------------------------------------------------------------------
def test_hostile_words_are_text(open_page: Open, url: str) -> None:
    app.reset("hostile")
    page = open_page(url)
    expect(rows(page)).to_have_count(2)
    run = "20261125-2142-<b>x</b>"
    detail = opened(page, run)
    expect(detail.get_by_label("Command")).to_contain_text("<img src=x onerror=window.PWN=1>")
    expect(detail).to_contain_text("⟪202e⟫gnp.exe")
    for one in (run, "20261125-2100-mini-aaaa"):
        page.get_by_label(f"Choose {one}").check()
    press(page, "Compare")
    expect(page.get_by_role("table")).to_contain_text("<img src=x")
    assert page.locator("#runs img, #runs script, #runs b").count() == 0


@pytest.mark.parametrize("width", [360, pytest.param(800, marks=pytest.mark.long)])
def test_narrow_pages_have_cards_and_no_sideways_scroll(open_page: Open, url: str, width: int) -> None:
    app.reset()
    page = open_page(url, width=width, height=760)
    expect(rows(page)).to_have_count(10)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    card = row(page, BEST)
    assert card.evaluate("e => getComputedStyle(e).display") == "grid"
    expect(card).to_contain_text("+13.7")
    assert card.locator(".cell-gated").evaluate("e => getComputedStyle(e, '::before').content") == '"gated"'
    page.get_by_label("Sort by").select_option("gain")
    assert ids(page)[0] == BEST
    opened(page, BEST)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    press(page, "Push to Hub …")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    compared(page, BEST, SMALL, COLLAPSED)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


# ---- a sweep over thresholds --------------------------------------------------------------------------------------
def test_a_sweep_shows_its_curve_and_its_table(open_page: Open, url: str) -> None:
    app.reset("sweep")
    page = open_page(url)
    expect(row(page, app.SWEEP)).to_contain_text("best of 4")
    detail = opened(page, app.SWEEP)
    score = detail.get_by_role("slider", name="pass@1")
    expect(score).to_have_attribute("aria-label", re.compile(r"At τ 1\.4: validation 49\.7.*42\.8.*test 48\.9"))
    boxes = detail.locator(".sweep .panel-box")
    expect(boxes.nth(0).locator(".curves-bars")).to_have_count(2)  # validation and test, with interval bars
    bars = boxes.nth(0).locator(".curves-bars").first.get_attribute("d") or ""
    assert bars.count("V") == 4  # one bar for each threshold
    for k in range(3):
        expect(boxes.nth(k).locator(".curves-refs")).to_contain_text("chosen")
    expect(boxes.nth(0).locator(".curves-refs")).to_contain_text("base, validation")
    expect(boxes.nth(2)).to_contain_text("gated share")
    lines = detail.locator(".sweep-table tbody tr")
    expect(lines).to_have_count(5)
    expect(lines.nth(2)).to_contain_text("1.4★ chosen5.2")
    expect(lines.nth(2)).to_contain_text("+7.2+1 to +13")
    expect(lines.nth(3)).not_to_contain_text("chosen")  # the best on test
    expect(detail.locator(".sweep")).to_contain_text("highest pass@1 on the validation problems")


@pytest.mark.long
def test_a_sweep_under_way_shows_what_is_there(open_page: Open, url: str) -> None:
    app.reset("sweep")
    app.RUNS[app.SWEEP] |= {"state": "running", "stage": "training", "at": 300, "of": 600, "tau": None}
    page = open_page(url)
    expect(row(page, app.SWEEP)).to_contain_text("sweep of 4")
    detail = opened(page, app.SWEEP)
    expect(detail.locator(".sweep-table tbody tr")).to_have_count(3)
    expect(detail.locator(".sweep")).to_contain_text("2 thresholds of 4 trained.")
    expect(detail.locator(".sweep .curves-refs").first).not_to_contain_text("chosen")
    app.RUNS[app.SWEEP] |= {"state": "done", "tau": 1.4}
    expect(detail.locator(".sweep-table tbody tr")).to_have_count(5)
    press(page, app.SWEEP)
    opened(page, BEST)
    expect(page.locator(".sweep")).to_have_count(0)  # other runs have none


# ---- money --------------------------------------------------------------------------------------------------------
def unfold(page: Page) -> Locator:
    page.locator("#runs .cost > summary").click()
    section = page.locator("#runs .cost")
    expect(section.locator(".cost-table tbody tr").first).to_be_visible()
    return section


def test_costs_are_summed_beside_the_papers_and_others_only_read_the_rates(page: Page) -> None:
    folded = page.locator("#runs .cost")
    expect(folded.get_by_text("Rates, US dollars an hour")).to_be_hidden()
    assert ("costs", {}) not in app.CALLS  # nothing is asked before it is opened
    section = unfold(page)
    here = section.get_by_role("region", name="What the runs cost")
    expect(here).to_contain_text("$13.99 in all, for 5.8 h of 8 runs. 7 runs on machines without a rate are not in it.")
    smol = here.get_by_role("row").filter(has_text=SMOL)
    for text in ("NVIDIA H100 80GB HBM3", "at $2.69", "5.2 h", "$13.99", "training 2.6 h"):
        expect(smol).to_contain_text(text)
    expect(here.get_by_role("row").filter(has_text=SMALL)).to_contain_text("no rate")
    paper = section.get_by_role("region", name="The paper’s table")
    expect(paper).to_contain_text("paper's own estimates")
    expect(paper.get_by_role("row").filter(has_text="Qwen2.5-32B")).to_contain_text("$5,737 – 103,000$25")
    expect(section.get_by_role("list", name="Rates").get_by_role("listitem")).to_have_count(3)
    expect(section.get_by_text("Only the owner of the machine may change them.")).to_be_visible()
    expect(section.get_by_role("textbox")).to_have_count(0)


def test_its_owner_enters_changes_and_takes_back_a_rate(page: Page) -> None:
    page.get_by_role("button", name="Scripted").click()
    press(page, "Be the owner of the machine")
    section = unfold(page)
    expect(section).to_contain_text("This machine: cpu. No hourly rate is known for it. Enter one below")
    machine, usd = section.get_by_label("Machine"), section.get_by_label("Dollars an hour", exact=True)
    expect(machine).to_have_value("cpu")
    usd.fill("much")
    press(page, "Add")
    expect(page.locator("#runs > .error, #runs .error").first).to_contain_text("amount in US dollars")
    assert sent("rate") == []
    usd.fill("0.60")
    press(page, "Add")
    assert wait_for_event(page, "rate") == {"name": "cpu", "usd": "0.60"}
    expect(section).to_contain_text("At 0.60 USD per hour for cpu")
    cost_of = section.get_by_role("row").filter(has_text=SMALL)
    expect(cost_of).to_contain_text("$0.04")
    box = section.get_by_label("Dollars an hour for cpu")
    box.fill("6")
    page.get_by_role("button", name="Save the rate of cpu").click()
    expect(cost_of).to_contain_text("$0.42")
    page.get_by_role("button", name="Take back the rate of cpu").click()
    expect(cost_of).to_contain_text("no rate")
    assert sent("rate")[-1] == {"name": "cpu", "usd": ""}


@pytest.mark.long
def test_a_rate_that_is_being_written_survives_the_polls(page: Page) -> None:
    page.get_by_role("button", name="Scripted").click()
    press(page, "Be the owner of the machine")
    section = unfold(page)
    box = section.get_by_label("Dollars an hour for H100-SXM")
    box.fill("3.1")
    app.RUNS.pop(COLLAPSED)  # so that the costs are asked for anew
    page.evaluate("window.rmxRuns.refresh()")
    expect(section.get_by_role("region", name="What the runs cost")).to_contain_text("of 7 runs")
    expect(box).to_have_value("3.1")
    expect(box).to_be_focused()


@pytest.mark.long
def test_costs_and_sweeps_fit_a_phone(open_page: Open, url: str) -> None:
    app.reset("sweep")
    page = open_page(url, width=360, height=760)
    opened(page, app.SWEEP)
    expect(page.locator(".sweep-table tbody tr")).to_have_count(5)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    narrow = page.locator("#runs .cost-table tbody th").evaluate_all("els => Math.min(...els.map(e => e.clientWidth))")
    assert narrow > 200  # no name is broken letter by letter
