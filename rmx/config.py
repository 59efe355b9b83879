"""Numbers that several floors share, and the folders of rmx."""

import os
import sys
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


def check_tau(tau: Any) -> float:
    """Return `tau` in nats; RmxError where it is no number, negative, infinite or NaN."""
    if not is_number(tau) or tau < 0:
        raise RmxError(f"The fork threshold must be a number of nats, 0 or more; got {shown(tau)}.")
    return float(tau)


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
