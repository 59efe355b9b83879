"""Pinned tokens: what the page sends, what a training run is given, and what a stored one must hold."""

import json

import pytest

from rmx.arguments import Sampling
from rmx.errors import TrainError
from rmx.explore.generate import Branch, BranchStore
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.runs.job import MOST, Pin
from rmx.storage.job_store import TOKEN_BYTES, MemoryShares
from rmx.ui.jobs.explorer import Explorer

PIN = Pin("mini", "rl", (5, 6, 7), (8, 9), 10, "73", "We add", " 42")


@pytest.fixture
def explorer() -> Explorer:
    model = scripted_model(end=60)
    return Explorer(Workspace(loader=lambda spec: model))


def solve(explorer: Explorer, known: str | None = "42") -> Branch:
    run = explorer.start("scripted", None, "What?", Sampling(max_new_tokens=200), 1.5, known=known)
    list(explorer.stream(run))
    return run


def pins(explorer: Explorer, *places: tuple[object, object]) -> list[Pin]:
    return explorer.pins({"pins": [{"run": run, "pos": pos} for run, pos in places]})


# ---- the record -------------------------------------------------------------------------------------------------
def test_a_pin_comes_back_from_json():
    assert Pin.from_json(json.loads(json.dumps(PIN.json()))) == PIN


@pytest.mark.parametrize(
    "wrong",
    [{"said": "10"}, {"said": True}, {"said": -1}, {"prompt_ids": "567"}, {"prompt_ids": [1, -2]}, {"before": [1.5]},
     {"before": None}, {"model": None}, {"text": 7}, {"word": None}, {"known": 73}, {"adapter": ["rl"]}],
)  # fmt: skip
def test_what_is_no_pin_is_refused(wrong):
    with pytest.raises(TrainError, match="Pin it again"):
        Pin.from_json(PIN.json() | wrong)


@pytest.mark.parametrize("key", list(PIN.json()))
def test_a_pin_lacks_nothing(key):
    stored = PIN.json()
    del stored[key]
    with pytest.raises(TrainError, match=key):
        Pin.from_json(stored)


def test_a_pin_without_an_adapter_or_a_known_answer():
    stored = PIN.json() | {"adapter": None, "known": None}
    assert (Pin.from_json(stored).adapter, Pin.from_json(stored).known) == (None, None)


# ---- of the page ------------------------------------------------------------------------------------------------
def test_a_pin_holds_the_ids_before_its_place(explorer):
    run = solve(explorer)
    (pin,) = pins(explorer, (run.id, 12))
    assert pin.model == run.model.spec
    assert pin.adapter is None
    assert pin.prompt_ids == tuple(run.job.prompt_ids)
    assert pin.before == tuple(t.id for t in run.tokens[:12])
    assert pin.said == run.tokens[12].id
    assert pin.known == "42"
    assert pin.word == run.model.detokenizer.token_text(pin.said)


def test_the_text_is_the_end_of_what_stands_before(explorer):
    run = solve(explorer)
    last = len(run.tokens) - 1
    first, late = pins(explorer, (run.id, 0), (run.id, last))
    whole = run.prompt + run.model.detokenizer.text([t.id for t in run.tokens[:last]])
    assert first.before == ()
    assert first.text == run.prompt[-160:]
    assert late.text == whole[-160:]


def test_a_swapped_branch_is_pinned_with_what_it_kept(explorer):
    run = solve(explorer)
    other = run.tokens[20].top[1]
    branch = explorer.pick({"run": run.id, "pos": 20, "token_ids": [other.id]})
    list(explorer.stream(branch))
    pin, after = pins(explorer, (branch.id, 20), (branch.id, 22))
    assert pin.said == other.id
    assert pin.before == tuple(t.id for t in run.tokens[:20])
    assert after.before[20] == other.id


def test_pins_outlive_the_run_that_they_were_taken_from(explorer):
    explorer.runs = BranchStore(MemoryShares(150 * TOKEN_BYTES))
    run = solve(explorer)
    (kept,) = pins(explorer, (run.id, 3))
    runs = [solve(explorer) for _ in range(3)]
    assert pins(explorer, (run.id, 3), (runs[-1].id, 3)) == pins(explorer, (runs[-1].id, 3))  # the first left memory
    assert len(kept.before) == 3


def test_pins_are_few_and_each_once(explorer):
    run = solve(explorer)
    assert len(pins(explorer, *[(run.id, 5)] * 3)) == 1
    found = pins(explorer, *[(run.id, pos) for pos in range(20)])
    assert [len(p.before) for p in found] == list(range(MOST))


@pytest.mark.parametrize("pos", [-1, 10_000, 1.5, "3", None, True, [3]])
def test_places_that_do_not_exist_are_left_out(explorer, pos):
    run = solve(explorer)
    assert [len(p.before) for p in pins(explorer, (run.id, pos), (run.id, 2))] == [2]


@pytest.mark.parametrize("data", [None, [], "x", 7, {}, {"pins": None}, {"pins": "x"}, {"pins": [None, 3, "x", [], {}]},
                                  {"pins": [{"run": ["a"], "pos": 0}]}, {"pins": {"run": "x", "pos": 0}}])  # fmt: skip
def test_strangers_pin_nothing(explorer, data):
    solve(explorer)
    assert explorer.pins(data) == []
