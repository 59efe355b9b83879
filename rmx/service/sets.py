"""Verbs about a problem set: accuracy, the paper's claims, and what the gate finds of the tokens that decide."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rmx.claims.ask import ClaimOptions
from rmx.claims.board import Board
from rmx.claims.registry import chosen
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError
from rmx.evaluate.contestants import EvalConfig, contestants_of, with_answers
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.regrade import Regrading
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.calibration import calibration_of, threshold_of
from rmx.explore.gate_recall import Locator, LocatorConfig
from rmx.service.pair import pair_options
from rmx.service.requests import ClaimsRequest, EvalRequest, LocatorRequest, RegradeRequest
from rmx.service.solution import new_tokens
from rmx.service.verb import Cancelled, Document, Site, without
from rmx.storage.line_store import LineStore

FIRST = 100  # problems of a study that names no number
BUDGET = 200_000  # tokens of a study that names none
EVALUATED = 2048  # tokens of a completion


def locate(request: LocatorRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """What the gate finds of the tokens that decide."""
    most, budget = new_tokens(request.max_new_tokens, site), site.at_most(request.budget, BUDGET, "budget")
    config = LocatorConfig(request.samples, seed=request.seed, budget=budget, max_new_tokens=most)
    name, spec = site.set_name(request.set), site.model_name(request.model)
    problems = load_set(name)[: site.at_most(request.limit, FIRST, "problems")]
    model = site.workspace.model(spec).ask_in(request.style_options(), name)
    adapter = site.workspace.adapter(model, site.adapter_name(request.adapter, request.model))
    tau = threshold_of(model, request.tau, request.tau_share, name, site.recalibrate)
    store = LineStore(keep=site.keep)
    report = yield from site.last(
        iter(Locator(model, problems, tau, config, name, cancelled, adapter, store=store)),
        lambda r: {"at": r.problems, "of": r.of, "tokens_spent": r.tokens_spent},
    )
    found = report.json() | {"dtype": model.dtype, "adapter": request.adapter, "style": model.style.json()}
    share = request.tau_share
    found["calibration"] = None if share is None else calibration_of(model, share, name).json()
    yield without(found, "places") if request.brief else found


def measure_claims(request: ClaimsRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """A row for each claim."""
    wanted = chosen(tuple(i.strip() for i in (request.only or "").split(",") if i.strip()))
    pair = replace(pair_options(request, site), limit=site.at_most(request.limit, FIRST, "problems"))
    options = ClaimOptions(pair, request.n, site.at_most(request.budget, BUDGET, "budget"))
    subject = replace(
        options.subject(site.workspace), store=SampleStore(keep=site.keep), private_runs=site.workspace.policy.public
    )
    report = yield from site.last(
        iter(Board(subject, wanted, cancelled)), lambda r: {"study": r.does, "at": r.at, "of": r.of}
    )
    yield report.json()


def evaluate(request: EvalRequest, site: Site, cancelled: Cancelled) -> Iterator[Document]:
    """Accuracy of the models, side by side."""
    again = isinstance(request, RegradeRequest)
    if again and not site.keep:
        raise RmxError("--regrade reads what is kept, and --no-cache keeps nothing. Leave one of them out.")
    most = site.at_most(request.max_new_tokens, EVALUATED, "max_new_tokens")
    draws = request.temperature, request.top_p, request.seed
    config = EvalConfig(request.n, tuple(request.k or ()), *draws, most, request.greedy)
    name, spec = site.set_name(request.set), site.model_name(request.model)
    limit = request.limit if site.limits is None else site.at_most(request.limit, site.limits.problems, "problems")
    problems = with_answers(name, limit)
    adapters = [site.adapter_name(one, request.model) or "" for one in request.adapter or ()]
    teachers = [site.model_name(one) for one in request.teacher or ()]
    contestants = contestants_of(site.workspace, spec, adapters, teachers, request.style_options(), name)
    run = (Regrading if again else Evaluation)(
        contestants, problems, config, name, store=SampleStore(keep=site.keep)
    ).run(cancelled)
    report = yield from site.last(run, lambda r: {"at": r.at, "of": r.of, "known_before": r.cached})
    found: dict[str, Any] = {} if report is None else report.json()
    yield without(found, "per_problem") if request.brief else found
