"""`rmx distill` on the command line: flags, refusals, a run that is killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmx.cli.main import _parser, main
from rmx.cli.terminal import DistillTeller
from rmx.cli.train import distill_job_of
from rmx.runs.folder import RunFolder
from rmx.runs.job import DistillJob
from rmx.runs.recipe import SMALL_DISTILL, DistillRecipe
from rmx.runs.store import row

FEW = [
    "--problems", "8", "--max-new-tokens", "80", "--epochs", "2", "--grad-accum", "2", "--heldout", "2",
    "--validation", "4", "--device", "cpu", "--preset", "paper",
]  # fmt: skip


def parsed(*words: str):
    return distill_job_of(_parser().parse_args(["distill", *words]))


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def test_flags_make_the_recipe():
    flags = ("--rank", "8", "--targets", "o_proj", "--tail", "bucket", "--top-k", "32")
    job = parsed("--adapter", "rl", "--preset", "paper", *flags)
    assert job.recipe == DistillRecipe(rank=8, targets=("o_proj",), tail="bucket", top_k=32)
    assert (job.model, job.set_name, job.adapter, job.teacher) == ("mini", "mini", "rl", None)
    again = parsed(*job.words()[2:])
    assert again == job


def test_the_bundled_model_has_a_recipe_of_its_own_and_others_the_papers(monkeypatch):
    monkeypatch.delenv("RMX_MODEL", raising=False)
    mini, other = parsed("--teacher", "rl"), parsed("--teacher", "rl", "--model", "smollm2-135m-instruct-q4_1")
    assert (mini.preset, mini.recipe) == ("small", SMALL_DISTILL)
    assert (other.preset, other.recipe) == ("paper", DistillRecipe())
    assert mini.command_line() == "rmx distill --model mini --teacher rl --set mini"
    for job in (mini, other, parsed("--teacher", "rl", "--lr", "1e-4", "--alpha", "none", "--seed", "3")):
        assert parsed(*job.words()[2:]) == job
        assert DistillJob.from_json(job.json()) == job
    assert DistillJob.from_json({k: v for k, v in mini.json().items() if k != "preset"}).preset == "paper"


def test_paths_are_made_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "rl").mkdir()
    job = parsed("--adapter", "rl", "--set", "own.jsonl")
    assert job.set_name == str(tmp_path / "own.jsonl")
    assert job.adapter == "rl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of them"),
        (["--adapter", "rl", "--teacher", "x/y"], "one of them"),
        (["--adapter", "rl", "--tail", "none"], "invalid choice"),
        (["--adapter", "rl", "--rank", "0"], "rank"),
        (["--adapter", "rl", "--set", "math500"], "only test problems"),
        (["--adapter", "nothing"], "no adapter"),
        (["--resume", "nothing"], "no run"),
    ],
)
def test_mistakes_are_one_line_and_code_2(runs, capsys, words, said):
    try:
        code = main(["distill", *words])
    except SystemExit as error:  # argparse
        code = error.code
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_a_run_of_another_kind_is_not_gone_on_with(runs, capsys):
    RunFolder(runs / "a").create({"id": "a", "kind": "train", "recipe": {}, "model": "mini"})
    assert main(["distill", "--resume", "a"]) == 2
    assert "rmx train --resume a" in capsys.readouterr().err


def test_the_terminal_says_what_came_of_it():
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    check = {"optimizer_step": 0, "agreement": {"agreement": share, "kl": share}, "pass@1": share | {"n": 0}}
    said = DistillTeller().line("check", check)
    assert "same choice as the teacher 50.0 % [40.0, 60.0]" in said
    assert "pass@1" not in said
    done = {"updates": 3, "seconds": 9.0, "split": "validation"}
    figures = dict.fromkeys(("before", "after", "vs_base", "teacher", "vs_teacher"), share)
    assert "50.0 % [40.0, 60.0] -> 50.0 %" in DistillTeller().line("done", done | figures)
    told = DistillTeller().line("done", done | figures | {"gap_closed": share})
    assert told.endswith("against it); closes 50.0 % [40.0, 60.0] of the gap")
    unknown = dict.fromkeys(("value", "low", "high")) | {"n": 4}
    assert "gap" not in DistillTeller().line("done", done | figures | {"gap_closed": unknown})
    assert DistillTeller().line("done", done | {"after": None}) == "done       3 updates in 9 s"


# -- whole processes --------------------------------------------------------------------------------------------------


def begin(out: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RMX_RUNS": str(out.parent)}
    command = [sys.executable, "-m", "rmx", "distill", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights(out: Path) -> bytes:
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


def kinds(out: Path) -> list[str]:
    return [event["kind"] for event in RunFolder(out).events()[0]]


@pytest.mark.long
def test_a_killed_process_goes_on_to_the_very_same_adapter(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = begin(whole, "--adapter", "rl", *FEW, "--out", str(whole), "--json")
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["kind"] == "done"
    assert lines[-1]["updates"] == sum(line["kind"] == "update" for line in lines) == 4
    shown = row(RunFolder(whole))
    assert (shown["kind"], shown["state"], shown["has_adapter"]) == ("distill", "done", True)
    assert shown["differs"]["problems"] == 8
    assert shown["after"]["n"] == 4

    child = begin(cut, "--adapter", "rl", *FEW, "--out", str(cut))
    limit = time.monotonic() + 300
    while "update" not in kinds(cut) and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert RunFolder(cut).state == "interrupted"
    rest = begin(cut, "--resume", str(cut))
    out, err = rest.communicate(timeout=300)
    assert rest.returncode == 0, err
    assert "the teacher" in out
    assert weights(cut) == weights(whole)
