"""Was a paired difference more than chance? The one rule by which a row is called better or worse.

Where problems were won and lost (one greedy answer each), the exact test decides; its p is shown, and the interval is
the estimate of how much. Figures that are shares of samples, such as pass@k, have no such test; there the paired
interval decides. The two can disagree at the edge: Newcombe's interval may leave 0 out where the exact p is 0.06.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rmx.stats.intervals import Estimate, paired_difference

ALPHA = 0.05
BY_TEST = "exact p < 0.05"
BY_INTERVAL = "95 % interval excludes 0"
RULE = (
    "Better and worse are said of greedy answers where the exact test has p < 0.05, and of samples, which have no such "
    "test, where the paired 95 % interval excludes 0."
)
Change = Literal["better", "worse", "not shown"]


def mcnemar(won: int, lost: int) -> float:
    """McNemar's exact two-sided p: of won + lost problems that changed, how odd is this split of a fair coin?

    Source: McNemar, Psychometrika 12 (1947), 153-157, with binomial probabilities; p = 1 where nothing changed.
    """
    return sign_flip([1] * won + [-1] * lost)


def sign_flip(nets: Sequence[int] | np.ndarray) -> float:
    """The exact two-sided p of a sum under random signs, one sign for each unit.

    If the two models did not differ, a cluster's net of won and lost problems would as likely be its opposite. The p is
    the share of all sign patterns with a sum at least as far from 0 as the one seen. With units of one problem this is
    McNemar's exact test.
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
    """The same difference with `verdict` ("better", "worse", "not shown"; None without a value) and its `rule`.

    The rule is BY_TEST where the estimate has a `p`, which then decides alone, else BY_INTERVAL.
    """
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
    p = mcnemar(won, lost) if len(before) else None
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
