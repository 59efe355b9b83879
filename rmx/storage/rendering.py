"""Reports, cards and pages out of the templates in assets/templates, and tables.

What is filled in is escaped for the kind of file that it goes to, unless it is marked as safe: names of models, sets
and tokens come from outside.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.filters import do_mark_safe

from rmx.config import ASSETS

_MARKDOWN = "\\`*_[]<>|#"  # characters that mean something in a line of Markdown or in a table


def render(name: str, /, **values: Any) -> str:
    """Fill in a file of assets/templates; its ending, .html or .md, says how values are escaped.

    In Markdown a value is one line of plain text; `|code` puts it between backticks. Raises jinja2.UndefinedError where
    the template names something that is not given.
    """
    return _environment(name.rpartition(".")[2]).get_template(name).render(**values)


def plain(words: Any) -> str:
    """Words that come from outside as one line, harmless in Markdown and in a table; what is marked as safe stays."""
    if hasattr(words, "__html__"):
        return str(words)
    flat = " ".join(str(words).split())
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in flat)


def code(words: object) -> str:
    """The same between backticks, marked as safe."""
    flat = " ".join(str(words).split()).replace("`", "'").replace("|", "/")
    return do_mark_safe(f"`{flat}`")


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as the text of a CSV file."""
    out = io.StringIO()
    csv.writer(out).writerows([head, *rows])
    return out.getvalue()


@cache
def _environment(kind: str) -> Environment:
    """Where templates are read from, one environment for each kind of file."""
    made = Environment(
        loader=FileSystemLoader(ASSETS / "templates"),
        autoescape=kind == "html",
        finalize=plain if kind == "md" else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["code"] = code
    return made
