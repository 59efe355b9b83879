"""`rmx export`: a trace or a tree as one HTML file, as JSON, as a figure or a table."""

import argparse
import json
import sys
from dataclasses import replace

from rmx.cli.options import read_text, write
from rmx.errors import RmxError


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
    from rmx.trees.document import tree_document
    from rmx.trees.tree_page import entropy_svg, read_any, tokens_csv, tree_html

    if not (args.html or args.json or args.svg or args.csv):
        raise RmxError("Say what to make of it: --html OUT.html, --json OUT.json, --svg OUT.svg or --csv OUT.csv.")
    tree = read_any(read_text(args.trace))
    if args.title:
        tree = replace(tree, title=args.title)
    shown = tree.tokens(tree.shown)
    if args.html:
        _write(args.html, tree_html(tree))
    if args.json:
        _write(args.json, json.dumps(tree_document(tree), ensure_ascii=False))
    if args.svg:
        _write(args.svg, entropy_svg(shown, tree.tau, tree.title or tree.model))
    if args.csv:
        _write(args.csv, tokens_csv(shown, tree.tau))


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
        return
    write(path, text)
    print(f"{path}: {len(text.encode()) / 1000:,.0f} kB", file=sys.stderr)
