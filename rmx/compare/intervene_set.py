"""Interventions over a problem set: accuracy per arm with intervals, paired with the base on the same problems."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from rmx.compare.controls import Text
from rmx.compare.intervene import ARMS, AllArms, Arm, ArmProblem, ArmResult
from rmx.compare.shift_set import CALIBRATION_TEXTS, known_placebo
from rmx.config import NEW_TOKENS
from rmx.engine.decoding_memory import token_bytes
from rmx.engine.engine import split_key
from rmx.errors import RmxError
from rmx.explore.calibration import Calibration
from rmx.grading.answers import CUT
from rmx.models.base_state import chained, journal_of
from rmx.models.model_pair import Pair
from rmx.prompt_styles import PromptStyle
from rmx.records import Problem, as_json
from rmx.stats.intervals import Estimate, share
from rmx.stats.paired import tested_difference, write_p
from rmx.stats.text import points
from rmx.storage.rendering import csv_text
from rmx.storage.safe_files import LineStore

ROWS = 72  # rows of one batch, both models counted once; progress is reported after each batch
CACHE_BYTES = 1 << 30  # keys and values of one batch


def check_arms(arms: Sequence[str]) -> tuple[Arm, ...]:
    """The arms in their usual order; RmxError for none, or an unknown one."""
    unknown = [a for a in arms if a not in ARMS]
    if unknown or not arms:
        raise RmxError(f"There is no arm '{unknown[0] if unknown else ''}'. Known: {', '.join(ARMS)}.")
    return tuple(a for a in ARMS if a in arms)


@dataclass(frozen=True, slots=True)
class ProblemArms:
    """All arms on one problem."""

    id: str
    results: dict[Arm, ArmResult]

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "answers": {arm: r.answer.text for arm, r in self.results.items()},
            "correct": {arm: r.answer.correct for arm, r in self.results.items()},
            "patches": {arm: r.patches for arm, r in self.results.items()},
            "tokens": {arm: r.tokens for arm, r in self.results.items()},
        }


def _against_base(base: Sequence[bool], right: Sequence[bool]) -> dict[str, Any]:
    """The paired difference from the base, and on how many problems it was won and lost."""
    difference = tested_difference(base, right)
    return {"vs_base": difference, "won": difference["won"], "lost": difference["lost"]}


@dataclass(frozen=True, slots=True)
class PlaceboArm:
    """The base with noise in place of the adapter, on the same problems: how much of a gain is any push at all?"""

    strength: float
    right: tuple[bool, ...]
    tokens: int
    patches: int  # tokens of its own solutions that the base would not have chosen


@dataclass(frozen=True, slots=True)
class InterveneReport:
    """Where a run over a set stands; each report holds everything so far."""

    set_name: str
    base: str
    adapted: str
    tau: float
    seed: int
    arms: tuple[Arm, ...]
    of: int
    seconds: float
    done: bool
    stopped: bool
    problems: tuple[ProblemArms, ...]
    placebo: PlaceboArm | None = None
    style: PromptStyle | None = None  # how both models were asked
    calibration: Calibration | None = None  # what tau came from, where a share of tokens was asked for
    dtype: str | None = None  # of the base

    def placebo_json(self) -> dict[str, Any] | None:
        """The placebo's figures, as for an arm, on the problems that it has done; None where it was not run."""
        noise = self.placebo
        if noise is None or not noise.right:
            return None
        n = len(noise.right)
        return {
            "pass@1": share(sum(noise.right), n),
            "touched": noise.patches / noise.tokens if noise.tokens else 0.0,
            "strength": noise.strength,
            **_against_base(self.right("base")[:n], noise.right),
        }

    def right(self, arm: Arm) -> list[bool]:
        """Per problem, in order."""
        return [bool(p.results[arm].answer.correct) for p in self.problems]

    def arm(self, arm: Arm) -> dict[str, Any]:
        """Accuracy, tokens touched and the paired difference from the base."""
        results = [p.results[arm] for p in self.problems]
        right, tokens = self.right(arm), sum(r.tokens for r in results)
        found: dict[str, Any] = {
            "pass@1": share(sum(right), len(right)),
            "touched": sum(r.patches for r in results) / tokens if tokens else 0.0,
            "gated": sum(r.gated for r in results) / tokens if tokens else 0.0,
            "patches": sum(r.patches for r in results),
            "tokens": tokens,
            "truncated": sum(r.stop in CUT for r in results),
        }
        if arm == "base" or "base" not in self.arms:
            return found
        return found | _against_base(self.right("base"), right)

    def same_as_teacher(self) -> dict[str, Any] | None:
        """On how many problems the oracle's tokens are the teacher's, all of them; None where either is not asked."""
        if not {"oracle", "teacher"} <= set(self.arms):
            return None
        same = [p.results["oracle"].ids == p.results["teacher"].ids for p in self.problems]
        parted = [p.id for p, equal in zip(self.problems, same, strict=True) if not equal]
        return {"same": sum(same), "of": len(same), "parted": parted}

    def difference(self, one: Arm, other: Arm) -> Estimate | None:
        """Accuracy of `one` minus that of `other`, paired; None where either was not asked."""
        if not {one, other} <= set(self.arms):
            return None
        return tested_difference(self.right(other), self.right(one))

    def reading(self) -> list[str]:
        """What the differences say, in sentences; nothing is claimed that the exact test does not say."""
        sentences = [_compared(self.difference(a, b), one, other) for a, b, one, other in _QUESTIONS]
        return [sentence for sentence in sentences if sentence]

    def json(self) -> dict[str, Any]:
        """The document of `rmx intervene`."""
        pairs = {f"{a}-{b}": self.difference(a, b) for a, b, _, _ in _QUESTIONS}
        return {
            "set": self.set_name,
            **as_json(self, "base", "adapted", "dtype"),
            "n": len(self.problems),
            **as_json(self, "of", "stopped", "tau", "seed", "style", "calibration"),
            "arms": {arm: self.arm(arm) for arm in self.arms},
            "placebo": self.placebo_json(),
            "paired": {name: d for name, d in pairs.items() if d is not None},
            "oracle_equals_teacher": self.same_as_teacher(),
            "reading": self.reading(),
            "seconds": round(self.seconds, 2),
            "problems": [p.json() for p in self.problems],
        }


# What the arms are compared for: one, other, and how the reading calls them.
_QUESTIONS: tuple[tuple[Arm, Arm, str, str], ...] = (
    ("teacher", "base", "The adapted model", "the base"),
    ("entropy", "base", "The entropy gate, which does not look at where the two disagree,", "the base"),
    ("entropy", "teacher", "The entropy gate", "the adapted model itself"),
    ("random", "base", "A random token wherever the two disagree", "the base"),
    ("matched", "base", "The same at as many random places", "the base"),
    ("random", "matched", "A random token where the two disagree", "one at a random place"),
    ("oracle", "random", "At the same places, the adapted choice", "a random token"),
)


def _compared(d: Estimate | None, one: str, other: str) -> str | None:
    """Write a difference as a sentence; it claims one only where the exact test finds it."""
    if d is None or d["value"] is None:
        return None
    figures = f"{points(d)}, n = {d['n']}, exact {write_p(d['p'])}"
    if d["verdict"] != "not shown":
        return f"{one} does {d['verdict']} than {other}: {figures}."
    return f"{one} cannot be told from {other}: {figures}."


@dataclass
class InterveneSet:
    """An iterable of reports, one after each batch of problems; holds the engines for one batch at a time."""

    pair: Pair
    set_name: str
    problems: Sequence[Problem]
    arms: tuple[Arm, ...]
    tau: float
    seed: int = 0
    max_new: int = NEW_TOKENS
    with_placebo: bool = True  # needs the arm "base"
    cancelled: Callable[[], bool] = lambda: False
    calibration: Calibration | None = None  # what tau came from
    store: LineStore | None = None  # what earlier runs of the same have found, and where this one keeps it

    def __iter__(self) -> Iterator[InterveneReport]:
        """Raises RmxError where a problem has no known answer."""
        if any(p.answer is None for p in self.problems):
            raise RmxError(f"{self.set_name} holds problems without a known answer, so nothing can be graded.")
        models = [(self.pair.base, None), (self.pair.adapted, self.pair.adapter)]
        settings = {"arms": list(self.arms), "tau": self.tau, "seed": self.seed, "max_new": self.max_new}
        with closing(journal_of(self.store, "interventions", models, **settings)) as self._journal:
            yield from self._run()

    def _run(self) -> Iterator[InterveneReport]:
        began, done = time.perf_counter(), list[ProblemArms]()
        asked = [ArmProblem(p.id, self.pair.base.prompt_ids(p.problem), p.answer) for p in self.problems]
        # Problems that go together, by rows and by the memory of their keys and values under both models.
        longest = max((len(a.prompt_ids) for a in asked), default=0) + self.max_new
        rows = min(ROWS, CACHE_BYTES // (2 * token_bytes(self.pair.base.engine) * longest))
        size = max(1, rows // len(ARMS))
        for start in range(0, len(asked), size):
            if self.cancelled():
                break
            found = self._batch(self.pair, asked[start : start + size], self.arms, "arms")
            if found is None:
                break
            # A cancel in the middle leaves some problems without some arms; only whole ones count.
            done += [
                ProblemArms(a.id, r) for a, r in zip(asked[start:], found, strict=False) if len(r) == len(self.arms)
            ]
            yield self._report(done, began, False)
        placebo = self._placebo(asked, done, size) if done and self.with_placebo and "base" in self.arms else None
        yield self._report(done, began, True, placebo)

    def _batch(
        self, pair: Pair, batch: Sequence[ArmProblem], arms: Sequence[Arm], what: str
    ) -> list[dict[Arm, ArmResult]] | None:
        """All arms on the problems of a batch, as they are known or as they are decoded; None after a cancel.

        A batch that is not known whole is decoded whole: one of another shape would round otherwise. `what` names this
        kind of work among the pieces that are kept.
        """
        name = f"{what} {chained([a.prompt_ids for a in batch])[-1]}"
        rows = [self._journal.get(f"{name} {i}") for i in range(len(batch))]
        if all(rows):
            return [self._known(a, row["arms"]) for a, row in zip(batch, rows, strict=True) if row]
        with pair.when_free(self.cancelled) as mine:
            if not mine:
                return None
            found = AllArms(pair, batch, arms, self.tau, self.seed, self.max_new, self.cancelled).run()
        for i, results in enumerate(found) if not self.cancelled() else ():
            self._journal.put(f"{name} {i}", {"arms": {arm: r.row() for arm, r in results.items()}})
        return found

    def _known(self, asked: ArmProblem, arms: dict[Arm, Any]) -> dict[Arm, ArmResult]:
        """What is known of a problem, its answers read and judged by the present rules."""
        found: dict[Arm, ArmResult] = {}
        for arm, kept in arms.items():
            answer = self.pair.base.grade(asked.prompt_ids, kept["ids"], asked.known, cut=kept["stop"] in CUT)
            found[arm] = ArmResult.of_row(arm, answer, kept)
        return found

    def _placebo(self, asked: Sequence[ArmProblem], done: Sequence[ProblemArms], size: int) -> PlaceboArm | None:
        """Solve the same problems with noise that reranks the base's solutions as often as the adapted model does."""
        prompts = {a.id: a for a in asked}
        wanted = [prompts[p.id] for p in done]
        texts: list[Text] = [
            ([*prompts[p.id].prompt_ids, *p.results["base"].ids], len(prompts[p.id].prompt_ids) - 1)
            for p in done[:CALIBRATION_TEXTS]
        ]
        piece = f"strength {chained([ids for ids, _ in texts])[-1]}"
        noise = known_placebo(self._journal, piece, self.pair, texts, self.seed, self.cancelled)
        if noise is None:
            return None
        strength, results = split_key(str(noise.adapter))[1], list[ArmResult]()
        for start in range(0, len(wanted), size):
            found = self._batch(noise, wanted[start : start + size], ("teacher",), f"placebo {strength!r}")
            if found is None or self.cancelled():
                break
            results += [r["teacher"] for r in found if r]
        right = tuple(bool(r.answer.correct) for r in results)
        return PlaceboArm(strength, right, sum(r.tokens for r in results), sum(r.patches for r in results))

    def _report(
        self, done: Sequence[ProblemArms], began: float, over: bool, placebo: PlaceboArm | None = None
    ) -> InterveneReport:
        return InterveneReport(
            self.set_name,
            self.pair.base.spec,
            self.pair.name,
            self.tau,
            self.seed,
            self.arms,
            len(self.problems),
            time.perf_counter() - began,
            over,
            self.cancelled(),
            tuple(done),
            placebo,
            self.pair.base.style,
            self.calibration,
            self.pair.base.dtype,
        )


def arms_csv(found: dict[str, Any]) -> str:
    """One line per problem and arm of an intervene document."""
    columns, problems = ("answers", "correct", "patches", "tokens"), found["problems"]
    rows = [[p["id"], arm, *(p[column][arm] for column in columns)] for p in problems for arm in p["answers"]]
    return csv_text(["problem", "arm", "answer", "correct", "patches", "tokens"], rows)
