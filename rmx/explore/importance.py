"""Where a solution was decided: the outcomes of every fork, as one curve over the solution.

The importance of a place is how far the choice made there moves the probability of a right answer, each alternative
weighted by how likely the model is to take it:

    importance = sum over alternatives of  w_a |P(right | a) - mean|,   mean = sum w_a P(right | a),

with w the probabilities of the alternatives that were tried, scaled to add up to 1. It is 0 where the choice makes no
difference or the model would never choose otherwise, and 0.5 at most. Its interval holds whenever the intervals of
all alternatives do, so at 95 %; with few samples the value itself leans upwards, its lower end does not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from rmx.engine.fair_queue import never
from rmx.explore.answer_so_far import sentences_of
from rmx.explore.branches import forks_of
from rmx.explore.outcomes import OutcomeConfig, Outcomes, outcomes
from rmx.explore.outcomes import ended as ended_fork
from rmx.grading.answers import Answered, Target, same_answers, target_of, total
from rmx.models.load import Model
from rmx.records import Trace, as_json
from rmx.stats.intervals import Bounds
from rmx.zerogpu.calls import decoding, forks_only, on_gpu_worker

MOST_FORKS = 16
USUAL = OutcomeConfig(samples=24, budget=200_000)  # of all forks together
MOST_ANSWERS = 6  # shown by name; the rest is "other"


def spread(weights: Sequence[float], values: Sequence[float]) -> float:
    """Weighted mean distance from the weighted mean; the weights add up to 1."""
    mean = sum(w * v for w, v in zip(weights, values, strict=True))
    return sum(w * abs(v - mean) for w, v in zip(weights, values, strict=True))


def spread_bounds(weights: Sequence[float], boxes: Sequence[Bounds]) -> Bounds:
    """The least and the greatest spread of values that lie anywhere in their intervals.

    The spread is convex, so its greatest value is at a corner. The least is bounded from below by letting the values
    gather around any centre, not only their mean; it is 0 exactly where all intervals share a point.
    """
    high = max(spread(weights, corner) for corner in product(*boxes))
    centres = [end for box in boxes for end in box]
    low = min(sum(w * max(a - c, c - b, 0.0) for w, (a, b) in zip(weights, boxes, strict=True)) for c in centres)
    return low, high


@dataclass(frozen=True, slots=True)
class Point:
    """One fork of the curve."""

    pos: int
    text: str
    value: float | None  # the importance; None without a sample
    interval: Bounds
    correct: float | None  # probability of a right answer before the choice is made
    shares: tuple[float, ...]  # of the curve's answers and, last, of all others
    decides: bool

    def json(self) -> dict[str, Any]:
        """Return the point as documents hold it."""
        low, high = self.interval
        estimate = {"importance": {"value": self.value, "low": low, "high": high}}
        return as_json(self, "pos", "text") | estimate | as_json(self, "shares", "correct", "decides")


@dataclass(frozen=True, slots=True)
class SentenceImportance:
    """A sentence, tokens `start` … `end` - 1, and the importance of its most important fork."""

    start: int
    end: int
    text: str
    forks: int  # that were sampled
    importance: float | None  # None where no fork was sampled

    def json(self) -> dict[str, Any]:
        """`to` is the sentence's last token."""
        place = {"from": self.start, "to": self.end - 1, "text": self.text}
        return place | {"forks": self.forks, "importance": self.importance}


@dataclass(frozen=True, slots=True)
class Importance:
    """Where the curve stands; each record holds everything so far."""

    target: Target
    at: int  # forks done
    of: int
    forks: tuple[Outcomes, ...]
    answers: tuple[Answered, ...]  # most frequent first
    points: tuple[Point, ...]  # in the order of the solution
    sentences: tuple[SentenceImportance, ...]
    tokens_spent: int
    budget: int
    rule: str
    done: bool

    def json(self) -> dict[str, Any]:
        """The document of `rmx outcomes` without a position."""
        spent = ("tokens_spent", "budget", "rule", "forks")
        return as_json(self, "target", "at", "of", "answers", "points", "sentences", *spent)

    def message(self) -> dict[str, Any]:
        """Return the message for the page; the caller adds "run" and "job"."""
        message = self.json() | {"kind": "importance", "done": self.done}
        del message["forks"]
        return message


def _ended(state: Importance) -> Importance:
    """The last state of a curve that was called off."""
    return replace(state, done=True, forks=tuple(map(ended_fork, state.forks)))


def _seconds(model: Model, trace: Trace, config: OutcomeConfig, *, forks: int = MOST_FORKS, **_: object) -> float:
    """Of GPU: the rounds of each fork, half the longest completion each."""
    rounds = -(-config.samples // config.round_size)
    return min(forks, sum(1 for _ in trace.forks())) * rounds * decoding(config.max_new_tokens // 2)


@on_gpu_worker(seconds=_seconds, slim=lambda trace, config: (forks_only(trace), config), ended=_ended)
def importance(
    model: Model,
    trace: Trace,
    config: OutcomeConfig,
    *,
    known: str | None = None,
    forks: int = MOST_FORKS,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Importance]:
    """Sample at each fork of a solution; yields the state at once, while a fork is sampled, and after it.

    Args:
        trace: a finished solution.
        config: as for one place, but `budget` is for all of them: each fork gets an equal part of what is left.
        forks: at most so many, those of the highest entropy.

    Raises:
        ProblemError: neither a known answer nor one of the solution.
        RmxError: the solution has no fork.
    """
    target = target_of(trace, known)
    places = sorted(sorted(forks_of(trace), key=lambda t: -t.entropy)[:forks], key=lambda t: t.pos)
    curve = _Curve(model, trace, target, len(places), config)
    found: list[Outcomes] = []
    yield curve.state(found)
    for i, token in enumerate(places):
        if cancelled():
            break
        left = config.budget - sum(o.tokens_spent for o in found)
        part = replace(config, budget=max(1, left // (len(places) - i)))
        state: Outcomes | None = None
        for state in outcomes(model, trace, token.pos, part, known=known, cancelled=cancelled):
            if not state.done:
                yield curve.state(found, state)
        if state is not None:
            found.append(state)
    yield curve.state(found, done=True)


@dataclass(frozen=True)
class _Curve:
    """What makes states out of the outcomes so far."""

    model: Model
    trace: Trace
    target: Target
    of: int
    config: OutcomeConfig

    def state(self, done_forks: Sequence[Outcomes], current: Outcomes | None = None, done: bool = False) -> Importance:
        forks = tuple(done_forks) if current is None else (*done_forks, current)
        stands_for = same_answers(_counts(forks), self.target.hit)
        mixes = [_mix(o, stands_for) for o in forks]
        answers = _most_frequent(mixes)
        points = tuple(self._point(o, mix, answers) for o, mix in zip(forks, mixes, strict=True))
        return Importance(
            self.target,
            len(done_forks),
            self.of,
            forks,
            answers,
            points,
            self._sentences(points),
            sum(o.tokens_spent for o in forks),
            self.config.budget,
            self._rule(),
            done,
        )

    def _point(self, found: Outcomes, mix: Counter[Answered], answers: Sequence[Answered]) -> Point:
        weights = _weights(found)
        shares = tuple(mix[a] for a in answers)
        values = [a.share for a in found.alternatives if a.share is not None]
        measured = len(values) == len(found.alternatives)
        return Point(
            found.pos,
            self.trace.tokens[found.pos].text,
            spread(weights, values) if measured else None,
            spread_bounds(weights, [a.interval for a in found.alternatives]),
            sum(w * v for w, v in zip(weights, values, strict=True)) if measured else None,
            (*shares, max(0.0, sum(mix.values()) - sum(shares))),
            found.verdict == "decides",
        )

    def _sentences(self, points: Sequence[Point]) -> tuple[SentenceImportance, ...]:
        found = []
        for s in sentences_of(self.model, self.trace.tokens):
            inside = [p.value for p in points if s.start <= p.pos < s.end and p.value is not None]
            found.append(SentenceImportance(s.start, s.end, s.text, len(inside), max(inside, default=None)))
        return tuple(found)

    def _rule(self) -> str:
        config = self.config
        return (
            "Importance is the mean distance of the alternatives' probabilities of a right answer from their mean, "
            f"each weighted by its own probability; {config.samples} samples of each alternative at most, "
            f"{config.budget:,} tokens over all forks, 95 % intervals that hold whenever sampling stops."
        )


def _weights(found: Outcomes) -> list[float]:
    mass = sum(a.p for a in found.alternatives)
    return [a.p / mass for a in found.alternatives]


def _counts(forks: Sequence[Outcomes]) -> Counter[Answered]:
    return total({r.text: r.count for r in a.answers} for o in forks for a in o.alternatives)


def _mix(found: Outcomes, stands_for: dict[Answered, Answered]) -> Counter[Answered]:
    """Probability of each answer before the choice is made, over the alternatives that were tried."""
    mix: Counter[Answered] = Counter()
    for weight, alternative in zip(_weights(found), found.alternatives, strict=True):
        for answer in alternative.answers:
            # A counter holds any numbers; its annotations know whole ones only.
            mix[stands_for[answer.text]] += weight * answer.count / alternative.samples  # type: ignore[assignment]
    return mix


def _most_frequent(mixes: Sequence[Counter[Answered]]) -> tuple[Answered, ...]:
    together: Counter[Answered] = Counter()
    for mix in mixes:
        together.update(mix)
    return tuple(sorted(together, key=lambda a: (-together[a], a is None, a or ""))[:MOST_ANSWERS])
