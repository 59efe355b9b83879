"""Texts that are mostly words, such as model cards: their templates lie in `assets/templates`."""

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from rmx.paths import ASSETS

_TEMPLATES = Environment(
    loader=FileSystemLoader(ASSETS / "templates"),
    autoescape=select_autoescape(("html", "html.jinja")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(name: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        name: a file of `assets/templates`; values are escaped in `*.html.jinja` and stand as they are in all others.
        values: what the template calls them.

    Raises:
        jinja2.TemplateError: there is no such template, or it uses a value that is not given.
    """
    return _TEMPLATES.get_template(name).render(values)
