"""What the runs took and cost: measured seconds of each stage, times the rate of the machine that measured them.

A run notes seconds and device in `stages.json`, not dollars, so that its cost is that of the table as it stands. A run
of before that keeps the dollars that it told when it was done.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmx.errors import RmxError
from rmx.runs.folder import RunFolder
from rmx.runs.rates import Rates, load_rates, paper_costs, total
from rmx.storage.files import read_json

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
    """Everything about money: the table, this machine's rate, each run, the sum, and the paper's own table.

    Args:
        device: this machine, as rates are looked up. root: the folder of the runs.

    Raises:
        RmxError: the rates cannot be read.
    """
    rates = load_rates(root)
    here, runs = rates.of(device), [cost for folder in folders if (cost := run_cost(folder, rates))]
    known = [run["usd"] for run in runs if run["usd"] is not None]
    return {
        "rates": [rate.json() for rate in rates.rates],
        "override": rates.override,
        "machine": {
            "device": device,
            "rate": here.json() if here else None,
            "sentence": rates.cost(0, device).sentence,
        },
        "runs": runs,
        "sum": {
            "usd": total(known),
            "seconds": math.fsum(run["seconds"] for run in runs),
            "runs": len(runs),
            "without": len(runs) - len(known),  # runs on machines without a rate
        },
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
        "id": folder.id,
        "kind": config.get("kind", "train"),
        "model": str(config.get("model")),
        "device": device,
        "seconds": seconds,
        "stages": found["stages"],
        "usd": rates.cost(seconds, device).usd if device else told,
        "rate": rate.json() if rate else None,
        "vs_base": done.get("vs_base"),
    }
