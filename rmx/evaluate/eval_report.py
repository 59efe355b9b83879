"""What an evaluation asks of every model, where it stands, and the document that is made of its marks."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from rmx.arguments import Checked, Count, Draws, Seed, Temperature, TopP, checked
from rmx.compare.controls import BaseCheck
from rmx.data.problem_sets import SETS, load_set, split_name
from rmx.errors import ProblemError, RmxError
from rmx.evaluate.sample_store import Answered
from rmx.grading.answers import equal, same_answers
from rmx.mini.problem_sets import MINI_SIZES, mini_set
from rmx.mini.task import MiniProblem
from rmx.models.base_state import key_of
from rmx.models.load import Model
from rmx.models.model_pair import ask_alike
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem, as_json
from rmx.runs.rates import cost
from rmx.stats.intervals import Estimate, unknown
from rmx.stats.paired import (
    RULE,
    Clusters,
    excludes_zero,
    greedy_difference,
    mean_estimates,
    sampled_differences,
    share_estimate,
    with_verdict,
)
from rmx.stats.pass_at_k import majority_profile, pass_at_k, powers
from rmx.stats.text import points
from rmx.train.probe import device_name


@checked
class EvalConfig(Checked):
    """Settings shared by all models of an evaluation. The defaults of the draws are the paper's."""

    n: Draws = 16  # samples per problem; 0: greedy only
    k: tuple[int, ...] = ()  # tries of pass@k; () means 1, 2, 4 ... n
    temperature: Temperature = 0.6
    top_p: TopP = 0.95
    seed: Seed = 0
    max_new_tokens: Count = 2048
    greedy: bool = True

    def __post_init__(self) -> None:
        if not self.n and not self.greedy:
            raise RmxError("Nothing to evaluate: no samples and no greedy solution.")
        if self.n and self.temperature == 0:
            raise RmxError("Samples at temperature 0 are all the same. Raise it, or ask for no samples (n = 0).")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))) or powers(self.n))
        for k in self.k:
            if not 1 <= k <= max(self.n, 1):
                raise RmxError(f"pass@k needs k from 1 to the number of samples, {self.n}; got {k}.")

    def json(self) -> dict[str, Any]:
        """Return the settings as the document of an evaluation holds them."""
        return {"samples": self.n} | as_json(self, "k", "temperature", "top_p", "seed", "max_new_tokens")


BASE = "base"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model of an evaluation."""

    name: str  # "base", or the spec of its adapter or checkpoint
    label: str
    model: Model
    adapter: str | None  # its name on the engine
    spec: str | None
    key: str  # of the weights, their precision and the adapter's weights: the same key, the same completions


def contestants_of(
    workspace: Workspace,
    model: str,
    adapters: Sequence[str] = (),
    teachers: Sequence[str] = (),
    style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
    set_name: str | None = None,
) -> list[Contestant]:
    """The base first, then its adapters, then other checkpoints; a spec that is named twice counts once.

    Everybody is asked the same ids, in the base's way: else a difference could be the prompt's.

    Args:
        adapters: bundled names, runs (`ID` or `ID/step_N`), folders, Hub ids. teachers: specs of full checkpoints.
        style: what is asked of the prompt. set_name: of the problems.

    Raises:
        ModelError: one of them cannot be had, or has other tokens than the base. PromptError: no style for the base.
    """
    base = workspace.model(model).ask_in(style, set_name)
    found = [Contestant(BASE, base.spec, base, None, None, key_of(base, None))]
    for spec in dict.fromkeys(adapters):
        name = workspace.adapter(base, spec)
        found.append(Contestant(spec, f"{base.spec} + {spec}", base, name, spec, key_of(base, name)))
    for spec in dict.fromkeys(teachers):
        other = ask_alike(workspace.model(spec), base)
        found.append(Contestant(spec, other.spec, other, None, spec, key_of(other, None)))
    return found


def with_answers(set_name: str, limit: int | None = None) -> list[Problem]:
    """The first `limit` problems of a set (default split: test); ProblemError where one has no known answer."""
    if limit is not None and limit < 1:
        raise RmxError(f"The number of problems must be 1 or more; got {limit}.")
    return answered(load_set(set_name)[:limit], set_name)


def answered(problems: list[Problem], set_name: str) -> list[Problem]:
    """The same problems; ProblemError where one of them has no known answer, so that nothing could be right."""
    without = [p.id for p in problems if p.answer is None]
    if without:
        raise ProblemError(
            f"{len(without)} of {len(problems)} problems of {set_name} have no known answer (the first: "
            f"{without[0][:60]!r}). Accuracy needs one for each."
        )
    return problems


# -- From marks to figures --------------------------------------------------------------------------------------------


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
    made = {"name": names[1], "against": names[0], "k": at, "sure": sure, "from": start, "to": end}
    return made | {"sentence": _sentence(made, found, signs)}


def _sentence(made: Mapping[str, Any], found: dict[int, Estimate], signs: dict[int, int]) -> str:
    """Say what `crossing` has found; `signs` are those of the differences."""
    if not found:
        return "No problem has samples of both yet, so there is nothing to compare."
    base, name, at = made["against"], made["name"], made["k"]
    last = max(found)
    if len(found) == 1:
        return f"Only k = {last} was measured, and a crossing takes two; there, {name} is {_gap(found[last], base)}."
    if at is not None:
        again = f" At k = {last}, {name} is ahead again." if signs[last] > 0 else ""
        return _crossing_sentence(made, found) + again
    if max(signs.values()) <= 0:
        return f"Nothing crosses: {name} is not ahead at any k; at k = {last} it is {_gap(found[last], base)}."
    doubt = "" if excludes_zero(found[last]) else ", which may be chance: the interval includes zero"
    how = "starts behind and is" if min(signs.values()) < 0 else "stays" if signs[last] > 0 else "starts ahead and is"
    return f"pass@k does not cross up to k = {last}: {name} {how} {_gap(found[last], base)}{doubt}."


def _crossing_sentence(made: Mapping[str, Any], found: dict[int, Estimate]) -> str:
    base, name, at, start, end = (made[key] for key in ("against", "name", "k", "from", "to"))
    if made["sure"]:
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


# -- Where an evaluation stands ---------------------------------------------------------------------------------------


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
            votes = (NO_VOTE if one.answer is None or one.truncated else number[stands_for[one.answer]] for one in ones)
            found[name] = One(
                greedy=first, greedy_right=first is not None and right[first.answer] and not first.truncated,
                right=tuple(right[one.answer] and not one.truncated for one in ones), votes=tuple(votes),
                truncated=tuple(one.truncated for one in ones), unparsed=tuple(one.answer is None for one in ones),
            )  # fmt: skip
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
            **as_json(self, "at", "of", "done", "seconds", "cached"),
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
                    **as_json(p, "id", "problem", "answer"),
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
        kinds: dict[str, type] = {"right": bool, "votes": int, "truncated": bool, "unparsed": bool}
        sampled: dict[str, np.ndarray] = {
            name: np.array([getattr(r, name) for r in rows], kind).reshape(shape) for name, kind in kinds.items()
        }
        return Scored(greedy=marks[0], greedy_truncated=marks[1], greedy_unparsed=marks[2], **sampled)

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
