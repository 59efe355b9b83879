"""The web application: the page on FastAPI, our own routes, what stands before them, and a check that no file leaks."""

import asyncio
import atexit
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import anyio
import fastapi
import gradio as gr
import httpx
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from rmx import __version__
from rmx.errors import RmxError
from rmx.explore.generate import BranchStore
from rmx.models.workspace import Workspace
from rmx.storage.job_store import TOKEN_BYTES, MemoryShares
from rmx.ui.endpoints import has_mcp, limits_of, serve_tools, site_of
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer, Sharing
from rmx.ui.jobs.page_jobs import finish_all, metrics
from rmx.ui.jobs.training import Training
from rmx.ui.page import build_app
from rmx.ui.server import page_files
from rmx.ui.server.doors import Bodies, Doors, HostCheck, refuse_body
from rmx.ui.server.page_files import FirstFiles
from rmx.ui.server.queue_shares import lighten, lighten_config, send_everything, send_light_page
from rmx.ui.server.rate_limit import AccessGate, keep_logs_short
from rmx.ui.settings import Settings
from rmx.ui.tabs.form_parts import answering
from rmx.ui.visitor_cookie import Greeter, Owners, owners_of

VARIABLE = "GRADIO_TEMP_DIR"
_own: dict[int, FirstFiles] = {}  # of the apps of this process, by their `app_id`


@cache
def use_own_folder() -> str:
    """Have gradio keep its files in a new folder that only this user may open; to be called before a page is built.

    By itself it takes a folder in the system's temporary one, which all apps of the machine share.
    """
    folder = tempfile.mkdtemp(prefix="rmx-gradio-")
    os.environ[VARIABLE] = folder
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a forked copy
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


ROADS = ("run/predict", "api/predict", "queue/join", "component_server")
EVENTS = 3  # of the page that are tried; all share their way in
WAYS = ("file=", "file/", "proxy=file://", "stream/")


def check_no_file_is_served(app: Any) -> None:
    """Ask an ASGI application for a file that only this process knows, in every way that ever worked.

    Raises:
        RmxError: it gave the file away, or it failed.
    """
    word = secrets.token_hex(16)
    canaries = []
    with ExitStack() as stack:
        for folder in {tempfile.gettempdir(), os.environ.get(VARIABLE, tempfile.gettempdir())}:
            canary = tempfile.NamedTemporaryFile("w", prefix="rmx-canary-", suffix=".txt", dir=folder)  # noqa: SIM115
            stack.enter_context(canary).write(word)
            canary.flush()
            canaries.append(canary.name)
        thread = stack.enter_context(ThreadPoolExecutor(1))  # this one may have a loop that runs already
        given_away = thread.submit(asyncio.run, _ask(app, canaries, word)).result()
    if given_away:
        raise RmxError(
            f"This app would hand out files of the machine ({given_away}), so it does not start. Update rmx."
        )


async def _ask(app: Any, canaries: list[str], word: str) -> str | None:
    """The request that brought a canary to light; None where none did."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/gradio_api") as client:
        for canary in canaries:
            for way in WAYS:
                if word in (await client.get(f"/{way}{canary}")).text:
                    return way
            for road, body in _bodies(canary):
                text = (await client.post(f"/{road}", json=body)).text
                for copy in re.findall(r"/[^\s\"'\\]*rmx-canary-[^\s\"'\\]*", text):
                    if word in (await client.get(f"/file={copy}")).text:
                        return road
                if word in text:
                    return road
    return None


def _bodies(canary: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Requests that name a file as gradio's clients do."""
    file = {"path": canary, "meta": {"_type": "gradio.FileData"}}
    for road in ROADS:
        for index in range(EVENTS):
            yield road, {"data": [file], "fn_index": index, "session_hash": "canary", "component_id": 1, "fn_name": "x"}


# -- The web application ----------------------------------------------------------------------------------------------


THEME = gr.themes.Default(
    primary_hue="orange",
    neutral_hue="stone",
    # The semi-bold face that gradio bundles has no Latin letters; the system's own needs no download.
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    radius_size="sm",
).set(  # what is read has a contrast of 4.5 to 1 and more
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
)


LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "run_history": False,
    "enable_monitoring": False,
    "max_file_size": "1kb",
    "ssr_mode": False,
    "show_error": False,  # of bugs; what is meant for visitors is shown all the same
    "footer_links": [],
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What an application is made of, however it is served."""

    api: fastapi.FastAPI  # routes and middleware
    page: gr.Blocks
    options: dict[str, Any]  # of mounting or launching the page
    halt: Callable[[], None]  # ends what is being generated
    finish: Callable[[gr.routes.App], None]  # what is left to do once the page is mounted or launched as this app


def web_app(workspace: Workspace, settings: Settings, notice: str | None = None) -> fastapi.FastAPI:
    """The FastAPI application: the page and what is around it. Its `state.halt` ends what is generated."""
    made = parts(workspace, settings, notice)
    app = gr.mount_gradio_app(made.api, made.page, path="/", **made.options)
    inner = next(route.app for route in app.routes if isinstance(getattr(route, "app", None), gr.routes.App))
    made.finish(inner)
    app.state.halt, app.state.hang_up = made.halt, inner.stop_event.set
    return app


def parts(workspace: Workspace, settings: Settings, notice: str | None = None) -> Parts:
    """Make the page, the routes and the middleware around it."""
    use_own_folder()
    keep_logs_short()
    training, owners = Training(workspace), owners_of(settings.host, settings.public, settings.proxies)
    room = settings.kept_tokens * TOKEN_BYTES
    kept = MemoryShares(room, room // 4, 60 * settings.idle_minutes)
    explorer = Explorer(workspace, BranchStore(kept), limits_of(settings))
    evaluator = Evaluator(workspace, training.store, kept=kept)
    api = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(api, settings, explorer, training, owners)
    sharing = Sharing(explorer, settings.max_new_tokens)
    send_light_page()
    add_file_routes(api, {"problems": evaluator.take_file, "tree": sharing.open_file})
    _add_middleware(api, workspace, settings, owners)
    page = build_app(workspace, settings, notice, training, owners, explorer, evaluator, api)
    shown = lighten_config(page.default_config.get_config())["components"]
    first = FirstFiles({one["type"] for one in shown})
    page_files.add_page_files(api, first)
    _own[page.app_id] = first
    page_files.link_first_tab(_own)
    mounted: list[gr.routes.App] = []

    def forget_info() -> None:
        """Have gradio describe its endpoints anew for the next who asks."""
        for app in mounted:
            app.api_info = None

    api.user_middleware += [Middleware(Bodies, demo=page), Middleware(page_files.PageCache, forget=forget_info)]
    head, root = page_files.parents_tag(), settings.root_path or None
    options = LAUNCH | {"head": head, "mcp_server": has_mcp(), "root_path": root}
    site = site_of(workspace, settings, training.store)

    def halt() -> None:
        workspace.close()
        explorer.runs.halt_all()
        finish_all()

    def finish(inner: gr.routes.App) -> None:
        mounted.append(inner)
        inner.add_exception_handler(RequestValidationError, refuse_body)
        page.has_launched = True  # `launch` sets it; where a page is mounted gradio would copy any file it is named
        lighten(page)
        send_everything()
        serve_tools(page, site, owners, settings)

    return Parts(api, page, options, halt, finish)


def _add_middleware(api: fastapi.FastAPI, workspace: Workspace, settings: Settings, owners: Owners) -> None:
    """Put what checks requests before the routes. The last one that is added is the first that a request meets."""
    api.add_middleware(Greeter, owners=owners)
    limits: dict[str, Any] = {"most": settings.max_visitors, "auth": settings.auth, "limited": settings.public}
    api.add_middleware(AccessGate, owners=owners, waiting=workspace.waiting, **limits)
    api.add_middleware(Doors, prefix=settings.root_path, proxied=settings.public)
    api.add_middleware(HostCheck, names=None if settings.public else settings.hosts)
    api.add_middleware(page_files.ContentPolicy, policy=page_files.content_policy(), proxied=settings.public)
    api.add_middleware(GZipMiddleware, minimum_size=2000)  # streams stay as they are


# -- routes of our own beside the page --------------------------------------------------------------------------------

AT_ONCE = 2  # files that are read at the same time: each holds a thread and a few times its size
Question = Callable[[object], dict[str, Any]]


def add_routes(
    api: fastapi.FastAPI, settings: Settings, explorer: Explorer, training: Training, owners: Owners
) -> None:
    """Add `GET /health`, `GET /runs/{run}/adapter.zip`, and `GET /metrics` for the machine's owner or for everybody."""
    workspace = explorer.workspace

    @api.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "models": workspace.loaded}

    @api.get("/metrics")
    def counters(request: fastapi.Request) -> Response:
        if not settings.metrics and not owners.visitor_of(request).admin:
            return PlainTextResponse("not here", 404)
        text = metrics(workspace.waiting(), explorer.runs.tokens, explorer.runs.kept.nbytes)
        return Response(text, media_type="text/plain; version=0.0.4")

    @api.get("/runs/{run}/adapter.zip")
    def adapter(run: str) -> Response:
        try:
            name, content = training.adapter_zip(run)
        except RmxError as error:
            return PlainTextResponse(str(error), 404)
        shown = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/zip", headers=shown)


def add_file_routes(api: fastapi.FastAPI, questions: dict[str, Question]) -> None:
    """Add `POST /files/{kind}?name=…` for each question; the body is the file's text.

    Args:
        questions: by kind, `{"name", "text"}` of a file -> the reply about it.
    """
    free = anyio.CapacityLimiter(AT_ONCE)

    def add(kind: str, ask: Callable[[Any], Any]) -> None:
        @api.post(f"/files/{kind}")
        async def take_file(request: fastapi.Request, name: str = "") -> JSONResponse:
            try:
                text = (await request.body()).decode("utf-8")
            except UnicodeDecodeError:
                return JSONResponse({"error": "The file is not UTF-8 text. Save it as UTF-8."}, 422)
            given = {"name": name[:200], "text": text}
            return JSONResponse(await anyio.to_thread.run_sync(ask, given, limiter=free))

    for kind, question in questions.items():
        add(kind, answering(question))
