"""The explorer view: a gr.HTML that streams tokens, marks forks and swaps them.

Value (Python to page): one message of a run, in any order and any number of times,
`{"run", "start", "toks": [[text, entropy, p, rank, flags], ...], "open"?, "done", "result"?, "tree"?, "error"?}`.
Deltas can be lost on the way (view not mounted, sleeping browser tab); the page then asks `tail` for the rest.

Events (page to Python, payloads are untrusted): `view.pick`, `view.halt`, `view.settled`, `view.next`, each with
`gr.EventData`. Other components reach the view by `window.rmx`: setTau, goto, presenter, tour.
"""

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from rmx.paths import ASSETS

Reply = dict[str, Any]
Server = Callable[[dict[str, Any]], Reply]

# For launch(css=...): a component's own css_template is parsed again on each update.
CSS = (ASSETS / "token_view.css").read_text(encoding="utf-8")


def _named(fn: Server, name: str) -> Server:
    """The page calls a server function by its Python name, so the name is fixed here whatever is passed in."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Reply:
        return fn(*args, **kwargs)

    call.__name__ = name
    return call


def token_view(tail: Server, inspect: Server, look: Server, search: Server, **kwargs: Any) -> gr.HTML:
    """Build the view.

    Args:
        tail: `{"run", "start"}` -> a message with everything from `start`, with open, result and tree where known.
        inspect: `{"run", "pos"}` -> `{"pos", "id", "text", "entropy", "p", "rank", "forced", "top": [...]}`.
        look: `{"run", "pos"}` -> `{"pos", "alternatives": [{"id", "text"}, ...]}`, what would follow each of five.
        search: `{"run", "pos", "q"}` -> `{"tokens": [{"id", "text", "p", "rank"}, ...]}`.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`. A factory, not a subclass: gradio writes a stub file next to the source
    of every subclass, and type checkers would believe it.
    """
    named = {"tail": tail, "inspect": inspect, "look": look, "search": search}
    return gr.HTML(
        html_template=(ASSETS / "token_view.html").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "token_view.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        server_functions=[_named(fn, name) for name, fn in named.items()],
        **kwargs,
    )
