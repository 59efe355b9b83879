"""Long jobs on a public site: how many run at once, how large they may be, when they end, which plans are admitted."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from rmx.arguments import MOST_SAMPLES
from rmx.claims.studies import ClaimOptions
from rmx.compare.shift_map import PairOptions
from rmx.data.problem_sets import load_set
from rmx.engine.fair_queue import Kind, RequestOwner, as_owner, current_owner
from rmx.errors import Busy, Refused, RmxError
from rmx.models.site_rules import SiteRules
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.runs.job import TrainJob
from rmx.runs.recipe import PRESETS
from rmx.runs.store import RunStore
from rmx.service import Site
from rmx.train.probe import LONGEST, TRAINED, probe
from rmx.ui.endpoints import STUDIES as COUNTED
from rmx.ui.endpoints import work
from rmx.ui.jobs.claims_jobs import Claims
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.evaluator import UNSEEN, EvalJob, Evaluator
from rmx.ui.jobs.page_jobs import EVALUATIONS, SET_RUNS, JobLimits, PageJob
from rmx.ui.jobs.training import FREE, MICRO_BATCH, MOST_PROBED, Training
from rmx.ui.settings import Settings
from rmx.ui.tabs.compare_tab import ClaimsTab, CompareTab
from rmx.ui.visitor_cookie import Visitor

PUBLIC = SiteRules(public=True, training="mini")
OPTIONS = ClaimOptions(PairOptions(model="mini", adapter="rl", limit=2))


# -- at once ----------------------------------------------------------------------------------------------------------


def test_jobs_at_once_are_limited_in_all_per_visitor_and_per_address():
    limits = JobLimits("evaluation", "evaluations", most=4, per_owner=1, per_address=2)
    anna, ben, carl = (RequestOwner(name, "here") for name in ("anna", "ben", "carl"))
    limits.admit(ben, [anna])
    with pytest.raises(Busy, match="An evaluation of yours is under way already"):
        limits.admit(anna, [anna])
    with pytest.raises(Busy, match="2 evaluations from your network"):
        limits.admit(carl, [anna, ben])
    limits.admit(RequestOwner("carl", "there"), [anna, ben])
    limits.admit(RequestOwner("carl"), [anna, ben, RequestOwner("dora")])  # whose address is not told apart
    with pytest.raises(Busy, match="4 evaluations are under way"):
        limits.admit(RequestOwner("x", "elsewhere"), [anna, ben, RequestOwner("c"), RequestOwner("d")])
    JobLimits("run", "runs").admit(anna, [anna] * 100)


STUDIES = [("eval", {}), ("claims", {}), ("shifts", {"limit": 2}), ("intervene", {}), ("locator", {})]


@pytest.mark.parametrize(("name", "given"), [*STUDIES, ("shifts", {}), ("trace", {})])
def test_a_study_of_the_api_counts_among_those_of_its_visitor_until_it_is_over(name, given, monkeypatch):
    monkeypatch.setattr("rmx.ui.endpoints.call", lambda *_: iter([{}, {}]))
    site, counted = Site(Workspace("cpu", policy=PUBLIC)), (name, given) in STUDIES

    def begin():
        return work(site, name, given, "api")(lambda: False)

    with as_owner(RequestOwner("anna", "here")):
        first = begin()
        next(first)
        of_page = COUNTED.get(name, SET_RUNS)
        for again in (lambda: list(begin()), lambda: of_page.begin(PageJob(), site.workspace)):
            with pytest.raises(Busy, match="of yours is under way") if counted else nullcontext():
                again()
        first.close()
        assert len(list(begin())) == 2


def begin_claims(public):
    claims = Claims(Workspace("cpu", policy=SiteRules(public=public)))
    return claims, lambda: claims.start(OPTIONS)


def begin_set(public):
    comparer = Comparer(Workspace("cpu", policy=SiteRules(public=public)))
    pair = SimpleNamespace()
    return comparer, lambda: comparer.over_set(pair, "shifts", "mini", load_set("mini")[:1], 1.0)


def begin_evaluation(public):
    evaluator = Evaluator(
        Workspace("cpu", loader=lambda spec: scripted_model(), policy=SiteRules(public=public)),
        SimpleNamespace(all=list),
        lambda job, problems: iter(()) if job.stopped else _until_stopped(job),
    )
    form = {"set": "mini", "n": 0, "temperature": 0.0, "top_p": 1.0, "seed": 0, "limit": 1, "max_new_tokens": 8}
    return evaluator, lambda: evaluator.start(evaluator.asked(form))


def _until_stopped(job):
    while not job.stopped:
        job._stop.wait(0.01)
    return
    yield


@pytest.mark.parametrize(("begin", "limit"), [(begin_claims, 4), (begin_set, 4), (begin_evaluation, 6)])
def test_a_public_site_runs_few_long_jobs_and_one_of_each_visitor(begin, limit):
    _, start = begin(True)
    jobs = []

    def ask(owner, address):
        with as_owner(RequestOwner(owner, address)):
            jobs.append(start())
        return jobs[-1]

    ask("anna", "there")
    with pytest.raises(Busy, match="of yours is under way already"):
        ask("anna", "there")
    second = ask("ben", "there")
    with pytest.raises(Busy, match="2 .* from your network"):
        ask("carl", "there")
    second.halt()
    ask("carl", "there")
    for i in range(limit - 2):
        ask(f"visitor {i}", f"address {i}")
    with pytest.raises(Busy, match=f"{limit} .* are under way"):
        ask("one more", "from elsewhere")
    for job in jobs:
        job.halt()


@pytest.mark.parametrize("begin", [begin_claims, begin_set])
def test_a_private_app_does_not_count_them(begin):
    _, start = begin(False)
    with as_owner(RequestOwner("anna")):
        jobs = [start() for _ in range(8)]
    assert len({job.id for job in jobs}) == 8


def test_a_private_app_runs_several_evaluations_of_one_visitor():
    _, start = begin_evaluation(False)
    with as_owner(RequestOwner("anna")):
        jobs = [start() for _ in range(EVALUATIONS.private)]
        with pytest.raises(Busy, match="6 evaluations are under way"):
            start()
    for job in jobs:
        job.halt()


def test_evaluations_are_bulk_and_done_in_the_name_of_who_asked():
    evaluator, start = begin_evaluation(True)
    seen = []

    def measure(job, problems):
        seen.append(current_owner.get())
        return iter(())

    evaluator._measure = measure
    with as_owner(RequestOwner("anna", "there")):
        job = start()
    for _ in range(500):
        if job.done:
            break
        job._stop.wait(0.01)
    assert seen == [RequestOwner("anna", "there", Kind.BULK)]


# -- how large --------------------------------------------------------------------------------------------------------


def claims_form(limit=50, samples=8, budget=60_000):
    return ("own", "mini", "rl", "", "mini", limit, False, 1.0, 0, samples, budget, 0, 512)


def claims_tab(public):
    space = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=public))
    return ClaimsTab(Claims(space), Settings(public=public))


@pytest.mark.parametrize("wrong", [{"limit": 101}, {"samples": 17}, {"budget": 120_001}])
def test_claims_are_smaller_on_a_public_site(wrong):
    known = claims_tab(True).options(*claims_form(limit=100, samples=16, budget=120_000))
    assert (known.pair.limit, known.samples, known.budget) == (100, 16, 120_000)
    with pytest.raises(RmxError, match="must be a whole number between 1 and"):
        claims_tab(True).options(*claims_form(**wrong))
    private = claims_tab(False).options(*claims_form(limit=500, samples=MOST_SAMPLES, budget=2_000_000))
    assert private.samples == MOST_SAMPLES


@pytest.mark.parametrize(("public", "most"), [(True, 100), (False, 500)])
def test_a_set_of_compare_is_smaller_on_a_public_site(public, most):
    space = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=public))
    tab = CompareTab(Comparer(space), Settings(public=public))
    request = SimpleNamespace(session_hash="page")
    asked = ("own", "mini", "rl", "", 1.0, "mini", most + 1, 1.0, 64)
    (message,) = tab.over_set("shifts")(request, *asked)
    assert message["error"] == f"The number of problems must be a whole number between 1 and {most}."


# -- when they end ----------------------------------------------------------------------------------------------------


def test_an_evaluation_that_nobody_looks_at_ends_on_a_public_site():
    now = [0.0]
    watched, private = (EvalJob(None, clock=lambda: now[0], unseen=unseen) for unseen in (UNSEEN, None))
    watched.asked = private.asked = SimpleNamespace(command=str, own=None)
    now[0] += UNSEEN - 1
    watched.message()
    now[0] += UNSEEN - 1
    assert not watched.stopped
    now[0] += 2
    assert watched.stopped
    assert not private.stopped


def test_a_page_that_measures_again_makes_room_for_itself(monkeypatch):
    tab = claims_tab(True)
    monkeypatch.setattr(tab.claims, "stream", lambda job: iter([{"id": job.id}]))
    request = SimpleNamespace(session_hash="page")
    with as_owner(RequestOwner("anna", "there")):
        first, second = (list(tab.measure_all(None, request, *claims_form())) for _ in range(2))
        (refused,) = tab.measure_all(None, SimpleNamespace(session_hash="another"), *claims_form())
    assert tab.claims.jobs.find(first[0]["id"]).stopped
    assert not tab.claims.jobs.find(second[0]["id"]).stopped
    assert "of yours is under way already" in refused["error"]


def test_a_set_whose_page_leaves_before_it_begins_does_not_count_for_ever(monkeypatch):
    space = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=True))
    tab = CompareTab(Comparer(space), Settings(public=True))
    monkeypatch.setattr(tab, "_pair", lambda *_, **__: SimpleNamespace(name="a pair"))
    steps = tab.over_set("shifts")(SimpleNamespace(session_hash="page"), None, None, None, None, 1.0, "mini", 1, 1.0, 8)
    message = next(steps)
    steps.close()
    assert tab.comparer.jobs.find(message["id"]).stopped


# -- plans ------------------------------------------------------------------------------------------------------------

QUICK = TrainJob("mini", "mini", PRESETS["quick"], "quick")
LARGE = TrainJob("mini", "mini", PRESETS["quick"].with_(micro_batch=1024), "quick")


@pytest.fixture
def probed(monkeypatch):
    """What probes were asked for; none takes any time."""
    calls = []

    def quick(model, problems, **asked):
        calls.append(asked | {"kind": current_owner.get().kind})
        return SimpleNamespace()

    monkeypatch.setattr("rmx.ui.jobs.training.probe", quick)
    monkeypatch.setattr("rmx.train.estimate.work_ahead", lambda *_, **__: None)
    monkeypatch.setattr("rmx.train.estimate.estimate", lambda *_, **__: SimpleNamespace(plan=lambda: {"minutes": 1}))
    return calls


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(RunStore, "start", lambda self, name, *extra: None)
    space = Workspace(loader=lambda spec: scripted_model(), policy=PUBLIC)
    space.model("mini")
    return Training(space, RunStore(tmp_path, private=True))


def test_plan_start_dry_run_resume_and_probe_admit_the_same(site, probed):
    anna = Visitor("anna")
    folder = site.store.create(LARGE, owner=anna.public)
    with pytest.raises(Refused, match="micro batch may be 16 at most") as refused:
        site.plan(LARGE)
    asked = (
        lambda: site.start(LARGE, anna),
        lambda: site.start(LARGE, anna, dry=True),
        lambda: site.resume({"id": folder.id}, anna),
        lambda: site.dry_run({"id": folder.id}),
    )
    for ask in asked:
        with pytest.raises(Refused) as other:
            ask()
        assert str(other.value) == str(refused.value)
    assert probed == []
    assert site.plan(QUICK)["minutes"] == 1
    assert len(probed) == 1


def test_a_plan_is_refused_where_training_is_off_and_for_other_models(tmp_path, probed):
    space = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=True, training="off"))
    space.model("mini")
    with pytest.raises(Refused, match="off on this site"):
        Training(space, RunStore(tmp_path)).plan(QUICK)
    allowed = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=True, training="on"))
    with pytest.raises(Refused, match="has the models mini"):
        Training(allowed, RunStore(tmp_path)).plan(TrainJob("x/other", "mini", PRESETS["quick"], "quick"))
    assert probed == []


def test_a_plan_of_other_figures_does_not_probe_again_and_each_model_is_bulk(site, probed):
    for i in range(20):
        site.plan(TrainJob("mini", "mini", PRESETS["quick"].with_(temperature=0.5 + i / 20, micro_batch=1 + i % 8)))
    site.plan(TrainJob("mini", "mini:train", PRESETS["quick"], "quick"))
    assert probed == [{"temperature": 1.0, "micro_batch": MICRO_BATCH, "seconds": 1.0, "kind": Kind.BULK}]


def test_what_is_remembered_of_probes_is_bounded(tmp_path, probed, monkeypatch):
    space = Workspace(loader=lambda spec: scripted_model(), keep=100)
    monkeypatch.setattr(
        "rmx.ui.jobs.training.problems_of", lambda job: SimpleNamespace(train=[], validation=[], test=[])
    )
    training = Training(space, RunStore(tmp_path))
    for i in range(MOST_PROBED + 5):
        space.model(f"x/{i}")
        training.plan(TrainJob(f"x/{i}", "mini", PRESETS["quick"], "quick"))
    assert len(probed) == MOST_PROBED + 5
    assert len(training._probed) == MOST_PROBED


def test_a_plan_beside_a_busy_model_says_so_and_names_the_command(site, probed, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.training.PATIENCE", 0.05)
    turns = site.workspace.model("mini").engine.queue
    ticket = turns.enter()
    try:
        plan = site.plan(QUICK)
    finally:
        turns.leave(ticket)
    assert (plan["rate"], plan["minutes"]) == (FREE, None)
    assert plan["command"].startswith("rmx train")
    assert site._probing.acquire(timeout=0.05)
    assert site.plan(QUICK)["rate"] == FREE  # somebody else's probe takes too long
    site._probing.release()
    assert site.plan(QUICK)["minutes"] == 1


@pytest.mark.slow
def test_a_probe_measures_few_rows_of_a_short_text_whatever_is_asked(rl, monkeypatch):
    shapes = []

    def noted(model, batch):
        shapes.append((len(batch), len(batch[0])))
        return 1000

    monkeypatch.setattr("rmx.train.probe._backward", noted)
    with rl.base.engine.queue.turn():
        found = probe(rl.base, load_set("mini:train"), temperature=1.0, micro_batch=1024, seconds=0.1)
    assert {rows for rows, _ in shapes} == {TRAINED}
    assert all(length <= LONGEST for _, length in shapes)
    assert found.saved_token == 1000 // (TRAINED * shapes[0][1])
