"""A tree as one HTML file that opens offline, and back again: what the file shows is what can be read out of it.

The tree stands as JSON in a block of its own, in which no "<" occurs. The page's policy lets exactly its own script and
style run, by their hashes, and fetches nothing.
"""

import base64
import hashlib
import json
import re
from html import escape

from rmx import __version__
from rmx.paths import ASSETS
from rmx.storage.strict_json import MOST_CHARACTERS, DocumentError
from rmx.trees.document import read_tree, tree_document
from rmx.trees.tree import Tree

OPENING, CLOSING = '<script type="application/json" id="tree">', "</script>"
CLOSED = "base-uri 'none'; form-action 'none'"


def tree_html(tree: Tree) -> str:
    """The whole file: five alternatives for each token, figures rounded to four digits."""
    script = "(() => {\n" + _asset("common/text.js") + _asset("trees/tree_page.js") + "})();\n"
    style = _asset("trees/tree_page.css")
    data = json.dumps(tree_document(tree, small=True), ensure_ascii=False, separators=(",", ":"))
    title = " ".join((tree.title or f"A solution of {tree.model}").split())[:120]
    parts = {
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {CLOSED}",
        "title": escape(title),
        "version": escape(__version__),
        "style": style,
        "data": data.replace("<", "\\u003c"),
        "script": script,
    }
    # In one pass: what is filled in is never looked at again, whatever braces it holds.
    return re.sub(r"\{(\w+)\}", lambda place: parts[place[1]], PAGE)


def read_any(text: str) -> Tree:
    """A tree from its JSON or from a page that `tree_html` made.

    Raises:
        DocumentError: it is neither.
    """
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


def _asset(name: str) -> str:
    return (ASSETS / "ui" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<div class="problem">
<p class="label">Problem</p>
<h1 data-ui="title" dir="auto"></h1>
<p class="meta" data-ui="meta"></p>
<details data-ui="promptBox" hidden>
<summary>exact prompt</summary><pre data-ui="prompt" dir="auto" tabindex="0"></pre>
<p data-ui="promptStyle" dir="auto"></p></details>
</div>
<div class="answer" role="group" aria-label="Answer">
<p class="label">Answer</p>
<p class="value" data-ui="answer"></p>
<p class="verdict" data-ui="verdict"></p>
</div>
</header>
<noscript><p>This file shows a solution and its forks, and needs JavaScript for that. It fetches nothing.</p></noscript>
<div class="flow" data-ui="flow" role="group" aria-label="Solution"></div>
<p class="status" role="status" data-ui="status"></p>
<nav data-ui="tree" aria-label="Branches" hidden>
<h2 class="label">Branches</h2>
<ol data-ui="branches"></ol>
</nav>
<footer>
<ul>
<li><i class="ramp"></i><span class="num">0 – 2.5+</span> nats of entropy</li>
<li><span class="t fork">word</span> fork, above <span class="num" data-ui="tau"></span></li>
<li><span class="t fork tried">word</span> another was tried</li>
<li><span class="t forced">word</span> forced</li>
<li><kbd>n</kbd> <kbd>p</kbd> next, previous fork</li>
<li><kbd>1</kbd> – <kbd>5</kbd> show what was tried</li>
</ul>
<p data-ui="made"></p>
<p>Recorded with rmx {version}. The file opens in rmx again, under “Open a file”.</p>
</footer>
</main>
<div class="box" data-ui="box" popover role="dialog" aria-label="What the model could have said" tabindex="-1">
<div class="box-head"><p class="label" data-ui="where"></p><button type="button" data-do="close">Close</button></div>
<p class="facts" data-ui="facts"></p>
<ol data-ui="alts" aria-label="Alternatives"></ol>
</div>
<script type="application/json" id="tree">{data}</script>
<script>{script}</script>
</body>
</html>
"""
