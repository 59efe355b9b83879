"""The words of the miniature's problems and solutions, read from `assets/mini/wordings.toml`.

The file says what a plan, a wording and a weight are; the bundled weights of the miniature belong to what is in it.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

from rmx.paths import ASSETS

Split = Literal["train", "validation", "test"]
_CHOICE = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class TemplateStep:
    """One equation of a plan, `left op right`, over slot names and earlier results `s1`, `s2`."""

    left: str
    op: str  # one of + - * /
    right: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A way to solve, or to fail at, a template's problems."""

    name: str
    right: bool
    steps: tuple[TemplateStep, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to put a template into words."""

    text: str
    split: Split = "train"
    weights: Mapping[str, float] = field(default_factory=dict)  # plan name -> share of writers; empty if never trained

    def variants(self) -> Iterator[str]:
        """Write every text that the `[x|y]` choices allow, the plain one first."""
        parts = _CHOICE.split(self.text)
        for choice in product(*(part.split("|") for part in parts[1::2])):
            yield "".join(fixed + chosen for fixed, chosen in zip(parts[::2], (*choice, ""), strict=True))

    def plain(self) -> str:
        """Write the text with the first of every choice."""
        return next(self.variants())


@dataclass(frozen=True, slots=True)
class Template:
    """A family of word problems that differ in wording, names, thing and numbers."""

    name: str
    summary: str
    slots: Mapping[str, tuple[int, int]]  # number name -> (lowest, highest), both allowed
    plans: Mapping[str, Plan]  # the main right one first
    wordings: tuple[Wording, ...]  # training wordings first

    def describe(self) -> str:
        """Say in one line for a list what happens, and which numbers it takes."""
        ranges = ", ".join(f"{name} {low}-{high}" for name, (low, high) in self.slots.items())
        return f"{self.summary} ({ranges})"

    def wordings_of(self, split: Split) -> tuple[int, ...]:
        """List the indices of the wordings that belong to `split`."""
        return tuple(i for i, wording in enumerate(self.wordings) if wording.split == split)


@dataclass(frozen=True, slots=True)
class Writer:
    """A kind of solution writer, known by the opening words."""

    opener: str
    share: float
    error_factor: float = 1.0  # multiplies the share of flawed plans where below 1
    success_factor: float = 1.0  # multiplies the share of right plans where below 1


def read_template(name: str, row: Mapping[str, Any]) -> Template:
    """Make a template of its table in the file."""
    slots = {slot: (low, high) for slot, (low, high) in row["slots"].items()}
    plans = {key: _plan(key, text) for key, text in row["plans"].items()}
    trained = [Wording(w["text"], "train", MappingProxyType(w["weights"])) for w in row["train"]]
    held_out: tuple[Split, ...] = ("validation", "test")
    unseen = [Wording(row[split], split) for split in held_out if split in row]
    return Template(name, row["summary"], MappingProxyType(slots), MappingProxyType(plans), (*trained, *unseen))


def _plan(name: str, text: str) -> Plan:
    """Read `"!a + b; s1 - c"`; the exclamation mark says that the plan is right."""
    steps = tuple(TemplateStep(*step.split()) for step in text.lstrip("!").split(";"))
    return Plan(name, text.startswith("!"), steps)


_FILE = tomllib.loads((ASSETS / "mini" / "wordings.toml").read_text(encoding="utf-8"))
_SOLUTIONS = _FILE["solutions"]

NAMES: tuple[str, ...] = tuple(_FILE["names"].split())
THINGS: tuple[str, ...] = tuple(_FILE["things"].split())
TEMPLATES: Mapping[str, Template] = MappingProxyType(
    {name: read_template(name, row) for name, row in _FILE["templates"].items()}
)
WRITERS: tuple[Writer, ...] = tuple(Writer(**row) for row in _SOLUTIONS["writers"])
VERBS: Mapping[str, tuple[str, ...]] = MappingProxyType({op: tuple(x) for op, x in _SOLUTIONS["verbs"].items()})
NEXT_WORDS: tuple[str, ...] = tuple(_SOLUTIONS["next_words"])
FINAL_WORDS: tuple[str, ...] = tuple(_SOLUTIONS["final_words"])
SYNONYM_SHARES: tuple[float, ...] = tuple(_SOLUTIONS["synonym_shares"])
NOTICE_SHARE: float = _SOLUTIONS["notice_share"]
NOTICE_TEXT: str = _SOLUTIONS["notice_text"]
