"""What the views have in common: their files under one address that changes with them, and how gradio mounts a view."""

import functools
import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any

from rmx.paths import ASSETS

Reply = dict[str, Any]
Server = Callable[[dict[str, Any]], Reply]

FOLDER = ASSETS / "ui"
FILES = {  # path below the folder -> content; what is not listed is not served
    path.relative_to(FOLDER).as_posix(): path.read_bytes()
    for path in sorted(FOLDER.rglob("*"))
    if path.suffix in (".js", ".css", ".html")
}
VERSION = hashlib.sha256(b"".join(name.encode() + b"\0" + FILES[name] + b"\0" for name in FILES)).hexdigest()[:16]
BASE = f"assets/ui/{VERSION}/"  # relative to the page, which a proxy may serve below a path
_IMPORTED = re.compile(r'^(?:import|\}) .*?from "(\..+)";$', re.MULTILINE)


def mounted(name: str, events: str = "", styles: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of `gr.HTML` for a view: an empty template, and a start that fetches the view when it is mounted.

    Args:
        name: of its template and its module, such as "compare/compare_view".
        events: names of the events that the module triggers, with spaces between.
        styles: style sheets beside the one of the same name.
    """
    sheets = [path for path in (f"{name}.css", *styles) if path in FILES]
    known = {"base": BASE, "name": name, "styles": sheets, "modules": modules_of(name), "events": events.split()}
    constants = "".join(f"const {key} = {json.dumps(value)};\n" for key, value in known.items())
    boot = constants + FILES["common/boot.js"].decode()
    return {"html_template": "<div></div>", "js_on_load": boot, "apply_default_css": False}


def modules_of(name: str) -> list[str]:
    """Paths of a view's module and of all that it imports, directly or not."""
    found = [f"{name}.js"]
    for path in found:  # grows while it is walked
        for target in _IMPORTED.findall(FILES[path].decode()):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if there not in found:
                found.append(there)
    return found


def served(**functions: Server) -> list[Server]:
    """Server functions under the names that the page calls, whatever the functions passed in are called."""
    return [_named(fn, name) for name, fn in functions.items()]


def _named(fn: Server, name: str) -> Server:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Reply:
        return fn(*args, **kwargs)

    call.__name__ = name
    return call
