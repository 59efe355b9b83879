"""What the Train view shows of a run: rollouts, gate, curves, fork replay, samples. Figures against Python's own."""

import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("playwright")
import scripted_train as app
import train_world as world
from playwright.sync_api import Locator, Page, expect
from scripted_page import shown
from train_places import leg, part, press, sent, unfolded, until, watch

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with shown(app.build) as address:
        yield address


@pytest.fixture
def page(open_page: Open, url: str) -> Page:
    app.remake()
    return open_page(url)


# ---- rollouts ---------------------------------------------------------------------------------------------------
def test_the_histogram_marks_the_usable_middle_and_what_was_kept(page: Page) -> None:
    watch(page, "done")
    rollouts = unfolded(page, "Rollouts")
    columns = rollouts.locator(".column")
    expect(columns).to_have_count(21)
    assert columns.locator(".n").all_text_contents() == [str(n) if n else "" for n in world.HISTOGRAM]
    useless = columns.evaluate_all("list => list.map((c, k) => c.matches('.useless') ? k : -1).filter((k) => k >= 0)")
    assert useless == [0, 20]
    usable = sum(world.HISTOGRAM[1:-1])
    chart = rollouts.get_by_role("img")
    expect(chart).to_have_attribute(
        "aria-label", f"Of 80 problems: 9 never right, 5 always right, {usable} in between, usable"
    )
    kept = columns.evaluate_all(
        "list => list.map((c) => Math.round(parseFloat(c.querySelector('b')?.style.height ?? 0)))"
    )
    assert kept == [round(100 * k / n) if n else 0 for n, k in zip(world.HISTOGRAM, world.KEPT, strict=True)]
    expect(rollouts).to_contain_text("Kept 50 of 80 problems: 800 rollouts to learn from, 391 right and 409 wrong")
    expect(rollouts).to_contain_text("the 200 longest were left out.")
    expect(rollouts).to_contain_text("Of 1 kept problem all rollouts left have the same result")
    expect(rollouts.locator(".why li")).to_have_text(
        ["5always right", "9never right", "16further from one half than those kept"]
    )
    right = sum(k * n for k, n in enumerate(world.HISTOGRAM))
    expect(rollouts.locator(".tally")).to_contain_text(f"right{right} 45 %")
    expect(rollouts.locator(".tally")).to_contain_text("truncated8 0.5 %")


@pytest.mark.long
def test_before_the_selection_nothing_is_said_to_be_kept(page: Page) -> None:
    watch(page, "rolling")
    rollouts = part(page, "Rollouts")
    expect(rollouts).to_contain_text("of 80 problems, 20 solutions each")
    expect(rollouts).to_contain_text("Kept will be the problems whose pass rate is nearest to one half.")
    expect(rollouts.locator(".column b")).to_have_count(0)


# ---- the gate ---------------------------------------------------------------------------------------------------
def dry_run(page: Page) -> Locator:
    press(page, "Dry run")
    gate = part(page, "Gate")
    expect(gate.locator(".chip")).to_have_count(24)
    return gate


def test_the_slider_counts_exactly(page: Page) -> None:
    gate = dry_run(page)
    slider = gate.get_by_role("slider", name="Threshold")
    for tau in (0.0, 0.05, 0.3, 0.95, 1.0, 1.4, 2.0, 4.0):
        slider.fill(str(tau))
        right, wrong, zero = (world.gated(sign, tau) for sign in (1, -1, 0))
        expect(gate.locator(".big")).to_have_text(f"{right + wrong + zero:,}")
        sides = gate.get_by_role("list", name="Gated tokens by advantage").get_by_role("listitem")
        expect(sides.nth(0)).to_contain_text(f"✓ {right:,} in right rollouts")
        expect(sides.nth(1)).to_contain_text(f"✗ {wrong:,} in wrong rollouts")
        expect(sides).to_have_count(3 if zero else 2)
        entropies = [h for _, h in world.dry()["rollouts"][0]["toks"]]
        above = [i for i, h in enumerate(entropies) if h > tau]
        expect(gate).to_contain_text(f"{len(above)} of {len(entropies)} tokens gated")
        assert page.eval_on_selector_all(".gate .flow .gated", "els => els.map(e => +e.dataset.i)") == above


@pytest.mark.long
def test_the_share_is_that_of_all_tokens(page: Page) -> None:
    gate = dry_run(page)
    total = world.token_count()
    expect(gate.locator(".counter")).to_contain_text(f"of {total:,} tokens gated")
    share = 100 * sum(world.gated(sign, 1.0) for sign in (1, -1, 0)) / total
    expect(gate.locator(".counter")).to_contain_text(f"{share:.1f}")
    expect(gate).to_contain_text("Training on this: about 42 s, 1.3 GB, $0.02.")


@pytest.mark.long
def test_between_two_levels_the_count_is_said_to_be_near(page: Page) -> None:
    gate = dry_run(page)
    number = gate.get_by_role("spinbutton")
    number.fill("1.02")
    low, high = (sum(world.gated(s, x) for s in (1, -1, 0)) for x in (1.05, 1.0))
    text = gate.locator(".big").inner_text()
    assert text.startswith("≈ ")
    assert low <= int(text[2:].replace(",", "")) <= high
    number.fill("1.05")
    expect(gate.locator(".big")).to_have_text(f"{low:,}")
    number.press("Enter")
    until(page, lambda: sent("tau") == [{"tau": 1.05}])
    gate.get_by_role("button", name="back to 1.00").click()
    expect(gate.locator(".big")).to_have_text(f"{high:,}")
    until(page, lambda: sent("tau") == [{"tau": 1.05}, {"tau": 1}])


@pytest.mark.long
def test_tau_is_told_when_the_slider_rests_and_needs_no_server_before(page: Page) -> None:
    gate = dry_run(page)
    app.EVENTS.clear()
    slider = gate.get_by_role("slider", name="Threshold")
    slider.evaluate("e => { for (const x of [0.5, 0.6, 0.7]) { e.value = x; e.dispatchEvent(new Event('input')); } }")
    expect(gate.locator(".big")).to_have_text(f"{sum(world.gated(s, 0.7) for s in (1, -1, 0)):,}")
    page.wait_for_timeout(400)
    assert app.EVENTS == []
    slider.evaluate("e => e.dispatchEvent(new Event('change'))")
    until(page, lambda: app.EVENTS == [("tau", {"tau": 0.7})])
    assert page.evaluate("window.rmxTrain.tau()") == 0.7


def test_marks_differ_in_shape_by_the_sign_of_the_advantage(page: Page) -> None:
    gate = dry_run(page)
    shape = "e => getComputedStyle(e.querySelector('b') ?? e).textDecorationStyle"
    found = {}
    for name in ("more_than-0, rollout 0, right", "more_than-0, rollout 5, wrong", "more_than-7, rollout 0, wrong"):
        gate.get_by_role("button", name=name).click()
        expect(gate.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
        found[name] = gate.locator(".flow .gated").first.evaluate(shape)
    assert list(found.values()) == ["solid", "dashed", "dotted"]
    expect(gate.locator(".reading")).to_contain_text("more_than-7 rollout 0: ✗ wrong, advantage 0.00")
    gate.get_by_role("button", name="more_than-7, rollout 0, wrong").press("ArrowRight")
    expect(gate.get_by_role("button", name="more_than-7, rollout 5, wrong")).to_be_focused()
    expect(gate.locator(".reading")).to_contain_text("more_than-7 rollout 5: ✗ wrong")


def test_the_text_is_exact_with_newlines_and_spaces_in_sight(page: Page) -> None:
    gate = dry_run(page)
    texts = page.eval_on_selector_all(".gate .flow .t", "els => els.map(e => e.textContent)")
    assert texts == [t for t, _ in world.dry()["rollouts"][0]["toks"]]
    assert gate.locator(".flow .nl").first.get_attribute("data-mark") == "↵"
    gate.locator(".flow .gated").first.hover()
    expect(page.locator("#rmx-train-tip")).to_contain_text("A > 0: made likelier")


@pytest.mark.long
def test_a_watched_run_brings_its_own_gate_into_sight(page: Page) -> None:
    watch(page, "done")
    gate = unfolded(page, "Gate")
    expect(gate.locator(".chip")).to_have_count(24)
    assert sent("dry_run") == [{"id": "done"}]
    right, wrong = world.gated(1, 1.0), world.gated(-1, 1.0)
    expect(gate).to_contain_text(f"This run trains tokens above 1.00 nats: {right + wrong} of {world.token_count():,}")
    expect(gate).to_contain_text(f"✓ {right} in right rollouts, ✗ {wrong} in wrong ones.")
    watch(page, "guarded")
    unfolded(page, "Gate")
    expect(gate).to_contain_text("The rollouts of this run were removed. Sample them anew.")
    expect(gate.locator(".chip")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)


# ---- curves -----------------------------------------------------------------------------------------------------
def test_curves_show_every_figure_and_share_one_pointer(page: Page) -> None:
    watch(page, "done")
    curves = part(page, "Curves")
    last = world.update(125)
    for title, value in {
        "pass@1, held out": f"{100 * (0.657 + world.gain(125)):.1f}",
        "held-out gap": f"{-0.11 + 3 * world.gain(125):.3f}",
        "learning rate": f"{last['lr']:.1e}"[:3],
        "decision loss": "",
        "KL anchor": "",
        "Δ log p": "",
        "gradient norm": "",
    }.items():
        expect(
            curves.get_by_role("slider", name=re.compile(f"^{re.escape(title)}.*{re.escape(value)}"))
        ).to_be_visible()
    expect(curves.locator(".multiple.pass .curves-refband")).to_have_count(1)
    expect(curves.locator(".multiple.pass")).to_contain_text("base")
    curves.get_by_label("smoothing").fill("0")
    loss = curves.get_by_role("slider", name=re.compile("^decision loss"))
    loss.press("Home")
    for _ in range(9):
        loss.press("ArrowRight")
    expect(curves.locator(".multiple.loss")).to_contain_text(f"{abs(world.update(10)['decision_loss']):.3f}")
    expect(curves.locator(".multiple.grad")).to_contain_text(f"{world.update(10)['grad_norm']:.3f}")
    expect(curves.locator(".multiple.lr")).to_contain_text("at update 10")


def test_right_and_wrong_differ_in_dash_and_marker(page: Page) -> None:
    watch(page, "done")
    lines = part(page, "Curves").locator(".multiple.delta .curves-lines path")
    expect(lines).to_have_count(2)
    dashes = lines.evaluate_all("els => els.map(e => e.getAttribute('stroke-dasharray'))")
    assert len(set(dashes)) == 2


def test_curves_and_replay_come_first_and_the_rest_is_folded_once_there_are_curves(page: Page) -> None:
    watch(page, "done")
    expect(part(page, "Rollouts").locator("details")).to_have_js_property("open", False)
    titles = page.locator(".train .topic:not([hidden]) h2").all_text_contents()
    assert [title.strip() for title in titles] == ["Curves", "Fork replay", "Rollouts", "Gate", "Sample solutions"]
    page.get_by_role("button", name="Gate", exact=True).click()  # a stage opens its panel, and no poll shuts it
    expect(part(page, "Gate").locator(".told")).to_be_visible()
    watch(page, "rolling")  # no curves yet: what there is to see is open
    expect(part(page, "Rollouts").locator(".column").first).to_be_visible()
    app.RUNS["rolling"].seen = world.after_update(3)
    expect(part(page, "Rollouts").locator(".column").first).to_be_hidden()


# ---- fork replay and samples ------------------------------------------------------------------------------------
def bars(page: Page, card: int = 0) -> list[list[str]]:
    rows = page.locator(".fork-card").nth(card).locator(".guess")
    return rows.evaluate_all("els => els.map(e => [...e.querySelectorAll('.p, .moved')].map(x => x.textContent))")


def width(page: Page, cls: str, row: int = 0) -> float:
    style = (
        page.locator(".fork-card").first.locator(".guess").nth(row).locator(f".{cls}").evaluate("e => e.style.width")
    )
    return float(style.rstrip("%"))


def test_the_replay_moves_the_bars_over_those_of_the_base(page: Page) -> None:
    watch(page, "done")
    cards = page.locator(".fork-card")
    expect(cards).to_have_count(4)
    expect(page.get_by_text("update 125", exact=True)).to_be_visible()
    expect(cards.first).to_contain_text("First, the facts are 42, 11.")
    expect(cards.first.locator(".spoken")).to_contain_text("␣add")
    expect(cards.first.locator(".badge")).to_have_count(1)
    expect(cards.first).to_contain_text("known answer 73")
    scrub = page.get_by_role("slider", name="Checkpoint")
    for k, step in enumerate([0, 25, 50, 75, 100, 125]):
        scrub.fill(str(k))
        now = world.p_at(step, 0.27, 0.42)
        assert width(page, "now", 1) == pytest.approx(100 * now)
        assert width(page, "ghost", 1) == pytest.approx(27)
        moved = round(100 * (now - 0.27))
        assert bars(page)[1][1] == (f"↑{moved}" if moved else "")
    assert bars(page)[0][1].startswith("↓")
    scrub.fill("0")
    expect(page.get_by_text("base, before training", exact=True)).to_be_visible()


@pytest.mark.long
def test_play_runs_through_the_checkpoints_and_stops_at_the_last(page: Page) -> None:
    watch(page, "done")
    press(page, "Play")
    expect(page.locator(".scrub .where")).to_have_text("base, before training")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.locator(".scrub .where")).to_have_text("update 25")
    expect(page.locator(".scrub .where")).to_have_text("update 125")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_the_replay_fills_the_screen_and_obeys_a_clicker(page: Page) -> None:
    watch(page, "done")
    where = page.locator(".scrub .where")
    expect(where).to_have_text("update 125")
    page.evaluate("window.rmxTrain.present(true)")
    expect(where).to_have_text("base, before training")
    expect(page.locator(".fork-card").first).to_be_in_viewport()
    expect(part(page, "Curves")).to_be_hidden()
    for key, text in (("PageDown", "update 25"), ("ArrowRight", "update 50"), ("PageUp", "update 25")):
        page.keyboard.press(key)
        expect(where).to_have_text(text)
    page.keyboard.press("Space")
    expect(where).to_have_text("update 125")
    page.keyboard.press("Escape")
    expect(part(page, "Curves")).to_be_visible()
    expect(page.locator("html")).not_to_have_class(re.compile("rmx-presenting"))


@pytest.mark.long
def test_the_replay_follows_the_run_until_the_reader_takes_it(page: Page) -> None:
    watch(page, "training")
    where = page.locator(".scrub .where")
    expect(where).to_have_text("update 50")
    app.RUNS["training"].seen = world.after_update(76) + 3
    expect(where).to_have_text("update 75")
    page.get_by_role("slider", name="Checkpoint").fill("1")
    app.RUNS["training"].seen = world.after_update(101) + 3
    expect(leg(page, "Training")).to_contain_text("103 of 125")
    expect(where).to_have_text("update 25")


def test_solutions_stand_side_by_side_with_their_verdicts(page: Page) -> None:
    watch(page, "done")
    samples = unfolded(page, "Sample solutions")
    first = samples.locator(".sample").first
    expect(first).to_contain_text("known answer 73")
    sides = first.locator(".side-of")
    expect(sides.nth(0).locator(".label")).to_have_text("base✗ 95")
    expect(sides.nth(1).locator(".label")).to_have_text("adapted✓ 73")
    expect(samples.locator(".sample").nth(2).locator(".label").first).to_have_text("base– none")
    assert sides.nth(1).locator(".solution").evaluate("e => e.textContent") == world.BEADS_RIGHT
    assert sides.nth(0).locator(".shared").evaluate("e => e.textContent") == world.OPENING
    tops = first.evaluate("e => [...e.querySelectorAll('.side-of')].map(s => s.getBoundingClientRect().y)")
    assert tops[0] == tops[1]  # read in one moment: what stands above may still grow
    page.set_viewport_size({"width": 360, "height": 760})
    page.wait_for_timeout(300)
    left, right = (sides.nth(k).bounding_box() for k in (0, 1))
    assert left is not None
    assert right is not None
    assert left["y"] + left["height"] <= right["y"]
