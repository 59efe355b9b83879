"""The student: a trainer whose loss is KL(teacher || student), and how near to the teacher it has come."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rmx.errors import TrainError
from rmx.recipes.distill_job import DistillRecipe, Tail
from rmx.recipes.recipe import LossConfig
from rmx.records import Rollout
from rmx.stats.intervals import Estimate, ratio_of_sums
from rmx.train.distill.teacher import TeacherCache, TeacherRows, topk_kl
from rmx.train.step.batches import Batch, make_batch
from rmx.train.step.head import LinearHead, products
from rmx.train.step.items import Item, cut
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.trainer import Trainer, Update

COMPLETIONS = LossConfig(kl_weight=1.0, kl_on="completion")  # a batch's rows are then the positions of completions


def student_rows(policy: LoraPolicy, batch: Batch, teacher: TeacherRows, tail: Tail) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) in nats (N,), with gradient where the caller has any, and the student's choices (N,).

    The caller has switched the adapter on or off. With a linear head no more than a chunk of logits is alive.
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


@dataclass(frozen=True, slots=True)
class DistillUpdate(Update):
    """An update towards the teacher; loss and agreement are those before the step, `tokens` those of completions."""

    NAMES = (
        "optimizer_step", "of", "epoch", "loss", "agreement", "grad_norm", "lr", "tokens", "decision_loss", "kl_loss",
        "delta_logp_pos_mean", "delta_logp_neg_mean",
    )  # fmt: skip

    agreement: float  # share of tokens whose likeliest token is the teacher's; `loss` is their mean KL in nats


def lessons(rollouts: Sequence[Rollout], max_seq_len: int) -> list[Item]:
    """Rollouts as training items that pull to neither side; those without a completion token are left out."""
    short = [cut(r, max_seq_len) for r in rollouts]
    kept = [r for r in short if r.completion_length > 0]
    return [Item(r, advantage=0.0, decisions=(), index=i, forks=0, pull=0.0) for i, r in enumerate(kept)]


class Distiller(Trainer):
    """Trains a policy towards a teacher's rows: the loss of an update is the mean KL over all tokens of its window."""

    def __init__(self, policy: LoraPolicy, items: Sequence[Item], cache: TeacherCache, recipe: DistillRecipe) -> None:
        if not items:
            raise TrainError("The teacher's solutions hold no tokens to learn from.")
        super().__init__(policy, items, recipe.training(len(items)))
        self.cache, self.tail = cache, recipe.tail

    def run(self) -> Iterator[DistillUpdate]:
        """Train from where it stands to the end; micro-batches are not told of."""
        while self.updates < self.last:
            now, kl, same = self._next_window(), 0.0, 0
            tokens = sum(item.rollout.completion_length for items in now.batches for item in items)
            for nth, items in enumerate(now.batches):
                found = self._backward(items, now.first_step + nth, tokens)
                kl, same = kl + found[0], same + found[1]
            yield DistillUpdate(**self._step(now), tokens=tokens, loss=kl / tokens, agreement=same / tokens)

    def _backward(self, items: Sequence[Item], step: int, tokens: int) -> tuple[float, int]:
        """Add a micro-batch's gradient; returns its summed KL and how many choices were the teacher's."""
        batch = make_batch(items, COMPLETIONS, self.policy.device)
        teacher = self.cache.get([item.rollout for item in items], self.policy.device)
        with self._seeded(step), self.policy.learning():
            kl, best = student_rows(self.policy, batch, teacher, self.tail)
            (kl.sum() / tokens).backward()
        return float(kl.detach().sum()), int((best == teacher.ids[:, 0]).sum())


@dataclass(frozen=True, slots=True)
class Agreement:
    """Student and teacher over rollouts that nothing was learned from; intervals bootstrapped over rollouts."""

    rollouts: int
    tokens: int
    agreement: Estimate  # share of tokens with the same likeliest token
    kl: Estimate  # nats a token, KL(teacher || student) with the teacher's tail in one bucket: a lower bound

    def json(self) -> dict[str, Any]:
        return asdict(self)


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
