"""A run as one row of a table: what it was asked, how it stands, what came of it. Read from its small files only."""

import math
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmx.errors import RmxError
from rmx.recipes.distill_job import DistillRecipe
from rmx.recipes.recipe import Recipe
from rmx.runs.folder import RunFolder
from rmx.runs.rates import Rates, load_rates, paper_costs
from rmx.storage.safe_files import read_json

STAGES = "stages.json"


def measured(path: Path) -> dict[str, Any]:
    """{"stages": {stage: seconds}, "device": name | null} of a run's folder; over all its starts."""
    found = read_json(path / STAGES)
    stored: Mapping[str, Any] = found if isinstance(found, dict) else {}
    seconds = stored.get("seconds")
    numbers = seconds.items() if isinstance(seconds, dict) else ()
    stages = {str(name): float(s) for name, s in numbers if isinstance(s, int | float) and math.isfinite(s) and s >= 0}
    device = stored.get("device")
    return {"stages": stages, "device": device if isinstance(device, str) else None}


def dollars(path: Path, seconds: float | None, told: float | None, rates: Rates) -> float | None:
    """What `seconds` of a run cost on its machine; `told` where its machine is not known."""
    device = measured(path)["device"]
    if seconds is None or device is None:
        return told
    return rates.cost(seconds, device).usd


def costs(folders: Iterable[RunFolder], device: str, root: Path | None = None) -> dict[str, Any]:
    """Everything about money: the table, the rate of this machine (`device`), each run, the sum, the paper's table."""
    rates = load_rates(root)
    here, runs = rates.of(device), [cost for folder in folders if (cost := run_cost(folder, rates))]
    known = [run["usd"] for run in runs if run["usd"] is not None]  # of runs on machines with a rate
    usd, seconds = math.fsum(known) if known else None, math.fsum(run["seconds"] for run in runs)
    return {
        "rates": [rate.json() for rate in rates.rates],
        "override": rates.override,
        "machine": {"device": device, "rate": here and here.json(), "sentence": rates.cost(0, device).sentence},
        "runs": runs,
        "sum": {"usd": usd, "seconds": seconds, "runs": len(runs), "without": len(runs) - len(known)},
        "paper": paper_costs(),
    }


def run_cost(folder: RunFolder, rates: Rates) -> dict[str, Any] | None:
    """One run's line; None where it has measured nothing yet."""
    found = measured(folder.path)
    seconds = math.fsum(found["stages"].values())
    if not seconds:
        return None
    try:
        config, done = folder.config, folder.summary.get("done", {})
    except RmxError:
        return None
    device, told = found["device"], done.get("usd")
    rate = rates.of(device) if device else None
    return {
        "id": folder.id, "kind": config.get("kind", "train"), "model": str(config.get("model")), "device": device,
        "seconds": seconds, "stages": found["stages"], "usd": rates.cost(seconds, device).usd if device else told,
        "rate": rate.json() if rate else None, "vs_base": done.get("vs_base"),
    }  # fmt: skip


EMPTY: dict[str, Any] = {
    "id": "", "kind": "train", "model": None, "set": None, "preset": None, "state": "unreadable", "stage": None,
    "at": None, "of": None, "left": None, "message": None, "ahead": None, "tau": None, "gated": None, "before": None,
    "after": None, "vs_base": None, "on": None, "minutes": None, "usd": None, "owner": None, "created": 0.0,
    "note": "", "differs": {}, "taus": None, "has_adapter": False, "by_construction": False, "command": "",
}  # fmt: skip


def row(folder: RunFolder, rates: Rates | None = None) -> dict[str, Any]:
    """One run as a list shows it, its dollars by `rates` or the table as it stands; one that cannot be read says so."""
    try:
        return _row(folder, rates or load_rates())
    except (RmxError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = str(error) if isinstance(error, RmxError) else f"{folder.id} was not written by this version of rmx."
        return EMPTY | {"id": folder.id, "message": why}


def tested(found: dict[str, Any]) -> dict[str, Any]:
    """The row as a table shows it, whose figures are those of test problems: without what validation problems gave."""
    return found if found["on"] != "validation" else found | {"before": None, "after": None, "vs_base": None}


def _row(folder: RunFolder, rates: Rates) -> dict[str, Any]:
    config, status, summary = folder.config, folder.status, folder.summary
    kind = DistillRecipe if config.get("kind") == "distill" else Recipe
    departures = kind.from_json(config["recipe"]).departures()
    done = summary.get("done", {})
    minutes = _minutes(folder, status, done)
    return EMPTY | {
        "id": folder.id, "kind": config.get("kind", "train"), "model": str(config["model"]),
        "state": str(status["state"]),
        **{name: status.get(name) for name in ("stage", "at", "of", "left", "message", "ahead")}, **_gate(summary),
        **{name: config.get(name) for name in ("set", "preset", "taus", "owner")}, **_before_after(summary),
        "minutes": minutes,
        "usd": dollars(folder.path, None if minutes is None else 60 * minutes, done.get("usd"), rates),
        "created": float(config.get("created") or 0.0), "note": str(config.get("note") or ""),
        "differs": {name: ours for name, (_, ours) in departures.items()},
        "has_adapter": (folder.path / "adapter" / "adapter_config.json").is_file(),
        "by_construction": str(config["model"]).partition("@")[0] == "mini",
        "command": shlex.join(config.get("command", [])),
    }  # fmt: skip


def _minutes(folder: RunFolder, status: Mapping[str, Any], done: Mapping[str, Any]) -> float | None:
    """How long it worked, over all its starts; None where it has not worked yet."""
    if status["state"] == "done" and done.get("seconds") is not None:
        return float(done["seconds"]) / 60
    seconds = sum(measured(folder.path)["stages"].values())
    if status["state"] in ("running", "stopping") and status.get("started"):
        noted = folder.path / STAGES  # written at the end of each stage
        since = max(status["started"], noted.stat().st_mtime if noted.exists() else 0.0)
        seconds += max(0.0, time.time() - since)
    return seconds / 60 if seconds else None


def _gate(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Threshold and share of the gate; of a sweep that is done those of the threshold that was chosen."""
    gate, sweep = summary.get("gate", {}), summary.get("done", {}).get("sweep") or {}
    if (chosen := sweep.get("chosen")) is not None:
        gate = next((one for one in sweep["taus"] if one["tau"] == chosen), {})
    return {"tau": gate.get("tau"), "gated": gate.get("share")}


def _before_after(summary: Mapping[str, Any]) -> dict[str, Any]:
    """pass@1 before and after: of the final check, else of the validation checks so far."""
    done = summary.get("done", {})
    if done.get("after"):
        return {"before": done["before"], "after": done["after"], "vs_base": done["vs_base"], "on": done.get("split")}
    checks = [check for _, check in sorted(summary.get("checks", {}).items(), key=lambda item: int(item[0]))]
    if not checks:
        return {}
    best = next((c for c in reversed(checks) if c.get("best")), checks[-1])
    after = best if best["optimizer_step"] else {}
    return {
        "before": checks[0]["pass@1"],
        "after": after.get("pass@1"),
        "vs_base": after.get("vs_base"),
        "on": "validation",
    }
