"""The answers that many continuations reach: what counts as right, and which of them say the same."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rmx.errors import ProblemError
from rmx.grading.answers import CUT, equal
from rmx.records import Trace

COMPARED = 20  # writings that later ones are compared with; rarer ones stand for themselves

Answered = str | None  # None where a continuation reached no answer


@dataclass(frozen=True, slots=True)
class Target:
    """The answer that counts as right: the known one or, where none was given, the solution's own."""

    text: str
    known: bool

    def hit(self, answer: Answered) -> bool:
        """Whether an answer equals the target; no answer never does."""
        return answer is not None and equal(answer, self.text)


def target_of(trace: Trace, known: str | None) -> Target:
    """The known answer, or that of the solution; ProblemError where there is neither."""
    if known is not None:
        return Target(known, True)
    if trace.answer.text is None or trace.stop in CUT:
        raise ProblemError("This solution reached no answer and none is known. Give the known answer first.")
    return Target(trace.answer.text, False)


@dataclass(frozen=True, slots=True)
class Reached:
    """One answer, in its most frequent writing, and how many continuations reached it."""

    text: Answered
    count: int
    correct: bool


def same_answers(counts: Mapping[Answered, int], hit: Callable[[Answered], bool]) -> dict[Answered, Answered]:
    """Map each writing of an answer to the most frequent writing of an equal answer, in whatever order they came.

    Right and wrong writings are never put together, whatever `equal` finds of the two.
    """
    stands_for: dict[Answered, Answered] = {None: None}
    groups: list[tuple[str, bool]] = []
    for text in sorted((t for t in counts if t is not None), key=lambda t: (-counts[t], len(t), t)):
        right = hit(text)
        found = next((g for g, its_right in groups if its_right == right and equal(text, g)), text)
        stands_for[text] = found
        if found is text and len(groups) < COMPARED:
            groups.append((text, right))
    return stands_for


def reached(
    counts: Mapping[Answered, int], stands_for: Mapping[Answered, Answered], hit: Callable[[Answered], bool]
) -> tuple[Reached, ...]:
    """The answers of one set of continuations, most frequent first; none reached comes last among equals."""
    together: Counter[Answered] = Counter()
    for text, count in counts.items():
        together[stands_for[text]] += count
    order = sorted(together, key=lambda t: (-together[t], t is None, t or ""))
    return tuple(Reached(text, together[text], hit(text)) for text in order)


def total(counters: Iterable[Mapping[Answered, int]]) -> Counter[Answered]:
    """Counts of several sets of continuations, added up."""
    return sum(map(Counter, counters), Counter[Answered]())
