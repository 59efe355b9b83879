"""Problems that depend on each other, and the parts of a set that are worth a figure of their own.

In the bundled set `mini`, a quarter of the validation and of the test problems have a wording that training never saw.
A model that stumbles over a wording stumbles over all its problems, so these count by wording, not one by one.
"""

from collections.abc import Hashable, Sequence
from functools import lru_cache

from rmx.mini.problems import MINI_SIZES, mini_set
from rmx.mini.task import MiniProblem
from rmx.records import Problem

WORDING = "wording"  # what the clusters of `mini` are
PARTS = {"none": "known wordings and numbers", "numbers": "held-out numbers", "wording": "held-out wordings"}


def clusters_of(problems: Sequence[Problem]) -> tuple[list[Hashable] | None, str | None]:
    """A label for each problem, the same for those that depend on each other, and what the labels stand for.

    Problems of `mini` with a held-out wording are labelled by template and wording, all others by their id.

    Returns:
        (None, None) for every other set, and where no two problems share a label.
    """
    known = _mini_problems(problems)
    if known is None:
        return None, None
    labels: list[Hashable] = [_cluster(problem) for problem in known]
    return (labels, WORDING) if len(set(labels)) < len(labels) else (None, None)


def parts_of(problems: Sequence[Problem]) -> list[str] | None:
    """The part of each problem: "held-out numbers" or "held-out wordings" in the test and validation sets of `mini`.

    None for every other set, and where all problems are of one part.
    """
    known = _mini_problems(problems)
    if known is None:
        return None
    parts = [PARTS[problem.held_out] for problem in known]
    return parts if len(set(parts)) > 1 else None


def _cluster(problem: MiniProblem) -> str:
    return f"{problem.template}, wording {problem.wording}" if problem.held_out == "wording" else problem.id


def _mini_problems(problems: Sequence[Problem]) -> list[MiniProblem] | None:
    """What is known of each problem of `mini`; None if one of them is of another set."""
    if not problems or any(p.set != "mini" or p.split not in MINI_SIZES for p in problems):
        return None
    known = [_by_id(p.split).get(p.id) for p in problems]
    return None if None in known else known  # type: ignore[return-value]


@lru_cache(maxsize=3)
def _by_id(split: str) -> dict[str, MiniProblem]:
    return {problem.id: problem for problem in mini_set(split)}  # type: ignore[arg-type]
