"""The app on a ZeroGPU Space: gradio's own `launch`, which `spaces` hooks, with the same routes and middleware.

All of it happens in the main thread: only there a GPU is pretended, so that models can be put on it.
"""

import logging

import gradio as gr

from rmx.errors import RmxError
from rmx.ui.server.self_check import check_no_file_is_served
from rmx.ui.server.web_app import parts
from rmx.ui.settings import Settings
from rmx.ui.tabs.wiring import literal
from rmx.zerogpu.calls import Gpu
from rmx.zerogpu.zero_workspace import ZeroWorkspace

log = logging.getLogger(__name__)


def launch(settings: Settings, gpu: Gpu | None = None, device: str = "cuda") -> gr.Blocks:
    """Load the models, build the page, serve it in a thread of its own; the caller waits with `block_thread`.

    Raises:
        RmxError: a setting that does not work there.
    """
    if settings.auth:
        raise RmxError("RMX_AUTH does not work on ZeroGPU. Make the Space private instead.")
    line = {"max_waiting": settings.max_visitors, "per_visitor": settings.per_visitor}
    line["per_address"] = settings.per_address
    workspace = ZeroWorkspace(gpu, device, policy=settings.policy, **line)
    notice = place(settings, workspace)
    workspace.ready()
    made = parts(workspace, settings, notice)
    routes = {"routes": made.api.routes, "middleware": made.api.user_middleware}
    closed = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    made.page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        prevent_thread_lock=True,
        quiet=True,
        max_threads=made.page.max_threads,
        app_kwargs=routes | closed,
        **made.options,
    )
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
