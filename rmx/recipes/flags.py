"""The recipe as flags of the command line, made from its fields, so that none can be forgotten."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from rmx.recipes.recipe import HELP, PRESETS, Recipe, Section, field_types, help_of

NONE = "none"


def add_recipe(parser: argparse.ArgumentParser, only: Iterable[str] | None = None) -> None:
    """One flag per field; a flag that is not given leaves the preset's value."""
    add_flags(parser.add_argument_group("recipe (defaults: the paper's)"), Recipe, only)


def add_flags(group: Any, recipe: type[Section], only: Iterable[str] | None = None) -> None:
    """A flag for each field; its value is read back by `given`."""
    types, about = field_types(recipe), HELP | help_of(recipe)
    for name, kind in types.items():
        if only is not None and name not in only:
            continue
        options: dict[str, Any] = {"dest": f"recipe_{name}", "default": None, "help": about[name]}
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(kind) is Literal:
            group.add_argument(flag, choices=get_args(kind), **options)
        else:
            group.add_argument(flag, metavar="X", type=_reader(kind), **options)


def given(args: argparse.Namespace, types: Iterable[str]) -> dict[str, Any]:
    """The fields whose flags were used, by name."""
    values = {name: getattr(args, f"recipe_{name}", None) for name in types}
    return {name: None if value == NONE else value for name, value in values.items() if value is not None}


def recipe_of(args: argparse.Namespace, preset: str = "paper") -> Recipe:
    """The preset with the flags that were given."""
    return changed_recipe(PRESETS[preset], given(args, field_types()))


def changed_recipe(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some fields; a threshold takes the place of a share of tokens, or that of it."""
    other = {"tau_share": None} if "tau" in given else {}
    if given.get("tau_share") is not None and "tau" not in given:
        other = {"tau": None}
    return recipe.with_(**other | dict(given))


def _reader(kind: Any) -> Callable[[str], Any]:
    """What turns a word of the command line into a field's value; argparse says "invalid <its name> value"."""
    kinds = get_args(kind)
    optional = type(None) in kinds

    def read(word: str) -> Any:
        if get_origin(kind) is tuple:
            return tuple(w.strip() for w in word.split(",") if w.strip())
        return NONE if optional and word == NONE else (kinds[0] if optional else kind)(word)

    whole = "whole number" if kind is int else "number"
    read.__name__ = "number or none" if optional else "list" if get_origin(kind) is tuple else whole
    return read
