"""A tree as one HTML file that opens offline, and back again: what the file shows is what can be read out of it.

The tree stands as JSON in a block of its own, in which no "<" occurs. The page's policy lets exactly its own script and
style run, by their hashes, and fetches nothing.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence

from rmx import __version__
from rmx.config import ASSETS
from rmx.records import TokenDist, is_fork
from rmx.storage.rendering import csv_text, render
from rmx.storage.safe_files import MOST_CHARACTERS, DocumentError
from rmx.trees.document import Tree, read_tree, tree_document

OPENING, CLOSING = '<script type="application/json" id="tree">', "</script>"
CLOSED = "base-uri 'none'; form-action 'none'"


def tree_html(tree: Tree) -> str:
    """The whole file: five alternatives for each token, figures rounded to four digits."""
    shared = ("text", "svg", "answers", "prose", "tokens", "fan")
    script = inlined(*(f"common/{name}.js" for name in shared), "trees/tree_page.js")
    style = _asset("trees/tree_page.css") + _asset("common/fan.css")
    data = json.dumps(tree_document(tree, small=True), ensure_ascii=False, separators=(",", ":"))
    return render(
        "tree_page.html",
        # The template takes these four as they are: they are ours, or have no "<" in them.
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {CLOSED}",
        style=style,
        script=script,
        data=data.replace("<", "\\u003c"),
        ends=json.dumps(tree.ends, ensure_ascii=False, separators=(",", ":")),
        title=" ".join((tree.title or f"A solution of {tree.model}").split())[:120],
        version=__version__,
    )


def tree_texts(tree: Tree) -> dict[str, Callable[[], str]]:
    """What writes a tree, by the format of its file; svg and csv show the branch that is shown."""
    tokens = tree.tokens(tree.shown)
    return {
        "html": lambda: tree_html(tree),
        "json": lambda: json.dumps(tree_document(tree), ensure_ascii=False),
        "svg": lambda: entropy_svg(tokens, tree.tau, tree.title or tree.model),
        "csv": lambda: tokens_csv(tokens, tree.tau),
    }


def read_any(text: str) -> Tree:
    """A tree from its JSON or from a page that `tree_html` made, or DocumentError."""
    if len(text) > MOST_CHARACTERS:
        raise DocumentError(
            f"The file has {len(text) / 1e6:.1f} million characters; at most {MOST_CHARACTERS / 1e6:g} are read."
        )
    text = text.removeprefix("\ufeff").lstrip()
    if not text.startswith("<"):
        return read_tree(text)
    start = text.find(OPENING)
    end = text.find(CLOSING, start)
    if start < 0 or end < 0:
        raise DocumentError("This HTML file holds no tree of rmx. Open one that rmx has exported, or its JSON.")
    return read_tree(text[start + len(OPENING) : end])


def inlined(*modules: str) -> str:
    """Modules of the page as one script that fetches nothing, each after those that it imports from."""
    code = "".join(_asset(name) for name in modules)
    code = re.sub(r"^import [^;]*;\n", "", code, flags=re.MULTILINE)
    return '"use strict";\n(() => {\n' + re.sub(r"^export ", "", code, flags=re.MULTILINE) + "})();\n"


def _asset(name: str) -> str:
    return (ASSETS / "ui" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


COLUMNS = ("pos", "id", "text", "entropy", "p", "logp", "rank", "fork", "forced")


def entropy_svg(tokens: Sequence[TokenDist], tau: float, title: str) -> str:
    """Draw entropy over positions with the threshold as a line: dark on white, for a paper or a slide."""
    left, right, top, foot = 52, 944, 34, 178  # px of a drawing of 960 by 220
    most = max([0.5, tau, *(t.entropy for t in tokens)]) * 1.05
    step = (right - left) / max(1, len(tokens))

    def height(nats: float) -> float:
        return foot - (foot - top) * nats / most

    bars = []
    for i, t in enumerate(tokens):
        if t.entropy > 0.002 * most:
            y, label = height(t.entropy), f"{t.pos}: {_clean(t.text)}, {t.entropy:.2f} nats"
            bars.append((left + i * step, y, foot - y, is_fork(t.entropy, tau), label))
    places = [int(v) for v in _ticks(max(1, len(tokens) - 1)) if v == int(v)]
    return render(
        "entropy.html",
        title=_clean(title),
        bars=bars,
        wide=max(0.6, 0.8 * step),
        threshold=height(tau),
        rows=[(f"{v:g}", height(v)) for v in _ticks(most)],
        marks=[(i, left + (i + 0.4) * step) for i in places],
        width=960,
        height=220,
        left=left,
        right=right,
        top=top,
        foot=foot,
    )


def tokens_csv(tokens: Sequence[TokenDist], tau: float) -> str:
    """Write one line per token. A text that a spreadsheet would take for a formula gets an apostrophe before it."""
    found = [t.json(tau) | {"p": t.p, "text": inert(t.text)} for t in tokens]
    return csv_text(COLUMNS, ([token[column] for column in COLUMNS] for token in found))


def inert(text: str) -> str:
    """Make a text harmless in a spreadsheet."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and text.strip() not in ("=", "+", "-") else text


def _clean(text: str) -> str:
    """XML has no control characters, not even escaped ones."""
    return "".join(c if c.isprintable() else "␣" for c in text)


def _ticks(most: float) -> list[float]:
    """Four or five round values from 0 up to `most`."""
    size = next(s * 10**e for e in range(-2, 6) for s in (1, 2, 5) if most / (s * 10**e) <= 5)
    return [round(k * size, 6) for k in range(int(most / size) + 1)]
