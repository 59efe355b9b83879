"""What the views have in common: how their files are put together for gradio, and one style sheet for all of them."""

import functools
from collections.abc import Callable
from typing import Any

from rmx.paths import ASSETS

Reply = dict[str, Any]
Server = Callable[[dict[str, Any]], Reply]


def asset(name: str) -> str:
    return (ASSETS / "ui" / name).read_text(encoding="utf-8")


def script(*names: str) -> str:
    """The `js_on_load` of a view: the common part, then the view's own files; all share one function's scope."""
    return "\n".join(asset(f"{name}.js") for name in ("common/text", "common/view_common", *names))


def served(**functions: Server) -> list[Server]:
    """Server functions under the names that the page calls, whatever the functions passed in are called."""
    return [_named(fn, name) for name, fn in functions.items()]


def _named(fn: Server, name: str) -> Server:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Reply:
        return fn(*args, **kwargs)

    call.__name__ = name
    return call


# For launch(css=...): a component's own css_template is parsed again on each update.
CSS = "\n".join(
    asset(f"{name}.css")
    for name in (
        "common/view_common",
        "common/curves",
        "explore/token_view",
        "explore/worth",
        "explore/pins",
        "explore/share",
        "compare/compare_view",
        "claims/claims_view",
        "train/train_view",
        "runs/runs_view",
        "evaluate/evaluate_view",
    )
)
