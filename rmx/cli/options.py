"""Options that several verbs share, each declared once: its type, its default and its help."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmx.errors import RmxError, TrainError

OPTIONS: dict[str, dict[str, Any]] = {
    "prompt": {"nargs": "?", "metavar": "PROMPT", "help": "a problem in your own words"},
    "--problem": {"metavar": "ID", "help": "a problem of the set, by its id or its 0-based index"},
    "--set": {"default": "mini", "metavar": "NAME", "help": "a problem set (rmx sets lists them) or a file"},
    "--answer": {"metavar": "A", "help": "the known answer of the prompt, which its solution is graded against"},
    "--raw": {"action": "store_true", "help": "send the prompt to the model as it stands, without a template"},
    "--limit": {"type": int, "metavar": "N", "help": "take the first N problems of the set (default: all of them)"},
    "--tau": {"type": float, "help": "entropy in nats above which a token is a fork (default: the model's own)"},
    "--temperature": {"type": float, "default": 0.0, "help": "sampling temperature; 0 decodes greedily (default)"},
    "--top-p": {"type": float, "default": 1.0, "help": "nucleus sampling: share of probability drawn from (default 1)"},
    "--seed": {"type": int, "default": 0, "help": "seed of all random draws (default 0)"},
    "--max-new-tokens": {"type": int, "default": 512, "help": "upper bound of a completion, in tokens (default 512)"},
    "--no-cache": {"action": "store_true", "help": "compute everything anew, and keep nothing on disk"},
    "--json": {"action": "store_true", "help": "print a JSON document instead of text"},
    "--pair": {"metavar": "NAME", "help": "a known pair of base and adapted model (rmx doctor lists them)"},
    "--teacher": {"metavar": "S", "help": "the adapted model as a full checkpoint, instead of --adapter"},
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, *names: str, **changed: Mapping[str, Any]) -> None:
    """Give a verb options of the table.

    Args:
        names: as they stand in the table.
        changed: what is different for this verb, by the option's name in Python: `seed={"default": 7}`.
    """
    for name in names:
        parser.add_argument(name, **{**OPTIONS[name], **changed.get(name.lstrip("-").replace("-", "_"), {})})


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
