"""Damaged files, a disk that refuses, a clock that jumps: a state or a sentence, and never at the cost of others."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from rmx.config import ASSETS
from rmx.errors import ModelError, RmxError, TrainError, first_line
from rmx.models.base_state import probe
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.runs.folder import DAMAGED, RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.queue import _before
from rmx.runs.recipe import SMALL
from rmx.runs.store import RunStore
from rmx.storage import safe_files as run_files
from rmx.train.step import trainer as checkpoint
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.training import Training, adapter_spec
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from rmx.ui.visitor_cookie import Visitor

pytestmark = pytest.mark.slow

HALF = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}
SPACE = Workspace(loader=lambda spec: scripted_model())
OWNER = Visitor("eve", admin=True)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def store(runs: Path) -> RunStore:
    return RunStore(runs)


@pytest.fixture
def training(store: RunStore) -> Training:
    return Training(SPACE, store)


@pytest.fixture
def good(store: RunStore) -> RunFolder:
    """A run in order, beside the damaged one."""
    return made(store, "good")


@pytest.fixture
def bad(store: RunStore) -> RunFolder:
    """A run with every file that pages read, to be damaged."""
    folder = made(store, "bad")
    check = {"optimizer_step": 0, "pass@1": HALF, "vs_base": None}
    sweep = {"chosen": 1.4, "taus": [{"tau": 1.4, "adapter": "tau_1.4/adapter"}]}
    done = {"seconds": 3.0, "usd": 0.1, "before": HALF, "after": HALF, "vs_base": HALF, "split": "test", "sweep": sweep}
    with folder.lock():
        folder.event("gate", {"tau": 1.4, "share": 0.05})
        folder.event("check", check)
        folder.event("update", {"optimizer_step": 1, "tau": 1.4})
        folder.event("done", done)
    folder.set_status(state="queued", stage="training", at=1, of=2, left=3.0, ahead=1, started=1.0, came=1.0, pid=3)
    (folder.path / "stages.json").write_text('{"seconds": {"rollouts": 3.0}, "device": "cpu"}')
    (folder.path / "sweep.json").write_text(json.dumps(sweep))
    return folder


def made(store: RunStore, name: str) -> RunFolder:
    return store.create(TrainJob(recipe=SMALL, preset="small"), path=store.root / name)


def questions(training: Training, folder: RunFolder) -> dict[str, Callable[[], Any]]:
    """Everything that a page may ask where a run is listed or shown."""
    about, evaluator = {"id": folder.id}, Evaluator(SPACE, training.store)
    return {
        "list": lambda: training.runs_list({}),
        "tail": lambda: training.run_tail(about),
        "sweep": lambda: training.run_sweep(about),
        "curves": lambda: training.run_curves({"ids": [folder.id]}),
        "files": lambda: training.run_files(about),
        "costs": lambda: training.costs({}),
        "dry": lambda: training.dry_run(about),
        "adapter": lambda: adapter_spec(folder),
        "stop": lambda: training.stop(about, Visitor("ann")),
        "contestants": lambda: evaluator.contestants("mini"),
        "turn": lambda: _before(training.store.get("good"), 5.0),
    }


def asked(training: Training, folder: RunFolder) -> dict[str, Any]:
    """The answers, each fit to be sent; a sentence is one, any other error is a failure of the test."""
    answers: dict[str, Any] = {}
    for name, question in questions(training, folder).items():
        try:
            answers[name] = question()
            orjson.dumps(answers[name])
        except RmxError as error:
            answers[name] = str(error)
    states = {one["id"]: one["state"] for one in answers["list"]["runs"]}
    assert states["good"] == "stopped"
    return answers


# -- a run's files ----------------------------------------------------------------------------------------------------

WRONG = [None, -1, 1e400, 10**40, "x\ud800", ["x"], {"value": "x"}]


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        if key != "recipe":
            yield from places(item, (*above, key))


def replaced(value: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    if not place:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], wrong)
    return copy


@pytest.mark.parametrize("file", ["config.json", "status.json", "summary.json", "stages.json", "sweep.json"])
def test_a_wrong_value_in_any_field_is_survived_by_every_question(
    file: str, training: Training, good: RunFolder, bad: RunFolder
) -> None:
    path = bad.path / file
    whole = json.loads(path.read_text())
    tried = 0
    for place in places(whole):
        for wrong in WRONG:
            path.write_text(json.dumps(replaced(whole, place, wrong)))
            asked(training, bad)
            tried += 1
    assert tried >= 28


@pytest.mark.parametrize("file", ["config.json", "status.json", "summary.json", "stages.json", "sweep.json"])
@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"\xff\xfe\x00\x9d" * 50, b"[" * 100_000])
def test_a_file_that_is_torn_or_no_json_is_survived_too(
    file: str, content: bytes, training: Training, good: RunFolder, bad: RunFolder
) -> None:
    (bad.path / file).write_bytes(content)
    row = next(one for one in asked(training, bad)["list"]["runs"] if one["id"] == "bad")
    unreadable = ("unreadable", "bad is not a run: its config.json")
    expected = {"config.json": unreadable, "status.json": ("interrupted", DAMAGED)}
    state, message = expected.get(file, ("interrupted", "Its process ended without a word."))
    assert row["state"] == state
    assert row["message"].startswith(message)


def test_a_damaged_status_of_a_run_under_way_is_running_and_heals(bad: RunFolder) -> None:
    (bad.path / "status.json").write_bytes(b'{"state": "runn')
    with bad.lock():
        assert (bad.status["state"], bad.status["alive"]) == ("running", True)
        bad.set_status(state="stopped", message=None)
    assert (bad.status["state"], bad.status["message"]) == ("stopped", None)


def test_one_wrong_field_costs_that_field_alone(training: Training, bad: RunFolder) -> None:
    config = bad.config | {"created": "soon", "command": 7, "owner": ["x"], "note": "kept"}
    (bad.path / "config.json").write_text(json.dumps(config))
    (row,) = training.runs_list({})["runs"]
    assert (row["created"], row["command"], row["owner"]) == (0.0, "", None)
    assert (row["note"], row["model"], row["after"]) == ("kept", "mini", HALF)


def test_an_owner_that_is_no_text_is_nobody(training: Training, bad: RunFolder) -> None:
    for owner in (["x"], {}, 7, True, "é\ud800"):
        (bad.path / "config.json").write_text(json.dumps(bad.config | {"owner": owner}))
        with pytest.raises(TrainError, match="Only who started"):
            training.note({"id": "bad", "text": "mine now"}, Visitor("ann"))


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": ["check"]}',
        b'{"kind": "check"}',
        b'{"kind": "check", "optimizer_step": {}, "pass@1": 3}',
        b'{"kind": "update", "optimizer_step": [], "tau": 1.4}',
        b'{"kind": "update", "optimizer_step": 2, "tau": NaN, "loss": 1e999, "text": "\\ud83d"}',
        b"\x00\xff\xfe",
        b"[" * 50_000,
        b"null",
    ],
)
def test_a_line_of_events_that_is_none_costs_that_line(
    line: bytes, training: Training, good: RunFolder, bad: RunFolder
) -> None:
    with (bad.path / "events.jsonl").open("ab") as file:
        file.write(line + b'\n{"t": 1, "kind": "update", "optimizer_step": 9, "tau": 1.4}\n{"t": 2, "kind": "torn')
    answers = asked(training, bad)
    assert [u["optimizer_step"] for u in answers["curves"]["runs"][0]["updates"]][-1] == 9
    assert answers["tail"]["events"][-1]["optimizer_step"] == 9
    (bad.path / "summary.json").unlink()
    with bad.lock():
        bad.event("early", {"message": "m"})  # the next process sums up what an earlier one has told
    assert bad.summary["gate"]["tau"] == 1.4


def test_an_endless_line_is_passed_over_in_bounded_memory(
    training: Training, bad: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_files, "LONGEST", 1000)
    monkeypatch.setattr("rmx.ui.jobs.training.POLL_BYTES", 400)
    monkeypatch.setattr(run_files, "BLOCK", 64)
    before = (bad.path / "events.jsonl").stat().st_size
    with (bad.path / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "samples", "text": "' + b"x" * 5000 + b'"}\n{"t": 1, "kind": "early", "message": "m"}\n')
        file.write(b"y" * 5000)
    got, start, more = [], before, True
    while more:
        part = training.run_tail({"id": "bad", "start": start})
        got, more = got + part["events"], part["more"]
        assert part["next"] > start or not more
        start = part["next"]
    assert [e["kind"] for e in got] == ["early"]


# -- adapters and checkpoints -----------------------------------------------------------------------------------------

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def adapter(good: RunFolder) -> Path:
    """A finished adapter of the run `good`."""
    place = shutil.copytree(ASSETS / "mini" / "rl", good.path / "adapter")
    good.set_status(state="done", message=None)
    return place


@pytest.mark.parametrize(
    ("damage", "loads"),
    [
        (lambda place: cut(place / WEIGHTS), False),
        (lambda place: (place / WEIGHTS).write_bytes(b"\x00" * 5000), False),
        (lambda place: cut(place / CONFIG), False),
        (lambda place: (place / CONFIG).write_bytes(b"[]"), False),
        (lambda place: None, True),
    ],
)
def test_an_adapter_cut_in_half_is_refused_wherever_it_is_offered(
    damage: Callable[[Path], None], loads: bool, adapter: Path, store: RunStore
) -> None:
    space = Workspace("cpu")
    training, model = Training(space, store), space.model("mini")
    damage(adapter)
    if not loads:
        before = probe(model)
        for load in (lambda: training.opened({"id": "good"}), lambda: space.adapter(model, "good")):
            with pytest.raises(ModelError, match="The adapter good cannot be put on mini: ") as caught:
                load()
            assert "\n" not in str(caught.value)
        assert probe(model).equal(before)
        space.adapter(model, "rl")  # and beside another one, which stays as it is
        with pytest.raises(ModelError, match="cannot be put on mini"):
            space.adapter(model, "good")
        with model.engine.using(None):
            assert probe(model).allclose(before, atol=1e-5)
        assert set(model.engine.model.peft_config) == {"rl"}
    with TestClient(web_app(SPACE, Settings()), base_url="http://localhost") as client:
        answer = client.get("/runs/good/adapter.zip")
    assert answer.status_code == (200 if loads else 404)
    assert loads or "files are damaged" in answer.text
    if not loads:
        shutil.rmtree(adapter)
        shutil.copytree(ASSETS / "mini" / "rl", adapter)
    assert training.opened({"id": "good"}) == ("mini", "good")  # mended, it loads


@pytest.mark.parametrize("config", [{"target_modules": "((("}, {"peft_type": None}, {"r": "x"}])
def test_a_config_that_peft_chokes_on_is_a_sentence(config: dict[str, Any], adapter: Path, store: RunStore) -> None:
    told = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(told | config))
    with pytest.raises(ModelError, match="The adapter good cannot be put on mini"):
        Training(Workspace("cpu"), store).opened({"id": "good"})


def test_a_run_whose_adapter_is_gone_is_not_looked_up_on_the_hub(
    training: Training, bad: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.PeftConfig.from_pretrained", lambda *_, **__: pytest.fail("it was looked up"))
    assert adapter_spec(bad) == "bad/tau_1.4"  # as its sweep.json says
    with pytest.raises(ModelError, match="The run bad has no adapter bad/tau_1.4"):
        training.opened({"id": "bad"})


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.safetensors", "place.json"])
def test_a_checkpoint_cut_in_half_does_not_count(file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import torch
    from safetensors.torch import save_file

    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        save_file({"w": torch.ones(50)}, tmp_path / name)
    (tmp_path / "place.json").write_text('{"optimizer_step": 4}')
    assert checkpoint.is_complete(tmp_path)
    cut(tmp_path / file)
    assert not checkpoint.is_complete(tmp_path)
    assert "is damaged" in caplog.text


# -- the disk ---------------------------------------------------------------------------------------------------------

REFUSALS = [(errno.ENOSPC, "is full"), (errno.EROFS, "cannot be written to"), (errno.EACCES, "cannot be written to")]


@pytest.mark.parametrize(("number", "said"), REFUSALS)
def test_what_a_visitor_does_on_a_disk_that_refuses_is_a_sentence(
    number: int,
    said: str,
    training: Training,
    good: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    good.set_status(state="stopped", message=None)
    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "rename", refuse)
    for act in (
        lambda: training.start(TrainJob(recipe=SMALL, preset="small"), OWNER),
        lambda: training.note({"id": "good", "text": "n"}, OWNER),
        lambda: training.rate({"name": "my machine", "usd": 1}, OWNER),
        lambda: training.resume({"id": "good"}, OWNER),
        lambda: training.remove({"id": "good"}, OWNER),
    ):
        caplog.clear()
        with pytest.raises(RmxError, match=said) as told:
            act()
        assert str(training.store.root.parent) not in str(told.value)
        assert str(training.store.root) in caplog.text
    monkeypatch.undo()
    (row,) = training.runs_list({})["runs"]
    assert (row["id"], row["state"], row["note"]) == ("good", "stopped", "")
    assert not good.alive


REAL = """
import os, sys
from pathlib import Path
from rmx.errors import RmxError
from rmx.runs.job import TrainJob
from rmx.runs.recipe import SMALL
from rmx.runs.store import RunStore
from rmx.ui.visitor_cookie import Visitor, owners_of
from rmx.ui.jobs.training import Training
from rmx.models.workspace import Workspace
from rmx.evaluate.sample_store import Answered, SampleStore
from rmx.prompt_styles import STYLES
from rmx.arguments import Sampling

root, how = Path(sys.argv[1]), sys.argv[2]
training, eve = Training(Workspace(), RunStore(root)), Visitor("eve", admin=True)
folder = training.store.create(TrainJob(recipe=SMALL, preset="small"), path=root / "run")
folder.set_status(state="stopped", message=None)
if how == "full":
    with (root / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 4096)
        except OSError:
            pass
else:
    os.system(f"mount -o remount,ro {root}")
shelf = SampleStore(root / "samples").shelf("key", Sampling(), STYLES["boxed"])
shelf.add(Answered("p", 0, 3, "7", "eos"))
print("shelf:", shelf.fault)
owners = owners_of("0.0.0.0")
print("cookie:", owners.read(owners.value(eve)) == eve)
for name, act in {
    "start": lambda: training.start(TrainJob(recipe=SMALL, preset="small"), eve),
    "note": lambda: training.note({"id": "run", "text": "n" * 900}, eve),
    "rate": lambda: training.rate({"name": "my machine", "usd": 1}, eve),
    "resume": lambda: training.resume({"id": "run"}, eve),
}.items():
    try:
        act()
        print(name, "done")
    except RmxError as error:
        print(name, "said:", error)
print("list:", [(one["id"], one["state"], one["note"]) for one in training.runs_list({})["runs"]])
"""


@pytest.mark.parametrize(("how", "said"), [("full", "is full"), ("read-only", "cannot be written to")])
def test_a_real_disk_of_one_megabyte(how: str, said: str, runs: Path) -> None:
    """In a mount namespace of its own; a system that allows none says so, and the faked refusals above stand alone."""
    runs.mkdir()
    mount = f"mount -t tmpfs -o size=256k,nr_inodes=40 tmpfs {runs} && exec {sys.executable} - {runs} {how}"
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    if not allowed:
        pytest.skip("this system lets nobody make a mount namespace")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount], input=REAL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(":", 1) if ": " in line else (line, "") for line in done.stdout.splitlines())
    assert said in lines["shelf"]
    assert lines["cookie"] == " True"
    for name in ("start", "note", "rate", "resume"):
        assert said in lines[f"{name} said"], done.stdout
    assert str(runs) not in done.stdout  # which is what visitors are told
    assert str(runs) in done.stderr
    assert lines["list"] == " [('run', 'stopped', '')]"


def test_a_library_that_names_a_file_of_the_machine_is_repeated_without_its_folder(
    training: Training, adapter: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Downloads onto a disk that refuses, an adapter that is gone, a run whose process could not be started."""
    from rmx.data.problem_sets import load_set

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(adapter / WEIGHTS))

    monkeypatch.setattr("datasets.load_dataset", refuse)
    monkeypatch.setattr("rmx.models.adapters.load_file", refuse)
    for act in (lambda: load_set("amc23"), lambda: Training(Workspace("cpu"), training.store).opened({"id": "good"})):
        with pytest.raises(RmxError, match=r"Read-only file system: 'adapter_model\.safetensors'") as told:
            act()
        assert str(adapter.parent) not in str(told.value)
        assert str(adapter / WEIGHTS) in caplog.text
        caplog.clear()
    assert first_line(f"OSError: [Errno 28] No space left: '{adapter}/x'\nmore") == (
        "OSError: [Errno 28] No space left: 'x'"
    )


# -- the clock --------------------------------------------------------------------------------------------------------

DAY = 86_400.0


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_clock_that_jumps_changes_no_state_and_no_order_of_events(
    jump: float, training: Training, good: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    real = time.time
    with good.lock():
        good.set_status(state="running", stage="training", started=real())
        good.event("update", {"optimizer_step": 1})
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        good.event("update", {"optimizer_step": 2})
        found = training.run_tail({"id": "good"})
        assert (found["status"]["state"], found["status"]["alive"]) == ("running", True)
        assert [e["optimizer_step"] for e in found["events"]] == [1, 2]
        (row,) = training.runs_list({})["runs"]
        assert row["minutes"] is None or row["minutes"] >= 0
    assert good.state == "interrupted"


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_clock_that_jumps_while_runs_wait_leaves_each_its_turn(
    jump: float, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clock says, of two that wait exactly one goes first, and both agree on which."""
    import time

    first, second = made(store, "first"), made(store, "second")
    with first.lock(), second.lock():
        first.set_status(state="queued", came=time.time())
        second.set_status(state="queued", came=time.time() + jump)
        ahead = [_before(one, one.status["came"]) for one in (first, second)]
    assert sorted(ahead) == [(0, 0), (1, 0)]
