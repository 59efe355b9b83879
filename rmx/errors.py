"""The one kind of exception that is meant to be read by a user, `RmxError`, and its children.

Every message says what happened and what to do next. Programmers' mistakes stay ValueError with a traceback.
"""

import logging
import re

log = logging.getLogger(__name__)
SHOWN = 60  # characters of a wrong value that are said again
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[^/\s'\"]+/)+")


class RmxError(Exception):
    """A user's mistake or an expected refusal, explained in one sentence or two."""


class ModelError(RmxError):
    """The model, tokenizer or adapter cannot be loaded or combined as asked."""


class PromptError(RmxError):
    """The prompt or pasted text cannot be used with this model."""


class SwapError(RmxError):
    """The swap names a position or a token that does not exist."""


class ProblemError(RmxError):
    """The problem or the problem set is missing or malformed."""


class Stopped(Exception):
    """A training run was asked to stop; what it made is kept."""


class TrainError(RmxError):
    """Rollouts, a recipe or a run cannot be used as asked."""


class Busy(RmxError):
    """Too many visitors wait for this engine."""


class Refused(RmxError):
    """This site does not allow its visitors what was asked for."""


def first_line(words: object, most: int = 200) -> str:
    """The first line of a library's message that says something, cut to `most` characters; "" where none does.

    Strangers may read it: of the paths in it the last parts are left, and the log has the line as it was.
    """
    whole = next((line.strip() for line in str(words).splitlines() if line.strip()), "")
    if (line := cut_paths(whole)) != whole:
        log.warning("%s", whole)
    return line if len(line) <= most else line[: most - 1] + "…"


def reason_of(error: object) -> str:
    """A library's reason, for the end of a sentence that says what went wrong."""
    return first_line(error, 240) or "no reason was given"


def cut_paths(text: str) -> str:
    """A text with every absolute path of this machine cut down to its last part."""
    return _FOLDERS.sub("", text)


def shown(value: object) -> str:
    """A wrong value in a sentence: escaped, on one line, cut to `SHOWN` characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number too long to be written out, a list too deep
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


NOT_HERE = (
    "This is not available on ZeroGPU, where the GPU is lent for single requests: solving, reading, swapping, "
    "measuring, comparing one text, training in slices. Take the model mini, which needs no GPU, or run rmx on a GPU "
    "of your own."
)
