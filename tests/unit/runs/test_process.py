"""Runs as real processes: start, stop, kill, resume, the queue, and two apps that look at the same folder."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rmx.errors import Busy, TrainError
from rmx.runs import queue
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.store import RunStore, row

pytestmark = pytest.mark.slow

FAKE = (sys.executable, str(Path(__file__).parents[2] / "helpers" / "fake_run.py"))
SLOW = {"STEPS": "400", "PACE": "0.05"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("rmx.runs.store.EVERY", 0.1)
    store = RunStore(tmp_path / "runs", FAKE)
    yield store
    for folder in store.all():
        if folder.waiting:
            store.stop(folder.id)
    for folder in store.all():
        until(lambda folder=folder: folder.pid or not folder.alive)
        if folder.alive:
            store.kill(folder.id)
            until(lambda folder=folder: not folder.alive)


@pytest.fixture
def slow(monkeypatch):
    for name, value in SLOW.items():
        monkeypatch.setenv(name, value)


def until(true, patience=20.0):
    limit = time.monotonic() + patience
    while not true():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.02)


def made(store, owner=None) -> RunFolder:
    return store.create(TrainJob(), owner=owner)


def by_hand(store, folder):
    """A run in the foreground, as `rmx train --resume` on a command line makes it."""
    words = [*FAKE, "train", "--resume", folder.id]
    return subprocess.Popen(words, env=os.environ | {"RMX_RUNS": str(store.root)}, stderr=subprocess.PIPE)


def app_that_starts(store, folders):
    """Another app, which starts these runs one after the other and stays until it is killed."""
    script = f"""
import sys
import threading
from pathlib import Path
from rmx.runs.store import RunStore
store = RunStore(Path({str(store.root)!r}), {FAKE!r})
for name in {[folder.id for folder in folders]!r}:
    store.start(name)
print("started", flush=True)
sys.stdin.read()
"""
    app = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert app.stdout.readline() == b"started\n"
    return app


def processes_of(folder):
    """The processes that have the run's id among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it is over
            continue
        if folder.id.encode() in words:
            found.append(int(path.name))
    return found


def starts(folder):
    """How many processes were ever started for it by a store or by another run."""
    log = folder.path / "log.txt"
    return log.read_text().count("$ nice") if log.exists() else 0


def steps(folder):
    return [e["optimizer_step"] for e in folder.events()[0] if e["kind"] == "update"]


def test_a_run_from_start_to_end_in_a_process_of_its_own(store, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])  # without the tests' own `nice`
    folder = made(store)
    store.start(folder.id)
    until(lambda: folder.state == "done")
    assert steps(folder) == [1, 2, 3, 4]
    (done,) = (e for e in folder.events()[0] if e["kind"] == "done")
    cores = len(os.sched_getaffinity(0))
    assert (done["niceness"], done["threads"]) == (min(19, os.nice(0) + 10), str(max(1, cores - 1)))
    assert done["session"]  # a closed terminal or a stopped app does not take it along
    assert not done["torch"]
    assert folder.status["message"] is None
    assert (folder.path / "log.txt").read_text().startswith("$ nice -n 10 ")
    until(lambda: not folder.alive)
    with pytest.raises(TrainError, match="is done; there is nothing left"):
        store.start(folder.id)


def test_it_is_alive_from_the_first_moment_and_cannot_be_started_twice(store, slow, monkeypatch):
    monkeypatch.setenv("LATE", "0.5")
    monkeypatch.setattr("rmx.runs.folder.PATIENCE", 0.1)
    folder, seen = made(store), []
    with ThreadPoolExecutor() as pool:
        start = pool.submit(store.start, folder.id)
        until(lambda: (folder.path / "log.txt").exists())
        with pytest.raises(TrainError, match="no process to end"):
            store.kill(folder.id)  # its own has not signed yet, and it must not hit this one
        while not start.done():
            seen.append(folder.status["state"])
            with pytest.raises(TrainError, match="under way already"):
                RunStore(store.root, FAKE).start(folder.id)  # as another app, or the command line, would
    assert set(seen) <= {"queued", "running"}
    assert seen[0] == "queued"


def test_a_stop_before_the_process_has_taken_over_is_not_lost(store, slow, monkeypatch):
    monkeypatch.setenv("LATE", "1.0")
    folder = made(store)
    with ThreadPoolExecutor() as pool:
        pool.submit(store.start, folder.id)
        until(lambda: folder.alive and folder.state == "queued")
        store.stop(folder.id)
        assert folder.state == "stopping"
    until(lambda: not folder.alive)
    assert folder.state == "stopped"
    assert steps(folder) == []


def test_stop_finishes_the_step_and_resume_goes_on_after_it(store, slow, monkeypatch):
    folder = made(store)
    store.start(folder.id)
    until(lambda: len(steps(folder)) >= 3)
    store.stop(folder.id)
    store.stop(folder.id)  # a second time changes nothing
    until(lambda: not folder.alive)
    at = len(steps(folder))
    assert (folder.state, steps(folder)) == ("stopped", list(range(1, at + 1)))
    with pytest.raises(TrainError, match="not under way; it is stopped"):
        store.stop(folder.id)
    monkeypatch.setenv("STEPS", str(at + 3))
    store.start(folder.id)  # the stop of before does not stop it again
    until(lambda: folder.state == "done" and not folder.alive)  # its last event comes behind its last status
    assert steps(folder) == list(range(1, at + 4))
    assert [e["state"] for e in folder.events()[0] if e["kind"] == "state"] == ["running", "stopped", "running", "done"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_like_a_stop(store, slow, number):
    folder = made(store)
    store.start(folder.id)
    until(lambda: len(steps(folder)) >= 2)
    os.kill(folder.pid, number)
    until(lambda: not folder.alive)
    assert folder.state == "stopped"


def test_killed_it_is_interrupted_and_resumes_from_its_checkpoint(store, slow, monkeypatch):
    folder = made(store)
    store.start(folder.id)
    until(lambda: len(steps(folder)) >= 5)
    os.kill(folder.pid, signal.SIGKILL)
    until(lambda: not folder.alive)
    found = folder.status
    assert (found["state"], found["stage"]) == ("interrupted", "training")
    assert row(folder)["state"] == "interrupted"
    assert row(folder)["before"] is not None
    before = steps(folder)
    monkeypatch.setenv("STEPS", str(len(before) + 2))
    store.start(folder.id)
    until(lambda: folder.state == "done")
    after = steps(folder)[len(before) :]
    assert after[0] in (len(before), len(before) + 1)  # the checkpoint of an even step
    assert after == list(range(after[0], len(before) + 3))


def test_no_zombie_stays_of_a_child_that_is_over(store):
    folder = made(store)
    store.start(folder.id)
    number = folder.pid or 0
    until(lambda: folder.state == "done" and not folder.alive)
    until(lambda: not number or not Path(f"/proc/{number}").exists())


def test_kill_ends_the_helpers_of_its_session_too_and_spares_everybody_else(store, slow):
    folder = made(store)
    store.start(folder.id)
    until(lambda: steps(folder))
    store.kill(folder.id)
    until(lambda: not folder.alive)
    assert folder.state == "interrupted"
    with pytest.raises(TrainError, match="no process to end; it is interrupted"):
        store.kill(folder.id)


def test_a_run_goes_on_when_the_app_that_started_it_is_killed(store, slow, monkeypatch):
    folder = made(store)
    script = f"""
import sys
import threading
from pathlib import Path
from rmx.runs.store import RunStore
RunStore(Path({str(store.root)!r}), {FAKE!r}).start({folder.id!r})
sys.stdin.read()
"""
    app = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    until(lambda: steps(folder))
    app.kill()
    app.wait()
    at = len(steps(folder))
    until(lambda: len(steps(folder)) > at + 2)
    again = RunStore(store.root, FAKE)  # the app, started again, knows all of it from the files
    assert [row(f)["state"] for f in again.all()] == ["running"]
    again.stop(folder.id)
    until(lambda: not folder.alive)
    assert folder.state == "stopped"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("fail 2", "No rollout is right. Take easier problems."),
        ("fault 2", "A fault of rmx (ValueError: shapes differ). The log has more."),
        ("full 2", "is full. Make room, then resume the run."),
    ],
)
def test_what_went_wrong_stands_in_the_status_and_resume_goes_on(store, monkeypatch, how, said):
    monkeypatch.setenv("FAIL", how)
    folder = made(store)
    store.start(folder.id)
    until(lambda: not folder.alive)
    assert folder.state == "failed"
    assert said in folder.status["message"]
    log = (folder.path / "log.txt").read_text()
    assert ("Traceback" in log) == how.startswith("fault")
    monkeypatch.delenv("FAIL")
    store.start(folder.id)
    until(lambda: folder.state == "done")
    assert folder.status["message"] is None


def test_a_process_that_cannot_begin_says_why_and_leaves_a_stopped_run_as_it_was(store, tmp_path):
    folder = made(store)
    folder.set_status(state="stopped", message="Dry run.")
    broken = RunStore(store.root, (sys.executable, "-c", "raise SystemExit('rmx train: no such flag')"))
    with pytest.raises(TrainError, match="could not be started: rmx train: no such flag"):
        broken.start(folder.id)
    assert (folder.state, folder.status["message"]) == ("stopped", "Dry run.")
    fresh = made(store)
    folder.set_status(state="running")  # as a kill leaves it
    for one in (folder, fresh):
        with pytest.raises(TrainError, match="could not be started"):
            broken.start(one.id)
    assert (folder.state, folder.status["message"]) == ("failed", "rmx train: no such flag")
    with pytest.raises(TrainError, match="could not be started"):
        RunStore(store.root, (str(tmp_path / "nothing"),)).start(folder.id)


# -- the queue --------------------------------------------------------------------------------------------------------


def test_three_runs_go_one_after_the_other_in_the_order_they_were_asked_for(store, slow, monkeypatch):
    first, second, third = (made(store) for _ in range(3))
    monkeypatch.setenv("LATE", "0.8")  # this one came earlier, although its process is ready later
    with ThreadPoolExecutor() as pool:
        pool.submit(store.start, first.id)
        until(lambda: (first.path / "log.txt").exists())
        monkeypatch.setenv("LATE", "0")
        store.start(second.id)
        RunStore(store.root, FAKE).start(third.id)  # by another app
    until(lambda: first.state == "running")
    until(lambda: (second.status.get("ahead"), third.status.get("ahead")) == (1, 2))
    assert [f.state for f in (first, second, third)] == ["running", "queued", "queued"]
    store.stop(first.id)
    until(lambda: second.state == "running")
    until(lambda: third.status["ahead"] == 1)
    assert (first.state, second.status["ahead"], third.state) == ("stopped", None, "queued")
    store.stop(second.id)
    until(lambda: third.state == "running")
    assert steps(third) == [] or not second.alive


def test_never_two_at_once_however_they_are_started(store, monkeypatch):
    monkeypatch.setenv("STEPS", "6")
    folders = [made(store) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda f: RunStore(store.root, FAKE).start(f.id), folders))
    until(lambda: all(f.state == "done" for f in folders), 60)
    spans = []
    for folder in folders:
        told = [e["t"] for e in folder.events()[0]]
        spans.append((min(told), max(told)))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_more_may_run_at_once_where_the_owner_says_so(store, slow, monkeypatch):
    monkeypatch.setenv("RMX_RUNS_AT_ONCE", "2")
    folders = [made(store) for _ in range(4)]
    for folder in folders:
        store.start(folder.id)
    until(lambda: folders[3].status.get("ahead") == 2)
    until(lambda: [f.state for f in folders] == ["running", "running", "queued", "queued"])
    assert folders[2].status["ahead"] == 1


def test_a_run_that_waits_can_be_stopped_and_one_that_was_killed_while_it_waited_holds_nobody_up(store, slow):
    first, second, third, fourth = (made(store) for _ in range(4))
    store.start(first.id)
    store.start(second.id)
    hand = by_hand(store, third)
    until(lambda: third.status.get("ahead") == 2)
    store.start(fourth.id)
    until(lambda: fourth.status.get("ahead") == 3)
    store.stop(second.id)
    hand.kill()
    hand.wait()
    until(lambda: fourth.status.get("ahead") == 1)
    assert (second.state, third.state) == ("stopped", "interrupted")
    assert "while it waited" in second.status["message"]
    assert steps(second) == steps(third) == []
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: fourth.state == "running")


def test_a_run_killed_while_it_waited_goes_to_the_end_of_the_queue(store, slow):
    first, second, third = (made(store) for _ in range(3))
    store.start(first.id)
    hand = by_hand(store, second)
    until(lambda: second.status.get("ahead") == 1)
    store.start(third.id)
    until(lambda: third.status.get("ahead") == 2)
    hand.kill()
    hand.wait()
    until(lambda: third.status.get("ahead") == 1)
    store.start(second.id)
    until(lambda: second.status.get("ahead") == 2)
    assert third.status["ahead"] == 1


def test_the_queue_has_bounds_for_one_owner_and_for_all(store, slow, monkeypatch):
    monkeypatch.setattr("rmx.runs.store.MOST_WAITING", 3)
    running, waiting, refused = (made(store, owner="ann") for _ in range(3))
    store.start(running.id)
    until(lambda: running.state == "running")
    store.start(waiting.id)
    before = refused.status
    with pytest.raises(Busy, match="A run of yours waits already"):
        store.start(refused.id)
    assert refused.status == before
    assert not refused.alive
    for _ in range(2):
        store.start(made(store).id)  # of the command line: nobody's
    with pytest.raises(Busy, match="3 runs wait already"):
        store.start(made(store, owner="bea").id)
    store.stop(waiting.id)
    until(lambda: not waiting.alive)
    store.start(refused.id)


def test_a_run_by_hand_takes_its_place_behind_those_that_wait(store, slow):
    first, second, third = (made(store) for _ in range(3))
    store.start(first.id)
    store.start(second.id)
    third.set_status(state="queued", came=1.0)  # what an old start left does not count
    hand = by_hand(store, third)
    until(lambda: third.status.get("ahead") == 2)
    assert second.status["ahead"] == 1
    hand.send_signal(signal.SIGINT)
    assert hand.wait(10) == 0
    assert third.state == "stopped"


# -- a queued run is a file -------------------------------------------------------------------------------------------


def test_ten_queued_runs_have_no_process_and_no_memory(store, slow, monkeypatch):
    monkeypatch.setattr("rmx.runs.store.MOST_WAITING", 20)
    running, *queued = (made(store) for _ in range(11))
    store.start(running.id)
    for folder in queued:
        store.start(folder.id)
    time.sleep(0.5)  # more than a look of the store
    assert processes_of(running) != []
    for nth, folder in enumerate(queued, 1):
        found = folder.status
        assert (found["state"], found["alive"], found["ahead"], found["pid"]) == ("queued", True, nth, None)
        assert (folder.pid, processes_of(folder), starts(folder)) == (None, [], 0)
        assert sum(file["bytes"] for file in folder.files()) < 10_000
    shown = row(queued[2])
    assert (shown["state"], shown["ahead"], shown["message"]) == ("queued", 3, None)


def test_a_run_that_ends_starts_the_next_one_without_an_app(store, monkeypatch):
    monkeypatch.setenv("STEPS", "40")
    folders = [made(store) for _ in range(3)]
    app = app_that_starts(store, folders)
    app.kill()
    app.wait()
    assert [f.state for f in folders[1:]] == ["queued", "queued"]
    until(lambda: all(f.state == "done" for f in folders), 40)
    ends = [[e["t"] for e in f.events()[0]] for f in folders]
    assert ends[0][-1] <= ends[1][0]
    assert ends[1][-1] <= ends[2][0]
    done = [next(e for e in f.events()[0] if e["kind"] == "done") for f in folders]
    assert len({(e["niceness"], e["threads"], e["session"], e["torch"]) for e in done}) == 1
    assert [starts(f) for f in folders] == [1, 0, 0]  # the others are begun by a nice process already
    assert [(f.path / "log.txt").read_text().count("$ ") for f in folders] == [1, 1, 1]


def test_a_kill_of_app_and_run_loses_nothing_and_the_next_look_starts_the_next_one(store, slow):
    first, second, third = folders = [made(store) for _ in range(3)]
    app = app_that_starts(store, folders)
    app.kill()
    app.wait()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.state == "interrupted")
    time.sleep(1.2)
    assert [(f.state, f.alive, f.pid) for f in (second, third)] == [("queued", True, None)] * 2  # nobody looks
    assert RunStore(store.root, FAKE).look() == 1
    until(lambda: second.state == "running")
    assert (third.state, third.status["ahead"], third.pid) == ("queued", 1, None)


def test_the_store_looks_by_itself_while_a_run_is_queued(store, slow):
    first, second = made(store), made(store)
    store.start(first.id)
    store.start(second.id)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: second.state == "running")
    assert first.state == "interrupted"


def test_an_app_that_is_started_again_starts_what_is_due(store, slow):
    from rmx.models.workspace import Workspace
    from rmx.ui.jobs.training import Training

    first, second = folders = [made(store) for _ in range(2)]
    app = app_that_starts(store, folders)
    app.kill()
    app.wait()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.state == "interrupted")
    rows = Training(Workspace(), RunStore(store.root, FAKE)).runs_list({})["runs"]
    assert {r["id"]: r["state"] for r in rows}[second.id] in ("queued", "running")
    until(lambda: second.state == "running")


def test_a_queued_run_is_stopped_resumed_ended_and_removed_without_a_process(store, slow):
    first, second, third, fourth = (made(store) for _ in range(4))
    for folder in (first, second, third, fourth):
        store.start(folder.id)
    store.stop(second.id)
    assert (second.state, second.alive) == ("stopped", False)
    assert "while it waited" in second.status["message"]
    assert [e["state"] for e in second.events()[0]] == ["stopped"]
    assert (third.status["ahead"], fourth.status["ahead"]) == (1, 2)
    with pytest.raises(TrainError, match="not under way; it is stopped"):
        store.stop(second.id)
    store.start(second.id)  # at the end of the queue
    assert (second.state, second.status["ahead"]) == ("queued", 3)
    with pytest.raises(TrainError, match="under way already"):
        store.start(second.id)
    store.kill(fourth.id)
    assert (fourth.state, second.status["ahead"]) == ("stopped", 2)
    store.remove(third.id)
    assert not third.path.exists()
    assert second.status["ahead"] == 1
    store.stop(first.id)
    until(lambda: second.state == "running")


def test_any_number_that_look_at_the_same_time_start_a_run_once(store, slow):
    first, second, third = folders = [made(store) for _ in range(3)]
    app = app_that_starts(store, folders)
    app.kill()
    app.wait()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.state == "interrupted")
    look = f"""
import time
from pathlib import Path
from rmx.runs.store import RunStore
store = RunStore(Path({str(store.root)!r}), {FAKE!r})
print("ready", flush=True)
input()
for _ in range(20):
    store.look()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    apps = [subprocess.Popen([sys.executable, "-c", look], **pipes) for _ in range(4)]
    assert {one.stdout.readline() for one in apps} == {b"ready\n"}
    for one in apps:
        one.stdin.write(b"\n")
        one.stdin.flush()
    assert [one.wait(30) for one in apps] == [0] * 4
    until(lambda: second.state == "running")
    assert (starts(second), starts(third), third.state) == (1, 0, "queued")
    until(lambda: [e["kind"] for e in second.events()[0]].count("state"))  # noted after the state itself
    assert [e["kind"] for e in second.events()[0]].count("state") == 1


def test_a_starter_that_is_killed_before_it_has_noted_the_start_starts_nothing_twice(store, slow, monkeypatch):
    monkeypatch.setenv("LATE", "1.0")
    folder, last = made(store), made(store)
    with ThreadPoolExecutor() as pool:
        pool.submit(store.start, folder.id)
        until(lambda: starts(folder) and not folder.waiting)
        folder.set_status(flags=[])  # as a starter leaves it that is killed between both
        store.start(last.id)
        store.look()
        assert (last.waiting, last.status["ahead"], starts(folder)) == (True, 1, 1)
    until(lambda: folder.state == "running")
    assert (folder.status["flags"], folder.waiting, starts(folder)) == (None, False, 1)
    os.kill(folder.pid, signal.SIGKILL)
    until(lambda: last.state == "running")
    assert (folder.state, starts(folder)) == ("interrupted", 1)


def test_a_queued_run_keeps_the_flags_that_it_was_started_with(store, slow):
    first, second = made(store), made(store)
    store.start(first.id)
    store.start(second.id, "--dry-run")
    store.stop(first.id)
    until(lambda: second.state == "running")
    assert (second.path / "log.txt").read_text().splitlines()[0].endswith(f"train --resume {second.id} --dry-run")


def test_a_queued_run_cannot_be_begun_by_hand_as_well(store, slow):
    first, second = made(store), made(store)
    store.start(first.id)
    store.start(second.id)
    hand = by_hand(store, second)
    assert "under way already" in hand.communicate(timeout=20)[1].decode()
    assert hand.returncode == 1
    assert (second.state, second.status["ahead"]) == ("queued", 1)


def test_a_run_by_hand_that_waits_starts_the_queued_one_before_it(store, slow):
    first, second, third = (made(store) for _ in range(3))
    app = app_that_starts(store, [first, second])
    hand = by_hand(store, third)
    until(lambda: third.status.get("ahead") == 2)
    app.kill()
    app.wait()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: second.state == "running")
    assert (third.state, third.status["ahead"], third.pid) == ("queued", 1, hand.pid)
    store.stop(second.id)
    until(lambda: third.state == "running")
    hand.kill()
    hand.communicate()


def test_a_queued_run_that_cannot_begin_has_failed_and_holds_nobody_up(store, slow, tmp_path):
    first, second, third = folders = [made(store) for _ in range(3)]
    app = app_that_starts(store, folders)
    app.kill()
    app.wait()
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: first.state == "interrupted")
    RunStore(store.root, (sys.executable, "-c", "raise SystemExit('rmx train: no such flag')")).look()
    until(lambda: second.state == "failed")
    assert (second.status["message"], second.waiting) == ("rmx train: no such flag", False)
    store.look()
    until(lambda: third.state == "running")
    assert starts(second) == 1  # it is not tried again and again


@pytest.mark.parametrize("flags", ["--dry-run", [1], {"a": "b"}, None])
def test_flags_that_are_none_start_nothing(store, flags):
    folder = made(store)
    folder.set_status(state="queued", came=1.0, flags=flags)
    assert (folder.state, folder.alive, store.look()) == ("interrupted", False, 0)
    assert starts(folder) == 0


def test_nothing_is_started_of_a_folder_of_another_user(store, monkeypatch):
    folder = made(store)
    folder.set_status(state="queued", came=1.0, flags=[])
    strange = (folder.path / "config.json").stat().st_uid + 1
    monkeypatch.setattr("rmx.runs.queue._owner", lambda path: strange if path.name == "config.json" else strange - 1)
    store.look()
    assert (starts(folder), folder.waiting) == (0, True)
    monkeypatch.undo()
    store.look()
    assert starts(folder) == 1


def test_a_run_that_is_killed_before_its_minder_looks_counts_as_interrupted(store, slow, monkeypatch):
    looks = threading.Event()
    waited = queue.mind
    monkeypatch.setattr("rmx.runs.store.mind", lambda *about: looks.wait(20) and waited(*about))
    folder = made(store)
    store.start(folder.id)
    until(lambda: steps(folder))
    store.kill(folder.id)
    until(lambda: not folder.alive)
    looks.set()
    time.sleep(0.3)
    assert folder.state == "interrupted"
