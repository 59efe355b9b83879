"""The answer that a solution states in words, where it has no box: "The answer is $2\\sqrt{3}$", "So x = -3 or x = 5".

Of what follows the last "answer is" or "answer:" the expression at its beginning counts, to the end of the sentence at
most; where nothing is said so, what the last line sets equal to something. Words are left to others: a sentence without
an expression states nothing.
"""

import re
from collections import deque

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
    said = deque(_SAYS.finditer(text), maxlen=1)
    if said:
        return _leading(text[said[0].end() : said[0].end() + LONGEST])
    return _assigned(text[-LONGEST:].rpartition("\n")[2])


def _leading(region: str) -> str | None:
    """The expression at the beginning of what is said."""
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
    inside = [m.span() for m in _MATH.finditer(region) if not _WORD.search(_plain(m.group()))]
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
    return sentence.count("$") % 2 == 0 and not any(_WORD.search(_plain(m[4] or "")) for m in _MATH.finditer(sentence))


def _plain(text: str) -> str:
    """Without what LaTeX writes in words: commands, their texts, and connectors."""
    return re.sub(_MATH_WORDS, " ", _LATEX.sub(" ", text))


def _prose(word: str) -> bool:
    return bool(_WORD.search(_plain(word)))


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
    if _WORD.search(_plain(found)):
        return None
    return found.partition("=")[2].strip() if found.count("=") == 1 else found
