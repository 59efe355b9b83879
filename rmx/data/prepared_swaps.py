"""Prepared examples: one problem and one swap each. The app runs the model on them; nothing is canned."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rmx.paths import ASSETS

Kind = Literal["rescue", "break", "harmless"]
TITLES: dict[Kind, str] = {"rescue": "wrong → right", "break": "right → wrong", "harmless": "harmless fork"}


@dataclass(frozen=True, slots=True)
class Example:
    """A problem of the bundled model with a place worth looking at."""

    title: str
    kind: Kind
    problem_id: str
    problem: str
    answer: str
    pos: int  # completion token, from 0
    token_id: int
    token_text: str
    base_answer: str
    swapped_answer: str
    entropy: float  # nats, at the fork
    p: float  # of the swapped token


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """The examples that ship with mini, the one for the first screen first."""
    rows = json.loads((ASSETS / "mini" / "examples.json").read_text(encoding="utf-8"))
    return tuple(Example(**row) for row in rows)


def of_kind(kind: Kind) -> list[Example]:
    """Return the examples of one kind, in their order."""
    return [e for e in examples() if e.kind == kind]
