"""Stage 4 of a run: updates, checkpoints, held-out checks, and the rules that end it early."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rmx.errors import Stopped
from rmx.recipes.recipe import Recipe
from rmx.train.checks.guards import below_base, kl_away, not_finite
from rmx.train.checks.heldout import Check, HeldOut, best_of, stops_early
from rmx.train.checks.replay import ForkReplay
from rmx.train.stages import Context, Event, StageProgress
from rmx.train.step import checkpoint
from rmx.train.step.items import total_updates, updates_per_epoch
from rmx.train.step.lora_policy import NAME
from rmx.train.step.trainer import MicroStep, Trainer, Update

CHECKS, CHECKPOINTS = "checks.json", "checkpoints"
_STEP = re.compile(r"step_(\d+)")


def checkpoint_steps(items: int, recipe: Recipe) -> list[int]:
    """After which updates a checkpoint is written and checked: every so many epochs, and after the last."""
    last = min(total_updates(items, recipe.optim), recipe.optim.max_steps or 1 << 60)
    every = max(1, round(recipe.check.checkpoint_every * updates_per_epoch(items, recipe.optim)))
    return sorted({*range(every, last + 1, every), last})


@dataclass
class TrainingLoop:
    """The loop around a trainer. What was checked so far is in `checks.json`; a restart begins at the last checkpoint.

    Args:
        held_out: None where there are no validation problems; then no rule ends the run but a loss that is not finite.
        stop: asked between updates; of several processes all get the same answer.
            All of them make the checks together; the first writes the files.
    """

    run: Context
    trainer: Trainer
    held_out: HeldOut | None
    replay: ForkReplay
    stop: Callable[[], bool]
    checks: list[Check] = field(default_factory=list)
    kl_losses: list[float] = field(default_factory=list)
    ended: Event | None = None  # the rule that ended it before its last update

    def __post_init__(self) -> None:
        self.folder: Path = self.run.folder / CHECKPOINTS
        self.steps = checkpoint_steps(len(self.trainer.items), self.run.job.recipe)

    @property
    def best(self) -> str | None:
        """Name of the best checkpoint so far."""
        found = best_of(self.checks)
        return f"step_{found.optimizer_step}" if found else None

    def events(self) -> Iterator[Event]:
        """Train to the end, or to the rule that strikes.

        Raises:
            Stopped: it was asked to stop; the last update is in a checkpoint.
        """
        yield from self._resume()
        progress = StageProgress("training", self.trainer.last, self.trainer.updates)
        yield progress.event()
        steps = iter(()) if self.ended else self.trainer.run()
        for step in steps:
            if isinstance(step, MicroStep):
                yield "micro", step.json()
                continue
            progress.at = step.optimizer_step
            left = progress.left
            yield "update", step.json() | {"left": None if left is None else round(left, 1)}
            if progress.due():
                yield progress.event()
            yield from self._after(step)
            if self.ended:
                break
        yield progress.event()

    def _after(self, step: Update) -> Iterator[Event]:
        """Guards, checkpoint, check and stop after one update."""
        self.kl_losses.append(step.kl_loss)
        if message := not_finite(step.loss, step.grad_norm, step.optimizer_step, self.best):
            yield from self._end("guard", {"rule": "finite", "message": message})
            return
        check = self.run.job.recipe.check
        if check.guards and self.held_out and (message := kl_away(self.kl_losses, check.kl_limit, self.best)):
            yield from self._end("guard", {"rule": "kl", "message": message})
            return
        due, stopped = step.optimizer_step in self.steps, self.stop()
        if due or stopped:
            self._save(step.optimizer_step)
        if stopped:
            raise Stopped
        if due:
            yield from self._check(step.optimizer_step)

    def _end(self, kind: str, figures: dict[str, str]) -> Iterator[Event]:
        self.ended = (kind, figures)
        yield self.ended

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check(self, step: int) -> Iterator[Event]:
        """Measure the policy as it is; a check that a stop broke off does not count."""
        epoch = step / updates_per_epoch(len(self.trainer.items), self.run.job.recipe.optim)
        if self.run.main:
            yield "replay", self.replay.event(step, NAME if step else None)
        yield from self._held_out_check(step, epoch)
        if step:
            yield from self._rules()

    def _held_out_check(self, step: int, epoch: float) -> Iterator[Event]:
        if self.held_out is None:
            return
        found = self.held_out.check(step, epoch)
        self.run.check_stop()
        self.checks.append(found)
        if self.run.main:
            self.run.write(CHECKS, {"checks": [c.json() for c in self.checks]})
        named = {"checkpoint": f"step_{step}" if step else None, "best": best_of(self.checks) is found}
        yield "check", found.json() | named
        yield "samples", self.held_out.samples(step)

    def _rules(self) -> Iterator[Event]:
        """What the checks so far say of going on; silent once nothing is left to stop."""
        check = self.run.job.recipe.check
        if not self.checks or self.trainer.updates >= self.trainer.last:
            return
        first, now = self.checks[0], self.checks[-1]
        if check.guards and now.vs_base:
            message = below_base(first.pass_at_1, now.pass_at_1, now.vs_base, self.best)
            if message:
                yield from self._end("guard", {"rule": "validation", "message": message})
                return
        if message := stops_early(self.checks, check.patience):
            yield from self._end("early", {"message": message})

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        """Write a checkpoint; of those before it only the adapters stay, and of unscheduled ones nothing."""
        if self.run.main:
            self.trainer.save(self.folder / f"step_{step}")
            for old in written(self.folder):
                if old < step:
                    checkpoint.shed(self.folder / f"step_{old}", keep_adapter=old in self.steps)
        self.run.meet()

    def _resume(self) -> Iterator[Event]:
        """Restore the last checkpoint that can be continued, and make the check that is still missing there."""
        self._read()
        at = next((s for s in reversed(written(self.folder)) if checkpoint.whole(self.folder / f"step_{s}")), None)
        if at is not None:
            self.trainer.restore(self.folder / f"step_{at}")
        self.checks = [c for c in self.checks if c.optimizer_step <= (at or 0)]
        done = {c.optimizer_step for c in self.checks}
        if at is None and 0 not in done:
            yield from self._check(0)
        elif at in self.steps and at not in done:
            yield from self._check(at)
        elif at:
            yield from self._rules()

    def _read(self) -> None:
        stored = self.run.read(CHECKS) or {"checks": []}
        self.checks = [Check.from_json(c) for c in stored["checks"]]


def written(folder: Path) -> list[int]:
    """Updates of which a checkpoint is there, ascending."""
    if not folder.is_dir():
        return []
    found = (_STEP.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(m.group(1)) for m in found if m)
