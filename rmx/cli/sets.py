"""The verb that lists the problem sets by name: `rmx sets`. Nothing is fetched for it."""

import argparse
import json
import textwrap
from typing import Any

from rmx.cli.terminal import JSON_HELP

OWN_FILES = """\
Or the path of a .jsonl, .csv or .parquet file with a column problem or question, and answer where it is known.
PATH:train, PATH:validation and PATH:test are what its column split says; without such a column three quarters, an
eighth and an eighth of it, dealt by the text of each problem. PATH alone is then all of it."""


def define_sets(sets: argparse.ArgumentParser) -> None:
    """Options of `rmx sets`."""
    sets.add_argument("--json", action="store_true", help=JSON_HELP)
    sets.set_defaults(run=_sets)


def _sets(args: argparse.Namespace) -> None:
    rows = listed()
    if args.json:
        print(json.dumps({"sets": rows, "own_files": " ".join(OWN_FILES.split())}, ensure_ascii=False))
        return
    print("\n\n".join(plain(row) for row in rows))
    print(f"\n{OWN_FILES}")


def listed() -> list[dict[str, Any]]:
    """One row per named set. A size is null where only the Hub could tell it."""
    from rmx.data.hub_sets import REPOSITORIES
    from rmx.data.problem_sets import SETS, sizes

    return [
        {
            "name": name,
            "title": info.title,
            "splits": sizes(name),
            "hub": REPOSITORIES.get(name),  # null: bundled
            "licence": info.licence,
            "source": info.source,
            "note": info.note or None,
        }
        for name, info in SETS.items()
    ]


def plain(row: dict[str, Any]) -> str:
    """A set for the terminal: its name and title, then one line for each thing to know."""
    splits = ", ".join(f"{split} ({'size not known here' if n is None else n})" for split, n in row["splits"].items())
    facts = {"splits": splits, "licence": row["licence"], "source": row["source"], "note": row["note"]}
    lines = [f"{row['name']}: {row['title']}"]
    for name, fact in facts.items():
        if fact:
            lines += textwrap.wrap(
                fact, 120, initial_indent=f"  {name:9s}", subsequent_indent=" " * 11,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)
