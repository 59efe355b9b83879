"""How a value that somebody may choose is declared, once: type, bounds, default and description; and how it is checked.

Requests (rmx/service) are pydantic models of such fields; the settings of a computation are frozen dataclasses of them,
which check themselves when they are made. What pydantic finds wrong with either becomes one sentence.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic.fields import FieldInfo

from rmx.config import NEW_TOKENS
from rmx.errors import RmxError, shown

LARGEST = 2**63 - 1  # of a whole number
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
# In a field's annotation: an argument that came later, which callers by position may not know; one of programs only.
LATER, API_ONLY = "later", "api only"


@dataclass(frozen=True, slots=True)
class Flag:
    """How the command line takes an argument, where that is another way than `--its-name VALUE`."""

    name: str | None = None  # another spelling; without dashes it goes by position
    metavar: str | None = None
    help: str | None = None  # where the command line takes more than programs may send
    required: bool = False
    either: bool = False  # not together with the others of its command that are marked so


@dataclass(frozen=True, slots=True)
class Most:
    """In a field's annotation: the site's limit of this name bounds its value or its length."""

    limit: str


def argument(description: str, *marks: object, default: Any = None, **bounds: Any) -> Any:
    """Declare a field; marks are `Flag`, `Most`, `LATER`, `API_ONLY`, and bounds those of pydantic's `Field`."""
    field = Field(default, description=description, **bounds)
    field.metadata.extend(marks)
    return field


Count = Annotated[int, Field(ge=1)]
Halves = Annotated[int, Field(ge=2, multiple_of=2)]
MOST_SAMPLES = 256  # of one problem
Samples = Annotated[int, Field(ge=1, le=MOST_SAMPLES)]
Draws = Annotated[int, Field(ge=0, le=MOST_SAMPLES)]
Swaps = Annotated[int, Field(ge=1, le=4)]
Share = Annotated[float, Field(gt=0, lt=1)]
Temperature = Annotated[float, argument("sampling temperature; 0 decodes greedily", ge=0, le=10)]
Warm = Annotated[float, argument("temperature of the samples", gt=0, le=10)]
TopP = Annotated[
    float,
    argument("nucleus sampling: the likeliest tokens with this share of the probability are drawn from", gt=0, le=1),
]
Seed = Annotated[int, argument("seed of all random draws", ge=0, le=LARGEST)]


# -- settings ---------------------------------------------------------------------------------------------------------


Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, field_specifiers=(Field, field))
def checked(kind: type[Made]) -> type[Made]:
    """Make a child of `Checked` a frozen dataclass."""
    made: Any = checked_dataclass(frozen=True, config=STRICT)(kind)
    return made  # type: ignore[no-any-return]


@checked
class Checked:
    """Values that are checked when they are made, by the types and bounds of their fields.

    Raises:
        RmxError: a value that cannot be used, or that there is none of this name.
    """

    fault = RmxError  # what is raised

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, given: Any, make: Callable[[Any], Any]) -> Any:
        try:
            return make(given)
        except ValidationError as error:
            raise cls.fault(refusal(cls, error)) from None


@checked
class Sampling(Checked):
    """How tokens are chosen. Temperature 0 is greedy; top-p keeps the token that crosses the threshold."""

    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    seed: Seed = 0
    max_new_tokens: Count = NEW_TOKENS  # bounds the whole completion, kept tokens included

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def label(self) -> str:
        """How a branch made this way is named on screen."""
        if self.greedy:
            return "greedy"
        top_p = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"one draw, T {self.temperature:g}{top_p}, seed {self.seed}"


# -- what is wrong with a value, in words -----------------------------------------------------------------------------


@lru_cache
def hints_of(kind: type) -> dict[str, Any]:
    """The type of every field of a request or of settings, those of a request in the order of its arguments."""
    found = get_type_hints(kind)
    return {name: found[name] for name in arguments_of(kind)}


@lru_cache
def arguments_of(kind: Any) -> dict[str, FieldInfo]:
    """The fields in their order. Those that came later stand behind the others."""
    return dict(sorted(kind.__pydantic_fields__.items(), key=lambda item: LATER in item[1].metadata))


def refusal(kind: type, error: ValidationError, called: Callable[[str], str] = str) -> str:
    """The sentence for the first thing that is wrong; `called` says how a field is called in it."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"{shown(first['input'])} is no {kind.__name__}."
    name = str(first["loc"][0])
    if name not in arguments_of(kind):
        return f"There is no argument {shown(name)}. Known: {', '.join(arguments_of(kind))}."
    if first["type"] == "string_too_long":
        return too_long(called(name), first["input"], first["ctx"]["max_length"])
    return f"{called(name)} must be {_taken(kind, name)}; got {shown(first['input'])}."


def too_long(name: str, text: str, most: int) -> str:
    """The sentence for a text of more characters than are taken."""
    return f"{name} has {len(text):,} characters; {most:,} are the most here. Shorten it."


def kind_of(hint: Any) -> Any:
    """A type without the None that stands for a default."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _taken(owner: type, name: str) -> str:
    """What a field must be, with its bounds."""
    kind = kind_of(hints_of(owner)[name])
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if kind in (int, float):
        return f"a {'whole ' if kind is int else ''}number{_bounds(arguments_of(owner)[name])}"
    words: dict[Any, str] = {
        str: "text",
        bool: "true or false",
        list[str]: "a list of texts",
        tuple[str, ...]: "a list of texts",
        tuple[int, ...]: "a list of whole numbers",
        list[int]: "a list of whole numbers from 0 to 2^31 - 1",
    }
    return words.get(kind) or f"a {kind.__name__}"


def _bounds(field: FieldInfo) -> str:
    """Between what a number must lie, in words."""
    names = ("ge", "gt", "le", "lt", "multiple_of")  # as pydantic's marks have them
    edges = {name: getattr(mark, name) for mark in field.metadata for name in names if hasattr(mark, name)}
    low, high = edges.get("ge", edges.get("gt")), edges.get("le", edges.get("lt"))
    if low is None:
        return ""
    if high is None:
        even = " and even" if edges.get("multiple_of") == 2 else ""
        return f", {low} or more{even}" if "ge" in edges else f" above {low}"
    power = high.bit_length() if isinstance(high, int) else 0
    top = f"2^{power} - 1" if power > 31 and high + 1 == 1 << power else f"{high:,}"
    if "ge" in edges:
        return f" from {low:,} to {top if 'le' in edges else f'below {top}'}"
    return f" above {low} and at most {top}" if "le" in edges else f" between {low} and {top}"
