"""The ends of alternatives: on tables where they are known, within their bounds, and what a page keeps of them."""

from types import SimpleNamespace

import pytest

from rmx.arguments import Sampling
from rmx.explore import greedy_answers as module
from rmx.explore.generate import Generation, Job, swap_job
from rmx.explore.greedy_answers import alternative_ends, fork_places
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.jobs.explorer import Explorer, Measurements
from rmx.ui.jobs.page_jobs import OpenPages
from rmx.ui.settings import Settings
from rmx.ui.tabs.explore_tab import ExploreTab
from tests.helpers.chain import chain, solved

ONE, TWO = "\\boxed{1}", "\\boxed{2}"
LOOP = " again"
TABLE = {
    "Q": {" W": 0.5, " M": 0.3, " R": 0.2},
    " W": {TWO: 1.0},
    " M": {ONE: 0.6, TWO: 0.4},
    " R": {LOOP: 1.0},
    LOOP: {LOOP: 1.0},
}


def states(table=TABLE, known="1", **options):
    model = chain(table)
    trace = solved(model, known)
    return trace, list(alternative_ends(model, trace, fork_places(trace, 0.5), known=known, **options))


def test_each_alternative_has_the_answer_that_a_swap_would_reach():
    trace, found = states()
    (ends,) = found[-1].found.values()
    said = {c.id: c.text for c in trace.tokens[0].top}
    assert {
        said[end.id]: (end.answer and (end.answer.text, end.answer.correct))
        for end in ends
        if said[end.id] in (" M", " R")
    } == {
        " M": ("1", True),
        " R": None,  # it goes round and round: not ended is not known
    }
    assert trace.tokens[0].id not in [end.id for end in ends]
    assert found[-1].done
    assert found[-1].complete


def test_a_message_tells_an_unknown_end_by_its_id_alone():
    trace, found = states()
    message = found[-1].message()
    said = {c.text: c.id for c in trace.tokens[0].top}
    ((pos, rows),) = message["ends"]
    assert pos == 0
    assert [said[" M"], "1", True] in rows
    assert [said[" R"]] in rows
    assert message["kind"] == "ends"


def test_without_a_known_answer_nothing_is_graded():
    _, found = states(known=None)
    (ends,) = found[-1].found.values()
    assert {end.answer.correct for end in ends if end.answer is not None} == {None}


def test_the_budget_bounds_all_alternatives_together():
    table = {"Q": {" W": 0.6, " R": 0.4}, " W": {TWO: 1.0}, " R": {LOOP: 1.0}, LOOP: {LOOP: 1.0}}
    _, found = states(table, budget=12)
    assert 0 < found[-1].tokens_spent <= 12
    assert found[-1].done


def test_a_place_that_the_budget_cannot_cover_stays_unknown():
    _, found = states(budget=3)
    assert found[-1].found == {}
    assert found[-1].complete


def test_it_ends_where_it_is_called_off():
    _, found = states(cancelled=lambda: True)
    assert [state.done for state in found] == [True]
    assert not found[-1].complete
    assert found[-1].found == {}


def test_the_most_undecided_forks_come_first_and_their_number_is_bounded(monkeypatch):
    table = {"Q": {" W": 0.9, " M": 0.1}, " W": {" A": 0.5, " B": 0.5}, " A": {TWO: 1.0}, " B": {ONE: 1.0}}
    trace = solved(chain(table), "1")
    assert fork_places(trace, 0.2) == [1, 0]
    assert fork_places(trace, 0.5) == [1]
    monkeypatch.setattr(module, "MOST_FORKS", 1)
    assert fork_places(trace, 0.2) == [1]


@pytest.fixture
def page():
    space = Workspace(loader=lambda spec: chain(TABLE))
    explorer = Explorer(space)
    run = explorer.start("mini", None, "Q", Sampling(max_new_tokens=20), 0.5, known="1", raw=True)
    list(explorer.stream(run))
    return Measurements(explorer), run


def ends_of(measurements, run):
    return list(measurements.stream(measurements.start("ends", {"run": run.id, "tau": 0.5})))


def test_a_page_gets_the_ends_and_does_not_decode_them_twice(page):
    measurements, run = page
    first = ends_of(measurements, run)
    assert first[-1]["done"]
    assert first[-1]["run"] == run.id
    assert [pos for pos, _ in first[-1]["ends"]] == [0]
    calls = []
    run.model.engine.forward = lambda *args, **named: calls.append(1)
    again = ends_of(measurements, run)
    assert again[-1]["ends"] == first[-1]["ends"]
    assert calls == []


def test_a_branch_knows_the_ends_before_and_at_its_swap_from_its_parent(page):
    measurements, run = page
    ends_of(measurements, run)
    other = next(c.id for c in run.tokens[0].top if c.text == " M")
    branch = measurements.explorer.pick({"run": run.id, "pos": 0, "token_ids": [other]})
    list(measurements.explorer.stream(branch))
    assert branch.owner_at(0) is run
    assert branch.owner_at(1) is branch
    found = ends_of(measurements, branch)[-1]["ends"]
    assert 0 in [pos for pos, _ in found]


def test_an_end_is_what_the_swap_decodes():
    model = scripted_model(end=30)
    job = Job(model.prompt_ids("x", True), Sampling(max_new_tokens=40), 0.5)
    generation = Generation(model, job)
    trace = generation.run()
    places = fork_places(trace, 0.5)[:3]
    *_, last = alternative_ends(model, trace, places)
    for pos, ends in last.found.items():
        for end in ends:
            swapped = Generation(model, swap_job(job, trace.tokens, pos, [end.id], model.engine.vocab_size)).run()
            if end.answer is not None:
                assert end.answer.text == swapped.answer.text


def test_a_page_is_busy_while_its_work_is_under_way(page):
    measurements, run = page
    pages, job = OpenPages(), measurements.start("sofar", {"run": run.id})
    assert not pages.busy("one")
    pages.begin("one", job)
    assert pages.busy("one")
    assert not pages.busy("two")
    list(measurements.stream(job))
    assert not pages.busy("one")
    pages.begin("one", run)  # a solution that is done
    assert not pages.busy("one")


def test_the_ends_do_not_end_what_a_person_began(page):
    measurements, run = page
    tab = ExploreTab(measurements.explorer, Settings())
    request, event = SimpleNamespace(session_hash="one"), SimpleNamespace(_data={"run": run.id, "tau": 0.5})
    begun = tab.visitors.begin("one", measurements.start("sofar", {"run": run.id}))
    refused = list(tab.measure("ends")(event, request))
    assert refused == [{"kind": "ends", "run": run.id, "done": True}]
    assert not begun.stopped
    begun.done = True
    assert list(tab.measure("ends")(event, request))[-1]["ends"]
