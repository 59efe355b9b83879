"""Arguments that come from outside: every one is checked, and what is wrong with it is said in a sentence.

Models, adapters and problem sets are named by presets, Hub ids, bundled names and run ids. A path of this machine is
never one of them, whoever asks.
"""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rmx.config import MOST_NAME, is_number, is_whole
from rmx.data.problem_files import MAX_ANSWER_CHARS, MAX_PROBLEM_CHARS
from rmx.data.problem_sets import SETS, split_name
from rmx.errors import ModelError, ProblemError, RmxError, SwapError
from rmx.errors import shown as shown
from rmx.models.adapter_names import run_adapter
from rmx.models.presets import PRESETS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@[A-Za-z0-9][\w.-]{0,99})?")
LARGEST = 2**63  # of a whole number
LATER = {"later": True}  # metadata of a field


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for at most, of the API and of a page alike."""

    max_new_tokens: int = 4096
    problems: int = 200
    samples: int = 256  # of each alternative
    budget: int = 200_000  # tokens
    characters: int = MAX_PROBLEM_CHARS  # of a prompt or a text to read
    answer: int = MAX_ANSWER_CHARS  # characters of a known answer
    name: int = MOST_NAME  # characters of a model's, an adapter's or a set's name, and of one field of a recipe
    swaps: int = 32
    forks: int = 64


def hints_of(verb: type) -> dict[str, tuple[Any, str]]:
    """Argument -> its type and what it means, from the fields of a verb: `name: Annotated[type, "meaning"]`.

    Callers may give arguments by position, so those that verbs have been given later (`LATER`) stand behind the others.
    """
    found = get_type_hints(verb, include_extras=True)
    ordered = sorted(fields(verb), key=lambda f: f.metadata == LATER)
    return {f.name: (found[f.name].__origin__, found[f.name].__metadata__[0]) for f in ordered}


def count_later(verb: type) -> int:
    """How many arguments of a verb stand last because they came later."""
    return sum(f.metadata == LATER for f in fields(verb))


def checked(verb: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are given, of the right type; null stands for the default.

    Raises:
        RmxError: an argument that there is not, or a value of another type.
    """
    known = hints_of(verb)
    for name in given:
        if name not in known:
            raise RmxError(f"There is no argument {shown(name)}. Known: {', '.join(known)}.")
    return {name: typed(name, value, known[name][0]) for name, value in given.items() if value is not None}


def typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type of an argument.

    Raises:
        RmxError: it is of another one.
    """
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if _is_union(hint) else [hint]
    kind = kinds[0]
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and _is_whole(value):
        return int(value)
    if kind is float and _is_number(value):
        return float(value)
    if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
        return value
    if kind == list[int] and isinstance(value, list) and all(map(_is_whole, value)):
        return [int(v) for v in value]
    if kind == list[str] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return list(value)
    raise RmxError(f"{name} must be {_called(kind)}; got {shown(value)}.")


def between(name: str, value: int, low: int, high: int) -> int:
    """`value`, or a sentence where it lies outside.

    Raises:
        RmxError: it does.
    """
    if not low <= value <= high:
        raise RmxError(f"{name} must lie between {low} and {high:,} here; got {value}.")
    return value


def short_enough(name: str, text: str | None, most: int) -> str | None:
    """`text`, or a sentence where it is too long.

    Raises:
        RmxError: it is.
    """
    if text is not None and len(text) > most:
        raise RmxError(f"{name} has {len(text):,} characters; {most:,} are the most here. Shorten it.")
    return text


def swaps_of(text: str, most: int) -> tuple[tuple[int, int], ...]:
    """`"28=879,40=12"` as pairs of position and token id.

    Raises:
        SwapError: none, too many, or something else than pairs of whole numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = [re.fullmatch(r"(\d{1,9})\s*=\s*(\d{1,9})", part, re.ASCII) for part in parts]
    if not parts or not all(found):
        raise SwapError(f"swaps are POSITION=TOKEN_ID, separated by commas, such as 28=879; got {shown(text)}.")
    if len(parts) > most:
        raise SwapError(f"{len(parts)} swaps are too many; {most} are the most here.")
    return tuple((int(m[1]), int(m[2])) for m in found if m)


def model_name(spec: str, own: str) -> str:
    """A model's name. `own` is the one that whoever runs the app has chosen, whatever it is.

    Raises:
        ModelError: it is a path, or no name at all.
    """
    if spec == own or spec.partition("@")[0] in PRESETS or _on_the_hub(spec):
        return spec
    raise ModelError(f"There is no model {shown(spec)} here. Name a preset ({', '.join(PRESETS)}) or a Hub id.")


def adapter_name(spec: str, bundled: list[str]) -> str:
    """An adapter's name.

    Raises:
        ModelError: it is a path, or no name at all.
    """
    if spec in bundled or _on_the_hub(spec) or (len(spec) < 200 and run_adapter(spec) is not None):
        return spec
    known = ", ".join(bundled) or "none is bundled with this model"
    raise ModelError(f"There is no adapter {shown(spec)} here. Bundled: {known}. Or name a run or a Hub id.")


def set_name(name: str) -> str:
    """A problem set's name.

    Raises:
        ProblemError: it is a path, or not one of the sets.
    """
    if split_name(name)[0] not in SETS:
        raise ProblemError(f"There is no problem set {shown(name)} here. Sets are {', '.join(SETS)}.")
    return name.strip()


def _on_the_hub(spec: str) -> bool:
    """Whether it can only mean a repository of the Hub: no folder of this machine is called so."""
    return bool(HUB_ID.fullmatch(spec)) and not Path(spec).exists() and not Path(spec.partition("@")[0]).exists()


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _is_whole(value: Any) -> bool:
    return is_whole(value) and abs(value) < LARGEST


def _is_number(value: Any) -> bool:
    return is_number(value) and abs(value) < LARGEST


def _called(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(kind, "a list of texts" if kind == list[str] else "a list of whole numbers")
