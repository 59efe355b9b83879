"""The examples that `rmx api` prints and those of the README, run: they print what stands below them."""

import contextlib
import io
import re
from pathlib import Path
from textwrap import dedent

import pytest

from rmx.cli.main import read_help
from rmx.library.training import TrainedRun
from rmx.models.workspace import Workspace
from tests.helpers.live import running

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "http://127.0.0.1:7860"


def said_by(block: str, names: dict) -> list[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(block, "example", "exec"), names)
    return said.getvalue().splitlines()


def promised_by(block: str) -> list[str]:
    return re.findall(r"^# -> (.*)$", block, re.MULTILINE)


def test_the_examples_of_the_api_print_what_it_says(mini):
    space = Workspace("cpu", loader=lambda spec: mini)
    space.model("mini")
    block = dedent(
        "\n".join(line for line in read_help()["api"].splitlines() if line.startswith("    ") and "-d '" not in line)
    )
    assert block.count("predict(") == 3
    with running(space) as url:
        assert said_by(block.replace(ADDRESS, url), {}) == promised_by(block) != []
    assert ADDRESS in block


@pytest.mark.usefixtures("quick_runs")
def test_the_example_of_the_readme_prints_what_it_says():
    text = README.read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    names: dict = {}
    said = said_by(block.replace("limit=50", "limit=3").replace("n=16", "n=2, limit=3"), names)
    assert said == promised_by(block) != []
    assert isinstance(names["run"], TrainedRun)
    assert names["run"].state == "done"


@pytest.fixture
def quick_runs(monkeypatch, tmp_path):
    """The preset `small`, with so little to do that a test can wait for it."""
    from rmx.runs.recipe import PRESETS

    little = PRESETS["quick"].with_(k=4, problems=8, select=4, validation=4, test=4, max_steps=2, max_new_tokens=96)
    monkeypatch.setitem(PRESETS, "small", little)
    monkeypatch.setenv("RMX_RUNS", str(tmp_path / "runs"))
