"""Held-out checks while a model trains, and the rules that stop it.

Rules that stop a run which goes wrong: a sentence with what to change where one has struck, else None.

Greedy solutions of many problems as one batch, graded: pass@1 while a model trains.

Checks on the validation split while a model trains, which of them was the best, and when to stop early.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rmx.engine.batch import greedy_rows
from rmx.errors import Stopped
from rmx.models.load import Model
from rmx.models.stopping import Ending
from rmx.records import Answer, Problem, Rollout
from rmx.stats.intervals import Estimate, paired_difference, quotient, share
from rmx.stats.text import points
from rmx.train.replay import Contrast, decision_items, diagnose
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.processes import Team, collected, dealt
from rmx.train.step.scoring import BaseFigures

WINDOW = 5  # updates over which the anchor is averaged: single updates jump
CHANGE = "Train again with a lower lr, with neg_floor_nats (0.5, say) or with a higher kl_weight."


def below_base(base: Estimate, now: Estimate, vs_base: Estimate, best: str | None = None) -> str | None:
    """Validation accuracy below the base: the paired 95 % interval of now minus base lies below zero as a whole."""
    if vs_base["high"] is None or vs_base["high"] >= 0:
        return None
    change = points(vs_base, bounds=", 95 % {:+.1f} to {:+.1f}")
    return (
        f"Stopped: validation pass@1 fell from the base's {100 * base['value']:.1f} % to {100 * now['value']:.1f} % "
        f"({change}, n = {now['n']}). {kept(best)} {CHANGE}"
    )


def kl_away(kl_losses: Sequence[float], limit: float, best: str | None = None, window: int = WINDOW) -> str | None:
    """The anchor runs away: the mean kl_loss of the last `window` updates, and no fewer, exceeds `limit` nats."""
    last = kl_losses[-window:]
    if len(last) < window or not all(map(math.isfinite, last)):
        return None
    mean = math.fsum(last) / window
    if mean <= limit:
        return None
    return (
        f"Stopped: the model leaves the base where it should stay: KL(base || policy) outside the decisions averaged "
        f"{mean:.3f} nats over the last {window} updates, and {limit:g} is the limit (kl_limit). {kept(best)} {CHANGE}"
    )


def not_finite(loss: float, grad_norm: float, optimizer_step: int, best: str | None = None) -> str | None:
    """Loss or gradient is infinite or no number."""
    broken = [name for name, value in (("loss", loss), ("gradient", grad_norm)) if not math.isfinite(value)]
    if not broken:
        return None
    figures = f"loss {loss:g}, gradient norm {grad_norm:g}"
    return (
        f"Stopped: the {' and the '.join(broken)} of update {optimizer_step} {'is' if len(broken) == 1 else 'are'} not "
        f"finite ({figures}). {kept(best)} {CHANGE}"
    )


def kept(best: str | None) -> str:
    """What a stopped run leaves behind."""
    if best is None:
        return "The checkpoints made so far are kept; none was checked before this."
    return f"The checkpoints made so far are kept; {best} is the best of them and becomes the adapter."


# -- Greedy solutions of many problems as one batch, graded -----------------------------------------------------------


ROWS = 64  # problems decoded together
Solved = Callable[[int, int], None]  # hears how many problems this process has solved, of how many


@dataclass(frozen=True, slots=True)
class Solution:
    """One greedy completion."""

    problem_id: str
    ids: tuple[int, ...]  # the end token included
    text: str
    answer: Answer
    truncated: bool  # cut off at the limit, so wrong

    def json(self) -> dict[str, Any]:
        """Ids, text and grade."""
        return {
            "id": self.problem_id, "ids": list(self.ids), "text": self.text, "answer": self.answer.text,
            "correct": self.answer.correct, "truncated": self.truncated,
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Solution":
        answer = Answer(stored["answer"], stored["correct"])
        return cls(stored["id"], tuple(stored["ids"]), stored["text"], answer, stored["truncated"])


@dataclass(frozen=True, slots=True)
class Solutions:
    """The greedy completions of some problems, in their order."""

    each: tuple[Solution, ...]

    @property
    def right(self) -> list[bool]:
        return [bool(s.answer.correct) for s in self.each]

    @property
    def pass_at_1(self) -> Estimate:
        """With its 95 % Wilson interval."""
        return share(sum(self.right), len(self.each))

    @property
    def truncated(self) -> int:
        return sum(s.truncated for s in self.each)

    @property
    def unparsed(self) -> int:
        """Without an answer; these count as wrong."""
        return sum(s.answer.text is None for s in self.each)

    def against(self, base: "Solutions") -> Estimate:
        """pass@1 minus the base's on the same problems, with a 95 % paired interval."""
        if [s.problem_id for s in self.each] != [s.problem_id for s in base.each]:
            raise ValueError("the two solved different problems")
        return paired_difference(base.right, self.right)

    def gap_closed(self, base: "Solutions", teacher: "Solutions") -> Estimate:
        """Share of the teacher's gain over the base that these have: (self - base) / (teacher - base) in pass@1.

        With a 95 % percentile bootstrap over problems; nothing but n where the interval of the teacher's gain is not
        above 0: a share of a gain that may not be there means nothing.
        """
        gain, ours, n = teacher.against(base), self.against(base), len(self.each)
        if not gain["n"] or gain["low"] <= 0:
            return {"value": None, "low": None, "high": None, "n": ours["n"]}
        rows = list(zip(base.right, self.right, teacher.right, strict=True))
        won, to_win = [float(s - b) for b, s, _ in rows], [float(t - b) for b, _, t in rows]
        return quotient(won, [1.0] * n, to_win, [1.0] * n)

    def json(self) -> list[dict[str, Any]]:
        return [s.json() for s in self.each]

    @classmethod
    def from_json(cls, stored: list[dict[str, Any]]) -> "Solutions":
        return cls(tuple(map(Solution.from_json, stored)))


@torch.inference_mode()
def solve(
    model: Model,
    problems: Sequence[Problem],
    adapter: str | None,
    max_new: int,
    *,
    rows: int = ROWS,
    cancelled: Callable[[], bool] = lambda: False,
    solved: Solved = lambda at, of: None,
) -> Solutions:
    """Solve problems greedily, prompts of similar length together. The caller holds the engine's turn.

    The prefix cache is left out: an adapter in training is another one at every call. A cancel leaves what is there.
    """
    prompts = [model.prompt_ids(p.problem) for p in problems]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [_GreedyRow(model, prompt) for prompt in prompts]

    def over(place: int, token: int) -> bool:
        if found[order[place]].goes_on(token):
            return False
        solved(sum(row.over for row in found), len(found))
        return True

    greedy_rows(
        model.engine,
        [prompts[i] for i in order],
        over,
        max_new=max_new,
        rows=rows,
        adapter=adapter,
        cancelled=cancelled,
    )
    solved(len(found), len(found))
    return Solutions(tuple(_solution(model, problem, row) for problem, row in zip(problems, found, strict=True)))


def solve_together(
    team: Team | None,
    model: Model,
    problems: Sequence[Problem],
    adapter: str | None,
    max_new: int,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    solved: Solved = lambda at, of: None,
) -> Solutions:
    """The same, dealt to all processes, each of which gets all solutions, or Stopped where one was asked to stop."""
    if team is None:
        return solve(model, problems, adapter, max_new, cancelled=cancelled, solved=solved)
    order = sorted(range(len(problems)), key=lambda i: len(model.prompt_ids(problems[i].problem)))
    mine = [order[i] for i in dealt(len(order), team)]
    found = solve(model, [problems[i] for i in mine], adapter, max_new, cancelled=cancelled, solved=solved)
    if cancelled():
        raise Stopped
    pairs = collected(list(zip(mine, found.each, strict=True)), lambda pair: pair[0], team)
    return Solutions(tuple(solution for _, solution in pairs))


class _GreedyRow:
    """A prompt and its completion so far."""

    def __init__(self, model: Model, prompt: tuple[int, ...]) -> None:
        self.prompt, self.ids, self.over = prompt, list[int](), False
        self._ending = Ending(model, prompt, (), 1)

    def goes_on(self, token: int) -> bool:
        self.ids.append(token)
        self.over = self._ending(0, token)
        return not self.over


def _solution(model: Model, problem: Problem, row: _GreedyRow) -> Solution:
    answer = model.grade(row.prompt, row.ids, problem.answer, cut=not row.over)
    return Solution(problem.id, tuple(row.ids), model.answer_text(row.ids), answer, truncated=not row.over)


# -- Checks on the validation split while a model trains, which of them was the best, and when to stop early ----------


FIGURES_BYTES = 256 << 20  # of the base on held-out rollouts; what does not fit is read anew at each check
SAMPLES = 6  # solutions shown before and after


@dataclass(frozen=True, slots=True)
class Check:
    """The figures of one checkpoint; update 0 is the base."""

    optimizer_step: int
    epoch: float
    pass_at_1: Estimate
    vs_base: Estimate | None  # paired; None at update 0
    contrast: Contrast
    truncated: int
    unparsed: int
    seconds: float

    def json(self) -> dict[str, Any]:
        """The check event."""
        return {
            "optimizer_step": self.optimizer_step, "epoch": self.epoch, "pass@1": self.pass_at_1,
            "vs_base": self.vs_base, **self.contrast.json(), "truncated": self.truncated, "unparsed": self.unparsed,
            "seconds": round(self.seconds, 2),
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Check":
        plain = {name: stored[name] for name in cls.__slots__ if name not in ("pass_at_1", "contrast")}
        contrast = Contrast(**{name: stored[name] for name in Contrast.__slots__})
        return cls(pass_at_1=stored["pass@1"], contrast=contrast, **plain)


def best_of(checks: Sequence[Check]) -> Check | None:
    """The checkpoint that becomes the adapter: highest pass@1, then larger gap, then the earlier; never the base."""
    trained = [c for c in checks if c.optimizer_step > 0]
    return min(trained, key=_rank, default=None)


def _rank(check: Check) -> tuple[float, float, int]:
    gap = check.contrast.gap
    return -(check.pass_at_1["value"] or 0.0), -gap if gap is not None else float("inf"), check.optimizer_step


def stops_early(checks: Sequence[Check], patience: int) -> str | None:
    """A sentence where the last `patience` checks (0: never) brought no better pass@1 than those before, else None."""
    before, last = checks[: len(checks) - patience], checks[len(checks) - patience :]
    if not patience or not before:
        return None
    highest = max(before, key=lambda c: c.pass_at_1["value"] or 0.0)
    bar = highest.pass_at_1["value"] or 0.0
    if any((c.pass_at_1["value"] or 0.0) > bar for c in last):
        return None
    where = f"update {highest.optimizer_step}" if highest.optimizer_step else "the base"
    checks_ = "check" if patience == 1 else f"{patience} checks"
    return (
        f"Stopped early: the last {checks_} brought no better validation pass@1 than {where} with "
        f"{100 * bar:.1f} % (patience {patience})."
    )


class HeldOut:
    """The validation problems and held-out rollouts of one run, and what the base did on them."""

    def __init__(
        self,
        policy: LoraPolicy,
        problems: Sequence[Problem],
        rollouts: Sequence[Rollout],
        *,
        tau: float,
        max_new: int,
        max_seq_len: int,
        cancelled: Callable[[], bool] = lambda: False,
        team: Team | None = None,
        solved: Solved = lambda at, of: None,
    ) -> None:
        self.solved = solved
        self.policy, self.problems, self.max_new, self.cancelled = policy, list(problems), max_new, cancelled
        self.items = decision_items(rollouts, tau, max_seq_len)
        self.figures, self.team = BaseFigures(FIGURES_BYTES), team
        self._base: Solutions | None = None
        self.latest: Solutions | None = None

    @property
    def base(self) -> Solutions:
        """The base's greedy solutions, made at first need."""
        if self._base is None:
            self._base = self._solve(None)
        return self._base

    def share(self, other: "HeldOut") -> None:
        """Take over what another run on the same problems and rollouts knows of the base."""
        self._base = self.latest = other.base
        self.figures = other.figures

    def check(self, optimizer_step: int, epoch: float) -> Check:
        """Measure the policy as it is; at update 0 the base. The caller holds the engine's turn."""
        began, base = time.perf_counter(), self.base
        now = self.latest = self._solve(NAME) if optimizer_step else base
        vs_base = now.against(base) if optimizer_step else None
        contrast = diagnose(self.policy, self.items, self.figures, self.team)
        figures = now.pass_at_1, vs_base, contrast, now.truncated, now.unparsed, time.perf_counter() - began
        return Check(optimizer_step, epoch, *figures)

    def samples(self, optimizer_step: int, limit: int = SAMPLES) -> dict[str, Any]:
        """The samples event: first those problems whose grade changed, then others, before and after."""
        after = self.latest or self.base
        rows = list(zip(self.problems, self.base.each, after.each, strict=True))
        rows.sort(key=lambda row: row[1].answer.correct == row[2].answer.correct)

        def graded(solution: Solution) -> dict[str, Any]:
            return {key: solution.json()[key] for key in ("text", "answer", "correct")}

        problems = [
            {"id": p.id, "problem": p.problem, "known": p.answer, "before": graded(one), "after": graded(two)}
            for p, one, two in rows[:limit]
        ]
        return {"optimizer_step": optimizer_step, "problems": problems}

    def _solve(self, adapter: str | None) -> Solutions:
        asked = self.team, self.policy.model, self.problems, adapter, self.max_new
        return solve_together(*asked, cancelled=self.cancelled, solved=self.solved)
