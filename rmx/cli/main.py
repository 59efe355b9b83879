"""Arguments to library calls. `--json` prints one document on stdout; everything else goes to stderr.

Exit codes: 0 done, 2 the user's mistake (one line says what and what to do), 1 a fault of ours.
"""

import argparse
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from rmx import __version__
from rmx.config import ASSETS
from rmx.errors import RmxError, shown
from rmx.storage.safe_files import whole

# What each verb is for, and the module of rmx.cli that has it: as a `VerbCommand`, to which `define_VERB` may add
# options, or by that function alone. A verb that has neither there is a request and no more; `run_VERB` does it.
VERBS = {
    "serve": ("open the app", "machine"),
    "trace": ("one solution with the distribution behind every token", "explore"),
    "outcomes": ("what each alternative of a place is worth, by sampling on from it", "explore"),
    "rescue": ("the fewest swaps that turn a wrong answer right, or break a right one", "explore"),
    "sofar": ("the answer that the model would give at the end of each sentence", "explore"),
    "export": ("a trace or a tree as one HTML file that opens offline", "explore"),
    "shifts": ("where base and adapted model part", "explore"),
    "intervene": ("patch tokens of the base and count right answers", "explore"),
    "claims": ("the paper's claims, measured on your model", "sets"),
    "locator": ("does high entropy find the tokens that decide?", "sets"),
    "rollouts": ("sample and grade solutions of the base, with entropies", "train"),
    "train": ("ReasonMaxxer: rollouts, gate, contrastive LoRA", "train"),
    "recipe": ("the commands that make a real pair and measure it: RL, ReasonMaxxer, test, claims", "train"),
    "distill": ("a LoRA on the base that follows a teacher's distributions", "train"),
    "eval": ("accuracy with intervals: greedy, pass@k, majority; models side by side", "sets"),
    "runs": ("list, show, stop, resume and remove training runs", "runs"),
    "sets": ("list the problem sets: splits, sizes, licence, source", "sets"),
    "cost": ("hourly rates of machines, and what the runs cost at them", "runs"),
    "deploy": ("create or update a Hugging Face Space from this checkout", "machine"),
    "bench": ("measure this machine; ratios within one run", "machine"),
    "doctor": ("say what is here: device, packages, models", "machine"),
    "api": ("say how programs call a running app: Python, HTTP, MCP", "machine"),
}


class Parser(argparse.ArgumentParser):
    """Argparse whose complaints are one line on stderr and exit code 2; options are defined when a verb is called."""

    define: Callable[["Parser"], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.define is not None:
            define, self.define = self.define, None
            define(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See '{self.prog} --help'.\n")


def read_help() -> dict[str, str]:
    """What stands below the options in each verb's help: what it is for, and examples, which a test runs."""
    parts = re.split(r"^=== (\w+)\n", (ASSETS / "help.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {verb: text.removesuffix("\n") for verb, text in zip(parts[1::2], parts[2::2], strict=True)}


def _define(verb: str, module: str, parser: Parser) -> None:
    parser.epilog, parser.formatter_class = read_help().get(verb), argparse.RawDescriptionHelpFormatter
    home = importlib.import_module(f"rmx.cli.{module}")
    command, define = (getattr(home, name, None) for name in (f"{verb.title()}Command", f"define_{verb}"))
    if command or not define:
        from rmx.cli.options import add_command, add_request
        from rmx.service import VERBS as REQUESTS

        if command:
            add_command(parser, command)
        else:
            add_request(parser, REQUESTS[verb])
            parser.set_defaults(run=getattr(home, f"run_{verb}"))
    if define:
        define(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `rmx`; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if odd := next((word for word in given if word != whole(word)), None):
        print(f"rmx: {shown(odd)} is not text in UTF-8. Write it in UTF-8, or rename the file.", file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet_transformers()
    args = _parser().parse_args(given)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        result: int | None = args.run(args)
        return result or 0
    except RmxError as error:
        print(f"rmx {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rmx: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _quiet_transformers() -> None:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():  # a log is told in lines, see rmx/progress.py
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # PEFT still asks transformers for a property by its old name.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


# -- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rmx", description="Fork tokens of a language model's reasoning: see, swap, test.")
    parser.add_argument("--version", action="version", version=f"rmx {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for verb, (about, module) in VERBS.items():
        sentence = about[0].upper() + about[1:] + ("" if about.endswith("?") else ".")
        verbs.add_parser(verb, help=about, description=sentence).define = partial(_define, verb, module)
    return parser
