"""Every tab before axe-core: nothing serious or critical, and headings without a gap; in the dark, contrast alone."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from places import status
from playwright.sync_api import Page, expect

Open = Callable[..., Page]
AXE = Path(sys.prefix) / "axe.min.js"
SEEN = {"Explore": "#view .head", "Compare": "#pair .legend", "Train": "#train .plan", "Evaluate": "#evaluate .rmx"}
SEEN |= {"Claims": "#claims .tile", "Runs": "#runs .rmx"}
FOUND = """async (options) => (await axe.run(document, {resultTypes: ['violations'], ...options})).violations
  .filter((v) => ['serious', 'critical'].includes(v.impact) || v.id === 'heading-order')
  .flatMap((v) => v.nodes.map((n) => `${v.id} ${n.target.join(' ')} ${n.any[0]?.message ?? ''}`))"""


@pytest.fixture(scope="module")
def axe() -> str:
    assert AXE.is_file(), f"{AXE} is missing: `make {AXE.name}` as `make test` does, or put axe-core's file there"
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize(("theme", "options"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})])
def test_axe_finds_nothing_serious_on_any_tab(
    open_page: Open, url: str, axe: str, theme: str, options: dict[str, list[str]]
) -> None:
    page = open_page(f"{url}?__theme={theme}")
    expect(status(page)).to_contain_text("tokens", timeout=30_000)
    page.evaluate(axe)
    found = {}
    for name, part in SEEN.items():
        page.get_by_role("tab", name=name, exact=True).click()
        expect(page.locator(part).first).to_be_visible(timeout=30_000)
        if name == "Claims":
            page.locator(part).first.click()  # with a claim open below its tile
        found[name] = page.evaluate(FOUND, options)
    page.get_by_role("tab", name="Explore", exact=True).click()
    page.locator("#view .flow .fork").first.click()
    expect(page.get_by_role("region", name="Inspector")).to_contain_text("Fork at")
    found["Inspector"] = page.evaluate(FOUND, options)
    assert {name: faults for name, faults in found.items() if faults} == {}
