"""Arguments to library calls. `--json` prints one document on stdout; everything else goes to stderr.

Exit codes: 0 done, 2 the user's mistake (one line says what and what to do), 1 a fault of ours.
"""

import argparse
import importlib
import json
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

# What each verb is for, and the module of rmx.cli that has it: `define_VERB` gives it its options once it is called. A
# verb without it is a request and no more; `run_VERB` then does it.
VERBS = {
    "serve": ("open the app", "main"),
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
    "distill": ("a LoRA on the base that follows a teacher's distributions", "train"),
    "eval": ("accuracy with intervals: greedy, pass@k, majority; models side by side", "sets"),
    "runs": ("list, show, stop, resume and remove training runs", "runs"),
    "sets": ("list the problem sets: splits, sizes, licence, source", "sets"),
    "cost": ("hourly rates of machines, and what the runs cost at them", "runs"),
    "deploy": ("create or update a Hugging Face Space from this checkout", "deploy"),
    "bench": ("measure this machine; ratios within one run", "main"),
    "doctor": ("say what is here: device, packages, models", "main"),
    "api": ("say how programs call a running app: Python, HTTP, MCP", "main"),
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
    if define := getattr(home, f"define_{verb}", None):
        define(parser)
        return
    from rmx.cli.options import add_request
    from rmx.service import VERBS as REQUESTS

    add_request(parser, REQUESTS[verb])
    parser.set_defaults(run=getattr(home, f"run_{verb}"))


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


# -- verbs ------------------------------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> None:
    from rmx.ui.server.serve import serve
    from rmx.ui.settings import Settings

    serve(Settings.from_environment(model=args.model, adapter=args.adapter, host=args.host, port=args.port))


def _bench(args: argparse.Namespace) -> None:
    if args.what == "public":
        from rmx.bench.public import bench_public

        visits = bench_public(args.clients, args.minutes, args.kill)
        print(json.dumps(visits) if args.json else _table({k: _figure(v) for k, v in visits.items() if k != "memory"}))
        return
    from rmx.bench.run import run
    from rmx.cli.options import placing_of

    about = {"device": args.device, "dtype": args.dtype, "rounds": args.rounds, "placing": placing_of(args)}
    forks = {"limit": args.limit, "seed": args.seed, "temperature": args.temperature} if args.what == "forks" else {}
    result = run(args.what, model=args.model, **about, **forks)
    if args.json:
        print(json.dumps(result))
        return
    print(_table({name: _figure(value) for name, value in result.items()}))


def _doctor(args: argparse.Namespace) -> None:
    from rmx.cli.doctor import report

    found = report()
    print(json.dumps(found) if args.json else _table(found))


def _api(args: argparse.Namespace) -> None:
    print(read_help()["api"])


# -- for the terminal -------------------------------------------------------------------------------------------------


def _table(rows: dict[str, Any]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}s}  {value}" for name, value in rows.items())


def _figure(value: Any) -> str:
    """A measured value for the terminal: a ratio with its interval, three digits, or the pairs of a small table."""
    if isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys():
        if value["value"] is None or value["low"] is None:
            return f"{'–' if value['value'] is None else format(value['value'], '.3g')}  (n = {value['n']})"
        return f"{value['value']:.3g}  (95 %: {value['low']:.3g} to {value['high']:.3g}, n = {value['n']})"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figure(v)}" for k, v in value.items() if v is not None)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rmx", description="Fork tokens of a language model's reasoning: see, swap, test.")
    parser.add_argument("--version", action="version", version=f"rmx {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for verb, (about, module) in VERBS.items():
        sentence = about[0].upper() + about[1:] + ("" if about.endswith("?") else ".")
        verbs.add_parser(verb, help=about, description=sentence).define = partial(_define, verb, module)
    return parser


def define_serve(serve: Parser) -> None:
    """Options of `rmx serve`."""
    from rmx.ui.settings import describe_settings

    serve.add_argument("--model", metavar="S", help="offered beside mini and loaded at start")
    serve.add_argument("--adapter", metavar="S", help="an adapter on that model, loaded at start")
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1; 0.0.0.0 on a public site)")
    serve.add_argument("--port", type=int, help="port to listen on (default 7860)")
    serve.epilog = describe_settings()
    serve.set_defaults(run=_serve)


def define_bench(bench: argparse.ArgumentParser) -> None:
    """Options of `rmx bench`."""
    from rmx.cli.options import add_model
    from rmx.cli.terminal import JSON_HELP

    whats = ["decode", "swap", "branches", "streams", "forks", "pair", "outcomes", "rollouts", "train", "ui", "public"]
    bench.add_argument("what", choices=whats, help="what is measured")
    add_model(bench)
    bench.add_argument("--rounds", type=int, default=7, metavar="N", help="alternating measurements (default 7)")
    bench.add_argument(
        "--limit", type=int, default=100, metavar="N", help="forks: the first N problems of mini (default 100)"
    )
    bench.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="forks: temperature of the controls that sample (default 1)",
    )
    bench.add_argument("--seed", type=int, default=0, metavar="N", help="forks: seed of the draws (default 0)")
    bench.add_argument(
        "--clients", type=int, default=32, metavar="N", help="public: visitors at the same time (default 32)"
    )
    bench.add_argument("--minutes", type=float, default=5.0, metavar="X", help="public: how long they stay (default 5)")
    bench.add_argument("--kill", action="store_true", help="public: kill the app and the run half way")
    bench.add_argument("--json", action="store_true", help=JSON_HELP)
    bench.set_defaults(run=_bench)


def define_api(api: argparse.ArgumentParser) -> None:
    """Options of `rmx api`: none."""
    api.set_defaults(run=_api)


def define_doctor(doctor: argparse.ArgumentParser) -> None:
    """Options of `rmx doctor`."""
    from rmx.cli.terminal import JSON_HELP

    doctor.add_argument("--json", action="store_true", help=JSON_HELP)
    doctor.set_defaults(run=_doctor)
