"""Reading a typed problem back: which template it follows, with which numbers, and so what its right answer is."""

import re
from functools import cache
from itertools import zip_longest

from rmx.mini.task import MAX_VALUE, right_answer
from rmx.mini.wordings import TEMPLATES, Template

LONGEST = 1000  # characters; no wording comes near it
_SLOT = re.compile(r"\{(\w+)\}")
_SLOTS = {"A": r"[A-Z][a-z]+", "B": r"[A-Z][a-z]+", "o": r"[a-z]+"}  # as `compose` takes them


def computed_answer(text: str) -> str | None:
    """Compute the right answer of a text that is one of the templates' wordings, word for word.

    Names, thing and numbers (1 to 99) are free; white space may differ. None where the text is no wording, where its
    numbers cannot be worked out, or where two readings disagree.
    """
    if len(text) > LONGEST:
        return None
    plain = " ".join(text.split())
    found = {answer for template, pattern in _patterns() if (answer := _read(template, pattern, plain))}
    return found.pop() if len(found) == 1 else None


def _read(template: Template, pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.fullmatch(text)
    if match is None:
        return None
    said = match.groupdict()
    numbers = {name: int(said[name]) for name in template.slots}
    if said.get("A") == said.get("B", "") or not all(1 <= n <= MAX_VALUE for n in numbers.values()):
        return None
    try:
        return str(right_answer(template, numbers))
    except ValueError:
        return None


@cache
def _patterns() -> tuple[tuple[Template, re.Pattern[str]], ...]:
    """List every variant of every wording as a pattern, with the template that it belongs to."""
    return tuple(
        (template, _pattern(text))
        for template in TEMPLATES.values()
        for wording in template.wordings
        for text in wording.variants()
    )


def _pattern(text: str) -> re.Pattern[str]:
    """Turn the slots of a text into groups; what stands in a slot twice must be the same both times."""
    made, seen = "", set[str]()
    parts = _SLOT.split(text)
    for fixed, slot in zip_longest(parts[::2], parts[1::2]):
        made += re.escape(fixed)
        if slot in seen:
            made += f"(?P={slot})"
        elif slot:
            seen.add(slot)
            made += f"(?P<{slot}>{_SLOTS.get(slot, '[0-9]{1,2}')})"
    return re.compile(made)
