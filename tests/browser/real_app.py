"""The real app on a port of its own: mini and its partner, and scripted models for what they do by chance only."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from conftest import free_port

from rmx.models.load import Model, load
from rmx.models.stand_ins import scripted_model
from rmx.models.workspace import Workspace
from rmx.ui.server.web_app import web_app
from rmx.ui.settings import Settings

SLOW, SLOW_TOO = scripted_model(seconds=0.03, hostile=False), scripted_model(seconds=0.03, hostile=False)
STAND_INS = {
    "slow": SLOW,
    "slow-too": SLOW_TOO,
    "hostile": scripted_model(end=400),
    "hostile-too": scripted_model(end=400),
    "lines": scripted_model(newlines=True, end=60),
}


@contextmanager
def serving(models: dict[str, Model], settings: Settings | None = None, **server_options: Any) -> Iterator[str]:
    """The app's address for the length of a `with` block; `models` stand beside the ones that can be loaded."""
    loader: Callable[[str], Model] = lambda spec: models.get(spec) or load(spec, device="cpu")  # noqa: E731
    space = Workspace(loader=loader, keep=9)
    space.model("mini")
    port = free_port()
    app = web_app(space, settings or Settings())
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1, **server_options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(3)  # a second does; behind hundreds of other tests it may not end by itself, and nobody needs it
