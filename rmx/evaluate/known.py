"""The problems of an evaluation: a set's first ones, all with known answers."""

from rmx.data.problems import load_set
from rmx.errors import ProblemError, RmxError
from rmx.records import Problem


def with_answers(set_name: str, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a set (default split: test).

    Raises:
        ProblemError: as `load_set`, or where a problem has no known answer. RmxError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise RmxError(f"The number of problems must be 1 or more; got {limit}.")
    return answered(load_set(set_name)[:limit], set_name)


def answered(problems: list[Problem], set_name: str) -> list[Problem]:
    """The same problems.

    Raises:
        ProblemError: one of them has no known answer, so that nothing could be right.
    """
    without = [p.id for p in problems if p.answer is None]
    if without:
        raise ProblemError(
            f"{len(without)} of {len(problems)} problems of {set_name} have no known answer (the first: "
            f"{without[0][:60]!r}). Accuracy needs one for each."
        )
    return problems
