"""Texts from templates: what is given stands in them, what is missing is no silent gap, and HTML is escaped."""

import pytest
from jinja2 import DictLoader, UndefinedError

from rmx import templates
from rmx.templates import render


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    text = "{% for x in xs %}\n- {{ x }}\n{% endfor %}\n"
    loader = DictLoader({"list.md.jinja": text, "list.html.jinja": text})
    monkeypatch.setattr(templates._TEMPLATES, "loader", loader)


def test_blocks_leave_no_lines_behind_and_the_last_line_ends():
    assert render("list.md.jinja", xs=["a", "b"]) == "- a\n- b\n"
    assert render("list.md.jinja", xs=[]) == ""


def test_only_html_is_escaped():
    assert render("list.md.jinja", xs=["<think> & so"]) == "- <think> & so\n"
    assert render("list.html.jinja", xs=["<think> & so"]) == "- &lt;think&gt; &amp; so\n"


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="xs"):
        render("list.md.jinja")
