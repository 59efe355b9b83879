"""The claims as the page asks for them: jobs, what the next one goes on with, messages, the report."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import gradio as gr
import pytest

from rmx.claims import board as board_module
from rmx.claims.board import CLAIMS
from rmx.claims.studies import ClaimOptions, StudyProgress
from rmx.compare.shift_map import PairOptions
from rmx.errors import ModelError, RmxError
from rmx.models.workspace import Workspace
from rmx.ui.jobs import claims_jobs as claims_module
from rmx.ui.jobs.claims_jobs import Claims, claims_texts, recorded_choices
from rmx.ui.jobs.page_jobs import FAULT, RECORDED
from rmx.ui.tabs.form_parts import StreamTab
from tests.helpers.claims_document import HOSTILE
from tests.unit.claims.test_claims import alike, arms, subject

SPACE = Workspace("cpu")
MINI = f"{RECORDED}:mini"  # the id of the example on the bundled miniature
OPTIONS = ClaimOptions(PairOptions(model="mini", adapter="rl", limit=2))


@pytest.fixture
def made(monkeypatch):
    """How often each study was made; studies and subject are made by hand."""
    calls = {"shifts": 0, "interventions": 0, "runs": 0}

    def study(name, found):
        def run(_, cancelled):
            calls[name] += 1
            for i in (1, 2):
                if cancelled():
                    return
                yield StudyProgress(i, 2, found)

        return run

    runs = SimpleNamespace(all=(), distilled=lambda _: [], trained=lambda **_: [], sweeps=list, twins=lambda *_: None)
    found = {"shifts": alike(40), "interventions": arms(), "runs": runs}
    monkeypatch.setattr(board_module, "STUDIES", {name: study(name, found[name]) for name in calls})
    monkeypatch.setattr(claims_module, "subject_of", lambda *_: subject())
    free = SimpleNamespace(when_free=lambda _: nullcontext(True))
    monkeypatch.setattr(PairOptions, "pair", lambda *_: free)
    return calls


def last_of(claims, job):
    *_, message = claims.stream(job)
    return message


def row(message, name):
    return next(r for r in message["rows"] if r["id"] == name)


def test_one_row_measures_its_study_alone(made):
    claims = Claims(SPACE)
    message = last_of(claims, claims.start(OPTIONS, "gain"))
    assert made == {"shifts": 0, "interventions": 1, "runs": 0}
    assert message["done"]
    assert row(message, "gain")["verdict"] == "agrees"
    assert row(message, "oracle")["state"] == "done"  # of the same study
    assert row(message, "reranked")["verdict"] == "not measured"
    assert row(message, "placebo")["state"] == "waiting"
    json.dumps(message, allow_nan=False)


@pytest.mark.slow
def test_the_next_job_goes_on_with_what_is_known(made):
    claims = Claims(SPACE)
    first = claims.start(OPTIONS, "gain")
    last_of(claims, first)
    second = claims.start(OPTIONS, "reranked", first.id)
    message = last_of(claims, second)
    assert made == {"shifts": 1, "interventions": 1, "runs": 0}
    assert row(message, "gain")["verdict"] == "agrees"
    assert row(message, "reranked")["state"] == "done"
    message = last_of(claims, claims.start(OPTIONS, "cost", second.id))
    last_of(claims, claims.start(OPTIONS, "cost", message["id"]))
    assert made["runs"] == 2  # runs are looked for anew: one may have ended
    assert made["shifts"] == 1


def test_another_subject_begins_anew(made):
    claims = Claims(SPACE)
    first = claims.start(OPTIONS, "gain")
    last_of(claims, first)
    other = ClaimOptions(PairOptions(model="mini", adapter="rl", limit=3))
    message = last_of(claims, claims.start(other, "reranked", first.id))
    assert row(message, "gain")["verdict"] == "not measured"


def test_a_stopped_job_says_so(made):
    claims = Claims(SPACE)
    job = claims.start(OPTIONS)
    messages = []
    for message in claims.stream(job):
        messages.append(message)
        claims.jobs.halt(job.id)
    assert messages[-1]["stopped"]
    assert messages[-1]["done"]
    assert sum(made.values()) <= 1


def test_a_model_that_cannot_be_had_is_an_error_and_no_end_of_the_page(monkeypatch):
    def refuse(*_):
        raise ModelError(f"{HOSTILE} cannot be had.")

    monkeypatch.setattr(PairOptions, "pair", refuse)
    claims = Claims(SPACE)
    message = last_of(claims, claims.start(OPTIONS))
    assert message["done"]
    assert message["error"] == f"{HOSTILE} cannot be had."
    assert message["rows"] == []


@pytest.mark.parametrize("claim", ["nonsense", HOSTILE, 7])
def test_only_claims_that_exist_are_measured(claim):
    with pytest.raises(RmxError, match="no such claim"):
        Claims(SPACE).start(OPTIONS, claim)


@pytest.mark.parametrize("data", [None, {}, {"id": 7}, {"id": HOSTILE}, "text"])
def test_unknown_ids_are_refused_or_ignored(data):
    claims = Claims(SPACE)
    StreamTab(claims.jobs).halt(gr.EventData(None, data))
    for question in (claims.tail, claims.export):
        with pytest.raises(RmxError):
            question(data)


def test_the_report_is_a_file_once_something_is_measured(made):
    claims = Claims(SPACE)
    job = claims.start(OPTIONS, "gain")
    with pytest.raises(RmxError, match="nothing to report"):
        claims.export({"id": job.id})
    last_of(claims, job)
    file = claims.export({"id": job.id})
    assert (file["name"], file["mime"]) == ("claims.html", "text/html")
    assert "RL raises pass@1" in file["text"]


def test_the_recorded_example_is_a_job_that_is_over_and_gives_way_to_one_that_is_measured(made):
    claims = Claims(SPACE)
    message = claims.tail({"id": MINI})
    assert (message["done"], message["recorded"], message["pair"]) == (True, True, "mini + rl")
    assert [row["id"] for row in message["rows"]] == [claim.id for claim in CLAIMS]
    assert row(message, "gain")["verdict"] == "by construction"
    assert row(message, "gain")["bars"][0]["numbers"]
    assert message["command"].startswith("rmx claims --model mini --adapter rl --limit 50")
    assert message["command"].endswith("--budget 6000")  # else other figures would come of it
    assert "RL raises pass@1" in claims.export({"id": MINI})["text"]
    first = last_of(claims, claims.start(OPTIONS, "gain", MINI))
    assert row(first, "reranked")["verdict"] == "not measured"


def test_every_recorded_example_opens_and_is_exported():
    claims = Claims(SPACE)
    choices = recorded_choices()
    assert [one["label"] for one in choices] == ["mini+rl, n = 50", "smollm2+rl, n = 300"]
    for choice in choices:
        message = claims.tail({"id": choice["id"]})
        assert (message["kind"], message["id"], message["recorded"]) == ("claims", choice["id"], True)
        assert message["pair"] in claims.export({"id": choice["id"]})["text"]
    assert row(message, "gain")["verdict"] == "agrees"
    assert message["command"].startswith("rmx claims --model smollm2-135m-instruct-q4_1 --adapter rl --set words:test")
    assert "--budget" not in message["command"]


def test_old_jobs_leave_memory(made):
    claims = Claims(SPACE, keep=2)
    jobs = [claims.start(OPTIONS) for _ in range(3)]
    assert claims.jobs.find(jobs[0].id) is None
    assert jobs[0].stopped
    assert claims.jobs.find(jobs[2].id) is jobs[2]


def test_the_page_has_all_texts_from_the_start():
    assert [t["id"] for t in claims_texts()] == [c.id for c in CLAIMS]
    assert all(t["paper"] and t["how"] and t["button"] and t["caveats"] for t in claims_texts())


def under_way(monkeypatch):
    """A job whose page has just been told that a row is being measured."""
    monkeypatch.setattr(claims_module, "STATE_INTERVAL", 0.0)
    claims = Claims(SPACE)
    job = claims.start(OPTIONS, "gain")
    stream = claims.stream(job)
    while not any(r["state"] == "measuring" for r in next(stream)["rows"]):
        pass
    return claims, job, stream


@pytest.mark.parametrize("where", ["bars_of", "claims_command"])
def test_a_state_that_cannot_be_written_ends_the_job_and_leaves_no_row_at_measuring(made, monkeypatch, where):
    def broken(*_):
        raise KeyError("low")

    claims, job, stream = under_way(monkeypatch)
    monkeypatch.setattr(claims_module, where, broken)
    *_, last = stream
    assert (last["done"], last["error"]) == (True, FAULT)
    assert (row(last, "gain")["state"], row(last, "gain")["why"]) == ("failed", FAULT)
    assert claims.tail({"id": job.id}) == last  # what a page asks for that missed it


def test_a_fault_of_a_study_leaves_no_row_at_measuring(made, monkeypatch):
    def broken(*_):
        yield StudyProgress(1, 2, None)
        raise KeyError("low")

    monkeypatch.setitem(board_module.STUDIES, "interventions", broken)
    claims = Claims(SPACE)
    job = claims.start(OPTIONS, "gain")
    with pytest.raises(KeyError):
        list(claims.stream(job))
    told = claims.tail({"id": job.id})
    assert (told["done"], told["error"]) == (True, FAULT)
    assert (row(told, "gain")["state"], row(told, "gain")["why"]) == ("failed", FAULT)


def test_a_stream_that_the_page_gave_up_leaves_no_row_at_measuring(made, monkeypatch):
    claims, job, stream = under_way(monkeypatch)
    stream.close()
    assert row(claims.tail({"id": job.id}), "gain")["state"] == "stopped"
