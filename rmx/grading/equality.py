"""Whether two answers say the same.

`equal` decides in three steps, cheapest first:

1. exact: the same string in normal form, or two plain numbers compared as fractions, with their units;
2. by structure: lists, tuples, sets and intervals element by element, ratios, plus-minus, plain words;
3. by the math-verify library, in a process of its own (rmx/grading/math_verify_process.py).

Answers are LaTeX or plain text as models and data sets write them. The normal form writes in one way what both write
in several; a box is part of the dress too.
"""

import logging
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from rmx.grading.math_verify_process import Late, library_equal, new_answers

logger = logging.getLogger(__name__)

MAX_ANSWER = 1000  # characters; a longer answer equals only itself


def equal(given: str, known: str) -> bool:
    r"""Whether two answers say the same. Never raises, from any thread; symmetric but for the library's own rules.

    It takes microseconds for plain numbers or the same text, some milliseconds where the library must compare, at most
    about `WALL_LIMIT` seconds for what is built to hang it. What is late, too long or not understood is different.

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
    new_answers()
    try:
        return _same(given, known, 0)
    except Late:
        logger.info("comparing %r with %r took too long; counted as different", given[:80], known[:80])
        return False


# ---- boxes

# What instructions put into a box: "give the answer in \boxed{}", "\boxed{...}", "\boxed{answer}".
PLACEHOLDERS = frozenset(
    ["", "...", "…", r"\ldots", r"\dots", r"\cdots", "answer", "your answer", "final answer", "the answer"]
    + ["your final answer", "<answer>", "[answer]", r"\text{answer}", r"\text{your answer}", r"\text{final answer}"]
)
_BOX = r"\\(?:boxed|fbox) ?\{"
_BOX_TOKEN = re.compile(rf"{_BOX}|\\.|[{{}}]", re.DOTALL)


def last_box(text: str) -> tuple[str | None, bool]:
    """The content of the box that closes last, and whether a box is still open. One pass over the text."""
    stack: list[int | None] = []  # where a box's content begins, or None for a plain brace
    found = None
    for token in _BOX_TOKEN.finditer(text):
        mark = token.group()
        if mark == "}":
            start = stack.pop() if stack else None
            if start is not None and not is_placeholder(text[start : token.start()]):
                found = text[start : token.start()].strip()
        elif mark == "{":
            if stack:
                stack.append(None)
        elif len(mark) > 2:  # the opening of a box
            stack.append(token.end())
    while found is not None and (inner := re.fullmatch(rf"{_BOX}(.*)\}}", found, re.DOTALL)):
        found = inner.group(1).strip()
    return found, any(start is not None for start in stack)


def is_placeholder(content: str) -> bool:
    """Whether the content of a box is a placeholder of the instructions, such as `...`."""
    return content.strip().strip("$").strip().lower() in PLACEHOLDERS


# ---- normal form

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
        (r"\\text\{\s*((?![mgshlL])[a-zA-Z])\s*\}", r" \1 "),  # \mathrm{e} is e
        (r"(?<![\w})\s])(\s*)\\text\{\s*([mgshlL])\s*\}", r"\1 \2 "),  # behind an expression these are units
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
        answer = last_box(answer)[0] or answer
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
    (bare_a, unit_a), (bare_b, unit_b) = _split_expression(a), _split_expression(b)
    if unit_a and unit_b and unit_a != unit_b:
        return False
    return bare_a == bare_b or library_equal(bare_a, bare_b)


# ---- numbers

# The spellings of each unit that is worth telling apart; a unit that is not listed is dropped.
_SPELLINGS = """
$ dollar dollars usd buck bucks; cent cents ¢; € euro euros eur; £ sterling gbp; ¥ yen; ₹ rupee rupees
mm millimeter millimeters millimetre millimetres; cm centimeter centimeters centimetre centimetres
m meter meters metre metres; km kilometer kilometers kilometre kilometres; inch inches; ft foot feet; yd yard yards
mile miles; mg milligram milligrams; g gram grams; kg kilogram kilograms; lb lbs pound pounds; oz ounce ounces
ml milliliter milliliters; L liter liters litre litres; gallon gallons; s sec second seconds; min mins minute minutes
h hr hrs hour hours; day days; week weeks; month months; year years; deg degree degrees; rad radian radians; mph
"""
_UNITS = {word: words.split()[0] for words in re.split(r"[;\n]", _SPELLINGS) for word in words.split()}
# The spellings as alternatives of a pattern, longest first; behind an expression a single letter may be a variable.
_SHORT_UNITS = "|".join(sorted((re.escape(u) for u in _UNITS if u.isascii() and u != "$"), key=len, reverse=True))
_LONG_UNITS = "|".join(unit for unit in _SHORT_UNITS.split("|") if len(unit) > 1)
# Words behind a number that are no units.
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


@dataclass(frozen=True, slots=True)
class _Number:
    """An exactly read number: its value, how it was written, its unit."""

    value: Fraction
    places: int | None  # digits behind the decimal point; None where it is no decimal
    percent: bool
    unit: str | None  # its first spelling; None where there is none or it is not listed


def _split_unit(text: str) -> tuple[str, int, str | None]:
    """The number without the words behind it, what their scale words multiply it by, and the unit if it is listed."""
    match = _UNIT.search(text)
    if match is None:
        return text, 1, None
    words, scale = (match["text"] or match["words"] or "").strip().split(" "), 1
    while words and words[0] in _SCALES:
        scale *= _SCALES[words.pop(0)]
    if match["short"] is not None:
        name = match["short"] + (match["more"] or "")
    else:
        name = words[0] if len(words) == 1 else ""
    return text[: match.start()], scale, _UNITS.get(name, _UNITS.get(name.lower()))


@lru_cache(maxsize=4096)
def _number(text: str) -> _Number | None:
    """Read a plain number with an optional sign, currency, fraction, percent sign, scale word and unit."""
    while text.startswith("(") and text.endswith(")") and "(" not in text[1:]:
        text = text[1:-1].strip()
    body, scale, unit = _split_unit(text)
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
    exponent = group["exp"] or group["exp2"]
    value = (whole + Fraction(top.replace(",", "")) / denominator) * Fraction(10) ** int(exponent or 0) * scale
    if (group["sign"] == "-") != (group["sign2"] == "-"):
        value = -value
    places = len(top.partition(".")[2]) if "." in top and group["n7"] and not exponent and scale == 1 else None
    return _Number(value, places, bool(group["percent"]), unit or _UNITS.get(group["currency"]))


def _same_number(a: _Number, b: _Number) -> bool:
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if a.percent == b.percent:
        return _close(a, b)
    percent, bare = (a, b) if a.percent else (b, a)
    if bare.unit:
        return False
    same_sign_dropped = abs(percent.value) >= 1 and _close(percent, bare)
    return same_sign_dropped or percent.value / 100 == bare.value


def _close(a: _Number, b: _Number) -> bool:
    """Equal, or one a decimal of six places or more that rounds the other, which has none."""
    if a.value == b.value:
        return True
    for one, other in ((a, b), (b, a)):
        if one.places is not None and one.places >= 6 and other.places is None and one.value:
            return round(other.value, one.places) == one.value
    return False


_MEASURE = r"(?:(?:square|sq\.?|cubic|cu\.?)\s+)?"
_UNIT_OF_EXPRESSION = re.compile(
    rf"""\s* degrees \s*$
       | (?: (?<=[\d}})]) \s*\\text\{{ \s*{_MEASURE} (?P<any>[^{{}}]*) \}}
           | (?<=[a-zA-Z]) \s*\\text\{{ \s*{_MEASURE} (?P<known>(?:{_SHORT_UNITS}|units?)(?![a-zA-Z])[^{{}}]*) \}}
           | (?:(?<=[\d}})])\s|(?<=\\pi)\s) \s*{_MEASURE} (?P<bare>{_LONG_UNITS}|units?)
         ) {_POWER} \s*$""",
    re.VERBOSE,
)


def _split_expression(text: str) -> tuple[str, str | None]:
    """An expression, no plain number, without the unit behind it, and the unit if it is listed: 16\\sqrt{3} cm."""
    match = _UNIT_OF_EXPRESSION.search(text)
    if match is None:
        return text.strip(), None
    name = (match["any"] or match["known"] or match["bare"] or "").strip()
    return text[: match.start()].strip(), _UNITS.get(name, _UNITS.get(name.lower()))


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
    left, right, fraction = _number(ratio[0]), _number(ratio[1]), _number(other)
    if left is None or right is None or fraction is None:
        return False
    return right.value != 0 and left.value / right.value == fraction.value


_BASE = re.compile(r"\s*([\dA-F]+)\s*_\s*\{?\s*(?:\\text\{\s*)?(\w+)\s*\}*\s*")


def _same_bases(a: str, b: str, depth: int) -> bool | None:
    """1011_2: the digits must be the same, and the bases where both are given."""
    first, second = _BASE.fullmatch(a), _BASE.fullmatch(b)
    if first and second:
        return first[1] == second[1] and first[2] == second[2]
    based, other = (first, b.strip()) if first else (second, a.strip())
    if based is None or not re.fullmatch(r"[\dA-F]+", other):
        return None
    return based[1] == other


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
    if re.fullmatch(r"[-+$€£\s]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^,]*", text):  # one number with thousands separators
        return None
    parts = _split(text)
    return ("", parts) if len(parts) > 1 else None


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
    if first is None or second is None:
        if (container := first or second) is None:
            return None
        (kind, parts), other = container, b if first else a
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
        match = next((other for other in left if _same(part, other, depth + 1)), None)
        if match is None:
            return False
        left.remove(match)
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
