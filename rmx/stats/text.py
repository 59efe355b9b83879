"""Estimates as text: a value stands with its interval, or with what says that it has none."""

from collections.abc import Mapping
from typing import Any

MISSING = "–"
BOUNDS, SIGNED = " [{:.1f}, {:.1f}]", " [{:+.1f}, {:+.1f}]"


def percent(found: Mapping[str, Any], value: str = "{:.1f} %", bounds: str = BOUNDS) -> str:
    """Write a share as `41.3 % [38.2, 44.5]`, value and bounds in these formats; without a value it is a dash."""
    return in_format(found, value, bounds, scale=100)


def points(found: Mapping[str, Any], value: str = "{:+.1f} points", bounds: str = SIGNED) -> str:
    """Write a difference of shares as `+2.1 points [-0.3, +4.5]`."""
    return in_format(found, value, bounds, scale=100)


def in_format(found: Mapping[str, Any], value: str, bounds: str, alone: str = "", scale: float = 1.0) -> str:
    """Write an estimate in any unit; value and interval are multiplied by `scale`, `alone` stands for no interval."""
    if found["value"] is None:
        return MISSING
    ends = alone if found["low"] is None else bounds.format(scale * found["low"], scale * found["high"])
    return value.format(scale * found["value"]) + ends


_UNITS = {"%": (100.0, " %", ""), "points": (100.0, " points", "+")}  # scale, what stands behind, sign


def brief(found: Mapping[str, Any], unit: str = "") -> str:
    """Write an estimate to three digits, as `2.31 [2.1, 2.5]`; unit: "%", "points" or what stands behind a value."""
    if found["value"] is None:
        return MISSING
    scale, tail, sign = _UNITS.get(unit, (1.0, unit, ""))
    value, low, high = (
        None if found[part] is None else _number(scale * found[part], sign) for part in ("value", "low", "high")
    )
    return f"{value}{tail}" + ("" if low is None else f" [{low}, {high}]")


def _number(value: float, sign: str) -> str:
    """Never `+0` or `1e-05`."""
    if abs(value) < 1e-12:
        return "0"
    written = f"{value:{sign}.3g}"
    return f"{value:.6f}".rstrip("0") if "e-" in written else written
