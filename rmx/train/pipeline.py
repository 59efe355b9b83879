"""From problems to an adapter: rollouts -> selection -> gate -> training -> final check, as a generator of events.

A stage whose file is complete is not done again, so a run that was stopped or killed goes on to the same adapter.
A sweep does all that for several thresholds.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rmx.errors import TrainError
from rmx.models.load import Model, load
from rmx.records import Problem, Rollout
from rmx.runs.folder import SWEEP
from rmx.runs.job import TrainJob, problems_of
from rmx.runs.rates import cost
from rmx.runs.recipe import ONE_PROCESS
from rmx.stats.intervals import Estimate
from rmx.storage.safe_files import disk
from rmx.train.adapter_folder import base_of, finish_adapter, provenance
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
from rmx.train.estimate import Estimate as Forecast
from rmx.train.estimate import ahead_figures, estimate, estimate_ahead, usual_length, work_left
from rmx.train.heldout import HeldOut, Solutions, best_of
from rmx.train.probe import Speeds, device_name, fit, memory_told, probe, room_of
from rmx.train.rollouts import read_rollouts
from rmx.train.step.items import cut
from rmx.train.step.lora_policy import NAME, LoraPolicy, load_weights, make_policy
from rmx.train.step.processes import Team, collected, dealt_by
from rmx.train.step.scoring import DTYPES, MEMORY, SPARE_DISK, BaseFigures, score
from rmx.train.step.trainer import Trainer
from rmx.train.training_stage import (
    ADAPTER,
    CHECKPOINTS,
    EVALUATION,
    TrainingLoop,
    evaluation,
    final_stage,
    finish,
    solved,
    watch_forks,
)

SECONDS = "stages.json"
STYLE = "style.json"  # how the problems are asked
PROBE = 1.0  # seconds


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

    def fitted(self, policy: LoraPolicy, made: Forecast) -> Iterator[Event]:
        """What is done where memory or disk do not suffice for what the run is about to do."""
        room = min(collected([room_of(policy.device)], lambda bytes_: bytes_, self.team))
        notes = [fit(policy, made.memory, made.recomputed, room)]
        if self.figures.refused and self.figures.keeps:
            notes.append(
                f"{self.figures.refused} blocks of the base's figures found no room on disk (--base-disk-gb "
                f"{self.run.job.recipe.optim.base_disk_gb:g}, and {SPARE_DISK / 1e9:.0f} GB stay free); they are read "
                "anew whenever they are trained on, which takes longer. --base-figures bf16 halves what they take."
            )
        for message in notes:
            if message:
                yield "note", {"message": message}

    def estimate(self, rollouts: list[Rollout]) -> Forecast:
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
        return HeldOut(
            policy, run.problems.validation, kept, tau=tau, max_new=recipe.rollouts.max_new_tokens,
            max_seq_len=recipe.optim.max_seq_len, cancelled=run.stop, team=self.team, solved=run.checking,
        )  # fmt: skip

    def training(self, policy: LoraPolicy, gated: Gated, held_out: HeldOut | None) -> TrainingLoop:
        run, recipe = self.run, self.run.job.recipe
        trainer = Trainer(policy, gated.items, recipe, team=self.team, figures=self.figures)
        return TrainingLoop(run, trainer, held_out, self._agreed_stop, watch_forks(run, held_out))

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


# -- A sweep over thresholds ------------------------------------------------------------------------------------------


TEST_BASE = "test_base.json"
RULE = (
    "The threshold whose best checkpoint has the highest pass@1 on the validation problems; of equal ones the smaller. "
    "Test problems were solved after the choice."
)


@dataclass(frozen=True, slots=True)
class SweptTau:
    """What came of one threshold."""

    tau: float  # nats
    gated: int  # decision tokens
    tokens: int  # of the completions
    best: str | None  # checkpoint; None where a rule struck before there was one
    base: Estimate | None  # pass@1 of the base on the validation problems
    validation: Estimate | None  # of the best checkpoint
    vs_base: Estimate | None  # paired
    updates: int
    seconds: float  # its own training and checks
    note: str | None  # the rule that ended it early
    test: Estimate | None = None
    test_vs_base: Estimate | None = None

    @property
    def folder(self) -> str:
        return f"tau_{self.tau:g}"

    def json(self) -> dict[str, Any]:
        """Its entry in `sweep.json`."""
        share = self.gated / self.tokens if self.tokens else 0.0
        return asdict(self) | {"share": share, "adapter": f"{self.folder}/{ADAPTER}" if self.best else None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "SweptTau":
        return cls(**{name: stored[name] for name in cls.__slots__})


def chosen_of(arms: Iterable[SweptTau]) -> SweptTau | None:
    """The rule: highest validation pass@1 of the best checkpoint, of equal ones the smaller tau; never the test."""
    able = [(-v["value"], arm.tau, arm) for arm in arms if (v := arm.validation) and v["value"] is not None]
    return min(able, key=lambda one: one[:2])[2] if able else None


class Sweep(Pipeline):
    """One run over several thresholds."""

    def __init__(self, job: TrainJob, folder: Path, config: Mapping[str, Any], **about: Any) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise TrainError(ONE_PROCESS)
        super().__init__(job, folder, config, **about)
        self.job, self.folder = job, folder
        if not self.run.problems.validation:
            raise TrainError("A sweep chooses on validation problems, and there are none. Name a set with --set.")
        self.arms = {arm.tau: arm for arm in map(SweptTau.from_json, (self.run.read(SWEEP) or {"taus": []})["taus"])}
        self._held: HeldOut | None = None
        self._estimate: Forecast | None = None  # of one training
        self._pace: float | None = None  # seconds for one update, checks included

    def events(self) -> Iterator[Event]:
        """All stages, in order, as `Pipeline.events`; what belongs to one threshold carries its `tau`."""
        policy, rollouts = yield from self.prepared()
        if len(self.arms) < len(self.job.taus):
            with self.timed("gate"):
                rollouts = yield from self.scored(policy, rollouts)
            for nth, tau in enumerate(self.job.taus):
                if tau not in self.arms:
                    yield from self._train(nth, tau, rollouts)
        self.run.write(SWEEP, self._json())  # before any test problem is solved
        with self.timed("final"):
            yield from self._test()
        yield self._done()

    def _train(self, nth: int, tau: float, rollouts: list[Rollout]) -> Iterator[Event]:
        """Gate at one threshold, train, check; its adapter is finished, but for the test."""
        place, model = self.folder / f"tau_{tau:g}", self.run.model
        with disk(place):
            place.mkdir(exist_ok=True)
        part = Pipeline(self.job.at(tau), place, self.config, stop=self.run.stop, model=model, figures=self.figures)
        policy, gated = part.policy(), gate_stage(part.run, rollouts)
        figures = gated.figures(self.job.recipe.gate.gate)
        part.run.write(GATE, figures)
        if self._estimate is None:
            self._estimate = self.estimate(rollouts)
        if not self.arms:
            figures = figures | {"estimate": self._estimate.swept(len(self.job.taus)).json()}
        yield "gate", figures
        yield from part.fitted(policy, self._estimate)
        held = part.held_out(policy, gated, self.folder / VALIDATION)
        if held and self._held:  # what is known of the base from the threshold before
            held.share(self._held)
        self._held, training, note = held, part.training(policy, gated, held), None
        with self.timed("training"), part.timed("training"):
            for kind, told in training.events():
                note = told["message"] if kind in ("guard", "early") else note
                yield kind, (self._overall(nth, told) if kind == "stage" else told) | {"tau": tau}
        best, first = best_of(training.checks), next((c for c in training.checks if not c["optimizer_step"]), None)
        arm = SweptTau(
            tau=tau, gated=figures["gated"], tokens=figures["tokens"], best=training.best,
            base=first["pass@1"] if first else None, validation=best["pass@1"] if best else None,
            vs_base=best["vs_base"] if best else None, updates=training.trainer.updates,
            seconds=part.run.seconds["training"], note=note,
        )  # fmt: skip
        self._finish(arm, place / ADAPTER)
        self._keep(arm)
        yield "tau", arm.json() | {"nth": len(self.arms), "of": len(self.job.taus)}

    def _overall(self, nth: int, told: Mapping[str, Any]) -> dict[str, Any]:
        """Progress over all thresholds; each makes as many updates, unless a rule ends it."""
        at, of, left = told["at"], told["of"], told["left"]
        if left is not None and at < of:
            self._pace = left / (of - at)
        whole = {"stage": told["stage"], "at": nth * of + at, "of": len(self.job.taus) * of}
        return whole | {"left": None if self._pace is None else round(self._pace * (whole["of"] - whole["at"]), 1)}

    def _test(self) -> Iterator[Event]:
        run, arms = self.run, [self.arms[tau] for tau in self.job.taus if self.arms[tau].best]
        problems = run.problems.test
        if not problems:
            return
        progress = StageProgress("final", (1 + len(arms)) * len(problems))
        yield progress.event()
        before = self._base_solved()
        for arm in arms:
            progress.at += len(problems)
            yield progress.event()
            if arm.test is not None:
                continue
            place, engine = self.folder / arm.folder, run.model.engine
            load_weights(engine.model, place / CHECKPOINTS / str(arm.best))
            engine.prefixes.clear(NAME)
            after = solved(run, problems, NAME)
            self.run.write(f"{arm.folder}/{EVALUATION}", evaluation(str(arm.best), problems, before, after))
            tested = replace(arm, test=after.pass_at_1, test_vs_base=after.against(before))
            self._finish(tested, place / ADAPTER, before)
            self._keep(tested)
        progress.at = progress.of
        yield progress.event()

    def _base_solved(self) -> Solutions:
        if stored := self.run.read(TEST_BASE):
            return Solutions.from_json(stored["solutions"])
        made = solved(self.run, self.run.problems.test, None)
        self.run.write(TEST_BASE, {"solutions": made.json()})
        return made

    @property
    def _chosen(self) -> SweptTau | None:
        """None until all thresholds are trained."""
        return chosen_of(self.arms.values()) if len(self.arms) == len(self.job.taus) else None

    def _keep(self, arm: SweptTau) -> None:
        self.arms[arm.tau] = arm
        self.run.write(SWEEP, self._json())

    def _json(self) -> dict[str, Any]:
        arms, stored = [self.arms[tau] for tau in self.job.taus if tau in self.arms], self.run.read(TEST_BASE)
        validation = next((arm.base for arm in arms if arm.base), None)
        test, chosen = Solutions.from_json(stored["solutions"]).pass_at_1 if stored else None, self._chosen
        return {
            "taus": [arm.json() for arm in arms], "base": {"validation": validation, "test": test},
            "chosen": chosen.tau if chosen else None, "rule": RULE,
        }  # fmt: skip

    def _finish(self, arm: SweptTau, folder: Path, base: Solutions | None = None) -> None:
        """Write the adapter of one threshold, with its card; `base` where the test problems are solved."""
        if arm.best is None:
            return
        config = {**self.config, **self.job.at(arm.tau).json()}
        done = {"updates": arm.updates, "seconds": round(arm.seconds, 1), "split": "test"}
        done |= {"before": base.pass_at_1 if base else None, "after": arm.test, "vs_base": arm.test_vs_base}
        events = [e for e in self._told() if e.get("tau", arm.tau) == arm.tau and e["kind"] != "done"]
        story = provenance(config, events, base_of(self.run.model), done)
        swept = ", ".join(f"{tau:g}" for tau in self.job.taus)
        note = f"One threshold ({arm.tau:g} nats) of a sweep over {swept}; which to keep was decided on validation."
        story = replace(story, notes=(*story.notes, note))
        finish_adapter(folder, story, self.folder / arm.folder / CHECKPOINTS / arm.best)

    def _done(self) -> Event:
        chosen, base = self._chosen, self._base_solved() if self.run.problems.test else None
        if chosen:
            self._finish(chosen, self.folder / ADAPTER, base)
            if base:
                self.run.write(EVALUATION, self.run.read(f"{chosen.folder}/{EVALUATION}") or {})
        swept = self._json()
        self.run.write(SWEEP, swept)
        measured: tuple[Any, ...] = (None,) * 4
        if chosen and base:
            measured = "test", base.pass_at_1, chosen.test, chosen.test_vs_base
        elif chosen:
            measured = "validation", chosen.base, chosen.validation, chosen.vs_base
        found = dict(zip(("split", "before", "after", "vs_base"), measured, strict=True))
        updates, best = sum(arm.updates for arm in self.arms.values()), chosen.best if chosen else None
        kind, figures = self.done({"updates": updates, "adapter": best and ADAPTER, "best": best} | found)
        return kind, figures | {"sweep": swept}
