"""The views that are HTML and JavaScript of our own: their files under one address, and how gradio mounts a view.

What a view and Python send each other is said in the docstrings of the tabs.

Some tabs and folded panels come late: the page gets their components when it opens them first. Before gradio's script
draws anything it makes a node for each component, twice, and looks for each through all events, and most components
stand where a first visit does not look. Of a late tab the page has a note only; once that is shown it asks for the
rest, which comes as what gradio's own `render` sends: components, their events, their layout. Whatever else reads or
sets components of a late tab has to wait for them, as `openTab` of the page does.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradio as gr
from gradio.context import Context

from rmx.config import ASSETS
from rmx.ui.tabs.form_parts import LIGHT, answering

FOLDER = ASSETS / "ui"
FILES = {  # path below the folder -> content; what is not listed is not served
    path.relative_to(FOLDER).as_posix(): path.read_bytes()
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in (".js", ".css", ".html", ".png", ".svg")
}
VERSION = hashlib.sha256(b"".join(name.encode() + b"\0" + FILES[name] + b"\0" for name in FILES)).hexdigest()[:16]
BASE = f"assets/ui/{VERSION}/"  # relative to the page, which a proxy may serve below a path
EVENTS = {  # what each view triggers; their payloads are untrusted
    "claims/claims_view": "measure halt",
    "compare/compare_view": "patch halt",
    "evaluate/evaluate_file": "",
    "evaluate/evaluate_view": "halt attach open",
    "explore/share_panel": "",
    "explore/token_view": "pick halt next outcomes importance rescue sofar ends haltjob verify pins opened",
    "runs/runs_view": "stop resume remove note open download push rate",
    "train/train_view": "stop resume open download tau",
}
STYLES = {  # where not only the one of the view's own name
    "evaluate/evaluate_file": ("evaluate/evaluate_view.css",),
    "explore/token_view": ("common/fan.css", "explore/token_view.css"),
}
_IMPORTED = re.compile(r'^(?:import|\}) .*?from "(\..+)";$', re.MULTILINE)


def mounted(name: str, events: str = "") -> dict[str, Any]:
    """The arguments of `gr.HTML` for a view: an empty template, and a start that fetches the view when it is mounted.

    Args:
        name: of its template and its module, such as "compare/compare_view".
        events: names of the events that the module triggers, with spaces between.
    """
    files = {"styles": styles_of(name), "modules": modules_of(name)}
    known = {"base": BASE, "name": name, **files, "events": events.split()}
    constants = "".join(f"const {key} = {json.dumps(value)};\n" for key, value in known.items())
    boot = constants + FILES["common/boot.js"].decode()
    return {"html_template": "<div></div>", "js_on_load": boot, "apply_default_css": False}


def styles_of(name: str) -> list[str]:
    """Paths of a view's style sheets."""
    return [sheet for sheet in STYLES.get(name, (f"{name}.css",)) if sheet in FILES]


def modules_of(name: str) -> list[str]:
    """Paths of a view's module and of all that it imports, directly or not."""
    found = [f"{name}.js"]
    for path in found:  # grows while it is walked
        for target in _IMPORTED.findall(FILES[path].decode()):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if there not in found:
                found.append(there)
    return found


def build_view(name: str, questions: Mapping[str, Callable[[Any], Any]] | None = None, **kwargs: Any) -> gr.HTML:
    """Build a view. (No subclass: gradio writes a stub file next to its source, and type checkers would believe it.)

    Args:
        name: as in `EVENTS`.
        questions: what the page may ask, under the names by which it calls them; see `answering`.
        kwargs: passed on to `gr.HTML`: elem_id, visible, and what the view finds in its props.
    """
    functions = [answering(question) for question in (questions or {}).values()]
    for called, function in zip(questions or (), functions, strict=True):
        function.__name__ = called  # by which the page finds it
    return gr.HTML(**mounted(name, EVENTS[name]), server_functions=functions or None, **kwargs)


# -- Tabs and folded panels that come late -----------------------------------------------------------------------------


Config = dict[str, Any]
NOTE = "late-tab"  # the class of the note


class LateTab:
    """What gradio takes for a function that renders: its answer carries `parts`, whatever it returns."""

    def __init__(self, demo: gr.Blocks, note: gr.HTML) -> None:
        self.demo, self.note, self._id = demo, note, note._id

    def fn(self) -> None:
        """Return nothing."""

    @cached_property
    def parts(self) -> Config:
        """All that the page lacks of the tab; the same for every page."""
        return next(late.parts for late in find_late(self.demo.default_config.get_config()) if late.note == self._id)


def build_late() -> None:
    """Make the open gr.Tab or gr.Accordion a late one; to be called before anything is laid out in it."""
    demo: Any = Context.root_block
    note = gr.HTML(
        html_template="<p role=status>Loading …</p>",
        js_on_load='setTimeout(() => trigger("open"), 0);',  # gradio hears nothing while it mounts
        apply_default_css=False,
        elem_classes=NOTE,
    )
    late = LateTab(demo, note)
    opened = note.open(late.fn, None, None, **LIGHT)
    demo.default_config.fns[opened["id"]].renderable = late  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class LatePart:
    """A late tab in gradio's configuration.

    Args:
        note: id of its note. gone: ids of components, events: of events that the page lacks at first.
        parts: the same as gradio's `render` sends them.
    """

    note: int
    gone: frozenset[int]
    events: frozenset[int]
    parts: Config


def find_late(config: Config) -> Iterator[LatePart]:
    """Find the late tabs of a page's configuration."""
    components = {one["id"]: one for one in config["components"]}
    events = config["dependencies"]
    for tab in walk(config["layout"]):
        first = next(iter(tab.get("children") or ()), None)
        if first is None or NOTE not in components[first["id"]]["props"].get("elem_classes", ()):
            continue
        layout = tab | {"children": tab["children"][1:]}
        shown = components[tab["id"]]
        if "open" in shown["props"]:  # what comes late must not fold the panel up
            components[tab["id"]] = shown | {"props": shown["props"] | {"open": True}}
        ids = [one["id"] for one in walk(layout)]
        inside = events_of(set(ids), events)
        own = {
            "components": [_prepared(components[one], events) for one in ids],
            "dependencies": [_loaded(one, tab["id"]) for one in inside],
            "layout": layout,
        }
        there = frozenset(one["id"] for one in inside)
        yield LatePart(first["id"], frozenset(ids) - {tab["id"]}, there, own)


def walk(layout: Config) -> Iterator[Config]:
    """A part of a layout and all parts below it."""
    yield layout
    for child in layout.get("children") or ():
        yield from walk(child)


def events_of(ids: set[int], events: list[Config]) -> list[Config]:
    """The events that only these components set off, and those that follow upon them."""
    found: dict[int, Config] = {}
    for event in events:  # one that follows stands after the other
        targets = [target for target, _ in event["targets"] if target is not None]
        after = event["trigger_after"]
        if ids.issuperset(targets) if targets else after in found:
            found[event["id"]] = event
    return list(found.values())


def _prepared(component: Config, events: list[Config]) -> Config:
    """A component with what gradio's script finds out by itself of those that the page has from the beginning."""
    number, props = component["id"], dict(component["props"])
    attached = [[name for target, name in event["targets"] if target == number][:1] for event in events]
    asked = any(number in event["inputs"] for event in events)
    empty = props.get("value") in (None, "", 0, [])
    untold = not any(number in event["outputs"] for event in events)
    props.setdefault("interactive", asked or (untold and empty))
    return component | {"props": props | {"attached_events": [name for one in attached for name in one]}}


def _loaded(event: Config, tab: int) -> Config:
    """An event of a late tab; one for the tab's opening happens once it is there, too."""
    opens = any(name == "select" and target == tab for target, name in event["targets"])
    return event | {"targets": [*event["targets"], [tab, "load"]]} if opens else event
