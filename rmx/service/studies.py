"""Verbs about a pair of models, a problem set or training runs."""

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rmx.arguments import Sampling
from rmx.claims.board import CLAIMS, Board, chosen
from rmx.claims.studies import ClaimOptions
from rmx.compare.intervene_set import InterveneSet, check_arms
from rmx.compare.shift_map import MapJob, PairOptions, ShiftMap, map_document
from rmx.compare.shift_set import ShiftSet
from rmx.data.problem_sets import load_set
from rmx.errors import NOT_HERE, ModelError, PromptError, Refused, RmxError, cut_paths
from rmx.evaluate.eval_report import EvalConfig, contestants_of, with_answers
from rmx.evaluate.evaluation import Evaluation, Regrading
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.calibration import calibration_of, threshold_of
from rmx.explore.gate_recall import Locator, LocatorConfig
from rmx.models.model_pair import Pair
from rmx.models.style_options import StyleOptions
from rmx.records import Rollout, as_json
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob, changed_recipe, problems_of
from rmx.runs.recipe import PRESETS, Recipe, field_types
from rmx.runs.store import row
from rmx.service import requests, write_command
from rmx.service.checks import INTERVAL, Cancelled, Document, RunControl, Site, without
from rmx.service.requests import SAMPLING, RunRequest, TrainingRequest, TrainResumeRequest, TrainStatusRequest
from rmx.service.solution import new_tokens, prompt_of
from rmx.storage.safe_files import LineStore
from rmx.train.data_stages import rollout_figures
from rmx.train.rollouts import sample_rollouts, to_row

PATCHED = 20  # problems of an intervention that names no number


def pair_options(request: requests.ComparingRequest | requests.ClaimsRequest, site: Site) -> PairOptions:
    """The pair and the problems that are asked for."""
    return PairOptions(
        model=site.model_name(request.model),
        adapter=site.adapter_name(request.adapter, request.model),
        teacher=site.model_name(request.teacher) if request.teacher else None,
        preset=request.pair or None,
        strength=request.strength if isinstance(request, requests.ComparingRequest) else 1.0,
        recalibrate=site.recalibrate,
        max_new_tokens=new_tokens(request.max_new_tokens, site),
        set_name=site.set_name(request.set),
        **as_json(request, "tau", "tau_share", "seed", "limit"),
        style=request.style_options(),
    )


# -- shifts -----------------------------------------------------------------------------------------------------------


def shifts(request: requests.ShiftsRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Of one solution its tokens, of a set its shares."""
    options = pair_options(request, site)
    one = request.prompt is not None or request.problem is not None
    if one or (request.limit is None and site.limits is not None):
        yield from _one(request, options, site, cancelled)
        return
    if request.read is not None:
        raise RmxError("--read needs the PROMPT or --problem that the text answers.")
    pair, problems = options.pair(site.workspace), options.problems()
    tau, most, found = options.threshold(pair.base), options.max_new_tokens, options.calibration(pair.base)
    name, seed, store = options.set_name, options.seed, LineStore(keep=site.keep)
    run = ShiftSet(pair, name, problems, tau, most, request.placebo, seed, cancelled, found, store)
    report = yield from site.last(iter(run), lambda r: {"at": r.at, "of": r.of, "stage": r.stage})
    document: dict[str, Any] = report.json()
    yield without(document, "entropy_histogram") if request.brief else document


def _one(request: requests.ShiftsRequest, options: PairOptions, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """The map of one solution, with deltas of its tokens."""
    pair = options.pair(site.workspace, own=request.prompt is not None, raw=request.raw)
    run = ShiftMap(pair, _job(request, options, pair), cancelled)
    sent, due = 0, 0.0
    with run.pair.when_free(cancelled) as mine:
        for count, _ in enumerate(run.held() if mine else (), 1):
            if time.monotonic() >= due:
                tokens = [shift.json(run.job.tau, 0.0) for shift in run.shifts[sent:count]]
                yield {"start": sent, "tokens": tokens}
                sent, due = count, time.monotonic() + INTERVAL
    if cancelled() or not run.shifts:
        return
    found, calibration = map_document(run), options.calibration(pair.base)
    found |= {"calibration": calibration.json()} if calibration else {}
    if request.brief:
        text = "".join(shift.text for shift in run.shifts)
        parted = [t for t in found["tokens"] if t["class"] != "unshifted"]
        found = {"text": text} | without(found, "prompt_ids", "entropy_histogram") | {"tokens": parted}
    yield found


def _job(request: requests.ShiftsRequest, options: PairOptions, pair: Pair) -> MapJob:
    """What to map: a prompt, and whose completion of it."""
    if (request.prompt is None) == (request.problem is None):
        each = "a PROMPT, --problem ID, or --limit N for the first N problems of --set"
        raise PromptError(f"Give exactly one of: {each}.")
    ids, known = prompt_of(request, pair.base)
    sampling = Sampling(request.temperature, request.top_p, request.seed, options.max_new_tokens)
    job = MapJob(ids, sampling, options.threshold(pair.base), request.source, known)
    if request.read is None:
        return job
    text = tuple(pair.base.encode(request.read))
    if not text:
        raise PromptError("The text to read is empty. Give a solution.")
    return replace(job, source="text", read=text)


# -- interventions ----------------------------------------------------------------------------------------------------


def intervene(request: requests.InterveneRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """All arms over the problems."""
    arms = check_arms(tuple(a.strip() for a in request.arms.split(",") if a.strip()))
    options = pair_options(request, site)
    if options.limit is None and site.limits is not None:
        options = replace(options, limit=min(PATCHED, site.limits.problems))
    pair, problems = options.pair(site.workspace), options.problems()
    tau, most, found = options.threshold(pair.base), options.max_new_tokens, options.calibration(pair.base)
    name, seed, store = options.set_name, options.seed, LineStore(keep=site.keep)
    run = InterveneSet(pair, name, problems, arms, tau, seed, most, request.placebo, cancelled, found, store)
    report = yield from site.last(iter(run), lambda r: {"at": len(r.problems), "of": r.of})
    document = report.json()
    yield without(document, "problems") if request.brief else document


# -- a problem set -----------------------------------------------------------------------------------------------------


FIRST = 100  # problems of a study that names no number
BUDGET = 200_000  # tokens of a study that names none


def locate(request: requests.LocatorRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """What the gate finds of the tokens that decide."""
    most, budget = new_tokens(request.max_new_tokens, site), site.at_most(request.budget, BUDGET, "budget")
    config = LocatorConfig(request.samples, seed=request.seed, budget=budget, max_new_tokens=most)
    name, spec = site.set_name(request.set), site.model_name(request.model)
    problems = load_set(name)[: site.at_most(request.limit, FIRST, "problems")]
    model = site.workspace.model(spec).ask_in(request.style_options(), name)
    adapter = site.workspace.adapter(model, site.adapter_name(request.adapter, request.model))
    tau = threshold_of(model, request.tau, request.tau_share, name, site.recalibrate)
    store = LineStore(keep=site.keep)
    run = Locator(model, problems, tau, config, name, cancelled, adapter, store=store)
    report = yield from site.last(iter(run), lambda r: {"at": r.problems, "of": r.of, "tokens_spent": r.tokens_spent})
    found = report.json() | {"dtype": model.dtype, "adapter": request.adapter, "style": model.style.json()}
    share = request.tau_share
    found["calibration"] = None if share is None else calibration_of(model, share, name).json()
    yield without(found, "places") if request.brief else found


def measure_claims(request: requests.ClaimsRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """A row for each claim."""
    wanted = chosen(tuple(i.strip() for i in (request.only or "").split(",") if i.strip()))
    pair = replace(pair_options(request, site), limit=site.at_most(request.limit, FIRST, "problems"))
    options = ClaimOptions(pair, request.n, site.at_most(request.budget, BUDGET, "budget"))
    subject, store = options.subject(site.workspace), SampleStore(keep=site.keep)
    run = Board(replace(subject, store=store, private_runs=site.workspace.policy.public), wanted, cancelled)
    report = yield from site.last(iter(run), lambda r: {"study": r.does, "at": r.at, "of": r.of})
    yield report.json()


def claims_command(found: dict[str, Any], asked: Mapping[str, str | None]) -> str:
    """Write the command that makes a document of claims again.

    Args:
        asked: specs of model, adapter and teacher, the style's options and the budget, as the board's subject has them.
    """
    values: dict[str, Any] = {name: found[name] for name in ("set", "tau", "seed", "max_new_tokens")}
    values |= {name: asked.get(name) or None for name in ("adapter", "teacher")}
    values |= {"model": asked.get("model") or found["model"], "limit": found["n"], "n": found["samples"]}
    if asked.get("budget"):
        values["budget"] = int(asked["budget"] or 0)
    if len(found["rows"]) < len(CLAIMS):
        values["only"] = ",".join(row["id"] for row in found["rows"])
    request = requests.ClaimsRequest.model_construct(**values)
    return shlex.join([*write_command(request, StyleOptions()), *shlex.split(asked.get("style") or "")])


def evaluate(request: requests.EvalRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Accuracy of the models, side by side."""
    again = isinstance(request, requests.RegradeRequest)
    if again and not site.keep:
        raise RmxError("--regrade reads what is kept, and --no-cache keeps nothing. Leave one of them out.")
    most = site.at_most(request.max_new_tokens, EvalConfig().max_new_tokens, "max_new_tokens")
    draws = as_json(request, "n", "temperature", "top_p", "seed", "greedy")
    config = EvalConfig(k=tuple(request.k or ()), max_new_tokens=most, **draws)
    name, spec = site.set_name(request.set), site.model_name(request.model)
    limit = request.limit if site.limits is None else site.at_most(request.limit, site.limits.problems, "problems")
    problems = with_answers(name, limit)
    adapters = [site.adapter_name(one, request.model) or "" for one in request.adapter or ()]
    teachers = [site.model_name(one) for one in request.teacher or ()]
    contestants = contestants_of(site.workspace, spec, adapters, teachers, request.style_options(), name)
    run = (Regrading if again else Evaluation)(contestants, problems, config, name, store=SampleStore(keep=site.keep))
    report = yield from site.last(run.run(cancelled), lambda r: {"at": r.at, "of": r.of, "known_before": r.cached})
    found: dict[str, Any] = {} if report is None else report.json()
    yield without(found, "per_problem") if request.brief else found


# -- Training runs ----------------------------------------------------------------------------------------------------


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
