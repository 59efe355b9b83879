"""A sweep over thresholds: shared stages once, chosen on validation alone, the same adapters after a kill, errors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rmx.cli.main import main
from rmx.cli.terminal import Teller, sweep_lines
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError, TrainError
from rmx.models.names import run_adapter
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.recipe import taus_of
from rmx.runs.store import RunStore, row
from rmx.train import data_stages as first_stages
from rmx.train import pipeline as sweep
from rmx.train.drive import drive
from rmx.train.heldout import Solutions
from rmx.train.heldout import solve as really_solve
from rmx.train.pipeline import SweptTau, chosen_of
from rmx.ui.jobs.training import adapter_spec
from tests.helpers.training_runs import TINY, finish, kill_in, tiny_run

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"
TAUS = (1.0, 1.6)
QUICK = TINY.with_(epochs=1, checkpoint_every=1)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, dict[str, list[Any]]]:
    """A finished sweep, and how often it sampled, read rollouts and solved problems."""
    calls: dict[str, list[Any]] = {"sampled": [], "scored": [], "solved": []}
    patch = pytest.MonkeyPatch()
    sample, score = first_stages.sample_rollouts, sweep.Pipeline.scored

    def sampled(model: Any, problems: Any, *args: Any, **options: Any) -> Any:
        calls["sampled"].append(len(problems))
        return sample(model, problems, *args, **options)

    def scored(self: Any, *args: Any) -> Any:
        calls["scored"].append(1)
        return score(self, *args)

    def solved(model: Any, problems: Any, adapter: str | None, *args: Any, **options: Any) -> Solutions:
        calls["solved"].append((problems[0].split, adapter))
        return really_solve(model, problems, adapter, *args, **options)

    patch.setattr(first_stages, "sample_rollouts", sampled)
    patch.setattr(sweep.Pipeline, "scored", scored)
    for module in ("heldout", "training_stage"):
        patch.setattr(f"rmx.train.{module}.solve", solved)
    folder = tiny_run(tmp_path_factory.mktemp("sweep"), recipe=QUICK, taus=TAUS)
    assert drive(folder) == "done"
    patch.undo()
    return folder, calls


@pytest.fixture(scope="module")
def swept(counted: tuple[RunFolder, dict[str, list[Any]]]) -> RunFolder:
    return counted[0]


def told(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events()[0] if event["kind"] == kind]


def curve(folder: RunFolder) -> dict[str, Any]:
    assert folder.sweep is not None
    return folder.sweep


def weights(folder: RunFolder, at: str) -> dict[str, Any]:
    return load_file(folder.path / at / "adapter" / WEIGHTS)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


# -- what is shared ---------------------------------------------------------------------------------------------------


def test_the_shared_stages_are_made_once(counted: tuple[RunFolder, dict[str, list[Any]]]) -> None:
    folder, calls = counted
    assert calls["sampled"] == [8, 6]  # training and held-out rollouts
    assert calls["scored"] == [1]
    assert calls["solved"].count(("validation", None)) == calls["solved"].count(("test", None)) == 1
    assert calls["solved"].count(("test", "policy")) == len(TAUS)
    assert len(told(folder, "selection")) == 1


def test_a_threshold_gives_the_adapter_that_its_own_run_gives(swept: RunFolder, tmp_path: Path) -> None:
    alone = tiny_run(tmp_path, recipe=QUICK.with_(tau=TAUS[1]))
    for path in swept.path.glob("*rollouts.jsonl*"):
        shutil.copyfile(path, alone.path / path.name)
    assert drive(alone) == "done"
    assert same(weights(swept, f"tau_{TAUS[1]:g}"), weights(alone, "."))
    entry, done = curve(swept)["taus"][1], alone.summary["done"]
    assert entry["test"] == done["after"]
    assert entry["test_vs_base"] == done["vs_base"]
    assert entry["share"] == alone.summary["gate"]["share"]


def test_the_curve_has_every_figure(swept: RunFolder) -> None:
    found = curve(swept)
    assert [one["tau"] for one in found["taus"]] == list(TAUS)
    assert found["taus"][0]["share"] > found["taus"][1]["share"] > 0
    for one in found["taus"]:
        for name in ("validation", "vs_base", "test", "test_vs_base"):
            assert one[name]["n"] == 6
            assert one[name]["low"] <= one[name]["value"] <= one[name]["high"]
        assert (swept.path / one["adapter"] / "README.md").is_file()
        assert one["best"] in {p.name for p in (swept.path / f"tau_{one['tau']:g}" / "checkpoints").iterdir()}
    assert "validation" in found["rule"]
    table = "\n".join(sweep_lines(found))
    assert "*" in table
    assert all(f"{tau:g} " in table for tau in TAUS)


# -- the choice -------------------------------------------------------------------------------------------------------


def estimate(value: float | None) -> Any:
    return None if value is None else {"value": value, "low": 0.0, "high": 1.0, "n": 10}


def arm(tau: float, validation: float | None, test: float) -> SweptTau:
    return SweptTau(tau, 5, 100, "step_1", estimate(0.4), estimate(validation), None, 1, 1.0, None, estimate(test))


@pytest.mark.parametrize(
    ("arms", "chosen"),
    [
        ([arm(1.2, 0.5, 0.9), arm(1.4, 0.6, 0.1)], 1.4),  # the better test does not matter
        ([arm(1.8, 0.6, 0.9), arm(1.2, 0.6, 0.1), arm(1.4, 0.5, 1.0)], 1.2),  # of equal ones the smaller
        ([arm(1.2, None, 0.9), arm(1.4, 0.0, 0.1)], 1.4),
        ([arm(1.2, None, 0.9)], None),
    ],
)
def test_validation_chooses(arms: list[SweptTau], chosen: float | None) -> None:
    found = chosen_of(arms)
    assert (found.tau if found else None) == chosen


def test_the_choice_is_written_before_a_test_problem_is_solved(
    swept: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(swept.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    stored = curve(folder)
    for one in stored["taus"]:
        one |= {"test": None, "test_vs_base": None}
    (folder.path / "sweep.json").write_text(json.dumps(stored | {"chosen": None}))
    (folder.path / "test_base.json").unlink()
    shutil.rmtree(folder.path / "adapter")
    seen, order = [], []

    def solved(model: Any, problems: Any, adapter: str | None, *args: Any, **options: Any) -> Solutions:
        seen.append(curve(folder)["chosen"])
        order.append(problems[0].split)
        return really_solve(model, problems, adapter, *args, **options)

    for module in ("heldout", "training_stage"):
        monkeypatch.setattr(f"rmx.train.{module}.solve", solved)
    assert drive(folder) == "done"
    assert order == ["test"] * 3
    assert seen == [curve(swept)["chosen"]] * 3
    assert curve(folder) == curve(swept)
    assert same(weights(folder, "."), weights(swept, f"tau_{curve(swept)['chosen']:g}"))


def test_no_test_problem_is_looked_at_while_it_trains(swept: RunFolder) -> None:
    asked = {c["id"] for e in told(swept, "samples") for c in e["problems"]}
    assert asked
    assert not asked & {p.id for p in load_set("mini:test")}


# -- one run among others ---------------------------------------------------------------------------------------------


def test_it_is_one_run_whose_adapter_is_the_chosen_one(swept: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMX_RUNS", str(swept.path.parent))
    assert [folder.id for folder in RunStore().all()] == [swept.id]
    found, chosen = row(swept), curve(swept)["chosen"]
    assert (found["kind"], found["state"], found["taus"], found["tau"]) == ("sweep", "done", list(TAUS), chosen)
    assert found["after"] == next(one["test"] for one in curve(swept)["taus"] if one["tau"] == chosen)
    assert found["has_adapter"]
    assert adapter_spec(swept) == swept.id
    assert run_adapter(swept.id) == swept.path / "adapter"
    assert run_adapter(f"{swept.id}/tau_1.6") == swept.path / "tau_1.6" / "adapter"
    assert run_adapter(f"{swept.id}/tau_9") is None
    assert "--sweep-tau 1,1.6" in found["command"]


def test_events_say_which_threshold_and_how_far_all_are(swept: RunFolder) -> None:
    assert [(e["tau"], e["nth"], e["of"]) for e in told(swept, "tau")] == [(1.0, 1, 2), (1.6, 2, 2)]
    updates = told(swept, "update")
    assert [e["tau"] for e in updates] == sorted(e["tau"] for e in updates)
    bars = [(e["at"], e["of"]) for e in told(swept, "stage") if e["stage"] == "training"]
    assert {of for _, of in bars} == {2 * updates[0]["of"]}
    assert [at for at, _ in bars] == sorted(at for at, _ in bars)
    assert bars[-1][0] == bars[-1][1]
    lines = [Teller().line(e["kind"], e) for e in told(swept, "tau") + told(swept, "done")]
    assert all(lines)
    assert "its adapter is the run's" in str(lines[-1])


# -- broken off -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_in_the_second_threshold_it_goes_on_to_the_same_adapters(tmp_path: Path) -> None:
    """Both in processes of their own, so that they compute alike."""
    recipe = QUICK.with_(checkpoint_every=0.5, validation=2, test=2)
    unbroken = finish(tiny_run(tmp_path, "unbroken", recipe=recipe, taus=TAUS))
    folder = tiny_run(tmp_path, "killed", recipe=recipe, taus=TAUS)
    for path in unbroken.path.glob("*rollouts.jsonl*"):
        shutil.copyfile(path, folder.path / path.name)
    place = folder.path / "tau_1.6" / "checkpoints"
    assert kill_in(folder, lambda _: place.is_dir() and any(p.name.startswith("step_") for p in place.iterdir()), 0.01)
    assert folder.state == "interrupted"
    assert [one["tau"] for one in curve(folder)["taus"]] == [1.0]
    assert adapter_spec(folder) == "killed/tau_1"
    finish(folder)
    assert len([e for e in told(folder, "tau") if e["tau"] == 1.0]) == 1  # the first is not trained again
    for at in ("tau_1", "tau_1.6", "."):
        assert same(weights(folder, at), weights(unbroken, at))
    timeless = [
        [{k: v for k, v in one.items() if k != "seconds"} for one in curve(f)["taus"]] for f in (folder, unbroken)
    ]
    assert timeless[0] == timeless[1]
    assert curve(folder)["chosen"] == curve(unbroken)["chosen"]


# -- what cannot be swept ---------------------------------------------------------------------------------------------


def test_lists_are_read_as_they_are_meant() -> None:
    assert taus_of(" 1.8, 1.2,1.40 ") == (1.2, 1.4, 1.8)
    assert taus_of("1.4") == (1.4,)
    assert taus_of("0") == (0.0,)


@pytest.mark.parametrize("text", ["", " , ,", "1.2,,1.4", "1.2,x", "-1", "nan", "inf", "1e9", "1.2,1.20", "1.2;1.4"])
def test_a_list_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(RmxError) as caught:
        taus_of(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(RmxError, match="at most 16"):
        taus_of(",".join(map(str, range(17))))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sweep-tau", "1.2,1.4", "--tau", "1"], "Leave out --tau"),
        (["--sweep-tau", "1.2,1.4", "--tau-share", "0.05"], "Leave out --tau"),
        (["--sweep-tau", "1.2,1.4", "--dry-run"], "dry run has nothing to sweep"),
        (["--sweep-tau", "1.2,1.4", "--gate", "full"], "no threshold to sweep"),
        (["--sweep-tau", "1.2,1.4", "--validation", "0"], "validation"),
        (["--sweep-tau", "two"], "got 'two'"),
        (["--sweep-tau", ""], "at least one threshold"),
    ],
)
def test_flags_that_do_not_go_together(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--preset", "small", "--out", str(tmp_path / "run"), *flags]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sweep_goes_on_as_it_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_run(tmp_path, recipe=QUICK, taus=TAUS)
    for flags in (["--tau", "1.2"], ["--sweep-tau", "1.2"], ["--dry-run"], ["--lr", "0.1"]):
        assert main(["train", "--resume", str(folder.path), *flags]) == 2
    assert "Leave out" in capsys.readouterr().err
    assert TrainJob.from_json(folder.config).taus == TAUS


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_run(tmp_path, recipe=QUICK, taus=TAUS)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainError, match="one process"):
        sweep.Sweep(TrainJob.from_json(folder.config), folder.path, folder.config)
    assert main(["train", "--sweep-tau", "1.2", "--preset", "small", "--out", str(tmp_path / "x")]) == 2


@pytest.mark.long
def test_rollouts_that_are_there_already_are_swept(swept: RunFolder, tmp_path: Path) -> None:
    file = swept.path / "rollouts.jsonl"
    folder = tiny_run(tmp_path, recipe=QUICK, taus=TAUS, from_rollouts=str(file))
    for path in swept.path.glob("validation_rollouts.jsonl*"):
        shutil.copyfile(path, folder.path / path.name)
    assert drive(folder) == "done"
    assert same(weights(folder, "tau_1.6"), weights(swept, "tau_1.6"))
    bare = replace(TrainJob.from_json(folder.config), set_name=None)
    with pytest.raises(TrainError, match="--set"):
        sweep.Sweep(bare, folder.path, folder.config)
