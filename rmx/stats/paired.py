"""Base against adapted on the same problems: was the change more than chance, and how many problems would show it?"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rmx.stats.cluster_bootstrap import Clusters, difference_estimate, difference_estimates, spread_of, units_of
from rmx.stats.exact_test import excludes_zero, sign_flip, with_verdict
from rmx.stats.intervals import Estimate, paired_difference

Z = 1.959964  # the 97.5 % quantile of the normal distribution


def greedy_difference(
    before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray, clusters: Clusters = None
) -> Estimate:
    """Share right after less share right before, one greedy answer per problem.

    Returns:
        An estimate with `won` (wrong before, right after), `lost`, `p`, `needed` (see `needed`), and `verdict` by `p`.
        Problems that stand for themselves have Newcombe's interval and McNemar's exact p. With clusters the interval
        is that of `difference_estimate` and p that of `sign_flip` over clusters.

    Raises:
        ValueError: the numbers of problems or labels differ.
    """
    old, new = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if old.shape != new.shape:
        raise ValueError(f"{len(old)} problems before and {len(new)} after")
    units = units_of(len(old), clusters)
    gained = new.astype(int) - old.astype(int)
    if units.n == len(old):
        found = paired_difference(old.tolist(), new.tolist())
    else:
        found = difference_estimate(old, new, clusters)
    counted = {
        "won": int((gained > 0).sum()),
        "lost": int((gained < 0).sum()),
        "p": sign_flip(np.bincount(units.index, gained, units.n).round().astype(int)),
        "needed": _needed(found, spread_of(gained.astype(float), clusters)),
    }
    return with_verdict(found | counted)


def sampled_differences(before: ArrayLike, after: ArrayLike, clusters: Clusters = None) -> list[Estimate]:
    """`difference_estimates` of two (P, M) tables, each estimate with `needed`, and `verdict` by its interval."""
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    found = difference_estimates(old, new, clusters)
    return [
        with_verdict(e | {"needed": _needed(e, spread_of((new - old)[:, i], clusters))}) for i, e in enumerate(found)
    ]


def needed(difference: float, spread: float) -> int | None:
    """Problems it takes for a 95 % interval to leave 0 out, if difference and spread stay as they are.

    Args:
        difference: mean of the paired differences.
        spread: their standard deviation over problems that stand for themselves (`spread_of`).

    Returns:
        The smallest n with |difference| > z spread / √n; at least 1. None where the difference is 0: none would do.

    It takes an interval half as wide to be had with four times the problems, as all intervals here are in the long run.
    A difference that was overestimated needs more than this says: a true one that is half as large, four times as many.
    """
    if abs(difference) < 1e-12:
        return None
    return math.floor((Z * spread / difference) ** 2) + 1


def _needed(found: Estimate, spread: float | None) -> int | None:
    """`needed`, in keeping with the interval shown: at most its problems if it leaves 0 out, else more than they are.

    The rule by the standard deviation and the interval shown differ a little when a difference is on the edge.
    """
    if found["low"] is None or spread is None:
        return None
    number = needed(found["value"], spread)
    if number is None:
        return None
    return min(number, found["n"]) if excludes_zero(found) else max(number, found["n"] + 1)
