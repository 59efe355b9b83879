"""The account of what visitors leave in memory: who loses what, and whether its bytes are those that are taken."""

import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rmx.arguments import Sampling
from rmx.engine.fair_queue import as_owner
from rmx.errors import RmxError
from rmx.explore.generate import Branch
from rmx.models.workspace import Workspace
from rmx.storage.job_store import TOKEN_BYTES, MemoryShares, bytes_of
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer, Sharing


class Shelf:
    """Keeps what an account lets it."""

    def __init__(self, kept: MemoryShares) -> None:
        self.kept, self.here = kept, set[str]()

    def put(self, key: str, nbytes: int, owner: str | None, busy: bool = False) -> None:
        self.kept.admit(nbytes, owner, "The file")
        self.here.add(key)
        self.kept.put(key, nbytes, owner, lambda: self.here.remove(key), lambda: busy)


# -- who loses what ---------------------------------------------------------------------------------------------------


def test_who_is_over_the_share_loses_the_own_oldest_before_anybody_loses_anything():
    shelf = Shelf(MemoryShares(most=100, share=30))
    for i in range(8):
        shelf.put(f"ben{i}", 10, f"ben {i}")
    for i in range(5):
        shelf.put(f"anna{i}", 10, "anna")
    assert shelf.here == {*(f"ben{i}" for i in range(8)), "anna3", "anna4"}  # anna keeps the most: it is hers that goes
    assert shelf.kept.nbytes == 100


def test_what_somebody_looked_at_stays_longer():
    shelf = Shelf(MemoryShares(most=100, share=30))
    for name in ("one", "two", "three"):
        shelf.put(name, 10, "anna")
    shelf.kept.touch("one")
    shelf.put("four", 10, "anna")
    assert shelf.here == {"one", "three", "four"}


def test_large_things_under_many_names_push_out_each_other_and_not_the_small_things_of_others():
    """Somebody who throws cookies away has a share under each of them, and it is those that are the largest."""
    shelf = Shelf(MemoryShares(most=100, share=25))
    for i in range(5):
        shelf.put(f"visitor {i}", 2, f"visitor {i}")
    for i in range(40):
        shelf.put(f"flood {i}", 25, f"cookie {i}")
    assert {f"visitor {i}" for i in range(5)} <= shelf.here
    assert shelf.kept.nbytes <= 100


def test_one_thing_that_is_larger_than_a_share_is_refused_and_takes_nothing():
    shelf = Shelf(MemoryShares(most=100_000_000, share=25_000_000))
    shelf.put("mine", 20_000_000, "anna")
    with pytest.raises(RmxError, match=r"The file takes 26\.0 MB of memory, and 25\.0 MB are kept of one visitor"):
        shelf.put("huge", 26_000_000, "anna")
    assert (shelf.here, shelf.kept.nbytes) == ({"mine"}, 20_000_000)
    with pytest.raises(RmxError, match="100.0 MB"):  # of nobody it may be as large as everything together
        shelf.put("huge", 100_000_001, None)
    shelf.put("whole", 100_000_000, None)
    assert shelf.here == {"whole"}


def test_what_is_worked_on_stays_and_others_do_not_pay_for_it():
    shelf = Shelf(MemoryShares(most=100, share=30))
    shelf.put("bens", 50, None)
    for i in range(3):
        shelf.put(f"under way {i}", 15, "anna", busy=True)
    shelf.put("next", 15, "anna")
    assert shelf.here == {"bens", "under way 0", "under way 1", "under way 2", "next"}
    shelf.put("last", 15, "anna")  # what is not worked on goes
    assert shelf.here == {"bens", "under way 0", "under way 1", "under way 2", "last"}


def test_what_grows_counts_with_what_it_has_grown_to():
    shelf = Shelf(MemoryShares(most=100, share=50))
    shelf.put("old", 20, "anna")
    shelf.put("growing", 0, "anna")
    shelf.kept.grow("growing", 40)
    assert (shelf.here, shelf.kept.nbytes) == ({"growing"}, 40)
    shelf.kept.grow("growing", 60)
    assert shelf.here == {"growing"}  # nothing else of hers is left
    shelf.put("next", 10, "anna")
    assert shelf.here == {"next"}
    shelf.kept.grow("gone", 10**9)
    assert shelf.kept.nbytes == 10


def test_what_nobody_looks_at_for_long_goes_even_if_it_was_never_finished():
    now = [0.0]
    shelf = Shelf(MemoryShares(most=100, share=30, idle_seconds=60, clock=lambda: now[0]))
    shelf.put("old", 1, "anna", busy=True)
    shelf.put("looked at", 1, "anna")
    now[0] = 50.0
    shelf.kept.touch("looked at")
    now[0] = 100.0
    shelf.put("new", 1, "ben")
    assert shelf.here == {"looked at", "new"}


# -- whether the bytes are right --------------------------------------------------------------------------------------


def traced(make: Callable[[], Any]) -> tuple[Any, int]:
    """What `make` returns, and the bytes that are allocated after it and were not before."""
    make()  # what is cached for good is there
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = make()
        gc.collect()
        return made, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def explorer(mini, monkeypatch) -> Explorer:
    monkeypatch.setattr(mini.engine.prefixes, "max_bytes", 0)  # they have a limit of their own
    space = Workspace(loader=lambda spec: mini)
    space.model("mini")
    return Explorer(space)


def solved(explorer: Explorer, tokens: int) -> Branch:
    how = Sampling(temperature=2.0, max_new_tokens=tokens, seed=1)
    run = explorer.start("mini", None, "Once upon a time", how, 1.0, raw=True, owner="anna")
    for _ in explorer.stream(run):
        pass
    return run


DOCUMENT = {
    "model": "elsewhere",
    "tau": 1.0,
    "prompt_ids": list(range(1000, 9000)),
    "special": list(range(20_000, 24_000)),
    "prompt": "ü" * 20_000,
    "tokens": [
        {"id": 300 + i, "text": f"w{i}", "entropy": 1.5, "logp": -0.5 - i,
         "top": [{"id": 300 + i + k, "text": f"w{i}, {k}", "p": 0.3 / (k + 1)} for k in range(20)]}
        for i in range(300)
    ],
}  # fmt: skip


def test_the_bytes_of_a_solution_are_those_that_it_takes(explorer):
    run, taken = traced(lambda: solved(explorer, 300))
    assert len(run.tokens) > 100
    assert 0.8 < run.nbytes / taken < 1.25
    assert run.nbytes / len(run.tokens) < TOKEN_BYTES


def test_the_bytes_of_a_branch_are_those_that_it_adds_to_its_parents(explorer):
    run = solved(explorer, 300)
    at = len(run.tokens) - 20
    other = next(c.id for c in run.tokens[at].top if c.id != run.tokens[at].id)

    def swapped() -> Branch:
        branch = explorer.pick({"run": run.id, "pos": at, "token_ids": [other]})
        for _ in explorer.stream(branch):
            pass
        return branch

    branch, taken = traced(swapped)
    own = len(branch.tokens) - at
    assert 0.7 < branch.nbytes / taken < 1.3
    assert branch.nbytes < (own + 20) * TOKEN_BYTES  # what it keeps of its parent is there once


def test_the_bytes_of_a_tree_that_was_opened_are_those_that_it_takes(explorer):
    text = json.dumps(DOCUMENT)

    def opened() -> Branch:
        with as_owner("anna"):
            return explorer.runs.get(Sharing(explorer).open_file({"text": text})["run"])

    run, taken = traced(opened)
    assert taken > 1_000_000
    assert 0.8 < run.nbytes / taken < 1.25


def test_the_bytes_of_a_file_of_problems_are_those_that_it_takes(explorer):
    evaluator = Evaluator(explorer.workspace)
    text = "problem,answer\n" + "".join(f"How much is {i} and one more?,{i + 1}\n" for i in range(3000))
    reply, taken = traced(lambda: evaluator.take_file({"name": "own.csv", "text": text}))
    assert 0.8 < bytes_of(evaluator.files.get(reply["file"])) / taken < 1.25


def test_tensors_count_with_their_data_and_shared_objects_once():
    text, tensor = "x" * 10_000, torch.zeros(1000)
    assert bytes_of([tensor]) > 4000
    assert 10_000 < bytes_of([text, text], {"a": text}) < 11_000
    seen = dict[int, Any]()
    bytes_of(text, seen=seen)
    assert bytes_of([text], seen=seen) < 100
    assert bytes_of(None, Workspace) < 2000  # of other objects nothing that they refer to
