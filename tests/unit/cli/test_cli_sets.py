"""`rmx sets`: what there is, without a network."""

import json
import sys

import pytest

from rmx.cli.main import main
from rmx.data.problem_sets import SETS


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it is an error


@pytest.mark.slow
def test_the_document(capsys):
    assert main(["sets", "--json"]) == 0
    out, err = capsys.readouterr()
    sets = {row["name"]: row for row in json.loads(out)["sets"]}
    assert err == ""
    assert list(sets) == list(SETS)
    assert sets["mini"]["splits"] == {"train": 600, "validation": 200, "test": 400}
    assert sets["mini"]["hub"] is None
    assert sets["gsm8k"]["splits"] == {"train": None, "validation": None, "test": 1319}
    assert sets["olympiadbench"] == {
        "name": "olympiadbench",
        "title": SETS["olympiadbench"].title,
        "splits": {"test": 581},
        "hub": "Hothan/OlympiadBench",
        "licence": "Apache-2.0",
        "source": SETS["olympiadbench"].source,
        "note": SETS["olympiadbench"].note,
    }
    assert all(row["licence"] and row["source"] for row in sets.values())


def test_the_text_names_every_set_with_its_licence(capsys):
    assert main(["sets"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 120
    for name, info in SETS.items():
        part = out[out.index(f"{name}: {info.title}") :]
        words = " ".join(part.split())
        assert f"licence {info.licence}" in words[:700]
    assert "train (size not known here)" in out
    assert "PATH:train" in out


def test_an_odd_argument_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sets", "--all"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
