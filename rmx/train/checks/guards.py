"""Rules that stop a run which goes wrong: a sentence with what to change where one has struck, else None."""

import math
from collections.abc import Sequence

from rmx.stats.intervals import Estimate
from rmx.stats.text import points

WINDOW = 5  # updates over which the anchor is averaged: single updates jump
CHANGE = "Train again with a lower lr, with neg_floor_nats (0.5, say) or with a higher kl_weight."


def below_base(base: Estimate, now: Estimate, vs_base: Estimate, best: str | None = None) -> str | None:
    """Validation accuracy below the base: the paired 95 % interval of now minus base lies below zero as a whole."""
    if vs_base["high"] is None or vs_base["high"] >= 0:
        return None
    change = points(vs_base, bounds=", 95 % {:+.1f} to {:+.1f}")
    return (
        f"Stopped: validation pass@1 fell from the base's {100 * base['value']:.1f} % to {100 * now['value']:.1f} % "
        f"({change}, n = {now['n']}). {kept(best)} {CHANGE}"
    )


def kl_away(kl_losses: Sequence[float], limit: float, best: str | None = None, window: int = WINDOW) -> str | None:
    """The anchor runs away: the mean kl_loss of the last `window` updates, and no fewer, exceeds `limit` nats."""
    last = kl_losses[-window:]
    if len(last) < window or not all(map(math.isfinite, last)):
        return None
    mean = math.fsum(last) / window
    if mean <= limit:
        return None
    return (
        f"Stopped: the model leaves the base where it should stay: KL(base || policy) outside the decisions averaged "
        f"{mean:.3f} nats over the last {window} updates, and {limit:g} is the limit (kl_limit). {kept(best)} {CHANGE}"
    )


def not_finite(loss: float, grad_norm: float, optimizer_step: int, best: str | None = None) -> str | None:
    """Loss or gradient is infinite or no number."""
    broken = [name for name, value in (("loss", loss), ("gradient", grad_norm)) if not math.isfinite(value)]
    if not broken:
        return None
    figures = f"loss {loss:g}, gradient norm {grad_norm:g}"
    return (
        f"Stopped: the {' and the '.join(broken)} of update {optimizer_step} {'is' if len(broken) == 1 else 'are'} not "
        f"finite ({figures}). {kept(best)} {CHANGE}"
    )


def kept(best: str | None) -> str:
    """What a stopped run leaves behind."""
    if best is None:
        return "The checkpoints made so far are kept; none was checked before this."
    return f"The checkpoints made so far are kept; {best} is the best of them and becomes the adapter."
