"""The last stages of a run: training with its checks and watched forks, and the adapter that comes of it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmx.engine.entropy import capture
from rmx.errors import Stopped
from rmx.models.load import Model
from rmx.records import Problem
from rmx.runs.recipe import Recipe
from rmx.train.adapter_folder import base_of, finish_adapter, provenance
from rmx.train.data_stages import Context, Event, StageProgress
from rmx.train.heldout import (
    Check,
    HeldOut,
    Solution,
    Solutions,
    below_base,
    best_of,
    kl_away,
    not_finite,
    solve,
    stops_early,
)
from rmx.train.step.items import total_updates, updates_per_epoch
from rmx.train.step.lora_policy import NAME, load_weights
from rmx.train.step.scoring import teacher_forced
from rmx.train.step.trainer import MicroStep, Trainer, Update, free_checkpoint, is_complete

# -- Forks watched while a run trains: at every checkpoint, what the policy would say there now -----------------------


SHOWN = 5  # tokens of a fork
WATCHED = 6  # forks where nothing is pinned
PER_PROBLEM = 2


@dataclass(frozen=True, slots=True)
class Fork:
    """A place in a completion, given by the ids before it; nothing is ever re-tokenised."""

    key: str
    prompt_ids: tuple[int, ...]
    before: tuple[int, ...]  # completion ids before the place
    said: int  # the token that stood there
    known: str | None = None  # the problem's known answer


class ForkReplay:
    """The watched forks of one run. The caller holds the turn of the model's engine in every call.

    The base's likeliest tokens are candidates for the whole run; the policy's own later ones are added behind them.
    """

    def __init__(self, model: Model, forks: Sequence[Fork]) -> None:
        self.model, self.forks = model, tuple(forks)
        self._candidates: list[list[int]] | None = None

    def event(self, optimizer_step: int, adapter: str | None) -> dict[str, Any]:
        """The figures of the replay event; `adapter` None is the base."""
        if not self.forks:
            return {"optimizer_step": optimizer_step, "forks": []}
        if self._candidates is None:
            self._candidates = capture(self._logits(None), SHOWN).top_ids.tolist()
        logits = self._logits(adapter)
        found, token_text = capture(logits, SHOWN), self.model.detokenizer.token_text
        forks = []
        for row, fork in enumerate(self.forks):
            ids = list(dict.fromkeys([*self._candidates[row], *found.top_ids[row].tolist()]))
            p = (logits[row, ids].float() - found.lse[row]).exp().tolist()
            top = [{"id": i, "text": token_text(i), "p": value} for i, value in zip(ids, p, strict=True)]
            before = self.model.detokenizer.text(fork.before)
            about = {"key": fork.key, "before": before, "said": token_text(fork.said), "known": fork.known}
            forks.append(about | {"entropy": float(found.entropy[row]), "top": top})
        return {"optimizer_step": optimizer_step, "forks": forks}

    def _logits(self, adapter: str | None) -> Tensor:
        """(forks, V) of the token that each fork decides."""
        engine = self.model.engine
        with engine.using(adapter):
            texts = [[*fork.prompt_ids, *fork.before] for fork in self.forks]
            return torch.stack([engine.open(ids, adapter=adapter, reuse=False).logits for ids in texts])


def default_forks(model: Model, problems: Sequence[Problem], solutions: Sequence[Solution]) -> list[Fork]:
    """The places of highest entropy in the base's solutions of some problems. The caller holds the engine's turn."""
    forks: list[Fork] = []
    for problem, one in zip(problems, solutions, strict=False):
        if len(forks) < WATCHED and one.ids:
            prompt = model.prompt_ids(problem.problem)
            entropies = teacher_forced(model, [*prompt, *one.ids], len(prompt))
            places = entropies.topk(min(PER_PROBLEM, WATCHED - len(forks), len(entropies))).indices.tolist()
            forks += [
                Fork(f"{one.id}@{at}", prompt, one.ids[:at], one.ids[at], problem.answer) for at in sorted(places)
            ]
    return forks


def watch_forks(run: Context, held_out: HeldOut | None) -> ForkReplay:
    """Watch the pinned forks, else the most open ones in the base's solutions of the first validation problems."""
    forks = [
        Fork(f"pin {n}", tuple(pin["prompt_ids"]), tuple(pin["before"]), pin["said"], pin.get("known"))
        for n, pin in enumerate(run.job.pins, 1)
    ]
    if not forks and held_out is not None:  # of several processes all solve, although one replays
        forks = default_forks(run.model, held_out.problems[:WATCHED], held_out.base.each)
    return ForkReplay(run.model, forks)


# -- Training ---------------------------------------------------------------------------------------------------------


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

    Without `held_out` no rule ends the run but a loss that is not finite. `stop` is asked between updates; of several
    processes all get the same answer, make the checks together, and the first writes the files.
    """

    run: Context
    trainer: Trainer
    held_out: HeldOut | None
    stop: Callable[[], bool]
    replay: ForkReplay | None = None
    checks: list[Check] = field(default_factory=list)
    kl_losses: list[float] = field(default_factory=list)
    ended: Event | None = None  # the rule that ended it before its last update

    def __post_init__(self) -> None:
        self.folder: Path = self.run.folder / CHECKPOINTS
        self.per_epoch = updates_per_epoch(len(self.trainer.items), self.trainer.recipe.optim)
        self.saved = set(checkpoint_steps(len(self.trainer.items), self.trainer.recipe))
        self.checked, self.kept = {0, *self.saved}, self.saved  # updates; `kept`: those whose adapters stay

    @property
    def best(self) -> str | None:
        """Name of the best checkpoint so far."""
        found = best_of(self.checks)
        return f"step_{found['optimizer_step']}" if found else None

    def events(self) -> Iterator[Event]:
        """Train to the end, or to the rule that strikes, or to Stopped, with the last update in a checkpoint."""
        yield from self._resume()
        progress = StageProgress("training", self.trainer.last, self.trainer.updates)
        yield progress.event()
        steps = iter(()) if self.ended else self.trainer.run()
        for step in steps:
            if isinstance(step, MicroStep):
                yield "micro", step.json()
                continue
            progress.at = step.optimizer_step
            yield "update", step.json() | {"left": progress.left}
            if progress.due():
                yield progress.event()
            yield from self._after(step)
            if self.ended:
                break
        yield progress.event()

    def _after(self, step: Update) -> Iterator[Event]:
        if struck := self._guard(step):
            self.ended = struck
            yield struck
            return
        stopped = self.stop()
        if stopped or step.optimizer_step in self.saved:
            self._save(step.optimizer_step)
        if stopped:
            raise Stopped
        if step.optimizer_step in self.checked:
            yield from self._check(step.optimizer_step)

    def _guard(self, step: Update) -> Event | None:
        if message := not_finite(step.loss, step.grad_norm, step.optimizer_step, self.best):
            return "guard", {"rule": "finite", "message": message}
        check = self.run.job.recipe.check
        if step.kl_loss is not None:
            self.kl_losses.append(step.kl_loss)
        if check.guards and self.held_out and (message := kl_away(self.kl_losses, check.kl_limit, self.best)):
            return "guard", {"rule": "kl", "message": message}
        return None

    def _check(self, step: int) -> Iterator[Event]:
        """Measure the policy as it is; a check that a stop broke off does not count."""
        if self.replay and self.run.main:
            yield "replay", self.replay.event(step, NAME if step else None)
        yield from self._held_out_check(step)
        if step:
            yield from self._rules()

    def _held_out_check(self, step: int) -> Iterator[Event]:
        if self.held_out is None:
            return
        found = self.held_out.check(step, step / self.per_epoch)
        self._keep(found)
        name = f"step_{step}" if step else None
        yield "check", found | {"checkpoint": name, "best": name is not None and name == self.best}
        yield "samples", self.held_out.samples(step)

    def _keep(self, check: Check) -> None:
        self.run.check_stop()
        self.checks.append(check)
        if self.run.main:
            self.run.write(CHECKS, {"checks": self.checks})

    def _rules(self) -> Iterator[Event]:
        """What the checks so far say of going on; silent once nothing is left to stop."""
        check, checks = self.run.job.recipe.check, self.checks
        if not checks or self.trainer.updates >= self.trainer.last:
            return
        first, now = checks[0]["pass@1"], checks[-1]["pass@1"]
        vs_base = checks[-1]["vs_base"] if check.guards else None
        if vs_base and (message := below_base(first, now, vs_base, self.best)):
            self.ended = "guard", {"rule": "validation", "message": message}
        elif message := stops_early(checks, check.patience):
            self.ended = "early", {"message": message}
        if self.ended:
            yield self.ended

    def _save(self, step: int) -> None:
        """Write a checkpoint; of those before it only the adapters stay, and of unscheduled ones nothing."""
        if self.run.main:
            self.trainer.save(self.folder / f"step_{step}")
            for old in written(self.folder):
                if old < step:
                    free_checkpoint(self.folder / f"step_{old}", keep_adapter=old in self.kept)
        self.run.meet()

    def _resume(self) -> Iterator[Event]:
        """Restore the last checkpoint that can be continued, and make the check that is still missing there."""
        at = next((s for s in reversed(written(self.folder)) if is_complete(self.folder / f"step_{s}")), 0)
        if at:
            self.trainer.restore(self.folder / f"step_{at}")
        stored = self.run.read(CHECKS) or {"checks": []}
        self.checks = [check for check in stored["checks"] if check["optimizer_step"] <= at]
        if at in self.checked and at not in {check["optimizer_step"] for check in self.checks}:
            yield from self._check(at)
        elif at:
            yield from self._rules()


def written(folder: Path) -> list[int]:
    """Updates of which a checkpoint is there, ascending."""
    found = (_STEP.fullmatch(path.name) for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(m.group(1)) for m in found if m)


# -- The best checkpoint, solved against the base on test problems once, becomes the adapter --------------------------


EVALUATION, ADAPTER = "evaluation.json", "adapter"


def final_stage(run: Context, training: TrainingLoop) -> Iterator[Event]:
    """Load the best checkpoint, which no test problem has decided, and measure it; yields progress only."""
    name = chosen(training)
    if name is None:
        return
    load_weights(training.trainer.policy.network, training.folder / name)
    training.trainer.policy.changed()
    problems = run.problems.test
    stored = run.read(EVALUATION)
    if not problems or (stored and stored["checkpoint"] == name):
        return
    progress = StageProgress("final", 2 * len(problems))
    yield progress.event()
    before = solved(run, problems, None)
    progress.at = len(problems)
    yield progress.event()
    after = solved(run, problems, NAME)
    if run.main:
        run.write(EVALUATION, evaluation(name, problems, before, after))
    progress.at = progress.of
    yield progress.event()


def solved(run: Context, problems: list[Problem], adapter: str | None) -> Solutions:
    """Greedy solutions of the base or of an adapter; Stopped where a stop was asked for meanwhile."""
    with run.model.engine.queue.turn():
        max_new = run.job.recipe.rollouts.max_new_tokens
        found = solve(run.model, problems, adapter, max_new, team=run.team, cancelled=run.stop, solved=run.checking)
    run.check_stop()
    return found


def evaluation(name: str, problems: list[Problem], before: Solutions, after: Solutions) -> dict[str, Any]:
    """What `evaluation.json` holds: greedy pass@1 on the test problems, before and after, with every solution."""
    return {
        "checkpoint": name, "set": problems[0].set, "split": problems[0].split, "before": before.pass_at_1,
        "after": after.pass_at_1, "vs_base": after.against(before),
        "truncated": {"before": before.truncated, "after": after.truncated},
        "unparsed": {"before": before.unparsed, "after": after.unparsed},
        "problems": {"before": before.json(), "after": after.json()},
    }  # fmt: skip


def chosen(training: TrainingLoop) -> str | None:
    """Name of the checkpoint that becomes the adapter; None where there is none."""
    there = written(training.folder)
    return training.best or (f"step_{there[-1]}" if there else None)


def finish(
    run: Context, training: TrainingLoop, config: Mapping[str, Any], events: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write the adapter with its card; returns what is told of it when the run is done."""
    name = chosen(training)
    found = run.read(EVALUATION) or {}
    done = {
        "updates": training.trainer.updates, "adapter": ADAPTER if name else None, "best": name,
        "split": found.get("split"), **{key: found.get(key) for key in ("before", "after", "vs_base")},
    }  # fmt: skip
    if name:
        story = provenance(config, events, base_of(run.model), done | {"seconds": run.took})
        finish_adapter(run.folder / ADAPTER, story, training.folder / name)
    return done
