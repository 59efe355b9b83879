"""The answer so far: one masked batch against cold runs one by one; sentences; the mode."""

import json

import pytest
import torch

from rmx.arguments import Sampling
from rmx.cli.main import main
from rmx.data.problem_sets import load_set
from rmx.engine.batch import continue_prefixes
from rmx.explore.generate import Generation, Job, read_job
from rmx.explore.greedy_answers import _mode, sentences, sofar
from rmx.models.stand_ins import scripted_model
from tests.helpers.chain import chain, solved

SOLUTION = " First, the facts are 8, 12, 5. We add 8 and 12: 8 + 12 = 20. Then we subtract 5 from 20: 20 - 5 = 15."


def alone(engine, prefix, given, max_new, ends=frozenset()):
    """What a cold run of one beginning says."""
    stream = engine.open([*prefix, *given], reuse=False)
    row = []
    while len(row) < max_new:
        row.append(int(stream.logits.argmax()))
        if row[-1] in ends:
            break
        stream.feed(row[-1])
    return row


def same_as_alone(model, ids, lengths, given, max_new=12, ends=frozenset()):
    engine = model.engine
    with engine.queue.turn(), engine.using(None):
        got = continue_prefixes(
            engine, ids, lengths, given, max_new=max_new, over=lambda row, token: token in ends
        )  # fmt: skip
        wanted = [alone(engine, ids[:n], given, max_new, ends) for n in lengths]
    assert got == wanted
    return got


def test_one_batch_says_what_cold_runs_say_on_mini(mini):
    ids = [*mini.prompt_ids(load_set("mini")[2].problem), *mini.encode(SOLUTION)]
    lengths = [len(ids), 12, len(ids) - 20, 30, 31]
    rows = same_as_alone(mini, ids, lengths, mini.encode(mini.style.concluding), ends=mini.stop_ids)
    assert len({tuple(r) for r in rows}) > 2


@pytest.mark.parametrize("given", [[7], [7, 8, 9]])
def test_one_batch_says_what_cold_runs_say_on_random_weights(tiny, given):
    ids = torch.randint(0, 256, (60,), generator=torch.Generator().manual_seed(2)).tolist()
    first = same_as_alone(tiny, ids, [60, 5, 17, 1, 42], given)
    ends = frozenset(row[3] for row in first[:2])
    rows = same_as_alone(tiny, ids, [60, 5, 17, 1, 42], given, ends=ends)
    assert len({len(r) for r in rows}) > 1  # rows left the batch at different steps


def test_windows_that_slide_are_decoded_one_by_one(sliding):
    ids = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(2)).tolist()
    same_as_alone(sliding, ids, [40, 9, 25], [7, 8])


def test_networks_that_take_no_mask_are_decoded_one_by_one():
    model = scripted_model()
    same_as_alone(model, [260, 261, 262, 263, 264, 265], [6, 2, 4], [270, 271])


def test_nothing_is_decoded_where_the_context_ends(tiny):
    ids = [5] * 255
    with tiny.engine.queue.turn():
        rows = continue_prefixes(tiny.engine, ids, [255, 250, 100], [7, 8], max_new=12, over=lambda r, t: False)
    assert [len(r) for r in rows] == [0, 4, 12]


def test_a_cancelled_batch_ends_at_once(tiny):
    with tiny.engine.queue.turn():
        rows = continue_prefixes(
            tiny.engine, [5] * 30, [9, 20], [7], max_new=12, over=lambda r, t: False, cancelled=lambda: True
        )
    assert rows == [[], []]


def read(model, text, known=None, index=2):
    job = read_job(model, model.prompt_ids(load_set("mini")[index].problem), text, model.tau, known)
    return Generation(model, job).run()


def test_the_curve_of_a_solution_of_mini(mini):
    trace = read(mini, SOLUTION + " So the answer is \\boxed{15}.")
    *_, found = sofar(mini, trace, known="15")
    assert [trace.text[: sum(len(t.text) for t in trace.tokens[: p.pos + 1])][-3:] for p in found.points] == [
        " 5.", "20.", "15.", "5}.",
    ]  # fmt: skip
    assert [p.answer.text for p in found.points[1:]] == ["20", "15", "15"]
    assert [p.answer.correct for p in found.points[1:]] == [False, True, True]
    assert [p.forced for p in found.points] == [True, True, True, False]
    assert (found.mode.text, found.mode.correct, found.share) == ("15", True, 0.5)
    assert found.done
    forced = mini.encode(" So the answer is \\boxed{")
    for point in found.points[:3]:
        prefix = [*trace.prompt_ids, *trace.ids[: point.pos + 1]]
        row = alone(mini.engine, prefix, forced, 8)
        assert mini.detokenizer.text(row).startswith(point.answer.text + "}")


def test_without_a_known_answer_nothing_is_graded(mini):
    *_, found = sofar(mini, read(mini, SOLUTION))
    assert {p.answer.correct for p in found.points} == {None}
    assert found.mode.correct is None


def test_braces_inside_the_answer_and_answers_that_never_end():
    nested = {" go.": {" go.": 1.0}, "{": {"\\frac{": 1.0}, "\\frac{": {"1": 1.0}, "1": {"}": 1.0}, "}": {"{2": 1.0}}
    nested |= {"{2": {"}}": 1.0}, "}}": {"}": 1.0}}
    model = chain({"Q": {" go.": 1.0}, **nested})
    *_, found = sofar(model, solved(model, max_new=3))
    assert found.points[0].answer.text == "\\frac{1}{2}"
    endless = chain({"Q": {" go.": 1.0}, " go.": {" go.": 1.0}, "{": {"9": 1.0}, "9": {"9": 1.0}})
    *_, found = sofar(endless, solved(endless, max_new=3))
    assert found.points[0].answer.text is None
    assert (found.mode.text, found.share) == (None, 0.0)


def test_an_open_think_block_is_closed_before_the_answer():
    model = chain(
        {"Q": {"<think>": 1.0}, "<think>": {" hm.": 1.0}, " hm.": {" hm.": 1.0}, "{": {"4": 1.0}, "4": {"}": 1.0}}
    )
    *_, found = sofar(model, solved(model, max_new=4), known="4")
    assert [p.answer.correct for p in found.points] == [True] * 3


def test_a_cancelled_job_says_what_it_has(mini):
    states = list(sofar(mini, read(mini, SOLUTION), cancelled=lambda: True))
    assert states[-1].done
    assert states[-1].points == ()
    assert states[-1].share is None
    assert mini.engine.queue.waiting() == 0


def test_long_solutions_take_several_batches_and_say_the_same(mini, monkeypatch):
    trace = read(mini, SOLUTION)
    *_, whole = sofar(mini, trace, known="15")
    monkeypatch.setattr("rmx.explore.greedy_answers.POSITIONS", 1)
    states = list(sofar(mini, trace, known="15"))
    assert [len(s.points) for s in states] == [0, 1, 2, 3, 3]
    assert states[-1].points == whole.points
    json.dumps([s.message() for s in states], allow_nan=False)
    assert {"kind", "done", "points", "mode"} <= set(states[-1].message())


def test_the_mode_is_the_most_frequent_answer_whatever_its_writing():
    assert _mode(["1/2", "7", "0.5", None]) == ("0.5", 0.5)
    assert _mode(["7", "8"]) == ("7", 0.5)
    assert _mode([]) == (None, None)


# -- sentences --------------------------------------------------------------------------------------------------------


def cut(*texts):
    found = sentences(texts)
    assert "".join(s.text for s in found) == "".join(texts)
    assert [i for s in found for i in range(s.start, s.end)] == list(range(len(texts)))
    return [s.text for s in found]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], []),
        (["no end"], ["no end"]),
        (["One", ".", " Two", "!"], ["One.", " Two!"]),
        (["It is", " 3", ".", "5", " cm", ".", " Yes"], ["It is 3.5 cm.", " Yes"]),
        (["1", ".", " First", ".", "\n", "2", ".", " Then"], ["1. First.\n", "2. Then"]),
        (["So", " 12", ".", " And"], ["So 12.", " And"]),  # a number at the end of a sentence ends it
        (["Hi", ".", "\n\n", " ", "No"], ["Hi.\n\n ", "No"]),
        (["a", "\n", "b"], ["a\n", "b"]),
        (["Why", "?)", " So"], ["Why?)", " So"]),
        (["a.", "", "é", " b"], ["a.é b"]),  # "" is half a character
        (["It is \\boxed{4}.", " End"], ["It is \\boxed{4}.", " End"]),
        (["a. b", " c"], ["a. b", " c"]),  # a token that holds an end is the last of its sentence
    ],
)
def test_where_sentences_end(texts, found):
    assert cut(*texts) == found


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_document(capsys):
    assert main(["sofar", "--problem", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["points"][-1]["answer"] == found["answer"]["text"]
    assert {"pos", "answer", "correct", "forced"} == set(found["points"][0])
    assert found["mode"]["share"] == 0.5
    assert main(["sofar", "--problem", "2"]) == 0
    assert "most frequent" in capsys.readouterr().out
    assert main(["sofar", "   "]) == 2


@pytest.mark.slow
@pytest.mark.real
def test_the_answer_so_far_of_a_real_model(smol):
    problem = load_set("arith")[0]
    trace = Generation(smol, Job(smol.prompt_ids(problem.problem), Sampling(max_new_tokens=60), 1.4)).run()
    *_, found = sofar(smol, trace, known=problem.answer)
    assert found.points
    given = smol.encode(smol.style.concluding)
    forced = [p for p in found.points if p.forced]
    for point in forced:
        row = alone(smol.engine, [*trace.prompt_ids, *trace.ids[: point.pos + 1]], given, 8)
        said = smol.detokenizer.text(row)
        assert point.answer.text is None or said.startswith(point.answer.text[:8])
