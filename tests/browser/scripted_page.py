"""What the scripted servers have in common: how a view of ours is launched, and its address while it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fastapi
import gradio as gr
from conftest import free_port

from rmx.ui.server.page_files import add_page_files, link_first_tab

own = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
add_page_files(own)
link_first_tab({})
LAUNCH: dict[str, Any] = {
    "app_kwargs": {"routes": own.routes},  # before gradio's
    "run_history": False,
    "ssr_mode": False,
    "footer_links": [],
    "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
}


@contextmanager
def shown(build: Callable[[], gr.Blocks]) -> Iterator[str]:
    """The address of a scripted page for the length of a `with` block."""
    port = free_port()
    demo = build()
    demo.launch(prevent_thread_lock=True, quiet=True, server_port=port, **LAUNCH)
    if add_routes := getattr(demo, "add_routes", None):  # those that the app has beside gradio's
        add_routes(demo.app)
    yield f"http://127.0.0.1:{port}/"
    demo.close(verbose=False)
