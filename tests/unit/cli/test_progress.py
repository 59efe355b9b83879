"""How far a job is: a bar on a terminal, lines in a log, nothing of it on stdout."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from rmx import progress
from rmx.cli.main import main
from rmx.cli.terminal import Teller
from rmx.progress import Progress

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_few_seconds_and_the_last_one(clock, capsys) -> None:
    log = io.StringIO()
    with Progress(log) as tell:
        for at in range(101):
            tell("problems", at, 2000, "12 right")
            clock[0] += 0.2
    lines = log.getvalue().splitlines()
    assert lines[0] == "problems: 25 of 2,000, 12 right, 5 s"
    assert lines[-1] == "problems: 100 of 2,000, 12 right, 20 s"
    assert len(lines) == 4
    assert "\r" not in log.getvalue()
    assert capsys.readouterr() == ("", "")


def test_stages_are_told_apart_in_a_log(clock) -> None:
    log = io.StringIO()
    with Progress(log) as tell:
        tell("reading", 3, 3)
        clock[0] += 1
        tell("patching", 1, 2)
        tell("patching", 2, 2)
    assert log.getvalue().splitlines() == ["reading: 3 of 3, 0 s", "patching: 2 of 2, 0 s"]


def test_a_terminal_gets_one_bar_for_each_stage() -> None:
    terminal = Terminal()
    with Progress(terminal) as tell:
        for at in range(5):
            tell("reading", at, 4)
        tell("patching", 1, 2, "12 right")
    shown = terminal.getvalue()
    assert "reading: 100%" in shown
    assert "4/4" in shown
    assert "patching:  50%" in shown
    assert "12 right" in shown


def test_lines_of_the_command_go_to_stdout_clear_of_the_bar(capsys) -> None:
    terminal = Terminal()
    with Progress(terminal) as tell:
        tell("training", 1, 2)
        tell.say("check at 1")
    assert capsys.readouterr().out == "check at 1\n"
    assert "check" not in terminal.getvalue()


def test_a_run_is_told_by_its_stages_and_says_what_each_found(monkeypatch, capsys) -> None:
    tell = Teller()
    update = {"decision_loss": -0.5, "kl_loss": 0.1, "grad_norm": 1.0, "lr": 1e-4, "optimizer_step": 1, "of": 9}
    tell("update", update)
    tell("stage", {"stage": "training", "at": 1, "of": 9, "left": None})
    tell("guard", {"message": "It was ended."})
    tell.progress.close()
    out, err = capsys.readouterr()
    assert out == "It was ended.\n"
    assert err.startswith("training: 1 of 9, decision -0.5000, KL 0.10000")


EVAL = ["eval", "--limit", "4", "--n", "1", "--max-new-tokens", "48", "--device", "cpu", "--json"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (EVAL, "completions: 8 of 8"),
        (["shifts", "--limit", "1", "--no-placebo", "--max-new-tokens", "48", "--json"], "problems: 1 of 1"),
        (["intervene", "--limit", "1", "--arms", "base", "--no-placebo", "--max-new-tokens", "48", "--json"],
         "problems: 1 of 1"),
        (["locator", "--limit", "1", "--samples", "2", "--max-new-tokens", "48", "--json"], "problems: 1 of 1"),
        (["claims", "--limit", "1", "--only", "reranked", "--max-new-tokens", "48", "--json"],
         "both models read the base's solutions: 1 of 1"),
    ],
)  # fmt: skip
def test_every_verb_that_takes_long_tells_a_log_and_keeps_stdout_clean(words, what, capsys) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert what in err


def on_a_terminal(code: str, *words: str) -> tuple[str, str]:
    """What a process writes to a pipe and, by stderr, to a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if not k.endswith("DISABLE_PROGRESS_BARS")}
    process = subprocess.Popen(
        [sys.executable, *(("-c", code) if code else ("-m", "rmx")), *words],
        stdout=subprocess.PIPE, stderr=theirs, env=environment, cwd=ROOT,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux ends a terminal that nobody writes to any more with an error
        pass
    os.close(ours)
    out = process.stdout.read() if process.stdout else b""
    assert process.wait() == 0, shown.decode()
    return out.decode(), shown.decode()


@pytest.mark.long
def test_a_command_on_a_terminal_draws_a_bar(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RMX_CACHE", str(tmp_path))
    out, shown = on_a_terminal("", *EVAL)
    assert json.loads(out)["done"]
    assert "completions: 100%" in shown
    assert "Loading weights" not in shown


DOWNLOADS = """
from rmx.cli.main import _quiet_transformers
_quiet_transformers()
from rmx.models.load import show_downloads
show_downloads()
from huggingface_hub.utils import are_progress_bars_disabled
print(are_progress_bars_disabled())
"""


def test_downloads_show_theirs_on_a_terminal_alone() -> None:
    assert on_a_terminal(DOWNLOADS)[0] == "False\n"
    environment = {k: v for k, v in os.environ.items() if not k.endswith("DISABLE_PROGRESS_BARS")}
    piped = subprocess.run(
        [sys.executable, "-c", DOWNLOADS], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert piped.stdout == "True\n"
