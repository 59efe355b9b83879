"""Sharing in Chromium, with the real app: links, files, the exported page alone, recorded trees, hostile documents."""

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("playwright")
from conftest import chromium  # noqa: F401
from places import answer, inspector, lanes, status
from playwright.sync_api import Browser, Page, expect

from rmx.data.problem_sets import examples
from rmx.models.workspace import Workspace
from rmx.service import Site, call
from rmx.trees.document import Tree, read_tree, tree_document
from rmx.trees.tree_page import tree_html

Open = Callable[..., Page]
FIRST = examples()[0]


@pytest.fixture(scope="module")
def tree() -> Tree:
    """The first example with its swap, as the command line records it."""
    given = {"problem": FIRST.problem_id, "swaps": f"{FIRST.pos}={FIRST.token_id}"}
    *_, documents = call(Site(Workspace("cpu")), "swap", given)
    documents[0] |= {"title": FIRST.problem, "known": FIRST.answer, "prompt": f"Q: {FIRST.problem}\nA:"}
    return read_tree(json.dumps(documents))


def swapped(page: Page) -> None:
    """Take the swap of the first example, and wait for its answer."""
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    inspector(page).locator(f".alts .alt[data-id='{FIRST.token_id}']").click()
    expect(answer(page)).to_contain_text(FIRST.swapped_answer)
    expect(answer(page)).to_contain_text("was")


def link(page: Page) -> str:
    page.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("dialog", name="Share", exact=True)).to_contain_text("Link copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_link_is_copied_opened_and_verified(open_page: Open, url: str, browser: Browser) -> None:
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    swapped(page)
    copied = link(page)
    assert copied.startswith(f"{url}?s=1")
    assert len(copied) < 4000
    assert "run=" not in copied
    fresh = open_page(copied)
    expect(answer(fresh)).to_contain_text(FIRST.swapped_answer)
    expect(fresh.locator(".origin")).to_contain_text("✓ verified: same tokens in all 2 branches")
    expect(lanes(fresh)).to_have_count(1)
    expect(fresh.locator(".title")).to_have_text(FIRST.problem)
    lanes(fresh).first.click()
    expect(answer(fresh)).to_contain_text(FIRST.base_answer)
    assert "s=1" in fresh.url
    fresh.locator("#solve").click()  # something else on screen: the address forgets the link
    expect(fresh.locator(".origin")).to_be_hidden()
    expect(status(fresh)).to_contain_text("tokens")
    assert "s=1" not in fresh.url

    # One mark of the last branch is changed, and the seal with it: the page says where the tokens part.
    value = copied.partition("?s=")[2]
    row = json.loads(zlib.decompress(base64.urlsafe_b64decode(value[1:] + "=" * (-len(value[1:]) % 4))))
    marks = bytearray(base64.b64decode(row["b"][-1][5]))
    marks[0] ^= 1
    marks[8 + 2 * 3] ^= 1
    row["b"][-1][5] = base64.b64encode(bytes(marks)).decode()
    packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(row).encode())).rstrip(b"=").decode()
    other = open_page(f"{url}?s=1{packed}")
    expect(other.locator(".origin")).to_contain_text(f"✗ parts at token {FIRST.pos + 3} of branch 2")
    broken = open_page(f"{url}?s=1{packed[:-9]}")
    expect(broken.get_by_role("alert").first).to_contain_text("This link cannot be read")
    row["m"] = "<img src=x onerror=window.PWN=1>"
    packed = base64.urlsafe_b64encode(zlib.compress(json.dumps(row).encode())).rstrip(b"=").decode()
    unknown = open_page(f"{url}?s=1{packed}")
    expect(unknown.get_by_role("alert").first).to_contain_text("Unknown model '<img src=x")


def test_the_exported_page_works_alone(browser: Browser, tree: Tree, tmp_path: Path) -> None:
    file = tmp_path / "tree.html"
    file.write_text(tree_html(tree), encoding="utf-8")
    page = browser.new_page(viewport={"width": 900, "height": 800}, offline=True)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(file.as_uri())
    expect(answer(page)).to_contain_text(FIRST.swapped_answer)
    expect(page.get_by_role("heading", level=1)).to_have_text(FIRST.problem)
    forks = page.get_by_role("group", name="Solution").get_by_role("button")
    expect(forks).to_have_count(sum(t.entropy > 1 for t in tree.tokens(1)))
    box = page.get_by_role("dialog")
    while True:  # n goes through the forks to the one that was swapped
        page.keyboard.press("n")
        expect(box).to_be_visible()
        if f"at {FIRST.pos}" in box.inner_text():
            break
    expect(box.get_by_role("listitem")).to_have_count(5)
    expect(box).to_contain_text(f"tried: ✗ {FIRST.base_answer}")
    box.get_by_role("button", name=re.compile("tried:")).click()
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    rank = [c.id for c in tree.tokens(0)[FIRST.pos].top].index(FIRST.token_id) + 1
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    page.keyboard.press(str(rank))
    expect(answer(page)).to_contain_text(FIRST.swapped_answer)
    lanes(page).first.click()
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    assert (asked, errors) == ([file.as_uri()], [])
    page.close()


def test_the_exported_page_draws_the_fan_with_the_ends_that_were_known(
    open_page: Open, tree: Tree, tmp_path: Path
) -> None:
    first = tree.tokens(0)
    fork = next(t for t in first if t.entropy > 1 and t.pos != FIRST.pos)
    other = next(c for c in fork.top if c.id != fork.id)
    file = tmp_path / "tree.html"
    file.write_text(tree_html(replace(tree, shown=0, ends=({fork.pos: [[other.id, "<b>", False]]},))), encoding="utf-8")
    page = open_page(file.as_uri(), width=900)
    fan = page.get_by_role("group", name="Branches")
    expect(fan.locator(".fan-fork")).to_have_count(sum(t.entropy > 1 for t in first))
    expect(fan.locator(f".fan-ray[data-id='{other.id}'][data-pos='{fork.pos}']")).to_have_class("fan-ray fan-wrong")
    taken = fan.locator(f".fan-ray[data-id='{FIRST.token_id}'][data-pos='{FIRST.pos}']")
    expect(taken).to_have_class("fan-ray fan-right")
    page.get_by_text("as a table").click()
    expect(fan.get_by_role("row").filter(has_text="<b>, wrong")).to_have_count(1)
    taken.locator(".fan-mark").click()
    expect(answer(page)).to_contain_text(FIRST.swapped_answer)
    fan.locator(".fan-fork").first.locator(".fan-node").click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).to_have_count(5)


def put(page: Page, name: str, text: str) -> None:
    """Open a file by the panel."""
    panel = page.locator("#share-panel")
    if not panel.is_visible():
        page.get_by_role("button", name="Recorded trees").click()
    panel.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/plain", "buffer": text.encode()})


def test_files_are_opened_verified_and_gone_on_from(open_page: Open, url: str, tree: Tree) -> None:
    page = open_page(url)
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    for name, text in (("tree.json", json.dumps(tree_document(tree))), ("tree.html", tree_html(tree))):
        put(page, name, text)
        expect(page.locator("#share-panel").get_by_role("status")).to_contain_text(f"✓ {name}")
        expect(page.locator(".origin")).to_contain_text("Recorded")
        expect(answer(page)).to_contain_text(FIRST.swapped_answer)
    put(page, "other.json", "[1, 2]")
    expect(page.locator("#share-panel").get_by_role("alert")).to_contain_text("Trace 1 must be a JSON object")

    page.get_by_role("button", name="Verify").click()
    expect(page.locator(".origin")).to_contain_text("✓ verified: same tokens in all 2 branches")
    put(page, "tree.json", json.dumps(tree_document(replace(tree, model="some/model-9b"))))
    expect(page.locator(".origin")).to_contain_text("Recorded")
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    inspector(page).locator(".alts .alt").last.click()
    expect(page.get_by_role("alert").first).to_contain_text("recorded with some/model-9b, which is not loaded here")
    put(page, "tree.json", json.dumps(tree_document(tree)))  # mini is loaded, so it goes on
    expect(page.locator(".meta").first).to_contain_text("mini")
    page.locator(f".flow .t[data-i='{FIRST.pos}']").click()
    inspector(page).locator(".alts .alt:not(:has(.badge))").last.click()
    expect(page.locator(".origin")).to_be_hidden()
    expect(lanes(page)).to_have_count(2)

    page.get_by_role("button", name="Share", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Tree .json").click()
    back = read_tree(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert [b.parent for b in back.branches] == [None, 0, back.branches[2].parent]
    for name, size in (("Fork fan .svg", None), ("Fork fan .png", None), ("Card for a post", (1200, 630))):
        with page.expect_download() as saved:
            page.get_by_role("button", name=name).click()
        made = Path(saved.value.path()).read_bytes()
        if size is not None:
            assert struct.unpack(">II", made[16:24]) == size
        assert made.startswith(b"<svg" if name.endswith(".svg") else b"\x89PNG")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Entropy figure .png").click()
    assert Path(saved.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Page .html").click()
    assert Path(saved.value.path()).read_text(encoding="utf-8").startswith("<!doctype html>")


HOSTILE = "</script><script>window.PWN=1</script><img src=x onerror=window.PWN=1>${window.PWN=1}{{this}}\u202e"


def test_hostile_documents_run_nothing(open_page: Open, url: str, browser: Browser, tree: Tree, tmp_path: Path) -> None:
    root = tree.branches[0]
    top = tuple(replace(c, text=HOSTILE) for c in root.tokens[0].top)
    tokens = tuple(replace(t, text=HOSTILE, entropy=2.0, top=top) for t in root.tokens[:4])
    bad = replace(root, tokens=tokens, answer=replace(root.answer, text=HOSTILE))
    hostile = replace(
        tree, branches=(bad,), title=HOSTILE, prompt=HOSTILE, model=HOSTILE, known=HOSTILE, licence=HOSTILE,
        revision=HOSTILE, dtype=HOSTILE, adapter=HOSTILE, shown=0, pos=None,
    )  # fmt: skip
    page = open_page(url)
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    put(page, "bad.html", tree_html(hostile))
    expect(page.locator(".title")).to_contain_text("<img src=x onerror=window.PWN=1>")
    page.locator(".flow .t[data-i='1']").click()
    expect(inspector(page)).to_contain_text("</script><script>")
    page.get_by_role("button", name="Share", exact=True).click()
    page.get_by_role("button", name="Entropy figure .png").click()
    expect(page.get_by_role("dialog", name="Share", exact=True)).to_contain_text(".png, ")
    page.get_by_role("button", name="Verify").click(force=True)
    expect(page.get_by_role("alert").first).to_contain_text("</script>")

    file = tmp_path / "bad.html"
    file.write_text(tree_html(hostile), encoding="utf-8")
    alone = open_page(file.as_uri())
    expect(alone.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=window.PWN=1>")
    alone.locator(".flow .t[data-i='1']").click()
    expect(alone.get_by_role("dialog")).to_contain_text("</script><script>")
    assert len(alone.locator("script").all()) == 2


def test_the_gallery_opens_without_its_model(open_page: Open, url: str) -> None:
    page = open_page(url)
    expect(answer(page)).to_contain_text(FIRST.base_answer)
    page.get_by_role("button", name="Recorded trees").click()
    pieces = page.get_by_role("list", name="Gallery").get_by_role("button")
    expect(pieces.nth(2)).to_be_visible(timeout=20_000)  # three at least; the accordion is mounted when it opens
    for kind in ("wrong → right", "right → wrong", "stays wrong"):
        expect(pieces.filter(has_text=kind).first).to_be_visible()
    first = pieces.filter(has_text="right → wrong").first
    first.click()
    expect(page.locator(".origin")).to_contain_text("Recorded")
    expect(page.locator(".origin")).to_contain_text("Apache-2.0")
    expect(page.locator(".meta").first).to_contain_text("smollm2-135m-instruct")
    expect(answer(page)).to_contain_text("✓ right")
    expect(page.locator(".legend [data-ui=tau]")).to_have_text("1.40")  # the tree's own threshold, not mini's
    expect(page.locator(".strip .curves-ref")).to_be_attached()
    page.locator(".fan-lane.fan-wrong .fan-lane-name").first.click()
    expect(answer(page)).to_contain_text("✗ wrong")
