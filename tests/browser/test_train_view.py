"""The Train view in Chromium, on the scripted server. Found by role and label; every assertion waits."""

import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("playwright")
import scripted_train as app
import train_world as world
from conftest import free_port
from gradio.context import Context
from playwright.sync_api import Page, expect
from scripted_page import LAUNCH, shown
from train_places import leg, part, polls, press, send, sent, state, unfolded, until, watch

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(app.build) as address:
        yield address


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    app.remake()
    return open_page(url)


# ---- before a run -----------------------------------------------------------------------------------------------
def test_the_empty_state_says_what_a_run_does_and_what_to_press(page: Page) -> None:
    expect(page.get_by_text("trains it only at the words where it was undecided")).to_be_visible()
    expect(page.get_by_text("Press the coloured button in the form")).to_be_visible()
    expect(page.get_by_role("region", name="Run", exact=True)).to_be_hidden()
    page.wait_for_timeout(600)  # two looks of the page at what is due
    assert app.POLLS == []


def test_the_plan_shows_costs_command_and_departures(page: Page) -> None:
    press(page, "Plan")
    plan = page.locator("details.plan")
    expect(plan).to_contain_text("4 min3.1 – 5.6 min")
    expect(plan).to_contain_text("1.3 GB")
    expect(plan).to_contain_text("$0.02")
    expect(plan.get_by_label("Command of this run")).to_have_text(world.PLAN["command"])
    rows = plan.get_by_role("table", name="Where this departs from the paper").locator("tbody tr")
    expect(rows).to_have_text(["problems15080", "temperature0.61.0", "lr1e-42e-4"])
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(page, "Copy")
    expect(plan.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == world.PLAN["command"]
    send(page, world.PLAN | {"departs": [], "minutes": None, "usd": None})
    expect(plan.get_by_text("Every value is the paper's.")).to_be_visible()
    expect(plan).to_contain_text("unknown")
    expect(plan.locator(".figures dt")).to_have_text(["time", "memory"])


def test_a_watched_run_folds_the_plan(page: Page) -> None:
    press(page, "Plan")
    watch(page, "done")
    expect(page.get_by_label("Command of this run")).to_be_hidden()
    expect(page.locator("details.plan summary")).to_contain_text("4 min · 1.3 GB · $0.02")
    page.locator("details.plan summary").click()
    expect(page.get_by_label("Command of this run")).to_be_visible()


# ---- the run's state --------------------------------------------------------------------------------------------
def test_a_finished_run_shows_its_stages_and_what_came_of_it(page: Page) -> None:
    watch(page, "done")
    expect(state(page)).to_contain_text("Done")
    expect(state(page)).to_contain_text("in 3 min · 1.3 GB at most · 412,000 tokens · 125 updates · $0.01")
    for name, says in {
        "Rollouts": ["1,600 rollouts", "60 s"],
        "Selection": ["50 of 80 problems", "2 s"],
        "Gate": ["of tokens", "5 s"],
        "Training": ["125 updates", "2 min"],
        "Final check": ["300 problems", "8 s"],
    }.items():
        for words in ["✓", *says]:
            expect(leg(page, name)).to_contain_text(words)
    result = page.get_by_role("group", name="Before and after")
    expect(result).to_contain_text("65.7 %60.3 % – 71.1 %")
    expect(result).to_contain_text("79.7 %75.1 % – 84.3 %")
    expect(result).to_contain_text("+14.0+8.9 to +19.1")
    expect(result).to_contain_text("✓ better than the base: the interval excludes zero. 300 problems")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    expect(page.get_by_text("by construction: the miniature's forks were put into its data")).to_be_visible()
    watch(page, "long")
    expect(state(page)).to_contain_text("Done")
    expect(page.get_by_text("by construction")).to_be_hidden()


def test_an_interval_with_zero_in_it_claims_nothing(page: Page) -> None:
    done = app.RUNS["done"].events[-1]
    app.RUNS["done"].events[-1] = done | {"vs_base": world.estimate(0.02, 0.05, 300)}
    watch(page, "done")
    result = page.get_by_role("group", name="Before and after")
    expect(result).to_contain_text("+2.0−3.0 to +7.0")
    expect(result).to_contain_text("– no difference shown: the interval includes zero.")


def test_one_glance_tells_where_a_run_is(page: Page) -> None:
    watch(page, "training")
    expect(state(page)).to_contain_text("Running training · update 62 of 125 · about 63 s left")
    now = page.locator("[aria-current=step]")
    expect(now).to_have_count(1)
    expect(now).to_contain_text("Training, under way62 of 125 updates63 s left")
    assert now.locator("i").evaluate("e => e.style.width") == "49.6%"
    expect(leg(page, "Gate")).to_contain_text("✓")
    expect(leg(page, "Final check")).to_contain_text("to come")
    page.get_by_role("button", name="Training", exact=True).click()  # a stage leads to its figures
    expect(part(page, "Curves").get_by_role("heading")).to_be_in_viewport()


def test_a_check_under_way_counts_its_problems(page: Page) -> None:
    watch(page, "training")
    app.RUNS["training"].checking = {"at": 34, "of": 80}
    expect(state(page)).to_contain_text("training · update 62 of 125 · checking 34 of 80 · about 63 s left")
    app.RUNS["training"].checking = None
    expect(state(page)).not_to_contain_text("checking")


STATES: list[tuple[str, str, str, list[str]]] = [
    ("queued", "Queued 2 runs ahead", "", ["Stop"]),
    ("blank", "Running getting ready", "", ["Stop"]),
    ("interrupted", "Interrupted", "Kept: 1,600 rollouts, the selection, checkpoint step_50. Resume", ["Resume"]),
    ("stopped", "Stopped", "StoppedKept: 1,600 rollouts, the selection, checkpoint step_50.", ["Resume"]),
    ("failed", "Failed", "The disk is full. Make room and resume the run. Kept: 1,400 rollouts.", ["Resume"]),
    ("guarded", "Stopped", "Guard: worse than the base on validation" + world.FELL, ["Resume"]),
    ("early", "Done", "Stopped earlyNo better pass@1 in 3 checks; step_50 becomes the adapter.", []),
]


def test_states_are_told_in_words_with_what_to_do(page: Page) -> None:
    for run, title, says, buttons in STATES:
        watch(page, run)
        expect(state(page)).to_contain_text(title)
        expect(state(page).locator("svg")).to_have_count(1)
        if says:
            expect(page.get_by_role("note")).to_contain_text(says)
        else:
            expect(page.get_by_role("note")).to_have_count(0)
        for name in ("Stop", "Resume"):
            button = page.get_by_role("button", name=name, exact=True)
            expect(button).to_be_visible() if name in buttons else expect(button).to_be_hidden()


def test_a_dry_run_goes_on_with_the_chosen_threshold(page: Page) -> None:
    watch(page, "dry")
    expect(state(page)).to_contain_text("Dry run done")
    expect(page.get_by_role("note")).to_have_text("Nothing is trained yetMove the threshold below, then press Train.")
    expect(part(page, "Gate")).to_contain_text("This run would train tokens above 1.00 nats")
    expect(leg(page, "Gate")).to_contain_text("✓")
    expect(leg(page, "Training")).to_contain_text("to come")
    part(page, "Gate").scroll_into_view_if_needed()
    part(page, "Gate").get_by_role("slider", name="Threshold").fill("1.2")
    press(page, "Train")
    expect(page.get_by_role("button", name="resuming …")).to_be_disabled()
    until(page, lambda: sent("resume") == [{"id": "dry", "tau": 1.2}])


def test_a_distillation_has_no_gate(page: Page) -> None:
    watch(page, "distilled")
    expect(page.get_by_role("list", name="Stages").get_by_role("listitem")).to_have_count(3)
    expect(state(page)).to_contain_text("Done")
    expect(page.get_by_text("distillation · small preset")).to_be_visible()
    expect(part(page, "Gate")).to_be_hidden()
    expect(part(page, "Curves")).to_be_visible()


# ---- what can be done -------------------------------------------------------------------------------------------
def test_stop_waits_for_the_run_to_obey(page: Page) -> None:
    watch(page, "training")
    press(page, "Stop")
    busy = page.get_by_role("button", name="stopping …")
    expect(busy).to_be_disabled()
    until(page, lambda: sent("stop") == [{"id": "training"}])
    asked = len(polls("training"))
    until(page, lambda: len(polls("training")) > asked)
    expect(busy).to_be_disabled()  # the run has not obeyed yet
    app.RUNS["training"].state = "stopping"
    expect(state(page)).to_contain_text("Stopping")
    expect(busy).to_be_disabled()
    app.RUNS["training"].state = "stopped"
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(busy).to_be_hidden()
    press(page, "Resume")
    expect(page.get_by_role("button", name="resuming …")).to_be_disabled()
    until(page, lambda: sent("resume") == [{"id": "training"}])
    app.RUNS["training"].state = "running"
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()


def test_a_refusal_is_said_and_frees_the_button(page: Page) -> None:
    watch(page, "training")
    press(page, "Stop")
    expect(page.get_by_role("button", name="stopping …")).to_be_visible()
    send(page, {"kind": "refused", "error": "Only its owner can stop this run."})
    expect(page.get_by_role("alert")).to_have_text("Only its owner can stop this run.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()


def test_a_visitor_stops_only_own_runs(page: Page) -> None:
    send(page, {"kind": "me", "owner": "ann", "admin": False}, {"kind": "watch", "id": "others"})
    expect(page.get_by_role("note")).to_contain_text("Another visitor's run")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    watch(page, "training")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    watch(page, "others")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    send(page, {"kind": "me", "owner": "boss", "admin": True})
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()


def test_a_run_opens_elsewhere_once_there_is_a_checkpoint(page: Page) -> None:
    watch(page, "rolling")
    expect(state(page)).to_contain_text("Running")
    expect(page.get_by_role("button", name="Open in Explore")).to_be_hidden()
    watch(page, "stopped")
    press(page, "Open in Explore")
    press(page, "Open in Compare")
    press(page, "Download")
    until(page, lambda: bool(sent("download")))
    assert sent("open") == [{"id": "stopped", "where": "explore"}, {"id": "stopped", "where": "compare"}]
    assert sent("download") == [{"id": "stopped"}]


# ---- the poll ---------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_a_run_grows_and_only_what_is_new_is_sent(page: Page) -> None:
    watch(page, "live")
    expect(leg(page, "Rollouts")).to_contain_text("of 1,600 rollouts")
    app.RUNS["live"].grow = 40
    expect(state(page)).to_contain_text("Done", timeout=30_000)
    asked = polls("live")
    ends = [0]
    for poll in asked:
        assert poll["start"] == ends[-1]  # each question begins where the reply before it ended
        ends.append(poll["start"] + poll["events"])
    assert ends[-1] == len(world.WHOLE) == sum(poll["events"] for poll in asked)
    assert len(asked) > 5
    expect(part(page, "Curves").get_by_text("125 of 125 updates")).to_be_visible()


@pytest.mark.long
def test_the_poll_rests_while_the_page_is_out_of_sight(page: Page) -> None:
    watch(page, "live")
    until(page, lambda: len(polls("live")) >= 2)
    page.get_by_role("tab", name="Elsewhere").click()
    page.wait_for_timeout(400)
    before = len(polls("live"))
    page.wait_for_timeout(2600)
    assert len(polls("live")) == before
    page.get_by_role("tab", name="Train").click()
    until(page, lambda: len(polls("live")) > before)
    page.evaluate("""() => { Object.defineProperty(document, 'visibilityState', {get: () => window.shut ?? 'visible'});
        window.shut = 'hidden'; }""")
    page.wait_for_timeout(400)
    before = len(polls("live"))
    page.wait_for_timeout(2600)
    assert len(polls("live")) == before
    page.evaluate("() => { window.shut = 'visible'; document.dispatchEvent(new Event('visibilitychange')); }")
    until(page, lambda: len(polls("live")) > before, seconds=1)


@pytest.mark.long
def test_a_run_that_is_over_is_asked_less_often(page: Page) -> None:
    watch(page, "training")
    watch(page, "done")
    until(page, lambda: len(polls("done")) == 1)
    page.wait_for_timeout(3000)
    assert len(polls("done")) == 1
    until(page, lambda: len(polls("done")) == 2, seconds=5)
    app.RUNS["done"].state = "running"


@pytest.mark.long
def test_an_app_that_does_not_answer_is_said_quietly_and_found_again(page: Page) -> None:
    watch(page, "live")
    until(page, lambda: len(polls("live")) >= 2)
    app.DOWN.set()
    expect(page.get_by_text("The app does not answer; the run goes on.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    app.DOWN.clear()
    app.RUNS["live"].grow = 500
    expect(state(page)).to_contain_text("Done")
    expect(page.get_by_text("The app does not answer")).to_have_count(0)
    for one, two in zip(polls("live"), polls("live")[1:], strict=False):
        assert two["start"] == one["start"] + one["events"]  # nothing lost, nothing twice


def test_the_run_is_there_again_after_a_reload_and_in_another_browser(page: Page, open_page: Open, url: str) -> None:
    watch(page, "stopped")
    expect(state(page)).to_contain_text("Stopped")
    assert "train=stopped" in page.url
    page.reload()
    expect(state(page)).to_contain_text("Stopped")
    expect(leg(page, "Training")).to_contain_text("62 of 125 updates")
    page.goto(url)  # without the address: this browser remembers
    expect(state(page)).to_contain_text("Stopped")
    other = open_page(url + "?train=guarded")
    expect(other.get_by_role("note")).to_contain_text("Guard: worse than the base")


def test_a_restart_of_the_app_loses_nothing(open_page: Open) -> None:
    app.remake()
    port, first = free_port(), Context.id
    demo = app.build()
    demo.launch(prevent_thread_lock=True, quiet=True, server_port=port, **LAUNCH)
    page = open_page(f"http://127.0.0.1:{port}/")
    watch(page, "training")
    expect(state(page)).to_contain_text("update 62 of 125")
    demo.close(verbose=False)
    expect(page.get_by_text("The app does not answer; the run goes on.")).to_be_visible(timeout=30_000)
    app.RUNS["training"].seen = world.after_update(90)
    Context.id = first  # a process of its own would number its components from the start, too
    demo = app.build()
    demo.launch(prevent_thread_lock=True, quiet=True, server_port=port, **LAUNCH)
    try:
        expect(state(page)).to_contain_text("update 90 of 125", timeout=60_000)
        expect(page.get_by_text("The app does not answer")).to_have_count(0)
    finally:
        page.goto("about:blank")
        demo.close(verbose=False)


def test_a_run_that_is_gone_is_said_once_and_forgotten(page: Page, url: str) -> None:
    send(page, {"kind": "watch", "id": "nowhere"})
    expect(page.get_by_role("alert")).to_have_text("There is no run nowhere here.")
    assert "train=" not in page.url
    page.goto(url + "?train=nowhere")  # remembered from long ago: no fuss
    expect(page.get_by_text("Press the coloured button in the form")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.long
def test_updates_that_a_resumed_run_repeats_replace_what_was_there(page: Page) -> None:
    run = app.RUNS["interrupted"]
    watch(page, "interrupted")
    expect(state(page)).to_contain_text("Interrupted")
    again = [{"t": world.BEGIN + 9000, "kind": "state", "state": "running"}, *world.training(first=51)]
    run.events = [*run.told, *[{"t": world.BEGIN + 9000 + i, **e} for i, e in enumerate(again)], *world.ENDED]
    run.seen, run.alive, run.state = None, None, "done"
    press(page, "Resume")
    expect(state(page)).to_contain_text("Done")
    plot = part(page, "Curves").get_by_role("slider", name=re.compile("^decision loss"))
    plot.press("Home")
    plot.press("PageDown")
    for _ in range(10):
        plot.press("PageDown")
    expect(plot).to_have_attribute("aria-valuenow", "125")
    expect(leg(page, "Training")).to_contain_text("125 updates")
    checkpoints = part(page, "Fork replay").get_by_role("slider", name="Checkpoint")
    assert checkpoints.get_attribute("max") == "5"  # base, 25, 50, 75, 100, 125: none twice


@pytest.mark.long
def test_a_file_that_became_shorter_is_read_anew(page: Page) -> None:
    watch(page, "training")
    expect(state(page)).to_contain_text("update 62 of 125")
    app.RUNS["training"].seen = world.after_update(60)
    expect(state(page)).to_contain_text("update 60 of 125")
    assert [poll["start"] for poll in polls("training")].count(0) == 2


@pytest.mark.long
def test_ten_thousand_updates_stay_quick(page: Page) -> None:
    watch(page, "long")
    expect(part(page, "Curves").get_by_text("10,000 of 10,000 updates")).to_be_visible(timeout=30_000)
    steps = [poll["start"] for poll in polls("long")]
    assert steps[:3] == [0, app.PIECE, 2 * app.PIECE]  # in pieces, one right after the other
    paths = part(page, "Curves").locator(".multiple.loss path.curves-line").last
    expect(paths).to_have_attribute("d", re.compile("M"))
    assert len(paths.get_attribute("d") or "") < 60_000  # thinned to what a panel can show
    took = page.evaluate("""async () => { const slider = document.querySelector('.smooth input');
        const began = performance.now();
        slider.value = 0.9;
        slider.dispatchEvent(new Event('input'));
        for (const _ of [1, 2]) await new Promise(requestAnimationFrame);
        return performance.now() - began; }""")
    assert took < 1500


# ---- for everybody ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "run", ["done", *[pytest.param(run, marks=pytest.mark.long) for run in ("hostile", "interrupted")]]
)
def test_a_phone_never_scrolls_sideways(open_page: Open, url: str, run: str) -> None:
    app.remake()
    page = open_page(url + f"?train={run}", width=360, height=760)
    expect(state(page)).to_contain_text(re.compile("Done|Stopped|Interrupted"))
    send(page, world.PLAN | {"command": "rmx train " + "--x " * 60 + "y" * 200})
    page.locator("details.plan summary").click()
    unfolded(page, "Gate")
    expect(page.locator(".gate .chip").first).to_be_visible()
    page.wait_for_timeout(500)
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.train *')].filter((e) => e.getBoundingClientRect().right > 361
            && !e.closest('.unseen, .solution, .command pre, .text')).map((e) => e.className?.baseVal ?? e.className)"""
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_text_stays_text(page: Page) -> None:
    watch(page, "hostile")
    expect(page.get_by_role("note")).to_contain_text("<img src=x onerror=window.PWN=1>")
    unfolded(page, "Gate")
    expect(page.locator(".gate .chip")).to_have_count(2)
    for slider in page.get_by_role("slider", name="Threshold").all():
        slider.fill("0")
    send(page, world.PLAN | {"command": "<img src=x onerror=window.PWN=1>", "departs": [["<b>x</b>", "${1}", "{{y}}"]]})
    press(page, "Play")
    part(page, "Sample solutions").scroll_into_view_if_needed()
    expect(part(page, "Sample solutions")).to_contain_text("<img src=x onerror=window.PWN=1>")
    page.wait_for_timeout(300)
    assert page.locator(".train img, .train script, .train .flow b b").count() == 0
    assert page.evaluate("window.PWN ?? null") is None


def test_motion_is_short_and_can_be_off(open_page: Open, url: str) -> None:
    app.remake()
    times = """() => [...document.querySelectorAll('.train *')].map((e) => Math.max(...getComputedStyle(e)
        .transitionDuration.split(',').map(parseFloat)))"""
    page = open_page(url + "?train=done")
    expect(page.locator(".fork-card")).to_have_count(4)
    assert max(page.evaluate(times)) < 0.2
    still = open_page(url + "?train=done", reduced_motion="reduce")
    expect(still.locator(".fork-card")).to_have_count(4)
    assert max(still.evaluate(times)) == 0
