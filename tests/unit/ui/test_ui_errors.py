"""What a visitor has typed, in the sentences that gradio shows as Markdown or as HTML."""

import html

import gradio as gr
import pytest

from rmx.errors import RmxError
from rmx.ui.tabs.form_parts import literal, shows_errors

WORDS = "There is no 'x<img src=x>' [a](b) ![i](https://e.example) *b* `c` $$d$$ _e_ & 3 é نعم"


def test_literal_words_hold_no_markup_and_read_the_same() -> None:
    made = literal(WORDS)
    assert not set("<>[]()*`$_!'\"\\|~:/") & set(made)
    assert html.unescape(made) == WORDS


def test_what_turns_text_around_or_breaks_a_line_is_shown() -> None:
    assert literal("a\u202eb\n\n# c\u200d\x00") == "a⟪202e⟫b &#35; c&#8205;⟪0000⟫"


def test_a_toast_shows_tags_as_words() -> None:
    @shows_errors
    def fails() -> None:
        raise RmxError("There is no '<b>x</b>'.")

    with pytest.raises(gr.Error) as caught:
        fails()
    assert caught.value.message == "There is no '&lt;b&gt;x&lt;/b&gt;'."
