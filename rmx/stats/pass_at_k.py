"""pass@k: the chance that at least one of k samples is right."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> np.ndarray:
    """The unbiased estimate of pass@k, one per problem: 1 - C(n - c, k) / C(n, k).

    Worked out in whole numbers and rounded once, so it is exact to the last digit for any n.

    Args:
        n: samples of each problem, (P,) or one number for all.
        c: right ones among them, (P,).
        k: samples of which one must be right.

    Returns:
        (P,) float. k = 1 gives the share of right samples, avg@n.

    Raises:
        ValueError: k is below 1 or above an n, or a c is not among 0 .. n.

    Source: Chen et al., arXiv 2107.03374, Eq. 1.
    """
    samples, right = np.broadcast_arrays(np.asarray(n, dtype=int), np.asarray(c, dtype=int))
    if samples.size and (k < 1 or k > samples.min()):
        raise ValueError(f"k must be from 1 to the number of samples, {samples.min()}, not {k}")
    if ((right < 0) | (right > samples)).any():
        raise ValueError("each count of right samples must be from 0 to the number of samples")
    found = np.empty(samples.shape)
    for each in np.unique(samples):
        here = samples == each
        found[here] = _by_count(int(each), k)[right[here]]
    return found


@lru_cache(maxsize=512)
def _by_count(n: int, k: int) -> np.ndarray:
    """pass@k for 0, 1, ... n right samples of n, (n + 1,)."""
    ways = math.comb(n, k)
    return np.array([(ways - math.comb(n - c, k)) / ways for c in range(n + 1)])


def powers(n: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to n, and n itself; empty without samples."""
    return tuple(sorted({2**i for i in range(n.bit_length())} | {n})) if n else ()
