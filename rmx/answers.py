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
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
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
WALL_LIMIT = 2.0  # seconds after which the worker is killed, whatever it does
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

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\.)\.\d+)(?:[eE][+-]?\d+(?![\w.]))?"
_SIGN = r"(?:(?<![\w)\]}.])[-+−])?"
_CURRENCY = r"(?:\\?[$€£¥₹])?"
_LAST_NUMBER = re.compile(
    rf"""
    {_SIGN} {_CURRENCY}
    (?: \\[dt]?frac\{{-?\d+\}}\{{\d+\}}  # \frac{{3}}{{4}}
      | (?<![A-Za-z\d_])(?<!\d\.)(?: \d+[ ]\d+/\d+ | \d+:\d\d(?!\d) | {_NUMBER}(?:/\d+(?:\.\d+)?)? )
    )
    (?: [ ]?\\?% | [ ]percent\b )?
    """,
    re.VERBOSE,
)
_HASH_NUMBER = rf"[-+−]?[ ]?{_CURRENCY}[-−]?{_NUMBER}(?:/\d+)?(?:[ ]?\\?%)?"
_HASH = re.compile(rf"(?<!#)####(?!#)[ \t]*({_HASH_NUMBER})(?![.:)][ \t]+[A-Za-z])")  # not "#### 1. First step"
_BOX = r"\\(?:boxed|fbox) ?\{"
_BOX_TOKEN = re.compile(rf"{_BOX}|\\.|[{{}}]", re.DOTALL)


def final_answer(text: str, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False) -> str | None:
    r"""The final answer of a completion, as it is written there, or None.

    Args:
        text: the completion. After a `<think>` only what follows `</think>` counts; an open block has no answer.
        styles: where to look, in this order.
            "boxed": the last complete \boxed{} or \fbox{}; boxes quoted in an instruction (empty, "...", "answer") are
            passed over.
            "hash": the number behind the last `####`.
            "last_number": the last number, with its sign, thousands separators, fraction or percent sign, without a
            currency sign; not where "boxed" is asked for and the text breaks off inside its only box.
        thinking: the prompt has opened a `<think>` block already.
    """
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed or (thinking and closed < 0):
        return None
    text = text[closed + len("</think>") :] if closed >= 0 else text
    found, broken_off = _last_box(text) if "boxed" in styles else (None, False)
    for style in styles:
        if style == "boxed":
            if found is not None:
                return found
        elif style == "hash":
            numbers = _HASH.findall(text)
            if numbers:
                return _bare(numbers[-1])
        elif not broken_off:
            matches = deque(_LAST_NUMBER.finditer(text), maxlen=1)
            if matches:
                return _bare(matches[0].group())
    return None


def _bare(number: str) -> str:
    return re.sub(r"\\?[$€£¥₹]|^\+|^\s+", "", number).replace("−", "-").replace(" percent", "%").replace("- ", "-")


def _last_box(text: str) -> tuple[str | None, bool]:
    """The content of the box that closes last, and whether a box is still open. One pass over the text."""
    stack: list[int | None] = []  # where a box's content begins, or None for a plain brace
    found = None
    for token in _BOX_TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            start = stack.pop() if stack else None
            if start is not None and not _is_placeholder(text[start : token.start()]):
                found = text[start : token.start()].strip()
        elif mark == "{":
            if stack:
                stack.append(None)
        elif len(mark) > 2:  # the opening of a box
            stack.append(token.end())
    while found is not None and (inner := re.fullmatch(rf"{_BOX}(.*)\}}", found, re.DOTALL)):
        found = inner.group(1).strip()
    return found, any(start is not None for start in stack)


def _is_placeholder(content: str) -> bool:
    return content.strip().strip("$").strip().lower() in PLACEHOLDERS


def grade(text: str, known: str | None, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False) -> Answer:
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
    _HASH_LINE = re.compile(rf"\s*{_HASH_NUMBER}\$?\.?\s*")
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
        if word in self._COMPLETE:
            self._word = ""
            self._marker(word)
            return
        escaped = len(word) == 2 and word[0] == "\\"
        if word in self._PREFIXES:
            self._word = word
        else:
            self._word = char if char in "\\<" and not escaped else ""
        if self._thinking:
            return
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
            if self._boxes.pop() and not _is_placeholder(self._seen) and self._grace < 0:
                self._grace = GRACE
        elif char == "{" and not escaped:
            self._boxes.append(False)
        if len(self._seen) < self._LONGEST:
            self._seen += char

    def _count_hashes(self, char: str) -> None:
        if self._hash_line is not None:
            if char == "\n":
                self._over = self._over or bool(self._HASH_LINE.fullmatch(self._hash_line))
                self._hash_line = None
            else:
                self._hash_line = self._hash_line + char if len(self._hash_line) < self._LONGEST else None
        elif char == "#":
            self._hashes = min(self._hashes + 1, 5)
            return
        elif self._hashes == 4 and char != "\n":
            self._hash_line = char
        self._hashes = 0


# ------------------------------------------------------------------------------------------------------- equality


def equal(given: str, known: str) -> bool:
    r"""Whether two answers say the same. Never raises, from any thread; symmetric but for the library's own rules.

    Time: microseconds where both are plain numbers or the same text; some milliseconds where the library must
    compare; at most about `WALL_LIMIT` seconds (and once the start of the worker, a second or so) for expressions that
    are built to hang it. What is late, too long or not understood counts as different.

    Rules where there is a choice:
    - Percent: both with a sign, the numbers must be equal. With a sign on one side only, 50% equals 0.5, and equals 50
      too, because "what percent" has the known answer 50; a number below 1 has no such second reading (0.5% is not
      0.5).
    - Units and currency are dropped (18 dollars, $18, 5 cm, 90^\circ), but two different known units are different
      (5 cm is not 5 m); nothing is converted.
    - Decimals are exact, but with at least six places one may stand for a fraction that it rounds (0.333333 for 1/3).
    - "x = 5" equals 5 and "x = 5", not "y = 5". A bare list equals a set in any order, and a tuple in its order.
    - Words compare without case; single letters with it.
    """
    if not isinstance(given, str) or not isinstance(known, str):
        return False
    if given == known:
        return bool(given.strip())
    if _DECIMAL.fullmatch(given) and _DECIMAL.fullmatch(known):
        return Decimal(given) == Decimal(known)
    if len(given) > MAX_ANSWER or len(known) > MAX_ANSWER:
        return False
    try:
        return _equal(given, known)
    except Exception:  # noqa: BLE001  a strange answer must not end a run of thousands
        logger.warning("comparing %r with %r failed; counted as different", given[:80], known[:80], exc_info=True)
        return False


_DECIMAL = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")


@lru_cache(maxsize=16384)
def _equal(given: str, known: str) -> bool:
    given, known = _normal(given), _normal(known)
    if not given or not known:
        return False
    _spent.seconds = 0.0
    try:
        return _same(given, known, 0)
    except _Late:
        logger.info("comparing %r with %r took too long; counted as different", given[:80], known[:80])
        return False


# The expression without the dress: what LaTeX writes in several ways is written in one.
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*", ""),
        (r"\\(?:displaystyle|textstyle|limits|quad|qquad)(?![a-zA-Z])|(?<!\\)\\[,;:> ]|~|[\u00a0\u202f\u2009]", " "),
        (r"(?<!\\)\\!", ""),
        (r"\{,\}", ","),
        (r"\\(?:mathrm|operatorname|mathit|textrm|mbox|textbf|mathbf|boldsymbol|textit|textnormal)\s*\{", r"\\text{"),
        (r"\\text\{\s*([a-zA-Z])\s*\}", r" \1 "),  # \mathrm{e} is e
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|°|\\degree(?![a-zA-Z])", " degrees "),
        (r"\\%|\bper ?cent\b|\\text\{\s*(?:\\?%|percent)\s*\}", "%"),
        (r"\\\$", "$"),
        (r"[−–]", "-"),
        (r"\\(?:cdots|dots|dotsc|ldots)(?![a-zA-Z])|\.\.\.|…", r" \\ldots "),
        (r"×", r"\\times "),
        (r"π", r"\\pi "),
        (r"∞", r"\\infty "),
        (r"√", r"\\sqrt "),
        (r"∪", r"\\cup "),
        (r"±", r"\\pm "),
        (r"≤|\\leqslant(?![a-zA-Z])|\\leq(?![a-zA-Z])|<=", r"\\le "),
        (r"≥|\\geqslant(?![a-zA-Z])|\\geq(?![a-zA-Z])|>=", r"\\ge "),
        (r"∈", r"\\in "),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"(?<=\d)i\b", " i"),  # the library sees a complex number only where i stands alone
        # Plain text that models write: pi/2, exp(16), sqrt(2), 3*x
        (r"(?<![\\a-zA-Z])(pi|infty|sqrt|sin|cos|tan|cot|arcsin|arccos|arctan|log|ln)(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])(alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|tau|phi|omega)(?![a-zA-Z])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"(?<![\\a-zA-Z])exp\s*\(([^()]*)\)", r"e^{\1}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\*\*", "^"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\*", r" \\cdot "),
        (r"^\s*(?:\\approx(?![a-zA-Z])|≈|(?:about|approximately)\b)", " "),
        (r"\s+", " "),
    )
)
_DOLLARS = re.compile(r"\$([^$]*)\$")


def _normal(answer: str) -> str:
    answer = answer.strip()
    while answer[:2] in (r"\(", r"\[") and answer[-2:] in (r"\)", r"\]"):
        answer = answer[2:-2].strip()
    answer = answer.strip("`").replace("**", "") if answer.startswith(("**", "`")) else answer
    answer = _DOLLARS.sub(r" \1 ", answer.replace(r"\$", "\u20ac\u20ac")).replace("\u20ac\u20ac", r"\$")
    if answer.lstrip().startswith((r"\boxed", r"\fbox")):
        answer = _last_box(answer)[0] or answer
    for pattern, to in _REWRITES:
        answer = pattern.sub(to, answer)
    return answer.strip().rstrip(".;,").strip() if answer.strip() != r"\ldots" else answer


def _same(a: str, b: str, depth: int) -> bool:
    """Two normalised answers, or parts of them."""
    if a.replace(" ", "") == b.replace(" ", ""):
        return True
    if depth > 8:
        return False
    first, second = _number(a), _number(b)
    if first is not None and second is not None:
        return _same_number(first, second)
    for rule in (_same_colons, _same_bases, _same_assigned, _same_plus_minus, _same_parts, _same_words):
        verdict = rule(a, b, depth)
        if verdict is not None:
            return verdict
    return _library_equal(_strip_unit(a), _strip_unit(b))


# ---- numbers

# One spelling per unit that is worth telling apart; a unit that is not listed is dropped.
_UNITS = {
    spelling: unit
    for unit, spellings in {
        "$": "$ dollar dollars usd buck bucks",
        "cent": "cent cents ¢",
        "€": "€ euro euros eur",
        "£": "£ pound_sterling gbp",
        "¥": "¥ yen",
        "₹": "₹ rupee rupees",
        "mm": "mm millimeter millimeters millimetre millimetres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "m": "m meter meters metre metres",
        "km": "km kilometer kilometers kilometre kilometres",
        "in": "inch inches",
        "ft": "ft foot feet",
        "yd": "yd yard yards",
        "mi": "mile miles",
        "mg": "mg milligram milligrams",
        "g": "g gram grams",
        "kg": "kg kilogram kilograms",
        "lb": "lb lbs pound pounds",
        "oz": "oz ounce ounces",
        "ml": "ml milliliter milliliters",
        "l": "L liter liters litre litres",
        "gal": "gallon gallons",
        "s": "s sec second seconds",
        "min": "min mins minute minutes",
        "h": "h hr hrs hour hours",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years",
        "deg": "degree degrees deg",
        "rad": "rad radian radians",
        "mph": "mph",
    }.items()
    for spelling in spellings.replace("_", " ").split(" ")
}
_SHORT_UNITS = "|".join(sorted((re.escape(u) for u in _UNITS if u.isascii() and u != "$"), key=len, reverse=True))
# Words behind a number that are no units.
_LONG_UNITS = "|".join(unit for unit in _SHORT_UNITS.split("|") if len(unit) > 1)
_NO_UNIT = (
    r"(?!(?:and|or|to|times|mod|base|over|divided|plus|minus|where|with|for|if|dozen|half|in|factorial|squared|cubed"
    r"|choose|less|more)\b)"
)
_POWER = r"(?:\s*\^\s*\{?[23]\}?)?"
_WORD = r"(?:\s(?!(?:and|or)\b)(?:a\b|[a-zA-Z]{2,}))"
_UNIT = re.compile(
    rf"""(?: \s*\\text\{{\s*(?P<text>{_NO_UNIT}[a-zA-Z][a-zA-Z .,/'^\d-]*)\}} {_POWER}
           | (?:\s+|(?=[a-z]{{2}}))(?P<short>{_SHORT_UNITS})(?![a-zA-Z]) {_POWER}
             (?P<more>(?:{_WORD}|\s?/\s?[a-zA-Z]+){{0,4}})
           | \s(?P<words>{_NO_UNIT}[a-zA-Z]{{3,}}{_WORD}{{0,4}})
         )\s*$""",
    re.VERBOSE,
)
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_PLAIN = re.compile(
    rf"""\s*(?P<sign>[-+]?)\s*(?P<currency>[$€£¥₹]?)\s*(?P<sign2>[-+]?)\s*
    (?: (?P<whole>\d+)\s*\\frac\s*(?:\{{\s*(?P<n1>\d+)\s*\}}\s*\{{\s*(?P<d1>\d+)\s*\}}|(?P<n2>\d)\s*(?P<d2>\d))
      | (?P<whole2>\d+)\s+(?P<n3>\d+)\s*/\s*(?P<d3>\d+)
      | \\frac\s*(?:\{{\s*(?P<n4>-?(?:{_DIGITS}))\s*\}}\s*\{{\s*(?P<d4>-?(?:{_DIGITS}))\s*\}}|(?P<n5>\d)\s*(?P<d5>\d))
      | (?P<n6>{_DIGITS})\s*/\s*(?P<d6>{_DIGITS})
      | (?P<n7>{_DIGITS}) (?: [eE](?P<exp>[+-]?\d{{1,3}})
                          | \s*\\(?:times|cdot)\s*10\s*\^\s*\{{?\s*(?P<exp2>[+-]?\d{{1,3}})\s*\}}? )?
    )\s*(?P<percent>%?)\s*""",
    re.VERBOSE,
)


class _Number:
    """An exactly read number: its value, how it was written, its unit."""

    __slots__ = ("percent", "places", "unit", "value")

    def __init__(self, value: Fraction, places: int | None, percent: bool, unit: str | None) -> None:
        self.value = value
        self.places = places  # digits behind the decimal point; None where it is no decimal
        self.percent = percent
        self.unit = unit  # a value of _UNITS, or None where there is none or it is not listed


@lru_cache(maxsize=4096)
def _number(text: str) -> _Number | None:
    """Read a plain number with an optional sign, currency, fraction, percent sign, scale word and unit."""
    while text.startswith("(") and text.endswith(")") and "(" not in text[1:]:
        text = text[1:-1].strip()
    body, unit, scale = text, None, 1
    if match := _UNIT.search(text):
        body = text[: match.start()]
        words = (match["text"] or match["words"] or "").strip().split(" ")
        while words[0] in _SCALES:
            scale *= _SCALES[words.pop(0)]
            words = words or [""]
        name = words[0] if match["short"] is None else match["short"] + (match["more"] or "")
        unit = _UNITS.get(name, _UNITS.get(name.lower())) if len(words) == 1 else None
    match = _PLAIN.fullmatch(body)
    if match is None:
        return None
    group = match.groupdict()
    whole = Fraction(group["whole"] or group["whole2"] or 0)
    top = next(group[f"n{i}"] for i in range(1, 8) if group[f"n{i}"])
    bottom = next((group[f"d{i}"] for i in range(1, 7) if group[f"d{i}"]), "1")
    denominator = Fraction(bottom.replace(",", ""))
    if denominator == 0:
        return None
    value = whole + Fraction(top.replace(",", "")) / denominator
    exponent = group["exp"] or group["exp2"]
    value = value * Fraction(10) ** int(exponent or 0) * scale
    if (group["sign"] == "-") != (group["sign2"] == "-"):
        value = -value
    places = len(top.partition(".")[2]) if "." in top and group["n7"] and not exponent and scale == 1 else None
    return _Number(value, places, bool(group["percent"]), unit or _UNITS.get(group["currency"]))


def _same_number(a: _Number, b: _Number) -> bool:
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if a.percent == b.percent:
        return _close(a, a.value, b, b.value)
    percent, bare = (a, b) if a.percent else (b, a)
    if bare.unit:
        return False
    same_sign_dropped = abs(percent.value) >= 1 and _close(percent, percent.value, bare, bare.value)
    return same_sign_dropped or percent.value / 100 == bare.value


def _close(a: _Number, x: Fraction, b: _Number, y: Fraction) -> bool:
    """Equal, or one a decimal of six places or more that rounds the other, which has none."""
    if x == y:
        return True
    for places, decimal, other, other_places in ((a.places, x, y, b.places), (b.places, y, x, a.places)):
        if places is not None and places >= 6 and other_places is None and decimal:
            return round(other, places) == decimal
    return False


_UNIT_OF_EXPRESSION = re.compile(
    rf"\s*degrees\s*$|(?<=[\d}})])(?:\s*\\text\{{[^{{}}]*\}}|\s+(?:{_LONG_UNITS})){_POWER}\s*$"
)


def _strip_unit(text: str) -> str:
    """Drop a unit behind an expression that is no plain number: 16\\sqrt{3} cm."""
    return _UNIT_OF_EXPRESSION.sub("", text).strip()


# ---- structure: each rule gives True or False where it applies, else None


def _same_colons(a: str, b: str, depth: int) -> bool | None:
    """12:00, 1:2:3. A ratio of two equals the fraction; a time equals a time."""
    if ":" not in a and ":" not in b:
        return None
    parts_a, parts_b = a.split(":"), b.split(":")
    if len(parts_a) == len(parts_b):
        return all(_same(x.strip(), y.strip(), depth + 1) for x, y in zip(parts_a, parts_b, strict=True))
    ratio, other = (parts_a, b) if len(parts_a) == 2 else (parts_b, a)
    if len(ratio) != 2 or ("/" not in other and "\\frac" not in other):
        return False
    numbers = [_number(part) for part in ratio]
    fraction = _number(other)
    if fraction is None or any(n is None for n in numbers):
        return False
    left, right = (n.value for n in numbers if n is not None)
    return right != 0 and left / right == fraction.value


_BASE = re.compile(r"\s*([\dA-F]+)\s*_\s*\{?\s*(?:\\text\{\s*)?(\w+)\s*\}*\s*")


def _same_bases(a: str, b: str, depth: int) -> bool | None:
    """1011_2: the digits must be the same, and the bases where both are given."""
    first, second = _BASE.fullmatch(a), _BASE.fullmatch(b)
    if first and second:
        return first[1] == second[1] and first[2] == second[2]
    if first or second:
        digits, other = (first[1], b) if first else (second[1] if second else "", a)
        return digits == other.strip() if re.fullmatch(r"[\dA-F]+", other.strip()) else None
    return None


_NAME = r"\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\s*\([a-zA-Z]\))?"
_ASSIGNED = re.compile(rf"\s*({_NAME})\s*(?:=|\\in(?![a-zA-Z]))\s*(.*)", re.DOTALL)


def _assigned(text: str) -> tuple[str, str]:
    match = _ASSIGNED.fullmatch(text)
    if match is None or re.search(r"=|\\in(?![a-zA-Z])|[<>]|\\[lg]e(?![a-zA-Z])", match[2]):
        return "", text
    return match[1].replace(" ", ""), match[2].strip()


def _same_assigned(a: str, b: str, depth: int) -> bool | None:
    """x = 5: the name must be the same where both have one."""
    (name_a, value_a), (name_b, value_b) = _assigned(a), _assigned(b)
    if not name_a and not name_b:
        return None
    if name_a and name_b:
        return name_a == name_b and _same(value_a, value_b, depth + 1)
    if "=" in value_a or "=" in value_b:
        return None  # an equation against a value: y = 2x + 1 and 2x - y = -1
    return _same(value_a, value_b, depth + 1)


def _same_plus_minus(a: str, b: str, depth: int) -> bool | None:
    r"""\pm stands for two values."""
    if (r"\pm" in a) == (r"\pm" in b):
        return None

    def both(text: str) -> str:
        if text.count(r"\pm") != 1:
            return text
        plus, minus = (re.sub(r"\\pm(?![a-zA-Z])", sign, text) for sign in ("+", "-"))
        return f"{plus.strip().removeprefix('+')}, {minus}"

    return _same(both(a), both(b), depth + 1)


_OPEN, _CLOSE = "([{", ")]}"


def _split(text: str) -> list[str]:
    """The parts of a list at the outer level: commas, semicolons, and / or. A thousands separator is no comma."""
    text = re.sub(r"\s*,?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or)\b)\s*", " , ", text)
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char in ",;" and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _container(text: str) -> tuple[str, list[str]] | None:
    r"""("()", parts) for a tuple or open interval, "[)" and so on, "{}" for a set, "" for a bare list; else None."""
    text = text.strip()
    if r"\begin" in text:
        return None
    for opening, closing in ((r"\{", r"\}"), (r"\lbrace", r"\rbrace")):
        if text.startswith(opening) and text.endswith(closing) and text.count(opening) == 1:
            return "{}", _split(text[len(opening) : -len(closing)])
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text):
        parts = _split(text[1:-1])
        return (text[0] + text[-1], parts) if len(parts) > 1 else None
    if _thousands(text):
        return None
    parts = _split(text)
    return ("", parts) if len(parts) > 1 else None


def _thousands(text: str) -> bool:
    return re.fullmatch(r"[-+$€£\s]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^,]*", text) is not None


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last character and by none before it."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0:
            return i == len(text) - 1
    return False


def _same_parts(a: str, b: str, depth: int) -> bool | None:
    first, second = _container(a), _container(b)
    if first is None and second is None:
        return None
    if first is None or second is None:
        kind, parts = first or second or ("", [])
        other = b if first else a
        if kind == "{}" and len(parts) == 1:
            return _same(parts[0], other, depth + 1)
        # An interval may be written as an inequality; a list is never one number.
        return None if kind and re.search(r"[<>]|\\[lg]e(?![a-zA-Z])|\\cup|\\begin|\\emptyset", other) else False
    (kind_a, parts_a), (kind_b, parts_b) = first, second
    if len(parts_a) != len(parts_b) or (kind_a and kind_b and kind_a != kind_b):
        return False
    if "{}" in (kind_a, kind_b) or kind_a == kind_b == "":
        return _same_in_any_order(parts_a, parts_b, depth)
    return all(_same(x, y, depth + 1) for x, y in zip(parts_a, parts_b, strict=True))


def _same_in_any_order(parts_a: list[str], parts_b: list[str], depth: int) -> bool:
    if len(parts_a) > 20:
        return sorted(parts_a) == sorted(parts_b)
    left = list(parts_b)
    for part in parts_a:
        match = next((i for i, other in enumerate(left) if _same(part, other, depth + 1)), None)
        if match is None:
            return False
        left.pop(match)
    return True


_MATH_WORDS = re.compile(r"\\(?!text(?![a-zA-Z])|ldots(?![a-zA-Z]))|[\d^_=+*/<>|]")


def _same_words(a: str, b: str, depth: int) -> bool | None:
    r"""Words are compared as they are: Evelyn, \text{east}, (A), even. A word against an expression is left open."""
    if _MATH_WORDS.search(a) or _MATH_WORDS.search(b):
        return None
    a, b = (re.sub(r"[\s{}().,]|\\text(?![a-zA-Z])", "", text) for text in (a, b))
    if a == b or (len(a) > 1 and a.casefold() == b.casefold()):
        return bool(a)
    # xy and yx or p - q may be expressions, for the library to tell; longer runs of letters are words.
    return None if max(len(a), len(b)) <= 3 or "-" in a + b else False


# ---- the library, in a process of its own

_spent = threading.local()  # .seconds: in the library, for the answers that this thread compares now
# Powers and factorials of no use but to hang a program: refused at once, so that no worker has to be killed.
_TOO_DEEP = re.compile(r"\^\s*\{?\s*[-+]?\d{5,}|\d{5,}\s*!|!\s*!\s*!|(?:\^[\s{(]*\w+[\s})]*){3,}|\d{150,}")


def _library_equal(given: str, known: str) -> bool:
    if not given or not known or max(len(given), len(known)) > MAX_LATEX:
        return False
    if _TOO_DEEP.search(given) or _TOO_DEEP.search(known):
        return False
    if _spent.seconds > WALL_LIMIT:  # a list of parts that are slow each
        raise _Late
    return _pool.ask(given, known)


class _Late(Exception):
    """A comparison took longer than it may; the two answers count as different."""


class _Worker:
    """A helper process that answers one comparison at a time and is killed when it is late."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ready = False
        self._owner = 0  # a forked child must not talk into its parent's pipe

    def ask(self, given: str, known: str) -> bool:
        if self._owner != os.getpid() or self._process is None or self._process.poll() is not None:
            self.start()
        if not self._ready and self._line(START_LIMIT) != "ready":
            raise OSError("the comparison worker did not start in time")
        self._ready = True
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([given, known]) + "\n")
        self._process.stdin.flush()
        start = time.monotonic()
        reply = self._line(WALL_LIMIT)
        _spent.seconds += time.monotonic() - start
        if reply is None:
            self.start()  # it warms up while nobody waits
        if reply in (None, "late"):
            raise _Late
        return reply == "equal"

    def start(self) -> None:
        self.stop()
        self._owner, self._ready = os.getpid(), False
        path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from rmx.answers import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            text=True,
            encoding="utf-8",
        )

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # the rest of a line that a dead process will not read
                    logger.debug("pipe of a killed worker", exc_info=True)

    def _line(self, limit: float) -> str | None:
        """The next line, or None when the process is late and had to be killed. OSError: it died by itself."""
        assert self._process is not None
        process, late = self._process, threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        killer = threading.Timer(limit, kill)
        killer.daemon = True
        killer.start()
        try:
            line = process.stdout.readline().strip() if process.stdout else ""
        finally:
            killer.cancel()
        if not line and not late.is_set():
            raise OSError("the comparison worker died; is math-verify installed?")
        return line or None


class _Pool:
    """`WORKERS` workers, started when first needed; the one used last is used next."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._workers = [_Worker() for _ in range(WORKERS)]
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def ask(self, given: str, known: str) -> bool:
        worker = self._free.get()
        try:
            try:
                return worker.ask(given, known)
            except OSError:  # it died since the last question: once more, with a fresh one
                worker.stop()
                return worker.ask(given, known)
        except _Late:
            raise
        except BaseException:
            worker.stop()  # whatever it still writes is no answer to the next question
            raise
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()


_pool = _Pool()
atexit.register(lambda: _pool.stop())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)


class _OutOfTime(BaseException):
    """Not an Exception: the library swallows those."""


def _serve() -> None:
    """The worker: reads ["given", "known"] lines, writes "equal", "different" or "late"."""
    import signal

    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing that the library prints is an answer
    _limit_memory()
    logging.disable(logging.CRITICAL)
    compare = _comparer()
    compare("x^2-1", "(x-1)(x+1)")  # the first comparison imports and compiles
    print("ready", file=replies, flush=True)
    _answer_lines(sys.stdin, replies, compare)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit alone has to do
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = WORKER_MEMORY if hard == resource.RLIM_INFINITY else min(WORKER_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _answer_lines(questions: IO[str], replies: IO[str], compare: Callable[[str, str], bool]) -> None:
    import signal

    def late(*_: Any) -> None:
        raise _OutOfTime

    timer = getattr(signal, "ITIMER_PROF", None)
    if timer is not None:
        signal.signal(signal.SIGPROF, late)
    for line in questions:
        given, known = json.loads(line)
        reply = "different"
        try:
            if timer is not None:
                signal.setitimer(timer, CPU_LIMIT)
            try:
                reply = "equal" if compare(given, known) else "different"
            finally:
                if timer is not None:
                    signal.setitimer(timer, 0)
        except _OutOfTime:
            reply = "late"
        except Exception:  # noqa: BLE001  whatever sympy and the LaTeX parser raise on strange input, the answers are not equal
            reply = "different"
        print(reply, file=replies, flush=True)


def _comparer() -> Callable[[str, str], bool]:
    """math-verify's parse and verify with its timeouts off, and a second look at what it calls equal."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Units are ours: the library takes the m of 3m for metres.
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=normal, boxed_match_priority=-1)]

    @lru_cache(maxsize=512)
    def read(answer: str) -> Any:
        # Without the other modes: they take a number out of a formula that could not be read, and compare that.
        found = parse(
            f"${answer}$",
            config,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        return found[0] if found else None

    def compare(given: str, known: str) -> bool:
        target, gold = read(given), read(known)
        if target is None or gold is None:
            return False
        allow = bool(re.search(r"[<>]|\\[lg]e(?![a-zA-Z])", given + known))
        same = verify(gold, target, timeout_seconds=None, allow_set_relation_comp=allow)
        return bool(same) and _agree_numerically(gold, target)

    return compare


def _agree_numerically(first: Any, second: Any) -> bool:
    """A second look at two expressions called equal: False where their values differ at some point.

    Values are compared relative to their size; the library rounds the difference to zero when both are tiny.
    Relations, sets and matrices are left as the library found them.
    """
    from sympy import Expr, Float, Rational

    if not isinstance(first, Expr) or not isinstance(second, Expr):
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if first.free_symbols != second.free_symbols and (first.is_Symbol or second.is_Symbol):
        return True  # one word against the product of its letters
    tolerance = 1e-6 if first.has(Float) or second.has(Float) else 1e-12
    for values in _points(len(symbols)):
        point = {s: Rational(*value) for s, value in zip(symbols, values, strict=True)}
        x, y = (e.subs(point).doit().evalf(40, maxn=4000) for e in (first, second))
        if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
            continue
        size = max(abs(x), abs(y))
        if size != 0 and abs(x - y) > tolerance * size:
            return _percent_reading(first, second)
    return True


def _percent_reading(first: Any, second: Any) -> bool:
    """10% against 10: the library's own reading, which the numbers cannot confirm."""
    from math_verify.grader import get_pct_val

    return bool((get_pct_val(first) is None) != (get_pct_val(second) is None))


def _points(symbols: int) -> Iterator[list[tuple[int, int]]]:
    """Three fixed points with rational coordinates, none of them special."""
    for shift in (0, 1, 2) if symbols else (0,):
        yield [(7 * i + 5 + 11 * shift, 3 * i + 4) for i in range(symbols)]
