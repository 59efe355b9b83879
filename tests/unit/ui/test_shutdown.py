"""The app is told to stop: what is being generated comes to its end, and so do the streams that listen."""

import json
import socket
import threading
import time

import httpx
import uvicorn

from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.serve import Server, listen
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings
from tests.helpers.live import tell_to_stop

NEVER = 400  # tokens of the script at 20 a second: far longer than the test


def events(stream):
    """(event, data) of a stream of the API."""
    kind = ""
    for line in stream.iter_lines():
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            yield kind, json.loads(line[5:])


def test_a_stop_ends_the_streams_with_what_there_is_and_then_the_server(monkeypatch):
    model = scripted_model(1 / 20, hostile=False)
    app = web_app(Workspace(loader=lambda spec: model), Settings())
    with listen("127.0.0.1", 0) as door:
        url = f"http://127.0.0.1:{door.getsockname()[1]}"
        server = Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=20), app.state.halt)
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        asked = {"prompt": "1 + 1", "max_new_tokens": NEVER}
        event = httpx.post(f"{url}/gradio_api/call/v2/trace", json=asked).raise_for_status().json()["event_id"]
        with httpx.stream("GET", f"{url}/gradio_api/call/trace/{event}", timeout=30) as stream:
            seen = []
            for kind, data in events(stream):
                seen.append((kind, data))
                if len(seen) == 2:
                    tell_to_stop(server, monkeypatch)
        kind, (document,) = seen[-1]
        assert kind == "complete"
        assert document["stop"] == "cancelled"
        assert 0 < len(document["tokens"]) < NEVER
        thread.join(30)
        assert not thread.is_alive()


def test_no_answer_waits_for_an_acknowledgement():
    with listen("127.0.0.1", 0) as door, socket.create_connection(door.getsockname()) as _:
        accepted, _ = door.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
