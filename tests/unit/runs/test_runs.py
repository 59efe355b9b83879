"""Runs on disk: whole files whatever happens, events by the byte, locks, ids, rows."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from rmx.errors import RmxError, TrainError
from rmx.runs.folder import RunFolder
from rmx.runs.job import DistillJob, TrainJob
from rmx.runs.queue import _before
from rmx.runs.recipe import SMALL
from rmx.runs.store import EMPTY, RunStore, new_id, row
from rmx.storage import safe_files as run_files

HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}
BETTER = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 60}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def folder(store):
    return store.create(TrainJob(preset="small", recipe=SMALL.with_(lr=5e-4)), owner="abc")


def test_nothing_here_needs_torch_so_that_waiting_costs_little():
    wanted = "rmx.cli.main, rmx.cli.runs, rmx.train.drive, rmx.runs.store, rmx.runs.store"
    heavy = "{'torch', 'numpy', 'transformers', 'gradio'} & set(sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {wanted}; print(sorted({heavy}))"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_are_read_on_from_the_byte_where_the_last_look_ended(folder):
    with folder.lock():
        folder.event("stage", {"at": 1})
        first, after = folder.events()
        assert [(e["kind"], e["at"]) for e in first] == [("stage", 1)]
        assert abs(first[0]["t"] - time.time()) < 5
        assert folder.events(after) == ([], after)
        folder.event("stage", {"at": 2, "text": "é 🙂"})
    second, end = folder.events(after)
    assert [(e["at"], e["text"]) for e in second] == [(2, "é 🙂")]
    assert end == (folder.path / "events.jsonl").stat().st_size


def test_a_look_may_be_bounded_and_never_splits_a_line(folder):
    with folder.lock():
        for at in range(50):
            folder.event("stage", {"at": at, "text": "x" * at})
    found, start, looks = [], 0, 0
    while True:
        events, after = folder.events(start, most=200)
        if not events:
            break
        found, start, looks = [*found, *events], after, looks + 1
    assert [e["at"] for e in found] == list(range(50))
    assert looks > 10
    whole, end = folder.events(0, most=10)  # one line is longer than that
    assert (len(whole), end) == (1, folder.events(0, most=10)[1])


@pytest.mark.parametrize("start", [10**6, 10**30])
def test_a_place_after_the_end_has_no_events(folder, start):
    with folder.lock():
        folder.event("stage", {"at": 1})
    assert folder.events(start) == ([], start)


def test_a_place_inside_a_line_begins_with_the_next_one(folder):
    with folder.lock():
        folder.event("stage", {"at": 1})
        folder.event("stage", {"at": 2})
    assert [e["at"] for e in folder.events(7)[0]] == [2]


def test_a_torn_last_line_is_not_read_and_the_next_writer_cuts_it_off(folder):
    path = folder.path / "events.jsonl"
    with folder.lock():
        folder.event("stage", {"at": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"t": 1, "kind": "sta')
    assert [e["at"] for e in folder.events()[0]] == [1]
    assert folder.events()[1] == len(whole)
    after = RunFolder(folder.path)
    with after.lock():
        after.event("stage", {"at": 2})
    assert [e["at"] for e in folder.events()[0]] == [1, 2]
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["at"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_torn_line_longer_than_a_block_is_cut_off_too(folder, monkeypatch):
    monkeypatch.setattr(run_files, "BLOCK", 16)
    path = folder.path / "events.jsonl"
    path.write_bytes(b'{"kind": "stage", "at": 1}\n' + b"x" * 1000)
    with folder.lock():
        folder.event("stage", {"at": 2})
    assert [e["at"] for e in folder.events()[0]] == [1, 2]
    path.write_bytes(b"x" * 1000)
    with folder.lock():
        folder.event("stage", {"at": 3})
    assert [e["at"] for e in folder.events()[0]] == [3]


def test_figures_that_are_no_numbers_become_null_and_torn_characters_a_question_mark(folder):
    with folder.lock():
        folder.event("update", {"loss": float("nan"), "deep": [float("inf"), (1.5,)], "text": "a\ud83d"})
    found = folder.events()[0][0]
    assert (found["loss"], found["deep"], found["text"]) == (None, [None, [1.5]], "a?")


def test_a_line_goes_out_in_one_write(folder, monkeypatch):
    writes, real = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(bytes(data)) or real(fd, data))
    with folder.lock():
        folder.event("stage", {"at": 1})
    assert [w for w in writes if b'"kind"' in w] == [(folder.path / "events.jsonl").read_bytes()]


def test_polling_a_long_run_costs_what_is_new(folder):
    line = b'{"t": 1.0, "kind": "micro", "loss": 0.5, "text": "' + b"x" * 100 + b'"}\n'
    (folder.path / "events.jsonl").write_bytes(line * 100_000)
    end = 100_000 * len(line)
    began = time.process_time()
    for _ in range(200):
        assert folder.events(end) == ([], end)
    assert time.process_time() - began < 1.0  # reading it all takes 0.2 s and more each time


# -- the disk against it ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_sentence_and_leaves_the_old_status_whole(folder, monkeypatch):
    folder.set_status(state="stopped", at=1)
    before = (folder.path / "status.json").read_bytes()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainError, match="is full. Make room, then resume") as caught:
        folder.set_status(state="done", at=2)
    assert "\n" not in str(caught.value)
    assert (folder.path / "status.json").read_bytes() == before
    assert [p.name for p in folder.path.iterdir() if p.name.endswith(".part")] == []


def test_half_a_line_on_a_full_disk_is_taken_back(folder, monkeypatch):
    real = os.write

    def filling(fd, data):
        if b"lost" not in bytes(data):
            return real(fd, data)
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) - 30])

    with folder.lock():
        folder.event("stage", {"at": 1})
        monkeypatch.setattr(os, "write", filling)
        with pytest.raises(TrainError, match="full"):
            folder.event("stage", {"text": "lost" * 9})
        monkeypatch.undo()
        folder.event("stage", {"at": 2})
    lines = (folder.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["at"] for line in lines] == [1, 2]


def test_a_file_that_the_system_stops_growing_keeps_whole_lines(folder):
    """A limit of the system tears a write for real."""
    script = f"""
import resource, signal, sys
from pathlib import Path
from rmx.runs.folder import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = RunFolder(Path({str(folder.path)!r}))
with folder.lock():
    for at in range(100):
        folder.event("stage", {{"at": at, "text": "x" * 100}})
"""
    assert hasattr(resource, "RLIMIT_FSIZE")
    assert hasattr(signal, "SIGXFSZ")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 1
    data = (folder.path / "events.jsonl").read_bytes()
    assert data.endswith(b"}\n")
    assert [json.loads(line)["at"] for line in data.splitlines()] == list(range(len(data.splitlines())))
    assert 4 < len(data.splitlines()) < 9


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_one_sentence(store, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(TrainError, match="cannot be written to .* Set RMX_RUNS"):
        store.create(TrainJob())


def test_parts_of_files_that_a_kill_left_are_cleared_by_the_next_process(folder):
    left = folder.path / "status.json.99-1.part"
    left.write_text("{")
    with folder.lock():
        assert not left.exists()


# -- lock and status --------------------------------------------------------------------------------------------------


def test_alive_is_whoever_holds_the_lock(folder):
    assert not folder.alive
    assert folder.pid is None
    with folder.lock():
        assert RunFolder(folder.path).alive
        assert RunFolder(folder.path).pid == os.getpid()
    assert not folder.alive
    assert folder.pid is None


def test_two_processes_cannot_have_one_run(folder, monkeypatch):
    monkeypatch.setattr("rmx.runs.folder.PATIENCE", 0.1)
    with folder.lock(), pytest.raises(TrainError, match="under way already"), RunFolder(folder.path).lock():
        pytest.fail("it was had twice")


def test_one_who_only_looks_does_not_keep_a_process_from_beginning(folder):
    import fcntl
    import threading

    with folder.lock():
        pass
    looker = (folder.path / "lock").open("rb")
    fcntl.flock(looker, fcntl.LOCK_SH)
    threading.Timer(0.3, looker.close).start()
    with folder.lock():
        assert folder.alive


@pytest.mark.parametrize("state", ["queued", "running", "stopping"])
def test_a_state_that_needs_a_process_is_interrupted_without_one(folder, state):
    folder.set_status(state=state, stage="training", at=3, of=9, left=60, ahead=2)
    found = folder.status
    assert (found["state"], found["alive"], found["left"], found["ahead"]) == ("interrupted", False, None, None)
    assert (found["stage"], found["at"]) == ("training", 3)
    assert "Resume" in found["message"]
    with folder.lock():
        assert (folder.status["state"], folder.status["left"]) == (state, 60)


@pytest.mark.parametrize("state", ["done", "failed", "stopped"])
def test_a_last_word_stands(folder, state):
    folder.set_status(state=state, message="so it is")
    assert (folder.state, folder.status["message"]) == (state, "so it is")


def test_a_run_that_ends_between_two_looks_is_not_called_interrupted(folder, monkeypatch):
    """The lock is looked at before the status: whoever gave it back had written its last word."""
    folder.set_status(state="running")
    looks = []

    def ends(self):
        looks.append(1)
        if len(looks) == 1:
            RunFolder(folder.path).set_status(state="done")
            return True
        return False

    monkeypatch.setattr(RunFolder, "held", property(ends))
    assert folder.status["state"] == "done"


def test_a_run_that_has_no_state_yet_does_not_break_those_that_look_at_it(store, folder):
    """Two runs started by hand at once: one has written its pid and no state when the other asks for its turn."""
    other = store.create(TrainJob())
    with folder.lock():
        folder.set_status(pid=1, message=None)
        assert folder.status["state"] == "stopped"
        with other.lock():
            assert _before(other, time.time()) == (0, 1)


def test_a_run_without_status_has_not_begun(folder):
    assert (folder.status["state"], folder.status["message"]) == ("stopped", "It has not begun.")


def test_a_stop_is_shown_at_once_and_heeded_soon(folder):
    folder.set_status(state="queued")
    with folder.lock():
        assert not folder.stop_wanted()
        RunFolder(folder.path).request_stop()
        assert folder.state == "stopping"
        limit = time.monotonic() + 2
        while not folder.stop_wanted():
            assert time.monotonic() < limit
            time.sleep(0.01)
        folder.set_status(state="stopped")
        assert folder.state == "stopped"


def test_looking_for_a_stop_is_cheap(folder, monkeypatch):
    looks = []
    with folder.lock():
        folder.stop_wanted()
        monkeypatch.setattr("pathlib.Path.exists", lambda path: looks.append(path) or False)
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            folder.stop_wanted()
    assert 1 <= len(looks) <= 3


def test_an_old_stop_does_not_stop_the_next_start(folder):
    folder.request_stop()
    with folder.lock():
        assert not folder.stop_wanted()
        folder.stop_now()
        assert folder.stop_wanted()
        assert RunFolder(folder.path).stop_wanted()  # the request of a signal is seen by pages too


# -- store ------------------------------------------------------------------------------------------------------------


def test_ids_say_when_and_which_model():
    import re

    assert re.fullmatch(r"\d{8}-\d{4}-mini-[0-9a-f]{4}", new_id("mini"))
    assert re.fullmatch(r"\d{8}-\d{4}-qwen2.5-1.5b-[0-9a-f]{4}", new_id("Qwen/Qwen2.5-1.5B@main"))
    assert "-model-" in new_id("/")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../runs", "a/b", ".queue", "x\0", "a\n", "é", None, 7, ["x"], "a" * 200]
)
def test_no_id_leads_out_of_the_store(store, folder, name):
    with pytest.raises(TrainError, match="There is no run"):
        store.get(name)


def test_a_link_is_no_run(store, folder, tmp_path):
    away = tmp_path / "away"
    folder.path.rename(away)
    (store.root / "linked").symlink_to(away)
    with pytest.raises(TrainError, match="no run"):
        store.get("linked")
    assert store.all() == []


def test_a_link_inside_a_run_is_not_read(store, folder, tmp_path):
    (tmp_path / "secret.json").write_text('{"recipe": {}, "model": "what nobody should see"}')
    (folder.path / "config.json").unlink()
    (folder.path / "config.json").symlink_to(tmp_path / "secret.json")
    assert row(folder)["state"] == "unreadable"
    assert "nobody" not in json.dumps(row(folder))


def test_a_run_is_found_by_the_beginning_of_its_id(store):
    for name in ("20260101-1200-mini-aaaa", "20260101-1200-mini-aabb", "20260101-1200-mini-aaaa2"):
        store.create(TrainJob(), path=store.root / name)
    assert store.get("20260101-1200-mini-aab").id == "20260101-1200-mini-aabb"
    assert store.get("20260101-1200-mini-aaaa").id == "20260101-1200-mini-aaaa"  # the whole id wins over longer ones
    with pytest.raises(TrainError, match="Several runs begin with '20260101-1200-mini-a': .*aaaa.*aabb"):
        store.get("20260101-1200-mini-a")


def test_a_new_run_takes_no_folder_that_holds_something(store, tmp_path):
    (tmp_path / "empty").mkdir()
    assert store.create(TrainJob(), path=tmp_path / "empty").path == tmp_path / "empty"
    with pytest.raises(TrainError, match="not empty"):
        store.create(TrainJob(), path=tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="is a file"):
        store.create(TrainJob(), path=tmp_path / "file")


def test_removing_leaves_nothing_and_spares_a_run_under_way(store, folder, monkeypatch):
    monkeypatch.setattr("rmx.runs.folder.PATIENCE", 0.1)
    (store.root / ".removed-half-done").mkdir()
    (folder.path / "checkpoints").mkdir()
    (folder.path / "checkpoints" / "weights").write_bytes(b"x")
    with folder.lock(), pytest.raises(TrainError, match="Stop it first"):
        store.remove(folder.id)
    store.remove(folder.id)
    assert list(store.root.iterdir()) == []


def test_a_note_is_kept_and_bounded(store, folder):
    folder.note("second seed\ud83d")
    assert row(folder)["note"] == "second seed?"
    assert row(folder)["model"] == "mini"
    folder.note("x" * 5000)
    assert len(row(folder)["note"]) == 2000


# -- rows -------------------------------------------------------------------------------------------------------------


def test_the_row_of_a_new_run(folder):
    found = row(folder)
    assert set(found) == set(EMPTY)
    assert (found["id"], found["kind"], found["model"], found["set"]) == (folder.id, "train", "mini", "mini")
    assert (found["state"], found["owner"], found["by_construction"]) == ("stopped", "abc", True)
    assert found["differs"]["lr"] == 5e-4
    assert found["differs"]["order"] == "shuffle"
    assert "rank" not in found["differs"]
    assert found["command"].startswith("rmx train --model mini --set mini --preset small --lr 0.0005")
    assert (found["before"], found["minutes"], found["has_adapter"]) == (None, None, False)


def test_the_row_follows_the_run(folder):
    with folder.lock():
        folder.set_status(state="running", stage="training", at=3, of=9, left=12.0, started=time.time() - 120)
        folder.event("gate", {"tau": 1.4, "share": 0.05})
        folder.event("check", {"optimizer_step": 0, "pass@1": HALF, "vs_base": None})
        assert (row(folder)["before"], row(folder)["after"], row(folder)["on"]) == (HALF, None, "validation")
        folder.event("check", {"optimizer_step": 10, "pass@1": BETTER, "vs_base": HALF, "best": True})
        folder.event("check", {"optimizer_step": 9, "pass@1": HALF, "vs_base": None})
        found = row(folder)
        assert (found["state"], found["stage"], found["at"], found["left"]) == ("running", "training", 3, 12.0)
        assert (found["tau"], found["gated"]) == (1.4, 0.05)
        assert (found["before"], found["after"], found["vs_base"]) == (HALF, BETTER, HALF)
        assert found["minutes"] == pytest.approx(2.0, abs=0.1)
        done = {"seconds": 90.0, "usd": 0.02, "before": BETTER, "after": HALF, "vs_base": None, "split": "test"}
        folder.event("done", done)
        folder.set_status(state="done")
    found = row(folder)
    assert (found["before"], found["after"], found["on"]) == (BETTER, HALF, "test")
    assert (found["minutes"], found["usd"]) == (1.5, 0.02)


def test_minutes_count_all_starts_and_no_second_twice(folder):
    (folder.path / "stages.json").write_text('{"seconds": {"rollouts": 60.0, "training": 30.0}}')
    folder.set_status(state="stopped")
    assert row(folder)["minutes"] == 1.5
    with folder.lock():
        folder.set_status(state="running", started=time.time() - 1000)  # the stages above ended just now
        assert row(folder)["minutes"] == pytest.approx(1.5, abs=0.1)


def test_the_row_of_a_distillation(store):
    found = row(store.create(DistillJob(adapter="rl"), kind="distill"))
    assert (found["kind"], found["state"], found["differs"]) == ("distill", "stopped", {})


def test_an_event_that_was_told_but_not_summed_up_is_found_by_the_next_process(folder):
    with folder.lock():
        folder.event("check", {"optimizer_step": 0, "pass@1": HALF})
    with (folder.path / "events.jsonl").open("ab") as file:  # killed between the two writes
        file.write(json.dumps({"t": 1, "kind": "check", "optimizer_step": 5, "pass@1": BETTER}).encode() + b"\n")
    assert list(folder.summary["checks"]) == ["0"]
    after = RunFolder(folder.path)
    with after.lock():
        after.event("check", {"optimizer_step": 10, "pass@1": HALF})
    assert list(after.summary["checks"]) == ["0", "5", "10"]
    assert after.summary["upto"] == (folder.path / "events.jsonl").stat().st_size


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        "{}",
        '{"recipe": {}}',
        '{"recipe": [], "model": "mini"}',
        '{"recipe": {"lr": "fast"}, "model": "mini"}',
        '{"recipe": {"of_tomorrow": 1}, "model": "mini"}',
        "[" * 100_000,
    ],
)
def test_a_broken_or_foreign_run_is_a_row_that_says_so(store, folder, config):
    other = store.create(TrainJob())
    (other.path / "config.json").write_text(config)
    (store.root / "lost+found").mkdir()
    (store.root / "file").write_text("")
    rows = {f.id: row(f) for f in store.all()}
    assert set(rows) == {folder.id, other.id}
    assert set(rows[other.id]) == set(EMPTY)
    assert (rows[other.id]["state"], rows[folder.id]["state"]) == ("unreadable", "stopped")
    assert (
        other.id in rows[other.id]["message"]
        or "recipe" in rows[other.id]["message"]
        or "lr" in rows[other.id]["message"]
    )
    store.remove(other.id)
    assert [f.id for f in store.all()] == [folder.id]


@pytest.mark.parametrize("summary", ["", "[]", '{"done": []}', '{"checks": {"x": 1}}', '{"done": {"after": {}}}'])
def test_a_broken_summary_breaks_no_list(folder, summary):
    (folder.path / "summary.json").write_text(summary)
    assert row(folder)["id"] == folder.id


@pytest.mark.slow
def test_the_list_is_newest_first_and_quick(store):
    for number in range(200):
        made = store.create(TrainJob(), path=store.root / f"run-{number}")
        config = made.config | {"created": 1000.0 + (number * 7) % 200}
        made.change(config)
        (made.path / "events.jsonl").write_bytes(b'{"t": 1, "kind": "micro"}\n' * 1000)
        (made.path / "lock").touch()
        made.set_status(state="done")
    began = time.process_time()
    rows = [row(folder) for folder in store.all()]
    assert time.process_time() - began < 1.0
    assert [r["created"] for r in rows] == sorted((r["created"] for r in rows), reverse=True)
    assert len(rows) == 200


def test_an_impossible_count_of_runs_at_once_is_one_sentence(monkeypatch):
    from rmx.runs.queue import runs_at_once

    assert runs_at_once() == 1
    for wrong in ("0", "-1", "two", "1.5", "²"):
        monkeypatch.setenv("RMX_RUNS_AT_ONCE", wrong)
        with pytest.raises(RmxError, match="RMX_RUNS_AT_ONCE"):
            runs_at_once()
    monkeypatch.setenv("RMX_RUNS_AT_ONCE", " 3 ")
    assert runs_at_once() == 3
