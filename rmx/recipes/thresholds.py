"""The thresholds of a sweep: read from one line of text, and checked against the recipe that they are swept in."""

import math
from collections.abc import Sequence

from rmx.errors import RmxError
from rmx.recipes.recipe import Recipe

MOST = 16  # thresholds of one sweep
HIGHEST = 100.0  # nats, as a recipe takes them
EXAMPLE = "such as 1.2,1.4,1.6,1.8"
ONE_PROCESS = "A sweep runs in one process. Start it by rmx train, without accelerate launch."
NO_DRY = "A dry run has nothing to sweep: it shows what every threshold would gate. Leave out --sweep-tau or --dry-run."


def taus_of(text: str) -> tuple[float, ...]:
    """Thresholds in nats, ascending, from a comma-separated list; to six digits, as they name folders and flags."""
    words = [word.strip() for word in text.split(",")]
    if not any(words):
        raise RmxError(f"A sweep needs at least one threshold in nats, {EXAMPLE}.")
    taus = sorted(_tau(word) for word in words)
    if twice := next((a for a, b in zip(taus, taus[1:], strict=False) if a == b), None):
        raise RmxError(f"A sweep takes each threshold once; {twice:g} is named twice.")
    if len(taus) > MOST:
        raise RmxError(f"A sweep takes at most {MOST} thresholds; got {len(taus)}.")
    return tuple(taus)


def _tau(word: str) -> float:
    try:
        value = float(f"{float(word):g}")
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST:
        said = f"'{word[:40]}'" if word else "nothing between two commas"
        raise RmxError(f"A sweep's thresholds are numbers of nats from 0 to {HIGHEST:g}, {EXAMPLE}; got {said}.")
    return value


def check_sweep(taus: Sequence[float], recipe: Recipe) -> None:
    """Refuse thresholds that cannot be swept with this recipe."""
    if list(taus) != sorted(set(taus)) or not all(0 <= tau <= HIGHEST for tau in taus):
        raise RmxError(f"A sweep's thresholds are different numbers of nats from 0 to {HIGHEST:g}; got {list(taus)}.")
    if recipe.gate.tau is not None or recipe.gate.tau_share is not None:
        raise RmxError("A sweep names its thresholds itself. Leave out tau and tau_share.")
    if recipe.gate.gate == "full":
        raise RmxError("The full gate keeps every token, so there is no threshold to sweep. Take another gate.")
    if not recipe.check.validation:
        raise RmxError("A sweep chooses its threshold on validation problems. Set validation to 1 or more.")
