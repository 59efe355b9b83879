"""Processes wait for one another as long as it takes, and end together: in a group whose timeout is two seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rmx.runs.folder import RunFolder
from tests.parity.test_command import ALONE, WHOLE, train
from tests.parity.test_two_processes import LAUNCH

SCRIPT = Path(__file__).with_name("slow_processes.py")


def launch(what: str, out: Path) -> subprocess.CompletedProcess[str]:
    """The whole run by two processes, one of which does `what` it says."""
    command = [sys.executable, *LAUNCH, str(SCRIPT), what, "train", *WHOLE, "--out", str(out)]
    return subprocess.run(command, env=os.environ | ALONE, capture_output=True, text=True, check=False, timeout=300)


def sampled(out: Path, name: str) -> dict[tuple[str, int], list[int]]:
    rows = map(json.loads, (out / name).read_text().splitlines())
    return {(row["problem_id"], row["gen_index"]): row["input_ids"] for row in rows}


@pytest.mark.long
def test_sampling_longer_than_the_groups_timeout_ends_no_run(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone, done = train(WHOLE, one), launch("slow", two)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(alone) > 8
    for mine, wanted in zip(lines[:-1], alone[:-1], strict=True):
        assert mine == pytest.approx(wanted, abs=1e-5)
    for name in ("rollouts.jsonl", "validation_rollouts.jsonl"):
        assert sampled(two, name) == sampled(one, name)
    weights = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, two)]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-6
    for key in ("before", "after", "vs_base", "best"):
        assert lines[-1][key] == alone[-1][key]
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.long
def test_a_stop_in_a_held_out_check_ends_both_processes(tmp_path: Path) -> None:
    done = launch("stop", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").status["state"] == "stopped"
    checks = json.loads((tmp_path / "run" / "checks.json").read_text())["checks"]
    assert [check["optimizer_step"] for check in checks] == [0]


@pytest.mark.long
def test_ctrl_c_on_the_launcher_stops_both_processes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, *LAUNCH, str(SCRIPT), "slow", "train", *WHOLE, "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | ALONE, **quiet) as launcher:
        limit = time.monotonic() + 200
        while not (out / "rollouts.jsonl").exists() and time.monotonic() < limit:
            time.sleep(0.1)
        launcher.send_signal(signal.SIGINT)
        launcher.wait(120)
    assert RunFolder(out).status["state"] == "stopped"


@pytest.mark.long
def test_a_failure_in_a_held_out_check_ends_both_processes(tmp_path: Path) -> None:
    done = launch("fail", tmp_path / "run")
    assert done.returncode != 0
    status = RunFolder(tmp_path / "run").status
    assert status["state"] == "failed"
    assert "Process 1 of this run has failed: The second process has broken down." in status["message"]
