"""Figures over problems that the claims need beside those of rmx/stats/intervals.py."""

from collections.abc import Sequence

import numpy as np

from rmx.stats.intervals import Estimate, exact_edge, share


def difference_of_ratios(
    a: Sequence[float],
    a_n: Sequence[float],
    b: Sequence[float],
    b_n: Sequence[float],
    seed: int = 0,
    resamples: int = 2000,
) -> Estimate:
    """sum a / sum a_n - sum b / sum b_n, one figure of each per problem; 95 % percentile bootstrap over problems.

    Resamples in which either ratio has nothing under it are left out.
    """
    table = np.stack([np.asarray(x, dtype=float) for x in (a, a_n, b, b_n)], axis=1)
    n, total = len(table), table.sum(axis=0)
    if n == 0 or not (total[1] and total[3]):
        return {"value": None, "low": None, "high": None, "n": n}
    value = float(total[0] / total[1] - total[2] / total[3])
    if n == 1:
        return {"value": value, "low": None, "high": None, "n": n}
    sums = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) @ table
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    drawn = sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3]
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975]))
    return {"value": value, "low": low, "high": high, "n": n}


def exact_share(successes: int, n: int) -> Estimate:
    """A share with its Wilson interval; where none or all were counted, with the exact bound instead."""
    found = share(successes, n)
    if n == 0 or 0 < successes < n:
        return found
    edge = exact_edge(n)
    return found | {"low": 0.0 if successes == 0 else 1 - edge, "high": edge if successes == 0 else 1.0, "exact": True}


def told(found: Estimate, unit: str = "", digits: int = 3) -> str:
    """`2.31 [2.1, 2.5]`; shares in per cent, differences in points."""
    if found["value"] is None:
        return "–"
    scale, tail, sign = {"%": (100, " %", ""), "points": (100, " points", "+")}.get(unit, (1, unit, ""))
    number = f"{{:{sign}.{digits}g}}"
    bounds = (
        ""
        if found["low"] is None
        else f" [{_plain(found['low'], scale, number)}, {_plain(found['high'], scale, number)}]"
    )
    return f"{_plain(found['value'], scale, number)}{tail}{bounds}"


def _plain(value: float, scale: float, number: str) -> str:
    """Never `+0` or `1e-05`."""
    scaled = value * scale
    if abs(scaled) < 1e-12:
        return "0"
    shown = number.format(scaled)
    return f"{scaled:.6f}".rstrip("0") if "e-" in shown else shown
