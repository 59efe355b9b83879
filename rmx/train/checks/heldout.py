"""Checks on the validation split while a model trains, which of them was the best, and when to stop early."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.records import Problem, Rollout
from rmx.stats.intervals import Estimate
from rmx.train.checks.diagnostics import Contrast, decision_items, diagnose
from rmx.train.checks.greedy import Solution, Solutions, solve_together
from rmx.train.step.base_figures import BaseFigures
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.processes import Team

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
    ) -> None:
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
        return solve_together(*asked, cancelled=self.cancelled)
