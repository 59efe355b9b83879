"""Verbs about one solution: solve, swap, and measure what it hangs on."""

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from rmx.arguments import Sampling
from rmx.config import NEW_TOKENS, TOP_KEPT, TOP_SHOWN
from rmx.data.problem_sets import find_problem
from rmx.errors import ProblemError, PromptError, SwapError
from rmx.explore.calibration import calibration_of, threshold_of
from rmx.explore.generate import Branch, Job, read_job, swap_job
from rmx.explore.greedy_answers import sofar
from rmx.explore.outcomes import USUAL, Importance, OutcomeConfig, Outcomes, importance, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.models.load import Model
from rmx.records import Trace, as_json, shown_adapter
from rmx.service import requests
from rmx.service.checks import INTERVAL, Cancelled, Document, Site, swaps_of, without
from rmx.service.requests import DrawnRequest, SolutionRequest
from rmx.trees.document import read_tree
from rmx.trees.tree_page import tree_texts

Steps = Iterator[Document]


def trace(request: requests.TraceRequest, site: Site, cancelled: Cancelled) -> Steps:
    """One solution with the distribution behind every token."""
    model, job = prepare(request, site)
    found = yield from written(model, job, cancelled, request.top)
    yield _documents(request, model, job, [found])[0]


def swap(request: requests.SwapRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The unswapped solution first, then one for each swap, which applies to the one before."""
    yield _documents(request, *(yield from _swapped(request, site, cancelled, swaps_of(request.swaps), request.top)))


def export(request: requests.ExportRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The solution and its branches as a file."""
    swaps = swaps_of(request.swaps) if request.swaps else ()
    model, job, traces = yield from _swapped(request, site, cancelled, swaps, TOP_SHOWN)
    about = asked(request, model, job, traces)
    tree = read_tree(json.dumps([one.json() | about for one in traces]))
    tree = replace(tree, title=request.title) if request.title else tree
    kind = request.format
    yield {"name": f"solution.{kind}", "mime": MIME[kind], "text": tree_texts(tree)[kind]()}


MIME = {"html": "text/html", "json": "application/json", "svg": "image/svg+xml", "csv": "text/csv"}


def _swapped(
    request: DrawnRequest, site: Site, cancelled: Cancelled, swaps: Sequence[tuple[int, int]], top: int
) -> Generator[Document, None, tuple[Model, Job, list[Trace]]]:
    """The model, its job, and the solution with the branch of each swap (position, token id) until it is cancelled."""
    if site.limits is not None and len(swaps) > site.limits.swaps:
        raise SwapError(f"{len(swaps)} swaps are too many; {site.limits.swaps} are the most here.")
    model, job = prepare(request, site)
    found = [(yield from written(model, job, cancelled, top, {"branch": 0}))]
    for pos, token_id in swaps:
        if cancelled():
            break
        job = swap_job(job, found[-1].tokens, pos, [token_id], model.engine.vocab_size)
        found.append((yield from written(model, job, cancelled, top, {"branch": len(found)})))
    return model, job, found


# -- from a request to a solution -------------------------------------------------------------------------------------


def prepare(request: SolutionRequest, site: Site) -> tuple[Model, Job]:
    """The loaded model and the job of the unswapped solution."""
    sampling, cold = Sampling(max_new_tokens=new_tokens(request.max_new_tokens, site)), False
    if isinstance(request, DrawnRequest):
        sampling = replace(sampling, **as_json(request, "temperature", "top_p", "seed"))
        cold = request.cold
    ids, text, share = (getattr(request, field, None) for field in ("prompt_ids", "read", "tau_share"))
    spec, name = site.model_name(request.model), site.set_name(request.set)
    asked_set = None if request.problem is None else name
    model = site.workspace.model(spec).ask_in(request.style_options(), asked_set, request.raw)
    adapter = site.workspace.adapter(model, site.adapter_name(request.adapter, request.model))
    if sum(x is not None for x in (request.prompt, request.problem, ids)) != 1:
        raise PromptError("Give exactly one of: a PROMPT, --problem ID, --prompt-ids FILE.")
    prompt_ids, known = prompt_of(request, model) if ids is None else (tuple(ids), request.answer)
    tau = threshold_of(model, request.tau, share, request.set, site.recalibrate)
    if text is not None:
        return model, replace(read_job(model, prompt_ids, text, tau, known), adapter=adapter, cold=cold)
    return model, Job(prompt_ids, sampling, tau, adapter, known, cold=cold)


def new_tokens(asked: int | None, site: Site) -> int:
    """How long a completion may become."""
    return site.at_most(asked, NEW_TOKENS, "max_new_tokens")


def prompt_of(request: SolutionRequest | requests.ShiftsRequest, model: Model) -> tuple[tuple[int, ...], str | None]:
    """The ids of a request's prompt or problem, whichever it has, and the known answer."""
    if request.problem is None:
        return model.prompt_ids(request.prompt or "", request.raw), request.answer
    if request.answer is not None:
        raise ProblemError("--answer belongs to a free PROMPT; a problem brings its own answer.")
    problem = find_problem(request.set, request.problem)
    return model.prompt_ids(problem.problem, request.raw), problem.answer


def written(
    model: Model, job: Job, cancelled: Cancelled, top: int = TOP_KEPT, about: Mapping[str, Any] = MappingProxyType({})
) -> Generator[Document, None, Trace]:
    """Generate, with deltas of new tokens a few times a second; returns the solution, or as much of it as there is."""
    run = Branch(model, job, prompt="", tree="")
    sent, waiting, due = len(job.kept), 0, 0.0
    for count in run.steps():
        if cancelled():
            run.halt()
        if not count and run.waiting != waiting:
            waiting = run.waiting
            yield {**about, "waiting": waiting}
        if count > sent and time.monotonic() >= due:
            tokens = [_cut(token.json(job.tau), top) for token in run.tokens[sent:count]]
            yield {**about, "start": sent, "tokens": tokens}
            sent, due = count, time.monotonic() + INTERVAL
    assert run.trace is not None
    return run.trace


# -- documents --------------------------------------------------------------------------------------------------------


def _cut(token: dict[str, Any], top: int) -> dict[str, Any]:
    """A token's document with the likeliest `top` of its alternatives."""
    return token | {"top": token["top"][:top]}


def _documents(
    request: requests.TraceRequest | requests.SwapRequest, model: Model, job: Job, traces: Sequence[Trace]
) -> list[dict[str, Any]]:
    """The documents of traces; with `brief` their text, and only the tokens that matter."""
    about, found = asked(request, model, job, traces), []
    for one in traces:
        document = one.json() | about
        if request.brief:
            document["tokens"] = [t for t in document["tokens"] if t["fork"] or t["forced"]]
            kept = without(document, "prompt_ids", "prompt", "special")
            document = {"text": one.text, "length": len(one.tokens)} | kept
        found.append(document | {"tokens": [_cut(token, request.top) for token in document["tokens"]]})
    return found


def asked(request: DrawnRequest, model: Model, job: Job, traces: Sequence[Trace]) -> dict[str, Any]:
    """What a trace does not hold itself, for its document: prompt, problem, known answer, limit, special tokens."""
    title = request.prompt if request.problem is None else find_problem(request.set, request.problem).problem
    said = {t.id for trace in traces for t in trace.tokens}
    special = sorted(said & model.detokenizer.special_ids)
    prompt = model.detokenizer.text(job.prompt_ids)
    found: dict[str, Any] = {"title": title, "known": job.known, "prompt": prompt, "special": special}
    if (share := getattr(request, "tau_share", None)) is not None:
        found["calibration"] = calibration_of(model, share, request.set).json()
    is_read = getattr(request, "read", None) is not None
    return found if is_read else found | {"max_new_tokens": job.sampling.max_new_tokens}


# -- what a solution hangs on -----------------------------------------------------------------------------------------


def solution_json(trace: Trace, known: str | None) -> dict[str, Any]:
    """What every document about a solution begins with: enough to make the same solution again."""
    who = {"model": trace.model, "adapter": shown_adapter(trace.adapter)}
    how = as_json(trace, "revision", "dtype", "tau", "prompt_ids", "style")
    return who | how | {"solution": trace.text, "answer_before": trace.answer.json(), "known": known}


def _solve(
    request: SolutionRequest, site: Site, cancelled: Cancelled
) -> Generator[Document, None, tuple[Model, Trace, str | None]]:
    """The greedy solution that is measured, with the deltas of its tokens."""
    model, job = prepare(request, site)
    return model, (yield from written(model, job, cancelled)), job.known


def measure_outcomes(request: requests.OutcomesRequest, site: Site, cancelled: Cancelled) -> Steps:
    """What the alternatives of a position are worth, or without one those of all forks."""
    usual = USUAL if request.pos is None else OutcomeConfig()
    samples = usual.samples if request.samples is None else request.samples
    most, budget = new_tokens(request.max_new_tokens, site), site.at_most(request.budget, usual.budget, "budget")
    draws = as_json(request, "temperature", "top_p", "seed")
    config = replace(usual, samples=samples, budget=budget, max_new_tokens=most, **draws)
    model, found, known = yield from _solve(request, site, cancelled)
    if request.pos is None:
        states: Iterator[Any] = importance(model, found, config, known=known, forks=request.forks, cancelled=cancelled)
    else:
        states = outcomes(model, found, request.pos, config, known=known, cancelled=cancelled)
    state = yield from site.last(states, lambda s: {"tokens_spent": s.tokens_spent, "budget": config.budget})
    document = outcomes_json(found, known, config, state)
    yield without(document, "prompt_ids") if request.brief else document


def outcomes_json(
    trace: Trace, known: str | None, config: OutcomeConfig, found: Outcomes | Importance
) -> dict[str, Any]:
    """The document of either form of `rmx outcomes`."""
    return solution_json(trace, known) | as_json(config, "seed", "temperature", "top_p") | found.json()


def measure_rescue(request: requests.RescueRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The fewest swaps that turn the answer."""
    most = new_tokens(request.max_new_tokens, site)
    config = RescueConfig(request.goal, request.budget, request.most_swaps, seed=request.seed, max_new_tokens=most)
    model, solved, known = yield from _solve(request, site, cancelled)
    states = rescue(model, solved, config, known=known, cancelled=cancelled)
    state = yield from site.last(states, lambda s: {"at": s.tried, "stage": s.sentence})
    document = solution_json(solved, known) | {"seed": config.seed} | state.json()
    yield without(document, "prompt_ids") if request.brief else document


def measure_sofar(request: requests.SofarRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The answer at the end of each sentence."""
    model, solved, known = yield from _solve(request, site, cancelled)
    states = sofar(model, solved, known=known, cancelled=cancelled)
    state = yield from site.last(states, lambda s: {"at": len(s.points), "of": s.of})
    document = solution_json(solved, known) | state.json()
    yield without(document, "prompt_ids") if request.brief else document
