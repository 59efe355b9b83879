"""The explorer view in Chromium, on the scripted server. Found by role and label; every assertion waits."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright")
import scripted_app as app
from places import answer, inspector, lanes, status
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown

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


def tokens(page: Page) -> Locator:
    return page.locator(".flow .t")


def fork(page: Page, text: str) -> Locator:
    return page.get_by_role("group", name="Solution").get_by_role("button", name=re.compile(f'Fork.*{text}"')).first


def solve(page: Page, script: str = "beads", limit: int = 400, pause: float = 0, wait: bool = True) -> None:
    page.get_by_label(script, exact=True).check()
    page.locator("#limit input").fill(str(limit))
    page.locator("#pause input").fill(str(pause))
    page.get_by_role("button", name="Solve").click()
    if wait:
        expect(status(page)).to_contain_text("tokens", timeout=30_000)


def picks() -> list[dict[str, Any]]:
    return [data for name, data in app.EVENTS if name == "pick"]


def last_run() -> app.Run:
    return list(app.RUNS.values())[-1]


def swap(page: Page, said: str = "add", number: str = "2") -> None:
    """Select the first fork that says `said` and take an alternative by its number key."""
    fork(page, said).click()
    expect(inspector(page).get_by_role("list", name="Alternatives").get_by_role("button")).to_have_count(5)
    page.keyboard.press(number)


def test_the_first_screen_explains_itself(page: Page) -> None:
    expect(page.get_by_text("Change one, and watch the answer.")).to_be_visible()
    expect(page.locator(".steps strong")).to_have_text(["Problem", "Fork", "Answer"])


def test_text_is_exact_and_forks_are_marked(page: Page) -> None:
    solve(page)
    run = last_run()
    shown = page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)")
    assert shown == run.said
    forks = page.eval_on_selector_all(".flow .fork", "els => els.map(e => +e.dataset.i)")
    assert forks == [i for i, t in enumerate(run.toks) if t[1] > 1.0]
    expect(status(page)).to_contain_text(f"{len(run.said)} tokens, {len(forks)} forks; reused 0, computed 28")
    expect(answer(page)).to_contain_text("95")
    expect(answer(page)).to_contain_text("✗ wrong")


def test_a_click_opens_the_inspector(page: Page) -> None:
    solve(page)
    fork(page, "add").click()
    rows = inspector(page).get_by_role("list", name="Alternatives").get_by_role("button")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("chosen")
    expect(rows.nth(1)).to_contain_text("subtract")
    expect(rows.nth(1)).to_contain_text("27")
    expect(rows.nth(1).locator(".ahead")).to_contain_text("11 from 42: 42 - 11 = 31")
    expect(inspector(page)).to_contain_text("Fork at 13")
    expect(inspector(page)).to_contain_text("As undecided as between 4.0 words")
    inspector(page).get_by_role("button", name="show 20").click()
    expect(rows).to_have_count(20)
    page.keyboard.press("Escape")
    expect(inspector(page).get_by_text("Fork at 13")).to_be_hidden()
    expect(page.locator(".t[data-i='13']")).to_be_focused()


def test_a_swap_by_mouse_keeps_the_kept_tokens_and_changes_the_answer(page: Page) -> None:
    solve(page)
    first = last_run()
    page.evaluate("document.querySelectorAll('.flow .t').forEach((e) => (e.old = true))")
    fork(page, "add").click()
    inspector(page).get_by_role("button", name=re.compile("^2.*subtract")).click()
    expect(answer(page)).to_contain_text("73")
    expect(answer(page)).to_contain_text("✓ right")
    expect(answer(page)).to_contain_text("was ✗ 95")
    assert picks() == [{"run": first.id, "pos": 13, "token_ids": [app.token_id(" subtract")]}]
    kept = page.eval_on_selector_all(".flow .t", "els => els.map(e => !!e.old)")
    assert kept == [i < 13 for i in range(len(last_run().said))]
    expect(page.locator(".t.forced:not([aria-hidden])")).to_have_text(" subtract", use_inner_text=False)
    expect(page.locator(".flow .fresh-token").first).to_be_visible()
    expect(status(page)).to_contain_text("reused 41, computed 1")
    expect(lanes(page)).to_have_text(["first solution"])


def test_undo_redo_keep_and_the_tree(page: Page) -> None:
    solve(page)
    swap(page)
    expect(answer(page)).to_contain_text("✓ right")
    page.get_by_role("button", name="Undo").hover()
    expect(page.locator(".doomed").first).to_have_attribute("data-i", "13")
    page.keyboard.press("u")
    expect(answer(page)).to_contain_text("✗ wrong")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    expect(page.locator(".doomed")).to_have_count(0)
    page.keyboard.press("r")
    expect(answer(page)).to_contain_text("✓ right")
    expect(page.locator(".flow .fresh-token").first).to_be_visible()
    page.get_by_role("button", name="Compare with before").click()
    before = page.get_by_role("group", name="Before the swap")
    expect(before).to_contain_text("42 + 11 = 53")
    expect(before).to_contain_text("✗ 95")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".flow .fresh-token")).to_have_count(0)
    expect(before).to_be_hidden()
    expect(answer(page)).not_to_contain_text("was")
    lanes(page).click()
    expect(answer(page)).to_contain_text("✗ wrong")


def test_keys(page: Page) -> None:
    solve(page)
    page.locator("body").press("n")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "0")
    page.keyboard.press("n")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "13")
    page.keyboard.press("p")
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "14")
    expect(page.locator(".flow .selected")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("3")
    expect(answer(page)).to_contain_text("504")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Keep")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_keys_are_left_alone_in_inputs(page: Page) -> None:
    solve(page)
    swap(page)
    expect(answer(page)).to_contain_text("✓ right")
    box = inspector(page).get_by_label("Any other token")
    box.press_sequentially("nu12")
    expect(box).to_have_value("nu12")
    page.locator("#limit input").press("u")
    expect(answer(page)).to_contain_text("✓ right")
    assert len(picks()) == 1


def test_search_and_own_words(page: Page) -> None:
    solve(page)
    fork(page, "add").click()
    inspector(page).get_by_label("Any other token").fill("banana")
    inspector(page).get_by_role("list", name="Tokens found").get_by_role("button").click()
    expect(answer(page)).to_contain_text("– no answer")
    assert picks()[-1]["token_ids"] == [app.token_id(" banana")]
    page.locator("body").press("u")
    expect(answer(page)).to_contain_text("✗ wrong")
    words = inspector(page).get_by_label("Own words")
    expect(words).to_have_value(" ")
    words.fill(" subtract 11")
    inspector(page).get_by_role("button", name="Force").click()
    expect(page.locator(".flow .forced")).to_have_count(3)
    assert picks()[-1]["text"] == " subtract 11"


def test_stop(page: Page) -> None:
    solve(page, "long", 4000, pause=20, wait=False)
    expect(tokens(page).nth(20)).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    expect(status(page)).to_contain_text("stopped by hand")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_a_swap_while_the_text_still_streams(page: Page) -> None:
    solve(page, "long", 400, pause=20, wait=False)
    expect(tokens(page).nth(30)).to_be_attached()
    parent = last_run()
    page.locator(".t[data-i='7']").click()
    inspector(page).get_by_role("list", name="Alternatives").get_by_role("button").nth(1).click()
    expect(page.locator(".flow .forced")).to_have_attribute("data-i", "7")
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "7")  # the fork stays in hand
    page.get_by_role("button", name="Stop").click()
    expect(status(page)).to_contain_text("stopped by hand")
    assert parent.stop == "cancelled"
    shown = page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)")
    assert shown == last_run().said
    page.locator("body").press("u")
    expect(tokens(page)).to_have_count(len(parent.said))


def test_reload_and_undo_after_it(page: Page) -> None:
    solve(page)
    swap(page)
    expect(page).to_have_url(re.compile("run=" + last_run().id))
    expect(answer(page)).to_contain_text("✓ right")
    text = page.locator(".flow").inner_text()
    page.reload()
    expect(page.locator(".flow")).to_have_text(text, use_inner_text=True)
    expect(answer(page)).to_contain_text("✓ right")
    page.get_by_role("button", name="Undo").click()
    expect(answer(page)).to_contain_text("✗ wrong")


def test_an_unknown_run_in_the_address_is_one_calm_sentence(open_page: Open, url: str) -> None:
    page = open_page(url + "?run=gone&__theme=light")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("no longer held")
    solve(page)
    expect(page.locator(".rmx").get_by_role("alert")).to_be_hidden()
    assert "__theme=light" in page.url


def test_an_error_leaves_the_session_usable(page: Page) -> None:
    solve(page)
    page.get_by_label("error").check()
    page.get_by_role("button", name="Solve").click()
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("The model is busy")
    swap(page)
    expect(answer(page)).to_contain_text("✓ right")


def test_hostile_tokens_are_text(page: Page) -> None:
    solve(page, "hostile")
    flow = page.locator(".flow")
    for text in ("<script>", "<img src=x onerror", "${window.PWN=1}", "{{value}}", "⟪202e⟫abc", "⟪0000⟫", "⟪200b⟫"):
        expect(flow).to_contain_text(text)
    assert flow.locator("script, img, div").count() == 0
    assert flow.evaluate("e => e.scrollHeight") < 2000
    expect(flow.locator("[data-mark='↵×10,000']")).to_be_attached()
    fork(page, "<script>.*").click()
    expect(inspector(page)).to_contain_text("<b>bold</b>")
    expect(inspector(page)).to_contain_text("${1}")
    page.locator(".flow .t").nth(8).click()
    expect(inspector(page).locator(".chosen")).to_contain_text("⟪202e⟫abc")


def test_a_phone_has_a_sheet_and_no_sideways_scroll(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=760)
    for script in ("beads", "hostile", "wall"):
        solve(page, script)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator(".flow .fork").first.click()
        expect(inspector(page)).to_be_in_viewport(ratio=0.5)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator(".flow .selected").bounding_box()["y"] < inspector(page).bounding_box()["y"]  # type: ignore[index]
        inspector(page).get_by_role("button", name="Close inspector").click()
        expect(inspector(page)).not_to_be_in_viewport()


def test_tau_marks_anew_without_the_server(page: Page) -> None:
    solve(page)
    expect(page.locator(".flow .fork")).to_have_count(5)
    page.evaluate("window.rmx.setTau(1.35)")
    expect(page.locator(".flow .fork")).to_have_count(3)
    expect(status(page)).to_contain_text("3 forks")
    page.evaluate("window.rmx.setTau(0.001)")
    expect(page.locator(".flow .fork")).to_have_count(len(last_run().said))
    page.evaluate("window.rmx.setTau(1.0)")
    shown = page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)")
    assert shown == last_run().said
    assert page.locator(".flow [tabindex='0']").count() == 1
    page.evaluate("window.rmx.goto(13)")
    expect(inspector(page)).to_contain_text("Fork at 13")


def test_lost_deltas_are_fetched(page: Page) -> None:
    solve(page, "long", 300, pause=10, wait=False)
    expect(tokens(page).nth(20)).to_be_attached()
    app.DROP.set()
    page.wait_for_timeout(600)
    app.DROP.clear()
    expect(status(page)).to_contain_text("300 tokens", timeout=30_000)
    assert page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)") == last_run().said


def test_a_paragraph_without_end_is_split_into_blocks(page: Page) -> None:
    solve(page, "wall", 1200)
    expect(status(page)).to_contain_text("1,200 tokens")
    sizes = page.eval_on_selector_all(".flow .para", "els => els.map(e => e.childElementCount)")
    assert sum(sizes) == 1200
    assert max(sizes) <= 490


def test_presenter_pauses_at_forks_and_the_room_chooses(page: Page) -> None:
    solve(page)
    page.get_by_role("button", name="Present").click()
    stage = page.get_by_role("group", name="Which word comes next?")
    expect(stage.get_by_role("button")).to_have_count(5)
    expect(tokens(page)).to_have_count(0)
    expect(answer(page)).not_to_contain_text("95")  # not before the text gets there
    assert page.locator(".flow").evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 24
    page.keyboard.press("1")  # the token that the model said: playback goes on
    expect(tokens(page)).to_have_count(13)
    expect(stage.get_by_role("button").nth(1)).to_contain_text("subtract")
    assert picks() == []
    stage.get_by_role("button").nth(1).click()  # another one: a swap
    expect(page.locator(".flow .forced")).to_have_count(1)
    assert picks()[-1]["pos"] == 13
    for _ in range(3):
        expect(stage.get_by_role("button").first).to_be_visible()
        page.keyboard.press("PageDown")
        expect(stage.get_by_role("button").first).to_be_hidden()
    expect(answer(page)).to_contain_text("✓ right")
    page.keyboard.press("PageDown")  # the end: the next problem of the playlist
    expect(page.locator(".title")).to_contain_text("train")
    assert ("next", {"step": 1}) in app.EVENTS
    page.keyboard.press("Escape")
    expect(page.locator(".rmx")).not_to_have_class(re.compile("presenting"))
    expect(status(page)).to_contain_text("tokens")


def test_presenter_reveals_at_a_pace(page: Page) -> None:
    solve(page)
    page.evaluate("window.rmx.presenter(true, {pace: 12, pauseAtForks: false})")
    page.wait_for_timeout(1000)
    assert 4 <= tokens(page).count() <= 16
    page.get_by_role("toolbar", name="Presenter").get_by_text("instant").click()
    expect(tokens(page)).to_have_count(len(last_run().said))
    expect(answer(page)).to_contain_text("✗ wrong")


def test_tour(page: Page) -> None:
    page.get_by_role("button", name="tour").click()
    callout = page.get_by_role("dialog", name="Tour")
    expect(callout).to_contain_text("1 of 5")
    callout.get_by_role("button", name="Next").click()
    expect(callout).to_contain_text("None is on screen")
    callout.get_by_role("button", name="Skip").click()
    expect(callout).to_be_hidden()
    solve(page)
    page.evaluate("window.rmx.tour()")
    for step in ("The problem", "A fork", "The answer", "The inspector", "Many forks are harmless"):
        expect(callout).to_contain_text(step)
        expect(page.locator(".spot")).to_have_count(1)
        callout.get_by_role("button", name=re.compile("Next|Done")).click()
    expect(callout).to_be_hidden()


CONTRAST = """() => {
  const lin = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const lum = ([r, g, b]) => 0.2126 * lin(r) + 0.7152 * lin(g) + 0.0722 * lin(b);
  const probe = (colour) => {
    const c = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
    c.fillStyle = colour; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const span = document.querySelector('.flow .t.split');
  let behind = span; // the nearest ancestor that paints something opaque
  do behind = behind.parentElement; while (behind && probe(getComputedStyle(behind).backgroundColor)[3] < 255);
  const page = behind ? probe(getComputedStyle(behind).backgroundColor) : [255, 255, 255];
  span.style.setProperty('--h', 1);
  const word = span.querySelector('b');
  const [r, g, b, a] = getComputedStyle(word).backgroundColor.match(/[\\d.]+/g).map(Number);
  const under = [r, g, b].map((v, i) => v * a + page[i] * (1 - a));
  const text = probe(getComputedStyle(word).color), [hi, lo] = [lum(text), lum(under)].sort((x, y) => y - x);
  return (hi + 0.05) / (lo + 0.05); }"""


@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_text_on_the_hottest_token_is_readable(open_page: Open, url: str, theme: str) -> None:
    page = open_page(f"{url}?__theme={theme}")
    solve(page)
    assert page.evaluate(CONTRAST) >= 7


def test_roving_focus_and_labels(page: Page) -> None:
    solve(page)
    assert page.locator(".flow [tabindex='0']").count() == 1
    expect(fork(page, "add")).to_have_attribute("aria-label", 'Fork at token 13: "␣add", entropy 1.38')
    fork(page, "add").hover()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("as undecided as between 4.0 words")
    expect(tip).to_contain_text("1.38")


def busy_ms(page: Page, client: Any, tenths: int) -> float:
    """Main-thread milliseconds per 100 ms."""

    def total() -> float:
        metrics = client.send("Performance.getMetrics")["metrics"]
        return next(float(m["value"]) for m in metrics if m["name"] == "TaskDuration")

    before = total()
    page.wait_for_timeout(100 * tenths)
    return 1000 * (total() - before) / tenths


@pytest.mark.long
def test_an_update_costs_the_same_at_4000_tokens(page: Page) -> None:
    """Ten updates a second: what each costs the page beyond its idle work stays nearly flat while the text grows."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time: a busy machine must not fail this
    costs = {}
    for kept in (500, 4000):
        run = app.Run("long", limit=kept, pause=0)
        for _ in app.stream(run):
            pass
        page.goto(page.url.split("?")[0] + f"?run={run.id}")
        expect(status(page)).to_contain_text(f"{kept:,} tokens", timeout=30_000)
        page.wait_for_timeout(1000)
        idle = busy_ms(page, client, 15)
        run.limit, run.pause = kept + 400, 0.02
        page.evaluate(f"window.rmx.goto({kept - 1})")
        expect(inspector(page).get_by_role("button", name="show 20")).to_be_visible()
        inspector(page).get_by_label("Own words").fill(" so")
        inspector(page).get_by_role("button", name="Force").click()
        expect(tokens(page)).not_to_have_count(kept, timeout=30_000)
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
        count = tokens(page).count()
        costs[kept] = busy_ms(page, client, 40) - idle
        assert tokens(page).count() > count + 50
        page.get_by_role("button", name="Stop").click()
        expect(status(page)).to_contain_text("stopped")
    assert costs[4000] < 16, costs
    assert costs[4000] < 2.5 * costs[500] + 1


# ---- pinned for training ----------------------------------------------------------------------------------------
def told(page: Page) -> list[dict[str, Any]]:
    """The pins that the server was told last, once nothing more comes."""
    for _ in range(100):
        before = len(app.EVENTS)
        page.wait_for_timeout(1000)
        if len(app.EVENTS) == before:
            break
    return [data["pins"] for name, data in app.EVENTS if name == "pins"][-1]


def pin_row(page: Page) -> Locator:
    return page.get_by_role("region", name="Pinned for training")


def pinned(page: Page) -> list[int]:
    return page.eval_on_selector_all(".flow .pinned", "els => els.map(e => +e.dataset.i)")


def test_a_token_is_pinned_by_button_and_by_key(page: Page) -> None:
    solve(page)
    run = last_run().id
    expect(pin_row(page)).to_be_hidden()
    fork(page, "add").click()
    button = inspector(page).get_by_role("button", name="Pin for training")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(inspector(page).get_by_role("button", name="Pinned for training")).to_have_attribute("aria-pressed", "true")
    assert pinned(page) == [13]
    expect(pin_row(page)).to_contain_text("1 of 8")
    expect(pin_row(page).get_by_role("listitem")).to_contain_text("the facts are 42, 11. ↵ We␣add")
    page.keyboard.press("ArrowRight")
    expect(inspector(page).get_by_role("button", name="Pin for training")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("t")
    expect(pin_row(page).get_by_role("listitem")).to_have_count(2)
    assert pinned(page) == [13, 14]
    assert told(page) == [{"run": run, "pos": 13}, {"run": run, "pos": 14}]
    page.keyboard.press("t")
    expect(pin_row(page).get_by_role("listitem")).to_have_count(1)
    assert told(page) == [{"run": run, "pos": 13}]


def test_a_pin_takes_no_room_and_leaves_the_text_as_it_is(page: Page) -> None:
    solve(page)
    boxes = "els => els.map(e => JSON.stringify(e.getBoundingClientRect()))"
    page.evaluate("window.rmx.goto(29)")
    before = page.eval_on_selector_all(".flow .t", boxes)
    page.keyboard.press("t")
    assert pinned(page) == [29]
    assert page.eval_on_selector_all(".flow .t", boxes) == before
    assert page.eval_on_selector_all(".flow .t", "els => els.map(e => e.textContent)") == last_run().said


def test_pins_survive_swaps_and_other_problems(page: Page) -> None:
    solve(page)
    first = last_run()
    for pos in (13, 29):
        page.evaluate(f"window.rmx.goto({pos})")
        page.keyboard.press("t")
    page.keyboard.press("Escape")
    page.evaluate("window.rmx.goto(29)")
    page.keyboard.press("2")
    expect(page.locator(".flow .forced")).to_have_attribute("data-i", "29")
    expect(status(page)).to_contain_text("reused")
    assert pinned(page) == [13]  # at 29 another word stands now
    chips = pin_row(page).get_by_role("listitem")
    expect(chips).to_have_count(2)
    expect(chips.nth(1)).to_have_class("elsewhere")
    chips.nth(1).get_by_role("button", name=re.compile("^Pinned:")).click()  # leads back to its branch
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "29")
    assert pinned(page) == [13, 29]
    solve(page, "long", 60)
    expect(tokens(page)).to_have_count(60)
    assert pinned(page) == []  # another problem: equal places are not the same place
    expect(chips).to_have_count(2)
    chips.first.get_by_role("button", name=re.compile("^Pinned:")).click()
    expect(page.locator(".flow .selected")).to_have_attribute("data-i", "13")
    assert {pin["run"] for pin in told(page)} == {first.id}


def test_a_pin_is_taken_out_at_its_chip(page: Page) -> None:
    solve(page)
    page.evaluate("window.rmx.goto(13)")
    page.keyboard.press("t")
    pin_row(page).get_by_role("button", name="Unpin").click()
    expect(pin_row(page)).to_be_hidden()
    assert pinned(page) == []
    expect(inspector(page).get_by_role("button", name="Pin for training")).to_have_attribute("aria-pressed", "false")
    assert told(page) == []


def test_no_more_than_eight_pins(page: Page) -> None:
    solve(page)
    for pos in range(9):
        page.evaluate(f"window.rmx.goto({pos})")
        page.keyboard.press("t")
    expect(pin_row(page)).to_contain_text("8 of 8")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("8 tokens are pinned already")
    assert pinned(page) == list(range(8))
    assert len(told(page)) == 8


def test_a_pin_goes_with_its_run(page: Page) -> None:
    solve(page)
    gone = last_run().id
    page.evaluate("window.rmx.goto(13)")
    page.keyboard.press("t")
    expect(pin_row(page).get_by_role("listitem")).to_have_count(1)
    solve(page, "long", 60)
    expect(tokens(page)).to_have_count(60)
    del app.RUNS[gone]
    page.evaluate("window.rmx.goto(0)")
    page.keyboard.press("t")
    expect(page.locator(".rmx").get_by_role("alert")).to_contain_text("A pinned token went")
    expect(pin_row(page).get_by_role("listitem")).to_have_count(1)
    assert told(page) == [{"run": last_run().id, "pos": 0}]


@pytest.mark.long
def test_hostile_tokens_are_pinned_as_text(page: Page) -> None:
    solve(page, "hostile")
    for pos in range(1, 9):
        page.evaluate(f"window.rmx.goto({pos})")
        page.keyboard.press("t")
    expect(pin_row(page)).to_contain_text("<img src=x onerror=window.PWN=1>")
    expect(pin_row(page)).to_contain_text("⟪202e⟫abc")
    assert pin_row(page).locator("img, script").count() == 0


@pytest.mark.long
def test_pins_fit_a_phone(open_page: Open, url: str) -> None:
    page = open_page(url, width=360, height=760)
    solve(page)
    for pos in (0, 13, 29):
        page.evaluate(f"window.rmx.goto({pos})")
        inspector(page).get_by_role("button", name="Pin for training").click()
    inspector(page).get_by_role("button", name="Close inspector").click()
    expect(pin_row(page).get_by_role("listitem")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
