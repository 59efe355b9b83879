"""From marks to figures: the parts "models", "paired" and "crossings" of an evaluation's JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmx.stats.cluster_bootstrap import Clusters, mean_estimates, share_estimate
from rmx.stats.intervals import Estimate, unknown
from rmx.stats.paired import excludes_zero, greedy_difference, sampled_differences, with_verdict
from rmx.stats.pass_at_k import majority_profile, pass_at_k
from rmx.stats.text import points


@dataclass(frozen=True, eq=False)
class Scored:
    """The marks of one model on P problems, with n samples of each. n is 0 where only greedy answers were asked for."""

    greedy: np.ndarray | None  # (P,) bool: the greedy answer is right; None where it was not asked for
    right: np.ndarray  # (P, n) bool: the sample's answer is right
    votes: np.ndarray  # (P, n) int: the answer's class within its problem, -1 where there is none
    greedy_truncated: np.ndarray | None  # (P,) bool: cut off at the token limit
    greedy_unparsed: np.ndarray | None  # (P,) bool: no answer found
    truncated: np.ndarray  # (P, n) bool
    unparsed: np.ndarray  # (P, n) bool

    @property
    def samples(self) -> int:
        """Samples of each problem."""
        return int(self.right.shape[1])


def model_figures(s: Scored, ks: Sequence[int], clusters: Clusters = None) -> dict[str, Any]:
    """What one model reached: greedy, pass@k, majority, avg; how many completions were cut off or had no answer.

    Args:
        ks: grid of k, each from 1 to the number of samples.
        clusters: one label per problem where problems depend on each other; see `rmx.evaluate.eval_report`.
    """
    estimates = mean_estimates(np.concatenate(per_problem(s, ks), axis=1), clusters)
    figures = dict(zip(_columns(s, ks), estimates, strict=True))
    return {
        "greedy": unknown() if s.greedy is None else share_estimate(s.greedy, clusters),
        "pass@k": {str(k): figures["pass@k", k] for k in ks},
        "majority": {str(k): figures["majority", k] for k in ks},
        "avg": figures.get(("avg", 1), unknown()),
        "truncated": {"greedy": _count(s.greedy_truncated), "sampled": _count(s.truncated)},
        "unparsed": {"greedy": _count(s.greedy_unparsed), "sampled": _count(s.unparsed)},
    }


def paired_figures(before: Scored, after: Scored, ks: Sequence[int], clusters: Clusters = None) -> dict[str, Any]:
    """What changed from one model to another on the same problems; each has `needed`, `verdict` and `rule`."""
    old, new = (np.concatenate(per_problem(s, ks), axis=1) for s in (before, after))
    figures = dict(zip(_columns(before, ks), sampled_differences(old, new, clusters), strict=True))
    both_greedy = before.greedy is not None and after.greedy is not None
    return {
        "greedy": greedy_difference(before.greedy, after.greedy, clusters)  # type: ignore[arg-type]
        if both_greedy
        else with_verdict(unknown() | {"won": None, "lost": None, "p": None, "needed": None}),
        "pass@k": {str(k): figures["pass@k", k] for k in ks},
        "majority": {str(k): figures["majority", k] for k in ks},
        "avg": figures.get(("avg", 1), with_verdict(unknown() | {"needed": None})),
    }


def per_problem(s: Scored, ks: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pass@k and majority@k of each problem, (P, K) each, and avg@n, (P, 1) or, without samples, (P, 0)."""
    counts = s.right.sum(axis=1)
    passes = [pass_at_k(s.samples, counts, k) for k in ks]
    majorities = [majority_profile(v, r, ks) for v, r in zip(s.votes, s.right, strict=True)]
    shape = (len(s.right), len(ks))
    average = counts[:, None] / s.samples if s.samples else np.zeros((len(s.right), 0))
    return np.array(passes).T.reshape(shape), np.array(majorities).reshape(shape), average


def _columns(s: Scored, ks: Sequence[int]) -> list[tuple[str, int]]:
    """The names of the columns of `per_problem`, put side by side."""
    return [("pass@k", k) for k in ks] + [("majority", k) for k in ks] + ([("avg", 1)] if s.samples else [])


def _count(marks: np.ndarray | None) -> int:
    return 0 if marks is None else int(marks.sum())


def crossing(differences: Mapping[int, Estimate], names: tuple[str, str] = ("base", "rl")) -> dict[str, Any]:
    """Where the pass@k of the second model falls below that of the first, having been above it at a smaller k.

    Args:
        differences: of pass@k, second less first, paired; by k.
        names: of the first and of the second, for the sentence.

    Returns:
        `k`: the smallest such k, or None. `sure`: the 95 % interval of the difference excludes 0 on both sides, above
        it at some smaller k and below it at this or a larger one. `from` and `to`: these two k, the ones closest to the
        crossing, or None. `sentence`: the same in words. Looking at a whole grid of k gives chance more than one go,
        which the intervals do not allow for.
    """
    found = {k: e for k, e in sorted(differences.items()) if e["value"] is not None}
    signs = {k: 0 if abs(e["value"]) < 1e-9 else (1 if e["value"] > 0 else -1) for k, e in found.items()}
    first_above = next((k for k in found if signs[k] > 0), None)
    at = next((k for k in found if signs[k] < 0 and first_above is not None and k > first_above), None)
    start = end = None
    if at is not None:
        start = next((k for k in reversed(found) if k < at and signs[k] > 0 and excludes_zero(found[k])), None)
        end = next((k for k in found if k >= at and signs[k] < 0 and excludes_zero(found[k])), None)
    sure = start is not None and end is not None
    return {
        "name": names[1],
        "against": names[0],
        "k": at,
        "sure": sure,
        "from": start,
        "to": end,
        "sentence": _sentence(found, signs, at, start, end, names),
    }


def _sentence(
    found: dict[int, Estimate],
    signs: dict[int, int],
    at: int | None,
    start: int | None,
    end: int | None,
    names: tuple[str, str],
) -> str:
    if not found:
        return "No problem has samples of both yet, so there is nothing to compare."
    base, name = names
    last = max(found)
    if len(found) == 1:
        return f"Only k = {last} was measured, and a crossing takes two; there, {name} is {_gap(found[last], base)}."
    if at is not None:
        again = f" At k = {last}, {name} is ahead again." if signs[last] > 0 else ""
        return _crossing_sentence(found, at, start, end, names) + again
    if max(signs.values()) <= 0:
        return f"Nothing crosses: {name} is not ahead at any k; at k = {last} it is {_gap(found[last], base)}."
    doubt = "" if excludes_zero(found[last]) else ", which may be chance: the interval includes zero"
    how = "starts behind and is" if min(signs.values()) < 0 else "stays" if signs[last] > 0 else "starts ahead and is"
    return f"pass@k does not cross up to k = {last}: {name} {how} {_gap(found[last], base)}{doubt}."


def _crossing_sentence(
    found: dict[int, Estimate], at: int, start: int | None, end: int | None, names: tuple[str, str]
) -> str:
    base, name = names
    if start is not None and end is not None:
        there = "" if end == at else f"; at k = {at} itself the interval includes zero"
        return (
            f"pass@k crosses at k = {at}: {name} is {_gap(found[start], base)} at k = {start} and "
            f"{_gap(found[end], base)} at k = {end}, and both intervals exclude zero{there}."
        )
    if end is not None:
        why = "the intervals before it include zero"
    elif start is not None:
        why = "the interval there includes zero" if at == max(found) else "the intervals from there on include zero"
    else:
        why = "the intervals before it and from there on include zero"
    return f"pass@k crosses at k = {at}, where {name} is {_gap(found[at], base)}, but {why}: not enough data."


def _gap(found: Estimate, base: str) -> str:
    """ "+1.0 points [-0.5, +2.5] ahead of base"."""
    value = 100 * found["value"]
    if abs(value) < 1e-7:
        return f"level with {base}{points(found, '')}"
    return f"{points(found)} {'ahead of' if value > 0 else 'behind'} {base}"
