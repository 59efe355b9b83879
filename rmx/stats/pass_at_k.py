"""pass@k: the chance that at least one of k samples is right."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from rmx.stats.intervals import ALPHA


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> np.ndarray:
    """The unbiased estimate of pass@k, one per problem: 1 - C(n - c, k) / C(n, k).

    Worked out in whole numbers and rounded once, so it is exact to the last digit for any n.

    Args:
        n: samples of each problem, (P,) or one number for all.
        c: right ones among them, (P,).

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


def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b): the probability that a Beta(a, b) variable, a and b above 0, is at most x.

    Source: the continued fraction 8.17.22 of the NIST Digital Library of Mathematical Functions, by Lentz's method.
    """
    if not 0 < x < 1:
        return float(x >= 1)
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
def t_quantile(dof: float) -> float:
    """The 97.5 % quantile of Student's t: 2.776 for 4 degrees of freedom, towards 1.960 for many; need not be whole.

    By t^2 / (dof + t^2) being Beta(1/2, dof / 2).
    """
    # 1 - x: where x is next to 1 its distance from 1 is what counts. The share outside is rounded as 1 - 0.975 is.
    rest = beta_quantile(2 * (1 - (1 - ALPHA / 2)), dof / 2, 0.5)
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


NO_VOTE = -1  # of a sample that reached no answer

Counts = tuple[int, ...]


def majority_profile(votes: Sequence[int], right: Sequence[bool], ks: Sequence[int]) -> np.ndarray:
    """Expected credit of a majority vote over k of a problem's samples, drawn without replacement, for each k, (K,).

    A sample without an answer casts no vote. Answers that tie for most votes share the credit: a draw in which one
    right and two wrong answers tie counts 1/3. A draw without a vote counts 0. Exact for every k: no sampling.

    Args:
        votes: the answer's class of each sample, NO_VOTE where there is none.
        right: whether that answer is right.

    Raises:
        ValueError: a k is out of range, one class is right and wrong, or a sample without an answer is right.
    """
    if len(votes) != len(right):
        raise ValueError(f"{len(votes)} votes but {len(right)} marks")
    if not len(ks):
        return np.zeros(0)
    if min(ks) < 1 or max(ks) > len(votes):
        raise ValueError(f"k must be from 1 to the number of samples, {len(votes)}, not {list(ks)}")
    right_counts, wrong_counts, silent = _counts(votes, right)
    return credit(right_counts, wrong_counts, silent, max(ks))[np.asarray(ks) - 1]


def _counts(votes: Sequence[int], right: Sequence[bool]) -> tuple[Counts, Counts, int]:
    """How many samples gave each right answer and each wrong one, and how many none."""
    together = Counter(zip(np.asarray(votes).tolist(), np.asarray(right, dtype=bool).tolist(), strict=True))
    silent = together.pop((NO_VOTE, False), 0)
    rights = {vote: count for (vote, hit), count in together.items() if hit}
    wrongs = {vote: count for (vote, hit), count in together.items() if not hit}
    if NO_VOTE in rights or rights.keys() & wrongs.keys():
        raise ValueError("samples of one class must all be right or all wrong, and right ones must have an answer")
    return tuple(sorted(rights.values())), tuple(sorted(wrongs.values())), silent


@lru_cache(maxsize=100_000)
def credit(right: Counts, wrong: Counts, silent: int, k_max: int) -> np.ndarray:
    """The expected credit of a majority vote over k = 1 .. k_max samples, (k_max,).

    Args:
        right, wrong: how often each right and each wrong answer was given.
        silent: samples without an answer.

    The draws of k samples in which a given right answer has x votes and t others tie with it are the coefficient of
    z^k u^t in a product of polynomials: C(count, x) z^x of the answer itself, sum over a <= x of C(c, a) z^a u^[a = x]
    for each other answer given c times, and (1 + z)^silent. Shared credit is the integral of u^t from 0 to 1, which is
    1 / (1 + t); Gauss-Legendre nodes for u make it exact. One row of the table below is an x with a node; answers
    given fewer than x times cannot reach it, so they join the silent.
    """
    total = np.zeros(k_max)
    for i, count in enumerate(right):
        total += _winner(count, sorted((*right[:i], *right[i + 1 :], *wrong)), silent, k_max)
    n = sum(right) + sum(wrong) + silent
    return total / _binomials(n)[1 : k_max + 1]


def _winner(count: int, others: list[int], silent: int, k_max: int) -> np.ndarray:
    """The draws of k = 1 .. k_max samples that an answer wins, each weighted by its share of the credit, (k_max,)."""
    votes, node, weight = _nodes(min(count, k_max), others, k_max)
    ways = np.zeros((len(votes), k_max + 1))  # row: x votes with node u; column: samples drawn
    for x in range(1, min(count, k_max) + 1):
        below = silent + sum(c for c in others if c < x)
        free = _binomials(below)[: k_max + 1 - x]
        ways[votes == x, x : x + len(free)] = free * _binomials(count)[x]
    for c in others:
        rows = int(np.searchsorted(votes, c, side="right"))  # those with x <= c come first
        if rows:
            reached = votes[:rows, None]
            a = np.arange(int(votes[rows - 1]), -1, -1)
            factor = _binomials(c)[a] * ((a < reached) + (a == reached) * node[:rows, None])
            ways[:rows] = _times(ways[:rows], factor)
    return (weight @ ways)[1:]


def _times(table: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Row by row the product of a table (rows, degree + 1), lowest power first, and a factor, highest power first."""
    padded = np.concatenate([np.zeros((len(table), factor.shape[1] - 1)), table], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, factor.shape[1], axis=1)  # (rows, degree + 1, A + 1)
    product: np.ndarray = (windows @ factor[:, :, None])[:, :, 0]
    return product


def _nodes(x_max: int, others: list[int], k_max: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For x = 1 .. x_max the nodes that integrate exactly as many ties as x allows: (rows,) x, u and weight."""
    ties = [min(sum(c >= x for c in others), k_max // x - 1) for x in range(1, x_max + 1)]
    rules = [_legendre(most // 2 + 1) for most in ties]
    votes = [x for x, (u, _) in enumerate(rules, start=1) for _ in u]
    return np.array(votes), np.concatenate([u for u, _ in rules]), np.concatenate([w for _, w in rules])


@lru_cache(maxsize=1024)
def _binomials(n: int) -> np.ndarray:
    """C(n, 0) .. C(n, n), (n + 1,); 1e308, where floats end, lies beyond n = 1000."""
    return np.array([float(math.comb(n, a)) for a in range(n + 1)])


@lru_cache(maxsize=256)
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre on 0 .. 1: exact up to degree 2 nodes - 1."""
    u, w = np.polynomial.legendre.leggauss(nodes)
    return (u + 1) / 2, w / 2
