"""Estimates as text: a value stands with its interval, or with what says that it has none."""

from collections.abc import Mapping
from typing import Any

MISSING = "–"
BOUNDS, SIGNED = " [{:.1f}, {:.1f}]", " [{:+.1f}, {:+.1f}]"


def percent(found: Mapping[str, Any], value: str = "{:.1f} %", bounds: str = BOUNDS, alone: str = "") -> str:
    """Write a share as `41.3 % [38.2, 44.5]`.

    Args:
        found: an estimate; without a value it is a dash.
        value, bounds: how the value and the ends of its interval are written, all of them in per cent.
        alone: what stands behind a value that has no interval.
    """
    return in_format(found, value, bounds, alone, scale=100)


def points(found: Mapping[str, Any], value: str = "{:+.1f} points", bounds: str = SIGNED, alone: str = "") -> str:
    """Write a difference of shares as `+2.1 points [-0.3, +4.5]`; the arguments are those of `percent`."""
    return in_format(found, value, bounds, alone, scale=100)


def in_format(found: Mapping[str, Any], value: str, bounds: str, alone: str = "", scale: float = 1.0) -> str:
    """Write an estimate in any unit; value and interval are multiplied by `scale`."""
    if found["value"] is None:
        return MISSING
    ends = alone if found["low"] is None else bounds.format(scale * found["low"], scale * found["high"])
    return value.format(scale * found["value"]) + ends


# -- to a few digits --------------------------------------------------------------------------------------------------

_UNITS = {"%": (100.0, " %", ""), "points": (100.0, " points", "+")}  # scale, what stands behind, sign


def brief(found: Mapping[str, Any], unit: str = "", digits: int = 3) -> str:
    """Write an estimate to some significant digits, as `2.31 [2.1, 2.5]`.

    Args:
        unit: "%" for shares, "points" for differences of shares, whatever else stands behind the value as it is.
    """
    if found["value"] is None:
        return MISSING
    scale, tail, sign = _UNITS.get(unit, (1.0, unit, ""))
    number = f"{{:{sign}.{digits}g}}"
    low, high = (None if found["low"] is None else _number(scale * found[end], number) for end in ("low", "high"))
    return f"{_number(scale * found['value'], number)}{tail}" + ("" if low is None else f" [{low}, {high}]")


def _number(value: float, shape: str) -> str:
    """Never `+0` or `1e-05`."""
    if abs(value) < 1e-12:
        return "0"
    written = shape.format(value)
    return f"{value:.6f}".rstrip("0") if "e-" in written else written
