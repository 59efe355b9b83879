"""What the Evaluate tab may ask for and is told: forms, files, jobs that survive a reload, nonsense, exports."""

import csv
import io
import json
import re
import time

import gradio as gr
import pytest

from rmx.data.problem_sets import load_set
from rmx.errors import Busy, ProblemError, RmxError
from rmx.models.workspace import Workspace
from rmx.runs.store import RunStore
from rmx.ui.jobs.evaluator import FILE_BYTES, GRACE, OWN, EvalJob, Evaluator
from rmx.ui.jobs.page_jobs import EVALUATIONS, RECORDED, OpenPages
from rmx.ui.tabs.form_parts import StreamTab

FORM = {
    "model": "mini", "adapters": ["rl"], "set": "mini:test", "limit": 4, "n": 2, "temperature": 0.6, "top_p": 0.95,
    "seed": 0, "max_new_tokens": 64, "most": 512,
}  # fmt: skip


class Report:
    """Quacks like a report of the library."""

    def __init__(self, solved: int, of: int = 4, cached: int = 0, names: tuple[str, ...] = ("base", "rl")) -> None:
        self.at, self.of, self.cached, self.done, self.seconds = solved, of, cached, solved == of, 2.0 * solved
        rows = [p.id for p in load_set("mini")[:solved]]
        of_models = {"base": (False, 1), "rl": (True, 2)}
        self.said = {
            "set": "mini:test", "problems": solved, "samples": 2, "k": [1, 2], "at": solved, "of": of,
            "done": self.done, "seconds": self.seconds, "cached": cached,
            "models": [{"name": n, "pass@k": {"1": estimate(0.5), "2": estimate(0.7)}} for n in names],
            "parts": [{"name": "p", "models": [{"name": "base", "pass@k": {"1": estimate(0.1)}}]}],
            "per_problem": [
                {"id": i, "problem": f"about {i}", "answer": "7", "part": "p" if k % 2 else "q", "cluster": None,
                 "models": {n: {"greedy": {"answer": "7", "correct": ok, "truncated": False}, "right": right,
                                "samples": 2, "truncated": 0, "unparsed": 0} for n, (ok, right) in of_models.items()}}
                for k, i in enumerate(rows)
            ],
        }  # fmt: skip

    def json(self) -> dict:
        return self.said


def estimate(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 4}


@pytest.fixture(scope="module")
def space():
    workspace = Workspace("cpu")
    workspace.model("mini")
    return workspace


@pytest.fixture
def evaluator(space, tmp_path):
    return Evaluator(space, RunStore(tmp_path), lambda job, problems: map(Report, (1, 2, 4)))


def test_the_recorded_example_is_a_job_that_is_over(evaluator):
    message = evaluator.tail({"id": RECORDED})
    assert (message["state"], message["recorded"], message["rows"]) == ("done", True, [])
    assert [model["name"] for model in message["report"]["models"]] == ["base", "rl", "reasonmaxxer"]
    assert {pair["greedy"]["verdict"] for pair in message["report"]["paired"]} == {"better"}
    assert message["command"].startswith("rmx eval --model mini --adapter rl --adapter reasonmaxxer --set mini:test")
    assert json.loads(evaluator.export({"id": RECORDED, "format": "json"})["text"])["samples"] == 64
    with pytest.raises(RmxError, match="no longer in memory"):  # nothing of it opens elsewhere, and nobody stops it
        evaluator.opened({"id": RECORDED, "problem": "mini-test-0000", "name": "rl"})
    assert not evaluator.tail({"id": finished(evaluator).id})["recorded"]


def finished(evaluator: Evaluator, **form) -> EvalJob:
    job = evaluator.start(evaluator.asked(FORM | form, paths=True))
    wait(lambda: job.done)
    return job


def wait(happened, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.01)


# -- the form ---------------------------------------------------------------------------------------------------------


def test_a_form_becomes_what_is_asked_and_its_command(evaluator):
    asked = evaluator.asked(FORM | {"adapters": ["rl", " rl ", "", "base", "my run's"]})
    assert asked.adapters == ("rl", "my run's")
    assert asked.samples == 4 * 3 * 3
    assert asked.command() == (
        "rmx eval --model mini --adapter rl --adapter 'my run'\"'\"'s' --set mini:test --limit 4 --n 2 "
        "--max-new-tokens 64 --json"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n": 3.5}, "whole number between 0 and 256"),
        ({"n": 257}, "whole number between 0 and 256"),
        ({"n": None}, "whole number between 0 and 256"),
        ({"n": True}, "whole number between 0 and 256"),
        ({"limit": 0}, "between 1 and 5,000"),
        ({"limit": float("nan")}, "between 1 and 5,000"),
        ({"limit": "ten"}, "between 1 and 5,000"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"temperature": float("inf")}, "temperature must lie between 0 and 2"),
        ({"temperature": 0}, "At temperature 0 all samples are the same"),
        ({"top_p": 0}, "top-p must lie between"),
        ({"max_new_tokens": 513}, "most tokens must be a whole number between 1 and 512"),
        ({"set": ""}, "Choose a problem set"),
        ({"set": "nonsense"}, "no problem set 'nonsense'"),
        ({"set": "mini:all"}, "no 'all' split"),
        ({"set": OWN}, "Choose a .jsonl or .csv file"),
        ({"set": OWN, "file": {"file": "guessed"}}, "Choose a .jsonl or .csv file"),
        ({"set": OWN, "file": ["x"]}, "Choose a .jsonl or .csv file"),
        ({"adapters": list("abcdef")}, "At most 5 adapters"),
    ],
)
def test_nonsense_is_one_sentence(evaluator, change, sentence):
    with pytest.raises(RmxError, match=sentence):
        evaluator.asked(FORM | change)


def test_only_who_may_names_a_file_of_the_machine(evaluator, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(ProblemError, match="There is no problem set"):
        evaluator.asked(FORM | {"set": str(path)})
    assert evaluator.asked(FORM | {"set": str(path)}, paths=True).set_name == str(path)


def test_greedy_alone_needs_no_temperature(evaluator):
    assert evaluator.asked(FORM | {"n": 0, "temperature": 0}).samples == 4 * 2


def test_what_can_be_compared(evaluator, space, tmp_path):
    assert [spec for _, spec in evaluator.contestants("mini")] == ["reasonmaxxer", "rl"]
    assert evaluator.contestants("somebody/else") == []


# -- own files --------------------------------------------------------------------------------------------------------


def test_an_own_file_is_known_by_an_id_only_its_page_has(evaluator):
    text = '{"problem": "1 + 1?", "answer": "2"}\n{"question": "2 + 2?"}\n'
    reply = evaluator.take_file({"name": "C:\\fakepath\\mine.jsonl", "text": text})
    assert (reply["name"], reply["problems"], reply["answers"]) == ("mine.jsonl", 2, 1)
    asked = evaluator.asked(FORM | {"set": OWN, "file": reply, "limit": 1})
    assert (asked.set_name, [p.answer for p in asked.own]) == ("mine.jsonl", ["2", None])
    assert asked.samples == 6
    again = evaluator.take_file({"name": "mine.jsonl", "text": text})
    assert again["file"] != reply["file"]
    assert len(again["file"]) >= 20


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "."),
        ({"name": "a.jsonl"}, "."),
        ({"name": "a.jsonl", "text": "{"}, "a.jsonl, line 1"),
        ({"name": "a.jsonl", "text": ""}, "no problems"),
        ({"name": "a.parquet", "text": "PAR1"}, "arquet"),
        ({"name": "a.exe", "text": "x"}, "."),
        ({"name": "a.csv", "text": "x,y\n1,2\n"}, "no column"),
        ({"name": "a.jsonl", "text": "x" * (FILE_BYTES + 1)}, "MB"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(evaluator, data, sentence):
    with pytest.raises(ProblemError, match=sentence):
        evaluator.take_file(data)


def test_problems_without_answers_are_refused_by_the_job(evaluator):
    reply = evaluator.take_file({"name": "a.jsonl", "text": '{"problem": "1 + 1?"}'})
    job = finished(evaluator, set=OWN, file=reply)
    assert job.state == "failed"
    assert "no known answer" in job.error


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_messages_bring_what_is_new(evaluator):
    job = EvalJob(evaluator.asked(FORM))
    first = job.message()
    assert (first["state"], "report" in first, first["command"][:8]) == ("loading", False, "rmx eval")
    job.begin(load_set("mini")[:4])
    job.take(Report(2).json())
    second = job.message(first["stamp"])
    assert [place for place, _ in second["rows"]] == [0, 1]
    assert "per_problem" not in second["report"]
    assert (second["at"], second["of"], second["left"]) == (2, 4, 4.0)
    job.take(Report(4).json())
    job.end()
    third = job.message(second["stamp"])
    assert [place for place, _ in third["rows"]] == [2, 3]
    assert (third["state"], third["left"]) == ("done", None)
    assert "rows" not in job.message(third["stamp"])
    assert len(job.message(0)["rows"]) == 4
    json.dumps(third, allow_nan=False)


def test_what_is_known_already_does_not_count_as_pace(evaluator):
    job = EvalJob(evaluator.asked(FORM))
    job.take(Report(2, of=10, cached=1).json())
    assert job.message()["left"] == 4.0 / 1 * 8
    job.take(Report(2, of=10, cached=2).json())
    assert job.message()["left"] is None


def test_a_finished_job_tells_its_pace(evaluator):
    asked = evaluator.asked(FORM)
    assert evaluator.plan(asked)["seconds"] is None
    job = finished(evaluator)
    assert (job.state, job.message()["cached"]) == ("done", 0)
    assert evaluator.plan(asked)["seconds"] == 2.0 * asked.samples
    assert evaluator.plan(asked)["set"]["licence"].startswith("Apache")


def test_what_goes_wrong_is_said_and_the_figures_stay(space, tmp_path):
    def breaks(job, problems):
        yield Report(2)
        raise {"ours": ZeroDivisionError, "theirs": RmxError}[job.asked.model]("Take less.")

    evaluator = Evaluator(space, RunStore(tmp_path), breaks)
    for model, sentence in (("theirs", "^Take less"), ("ours", "fault of rmx")):
        job = finished(evaluator, model=model)
        assert job.state == "failed"
        assert pytest.approx(2) == job.message()["at"]
        assert re.search(sentence, job.error)


def slow(evaluator_space, path):
    """An evaluator whose jobs go on until they are told to stop."""

    def measure(job, problems):
        while not job.stopped:
            yield Report(1)
            time.sleep(0.005)

    return Evaluator(evaluator_space, RunStore(path), measure)


@pytest.mark.slow
def test_stop_keeps_what_is_there(space, tmp_path):
    evaluator = slow(space, tmp_path)
    job = evaluator.start(evaluator.asked(FORM))
    wait(lambda: job.document)
    evaluator.jobs.halt(job.id)
    wait(lambda: job.done)
    assert (job.state, len(job.rows)) == ("stopped", 1)
    for nonsense in (None, [], {"id": None}, {"id": ["x"]}, {"id": "unknown"}):
        StreamTab(evaluator.jobs).halt(gr.EventData(None, nonsense))


def test_only_so_many_at_the_same_time(space, tmp_path):
    evaluator = slow(space, tmp_path)
    jobs = [evaluator.start(evaluator.asked(FORM)) for _ in range(EVALUATIONS.private)]
    with pytest.raises(Busy, match="under way"):
        evaluator.start(evaluator.asked(FORM))
    for job in jobs:
        job.halt()
    evaluator.start(evaluator.asked(FORM)).halt()


def test_a_closed_page_ends_its_evaluation_and_a_reload_does_not(evaluator):
    now = [0.0]
    job = EvalJob(evaluator.asked(FORM), clock=lambda: now[0])
    pages = OpenPages()
    pages.follow("first", job)
    pages.leave("first")
    now[0] += GRACE - 1
    pages.follow("after the reload", job)
    now[0] += 10 * GRACE
    assert not job.stopped
    pages.follow("another", job)
    pages.leave("after the reload")
    now[0] += 10 * GRACE
    assert not job.stopped  # somebody still looks
    pages.leave("another")
    assert not job.stopped
    now[0] += GRACE + 1
    assert job.stopped


def test_evaluate_again_stops_what_the_page_did_before(evaluator):
    old, new = (EvalJob(evaluator.asked(FORM)) for _ in range(2))
    pages = OpenPages()
    pages.begin("page", old)
    pages.begin("page", new)
    assert (old.stopped, new.stopped) == (True, False)
    pages.follow(None, new)
    pages.leave(None)
    pages.leave("unknown")


def test_an_unknown_evaluation_is_gone(evaluator):
    for data in (None, {}, {"id": 3}, {"id": "guessed", "since": "x"}):
        assert evaluator.tail(data)["kind"] == "gone"
    job = finished(evaluator)
    for since in (None, "3", True, -4, 1.5):
        assert len(evaluator.tail({"id": job.id, "since": since})["rows"]) == 4


def test_two_visitors_do_not_meet(evaluator):
    one, two = finished(evaluator), finished(evaluator)
    assert one.id != two.id
    assert len(one.id) >= 20


# -- to other tabs, and home ------------------------------------------------------------------------------------------


def test_a_problem_opens_with_its_model(evaluator):
    job = finished(evaluator)
    first = load_set("mini")[0].id
    found = evaluator.opened({"id": job.id, "problem": first, "name": "rl"})
    assert (found.model, found.adapter, found.problem, found.answer) == ("mini", "rl", f"about {first}", "7")
    assert (found.max_new_tokens, found.set_name) == (64, job.asked.set_name)
    assert evaluator.opened({"id": job.id, "problem": first, "name": "base"}).adapter is None


@pytest.mark.parametrize(
    "wrong", [{"id": "x"}, {"problem": "x"}, {"problem": ["x"]}, {"name": "reasonmaxxer"}, {"name": None}]
)
def test_what_is_not_there_does_not_open(evaluator, wrong):
    job = finished(evaluator)
    with pytest.raises(RmxError):
        evaluator.opened({"id": job.id, "problem": load_set("mini")[0].id, "name": "rl"} | wrong)


def test_exports(evaluator):
    job = finished(evaluator)
    found = evaluator.export({"id": job.id, "format": "json"})
    assert json.loads(found["text"]) == Report(4).json()
    assert found["name"] == "evaluation-mini-test.json"
    rows = list(csv.DictReader(io.StringIO(evaluator.export({"id": job.id, "format": "csv"})["text"])))
    assert len(rows) == 8
    assert [(r["model"], r["greedy_correct"], r["right"], r["samples"]) for r in rows[:2]] == [
        ("base", "False", "1", "2"), ("rl", "True", "2", "2")
    ]  # fmt: skip
    for wrong in ({"id": job.id, "format": "exe"}, {"id": "x", "format": "csv"}, None):
        with pytest.raises(RmxError):
            evaluator.export(wrong)
