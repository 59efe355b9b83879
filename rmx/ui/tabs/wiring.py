"""How events of the page are wired: quietly, outside the public API, streams beside each other."""

import functools
import html
import inspect
import logging
import unicodedata
from collections.abc import Callable
from typing import Any

import gradio as gr
import torch

from rmx.engine.fair_queue import as_owner
from rmx.errors import RmxError

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LIGHT: dict[str, Any] = {**QUIET, "queue": False}
# The engine has a fair queue of its own; these only bound how many threads wait in it. All events of one id must name
# the same limit: gradio takes the lowest.
STREAM: dict[str, Any] = {**QUIET, "concurrency_id": "engine", "concurrency_limit": 24, "trigger_mode": "multiple"}
MEASURE: dict[str, Any] = {**STREAM, "concurrency_id": "measured", "concurrency_limit": 16}
PLAN: dict[str, Any] = {**QUIET, "concurrency_id": "plan", "concurrency_limit": 2}


def literal(words: object) -> str:
    """Anybody's words inside Markdown: shown as they are, nothing of them is markup, a link, a picture or a formula."""
    return "".join(_shown(c) for c in " ".join(str(words).split()))


def _shown(c: str) -> str:
    """Letters, digits and spaces as they are; what is invisible or turns the text around as the views write it."""
    if c.isalnum() or c == " ":
        return c
    hidden = unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\u200c\u200d"
    return f"⟪{ord(c):04x}⟫" if hidden else f"&#{ord(c)};"


def in_toast(error: Exception) -> str:
    """What an error says, for a toast: gradio shows its message as HTML."""
    return html.escape(str(error), quote=False)


def shows_errors(callback: Callable[..., Any]) -> Callable[..., Any]:
    """An RmxError in a callback becomes a toast with its sentence."""
    if inspect.isgeneratorfunction(callback):

        @functools.wraps(callback)
        def generator(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from callback(*args, **kwargs)
            except RmxError as error:
                raise gr.Error(in_toast(error), print_exception=False, title="Not possible") from error

        return generator

    @functools.wraps(callback)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except RmxError as error:
            raise gr.Error(in_toast(error), print_exception=False, title="Not possible") from error

    return function


log = logging.getLogger(__name__)
Reply = dict[str, Any]
Who = Callable[[Any], str | None]


def nobody(request: Any) -> None:
    """Where visitors are not told apart."""


def answering(question: Callable[[object], Reply], who: Who = nobody) -> Callable[..., Reply]:
    """A question as a server function of a view.

    Args:
        who: names the visitor behind a request.
    """

    def server_function(data: Any, request: gr.Request | None = None) -> Reply:
        try:
            with as_owner(who(request) if request is not None else None):
                return question(data)
        except RmxError as error:
            return {"error": str(error)}
        except torch.OutOfMemoryError:
            return {"error": "The GPU ran out of memory. Shorten the text or take a smaller model."}
        except Exception:
            log.exception("the question %s has failed", getattr(question, "__name__", "of a page"))
            return {"error": "This did not work, and it is a fault of rmx. Its log says more."}

    server_function.__name__ = getattr(question, "__name__", "question")
    return server_function
