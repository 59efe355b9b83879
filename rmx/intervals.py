"""Intervals for what is measured."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share; (0, 1) without observations.

    Source: Wilson, JASA 22 (1927), 209-212.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(successes: int, n: int) -> dict[str, Any]:
    """An estimate as the JSON contracts write it; `value` is None without observations."""
    low, high = wilson(successes, n)
    return {"value": successes / n if n else None, "low": low, "high": high, "n": n}


def bootstrap_median(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """The median with a 95 % percentile bootstrap interval."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).choice(data, (resamples, len(data)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"value": float(np.median(data)), "low": float(low), "high": float(high), "n": len(data)}
