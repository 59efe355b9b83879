"""Outcomes and importance against models whose probabilities are known exactly."""

import json
import random

import pytest

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.engine.token_draws import draw, prompt_key, uniform
from rmx.errors import ProblemError, RmxError, SwapError
from rmx.explore.generate import Generation, Job
from rmx.explore.outcomes import OutcomeConfig, importance, outcomes, spread, spread_bounds
from rmx.grading.answers import StopRule, Target, reached, same_answers
from rmx.stats.intervals import anytime, decide
from tests.helpers.chain import END, chain, solved

pytestmark = pytest.mark.slow

ONE, TWO = "\\boxed{1}", "\\boxed{2}"
FORK = {
    "Q": {" A": 0.3, " B": 0.25, " C": 0.2, " D": 0.15, END: 0.1},
    " A": {ONE: 1.0},
    " B": {ONE: 0.5, TWO: 0.5},
    " C": {TWO: 1.0},
    " D": {" D": 0.5, "\\boxed{1.0}": 0.25, "\\boxed{3}": 0.25},
}
TRUTH = [1.0, 0.5, 0.0, 0.5, 0.0]
OPEN = OutcomeConfig(samples=8, margin=0.01)  # eight samples never decide


def last(states):
    *_, state = states
    return state


@pytest.fixture(scope="module")
def fork():
    model = chain(FORK)
    return model, solved(model, "1")


def test_each_alternative_reaches_the_answers_that_it_leads_to(fork):
    model, trace = fork
    found = last(outcomes(model, trace, 0, OutcomeConfig(samples=200, margin=0.001), known="1"))
    a, b, c, d, end = found.alternatives
    assert [x.text for x in found.alternatives] == [" A", " B", " C", " D", END]
    assert [x.p for x in found.alternatives] == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1])
    assert [x.chosen for x in found.alternatives] == [True, False, False, False, False]
    assert (a.hits, c.hits, end.hits) == (a.samples, 0, 0)
    assert [(r.text, r.correct) for r in a.answers] == [("1", True)]
    assert [(r.text, r.count, r.correct) for r in c.answers] == [("2", c.samples, False)]
    assert [(r.text, r.count, r.correct) for r in end.answers] == [(None, end.samples, False)]
    assert {r.text for r in b.answers} == {"1", "2"}
    assert {(r.text, r.correct) for r in d.answers} == {("1", True), ("3", False)}  # 1.0 is written 1 elsewhere


def test_the_intervals_hold_the_true_probabilities(fork):
    model, trace = fork
    held = 0
    for seed in range(40):
        found = last(outcomes(model, trace, 0, OutcomeConfig(seed=seed), known="1"))
        bounds = [a.interval for a in found.alternatives]
        held += all(low <= p <= high for (low, high), p in zip(bounds, TRUTH, strict=True))
    assert held >= 38


def test_sampling_stops_as_soon_as_the_rule_says(fork):
    model, trace = fork
    counted = {}
    for state in outcomes(model, trace, 0, OutcomeConfig(), known="1"):
        counted[state.alternatives[0].samples] = state
    *before, stopped = counted.values()
    assert stopped.verdict == "decides"
    assert stopped.done
    assert not any(a.open for a in stopped.alternatives)
    for state in (*before, stopped):
        intervals = [anytime(a.hits, a.samples, 0.01) for a in state.alternatives]
        assert [a.interval for a in state.alternatives] == intervals
        assert state.verdict == decide(intervals, 0.3)
    assert all(s.verdict == "open" and s.alternatives[0].open for s in before)


def test_a_choice_without_consequence_is_the_same():
    model = chain({"Q": dict.fromkeys((" A", " B", " C", " D", " E"), 0.2)} | {w: {ONE: 1.0} for w in
                  (" A", " B", " C", " D", " E")})  # fmt: skip
    found = last(outcomes(model, solved(model), 0, OutcomeConfig(), known="1"))
    assert found.verdict == "same"
    assert all(a.share == 1.0 and a.interval[0] > 0.7 for a in found.alternatives)


@pytest.mark.parametrize("budget", [1, 9, 25, 60, 333, 2000])
def test_the_budget_is_never_exceeded_and_no_alternative_gets_more_samples_than_another(fork, budget):
    model, trace = fork
    found = last(outcomes(model, trace, 0, OutcomeConfig(samples=500, margin=0.001, budget=budget), known="2"))
    assert found.tokens_spent <= budget
    assert len({a.samples for a in found.alternatives}) == 1
    assert found.done
    assert sum(r.count for a in found.alternatives for r in a.answers) == 5 * found.alternatives[0].samples


def test_a_round_cut_short_by_the_budget_is_not_counted():
    """Rows that loop for long would be missing from it, and with them the answers that they reach."""
    model = chain({"Q": {" A": 0.6, " B": 0.4}, " A": {ONE: 1.0}, " B": {" B": 0.99, TWO: 0.01}})
    found = last(outcomes(model, solved(model), 0, OutcomeConfig(budget=100, alternatives=2), known="1"))
    assert found.tokens_spent > 50
    assert [a.samples for a in found.alternatives] == [0, 0]
    assert found.alternatives[0].message()["correct"] is None


@pytest.mark.parametrize("size", [3, *[pytest.param(size, marks=pytest.mark.long) for size in (1, 4, 5)]])
def test_the_size_of_a_round_changes_nothing(fork, mini, size):
    model, trace = fork
    problem = load_set("mini")[1]
    job = Job(mini.prompt_ids(problem.problem), Sampling(), 1.0, known=problem.answer)
    solution = Generation(mini, job).run()
    place = max(solution.forks(), key=lambda t: t.entropy).pos
    for m, t, pos in ((model, trace, 0), (mini, solution, place)):
        whole = last(outcomes(m, t, pos, OPEN, known=problem.answer))
        parts = last(outcomes(m, t, pos, OutcomeConfig(samples=8, margin=0.01, round_size=size), known=problem.answer))
        assert parts.alternatives == whole.alternatives
        assert parts.tokens_spent == whole.tokens_spent


def test_a_sample_is_a_function_of_seed_prefix_number_and_position(mini):
    trace = Generation(mini, Job(mini.prompt_ids(load_set("mini")[1].problem), Sampling(), 1.0)).run()
    pos = next(t.pos for t in trace.forks() if t.pos)
    config = OutcomeConfig(samples=2, seed=5, margin=0.01)
    found = last(outcomes(mini, trace, pos, config))
    spent = 0
    for alternative in found.alternatives:
        answers = []
        for sample in range(2):
            prefix = [*trace.prompt_ids, *trace.ids[:pos], alternative.id]
            stream, row, key = mini.engine.open(prefix), [alternative.id], prompt_key(prefix)
            rule, pieces = StopRule(), mini.detokenizer.stream()
            for token_id in (*trace.ids[:pos], alternative.id):
                rule.feed(pieces.feed(token_id))
            while row[-1] not in mini.stop_ids and not rule.over:
                row.append(draw(stream.logits, 1.0, 1.0, uniform(5, key, sample, pos + len(row))))
                rule.feed(pieces.feed(row[-1]))
                stream.feed(row[-1])
            spent += len(row)
            answers.append(mini.answer_text(row).rpartition("\\boxed{")[2].partition("}")[0])
        assert sorted(r.text for r in alternative.answers for _ in range(r.count)) == sorted(answers)
    assert found.tokens_spent == spent


def test_a_cancelled_round_is_not_counted_and_the_next_run_is_the_same(fork):
    model, trace = fork
    asked = 0

    def cancelled():
        nonlocal asked
        asked += 1
        return asked > 12

    stopped = last(outcomes(model, trace, 0, OutcomeConfig(samples=64, margin=0.001), known="1", cancelled=cancelled))
    assert stopped.done
    assert stopped.alternatives[0].samples in (0, 8, 16, 24)
    assert stopped.tokens_spent > 0
    assert model.engine.queue.waiting() == 0
    whole = list(outcomes(model, trace, 0, OutcomeConfig(samples=64, margin=0.001), known="1"))
    same = [s for s in whole if s.alternatives[0].samples == stopped.alternatives[0].samples]
    assert [a.answers for a in same[0].alternatives] == [a.answers for a in stopped.alternatives]


def test_others_get_their_turn_between_rounds_and_an_abandoned_job_holds_none(fork):
    model, trace = fork
    states = outcomes(model, trace, 0, OPEN, known="1")
    for _ in states:
        assert model.engine.queue.waiting() == 0  # nothing is slow enough here to be reported within a round
    running = outcomes(model, trace, 0, OPEN, known="1")
    next(running), next(running)
    running.close()
    with model.engine.queue.turn(0):
        pass


def test_a_round_is_one_batch_from_the_shared_prefix():
    model = chain(FORK)
    trace = solved(model)
    model.engine.model.rows.clear()
    last(outcomes(model, trace, 0, OPEN, known="1"))
    rows = model.engine.model.rows
    assert rows[0] == 1
    assert rows[1] == 4 * 8  # the end token needs no pass
    assert rows[1:] == sorted(rows[1:], reverse=True)


def test_without_a_known_answer_the_target_is_the_solution_s_own(fork):
    model, trace = fork
    found = last(outcomes(model, trace, 0, OPEN))
    assert found.target == Target("1", known=False)
    assert found.json()["target"] == {"text": "1", "known": False}


def test_without_any_answer_there_is_nothing_to_reach():
    model = chain({"Q": {" A": 0.6, " B": 0.4}})
    with pytest.raises(ProblemError, match="known answer"):
        next(outcomes(model, solved(model), 0, OPEN))


@pytest.mark.parametrize("pos", [-1, 99, True, 1.0, None])
def test_places_that_do_not_exist(fork, pos):
    with pytest.raises(SwapError, match="positions 0 to"):
        next(outcomes(*fork, pos, OPEN, known="1"))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"samples": 0}, "samples"),
        ({"round_size": 0}, "round_size must be a whole number, 1 or more; got 0"),
        ({"budget": 0}, "budget"),
        ({"temperature": 0.0}, "temperature must be a number above 0 and at most 10; got 0.0"),
        ({"temperature": -1.0}, "temperature must be a number above 0 and at most 10; got -1.0"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1; got 0.0"),
        ({"margin": 0.0}, "margin"),
        ({"margin": 1.0}, "margin"),
        ({"alternatives": 1}, "alternatives"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\^63 - 1; got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number, 1 or more; got 0"),
    ],
)
def test_settings_out_of_range_are_explained(bad, said):
    with pytest.raises(RmxError, match=said):
        OutcomeConfig(**bad)


def test_what_the_page_is_told(fork):
    model, trace = fork
    messages = [s.message() for s in outcomes(model, trace, 0, OPEN, known="1")]
    json.dumps(messages, allow_nan=False)
    assert [m["done"] for m in messages] == [False] * (len(messages) - 1) + [True]
    told = messages[-1]
    assert {"kind", "pos", "done", "target", "alternatives", "tokens_spent", "budget", "verdict", "rule"} <= set(told)
    assert told["kind"] == "outcomes"
    assert messages[0]["alternatives"][0] | {"p": 0.3} == {
        "id": trace.tokens[0].id, "text": " A", "p": 0.3, "chosen": True, "samples": 0, "correct": None,
        "wilson": {"value": None, "low": 0.0, "high": 1.0, "n": 0}, "answers": [], "open": True,
    }  # fmt: skip
    assert told["alternatives"][2]["answers"] == [["2", 8, False]]
    assert told["alternatives"][4]["answers"] == [[None, 8, False]]
    assert told["alternatives"][0]["correct"]["n"] == 8


# -- answers that say the same ----------------------------------------------------------------------------------------


def test_writings_of_one_answer_are_put_together_right_and_wrong_ones_never():
    counts = {"1/2": 3, "0.5": 5, "\\frac{1}{2}": 1, "50%": 2, "7": 1, None: 4}
    hit = Target("50%", True).hit
    stands_for = same_answers(counts, hit)
    assert stands_for["1/2"] == stands_for["\\frac{1}{2}"] == "0.5"
    found = reached(counts, stands_for, hit)
    assert [(r.text, r.count) for r in found][0][0] == "0.5"
    assert sum(r.count for r in found) == sum(counts.values())
    assert all(hit(text) == hit(stands_for[text]) for text in counts)


def test_the_order_of_arrival_makes_no_difference():
    counts = [("1.0", 2), ("1", 2), ("01", 1), ("2", 1)]
    both = [same_answers(dict(order), lambda _: False) for order in (counts, counts[::-1])]
    assert both[0] == both[1]
    assert both[0]["1.0"] == "1"


# -- importance -------------------------------------------------------------------------------------------------------

TWO_FORKS = {
    "Q": dict.fromkeys((" a", " b", " c", " d", " e"), 0.2),
    **{w: {" go.": 1.0} for w in (" a", " b", " c", " d", " e")},
    " go.": {" A": 0.4, " B": 0.3, " C": 0.1, " D": 0.1, " E": 0.1},
    " A": {ONE: 1.0},
    **{w: {TWO: 1.0} for w in (" B", " C", " D", " E")},
}


def test_spread_by_hand():
    assert spread([0.4, 0.6], [1.0, 0.0]) == pytest.approx(0.48)
    assert spread([0.5, 0.5], [1.0, 0.0]) == 0.5
    assert spread([0.999, 0.001], [1.0, 0.0]) == pytest.approx(2 * 0.999 * 0.001)
    assert spread([0.2, 0.3, 0.5], [0.7, 0.7, 0.7]) == pytest.approx(0.0)


def test_its_bounds_hold_whatever_lies_in_the_intervals():
    rng = random.Random(0)
    for _ in range(60):
        weights = [rng.random() for _ in range(4)]
        weights = [w / sum(weights) for w in weights]
        boxes = [tuple(sorted((rng.random(), rng.random()))) for _ in range(4)]
        low, high = spread_bounds(weights, boxes)
        found = [spread(weights, [rng.uniform(*box) for box in boxes]) for _ in range(300)]
        assert low - 1e-12 <= min(found)
        assert max(found) <= high + 1e-12
        shared = max(a for a, _ in boxes) <= min(b for _, b in boxes)
        assert (low < 1e-12) == shared


def test_the_curve_finds_where_it_was_decided():
    model = chain(TWO_FORKS)
    trace = solved(model, "1")
    states = list(importance(model, trace, OutcomeConfig(samples=200, margin=0.01), known="1"))
    found = states[-1]
    harmless, decisive = found.points
    assert (found.at, found.of, found.done) == (2, 2, True)
    assert (harmless.pos, decisive.pos) == (0, 2)
    assert decisive.interval[0] <= 0.48 <= decisive.interval[1]
    assert decisive.value == pytest.approx(0.48)  # A is always right and the others never, whatever the samples
    assert decisive.decides
    assert harmless.interval[0] == 0.0
    assert harmless.value < 0.15
    assert decisive.correct == pytest.approx(0.4)
    assert found.answers[:2] == ("2", "1")
    for point in found.points:
        assert sum(point.shares) == pytest.approx(1.0)
    assert dict(zip(found.answers, decisive.shares, strict=False)) == pytest.approx({"1": 0.4, "2": 0.6})
    assert [(s.start, s.end, s.forks) for s in found.sentences] == [(0, 2, 1), (2, 4, 1)]
    assert found.sentences[1].importance == pytest.approx(0.48)
    json.dumps([s.message() for s in states], allow_nan=False)


def test_every_fork_gets_its_part_of_the_budget():
    model = chain(TWO_FORKS)
    config = OutcomeConfig(samples=500, margin=0.001, budget=600)
    found = last(importance(model, solved(model), config, known="1"))
    assert found.tokens_spent <= 600
    assert all(o.alternatives[0].samples > 0 for o in found.forks)


def test_only_the_strongest_forks_are_sampled_where_there_are_too_many():
    model = chain(TWO_FORKS)
    found = last(importance(model, solved(model), OPEN, known="1", forks=1))
    assert [p.pos for p in found.points] == [0]  # 1.61 nats against 1.42


def test_a_solution_without_forks_is_refused():
    model = chain({"Q": {ONE: 1.0}})
    with pytest.raises(RmxError, match="Lower the threshold"):
        next(importance(model, solved(model), OPEN, known="1"))


# -- the command line -------------------------------------------------------------------------------------------------


def run(capsys, *argv):
    try:
        code = main(argv)
    except SystemExit as error:
        code = int(error.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_document_of_one_place(capsys):
    code, out, err = run(capsys, "outcomes", "--problem", "0", "--pos", "0", "--samples", "8", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {"model", "adapter", "seed", "pos", "target", "alternatives", "tokens_spent", "verdict", "rule"} <= set(
        found
    )
    assert len(found["alternatives"]) == 5
    for a in found["alternatives"]:
        assert {"id", "text", "p", "samples", "correct", "answers", "wilson"} <= set(a)
        assert {"value", "low", "high", "n"} == set(a["correct"])
        assert sum(a["answers"].values()) == a["samples"] == 8
    assert "8 samples each" in err
    assert found["known"] == load_set("mini")[0].answer


def test_the_document_of_all_forks(capsys):
    argv = ["outcomes", "--problem", "0", "--samples", "2", "--forks", "2", "--json"]
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    found = json.loads(out)
    assert len(found["points"]) == found["at"] == found["of"] == 2
    assert {"answers", "sentences", "forks", "tokens_spent", "rule"} <= set(found)
    assert run(capsys, *argv)[1] == out


def test_plain_output_and_mistakes(capsys):
    code, out, _ = run(capsys, "outcomes", "--problem", "0", "--pos", "0", "--samples", "2", "--budget", "3000")
    assert code == 0
    assert "' First'" in out
    code, out, _ = run(capsys, "outcomes", "--problem", "0", "--samples", "1", "--forks", "1")
    assert code == 0
    assert "importance" in out
    for argv, said in [
        (["--problem", "0", "--pos", "9999"], "no token at position 9999"),
        (["--problem", "0", "--temperature", "0"], "above 0"),
        (["--problem", "0", "--samples", "0"], "samples"),
        (["--problem", "0", "--forks", "0"], "--forks"),
        (["--problem", "0", "--tau", "9"], "Lower the threshold"),
        (["--problem", "0", "--answer", "7"], "brings its own answer"),
        ([], "exactly one"),
    ]:
        code, out, err = run(capsys, "outcomes", *argv)
        assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
        assert said in err


@pytest.mark.real
@pytest.mark.long
def test_outcomes_of_a_real_model(smol, capsys, monkeypatch):
    monkeypatch.setattr("rmx.models.workspace.Workspace.model", lambda self, spec: smol)
    argv = ["outcomes", "--problem", "0", "--set", "arith", "--pos", "8", "--samples", "2", "--max-new-tokens", "24"]
    code, out, err = run(capsys, *argv, "--json")
    assert code == 0, err
    assert all(a["samples"] == 2 for a in json.loads(out)["alternatives"])
