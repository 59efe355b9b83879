"""Where the sentences of a completion begin and end, in tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rmx.models.load import Model
from rmx.records import TokenDist

# A line break, or a full stop, exclamation or question mark (with what closes behind it) before white space; not the
# point of a number (3.5 has no space behind it) nor of an item's number at the start of a line ("1. First").
_END = re.compile(r"""(?<!^\d)(?<!^\d\d)(?<!^\ \d)[.!?]+["'”’)\]}$*]*(?=\s|\Z)|\n""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens `start` … `end` - 1."""

    start: int
    end: int
    text: str


def sentences(texts: Sequence[str]) -> list[Sentence]:
    """Cut a completion into sentences; every token belongs to exactly one.

    A token that holds the end of a sentence is its last, even if it holds more; tokens of nothing but white space
    stay with what is before them.

    Args:
        texts: what each token adds to the text.
    """
    owner = [i for i, text in enumerate(texts) for _ in text]  # of each character
    ends = {owner[match.end() - 1] for match in _END.finditer("".join(texts))}
    found: list[Sentence] = []
    start = 0
    for i, text in enumerate(texts):
        begins = i > start and i - 1 in ends
        if begins and not text.strip() and text:
            ends.add(i)  # white space: the sentence ends behind it
        elif begins:
            found.append(Sentence(start, i, "".join(texts[start:i])))
            start = i
    if start < len(texts):
        found.append(Sentence(start, len(texts), "".join(texts[start:])))
    return found


def sentences_of(model: Model, tokens: Sequence[TokenDist]) -> list[Sentence]:
    """Sentences of a completion without its end token."""
    texts = [t.text for t in tokens]
    while texts and tokens[len(texts) - 1].id in model.stop_ids:
        texts.pop()
    return sentences(texts)
