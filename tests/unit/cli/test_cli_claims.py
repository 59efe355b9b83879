"""`rmx claims` and `rmx locator` on the miniature, as a user would call them."""

import json
import os
import signal
import threading

import pytest

from rmx.claims import board, studies
from rmx.claims.board import CLAIMS
from rmx.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ["--limit", "2", "--max-new-tokens", "96", "--n", "2", "--budget", "500"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All claims on two problems: the document, and the report that was written beside it."""
    html = tmp_path_factory.mktemp("claims") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(words))
        assert main(["claims", "--model", "mini", "--adapter", "rl", *SMALL, "--html", str(html), "--json"]) == 0
    return json.loads(said[-1][0]), html.read_text(encoding="utf-8")


def test_every_claim_has_its_row(found):
    document, html = found
    assert [row["id"] for row in document["rows"]] == [claim.id for claim in CLAIMS]
    assert {"model": "mini", "adapter": "rl", "set": "mini", "n": 2, "seed": 0}.items() <= document.items()
    assert all(claim.title in html for claim in CLAIMS)


def test_nothing_on_the_miniature_counts(found):
    verdicts = {row["id"]: row["verdict"] for row in found[0]["rows"]}
    assert set(verdicts.values()) == {"by construction", "not measured"}
    runs = {claim.id for claim in CLAIMS if claim.studies == ("runs",)} | {"locator"}  # which has a tiny budget
    assert {i for i, verdict in verdicts.items() if verdict == "not measured"} == runs


def test_the_figures_are_estimates(found):
    rows = {row["id"]: row for row in found[0]["rows"]}
    gain = rows["gain"]["measured"]["figures"]["gain"]
    assert gain["n"] == 2
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert "rmx distill --model mini --set mini --adapter rl" in rows["low-rank"]["why"]
    assert "500 tokens are too few" in rows["locator"]["why"]


def test_text_is_a_table(capsys):
    assert main(["claims", "--only", "cost,gain", "--limit", "1", "--max-new-tokens", "48"]) == 0
    said = capsys.readouterr().out
    assert "BY CONSTRUCTION  RL raises pass@1" in said
    assert "NOT MEASURED     It costs a few dollars" in said
    assert "- Only mathematics" in said


def test_what_is_there_is_reported_after_ctrl_c(capsys, monkeypatch):
    def endless(subject, cancelled):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        while not cancelled():
            yield studies.StudyProgress(1, 2, None)

    monkeypatch.setitem(board.STUDIES, "shifts", endless)
    assert main(["claims", "--only", "reranked,low-rank,gain", "--limit", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stopped"]
    assert {row["id"]: row["state"] for row in document["rows"]} == {
        "gain": "waiting",
        "reranked": "stopped",
        "low-rank": "done",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "nonsense"], "no claim 'nonsense'"),
        (["--n", "0"], "--n must be a whole number from 1 to 256; got 0"),
        (["--limit", "0"], "--limit must be a whole number, 1 or more; got 0"),
        (["--tau", "-1"], "--tau must be a number, 0 or more; got -1"),
        (["--only", "cost", "--html", "/nowhere/at/all.html"], "Cannot write"),
    ],
)
def test_mistakes_are_explained(words, says, capsys):
    assert main(["claims", *words]) == 2
    assert says in capsys.readouterr().err


def test_the_locator_tells_what_the_gate_misses(capsys):
    assert main(["locator", "--limit", "1", "--max-new-tokens", "96", "--samples", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"missed", "recall", "precision", "decides_nothing", "tokens_spent", "rule"} <= document.keys()
    assert document["problems"] == 1
    assert document["gated"] == sum(place["gated"] for place in document["places"])
    assert main(["locator", "--limit", "1", "--budget", "50"]) == 0
    assert "the budget is used up" in capsys.readouterr().out


def test_too_few_problems_for_a_verdict_are_said_before_anything_is_measured(capsys, monkeypatch):
    def told(subject, cancelled):
        assert "2 problems: no verdict is given below 30" in capsys.readouterr().err
        yield studies.StudyProgress(1, 1, None)

    monkeypatch.setitem(board.STUDIES, "shifts", told)
    assert main(["claims", "--only", "reranked", "--limit", "2", "--json"]) == 0
    monkeypatch.setitem(board.STUDIES, "shifts", lambda *_: iter(()))
    assert main(["claims", "--only", "reranked", "--limit", "30", "--json"]) == 0
    assert "no verdict" not in capsys.readouterr().err
