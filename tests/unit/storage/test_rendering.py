"""Templates: what is filled in is harmless in the kind of file that it goes to."""

from pathlib import Path

import jinja2
import pytest

from rmx.storage import rendering

HOSTILE = "a <b>|`c`\n# *d* [e](f) _g_"


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rendering, "ASSETS", tmp_path)
    rendering._environment.cache_clear()
    (tmp_path / "templates").mkdir()
    yield tmp_path / "templates"
    rendering._environment.cache_clear()


def test_html_is_escaped(templates: Path) -> None:
    (templates / "a.html").write_text('<p title="{{ name }}">{{ name }}</p>\n')
    assert rendering.render("a.html", name='<b>"') == '<p title="&lt;b&gt;&#34;">&lt;b&gt;&#34;</p>\n'


def test_markdown_is_one_line_without_markup(templates: Path) -> None:
    (templates / "a.md").write_text("| {{ name }} | {{ name|code }} | {{ name|safe }} |")
    plain, code = r"a \<b\>\|\`c\` \# \*d\* \[e\](f) \_g\_", "`a <b>/'c' # *d* [e](f) _g_`"
    assert rendering.render("a.md", name=HOSTILE) == f"| {plain} | {code} | {HOSTILE} |"


def test_a_name_that_is_not_given_is_an_error(templates: Path) -> None:
    for kind in ("html", "md"):
        (templates / f"a.{kind}").write_text("{{ name }}")
        with pytest.raises(jinja2.UndefinedError):
            rendering.render(f"a.{kind}")
