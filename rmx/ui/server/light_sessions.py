"""What gradio sends of a page and remembers of every open one, made light.

For each new session gradio describes all components of the page, and then keeps the last value of each, for its deep
links, which are closed here: 70 ms of the event loop, half a megabyte and a whole solution or two, for
ten thousand sessions. Its tables of components and events, 28 kB, are copied for each; here they are shared. A call of
the API is a session too.
"""

import importlib.util
import sys
from collections import ChainMap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.routes
import orjson
from gradio.state_holder import SessionState, StateHolder

from rmx.storage.strict_json import sendable

MOST = 1000  # sessions; of one that is forgotten the page starts its small states anew
UNREAD = frozenset({  # of a component, its properties or an event: only gradio's closed page about its API reads them
    "api_info", "api_info_as_input", "api_info_as_output", "example_inputs", "skip_api", "component_class_id",
    "_api_info", "preserved_by_key", "api_description", "collects_event_data", "max_batch_size",
})  # fmt: skip


class LightState(SessionState):
    """A session's own states and changed components; of what the page shows, nothing."""

    def __init__(self, blocks: Any) -> None:
        # The original describes every block that `blocks.blocks` holds.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]
        whole = blocks.default_config  # nothing here is rendered anew for one page, so its events are everybody's
        self.blocks_config.blocks = ChainMap({}, whole.blocks)  # type: ignore[assignment]
        self.blocks_config.fns = whole.fns

    def __setitem__(self, key: int, value: Any) -> None:
        """As gradio's, without the description of a component that an event has changed."""
        super().__setitem__(key, value)
        self.config_values.pop(key, None)

    def _update_config(self, key: int) -> None:
        """Nothing is described."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """No value is kept: the page has it."""


class LightSessions(StateHolder):
    """As gradio's, with light states."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = LightState(self.blocks)
        return super().__getitem__(session_id)


def lighten(page: gr.Blocks) -> None:
    """Make the sessions of a page light; to be called once it is mounted or launched."""
    holder = page.state_holder
    holder.__class__ = LightSessions  # the app and the page share this very object
    holder.capacity = MOST


def without_matplotlib() -> None:
    """Around every event gradio imports matplotlib. Where it is not installed, each try searches the whole path again:
    a fourth of the event loop's time with many visitors. Python is made to remember that it is not there."""
    if importlib.util.find_spec("matplotlib") is None:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]


def send_light_page() -> None:
    """Have gradio leave out of the page what only its descriptions of endpoints need: a third of it.

    The descriptions themselves, and the whole configuration, stay at their own addresses.
    """
    written: Callable[[Any], Any] = gradio.routes.toorjson
    gradio.routes.templates.env.filters["toorjson"] = lambda value: written(without_descriptions(value))


def without_descriptions(value: dict[str, Any]) -> dict[str, Any]:
    """What the page's script reads of gradio's configuration, or of its description of endpoints: nothing of that."""
    if "components" not in value:
        return {"named_endpoints": {}, "unnamed_endpoints": {}}
    events = [_without_unread(one) for one in value["dependencies"]]
    return value | {"components": [_light(one) for one in value["components"]], "dependencies": events}


def _light(component: dict[str, Any]) -> dict[str, Any]:
    """A component without what the page's script does not read: of an endpoint's argument, which is not shown, all."""
    if component["type"] == "api":
        return {"id": component["id"], "type": "api", "props": {}}
    return _without_unread(component) | {"props": _without_unread(component["props"])}


def _without_unread(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in UNREAD}


def send_everything() -> None:
    """Have gradio encode every value it sends; nothing changes for those that it could encode before."""
    names = {name: value for name, value in vars(orjson).items() if not name.startswith("_")}
    vars(gradio.routes)["orjson"] = SimpleNamespace(**names | {"dumps": _dumps})


def _dumps(value: Any, default: Any = None, option: int | None = None) -> bytes:
    try:
        return orjson.dumps(value, default, option)
    except TypeError:
        return orjson.dumps(sendable(value), default, option)
