"""A sweep over thresholds: rollouts, selection and entropies once, one adapter for each tau, one of them chosen.

The base's figures and solutions are shared too. The choice falls on the validation split, and is written down before
the first test problem is solved, so the test decides nothing.

    rollouts.jsonl  validation_rollouts.jsonl  selection.json  stages.json     shared, as in every run
    tau_1.2/{gate.json,checks.json,checkpoints/,evaluation.json,adapter/}      one folder for each threshold
    sweep.json  test_base.json  evaluation.json  adapter/                      the curve, and what was chosen

Source: arXiv 2605.06241, section 5, item 8 and figure 4 (tau from 1.2 to 1.8, chosen on a held-out split).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmx.errors import TrainError
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import ONE_PROCESS
from rmx.records import Rollout
from rmx.runs.folder import SWEEP
from rmx.stats.intervals import Estimate
from rmx.storage.safe_files import disk
from rmx.train.adapter_folder import base_of, finish_adapter, provenance
from rmx.train.data_stages import GATE, VALIDATION, Event, StageProgress, gate_stage
from rmx.train.estimate import Estimate as Forecast
from rmx.train.heldout import HeldOut, Solutions, best_of
from rmx.train.pipeline import Pipeline
from rmx.train.step.lora_policy import NAME, load_weights
from rmx.train.training_stage import ADAPTER, CHECKPOINTS, EVALUATION, evaluation, solved

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
        self.run.write(SWEEP, self._json(chosen_of(self.arms.values())))  # before any test problem is solved
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
        best, first = best_of(training.checks), next((c for c in training.checks if c.optimizer_step == 0), None)
        arm = SweptTau(
            tau=tau, gated=figures["gated"], tokens=figures["tokens"], best=training.best,
            base=first.pass_at_1 if first else None, validation=best.pass_at_1 if best else None,
            vs_base=best.vs_base if best else None, updates=training.trainer.updates,
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

    def _keep(self, arm: SweptTau) -> None:
        self.arms[arm.tau] = arm
        chosen = chosen_of(self.arms.values()) if len(self.arms) == len(self.job.taus) else None
        self.run.write(SWEEP, self._json(chosen))

    def _json(self, chosen: SweptTau | None) -> dict[str, Any]:
        arms, stored = [self.arms[tau] for tau in self.job.taus if tau in self.arms], self.run.read(TEST_BASE)
        return {
            "taus": [arm.json() for arm in arms],
            "base": {
                "validation": next((arm.base for arm in arms if arm.base), None),
                "test": Solutions.from_json(stored["solutions"]).pass_at_1 if stored else None,
            },
            "chosen": chosen.tau if chosen else None,
            "rule": RULE,
        }

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
        chosen = chosen_of(self.arms.values())
        base = self._base_solved() if self.run.problems.test else None
        if chosen:
            self._finish(chosen, self.folder / ADAPTER, base)
            if base:
                self.run.write(EVALUATION, self.run.read(f"{chosen.folder}/{EVALUATION}") or {})
        swept = self._json(chosen)
        self.run.write(SWEEP, swept)
        measured: tuple[Any, ...] = (None,) * 4
        if chosen and base:
            measured = "test", base.pass_at_1, chosen.test, chosen.test_vs_base
        elif chosen:
            measured = "validation", chosen.base, chosen.validation, chosen.vs_base
        updates, adapter = sum(arm.updates for arm in self.arms.values()), ADAPTER if chosen else None
        about = {"updates": updates, "adapter": adapter, "best": chosen.best if chosen else None}
        found = dict(zip(("split", "before", "after", "vs_base"), measured, strict=True))
        kind, figures = self.done(about | found)
        return kind, figures | {"sweep": swept}
