"""KL-LoRA distillation: a teacher's own solutions, its likeliest tokens kept, and a LoRA on the base that follows them.

rollouts -> teacher -> training: a training run with another loss and without a gate, which can be resumed like one.

    rollouts.jsonl  heldout_rollouts.jsonl  teacher/  teacher.json  checkpoints/step_N/  checks.json  evaluation.json
    adapter/

Source: arXiv 2605.06241, section 4.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from rmx.engine.token_draws import prompt_key
from rmx.errors import TrainError
from rmx.models.adapters import add_adapter
from rmx.models.load import Model, load
from rmx.models.model_pair import ask_alike
from rmx.models.names import names_adapter
from rmx.records import Rollout
from rmx.runs.job import DistillJob
from rmx.runs.recipe import DistillRecipe, LossConfig, Tail
from rmx.stats.intervals import ratio_of_sums, share
from rmx.train.adapter_folder import PassRates, Provenance, base_of, finish_adapter, set_label, spec_label
from rmx.train.data_stages import ROLLOUTS, Draw, Event, Gated, StageProgress, sample
from rmx.train.heldout import HeldOut, Solutions
from rmx.train.pipeline import STYLE, Pipeline
from rmx.train.rollouts import read_rollouts
from rmx.train.step.items import Item, cut
from rmx.train.step.lora_policy import NAME, LoraPolicy
from rmx.train.step.loss import LinearHead, products
from rmx.train.step.scoring import BaseFigures, Batch, make_batch
from rmx.train.step.trainer import Trainer, Update, seeded
from rmx.train.training_stage import ADAPTER, EVALUATION, TrainingLoop, chosen, solved


class TeacherRows(NamedTuple):
    """What is kept of a teacher's distributions at N positions."""

    ids: Tensor  # (N, K) int64, likeliest first
    logp: Tensor  # (N, K) natural log of their probabilities, over the whole vocabulary
    rest: Tensor  # (N,) natural log of the probability of all other tokens; -inf where there are none


def teacher_rows(logits: Tensor, k: int) -> TeacherRows:
    """The k likeliest tokens of each row."""
    logp = logits.float().log_softmax(-1)
    top, ids = logp.topk(min(k, logp.shape[-1]), dim=-1)
    return TeacherRows(ids, top, _outside(logp, ids))


def topk_kl(logits: Tensor, teacher: TeacherRows, tail: Tail) -> Tensor:
    """KL(teacher || student) in nats (N,), from logits (N, V) of the student; `tail` says what the other tokens count.

    Source: arXiv 2605.06241, section 4; what becomes of the tail is ours.
    """
    logp = logits.log_softmax(-1)
    ours = logp.gather(-1, teacher.ids)
    if tail == "renormalise":
        kept = teacher.logp - teacher.logp.logsumexp(-1, keepdim=True)
        return _kl(kept, ours)
    inside = _kl(teacher.logp, ours)
    if teacher.ids.shape[-1] == logits.shape[-1]:
        return inside
    return inside + _kl(teacher.rest[:, None], _outside(logp, teacher.ids)[:, None])


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """(N, K) log-probabilities -> (N,) sum of p (ln p - ln q); an outcome that the teacher excludes adds nothing."""
    p = teacher.exp()
    return torch.where(p > 0, p * (teacher - student), 0.0).sum(-1)


def _outside(logp: Tensor, ids: Tensor) -> Tensor:
    """(N,) log of the probability outside of `ids`, summed over those tokens: 1 - others would lose small digits."""
    return logp.scatter(-1, ids, -torch.inf).logsumexp(-1)


@dataclass(frozen=True, slots=True)
class Teacher:
    """Whom to learn from: the base's own weights under an adapter, or a checkpoint."""

    model: Model
    adapter: str | None  # a key of `Engine.using`
    vocab: int  # tokens that teacher and student both know

    @torch.inference_mode()
    def read(self, rollout: Rollout, k: int) -> TeacherRows:
        """Its k likeliest tokens at each position of a rollout's completion. The caller holds the engine's turn."""
        ids, start = rollout.input_ids[:-1], rollout.prompt_length - 1  # the last token decides nothing
        parts = self.model.read(ids, start, lambda logits: teacher_rows(logits[:, : self.vocab], k), self.adapter)
        return joined(parts)


def joined(parts: Sequence[TeacherRows]) -> TeacherRows:
    """Rows one after the other."""
    return TeacherRows(*map(torch.cat, zip(*parts, strict=True)))


class TeacherCache:
    """The rows of many rollouts, by their ids, in a folder. A file is there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, rollout: Rollout) -> bool:
        return self._path(rollout).is_file()

    def put(self, rollout: Rollout, rows: TeacherRows) -> None:
        """Keep the rows of a rollout."""
        path = self._path(rollout)
        part = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {"ids": rows.ids.int().cpu(), "logp": rows.logp.cpu(), "rest": rows.rest.cpu()}
            save_file({name: t.contiguous() for name, t in tensors.items()}, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            said = f"The teacher's figures cannot be written ({error.strerror})."
            raise TrainError(f"{said} Make room and resume the run.") from error

    def get(self, rollouts: Sequence[Rollout], device: torch.device) -> TeacherRows:
        """The rows of some rollouts, one after the other."""
        rows = joined([self._read(rollout) for rollout in rollouts])
        return TeacherRows(*(column.to(device) for column in rows))

    def _read(self, rollout: Rollout) -> TeacherRows:
        path = self._path(rollout)
        try:
            held = load_file(path)
            rows = TeacherRows(held["ids"].long(), held["logp"], held["rest"])
        except (OSError, KeyError, SafetensorError) as error:
            raise TrainError(f"The teacher's figures in {path.name} cannot be read. Remove the file.") from error
        if len(rows.rest) != rollout.completion_length:
            raise TrainError(f"The teacher's figures in {path.name} belong to other tokens. Remove the file.")
        return rows

    def _path(self, rollout: Rollout) -> Path:
        return self.folder / f"{prompt_key(rollout.input_ids).hex()}.safetensors"


# -- The student ------------------------------------------------------------------------------------------------------


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
            rows = TeacherRows(*(column[at] for column in teacher))
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

    def run(self) -> Iterator[Update]:
        """Train from where it stands to the end; micro-batches are not told of."""
        while self.updates < self.last:
            now, kl, same = self._next_window(), 0.0, 0
            tokens = sum(item.rollout.completion_length for items in now.batches for item in items)
            for nth, items in enumerate(now.batches):
                found = self._backward(items, now.first_step + nth, tokens)
                kl, same = kl + found[0], same + found[1]
            yield Update(**self._step(now), tokens=tokens, loss=kl / tokens, agreement=same / tokens)

    def _backward(self, items: Sequence[Item], step: int, tokens: int) -> tuple[float, int]:
        """Add a micro-batch's gradient; returns its summed KL and how many choices were the teacher's."""
        batch = make_batch(items, COMPLETIONS, self.policy.device)
        teacher = self.cache.get([item.rollout for item in items], self.policy.device)
        with seeded(self.recipe.seed, step, self.policy.device), self.policy.learning():
            kl, best = student_rows(self.policy, batch, teacher, self.tail)
            (kl.sum() / tokens).backward()
        return float(kl.detach().sum()), int((best == teacher.ids[:, 0]).sum())


@torch.no_grad()
def agreement(policy: LoraPolicy, items: Sequence[Item], cache: TeacherCache, trained: bool) -> dict[str, Any]:
    """Compare student and teacher over rollouts that nothing was learned from, read one by one.

    Args:
        trained: under the policy; False under the base.

    Returns:
        `rollouts` and `tokens`; `agreement`, the share of tokens with the same likeliest token; `kl`, nats a token,
        KL(teacher || student) with the teacher's tail in one bucket: a lower bound. Bootstrapped over rollouts.
    """
    same, kl, tokens = list[float](), list[float](), list[float]()
    with policy.model.engine.using(NAME if trained else None):
        for item in items:
            batch = make_batch([item], COMPLETIONS, policy.device)
            teacher = cache.get([item.rollout], policy.device)
            found, best = student_rows(policy, batch, teacher, "bucket")
            same.append(float((best == teacher.ids[:, 0]).sum()))
            kl.append(float(found.sum()))
            tokens.append(float(len(found)))
    share_same, nats = ratio_of_sums(same, tokens), ratio_of_sums(kl, tokens, counts=False)
    return {"rollouts": len(items), "tokens": int(sum(tokens)), "agreement": share_same, "kl": nats}


# -- KL-LoRA distillation ---------------------------------------------------------------------------------------------


HELD_OUT, CACHE, TEACHER = "heldout_rollouts.jsonl", "teacher", "teacher.json"
OF_TEACHER = ("teacher", "vs_teacher", "teacher_vs_base", "gap_closed")  # the last two are not in runs of 0.1.0
SAVES = 4  # checkpoints an epoch


class Distillation(Pipeline):
    """One run; `teacher` is a loaded checkpoint, the other arguments are those of a Pipeline."""

    def __init__(
        self, job: DistillJob, folder: Path, config: Mapping[str, Any], teacher: Model | None = None, **about: Any
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainError("A distillation runs in one process. Start it by rmx distill, without accelerate launch.")
        super().__init__(job.training(), folder, config, figures=BaseFigures(0), **about)
        self.job, self.base, problems = job, self.run.model, self.run.problems
        self.held_problems = problems.validation[: job.recipe.heldout]  # whose solutions are only compared with
        self.run.teacher = job.teacher_name
        self.run.problems = replace(problems, validation=problems.validation[: job.recipe.validation])
        self.cache = TeacherCache(folder / CACHE)
        self._checkpoint = teacher

    def events(self) -> Iterator[Event]:
        """All stages, in order; ends with Stopped where it was asked to stop."""
        self.run.write(STYLE, self.base.style.json())
        if self.run.read(TEACHER) is None:
            yield from self._learn_the_teacher()
        policy = self.policy()
        if policy.products is not None:
            yield "head", policy.products.json()
        training = DistillLoop(
            self.run, trainer=Distiller(policy, self.items(ROLLOUTS), self.cache, self.job.recipe),
            held_out=self.held_out(policy, Gated(None, [])), stop=self.run.stop, held_items=self.items(HELD_OUT),
            teacher=Solutions.from_json((self.run.read(TEACHER) or {"solutions": []})["solutions"]),
        )  # fmt: skip
        with self.timed("training"):
            yield from training.events()
        yield self._finished(training)

    def _learn_the_teacher(self) -> Iterator[Event]:
        """Its solutions, and its likeliest tokens over them; afterwards a checkpoint's memory is free again."""
        teacher, recipe = self.teacher(), self.job.recipe
        run = replace(self.run, model=teacher.model, adapter=teacher.adapter)
        learned = Draw(ROLLOUTS, run.problems.train, recipe.rollouts, recipe.seed)
        held_out = Draw(HELD_OUT, self.held_problems, replace(recipe.rollouts, k=1), recipe.seed, told=False)
        with self.timed("rollouts"):
            yield from sample(run, (learned, held_out))
        items = [*self.items(ROLLOUTS), *self.items(HELD_OUT)]
        progress = StageProgress("teacher", len(items))
        with self.timed("teacher"):
            yield progress.event()
            with teacher.model.engine.queue.turn():
                for item in items:
                    self.run.check_stop()
                    if item.rollout not in self.cache:
                        self.cache.put(item.rollout, teacher.read(item.rollout, recipe.top_k))
                    yield from progress.advance()
            yield progress.event()
            found = solved(run, run.problems.validation, teacher.adapter)
            run.write(TEACHER, {"solutions": found.json()})
        self._checkpoint = None

    def teacher(self) -> Teacher:
        """Whom to learn from; asked in the base's way, as the student will be."""
        if self.job.adapter or names_adapter(self.base.spec, self.job.teacher_name):
            with self.base.engine.queue.turn():
                name = add_adapter(self.base, self.job.teacher_name)
            return Teacher(self.base, name, self.base.engine.vocab_size)
        found = self._checkpoint or load(self.job.teacher or "", self.job.device, self.job.dtype)
        common = min(self.base.engine.vocab_size, found.engine.vocab_size)
        return Teacher(ask_alike(found, self.base), None, common)

    def rollouts(self, name: str) -> list[Rollout]:
        """The solutions in a file, in the order of the problems, however they came to be finished."""
        path, problems = self.run.folder / name, (*self.run.problems.train, *self.held_problems)
        place = {p.id: i for i, p in enumerate(problems)}
        found = read_rollouts(path) if path.exists() else []
        return sorted(found, key=lambda r: (place[r.problem_id], r.gen_index))

    def items(self, name: str) -> list[Item]:
        """The solutions in a file as they are learned from."""
        return lessons(self.rollouts(name), self.job.recipe.max_seq_len)

    def _finished(self, training: "DistillLoop") -> Event:
        found = self.run.read(EVALUATION) or {}
        figures = {key: found.get(key) for key in ("before", "after", "vs_base", *OF_TEACHER)}
        rollouts, job, products = self.rollouts(ROLLOUTS), self.job, training.trainer.policy.products
        tokens, checked = sum(r.completion_length for r in rollouts), figures["after"] is not None
        held = PassRates("validation", found.get("before", {}), found.get("after", {}), figures["vs_base"])
        story = Provenance(
            kind="distill", run=self.config.get("id", ""), base=base_of(self.base),
            recipe=job.recipe.flat() | {"alpha": job.recipe.adapter.alpha}, departures=job.recipe.departures(),
            set=set_label(job.set_name), teacher=spec_label(job.teacher_name),
            teacher_figures={key: value for key in OF_TEACHER if (value := figures[key])} if checked else None,
            head=products.json() if products else None, checks=(held,) if checked else (),
            agreement=training.nearness(), updates=training.trainer.updates, seconds=self.run.took,
            versions=self.config.get("versions") or {},
            data={"rollouts": len(rollouts), "tokens": tokens, "right": sum(r.correct for r in rollouts)},
        )  # fmt: skip
        finish_adapter(self.run.folder / ADAPTER, story, training.folder / str(chosen(training)))
        about = {"updates": training.trainer.updates, "tokens": tokens, "adapter": ADAPTER, "best": None}
        return self.done(about | {"split": "validation", **figures, "agreement": story.agreement})


@dataclass(kw_only=True)
class DistillLoop(TrainingLoop):
    """The loop around a distiller: no rule ends it, and after each epoch it measures how near the student has come."""

    trainer: Distiller
    held_items: list[Item]
    teacher: Solutions

    def __post_init__(self) -> None:
        super().__post_init__()
        every, last = max(1, self.per_epoch // SAVES), self.trainer.of + 1
        ends = range(self.per_epoch, last, self.per_epoch)
        self.checked, self.kept = {0, *ends}, set()
        self.saved = {*range(every, last, every), *ends}

    @property
    def best(self) -> None:
        """The last checkpoint becomes the adapter, however it did on the validation problems."""
        return None

    def _guard(self, step: Update) -> None:
        """A loss that is not finite is a failure: no checkpoint before it was the best one."""
        if struck := super()._guard(step):
            raise TrainError(struck[1]["message"])

    def _held_out_check(self, step: int) -> Iterator[Event]:
        policy, cache = self.trainer.policy, self.trainer.cache
        with policy.model.engine.queue.turn():
            if self.held_out:
                found = self.held_out.check(step, step / self.per_epoch)
            else:
                found = {"optimizer_step": step, "epoch": step / self.per_epoch, "pass@1": share(0, 0)}
                found |= dict.fromkeys(("vs_base", "gap", "delta_logp_pos", "delta_logp_neg", "pressure", "kl"))
            near = agreement(policy, self.held_items, cache, bool(step)) if self.held_items else None
        found |= {"agreement": near, "checkpoint": None, "best": False}
        if self.held_out and step == self.trainer.of:
            self.run.check_stop()
            self.run.write(EVALUATION, self._evaluation(self.held_out))
        self._keep(found)
        yield "check", found
        if self.held_out:
            yield "samples", self.held_out.samples(step)

    def _rules(self) -> Iterator[Event]:
        return iter(())

    def _evaluation(self, held_out: HeldOut) -> dict[str, Any]:
        before, after = held_out.base, held_out.latest or held_out.base
        return {
            "split": "validation", "before": before.pass_at_1, "after": after.pass_at_1,
            "vs_base": after.against(before), "teacher": self.teacher.pass_at_1,
            "vs_teacher": after.against(self.teacher), "teacher_vs_base": self.teacher.against(before),
            "gap_closed": after.gap_closed(before, self.teacher),
            "problems": {"before": before.json(), "after": after.json(), "teacher": self.teacher.json()},
        }  # fmt: skip

    def nearness(self) -> Mapping[str, Any] | None:
        """Agreement with the teacher on its held-out solutions, of the base and of the student at the end."""
        near = {row["optimizer_step"]: row["agreement"] for row in self.checks}
        base, student = near.get(0), near.get(self.trainer.of)
        if not base or not student:
            return None
        return {"rollouts": base["rollouts"], "tokens": base["tokens"], "base": base, "adapted": student}
