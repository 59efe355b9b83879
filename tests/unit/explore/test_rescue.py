"""The fewest swaps: on tables where they are known, and on mini against single swaps one by one."""

import json
import random

import pytest

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.errors import ProblemError, RmxError
from rmx.explore.flip_rates import swaps_of
from rmx.explore.generate import Generation, Job, swap_job
from rmx.explore.rescue import Resampling, RescueConfig, Search, resample, rescue
from tests.helpers.chain import END, chain, solved

pytestmark = pytest.mark.slow

ONE, TWO, THREE = "\\boxed{1}", "\\boxed{2}", "\\boxed{3}"
SINGLE = {"Q": {" W": 0.5, " M": 0.3, " R": 0.1, END: 0.1}, " W": {TWO: 1.0}, " M": {TWO: 1.0}, " R": {ONE: 1.0}}
# Through " M" two swaps are likelier than the single one that " R" is.
BOTH = SINGLE | {" M": {TWO: 0.55, ONE: 0.45}, "Q": {" W": 0.5, " M": 0.45, " R": 0.05}}
DOUBLE = {"Q": {" W": 0.6, " M": 0.4}, " W": {TWO: 1.0}, " M": {TWO: 0.6, ONE: 0.4}}
HOPELESS = {"Q": {" W": 0.6, " M": 0.4}, " W": {TWO: 1.0}, " M": {TWO: 0.6, THREE: 0.4}}


def search(table, known="1", cancelled=lambda: False, **options):
    model = chain(table)
    trace = solved(model, known)
    *_, found = rescue(model, trace, RescueConfig(**options), known=known, cancelled=cancelled)
    return model, trace, found


def test_one_swap():
    model, trace, found = search(SINGLE)
    (swap,) = found.swaps
    assert (swap.pos, swap.from_id, swap.to_id) == (0, trace.ids[0], trace.tokens[0].top[2].id)
    assert found.sentence == "one token: ' W' → ' R' at 0"
    assert (found.answer.text, found.answer.correct) == ("1", True)
    assert found.proven_fewest
    assert found.depth == 1
    assert found.goal == "right"
    assert found.done


def test_two_swaps_where_one_does_not_do():
    model, _, found = search(DOUBLE)
    assert [s.text for s in found.swaps] == ["' W' → ' M' at 0", f"{TWO!r} → {ONE!r} at 1"]
    assert found.sentence == f"two tokens: ' W' → ' M' at 0, {TWO!r} → {ONE!r} at 1"
    assert found.depth == 2
    assert found.proven_fewest


def test_a_single_unlikely_swap_comes_before_two_likely_ones():
    _, _, found = search(BOTH)
    assert [s.to_text for s in found.swaps] == [" R"]


def test_nothing_to_find_is_said_to_be_so():
    _, _, found = search(HOPELESS)
    assert not found.found
    assert found.exhausted
    assert not found.proven_fewest
    assert "nothing is left to try" in found.sentence
    assert found.json()["answer"] is None


def test_breaking_a_right_answer_asks_for_another_answer_not_for_none():
    _, _, found = search({"Q": {" R": 0.5, END: 0.3, " W": 0.2}, " R": {ONE: 1.0}, " W": {TWO: 1.0}})
    assert found.goal == "wrong"
    assert [s.to_text for s in found.swaps] == [" W"]  # ending at once, the likelier swap, gives no answer
    assert (found.answer.text, found.answer.correct) == ("2", False)


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 12, 40])
def test_the_budget_is_never_exceeded(budget):
    _, _, found = search(DOUBLE, budget=budget)
    assert found.tokens_spent <= budget
    assert found.done
    if not found.found:
        assert not found.exhausted
        assert "ended before" in found.sentence


def test_no_beginning_is_tried_twice_and_no_deeper_one_before_all_shallower(mini, monkeypatch):
    problem = load_set("mini")[5]
    trace = Generation(mini, Job(mini.prompt_ids(problem.problem), Sampling(), 1.0, known=problem.answer)).run()
    tried: list[tuple[int, tuple[int, ...]]] = []
    ask = Search._candidates

    def noted(self, branch, place):
        found = ask(self, branch, place)
        tried.extend((len(branch.swaps) + 1, (*branch.ids[: place.pos], i)) for i, _ in found)
        assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
        return found

    monkeypatch.setattr(Search, "_candidates", noted)
    list(rescue(mini, trace, RescueConfig(budget=1200), known=problem.answer))
    assert len({beginning for _, beginning in tried}) == len(tried)
    assert tried[-1][0] == 2
    assert [depth for depth, _ in tried] == sorted(depth for depth, _ in tried)


@pytest.mark.parametrize("index", [1, pytest.param(5, marks=pytest.mark.long)])
def test_what_is_found_on_mini_is_true_and_nothing_shorter_exists(mini, index):
    problem = load_set("mini")[index]
    job = Job(mini.prompt_ids(problem.problem), Sampling(max_new_tokens=160), 1.0, known=problem.answer)
    trace = Generation(mini, job).run()
    *_, found = rescue(mini, trace, RescueConfig(max_new_tokens=160), known=problem.answer)
    tokens, branch = trace.tokens, job
    for swap in found.swaps:
        assert tokens[swap.pos].id == swap.from_id
        branch = swap_job(branch, tokens, swap.pos, [swap.to_id], mini.engine.vocab_size)
        made = Generation(mini, branch).run()
        tokens = made.tokens
    assert made.answer == found.answer
    assert bool(made.answer.correct) == (found.goal == "right")
    flips = [f for f in swaps_of(mini, problem, 1.0, random.Random(0)) if f.fork and f.flipped]
    assert bool(flips) == (len(found.swaps) == 1)


def test_a_sampled_solution_can_be_rescued_too(mini):
    problem = load_set("mini")[2]
    sampling = Sampling(1.0, seed=3)
    trace = Generation(mini, Job(mini.prompt_ids(problem.problem), sampling, 1.0, known=problem.answer)).run()
    *_, found = rescue(mini, trace, RescueConfig(), known=problem.answer)
    assert found.done
    assert found.found


def test_a_cancelled_search_ends_without_a_claim():
    asked = 0

    def cancelled():
        nonlocal asked
        asked += 1
        return asked > 2

    model, _, found = search(DOUBLE, cancelled=cancelled)
    assert found.done
    assert not found.found
    assert not found.exhausted
    assert found.resampling is None
    assert model.engine.queue.waiting() == 0


def test_what_the_page_is_told():
    model = chain(DOUBLE)
    messages = [s.message() for s in rescue(model, solved(model, "1"), RescueConfig(), known="1")]
    json.dumps(messages, allow_nan=False)
    assert [m["done"] for m in messages] == [False] * (len(messages) - 1) + [True]
    assert messages[0] | {"resampling": None} == {
        "kind": "rescue", "done": False, "goal": "right", "known": "1", "tried": 0, "depth": 0, "tokens_spent": 0,
        "budget": 20_000, "found": False, "swaps": [], "sentence": "searching: 0 branches tried, one token swapped",
        "answer": None, "proven_fewest": False, "exhausted": False, "resampling": None, "branch": None,
        "note": messages[0]["note"],
    }  # fmt: skip
    assert "known answer" in messages[0]["note"]
    assert {"pos", "from", "to", "from_text", "to_text", "text"} == set(messages[-1]["swaps"][0])


@pytest.mark.parametrize(
    ("goal", "known", "error", "said"),
    [
        (None, None, ProblemError, "known answer"),
        ("right", "2", RmxError, "right already"),
        ("wrong", "1", RmxError, "wrong already"),
    ],
)
def test_what_cannot_be_searched_for_is_explained(goal, known, error, said):
    with pytest.raises(error, match=said):
        search(SINGLE, known=known, goal=goal)


def test_settings_out_of_range_are_explained():
    for bad, said in [({"goal": "up"}, "goal"), ({"budget": 0}, "budget"), ({"most_swaps": 0}, "swaps")]:
        with pytest.raises(RmxError, match=said):
            RescueConfig(**bad)
    with pytest.raises(RmxError, match="Lower the threshold"):
        search({"Q": {TWO: 1.0}})


# -- resampling -------------------------------------------------------------------------------------------------------


def test_resampling_spends_the_same_and_counts_the_solution_that_crosses(mini):
    problem = load_set("mini")[1]
    trace = Generation(mini, Job(mini.prompt_ids(problem.problem), Sampling(), 1.0, known=problem.answer)).run()
    lengths = []
    for state in resample(mini, trace, lambda row: lengths.append(len(row)) or len(row) % 2 == 0, 300, 0, 160):
        assert state.samples == len(lengths)
    assert sum(lengths) == state.tokens_spent >= 300 > sum(lengths[:-1])
    assert state.hits == sum(n % 2 == 0 for n in lengths)
    first = Generation(mini, Job(trace.prompt_ids, Sampling(1.0, seed=0, max_new_tokens=160), 1.0)).run()
    assert lengths[0] == len(first.tokens)  # sample 0 is what `rmx trace --temperature 1 --seed 0` makes


def test_its_hits_follow_the_model():
    model = chain(SINGLE)
    trace = solved(model, "1")
    *_, found = resample(model, trace, lambda row: row[0] == trace.tokens[0].top[2].id, 3000, 0, 60)
    assert found.samples > 900
    assert found.hits / found.samples == pytest.approx(0.1, abs=0.03)


def test_pass_at_n_by_hand():
    found = Resampling(4, 1, 100).json()
    assert found["pass@1"]["value"] == 0.25
    assert found["pass@n"]["value"] == pytest.approx(1 - 0.75**4)
    assert found["pass@n"]["low"] < found["pass@n"]["value"] < found["pass@n"]["high"]
    nothing = Resampling(10, 0, 100).json()["pass@n"]
    assert nothing["value"] == 0.0
    assert nothing["high"] > 0.9


# -- the command line -------------------------------------------------------------------------------------------------


def test_the_document(capsys):
    assert main(["rescue", "--problem", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert {"found", "swaps", "answer", "tokens_spent", "resampling", "note", "sentence", "proven_fewest"} <= set(found)
    assert found["found"]
    assert found["answer"] == {"text": load_set("mini")[2].answer, "correct": True}
    assert "one token" in err
    swaps = [f"{s['pos']}={s['to']}" for s in found["swaps"]]
    assert main(["trace", "--problem", "2", *(x for s in swaps for x in ("--swap", s)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["answer"]["correct"]


def test_plain_output_and_mistakes(capsys):
    assert main(["rescue", "--problem", "2", "--budget", "500"]) == 0
    out = capsys.readouterr().out
    assert "one token" in out
    assert "whole solutions are right" in out
    for argv, said in [
        (["What?"], "none is known"),
        (["--problem", "2", "--goal", "wrong"], "wrong already"),
        (["--problem", "2", "--budget", "0"], "budget"),
        (["--problem", "2", "--swaps", "9"], "swaps"),
    ]:
        assert main(["rescue", *argv]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.strip().splitlines())) == ("", 1)
        assert said in err


@pytest.mark.real
@pytest.mark.long
def test_rescue_on_a_real_model(smol, capsys, monkeypatch):
    monkeypatch.setattr("rmx.models.workspace.Workspace.model", lambda self, spec: smol)
    argv = ["rescue", "--problem", "0", "--set", "arith", "--budget", "60", "--max-new-tokens", "30", "--json"]
    assert main(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens_spent"] <= 60
    assert found["resampling"]["tokens_spent"] >= found["tokens_spent"]
