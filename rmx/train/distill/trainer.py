"""The loop that pulls a LoRA towards a teacher, and how near it has come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rmx.errors import TrainError
from rmx.recipes.distill import DistillRecipe, Tail
from rmx.recipes.recipe import LossConfig
from rmx.records import Rollout
from rmx.stats.intervals import Estimate, ratio_of_sums
from rmx.train.distill.teacher import TeacherCache, TeacherRows, topk_kl
from rmx.train.step import checkpoint
from rmx.train.step.batches import Batch, make_batch
from rmx.train.step.head import LinearHead, products
from rmx.train.step.items import Item, Window, cut, lr_at, total_updates, window
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.trainer import BETAS, EPS

COMPLETIONS = LossConfig(kl_weight=1.0, kl_on="completion")  # a batch's rows are then the positions of completions


# -- the student at a batch's rows ------------------------------------------------------------------------------------


def student_rows(policy: LoraPolicy, batch: Batch, teacher: TeacherRows, tail: Tail) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) in nats (N,), with gradient where the caller has any, and the student's choices (N,).

    The caller has switched the adapter on or off. With a plainly linear head no more than a chunk of logits is alive.
    """
    if policy.head is not None:
        hidden = policy(batch.ids)[batch.row, batch.pred_pos].float()
        kl, best = _ChunkedKl.apply(hidden, policy.head, teacher, tail)
        return kl, best
    logits = policy.logits(batch.ids)[batch.row, batch.pred_pos].float()
    return topk_kl(logits, teacher, tail), logits.argmax(-1)


class _ChunkedKl(torch.autograd.Function):
    """A row's KL depends on that row's hidden state alone, so its gradient is made with it, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: LinearHead, teacher: TeacherRows, tail: Tail) -> tuple[Tensor, Tensor]:
        kl, best = hidden.new_empty(len(hidden)), torch.empty_like(teacher.ids[:, 0])
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for a in range(0, len(hidden), head.chunk_rows):
            at = slice(a, a + head.chunk_rows)
            rows = TeacherRows(teacher.ids[at], teacher.logp[at], teacher.rest[at])
            with torch.set_grad_enabled(grad is not None):
                part = hidden[at].detach().requires_grad_(grad is not None)
                with products(head):
                    logits = F.linear(part, head.weight, head.bias) * head.scale
                    found = topk_kl(logits, rows, tail)
                    if grad is not None:
                        (grad[at],) = torch.autograd.grad(found.sum(), part)
            kl[at], best[at] = found.detach(), logits.detach().argmax(-1)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(best)
        return kl, best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0][:, None], None, None, None


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DistillUpdate:
    """One optimizer step over a window of rollouts."""

    optimizer_step: int  # this one included
    of: int
    epoch: int  # 1-based
    loss: float  # nats a token, KL(teacher || student) before the step
    agreement: float  # share of tokens whose likeliest token is the teacher's, before the step
    grad_norm: float  # before clipping
    lr: float
    tokens: int

    def json(self) -> dict[str, Any]:
        """The update event: that of a training run, with nothing under what a distillation does not have."""
        unknown = dict.fromkeys(("decision_loss", "kl_loss", "delta_logp_pos_mean", "delta_logp_neg_mean"))
        return {name: getattr(self, name) for name in self.__slots__} | unknown


def lessons(rollouts: Sequence[Rollout], max_seq_len: int) -> list[Item]:
    """Rollouts as training items that pull to neither side; those without a completion token are left out."""
    short = [cut(r, max_seq_len) for r in rollouts]
    kept = [r for r in short if r.completion_length > 0]
    return [Item(r, advantage=0.0, decisions=(), index=i, forks=0, pull=0.0) for i, r in enumerate(kept)]


class Distiller:
    """Trains a policy towards a teacher's rows.

    Every random choice is a function of the recipe's seed and the place in the run, so a checkpoint needs no
    generator's state beside the number of updates made.

    Args:
        items: see `lessons`; their teacher's rows are in `cache`.
    """

    def __init__(self, policy: LoraPolicy, items: Sequence[Item], cache: TeacherCache, recipe: DistillRecipe) -> None:
        if not items:
            raise TrainError("The teacher's solutions hold no tokens to learn from.")
        self.policy, self.items, self.cache, self.recipe = policy, list(items), cache, recipe
        self.optim = recipe.optim(len(self.items))
        self.of = total_updates(len(self.items), self.optim)
        self.updates = 0  # made so far
        self.params = policy.trained()
        self.optimizer = torch.optim.AdamW(
            self.params.values(), lr=0.0, betas=BETAS, eps=EPS, weight_decay=recipe.weight_decay
        )

    def run(self) -> Iterator[DistillUpdate]:
        """Train from where it stands to the end; the loss of an update is the mean over all tokens of its window."""
        while self.updates < self.of:
            yield self._update(window(self.items, self.optim, self.recipe.seed, self.updates))

    def _update(self, now: Window) -> DistillUpdate:
        tokens = sum(item.rollout.completion_length for items in now.batches for item in items)
        self.optimizer.zero_grad()
        kl, same = 0.0, 0
        for nth, items in enumerate(now.batches):
            found = self._backward(items, now.first_step + nth, tokens)
            kl, same = kl + found[0], same + found[1]
        norm = torch.nn.utils.clip_grad_norm_(self.params.values(), self.optim.max_grad_norm)
        rate = lr_at(now.update, self.of, self.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.policy.changed()
        self.updates = now.update + 1
        return DistillUpdate(
            self.updates, self.of, now.epoch + 1, kl / tokens, same / tokens, float(norm), rate, tokens
        )

    def _backward(self, items: Sequence[Item], step: int, tokens: int) -> tuple[float, int]:
        """Add a micro-batch's gradient; returns its summed KL and how many choices were the teacher's."""
        batch = make_batch(items, COMPLETIONS, self.policy.device)
        teacher = self.cache.get([item.rollout for item in items], self.policy.device)
        with checkpoint.seeded(self.recipe.seed, step, self.policy.device), self.policy.learning():
            kl, best = student_rows(self.policy, batch, teacher, self.recipe.tail)
            (kl.sum() / tokens).backward()
        return float(kl.detach().sum()), int((best == teacher.ids[:, 0]).sum())

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the last finished update: all of it, or nothing."""
        checkpoint.save(folder, self.policy, self.optimizer, self._place())

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint exactly as an unbroken run would.

        Raises:
            TrainError: the checkpoint is missing, broken, or of another run.
        """
        place, mine = checkpoint.restore(folder, self.policy, self.optimizer), self._place()
        for name in ("seed", "items", "of"):
            if place.get(name) != mine[name]:
                raise TrainError(
                    f"The checkpoint {folder.name} belongs to another run: its {name} is {place.get(name)}, not "
                    f"{mine[name]}."
                )
        self.updates = int(place["update"])
        self.policy.changed()

    def _place(self) -> dict[str, Any]:
        return {"update": self.updates, "of": self.of, "items": len(self.items), "seed": self.recipe.seed}


# -- how near ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """Student and teacher over rollouts that nothing was learned from; intervals bootstrapped over rollouts."""

    rollouts: int
    tokens: int
    agreement: Estimate  # share of tokens with the same likeliest token
    kl: Estimate  # nats a token, KL(teacher || student) with the teacher's tail in one bucket: a lower bound

    def json(self) -> dict[str, Any]:
        return {"rollouts": self.rollouts, "tokens": self.tokens, "agreement": self.agreement, "kl": self.kl}


@torch.no_grad()
def agreement(policy: LoraPolicy, items: Sequence[Item], cache: TeacherCache, trained: bool) -> Agreement:
    """Read held-out rollouts one by one under the policy, or under the base where `trained` is False."""
    same, kl, tokens = list[float](), list[float](), list[float]()
    with policy.model.engine.using(NAME if trained else None):
        for item in items:
            batch = make_batch([item], COMPLETIONS, policy.device)
            teacher = cache.get([item.rollout], policy.device)
            found, best = student_rows(policy, batch, teacher, "bucket")
            same.append(float((best == teacher.ids[:, 0]).sum()))
            kl.append(float(found.sum()))
            tokens.append(float(len(teacher)))
    return Agreement(len(items), int(sum(tokens)), ratio_of_sums(same, tokens), ratio_of_sums(kl, tokens, counts=False))
