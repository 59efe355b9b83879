"""From problems to an adapter: rollouts -> selection -> gate -> training -> final check, as a generator of events.

A stage whose file is complete is not done again, so a run that was stopped or killed goes on to the same adapter.
"""

import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rmx.models.load import Model, load
from rmx.recipes.job import TrainJob, problems_of
from rmx.records import Problem, Rollout
from rmx.runs.rates import cost
from rmx.train.data_stages import (
    GATE,
    ROLLOUTS,
    VALIDATION,
    Context,
    Event,
    Gated,
    StageProgress,
    gate_stage,
    rollouts_stage,
    selection_stage,
)
from rmx.train.estimate import Estimate, estimate, fit, memory_told, room_of, work_left
from rmx.train.estimate_ahead import ahead_figures, estimate_ahead, usual_length
from rmx.train.heldout import HeldOut
from rmx.train.probe import Speeds, device_name, probe
from rmx.train.replay import BaseSolution, Fork, ForkReplay, default_forks
from rmx.train.rollouts.file import read_rollouts
from rmx.train.step.items import cut
from rmx.train.step.lora_policy import LoraPolicy, make_policy
from rmx.train.step.processes import Team, collected, dealt_by
from rmx.train.step.scoring import DTYPES, MEMORY, SPARE_DISK, BaseFigures, score
from rmx.train.step.trainer import Trainer
from rmx.train.training_stage import TrainingLoop, final_stage, finish

SECONDS = "stages.json"
STYLE = "style.json"  # how the problems are asked
PROBE = 1.0  # seconds
WATCHED = 6  # solutions in which forks to replay are looked for


class Pipeline:
    """One run.

    Args:
        events: reads the events that were told so far, for the adapter's card, as `config`.
        stop: whether the run was asked to stop; asked between steps. dry: end after the gate.
        model: a loaded one; None loads the job's. team: of `accelerate launch`.
        figures: of the base, where another pipeline on the same rollouts has made them already.
    """

    def __init__(
        self,
        job: TrainJob,
        folder: Path,
        config: Mapping[str, Any],
        *,
        events: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
        stop: Callable[[], bool] = lambda: False,
        dry: bool = False,
        model: Model | None = None,
        team: Team | None = None,
        figures: BaseFigures | None = None,
    ) -> None:
        self.config, self.dry, self.team, self._told = config, dry, team, events
        problems = problems_of(job)
        device = str(team.device) if team is not None else job.device
        loaded = (model or load(job.model, device, job.dtype)).ask_in(job.style, job.set_name)
        self.run = Context(job, folder, loaded, problems, stop, team=team)
        self.figures = self._figures() if figures is None else figures
        self.run.seconds = (self.run.read(SECONDS) or {}).get("seconds", {})

    def events(self) -> Iterator[Event]:
        """All stages, in order; ends with Stopped where it was asked to stop."""
        policy, rollouts = yield from self.prepared()
        with self.timed("gate"):
            gated = yield from self._gate(policy, rollouts)
        if self.dry:
            return
        training = self.training(policy, gated, self.held_out(policy, gated))
        with self.timed("training"):
            yield from training.events()
        with self.timed("final"):
            yield from final_stage(self.run, training)
        if self.run.main:
            yield self.done(finish(self.run, training, self.config, self._told()))

    def _figures(self) -> BaseFigures:
        """Where the base's figures will be kept; several processes keep them in files, which all of them read."""
        optim, processes = self.run.job.recipe.optim, self.team.num_processes if self.team else 1
        if optim.base_figures not in DTYPES:
            return BaseFigures(0)
        memory, limit = 0 if self.team else MEMORY, int(optim.base_disk_gb * 1e9) // processes
        dtype, shared = DTYPES[optim.base_figures], self.team is not None
        return BaseFigures(memory, self.run.folder, limit=limit, dtype=dtype, shared=shared)

    def ahead(self) -> Iterator[Event]:
        """The estimate of a run that has not sampled anything; a server's rollouts cannot be estimated from here."""
        run = self.run
        if not run.main or run.job.from_rollouts or run.job.server or (run.folder / ROLLOUTS).exists():
            return
        usual, speeds = usual_length(run.folder, self.config), self._speeds(run.problems.train)
        yield "estimate", ahead_figures(estimate_ahead(run.job, run.problems, speeds, usual), speeds, usual)

    def prepared(self) -> Generator[Event, None, tuple[LoraPolicy, list[Rollout]]]:
        """Estimate, sample and select: the policy and the rollouts that teach it."""
        yield from self.ahead()
        if self.run.main:
            self.run.write(STYLE, self.run.model.style.json())
        with self.timed("rollouts"):
            yield from rollouts_stage(self.run)
        with self.timed("selection"):
            rollouts, told = selection_stage(self.run)
            yield told
        policy = self.policy()
        if policy.products is not None:
            yield "head", policy.products.json()
        return policy, rollouts

    def policy(self) -> LoraPolicy:
        recipe, init = self.run.job.recipe, self.run.job.init_adapter
        asked = recipe.adapter, Path(init) if init else None, recipe.seed, recipe.optim.recompute, recipe.optim.tf32
        return make_policy(self.run.model, *asked)

    def _gate(self, policy: LoraPolicy, rollouts: list[Rollout]) -> Generator[Event, None, Gated]:
        rollouts = yield from self.scored(policy, rollouts)
        gated = gate_stage(self.run, rollouts)
        figures = gated.figures(self.run.job.recipe.gate.gate)
        mine = [self.estimate(rollouts)] if self.run.main else []
        (made,) = collected(mine, lambda _: 0, self.team)
        if self.run.main:
            figures["estimate"] = made.json()
            self.run.write(GATE, figures)
        yield "gate", figures
        yield from self.fitted(policy, made)
        return gated

    def fitted(self, policy: LoraPolicy, made: Estimate) -> Iterator[Event]:
        """What is done where memory or disk do not suffice for what the run is about to do."""
        room = min(collected([room_of(policy.device)], lambda bytes_: bytes_, self.team))
        notes = [fit(policy, made, room)]
        if self.figures.refused and self.figures.keeps:
            notes.append(
                f"{self.figures.refused} blocks of the base's figures found no room on disk (--base-disk-gb "
                f"{self.run.job.recipe.optim.base_disk_gb:g}, and {SPARE_DISK / 1e9:.0f} GB stay free); they are read "
                "anew whenever they are trained on, which takes longer. --base-figures bf16 halves what they take."
            )
        for message in notes:
            if message:
                yield "note", {"message": message}

    def estimate(self, rollouts: list[Rollout]) -> Estimate:
        """What is still to come, from the lengths that are known now and a short probe."""
        run, recipe = self.run, self.run.job.recipe
        problems = run.problems.train or [Problem("0", run.model.detokenizer.text(rollouts[0].prompt_ids), None)]
        held, test = len(run.problems.validation), len(run.problems.test)
        speeds = self._speeds(problems)
        left = work_left(recipe, rollouts, held, held * recipe.check.validation_k, test)
        return estimate(left, speeds, recipe)

    def _speeds(self, problems: Sequence[Problem]) -> Speeds:
        temperature, rows = self.run.job.recipe.rollouts.temperature, self.run.job.recipe.optim.micro_batch
        return probe(self.run.model, problems, temperature=temperature, micro_batch=rows, seconds=PROBE)

    def scored(self, policy: LoraPolicy, rollouts: list[Rollout]) -> Generator[Event, None, list[Rollout]]:
        """Entropies where they are missing, and the base's figures of every token, in one pass over the rollouts."""
        longest = self.run.job.recipe.optim.max_seq_len
        scored = [cut(r, longest) for r in rollouts]
        mine = dealt_by([r.problem_id for r in scored], self.team)
        progress, found = StageProgress("gate", len(mine)), list[tuple[int, Rollout]]()
        for at, rollout in zip(mine, score(policy, (scored[i] for i in mine), self.figures), strict=True):
            found.append((at, rollout))
            yield from progress.advance()
            self.run.check_stop()
        yield progress.event()
        if self.team is not None:
            self.figures.share(self.team)
        new = [(at, rollout.entropies) for at, rollout in found if rollout.entropies is not scored[at].entropies]
        for at, entropies in collected(new, lambda one: one[0], self.team):
            scored[at] = replace(scored[at], entropies=entropies)
        return scored

    def held_out(self, policy: LoraPolicy, gated: Gated, rollouts: Path | None = None) -> HeldOut | None:
        """What is checked while it trains; `rollouts` is the file of held-out ones, by default this run's own."""
        run, recipe, path = self.run, self.run.job.recipe, rollouts or self.run.folder / VALIDATION
        if not run.problems.validation:
            return None
        kept, tau = read_rollouts(path) if path.exists() else [], run.model.tau if gated.tau is None else gated.tau
        limits = {"max_new": recipe.rollouts.max_new_tokens, "max_seq_len": recipe.optim.max_seq_len}
        told = {"cancelled": run.stop, "solved": run.checking}
        return HeldOut(policy, run.problems.validation, kept, tau=tau, **limits, **told, team=self.team)

    def training(self, policy: LoraPolicy, gated: Gated, held_out: HeldOut | None) -> TrainingLoop:
        run, recipe = self.run, self.run.job.recipe
        trainer = Trainer(policy, gated.items, recipe, team=self.team, figures=self.figures)
        return TrainingLoop(run, trainer, held_out, self._agreed_stop, self._replay(held_out))

    def _replay(self, held_out: HeldOut | None) -> ForkReplay:
        """The pinned forks, else the most open ones in the base's solutions of the first validation problems."""
        model = self.run.model
        forks = [
            Fork(f"pin {n}", tuple(pin["prompt_ids"]), tuple(pin["before"]), pin["said"], pin.get("known"))
            for n, pin in enumerate(self.run.job.pins, 1)
        ]
        if not forks and held_out is not None:  # of several processes all solve, although one replays
            solved = [
                BaseSolution(p.id, model.prompt_ids(p.problem), s.ids, p.answer)
                for p, s in zip(held_out.problems[:WATCHED], held_out.base.each, strict=False)
            ]
            forks = default_forks(model, solved)
        return ForkReplay(model, forks)

    def done(self, figures: Mapping[str, Any]) -> Event:
        """The last event: what came of the run, and what it took."""
        run = self.run
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return "done", {
            "seconds": run.took, **figures,
            "stages": {stage: round(spent, 1) for stage, spent in run.seconds.items()},
            "usd": cost(run.took, device_name(run.model.engine.device)).usd, "peak_rss_mb": round(peak, 1),
        }  # fmt: skip

    def _agreed_stop(self) -> bool:
        """Whether any of the processes was asked to stop; the same answer in all of them."""
        wanted = self.run.stop()
        if self.team is None:
            return wanted
        return bool(self.team.total(torch.tensor(float(wanted), device=self.team.device)) > 0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a `with` block to what its stage took in earlier starts."""
        run, began, before = self.run, time.monotonic(), self.run.seconds.get(stage, 0.0)
        try:
            with memory_told(stage, run.job.recipe.optim, run.model.engine.device, reusable=run.teacher is None):
                yield
        finally:
            run.seconds[stage] = before + time.monotonic() - began
            if run.main:
                run.write(SECONDS, {"seconds": run.seconds, "device": device_name(run.model.engine.device)})
