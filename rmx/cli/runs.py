"""The verbs about training runs that are there: `rmx runs` and, about money, `rmx cost`."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rmx.cli.terminal import JSON_HELP, columns, sweep_lines
from rmx.errors import RmxError
from rmx.stats.text import MISSING, percent, points

Row = dict[str, Any]
PATIENCE = 5.0  # seconds in which a process that is ended is gone
ID = "an id, or as much of its beginning as only one run has"


def define_runs(runs: argparse.ArgumentParser) -> None:
    """Options of `rmx runs`; without a word behind it, it lists."""
    runs.add_argument("--json", action="store_true", help=JSON_HELP)
    runs.set_defaults(run=_list)
    what = runs.add_subparsers(metavar="WHAT")
    _add(what, "list", "all runs, the newest first", run=_list)
    _add(what, "show", "one run: how it stands, what was asked, its files", run=_show)
    stop = _add(what, "stop", "finish the step, write a checkpoint, end", change=_stop)
    stop.add_argument("--force", action="store_true", help="end the process at once; it goes on from its checkpoint")
    _add(what, "resume", "go on with a run in a process of its own", change=_resume)
    _add(what, "rm", "delete a run that is not under way, with all its files", change=_remove)
    note = _add(what, "note", "write a note beside a run", change=_note)
    note.add_argument("text", metavar="TEXT", help="the note; an empty one takes it away")


def _add(what: Any, name: str, about: str, **does: Callable[..., Any]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = what.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    if name != "list":
        parser.add_argument("id", metavar="ID", help=ID)
    # Left out, it must not undo a --json that stands before the word.
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=JSON_HELP)
    parser.set_defaults(**{"run": _change} | does)
    return parser


# -- what they do -----------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> None:
    from rmx.runs.store import RunStore, row

    store = RunStore()
    rows = [row(folder) for folder in store.all()]
    if args.json:
        print(json.dumps({"runs": rows}))
    elif rows:
        width = shutil.get_terminal_size((160, 24)).columns
        print(runs_table(rows, width if sys.stdout.isatty() else None))
    else:
        print(f"No runs in {store.root} yet. rmx train starts one.", file=sys.stderr)


def _show(args: argparse.Namespace) -> None:
    from rmx.runs.store import RunStore, row

    folder = RunStore().get(args.id)
    found, files, sweep = row(folder), folder.files(), folder.sweep
    if args.json:
        told: dict[str, Any] = {"run": found, "status": folder.status, "path": str(folder.path), "files": files}
        told |= {"sweep": sweep} if sweep else {}
        told["config"] = folder.config if found["state"] != "unreadable" else None
        print(json.dumps(told))
        return
    print(_shown(found, str(folder.path)))
    if sweep:
        print("\n".join(["sweep", *(f"  {line}" for line in sweep_lines(sweep))]))
    print("files")
    print("\n".join(f"  {_size(file['bytes']):>9s}  {file['path']}" for file in files))


def _change(args: argparse.Namespace) -> None:
    """Do something to a run, and print its row as JSON, or one line that says what became of it."""
    from rmx.runs.store import RunStore, row

    store = RunStore()
    folder = store.get(args.id)
    told = args.change(args, store, folder)
    gone = {"id": folder.id, "removed": True}
    print(json.dumps(gone if args.change is _remove else row(folder)) if args.json else f"{folder.id} {told}")


def _stop(args: argparse.Namespace, store: Any, folder: Any) -> str:
    if args.force:
        store.kill(folder.id)
        limit = time.monotonic() + PATIENCE
        while folder.alive:
            if time.monotonic() > limit:
                raise RmxError("The process does not end. It may wait for a disk; look at it again in a moment.")
            time.sleep(0.05)
        return "ended"
    store.stop(folder.id)
    return "ends at its next step" if folder.alive else "stopped"


def _resume(args: argparse.Namespace, store: Any, folder: Any) -> str:
    store.start(folder.id)
    how = "waits for its turn" if folder.waiting else "goes on in a process of its own"
    return f"{how}; rmx runs show {folder.id}"


def _remove(args: argparse.Namespace, store: Any, folder: Any) -> str:
    store.remove(folder.id)
    return "removed"


def _note(args: argparse.Namespace, store: Any, folder: Any) -> str:
    folder.note(args.text)
    return "noted"


# -- for the terminal -------------------------------------------------------------------------------------------------


def runs_table(rows: Sequence[Row], width: int | None = None) -> str:
    """Runs under each other, one line each; the last column is cut where the terminal ends."""
    from rmx.runs.store import tested

    heads = ("run", "state", "model", "set", "tau", "gated", "pass@1 before → after", "gained", "time", "cost", "note")
    return "\n".join(line[:width] for line in columns([heads, *(_cells(tested(row)) for row in rows)]))


def _cells(row: Row) -> tuple[str, ...]:
    tau = MISSING if row["tau"] is None else f"{row['tau']:.2f}"
    tau += f" of {len(row['taus'])}" if row["taus"] else ""
    gated = MISSING if row["gated"] is None else f"{100 * row['gated']:.1f} %"
    gained = points(row["vs_base"]).replace(" points", "") if _known(row["vs_base"]) else MISSING
    note = plain(row["note"] or (row["message"] or "" if row["state"] in ("failed", "unreadable") else ""))
    return (
        row["id"], _state(row), plain(row["model"]), plain(row["set"]), tau, gated, _before_after(row), gained,
        minutes(row["minutes"]), _dollars(row["usd"]), note,
    )  # fmt: skip


def _state(row: Row) -> str:
    """The state, with the place in the queue or in the stage."""
    if row["state"] == "queued" and row["ahead"]:
        return f"queued, {row['ahead']} before it"
    if row["state"] == "running" and row["stage"]:
        return f"{row['stage']} {row['at']}/{row['of']}"
    return str(row["state"])


def _before_after(row: Row) -> str:
    before, after = (f"{100 * e['value']:.1f}" if _known(e) else MISSING for e in (row["before"], row["after"]))
    return MISSING if before == after == MISSING else f"{before} → {after} %"


def _known(estimate: Any) -> bool:
    return bool(estimate) and estimate["value"] is not None and estimate["low"] is not None


def _shown(row: Row, path: str) -> str:
    """One run, one fact a line."""
    differs = ", ".join(f"{name} {value}" for name, value in row["differs"].items())
    facts = {
        "state": _state(row) + (f": {plain(row['message'])}" if row["message"] else ""),
        "model": f"{plain(row['model'])} on {plain(row['set'])}",
        "differs": differs and f"from the paper's: {differs}",
        "gate": row["gated"] is not None and f"{100 * row['gated']:.2f} % of the tokens",
        "before": _known(row["before"]) and f"pass@1 {percent(row['before'])} ({row['on']})",
        "after": _known(row["after"]) and f"pass@1 {percent(row['after'])} ({row['on']})",
        "gained": _known(row["vs_base"]) and points(row["vs_base"]),
        "time": row["minutes"] is not None and minutes(row["minutes"]),
        "cost": row["usd"] is not None and _dollars(row["usd"]),
        "note": plain(row["note"]),
        "command": plain(row["command"]),
        "folder": path,
    }
    return "\n".join([row["id"], *(f"  {name:9s}{fact}" for name, fact in facts.items() if fact)])


def plain(text: Any) -> str:
    """Text of a visitor on one line, without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in str(text if text is not None else MISSING))


def minutes(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value / 60:.1f} h" if value >= 100 else f"{value:.1f} min"


def _dollars(usd: float | None) -> str:
    return MISSING if usd is None else f"${usd:.2f}" if usd >= 0.005 or not usd else "< 1 cent"


def _size(count: float) -> str:
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} GB"


# -- The verb about money ---------------------------------------------------------------------------------------------


def define_cost(parser: argparse.ArgumentParser) -> None:
    """Options of `rmx cost`."""
    rate = "enter a rate of your own, dollars per hour (cpu=0.05); NAME=none takes it back"
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=USD", help=rate)
    parser.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.set_defaults(run=_cost)


def _cost(args: argparse.Namespace) -> None:
    from rmx.runs.rates import named_rate, set_rate
    from rmx.runs.store import RunStore, costs
    from rmx.train.probe import this_device

    store = RunStore()
    for name, usd in [named_rate(text) for text in args.rate]:  # all are read before one is entered
        set_rate(name, usd, store.root)
    found = costs(store.all(), this_device(), store.root)
    print(json.dumps(found) if args.json else told(found))


def told(found: dict[str, Any]) -> str:
    """The whole of it for the terminal."""
    rates = [(r["name"], f"{r['usd_per_hour']:.2f}", r["date"], r["source"]) for r in found["rates"]]
    runs = [(r["id"], r["device"] or "not noted", _hours(r["seconds"]), _usd(r["usd"])) for r in found["runs"]]
    paper = []
    for r in found["paper"]["rows"]:
        low, high = (f"{usd:,.0f}" for usd in r["rl_usd"])
        scores = (f"{r[score]:.3f}" for score in ("base_score", "rl_score", "score"))
        paper.append((r["base"], *scores, low if low == high else f"{low} – {high}", f"{r['usd']}"))

    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        return "\n".join(columns([heads, *rows]))

    parts = [
        table(("machine", "USD/h", "date", "source"), rates),
        f"this machine: {found['machine']['device']}. {found['machine']['sentence']}",
        table(("run", "machine", "measured", "USD"), runs) if runs else "No run has measured anything yet.",
        _summed(found["sum"]) if runs else "",
        f"For comparison, the paper's cost_table ({found['paper']['source']}). {found['paper']['note']}",
        table(("base", "pass@1", "best RL", "ReasonMaxxer", "RL, USD", "its, USD"), paper),
    ]
    return "\n\n".join(part for part in parts if part)


def _summed(total: dict[str, Any]) -> str:
    without = total["without"]
    rest = f" {without} of them on machines without a rate, which are not in it." if without else ""
    runs = f"{total['runs']} run{'s' * (total['runs'] != 1)}"
    dollars = f"{_usd(total['usd'])} USD" if total["usd"] is not None else "no dollars known"
    return f"sum: {dollars} for {_hours(total['seconds'])} of {runs}.{rest}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _usd(value: float | None) -> str:
    """Cents where there are any, else as many digits as show something."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"
