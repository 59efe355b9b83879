"""What the compare view is told and may ask: messages that add up, repairs, strangers' input, stops, exports."""

import csv
import io
import json
import threading
import time

import gradio as gr
import pytest

from rmx.compare.intervene import ARMS
from rmx.compare.intervene_set import InterveneSet
from rmx.compare.shift_map import map_json
from rmx.data.problem_sets import load_set
from rmx.errors import Busy, RmxError, SwapError
from rmx.models.workspace import Workspace
from rmx.ui.jobs.comparer import Comparer, MapRun, aligned_rows
from rmx.ui.tabs.form_parts import StreamTab
from tests.helpers.pairs import script_pair
from tests.unit.compare.test_intervene import parting_pair

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved(rl):
    """A comparer, a finished map of a problem where the two part, and all the messages it sent."""
    comparer = Comparer(Workspace("cpu"))
    problem = load_set("mini")[5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmx.ui.jobs.comparer.PairJob.interval", 0.0)
        run = comparer.map(rl, problem.problem, 1.0, known=problem.answer)
        return comparer, run, list(comparer.stream(run))


@pytest.fixture
def scripted():
    """A comparer and a finished map of a scripted pair that parts five times in 13 tokens."""
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(parting_pair(13, 3), "p", 1.0)
    list(comparer.stream(run))
    return comparer, run


def rebuilt(messages: list[dict]) -> list:
    tokens: list = []
    for message in messages:
        assert message["start"] <= len(tokens)
        tokens[message["start"] :] = message["toks"]
    return tokens


def patched(comparer: Comparer, run: MapRun, arm: str, budget: int | None = None):
    made = comparer.patch({"map": run.id, "arm": arm, "budget": budget})
    messages = list(comparer.stream(made))
    assert "error" not in messages[-1]
    return made, messages


# -- maps --------------------------------------------------------------------------------------------------------------


def test_the_messages_of_a_map_add_up_to_it(solved):
    comparer, run, messages = solved
    assert len(messages) > 10
    assert [m["done"] for m in messages] == [False] * (len(messages) - 1) + [True]
    assert {m["id"] for m in messages} == {run.id}
    whole = comparer.tail({"id": run.id, "start": 0})
    assert rebuilt(messages) == whole["toks"]
    assert len(whole["toks"]) == len(run.found.shifts)
    assert "".join(t[0] for t in whole["toks"]) == "".join(s.text for s in run.found.shifts)
    opened = messages[0]["open"]
    assert (opened["base"], opened["adapted"], opened["source"], opened["tau"]) == ("mini", "mini + rl", "base", 1.0)
    json.dumps(messages, allow_nan=False)
    assert "error" not in messages[-1]


def test_a_token_says_what_its_place_says(solved):
    _, run, messages = solved
    for token, shift in zip(rebuilt(messages), run.found.shifts, strict=True):
        text, cls, flags, kl, h, g, p, q = token
        assert text == shift.text
        assert cls == ["unshifted", "reranked", "shifted"].index(shift.kind)
        assert bool(flags & 2) == (shift.base.entropy > 1.0)
        assert bool(flags & 4) == (shift.id in run.pair.base.detokenizer.special_ids)
        assert bool(flags & 1) == shift.near_tie(run.found.tolerance)
        assert kl == pytest.approx(shift.kl, abs=1e-5)
        assert (h, g) == (pytest.approx(shift.base.entropy, abs=1e-4), pytest.approx(shift.adapted.entropy, abs=1e-4))
        assert 0 <= p <= 1
        assert p == pytest.approx(2.718281828**shift.base.logp, abs=1e-5)
        assert q == pytest.approx(2.718281828**shift.adapted.logp, abs=1e-5)


def test_both_solutions_are_told_in_rows_that_add_up_to_them(solved):
    _, run, messages = solved
    beside = messages[-1]["result"]["beside"]
    texts, special = run.pair.base.detokenizer, run.pair.base.detokenizer.special_ids
    for k, ids in enumerate((run.found.ids, run.other)):
        assert "".join(row[k] for row in beside["rows"]) == texts.text([i for i in ids if i not in special])
    assert beside["rows"][0][2]  # they begin alike
    assert not all(same for *_, same in beside["rows"])
    assert all((mine == theirs) >= same for mine, theirs, same in beside["rows"])
    assert beside["answer"] == messages[-1]["result"]["adapted_answer"]


def test_where_the_other_solution_was_not_written_it_is_said_why(monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.comparer.SMALL", 0)
    comparer = Comparer(Workspace("cpu"))
    large = list(comparer.stream(comparer.map(parting_pair(13, 3), "p", 1.0)))[-1]["result"]
    assert large["beside"]["arm"] == "teacher"
    assert "only when asked for" in large["beside"]["unwritten"]
    run = comparer.map(parting_pair(13, 3), "p", 1.0)
    run.halt()
    assert "stopped" in list(comparer.stream(run))[-1]["result"]["beside"]["unwritten"]


@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        ([1, 2, 3], [1, 2, 3], [([1, 2, 3], [1, 2, 3], True)]),
        ([1, 2], [3], [([1, 2], [3], False)]),
        ([1, 9, 5], [1, 8, 5], [([1], [1], True), ([9, 5], [8, 5], False)]),  # one token alike is chance
        ([9, 1, 2, 3, 4], [1, 2, 3, 4, 8], [([9], [], False), ([1, 2, 3, 4], [1, 2, 3, 4], True), ([], [8], False)]),
        ([], [], []),
    ],
)
def test_solutions_come_together_again_where_enough_of_them_is_alike(first, second, rows):
    assert aligned_rows(first, second) == rows


def test_the_result_counts(solved):
    _, run, messages = solved
    result, shifts = messages[-1]["result"], run.found.shifts
    differ = [s for s in shifts if s.rank > 1]
    assert sum(result["counts"][k] for k in ("unshifted", "reranked", "shifted")) == result["n"] == len(shifts)
    assert result["on_forks"]["disagreements"] == len(differ) > 0
    assert result["on_forks"]["on_forks"] == sum(s.base.entropy > 1.0 for s in differ)
    assert result["on_forks"]["by_chance"] == sum(s.base.entropy > 1.0 for s in shifts) / len(shifts)
    assert {e["pos"] for e in result["largest"][: len(differ)]} == {s.pos for s in differ}
    for entry in result["largest"]:
        shift = shifts[entry["pos"]]
        assert (entry["text"], entry["base"]) == (shift.text, shift.text)
        assert (entry["adapted"] != entry["base"]) == (shift.rank > 1)
    assert result["check"]["holds"]
    assert result["placebo"]["strength"] > 0
    assert result["noise"]["max_dlogit"] < 1e-3


@pytest.mark.parametrize("start", [0, 1, 10, 10_000])
def test_a_tail_repairs_from_where_it_is_asked(solved, start):
    comparer, run, messages = solved
    tail = comparer.tail({"id": run.id, "start": start})
    whole = rebuilt(messages)
    assert [*whole[: tail["start"]], *tail["toks"]] == whole
    assert tail["open"]
    assert tail["result"] == messages[-1]["result"]


@pytest.mark.parametrize("start", [None, "3", -4, True, 1.5])
def test_a_nonsense_start_gets_everything(solved, start):
    comparer, run, _ = solved
    assert comparer.tail({"id": run.id, "start": start})["start"] == 0


def test_inspecting_a_token_shows_both_distributions(solved):
    comparer, run, messages = solved
    for pos, shift in enumerate(run.found.shifts):
        found = comparer.inspect({"id": run.id, "pos": pos})
        assert {"pos", "text", "cls", "near_tie", "kl", "rank", "p", "back_rank", "back_p", "base", "adapted"} <= set(
            found
        )
        assert (found["pos"], found["text"], found["rank"]) == (pos, shift.text, shift.rank)
        assert found["cls"] == rebuilt(messages)[pos][1]
        assert len(found["base"]["top"]) == len(found["adapted"]["top"]) == 5
        assert found["base"]["rank"] == 1  # the base's own greedy completion
        assert found["base"]["top"][0]["text"] == run.pair.base.detokenizer.token_text(shift.id)
        assert found["adapted"]["top"][0]["p"] >= found["back_p"] - 1e-5
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("known", "source", "stop"), [("1", "base", "eos"), ("1", "adapted", "eos"), (None, "text", "read")]
)
def test_every_source_can_be_mapped(rl, known, source, stop):
    comparer = Comparer(Workspace("cpu"))
    text = " First, the facts are 42, 11. So the answer is \\boxed{53}."
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0, known=known, source=source, text=text)
    last = list(comparer.stream(run))[-1]
    assert "error" not in last
    assert last["result"]["stop"] == stop
    assert last["result"]["answer"]["correct"] is (None if known is None else False) or source != "text"
    if source == "text":
        assert "".join(t[0] for t in rebuilt([comparer.tail({"id": run.id, "start": 0})])) == text
        assert last["result"]["answer"]["text"] == "53"
    # What the map says of an arm is what decoding that arm says.
    for arm in set(run.patches):
        said, answer = run.patches[arm], run.answers[arm]
        made, _ = patched(comparer, run, arm)
        assert (made.decode.result.patches, made.decode.result.answer) == (said, answer)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"problem": "  "}, "empty"),
        ({"tau": -1.0}, "threshold"),
        ({"tau": float("nan")}, "threshold"),
        ({"source": "mine"}, "text source"),
        ({"source": "text", "text": ""}, "empty"),
    ],
)
def test_maps_that_cannot_be_made_are_explained(rl, wrong, said):
    options = {"problem": "What?", "tau": 1.0} | wrong
    with pytest.raises(RmxError, match=said):
        Comparer(Workspace("cpu")).map(rl, options.pop("problem"), options.pop("tau"), **options)


# -- patches -----------------------------------------------------------------------------------------------------------


def test_the_messages_of_a_decode_add_up_to_it(solved, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.comparer.PairJob.interval", 0.0)
    comparer, run, _ = solved
    made, messages = patched(comparer, run, "oracle")
    tokens = rebuilt(messages)
    assert tokens == comparer.tail({"id": made.id, "start": 0})["toks"]
    assert len(tokens) == len(made.decode.tokens)
    assert messages[0]["open"]["arm"] == "oracle"
    assert messages[-1]["result"]["patches"] == sum(t[1] & 1 for t in tokens) > 0
    for token, t in zip(tokens, made.decode.tokens, strict=True):
        assert (token[3] is not None) == t.patched
        assert bool(token[1] & 2) == t.differs
        assert bool(token[1] & 4) == t.gated
        assert not token[1] & 16
    assert messages[-1]["patches"]["oracle"] == messages[-1]["result"]["patches"]
    assert messages[-1]["answers"]["oracle"] == messages[-1]["result"]["answer"]
    json.dumps(messages, allow_nan=False)
    again, more = patched(comparer, run, "oracle")
    assert len(again.job.kept) == len(tokens) - 1
    assert rebuilt(more) == tokens
    some, fewer = patched(comparer, run, "oracle", 0)
    refused = [t for t in rebuilt(fewer) if t[1] & 16]
    assert fewer[-1]["result"]["patches"] == 0
    assert refused
    assert all(t[3] is None for t in refused)
    assert fewer[-1]["patches"]["oracle"] == messages[-1]["result"]["patches"]  # a budget does not change the arm's own


@pytest.mark.parametrize("first", [None, 0, 1])
def test_random_places_are_as_many_as_the_whole_oracle_patches_whatever_was_decoded_before(scripted, first):
    comparer, run = scripted
    if first is not None:
        patched(comparer, run, "oracle", first)
        patched(comparer, run, "base", first)
    _, messages = patched(comparer, run, "matched")
    assert messages[-1]["result"]["patches"] == 5
    assert messages[-1]["patches"]["oracle"] == 5


@pytest.mark.parametrize("after", [0, 1, 8, 20])
def test_stopping_while_random_places_are_drawn_leaves_nothing_half_known(after):
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(parting_pair(13, 3), "p", 1.0)
    list(comparer.stream(run))
    network, made = run.pair.base.engine.model, comparer.patch({"map": run.id, "arm": "matched", "budget": None})
    calls, say = 0, network.say

    def halting(pos: int, last: int):
        nonlocal calls
        calls += 1
        if calls > after:
            made.halt()
        return say(pos, last)

    if not after:
        made.halt()
    network.say = halting
    last = list(comparer.stream(made))[-1]
    network.say = say
    assert last["done"]
    assert "error" not in last
    assert run.pair.base.engine.queue.waiting() == run.pair.adapted.engine.queue.waiting() == 0
    assert all(len(tokens) == 14 for tokens in run.decoded.values())
    _, messages = patched(comparer, run, "matched")
    assert messages[-1]["result"]["patches"] == 5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "no longer in memory"),
        ({"map": "nobody", "arm": "oracle"}, "no longer in memory"),
        ({"map": ["x"], "arm": "oracle"}, "no longer in memory"),
        ({"arm": "orakel"}, "no arm 'orakel'"),
        ({"arm": None}, "no arm"),
        ({"arm": ["oracle"]}, "no arm"),
        ({"arm": "oracle", "budget": -1}, "whole number"),
        ({"arm": "oracle", "budget": "2"}, "whole number"),
        ({"arm": "oracle", "budget": True}, "whole number"),
        ({"arm": "oracle", "budget": 1.5}, "whole number"),
    ],
)
def test_patches_that_cannot_be_made_are_explained(scripted, data, said):
    comparer, run = scripted
    asked = {"map": run.id} | data if data is not None else None
    with pytest.raises(RmxError, match=said):
        comparer.patch(asked)


@pytest.mark.parametrize("pos", [-1, 14, None, "3", True, 2.0])
def test_positions_that_are_not_there_are_explained(scripted, pos):
    comparer, run = scripted
    with pytest.raises(SwapError, match="no token at position"):
        comparer.inspect({"id": run.id, "pos": pos})


def test_strangers_ids_find_nothing(scripted):
    comparer, run = scripted
    for asked in (None, {}, {"id": None}, {"id": "x"}, {"id": {}}, [run.id], run.id):
        for question in (comparer.tail, comparer.inspect, comparer.check):
            with pytest.raises(SwapError, match="no longer in memory"):
                question(asked)
        StreamTab(comparer.jobs).halt(gr.EventData(None, asked))
    with pytest.raises(SwapError):  # a decode is no map
        comparer.inspect({"id": patched(comparer, run, "base")[0].id, "pos": 0})


def test_the_oldest_finished_jobs_are_forgotten_when_bytes_run_over():
    comparer = Comparer(Workspace("cpu"))
    pair = script_pair(lambda pos, last: {65: 9.0}, lambda pos, last: {65: 9.0})
    runs = []
    for _ in range(3):
        runs.append(comparer.map(pair, "p", 1.0, max_new=3))
        list(comparer.stream(runs[-1]))
        assert len(runs[-1].found.shifts) == 3
    assert comparer.jobs.kept.nbytes == sum(run.nbytes for run in runs)
    comparer.jobs.kept.most = runs[0].nbytes * 5 // 3
    running = comparer.map(pair, "p", 1.0)  # there is room for one and a half: the first two jobs go
    assert [comparer.jobs.find(r.id) is r for r in runs] == [False, False, True]
    assert comparer.jobs.find(running.id) is running
    later = comparer.map(pair, "p", 1.0)
    assert comparer.jobs.find(running.id) is running, "what is not done yet is never forgotten"
    assert comparer.jobs.find(later.id) is later


def test_one_second_copy_at_a_time(rl):
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0)
    list(comparer.stream(run))
    with comparer._copying, pytest.raises(Busy, match="second copy"):
        comparer.check({"id": run.id, "copy": True})
    found = comparer.check({"id": run.id, "copy": True})
    assert found["copy"] == 0.0
    assert found["holds"]


# -- stops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["base", "adapted"])
def test_halting_a_map_ends_it_within_a_step_and_frees_the_engine(rl, source, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.comparer.PairJob.interval", 0.0)
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0, source=source)
    messages = []
    for message in comparer.stream(run):
        messages.append(message)
        if len(messages) == 4:
            comparer.jobs.halt(run.id)
    assert len(run.found.shifts) <= 5
    assert messages[-1]["done"]
    assert messages[-1]["result"]["stop"] == "cancelled"
    assert "error" not in messages[-1]
    assert run.answers == {}
    assert rl.base.engine.queue.waiting() == 0


def test_closing_the_stream_frees_the_engine(rl, monkeypatch):
    monkeypatch.setattr("rmx.ui.jobs.comparer.PairJob.interval", 0.0)
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0)
    stream = comparer.stream(run)
    next(stream)
    assert rl.base.engine.queue.waiting() == 1
    stream.close()
    assert rl.base.engine.queue.waiting() == 0


def test_who_waits_is_told_so_and_can_stop_waiting(rl):
    rl.base.engine.queue._mean = 7.0  # seconds that a turn takes, lately
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0)
    with rl.turn():
        stream = comparer.stream(run)
        first = next(stream)
        assert first["waiting"] == 1
        assert 0 < first["expected"] <= 7
        assert first["toks"] == []
        comparer.jobs.halt(run.id)
        last = list(stream)[-1]
    assert last["done"]
    assert last["toks"] == []
    assert last["result"]["n"] == 0
    assert rl.base.engine.queue.waiting() == 0


def test_a_busy_engine_spoils_no_finished_map(rl, monkeypatch):
    """The badge and the placebo come after the turn is given back; whoever has the engine then makes no error."""
    monkeypatch.setattr("rmx.ui.jobs.comparer.PATIENCE", 0.05)
    comparer = Comparer(Workspace("cpu"))
    run = comparer.map(rl, load_set("mini")[0].problem, 1.0, source="adapted")
    held, release = threading.Event(), threading.Event()

    def other() -> None:
        with rl.turn():
            held.set()
            release.wait(20)

    thread = threading.Thread(target=other)
    after = comparer._after_map

    def then_busy(one: MapRun) -> None:
        after(one)
        thread.start()
        while rl.base.engine.queue.waiting() < 2:
            time.sleep(0.01)

    monkeypatch.setattr(comparer, "_after_map", then_busy)
    last = list(comparer.stream(run))[-1]
    release.set()
    thread.join()
    assert "error" not in last
    assert last["result"]["answer"]["text"] is not None
    assert (last["result"]["check"], last["result"]["placebo"]) == (None, None)


# -- sets --------------------------------------------------------------------------------------------------------------


def over_set(rl, what: str, count: int = 2):
    comparer = Comparer(Workspace("cpu"))
    run = comparer.over_set(rl, what, "mini", load_set("mini")[:count], 1.0)
    return comparer, run


def test_a_run_of_shifts_gives_rows(rl):
    comparer, run = over_set(rl, "shifts")
    messages = list(comparer.stream(run))
    last = messages[-1]
    assert (last["kind"], last["what"], last["at"], last["of"], last["done"]) == ("set", "shifts", 2, 2, True)
    assert {"name", "label", "value", "paper", "unit", "placebo"} <= set(last["rows"][0])
    figures = run.report.json()
    for row in last["rows"]:
        known = figures["intervals"].get(row["name"], figures.get(row["name"]))
        assert row["value"] == known, row["name"]
        assert row["placebo"] is not None
    assert comparer.tail({"id": run.id, "start": 0}) == last
    json.dumps(messages, allow_nan=False)


def test_a_run_of_interventions_gives_arms(rl):
    comparer, run = over_set(rl, "intervene")
    last = list(comparer.stream(run))[-1]
    assert [a["arm"] for a in last["arms"]] == [*ARMS, "placebo"]
    assert last["oracle_equals_teacher"] == {"same": 2, "of": 2, "parted": []}
    assert last["arms"][0]["vs_base"] is None
    assert last["arms"][1]["pass"]["n"] == 2
    json.dumps(last, allow_nan=False)
    document = json.loads(comparer.export({"id": run.id, "format": "json"})["text"])
    assert document["arms"]["oracle"]["pass@1"] == last["arms"][2]["pass"]
    rows = list(csv.DictReader(io.StringIO(comparer.export({"id": run.id, "format": "csv"})["text"])))
    assert len(rows) == 2 * len(ARMS)
    for row, problem in zip(rows[:: len(ARMS)], document["problems"], strict=True):
        assert row["problem"] == problem["id"]
        assert row["answer"] == (problem["answers"]["base"] or "")
        assert int(row["tokens"]) == problem["tokens"]["base"]


@pytest.mark.parametrize("what", ["shifts", "intervene"])
def test_halting_a_set_frees_the_engine(rl, what):
    comparer, run = over_set(rl, what)
    comparer.jobs.halt(run.id)
    last = list(comparer.stream(run))[-1]
    assert (last["done"], last["stopped"], last["at"]) == (True, True, 0)
    assert rl.base.engine.queue.waiting() == 0
    json.dumps(last, allow_nan=False)
    assert comparer.export({"id": run.id, "format": "csv"})["text"]


def test_a_set_that_cannot_be_run_says_why(rl):
    comparer = Comparer(Workspace("cpu"))
    from rmx.records import Problem

    run = comparer.over_set(rl, "intervene", "own", [Problem("1", "What?", None)], 1.0)
    last = list(comparer.stream(run))[-1]
    assert "known answer" in last["error"]
    assert last["done"]
    assert isinstance(run.reports, InterveneSet)


# -- exports -----------------------------------------------------------------------------------------------------------


def test_a_map_exports_what_the_command_line_prints(solved):
    comparer, run, _ = solved
    made = comparer.export({"id": run.id, "format": "json"})
    assert json.loads(made["text"]) == json.loads(json.dumps(map_json(run.found)))
    assert (made["name"], made["mime"]) == ("shifts.json", "application/json")
    rows = list(csv.DictReader(io.StringIO(comparer.export({"id": run.id, "format": "csv"})["text"])))
    assert len(rows) == len(run.found.shifts)
    for row, shift in zip(rows, run.found.shifts, strict=True):
        assert (row["text"], int(row["id"]), row["class"]) == (shift.text, shift.id, shift.kind)
        assert float(row["kl"]) == shift.kl
        assert float(row["base_entropy"]) == shift.base.entropy
        assert float(row["adapted_entropy"]) == shift.adapted.entropy


def test_a_set_exports_its_figures(rl):
    comparer, run = over_set(rl, "shifts")
    list(comparer.stream(run))
    document = json.loads(comparer.export({"id": run.id, "format": "json"})["text"])
    rows = {
        r["figure"]: r for r in csv.DictReader(io.StringIO(comparer.export({"id": run.id, "format": "csv"})["text"]))
    }
    assert float(rows["reranked"]["value"]) == document["reranked"]
    assert float(rows["reranked"]["high"]) == document["intervals"]["reranked"]["high"]
    assert float(rows["reranked"]["placebo"]) == document["placebo"]["reranked"]
    assert float(rows["mean_rank"]["value"]) == document["mean_rank"]["value"]


def test_other_formats_and_other_jobs_export_nothing(scripted):
    comparer, run = scripted
    with pytest.raises(RmxError, match="JSON or CSV"):
        comparer.export({"id": run.id, "format": "xlsx"})
    for asked in (None, {"format": "json"}, {"id": "x", "format": "json"}):
        with pytest.raises(SwapError, match="no longer in memory"):
            comparer.export(asked)
    with pytest.raises(RmxError, match="nothing to export"):
        comparer.export({"id": patched(comparer, run, "base")[0].id, "format": "json"})


@pytest.mark.parametrize("what", ["shifts", "intervene"])
def test_a_set_run_that_waits_for_the_engine_can_be_stopped(rl, what):
    comparer, run = over_set(rl, what)
    with rl.base.engine.queue.turn():  # somebody else is at work
        run.halt()
        last = list(comparer.stream(run))[-1]
        assert last["done"]
        assert last["stopped"]
        assert rl.base.engine.queue.waiting() == 1
    assert last["at"] == 0
