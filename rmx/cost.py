"""What an hour of a machine costs, and what a run on it costs. Every figure says where its rate comes from."""

import math
import os
from dataclasses import dataclass
from typing import NamedTuple

from rmx.errors import RmxError

VARIABLE = "RMX_USD_PER_HOUR"
SOURCE = "arXiv 2605.06241, rates of April 2026"


@dataclass(frozen=True, slots=True)
class Rate:
    """The rent of one kind of machine."""

    usd_per_hour: float
    machine: str
    source: str
    marks: tuple[str, ...]  # words of a device's name that all have to be there


# The first that fits counts. HBM3 tells an SXM card from a PCIe one in CUDA's names.
RATES = (
    Rate(1.89, "an RTX Pro 6000", SOURCE, ("rtx", "pro", "6000")),
    Rate(2.69, "an H100 SXM", SOURCE, ("h100", "hbm3")),
    Rate(2.69, "an H100 SXM", SOURCE, ("h100", "sxm")),
    Rate(2.49, "an H100 80G", SOURCE, ("h100", "pcie")),
    Rate(2.49, "an H100 80G", SOURCE, ("h100", "80g")),
)


class Cost(NamedTuple):
    """Dollars, None where no rate is known, and a sentence about the rate."""

    usd: float | None
    sentence: str


def rate_of(device: str) -> Rate | None:
    """The rate of a device by its name, as `torch.cuda.get_device_name` gives it; `RMX_USD_PER_HOUR` overrides.

    Raises:
        RmxError: the variable holds no amount.
    """
    if own := os.environ.get(VARIABLE, "").strip():
        return Rate(_amount(own), "this machine", VARIABLE, ())
    name = device.lower()
    return next((rate for rate in RATES if all(mark in name for mark in rate.marks)), None)


def cost(seconds: float, device: str) -> Cost:
    """What `seconds` on a device cost.

    Raises:
        RmxError: `RMX_USD_PER_HOUR` holds no amount. ValueError: negative seconds.
    """
    if not seconds >= 0:
        raise ValueError(f"{seconds=} must be 0 or more")
    rate = rate_of(device)
    if rate is None:
        what = "your own CPU" if device.lower() == "cpu" else device
        return Cost(None, f"No hourly rate is known for {what}. Set {VARIABLE} to see dollars.")
    return Cost(
        rate.usd_per_hour * seconds / 3600,
        f"At {rate.usd_per_hour:.2f} USD per hour for {rate.machine} ({rate.source}).",
    )


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise RmxError(f"{VARIABLE} must be an amount in US dollars, 0 or more, such as 2.49; it is {text!r}.")
    return value
