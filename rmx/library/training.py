"""Train an adapter, look at training runs, and measure accuracy, from Python."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmx.errors import RmxError, TrainError
from rmx.library.model import LanguageModel, ModelPair, load, measure, style_fields
from rmx.library.results import POINTS, Curves, EvaluationDocument, NotebookProgress, ResultDocument, Table, cell, flat
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob, resolved
from rmx.runs.recipe import PRESETS
from rmx.runs.store import RunStore, row
from rmx.service.checks import read
from rmx.service.requests import EvalRequest
from rmx.train.drive import drive

OnEvent = Callable[[str, dict[str, Any]], object]  # kind and figures of each event of a run


class TrainedRun(ResultDocument):
    """A training run on disk. `rmx.train` makes one, `rmx.runs()` lists them.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @property
    def id(self) -> str:
        """What names it everywhere: `rmx shifts --adapter ID`."""
        return self.folder.id

    @property
    def state(self) -> str:
        """How it stands: queued, running, stopping, stopped, interrupted, failed or done."""
        return self.folder.state

    @property
    def adapter(self) -> LanguageModel:
        """The model that it trained: the base with the run's adapter."""
        config = self.folder.config
        return load(config["model"], adapter=self.id, device=config["device"], dtype=config["dtype"])

    def json(self) -> dict[str, Any]:
        """Return the run's figures, as `rmx runs --json` lists them."""
        return row(self.folder)

    def _checks(self) -> list[dict[str, Any]]:
        """The checks on validation problems, one for each checkpoint."""
        return sorted(self.folder.summary["checks"].values(), key=lambda check: int(check["optimizer_step"]))

    def sentence(self) -> str:
        found = self.json()
        both = [found[name] and f"{100 * found[name]['value']:.1f} %" for name in ("before", "after")]
        gained = f", pass@1 {both[0]} to {both[1]} ({found['on']})" if all(both) else ""
        return f"run {self.id}: {found['state']}{gained}"

    def rows(self) -> list[dict[str, Any]]:
        """Return the checks on validation problems, one for each checkpoint."""
        return [
            {"step": check["optimizer_step"]} | flat("pass@1", check["pass@1"]) | flat("vs_base", check["vs_base"])
            for check in self._checks()
        ]

    def table(self) -> Table:
        return ("update", "pass@1 on validation", "against the base"), [
            [check["optimizer_step"], cell(check["pass@1"]), cell(check["vs_base"], "points", POINTS)]
            for check in self._checks()
        ]

    def notes(self) -> list[str]:
        return [self["message"]] if self["message"] else []

    def curves(self) -> Curves | None:
        points = [(float(check["optimizer_step"]), check["pass@1"]) for check in self._checks()]
        return ({"validation": points}, "update", "pass@1") if points else None


def train(
    model: str | LanguageModel = "mini",
    preset: str = "paper",
    *,
    set: str | None = None,
    sweep_tau: Sequence[float] = (),
    from_rollouts: str | None = None,
    server: str | None = None,
    init_adapter: str | None = None,
    out: str | Path | None = None,
    resume: str | None = None,
    progress: bool = True,
    on_event: OnEvent | None = None,
    **recipe: Any,
) -> TrainedRun:
    """Train a LoRA at the forks of the model's own graded solutions, in this process: `rmx train`.

    A run that is interrupted keeps what it has made, and `resume` goes on with it.

    Args:
        model: the base.
        preset: "paper", "small", "floor" or "quick"; "small" fits a laptop and "mini".
        set: the problems; by default "mini", and none where rollouts are given.
        sweep_tau: thresholds in nats; one adapter is trained for each, and validation chooses.
        from_rollouts: a file of rollouts. server: the URL of an OpenAI-compatible server that samples them.
        init_adapter: the folder of an adapter that is trained further.
        out: the run's folder; by default a new one among the runs.
        resume: the id of a run to go on with, in place of everything else.
        progress: show a bar. on_event: called with the kind and the figures of each event.
        recipe: fields of the recipe to change, such as lr=1e-3, tau=1.0 or seed=1; `rmx train --help` lists them.
    """
    store = RunStore()
    if resume is not None:
        folder = store.get(resume)
    else:
        asked: dict[str, Any] = {"from_rollouts": from_rollouts, "server": server, "init_adapter": init_adapter}
        asked |= {"set_name": set or (None if from_rollouts else "mini"), "taus": tuple(sorted(sweep_tau))}
        job = _job(model if isinstance(model, LanguageModel) else LanguageModel(model), preset, recipe, asked)
        folder = store.create(resolved(job), path=None if out is None else Path(out).absolute())
    with NotebookProgress(progress) as tell:

        def told(kind: str, figures: dict[str, Any]) -> None:
            if kind == "stage":
                tell(figures["stage"], figures["at"], figures["of"])
            if on_event is not None:
                on_event(kind, figures)

        drive(folder, tell=told)
    return TrainedRun(folder)


def _job(base: LanguageModel, preset: str, recipe: dict[str, Any], asked: dict[str, Any]) -> TrainJob:
    """What a new run is asked."""
    if base.placing:
        raise TrainError("Training and its rollouts need the whole weights on one device. Load the model as it is.")
    if base.adapter:
        raise TrainError("To train an adapter further, name its folder as init_adapter.")
    if preset not in PRESETS:
        raise RmxError(f"There is no preset '{preset}'. Known: {', '.join(PRESETS)}.")
    known = PRESETS[preset].flat()
    if unknown := [name for name in recipe if name not in known]:
        raise RmxError(f"A recipe has no {unknown[0]}. Known: {', '.join(known)}.")
    made = PRESETS[preset].with_(**recipe)
    place: dict[str, Any] = {"device": base.device, "dtype": base.dtype, "style": base.style}
    return TrainJob(base.name, recipe=made, preset=preset, **place, **asked)


def runs() -> list[TrainedRun]:
    """Return the training runs of this folder (`RMX_RUNS`), the newest first."""
    return [TrainedRun(folder) for folder in RunStore().all()]


def evaluate(
    models: Sequence[LanguageModel | ModelPair | str] | LanguageModel | ModelPair | str,
    set: str = "mini:test",
    *,
    n: int = 16,
    k: Sequence[int] = (),
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    max_new_tokens: int = 2048,
    greedy: bool = True,
    limit: int | None = None,
    keep: bool = True,
    progress: bool = True,
) -> EvaluationDocument:
    """Measure accuracy with intervals, of several models on the same problems and draws: `rmx eval`.

    Args:
        models: models, pairs (their adapted model counts) or names. The first one's base is evaluated first, and what
            the others are compared with.
        set: the problems, such as "mini:test" or "gsm8k".
        n: samples per problem, 0 to 256; 0: greedy answers only. k: tries of pass@k; by default 1, 2, 4 ... n.
        temperature, top_p, seed, max_new_tokens: of the samples.
        greedy: ask for greedy answers too. limit: the set's first so many problems.
        keep: use what is kept of earlier evaluations, and keep what is new.
        progress: show a bar.
    """
    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    base, adapters, teachers = _contestants(several)
    who = {"model": base.name, "adapter": adapters, "teacher": teachers, "set": set, **style_fields(base.style)}
    draws = {"n": n, "k": list(k), "temperature": temperature, "top_p": top_p, "seed": seed, "greedy": greedy}
    request = read(EvalRequest, who | draws | {"max_new_tokens": max_new_tokens, "limit": limit})
    site = replace(base.site, keep=keep)
    return EvaluationDocument(measure(site, request, progress, lambda r: ("completions", r.at, r.of)))


def _contestants(models: Sequence[LanguageModel | ModelPair | str]) -> tuple[LanguageModel, list[str], list[str]]:
    """The base, the adapters on it, and the other checkpoints; refused where they cannot be evaluated together."""
    if any(isinstance(one, ModelPair) and one.strength != 1 for one in models):
        raise RmxError("An evaluation takes adapters at full strength. Make the pair with strength=1.")
    if not models:
        raise RmxError("Name at least one model to evaluate.")
    loaded = (load(one) if isinstance(one, str) else one for one in models)
    found = [one.adapted if isinstance(one, ModelPair) else one for one in loaded]
    first = models[0].base if isinstance(models[0], ModelPair) else found[0]
    adapters, teachers = list[str](), list[str]()
    for one in found:
        if (one.device, one.dtype, one.placing) != (first.device, first.dtype, first.placing):
            raise RmxError(f"{one.name} and {first.name} are loaded in different ways. Load all of them alike.")
        if one.adapter and one.name != first.name:
            raise RmxError(f"{one.adapter} is on {one.name}, not on {first.name}. Evaluate it against its own base.")
        if one.adapter:
            adapters.append(one.adapter)
        elif one.name != first.name:
            teachers.append(one.name)
    return first, adapters, teachers
