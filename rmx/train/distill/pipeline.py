"""KL-LoRA distillation: a teacher's own solutions, its likeliest tokens kept, and a LoRA on the base that follows them.

rollouts -> teacher -> training. As in a training run, a stage whose files are complete is not done again, so a run that
was stopped or killed goes on from where it was, to the same adapter.

    rollouts.jsonl  heldout_rollouts.jsonl  teacher/  teacher.json  checkpoints/step_N/  checks.json  evaluation.json
    adapter/

Source: arXiv 2605.06241, section 4.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmx.errors import TrainError
from rmx.models.adapter_names import names_adapter
from rmx.models.adapters import add_adapter
from rmx.models.load import Model, load
from rmx.models.model_pair import ask_alike
from rmx.recipes.distill import DistillJob
from rmx.recipes.job import Problems, TrainJob, problems_of
from rmx.recipes.recipe import Recipe, RolloutConfig
from rmx.records import Problem, Rollout
from rmx.runs.rates import cost
from rmx.train.checks.greedy import Solutions, solve
from rmx.train.checks.heldout import HeldOut
from rmx.train.data_stages import rollout_figures
from rmx.train.distill.stage import EVALUATION, DistillTraining
from rmx.train.distill.teacher import Teacher, TeacherCache
from rmx.train.distill.trainer import Distiller, lessons
from rmx.train.pipeline import SECONDS, STYLE, peak_rss_mb
from rmx.train.plan.probe import device_name
from rmx.train.publish.export import finish_adapter
from rmx.train.publish.provenance import PassRates, Provenance, base_of, set_label, spec_label
from rmx.train.rollouts.file import read_rollouts
from rmx.train.rollouts.sample import RolloutLog, sample_rollouts
from rmx.train.stages import Event, RunFiles, StageProgress
from rmx.train.step.items import Item
from rmx.train.step.lora_policy import make_policy

STAGES = ("rollouts", "teacher", "training")
ROLLOUTS, HELD_OUT = "rollouts.jsonl", "heldout_rollouts.jsonl"
CACHE, TEACHER, ADAPTER = "teacher", "teacher.json", "adapter"
OF_TEACHER = ("teacher", "vs_teacher", "teacher_vs_base", "gap_closed")  # the last two are not in runs of 0.1.0


class Distillation(RunFiles):
    """One run.

    Args:
        folder: where its files go. config: the run's `config.json`, for the adapter's card.
        stop: whether the run was asked to stop; asked between steps.
        base, teacher: loaded models; None loads the job's. `teacher` is of no use where the job names an adapter.
    """

    def __init__(
        self,
        job: DistillJob,
        folder: Path,
        config: Mapping[str, Any],
        *,
        stop: Callable[[], bool] = lambda: False,
        base: Model | None = None,
        teacher: Model | None = None,
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainError("A distillation runs in one process. Start it by rmx distill, without accelerate launch.")
        self.job, self.folder, self.config, self.stop = job, folder, config, stop
        self.problems = problems_to_distill(job)
        self.base = (base or load(job.model, job.device, job.dtype)).ask_in(job.style, job.set_name)
        self.cache = TeacherCache(folder / CACHE)
        self.seconds: dict[str, float] = (self.read(SECONDS) or {}).get("seconds", {})
        self._checkpoint = teacher

    def events(self) -> Iterator[Event]:
        """All stages, in order.

        Raises:
            Stopped: it was asked to stop. RmxError: what went wrong and what to do.
        """
        self.write(STYLE, self.base.style.json())
        if self.read(TEACHER) is None:
            yield from self._learn_the_teacher()
        training = self._training()
        if (products := training.distiller.policy.products) is not None:
            yield "head", products.json()
        with self._timed("training"):
            yield from training.events()
        yield self._done(training)

    def _learn_the_teacher(self) -> Iterator[Event]:
        """Both stages that need the teacher; afterwards a checkpoint's memory is free again."""
        teacher = self._teacher()
        with self._timed("rollouts"):
            yield from self._rollouts(teacher)
        with self._timed("teacher"):
            yield from self._read_teacher(teacher)
        self._checkpoint = None

    def _teacher(self) -> Teacher:
        """Whom to learn from; asked in the base's way, as the student will be."""
        if self.job.adapter or names_adapter(self.base, self.job.teacher_name):
            with self.base.engine.queue.turn():
                name = add_adapter(self.base, self.job.teacher_name)
            return Teacher(self.base, name, self.base.engine.vocab_size)
        found = self._checkpoint or load(self.job.teacher or "", self.job.device, self.job.dtype)
        common = min(self.base.engine.vocab_size, found.engine.vocab_size)
        return Teacher(ask_alike(found, self.base), None, common)

    # -- 1. its solutions ---------------------------------------------------------------------------------------------

    def _rollouts(self, teacher: Teacher) -> Iterator[Event]:
        """Sample what is missing of the teacher's solutions, to learn from and to compare with."""
        recipe = self.job.recipe
        held_out = self.problems.validation[: recipe.heldout]
        yield from self._sample(teacher, ROLLOUTS, self.problems.train, recipe.rollouts)
        yield from self._sample(teacher, HELD_OUT, held_out, replace(recipe.rollouts, k=1))

    def _sample(
        self, teacher: Teacher, name: str, problems: Sequence[Problem], config: RolloutConfig
    ) -> Iterator[Event]:
        log = self._log(name, teacher, config)
        found, seed = log.read(), self.job.recipe.seed
        done = {(r.problem_id, r.gen_index): r.completion_length for r in found}
        progress = StageProgress("rollouts", len(problems) * config.k, len(found))
        for rollout in sample_rollouts(
            teacher.model, problems, config, seed, done, adapter=teacher.adapter, cancelled=self.stop
        ):
            log.append(rollout)
            found.append(rollout)
            progress.at += 1
            if progress.due():
                yield progress.event()
        self.check_stop()
        yield progress.event()
        if name == ROLLOUTS:
            yield "rollouts", rollout_figures(found, len(problems), config.k)

    def _log(self, name: str, teacher: Teacher, config: RolloutConfig) -> RolloutLog:
        """A file of the teacher's solutions, which refuses to go on under other settings."""
        settings = {
            "model": teacher.model.revision,
            "teacher": self.job.teacher_name,
            "dtype": teacher.model.dtype,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_new_tokens": config.max_new_tokens,
            "seed": self.job.recipe.seed,
        } | teacher.model.style.settings()
        return RolloutLog(self.folder / name, settings)

    def rollouts(self, name: str) -> list[Rollout]:
        """The solutions in a file, in the order of the problems, however they came to be finished."""
        path, problems = self.folder / name, (*self.problems.train, *self.problems.validation)
        place = {p.id: i for i, p in enumerate(problems)}
        found = read_rollouts(path) if path.exists() else []
        return sorted(found, key=lambda r: (place[r.problem_id], r.gen_index))

    def items(self, name: str) -> list[Item]:
        return lessons(self.rollouts(name), self.job.recipe.max_seq_len)

    # -- 2. its distributions -----------------------------------------------------------------------------------------

    def _read_teacher(self, teacher: Teacher) -> Iterator[Event]:
        """Keep its likeliest tokens over every solution, and what it makes of the validation problems."""
        items, recipe = [*self.items(ROLLOUTS), *self.items(HELD_OUT)], self.job.recipe
        progress = StageProgress("teacher", len(items))
        yield progress.event()
        with teacher.model.engine.queue.turn():
            for item in items:
                self.check_stop()
                if item.rollout not in self.cache:
                    self.cache.put(item.rollout, teacher.read(item.rollout, recipe.top_k))
                progress.at += 1
                if progress.due():
                    yield progress.event()
            yield progress.event()
            problems = self.problems.validation[: recipe.validation]
            solved = solve(teacher.model, problems, teacher.adapter, recipe.max_new_tokens, cancelled=self.stop)
        self.check_stop()
        self.write(TEACHER, {"solutions": solved.json()})

    # -- 3. training --------------------------------------------------------------------------------------------------

    def _training(self) -> DistillTraining:
        recipe = self.job.recipe
        policy = make_policy(self.base, recipe.adapter, None, recipe.seed, recipe.recompute, recipe.tf32)
        problems, held_out = self.problems.validation[: recipe.validation], None
        if problems:
            held_out = HeldOut(
                policy,
                problems,
                [],
                tau=self.base.tau,
                max_new=recipe.max_new_tokens,
                max_seq_len=recipe.max_seq_len,
                cancelled=self.stop,
            )
        solved = Solutions.from_json((self.read(TEACHER) or {"solutions": []})["solutions"])
        distiller = Distiller(policy, self.items(ROLLOUTS), self.cache, recipe)
        return DistillTraining(self, distiller, self.items(HELD_OUT), held_out, solved)

    def _done(self, training: DistillTraining) -> Event:
        """Write the adapter with its card, and tell that the run is done."""
        found = self.read(EVALUATION) or {}
        figures = {key: found.get(key) for key in ("before", "after", "vs_base", *OF_TEACHER)}
        updates, took = training.distiller.updates, sum(self.seconds.values())
        products = training.distiller.policy.products
        story = self._story(figures, training.nearness(), updates)
        story = replace(story, head=products.json() if products else None)
        finish_adapter(self.folder / ADAPTER, replace(story, seconds=took), training.folder / f"step_{updates}")
        return "done", {
            "seconds": round(took, 1),
            "updates": updates,
            "tokens": (story.data or {})["tokens"],
            "adapter": ADAPTER,
            "best": None,
            "split": "validation",
            **figures,
            "agreement": story.agreement,
            "stages": {stage: round(seconds, 1) for stage, seconds in self.seconds.items()},
            "usd": cost(took, device_name(self.base.engine.device)).usd,
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }

    def _story(self, figures: Mapping[str, Any], near: Mapping[str, Any] | None, updates: int) -> Provenance:
        job, rollouts, solved = self.job, self.rollouts(ROLLOUTS), figures["after"] is not None
        return Provenance(
            kind="distill",
            run=self.config.get("id", ""),
            base=base_of(self.base),
            recipe=job.recipe.flat() | {"alpha": job.recipe.adapter.alpha},
            departures=job.recipe.departures(),
            problem_set=set_label(job.set_name),
            teacher=spec_label(job.teacher_name),
            teacher_figures={key: figures[key] for key in OF_TEACHER if figures[key]} if solved else None,
            data={
                "rollouts": len(rollouts),
                "tokens": sum(r.completion_length for r in rollouts),
                "right": sum(r.correct for r in rollouts),
            },
            checks=(PassRates("validation", figures["before"], figures["after"], figures["vs_base"]),)
            if solved
            else (),
            agreement=near,
            updates=updates,
            versions=self.config.get("versions"),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to what its stage took in earlier starts."""
        began, before = time.monotonic(), self.seconds.get(stage, 0.0)
        try:
            yield
        finally:
            self.seconds[stage] = before + time.monotonic() - began
            self.write(SECONDS, {"seconds": self.seconds, "device": device_name(self.base.engine.device)})


def problems_to_distill(job: DistillJob) -> Problems:
    """The problems of a training run with the same set, counts and seed; no problem is both learned from and held out.

    Raises:
        ProblemError: the set cannot be had. TrainError: it cannot be trained on.
    """
    recipe = job.recipe
    counts = {"problems": recipe.problems, "validation": max(recipe.validation, recipe.heldout), "test": 0}
    return problems_of(TrainJob(job.model, job.set_name, Recipe().with_(seed=recipe.seed, **counts)))
