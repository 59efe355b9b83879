"""Where an evaluation stands: the graded problems, and the document that is made of them."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from rmx.compare.base_check import BaseCheck
from rmx.data.problem_sets import SETS, split_name
from rmx.evaluate.contestants import Contestant, EvalConfig
from rmx.evaluate.model_figures import Scored, crossing, model_figures, paired_figures
from rmx.evaluate.sample_store import Answered
from rmx.grading.answer_groups import same_answers
from rmx.grading.answers import equal
from rmx.mini.problem_sets import MINI_SIZES, mini_set
from rmx.mini.task import MiniProblem
from rmx.records import Problem
from rmx.runs.rates import cost
from rmx.stats.paired import RULE
from rmx.train.plan.probe import device_name

PARTS = {"none": "known wordings and numbers", "numbers": "held-out numbers", "wording": "held-out wordings"}


def clusters_of(problems: Sequence[Problem]) -> tuple[list[Hashable] | None, str | None]:
    """A label for each problem, the same for those that depend on each other, and what the labels stand for.

    Problems of `mini` with a held-out wording are labelled by template and wording, all others by their id.
    (None, None) for every other set, and where no two problems share a label.
    """
    labels: list[Hashable] = [
        f"{p.template}, wording {p.wording}" if p.held_out == "wording" else p.id for p in _mini_problems(problems)
    ]
    return (labels, "wording") if len(set(labels)) < len(labels) else (None, None)


def parts_of(problems: Sequence[Problem]) -> list[str] | None:
    """The part of each problem: "held-out numbers" or "held-out wordings" in the test and validation sets of `mini`.

    None for every other set, and where all problems are of one part.
    """
    parts = [PARTS[problem.held_out] for problem in _mini_problems(problems)]
    return parts if len(set(parts)) > 1 else None


def _mini_problems(problems: Sequence[Problem]) -> list[MiniProblem]:
    """What is known of each problem of `mini`; nothing if one of them is of another set."""
    if any(p.set != "mini" or p.split not in MINI_SIZES for p in problems):
        return []
    known = [_by_id(p.split).get(p.id) for p in problems]
    return [] if None in known else known  # type: ignore[return-value]


@lru_cache(maxsize=3)
def _by_id(split: str) -> dict[str, MiniProblem]:
    return {problem.id: problem for problem in mini_set(split)}  # type: ignore[arg-type]


NO_VOTE = -1
FIGURES = ("greedy", "pass@k", "avg", "majority", "truncated", "unparsed")


@dataclass(slots=True)
class DecodingTally:
    """What a model's new completions took."""

    tokens: int = 0
    seconds: float = 0.0
    fault: str | None = None  # why completions are not kept


@dataclass(frozen=True, slots=True)
class One:
    """One model on one problem."""

    greedy: Answered | None
    greedy_right: bool
    right: tuple[bool, ...]  # of the samples; one that was cut off is wrong, whatever stands in it
    votes: tuple[int, ...]  # class of each sample's answer; -1 without one, or where it was cut off
    truncated: tuple[bool, ...]  # samples that were cut off at a limit
    unparsed: tuple[bool, ...]  # samples in which no answer stands

    def json(self) -> dict[str, Any]:
        """Return one model's counts on one problem as documents hold them."""
        found: dict[str, Any] = {"right": sum(self.right), "samples": len(self.right)}
        found |= {"truncated": sum(self.truncated), "unparsed": sum(self.unparsed)}
        if (g := self.greedy) is not None:
            found["greedy"] = {"answer": g.answer, "correct": self.greedy_right, "truncated": g.truncated}
        return found


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """One problem as all models answered it."""

    problem: Problem
    by: dict[str, One]  # name of the model -> what it did
    verdicts: dict[str, bool] = field(default_factory=dict)  # each different answer -> whether it is the known one

    @classmethod
    def graded(
        cls, problem: Problem, greedy: Mapping[str, Answered], drawn: Mapping[str, Sequence[Answered]]
    ) -> "ProblemRow":
        """Every different writing of an answer is compared with the known one once. Cut off is wrong, and no vote."""
        known, sampled = problem.answer or "", [one for ones in drawn.values() for one in ones]
        right = {
            text: text is not None and equal(text, known)
            for text in {one.answer for one in (*sampled, *greedy.values())}
        }
        counts = Counter(one.answer for one in sampled if not one.truncated)
        stands_for = same_answers(counts, lambda text: right[text])
        number = {text: i for i, text in enumerate(dict.fromkeys(stands_for.values()))}
        found = {}
        for name in {**greedy, **drawn}:
            ones, first = drawn.get(name, ()), greedy.get(name)
            found[name] = One(
                first,
                first is not None and right[first.answer] and not first.truncated,
                tuple(right[one.answer] and not one.truncated for one in ones),
                tuple(
                    NO_VOTE if one.answer is None or one.truncated else number[stands_for[one.answer]] for one in ones
                ),
                tuple(one.truncated for one in ones),
                tuple(one.answer is None for one in ones),
            )
        return cls(problem, found, {text: is_right for text, is_right in right.items() if text is not None})


@dataclass(frozen=True, slots=True)
class EvalReport:
    """A snapshot; figures are over the problems that every model has finished."""

    set_name: str
    config: EvalConfig
    contestants: tuple[Contestant, ...]
    of_problems: int
    solved: tuple[ProblemRow, ...]
    tallies: dict[str, DecodingTally]
    at: int  # completions made or known
    of: int
    done: bool
    seconds: float
    cached: int  # completions that were known before
    seen: dict[str, int | None]  # problems that a model was trained on, where its run can say so
    check: BaseCheck | None = None  # whether the first model equals its file, with the adapters on it
    regraded: dict[str, Any] | None = None  # what a second look at kept completions has changed

    def json(self) -> dict[str, Any]:
        """The document of `rmx eval --json`."""
        base, split = split_name(self.set_name)
        info, problems = SETS.get(base), [s.problem for s in self.solved]
        (clusters, what), parts = clusters_of(problems), parts_of(problems)
        models, paired = self._figures(range(len(problems)), clusters)
        document = {
            "set": self.set_name,
            "split": split,
            "problems": len(problems),
            "of_problems": self.of_problems,
            **self.config.json(),
            "clusters": {"what": what, "n": len(set(clusters))} if clusters else None,
            **{name: getattr(self, name) for name in ("at", "of", "done", "seconds", "cached")},
            "usd": None if any(m["usd"] is None for m in models) else float(sum(m["usd"] for m in models)),
            "licence": info.licence if info else None,
            "source": info.source if info else "the user's own file",
            "by_construction": self.contestants[0].model.spec == "mini",
            "style": self.contestants[0].model.style.json(),  # all are asked alike
            "base_check": {k: v for k, v in self.check.json().items() if k != "seconds"} if self.check else None,
            "fault": next((t.fault for t in self.tallies.values() if t.fault), None),
            "models": models,
            "paired": paired,
            "verdict_rule": RULE if paired else None,
            "crossings": [
                crossing({int(k): found for k, found in p["pass@k"].items()}, (p["against"], p["name"]))
                for p in (paired if self.config.n and self.solved else ())
            ],
            "parts": self._parts(parts, clusters),
            "per_problem": [
                {
                    "id": p.id,
                    "problem": p.problem,
                    "answer": p.answer,
                    "part": parts[i] if parts else None,
                    "cluster": str(clusters[i]) if clusters else None,
                    "models": {name: one.json() for name, one in self.solved[i].by.items()},
                }
                for i, p in enumerate(problems)
            ],
        }
        if self.regraded is not None:
            document["regraded"] = self.regraded
        first, *adapted = ({name: model[name] for name in FIGURES} for model in models[:2])
        return document | ({"base": first, "adapted": adapted[0]} if adapted else first)

    def _figures(
        self, places: Sequence[int], clusters: Sequence[Hashable] | None
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The figures of each model on some of the problems, and of each against the first."""
        ks, labels = self.config.k, None if clusters is None else [clusters[i] for i in places]
        scored = {c.name: self.scored(c.name, places) for c in self.contestants}
        models = [
            {"name": c.name, "label": c.label, "adapter": c.spec, "dtype": c.model.dtype}
            | model_figures(scored[c.name], ks, labels)
            | self._took(c)
            for c in self.contestants
        ]
        first, *others = self.contestants
        paired = [
            {"name": c.name, "against": first.name} | paired_figures(scored[first.name], scored[c.name], ks, labels)
            for c in others
        ]
        return models, paired

    def scored(self, name: str, places: Sequence[int]) -> Scored:
        """One model's results on some problems as arrays, (P,) and (P, n)."""
        rows = [self.solved[i].by[name] for i in places]
        shape = (len(rows), self.config.n)
        first = [r.greedy for r in rows if r.greedy is not None]
        greedy = [[r.greedy_right for r in rows], [g.truncated for g in first], [g.answer is None for g in first]]
        marks = [np.array(each, bool) if self.config.greedy else None for each in greedy]
        return Scored(
            greedy=marks[0],
            right=np.array([r.right for r in rows], bool).reshape(shape),
            votes=np.array([r.votes for r in rows], int).reshape(shape),
            greedy_truncated=marks[1],
            greedy_unparsed=marks[2],
            truncated=np.array([r.truncated for r in rows], bool).reshape(shape),
            unparsed=np.array([r.unparsed for r in rows], bool).reshape(shape),
        )

    def _took(self, contestant: Contestant) -> dict[str, Any]:
        tally = self.tallies[contestant.name]
        usd = cost(tally.seconds, device_name(contestant.model.engine.device)).usd
        took = {"tokens": tally.tokens, "seconds": round(tally.seconds, 2), "usd": usd}
        return took | {"seen": self.seen.get(contestant.name)}

    def _parts(self, names: Sequence[str] | None, clusters: Sequence[Hashable] | None) -> list[dict[str, Any]]:
        """The same figures for kinds of problems that should not be thrown together."""
        found = []
        for name in dict.fromkeys(names or ()):
            places = [i for i, other in enumerate(names or ()) if other == name]
            models, paired = self._figures(places, clusters)
            found.append({"name": name, "problems": len(places), "models": models, "paired": paired})
        return found
