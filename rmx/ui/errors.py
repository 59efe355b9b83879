"""Library errors to something a visitor can read; bugs keep their traceback."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

from rmx.errors import RmxError


def shows_errors(callback: Callable[..., Any]) -> Callable[..., Any]:
    """An RmxError in a callback becomes a toast with its sentence."""
    if inspect.isgeneratorfunction(callback):

        @functools.wraps(callback)
        def generator(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from callback(*args, **kwargs)
            except RmxError as error:
                raise gr.Error(str(error), print_exception=False, title="Not possible") from error

        return generator

    @functools.wraps(callback)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except RmxError as error:
            raise gr.Error(str(error), print_exception=False, title="Not possible") from error

    return function
