"""Intervals that hold whenever one stops looking, and the rule when to stop.

An interval made for one fixed number of samples is too narrow for somebody who looks again and again and stops when
the picture pleases. The one here covers at all sample sizes at once, so sampling may stop by any rule.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

Bounds = tuple[float, float]
Verdict = Literal["decides", "same", "open"]

ALPHA = 0.05
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
