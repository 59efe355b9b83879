"""The real app on a free port, in a thread of this process."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from sse_starlette.sse import AppStatus

from rmx.models.load import load
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.serve import listen
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

PATIENCE = 60.0  # seconds


def mini_and_slow() -> Workspace:
    """Mini, on weights that no other test uses, since adapters are put on them; and x/slow, which speaks a script."""
    own = load("mini", device="cpu")
    return Workspace("cpu", loader=lambda spec: scripted_model(seconds=0.02) if spec == "x/slow" else own)


@contextmanager
def running(space: Workspace, **settings: Any) -> Iterator[str]:
    """Serve the app; yields its address."""
    app = web_app(space, Settings(**settings))
    with listen("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # streams that are still open are cut
        server.should_exit = True
        thread.join(PATIENCE)


def tell_to_stop(server: uvicorn.Server, patch: pytest.MonkeyPatch) -> None:
    """Do what SIGTERM does. sse_starlette would remember it and end every stream of later servers in this process."""
    patch.setattr(AppStatus, "should_exit", False)
    server.handle_exit(signal.SIGTERM, None)


def until(true: Any, patience: float = PATIENCE) -> None:
    """Wait until it is so; fails where it never is."""
    limit = time.monotonic() + patience
    while not true():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)
