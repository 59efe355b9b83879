"""Arguments to library calls. `--json` prints one document on stdout; everything else goes to stderr.

Exit codes: 0 done, 2 the user's mistake (one line says what and what to do), 1 a fault of ours.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rmx import __version__
from rmx.cli.claims import add_verbs as add_claims_verbs
from rmx.cli.cost import add_verbs as add_cost_verbs
from rmx.cli.deploy import add_verbs as add_deploy_verbs
from rmx.cli.distill import add_verbs as add_distill_verbs
from rmx.cli.eval import add_verbs as add_eval_verbs
from rmx.cli.examples import EPILOGS
from rmx.cli.explore import add_verbs as add_explore_verbs
from rmx.cli.export import add_verbs as add_export_verbs
from rmx.cli.options import add_options, add_placing, add_share, add_style, placing_of, style_of
from rmx.cli.pair import add_verbs as add_pair_verbs
from rmx.cli.runs import add_verbs as add_runs_verbs
from rmx.cli.sets import add_verbs as add_sets_verbs
from rmx.cli.train import add_verbs as add_train_verbs
from rmx.errors import RmxError, shown
from rmx.records import is_fork
from rmx.storage.strict_json import whole


class Parser(argparse.ArgumentParser):
    """Argparse whose complaints are one line on stderr and exit code 2."""

    write_epilog: Callable[[], str] | None = None  # of an epilog that is too slow to write before it is asked for

    def format_help(self) -> str:
        if self.write_epilog is not None:
            self.epilog = self.write_epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `rmx`; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if odd := next((word for word in given if word != whole(word)), None):
        print(f"rmx: {shown(odd)} is not text in UTF-8. Write it in UTF-8, or rename the file.", file=sys.stderr)
        return 2
    args = _parser().parse_args(given)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quiet_transformers()
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


def _configuration() -> str:
    from rmx.ui.settings import describe_settings

    return describe_settings()


def _trace(args: argparse.Namespace) -> None:
    from rmx.models.workspace import Workspace
    from rmx.service.measure import TraceOptions, asked, trace

    options = TraceOptions(
        prompt=args.prompt,
        problem=args.problem,
        set_name=args.set,
        prompt_ids=_read_ids(args.prompt_ids),
        raw=args.raw,
        answer=args.answer,
        model=args.model or os.environ.get("RMX_MODEL", "mini"),
        adapter=args.adapter,
        device=args.device,
        dtype=args.dtype,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        tau=args.tau,
        tau_share=args.tau_share,
        recalibrate=args.recalibrate,
        swaps=tuple(_swap(s) for s in args.swap),
        cold=args.cold,
        read=_read_text(args.read),
        style=style_of(args),
        placing=placing_of(args),
    )
    space = Workspace(options.device, options.dtype, placing=options.placing)
    traces = trace(options, space)
    if args.json:
        about = asked(options, space, traces)
        documents = [t.json() | about for t in traces]
        print(json.dumps(documents if args.swap else documents[0], ensure_ascii=False))
        return
    for t in traces:
        print(_plain(t))
    if options.tau_share is not None:
        print(asked(options, space, traces)["calibration"]["sentence"], file=sys.stderr)


def _bench(args: argparse.Namespace) -> None:
    if args.what == "public":
        from rmx.bench.public import bench_public

        visits = bench_public(args.clients, args.minutes, args.kill)
        print(json.dumps(visits) if args.json else _table({k: _figure(v) for k, v in visits.items() if k != "memory"}))
        return
    from rmx.bench.run import run

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
    if args.json:
        print(json.dumps(found))
        return
    print(_table(found))


def _api(args: argparse.Namespace) -> None:
    from rmx.service import API

    print(API)


# -- helpers of the verbs ---------------------------------------------------------------------------------------------


def _read_ids(path: str | None) -> tuple[int, ...] | None:
    if path is None:
        return None
    try:
        ids = json.loads(_read_text(path) or "")
    except ValueError as error:
        raise RmxError(f"{path} is not a JSON array of token ids: {error}.") from error
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise RmxError(f"{path} must hold a JSON array of whole numbers (token ids).")
    return tuple(ids)


def _read_text(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return whole(sys.stdin.read()) if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RmxError(f"Cannot read {path}: {error}.") from error


def _swap(text: str) -> tuple[int, int]:
    pos, _, token = text.partition("=")
    try:
        return int(pos), int(token)
    except ValueError as error:
        raise RmxError(f"--swap takes POSITION=TOKEN_ID, two whole numbers; got '{text}'.") from error


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


def _plain(trace: Any) -> str:
    """A trace for the terminal: forks in brackets with their entropy."""
    marked = "".join(f"[{t.text}|{t.entropy:.2f}]" if is_fork(t.entropy, trace.tau) else t.text for t in trace.tokens)
    right = {True: "right", False: "wrong", None: "not graded"}[trace.answer.correct]
    right += ", as it was cut off" if trace.stop in ("length", "context") and right == "wrong" else ""
    forks = len(list(trace.forks()))
    return (
        f"{marked}\n  answer {trace.answer.text} ({right}) · {len(trace.tokens)} tokens, {forks} forks "
        f"· stop: {trace.stop} · reused {trace.reuse.reused}, computed {trace.reuse.computed} · {trace.seconds:.2f} s"
    )


# -- arguments --------------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(prog="rmx", description="Fork tokens of a language model's reasoning: see, swap, test.")
    parser.add_argument("--version", action="version", version=f"rmx {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_serve(verbs)
    _add_trace(verbs)
    add_explore_verbs(verbs, _add_model)
    add_export_verbs(verbs, _read_text)
    add_pair_verbs(verbs, _add_model, _read_text)
    add_claims_verbs(verbs, _add_model)
    add_train_verbs(verbs, _add_model)
    add_distill_verbs(verbs, _add_model)
    add_eval_verbs(verbs, _add_model)
    add_runs_verbs(verbs)
    add_sets_verbs(verbs)
    add_cost_verbs(verbs)
    add_deploy_verbs(verbs)
    _add_bench(verbs)
    doctor = verbs.add_parser("doctor", help="say what is here: device, packages, models")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)
    api = verbs.add_parser("api", help="say how programs call a running app: Python, HTTP, MCP")
    api.set_defaults(run=_api)
    for name, verb in verbs.choices.items():
        verb.epilog, verb.formatter_class = EPILOGS.get(name), argparse.RawDescriptionHelpFormatter
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="S", help="mini, a preset, a Hub id[@revision], a folder or a .gguf file")
    parser.add_argument("--adapter", metavar="S", help="a bundled name, a folder or a Hub id (safetensors)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add_placing(parser)


def _add_serve(verbs: Any) -> None:
    serve = verbs.add_parser("serve", help="open the app")
    serve.add_argument("--model", metavar="S", help="offered beside mini and loaded at start")
    serve.add_argument("--adapter", metavar="S", help="an adapter on that model, loaded at start")
    serve.add_argument(
        "--host", default=None, help="address to listen on (default 127.0.0.1; 0.0.0.0 on a public site)"
    )
    serve.add_argument("--port", type=int, default=None, help="port to listen on (default 7860)")
    serve.write_epilog = _configuration
    serve.set_defaults(run=_serve)


def _add_trace(verbs: Any) -> None:
    trace = verbs.add_parser("trace", help="one solution with the distribution behind every token")
    add_options(trace, "prompt", "--problem", "--set", "--answer", "--raw")
    trace.add_argument("--prompt-ids", metavar="FILE", help="the prompt as a JSON array of token ids ('-' = stdin)")
    _add_model(trace)
    add_options(trace, "--temperature", "--top-p", "--seed", "--max-new-tokens", "--tau")
    add_share(trace)
    trace.add_argument(
        "--swap",
        action="append",
        default=[],
        metavar="POS=TOKEN_ID",
        help="force this token there and go on; may be given several times",
    )
    trace.add_argument("--cold", action="store_true", help="compute everything anew: reuse no cached prefix")
    trace.add_argument(
        "--read", metavar="FILE", help="score the solution in this file instead of generating one ('-' = stdin)"
    )
    add_options(trace, "--json")
    add_style(trace)
    trace.set_defaults(run=_trace)


def _add_bench(verbs: Any) -> None:
    bench = verbs.add_parser("bench", help="measure this machine; ratios within one run")
    bench.add_argument(
        "what",
        choices=["decode", "swap", "branches", "forks", "pair", "outcomes", "rollouts", "train", "ui", "public"],
    )
    _add_model(bench)
    bench.add_argument("--rounds", type=int, default=7)
    bench.add_argument("--limit", type=int, default=100, metavar="N", help="forks: the first N problems of mini")
    bench.add_argument("--temperature", type=float, default=1.0, help="forks: of the controls that sample")
    bench.add_argument("--seed", type=int, default=0, help="forks: of the draws")
    bench.add_argument("--clients", type=int, default=32, help="public: visitors at the same time")
    bench.add_argument("--minutes", type=float, default=5.0, help="public: how long they stay")
    bench.add_argument("--kill", action="store_true", help="public: kill the app and the run half way")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_bench)
