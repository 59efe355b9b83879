"""Verbs about training: rollouts, and runs that are started, stopped, resumed and looked at."""

from collections.abc import Iterator
from typing import Any

from rmx.engine.remote import NOT_HERE
from rmx.errors import ModelError, Refused, cut_paths
from rmx.recipes.job import TrainJob, changed_recipe, problems_of
from rmx.recipes.recipe import PRESETS, Recipe, field_types
from rmx.records import Rollout
from rmx.runs.folder import RunFolder
from rmx.runs.store import row
from rmx.service.checks import Cancelled, Document, RunControl, Site, without
from rmx.service.requests import SAMPLING, RunRequest, TrainingRequest, TrainResumeRequest, TrainStatusRequest
from rmx.train.data_stages import rollout_figures
from rmx.train.rollouts import sample_rollouts, to_row

LISTED = 200  # runs


def train_status(request: TrainStatusRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """How the training runs stand, without the paths of this machine."""
    if request.run is None:
        yield without_folders({"runs": [row(folder) for folder in site.store.all()[:LISTED]]})
        return
    folder = site.store.get(request.run)
    found: dict[str, Any] = {"run": row(folder), "status": folder.status}
    if not request.brief:
        found["files"] = folder.files()
        found |= {"sweep": folder.sweep} if folder.sweep else {}
        readable = found["run"]["state"] != "unreadable"
        found["config"] = without(folder.config, "pins") if readable else None
    yield without_folders(found)


def train(request: Any, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Start a run in a process of its own, or in the queue where others go first."""
    job = job_of(request, site, PRESETS[request.preset], request.preset)
    yield _stands(_control(site).start(job, request.dry_run))


def train_stop(request: RunRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Ask a run to end at its next step."""
    _control(site).stop(request.run)
    yield _stands(site.store.get(request.run))


def train_resume(request: TrainResumeRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Go on with a run."""
    _control(site).resume(request.run, request.tau)
    yield _stands(site.store.get(request.run))


def job_of(request: TrainingRequest, site: Site, recipe: Recipe, preset: str = "paper") -> TrainJob:
    """The job that a request describes; its recipe is the preset's, but for what the request names."""
    asked = {name: getattr(request, name, None) for name in field_types()}
    changed = {name: value for name, value in asked.items() if value is not None}
    model, name = site.model_name(request.model), site.set_name(request.set)
    return TrainJob(model, name, changed_recipe(recipe, changed), preset, style=request.style_options())


def rollouts(request: TrainingRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Sample and grade; the rows come with the counts."""
    usual = Recipe()
    fitting = {name: site.at_most(None, usual.flat()[name], limit) for name, limit in SAMPLING.items()}
    job = job_of(request, site, usual.with_(**fitting))
    model = site.workspace.model(job.model).ask_in(job.style, job.set_name)
    if model.engine.remote is not None:
        raise ModelError(NOT_HERE)
    problems, config = problems_of(job).train, job.recipe.rollouts
    made = list[Rollout]()

    def sampled() -> Iterator[int]:
        for one in sample_rollouts(model, problems, config, job.recipe.seed, {}, cancelled=cancelled):
            made.append(one)
            yield len(made)

    yield from site.last(sampled(), lambda at: {"at": at, "of": len(problems) * config.k})
    figures = rollout_figures(made, len(problems), config.k)
    yield figures if getattr(request, "brief", False) else figures | {"rows": [to_row(one) for one in made]}


def _control(site: Site) -> RunControl:
    if site.runs is None:
        raise Refused("Runs are not started here. Use the page of the app, or rmx train.")
    return site.runs


def _stands(folder: RunFolder) -> Document:
    return without_folders({"run": row(folder), "status": folder.status})


def without_folders(value: Any) -> Any:
    """The same with every absolute path of this machine cut down to its last part."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    return cut_paths(value) if isinstance(value, str) else value
