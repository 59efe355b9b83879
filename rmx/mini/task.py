"""The miniature's task: word problems made of the templates in `assets/mini/wordings.toml`, and reading them back.

Everything is synthetic. A problem is a template's wording with names, a thing and numbers put in; the numbers decide
whether it belongs to the train, the validation or the test split. The file says what a plan, a wording and a weight
are; the bundled weights of the miniature belong to what is in it.
"""

import random
import re
import tomllib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from itertools import product, zip_longest
from types import MappingProxyType
from typing import Any, Literal

from rmx.config import ASSETS

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
    """Make a template of its table; a plan reads `"!a + b; s1 - c"`, where the mark says that it is right."""
    slots = {slot: (low, high) for slot, (low, high) in row["slots"].items()}
    steps = {key: text.lstrip("!").split(";") for key, text in row["plans"].items()}
    plans = {
        key: Plan(key, text.startswith("!"), tuple(TemplateStep(*step.split()) for step in steps[key]))
        for key, text in row["plans"].items()
    }
    trained = [Wording(w["text"], "train", MappingProxyType(w["weights"])) for w in row["train"]]
    held_out: tuple[Split, ...] = ("validation", "test")
    unseen = [Wording(row[split], split) for split in held_out if split in row]
    return Template(name, row["summary"], MappingProxyType(slots), MappingProxyType(plans), (*trained, *unseen))


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


# -- Problems ---------------------------------------------------------------------------------------------------------


HeldOut = Literal["none", "numbers", "wording"]

MAX_VALUE = 99  # every number in a problem or a solution lies in 1 .. MAX_VALUE
PROMPT = "Q: {problem}\nA:"
SPLIT_BUCKETS = 16  # of these, 0 and 1 are test, 2 and 3 validation, the rest train

_WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")


@dataclass(frozen=True, slots=True)
class Equation:
    """One worked step."""

    x: int
    op: str
    y: int
    value: int

    def __str__(self) -> str:
        return f"{self.x} {self.op} {self.y} = {self.value}"


@dataclass(frozen=True, slots=True)
class MiniProblem:
    """One word problem with its right answer and where it comes from."""

    id: str
    problem: str
    answer: str
    template: str
    wording: int  # index into the template's wordings
    split: Split
    held_out: HeldOut  # what training has not seen: these numbers, or also this wording
    numbers: tuple[tuple[str, int], ...]  # (slot, value)

    def json(self) -> dict[str, str | int]:
        """Write the problem as a line of a problem file."""
        return {key: getattr(self, key) for key in ("id", "problem", "answer", "template", "wording", "held_out")}


def calculate(x: int, op: str, y: int) -> int:
    """Work out `x op y`; ValueError for a division that is not exact, or a value outside 1 .. 99."""
    if op == "/":
        if y == 0 or x % y:
            raise ValueError(f"{x} cannot be divided by {y} without a rest.")
        return x // y
    value = {"+": x + y, "-": x - y, "*": x * y}[op]
    if not 0 < value <= MAX_VALUE:
        raise ValueError(f"{x} {op} {y} = {value}, but every result must lie between 1 and {MAX_VALUE}.")
    return value


def work_out(steps: Iterable[TemplateStep], numbers: Mapping[str, int]) -> list[Equation]:
    """Work out the equations of a plan; raises ValueError where a step cannot be done."""
    known, worked = dict(numbers), []
    for i, step in enumerate(steps, 1):
        x, y = known[step.left], known[step.right]
        known[f"s{i}"] = calculate(x, step.op, y)
        worked.append(Equation(x, step.op, y, known[f"s{i}"]))
    return worked


def worked_plans(template: Template, numbers: Mapping[str, int]) -> dict[str, list[Equation]]:
    """Work out the equations of every plan that these numbers allow."""
    worked = {}
    for plan in template.plans.values():
        with suppress(ValueError):
            worked[plan.name] = work_out(plan.steps, numbers)
    return worked


def right_plans(template: Template) -> list[Plan]:
    """List the right plans, the main one first."""
    return [plan for plan in template.plans.values() if plan.right]


def split_of(template: str, numbers: Mapping[str, int]) -> Split:
    """Find the split that a template with these numbers belongs to, by a hash that never changes."""
    bucket = zlib.crc32(f"{template}{sorted(numbers.items())}".encode()) % SPLIT_BUCKETS
    return "test" if bucket < 2 else "validation" if bucket < 4 else "train"


def draw_numbers(rng: random.Random, template: Template, split: Split) -> dict[str, int]:
    """Draw distinct numbers of this split on which no flawed plan is right by luck."""
    while True:
        numbers = {name: rng.randint(low, high) for name, (low, high) in template.slots.items()}
        if len(set(numbers.values())) < len(numbers) or split_of(template.name, numbers) != split:
            continue
        results = {name: equations[-1].value for name, equations in worked_plans(template, numbers).items()}
        right = {results.get(plan.name) for plan in right_plans(template)}
        flawed = {results.get(plan.name) for plan in template.plans.values() if not plan.right}
        if len(results) == len(template.plans) and len(right) == 1 and not right & flawed:
            return numbers


def right_answer(template: Template, numbers: Mapping[str, int]) -> int:
    """Work out the answer by the first right plan that can be done; raises the main plan's ValueError if none can."""
    worked, right = worked_plans(template, numbers), right_plans(template)
    done = next((worked[plan.name] for plan in right if plan.name in worked), None)
    return (done or work_out(right[0].steps, numbers))[-1].value


def compose(template: str, wording: int, names: Sequence[str], thing: str, numbers: Sequence[int]) -> MiniProblem:
    """Put a problem together and work out its right answer; a ValueError says in a sentence why it cannot be.

    Args:
        template: a key of `TEMPLATES`.
        wording: index into that template's wordings; the first of every choice of words is taken.
        names: two different ones. thing: a lower-case plural. numbers: in the order of the slots.
    """
    if template not in TEMPLATES:
        raise ValueError(f"There is no template {template!r}.")
    chosen = TEMPLATES[template]
    if not 0 <= wording < len(chosen.wordings):
        raise ValueError(f"{template} has the wordings 0 to {len(chosen.wordings) - 1}, not {wording}.")
    if len(numbers) != len(chosen.slots):
        raise ValueError(f"This template takes {len(chosen.slots)} numbers, not {len(numbers)}.")
    for (name, (low, high)), number in zip(chosen.slots.items(), numbers, strict=True):
        if not low <= number <= high:
            raise ValueError(f"The number {name} must lie between {low} and {high}, but it is {number}.")
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError("A problem takes two different names.")
    for name in names:
        if not re.fullmatch(r"[A-Z][a-z]+", name):
            raise ValueError(f"A name must be one capitalised word, not {name!r}.")
    if not re.fullmatch(r"[a-z]+", thing):
        raise ValueError(f"The thing must be one lower-case word in the plural, not {thing!r}.")
    text = chosen.wordings[wording].plain()
    return _fill_in(chosen, wording, text, names, thing, dict(zip(chosen.slots, numbers, strict=True)))


def _fill_in(
    template: Template, wording: int, text: str, names: Sequence[str], thing: str, numbers: Mapping[str, int]
) -> MiniProblem:
    """`compose` with a given variant of the wording's text; the numbers by slot."""
    # A held-out wording belongs to its own split, whatever the numbers.
    own = template.wordings[wording].split
    split = own if own != "train" else split_of(template.name, numbers)
    held_out: HeldOut = "wording" if own != "train" else "none" if split == "train" else "numbers"
    name = "-".join(["mini", template.name, str(wording), *map(str, numbers.values())])
    problem = text.format(A=names[0], B=names[1], o=thing, **numbers)
    place = template.name, wording, split, held_out, tuple(numbers.items())
    return MiniProblem(name, problem, str(right_answer(template, numbers)), *place)


def make_problem(
    rng: random.Random,
    split: Split = "train",
    template: str | None = None,
    wording: int | None = None,
    held_out_wording: bool = False,
    text_rng: random.Random | None = None,
) -> MiniProblem:
    """Draw a problem whose numbers belong to `split`.

    Args:
        rng: draws template, wording and numbers.
        split: the split of the numbers, and of the wording where `held_out_wording`, which it then may not be train.
        template, wording: fix the choice; by default any of `TEMPLATES`, any fitting wording.
        text_rng: draws names, thing and variant of the text, so that these leave the numbers alone; default `rng`.
    """
    words = text_rng or rng
    wanted: Split = split if held_out_wording else "train"
    chosen = TEMPLATES[template or rng.choice([t.name for t in TEMPLATES.values() if t.wordings_of(wanted)])]
    if wording is None:
        wording = rng.choice(chosen.wordings_of(wanted))
    numbers = draw_numbers(rng, chosen, split)
    text = words.choice(list(chosen.wordings[wording].variants()))
    return _fill_in(chosen, wording, text, words.sample(NAMES, 2), words.choice(THINGS), numbers)


# -- Reading a typed problem back -------------------------------------------------------------------------------------


LIKENESS = 0.66  # share of words in common, in order, that makes a text resemble a wording


@cache
def _known_words() -> frozenset[str]:
    """Collect the lower-case words of all training wordings, names and things."""
    texts = [template.wordings[i].text for template in TEMPLATES.values() for i in template.wordings_of("train")]
    words = re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts)))
    return frozenset(word.lower() for word in (*NAMES, *THINGS, *words))


def _shape(text: str) -> tuple[str, ...]:
    """Split a text into words, with one sign for every name, one for every thing and one for every number."""
    names, things = set(NAMES), set(THINGS)
    return tuple(
        "A" if word in names else "o" if word.lower() in things else "0" if word.isdigit() else word.lower()
        for word in _WORD.findall(text)
    )


@cache
def _known_shapes() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """List (template, shape) of every variant of every training wording."""
    filled = {"A": NAMES[0], "B": NAMES[1], "o": THINGS[0]}
    shapes = {}
    for template in TEMPLATES.values():
        for i in template.wordings_of("train"):
            for text in template.wordings[i].variants():
                shapes[_shape(text.format(**filled, **dict.fromkeys(template.slots, 1)))] = template.name
    return tuple((name, shape) for shape, name in shapes.items())


def likeness(text: str, count: int) -> float:
    """Measure how much a text resembles the nearest training wording that takes `count` numbers, 0 to 1."""
    matcher: SequenceMatcher[str] = SequenceMatcher(autojunk=False)
    matcher.set_seq2(_shape(text))
    best = 0.0
    for name, known in _known_shapes():
        if len(TEMPLATES[name].slots) != count:
            continue
        matcher.set_seq1(known)
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best:
            best = max(best, matcher.ratio())
    return best


def coverage(text: str) -> str:
    """Say in a sentence why a visitor's text lies outside of what the miniature was trained on; empty inside.

    Inside means: only known words (any of `NAMES` and `THINGS` will do), numbers from 1 to 99 as digits, and words
    that mostly follow a training wording with as many numbers.
    """
    words, numbers = re.findall(r"[^\W\d_]+", text), [int(n) for n in re.findall(r"\d+", text)]
    unknown = list(dict.fromkeys(word for word in words if word.lower() not in _known_words()))
    if not text.strip():
        return "There is no text."
    if unknown:
        shown = ", ".join(unknown[:5]) + (" and more" if len(unknown) > 5 else "")
        return f"It contains words that the miniature has never seen: {shown}."
    if any(not 1 <= n <= MAX_VALUE for n in numbers):
        return f"It contains numbers outside 1 to {MAX_VALUE}."
    counts = sorted({len(template.slots) for template in TEMPLATES.values()})
    if len(numbers) not in counts:
        return f"It has {len(numbers)} numbers; the miniature's problems have {counts[0]} to {counts[-1]}."
    if likeness(text, len(numbers)) < LIKENESS:
        return "It does not resemble any kind of problem that the miniature was trained on."
    return ""


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
