"""What gradio sends to a page. Its encoder refuses half a character and a number of more than 64 bits, and ends the
visitor's stream over it: such a value is replaced here, whatever way it came in."""

from types import SimpleNamespace
from typing import Any

import gradio.routes
import orjson

from rmx.storage.strict_json import sendable


def send_everything() -> None:
    """Have gradio encode every value it sends; nothing changes for those that it could encode before."""
    names = {name: value for name, value in vars(orjson).items() if not name.startswith("_")}
    vars(gradio.routes)["orjson"] = SimpleNamespace(**names | {"dumps": _dumps})


def _dumps(value: Any, default: Any = None, option: int | None = None) -> bytes:
    try:
        return orjson.dumps(value, default, option)
    except TypeError:
        return orjson.dumps(sendable(value), default, option)
