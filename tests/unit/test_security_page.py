"""SECURITY.md names the tests that hold each defence; they exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "SECURITY.md"


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 25
    assert named - {path.stem for path in TESTS.rglob("test_*.py")} == set()
