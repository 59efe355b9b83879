"""From a share of tokens to a threshold in nats, by a model's stored calibration set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rmx.config import Sampling, is_number
from rmx.errors import RmxError, shown
from rmx.explore.generate import Generation, Job
from rmx.models import Model, load
from rmx.paths import ASSETS
from rmx.problems import load_set
from rmx.records import Problem

STORED = {"mini": ASSETS / "mini" / "calibration.json"}


def tau_of_share(model: Model, share: float) -> float:
    """The tau above which `share` of the model's calibration tokens lie.

    The file holds "quantiles": entropies (nats) at 0, 1/n, 2/n … 1 of sampled completion tokens; between them the
    threshold is interpolated.

    Raises:
        RmxError: the share is not between 0 and 1, or nothing is stored for this model.
    """
    if not is_number(share) or not 0 < share < 1:
        raise RmxError(f"--tau-share must lie between 0 and 1; got {shown(share)}.")
    path: Path | None = STORED.get(model.spec)
    if path is None or not path.is_file():
        raise RmxError(f"No calibration set is stored for {model.spec}, so a share cannot become a tau. Give --tau.")
    quantiles: list[float] = json.loads(path.read_text(encoding="utf-8"))["quantiles"]
    place = (1 - share) * (len(quantiles) - 1)
    low = min(int(place), len(quantiles) - 2)
    return quantiles[low] + (place - low) * (quantiles[low + 1] - quantiles[low])


def calibrate(model: Model, problems: Sequence[Problem], seed: int = 0, bins: int = 1000) -> dict[str, Any]:
    """Entropies of one completion per problem, sampled at temperature 1, as `bins` + 1 quantiles."""
    entropies: list[float] = []
    for i, problem in enumerate(problems):
        job = Job(model.prompt_ids(problem.problem), Sampling(1.0, seed=seed + i), model.tau, cold=True)
        entropies.extend(t.entropy for t in Generation(model, job).run().tokens)
    quantiles = torch.tensor(entropies, dtype=torch.float64).quantile(torch.linspace(0, 1, bins + 1).double())
    return {
        "model": model.spec,
        "revision": model.revision,
        "problems": len(problems),
        "tokens": len(entropies),
        "temperature": 1.0,
        "seed": seed,
        "quantiles": [round(q, 5) for q in quantiles.tolist()],
    }


if __name__ == "__main__":
    found = calibrate(load("mini", device="cpu"), load_set("mini:train")[:300])
    STORED["mini"].write_text(json.dumps(found) + "\n", encoding="utf-8")
