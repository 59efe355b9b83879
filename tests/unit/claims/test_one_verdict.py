"""One rule for each row: no row may call better or worse what the p beside it does not."""

import json
import re

import numpy as np
import pytest

from rmx.claims.board import BY_ID, html_report
from rmx.claims.claim import Judged, Reading, Row, above, no_better
from rmx.cli.sets import eval_table
from rmx.compare.intervene_set import _compared
from rmx.evaluate.eval_report import Scored, paired_figures
from rmx.stats.paired import greedy_difference
from tests.helpers.claims_document import document

EDGE = (43, 11, 3, 43)  # right twice, won, lost, wrong twice: McNemar's exact p = 0.0574, Newcombe's interval above 0
SURE = (30, 20, 4, 46)


def marks(both: int, won: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * both + [False] * won + [True] * lost + [False] * neither
    return before, [True] * both + [True] * won + [False] * lost + [False] * neither


def scored(greedy: list[bool]) -> Scored:
    n = len(greedy)
    none = np.zeros((n, 0), dtype=bool)
    no = np.zeros(n, dtype=bool)
    return Scored(np.array(greedy), none, none.astype(int), no, no, none, none)


def printed(before: list[bool], after: list[bool]) -> str:
    """What `rmx eval` prints of two models with these greedy answers."""
    figures = paired_figures(scored(before), scored(after), ())
    empty = {"truncated": {"greedy": 0, "sampled": 0}, "unparsed": {"greedy": 0, "sampled": 0}}
    models = [{"label": name, "name": name, "seen": None, **empty} for name in ("base", "rl")]
    found = {
        "set": "mini", "problems": len(before), "of_problems": len(before), "done": True, "samples": 0,
        "temperature": 1.0, "top_p": 1.0, "seed": 0, "models": models, "clusters": None, "by_construction": False,
        "paired": [{"name": "rl", "against": "base", **figures}], "parts": [], "crossings": [],
    }  # fmt: skip
    return eval_table(found)


def test_an_interval_that_leaves_0_out_beside_p_of_0_057_is_not_better() -> None:
    before, after = marks(*EDGE)
    found = paired_figures(scored(before), scored(after), ())["greedy"]
    assert found["low"] > 0
    assert found["p"] == pytest.approx(0.0574, abs=1e-4)
    assert (found["verdict"], found["rule"]) == ("not shown", "exact p < 0.05")
    assert "won 11, lost 3, not shown, p = 0.0574" in printed(before, after)


def test_the_command_line_states_the_rule_and_says_better_where_p_does() -> None:
    told = printed(*marks(*SURE))
    assert re.search(r"won 20, lost 4, better, p = 0\.00154", told)
    assert "exact test has p < 0.05" in told
    assert "worse, p = 0.00154" in printed(*reversed(marks(*SURE)))


@pytest.mark.parametrize("labels", [None, [i // 2 for i in range(80)]])
def test_no_verdict_ever_contradicts_its_p(labels: list[int] | None) -> None:
    draw, seen = np.random.default_rng(3), set()
    for _ in range(150):
        before = draw.random(80) < 0.5
        after = np.where(draw.random(80) < 0.25, draw.random(80) < 0.7, before)
        found = greedy_difference(before, after, labels)
        assert (found["verdict"] != "not shown") == (found["p"] < 0.05)
        if found["verdict"] != "not shown":
            assert (found["verdict"] == "better") == (found["won"] > found["lost"])
        seen.add((found["verdict"] != "not shown", found["low"] > 0 or found["high"] < 0))
    assert {(True, True), (False, False), (False, True)} <= seen  # the edge was among them


def test_samples_have_no_p_and_go_by_their_interval() -> None:
    right = np.zeros((60, 4), dtype=bool)
    more = right.copy()
    more[:40, :3] = True
    both = [Scored(None, r, np.where(r, 0, 1), None, None, ~r & False, ~r & False) for r in (right, more)]
    found = paired_figures(both[0], both[1], (1,))
    assert (found["pass@k"]["1"]["verdict"], found["pass@k"]["1"]["rule"]) == ("better", "95 % interval excludes 0")
    assert "p" not in found["pass@k"]["1"]
    assert found["greedy"]["verdict"] is None


def test_claims_judge_a_gain_by_the_same_test_and_name_it() -> None:
    edge, sure = (greedy_difference(*marks(*counts)) for counts in (EDGE, SURE))
    assert above(edge, "It is better").verdict == "not enough data"
    assert "p = 0.0574" in above(edge, "It is better").why
    judged = above(sure, "It is better")
    assert (judged.verdict, judged.rule) == ("agrees", "exact p < 0.05")
    assert "p = 0.00154" in judged.why
    assert no_better(edge, "No better", 0.02).verdict != "differs"
    assert no_better(sure, "No better", 0.02).verdict == "differs"
    worse = greedy_difference(*reversed(marks(*SURE)))
    assert above(worse, "It is better").verdict == "differs"


def test_the_document_and_the_report_of_claims_carry_the_rule() -> None:
    sure = greedy_difference(*marks(*SURE))
    row = Row(BY_ID["gain"], Reading("text", above(sure, "It is better"), {"gain": sure}, 100), "done").json()
    assert row["rule"] == "exact p < 0.05"
    report = html_report(document() | {"rows": [row]}, "rmx claims")
    assert "judged by: exact p &lt; 0.05" in report
    assert Row(BY_ID["gain"]).json()["rule"] is None
    assert Judged("agrees", "why").rule == "whole 95 % interval"
    json.dumps(row)


def test_a_sentence_on_the_arms_claims_nothing_that_the_exact_test_does_not() -> None:
    edge, sure = (greedy_difference(*marks(*counts)) for counts in (EDGE, SURE))
    assert "cannot be told from the base" in str(_compared(edge, "It", "the base"))
    assert "exact p = 0.0574" in str(_compared(edge, "It", "the base"))
    assert "It does better than the base" in str(_compared(sure, "It", "the base"))
