"""KL-LoRA distillation: a teacher's own solutions, its likeliest tokens kept, and a LoRA on the base that follows them.

rollouts -> teacher -> training: a training run with another loss and without a gate, which can be resumed like one.

    rollouts.jsonl  heldout_rollouts.jsonl  teacher/  teacher.json  checkpoints/step_N/  checks.json  evaluation.json
    adapter/

Source: arXiv 2605.06241, section 4.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmx.errors import TrainError
from rmx.models.adapter_names import names_adapter
from rmx.models.adapters import add_adapter
from rmx.models.load import Model, load
from rmx.models.model_pair import ask_alike
from rmx.recipes.distill_job import DistillJob
from rmx.records import Rollout
from rmx.stats.intervals import share
from rmx.train.checks.greedy import Solutions
from rmx.train.checks.heldout import HeldOut
from rmx.train.data_stages import ROLLOUTS, Draw, Gated, sample
from rmx.train.distill.student import Distiller, agreement, lessons
from rmx.train.distill.teacher import Teacher, TeacherCache
from rmx.train.final_stage import ADAPTER, EVALUATION, chosen, solved
from rmx.train.pipeline import STYLE, Pipeline
from rmx.train.publish.adapter_folder import finish_adapter
from rmx.train.publish.provenance import PassRates, Provenance, base_of, set_label, spec_label
from rmx.train.rollouts.file import read_rollouts
from rmx.train.stages import Event, StageProgress
from rmx.train.step.base_figures import BaseFigures
from rmx.train.step.items import Item
from rmx.train.step.trainer import Update
from rmx.train.training_stage import TrainingLoop

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
        draws = (
            Draw(ROLLOUTS, run.problems.train, recipe.rollouts, recipe.seed),
            Draw(HELD_OUT, self.held_problems, replace(recipe.rollouts, k=1), recipe.seed, told=False),
        )
        with self.timed("rollouts"):
            yield from sample(run, draws)
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
        if self.job.adapter or names_adapter(self.base, self.job.teacher_name):
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
            problem_set=set_label(job.set_name), teacher=spec_label(job.teacher_name),
            teacher_figures={key: value for key in OF_TEACHER if (value := figures[key])} if checked else None,
            head=products.json() if products else None, checks=(held,) if checked else (),
            agreement=training.nearness(), updates=training.trainer.updates, seconds=self.run.took,
            versions=self.config.get("versions"),
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
                found = self.held_out.check(step, step / self.per_epoch).json()
            else:
                found = {"optimizer_step": step, "epoch": step / self.per_epoch, "pass@1": share(0, 0)}
                found |= dict.fromkeys(("vs_base", "gap", "delta_logp_pos", "delta_logp_neg", "pressure", "kl"))
            near = agreement(policy, self.held_items, cache, bool(step)) if self.held_items else None
        found |= {"agreement": near.json() if near else None, "checkpoint": None, "best": False}
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
        near = {row["optimizer_step"]: row["agreement"] for row in self.rows}
        base, student = near.get(0), near.get(self.trainer.of)
        if not base or not student:
            return None
        return {"rollouts": base["rollouts"], "tokens": base["tokens"], "base": base, "adapted": student}
