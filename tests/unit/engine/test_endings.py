"""How completions end, in every decoder: a stop text ends them everywhere, and what a limit has cut off is wrong."""

from dataclasses import replace
from typing import Any

import pytest

from rmx.arguments import Sampling
from rmx.compare.intervene import Intervention, PatchJob
from rmx.compare.intervene_set import InterveneSet
from rmx.compare.shift_map import MapJob, ShiftMap
from rmx.compare.shift_set import greedy_ids
from rmx.data.problem_sets import load_set
from rmx.errors import ProblemError
from rmx.evaluate.eval_report import EvalConfig, EvalReport, contestants_of
from rmx.evaluate.evaluation import Evaluation
from rmx.evaluate.sample_store import SampleStore
from rmx.explore.flip_rates import answers_after
from rmx.explore.generate import Generation, Job
from rmx.explore.outcomes import OutcomeConfig, Outcomes, outcomes
from rmx.explore.rescue import RescueConfig, Search
from rmx.grading.answers import StopRule, before_stop, grade, target_of
from rmx.models.load import Model
from rmx.models.model_pair import Pair
from rmx.models.stopping import Ending, is_cut
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Answer, Problem, Trace
from rmx.runs.recipe import RolloutConfig
from rmx.train.heldout import solve
from rmx.train.rollouts import sample_rollouts
from tests.helpers.chain import END, chain, solved

PROBLEM = load_set("mini:test")[0]
STOP = " So"  # a word that stands in mini's solutions before their answers
STOPPED = StyleOptions(stops=(STOP,))


def trace_of(model: Model, problem: Problem = PROBLEM, max_new: int = 160, adapter: str | None = None) -> Trace:
    sampling = Sampling(max_new_tokens=max_new)
    job = Job(model.prompt_ids(problem.problem), sampling, model.tau, adapter, known=problem.answer)
    return Generation(model, job).run()


@pytest.fixture
def stopping(mini) -> Model:
    """Mini, with a stop text that its solution of PROBLEM holds."""
    whole = trace_of(mini)
    assert STOP in whole.text
    return mini.ask_in(STOPPED)


# -- the rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stops", "ending", "seen"),
    [
        ("It is 5. Human: next", ("Human:",), "stop_sequence", "It is 5. Human:"),
        ("It is \\boxed{5}\nHuman:", ("Human:",), "answer", "It is \\boxed{5}\n"),
        ("<think>Human:", ("Human:",), "stop_sequence", "<think>Human:"),
        ("a\n\nb", ("\n\n",), "stop_sequence", "a\n\n"),
        ("aHumHuman:", ("Human:", "x"), "stop_sequence", "aHumHuman:"),
        ("abx", ("x",), "stop_sequence", "abx"),
        ("nothing of it", ("Human:",), None, "nothing of it"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stop_text_ends_a_completion_wherever_pieces_split(text, stops, ending, seen, size) -> None:
    rule, fed = StopRule(stops=stops), ""
    for start in range(0, len(text), size):
        fed += text[start : start + size]
        if rule.feed(text[start : start + size]):
            break
    assert rule.ending == ending
    assert len(fed) - len(seen) < size
    assert fed.startswith(seen)


def test_without_answers_only_a_stop_text_ends() -> None:
    rule = StopRule(stops=("Human:",), answers=False)
    assert not rule.feed("\\boxed{5}\n#### 5\n")
    assert rule.feed("Human:")
    assert rule.ending == "stop_sequence"


def test_what_stands_behind_a_stop_text_is_no_answer(tiny) -> None:
    assert before_stop("It is 5. Human: and 7? It is 9. Human:", ("Human:", "Q")) == "It is 5. "
    model = tiny.ask_in(StyleOptions(stops=("Human:",)))
    assert model.grade((1,), model.encode("It is 5. Human: 9"), "5", cut=False) == Answer("5", True)


def test_grade_of_what_was_cut_off() -> None:
    assert grade("It is \\boxed{5}", "5", cut=True) == Answer("5", False)
    assert grade("It is 5", None, cut=True) == Answer("5", None)


# -- stop texts in every decoder ------------------------------------------------------------------------------------


def test_a_trace_ends(stopping) -> None:
    trace = trace_of(stopping)
    assert trace.stop == "stop_sequence"
    assert trace.text.endswith(STOP)
    assert trace.text.count(STOP) == 1
    assert trace.style.stops == (STOP,)


def test_all_decoders_end_where_a_trace_ends(stopping, rl) -> None:
    wanted = trace_of(stopping).ids
    prompt = stopping.prompt_ids(PROBLEM.problem)
    with stopping.engine.queue.turn():
        assert greedy_ids(stopping, prompt, None, 160) == wanted
        found = solve(stopping, [PROBLEM], None, 160)
    assert list(found.each[0].ids) == wanted
    assert not found.each[0].truncated
    base = rl.base.ask_in(STOPPED)
    pair = Pair(base, base, rl.adapter)
    mapped = ShiftMap(pair, MapJob(prompt, Sampling(max_new_tokens=160), 1.0)).run()
    assert (mapped.ids, mapped.stop) == (wanted, "stop_sequence")
    patched = Intervention(pair, PatchJob(prompt, "base", 1.0, PROBLEM.answer, None, (), 0, 160)).run()
    assert (patched.ids, patched.stop) == (wanted, "stop_sequence")


def test_rollouts_end(stopping) -> None:
    config = RolloutConfig(k=4, temperature=1.0, top_p=1.0, max_new_tokens=160)
    rollouts = list(sample_rollouts(stopping, [PROBLEM], config, 0, {}))
    ended = [r for r in rollouts if r.stop == "stop_sequence"]
    assert ended
    for r in rollouts:
        text = stopping.answer_text(r.completion_ids)
        assert text.endswith(STOP) == (r in ended)
        assert STOP not in text.removesuffix(STOP)


@pytest.mark.slow
def test_an_evaluation_ends_and_keeps_such_completions_apart(tmp_path) -> None:
    config = EvalConfig(n=2, temperature=1.0, top_p=1.0, max_new_tokens=96)
    store = SampleStore(tmp_path)

    def evaluated(style: StyleOptions) -> EvalReport:
        contestants = contestants_of(Workspace("cpu"), "mini", style=style)
        *_, report = Evaluation(contestants, [PROBLEM], config, "mini:test", store=store).run()
        return report

    first, other = evaluated(StyleOptions()), evaluated(STOPPED)
    assert other.cached == 0
    assert other.solved[0].by["base"].greedy.stop == "stop_sequence"
    assert other.solved[0].by["base"].greedy.length < first.solved[0].by["base"].greedy.length
    assert evaluated(StyleOptions()).cached == evaluated(STOPPED).cached == 3
    assert evaluated(StyleOptions(answers="boxed")).cached == 0  # what counts as an answer is another there


def test_branches_of_a_batch_end(mini) -> None:
    trace = trace_of(mini)
    token = next(t for t in trace.tokens if t.entropy > mini.tau)
    job = Job(trace.prompt_ids, Sampling(max_new_tokens=160), 1.0, known=PROBLEM.answer)
    others = [c.id for c in token.top[:5] if c.id != token.id]
    stopped = mini.ask_in(StyleOptions(stops=(" the answer",)))
    texts = [text for text, _ in answers_after(stopped, job, trace.ids, token, others, 160)]
    assert any(" the answer" in text for text, _ in answers_after(mini, job, trace.ids, token, others, 160))
    assert all(text.partition(" the answer")[2] == "" for text in texts)


def test_a_row_says_how_it_ended(tiny) -> None:
    model = tiny.ask_in(StyleOptions(stops=("Human:",)))
    ending = Ending(model, (1,), (), 3)
    for row, text, how in ((0, "5 Human:", "stop_sequence"), (1, "\\boxed{5}\n", "answer")):
        *before, last = [ending.ended_by(row, token) for token in model.encode(text)]
        assert before == [None] * len(before)
        assert last == how
    assert ending.ended_by(2, 256) == "eos"


# -- cut off is wrong -----------------------------------------------------------------------------------------------


def limit_before_the_end(trace: Trace) -> int:
    """So many tokens that the right number stands there already, and nothing has ended the solution."""
    return len(trace.tokens) - 2


@pytest.fixture(scope="module")
def right(mini) -> Problem:
    """A problem that mini solves."""
    return next(p for p in load_set("mini:test") if trace_of(mini, p).answer.correct)


def test_a_trace_that_was_cut_off(mini, right) -> None:
    whole = trace_of(mini, right)
    limit = next(n for n in range(1, len(whole.tokens)) if grade(mini.answer_text(whole.ids[:n]), right.answer).correct)
    cut = trace_of(mini, right, limit)
    assert cut.stop == "length"
    assert cut.answer == Answer(cut.answer.text, False)
    assert grade(mini.answer_text(cut.ids), right.answer).correct  # a number that fits does stand there
    assert is_cut(mini, cut.prompt_ids, cut.ids)
    assert not is_cut(mini, whole.prompt_ids, whole.ids)
    assert Generation(mini, Job(cut.prompt_ids, Sampling(max_new_tokens=limit), 1.0)).run().answer.correct is None


def test_a_context_that_ends_cuts_off_too() -> None:
    model = chain({"Q": {" 7": 1.0}, " 7": {" 7": 1.0}})
    trace = solved(model, "7", max_new=1000)
    assert trace.stop == "context"
    assert trace.answer == Answer("7", False)


@pytest.fixture
def cutting(mini, right) -> int:
    """The least limit under which the right number stands in mini's solution of the problem."""
    ids = trace_of(mini, right).ids
    return next(n for n in range(1, len(ids)) if grade(mini.answer_text(ids[:n]), right.answer).correct)


def test_a_greedy_solution_of_a_check(mini, right, cutting) -> None:
    with mini.engine.queue.turn():
        found = solve(mini, [right], None, cutting)
    assert (found.right, found.truncated) == ([False], 1)
    assert found.unparsed == 0  # a number stands there, though it is none that counts


def test_a_rollout_gets_no_reward(mini, right, cutting) -> None:
    config = RolloutConfig(k=20, temperature=0.3, top_p=0.5, max_new_tokens=cutting)
    rollouts = list(sample_rollouts(mini, [right], config, 0, {}))
    cut = [r for r in rollouts if r.stop == "length"]
    assert any(grade(mini.answer_text(r.completion_ids), right.answer).correct for r in cut)
    assert not any(r.correct for r in cut)


def test_an_evaluation(right, cutting) -> None:
    config = EvalConfig(n=6, temperature=0.3, top_p=0.5, max_new_tokens=cutting)
    *_, report = Evaluation(contestants_of(Workspace("cpu"), "mini"), [right], config, "mini:test").run()
    one = report.solved[0].by["base"]
    assert one.greedy.truncated
    assert one.greedy.answer == right.answer
    assert not one.greedy_right
    assert [r and t for r, t in zip(one.right, one.truncated, strict=True)] == [False] * 6
    assert all(vote == -1 for vote, t in zip(one.votes, one.truncated, strict=True) if t)
    found: dict[str, Any] = report.json()["models"][0]
    assert found["truncated"]["greedy"] == 1
    assert found["unparsed"]["greedy"] == 0  # as ever: those in which no answer stands


def test_an_intervention(rl, right, cutting) -> None:
    *_, report = InterveneSet(rl, "mini", [right], ("base",), 1.0, max_new=cutting, with_placebo=False)
    result = report.problems[0].results["base"]
    assert (result.stop, result.answer.text, result.answer.correct) == ("length", right.answer, False)
    assert report.arm("base")["truncated"] == 1


def test_a_map(rl, right, cutting) -> None:
    prompt = rl.base.prompt_ids(right.problem)
    found = ShiftMap(rl, MapJob(prompt, Sampling(max_new_tokens=cutting), 1.0, known=right.answer)).run()
    assert (found.stop, found.answer.correct) == ("length", False)


LOOPING = {"Q": {" 7": 0.6, " 8": 0.4}, " 7": {" 7": 1.0}, " 8": {END: 1.0}}


def test_samples_that_are_cut_off_reach_no_answer() -> None:
    model = chain(LOOPING)
    trace = solved(model, "7", max_new=5)
    *_, state = outcomes(model, trace, 0, OutcomeConfig(samples=8, max_new_tokens=5), known="7")
    assert isinstance(state, Outcomes)
    seven, eight = state.alternatives[:2]
    assert (seven.text, seven.hits) == (" 7", 0)
    assert [a.text for a in seven.answers] == [None]
    assert [a.text for a in eight.answers] == ["8"]
    with pytest.raises(ProblemError, match="reached no answer"):
        target_of(trace, None)


def test_a_branch_that_is_cut_off_rescues_nothing() -> None:
    model = chain(LOOPING)
    trace = solved(model, "8", max_new=5)
    search = Search(model, trace, RescueConfig(max_new_tokens=5), "wrong", "8", lambda: False)
    assert not search.does_it(trace.ids)
    assert replace(search, goal="right").does_it([*model.encode(" 8"), 256])
