"""The endpoints of a live app, called by gradio's client and over plain HTTP."""

import json
import threading
import time

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from rmx.service import VERBS
from rmx.ui.endpoints import FAULT
from tests.helpers.live import mini_and_slow, running, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space():
    return mini_and_slow()


@pytest.fixture(scope="module")
def url(space):
    space.model("mini")
    with running(space) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


def events(url, name, body, read=None):
    """POST a call and read its events as (kind, data)."""
    with httpx.Client(base_url=f"{url}/gradio_api", timeout=60) as web:
        event = web.post(f"/call/{name}", json=body).raise_for_status().json()["event_id"]
        lines = web.get(f"/call/{read or name}/{event}").text.splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(kinds, data, strict=True))


def test_the_verbs_and_nothing_else_are_public_and_described(client):
    found = client.view_api(return_format="dict", print_info=False)
    assert set(found["named_endpoints"]) == {f"/{name}" for name in VERBS}
    assert found["unnamed_endpoints"] == {}
    trace = found["named_endpoints"]["/trace"]
    assert trace["description"].startswith("Solve a problem")
    kinds = {p["parameter_name"]: p["type"] for p in trace["parameters"]}
    assert "request" not in kinds
    assert (kinds["raw"], kinds["temperature"]) == ({"type": "boolean"}, {"type": "number"})
    assert all(p["parameter_has_default"] for p in trace["parameters"])


def test_a_trace_streams_and_ends_with_the_document(client):
    *deltas, document = list(client.submit(problem="241", api_name="/trace"))
    assert deltas[0]["start"] == 0
    tokens = [token for delta in deltas for token in delta["tokens"]]
    assert tokens == document["tokens"][: len(tokens)]
    assert document["answer"] == {"text": "33", "correct": False}
    assert client.predict(problem="241", brief=True, api_name="/trace")["length"] == len(document["tokens"])


def test_a_swap_changes_the_answer_and_is_computed_from_the_cache(client):
    before, after = client.predict(problem="241", swaps="28=879", api_name="/swap")
    assert (before["answer"]["text"], after["answer"]["text"]) == ("33", "52")
    assert after["reuse"] == {"reused": 53, "computed": 1}


def test_the_other_verbs_answer(client):
    found = client.predict(problem="241", pos=28, samples=8, api_name="/outcomes")
    assert [a["samples"] for a in found["alternatives"]] == [8] * 5
    assert client.predict(api_name="/train_status") == {"runs": []}
    assert client.predict(problem="241", max_new_tokens=3, brief=True, api_name="/shifts")["positions"] == 3
    assert client.predict(limit=1, arms="base", placebo=False, brief=True, api_name="/intervene")["n"] == 1


def test_over_plain_http_arguments_go_by_name(url):
    found = events(url, "v2/trace", {"problem": "241", "brief": True}, read="trace")
    assert [kind for kind, _ in found[:-1]] == ["generating"] * (len(found) - 1)
    kind, (document,) = found[-1]
    assert (kind, document["answer"]["text"]) == ("complete", "33")


def test_a_mistake_is_a_sentence(client, url):
    with pytest.raises(AppError, match="no problem 'nope': give one of its ids"):
        client.predict(problem="nope", api_name="/trace")
    ((kind, data),) = events(url, "v2/trace", {"problem": "1", "model": "/etc/passwd"}, read="trace")
    assert kind == "error"
    assert data["error"].startswith("There is no model '/etc/passwd' here.")


def test_a_fault_is_a_neutral_sentence_and_a_line_in_the_log(client, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("a secret of ours in /home/me/.ssh")

    monkeypatch.setattr("rmx.service.solution.prepare", broken)
    with pytest.raises(AppError) as caught:
        client.predict(problem="1", api_name="/trace")
    assert FAULT in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "a secret of ours" in caplog.text


def test_a_call_that_is_cancelled_frees_the_engine(space, client):
    turns = space.model("x/slow").engine.queue
    job = client.submit(prompt="x", model="x/slow", max_new_tokens=4000, api_name="/trace")
    until(lambda: turns.waiting() == 1)
    job.cancel()
    until(lambda: turns.waiting() == 0, 5)


def test_a_connection_that_is_closed_frees_the_engine(space, url):
    turns = space.model("x/slow").engine.queue
    body = {"prompt": "x", "model": "x/slow", "max_new_tokens": 4000}
    with httpx.Client(base_url=f"{url}/gradio_api", timeout=60) as web:
        event = web.post("/call/v2/trace", json=body).json()["event_id"]
        with web.stream("GET", f"/call/trace/{event}") as reply:
            assert next(reply.iter_lines()) == "event: generating"
            assert turns.waiting() == 1
    until(lambda: turns.waiting() == 0, 5)


def test_one_that_waits_is_told_so_and_can_leave_the_line(space, client):
    turns = space.model("x/slow").engine.queue
    ticket = turns.enter()
    try:
        job = client.submit(prompt="x", model="x/slow", api_name="/trace")
        until(lambda: job.outputs())
        assert job.outputs()[0] == {"waiting": 1}
        job.cancel()
        until(lambda: turns.waiting() == 1, 5)
    finally:
        turns.leave(ticket)


def test_calls_side_by_side_get_their_own_results(url):
    found = {}

    def trace(problem):
        return events(url, "v2/trace", {"problem": problem, "brief": True}, read="trace")[-1][1][0]

    def ask(problem):
        found[problem] = trace(problem)

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for problem, document in found.items():
        assert document["text"] == trace(problem)["text"]
    assert len({d["text"] for d in found.values()}) == 4


def test_the_log_has_one_line_per_call_without_its_words(client, caplog):
    caplog.set_level("INFO", logger="rmx.requests")
    client.predict(problem="241", brief=True, api_name="/trace")
    with pytest.raises(AppError):
        client.predict(problem="a private thing", api_name="/trace")
    deadline = time.monotonic() + 5
    while len(caplog.records) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    one, other = (json.loads(r.message) for r in caplog.records if r.name == "rmx.requests")
    assert (one["verb"], one["model"], one["tokens"], one["outcome"]) == ("api.trace", "mini", 38, "done")
    assert (other["verb"], other["outcome"]) == ("api.trace", "refused")
    assert "private" not in caplog.text


def test_where_the_line_is_full_a_call_is_refused_before_it_is_queued(space):
    turns = space.model("mini").engine.queue
    with running(space, max_visitors=1) as url:
        address, body = f"{url}/gradio_api/call/v2/trace", {"problem": "241", "brief": True}
        ticket = turns.enter()
        try:
            refused = httpx.post(address, json=body)
        finally:
            turns.leave(ticket)
        assert (refused.status_code, refused.json()["waiting"]) == (429, 1)
        assert refused.json()["error"].startswith("1 requests wait for this model already.")
        assert int(refused.headers["Retry-After"]) >= 1
        assert events(url, "v2/trace", body, read="trace")[-1][0] == "complete"
