"""Interventions, shift sets, claims and the locator go on where they stood when their process was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rmx.cli.main import main
from rmx.engine.engine import Engine

pytestmark = pytest.mark.slow

OPTIONS = ["--model", "mini", "--set", "mini", "--max-new-tokens", "96", "--device", "cpu", "--json"]
PAIR = ["--adapter", "rl", *OPTIONS]
VERBS = {
    "intervene": ["intervene", *PAIR, "--limit", "14", "--arms", "base,teacher,oracle,matched"],
    "shifts": ["shifts", *PAIR, "--limit", "6"],
    "locator": ["locator", *OPTIONS, "--limit", "3", "--samples", "2"],
    "claims": ["claims", *PAIR, "--limit", "3", "--n", "1", "--budget", "1500", "--only", "swaps,locator,reranked"],
}
UNSURE = ("seconds", "minutes", "cached")  # how long it took, and what was known before


def bare(found: Any) -> Any:
    """A document without what depends on how often it was begun."""
    if isinstance(found, dict):
        return {key: bare(value) for key, value in found.items() if key not in UNSURE}
    return [bare(one) for one in found] if isinstance(found, list) else found


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "RMX_CACHE": str(cache), "OMP_NUM_THREADS": str(torch.get_num_threads())}


def lines(cache: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in cache.glob("samples/*/*.jsonl"))


def kill_at(words: list[str], cache: Path, reached: int) -> None:
    """Start a command and SIGKILL it once it has kept so many lines; the last one is torn, as by a power cut."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "rmx", *words], env=environment(cache), **quiet)
    while process.poll() is None and lines(cache) < reached:
        time.sleep(0.005)
    was_alive = process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert was_alive
    newest = max(cache.glob("samples/*/*.jsonl"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:-9])


def counted(words: list[str], cache: Path, monkeypatch: Any, capsys: Any) -> tuple[dict[str, Any], int]:
    """The document of a command run here, and how many times it called a network."""
    calls, forward = 0, Engine.forward

    def counting(self: Engine, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(self, *args, **options)

    monkeypatch.setenv("RMX_CACHE", str(cache))
    monkeypatch.setattr(Engine, "forward", counting)
    capsys.readouterr()
    assert main(words) == 0
    monkeypatch.setattr(Engine, "forward", forward)
    return json.loads(capsys.readouterr().out), calls


LATER = [pytest.param(*case, marks=pytest.mark.long) for case in (("shifts", 5), ("locator", 2), ("claims", 10))]


@pytest.mark.parametrize(("verb", "reached"), [("intervene", 13), *LATER])
def test_killed_in_the_middle(verb: str, reached: int, tmp_path, monkeypatch, capsys) -> None:
    words, killed = VERBS[verb], tmp_path / "killed"
    whole, calls = counted(words, tmp_path / "whole", monkeypatch, capsys)
    kill_at(words, killed, reached)
    found, fewer = counted(words, killed, monkeypatch, capsys)
    assert bare(found) == bare(whole)
    assert fewer < 0.8 * calls
    again, none = counted(words, killed, monkeypatch, capsys)
    assert bare(again) == bare(whole)
    assert none < 0.2 * calls  # the check of the base, and what the budget left unfinished


def test_what_is_kept_is_not_taken_for_anything_else(tmp_path, monkeypatch, capsys) -> None:
    words = ["intervene", *PAIR, "--limit", "2", "--arms", "base,teacher", "--no-placebo"]
    first, calls = counted(words, tmp_path, monkeypatch, capsys)
    for other in (["--seed", "1"], ["--tau", "0.7"], ["--arms", "base,oracle"], ["--strength", "0.5"], ["--no-cache"]):
        _, made = counted([*words, *other], tmp_path, monkeypatch, capsys)
        assert made > 0.2 * calls, other
    again, made = counted(words, tmp_path, monkeypatch, capsys)
    assert bare(again) == bare(first)
    assert made < 0.1 * calls


def test_nothing_is_kept_without_a_cache(tmp_path, monkeypatch, capsys) -> None:
    counted([*VERBS["shifts"], "--limit", "2", "--no-cache"], tmp_path, monkeypatch, capsys)
    assert lines(tmp_path) == 0


def test_answers_that_are_kept_are_judged_by_the_present_rules(tmp_path, monkeypatch, capsys) -> None:
    words = ["intervene", *PAIR, "--limit", "4", "--arms", "base,teacher", "--no-placebo"]
    first, _ = counted(words, tmp_path, monkeypatch, capsys)
    assert first["arms"]["teacher"]["pass@1"]["value"] > 0
    monkeypatch.setattr("rmx.grading.answers.equal", lambda *_: False)
    again, made = counted(words, tmp_path, monkeypatch, capsys)
    assert again["arms"]["teacher"]["pass@1"]["value"] == 0
    assert made < 20


@pytest.mark.long
def test_a_locator_with_more_budget_goes_on(tmp_path, monkeypatch, capsys) -> None:
    words = ["locator", *OPTIONS, "--limit", "2", "--samples", "2"]
    small, _ = counted([*words, "--budget", "1500"], tmp_path, monkeypatch, capsys)
    assert small["ended"] == "budget"
    large, calls = counted(words, tmp_path, monkeypatch, capsys)
    fresh, all_calls = counted([*words, "--no-cache"], tmp_path, monkeypatch, capsys)
    assert bare(large) == bare(fresh)
    assert (calls < all_calls) == (small["problems"] > 0)
