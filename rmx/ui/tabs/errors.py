"""Library errors to something a visitor can read; bugs keep their traceback."""

import functools
import html
import inspect
import unicodedata
from collections.abc import Callable
from typing import Any

import gradio as gr

from rmx.errors import RmxError


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
