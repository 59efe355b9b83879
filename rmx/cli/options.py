"""Options of the command line, made of the requests that they fill in; and what verbs of several files share.

Whatever cannot be used is an RmxError with a sentence.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from rmx.arguments import API_ONLY, Flag, argument, arguments_of, hints_of, kind_of
from rmx.cli.terminal import JSON_HELP, stopped_by_hand
from rmx.errors import RmxError
from rmx.models.style_options import StyleOptions
from rmx.progress import Progress
from rmx.runs.job import changed_recipe
from rmx.runs.recipe import NONE, PRESETS, Recipe, Section, field_types, help_of
from rmx.service import Request, Site, steps
from rmx.service.checks import flag_of, ignore, read
from rmx.service.requests import ADAPTERS, SPECS, AskingRequest
from rmx.storage.safe_files import whole

if TYPE_CHECKING:
    from rmx.models.load import Placing

Asked = TypeVar("Asked", bound=Request)
Place = tuple[str, int, int, str]  # what is done or counted, at, of, a note
AdapterName = Annotated[str | None, argument(ADAPTERS, Flag(metavar="S"))]
STYLE_GROUP = "prompt (defaults: what the model's family is asked by the paper's code)"


# -- from a request to options, and back ------------------------------------------------------------------------------


class Command(Request):
    """A command that is no request to a model: its options, and what it does."""

    json_help: ClassVar[str | None] = JSON_HELP  # what is said of --json; None: it has none

    def run(self, args: argparse.Namespace) -> None:
        """Do it; `args` has the options that are no fields of it."""
        raise NotImplementedError


class MachineRequest(Request):
    """On what a model is loaded, and how."""

    device: str = argument("auto (CUDA where there is one), cpu, cuda or cuda:N", default="auto")
    dtype: str = argument("auto (bfloat16 on CUDA, else float32), float32, bfloat16 or float16", default="auto")
    quantize: str | None = argument("8bit or 4bit: weights through bitsandbytes (CUDA only)", Flag(metavar="BITS"))
    device_map: str | None = argument("auto: spread the model over all GPUs", Flag(metavar="auto"))

    def placing(self) -> "Placing":
        """How the weights are laid out."""
        from rmx.models.load import Placing

        return Placing(self.quantize, self.device_map)


class NamedRequest(Command):
    """What a command names that loads a model."""

    model: str | None = argument(SPECS, Flag(metavar="S"))


class ModelRequest(MachineRequest, NamedRequest):
    """A model and its machine."""


def add_command(parser: argparse.ArgumentParser, command: type[Command]) -> None:
    """Give a command its options, and have it done with what they say."""
    add_options(parser, command)
    if command.json_help:
        parser.add_argument("--json", action="store_true", help=command.json_help)
    parser.set_defaults(run=lambda args: request_of(args, command).run(args))


def add_request(parser: argparse.ArgumentParser, verb: type[Request]) -> None:
    """Give a verb an option for each argument of its request, and those that say on which machine and how it is done.

    What is measured of the problems of a set is kept on disk, and can be asked not to be.
    """
    add_options(parser, verb)
    add_options(parser, MachineRequest)
    if "tau_share" in verb.model_fields:
        parser.add_argument("--recalibrate", action="store_true", help="make the solutions behind --tau-share anew")
    if "limit" in verb.model_fields:
        parser.add_argument("--no-cache", action="store_true", help="compute everything anew, and keep nothing on disk")
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    add_style(parser)


def add_options(parser: argparse.ArgumentParser, verb: type[Request]) -> None:
    """Give a command an option for each argument of its request but those of the prompt's style."""
    either: Any = None
    for name in arguments_of(verb):
        if flag_of(verb, name).either:
            either = either or parser.add_mutually_exclusive_group()
            _add_option(either, verb, name)
        elif name not in AskingRequest.model_fields:
            _add_option(parser, verb, name)


def add_style(parser: argparse.ArgumentParser) -> None:
    """Give a verb the options of the prompt's style, in a group; `style_of` reads them."""
    group = parser.add_argument_group(STYLE_GROUP)
    for name in AskingRequest.model_fields:
        _add_option(group, AskingRequest, name)


def _add_option(parser: Any, verb: type[Request], name: str) -> None:
    """The option of one argument: its type, choices, default and help are those of the field."""
    field, kind = verb.model_fields[name], kind_of(hints_of(verb)[name])
    if API_ONLY in field.metadata:
        return
    flag, spelled = flag_of(verb, name), _spelled(verb, name)
    told = (flag.help or field.description or "").replace("%", "%%")
    if not (flag.required or isinstance(field.default, bool | None) or "default" in told):
        told += f" (default {field.default:g})" if kind is float else f" (default {field.default})"
    about: dict[str, Any] = {"default": None, "help": told}
    if spelled.startswith("-"):
        about |= {"dest": name, "required": flag.required}
    elif not flag.required:
        about["nargs"] = "?"
    if kind is bool:
        about["action"] = "store_false" if field.default else "store_true"
    elif get_origin(kind) is Literal:
        about["choices"] = get_args(kind)
    else:
        about["metavar"] = flag.metavar or {int: "N", float: "X"}.get(kind, name.upper())
        about |= {"type": kind} if kind in (int, float) else {}
        about |= {"action": "append"} if kind == list[str] else {}
    parser.add_argument(spelled, **about)


def _spelled(verb: type[Request], name: str) -> str:
    """An argument as people write it: `--max-new-tokens`, `--no-placebo`, or PROMPT by position."""
    no = "no-" if verb.model_fields[name].default is True else ""
    return flag_of(verb, name).name or f"--{no}{name.replace('_', '-')}"


def request_of(args: argparse.Namespace, verb: type[Asked], **more: Any) -> Asked:
    """The request that the options ask for. What names a file is read.

    Args:
        more: arguments that have no option of their own.
    """
    given = {name: getattr(args, name, None) for name in arguments_of(verb)} | more
    written = {n: READERS[n](v) if n in READERS and isinstance(v, str) else v for n, v in given.items()}
    return read(verb, written, lambda name: _spelled(verb, name))


def style_of(args: argparse.Namespace) -> StyleOptions:
    """The `StyleOptions` that the arguments give."""
    file = None if args.template is None else str(Path(args.template).expanduser().absolute())
    return request_of(args, AskingRequest).style_options(file)


def document_of(args: argparse.Namespace, request: Request, watch: Callable[[Any], None] = ignore) -> Any:
    """Do what is asked on this machine, and return the document; `watch` hears every state on the way."""
    *_, document = steps(site_of(args, watch), request)
    return document


def study(args: argparse.Namespace, request: Request, place: Callable[[Any], Place | None]) -> Any:
    """Do what takes long with a line of progress, and return the document; Ctrl-C ends it early.

    Args:
        place: what of a report the line says, if anything.
    """
    with stopped_by_hand() as stopped, Progress() as progress:
        site = site_of(args, lambda report: progress(*at) if (at := place(report)) else None)
        *_, document = steps(site, request, stopped)
    return document


def site_of(args: argparse.Namespace, watch: Callable[[Any], None] = ignore) -> Site:
    """This machine, where any path may be named and any amount asked for."""
    from rmx.models.workspace import Workspace

    on = request_of(args, MachineRequest)
    space = Workspace(on.device, on.dtype, placing=on.placing())
    keep, again = not getattr(args, "no_cache", True), getattr(args, "recalibrate", False)
    return Site(space, limits=None, model=default_model(), keep=keep, recalibrate=again, watch=watch)


def default_model() -> str:
    """The model of a command that names none."""
    return os.environ.get("RMX_MODEL", "mini")


def show(args: argparse.Namespace, document: Any, table: Callable[[Any], str], escaped: bool = False) -> None:
    """Print a document, or what it says as text.

    Args:
        escaped: write what is not ASCII as escapes; whoever compares documents byte by byte relies on it.
    """
    print(json.dumps(document, ensure_ascii=escaped) if args.json else table(document))


# -- the recipe of a run -----------------------------------------------------------------------------------------------


def add_recipe(parser: argparse.ArgumentParser, only: Iterable[str] | None = None) -> None:
    """One flag per field; a flag that is not given leaves the preset's value."""
    add_flags(parser.add_argument_group("recipe (defaults: the paper's)"), Recipe, only)


def add_flags(group: Any, recipe: type[Section], only: Iterable[str] | None = None) -> None:
    """A flag for each field; its value is read back by `changed_fields`."""
    types, about = field_types(recipe), help_of(recipe)
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


def changed_fields(args: argparse.Namespace, types: Iterable[str]) -> dict[str, Any]:
    """The fields whose flags were used, by name."""
    values = {name: getattr(args, f"recipe_{name}", None) for name in types}
    return {name: None if value == NONE else value for name, value in values.items() if value is not None}


def recipe_of(args: argparse.Namespace, preset: str = "paper") -> Recipe:
    """The preset with the flags that were given."""
    return changed_recipe(PRESETS[preset], changed_fields(args, field_types()))


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


# -- files ------------------------------------------------------------------------------------------------------------


def read_text(path: str) -> str:
    """The text of a file, or of stdin for '-'."""
    try:
        return whole(sys.stdin.read()) if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RmxError(f"Cannot read {path}: {error}.") from error


def _template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RmxError(f"The template {path} cannot be read: {error}.") from error


def _token_ids(path: str) -> list[int]:
    try:
        ids = json.loads(read_text(path))
    except ValueError as error:
        raise RmxError(f"{path} is not a JSON array of token ids: {error}.") from error
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise RmxError(f"{path} must hold a JSON array of whole numbers (token ids).")
    return ids


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")] if text else []
    except ValueError as error:
        raise RmxError(f"--k takes whole numbers with commas, such as 1,2,4; got '{text}'.") from error


# How the words behind an option become the value of the argument, where they are not the value.
READERS = dict[str, Callable[[str], Any]](read=read_text, template=_template, prompt_ids=_token_ids, k=_numbers)
