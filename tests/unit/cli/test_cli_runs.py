"""`rmx runs`: the runs_table, one run, what it does to runs, refusals in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from rmx.cli.runs import minutes, plain, runs_table
from rmx.models.workspace import Workspace
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore, row
from rmx.ui.jobs.training import Training
from tests.unit.cli.test_cli import run

pytestmark = pytest.mark.slow

FAKE = (sys.executable, str(Path(__file__).parents[2] / "helpers" / "fake_run.py"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setattr("rmx.runs.store.RunStore", partial(RunStore, program=FAKE))
    return RunStore(program=FAKE)


@pytest.fixture
def done(store):
    folder = store.create(TrainJob(preset="small"), path=store.root / "20260101-1200-mini-aaaa")
    folder.change(folder.config | {"created": 100.0})
    with folder.lock():
        folder.event("gate", {"tau": 1.0, "share": 0.052})
        before, after, gained = ({"value": v, "low": v - 0.05, "high": v + 0.05, "n": 200} for v in (0.425, 0.5, 0.075))
        figures = {"before": before, "after": after, "vs_base": gained, "split": "test", "seconds": 252.0, "usd": 0.014}
        folder.event("done", figures)
        folder.set_status(state="done")
    return folder


@pytest.fixture
def waiting(store):
    folder = store.create(TrainJob(model="own/model"), path=store.root / "20260102-1200-model-bbbb")
    folder.change(folder.config | {"created": 200.0})
    return folder


def document(capsys, *argv):
    code, out, err = run(capsys, "runs", *argv, "--json")
    assert code == 0, err
    return json.loads(out)


def until(true, patience=20.0):
    limit = time.monotonic() + patience
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_the_list_as_json_is_the_rows_newest_first(capsys, done, waiting):
    assert document(capsys) == {"runs": [row(waiting), row(done)]}
    assert document(capsys, "list") == document(capsys)
    code, out, _ = run(capsys, "runs", "--json", "list")  # before the word as well
    assert (code, json.loads(out)) == (0, document(capsys))


def test_the_table_has_its_columns_under_each_other(capsys, done, waiting):
    code, out, _ = run(capsys, "runs")
    head, second, first = out.splitlines()
    assert code == 0
    assert second.startswith("20260102-1200-model-bbbb  stopped  own/model  mini")
    assert first.split("  ") != first
    assert "42.5 → 50.0 %" in first
    assert "+7.5 [+2.5, +12.5]" in first
    assert first[head.index("time") :].startswith("4.2 min  $0.01")
    assert (first[head.index("tau") :][:4], first[head.index("gated") :][:5]) == ("1.00", "5.2 %")
    assert second[head.index("gated") :].startswith("–")


def test_figures_on_validation_problems_do_not_stand_among_those_on_test_problems(capsys, waiting):
    half, better = ({"value": v, "low": v - 0.05, "high": v + 0.05, "n": 60} for v in (0.425, 0.5))
    with waiting.lock():
        waiting.event("check", {"optimizer_step": 0, "pass@1": half, "vs_base": None})
        waiting.event("check", {"optimizer_step": 5, "pass@1": better, "vs_base": better, "best": True})
        waiting.set_status(state="running")
    shown = row(waiting)
    assert (shown["state"], shown["after"], shown["on"]) == ("interrupted", better, "validation")
    head, line = runs_table([shown]).splitlines()
    place = head.index("pass@1 before")
    assert line[place : head.index("time")].split() == ["–", "–"]
    (listed,) = Training(Workspace(), RunStore(waiting.path.parent)).runs_list({})["runs"]
    assert (listed["before"], listed["after"], listed["vs_base"]) == (None, None, None)
    assert "pass@1 50.0 % [45.0, 55.0] (validation)" in run(capsys, "runs", "show", waiting.id)[1]


def test_an_empty_store_says_how_to_begin(capsys, store):
    assert run(capsys, "runs")[:2] == (0, "")
    assert "rmx train" in run(capsys, "runs")[2]
    assert document(capsys) == {"runs": []}


def test_a_state_says_where_in_queue_or_stage_it_is(done):
    shown = row(done)
    lines = runs_table(
        [shown | {"state": "queued", "ahead": 2}, shown | {"state": "running", "stage": "training", "at": 3, "of": 9}]
    )
    assert "queued, 2 before it" in lines
    assert "training 3/9" in lines


def test_a_narrow_terminal_gets_cut_lines_and_a_hostile_note_moves_no_cursor(done):
    done.note("a\x1b[2J\nb\u202ec" + "x" * 300)
    lines = runs_table([row(done)], 80).splitlines()
    assert [len(line) <= 80 for line in lines] == [True, True]
    whole = runs_table([row(done)])
    assert len(whole.splitlines()) == 2
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert plain("a\tb\x9b") == "a b "


def test_one_run(capsys, done):
    (done.path / "adapter").mkdir()
    (done.path / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 2_500_000)
    found = document(capsys, "show", "20260101")  # as much of the id as only this one has
    assert set(found) == {"run", "status", "config", "path", "files"}
    assert found["run"] == row(done)
    assert found["config"]["recipe"]["k"] == 20
    assert {"path": "adapter/adapter_model.safetensors", "bytes": 2_500_000} in found["files"]
    code, out, _ = run(capsys, "runs", "show", done.id)
    assert code == 0
    for said in (
        "  state    done",
        "pass@1 50.0 % [45.0, 55.0]",
        "+7.5 points [+2.5, +12.5]",
        "2.5 MB",
        "rmx train --model mini",
    ):
        assert said in out


def test_a_run_that_cannot_be_read_is_shown_as_that(capsys, store, done):
    (done.path / "config.json").write_text("{")
    found = document(capsys, "show", done.id)
    assert (found["run"]["state"], found["config"]) == ("unreadable", None)
    assert "unreadable" in run(capsys, "runs")[1]
    assert run(capsys, "runs", "show", done.id)[0] == 0


def test_resume_stop_and_remove(capsys, store, waiting, monkeypatch):
    monkeypatch.setenv("STEPS", "400")
    monkeypatch.setenv("PACE", "0.05")
    assert document(capsys, "resume", waiting.id)["state"] in ("queued", "running")
    until(lambda: waiting.state == "running")
    assert run(capsys, "runs", "rm", waiting.id)[0] == 2
    assert document(capsys, "stop", waiting.id)["state"] == "stopping"
    until(lambda: not waiting.alive)
    code, out, _ = run(capsys, "runs", "resume", "20260102")
    assert (code, out) == (0, f"{waiting.id} goes on in a process of its own; rmx runs show {waiting.id}\n")
    until(lambda: waiting.state == "running")
    assert document(capsys, "stop", waiting.id, "--force")["state"] == "interrupted"
    assert document(capsys, "rm", waiting.id) == {"id": waiting.id, "removed": True}
    assert not waiting.path.exists()


def test_the_resumed_run_outlives_the_command(store, waiting, tmp_path):
    """The very command, as a user gives it; only the program of the run is another one."""
    script = f"""
import functools, sys, rmx.runs.store
rmx.runs.store.RunStore = functools.partial(rmx.runs.store.RunStore, program={FAKE!r})
from rmx.cli.main import main
sys.exit(main(["runs", "resume", {waiting.id!r}]))
"""
    more = {"STEPS": "400", "PACE": "0.05"}
    assert subprocess.run([sys.executable, "-c", script], env=os.environ | more).returncode == 0
    until(lambda: len(waiting.events()[0]) > 3)
    os.kill(waiting.pid, signal.SIGTERM)
    until(lambda: not waiting.alive)
    assert waiting.state == "stopped"


def test_a_note(capsys, done):
    assert document(capsys, "note", done.id, "first seed")["note"] == "first seed"
    assert run(capsys, "runs", "note", done.id, "second")[:2] == (0, f"{done.id} noted\n")
    assert run(capsys, "runs")[1].rstrip().endswith("second")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["show", "nobody"], "There is no run 'nobody'. rmx runs lists"),
        (["show", "../etc"], "There is no run"),
        (["show", "2026"], "Several runs begin with '2026'"),
        (["stop", "20260101"], "not under way; it is done"),
        (["stop", "20260101", "--force"], "no process to end; it is done"),
        (["resume", "20260101"], "is done; there is nothing left to do"),
        (["rm", "nobody"], "There is no run"),
        (["note", "20260101"], "TEXT"),
        (["burn", "20260101"], "burn"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, done, waiting, argv, said):
    code, out, err = run(capsys, "runs", *argv)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_times_for_people():
    assert [minutes(m) for m in (None, 0.04, 99.0, 150.0)] == ["–", "0.0 min", "99.0 min", "2.5 h"]
