"""From a share of tokens to a threshold in nats, by a model's stored calibration set."""

import json
from pathlib import Path

from rmx.errors import RmxError
from rmx.models import Model
from rmx.paths import ASSETS

STORED = {"mini": ASSETS / "mini" / "calibration.json"}


def tau_of_share(model: Model, share: float) -> float:
    """The tau above which `share` of the model's calibration tokens lie.

    The file holds "quantiles": entropies (nats) at 0, 1/n, 2/n … 1 of sampled completion tokens; between them the
    threshold is interpolated.

    Raises:
        RmxError: the share is not between 0 and 1, or nothing is stored for this model.
    """
    if not 0 < share < 1:
        raise RmxError(f"--tau-share must lie between 0 and 1; got {share}.")
    path: Path | None = STORED.get(model.spec)
    if path is None or not path.is_file():
        raise RmxError(f"No calibration set is stored for {model.spec}, so a share cannot become a tau. Give --tau.")
    quantiles: list[float] = json.loads(path.read_text(encoding="utf-8"))["quantiles"]
    place = (1 - share) * (len(quantiles) - 1)
    low = min(int(place), len(quantiles) - 2)
    return quantiles[low] + (place - low) * (quantiles[low + 1] - quantiles[low])
