"""Text -> final answer; are two answers equal; is a completion over.

Equality is decided in three steps, cheapest first:

1. exact: the same string after normalisation, or two plain numbers compared as fractions;
2. by structure: lists, tuples, sets and intervals element by element, ratios, plus-minus, plain words;
3. by the math-verify library, in a worker process with a time limit.

math-verify 0.9 bounds its own time with SIGALRM, which works in a main thread only, and no thread can interrupt a
`9**9**9` that is being computed. So step 3 runs in a small helper process that is killed when it is late. Each "equal"
of the library is then checked at a few numeric points, because the library calls 1/2004! and 1/2006! equal.
"""

import atexit
import json
import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import IO, Any, Literal

from rmx.paths import PACKAGE
from rmx.records import Answer

logger = logging.getLogger(__name__)

Style = Literal["boxed", "hash", "last_number"]
STYLES: tuple[Style, ...] = ("boxed", "hash", "last_number")

MAX_ANSWER = 1000  # characters; a longer answer equals only itself
MAX_LATEX = 300  # characters of one expression given to the library
CPU_LIMIT = 0.75  # seconds of processor time for one comparison by the library, so that a busy machine grades the same
WALL_LIMIT = 1.5  # seconds after which the worker is killed, whatever it does
START_LIMIT = 30.0  # seconds for the worker to import the library
WORKERS = 2
WORKER_MEMORY = 2 << 30  # bytes of address space

# What instructions put into a box: "give the answer in \boxed{}", "\boxed{...}", "\boxed{answer}".
PLACEHOLDERS = frozenset(
    ["", "...", "…", r"\ldots", r"\dots", r"\cdots", "answer", "your answer", "final answer", "the answer"]
    + ["your final answer", "<answer>", "[answer]", r"\text{answer}", r"\text{your answer}", r"\text{final answer}"]
)
GRACE = 16  # pieces that may follow a closed box on its line


# ------------------------------------------------------------------------------------------------ finding the answer

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\w.]))?"
_SIGN = r"(?:(?<![\w)\]}.])[-+−])?"
_CURRENCY = r"(?:\\?[$€£¥₹])?"
_LAST_NUMBER = re.compile(
    rf"""
    {_SIGN} {_CURRENCY}
    (?: \\[dt]?frac\{{-?\d+\}}\{{\d+\}}                     # \frac{{3}}{{4}}
      | (?<![A-Za-z\d_.])(?: \d+[ ]\d+/\d+ | \d+:\d\d(?!\d) | {_NUMBER}(?:/\d+(?:\.\d+)?)? )
    )
    (?: [ ]?\\?% | [ ]percent\b )?
    """,
    re.VERBOSE,
)
_HASH = re.compile(rf"(?<!#)####(?!#)[ \t]*({_SIGN}[ ]?{_CURRENCY}[-−]?{_NUMBER}(?:/\d+)?(?:\s?\\?%)?)(?![.:)][ \t]+[A-Za-z])")
_BOX = r"\\(?:boxed|fbox) ?\{"
_BOX_TOKEN = re.compile(rf"{_BOX}|\\.|[{{}}]", re.DOTALL)


def final_answer(text: str, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False) -> str | None:
    r"""The final answer of a completion, as it is written there, or None.

    Args:
        text: the completion. After a `<think>` only what follows `</think>` counts; an open block has no answer.
        styles: where to look, in this order. "boxed": the last \boxed{} or \fbox{}; a box that the text breaks off
            in gives None, even where an earlier one is complete, and boxes quoted in an instruction (\boxed{}) are
            passed over. "hash": the number behind the last `####`. "last_number": the last number, with its sign,
            thousands separators, fraction or percent sign, without a currency sign.
        thinking: the prompt has opened a `<think>` block already.
    """
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed or (thinking and closed < 0):
        return None
    text = text[closed + len("</think>") :] if closed >= 0 else text
    for style in styles:
        if style == "boxed":
            found, broken_off = _last_box(text)
            if found is not None or broken_off:
                return found
        elif style == "hash":
            numbers = _HASH.findall(text)
            if numbers:
                return _bare(numbers[-1])
        else:
            last = None
            for last in _LAST_NUMBER.finditer(text):
                pass
            if last:
                return _bare(last.group())
    return None


def _bare(number: str) -> str:
    return re.sub(r"\\?[$€£¥₹]|^\+|^\s+", "", number).replace("−", "-").replace(" percent", "%").replace("- ", "-")


def _last_box(text: str) -> tuple[str | None, bool]:
    """The content of the box that closes last, and whether a later box is still open. One pass over the text."""
    stack: list[int | None] = []  # where a box's content begins, or None for a plain brace
    found, found_end = None, -1
    for token in _BOX_TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            start = stack.pop() if stack else None
            if start is not None and not _is_placeholder(text[start : token.start()]):
                found, found_end = text[start : token.start()].strip(), token.end()
        elif mark == "{":
            if stack:
                stack.append(None)
        elif len(mark) > 2:  # the opening of a box
            stack.append(token.end())
    if any(start is not None and start > found_end for start in stack):
        return None, True
    while found is not None and (inner := re.fullmatch(rf"{_BOX}(.*)\}}", found, re.DOTALL)):
        found = inner.group(1).strip()
    return found, False


def _is_placeholder(content: str) -> bool:
    return content.strip().strip("$").strip().lower() in PLACEHOLDERS


def grade(
    text: str, known: str | None, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False
) -> Answer:
    """The final answer of `text` and whether it equals `known`: None without a known answer, False without an answer.

    `styles` and `thinking` as in `final_answer`. Never raises; see `equal` for the time it may take.
    """
    found = final_answer(text, styles=styles, thinking=thinking)
    if known is None:
        return Answer(found, None)
    return Answer(found, found is not None and equal(found, known))


# ------------------------------------------------------------------------------------------------- when to stop


class StopRule:
    r"""Tells, piece by piece, when a completion has given its final answer. One object per completion.

    The completion is over
    - after a complete \boxed{} or \fbox{} outside a `<think>` block: at the next line break, or after `GRACE` more
      pieces on the same line; a box quoted in an instruction (empty, "...", "answer") does not count;
    - after a line break behind `#### 42`.
    While a `<think>` block is open nothing ends. End tokens and length limits are the caller's.

    Linear in the length of the text; pieces may split anywhere.
    """

    __slots__ = ("_boxes", "_grace", "_hash_line", "_hashes", "_over", "_seen", "_thinking", "_word")

    _WORDS = ("\\boxed{", "\\boxed {", "\\fbox{", "\\fbox {", "<think>", "</think>")
    _PREFIXES = frozenset(word[:n] for word in _WORDS for n in range(1, len(word)))
    _COMPLETE = frozenset(_WORDS)
    _INTERESTING = re.compile(r"[\\<#]")
    _HASH_LINE = re.compile(rf"\s*[-+−]?{_CURRENCY}[-−]?{_NUMBER}(?:/\d+)?\s?(?:\\?%)?\$?\.?\s*")
    _LONGEST = 40  # characters kept of a box or of a #### line; placeholders and numbers are shorter

    def __init__(self, *, thinking: bool = False) -> None:
        """`thinking`: the prompt has opened a `<think>` block."""
        self._thinking = thinking
        self._word = ""  # the beginning of a possible marker
        self._boxes: list[bool] = []  # open braces since the first open box; True where it is a box
        self._seen = ""  # beginning of the innermost box's content
        self._hashes = 0  # length of the current run of "#"
        self._hash_line: str | None = None  # what follows "####" on its line
        self._grace = -1  # pieces left after a closed box; -1 = no box closed
        self._over = False

    @property
    def over(self) -> bool:
        return self._over

    def feed(self, piece: str) -> bool:
        """Take the next piece of text, a token's worth usually; True once the completion is over, and ever after."""
        if self._over:
            return True
        if self._grace > 0:
            self._grace -= 1
        # Nearly every piece: no marker begins here and none is under way.
        idle = not (self._word or self._boxes or self._hashes) and self._hash_line is None and self._grace < 0
        if idle and not self._INTERESTING.search(piece):
            return False
        for char in piece:
            self._take(char)
            if self._over:
                return True
        self._over = self._grace == 0
        return self._over

    def _take(self, char: str) -> None:
        word = self._word + char
        if word in self._PREFIXES:
            self._word = word
            if len(word) > 1:
                return
        elif word in self._COMPLETE:
            self._word = ""
            self._marker(word)
            return
        else:
            self._word = char if char in "\\<" and self._word != "\\" else ""
        if self._thinking:
            return
        escaped = len(word) == 2 and word[0] == "\\"
        self._count_hashes(char)
        if char == "\n" and self._grace >= 0:
            self._over = True
        elif self._boxes:
            self._inside_box(char, escaped)

    def _marker(self, word: str) -> None:
        if word == "</think>":
            self._thinking = False
        elif word == "<think>":
            self._thinking = True
        elif not self._thinking:
            self._boxes.append(True)
            self._seen = ""
            return
        self._boxes.clear()
        self._hashes, self._hash_line, self._grace = 0, None, -1

    def _inside_box(self, char: str, escaped: bool) -> None:
        if char == "}" and not escaped:
            if self._boxes.pop() and not _is_placeholder(self._seen):
                self._grace = GRACE
        elif char == "{" and not escaped:
            self._boxes.append(False)
        if len(self._seen) < self._LONGEST:
            # `\text{answer}` must read as written, so a word that only looked like a marker is put back.
            self._seen += char

    def _count_hashes(self, char: str) -> None:
        if self._hash_line is not None:
            if char == "\n":
                self._over = self._over or bool(self._HASH_LINE.fullmatch(self._hash_line))
                self._hash_line = None
            elif len(self._hash_line) < self._LONGEST:
                self._hash_line += char
        elif char == "#":
            self._hashes = min(self._hashes + 1, 5)
            return
        elif self._hashes == 4 and char != "\n":
            self._hash_line = char
        self._hashes = 0
