"""`rmx train` as a user starts it: the official trainer's figures line by line, and the same run by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rmx.cli.main import main
from tests.parity.reference import DATA
from tests.parity.test_two_processes import LAUNCH, ROOT

REFERENCE = (
    "--model", str(DATA / "model"), "--from-rollouts", str(DATA / "rollouts.json"),
    "--init-adapter", str(DATA / "init_adapter"), "--lr", "1e-3", "--warmup-steps", "2", "--json",
)  # fmt: skip
WHOLE = (
    "--preset", "small", "--problems", "8", "--k", "6", "--select", "4", "--lr", "1e-3", "--warmup-steps", "1",
    "--micro-batch", "3", "--grad-accum", "2", "--epochs", "2", "--checkpoint-every", "0.5", "--validation", "6",
    "--validation-k", "2", "--test", "6", "--rank", "4", "--alpha", "8", "--no-guards", "--device", "cpu", "--json",
)  # fmt: skip
ALONE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def train(flags: tuple[str, ...], out: Path, launcher: tuple[str, ...] = ()) -> list[dict]:
    """Run the command in a process; returns its lines."""
    command = [sys.executable, *launcher, "-m", "rmx", "train", *flags, "--out", str(out)]
    done = subprocess.run(command, env=os.environ | ALONE, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


def lines(said: str) -> list[dict]:
    return [json.loads(line) for line in said.splitlines()]


def test_every_line_is_the_official_trainers(tmp_path: Path) -> None:
    *steps, last = train(REFERENCE, tmp_path / "run")
    expected = json.loads((DATA / "expected" / "adv_ce.json").read_text())["steps"]
    assert len(steps) == len(expected)
    for mine, theirs in zip(steps, expected, strict=True):
        for name in ("loss", "decision_loss"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-4 * max(1, abs(theirs[name])))
        assert mine["kl_loss"] == pytest.approx(theirs["kl_loss"], abs=2e-5)
        for name in ("decision_tokens", "nondecision_tokens", "optimizer_step"):
            assert mine[name] == theirs[name]
        assert mine["lr"] == pytest.approx(theirs["lr"], abs=1e-12)
    assert last["tokens"] == sum(step["valid_tokens"] for step in expected)
    assert {"seconds", "peak_rss_mb"} <= last.keys()


def test_two_processes_make_the_whole_run_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rollouts, checks and final check by the first process, micro-batches by both."""
    two = train(WHOLE, tmp_path / "two", LAUNCH)
    assert main(["train", *WHOLE, "--out", str(tmp_path / "one")]) == 0
    one = lines(capsys.readouterr().out)
    assert len(one) == len(two) > 8
    for mine, alone in zip(two[:-1], one[:-1], strict=True):
        assert mine == pytest.approx(alone, abs=1e-5)
    weights = [load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two")]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-6
    for key in ("before", "after", "vs_base", "best"):
        assert two[-1][key] == one[-1][key]
