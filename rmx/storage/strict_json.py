"""Strict checks of values in JSON from outside; what is not as expected raises an error with one sentence."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rmx.errors import RmxError

MOST_CHARACTERS = 4_000_000  # of a document
MOST_ID = 2**31 - 1
# An escaped surrogate behind an even number of backslashes: two that make one character, or (group 2) half of one.
_SURROGATE = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB]HH\\u[dD][c-fC-F]HH|(\\u[dD][89a-fA-F]HH))".replace("HH", "[0-9a-fA-F]{2}")
)


class DocumentError(RmxError):
    """A document that is not what it should be, or not a whole one."""


def parse(text: str, most: int = MOST_CHARACTERS) -> Any:
    """JSON from outside, strictly: no NaN, no depth or number that breaks the reader, or DocumentError."""
    if len(text) > most:
        raise DocumentError(f"The file has {len(text) / 1e6:.1f} million characters; at most {most / 1e6:g} are read.")
    try:
        return json.loads(without_half_characters(text), parse_constant=_no_constant)
    except RecursionError as error:
        raise DocumentError("The file is nested too deeply to be a trace.") from error
    except ValueError as error:
        raise DocumentError(f"The file is not JSON: {str(error)[:120]}.") from error


def without_half_characters(document: str) -> str:
    """JSON text in which a question mark stands for each lone surrogate, written out or escaped."""
    return _SURROGATE.sub(lambda found: f"{found[1]}?" if found[2] else found[0], whole(document))


def whole(text: str) -> str:
    """Text with a question mark for each lone surrogate: half a character, which UTF-8 cannot say."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text  # itself: one text that thousands of tokens share stays one


def sendable(value: Any) -> Any:
    """A value that a page can be sent: no half characters; null for numbers that are none or have over 64 bits."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return None
    if isinstance(value, Mapping):
        return {sendable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list | tuple) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def to_dict(value: Any, what: str) -> dict[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise DocumentError(f"{what} must be a JSON object; got {said(value)}.")
    return value


def to_list(value: Any, what: str, most: int) -> list[Any]:
    """Return a list of at most `most` entries."""
    if not isinstance(value, list):
        raise DocumentError(f"A list was expected for {what}; got {said(value)}.")
    if len(value) > most:
        raise DocumentError(f"There are {len(value):,} entries for {what}; at most {most:,} are read.")
    return value


def to_int(value: Any, what: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise DocumentError(f"A whole number from {low} to {high} was expected for {what}; got {said(value)}.")
    return value


def to_number(value: Any, what: str, low: float, high: float) -> float:
    """Return a finite number from `low` to `high`."""
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise DocumentError(f"A number from {low:g} to {high:g} was expected for {what}; got {said(value)}.")
    return float(value)


def to_text(value: Any, what: str, most: int) -> str:
    """Return a text of at most `most` characters."""
    if not isinstance(value, str):
        raise DocumentError(f"A text was expected for {what}; got {said(value)}.")
    if len(value) > most:
        raise DocumentError(f"The text for {what} has {len(value):,} characters; at most {most:,} are read.")
    return whole(value)


def to_maybe(value: Any, what: str, most: int) -> str | None:
    """Return a text of at most `most` characters, or None."""
    return None if value is None else to_text(value, what, most)


def to_ids(value: Any, what: str, most: int) -> tuple[int, ...]:
    """Return token ids: at least one, at most `most`."""
    ids = to_list(value, what, most)
    if not ids:
        raise DocumentError(f"There are no ids for {what}.")
    return tuple(to_int(i, what, 0, MOST_ID) for i in ids)


def said(value: Any) -> str:
    """A value in a sentence: short, whatever it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value, ensure_ascii=False)[:60]
