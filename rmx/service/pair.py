"""Verbs about a base and an adapted model: where they part, and what patching the one with the other does."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rmx.compare.intervene_set import InterveneSet, check_arms
from rmx.compare.pair_options import PairOptions, map_document
from rmx.compare.shift_map import MapJob, ShiftMap
from rmx.compare.shift_set import ShiftSet
from rmx.config import Sampling
from rmx.errors import PromptError, RmxError
from rmx.models.model_pair import Pair
from rmx.service.requests import ClaimsRequest, ComparingRequest, InterveneRequest, ShiftsRequest
from rmx.service.solution import new_tokens, prompt_of
from rmx.service.verb import INTERVAL, Cancelled, Document, Site, without
from rmx.storage.line_store import LineStore

PATCHED = 20  # problems of an intervention that names no number


def pair_options(request: ComparingRequest | ClaimsRequest, site: Site) -> PairOptions:
    """The pair and the problems that are asked for."""
    return PairOptions(
        model=site.model_name(request.model),
        adapter=site.adapter_name(request.adapter, request.model),
        teacher=site.model_name(request.teacher) if request.teacher else None,
        preset=request.pair or None,
        strength=request.strength if isinstance(request, ComparingRequest) else 1.0,
        tau=request.tau,
        tau_share=request.tau_share,
        recalibrate=site.recalibrate,
        seed=request.seed,
        max_new_tokens=new_tokens(request.max_new_tokens, site),
        set_name=site.set_name(request.set),
        limit=request.limit,
        style=request.style_options(),
    )


# -- shifts -----------------------------------------------------------------------------------------------------------


def shifts(request: ShiftsRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
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


def _one(request: ShiftsRequest, options: PairOptions, site: Site, cancelled: Cancelled) -> Iterator[Document]:
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


def _job(request: ShiftsRequest, options: PairOptions, pair: Pair) -> MapJob:
    """What to map: a prompt, and whose completion of it."""
    if (request.prompt is None) == (request.problem is None):
        raise PromptError(
            "Give exactly one of: a PROMPT, --problem ID, or --limit N for the first N problems of --set."
        )
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


def intervene(request: InterveneRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
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
