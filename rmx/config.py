"""Settings that are checked once, and the folders of rmx.

Validated settings of the explore road: checked once, when they are made, with a sentence for what is wrong.

Where the files that ship with rmx lie, in a checkout and in an installed wheel alike.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from rmx.errors import RmxError, shown

TOP_SHOWN = 5  # alternatives on screen
NEW_TOKENS = 512  # upper bound of a completion where a request names none
TOP_KEPT = 20  # alternatives kept for every token
LARGEST = sys.float_info.max
MOST_NAME = 400  # characters of the name of a model, an adapter or a set


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether `value` is a finite number that a float can hold; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_whole(value: object) -> TypeGuard[int | float]:
    """Whether `value` is a whole number, as 3 and 3.0 are."""
    return is_number(value) and value == int(value)


def check_tau(tau: Any) -> float:
    """Return `tau` in nats; RmxError where it is no number, negative, infinite or NaN."""
    if not is_number(tau) or tau < 0:
        raise RmxError(f"The fork threshold must be a number of nats, 0 or more; got {shown(tau)}.")
    return float(tau)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top-p keeps the token that crosses the threshold."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = NEW_TOKENS  # bounds the whole completion, kept tokens included

    def __post_init__(self) -> None:
        if not is_number(self.temperature) or not 0 <= self.temperature <= 10:
            raise RmxError(f"Temperature must lie between 0 (greedy) and 10; got {shown(self.temperature)}.")
        if not is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise RmxError(f"Top-p must lie above 0 and at most at 1; got {shown(self.top_p)}.")
        if not is_whole(self.max_new_tokens) or self.max_new_tokens < 1:
            said = shown(self.max_new_tokens)
            raise RmxError(f"The number of new tokens must be a whole number, 1 or more; got {said}.")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**63:
            raise RmxError(f"The seed must be a whole number from 0 to 2^63 - 1; got {shown(self.seed)}.")

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


# -- Where the files that ship with rmx lie, in a checkout and in an installed wheel alike ----------------------------


PACKAGE = Path(__file__).resolve().parent
# A wheel carries the folder as rmx/assets; a checkout has it beside the package.
ASSETS = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else PACKAGE.parent / "assets"


def cache_dir() -> Path:
    """The folder for derived files (dequantised weights); `RMX_CACHE` overrides."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rmx"
    return Path(os.environ.get("RMX_CACHE", default))


def runs_dir() -> Path:
    """The folder of the training runs; `RMX_RUNS` overrides `./runs`."""
    return Path(os.environ.get("RMX_RUNS", "runs")).expanduser().absolute()
