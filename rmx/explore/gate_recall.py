"""Does "entropy above tau" find the tokens that decide? Its precision and recall, against what sampling shows.

What a token decides is the change of the probability to be right that is to be expected when it is redrawn:

    weight = sum over alternatives of  p(alternative) |P(right | alternative) - P(right | chosen)|.

Each greedy solution is looked at in all gated places and in some others, drawn with known chances in proportion to the
most that they could decide, the probability of their alternatives; what is found there counts one over its chance
(Horvitz and Thompson). From the chosen token and from each alternative continuations are sampled at temperature 1.

The plain difference of two sampled shares leans upwards: it is hardly ever 0, even where nothing is decided. So one
half of the samples gives the sign and the other half the size, and the two ways are averaged. Where nothing is decided
this is 0 on average, and elsewhere it leans downwards if anything.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rmx.arguments import Checked, Count, Halves, Sampling, Seed, checked
from rmx.config import NEW_TOKENS, check_tau
from rmx.engine.token_draws import prompt_key
from rmx.errors import RmxError
from rmx.explore.generate import Job, solve_anew
from rmx.explore.outcomes import CAUTION, OutcomeConfig, Sampler
from rmx.grading.answers import Target
from rmx.models.base_state import Journal, journal_of
from rmx.models.load import Model
from rmx.records import Problem, TokenDist, Trace, as_json, is_fork
from rmx.stats.intervals import Estimate, exact_edge, ratio_of_sums, wilson
from rmx.storage.safe_files import LineStore

Ended = Literal["cancelled", "budget"] | None


class _CutShort(Exception):
    """A solution could not be looked at whole."""

    def __init__(self, ended: Ended) -> None:
        self.ended = ended


@checked
class LocatorConfig(Checked):
    """How much to sample, and what counts as deciding."""

    samples: Halves = 16  # of the chosen token and of each alternative; even
    elsewhere: Count = 6  # places without the gate, of each solution, that are looked at
    alternatives: int = 5  # the likeliest tokens, the chosen one among them
    least: float = 0.002  # probability below which an alternative is left out; the report bounds what that could hide
    margin: float = 0.1  # a token decides from this weight on
    seed: Seed = 0
    budget: Count = 200_000  # tokens over all
    max_new_tokens: Count = NEW_TOKENS


# -- formulas ---------------------------------------------------------------------------------------------------------


def plain_weight(p: Sequence[float], shares: Sequence[float], chosen: float) -> float:
    """sum p |share - chosen|; leans upwards where the shares come from few samples."""
    return sum(w * abs(s - chosen) for w, s in zip(p, shares, strict=True))


def crossed_weight(p: Sequence[float], halves: Sequence[tuple[float, float]], chosen: tuple[float, float]) -> float:
    """The same with the sign from one half of the samples and the size from the other, both ways averaged.

    Args:
        p: of each alternative. halves: its share of right answers in either half. chosen: those of the chosen token.
    """
    total = 0.0
    for weight, half in zip(p, halves, strict=True):
        first, second = half[0] - chosen[0], half[1] - chosen[1]
        total += weight * (_sign(first) * second + _sign(second) * first) / 2
    return total


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def inclusion(sizes: Sequence[float], count: int) -> list[float]:
    """Probabilities that add up to `count`, in proportion to `sizes` and 1 at most; 0 only where the size is 0."""
    found = [0.0] * len(sizes)
    left = {i for i, size in enumerate(sizes) if size > 0}
    count = min(count, len(left))
    while left and count:
        total = sum(sizes[i] for i in left)
        sure = {i for i in left if count * sizes[i] >= total}
        if not sure:
            for i in left:
                found[i] = count * sizes[i] / total
            break
        for i in sure:
            found[i] = 1.0
        left -= sure
        count -= len(sure)
    return found


def systematic(chances: Sequence[float], start: float) -> list[int]:
    """Indices drawn with these chances: every place where the running sum passes `start` plus a whole number.

    Args:
        start: uniform in [0, 1); the same start draws the same places.
    """
    found, total = list[int](), 0.0
    for i, chance in enumerate(chances):
        before, total = total, total + chance
        # A certain place is always passed, whatever the rounding of the sum.
        if chance >= 1.0 or math.ceil(total - start) > math.ceil(before - start):
            found.append(i)
    return found


# -- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RedrawnToken:
    """One token of a solution and what redrawing it would change."""

    problem: str
    pos: int
    text: str
    entropy: float  # nats
    gated: bool
    chance: float  # that it was looked at
    weight: float  # without bias where nothing is decided; may be a little below 0
    plain: float  # the plain estimate, which leans upwards
    bounds: tuple[float, float]  # of the weight, from 95 % intervals of each alternative's difference
    cover: float  # probability of the alternatives that were sampled

    def json(self) -> dict[str, Any]:
        found = as_json(self, "problem", "pos", "text", "entropy", "gated", "chance", "weight", "plain")
        return found | {"low": self.bounds[0], "high": self.bounds[1], "cover": self.cover}


@dataclass(frozen=True, slots=True)
class Located:
    """One solution: its places that were looked at, and what stays unseen."""

    problem: str
    tokens: int
    gated: int
    places: tuple[RedrawnToken, ...]
    most_elsewhere: float  # weight that all ungated places together could have, the alternatives left out not counted
    unseen: float  # probability of the alternatives left out, over all places: the most that they could add

    def gated_weight(self) -> float:
        """Sum the weights of the places above the threshold."""
        return sum(p.weight for p in self.places if p.gated)

    def other_weight(self) -> float:
        """Of all ungated places, by what was found in those that were drawn."""
        return sum(p.weight / p.chance for p in self.places if not p.gated)


@dataclass(frozen=True, slots=True)
class LocatorReport:
    """Where it stands; each report holds everything so far. Only solutions that were looked at whole count."""

    model: str
    set_name: str
    tau: float
    config: LocatorConfig
    of: int
    each: tuple[Located, ...]
    tokens_spent: int
    seconds: float
    done: bool
    ended: Ended = None

    @property
    def problems(self) -> int:
        """Number of problems looked at so far."""
        return len(self.each)

    def figures(self) -> dict[str, Estimate]:
        """Shares with intervals by bootstrap over problems; an exact bound where there was nothing to resample."""
        margin = self.config.margin
        gated = [[p for p in one.places if p.gated] for one in self.each]
        decisive = [sum(p.weight >= margin for p in ps) for ps in gated]
        nothing = [sum(p.bounds[1] < margin for p in ps) for ps in gated]
        elsewhere = [sum((p.weight >= margin) / p.chance for p in one.places if not p.gated) for one in self.each]
        counts = [len(ps) for ps in gated]
        missed = self.missed()
        return {
            "missed": missed,
            "recall": _turned(missed),
            "recall_of_tokens": self._inside(decisive, elsewhere),
            "precision": ratio_of_sums(decisive, counts),
            "decides_nothing": ratio_of_sums(nothing, counts),
        }

    def _inside(self, decisive: Sequence[float], elsewhere: Sequence[float]) -> Estimate:
        """Share of the deciding tokens that are gated."""
        found = ratio_of_sums(decisive, [a + b for a, b in zip(decisive, elsewhere, strict=True)], counts=False)
        if found["value"] != 1.0:
            return found
        # None was found elsewhere. One that decides has the margin's weight at least, so there cannot be many.
        low = sum(decisive) / (sum(decisive) + self._most_missed() / self.config.margin)
        return found | {"low": low, "high": 1.0, "exact": True}

    def _most_missed(self) -> float:
        """Weight outside the gate that is not excluded at 97.5 %, where no draw had any.

        Draws are in proportion to the most that a place could decide, so the mean of weight over most is the whole
        weight over the sum of all mosts, and it is no greater than the share of draws that decide anything.
        """
        looked = sum(not p.gated for one in self.each for p in one.places)
        return exact_edge(looked) * sum(one.most_elsewhere for one in self.each)

    def missed(self) -> Estimate:
        """Share of all decisive weight that lies outside the gate, between 0 and 1."""
        outside = [one.other_weight() for one in self.each]
        whole = [a + one.gated_weight() for a, one in zip(outside, self.each, strict=True)]
        found = ratio_of_sums(outside, whole, counts=False)
        if found["value"] is None or sum(whole) <= 0:
            return found | {"value": None, "low": None, "high": None}
        if not any(p.weight for one in self.each for p in one.places if not p.gated):
            most = self._most_missed()
            return found | {"value": 0.0, "low": 0.0, "high": most / (most + sum(whole)), "exact": True}
        return found | {k: None if found[k] is None else min(1.0, max(0.0, found[k])) for k in ("value", "low", "high")}

    def json(self) -> dict[str, Any]:
        """The document of `rmx locator`."""
        places = [p for one in self.each for p in one.places]
        return {
            "model": self.model,
            "set": self.set_name,
            **as_json(self, "problems", "of", "tau"),
            **as_json(self.config, "seed", "samples", "margin"),
            "tokens": sum(one.tokens for one in self.each),
            "gated": sum(one.gated for one in self.each),
            "looked_at_elsewhere": sum(not p.gated for p in places),
            **self.figures(),
            "weight": {
                "gated": sum(one.gated_weight() for one in self.each),
                "elsewhere": sum(one.other_weight() for one in self.each),
                "unseen_at_most": sum(one.unseen for one in self.each),
            },
            "tokens_spent": self.tokens_spent,
            "budget": self.config.budget,
            "ended": self.ended,
            "rule": rule(self.config),
            "seconds": round(self.seconds, 2),
            "places": [p.json() for p in places],
        }


def _turned(found: Estimate) -> Estimate:
    """One minus a share."""
    flipped = {"value": found["value"], "low": found["high"], "high": found["low"]}
    return found | {k: None if v is None else 1 - v for k, v in flipped.items()}


def rule(config: LocatorConfig) -> str:
    """What the figures are, as the sentence that is shown."""
    return (
        "A token's weight is how much the probability of a right answer is expected to change when the token is "
        f"redrawn; it decides from {config.margin:g} on, and decides nothing where the upper end of its interval is "
        f"below that. {config.samples} continuations at temperature 1 from the chosen token and from each alternative "
        f"of probability {config.least:g} or more among the likeliest {config.alternatives}; all gated places and "
        f"{config.elsewhere} others of each greedy solution, drawn in proportion to the probability of their "
        "alternatives and weighted by one over their chance. Intervals: bootstrap over problems."
    )


# -- sampling ---------------------------------------------------------------------------------------------------------


@dataclass
class Locator:
    """An iterable of reports, one after each problem. The engine's turn is taken for each batch."""

    model: Model
    problems: Sequence[Problem]
    tau: float
    config: LocatorConfig = field(default_factory=LocatorConfig)
    set_name: str = "own"
    cancelled: Callable[[], bool] = lambda: False
    adapter: str | None = None
    spent: int = 0
    store: LineStore | None = None  # what earlier searches of the same have found, and where this one keeps it

    def __iter__(self) -> Iterator[LocatorReport]:
        """Raises RmxError where a problem has no known answer or tau is no threshold."""
        check_tau(self.tau)
        if any(p.answer is None for p in self.problems):
            raise RmxError(f"{self.set_name} holds problems without a known answer, so nothing can be graded.")
        # The budget decides how many solutions are looked at, not what is found in one.
        settings = {name: value for name, value in asdict(self.config).items() if name not in ("budget", "margin")}
        self._began = time.perf_counter()
        models = [(self.model, self.adapter)]
        with closing(journal_of(self.store, "locator", models, tau=self.tau, **settings)) as journal:
            yield from self._run(journal)

    def _run(self, journal: Journal) -> Iterator[LocatorReport]:
        done, ended = list[Located](), None
        try:
            for problem in self.problems:
                name = f"{problem.id} {prompt_key(self.model.prompt_ids(problem.problem)).hex()} {problem.answer}"
                found, before = self._known(journal.get(name)), self.spent
                if found is None:
                    found = self._problem(problem)
                    about = {"spent": self.spent - before, "left": self.config.budget - before}
                    journal.put(name, {**asdict(found), **about})
                done.append(found)
                yield self._report(done, False, None)
        except _CutShort as short:
            ended = short.ended
        yield self._report(done, True, ended)

    def _known(self, row: dict[str, Any] | None) -> Located | None:
        """What an earlier search has found in a solution; None where it is unknown, or had more of the budget left."""
        if row is None or self.cancelled() or self.config.budget - self.spent < row["left"]:
            return None
        places = tuple(RedrawnToken(**(place | {"bounds": tuple(place["bounds"])})) for place in row["places"])
        self.spent += row["spent"]
        return Located(row["problem"], row["tokens"], row["gated"], places, row["most_elsewhere"], row["unseen"])

    def _problem(self, problem: Problem) -> Located:
        """One solution; `_CutShort` where it could not be looked at whole."""
        sampling = Sampling(max_new_tokens=self.config.max_new_tokens)
        job = Job(self.model.prompt_ids(problem.problem), sampling, self.tau, self.adapter, problem.answer)
        if self.cancelled():
            raise _CutShort("cancelled")
        trace = solve_anew(self.model, job, self.cancelled)
        here = [t for t in trace.tokens if t.id not in self.model.stop_ids]
        gated = [t for t in here if is_fork(t.entropy, self.tau)]
        others = [t for t in here if not is_fork(t.entropy, self.tau)]
        most = sum(self._mass(t) for t in others)
        unseen = sum(1 - t.p - self._mass(t) for t in here)
        chances = {t.pos: 1.0 for t in gated} | self._drawn(problem, others)
        places = [self._place(problem, trace, t, chances[t.pos]) for t in here if t.pos in chances]
        return Located(problem.id, len(here), len(gated), tuple(places), most, max(0.0, unseen))

    def _drawn(self, problem: Problem, others: list[TokenDist]) -> dict[int, float]:
        """The positions of the ungated places that are looked at, with their chances."""
        draw = random.Random(f"locator/{self.config.seed}/{problem.id}")
        mixed = list(others)
        draw.shuffle(mixed)  # neighbours are alike, and places drawn one after the other would be too
        chances = inclusion([self._mass(t) for t in mixed], self.config.elsewhere)
        return {mixed[i].pos: chances[i] for i in systematic(chances, draw.random())}

    def _others(self, token: TokenDist) -> list[float]:
        """Probabilities of the alternatives that are sampled."""
        top = token.top[: self.config.alternatives]
        return [c.p for c in top if c.id != token.id and c.p >= self.config.least]

    def _mass(self, token: TokenDist) -> float:
        """The most that the sampled alternatives of a place could decide."""
        return sum(self._others(token))

    def _place(self, problem: Problem, trace: Trace, token: TokenDist, chance: float) -> RedrawnToken:
        gated, p, n = is_fork(token.entropy, self.tau), self._others(token), self.config.samples
        about = (problem.id, token.pos, token.text, token.entropy, gated, chance)
        if not p:
            return RedrawnToken(*about, 0.0, 0.0, (0.0, 0.0), 0.0)
        (chosen, *others) = self._sampled(trace, token, str(problem.answer))  # right answers in either half
        half = n // 2
        shares = [(a / half, b / half) for a, b in others]
        weight = crossed_weight(p, shares, (chosen[0] / half, chosen[1] / half))
        plain = plain_weight(p, [sum(hits) / n for hits in others], sum(chosen) / n)
        gaps = [_difference(sum(chosen), sum(hits), n) for hits in others]
        low = sum(w * max(0.0, a, -b) for w, (a, b) in zip(p, gaps, strict=True))
        high = sum(w * max(abs(a), abs(b)) for w, (a, b) in zip(p, gaps, strict=True))
        return RedrawnToken(*about, weight, plain, (low, high), sum(p))

    def _sampled(self, trace: Trace, token: TokenDist, known: str) -> list[tuple[int, int]]:
        """Right answers in both halves, of the chosen token first and then of each alternative, likeliest first."""
        config, left = self.config, self.config.budget - self.spent
        rows = (1 + len(self._others(token))) * config.samples
        if left < CAUTION * rows * (len(trace.tokens) - token.pos):
            raise _CutShort("budget")
        limits = {"budget": left, "max_new_tokens": config.max_new_tokens, "alternatives": max(2, config.alternatives)}
        drawn = OutcomeConfig(config.samples, seed=config.seed, **limits)
        sampler = Sampler(self.model, trace, token.pos, drawn, Target(known, True))
        chosen = [a for a in sampler.arms if a.candidate.id == token.id]
        others = [a for a in sampler.arms if a.candidate.id != token.id and a.candidate.p >= config.least]
        sampler.arms = [*chosen, *others]
        hits = list[list[int]]()
        try:
            for half in (1, 2):
                for _ in sampler.round(config.samples // 2, self.cancelled):
                    pass
                if any(arm.samples < half * config.samples // 2 for arm in sampler.arms):
                    raise _CutShort("cancelled" if self.cancelled() else "budget")
                hits.append([arm.hits for arm in sampler.arms])
        finally:
            self.spent += sampler.meter.spent
        return [(first, both - first) for first, both in zip(*hits, strict=True)]

    def _report(self, done: Sequence[Located], over: bool, ended: Ended) -> LocatorReport:
        took = time.perf_counter() - self._began
        return LocatorReport(
            self.model.spec, self.set_name, self.tau, self.config, len(self.problems), tuple(done), self.spent, took,
            over, ended,
        )  # fmt: skip


def _difference(chosen: int, other: int, n: int) -> tuple[float, float]:
    """A 95 % interval for P(right | other) - P(right | chosen), from n samples of each (Newcombe 1998, method 10)."""
    (c_low, c_high), (o_low, o_high) = wilson(chosen, n), wilson(other, n)
    c, o = chosen / n, other / n
    down = ((o - o_low) ** 2 + (c_high - c) ** 2) ** 0.5
    up = ((o_high - o) ** 2 + (c - c_low) ** 2) ** 0.5
    return o - c - down, o - c + up
