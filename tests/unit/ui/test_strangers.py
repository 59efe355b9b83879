"""Visitors of one site: what each has is their own, in shares that leave something for the others."""

from types import SimpleNamespace

import pytest

from rmx.arguments import Sampling
from rmx.engine.fair_queue import FairQueue, as_owner, current_owner, iterate_as_owner
from rmx.engine.prefix_cache import Saved
from rmx.errors import Busy, Refused, TrainError
from rmx.explore.generate import Branch, BranchStore, Job
from rmx.models.site_rules import SiteRules
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.runs.job import TrainJob
from rmx.runs.recipe import PRESETS
from rmx.runs.store import RunStore
from rmx.storage.job_store import TOKEN_BYTES, MemoryShares
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.training import Training
from rmx.ui.settings import Settings
from rmx.ui.tabs.explore_tab import ExploreTab
from rmx.ui.visitor_cookie import Visitor

GREEDY = Sampling(max_new_tokens=40)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


# -- the line ---------------------------------------------------------------------------------------------------------


def test_nobody_takes_more_than_a_share_of_the_line():
    turns = FairQueue(limit=9, per_owner=2)
    with as_owner("anna"):
        mine = [turns.enter(), turns.enter()]
        with pytest.raises(Busy, match="2 requests of yours"):
            turns.enter()
    with as_owner("ben"):
        turns.enter()
    turns.enter(), turns.enter(), turns.enter()  # who is not known has no share
    turns.leave(mine[0])
    with as_owner("anna"):
        turns.enter()


def test_who_asks_is_known_in_every_step_and_nowhere_else():
    seen = []

    def steps():
        for _ in range(3):
            seen.append(current_owner.get().owner)
            yield

    for _ in iterate_as_owner("anna", steps()):
        seen.append(current_owner.get().owner)
    assert seen == ["anna", None] * 3


def test_leaving_early_closes_what_was_asked_for():
    closed = []

    def steps():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    asked = iterate_as_owner("anna", steps())
    next(asked)
    asked.close()
    assert closed == [True]


def test_the_wait_to_expect_is_that_of_the_turns_of_late(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("rmx.engine.fair_queue.time.monotonic", clock)
    turns = FairQueue()
    first, second, third = turns.enter(), turns.enter(), turns.enter()
    assert turns.expected(1) is None  # nothing was seen yet
    clock.now = 10.0
    turns.leave(first)  # it took ten seconds
    assert turns.expected(1) == 10.0
    clock.now = 14.0
    assert turns.expected(1) == 6.0  # the second one has had four
    assert turns.expected(2) == 16.0
    clock.now = 100.0
    assert turns.expected(1) == 0.0  # longer than expected: any moment now
    assert turns.expected(0) is None
    turns.leave(second), turns.leave(third)


# -- solutions in memory ----------------------------------------------------------------------------------------------


def run_of(model, owner, tokens=10):
    run = Branch(model, Job((1,), GREEDY, 1.0), "", tree="", owner=owner, tokens=[None] * tokens, trace=object())
    run.tree = run.id
    return run


def test_a_visitor_who_solves_on_and_on_loses_the_own_oldest_and_nobody_elses():
    runs = BranchStore(MemoryShares(1000 * TOKEN_BYTES, 30 * TOKEN_BYTES))
    others = [runs.add(run_of(None, "ben")) for _ in range(3)]
    mine = [runs.add(run_of(None, "anna")) for _ in range(5)]
    assert [runs.find(r.id) is not None for r in mine] == [False, False, True, True, True]
    assert all(runs.find(r.id) for r in others)
    assert runs.tokens == 60


def test_what_nobody_looks_at_is_forgotten_after_a_while_even_where_it_was_never_finished():
    clock = Clock()
    runs = BranchStore(MemoryShares(idle_seconds=60, clock=clock))
    old, looked_at, broken = (runs.add(run_of(None, "anna")) for _ in range(3))
    broken.trace = None
    clock.now = 50.0
    runs.find(looked_at.id)
    clock.now = 100.0
    runs.add(run_of(None, "ben"))
    assert [runs.find(r.id) is not None for r in (old, looked_at, broken)] == [False, True, False]


def test_all_generations_can_be_asked_to_end():
    runs = BranchStore()
    run = runs.add(run_of(None, "anna"))
    under_way = runs.add(run_of(None, "ben"))
    under_way.trace = None
    runs.halt_all()
    assert (run._stop.is_set(), under_way._stop.is_set()) == (False, True)


# -- the first screen -------------------------------------------------------------------------------------------------


def opening(tab, name, **query):
    """The messages of the first screen for a visitor."""
    with as_owner(name):
        return list(tab.opening("", SimpleNamespace(session_hash=name, query_params=query)))


@pytest.fixture
def tab(mini):
    space = Workspace(loader=lambda spec: mini, policy=SiteRules(public=True))
    space.model("mini")
    return ExploreTab(Explorer(space), Settings(public=True))


def test_the_first_screen_is_solved_once_and_each_visitor_has_a_tree_of_their_own(tab):
    first = opening(tab, "anna")
    computed = tab.explorer.runs.tokens
    (second,) = opening(tab, "ben")
    assert len(first) > 1  # it was streamed
    anna, ben = (tab.explorer.runs.find(m["run"]) for m in (first[-1], second))
    assert [t.id for t in anna.tokens] == [t.id for t in ben.tokens]
    assert second["result"]["answer"] == first[-1]["result"]["answer"]
    assert tab.explorer.runs.tokens == 2 * computed
    assert {anna.owner, ben.owner} == {"anna", "ben"}
    token = next(c.id for c in ben.tokens[0].top if c.id != ben.tokens[0].id)
    branch = tab.explorer.pick({"run": ben.id, "pos": 0, "token_ids": [token]})
    list(tab.explorer.stream(branch))
    assert branch.owner == "ben"
    (third,) = opening(tab, "carl")
    assert [len(tab.explorer.runs.group(r.tree)) for r in (anna, ben)] == [1, 2]
    assert len(third["tree"]) == 1  # nothing of what ben did


def test_an_address_with_somebody_elses_run_shows_the_first_screen(tab):
    (*_, mine) = opening(tab, "anna")
    (again,) = opening(tab, "anna", run=mine["run"])
    assert again["run"] == mine["run"]
    (theirs,) = opening(tab, "ben", run=mine["run"])
    assert theirs["run"] != mine["run"]


# -- what was computed ------------------------------------------------------------------------------------------------


def test_what_one_visitor_computed_tells_another_nothing(mini):
    explorer = Explorer(Workspace(loader=lambda spec: mini))
    mini.engine.prefixes.clear()

    def reused(owner):
        run = explorer.start("mini", None, "What is 2 plus 3?", GREEDY, 1.0, owner=owner)
        (*_, last) = explorer.stream(run)
        return last["result"]["reuse"]["reused"]

    assert [reused("anna"), reused("ben")] == [0, 0]
    assert reused("anna") > 0
    assert reused(None) == 0
    kept = list(mini.engine.prefixes._saved.values())
    assert {saved.owner for saved in kept} == {"anna", "ben", None}
    assert all(isinstance(saved, Saved) for saved in kept)
    mini.engine.prefixes.clear()


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_who_waits_is_told_the_place_and_the_seconds_to_expect(mini):
    explorer = Explorer(Workspace(loader=lambda spec: mini))
    turns = mini.engine.queue
    turns._mean = 7.0  # a turn takes that long, lately
    holder = turns.enter()
    steps = explorer.stream(explorer.start("mini", None, "What is 2 plus 3?", GREEDY, 1.0, owner="anna"))
    first = next(steps)
    assert first["waiting"] == 1
    assert 0 < first["expected"] <= 7
    turns.leave(holder)
    (*_, last) = steps
    assert last["done"]
    assert last["result"]["stop"] != "cancelled"


# -- training runs ----------------------------------------------------------------------------------------------------

QUICK = TrainJob("mini", "mini", PRESETS["quick"], "quick")


def test_on_a_public_site_runs_are_listed_to_their_owners_only(tmp_path):
    store = RunStore(tmp_path, private=True)
    anna, ben, nobody = (store.create(QUICK, owner=owner) for owner in ("anna", "ben", None))
    with as_owner("anna"):
        assert {r.id for r in store.all()} == {anna.id, nobody.id}
    assert {r.id for r in store.all()} == {nobody.id}
    assert len(store.all(everybodys=True)) == 3
    assert len({r.id for r in RunStore(tmp_path).all()}) == 3  # a private app shows all
    assert store.get(ben.id).id == ben.id  # knowing the whole id is the permission
    with pytest.raises(TrainError):
        store.get(ben.id[:-1])
    assert len(ben.id.rpartition("-")[2]) == 24  # so that nobody guesses it


def test_a_run_that_cannot_be_read_is_shown_to_nobody_on_a_public_site(tmp_path):
    store = RunStore(tmp_path, private=True)
    broken = store.create(QUICK, owner="anna")
    (broken.path / "config.json").write_text("{")
    with as_owner("anna"):
        assert store.all() == []
    assert len(RunStore(tmp_path).all()) == 1


def training(tmp_path, monkeypatch, **policy):
    space = Workspace(loader=lambda spec: scripted_model(), policy=SiteRules(public=True, training="mini", **policy))
    monkeypatch.setattr(RunStore, "start", lambda self, name, *extra: None)
    monkeypatch.setattr("rmx.ui.jobs.training.check_room", lambda job: None)
    return Training(space, RunStore(tmp_path, private=True))


def test_of_a_visitors_runs_the_newest_are_kept(tmp_path, monkeypatch):
    site = training(tmp_path, monkeypatch, kept_runs=2)
    anna, ben = Visitor("anna"), Visitor("ben")
    made = [site.start(QUICK, anna) for _ in range(4)]
    theirs = site.start(QUICK, ben)
    by_hand = site.store.create(QUICK)
    site.start(QUICK, anna)
    left = {r.id for r in site.store.all(everybodys=True)}
    assert {theirs.id, by_hand.id} <= left
    assert [r.id in left for r in made] == [False, False, False, True]


def test_where_too_many_are_kept_of_all_the_oldest_of_anybody_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.training.MOST_KEPT", 3)
    site = training(tmp_path, monkeypatch, kept_runs=2)
    made = [site.start(QUICK, Visitor(f"visitor {i}")) for i in range(5)]
    left = {r.id for r in site.store.all(everybodys=True)}
    assert [r.id in left for r in made] == [False, False, True, True, True]


def test_a_run_of_other_days_is_not_resumed_where_it_would_not_be_started(tmp_path, monkeypatch):
    site = training(tmp_path, monkeypatch, kept_runs=2)
    large = site.store.create(TrainJob("mini", "mini", PRESETS["small"], "small"), owner=Visitor("anna").public)
    with pytest.raises(Refused, match="problems may be 48"):
        site.resume({"id": large.id}, Visitor("anna"))
    site.resume({"id": large.id}, Visitor("owner", admin=True))
    small = site.store.create(QUICK, owner=Visitor("anna").public)
    site.resume({"id": small.id}, Visitor("anna"))


def test_a_larger_run_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    site = training(tmp_path, monkeypatch, kept_runs=2)
    with pytest.raises(Refused):
        site.start(TrainJob("mini", "mini", PRESETS["small"], "small"), Visitor("anna"))
    assert site.store.all(everybodys=True) == []
