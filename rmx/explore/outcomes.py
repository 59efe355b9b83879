"""What one choice is worth: sample on from each alternative of a place and see which answers are reached.

All open alternatives are sampled in rounds, each round one batch from the shared prefix, until the rule of
rmx/stats/intervals.py says stop. The idea is that of arXiv 2412.07961 (forking paths) and 2506.19143 (thought anchors).
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from rmx.arguments import Checked, Count, Sampling, Seed, Share, TopP, Warm, checked
from rmx.config import NEW_TOKENS, TOP_KEPT, TOP_SHOWN
from rmx.engine.batch import decode_steps
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import SwapError
from rmx.explore.resampling import Meter
from rmx.grading.answers import Answered, Reached, Target, reached, same_answers, target_of, total
from rmx.models.load import Model
from rmx.models.stopping import Ending, is_cut
from rmx.records import Candidate, Trace, as_json
from rmx.stats.intervals import ALPHA, Bounds, Estimate, Verdict, anytime, decide, rule, share
from rmx.zerogpu.calls import decoding, on_gpu_worker, with_alternatives_at

CAUTION = 1.5  # a round is begun where this many times its expected tokens are left


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
        """Return the alternative as the page shows it."""
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
class SampledArm:
    """The samples of one alternative so far."""

    candidate: Candidate
    key: bytes  # of its draws
    samples: int = 0
    hits: int = 0
    counts: Counter[Answered] = field(default_factory=Counter)

    def take(self, answer: Answered, hit: bool) -> None:
        """Count one more sample."""
        self.samples += 1
        self.hits += hit
        self.counts[answer] += 1


class Sampler:
    """The state of the sampling at one place."""

    def __init__(self, model: Model, trace: Trace, pos: int, config: OutcomeConfig, target: Target) -> None:
        if not isinstance(pos, int) or isinstance(pos, bool) or not 0 <= pos < len(trace.tokens):
            raise SwapError(
                f"There is no token at position {pos}; this solution has positions 0 to {len(trace.tokens) - 1}."
            )
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
        chosen = self.trace.tokens[self.pos].id
        alternatives = tuple(
            Outcome(
                arm.candidate.id,
                arm.candidate.text,
                arm.candidate.p,
                arm.candidate.id == chosen,
                arm.samples,
                arm.hits,
                interval,
                reached(arm.counts, stands_for, hit),
                open=not done and verdict == "open" and arm.samples < config.samples,
            )
            for arm, interval in zip(self.arms, self.intervals(), strict=True)
        )
        sentence = rule(config.margin, config.samples, config.budget)
        return Outcomes(self.pos, self.target, alternatives, verdict, self.meter.spent, config.budget, sentence, done)

    # -- sampling -------------------------------------------------------------------------------------------------

    def round(self, size: int, cancelled: Callable[[], bool]) -> Generator[None]:
        """Sample each alternative `size` times as one batch; yields while it goes on and when it is counted."""
        plan = [(arm, arm.samples + i) for arm in self.arms for i in range(size)]
        engine, config, most = self.model.engine, self.config, self.config.max_new_tokens
        with engine.queue.when_free(cancelled) as mine:
            if not mine:
                return
            steps = decode_steps(
                engine,
                self.prefix,
                [(arm.candidate.id,) for arm, _ in plan],
                max_new=most - self.pos,
                over=Ending(self.model, self.trace.prompt_ids, self.kept, len(plan)),
                sampling=Sampling(config.temperature, config.top_p, config.seed, most),
                draw=lambda row, place: uniform(config.seed, plan[row][0].key, plan[row][1], self.pos + place),
                adapter=self.trace.adapter,
                cancelled=cancelled,
            )
            rows, whole = yield from self.meter.decode(steps, cancelled)
        if whole:
            self._count(plan, rows)
        yield

    def _count(self, plan: Sequence[tuple[SampledArm, int]], rows: Sequence[Sequence[int]]) -> None:
        prompt_ids = self.trace.prompt_ids
        for (arm, _), row in zip(plan, rows, strict=True):
            ids = [*self.kept, *row]
            if is_cut(self.model, prompt_ids, ids):  # it has reached no answer, whatever stands in it
                arm.take(None, False)
            else:
                answer = self.model.grade(prompt_ids, ids, self.target.text, cut=False)
                arm.take(answer.text, bool(answer.correct))
            self._row_tokens += len(row)
        self._rows += len(rows)
