"""Intervals for what is measured, and those that hold whenever one stops looking, with the rule when to stop.

An interval made for one fixed number of samples is too narrow for somebody who looks again and again and stops when
the picture pleases. `anytime` covers at all sample sizes at once, so sampling may stop by any rule.
"""

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Estimate = dict[str, Any]  # {"value", "low", "high", "n"} as the JSON contracts write it
RESAMPLES = 2000
ALPHA = 0.05  # what a 95 % interval leaves outside, half of it at either end
Z = 1.959964  # the 97.5 % quantile of the normal distribution


def unknown(n: int = 0) -> Estimate:
    """The estimate of what was not measured."""
    return {"value": None, "low": None, "high": None, "n": n}


def wilson(successes: int, n: int, z: float = Z) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (JASA 22 (1927), 209-212); (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(successes: int, n: int) -> Estimate:
    """An estimate as the JSON contracts write it; `value` is None without observations."""
    low, high = wilson(successes, n)
    return {"value": successes / n if n else None, "low": low, "high": high, "n": n}


def bootstrap_median(values: Sequence[float]) -> Estimate:
    """The median with a 95 % percentile bootstrap interval."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(data, (RESAMPLES, len(data)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"value": float(np.median(data)), "low": float(low), "high": float(high), "n": len(data)}


def ratio_of_sums(above: Sequence[float], below: Sequence[float], counts: bool = True) -> Estimate:
    """sum(above) / sum(below) over problems, with a 95 % percentile bootstrap over problems.

    Where both sums count the same things (a share) and the resamples all but agree, as when nothing or everything was
    found, the bootstrap says nothing; an exact bound takes its place, with "exact": true.

    Args:
        above, below: one figure per problem. n of the estimate is the number of problems.
        counts: False for a mean, such as one of nats, which has no such bound.
    """
    found = _of_sums((above, below), [1], lambda s: s[:, 0] / s[:, 1])
    if counts and found["n"] > 1 and found["value"] in (0.0, 1.0) and all(map(operator.le, above, below)):
        return found | _exact_bounds(found["value"], int(np.sum(below, dtype=float)))
    return found


def quotient(a: Sequence[float], a_n: Sequence[float], b: Sequence[float], b_n: Sequence[float]) -> Estimate:
    """(sum a / sum a_n) / (sum b / sum b_n), one figure of each per problem; bootstrap over problems.

    None where a mean has nothing under it. Resamples without a single `a_n` are left out.
    """
    return _of_sums((a, a_n, b, b_n), [1, 2, 3], lambda s: (s[:, 0] / s[:, 1]) / (s[:, 2] / s[:, 3]))


def difference_of_ratios(
    a: Sequence[float], a_n: Sequence[float], b: Sequence[float], b_n: Sequence[float]
) -> Estimate:
    """sum a / sum a_n - sum b / sum b_n, one figure of each per problem; bootstrap over problems.

    Resamples in which either ratio has nothing under it are left out.
    """
    return _of_sums((a, a_n, b, b_n), [1, 3], lambda s: s[:, 0] / s[:, 1] - s[:, 2] / s[:, 3])


def _of_sums(columns: Sequence[Sequence[float]], under: list[int], figure: Callable[[Floats], Floats]) -> Estimate:
    """A figure, (R, columns) sums -> (R,), of sums over problems, with a 95 % percentile bootstrap over problems.

    Args:
        under: columns whose sums stand under a fraction; without one of them there is no figure.
    """
    table = np.stack([np.asarray(column, dtype=float) for column in columns], axis=1)
    n, total = len(table), table.sum(axis=0)
    if n == 0 or not total[under].all():
        return unknown(n)
    value = float(figure(total[None])[0])
    if n == 1:  # one problem says nothing of how problems vary
        return unknown(n) | {"value": value}
    sums = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) @ table
    drawn = figure(sums[(sums[:, under] > 0).all(axis=1)])
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975]))
    return {"value": value, "low": low, "high": high, "n": n}


def exact_share(successes: int, n: int) -> Estimate:
    """A share with its Wilson interval; where none or all were counted, with the exact bound instead."""
    found = share(successes, n)
    return found if n == 0 or 0 < successes < n else found | _exact_bounds(found["value"], n)


def _exact_bounds(value: float, n: int) -> Estimate:
    """Exact limits of a share of 0 or 1."""
    edge = exact_edge(n)
    return {"low": 0.0 if value == 0 else 1 - edge, "high": edge if value == 0 else 1.0, "exact": True}


def exact_edge(n: int) -> float:
    """The two-sided limit of a share of 0 among `n`: Clopper and Pearson, Biometrika 26 (1934), 404-413."""
    return 1 - 0.025 ** (1 / n) if n else 1.0


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    """Share of `after` minus share of `before` on the same problems, with a 95 % interval for paired shares.

    Source: Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10: Wilson limits of the two shares, with
    the correlation phi between them. Unlike a bootstrap it stays honest where nothing, or nearly nothing, changed.
    """
    n = len(before)
    if n == 0:
        return unknown()
    both = sum(a and b for a, b in zip(after, before, strict=True))
    won, lost = sum(after) - both, sum(before) - both
    neither = n - both - won - lost
    x, y = sum(after) / n, sum(before) / n
    (x_low, x_high), (y_low, y_high) = wilson(sum(after), n), wilson(sum(before), n)
    spread = (both + won) * (neither + lost) * (both + lost) * (neither + won)
    excess: float = both * neither - won * lost
    if excess > 0:  # the continuity correction of the method, never past 0
        excess = max(excess - n / 2, 0)
    phi = excess / math.sqrt(spread) if spread else 0.0
    down = (x - x_low) ** 2 - 2 * phi * (x - x_low) * (y_high - y) + (y_high - y) ** 2
    up = (x_high - x) ** 2 - 2 * phi * (x_high - x) * (y - y_low) + (y - y_low) ** 2
    low, high = x - y - math.sqrt(max(down, 0.0)), x - y + math.sqrt(max(up, 0.0))
    return {"value": x - y, "low": max(low, -1.0), "high": min(high, 1.0), "n": n}


# -- Intervals that hold whenever one stops looking, and the rule when to stop ----------------------------------------


Bounds = tuple[float, float]
Verdict = Literal["decides", "same", "open"]

PRIOR = 0.5  # of the beta mixture, on both sides (Jeffreys): tightest where most rows agree


@lru_cache(maxsize=1 << 16)
def anytime(successes: int, n: int, alpha: float = ALPHA) -> Bounds:
    """A confidence interval for the mean of Bernoulli draws, valid at all n simultaneously.

    { p : B(a + s, a + n - s) / B(a, a)  <  p^s (1 - p)^(n - s) / alpha },  a = 1/2.

    The left side over the likelihood is a mixture of likelihood ratios, a martingale of mean 1 at the true p; by
    Ville's inequality it ever reaches 1 / alpha with probability alpha at most. (0, 1) without draws.

    Source: Robbins, Ann. Math. Statist. 41 (1970), 1397-1409; Howard et al., arXiv 1810.08240, section 4; compare
    Waudby-Smith and Ramdas, arXiv 2010.09686.
    """
    if n == 0:
        return 0.0, 1.0
    peak = successes / n
    low = 0.0 if successes == 0 else _edge(successes, n, alpha, 0.0, peak)
    high = 1.0 if successes == n else _edge(successes, n, alpha, 1.0, peak)
    return low, high


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(successes: int, n: int, alpha: float, outside: float, inside: float) -> float:
    """Where the ratio, convex in p, crosses 1 / alpha between a p that is left out and one that is not."""
    limit = -math.log(alpha)
    mixture = _log_beta(PRIOR + successes, PRIOR + n - successes) - _log_beta(PRIOR, PRIOR)
    for _ in range(60):
        middle = (outside + inside) / 2
        if middle in (outside, inside):
            break
        if mixture - successes * math.log(middle) - (n - successes) * math.log1p(-middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside  # the wider side: rounding never makes the interval too narrow


def decide(intervals: Sequence[Bounds], margin: float) -> Verdict:
    """What the intervals of all alternatives say about the choice between them.

    "decides": two of them do not overlap. "same": all of them together span less than `margin`. Else "open".
    """
    lows, highs = zip(*intervals, strict=True)
    if max(lows) > min(highs):
        return "decides"
    return "same" if max(highs) - min(lows) < margin else "open"


def rule(margin: float, samples: int, budget: int) -> str:
    """`decide` and the limits as the sentence that is shown."""
    return (
        "Each interval is for the probability of a right answer. Sampling stops as soon as the intervals of two "
        f"alternatives no longer overlap (the choice decides), or all intervals together span less than {margin:g} "
        f"(it makes no difference), and else after {samples} samples of each or {budget:,} tokens (open). The "
        "intervals hold together at 95 %, whenever one stops."
    )
