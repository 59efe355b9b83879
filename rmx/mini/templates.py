"""The problem templates: numbers, plans of solution, wordings, and how often a writer follows which plan.

This table is where the forks are put into the training data. A plan is a chain of steps `x op y` over the slots and
the earlier results `s1`, `s2`; the last result is the plan's answer. Two plans part at the word that names their next
operation, or where one stops and the other goes on. Each wording has its own weights over the plans, so that some
wordings mislead most writers and others only a few.

Wordings: `[x|y]` stands for either text; `{A}` and `{B}` are names, `{o}` is the thing, the other braces are numbers.
A wording for validation or test is never trained on; it is made of words that training wordings use.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Literal

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
        """Every text that the `[x|y]` choices allow, the plain one first."""
        parts = _CHOICE.split(self.text)
        for choice in product(*(part.split("|") for part in parts[1::2])):
            yield "".join(fixed + chosen for fixed, chosen in zip(parts[::2], (*choice, ""), strict=True))

    def plain(self) -> str:
        """The text with the first of every choice."""
        return next(self.variants())


@dataclass(frozen=True, slots=True)
class Template:
    """A family of word problems that differ in wording, names, thing and numbers."""

    name: str
    summary: str
    slots: Mapping[str, tuple[int, int]]  # number name -> (lowest, highest), both allowed
    plans: Mapping[str, Plan]
    wordings: tuple[Wording, ...]  # training wordings first

    def describe(self) -> str:
        """One line for a list: what happens, and which numbers it takes."""
        ranges = ", ".join(f"{name} {low}-{high}" for name, (low, high) in self.slots.items())
        return f"{self.summary} ({ranges})"

    def wordings_of(self, split: Split) -> tuple[int, ...]:
        """Indices of the wordings that belong to `split`."""
        return tuple(i for i, wording in enumerate(self.wordings) if wording.split == split)


def _plan(name: str, text: str) -> Plan:
    """Read `"!a + b; s1 - c"`; the exclamation mark says that the plan is right."""
    steps = tuple(TemplateStep(*step.split()) for step in text.lstrip("!").split(";"))
    return Plan(name, text.startswith("!"), steps)


def _train(text: str, **weights: float) -> Wording:
    return Wording(text, "train", MappingProxyType(weights))


def _validation(text: str) -> Wording:
    return Wording(text, "validation")


def _test(text: str) -> Wording:
    return Wording(text, "test")


def _template(
    name: str, summary: str, slots: dict[str, tuple[int, int]], plans: dict[str, str], *wordings: Wording
) -> Template:
    read = {key: _plan(key, text) for key, text in plans.items()}
    return Template(name, summary, MappingProxyType(slots), MappingProxyType(read), wordings)


_ALL = (
    _template(
        "gain_give",
        "Someone gets some and gives some away",
        {"a": (8, 50), "b": (3, 30), "c": (2, 25)},
        {"ok": "!a + b; s1 - c", "alt": "!a - c; s1 + b", "sign": "a + b; s1 + c", "stop": "a + b"},
        _train(
            "{A} [has|had] {a} {o}. {A} [finds|gets] {b} more and gives {c} to {B}. How many {o} does {A} have now?",
            ok=0.50,
            alt=0.10,
            sign=0.22,
            stop=0.18,
        ),
        _train(
            "{A} has {a} {o}, gets {b} [more |]from {B}, and [loses|drops] {c}. How many {o} are left?",
            ok=0.36,
            alt=0.26,
            sign=0.22,
            stop=0.16,
        ),
        _train(
            "{A} had {a} {o}. {B} gave {A} {b} more {o}. Later {A} [used|lost] {c} more. How many {o} are there now?",
            ok=0.24,
            alt=0.08,
            sign=0.50,
            stop=0.18,
        ),
        _validation("{A} has {a} {o}. {B} gives {A} {b} more. Then {A} loses {c}. How many {o} does {A} have now?"),
        _test("{A} had {a} {o}, finds {b} more, and gives {c} {o} to {B}. How many {o} does {A} have left?"),
    ),
    _template(
        "more_than",
        "One has more than the other, and both are counted",
        {"a": (12, 50), "b": (3, 20)},
        {"ok": "!a - b; a + s1", "key": "a + b; a + s1", "stop": "a - b", "key1": "a + b"},
        _train(
            "{A} has {a} {o}. That is {b} more than {B} has. How many {o} do they have [in all|together]?",
            ok=0.28,
            key=0.44,
            stop=0.08,
            key1=0.20,
        ),
        _train(
            "{A} has {a} {o}. {B} has {b} [fewer|less]. How many {o} do they have [in all|together]?",
            ok=0.62,
            key=0.14,
            stop=0.18,
            key1=0.06,
        ),
        _train(
            "{A} has {a} {o}, [which is |]{b} more than {B}. How many {o} do {A} and {B} have [together|in all]?",
            ok=0.33,
            key=0.43,
            stop=0.09,
            key1=0.15,
        ),
        _validation("{A} has {a} {o}. That is {b} more than {B}. How many {o} do {A} and {B} have in all?"),
        _test("{A} has {a} {o}, and {B} has {b} fewer. How many {o} do {A} and {B} have together?"),
    ),
    _template(
        "fewer_than",
        "One has fewer than the other, and both are counted",
        {"a": (8, 40), "b": (3, 20)},
        {"ok": "!a + b; a + s1", "key": "a - b; a + s1", "stop": "a + b", "key1": "a - b"},
        _train(
            "{A} has {a} {o}. That is {b} [fewer|less] than {B} has. How many {o} do they have [in all|together]?",
            ok=0.30,
            key=0.48,
            stop=0.12,
            key1=0.10,
        ),
        _train(
            "{A} has {a} {o}. {B} has {b} more. How many {o} do they have [in all|together]?",
            ok=0.36,
            key=0.12,
            stop=0.48,
            key1=0.04,
        ),
        _train(
            "{A} has {a} {o} and {B} has {b} more than that. How many {o} do {A} and {B} have [together|in all]?",
            ok=0.58,
            key=0.15,
            stop=0.22,
            key1=0.05,
        ),
        _validation("{A} has {a} {o}, which is {b} fewer than {B}. How many {o} do they have together?"),
        _test("{A} has {a} {o}. {B} has {b} more than {A}. How many {o} do {A} and {B} have in all?"),
    ),
    _template(
        "bags_left",
        "Bags of things, and some are given away",
        {"k": (2, 9), "b": (3, 12), "c": (2, 20)},
        {"ok": "!k * b; s1 - c", "sum": "k + b; s1 - c", "order": "b - c; k * s1", "stop": "k * b"},
        _train(
            "{A} buys {k} [bags|boxes] with {b} {o} in each and gives {c} {o} to {B}. How many {o} are left?",
            ok=0.58,
            sum=0.17,
            order=0.11,
            stop=0.14,
        ),
        _train(
            "{A} buys {k} bags and {b} {o} go in every bag. Then {A} [loses|sells] {c} {o}. How many {o} are left?",
            ok=0.32,
            sum=0.44,
            order=0.13,
            stop=0.11,
        ),
        _train(
            "{A} has {k} [boxes|bags] of {b} {o}. Then {c} of the {o} are [broken|lost]. "
            "How many {o} does {A} have [now|left]?",
            ok=0.54,
            sum=0.12,
            order=0.21,
            stop=0.13,
        ),
        _validation("{A} has {k} bags with {b} {o} in each. Then {A} gives {c} {o} to {B}. How many {o} are left?"),
        _test("{A} buys {k} boxes of {b} {o}. Then {A} loses {c} {o}. How many {o} does {A} have left?"),
    ),
    _template(
        "pool_share",
        "Two amounts are put together and shared",
        {"a": (6, 60), "b": (6, 40), "k": (2, 6)},
        {"ok": "!a + b; s1 / k", "alt": "!a / k; b / k; s1 + s2", "order": "a / k; s1 + b", "stop": "a + b"},
        _train(
            "{A} has {a} {o} and [finds|gets] {b} more. {A} shares all of them among {k} friends. "
            "How many {o} does each friend get?",
            ok=0.52,
            alt=0.08,
            order=0.29,
            stop=0.11,
        ),
        _train(
            "{A} has {a} {o} for {k} friends. {B} adds {b} more {o} before they are [shared|given away]. "
            "How many {o} does each friend get?",
            ok=0.26,
            alt=0.12,
            order=0.51,
            stop=0.11,
        ),
        _train(
            "{A} has {a} {o} and {B} has {b}. They share all of them among {k} children. "
            "How many {o} does each child get?",
            ok=0.55,
            alt=0.14,
            order=0.18,
            stop=0.13,
        ),
        _validation(
            "{A} has {a} {o}. {B} gives {A} {b} more. {A} shares all of them among {k} friends. "
            "How many {o} does each friend get?"
        ),
        _test(
            "{A} has {a} {o} and {B} adds {b} more. They share all of them among {k} children. "
            "How many {o} does each child get?"
        ),
    ),
    _template(
        "twice",
        "One has several times as many, and both are counted",
        {"a": (2, 33), "k": (2, 9)},
        {"ok": "!a * k; a + s1", "add": "a + k; a + s1", "stop": "a * k"},
        _train(
            "{A} has {a} {o}. {B} has {k} times as many. How many {o} do they have [in all|together]?",
            ok=0.53,
            add=0.15,
            stop=0.32,
        ),
        _train(
            "{A} has {a} {o}, and {B} has {k} for every one of them. How many {o} do they have [in all|together]?",
            ok=0.36,
            add=0.52,
            stop=0.12,
        ),
        _train(
            "{A} has {a} {o} and {B} has {k} times that [number|many]. "
            "How many {o} do {A} and {B} have [together|in all]?",
            ok=0.35,
            add=0.14,
            stop=0.51,
        ),
        _validation("{A} has {a} {o}. {B} has {k} times that number. How many {o} do they have in all?"),
        _test("{A} has {a} {o} and {B} has {k} times as many. How many {o} do {A} and {B} have together?"),
    ),
    _template(
        "times_inverse",
        "One has several times as many, told from the larger side, and the other gets more",
        {"a": (6, 48), "k": (2, 6), "c": (2, 25)},
        {"ok": "!a / k; s1 + c", "key": "a * k; s1 + c", "stop": "a / k", "key1": "a * k"},
        _train(
            "{A} has {a} {o}. That is {k} times as many as {B} has. {B} [gets|finds] {c} more. "
            "How many {o} does {B} have now?",
            ok=0.31,
            key=0.41,
            stop=0.10,
            key1=0.18,
        ),
        _train(
            "{A} has {a} {o}. {B} has only one for every {k} of them. Then {B} [finds|gets] {c} more. "
            "How many {o} does {B} have now?",
            ok=0.58,
            key=0.15,
            stop=0.21,
            key1=0.06,
        ),
        _train(
            "{A} has {a} {o}, [which is |]{k} times as many as {B}. Later {B} gets {c} more {o}. "
            "How many {o} does {B} have [now|in all]?",
            ok=0.34,
            key=0.44,
            stop=0.09,
            key1=0.13,
        ),
        _validation(
            "{A} has {a} {o}. That is {k} times as many as {B}. Then {B} finds {c} more {o}. "
            "How many {o} does {B} have now?"
        ),
        _test(
            "{A} has {a} {o}, which is {k} times as many as {B} has. {B} finds {c} more. "
            "How many {o} does {B} have in all?"
        ),
    ),
    _template(
        "change",
        "Paying for several things and getting money back",
        {"k": (2, 9), "p": (2, 9), "m": (30, 99)},
        {"ok": "!k * p; m - s1", "one": "m - p", "sum": "k + p; m - s1", "stop": "k * p"},
        _train(
            "{A} buys {k} {o} for {p} dollars each and pays with {m} dollars. How many dollars does {A} get back?",
            ok=0.60,
            one=0.15,
            sum=0.12,
            stop=0.13,
        ),
        _train(
            "{A} pays {m} dollars for {k} {o}. The price is {p} dollars for one. How many dollars does {A} get back?",
            ok=0.32,
            one=0.50,
            sum=0.10,
            stop=0.08,
        ),
        _train(
            "{A} [needs|wants] {k} {o}. They cost {p} dollars each. {A} has {m} dollars. "
            "How many dollars does {A} have [left|after that]?",
            ok=0.56,
            one=0.12,
            sum=0.19,
            stop=0.13,
        ),
        _validation("{A} has {m} dollars and buys {k} {o} for {p} dollars each. How many dollars does {A} have left?"),
        _test(
            "{A} wants {k} {o}. The price is {p} dollars each. {A} pays with {m} dollars. "
            "How many dollars does {A} get back?"
        ),
    ),
    _template(
        "days_plus",
        "The same number every day, and some more",
        {"a": (3, 15), "k": (2, 8), "b": (3, 30)},
        {"ok": "!a * k; s1 + b", "order": "a + b; s1 * k", "minus": "a * k; s1 - b", "stop": "a * k"},
        _train(
            "{A} [collects|gets] {a} {o} a day for {k} days and then finds {b} more. How many {o} does {A} have?",
            ok=0.56,
            order=0.16,
            minus=0.11,
            stop=0.17,
        ),
        _train(
            "{A} [collects|finds] {a} {o} a day, with {b} more at the end of {k} days. How many {o} does {A} have?",
            ok=0.30,
            order=0.54,
            minus=0.06,
            stop=0.10,
        ),
        _train(
            "{A} gets {a} {o} every day for {k} days. {B} [brings|adds] {b} more. How many {o} are there [now|in all]?",
            ok=0.34,
            order=0.12,
            minus=0.08,
            stop=0.46,
        ),
        _validation("{A} finds {a} {o} every day for {k} days and then gets {b} more. How many {o} does {A} have?"),
        _test("{A} collects {a} {o} a day for {k} days. Then {B} brings {b} more. How many {o} are there in all?"),
    ),
    _template(
        "pack_rest",
        "Some are taken away and the rest is packed in bags",
        {"a": (12, 80), "b": (4, 40), "k": (2, 6)},
        {"ok": "!a - b; s1 / k", "add": "a + b; s1 / k", "skip": "a / k", "stop": "a - b"},
        _train(
            "{A} has {a} {o}, gives {b} to {B}, and [packs|puts] the rest in bags of {k}. How many bags are there?",
            ok=0.57,
            add=0.09,
            skip=0.22,
            stop=0.12,
        ),
        _train(
            "{A} packs {o} in bags of {k}. There were {a} {o} but {b} more were [broken|lost]. "
            "How many bags are there?",
            ok=0.30,
            add=0.43,
            skip=0.16,
            stop=0.11,
        ),
        _train(
            "{A} wants to pack {a} {o} in bags of {k}, but {b} of [them|the {o}] are broken. "
            "How many bags does {A} [need|get]?",
            ok=0.55,
            add=0.10,
            skip=0.22,
            stop=0.13,
        ),
        _validation(
            "{A} had {a} {o} but {b} of them were lost. {A} packs the rest in bags of {k}. How many bags are there?"
        ),
        _test(
            "{A} has {a} {o} and {b} of them are broken. {A} puts the rest in bags of {k}. How many bags does {A} get?"
        ),
    ),
    _template(
        "each_gives",
        "Several friends each give the same number",
        {"a": (3, 40), "k": (2, 8), "b": (2, 9)},
        {"ok": "!k * b; a + s1", "one": "a + b", "order": "a + b; k * s1", "stop": "k * b"},
        _train(
            "{A} has {a} {o}. Each of {k} [friends|children] gives {A} {b} {o}. How many {o} does {A} have now?",
            ok=0.57,
            one=0.20,
            order=0.10,
            stop=0.13,
        ),
        _train(
            "{A} has {a} {o}. {A} gets {b} {o} from a friend, and there are {k} such friends. "
            "How many {o} does {A} have [now|in all]?",
            ok=0.33,
            one=0.40,
            order=0.15,
            stop=0.12,
        ),
        _train(
            "{A} had {a} {o} and got {b} more from every one of {k} friends. How many {o} does {A} have [in all|now]?",
            ok=0.32,
            one=0.13,
            order=0.43,
            stop=0.12,
        ),
        _validation("{A} has {a} {o} and gets {b} more from each of {k} friends. How many {o} does {A} have now?"),
        _test("{A} had {a} {o}. Then every one of {k} friends gives {A} {b} {o}. How many {o} does {A} have in all?"),
    ),
    _template(
        "extra_fact",
        "One of the numbers is of no use",
        {"a": (6, 40), "y": (7, 14), "b": (3, 30)},
        {"ok": "!a + b", "all": "a + b; s1 + y", "sub": "a - b"},
        _train(
            "{A} has {a} {o}. {A} is {y} years old. {B} gives {A} {b} {o}. How many {o} does {A} have now?",
            ok=0.60,
            all=0.27,
            sub=0.13,
        ),
        _train(
            "{A} has {a} {o} and {y} [cousins|dogs]. {B} brings {b} more {o}. How many {o} are there in all?",
            ok=0.34,
            all=0.53,
            sub=0.13,
        ),
        _train(
            "{A} walks {y} miles to see {B}. {A} has {a} {o} and {B} [gives|brings] {A} {b} more. "
            "How many {o} does {A} have [now|in all]?",
            ok=0.57,
            all=0.16,
            sub=0.27,
        ),
        _validation("{A} is {y} years old and has {a} {o}. {B} brings {A} {b} more. How many {o} does {A} have now?"),
        _test("{A} has {y} cousins and {a} {o}. {B} gives {A} {b} more {o}. How many {o} does {A} have in all?"),
    ),
    _template(
        "two_groups",
        "Bags and boxes are counted together",
        {"k": (2, 7), "b": (2, 9), "m": (2, 7), "d": (2, 9)},
        {
            "ok": "!k * b; m * d; s1 + s2",
            "flat": "k + b; m + d; s1 + s2",
            "forget": "k * b; s1 + d",
            "half": "k * b; m * d",
        },
        _train(
            "{A} has {k} bags with {b} {o} in each and {m} boxes with {d} {o} in each. "
            "How many {o} does {A} have [in all|now]?",
            ok=0.55,
            flat=0.16,
            forget=0.16,
            half=0.13,
        ),
        _train(
            "{A} buys {k} bags of {b} {o} and {m} boxes of {d} {o}. How many {o} are there [in all|now]?",
            ok=0.30,
            flat=0.54,
            forget=0.08,
            half=0.08,
        ),
        _train(
            "{A} has {k} bags of {b} {o}. {B} has {m} boxes of {d}. How many {o} do they have [together|in all]?",
            ok=0.32,
            flat=0.08,
            forget=0.52,
            half=0.08,
        ),
    ),
    _template(
        "how_many_more",
        "Two amounts are compared after one has grown",
        {"a": (30, 99), "b": (5, 30), "c": (3, 20)},
        {"ok": "!b + c; a - s1", "alt": "!a - b; s1 - c", "sign": "a - b; s1 + c", "stop": "b + c", "diff": "a - b"},
        _train(
            "{A} has {a} {o}. {B} has {b} and [finds|gets] {c} more. How many more {o} does {A} have than {B}?",
            ok=0.46,
            alt=0.13,
            sign=0.12,
            stop=0.13,
            diff=0.16,
        ),
        _train(
            "{A} has {a} {o} and {B} has {b}. Then {B} [gets|finds] {c} more. "
            "How many fewer {o} does {B} have than {A}?",
            ok=0.22,
            alt=0.11,
            sign=0.42,
            stop=0.08,
            diff=0.17,
        ),
        _train(
            "{A} [collects|has] {a} {o}. {B} [collects|has] {b} [one day|on Monday] and {c} the next day. "
            "How many more {o} does {A} have?",
            ok=0.29,
            alt=0.09,
            sign=0.08,
            stop=0.12,
            diff=0.42,
        ),
    ),
    _template(
        "share_then_add",
        "Shared first, then each gets some more",
        {"a": (12, 90), "k": (2, 6), "b": (2, 12)},
        {"ok": "!a / k; s1 + b", "order": "a + b; s1 / k", "sign": "a / k; s1 - b", "stop": "a / k"},
        _train(
            "{A} shares {a} {o} among {k} friends. Then each friend gets {b} more. "
            "How many {o} does each friend have [now|in all]?",
            ok=0.57,
            order=0.18,
            sign=0.10,
            stop=0.15,
        ),
        _train(
            "{A} has {a} {o} for {k} friends, and {B} gives {b} more to every friend. "
            "How many {o} does each friend [get|have]?",
            ok=0.30,
            order=0.54,
            sign=0.06,
            stop=0.10,
        ),
        _train(
            "{k} children share {a} {o}. Later every child finds {b} more {o}. "
            "How many {o} does each child have [now|in all]?",
            ok=0.34,
            order=0.11,
            sign=0.10,
            stop=0.45,
        ),
        _validation(
            "{A} shares {a} {o} among {k} friends. {B} gives {b} more to each friend. "
            "How many {o} does each friend have?"
        ),
        _test("{k} friends share {a} {o}. Then each friend gets {b} more. How many {o} does each friend have now?"),
    ),
    _template(
        "boxes_sold",
        "Some of the boxes are sold and what they held is gone",
        {"k": (4, 11), "b": (2, 9), "c": (2, 8)},
        {"ok": "!k - c; s1 * b", "alt": "!k * b; c * b; s1 - s2", "unit": "k * b; s1 - c", "stop": "k - c"},
        _train(
            "{A} has {k} boxes with {b} {o} in each and sells {c} [boxes|of the boxes]. How many {o} are left?",
            ok=0.47,
            alt=0.12,
            unit=0.25,
            stop=0.16,
        ),
        _train(
            "{A} has {b} {o} in each of {k} bags. {A} gives {c} [bags|of the bags] to {B}. "
            "How many {o} does {A} have [left|now]?",
            ok=0.24,
            alt=0.11,
            unit=0.52,
            stop=0.13,
        ),
        _train(
            "{A} buys {k} boxes of {o} and [loses|drops] {c} of the boxes. There are {b} {o} in every box. "
            "How many {o} does {A} have [now|left]?",
            ok=0.28,
            alt=0.07,
            unit=0.18,
            stop=0.47,
        ),
        _validation(
            "{A} buys {k} bags with {b} {o} in each and gives {c} of the bags to {B}. How many {o} does {A} have left?"
        ),
        _test("{A} has {k} boxes of {b} {o} and loses {c} of the boxes. How many {o} are left?"),
    ),
    _template(
        "price_total",
        "Several things and a bag are paid for",
        {"k": (2, 9), "p": (2, 9), "m": (2, 25)},
        {"ok": "!k * p; s1 + m", "order": "p + m; k * s1", "minus": "k * p; s1 - m", "stop": "k * p"},
        _train(
            "{A} buys {k} {o} for {p} dollars each and a bag for {m} dollars. "
            "How many dollars does {A} pay [in all|together]?",
            ok=0.57,
            order=0.15,
            minus=0.10,
            stop=0.18,
        ),
        _train(
            "{A} pays {p} dollars each for {k} {o} and then {m} dollars for a [bag|box]. "
            "How many dollars does {A} [pay|need]?",
            ok=0.55,
            order=0.21,
            minus=0.09,
            stop=0.15,
        ),
        _train(
            "The price of {o} is {p} dollars each, with {m} dollars for a bag. {A} wants {k} {o} and one bag. "
            "How many dollars does {A} [need|pay]?",
            ok=0.30,
            order=0.54,
            minus=0.06,
            stop=0.10,
        ),
        _validation(
            "{A} wants {k} {o} and a bag. The {o} cost {p} dollars each and the bag is {m} dollars. "
            "How many dollars does {A} need?"
        ),
        _test(
            "{A} buys {k} {o} and a box. The price is {p} dollars for each and {m} dollars for the box. "
            "How many dollars does {A} pay?"
        ),
    ),
    _template(
        "sell_spend",
        "Things are sold and some of the money is spent",
        {"k": (2, 12), "p": (2, 9), "m": (2, 25)},
        {"ok": "!k * p; s1 - m", "sum": "k + p; s1 - m", "sign": "k * p; s1 + m", "stop": "k * p"},
        _train(
            "{A} sells {k} {o} for {p} dollars each and [then |]spends {m} dollars. "
            "How many dollars does {A} have left?",
            ok=0.56,
            sum=0.14,
            sign=0.16,
            stop=0.14,
        ),
        _train(
            "{A} gets {p} dollars for each of {k} {o}. Then {A} [gives|pays] {B} {m} dollars more. "
            "How many dollars does {A} have now?",
            ok=0.31,
            sum=0.11,
            sign=0.44,
            stop=0.14,
        ),
        _train(
            "{A} sells {k} {o}. The price is {p} dollars for one. {A} [pays|gives] {m} of the dollars to {B}. "
            "How many dollars are left?",
            ok=0.30,
            sum=0.54,
            sign=0.08,
            stop=0.08,
        ),
        _validation(
            "{A} sells {k} {o} for {p} dollars each and gives {m} dollars to {B}. How many dollars does {A} have now?"
        ),
        _test("{A} gets {p} dollars for each of {k} {o} and then spends {m} dollars. How many dollars are left?"),
    ),
    _template(
        "box_more",
        "Every box gets some more",
        {"a": (2, 15), "k": (2, 7), "b": (2, 12)},
        {"ok": "!a + b; s1 * k", "alt": "!a * k; b * k; s1 + s2", "order": "a * k; s1 + b", "stop": "a * k"},
        _train(
            "There are {a} {o} in each of {k} boxes. {A} puts {b} more in every box. "
            "How many {o} are there [in all|now]?",
            ok=0.55,
            alt=0.10,
            order=0.22,
            stop=0.13,
        ),
        _train(
            "{A} has {k} boxes of {a} {o}, and {b} more go in every box. How many {o} are there [in all|now]?",
            ok=0.25,
            alt=0.11,
            order=0.50,
            stop=0.14,
        ),
        _train(
            "{A} puts {a} {o} and then {b} more in each of {k} [bags|boxes]. How many {o} does {A} [need|pack]?",
            ok=0.57,
            alt=0.14,
            order=0.17,
            stop=0.12,
        ),
    ),
    _template(
        "gives_each",
        "The same number is given to each of several friends",
        {"a": (20, 99), "k": (2, 8), "b": (2, 9)},
        {"ok": "!k * b; a - s1", "one": "a - b", "sign": "k * b; a + s1", "stop": "k * b"},
        _train(
            "{A} has {a} {o} and gives {b} to each of {k} [friends|children]. How many {o} are left?",
            ok=0.56,
            one=0.19,
            sign=0.10,
            stop=0.15,
        ),
        _train(
            "{A} has {a} {o}. {A} gives {b} {o} to a friend, and there are {k} such friends. "
            "How many {o} does {A} have [left|now]?",
            ok=0.31,
            one=0.53,
            sign=0.07,
            stop=0.09,
        ),
        _train(
            "{k} children get {b} {o} each from {A}. {A} had {a} {o} [before that|before]. "
            "How many {o} does {A} have [now|left]?",
            ok=0.32,
            one=0.10,
            sign=0.08,
            stop=0.50,
        ),
        _validation("{A} had {a} {o} and gives {b} {o} to every one of {k} children. How many {o} does {A} have now?"),
        _test("{A} has {a} {o}. Each of {k} friends gets {b} {o} from {A}. How many {o} are left?"),
    ),
    _template(
        "three_days",
        "Two days of collecting and one of losing",
        {"a": (6, 40), "b": (2, 20), "c": (2, 20)},
        {
            "ok": "!a + b; a + s1; s2 - c",
            "once": "a + b; s1 - c",
            "less": "a - b; a + s1; s2 - c",
            "stop": "a + b; a + s1",
        },
        _train(
            "On Monday {A} [finds|collects] {a} {o}. On Tuesday {A} [finds|collects] {b} more than on Monday. "
            "On Wednesday {A} loses {c}. How many {o} does {A} have now?",
            ok=0.52,
            once=0.22,
            less=0.13,
            stop=0.13,
        ),
        _train(
            "{A} gets {a} {o} on Monday and {b} more than that on Tuesday. {A} [gives|sells] {c} on Wednesday. "
            "How many {o} are left?",
            ok=0.31,
            once=0.51,
            less=0.08,
            stop=0.10,
        ),
        _train(
            "One day {A} collects {a} {o}, and the next day {b} more than that. Later {A} gives {c} to {B}. "
            "How many {o} does {A} have [now|left]?",
            ok=0.54,
            once=0.14,
            less=0.18,
            stop=0.14,
        ),
    ),
    _template(
        "times_loses",
        "Several times as many, and then some are lost",
        {"a": (4, 30), "k": (2, 7), "c": (2, 25)},
        {"ok": "!a * k; s1 - c", "add": "a + k; s1 - c", "order": "a - c; s1 * k", "stop": "a * k"},
        _train(
            "{A} has {a} {o}. {B} had {k} times as many and [then |]lost {c}. How many {o} does {B} have now?",
            ok=0.56,
            add=0.16,
            order=0.14,
            stop=0.14,
        ),
        _train(
            "{B} has {k} {o} for every one that {A} has. {A} has {a}, and {B} [loses|sells] {c}. "
            "How many {o} does {B} have [left|now]?",
            ok=0.29,
            add=0.53,
            order=0.08,
            stop=0.10,
        ),
        _train(
            "{A} has {a} {o} and {B} has {k} times that number. {B} gives {c} away. "
            "How many {o} does {B} have [left|now]?",
            ok=0.30,
            add=0.10,
            order=0.46,
            stop=0.14,
        ),
    ),
    _template(
        "keeps_sells",
        "Some are kept and the rest is sold",
        {"a": (6, 24), "b": (2, 12), "p": (2, 9)},
        {"ok": "!a - b; s1 * p", "all": "a * p", "late": "a * p; s1 - b", "stop": "a - b"},
        _train(
            "{A} has {a} {o}, keeps {b}, and sells the rest for {p} dollars each. How many dollars does {A} get?",
            ok=0.55,
            all=0.18,
            late=0.12,
            stop=0.15,
        ),
        _train(
            "{A} sells {o} for {p} dollars each. There were {a} {o}, but {b} of them were [lost|broken] before that. "
            "How many dollars does {A} get?",
            ok=0.33,
            all=0.39,
            late=0.15,
            stop=0.13,
        ),
        _train(
            "{A} had {a} {o} and gave {b} to {B}. {A} sells all the others for {p} dollars each. "
            "How many dollars does {A} get?",
            ok=0.54,
            all=0.12,
            late=0.19,
            stop=0.15,
        ),
        _validation(
            "{A} has {a} {o} and gives {b} to {B}. {A} sells the rest for {p} dollars each. "
            "How many dollars does {A} get?"
        ),
        _test(
            "{A} had {a} {o} but {b} of them were broken. {A} sells all the others for {p} dollars each. "
            "How many dollars does {A} get?"
        ),
    ),
    _template(
        "equal_bags",
        "Packed in equal bags, and one bag is given away",
        {"a": (8, 88), "k": (2, 9)},
        {"ok": "!a / k; a - s1", "stop": "a / k", "sub": "a - k", "sign": "a / k; a + s1"},
        _train(
            "{A} packs {a} {o} in {k} equal bags and gives one bag to {B}. How many {o} does {A} have left?",
            ok=0.55,
            stop=0.18,
            sub=0.16,
            sign=0.11,
        ),
        _train(
            "{A} has {k} equal boxes with {a} {o} in all. One box is [lost|broken]. How many {o} are [there now|left]?",
            ok=0.33,
            stop=0.44,
            sub=0.13,
            sign=0.10,
        ),
        _train(
            "{A} puts {a} {o} in {k} equal boxes and then sells one of [them|the boxes]. How many {o} are left?",
            ok=0.30,
            stop=0.10,
            sub=0.52,
            sign=0.08,
        ),
    ),
)

TEMPLATES: Mapping[str, Template] = MappingProxyType({template.name: template for template in _ALL})
