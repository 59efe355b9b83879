"""Means over problems and paired differences, with tests and 95 % intervals, by resampling problems or clusters.

Problems of one wording stand or fall together. Where labels say so, what is resampled is the cluster, not the problem;
a unit below is a cluster, or a problem that stands for itself. Which interval is shown depends on what the units can
tell; each choice is the one that kept its promise in simulation (tests/unit/stats/test_coverage.py):

1. Many units, many of them telling: the percentile bootstrap over units, RESAMPLES times.
2. Few units, or few that tell: percentile intervals come out too narrow. For shares the Wilson interval with the
   effective number of observations, value (1 - value) / variance, and Student's t; for differences value
   ± t times the linearised standard error. Both are cluster-robust. Degrees of freedom: units that count, less 1.
3. Resamples all but agree, as when nearly everything is right, or nothing changed: the exact bound over units, with
   "exact": true.

A set may mix lone problems with clusters, as `mini` does: lone new numbers, and new wordings in clusters. How many
there are of each was settled when the set was made, and one sort may be harder; so lone problems and clusters are two
strata, resampled apart. Where one sort has fewer than STRATUM units, there is one stratum.

In simulation the intervals held the truth 94 to 96 times in 100, more where they are exact and about 92 times a few
units short of where everything is right or nothing changed. As if 22 clusters were independent problems: 72 times.

Which units tell: the sum of the distances to the nearer end (0 or 1; for a difference, to 0) may rest on all units or
on a few. (sum d)² / (sum d²) says on how many.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rmx.stats.intervals import ALPHA, RESAMPLES, Estimate, Z, paired_difference, share, unknown
from rmx.stats.pass_at_k import clopper_pearson, t_quantile

FEW_UNITS = 50  # below, a percentile bootstrap covers less than it says
FEW_TELL = 20  # units on which a bootstrap must rest, for the same reason
ALL_BUT_AGREE = 5  # below, the resamples say next to nothing
STRATUM = 5  # units that it takes to tell how a stratum varies
BLOCK = 4_000_000  # weights held at once: 32 MB

Clusters = Sequence[Hashable] | None
Bounds = Callable[[np.ndarray, np.ndarray], tuple[float, float, float]]


@dataclass(frozen=True, eq=False)
class Units:
    """What varies on its own: clusters of problems, or problems."""

    index: np.ndarray  # (P,) the unit of each problem
    sizes: np.ndarray  # (G,) problems in each unit

    @cached_property
    def strata(self) -> list[np.ndarray]:
        """Units that are alike, by their numbers: lone problems and clusters apart, or all together."""
        lone = self.sizes == 1
        parts = [np.flatnonzero(lone), np.flatnonzero(~lone)]
        return parts if min(map(len, parts)) >= STRATUM else [np.arange(self.n)]

    @property
    def n(self) -> int:
        """Number of units."""
        return len(self.sizes)

    @property
    def telling(self) -> float:
        """Units that count towards a variance if all problems of a unit agree: n where all are of one size."""
        squares = self.sizes**2
        return float(squares.sum() ** 2 / (squares**2).sum())

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(P, M) values of problems, added up in each unit, (G, M)."""
        if self.n == len(self.index):
            return values
        order = np.argsort(self.index, kind="stable")
        added: np.ndarray = np.add.reduceat(values[order], np.searchsorted(self.index[order], np.arange(self.n)))
        return added


Limits = Callable[[np.ndarray, Units], tuple[np.ndarray, np.ndarray]]


def units_of(problems: int, clusters: Clusters = None) -> Units:
    """The units of so many problems; raises ValueError where labels and problems differ in number."""
    labels = range(problems) if clusters is None else clusters
    if len(labels) != problems:
        raise ValueError(f"{len(labels)} cluster labels for {problems} problems")
    number = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    index = np.array([number[label] for label in labels], dtype=int)
    return Units(index, np.bincount(index).astype(float))


def mean_estimates(table: ArrayLike, clusters: Clusters = None) -> list[Estimate]:
    """The mean over problems of each column with its 95 % interval, all with the same resamples.

    n of an estimate is the number of problems. Fewer than two units say nothing of how they vary: no interval.

    Args:
        table: (P, M) figures between 0 and 1, a row for each problem.
        clusters: one label of each problem; problems of one label depend on each other.

    Raises:
        ValueError: labels and problems differ in number, or a share lies outside 0 .. 1.
    """
    values = np.asarray(table, dtype=float)
    if ((values < -1e-12) | (values > 1 + 1e-12)).any():
        raise ValueError("a share must lie between 0 and 1")
    units = units_of(len(values), clusters)
    if units.n < 2:
        return _without_interval(values)
    sums = units.sums(values)
    ends = np.minimum(_rests_on(sums), _rests_on(units.sizes[:, None] - sums))
    return _estimates(values, sums, units, ends, _by_wilson, _found)


def share_estimate(marks: Sequence[bool] | np.ndarray, clusters: Clusters = None) -> Estimate:
    """A share of problems, as of greedy answers that are right: Wilson's interval where each stands for itself."""
    hits = np.asarray(marks, dtype=bool)
    units = units_of(len(hits), clusters)
    if units.n == len(hits):
        return share(int(hits.sum()), len(hits))
    if units.n < 2:
        return _without_interval(hits[:, None].astype(float))[0]
    sums = units.sums(hits[:, None].astype(float))
    if min(_rests_on(sums)[0], _rests_on(units.sizes[:, None] - sums)[0]) < ALL_BUT_AGREE:
        return mean_estimates(hits[:, None], clusters)[0]
    low, high = _by_wilson(sums, units)
    return {"value": float(hits.mean()), "low": float(low[0]), "high": float(high[0]), "n": len(hits)}


def difference_estimates(before: ArrayLike, after: ArrayLike, clusters: Clusters = None) -> list[Estimate]:
    """Mean of `after` minus mean of `before` over the same problems, with its 95 % interval, column by column.

    Where all but a few problems agree, the exact bounds of what was won and of what was lost are put together by the
    squares of their distances, as Newcombe does with Wilson's.

    Args:
        before, after: (P, M) shares of each problem, such as its pass@k under two models.

    Raises:
        ValueError: the numbers of problems or labels differ.
    """
    old, new = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if old.shape != new.shape:
        raise ValueError(f"the two tables differ in shape: {old.shape} and {new.shape}")
    units = units_of(len(old), clusters)
    gained = new - old
    if units.n < 2:
        return _without_interval(gained)
    sums = units.sums(gained)
    return _estimates(gained, sums, units, _rests_on(np.abs(sums)), _by_t, _won_and_lost)


def spread_of(gained: np.ndarray, clusters: Clusters = None) -> float | None:
    """The standard deviation of a difference over problems that stand for themselves; None for fewer than two units.

    With clusters: the one that independent problems would need for the mean to vary as much as it does.
    """
    units = units_of(len(gained), clusters)
    if units.n < 2:
        return None
    return math.sqrt(float(_variance(units.sums(gained[:, None]), units)[0]) * len(gained))


def _rests_on(sums: np.ndarray) -> np.ndarray:
    """On how many units a sum of distances rests, (M,); 0 where there is none."""
    squares = (sums**2).sum(axis=0)
    return np.divide(sums.sum(axis=0) ** 2, squares, out=np.zeros_like(squares), where=squares > 1e-24)


def _variance(sums: np.ndarray, units: Units) -> np.ndarray:
    """The cluster-robust variance of a mean over problems, (M,): linearised, in each stratum with G / (G - 1)."""
    variance = np.zeros(sums.shape[1])
    for part in units.strata:
        own, sizes = sums[part], units.sizes[part]
        off = own - sizes[:, None] * (own.sum(axis=0) / sizes.sum())
        variance += len(part) / (len(part) - 1) * (off**2).sum(axis=0)
    return variance / units.sizes.sum() ** 2


def _by_t(sums: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Value ± t standard errors, (M,) each."""
    mean = sums.sum(axis=0) / units.sizes.sum()
    half = t_quantile(max(units.telling - 1, 1.0)) * np.sqrt(_variance(sums, units))
    return mean - half, mean + half


def _by_wilson(sums: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's limits for the effective number of observations, with Student's t, (M,) each.

    Source: Dean and Pagano, Journal of Survey Statistics and Methodology 3 (2015), 484-503, on proportions in clusters.
    """
    mean = sums.sum(axis=0) / units.sizes.sum()
    t2 = t_quantile(max(units.telling - 1, 1.0)) ** 2
    variance, binomial = _variance(sums, units), np.clip(mean * (1 - mean), 0, None)
    per = np.divide(variance, binomial, out=np.zeros_like(mean), where=binomial > 1e-12)  # 1 / effective number
    centre = (mean + t2 * per / 2) / (1 + t2 * per)
    half = np.sqrt(t2 * (variance + t2 * per**2 / 4)) / (1 + t2 * per)
    return centre - half, centre + half


def _bootstrap(sums: np.ndarray, units: Units) -> np.ndarray:
    """Percentiles of the mean over resampled units, (2, M): lower and upper ends."""
    drawn = np.zeros((RESAMPLES, sums.shape[1]))
    for number, part in enumerate(units.strata):
        sizes = units.sizes[part, None]
        parts = _resampled(np.concatenate([sums[part], sizes], axis=1), number)
        drawn += sizes.sum() / units.sizes.sum() * parts[:, :-1] / parts[:, -1:]
    ends: np.ndarray = np.quantile(drawn, [0.025, 0.975], axis=0)
    return ends


def _resampled(columns: np.ndarray, seed: int) -> np.ndarray:
    """Sums over resampled units, (RESAMPLES, M)."""
    units = len(columns)
    if units * RESAMPLES <= BLOCK:
        return _weights(units, seed) @ columns
    rng, rows = np.random.default_rng(seed), max(1, BLOCK // units)
    blocks = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([_draw(rng, units, size) @ columns for size in blocks])


@lru_cache(maxsize=4)
def _weights(units: int, seed: int) -> np.ndarray:
    """How often each resample holds each unit, (RESAMPLES, units); kept, as every figure of a page asks for it."""
    return _draw(np.random.default_rng(seed), units, RESAMPLES)


def _draw(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    picks = rng.integers(0, units, (resamples, units)) + np.arange(resamples)[:, None] * units
    return np.bincount(picks.ravel(), minlength=resamples * units).reshape(resamples, units).astype(float)


def _exact(means: np.ndarray, units: Units, bounds: Bounds) -> tuple[float, float]:
    """Bounds of a mean of (G,) units from those of each stratum, put together by the squares of their distances.

    Args:
        bounds: (G,) means and weights that add up to 1 -> value, low, high.
    """
    value = below = above = 0.0
    for part in units.strata:
        sizes = units.sizes[part]
        middle, low, high = bounds(means[part], sizes / sizes.sum())
        share_of_all = float(sizes.sum() / units.sizes.sum())
        value += share_of_all * middle
        below = math.hypot(below, share_of_all * (middle - low))
        above = math.hypot(above, share_of_all * (high - middle))
    return value - below, value + above


def _found(means: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """A share and its exact bounds; unequal units count as so many of one size, 1 / (sum w²)."""
    n, value = 1 / float((weights**2).sum()), min(float(weights @ means), 1.0)
    return value, *clopper_pearson(value * n, n)


def _won_and_lost(gained: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """A mean difference between -1 and 1, and its bounds from the exact ones of its gains and of its losses."""
    won, won_low, won_high = _found(np.clip(gained, 0, None), weights)
    lost, lost_low, lost_high = _found(np.clip(-gained, 0, None), weights)
    return (
        won - lost,
        max(-1.0, won - lost - math.hypot(won - won_low, lost_high - lost)),
        min(1.0, won - lost + math.hypot(won_high - won, lost - lost_low)),
    )


def _estimates(
    values: np.ndarray, sums: np.ndarray, units: Units, telling: np.ndarray, limits: Limits, bounds: Bounds
) -> list[Estimate]:
    """The mean of each column of (P, M) values with the interval that its units can bear.

    Args:
        telling: (M,) on how many units each column rests.
        limits: of columns with few units. bounds: as `_exact`.
    """
    few = (telling < FEW_TELL) | (units.telling < FEW_UNITS)
    low, high = limits(sums, units)
    if not few.all():
        low[~few], high[~few] = _bootstrap(sums[:, ~few], units)
    mean = values.mean(axis=0)
    found: list[Estimate] = [
        {"value": float(m), "low": float(a), "high": float(b), "n": len(values)}
        for m, a, b in zip(mean, low, high, strict=True)
    ]
    for i in np.flatnonzero((telling < ALL_BUT_AGREE) | (_variance(sums, units) < 1e-24)):
        below, above = _exact(sums[:, i] / units.sizes, units, bounds)
        found[i] |= {"low": below, "high": above, "exact": True}
    return found


def _without_interval(values: np.ndarray) -> list[Estimate]:
    n = len(values)
    return [unknown() if n == 0 else unknown(n) | {"value": float(column.mean())} for column in values.T]


# -- Base against adapted on the same problems ------------------------------------------------------------------------


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
