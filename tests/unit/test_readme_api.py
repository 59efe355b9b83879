"""The Python examples of the README's section on the API, run against a live app: they print what the README says."""

import contextlib
import io
import re
from pathlib import Path

from rmx.models.workspace import Workspace
from tests.helpers.live import running

README = Path(__file__).parents[2] / "README.md"
ADDRESS = "http://127.0.0.1:7860"


def examples():
    section = README.read_text(encoding="utf-8").partition("\n## API and MCP\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def test_the_examples_print_what_the_readme_says(mini):
    space = Workspace("cpu", loader=lambda spec: mini)
    space.model("mini")
    blocks, names = examples(), {}
    assert len(blocks) == 2
    assert ADDRESS in blocks[0]
    with running(space) as url:
        for block in blocks:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(block.replace(ADDRESS, url), "README.md", "exec"), names)
            promised = re.findall(r"^# -> (.*)$", block, re.MULTILINE)
            assert said.getvalue().splitlines() == promised
