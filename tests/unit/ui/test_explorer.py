"""What the page is told and what it may ask: messages, branches, stops, strangers' input."""

import json
import math
import threading
from dataclasses import replace

import gradio as gr
import pytest
import torch

from rmx.arguments import Sampling
from rmx.errors import PromptError, RmxError, SwapError
from rmx.explore.generate import Branch, BranchStore
from rmx.models.stand_ins import HOSTILE, scripted_model
from rmx.models.workspace import Workspace
from rmx.storage.job_store import TOKEN_BYTES, MemoryShares
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.page_jobs import OpenPages
from rmx.ui.tabs.form_parts import StreamTab, answering


@pytest.fixture
def explorer() -> Explorer:
    model = scripted_model(end=60)
    return Explorer(Workspace(loader=lambda spec: model))


def solve(explorer: Explorer, **kwargs) -> Branch:
    run = explorer.start("scripted", None, "What?", Sampling(max_new_tokens=200), 1.5, **kwargs)
    list(explorer.stream(run))
    return run


def rebuilt(messages: list[dict]) -> list:
    """What a page that got all of these messages shows."""
    tokens: list = []
    for message in messages:
        assert message["start"] <= len(tokens)
        tokens[message["start"] :] = message["toks"]
    return tokens


def test_the_messages_of_a_run_add_up_to_it(explorer, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.explorer.INTERVAL", 0.0)
    run = explorer.start("scripted", None, "What?", Sampling(), 1.5, known="42")
    messages = list(explorer.stream(run))
    assert len(messages) > 20
    assert rebuilt(messages) == explorer.tail({"run": run.id, "start": 0})["toks"]
    assert messages[0]["open"]["known"] == "42"
    assert messages[0]["open"]["prompt"].startswith("What?")
    assert [m["done"] for m in messages[:-1]] == [False] * (len(messages) - 1)
    assert messages[-1]["done"]
    assert messages[-1]["result"]["stop"] == "eos"
    assert messages[-1]["result"]["n"] == len(run.tokens)
    json.dumps(messages, allow_nan=False)


def test_a_message_does_not_grow_with_what_is_shown(explorer, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.explorer.INTERVAL", 0.0)
    run = explorer.start("scripted", None, "What?", Sampling(), 1.5)
    sizes = [len(m["toks"]) for m in explorer.stream(run)]
    assert max(sizes) <= 2


def test_a_swap_sends_only_the_new_tail(explorer):
    run = solve(explorer)
    other = run.tokens[20].top[1]
    branch = explorer.pick({"run": run.id, "pos": 20, "token_ids": [other.id]})
    messages = list(explorer.stream(branch))
    assert messages[0]["start"] == 20
    opened = messages[0]["open"]
    assert (opened["parent"], opened["at"], opened["to_text"]) == (run.id, 20, other.text)
    assert opened["to_p"] == pytest.approx(other.p, rel=1e-3)
    assert messages[0]["toks"][0][4] & 1
    assert [b["run"] for b in messages[-1]["tree"]] == [run.id, branch.id]
    assert branch.tokens[:20] == run.tokens[:20]


def test_typed_text_is_forced_as_its_own_tokens(explorer):
    run = solve(explorer)
    branch = explorer.pick({"run": run.id, "pos": 5, "text": " half"})
    list(explorer.stream(branch))
    assert branch.tokens[5].text == " half"


def test_questions_about_a_token(explorer):
    run = solve(explorer)
    told = explorer.inspect({"run": run.id, "pos": 3})
    assert told["id"] == run.tokens[3].id
    assert len(told["top"]) == 20
    ahead = explorer.look({"run": run.id, "pos": 3})["alternatives"]
    assert [a["id"] for a in ahead] == [c.id for c in run.tokens[3].top[:5]]
    found = explorer.search({"run": run.id, "pos": 3, "q": "apples"})["tokens"]
    assert [t["text"] for t in found] == [" apples"]


STRANGE = [
    None, [], "x", 7, {}, {"run": None}, {"run": "nobody", "pos": 0}, {"run": ["a"], "pos": 0}, {"pos": 0},
    {"run": {"$ne": 1}, "pos": 0},
]  # fmt: skip


@pytest.mark.parametrize("data", STRANGE)
def test_strangers_learn_nothing_and_break_nothing(explorer, data):
    solve(explorer)
    for ask in (explorer.tail, explorer.inspect, explorer.look, explorer.search):
        reply = answering(ask)(data)
        assert list(reply) == ["error"]
    with pytest.raises(SwapError):
        explorer.pick(data)
    StreamTab(explorer.runs).halt(gr.EventData(None, data))


@pytest.mark.parametrize("pos", [-1, 10_000, 1.5, "3", None, True, [3]])
def test_places_that_do_not_exist(explorer, pos):
    run = solve(explorer)
    for ask in (explorer.inspect, explorer.look, explorer.search):
        assert "error" in answering(ask)({"run": run.id, "pos": pos})
    with pytest.raises(SwapError):
        explorer.pick({"run": run.id, "pos": pos, "token_ids": [1]})


@pytest.mark.parametrize("ids", [[], [-1], [10**9], ["1"], [None], "1", {"0": 1}, [1] * 500])
def test_tokens_that_do_not_exist(explorer, ids):
    run = solve(explorer)
    with pytest.raises(SwapError):
        explorer.pick({"run": run.id, "pos": 3, "token_ids": ids})


@pytest.mark.parametrize("tau", [-1, float("nan"), float("inf"), None, "1"])
def test_thresholds_that_make_no_sense(explorer, tau):
    with pytest.raises(RmxError, match="threshold"):
        explorer.start("scripted", None, "What?", Sampling(), tau)


def test_an_empty_problem(explorer):
    with pytest.raises(PromptError):
        explorer.start("scripted", None, "  ", Sampling(), 1.0)


def test_stop_ends_a_run_within_a_step_and_keeps_what_is_there():
    model = scripted_model(seconds=0.01)
    explorer = Explorer(Workspace(loader=lambda spec: model))
    run = explorer.start("scripted", None, "What?", Sampling(max_new_tokens=4000), 1.5)
    messages = explorer.stream(run)
    next(messages)
    StreamTab(explorer.runs).halt(gr.EventData(None, {"run": run.id}))
    rest = list(messages)
    assert rest[-1]["result"]["stop"] == "cancelled"
    assert 0 < len(run.tokens) < 50
    assert model.engine.queue.waiting() == 0


def test_a_closed_page_frees_the_engine():
    model = scripted_model(seconds=0.005)
    explorer = Explorer(Workspace(loader=lambda spec: model))
    run = explorer.start("scripted", None, "What?", Sampling(max_new_tokens=4000), 1.5)
    messages = explorer.stream(run)
    next(messages)
    messages.close()
    assert model.engine.queue.waiting() == 0
    assert run.done


@pytest.mark.slow
def test_who_finds_no_seat_sees_the_place_in_line_and_visitors_do_not_mix(monkeypatch):
    monkeypatch.setattr("rmx.engine.fair_queue.SEATS", 2)
    model = scripted_model(seconds=0.01)
    explorer = Explorer(Workspace(loader=lambda spec: model))
    runs = [explorer.start("scripted", None, "What?", Sampling(max_new_tokens=60, seed=i), 1.5) for i in range(3)]
    got: dict[str, list[dict]] = {run.id: [] for run in runs}

    def visit(run: Branch) -> None:
        got[run.id].extend(explorer.stream(run))

    threads = [threading.Thread(target=visit, args=[run]) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(any(m.get("waiting") for m in got[run.id]) for run in runs) == 1
    for run in runs:
        assert {m["run"] for m in got[run.id]} == {run.id}
        assert rebuilt([m for m in got[run.id] if not m.get("waiting")]) == explorer.tail({"run": run.id})["toks"]
        assert len(run.tokens) == 60


def test_questions_give_up_when_the_engine_stays_busy(explorer, monkeypatch):
    run = solve(explorer)
    monkeypatch.setattr("rmx.ui.jobs.explorer.PATIENCE", 0.05)
    with run.model.engine.queue.turn():
        for ask in (explorer.look, explorer.search):
            assert "busy" in answering(ask)({"run": run.id, "pos": 3, "q": "a"})["error"]
    assert "alternatives" in answering(explorer.look)({"run": run.id, "pos": 3})


def test_a_new_run_stops_the_one_on_the_same_page():
    explorer = Explorer(Workspace(loader=lambda spec: scripted_model()))
    visitors = OpenPages(limit=2)
    one, two = (explorer.start("s", None, "What?", Sampling(), 1.5) for _ in range(2))
    visitors.begin("page", one)
    visitors.begin("page", two)
    assert one._stop.is_set()
    assert not two._stop.is_set()
    visitors.leave("page")
    assert two._stop.is_set()


def test_running_out_of_memory_is_a_sentence_and_the_session_goes_on(explorer, monkeypatch):
    model = explorer.workspace.model("scripted")
    real = model.engine.model.forward

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.engine.model, "forward", fail)
    run = explorer.start("scripted", None, "What?", Sampling(), 1.5)
    last = list(explorer.stream(run))[-1]
    assert "memory" in last["error"]
    assert last["done"]
    monkeypatch.setattr(model.engine.model, "forward", real)
    assert solve(explorer).trace.stop == "eos"


def test_memory_of_runs_is_bounded_and_whole_trees_leave(explorer):
    explorer.runs = BranchStore(MemoryShares(150 * TOKEN_BYTES))
    first = solve(explorer)
    solve(explorer), solve(explorer), solve(explorer)
    assert explorer.runs.find(first.id) is None
    assert "no longer in memory" in answering(explorer.tail)({"run": first.id})["error"]


def test_hostile_tokens_are_in_the_script(explorer):
    run = solve(explorer)
    said = {t.text for t in run.tokens} | {c.text for t in run.tokens for c in t.top}
    assert len(said & set(HOSTILE)) > 10


def test_reading_a_pasted_text_and_going_on_from_it(explorer):
    run = explorer.start("scripted", None, "What?", Sampling(), 1.5, read=" apples is 42.")
    last = list(explorer.stream(run))[-1]
    assert last["result"]["stop"] == "read"
    assert "".join(t.text for t in run.tokens) == " apples is 42."
    branch = explorer.pick({"run": run.id, "pos": 1, "token_ids": [run.tokens[1].top[0].id]})
    list(explorer.stream(branch))
    assert len(branch.tokens) > len(run.tokens)


def test_the_page_is_told_a_small_probability_to_six_digits(explorer):
    """The surprise of a token is -ln p: of a probability rounded to 0 it would be infinite."""
    run = solve(explorer)
    run.tokens[0] = replace(run.tokens[0], logp=-25.5)
    p = explorer.tail({"run": run.id, "start": 0})["toks"][0][2]
    assert math.log(p) == pytest.approx(-25.5, abs=1e-5)
