"""Validated settings of the explore road: checked once, when they are made, with a sentence for what is wrong."""

import math
from dataclasses import dataclass

from rmx.errors import RmxError

TOP_SHOWN = 5  # alternatives on screen
TOP_KEPT = 20  # alternatives kept for every token
MOST_NAME = 400  # characters of the name of a model, an adapter or a set


def check_tau(tau: float) -> float:
    """Return `tau` (nats) or say why it cannot be a threshold.

    Raises:
        RmxError: negative, infinite or NaN.
    """
    if not isinstance(tau, int | float) or not math.isfinite(tau) or tau < 0:
        raise RmxError(f"The fork threshold must be a number of nats, 0 or more; got {tau}.")
    return float(tau)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top-p keeps the token that crosses the threshold."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 512  # bounds the whole completion, kept tokens included

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature) or not 0 <= self.temperature <= 10:
            raise RmxError(f"Temperature must lie between 0 (greedy) and 10; got {self.temperature}.")
        if not math.isfinite(self.top_p) or not 0 < self.top_p <= 1:
            raise RmxError(f"Top-p must lie above 0 and at most at 1; got {self.top_p}.")
        if self.max_new_tokens != int(self.max_new_tokens) or self.max_new_tokens < 1:
            raise RmxError(f"The number of new tokens must be a whole number, 1 or more; got {self.max_new_tokens}.")
        if self.seed != int(self.seed) or not 0 <= self.seed < 2**63:
            raise RmxError(f"The seed must be a whole number from 0 to 2^63 - 1; got {self.seed}.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def label(self) -> str:
        """How a branch made this way is named on screen."""
        if self.greedy:
            return "greedy"
        top_p = f", top-p {self.top_p:g}" if self.top_p < 1 else ""
        return f"one draw, T {self.temperature:g}{top_p}, seed {self.seed}"
