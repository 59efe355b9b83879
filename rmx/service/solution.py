"""Verbs about one solution: solve, swap, and measure what it hangs on."""

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rmx.config import TOP_SHOWN, Sampling
from rmx.data.problem_sets import find_problem
from rmx.errors import ProblemError, PromptError, SwapError
from rmx.explore.answer_so_far import sofar
from rmx.explore.branches import Branch
from rmx.explore.calibration import calibration_of, threshold_of
from rmx.explore.generate import Job, read_job
from rmx.explore.importance import Importance, importance
from rmx.explore.outcomes import OutcomeConfig, Outcomes, outcomes
from rmx.explore.rescue import Rescue, RescueConfig, rescue
from rmx.explore.swap import swap_job
from rmx.models.load import Model
from rmx.records import Trace, shown_adapter
from rmx.service.arguments import swaps_of
from rmx.service.requests import (
    DrawnRequest,
    ExportRequest,
    OutcomesRequest,
    RescueRequest,
    ShiftsRequest,
    SofarRequest,
    SolutionRequest,
    SwapRequest,
    TraceRequest,
)
from rmx.service.verb import INTERVAL, NEW_TOKENS, Cancelled, Document, Site, without
from rmx.trees.document import read_tree, tree_document
from rmx.trees.tree_page import entropy_svg, tokens_csv, tree_html

Steps = Iterator[Document]


def trace(request: TraceRequest, site: Site, cancelled: Cancelled) -> Steps:
    """One solution with the distribution behind every token."""
    model, job = prepare(request, site)
    found = yield from written(model, job, cancelled, cut_to(request.top))
    yield _documents(request, site, [found])[0]


def swap(request: SwapRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The unswapped solution first, then one for each swap, which applies to the one before."""
    cut = cut_to(request.top)
    yield _documents(request, site, (yield from _swapped(request, site, cancelled, swaps_of(request.swaps), cut)))


def export(request: ExportRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The solution and its branches as a file."""
    swaps = swaps_of(request.swaps) if request.swaps else ()
    traces = yield from _swapped(request, site, cancelled, swaps, cut_to(TOP_SHOWN))
    about = asked(request, site, traces)
    tree = read_tree(json.dumps([one.json() | about for one in traces]))
    tree = replace(tree, title=request.title) if request.title else tree
    kind, shown = request.format, tree.tokens(tree.shown)
    if kind in ("html", "json"):
        text = tree_html(tree) if kind == "html" else json.dumps(tree_document(tree), ensure_ascii=False)
    else:
        title = tree.title or tree.model
        text = entropy_svg(shown, tree.tau, title) if kind == "svg" else tokens_csv(shown, tree.tau)
    yield {"name": f"solution.{kind}", "mime": MIME[kind], "text": text}


MIME = {"html": "text/html", "json": "application/json", "svg": "image/svg+xml", "csv": "text/csv"}
Swaps = Sequence[tuple[int, int]]  # position and token id


def _swapped(
    request: DrawnRequest,
    site: Site,
    cancelled: Cancelled,
    swaps: Swaps,
    cut: Callable[[dict[str, Any]], dict[str, Any]],
) -> Generator[Document, None, list[Trace]]:
    """The solution, and the branch of each swap as far as it is not cancelled."""
    if site.limits is not None and len(swaps) > site.limits.swaps:
        raise SwapError(f"{len(swaps)} swaps are too many; {site.limits.swaps} are the most here.")
    model, job = prepare(request, site)
    found = [(yield from written(model, job, cancelled, cut, {"branch": 0}))]
    for pos, token_id in swaps:
        if cancelled():
            break
        job = swap_job(job, found[-1].tokens, pos, [token_id], model.engine.vocab_size)
        found.append((yield from written(model, job, cancelled, cut, {"branch": len(found)})))
    return found


# -- from a request to a solution -------------------------------------------------------------------------------------


def prepare(request: SolutionRequest, site: Site) -> tuple[Model, Job]:
    """The loaded model and the job of the unswapped solution.

    Raises:
        RmxError: any mistake in the request, in a sentence.
    """
    sampling = Sampling(max_new_tokens=new_tokens(request.max_new_tokens, site))
    if isinstance(request, DrawnRequest):
        sampling = replace(sampling, temperature=request.temperature, top_p=request.top_p, seed=request.seed)
    cold = isinstance(request, DrawnRequest) and request.cold
    model = _model(request, site)
    adapter = site.workspace.adapter(model, site.adapter_name(request.adapter, request.model))
    prompt_ids, known = _prompt(request, model)
    tau = threshold_of(model, request.tau, _share(request), request.set, site.recalibrate)
    if isinstance(request, TraceRequest) and request.read is not None:
        return model, replace(read_job(model, prompt_ids, request.read, tau, known), adapter=adapter, cold=cold)
    return model, Job(prompt_ids, sampling, tau, adapter, known, cold=cold)


def _share(request: SolutionRequest) -> float | None:
    """The share of tokens that shall be forks, where a threshold is worked out from one."""
    return request.tau_share if isinstance(request, TraceRequest | SwapRequest) else None


def new_tokens(asked: int | None, site: Site) -> int:
    """How long a completion may become."""
    return site.at_most(asked, NEW_TOKENS, "max_new_tokens")


def _model(request: SolutionRequest, site: Site) -> Model:
    """The model that is asked, in the style that the request and its set want."""
    spec, name = site.model_name(request.model), site.set_name(request.set)
    asked_set = None if request.problem is None else name
    return site.workspace.model(spec).ask_in(request.style_options(), asked_set, request.raw)


def _prompt(request: SolutionRequest, model: Model) -> tuple[tuple[int, ...], str | None]:
    """The ids of the prompt, and the known answer."""
    ids = request.prompt_ids if isinstance(request, TraceRequest | SwapRequest) else None
    if sum(x is not None for x in (request.prompt, request.problem, ids)) != 1:
        raise PromptError("Give exactly one of: a PROMPT, --problem ID, --prompt-ids FILE.")
    return (tuple(ids), request.answer) if ids is not None else prompt_of(request, model)


def prompt_of(request: SolutionRequest | ShiftsRequest, model: Model) -> tuple[tuple[int, ...], str | None]:
    """The ids of a request's prompt or problem, whichever it has, and the known answer."""
    if request.problem is None:
        return model.prompt_ids(request.prompt or "", request.raw), request.answer
    if request.answer is not None:
        raise ProblemError("--answer belongs to a free PROMPT; a problem brings its own answer.")
    problem = find_problem(request.set, request.problem)
    return model.prompt_ids(problem.problem, request.raw), problem.answer


def written(
    model: Model,
    job: Job,
    cancelled: Cancelled,
    cut: Callable[[dict[str, Any]], dict[str, Any]] = lambda token: token,
    about: Mapping[str, Any] | None = None,
) -> Generator[Document, None, Trace]:
    """Generate, with deltas of new tokens a few times a second; returns the solution, or as much of it as there is."""
    run = Branch(model, job, prompt="", tree="")
    sent, told, due = len(job.kept), 0, 0.0
    for count in run.steps():
        if cancelled():
            run.halt()
        if not count and run.waiting != told:
            told = run.waiting
            yield {**(about or {}), "waiting": told}
        if count > sent and time.monotonic() >= due:
            yield {**(about or {}), "start": sent, "tokens": [cut(t.json(job.tau)) for t in run.tokens[sent:count]]}
            sent, due = count, time.monotonic() + INTERVAL
    assert run.trace is not None
    return run.trace


# -- documents --------------------------------------------------------------------------------------------------------


def cut_to(top: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What leaves `top` alternatives of a token's document."""
    return lambda token: token | {"top": token["top"][:top]}


def _documents(request: TraceRequest | SwapRequest, site: Site, traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The documents of traces; with `brief` their text, and only the tokens that matter."""
    about, found, cut = asked(request, site, traces), [], cut_to(request.top)
    for one in traces:
        document = one.json() | about
        if request.brief:
            document["tokens"] = [t for t in document["tokens"] if t["fork"] or t["forced"]]
            kept = without(document, "prompt_ids", "prompt", "special")
            document = {"text": one.text, "length": len(one.tokens)} | kept
        found.append(document | {"tokens": [cut(t) for t in document["tokens"]]})
    return found


def asked(request: DrawnRequest, site: Site, traces: Sequence[Trace]) -> dict[str, Any]:
    """What a trace does not hold itself, for its document: prompt, problem, known answer, limit, special tokens.

    Raises:
        RmxError: any mistake in the request, in a sentence.
    """
    model = _model(request, site)
    ids, known = _prompt(request, model)
    title = request.prompt if request.problem is None else find_problem(request.set, request.problem).problem
    said = {t.id for trace in traces for t in trace.tokens}
    special = sorted(said & model.detokenizer.special_ids)
    found: dict[str, Any] = {"title": title, "known": known, "prompt": model.detokenizer.text(ids), "special": special}
    if (share := _share(request)) is not None:
        found["calibration"] = calibration_of(model, share, request.set).json()
    if isinstance(request, TraceRequest) and request.read is not None:
        return found
    return found | {"max_new_tokens": new_tokens(request.max_new_tokens, site)}


# -- what a solution hangs on -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeasuredSolution:
    """The solution that is measured."""

    model: Model
    trace: Trace
    known: str | None

    def json(self) -> dict[str, Any]:
        """What every document begins with: enough to make the same solution again."""
        trace = self.trace
        return {
            "model": trace.model,
            "adapter": shown_adapter(trace.adapter),
            "revision": trace.revision,
            "dtype": trace.dtype,
            "tau": trace.tau,
            "prompt_ids": list(trace.prompt_ids),
            "style": trace.style.json() if trace.style else None,
            "solution": trace.text,
            "answer_before": trace.answer.json(),
            "known": self.known,
        }


def solve(request: SolutionRequest, site: Site, cancelled: Cancelled) -> Generator[Document, None, MeasuredSolution]:
    """The greedy solution that is measured, with the deltas of its tokens."""
    model, job = prepare(request, site)
    return MeasuredSolution(model, (yield from written(model, job, cancelled)), job.known)


def measure_outcomes(request: OutcomesRequest, site: Site, cancelled: Cancelled) -> Steps:
    """What the alternatives of a position are worth, or without one those of all forks."""
    config = _outcome_config(request, site)
    solved = yield from solve(request, site, cancelled)
    model, found, known = solved.model, solved.trace, solved.known
    if request.pos is None:
        states: Iterator[Any] = importance(model, found, config, known=known, forks=request.forks, cancelled=cancelled)
    else:
        states = outcomes(model, found, request.pos, config, known=known, cancelled=cancelled)
    state: Outcomes | Importance = yield from site.last(
        states, lambda s: {"tokens_spent": s.tokens_spent, "budget": config.budget}
    )
    yield _shown(request, outcomes_json(solved, config, state))


def outcomes_json(solved: MeasuredSolution, config: OutcomeConfig, found: Outcomes | Importance) -> dict[str, Any]:
    """The document of either form of `rmx outcomes`."""
    draws = {"seed": config.seed, "temperature": config.temperature, "top_p": config.top_p}
    return solved.json() | draws | found.json()


def _outcome_config(request: OutcomesRequest, site: Site) -> OutcomeConfig:
    samples, budget = (24, 200_000) if request.pos is None else (64, 50_000)
    return OutcomeConfig(
        samples=samples if request.samples is None else request.samples,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        budget=site.at_most(request.budget, budget, "budget"),
        max_new_tokens=new_tokens(request.max_new_tokens, site),
    )


def measure_rescue(request: RescueRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The fewest swaps that turn the answer."""
    most = new_tokens(request.max_new_tokens, site)
    config = RescueConfig(request.goal, request.budget, request.most_swaps, seed=request.seed, max_new_tokens=most)
    solved = yield from solve(request, site, cancelled)
    states = rescue(solved.model, solved.trace, config, known=solved.known, cancelled=cancelled)
    state: Rescue = yield from site.last(states, lambda s: {"at": s.tried, "stage": s.sentence})
    yield _shown(request, rescue_json(solved, config, state))


def rescue_json(solved: MeasuredSolution, config: RescueConfig, found: Rescue) -> dict[str, Any]:
    """The document of `rmx rescue`."""
    return solved.json() | {"seed": config.seed} | found.json()


def measure_sofar(request: SofarRequest, site: Site, cancelled: Cancelled) -> Steps:
    """The answer at the end of each sentence."""
    solved = yield from solve(request, site, cancelled)
    states = sofar(solved.model, solved.trace, known=solved.known, cancelled=cancelled)
    state = yield from site.last(states, lambda s: {"at": len(s.points), "of": s.of})
    yield _shown(request, solved.json() | state.json())


def _shown(request: OutcomesRequest | RescueRequest | SofarRequest, found: dict[str, Any]) -> dict[str, Any]:
    return without(found, "prompt_ids") if request.brief else found
