"""Training, validation and test problems, kept apart.

The bundled sets and GSM8K come with splits that share no problem. A user's own file either says in a column `split`
where each problem belongs, or `deal` does, by the text alone: the same text is always on the same side, in whatever
file and order it comes. `overlap` counts what is the same all the same.
"""

import random
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from rmx.records import Problem

SPLITS = ("train", "validation", "test")
TRAIN_SHARE, VALIDATION_SHARE = 0.75, 0.125  # of an own file without a column `split`; the rest is test


def side_of(text: str) -> str:
    """The split that a problem's text is dealt to: three quarters train, an eighth each validation and test."""
    at = random.Random(f"split/{text.strip()}").random()
    return "train" if at < TRAIN_SHARE else "validation" if at < TRAIN_SHARE + VALIDATION_SHARE else "test"


def deal(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Split -> its problems, each in the order given."""
    sides: dict[str, list[Problem]] = {split: [] for split in SPLITS}
    for problem in problems:
        side = side_of(problem.problem)
        sides[side].append(replace(problem, split=side))
    return sides


def normalised(text: str) -> str:
    """A problem's text as it is compared: runs of white space are one space, letters without case."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def overlap(train: Sequence[Problem], test: Sequence[Problem]) -> int:
    """How many problems of `test` are in `train` too, by their normalised text; ids are not looked at."""
    return len(test) - len(without(test, train))


def shared(sides: Mapping[str, Sequence[Problem]]) -> dict[tuple[str, str], int]:
    """For each pair of splits how many problems of the second are in the first too; pairs that share none are left out.

    >>> shared({"train": [Problem("1", "2 + 2?", "4")], "test": [Problem("9", "2 +  2?", "4")]})
    {('train', 'test'): 1}
    """
    counts = {(a, b): overlap(sides[a], sides[b]) for a, b in combinations(sides, 2)}
    return {pair: count for pair, count in counts.items() if count}


def without(problems: Sequence[Problem], *others: Sequence[Problem]) -> list[Problem]:
    """Leave out the problems that stand, by their normalised text, in any of the others."""
    seen = {normalised(p.problem) for other in others for p in other}
    return [p for p in problems if normalised(p.problem) not in seen]
