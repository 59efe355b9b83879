"""The last stage of a distillation: updates, checkpoints, and after each epoch how near the student has come."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmx.errors import Stopped, TrainError
from rmx.stats.intervals import share
from rmx.train.checks.greedy import Solutions
from rmx.train.checks.guards import not_finite
from rmx.train.checks.heldout import HeldOut
from rmx.train.distill.trainer import Distiller, DistillUpdate, agreement
from rmx.train.stages import Event, RunFiles, StageProgress
from rmx.train.step import checkpoint
from rmx.train.step.items import Item, updates_per_epoch
from rmx.train.training_stage import CHECKPOINTS, CHECKS, written

EVALUATION = "evaluation.json"
SAVES = 4  # checkpoints an epoch


@dataclass
class DistillTraining:
    """The loop around a distiller. Checks so far are in `checks.json`; a restart begins at the last checkpoint.

    Args:
        held_items: solutions by the teacher that nothing is learned from. held_out: problems solved greedily; None
            where there are none. teacher: what the teacher makes of those problems.
    """

    run: RunFiles
    distiller: Distiller
    held_items: list[Item]
    held_out: HeldOut | None
    teacher: Solutions
    checks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder: Path = self.run.folder / CHECKPOINTS
        self.per_epoch = updates_per_epoch(len(self.distiller.items), self.distiller.optim)
        every = max(1, self.per_epoch // SAVES)
        ends = range(self.per_epoch, self.distiller.of + 1, self.per_epoch)
        self.checked = [0, *ends]
        self.saved = {*range(every, self.distiller.of + 1, every), *ends}

    def events(self) -> Iterator[Event]:
        """Train to the end.

        Raises:
            Stopped: it was asked to stop; the last update is in a checkpoint. TrainError: the loss is not finite.
        """
        yield from self._resume()
        progress = StageProgress("training", self.distiller.of, self.distiller.updates)
        yield progress.event()
        for step in self.distiller.run():
            progress.at = step.optimizer_step
            left = progress.left
            yield "update", step.json() | {"left": None if left is None else round(left, 1)}
            if progress.due():
                yield progress.event()
            yield from self._after(step)
        yield progress.event()

    def _after(self, step: DistillUpdate) -> Iterator[Event]:
        if message := not_finite(step.loss, step.grad_norm, step.optimizer_step, None):
            raise TrainError(message)
        stopped = self.run.stop()
        if stopped or step.optimizer_step in self.saved:
            self._save(step.optimizer_step)
        if stopped:
            raise Stopped
        if step.optimizer_step in self.checked:
            yield from self._check(step.optimizer_step)

    def _save(self, step: int) -> None:
        """Write a checkpoint; only the last one is of use."""
        self.distiller.save(self.folder / f"step_{step}")
        for old in written(self.folder):
            if old != step:
                checkpoint.shed(self.folder / f"step_{old}", keep_adapter=False)

    def _resume(self) -> Iterator[Event]:
        """Restore the last checkpoint, and make the check that is still missing there."""
        at = next((s for s in reversed(written(self.folder)) if checkpoint.whole(self.folder / f"step_{s}")), 0)
        if at:
            self.distiller.restore(self.folder / f"step_{at}")
        stored = self.run.read(CHECKS) or {"checks": []}
        self.checks = [c for c in stored["checks"] if c["optimizer_step"] <= at]
        if at in self.checked and at not in {c["optimizer_step"] for c in self.checks}:
            yield from self._check(at)

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check(self, step: int) -> Iterator[Event]:
        """Measure the student as it is, at update 0 the base; a check that a stop broke off does not count."""
        policy = self.distiller.policy
        with policy.model.engine.queue.turn():
            found = self.held_out.check(step, step / self.per_epoch).json() if self.held_out else self._unsolved(step)
            near = agreement(policy, self.held_items, self.distiller.cache, bool(step)) if self.held_items else None
        self.run.check_stop()
        found |= {"agreement": near.json() if near else None, "checkpoint": None, "best": False}
        if self.held_out and step == self.distiller.of:
            self.run.write(EVALUATION, self._evaluation(self.held_out))
        self.checks.append(found)
        self.run.write(CHECKS, {"checks": self.checks})
        yield "check", found
        if self.held_out:
            yield "samples", self.held_out.samples(step)

    def _unsolved(self, step: int) -> dict[str, Any]:
        """A check without problems to solve."""
        unknown = dict.fromkeys(("vs_base", "gap", "delta_logp_pos", "delta_logp_neg", "pressure", "kl"))
        return {"optimizer_step": step, "epoch": step / self.per_epoch, "pass@1": share(0, 0), **unknown}

    def _evaluation(self, held_out: HeldOut) -> dict[str, Any]:
        """Greedy pass@1 of base, student and teacher on the validation problems, with every solution."""
        before, after = held_out.base, held_out.latest or held_out.base
        return {
            "split": "validation",
            "before": before.pass_at_1,
            "after": after.pass_at_1,
            "vs_base": after.against(before),
            "teacher": self.teacher.pass_at_1,
            "vs_teacher": after.against(self.teacher),
            "teacher_vs_base": self.teacher.against(before),
            "gap_closed": after.gap_closed(before, self.teacher),
            "problems": {"before": before.json(), "after": after.json(), "teacher": self.teacher.json()},
        }

    def nearness(self) -> Mapping[str, Any] | None:
        """Agreement with the teacher on its held-out solutions, of the base and of the student at the end."""
        near = {c["optimizer_step"]: c["agreement"] for c in self.checks}
        base, student = near.get(0), near.get(self.distiller.of)
        if not base or not student:
            return None
        return {"rollouts": base["rollouts"], "tokens": base["tokens"], "base": base, "adapted": student}
