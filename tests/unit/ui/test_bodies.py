"""Requests that gradio trips over: each was found by sending it, and gets a sentence now."""

import pytest
from fastapi.testclient import TestClient

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

RPC = {"accept": "application/json, text/event-stream", "host": "localhost"}


@pytest.fixture(scope="module")
def client():
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(web_app(space, Settings()), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def config(client):
    return client.get("/config").json()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("call/v2/nothing", "{}", 404, "There is no endpoint 'nothing'. Known: trace, swap"),
        ("call/v2/solve", "{}", 404, "There is no endpoint 'solve'"),
        ("call/v2/trace", '{"self": 1}', 422, "There is no argument 'self'. Known: prompt"),
        ("call/v2/trace", "[1]", 422, "The body must be a JSON object."),
        ("call/v2/trace", '{"tau": NaN}', 400, "The body is not JSON."),
        ("call/v2/trace", '{"tau": -1e999}', 400, "The body is not JSON."),
        ("call/v2/trace", '{"seed": ' + "1" * 5000 + "}", 400, "The body is not JSON."),
        ("call/v2/trace", '{"tau": ' + "[" * 60_000 + "}", 400, "The body is"),
        ("call/v2/trace", b'{"prompt": "\xe3"}', 400, "The body is not JSON."),
        ("call/trace", '{"data": [1]}', 422, "data must be a list of 24 values."),
        ("call/trace", '{"data": "x"}', 422, "data must be a list"),
        ("run/trace", '{"data": []}', 404, "This goes through the queue only."),
        ("run/nothing", '{"data": []}', 404, "There is no endpoint 'nothing'"),
        ("queue/join", '{"data": [], "fn_index": 99999, "session_hash": "x"}', 404, "There is no event 99999."),
        ("queue/join", '{"data": [], "fn_index": true, "session_hash": "x"}', 404, "There is no event True."),
        ("queue/join", '{"data": NaN, "fn_index": 1, "session_hash": "x"}', 400, "The body is not JSON."),
        ("queue/join", '{"data": [], "fn_index": 1, "session_hash": [1]}', 422, "session_hash must be a short name."),
        ("queue/join", '{"data": [], "fn_index": 1, "session_hash": "../x"}', 422, "session_hash must be"),
        ("queue/join", '{"data": [], "fn_index": 1, "session_hash": "x", "batched": true}', 422, "takes batches"),
        ("component_server", '{"component_id": 99999, "fn_name": "tail"}', 404, "There is no such component"),
        ("component_server", '{"component_id": [1], "fn_name": "tail"}', 404, "There is no such component"),
        ("cancel", "7", 422, "The body must be a JSON object."),
        ("mcp/", b"\xe3'", 400, "The body is not JSON."),
        ("mcp/", "[]", 400, "one JSON-RPC message"),
    ],
)
def test_a_body_that_cannot_be_used_gets_a_sentence(client, path, body, status, said):
    reply = client.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json", **RPC})
    assert reply.status_code == status, reply.text
    assert said in reply.json()["error"]


@pytest.fixture(scope="module")
def unqueued(config):
    """An event without a queue that takes a number and a choice: its id, what is usually in it, where the two are."""
    kinds = {c["id"]: (c["type"], c["props"]) for c in config["components"]}
    for event in config["dependencies"]:
        found = [kinds[i] for i in event["inputs"]]
        number = next((i for i, (kind, _) in enumerate(found) if kind == "number"), None)
        choices = (i for i, (kind, props) in enumerate(found) if kind == "dropdown" and not props["allow_custom_value"])
        choice = next(choices, None)
        if event["queue"] is False and number is not None and choice is not None:
            return event["id"], [props.get("value") for _, props in found], number, choice
    raise AssertionError("there is no such event")


def ask(client, unqueued, odd):
    index, usual, *_ = unqueued
    data = [odd.get(i, value) for i, value in enumerate(usual)]
    reply = client.post("/gradio_api/run/predict", json={"data": data, "fn_index": index, "session_hash": "x"})
    return reply.status_code, reply.json().get("error", "")


def test_an_event_takes_what_its_components_hold(client, unqueued):
    *_, number, choice = unqueued
    assert ask(client, unqueued, {})[0] == 200
    assert ask(client, unqueued, {number: "many"}) == (422, f"Value {number + 1} of data must be a number.")
    status, said = ask(client, unqueued, {choice: "/etc/passwd"})
    assert status == 422
    assert said.startswith("Value: /etc/passwd is not in the list of choices")


def test_a_fault_of_ours_stays_a_fault_but_says_nothing(client, unqueued, monkeypatch):
    def broken(*_):
        raise RuntimeError("a secret of ours")

    demo = client.app.user_middleware[-2].kwargs["demo"]
    monkeypatch.setattr(demo.fns[unqueued[0]], "fn", broken)
    assert ask(client, unqueued, {}) == (500, None)


def test_what_is_right_goes_through(client, config):
    view = next(c for c in config["components"] if c["props"].get("elem_id") == "view")
    body = {"component_id": view["id"], "fn_name": "inspect", "session_hash": "x", "data": {"run": "none", "pos": 1}}
    without = client.post("/gradio_api/component_server", json={k: v for k, v in body.items() if k != "data"})
    assert (without.status_code, "needs data" in without.text) == (422, True)
    reply = client.post("/gradio_api/component_server", json=body)
    assert reply.json() == {"error": "This solution is no longer in memory. Solve the problem again."}
    event = client.post("/gradio_api/call/v2/trace", json={"prompt": "x", "max_new_tokens": 3, "brief": True}).json()[
        "event_id"
    ]
    assert '"length":3' in client.get(f"/gradio_api/call/trace/{event}").text.replace(" ", "")


def test_a_call_by_position_need_not_know_the_arguments_that_came_later(client):
    """The 18 arguments that `trace` had at first; what was added since stands behind them, and null is its default."""
    data = ["x", None, "mini", *[None] * 5, 3, *[None] * 5, True, *[None] * 3]
    assert len(data) == 18
    event = client.post("/gradio_api/call/trace", json={"data": data}).json()["event_id"]
    assert '"length":3' in client.get(f"/gradio_api/call/trace/{event}").text.replace(" ", "")


@pytest.mark.parametrize("path", ["dev/reload", "vibe-code/", "run-history/buckets", "mcp/sse", "process_recording"])
def test_doors_that_the_page_does_not_use_are_closed(client, path):
    assert client.get(f"/gradio_api/{path}").status_code == 404
