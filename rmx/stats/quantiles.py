"""Quantiles of the beta and of Student's t distribution, and the Clopper-Pearson bound that rests on them."""

import math
from functools import lru_cache

ALPHA = 0.05  # what a 95 % interval leaves outside, half of it at either end


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b): the probability that a Beta(a, b) variable is at most x.

    Args:
        a, b: above 0.

    Source: the continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


@lru_cache(maxsize=4096)
def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = p, by bisection; good to 1e-14."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if incomplete_beta(middle, a, b) < p:
            low = middle
        else:
            high = middle
        if high - low < 1e-14 * high:
            break
    return (low + high) / 2


@lru_cache(maxsize=1024)
def t_quantile(dof: float, p: float = 1 - ALPHA / 2) -> float:
    """The quantile of Student's t: 2.776 for 4 degrees of freedom, towards 1.960 for many.

    Args:
        dof: degrees of freedom, above 0; need not be whole.
        p: above 1/2.

    By t^2 / (dof + t^2) being Beta(1/2, dof / 2).
    """
    rest = beta_quantile(2 * (1 - p), dof / 2, 0.5)  # 1 - x: where x is next to 1 its distance from 1 is what counts
    return math.sqrt(dof * (1 - rest) / rest)


def clopper_pearson(count: float, n: float) -> tuple[float, float]:
    """The exact 95 % interval of a share of which `count` of `n` were found.

    Fractions are allowed. A sum of n values between 0 and 1 varies less than a count of the same mean, so that the
    interval is a safe one for it; it is exact for whole counts.

    Source: Clopper and Pearson, Biometrika 26 (1934), 404-413.
    """
    count = min(max(count, 0.0), n)
    rest = n - count
    low = beta_quantile(ALPHA / 2, count, rest + 1) if count > 0 else 0.0
    high = beta_quantile(1 - ALPHA / 2, count + 1, rest) if rest > 0 else 1.0
    return low, high
