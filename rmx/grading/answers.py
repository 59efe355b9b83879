"""The final answer of a completion, and the answers of many.

`final_answer` finds it, `grade` compares it with the known one, and `StopRule` decides piece by piece when a completion
is over. Whether two answers say the same is decided by `equal`, in equality.py.

What counts as an answer is a rule: "boxed", nothing but a box, or "flexible", a box or else what comes nearest to one.
A completion that was cut off, by its limit of tokens or by the end of the context, is wrong, whatever stands in it.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from rmx.errors import ProblemError
from rmx.grading.equality import equal, is_placeholder, last_box
from rmx.prompt_styles import AnswerRule
from rmx.records import Answer, Stop, Trace

__all__ = ["CUT", "GRACE", "RULES", "STYLES", "StopRule", "Style", "before_stop", "equal", "final_answer", "grade"]

LONGEST = 300  # characters looked at behind the words, and of the last line
RECENT = 20_000  # characters at the end of a text in which it may state its answer

_SAYS = re.compile(
    r"""\b(?:final\s+)?answers?(?:\s+to\s+[^.:\n]{1,80}?)?\s*
        (?: \*{0,2}:\*{0,2} | \b(?:is|are|=|must\s+be|would\s+be|comes\s+to)\b\s*:? )""",
    re.IGNORECASE | re.VERBOSE,
)
_MATH = re.compile(r"\\\[(.*?)\\\]|\\\((.*?)\\\)|\$\$(.*?)\$\$|\$([^$\n]*)\$", re.DOTALL)
_SENTENCE_END = re.compile(
    r"\n|[.!?](?=\s|\*|$)|;|,\s+(?!(?:and|or)\b)(?=[A-Za-z]{2})|\s+(?:because|since|so|which|where)\b"
)
_CHOICE = re.compile(r"\(([A-H])\)|([A-H])$")
_CONNECTOR = re.compile(r"(?:,|and|or|,and|,or)$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MATH_WORDS = r"\b(?:and|or|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod)\b"  # words that belong to expressions
_LATEX = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_SYMBOLS = re.compile(r"-?[a-zA-Z](?:\s*[-+*/^]\s*[a-zA-Z])*")
_SET = r"\$?\s*\\?[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*=\s*[^=,\n]+?"
_ASSIGNED = re.compile(
    rf"(?:^|[\s,:$(])(?P<all>{_SET}(?:\s*(?:,\s*(?:and|or)?|\band\b|\bor\b)\s*{_SET})*)\s*\$?\s*[.!]?\s*\$?\s*$"
)


def stated_answer(text: str) -> str | None:
    """The expression that a text states as its answer, as it is written there, or None."""
    text = text.rstrip()[-RECENT:]
    found = deque(_SAYS.finditer(text), maxlen=1)
    if found:
        return _leading(text[found[0].end() : found[0].end() + LONGEST])
    return _assigned(text[-LONGEST:].rpartition("\n")[2])


def _leading(region: str) -> str | None:
    """The expression at the beginning of a text."""
    region = region.lstrip(" \t\n*:")
    whole = _MATH.match(region)
    if whole is not None and whole[4] is None:  # displayed, or in \\( \\)
        return _clean(next(g for g in whole.groups() if g is not None))
    end = _end_of_sentence(region)
    sentence = region[:end].strip().strip("*").strip()
    choice = _CHOICE.match(sentence)
    if choice is not None:
        return choice[1] or choice[2]
    return _expression(sentence)


def _end_of_sentence(region: str) -> int:
    """Where the sentence ends, but for what stands inside $ $."""
    inside = [m.span() for m in _MATH.finditer(region) if not _prose(m.group())]
    for end in _SENTENCE_END.finditer(region):
        if not any(a <= end.start() < b for a, b in inside):
            return end.start()
    return len(region)


def _expression(sentence: str) -> str | None:
    """The longest beginning of a sentence that is no prose."""
    kept: list[str] = []
    for word in re.split(r"\s+", sentence.replace("$", " ").strip()) if _balanced(sentence) else sentence.split():
        if _prose(word):
            break
        kept.append(word)
    while kept and _CONNECTOR.match(kept[-1]):
        kept.pop()
    return _clean(" ".join(kept))


def _balanced(sentence: str) -> bool:
    """Whether its dollar signs open and close expressions, and are no amounts of money."""
    return sentence.count("$") % 2 == 0 and not any(_prose(m[4] or "") for m in _MATH.finditer(sentence))


def _prose(text: str) -> bool:
    """Whether there are words in it that belong to no expression: LaTeX's commands, their texts and connectors do."""
    return bool(_WORD.search(re.sub(_MATH_WORDS, " ", _LATEX.sub(" ", text))))


def _clean(found: str) -> str | None:
    """An expression without its dress; None where there is nothing of one in it."""
    found = found.strip().strip("$").strip().rstrip(".,;").strip()
    if re.match(r"[^=]*\d[^=]*=", found):  # 3 + 4 = 7 is a sum, x = 7 an answer
        found = found.rpartition("=")[2].strip()
    return found if re.search(r"[\d\\]", found) or _SYMBOLS.fullmatch(found) else None


def _assigned(line: str) -> str | None:
    """What a line ends with: x = 5 gives 5, x = -3 or x = 5 is given as it stands."""
    match = _ASSIGNED.search(line)
    if match is None:
        return None
    found = match["all"].replace("$", "").strip().rstrip(".!").strip()
    if _prose(found):
        return None
    return found.partition("=")[2].strip() if found.count("=") == 1 else found


Style = Literal["boxed", "hash", "stated", "last_number"]
STYLES: tuple[Style, ...] = ("boxed", "hash", "stated", "last_number")
RULES: dict[AnswerRule, tuple[Style, ...]] = {"boxed": ("boxed",), "flexible": STYLES}
CUT: frozenset[Stop] = frozenset({"length", "context"})  # how a completion ends that was cut off

GRACE = 16  # pieces that may follow a closed box on its line

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


def final_answer(text: str, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False) -> str | None:
    r"""The final answer of a completion, as it is written there, or None.

    Args:
        text: the completion. After a `<think>` only what follows `</think>` counts; an open block has no answer.
        styles: where to look, in this order.
            "boxed": the last complete \boxed{} or \fbox{} that quotes no instruction (empty, "...", "answer").
            "hash": the number behind the last `####`.
            "stated": the expression behind the last "answer is" or "answer:", or the last line's equation.
            "last_number": the last number, with its sign, fraction or percent sign, without a currency sign.
            Neither of the last two where "boxed" is asked for and the text breaks off inside its only box.
        thinking: the prompt has opened a `<think>` block already.
    """
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed or (thinking and closed < 0):
        return None
    text = text[closed + len("</think>") :] if closed >= 0 else text
    found, broken_off = last_box(text) if "boxed" in styles else (None, False)
    for style in styles:
        if style == "boxed":
            if found is not None:
                return found
        elif style == "hash":
            numbers = _HASH.findall(text)
            if numbers:
                return _bare(numbers[-1])
        elif broken_off:
            continue
        elif style == "stated":
            if (stated := stated_answer(text)) is not None:
                return _bare(stated) if _LAST_NUMBER.fullmatch(stated) else stated
        else:
            matches = deque(_LAST_NUMBER.finditer(text), maxlen=1)
            if matches:
                return _bare(matches[0].group())
    return None


def _bare(number: str) -> str:
    return re.sub(r"\\?[$€£¥₹]|^\+|^\s+", "", number).replace("−", "-").replace(" percent", "%").replace("- ", "-")


def grade(
    text: str, known: str | None, *, styles: tuple[Style, ...] = STYLES, thinking: bool = False, cut: bool = False
) -> Answer:
    """The final answer of `text` and whether it equals `known`: None without a known answer, False without an answer.

    Never raises; see `equal` for the time it may take. What was `cut` off is wrong.
    """
    found = final_answer(text, styles=styles, thinking=thinking)
    if known is None:
        return Answer(found, None)
    return Answer(found, not cut and found is not None and equal(found, known))


def before_stop(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first of the texts that end a completion, which is no part of it."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


class StopRule:
    r"""Tells, piece by piece, when a completion has given its final answer. One object per completion.

    The completion is over
    - with the first stop text that is complete, wherever it stands;
    - after a complete \boxed{} or \fbox{} outside a `<think>` block: at the next line break, or after `GRACE` more
      pieces on the same line; a box quoted in an instruction (empty, "...", "answer") does not count;
    - after a line break behind `#### 42`.
    While a `<think>` block is open no answer ends it. End tokens and length limits are the caller's.

    Linear in the length of the text; pieces may split anywhere.
    """

    __slots__ = ("_answers", "_boxes", "_grace", "_hash_line", "_hashes", "_seen", "_stops", "_tail",
                 "_thinking", "_word", "ending", "over")  # fmt: skip

    _WORDS = ("\\boxed{", "\\boxed {", "\\fbox{", "\\fbox {", "<think>", "</think>")
    _PREFIXES = frozenset(word[:n] for word in _WORDS for n in range(1, len(word)))
    _COMPLETE = frozenset(_WORDS)
    _INTERESTING = re.compile(r"[\\<#]")
    _HASH_LINE = re.compile(rf"\s*{_HASH_NUMBER}\$?\.?\s*")
    _LONGEST = 40  # characters kept of a box or of a #### line; placeholders and numbers are shorter

    def __init__(self, *, thinking: bool = False, stops: tuple[str, ...] = (), answers: bool = True) -> None:
        """Begin a completion, which texts in `stops` end and, with `answers`, its final answer too.

        Args:
            thinking: the prompt has opened a `<think>` block.
        """
        self._thinking, self._answers, self._stops = thinking, answers, stops
        self.ending: Stop | None = None  # what it was over by: "answer" or "stop_sequence"
        self._tail = ""  # the last characters, in which a stop text may have begun
        self._word = ""  # the beginning of a possible marker
        self._boxes: list[bool] = []  # open braces since the first open box; True where it is a box
        self._seen = ""  # beginning of the innermost box's content
        self._hashes = 0  # length of the current run of "#"
        self._hash_line: str | None = None  # what follows "####" on its line
        self._grace = -1  # pieces left after a closed box; -1 = no box closed
        self.over = False  # whether the completion has ended

    def feed(self, piece: str) -> bool:
        """Take the next piece of text, a token's worth usually; True once the completion is over, and ever after."""
        if self.over:
            return True
        if self._stops and self._stopped(piece):
            self.ending, self.over = "stop_sequence", True
        elif self._answers and self._answered(piece):
            self.ending = "answer"
        return self.over

    def _stopped(self, piece: str) -> bool:
        text = self._tail + piece
        longest = max(map(len, self._stops))
        self._tail = text[max(0, len(text) - longest + 1) :]
        return any(stop in text for stop in self._stops)

    def _answered(self, piece: str) -> bool:
        if self._grace > 0:
            self._grace -= 1
        # Nearly every piece: no marker begins here and none is under way.
        idle = not (self._word or self._boxes or self._hashes) and self._hash_line is None and self._grace < 0
        if idle and not self._INTERESTING.search(piece):
            return False
        for char in piece:
            self._take(char)
            if self.over:
                return True
        self.over = self._grace == 0
        return self.over

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
            self.over = True
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
            if self._boxes.pop() and not is_placeholder(self._seen) and self._grace < 0:
                self._grace = GRACE
        elif char == "{" and not escaped:
            self._boxes.append(False)
        if len(self._seen) < self._LONGEST:
            self._seen += char

    def _count_hashes(self, char: str) -> None:
        if self._hash_line is not None:
            if char == "\n":
                self.over = self.over or bool(self._HASH_LINE.fullmatch(self._hash_line))
                self._hash_line = None
            else:
                self._hash_line = self._hash_line + char if len(self._hash_line) < self._LONGEST else None
        elif char == "#":
            self._hashes = min(self._hashes + 1, 5)
            return
        elif self._hashes == 4 and char != "\n":
            self._hash_line = char
        self._hashes = 0


# -- The answers that many continuations reach ------------------------------------------------------------------------


COMPARED = 20  # writings that later ones are compared with; rarer ones stand for themselves

Answered = str | None  # None where a continuation reached no answer


@dataclass(frozen=True, slots=True)
class Target:
    """The answer that counts as right: the known one or, where none was given, the solution's own."""

    text: str
    known: bool

    def hit(self, answer: Answered) -> bool:
        """Whether an answer equals the target; no answer never does."""
        return answer is not None and equal(answer, self.text)


def target_of(trace: Trace, known: str | None) -> Target:
    """The known answer, or that of the solution; ProblemError where there is neither."""
    if known is not None:
        return Target(known, True)
    if trace.answer.text is None or trace.stop in CUT:
        raise ProblemError("This solution reached no answer and none is known. Give the known answer first.")
    return Target(trace.answer.text, False)


@dataclass(frozen=True, slots=True)
class Reached:
    """One answer, in its most frequent writing, and how many continuations reached it."""

    text: Answered
    count: int
    correct: bool


def same_answers(counts: Mapping[Answered, int], hit: Callable[[Answered], bool]) -> dict[Answered, Answered]:
    """Map each writing of an answer to the most frequent writing of an equal answer, in whatever order they came.

    Right and wrong writings are never put together, whatever `equal` finds of the two.
    """
    stands_for: dict[Answered, Answered] = {None: None}
    groups: list[tuple[str, bool]] = []
    for text in sorted((t for t in counts if t is not None), key=lambda t: (-counts[t], len(t), t)):
        right = hit(text)
        found = next((g for g, its_right in groups if its_right == right and equal(text, g)), text)
        stands_for[text] = found
        if found is text and len(groups) < COMPARED:
            groups.append((text, right))
    return stands_for


def reached(
    counts: Mapping[Answered, int], stands_for: Mapping[Answered, Answered], hit: Callable[[Answered], bool]
) -> tuple[Reached, ...]:
    """The answers of one set of continuations, most frequent first; none reached comes last among equals."""
    together: Counter[Answered] = Counter()
    for text, count in counts.items():
        together[stands_for[text]] += count
    order = sorted(together, key=lambda t: (-together[t], t is None, t or ""))
    return tuple(Reached(text, together[text], hit(text)) for text in order)


def total(counters: Iterable[Mapping[Answered, int]]) -> Counter[Answered]:
    """Counts of several sets of continuations, added up."""
    return sum(map(Counter, counters), Counter[Answered]())
