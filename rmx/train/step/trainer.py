"""The training loop: windows of micro-batches, one update each, yielded as they happen; checkpoints, exact resuming.

Checkpoint folders hold the adapter in PEFT's format, the optimizer's moments and the place in the run: all or nothing.
"""

import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmx.errors import TrainError, first_line
from rmx.runs.recipe import Recipe
from rmx.train.step.items import Item, Window, lr_at, total_updates, window
from rmx.train.step.lora_policy import LoraPolicy, load_weights
from rmx.train.step.loss import objective
from rmx.train.step.processes import Team, add_up, collected, dealt
from rmx.train.step.scoring import BaseFigures, Batch, make_batch, mass, read_rows

log = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"
OPTIMIZER, PLACE = "optimizer.safetensors", "place.json"


def save_checkpoint(folder: Path, policy: LoraPolicy, optimizer: torch.optim.Optimizer, place: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, force it to disk, and give it its name in one move."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        work.chmod(0o755)
        policy.save_adapter(work)
        moments = {
            f"{name}/{kind}": value.detach().cpu().contiguous()
            for name, p in policy.trained().items()
            for kind, value in optimizer.state.get(p, {}).items()
        }
        save_file(moments, work / OPTIMIZER)
        (work / PLACE).write_text(json.dumps(place) + "\n", encoding="utf-8")
        for path in (*work.iterdir(), work):
            _sync(path)
        _move(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def restore_checkpoint(folder: Path, policy: LoraPolicy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint; returns the place that was saved with it."""
    try:
        place: dict[str, Any] = json.loads((folder / PLACE).read_text(encoding="utf-8"))
        moments = load_file(folder / OPTIMIZER)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainError(f"The checkpoint {folder.name} cannot be read: {first_line(error)}") from error
    load_weights(policy.network, folder)
    policy.changed()
    params = policy.trained()
    if moments and {key.rpartition("/")[0] for key in moments} != set(params):
        raise TrainError(f"The checkpoint {folder.name} belongs to another adapter.")
    optimizer.state.clear()
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        optimizer.state[params[name]][kind] = value if kind == "step" else value.to(policy.device)
    return place


def is_complete(folder: Path) -> bool:
    """Whether a run can go on from this checkpoint: adapter, optimizer and place are there, and not cut short."""
    try:
        for weights in (folder / WEIGHTS, folder / OPTIMIZER):
            with safe_open(weights, framework="pt"):  # compares the file's length with what its header names
                pass
        return isinstance(json.loads((folder / PLACE).read_text(encoding="utf-8")), dict)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        log.warning("The checkpoint %s is damaged (%s); the run goes on from before it.", folder.name, error)
        return False


def free_checkpoint(folder: Path, keep_adapter: bool) -> None:
    """Free what only a restart needs; without `keep_adapter` the whole folder."""
    if keep_adapter:
        (folder / PLACE).unlink(missing_ok=True)
        (folder / OPTIMIZER).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(work: Path, folder: Path) -> None:
    """Rename onto the final name; one that is there already, from before an interruption, makes way first."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        folder.rename(old / folder.name)
        work.rename(folder)
        shutil.rmtree(old)
    else:
        work.rename(folder)
    _sync(folder.parent)


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draws inside depend on seed and step alone; the generators outside stay as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) % 2**64)
        yield


# -- The training loop ------------------------------------------------------------------------------------------------


BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True, slots=True)
class MicroStep:
    """One micro-batch: figures before its update, `lr` and `optimizer_step` after it; means over no token are 0."""

    step: int  # micro-batches so far, this one included
    optimizer_step: int  # updates so far
    epoch: int  # 1-based
    loss: float
    decision_loss: float
    kl_loss: float  # nats
    decision_tokens: int
    pos_decision_tokens: int
    neg_decision_tokens: int
    nondecision_tokens: int  # positions of the anchor
    valid_tokens: int  # positions that predict a token
    ce_pos_mean: float  # nats
    ce_neg_mean: float
    delta_logp_pos_mean: float  # nats, policy minus base
    delta_logp_neg_mean: float
    neg_pos_pressure_ratio: float  # summed absolute terms of wrong rollouts over those of right ones
    pos_pressure: float
    neg_pressure: float
    lr: float

    def json(self) -> dict[str, Any]:
        """The line of `rmx train --json`."""
        return {name: value for name, value in asdict(self).items() if name not in ("pos_pressure", "neg_pressure")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One optimizer step over a window. Means over nothing are None, and so is what only the other loss has."""

    optimizer_step: int  # this one included
    of: int
    epoch: int  # 1-based
    loss: float  # of a distillation the mean KL of its tokens, in nats
    decision_loss: float | None = None
    kl_loss: float | None = None  # nats
    delta_logp_pos_mean: float | None = None  # nats
    delta_logp_neg_mean: float | None = None
    agreement: float | None = None  # share of tokens whose likeliest token is the teacher's, before the step
    grad_norm: float  # before clipping
    lr: float  # that it was made with
    tokens: int  # positions that predict one; of a distillation tokens of completions

    def json(self) -> dict[str, Any]:
        """The update event; `agreement` of a distillation only."""
        return {name: value for name, value in asdict(self).items() if name != "agreement" or value is not None}


class Trainer:
    """Trains a policy on items by a recipe; a distillation is the same with another loss (train/distillation.py).

    Every random choice is a function of the recipe's seed and the place in the run, so a checkpoint needs no state of
    generators. Of a team the micro-batches of a window are dealt to the processes in turn, gradients are summed at its
    end, and every process yields the same records. What `figures` lacks of the base costs passes of it.
    """

    def __init__(
        self,
        policy: LoraPolicy,
        items: Sequence[Item],
        recipe: Recipe,
        *,
        team: Team | None = None,
        figures: BaseFigures | None = None,
    ) -> None:
        if not items:
            raise TrainError("There are no rollouts to train on.")
        self.policy, self.items, self.recipe, self.team = policy, list(items), recipe, team
        self.figures = BaseFigures() if figures is None else figures
        self.of = total_updates(len(self.items), recipe.optim)
        self.updates = 0  # made so far
        self.params = policy.trained()
        self.optimizer = torch.optim.AdamW(
            self.params.values(), lr=0.0, betas=BETAS, eps=EPS, weight_decay=recipe.optim.weight_decay
        )

    @property
    def last(self) -> int:
        """The update after which the run ends."""
        return min(self.of, self.recipe.optim.max_steps or self.of)

    def run(self) -> Iterator[MicroStep | Update]:
        """Train from where it stands to the end. A window's last micro-batch is yielded before its update is made."""
        while self.updates < self.last:
            now, steps = self._next_window(), list[MicroStep]()
            made: Iterator[MicroStep] = (self._micro_step(now, nth) for nth in dealt(len(now.batches), self.team))
            if self.team is not None:  # all at once, when everybody is through with the window
                made = iter(collected(list(made), lambda step: step.step, self.team))
            for step in made:
                steps.append(step)
                yield step
            add_up(self.params.values(), self.team)
            tokens = sum(s.valid_tokens for s in steps)
            yield Update(**self._step(now), tokens=tokens, **self._means(steps))

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the last finished update, all of it or nothing; one of several processes does."""
        save_checkpoint(folder, self.policy, self.optimizer, self._place())

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint exactly as an unbroken run would."""
        place = restore_checkpoint(folder, self.policy, self.optimizer)
        mine = self._place()
        for name in ("seed", "items", "of"):
            if place.get(name) != mine[name]:
                difference = f"its {name} is {place.get(name)}, not {mine[name]}"
                raise TrainError(f"The checkpoint {folder.name} belongs to another run: {difference}.")
        self.updates = int(place["update"])

    def _place(self) -> dict[str, Any]:
        return {"update": self.updates, "of": self.of, "items": len(self.items), "seed": self.recipe.seed}

    def _next_window(self) -> Window:
        for p in self.params.values():
            p.grad = torch.zeros_like(p)
        return window(self.items, self.recipe.optim, self.recipe.seed, self.updates)

    def _step(self, now: Window) -> dict[str, Any]:
        """Make the update that a window's gradients ask for; returns what every kind of update says of it."""
        optim = self.recipe.optim
        norm: Tensor = torch.nn.utils.clip_grad_norm_(self.params.values(), optim.max_grad_norm)
        rate = lr_at(now.update, self.of, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.policy.changed()
        self.updates = now.update + 1
        place = {"optimizer_step": self.updates, "of": self.of, "epoch": now.epoch + 1}
        return place | {"grad_norm": float(norm), "lr": rate}

    def _micro_step(self, now: Window, nth: int) -> MicroStep:
        loss_config, optim, items = self.recipe.loss, self.recipe.optim, now.batches[nth]
        batch = make_batch(items, loss_config, self.policy.device)
        masses = mass(items, loss_config)
        decision, anchor, seen = 0.0, 0.0, torch.zeros(4, 2)
        if len(batch.row):
            decision, anchor, seen = self._add_gradient(now, nth, batch)
        decision_loss, kl_loss = decision / (masses[0] or 1.0), anchor / (masses[1] or 1.0)
        done = now.update + (nth + 1 == len(now.batches))
        return MicroStep(
            step=now.first_step + nth + 1, optimizer_step=done, epoch=now.epoch + 1,
            loss=decision_loss + loss_config.kl_weight * kl_loss, decision_loss=decision_loss, kl_loss=kl_loss,
            nondecision_tokens=batch.anchors, valid_tokens=batch.valid, lr=lr_at(done, self.of, optim), **_seen(seen),
        )  # fmt: skip

    def _add_gradient(self, now: Window, nth: int, batch: Batch) -> tuple[float, float, Tensor]:
        """Forward and backward; returns the sums of the two terms, and those of the log."""
        loss_config = self.recipe.loss
        with seeded(self.recipe.seed, now.first_step + nth, self.policy.device), self.policy.learning():
            rows = read_rows(self.policy, batch, self.figures)
            sums, seen = objective(rows, batch.pull, batch.weight, batch.decision, loss_config)
            if loss_config.normalisation == "token":
                decisions, anchors = map(sum, zip(*(mass(items, loss_config) for items in now.batches), strict=True))
                share = sums.loss(decisions, anchors, loss_config.kl_weight)
            else:
                share = sums.loss(*mass(batch.items, loss_config), loss_config.kl_weight) / self.recipe.optim.grad_accum
            share.backward()
        decision, anchor = torch.stack((sums.decision, sums.anchor)).detach().tolist()
        return decision, anchor, seen

    def _means(self, steps: Sequence[MicroStep]) -> dict[str, Any]:
        """Means of a window: of its micro-batches, or of its tokens where that is what is minimised."""
        names = "loss", "decision_loss", "kl_loss"
        means: dict[str, float | None] = {n: math.fsum(getattr(s, n) for s in steps) / len(steps) for n in names}
        for sign in ("pos", "neg"):
            counts = [getattr(s, f"{sign}_decision_tokens") for s in steps]
            total = math.fsum(c * getattr(s, f"delta_logp_{sign}_mean") for c, s in zip(counts, steps, strict=True))
            means[f"delta_logp_{sign}_mean"] = total / sum(counts) if sum(counts) else None
        return means


def _seen(seen: Tensor) -> dict[str, Any]:
    (ce_pos, ce_neg), (delta_pos, delta_neg), (push_pos, push_neg), (pos, neg) = seen.tolist()
    return {
        "decision_tokens": int(pos + neg), "pos_decision_tokens": int(pos), "neg_decision_tokens": int(neg),
        "ce_pos_mean": ce_pos / (pos or 1), "ce_neg_mean": ce_neg / (neg or 1),
        "delta_logp_pos_mean": delta_pos / (pos or 1), "delta_logp_neg_mean": delta_neg / (neg or 1),
        "neg_pos_pressure_ratio": push_neg / push_pos if push_pos > 0 else 0.0,
        "pos_pressure": push_pos, "neg_pressure": push_neg,
    }  # fmt: skip
