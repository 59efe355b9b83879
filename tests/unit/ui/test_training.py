"""What the pages ask about runs, and what a visitor may do with them."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmx.errors import Busy, RmxError, TrainError
from rmx.models.site_rules import SiteRules
from rmx.models.workspace import Workspace
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.recipe import QUICK, SMALL
from rmx.runs.store import RunStore
from rmx.service import Site, call
from rmx.ui.endpoints import RunsOfVisitor
from rmx.ui.jobs.training import POLL_BYTES, Training, adapter_spec
from rmx.ui.visitor_cookie import Owners, Visitor
from tests.helpers.live import until

ROOT = Path(__file__).parents[3]

ANN, BOB, OWNER = Visitor("ann"), Visitor("bob"), Visitor("eve", admin=True)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(Workspace(), RunStore(tmp_path))


@pytest.fixture
def run(training: Training) -> RunFolder:
    """A run of Ann's with some events, not under way."""
    pins = ({"model": "mini", "prompt_ids": [1], "before": [], "said": 2},)
    folder = training.store.create(TrainJob(recipe=SMALL, preset="small", pins=pins), owner=ANN.public)
    with folder.lock():
        for step in (1, 2, 3, 2, 3):  # resumed after the first update
            folder.event("micro", {"step": step})
            folder.event("update", {"optimizer_step": step, "loss": float(step)})
        folder.event("update", {"optimizer_step": 3, "loss": 30.0})
    return folder


def test_a_poll_brings_what_is_new_and_nothing_that_pages_do_not_need(training: Training, run: RunFolder) -> None:
    first = training.run_tail({"id": run.id, "start": 0})
    assert {e["kind"] for e in first["events"]} == {"update"}
    assert "pins" not in first["config"]
    assert first["config"]["recipe"]["lr"] == SMALL.optim.lr
    assert not first["more"]
    again = training.run_tail({"id": run.id, "start": first["next"]})
    assert again["events"] == []
    assert "config" not in again


def test_where_there_is_no_run_those_of_the_bundled_adapter_are_listed(training: Training) -> None:
    reply = training.runs_list({})
    assert reply["runs"] == []
    by_id = {one["id"]: one for one in reply["recorded"]}
    assert len(by_id) == 15
    assert by_id["small-2"]["note"] == "bundled as reasonmaxxer"
    assert by_id["small-2"]["vs_base"] == pytest.approx(
        {"value": 0.0633, "low": 0.0248, "high": 0.1018, "n": 300}, abs=1e-4
    )
    assert by_id["random-gate-1"]["command"].endswith("--preset small --gate random --seed 1")
    assert all(one["recorded"] and one["by_construction"] and not one["has_adapter"] for one in reply["recorded"])
    training.store.create(TrainJob(recipe=SMALL, preset="small"))
    assert "recorded" not in training.runs_list({})


def test_a_long_log_comes_in_pieces(training: Training, run: RunFolder) -> None:
    with run.lock():
        run.event("samples", {"text": "x" * POLL_BYTES})
        run.event("update", {"optimizer_step": 4})
    got, start, more = [], 0, True
    while more:
        part = training.run_tail({"id": run.id, "start": start})
        got, start, more = got + part["events"], part["next"], part["more"]
    assert [e["kind"] for e in got][-2:] == ["samples", "update"]


def test_curves_have_each_update_once_as_it_was_told_last(training: Training, run: RunFolder) -> None:
    (found,) = training.run_curves({"ids": [run.id]})["runs"]
    assert [(u["optimizer_step"], u["loss"]) for u in found["updates"]] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    with pytest.raises(RmxError, match="between 1 and"):
        training.run_curves({"ids": []})


@pytest.mark.parametrize("action", ["stop", "resume", "remove", "note", "push"])
def test_only_its_owner_and_the_machines_may_act_on_a_run(action: str, training: Training, run: RunFolder) -> None:
    for visitor in (BOB, Visitor("")):
        with pytest.raises(TrainError, match="Only who started"):
            getattr(training, action)({"id": run.id}, visitor)
    assert run.path.exists()


def test_owner_and_admin_may(training: Training, run: RunFolder) -> None:
    training.note({"id": run.id, "text": "mine"}, ANN)
    assert run.config["note"] == "mine"
    with pytest.raises(TrainError, match="finished adapter"):
        training.push({"id": run.id, "repo": "a/b", "token": "hf_x"}, OWNER)
    training.remove({"id": run.id}, OWNER)
    assert not run.path.exists()


@pytest.mark.parametrize("data", [None, {}, {"id": 7}, {"id": "../x"}, {"id": "no-such-run"}])
def test_nonsense_is_a_sentence(data: Any, training: Training) -> None:
    for ask in (training.run_tail, training.run_files, training.dry_run, training.opened):
        with pytest.raises(RmxError, match="no run"):
            ask(data)


def waiting_run(training: Training, job: TrainJob) -> RunFolder:
    """A run of Ann's that waits for its turn."""
    folder = training.store.create(job, owner=ANN.public)
    folder.set_status(state="queued", came=1.0, flags=[])
    return folder


def test_the_very_run_that_is_under_way_is_not_started_again(training: Training) -> None:
    job = TrainJob(recipe=SMALL, preset="small")
    folder = waiting_run(training, job)
    with pytest.raises(Busy, match=f"Your run {folder.id} goes on. Stop it first"):
        training.refuse_second(job, ANN)
    training.refuse_second(job, BOB)
    training.refuse_second(replace(job, recipe=SMALL.with_(seed=7)), ANN)  # another run may wait in line
    folder.set_status(state="stopped")
    training.refuse_second(job, ANN)


def test_on_a_public_site_a_visitor_has_one_run_at_a_time(tmp_path: Path) -> None:
    training = Training(Workspace(policy=SiteRules(public=True)), RunStore(tmp_path))
    folder = waiting_run(training, TrainJob(recipe=QUICK, preset="quick"))
    with pytest.raises(Busy, match=folder.id):
        training.refuse_second(TrainJob(recipe=QUICK.with_(seed=7), preset="quick"), ANN)


def test_a_plan_names_command_and_departures_also_of_a_model_that_is_not_loaded(training: Training) -> None:
    plan = training.plan(TrainJob("qwen2.5-1.5b", "gsm8k", SMALL.with_(seed=7), "small"))
    assert plan["command"] == "rmx train --model qwen2.5-1.5b --set gsm8k --preset small --seed 7"
    assert plan["minutes"] is None
    assert ["lr", "0.0001", "0.0003"] in plan["departs"]
    training.workspace.model("mini")
    known = training.plan(TrainJob(recipe=SMALL, preset="small"))
    assert known["minutes"]["low"] < known["minutes"]["value"] < known["minutes"]["high"]
    assert known["memory_mb"] > 100


def test_an_adapter_is_named_by_its_run_or_its_last_checkpoint(training: Training, run: RunFolder) -> None:
    with pytest.raises(TrainError, match="no adapter yet"):
        adapter_spec(run)
    for step in (5, 10):
        (run.path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    assert adapter_spec(run) == f"{run.id}/step_10"
    (run.path / "adapter").mkdir()
    (run.path / "adapter" / "adapter_config.json").write_text("{}")
    assert adapter_spec(run) == run.id


# -- programs ---------------------------------------------------------------------------------------------------------


def as_program(store: RunStore, visitor: Visitor | None, **rules: Any) -> Site:
    """What a call may do that sends this visitor's cookie, or none."""
    owners = Owners(b"x" * 32)
    cookies = {} if visitor is None else {owners.cookie: owners.value(visitor)}
    request = SimpleNamespace(cookies=cookies, headers={"host": "site.example"}, client=None)
    site = Site(Workspace(policy=SiteRules(**rules)), store)
    return replace(site, runs=RunsOfVisitor(site, owners, request))


def last(site: Site, verb: str, **given: Any) -> Any:
    *_, document = call(site, verb, given)
    return document


@pytest.fixture
def slow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Runs that go on until they are stopped, without a model."""
    for name, value in (("RMX_RUNS", f"{tmp_path}"), ("PYTHONPATH", f"{ROOT}"), ("STEPS", "1000"), ("PACE", "0.02")):
        monkeypatch.setenv(name, value)
    return RunStore(tmp_path, program=(sys.executable, str(ROOT / "tests/helpers/fake_run.py")))


def test_programs_start_stop_and_resume_runs_of_their_own(slow_store: RunStore) -> None:
    ann, bob = as_program(slow_store, ANN), as_program(slow_store, BOB)
    found = last(ann, "train", k=4, problems=16, tau=1.5)
    folder = slow_store.get(found["run"]["id"])
    try:
        recipe = folder.config["recipe"]
        assert (folder.config["owner"], folder.config["preset"]) == (ANN.public, "quick")
        assert (recipe["k"], recipe["problems"], recipe["tau"], recipe["tau_share"]) == (4, 16, 1.5, None)
        assert recipe["lr"] == QUICK.flat()["lr"]
        assert str(slow_store.root) not in json.dumps(found)
        with pytest.raises(RmxError, match="Only who started"):
            last(bob, "train_stop", run=folder.id)
        last(ann, "train_stop", run=folder.id)
        until(lambda: not folder.alive, 20)
        assert last(ann, "train_status", run=folder.id)["status"]["state"] == "stopped"
        with pytest.raises(RmxError, match="Only who started"):
            last(bob, "train_resume", run=folder.id)
        assert last(ann, "train_resume", run=folder.id)["run"]["state"] in ("queued", "running", "starting")
    finally:
        slow_store.kill(folder.id)
        until(lambda: not folder.alive, 20)


@pytest.mark.parametrize(
    ("visitor", "rules", "given", "says"),
    [
        (None, {"public": True, "training": "mini"}, {}, "belongs to the visitor who starts it"),
        (ANN, {"public": True, "training": "off"}, {}, "Training is off on this site"),
        (ANN, {"public": True, "training": "mini"}, {"preset": "small"}, "may be 48 at most here"),
        (ANN, {"public": True, "training": "mini"}, {"epochs": 2}, "epochs may be 1 at most here"),
        (ANN, {"public": True, "training": "mini"}, {"set": "arith"}, "train mini on its own problems here"),
        (ANN, {"public": True, "training": "on"}, {"model": "qwen2.5-7b"}, "This public site has the models mini"),
    ],
)
def test_a_site_refuses_a_program_what_it_refuses_on_its_page(
    visitor: Visitor | None, rules: dict[str, Any], given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(RmxError, match=says):
        last(as_program(RunStore(tmp_path), visitor, **rules), "train", **given)
    assert list(tmp_path.iterdir()) == []
