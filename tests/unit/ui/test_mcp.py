"""The MCP tools of a live app, called by the client of the package `mcp`."""

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.service import VERBS
from rmx.ui.endpoints import has_mcp
from tests.helpers.live import mini_and_slow, running, until

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "trace", "arguments": {"prompt": "x", "model": "x/slow", "max_new_tokens": 4000}},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def space():
    return mini_and_slow()


@pytest.fixture(scope="module")
def url(space):
    space.model("mini")
    with running(space) as url:
        yield url


@asynccontextmanager
async def session(url):
    async with streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _), ClientSession(read, write) as found:
        await found.initialize()
        yield found


def apart(function, *given):
    """In a thread of its own: the browser tests leave a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, function, *given).result()


def asked(url, *calls, progress=None):
    """Results of tool calls, in order."""

    async def ask():
        async with session(url) as tools:
            return [await tools.call_tool(name, given, progress_callback=progress) for name, given in calls]

    return apart(ask)


def document(result):
    assert not result.isError, result.content
    return json.loads(result.content[0].text)


@pytest.mark.slow
def test_the_tools_are_the_public_verbs_with_their_arguments(url):
    async def ask():
        async with session(url) as found:
            assert found.get_server_capabilities().model_dump(exclude_none=True) == {
                "experimental": {},
                "tools": {"listChanged": False},
            }
            return (await found.list_tools()).tools

    tools = {tool.name: tool for tool in apart(ask)}
    assert list(tools) == list(VERBS)
    assert tools["trace"].description.startswith("Solve a problem")
    given = tools["trace"].inputSchema["properties"]
    assert given["tau"]["description"].startswith("entropy in nats")
    assert (given["brief"]["default"], given["top"]["default"], given["set"]["default"]) == (True, 5, "mini")
    assert given["top"]["type"] == "integer"


def test_a_swap_changes_the_answer(url):
    trace, swap = asked(url, ("trace", {"problem": "241"}), ("swap", {"problem": "241", "swaps": "28=879"}))
    found = document(trace)
    fork = found["tokens"][-1]
    assert (found["answer"]["text"], fork["pos"], [c["id"] for c in fork["top"]][:2]) == ("33", 28, [872, 879])
    assert [branch["answer"]["text"] for branch in document(swap)] == ["33", "52"]


def test_documents_are_brief_unless_a_call_says_otherwise(url):
    brief, whole = asked(url, ("trace", {"problem": "241"}), ("trace", {"problem": "241", "brief": False, "top": 20}))
    assert len(brief.content[0].text) < 2500 < 40_000 < len(whole.content[0].text)
    assert len(document(whole)["tokens"]) == 38


def test_progress_is_told_where_it_is_asked_for(url):
    said = []

    async def hear(progress, total, message):
        said.append((progress, message))

    asked(url, ("trace", {"problem": "241"}), progress=hear)
    assert said[0] == (1, "1 tokens")


def test_a_mistake_is_a_sentence(url):
    wrong, unknown, path, nothing = asked(
        url,
        ("trace", {"problem": "nope"}),
        ("trace", {"problem": "1", "colour": "red"}),
        ("trace", {"problem": "1", "model": "/etc/passwd"}),
        ("shell", {}),
    )
    assert all(r.isError for r in (wrong, unknown, path, nothing))
    assert wrong.content[0].text.startswith("The set 'mini' has no problem 'nope'")
    assert unknown.content[0].text.startswith("There is no argument 'colour'")
    assert path.content[0].text.startswith("There is no model '/etc/passwd' here")
    assert nothing.content[0].text.startswith("There is no tool 'shell'")


def test_a_connection_that_is_closed_frees_the_engine(space, url):
    turns = space.model("x/slow").engine.queue
    with httpx.Client(timeout=60) as web:
        thread_over = apart(_give_up, f"{url}/gradio_api/mcp/", turns)
        assert thread_over
        assert web.get(f"{url}/health").json()["status"] == "ok"
    until(lambda: turns.waiting() == 0, 5)


async def _give_up(address, turns):
    """Call the slow tool, wait until it works, hang up."""
    async with httpx.AsyncClient(timeout=60) as web:
        with anyio.move_on_after(10) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: web.post(address, json=HELLO, headers=ACCEPT))
                while turns.waiting() == 0:
                    await anyio.sleep(0.02)
                group.cancel_scope.cancel()
    return not scope.cancelled_caught


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80"])
def test_a_name_that_was_made_to_mean_this_machine_is_refused(url, host):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    reply = httpx.post(f"{url}/gradio_api/mcp/", json=body, headers=ACCEPT | {"host": host})
    assert reply.status_code == 421
    foreign = httpx.post(f"{url}/gradio_api/mcp/", json=body, headers=ACCEPT | {"origin": f"http://{host}"})
    assert foreign.status_code == 403


def test_there_are_no_resources_no_prompts_and_no_older_transport(url):
    for method in ("resources/read", "prompts/get", "resources/list", "prompts/list"):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": "a://b", "name": "x"}}
        assert "Method not found" in httpx.post(f"{url}/gradio_api/mcp/", json=body, headers=ACCEPT).text
    assert httpx.get(f"{url}/gradio_api/mcp/sse").status_code == 404
    assert httpx.post(f"{url}/gradio_api/mcp/messages/?session_id=0").status_code == 404


def test_without_the_package_the_app_starts_and_says_so_once(monkeypatch, caplog):
    from fastapi.testclient import TestClient

    from rmx.ui.server.web_app import web_app
    from rmx.ui.settings import Settings

    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    caplog.set_level(logging.WARNING)
    space = Workspace(loader=lambda spec: scripted_model())
    space.model("mini")
    with TestClient(web_app(space, Settings()), base_url="http://localhost") as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/gradio_api/mcp/", json=HELLO, headers=ACCEPT).status_code in (404, 405)
    said = [r.message for r in caplog.records if "MCP" in r.message]
    assert said == ["MCP is off, because its package is missing: pip install 'rmx-explorer[mcp]'"]
    assert not has_mcp()
