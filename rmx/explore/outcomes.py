"""What one choice is worth, and where a solution was decided, by the outcomes of every fork.

One choice: sample on from each alternative of a place and see which answers are reached. All open alternatives are
sampled in rounds, each round one batch from the shared prefix, until the rule of rmx/stats/intervals.py says stop. The
idea is that of arXiv 2412.07961 (forking paths) and 2506.19143 (thought anchors).

All forks are one curve over the solution. The importance of a place is how far the choice made there moves the
probability of a right answer, each alternative weighted by how likely the model is to take it:

    importance = sum over alternatives of  w_a |P(right | a) - mean|,   mean = sum w_a P(right | a),

with w the probabilities of the alternatives that were tried, scaled to add up to 1. It is 0 where the choice makes no
difference or the model would never choose otherwise, and 0.5 at most. Its interval holds whenever the intervals of
all alternatives do, so at 95 %; with few samples the value itself leans upwards, its lower end does not.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Annotated, Any

from pydantic import Field

from rmx.arguments import Checked, Count, Sampling, Seed, Share, TopP, Warm, checked
from rmx.config import NEW_TOKENS, TOP_KEPT, TOP_SHOWN
from rmx.engine.batch import decode_steps
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import prompt_key, uniform
from rmx.explore.generate import check_pos, forks_of
from rmx.explore.greedy_answers import sentences_of
from rmx.grading.answers import Answered, Reached, Target, reached, same_answers, target_of, total
from rmx.models.load import Model
from rmx.models.stopping import Ending, answer_reached
from rmx.models.zerogpu import decoding, forks_only, on_gpu_worker, with_alternatives_at
from rmx.records import Answer, Candidate, Trace, as_json
from rmx.stats.intervals import ALPHA, Bounds, Estimate, Verdict, anytime, decide, rule, share

CAUTION = 1.5  # a round is begun where this many times its expected tokens are left
INTERVAL = 0.25  # seconds between two reports within a batch
MOST_FORKS = 16  # of one curve
MOST_ANSWERS = 6  # shown by name; the rest is "other"


@checked
class OutcomeConfig(Checked):
    """How much to sample, and when it is enough."""

    samples: Count = 64  # of each alternative, at most
    round_size: Count = 8  # samples of each open alternative in one batch
    temperature: Warm = 1.0
    top_p: TopP = 1.0
    seed: Seed = 0
    budget: Count = 50_000  # tokens over all alternatives
    max_new_tokens: Count = NEW_TOKENS  # bounds the whole completion, kept tokens included
    margin: Share = 0.3  # intervals that span less than this say that the choice makes no difference
    alternatives: Annotated[int, Field(ge=2, le=TOP_KEPT)] = TOP_SHOWN


USUAL = OutcomeConfig(samples=24, budget=200_000)  # of all forks together


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one alternative."""

    id: int
    text: str
    p: float  # at temperature 1, where the choice was made
    chosen: bool  # the token that stands in the solution
    samples: int
    hits: int  # samples that reached the target
    interval: Bounds  # of the probability to reach it; holds for all alternatives together at 95 %, at any stop
    answers: tuple[Reached, ...]  # most frequent first
    open: bool  # still being sampled

    @property
    def share(self) -> float | None:
        """Share of samples that hit the target; None without samples."""
        return self.hits / self.samples if self.samples else None

    @property
    def correct(self) -> Estimate:
        """The share of hits with its interval, which holds whenever sampling stops."""
        low, high = self.interval
        return {"value": self.share, "low": low, "high": high, "n": self.samples}

    def json(self) -> dict[str, Any]:
        """`wilson` is the usual interval, right only for a number of samples fixed beforehand."""
        named = as_json(self, "id", "text", "p", "chosen", "samples", "correct")
        answers = {a.text or "": a.count for a in self.answers}
        return named | {"wilson": share(self.hits, self.samples), "answers": answers, "open": self.open}

    def message(self) -> dict[str, Any]:
        return self.json() | {
            "correct": self.correct if self.samples else None,
            "answers": [[a.text, a.count, a.correct] for a in self.answers],
        }


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Where the sampling at one place stands; each record holds everything so far."""

    pos: int
    target: Target
    alternatives: tuple[Outcome, ...]  # likeliest first
    verdict: Verdict
    tokens_spent: int
    budget: int
    rule: str
    done: bool

    def json(self) -> dict[str, Any]:
        """The document of `rmx outcomes --pos`. In `answers`, "" counts samples that reached no answer."""
        return as_json(self, "pos", "target", "alternatives", "verdict", "tokens_spent", "budget", "rule")

    def message(self) -> dict[str, Any]:
        """Return the message for the page; the caller adds "run" and "job"."""
        alternatives = [a.message() for a in self.alternatives]
        return self.json() | {"kind": "outcomes", "done": self.done, "alternatives": alternatives}


def ended(state: Outcomes) -> Outcomes:
    """The last state of a sampling that was called off."""
    return replace(state, done=True, alternatives=tuple(replace(a, open=False) for a in state.alternatives))


def _seconds(model: Model, trace: Trace, pos: int, config: OutcomeConfig, **_: object) -> float:
    """Of GPU: every round decodes on from `pos` once, at most."""
    rounds = -(-config.samples // config.round_size)
    return rounds * decoding(config.max_new_tokens - pos) + decoding(0, read=len(trace.prompt_ids) + pos)


def _slim(trace: Trace, pos: int, config: OutcomeConfig) -> tuple[Trace, int, OutcomeConfig]:
    return with_alternatives_at(trace, lambda token: token.pos == pos), pos, config


@on_gpu_worker(seconds=_seconds, slim=_slim, ended=ended)
def outcomes(
    model: Model,
    trace: Trace,
    pos: int,
    config: OutcomeConfig,
    *,
    known: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Outcomes]:
    """Sample on from each of the likeliest tokens at `pos`; yields the state at once and after each round.

    Within a round only `tokens_spent` moves, four times a second at most: answers of the rows that end first would
    tilt the shares. A round that is cancelled, or cut short by the budget, is not counted, for the same reason.
    The engine's turn is taken for each round. The last record has `done`.

    A sample depends on (seed, prompt and tokens before it, sample number, position) and on nothing else, as far as
    floating point allows: batches of different sizes may round differently in the last digit.

    Args:
        trace: a finished solution. pos: completion position of the choice.
        known: the right answer; without it the target is the answer of the solution itself.

    Raises:
        SwapError: there is no such position.
        ProblemError: neither a known answer nor one of the solution.
    """
    sampler = Sampler(model, trace, pos, config, target_of(trace, known))
    yield sampler.state()
    while (size := sampler.next_size()) and not cancelled():
        for _ in sampler.round(size, cancelled):
            yield sampler.state()
    yield sampler.state(done=True)


@dataclass
class Meter:
    """Tokens that a job has decoded, and how many it may."""

    budget: int
    spent: int = 0

    @property
    def left(self) -> int:
        """Tokens that may still be decoded."""
        return self.budget - self.spent

    def decode(
        self,
        engine: Engine,
        prefix: Sequence[int],
        given: Sequence[Sequence[int]],
        *,
        cancelled: Callable[[], bool],
        **options: Any,
    ) -> Generator[None, None, tuple[list[list[int]], bool]]:
        """Decode a batch in a turn of its own while the budget lasts; yields when it is time to report.

        The caller sees to it that the first token of each row is affordable.

        Args:
            given, options: as `decode_steps` has them.

        Returns:
            The rows, and whether they were decoded to their ends; no rows where the turn did not come.
        """
        rows: list[list[int]] = []
        with engine.queue.when_free(cancelled) as mine:
            if not mine:
                return rows, False
            before, due = self.spent, time.monotonic() + INTERVAL
            for rows in decode_steps(engine, prefix, given, cancelled=cancelled, **options):
                self.spent = before + sum(map(len, rows))
                if self.left < len(rows) or cancelled():
                    return rows, False
                if time.monotonic() >= due:
                    due = time.monotonic() + INTERVAL
                    yield
        return rows, True


@dataclass
class SampledArm:
    """The samples of one alternative so far."""

    candidate: Candidate
    key: bytes  # of its draws
    samples: int = 0
    hits: int = 0
    counts: Counter[Answered] = field(default_factory=Counter)


class Sampler:
    """The state of the sampling at one place."""

    def __init__(self, model: Model, trace: Trace, pos: int, config: OutcomeConfig, target: Target) -> None:
        check_pos(pos, trace.tokens)
        self.model, self.trace, self.pos, self.config, self.target = model, trace, pos, config, target
        self.kept = trace.ids[:pos]
        self.prefix = [*trace.prompt_ids, *self.kept]
        top = trace.tokens[pos].top[: config.alternatives]
        self.arms = [SampledArm(c, prompt_key([*self.prefix, c.id])) for c in top]
        self.meter = Meter(config.budget)
        self._row_tokens, self._rows = 0, 0  # of finished rounds

    # -- when to stop ---------------------------------------------------------------------------------------------

    def intervals(self) -> list[Bounds]:
        """One for each alternative; all of them hold together (Bonferroni)."""
        alpha = ALPHA / len(self.arms)
        return [anytime(arm.hits, arm.samples, alpha) for arm in self.arms]

    def verdict(self) -> Verdict:
        """Decide from the samples so far whether the alternatives differ."""
        return decide(self.intervals(), self.config.margin)

    def next_size(self) -> int:
        """Samples of each alternative in the next round; 0 where there is none."""
        if self.verdict() != "open":
            return 0
        # Before the first round the rest of the solution is the estimate of a continuation's length.
        length = self._row_tokens / self._rows if self._rows else len(self.trace.tokens) - self.pos
        affordable = int(self.meter.left / (CAUTION * length * len(self.arms)))
        return max(0, min(self.config.round_size, self.config.samples - self.arms[0].samples, affordable))

    def state(self, done: bool = False) -> Outcomes:
        """Summarise the samples so far."""
        config, verdict, hit = self.config, self.verdict(), self.target.hit
        stands_for = same_answers(total(arm.counts for arm in self.arms), hit)
        alternatives = list[Outcome]()
        for arm, interval in zip(self.arms, self.intervals(), strict=True):
            c, answers = arm.candidate, reached(arm.counts, stands_for, hit)
            chosen = c.id == self.trace.tokens[self.pos].id
            goes_on = not done and verdict == "open" and arm.samples < config.samples
            found = Outcome(c.id, c.text, c.p, chosen, arm.samples, arm.hits, interval, answers, goes_on)
            alternatives.append(found)
        spent, sentence = self.meter.spent, rule(config.margin, config.samples, config.budget)
        return Outcomes(self.pos, self.target, tuple(alternatives), verdict, spent, config.budget, sentence, done)

    # -- sampling -------------------------------------------------------------------------------------------------

    def round(self, size: int, cancelled: Callable[[], bool]) -> Generator[None]:
        """Sample each alternative `size` times as one batch; yields while it goes on and when it is counted."""
        plan = [(arm, arm.samples + i) for arm in self.arms for i in range(size)]
        config, most = self.config, self.config.max_new_tokens
        rows, whole = yield from self.meter.decode(
            self.model.engine,
            self.prefix,
            [(arm.candidate.id,) for arm, _ in plan],
            max_new=most - self.pos,
            over=Ending(self.model, self.trace.prompt_ids, self.kept, len(plan)),
            sampling=Sampling(config.temperature, config.top_p, config.seed, most),
            draw=lambda row, place: uniform(config.seed, plan[row][0].key, plan[row][1], self.pos + place),
            adapter=self.trace.adapter,
            cancelled=cancelled,
        )
        if not rows:
            return
        if whole:
            self._count(plan, rows)
        yield

    def _count(self, plan: Sequence[tuple[SampledArm, int]], rows: Sequence[Sequence[int]]) -> None:
        prompt_ids = self.trace.prompt_ids
        for (arm, _), row in zip(plan, rows, strict=True):
            found = answer_reached(self.model, prompt_ids, [*self.kept, *row], self.target.text) or Answer(None, False)
            arm.samples += 1
            arm.hits += bool(found.correct)
            arm.counts[found.text] += 1
            self._row_tokens += len(row)
        self._rows += len(rows)


# -- The outcomes of every fork, as one curve over the solution -------------------------------------------------------


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


def _curve_seconds(model: Model, trace: Trace, config: OutcomeConfig, *, forks: int = MOST_FORKS, **_: object) -> float:
    """Of GPU: the rounds of each fork, half the longest completion each."""
    rounds = -(-config.samples // config.round_size)
    return min(forks, sum(1 for _ in trace.forks())) * rounds * decoding(config.max_new_tokens // 2)


@on_gpu_worker(
    seconds=_curve_seconds,
    slim=lambda trace, config: (forks_only(trace), config),
    ended=lambda state: replace(state, done=True, forks=tuple(map(ended, state.forks))),
)
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
        counts = total({r.text: r.count for r in a.answers} for o in forks for a in o.alternatives)
        stands_for = same_answers(counts, self.target.hit)
        mixes, together = [_mix(o, stands_for) for o in forks], Counter[Answered]()
        for mix in mixes:
            together.update(mix)
        answers = tuple(sorted(together, key=lambda a: (-together[a], a is None, a or ""))[:MOST_ANSWERS])
        points = tuple(self._point(o, mix, answers) for o, mix in zip(forks, mixes, strict=True))
        measured = (forks, answers, points, self._sentences(points), sum(o.tokens_spent for o in forks))
        return Importance(self.target, len(done_forks), self.of, *measured, self.config.budget, self._rule(), done)

    def _point(self, found: Outcomes, mix: Counter[Answered], answers: Sequence[Answered]) -> Point:
        weights, text = _weights(found), self.trace.tokens[found.pos].text
        bounds = spread_bounds(weights, [a.interval for a in found.alternatives])
        values = [a.share for a in found.alternatives if a.share is not None]
        value = mean = None
        if len(values) == len(found.alternatives):
            value, mean = spread(weights, values), sum(w * v for w, v in zip(weights, values, strict=True))
        named = tuple(mix[a] for a in answers)
        shares = (*named, max(0.0, sum(mix.values()) - sum(named)))
        return Point(found.pos, text, value, bounds, mean, shares, found.verdict == "decides")

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


def _mix(found: Outcomes, stands_for: dict[Answered, Answered]) -> Counter[Answered]:
    """Probability of each answer before the choice is made, over the alternatives that were tried."""
    mix: Counter[Answered] = Counter()
    for weight, alternative in zip(_weights(found), found.alternatives, strict=True):
        for answer in alternative.answers:
            # A counter holds any numbers; its annotations know whole ones only.
            mix[stands_for[answer.text]] += weight * answer.count / alternative.samples  # type: ignore[assignment]
    return mix
