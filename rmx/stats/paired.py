"""Base against adapted on the same problems: was the change more than chance, and how many problems would show it?"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rmx.stats.cluster_bootstrap import Clusters, difference_estimates, spread_of, units_of
from rmx.stats.intervals import Estimate, paired_difference

ALPHA = 0.05
BY_TEST = "exact p < 0.05"
BY_INTERVAL = "95 % interval excludes 0"
RULE = (
    "Better and worse are said of greedy answers where the exact test has p < 0.05, and of samples, which have no such "
    "test, where the paired 95 % interval excludes 0."
)
Change = Literal["better", "worse", "not shown"]


def sign_flip(nets: Sequence[int] | np.ndarray) -> float:
    """The exact two-sided p of a sum under random signs, one for each unit: 1 where nothing changed.

    If the two models did not differ, a cluster's net of won and lost problems would as likely be its opposite. The p is
    the share of all sign patterns with a sum at least as far from 0 as the one seen. With units of one problem this is
    McNemar's exact test.

    Source: McNemar, Psychometrika 12 (1947), 153-157, with binomial probabilities.
    """
    sizes = np.abs(np.asarray(nets, dtype=int))
    reach = int(sizes.sum())
    if reach == 0:
        return 1.0
    chance = np.zeros(2 * reach + 1)  # of each sum from -reach to reach
    chance[reach] = 1.0
    for size in sizes[sizes > 0]:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2  # never wraps: sums so far are small enough
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(int(np.sum(nets)))
    return min(1.0, float(chance[far].sum()))


def with_verdict(found: Estimate) -> Estimate:
    """The same difference with `verdict`, None without a value, by its `p` where it has one, else by its interval."""
    rule = BY_TEST if "p" in found else BY_INTERVAL
    verdict: Change | None = None
    if found["value"] is not None:
        shown = found["p"] < ALPHA if rule == BY_TEST else excludes_zero(found)
        verdict = "not shown" if not shown else "better" if found["value"] > 0 else "worse"
    return found | {"verdict": verdict, "rule": rule}


def tested_difference(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    """`paired_difference` with `won`, `lost`, McNemar's exact `p`, `verdict` and `rule`; None without problems."""
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    p = sign_flip([1] * won + [-1] * lost) if len(before) else None
    return with_verdict(paired_difference(before, after) | {"won": won, "lost": lost, "p": p})


def tested(found: Estimate) -> bool:
    """Whether a difference brings the exact test that decides on it."""
    return found.get("p") is not None


def excludes_zero(found: Estimate) -> bool:
    """Whether an estimate's interval lies on one side of 0."""
    return found["low"] is not None and (found["low"] > 0 or found["high"] < 0)


def write_p(p: float) -> str:
    """ "p = 0.0563"; with so many digits that rounding never carries it over 0.05."""
    if p < 1e-12:
        return "p < 1e-12"
    digits = 3 if abs(p - ALPHA) > 1e-4 else 6
    return f"p = {p:.{digits}g}"


def told_change(found: Estimate) -> str:
    """The verdict of a row in words, with its test where it has one: "not shown, p = 0.0563"."""
    if found.get("verdict") is None:
        return ""
    return str(found["verdict"]) + (f", {write_p(found['p'])}" if tested(found) else "")


Z = 1.959964  # the 97.5 % quantile of the normal distribution


def greedy_difference(
    before: Sequence[bool] | np.ndarray, after: Sequence[bool] | np.ndarray, clusters: Clusters = None
) -> Estimate:
    """Share right after less share right before, one greedy answer per problem.

    The estimate has `won` (wrong before, right after), `lost`, `p`, `needed` and `verdict` by `p` as well. Problems
    that stand for themselves have Newcombe's interval, clusters that of `difference_estimates`; p is `sign_flip`'s.
    """
    old, new = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if old.shape != new.shape:
        raise ValueError(f"{len(old)} problems before and {len(new)} after")
    units = units_of(len(old), clusters)
    gained = new.astype(int) - old.astype(int)
    if units.n == len(old):
        found = paired_difference(old.tolist(), new.tolist())
    else:
        found = difference_estimates(old[:, None], new[:, None], clusters)[0]
    p = sign_flip(np.bincount(units.index, gained, units.n).round().astype(int))
    wanted = _needed(found, spread_of(gained.astype(float), clusters))
    counted = {"won": int((gained > 0).sum()), "lost": int((gained < 0).sum()), "p": p, "needed": wanted}
    return with_verdict(found | counted)


def sampled_differences(before: ArrayLike, after: ArrayLike, clusters: Clusters = None) -> list[Estimate]:
    """`difference_estimates` of two (P, M) tables, each estimate with `needed`, and `verdict` by its interval."""
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    found = difference_estimates(old, new, clusters)
    return [
        with_verdict(e | {"needed": _needed(e, spread_of((new - old)[:, i], clusters))}) for i, e in enumerate(found)
    ]


def needed(difference: float, spread: float) -> int | None:
    """Problems it takes for a 95 % interval to leave 0 out, if difference and spread (`spread_of`) stay as they are.

    That is the smallest n with |difference| > z spread / √n; None where the difference is 0: none would do. A
    difference that was overestimated needs more: a true one that is half as large, four times as many.
    """
    return None if abs(difference) < 1e-12 else math.floor((Z * spread / difference) ** 2) + 1


def _needed(found: Estimate, spread: float | None) -> int | None:
    """`needed`, in keeping with the interval shown: at most its problems if it leaves 0 out, else more than they are.

    The rule by the standard deviation and the interval shown differ a little when a difference is on the edge.
    """
    if found["low"] is None or spread is None or (number := needed(found["value"], spread)) is None:
        return None
    return min(number, found["n"]) if excludes_zero(found) else max(number, found["n"] + 1)
