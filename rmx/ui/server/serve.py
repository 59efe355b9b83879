"""Start the app and stop it: settings to a listening server whose streams get their last message."""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import fastapi
import gradio as gr
import psutil
import uvicorn

from rmx.errors import RmxError
from rmx.models.load import DTYPES, PLAIN, Model, Placing, choose_device, choose_dtype, load
from rmx.models.workspace import Workspace
from rmx.models.zerogpu import Gpu, ZeroWorkspace, is_zerogpu
from rmx.storage.job_store import few_arenas, large_blocks_apart
from rmx.ui.jobs.page_jobs import write_lines
from rmx.ui.server.queue_shares import without_matplotlib
from rmx.ui.server.rate_limit import Connections, calm_logs, most_connections, raise_descriptor_limit
from rmx.ui.server.web_app import check_no_file_is_served, parts, web_app
from rmx.ui.settings import Settings
from rmx.ui.tabs.explore_form import REAL, has_real
from rmx.ui.tabs.form_parts import literal

log = logging.getLogger(__name__)
LAST_WORDS = 1.0  # seconds that open pages have to receive what was halted
GRACE = 5  # seconds that open requests have to end when the app is stopped
IDLE = 20.0  # seconds without work after which a model is loaded that nobody has asked for yet
ROOM = 4e9  # bytes of free memory without which it is not


def prepare(settings: Settings, workspace: Workspace) -> str | None:
    """Load mini and, if one is asked for, another model; returns a notice where that one cannot be had."""
    workspace.model("mini")
    if not settings.model or settings.model == "mini":
        return None
    try:
        model = workspace.model(settings.model)
        workspace.adapter(model, settings.adapter)
    except RmxError as error:
        return f"⚠ {literal(error)} The bundled model *mini* is here instead."
    return None


def load_when_idle(workspace: Workspace, idle: float = IDLE) -> threading.Thread | None:
    """Load the real model that the page offers beside mini while nobody is served, so that it opens at once.

    It is done once, where its package is installed, the site offers it and `ROOM` bytes are free; mini keeps answering.
    Returns the thread that waits for it, None where there is nothing to load.
    """
    if not has_real(workspace):
        return None

    def work() -> None:
        still = 0.0
        while still < idle:
            time.sleep(idle / 20)
            still = 0.0 if workspace.waiting() else still + idle / 20
        if psutil.virtual_memory().available < ROOM:
            return
        try:
            workspace.model(REAL.name)
        except RmxError as error:
            log.warning("%s is not prepared: %s", REAL.name, error)

    thread = threading.Thread(target=work, name="rmx-prepare", daemon=True)
    thread.start()
    return thread


def serve(settings: Settings) -> None:
    """Run the app until it is stopped."""
    if settings.runs:
        os.environ["RMX_RUNS"] = settings.runs  # for the processes that train, too
    if settings.log == "requests":
        write_lines()
    without_matplotlib()
    few_arenas()
    large_blocks_apart()
    if is_zerogpu():
        launch(settings).block_thread()
        return
    workspace = Workspace(loader=loader_of(settings), **_options_of(settings))
    notice = prepare(settings, workspace)
    app = web_app(workspace, settings, notice)
    if settings.public:
        check_no_file_is_served(app)
    shown = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    with listen(settings.host, settings.port) as door:
        if not settings.model or settings.model == "mini":
            load_when_idle(workspace)
        print(f"rmx is at http://{shown}:{door.getsockname()[1]}  (Ctrl-C stops it)", flush=True)  # noqa: T201
        Server(server_config(app), app.state.halt, app.state.hang_up).run(sockets=[door])


def loader_of(settings: Settings) -> Callable[[str], Model]:
    """What loads the app's models: all on one device in one dtype; mini is too small to be quantised or spread.

    Raises:
        ModelError: a setting that no model can be loaded with, here.
    """
    placing, where = Placing(settings.quantize, settings.device_map), choose_device(settings.device)
    placing.options(settings.device, where, DTYPES[choose_dtype(settings.dtype, where)])

    def load_one(spec: str) -> Model:
        return load(spec, settings.device, settings.dtype, placing=PLAIN if spec == "mini" else placing)

    return load_one


def _options_of(settings: Settings) -> dict[str, Any]:
    """What models a workspace has, and how many may wait for one, in all and of one visitor or address."""
    shares = {"per_visitor": settings.per_visitor, "per_address": settings.per_address}
    return {"policy": settings.policy, "max_waiting": settings.max_visitors, **shares}


def server_config(app: fastapi.FastAPI) -> uvicorn.Config:
    """How the app is served: as many connections as this process has room for, and no more."""
    calm_logs()
    most = most_connections(raise_descriptor_limit())
    bounded = Connections(most + 8).protocol()  # those beyond `limit_concurrency` still get an answer
    told: dict[str, Any] = {"log_level": "warning", "server_header": False, "timeout_graceful_shutdown": GRACE}
    return uvicorn.Config(app, http=bounded, limit_concurrency=most, backlog=128, **told)


class Server(uvicorn.Server):
    """Asked to stop, it lets what is being generated end at its next step, so that open streams get their last message.

    Training runs are processes of their own and go on.
    """

    def __init__(
        self, config: uvicorn.Config, halt: Callable[[], None], hang_up: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self._halt, self._hang_up = halt, hang_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; the event loop is remembered for the end."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End what is generated, then, after a moment for last messages, close streams and stop."""
        # In a thread: a signal may come while this one holds a lock that halting needs.
        threading.Thread(target=self._halt, daemon=True).start()
        # Open pages hold a stream that says nothing; without this they would use up the whole grace.
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_WORDS, self._hang_up)
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Open a port, before its address is printed.

    Raises:
        RmxError: the port is taken or the host is not ours.
    """
    try:
        door = socket.create_server((host, port))
    except OSError as error:
        place = f"{host}:{port}"
        raise RmxError(f"Cannot listen on {place} ({error.strerror}). Take another: --port N or PORT=N.") from error
    # Connections inherit it. Without it each answer's second packet waits 40 ms for the acknowledgement of the first;
    # asyncio sets it only where a socket names its protocol, which create_server's does not.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


# -- on a ZeroGPU Space: gradio's own `launch`, which `spaces` hooks, with the same routes and middleware -------------


def launch(settings: Settings, gpu: Gpu | None = None, device: str = "cuda") -> gr.Blocks:
    """Load the models, build the page, serve it in a thread of its own; the caller waits with `block_thread`.

    All of it happens in the main thread: only there a GPU is pretended, so that models can be put on it.

    Raises:
        RmxError: a setting that does not work there.
    """
    if settings.auth:
        raise RmxError("RMX_AUTH does not work on ZeroGPU. Make the Space private instead.")
    if settings.quantize or settings.device_map or (settings.device, settings.dtype) != ("auto", "auto"):
        raise RmxError("On ZeroGPU models are on the lent GPU as they are. Leave out their device, dtype and placing.")
    workspace = ZeroWorkspace(gpu, device, **_options_of(settings))
    notice = place(settings, workspace)
    workspace.ready()
    made = parts(workspace, settings, notice)
    app = {"routes": made.api.routes, "middleware": made.api.user_middleware}
    app |= dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))
    where: dict[str, Any] = {"server_name": settings.host, "server_port": settings.port or None}
    how: dict[str, Any] = {"prevent_thread_lock": True, "quiet": True, "max_threads": made.page.max_threads}
    made.page.launch(app_kwargs=app, **where, **how, **made.options)
    made.finish(made.page.app)
    if settings.public:
        check_no_file_is_served(made.page.app)
    return made.page


def place(settings: Settings, workspace: ZeroWorkspace) -> str | None:
    """Put mini, the listed models and their adapters where they belong; returns what could not be had, for the page."""
    missing = []
    for spec in settings.policy.models:
        try:
            workspace.model(spec)
        except RmxError as error:
            missing.append(str(error))
    if settings.model in workspace.loaded:
        model = workspace.model(str(settings.model))
        for adapter in settings.policy.adapters:
            try:
                workspace.adapter(model, adapter)
            except RmxError as error:
                missing.append(str(error))
    for message in missing:
        log.warning("%s", message)
    return f"⚠ {' '.join(map(literal, missing))} The bundled model *mini* is here." if missing else None
