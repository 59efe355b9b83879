"""The page and its server: gradio mounted on FastAPI, a content policy, a health check, nothing from outside."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import fastapi
import gradio as gr
import uvicorn
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from rmx import __version__
from rmx.errors import RmxError
from rmx.explore.branches import Runs
from rmx.models.workspace import Workspace
from rmx.paths import ASSETS
from rmx.storage.memory_shares import TOKEN_BYTES, Kept
from rmx.ui.api.endpoints import add_api, limits_of, site_of
from rmx.ui.api.mcp_tools import has_mcp, serve_tools
from rmx.ui.api.request_guard import guard_bodies, refuse_body
from rmx.ui.background import finish_all
from rmx.ui.jobs.claims import Claims
from rmx.ui.jobs.compare import Comparer
from rmx.ui.jobs.evaluate import Evaluator
from rmx.ui.jobs.explore import Explorer
from rmx.ui.jobs.share import Sharing
from rmx.ui.jobs.train import Training
from rmx.ui.request_log import metrics, write_lines
from rmx.ui.server.askers import Askers, Namer
from rmx.ui.server.connections import Connections, calm_logs, most_connections, raise_descriptor_limit
from rmx.ui.server.content_policy import ContentPolicy, content_policy, parents_tag
from rmx.ui.server.doors import Doors
from rmx.ui.server.files import add_file_routes
from rmx.ui.server.hosts import HostCheck
from rmx.ui.server.light_sessions import lighten, without_matplotlib
from rmx.ui.server.malloc import few_arenas, large_blocks_apart
from rmx.ui.server.outgoing import send_everything
from rmx.ui.server.page_cache import PageCache
from rmx.ui.server.queue_shares import MOST_THREADS, Shares, share_queue
from rmx.ui.server.rate_limit import Gate
from rmx.ui.server.self_check import check_no_file_is_served
from rmx.ui.server.short_logs import keep_logs_short
from rmx.ui.server.temporary import use_own_folder
from rmx.ui.settings import Settings
from rmx.ui.tabs.claims_tab import build_claims_tab
from rmx.ui.tabs.compare_tab import OWN, CompareTab, build_compare_tab
from rmx.ui.tabs.errors import literal
from rmx.ui.tabs.evaluate_tab import build_evaluate_tab, wire_evaluate
from rmx.ui.tabs.explore_tab import BASE, ExploreTab, build_explore_tab
from rmx.ui.tabs.memory_panel import build_memory_panel
from rmx.ui.tabs.runs_tab import build_runs_tab
from rmx.ui.tabs.train_tab import TrainTab, build_train_tab
from rmx.ui.tabs.wiring import STREAM
from rmx.ui.views.view_common import CSS
from rmx.ui.visitor_cookie import Greeter, Owners, owners_of
from rmx.zerogpu.workspace import is_zerogpu

log = logging.getLogger(__name__)
LAST_WORDS = 1.0  # seconds that open pages have to receive what was halted
GRACE = 5  # seconds that open requests have to end when the app is stopped
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# After every event gradio makes a table of the last ten thousand and counts it, for a monitor that is closed here:
# memory of Arrow that only grows, and 5 to 10 ms. Its queue reads these when a page is built.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

THEME = gr.themes.Default(
    primary_hue="orange",
    neutral_hue="stone",
    # The semi-bold face that gradio bundles has no Latin letters; the system's own needs no download.
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    radius_size="sm",
)
LAUNCH: dict[str, Any] = {
    "css": CSS + (ASSETS / "app.css").read_text(encoding="utf-8"),
    "theme": THEME,
    "run_history": False,
    "enable_monitoring": False,
    "max_file_size": "1kb",
    "ssr_mode": False,
    "show_error": False,  # of bugs; what is meant for visitors is shown all the same
    "footer_links": [],
}
HEAD = """<header id="top"><h1>rmx</h1><p>The few words that decide an answer.</p></header>"""

# Both buttons stand over all tabs: they act on the view in sight, and the tour begins where it has something to show.
PRESENT = """() => {
  if (document.querySelector("#pair .rmx")?.offsetParent) window.rmxPair?.present(true);
  else window.rmx?.presenter(true, {pace: 6, pauseAtForks: true});
}"""
# After a run was opened elsewhere: that tab's main button, once its values are there.
PRESSED = """() => setTimeout(() => {
  const button = ["#pair-compare", "#solve"].map((id) => document.querySelector(id)).find((b) => b?.offsetParent);
  button?.click();
}, 250)"""
TOUR = """() => {
  if (!document.querySelector("#view .rmx")?.offsetParent) document.querySelector("#tabs [role=tab]")?.click();
  setTimeout(() => window.rmx?.tour(), 100);
}"""


def build_app(
    workspace: Workspace,
    settings: Settings | None = None,
    notice: str | None = None,
    training: Training | None = None,
    owners: Owners | None = None,
    explorer: Explorer | None = None,
    evaluator: Evaluator | None = None,
) -> gr.Blocks:
    """The whole page as gradio blocks."""
    settings = settings or Settings()
    training, owners = training or Training(workspace), owners or owners_of(settings.host, settings.public)
    explorer = explorer or Explorer(workspace)
    evaluator = evaluator or Evaluator(workspace, training.store, kept=explorer.runs.kept)
    kept, limits = explorer.runs.kept, explorer.limits
    with gr.Blocks(title="rmx · fork tokens", analytics_enabled=False, fill_width=True) as demo:
        with gr.Row(elem_id="bar"):
            gr.HTML(HEAD, apply_default_css=False, elem_id="brand")
            tour = gr.Button("Tour", size="sm", elem_id="tour", min_width=70, scale=0)
            present = gr.Button("Present", size="sm", elem_id="present", min_width=80, scale=0)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="explore"):
                explore = build_explore_tab(explorer, settings, notice, owners.key_of)
                c = explore.controls
                build_memory_panel(workspace, owners, settings.public, c.section, c.model_note)
            with gr.Tab("Compare", id="compare") as page:
                compare = build_compare_tab(Comparer(workspace, kept, limits), settings, page, owners.key_of)
            with gr.Tab("Train", id="train") as page:
                train = build_train_tab(training, owners, page)
            with gr.Tab("Evaluate", id="evaluate") as page:
                evaluate = build_evaluate_tab(evaluator, settings, page, owners)
            with gr.Tab("Claims", id="claims") as page:
                claims = build_claims_tab(Claims(workspace, public=settings.public), settings, page, owners.key_of)
            with gr.Tab("Runs", id="runs") as page:
                runs = build_runs_tab(training, owners, page)
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        tour.click(None, None, None, js=TOUR, **hidden)
        present.click(None, None, None, js=PRESENT, **hidden)
        wire_start(demo, explore, compare)
        demo.unload(claims.leave)
        wire_runs(training, tabs, explore, compare, train, runs)
        wire_evaluate(demo, evaluate, tabs, explore, compare, PRESSED)
        add_api(demo, site_of(workspace, settings, training.store), owners)
    demo.max_threads = MOST_THREADS
    demo.queue(api_open=False, max_size=max(64, 4 * settings.max_visitors))
    shares = Shares(2 * settings.per_visitor, 4 * settings.per_address if settings.public else 0)
    gone = (explore.visitors.leave, compare.visitors.leave, claims.visitors.leave)
    share_queue(demo, Namer(owners, settings.public), shares, gone)
    return demo


def wire_start(demo: gr.Blocks, explore: ExploreTab, compare: CompareTab) -> None:
    """What happens when a page opens and when it closes."""
    view = next(b for b in demo.blocks.values() if getattr(b, "elem_id", None) == "view")
    demo.load(explore.opening, None, view, **STREAM)
    demo.unload(explore.leave)
    demo.unload(compare.leave)


def wire_runs(
    training: Training, tabs: gr.Tabs, explore: ExploreTab, compare: CompareTab, train: TrainTab, runs: gr.HTML
) -> None:
    """A run's way to the other tabs: its adapter on its model, ready to be solved with or compared."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    def open_run(event: gr.EventData) -> tuple[Any, ...]:
        data = event._data if isinstance(event._data, dict) else {}
        try:
            model, adapter = training.opened(data)
        except RmxError as error:
            return ({"kind": "refused", "error": str(error)}, *[gr.skip()] * 7)
        if data.get("where") == "compare":
            pair = (OWN, gr.Group(visible=True), model, adapter)
            return (gr.skip(), gr.Tabs(selected="compare"), gr.skip(), gr.skip(), *pair)
        shown = gr.Dropdown([BASE, adapter], value=adapter)
        return (gr.skip(), gr.Tabs(selected="explore"), model, shown, *[gr.skip()] * 4)

    def watch(event: gr.EventData) -> tuple[Any, Any]:
        data = event._data if isinstance(event._data, dict) else {}
        return gr.Tabs(selected="train"), {"kind": "watch", "id": str(data.get("id"))}

    c = compare.controls
    targets = [tabs, explore.controls.model, explore.controls.adapter, c.preset, c.own, c.base, c.adapter]
    for view in (train.view, runs):
        view.open(open_run, None, [view, *targets], concurrency_id="load", **hidden).then(
            None, None, None, js=PRESSED, **hidden
        )
    runs.watch(watch, None, [tabs, train.view], queue=False, **hidden)
    runs.train(lambda: gr.Tabs(selected="train"), None, tabs, queue=False, **hidden)
    explore.view.pins(explore.pinned, None, train.pins, trigger_mode="multiple", **hidden)


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
    """Page, /health, closed doors, content policy."""
    use_own_folder()
    keep_logs_short()
    training, owners = Training(workspace), owners_of(settings.host, settings.public, settings.proxies)
    room = settings.kept_tokens * TOKEN_BYTES
    kept = Kept(room, room // 4, 60 * settings.idle_minutes)
    explorer = Explorer(workspace, Runs(kept), limits_of(settings))
    api = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @api.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "models": workspace.loaded}

    @api.get("/metrics")
    def counters(request: fastapi.Request) -> Response:
        if not settings.metrics and not owners.visitor_of(request).admin:
            return PlainTextResponse("not here", 404)
        return Response(
            metrics(workspace.waiting(), explorer.runs.tokens, kept.nbytes), media_type="text/plain; version=0.0.4"
        )

    @api.get("/runs/{run}/adapter.zip")
    def adapter(run: str) -> Response:
        try:
            name, content = training.adapter_zip(run)
        except RmxError as error:
            return PlainTextResponse(str(error), 404)
        shown = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/zip", headers=shown)

    # The last one that is added is the first that a request meets.
    api.add_middleware(Greeter, owners=owners)
    api.add_middleware(Askers, name=Namer(owners, settings.public))
    api.add_middleware(
        Gate, owners=owners, waiting=workspace.waiting, most=settings.max_visitors, auth=settings.auth,
        limited=settings.public,
    )  # fmt: skip
    api.add_middleware(Doors, prefix=settings.root_path, proxied=settings.public)
    api.add_middleware(HostCheck, names=None if settings.public else settings.hosts)
    api.add_middleware(ContentPolicy, policy=content_policy(settings), proxied=settings.public)
    api.add_middleware(GZipMiddleware, minimum_size=2000)  # streams stay as they are
    evaluator = Evaluator(workspace, training.store)
    page = build_app(workspace, settings, notice, training, owners, explorer, evaluator)
    sharing = Sharing(explorer, settings.max_new_tokens)
    add_file_routes(api, evaluator.take_file, sharing.open_file, owners.key_of)
    guard_bodies(api, page)
    mounted: list[gr.routes.App] = []
    api.user_middleware.append(Middleware(PageCache, forget=lambda: _forget_info(mounted)))
    options = LAUNCH | {"head": parents_tag(settings), "mcp_server": has_mcp(), "root_path": settings.root_path or None}
    site = site_of(workspace, settings, training.store)

    def halt() -> None:
        workspace.close()
        explorer.runs.halt_all()
        finish_all()

    def finish(inner: gr.routes.App) -> None:
        mounted.append(inner)
        inner.add_exception_handler(RequestValidationError, refuse_body)
        page.has_launched = True  # `launch` sets it; where a page is mounted gradio would copy any file it is told of
        lighten(page)
        send_everything()
        serve_tools(page, site, owners, settings)

    return Parts(api, page, options, halt, finish)


def _forget_info(mounted: Sequence[gr.routes.App]) -> None:
    """Have gradio describe its endpoints anew for the next who asks."""
    for app in mounted:
        app.api_info = None


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
        from rmx.ui.server.zerogpu import launch

        launch(settings).block_thread()
        return
    workspace = Workspace(
        policy=settings.policy,
        max_waiting=settings.max_visitors,
        per_visitor=settings.per_visitor,
        per_address=settings.per_address,
    )
    notice = prepare(settings, workspace)
    app = web_app(workspace, settings, notice)
    if settings.public:
        check_no_file_is_served(app)
    shown = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    with _listen(settings) as door:
        print(f"rmx is at http://{shown}:{door.getsockname()[1]}  (Ctrl-C stops it)", flush=True)  # noqa: T201
        Server(server_config(app), app.state.halt, app.state.hang_up).run(sockets=[door])


def server_config(app: fastapi.FastAPI) -> uvicorn.Config:
    """How the app is served: as many connections as this process has room for, and no more."""
    calm_logs()
    most = most_connections(raise_descriptor_limit())
    return uvicorn.Config(
        app,
        http=Connections(most + 8).protocol(),  # those beyond `limit_concurrency` still get an answer
        limit_concurrency=most,
        backlog=128,
        log_level="warning",
        timeout_graceful_shutdown=GRACE,
        server_header=False,
    )


class Server(uvicorn.Server):
    """Told to stop, it lets what is being generated end at its next step, so that open streams get their last message.

    Training runs are processes of their own and go on.
    """

    def __init__(
        self, config: uvicorn.Config, halt: Callable[[], None], hang_up: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self._halt, self._hang_up = halt, hang_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # In a thread: a signal may come while this one holds a lock that halting needs.
        threading.Thread(target=self._halt, daemon=True).start()
        # Open pages hold a stream that says nothing; without this they would use up the whole grace.
        self._loop.call_soon_threadsafe(self._loop.call_later, LAST_WORDS, self._hang_up)
        super().handle_exit(sig, frame)


def _listen(settings: Settings) -> socket.socket:
    """An open door, before anybody is told of it.

    Raises:
        RmxError: the port is taken or the host is not ours.
    """
    try:
        return socket.create_server((settings.host, settings.port))
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise RmxError(f"Cannot listen on {place} ({error.strerror}). Take another: --port N or PORT=N.") from error
