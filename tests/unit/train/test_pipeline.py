"""A whole run on the miniature: its files, the rules that end it, dry runs, and what is never looked at."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.errors import TrainError
from rmx.records import Rollout
from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.recipe import Recipe
from rmx.train import data_stages as first_stages
from rmx.train import pipeline
from rmx.train.drive import DRY, drive
from rmx.train.rollouts import read_rollouts
from rmx.train.step import trainer
from rmx.train.training_stage import written
from tests.helpers.training_runs import TINY, tiny_run

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A dry run: rollouts and gate are there, nothing is trained."""
    folder = tiny_run(tmp_path_factory.mktemp("sampled"))
    assert drive(folder, dry=True) == "stopped"
    return folder


def again(sampled: RunFolder, root: Path, **changes: Any) -> RunFolder:
    """The same rollouts in a new run with another recipe, not trained yet."""
    folder = tiny_run(root, recipe=TINY.with_(**changes))
    for name in ("rollouts.jsonl", "validation_rollouts.jsonl"):
        for path in sampled.path.glob(f"{name}*"):
            shutil.copyfile(path, folder.path / path.name)
    return folder


def told(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events()[0] if event["kind"] == kind]


def test_a_dry_run_gates_and_trains_nothing(sampled: RunFolder) -> None:
    assert sampled.status["message"] == DRY
    gate = sampled.summary["gate"]
    assert gate["tau"] == 1.0
    assert 0 < gate["gated"] < gate["tokens"]
    assert gate["estimate"]["seconds"] > 0
    assert not (sampled.path / "checkpoints").exists()
    assert len(read_rollouts(sampled.path / "rollouts.jsonl")) == TINY.rollouts.problems * TINY.rollouts.k


def test_before_any_rollout_the_run_is_estimated(sampled: RunFolder) -> None:
    kinds = [event["kind"] for event in sampled.events()[0]]
    assert kinds.index("estimate") < kinds.index("rollouts")
    (ahead,) = told(sampled, "estimate")
    assert 0 < ahead["low"] < ahead["seconds"] < ahead["high"]
    assert all(ahead["stages"][stage]["value"] > 0 for stage in ("rollouts", "gate", "training", "final"))
    assert ahead["memory_mb"] > 100
    assert ahead["figures_token"] == 4 * (128 + 2)
    assert ahead["disk_mb"] > 0


def test_a_dry_run_tells_time_memory_disk_and_cost_in_words(
    sampled: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sampled.path, tmp_path / "run")
    assert main(["train", "--resume", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    after = said[said.index("estimate   of what is still to come") :].splitlines()
    assert [line.split()[0] for line in after[1:] if not line.startswith(" ")] == [
        "time", "memory", "disk", "cost", "stopped:",
    ]  # fmt: skip
    assert main(["train", "--resume", str(tmp_path / "run"), "--dry-run", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["kind"] == "gate"
    assert json.loads(line)["estimate"]["disk_mb"] > 0


@pytest.mark.long
def test_where_memory_does_not_suffice_training_recomputes_and_says_so(
    sampled: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, short = again(sampled, tmp_path / "plain", max_steps=2), again(sampled, tmp_path / "short", max_steps=2)
    assert drive(plain) == "done"
    assert told(plain, "note") == []
    monkeypatch.setattr(pipeline, "room_of", lambda device: 1_000_000)
    assert drive(short) == "done"
    (note,) = told(short, "note")
    assert "computed twice rather than kept, as --recompute does" in note["message"]
    assert "--max-seq-len" in note["message"]
    weights = [load_file(folder.path / "adapter" / WEIGHTS) for folder in (plain, short)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0])


@pytest.mark.long
def test_a_run_that_finds_no_disk_for_figures_says_so_and_makes_the_same_adapter(
    sampled: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, full = again(sampled, tmp_path / "plain", max_steps=2), again(sampled, tmp_path / "full", max_steps=2)
    full.change(full.config | {"recipe": full.config["recipe"] | {"base_disk_gb": 0.0001}})
    assert drive(plain) == "done"
    monkeypatch.setattr(pipeline, "MEMORY", 0)
    assert drive(full) == "done"
    (note,) = told(full, "note")
    assert "--base-disk-gb 0.0001" in note["message"]
    weights = [load_file(folder.path / "adapter" / WEIGHTS) for folder in (plain, full)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), pytest.param(MemoryError(), marks=pytest.mark.long)]
)
def test_out_of_memory_says_what_to_change(
    error: Exception, sampled: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise error

    folder = again(sampled, tmp_path, validation=0, test=0)
    monkeypatch.setattr(trainer, "read_rows", fails)
    with pytest.raises(TrainError, match="--recompute, a --max-seq-len below 8192 or a --micro-batch below 3"):
        drive(folder)
    assert folder.state == "failed"
    assert "ran out of memory in the stage training" in folder.status["message"]


def test_a_dry_run_goes_on_with_another_threshold(sampled: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(sampled.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.change(folder.config | {"recipe": folder.config["recipe"] | {"max_steps": 2, "test": 0}})
    assert main(["train", "--resume", str(folder.path), "--tau", "1.4"]) == 0
    first, second = told(folder, "gate")
    assert (first["tau"], second["tau"]) == (1.0, 1.4)
    assert second["gated"] < first["gated"]
    assert folder.state == "done"
    assert Recipe.from_json(folder.config["recipe"]).gate.tau == 1.4
    assert main(["train", "--resume", str(folder.path), "--tau", "1.0"]) == 2  # too late: it has trained


def test_progress_counts_all_rollouts_and_never_falls_back(sampled: RunFolder) -> None:
    seen = [(e["at"], e["of"]) for e in told(sampled, "stage") if e["stage"] == "rollouts"]
    assert {of for _, of in seen} == {8 * 6 + 6 * 2}
    assert [at for at, _ in seen] == sorted(at for at, _ in seen)
    assert seen[-1][0] == 8 * 6 + 6 * 2


def test_the_best_checkpoint_becomes_the_adapter_and_test_problems_decide_nothing(
    sampled: RunFolder, tmp_path: Path
) -> None:
    folder = again(sampled, tmp_path)
    assert drive(folder) == "done"
    done, checks = folder.summary["done"], folder.summary["checks"]
    assert done["best"] == max(
        (c for step, c in checks.items() if step != "0"), key=lambda c: (c["pass@1"]["value"], c["gap"])
    )["checkpoint"]  # fmt: skip
    best, shipped = (load_file(folder.path / at / WEIGHTS) for at in (f"checkpoints/{done['best']}", "adapter"))
    assert all(torch.equal(best[name], shipped[name]) for name in best)
    asked = {c["id"] for e in told(folder, "samples") for c in e["problems"]}
    assert not asked & {p.id for p in load_set("mini:test")}
    kinds = [e["kind"] for e in folder.events()[0]]
    assert kinds.index("done") > max(i for i, kind in enumerate(kinds) if kind == "check")
    assert done["before"]["n"] == done["after"]["n"] == 6


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("kl", {"lr": 0.3, "epochs": 20, "warmup_steps": 0, "kl_limit": 0.01, "checkpoint_every": 20}),
        pytest.param(
            "validation",
            {"lr": 0.3, "epochs": 20, "warmup_steps": 0, "kl_limit": 1e6, "checkpoint_every": 2},
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_guard_ends_a_run_that_goes_wrong(
    rule: str, changes: dict[str, Any], sampled: RunFolder, tmp_path: Path
) -> None:
    """A rate far too high; enough validation problems for a fall to show."""
    folder = again(sampled, tmp_path, guards=True, validation=20, test=0, **changes)
    for path in folder.path.glob("validation_rollouts*"):
        path.unlink()
    assert drive(folder) == "done"
    (guard,) = told(folder, "guard")
    assert guard["rule"] == rule
    assert folder.status["message"] == guard["message"]
    assert folder.summary["done"]["updates"] < told(folder, "update")[0]["of"]


def test_patience_ends_a_run_and_the_adapter_is_kept(sampled: RunFolder, tmp_path: Path) -> None:
    folder = again(sampled, tmp_path, patience=1, epochs=40, lr=1e-9, checkpoint_every=1, test=0)
    assert drive(folder) == "done"
    (early,) = told(folder, "early")
    assert "patience 1" in early["message"]
    assert len(folder.summary["checks"]) == 2  # the base's, and one that was not better
    assert folder.summary["done"]["updates"] < told(folder, "update")[0]["of"]
    assert (folder.path / "adapter" / WEIGHTS).is_file()


def test_without_validation_there_is_one_checkpoint_and_no_check(sampled: RunFolder, tmp_path: Path) -> None:
    folder = again(sampled, tmp_path, validation=0, test=0, max_steps=2, checkpoint_every=5)
    assert drive(folder) == "done"
    assert told(folder, "check") == []
    assert written(folder.path / "checkpoints") == [2]
    assert folder.summary["done"]["before"] is None


def test_a_pinned_fork_is_followed(sampled: RunFolder, tmp_path: Path) -> None:
    one = read_rollouts(sampled.path / "rollouts.jsonl")[0]
    pin = {"model": "mini", "prompt_ids": list(one.prompt_ids), "before": list(one.completion_ids[:3]),
           "said": one.completion_ids[3], "known": "7"}  # fmt: skip
    folder = again(sampled, tmp_path, max_steps=2, test=0)
    folder.change(folder.config | {"pins": [pin]})
    assert drive(folder) == "done"
    events = told(folder, "replay")
    assert [e["optimizer_step"] for e in events] == [0, 2]
    assert all(len(e["forks"]) == 1 and e["forks"][0]["known"] == "7" for e in events)


def test_ids_in_doubt_are_told_of_a_servers_rollouts(
    sampled: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_rollouts(sampled.path / "rollouts.jsonl")

    def served(url: str, *asked: Any, report: Any, **options: Any) -> Iterator[Rollout]:
        for rollout in stored:
            report.doubtful += 1
            yield replace(rollout, entropies=None)

    monkeypatch.setattr(first_stages, "server_rollouts", served)
    folder = tiny_run(tmp_path, recipe=TINY.with_(validation=0), server="http://127.0.0.1:1")
    assert drive(folder, dry=True) == "stopped"
    server = told(folder, "rollouts")[-1]["server"]
    assert (server["doubtful"], server["share"]) == (48, 1.0)
    # Entropies were scored, and the gate is that of the rollouts' own pass.
    assert folder.summary["gate"]["gated"] == sampled.summary["gate"]["gated"]


def test_paths_of_a_job_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rmx.runs.job import resolved

    (tmp_path / "adapter").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolved(TrainJob(init_adapter="adapter")).init_adapter == str(tmp_path / "adapter")
