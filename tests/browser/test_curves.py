"""The curve component on a bare page: what is drawn, read out, thinned, and left alone."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
from curves_page import page as source
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Page]
TWO: dict[str, Any] = {
    "title": "Decision loss",
    "about": "mean per update",
    "x": "update",
    "series": [
        {"id": "a", "name": "small", "points": [[1, 0.0], [2, -0.1], [3, -0.2], [4, -0.3]]},
        {"id": "b", "name": "floor", "points": [[1, 0.5], [3, 0.4]]},
    ],
}


@pytest.fixture
def page(open_page: Open, tmp_path: Path) -> Page:
    (tmp_path / "curves.html").write_text(source(), encoding="utf-8")
    return open_page((tmp_path / "curves.html").as_uri(), width=760)


def panel(page: Page, **options: Any) -> Locator:
    """One panel; `window.chart` is its handle."""
    page.evaluate("(options) => { window.chart = curves(document.getElementById('a'), options) }", options)
    return page.locator("#a")


def line(page: Page, k: int = 0, layer: str = "lines") -> list[list[float]]:
    """The points of a series' line in pixels."""
    d = page.locator(f"#a .curves-{layer} path").nth(k).get_attribute("d") or ""
    return [[float(v) for v in pair.split()] for pair in re.findall(r"[ML]([-\d.]+ [-\d.]+)", d)]


def drawn(page: Page) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_nothing_yet_is_a_sentence(page: Page) -> None:
    box = panel(page, title="Gap", empty="The first update draws the first point.")
    expect(box.get_by_text("The first update draws the first point.")).to_be_visible()
    expect(box.locator("svg.curves-plot")).to_be_hidden()
    page.evaluate("chart.set({series: [{id: 'a', name: 'gap', points: [[1, null]]}]})")
    drawn(page)
    expect(box.get_by_text("The first update draws the first point.")).to_be_visible()  # no figure is no point
    page.evaluate("chart.set({series: [{id: 'a', name: 'gap', points: [[1, null], [2, 0.5]]}]})")
    expect(box.locator("svg.curves-plot")).to_be_visible()


def test_lines_are_to_scale(page: Page) -> None:
    panel(page, **TWO)
    drawn(page)
    a, b = line(page, 0), line(page, 1)
    assert len(a) == 4
    steps = [round(p[0] - q[0], 1) for p, q in zip(a[1:], a, strict=False)]
    assert max(steps) - min(steps) < 0.3
    down = [p[1] - q[1] for p, q in zip(a[1:], a, strict=False)]
    assert min(down) > 0  # falling values lie lower on the page
    assert max(down) - min(down) < 0.3
    assert b[1][0] == pytest.approx(a[2][0], abs=0.2)  # the same x, the same place
    assert (a[0][1] - b[0][1]) / down[0] == pytest.approx(5, rel=0.02)  # 0.5 against steps of 0.1


def test_series_differ_by_dash_and_marker_as_well(page: Page) -> None:
    series = [{"id": str(k), "name": f"run {k}", "points": [[0, k], [1, k]]} for k in range(7)]
    box = panel(page, title="t", series=series)
    drawn(page)
    dashes = box.locator(".curves-lines path").evaluate_all("els => els.map(e => e.getAttribute('stroke-dasharray'))")
    shapes = box.locator(".curves-legend .curves-dot").evaluate_all("els => els.map(e => e.getAttribute('d'))")
    colours = box.locator(".curves-lines path").evaluate_all("els => els.map(e => getComputedStyle(e).stroke)")
    assert len(set(dashes)) == len(set(shapes)) == len(set(colours)) == 7


@pytest.mark.parametrize("dark", [False, True])
def test_lines_stand_out_from_the_paper(page: Page, dark: bool) -> None:
    page.evaluate("(dark) => document.documentElement.classList.toggle('dark', dark)", dark)
    series = [{"id": str(k), "name": f"run {k}", "points": [[0, k], [1, k]]} for k in range(7)]
    box = panel(page, title="t", series=series)
    drawn(page)
    paper = luminance(page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor"))
    for colour in box.locator(".curves-lines path").evaluate_all("els => els.map(e => getComputedStyle(e).stroke)"):
        light, deep = sorted([luminance(colour), paper], reverse=True)
        assert (light + 0.05) / (deep + 0.05) >= 3


def luminance(colour: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_a_gap_is_not_bridged(page: Page) -> None:
    points = [[1, 1], [2, 2], [3, None], [4, 2], [5, 1]]
    panel(page, title="t", series=[{"id": "a", "name": "a", "points": points}])
    drawn(page)
    d = page.locator("#a .curves-lines path").get_attribute("d") or ""
    assert d.count("M") == 2
    assert len(line(page)) == 4


def test_smoothing_is_an_unbiased_running_mean_and_the_raw_line_stays(page: Page) -> None:
    values, s = [1.0, 0.0, 0.0, 1.0], 0.5
    box = panel(page, title="t", smooth=s, series=[{"id": "a", "name": "a", "points": list(enumerate(values))}])
    drawn(page)
    mean, weight = 0.0, 0.0
    for v in values:
        mean, weight = s * mean + (1 - s) * v, s * weight + (1 - s)
    expect(box.locator(".curves-value")).to_have_text(f"{mean / weight:.3f}")
    expect(box.locator(".curves-extra")).to_have_text("raw 1.00")
    raw, smooth = line(page, layer="raw"), line(page)
    assert smooth[0] == raw[0]  # the first value is itself, not half of it
    assert smooth[1][1] < raw[1][1]
    page.evaluate("chart.set({smooth: 0})")
    drawn(page)
    assert line(page) == raw
    assert line(page, layer="raw") == []
    expect(box.locator(".curves-value")).to_have_text("1.00")


def test_new_points_leave_the_other_nodes_alone(page: Page) -> None:
    box = panel(page, **TWO)
    drawn(page)
    page.evaluate("document.querySelectorAll('#a *').forEach((e) => (e.old = true))")
    page.evaluate("chart.add('b', [[4, 0.3]])")
    drawn(page)
    assert len(line(page, 1)) == 3
    assert box.locator("*").evaluate_all("els => els.filter(e => !e.old).length") == 0  # the axes hold as they were
    page.evaluate("""() => {
      window.written = [];
      const watch = {subtree: true, childList: true, attributes: true, characterData: true};
      new MutationObserver((all) => written.push(...all.map((m) => `${m.target.className} ${m.attributeName}`)))
        .observe(document.getElementById('a'), watch);
    }""")
    longer = {**TWO, "series": [TWO["series"][0], {**TWO["series"][1], "points": [[1, 0.5], [3, 0.4], [4, 0.3]]}]}
    page.evaluate("(options) => chart.set(options)", longer)
    drawn(page)
    assert page.evaluate("written") == []  # a poll that brings nothing new writes nothing


def test_another_list_is_drawn_anew(page: Page) -> None:
    panel(page, **TWO)
    page.evaluate("chart.set({series: [{id: 'a', name: 'small', points: [[1, 0.3], [2, 0.2]]}]})")
    drawn(page)
    assert len(line(page)) == 2
    assert page.locator("#a .curves-lines path").count() == 1
    assert page.locator("#a .curves-legend li").count() == 1


@pytest.mark.long
def test_many_points_are_thinned_and_keep_their_extremes(page: Page) -> None:
    points = [[k, 0.001 * (k % 7)] for k in range(20_000)]
    points[7_777][1], points[13_131][1] = 1.0, -1.0
    panel(page, title="t", series=[{"id": "a", "name": "a", "points": points}])
    drawn(page)
    kept = line(page)
    assert 300 < len(kept) < 4 * 760
    top, low = min(kept, key=lambda p: p[1]), max(kept, key=lambda p: p[1])
    width = kept[-1][0] - kept[0][0]
    assert (top[0] - kept[0][0]) / width == pytest.approx(7_777 / 19_999, abs=0.003)
    assert (low[0] - kept[0][0]) / width == pytest.approx(13_131 / 19_999, abs=0.003)


def test_pointing_reads_out_every_series_at_the_nearest_x(page: Page) -> None:
    box = panel(page, **TWO)
    drawn(page)
    values = box.locator(".curves-value")
    expect(values).to_have_text(["−0.300", "0.400"])  # the latest of each
    plot = box.locator("svg.curves-plot")
    x, _ = line(page)[1]
    plot.hover(position={"x": x + 5, "y": 60})
    expect(box.get_by_text("at update 2")).to_be_visible()
    expect(values).to_have_text(["−0.100", "0.500"])
    expect(box.locator(".curves-here")).to_have_count(2)
    page.mouse.move(5, 500)
    expect(values).to_have_text(["−0.300", "0.400"])
    expect(box.get_by_text("mean per update")).to_be_visible()


def test_a_series_that_ended_long_before_has_no_value_there(page: Page) -> None:
    long = {"id": "a", "name": "long", "points": [[k, k] for k in range(1, 41)]}
    short = {"id": "b", "name": "short", "points": [[1, 0], [2, 0], [3, 0]]}
    box = panel(page, title="t", series=[long, short])
    drawn(page)
    page.evaluate("chart.cursor(30)")
    expect(box.locator(".curves-value")).to_have_text(["30.0", "–"])
    expect(box.locator(".curves-here")).to_have_count(1)


def test_the_keys_walk_and_the_name_says_the_latest(page: Page) -> None:
    box = panel(page, **TWO)
    plot = box.get_by_role("slider", name="Decision loss")
    expect(plot).to_have_attribute("aria-label", re.compile("Latest, at update 4: small −0.300; floor 0.400"))
    plot.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(plot).to_have_attribute("aria-valuenow", "3")
    expect(plot).to_have_attribute("aria-valuetext", "At update 3: small −0.200; floor 0.400")
    page.keyboard.press("Home")
    expect(plot).to_have_attribute("aria-valuenow", "1")
    page.keyboard.press("End")
    expect(plot).to_have_attribute("aria-valuenow", "4")
    page.keyboard.press("Escape")
    expect(box.get_by_text("at update 4")).to_be_hidden()


def test_panels_can_be_pointed_at_together(page: Page) -> None:
    box = panel(page, **TWO)
    page.evaluate(
        """(options) => { window.other = curves(document.getElementById('b'), {...options, title: "KL"});
      chart.set({onCursor: (x) => other.cursor(x)}) }""",
        TWO,
    )
    drawn(page)
    box.locator("svg.curves-plot").hover(position={"x": line(page)[0][0], "y": 60})
    expect(page.locator("#b").get_by_text("at update 1")).to_be_visible()
    page.mouse.move(5, 700)
    expect(page.locator("#b").get_by_text("at update 1")).to_be_hidden()


def test_intervals_are_a_band_and_shares_are_written_in_per_cent(page: Page) -> None:
    points = [[0, 0.42, 0.36, 0.48], [25, 0.5, 0.44, 0.56]]
    box = panel(page, title="pass@1", percent=True, within=[0, 1], lines=[{"y": 0.42, "name": "base"}],
                series=[{"id": "a", "name": "small", "points": points}])  # fmt: skip
    drawn(page)
    band = box.locator(".curves-bands path").bounding_box()
    mean = box.locator(".curves-lines path").bounding_box()
    assert band is not None
    assert mean is not None
    assert band["height"] / mean["height"] == pytest.approx((0.56 - 0.36) / (0.5 - 0.42), rel=0.06)
    expect(box.locator(".curves-value")).to_have_text("50.0\u202f%")
    expect(box.locator(".curves-extra")).to_have_text("44.0\u202f% to 56.0\u202f%")
    expect(box.locator(".curves-refs text")).to_have_text("base")
    assert box.locator(".curves-grid text").first.text_content() in {"40\u202f%", "35\u202f%"}


def test_the_axis_stays_within_its_bounds_and_has_few_round_ticks(page: Page) -> None:
    points = [[0, 0.97], [140, 1.0]]
    box = panel(page, title="pass@1", percent=True, within=[0, 1], series=[{"id": "a", "name": "a", "points": points}])
    drawn(page)
    texts = box.locator(".curves-grid text").all_text_contents()
    shares = [float(t.rstrip("%\u202f")) for t in texts if t.endswith("%")]
    assert max(shares) == 100
    assert 2 <= len(shares) <= 6
    assert [t for t in texts if not t.endswith("%")][-1].startswith("step ")


def test_one_series_before_the_others(page: Page) -> None:
    box = panel(page, **TWO)
    drawn(page)
    page.evaluate("chart.light('b')")
    assert box.locator(".curves-lines path").evaluate_all(
        "els => els.map(e => e.classList.contains('curves-back'))"
    ) == [
        True,
        False,
    ]
    page.evaluate("chart.light(null)")
    expect(box.locator(".curves-back")).to_have_count(0)


def test_names_are_text(page: Page) -> None:
    hostile = "<img src=x onerror=window.PWN=1>"
    box = panel(
        page,
        title=hostile,
        lines=[{"y": 1, "name": hostile}],
        series=[{"id": hostile, "name": hostile, "points": [[0, 1]]}],
    )
    drawn(page)
    assert box.locator("img").count() == 0
    expect(box.locator(".curves-name")).to_have_text(hostile)


@pytest.mark.parametrize("width", [320, 1400])
def test_it_fits_and_follows_the_width(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    box = panel(page, **TWO)
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plot = box.locator("svg.curves-plot").bounding_box()
    assert plot is not None
    assert plot["width"] == pytest.approx(min(640, width - 32), abs=1)
    assert max(p[0] for p in line(page)) <= plot["width"]


def test_a_panel_out_of_sight_is_drawn_when_it_comes(page: Page) -> None:
    page.evaluate("document.getElementById('a').hidden = true")
    panel(page, **TWO)
    drawn(page)
    assert page.locator("#a .curves-lines path").count() == 0
    page.evaluate("document.getElementById('a').hidden = false")
    expect(page.locator("#a .curves-lines path")).to_have_count(2)


def test_bars_stand_on_zero_and_a_press_tells_their_x(page: Page) -> None:
    page.evaluate("""() => { window.picked = []; window.chart = curves(document.getElementById("a"), {
        title: "Entropy", x: "token", zero: true, legend: false, lines: [{y: 1}],
        says: (x) => `${x}: word`, onPick: (x) => picked.push(x),
        series: [{id: "sure", look: "bars", band: false, points: [[0, 0.1], [2, 0.2]]},
                 {id: "fork", look: "bars", band: false, points: [[1, 2]]}],
    }) }""")
    box = page.locator("#a")
    expect(box.locator(".curves-bands .curves-fill")).to_have_count(2)
    expect(box.locator(".curves-legend")).to_be_hidden()
    small, large = (box.locator(".curves-bands .curves-fill").nth(k).bounding_box() for k in (0, 1))
    plot = box.locator(".curves-plot").bounding_box()
    assert small is not None
    assert large is not None
    assert plot is not None
    assert abs(small["y"] + small["height"] - large["y"] - large["height"]) < 0.2  # one ground
    assert abs(large["height"] / small["height"] - 10) < 0.5
    box.locator(".curves-plot").click(position={"x": large["x"] - plot["x"] + large["width"] / 2, "y": 40})
    expect(box.locator(".curves-about")).to_have_text("1: word")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("picked") == [1, 2]


def test_on_a_log_axis_each_doubling_is_one_step_and_equal_ends_have_names_apart(page: Page) -> None:
    points = [[k, 0.5, 0.4, 0.6] for k in (1, 2, 4, 8)]
    series = [{"id": n, "name": n, "points": points} for n in ("base", "<img src=x>")]
    panel(page, title="pass@k", x="k", log=True, names="ends", percent=True, xticks=[1, 2, 4, 8], series=series)
    ends = page.locator("#a .curves-end")
    expect(ends).to_have_text(["base", "<img src=x>"])
    found = [x for x, _ in line(page)]
    steps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert max(steps) - min(steps) < 0.3
    tops = ends.evaluate_all("els => els.map(e => e.getBoundingClientRect().top)")
    assert abs(tops[0] - tops[1]) >= 13


def test_long_names_under_columns_are_turned(page: Page) -> None:
    bars = {"look": "bars", "wide": 0.75, "band": "bars"}
    series = [bars | {"id": str(i), "points": [[i, 0.5, 0.4, 0.6]]} for i in range(6)]
    ticks = [[i, [f"a rather long name {i}", "50 %"]] for i in range(6)]
    panel(page, title="pass@1", zero=True, percent=True, xticks=ticks, series=series, height=240)
    expect(page.locator("#a .curves-grid text[transform]")).to_have_count(6)
    expect(page.locator("#a .curves-lines .curves-bars[d^=M]")).to_have_count(6)


def test_equal_groups_are_one_bubble_and_the_keys_walk_through_them(page: Page) -> None:
    page.evaluate("""() => { window.picked = []; window.chart = bubbles(document.getElementById("b")); chart.set({
        title: "", x: "right by base", y: "right by rl",
        says: (p) => p[2].join(", "), onPick: (ids) => picked.push(ids),
        series: [{name: "worse", style: 1, shape: 4, points: [[1, 0.5, ["c"]]]},
                 {name: "better", style: 2, points: [[0.5, 1, ["a", "b"]]]}],
    }) }""")
    box = page.locator("#b")
    expect(box.locator(".curves-name")).to_have_text(["worse (1)", "better (2)"])
    marks = box.locator(".curves-dots .curves-bubble")
    expect(marks).to_have_count(2)
    one, two = marks.evaluate_all("els => els.map(e => e.getBoundingClientRect().toJSON())")
    assert two["width"] > 2 * one["width"]
    assert two["y"] < one["y"]
    assert two["x"] < one["x"]
    marks.first.focus()
    page.keyboard.press("ArrowRight")
    expect(box.locator(".curves-about")).to_have_text("a, b")
    page.keyboard.press("Enter")
    assert page.evaluate("picked") == [["a", "b"]]
