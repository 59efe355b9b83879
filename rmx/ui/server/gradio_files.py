"""Files of gradio's page that the first screen needs: found in its own scripts, named in the page.

By itself gradio fetches them in five rounds, one after the other, as scripts name further ones; the style sheets of its
components alone are more than twenty requests. Here all are asked for at once, and the style sheets come as one.
Where a later gradio is built in another way nothing is found, and the page loads as gradio has it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import gradio.routes

FOLDER = Path(vars(gradio.routes)["BUILD_PATH_LIB"])
_LISTED = re.compile(r'"\./([\w.-]+\.(?:js|css))"')  # in the list at the beginning of a script
_NEEDS = r"import\(`\./({})`\)(?:(?!import\().)*?__vite__mapDeps\(\[([\d,]*)\]"
_ENTRY = re.compile(r"assets/(index-[\w-]+\.js)")
_ADDRESS = re.compile(r"url\((?!['\"]?data:)")


def list_files(types: Iterable[str]) -> list[str]:
    """The names of all scripts and style sheets that a page with components of these types needs, besides the first."""
    page = (FOLDER.parent / "index.html").read_text("utf-8")
    entry = _ENTRY.search(page)
    if entry is None:
        return []
    begin = [*_needed(entry[1], r"Index-[\w-]+\.js"), *_needed(entry[1], r"core-[\w-]+\.js")]
    named = {name.partition("-")[0]: name for name in begin if name.endswith(".js")}
    if not {"Index", "core"} <= named.keys():
        return []
    found = [*begin, *_needed(named["Index"], r"Blocks-[\w-]+\.js")]
    for one in sorted(types):
        found += _needed(
            named["core"], r"[\w-]+\.js", rf"[{{,]{re.escape(one)}:\{{(?:(?!component:).)*component:\(\)=>"
        )
    return [name for name in dict.fromkeys(found) if name not in page]


def _needed(script: str, wanted: str, before: str = "") -> list[str]:
    """What a script fetches together with another that it imports; nothing where it imports none of that name."""
    text, begin = _text(script), before + r"(?:(?!import\().)*?" if before else ""
    match = re.search(begin + _NEEDS.format(wanted), text)
    listed = _LISTED.findall(text.partition("=>i.map")[0])
    return [listed[int(place)] for place in match[2].split(",") if place] if match else []


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


class FirstFiles:
    """What the page says of these files.

    Args:
        types: of the components that the page has at first.
    """

    def __init__(self, types: Iterable[str]) -> None:
        names = list_files(types)
        self.scripts = [name for name in names if name.endswith(".js")]
        self.sheets = [name for name in names if name.endswith(".css") and not _ADDRESS.search(_text(name))]
        self.style = "\n".join(map(_text, self.sheets)).encode()
        self.digest = hashlib.sha256(self.style).hexdigest()[:16]

    def tags(self, script: str) -> Iterator[str]:
        """The tags. A style sheet that is switched off is not fetched, and gradio's script takes it for a known one.

        Args:
            script: address of gradio's first script.
        """
        if self.sheets:
            yield f'<link rel="stylesheet" href="./assets/ui/{self.digest}.css">'
        for name in self.sheets:
            yield f'<link rel="stylesheet" disabled crossorigin href="./assets/{name}">'
        for address in filter(None, (script, *(f"./assets/{name}" for name in self.scripts))):
            yield f'<link rel="modulepreload" crossorigin href="{address}">'
