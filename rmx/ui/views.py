"""The views that are HTML and JavaScript of our own: their files under one address, and how gradio mounts a view.

What a view and Python send each other is said in the docstrings of the tabs.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from rmx.config import ASSETS

Server = Callable[[dict[str, Any]], dict[str, Any]]

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


def build_view(name: str, questions: Mapping[str, Server] | None = None, **kwargs: Any) -> gr.HTML:
    """Build a view. (No subclass: gradio writes a stub file next to its source, and type checkers would believe it.)

    Args:
        name: as in `EVENTS`.
        questions: what the page may ask, under the names by which it calls them; each may return `{"error": sentence}`.
        kwargs: passed on to `gr.HTML`: elem_id, visible, and what the view finds in its props.
    """
    for called, function in (questions or {}).items():
        function.__name__ = called  # by which the page finds it
    functions = list(questions.values()) if questions else None
    return gr.HTML(**mounted(name, EVENTS[name]), server_functions=functions, **kwargs)
