"""`rmx export`: a trace or a tree as one HTML file, as JSON, as a figure or a table."""

import argparse
import sys
from dataclasses import replace

from rmx.cli.options import read_text
from rmx.errors import RmxError
from rmx.storage.safe_files import write_text


def define_export(export: argparse.ArgumentParser) -> None:
    """Options of `rmx export`."""
    export.add_argument("trace", metavar="TRACE.json", help="what rmx trace --json printed, or a tree ('-' = stdin)")
    export.add_argument("--html", metavar="OUT", help="one file with all branches, clickable, without a network")
    export.add_argument("--json", metavar="OUT", help="the tree document ('-' = stdout)")
    export.add_argument("--svg", metavar="OUT", help="entropy over the tokens of the branch that was shown")
    export.add_argument("--csv", metavar="OUT", help="the tokens of that branch as a table")
    export.add_argument("--title", metavar="TEXT", help="the problem, where the file does not hold it")
    export.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> None:
    from rmx.trees.tree_page import read_any, tree_texts

    wanted = {kind: path for kind in ("html", "json", "svg", "csv") if (path := getattr(args, kind))}
    if not wanted:
        raise RmxError("Say what to make of it: --html OUT.html, --json OUT.json, --svg OUT.svg or --csv OUT.csv.")
    tree = read_any(read_text(args.trace))
    texts = tree_texts(replace(tree, title=args.title) if args.title else tree)
    for kind, path in wanted.items():
        _write(path, texts[kind]())


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
        return
    write_text(path, text)
    print(f"{path}: {len(text.encode()) / 1000:,.0f} kB", file=sys.stderr)
