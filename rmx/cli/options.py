"""`--quantize` and `--device-map` of the verbs that load a model."""

import argparse
from pathlib import Path
from typing import Any

from rmx.errors import RmxError, TrainError


def add_placing(parser: argparse.ArgumentParser) -> None:
    """Add the options to a verb; `placing_of` reads them, `refuse_placing` refuses them."""
    parser.add_argument("--quantize", metavar="BITS", help="8bit or 4bit: weights through bitsandbytes (CUDA only)")
    parser.add_argument("--device-map", metavar="auto", help="auto: spread the model over all GPUs")


def placing_of(args: argparse.Namespace) -> Any:
    """The `Placing` that the arguments give.

    Raises:
        ModelError: a value that is not known.
    """
    from rmx.models.placing import Placing

    return Placing(args.quantize, args.device_map)


def refuse_placing(args: argparse.Namespace) -> None:
    """Refuse the options for training, and for the rollouts that it learns from.

    Raises:
        TrainError: one of them was given.
    """
    if args.quantize or args.device_map:
        flag = "--quantize" if args.quantize else "--device-map"
        raise TrainError(f"Training and its rollouts need the whole weights on one device. Leave {flag} out.")


def add_share(parser: argparse.ArgumentParser) -> None:
    """Define the options that name a threshold by the share of tokens above it."""
    what = "share of tokens that are forks, such as 0.05, instead of --tau: found once from solutions of the set"
    parser.add_argument("--tau-share", type=float, default=None, metavar="X", help=what)
    parser.add_argument("--recalibrate", action="store_true", help="make the solutions behind --tau-share anew")


def add_style(parser: argparse.ArgumentParser) -> None:
    """Add the options to a verb; `style_of` reads them."""
    group = parser.add_argument_group("prompt (defaults: what the model's family is asked by the paper's code)")
    group.add_argument("--style", metavar="NAME", help="a prompt style by its name (rmx doctor lists them)")
    group.add_argument("--system", metavar="TEXT", help="the system line of a chat; '' for none")
    group.add_argument(
        "--template",
        metavar="FILE",
        help="a text with {problem} in it instead of the style's; its last line break is not part of it",
    )
    group.add_argument("--thinking", choices=["on", "off"], help="whether a model that can be told to thinks first")
    group.add_argument(
        "--stop",
        metavar="TEXT",
        action="append",
        help="ends a completion, instead of the style's own; several times; '' for none",
    )
    group.add_argument(
        "--answers",
        choices=["boxed", "flexible"],
        help="what counts as an answer: a box alone, or else what comes nearest to one (default: by set and style)",
    )


def style_of(args: argparse.Namespace) -> Any:
    """The `StyleOptions` that the arguments give.

    Raises:
        RmxError: a template that cannot be read, or options that cannot be used.
    """
    from rmx.models.style_options import StyleOptions

    stops = None if args.stop is None else tuple(stop for stop in args.stop if stop)
    file = None if args.template is None else str(Path(args.template).expanduser().absolute())
    return StyleOptions(
        style=args.style,
        system=args.system,
        template=None if file is None else _template(file),
        thinking=None if args.thinking is None else args.thinking == "on",
        stops=stops,
        answers=args.answers,
        template_file=file,
    )


def _template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RmxError(f"The template {path} cannot be read: {error}.") from error
