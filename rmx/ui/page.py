"""The page: gradio blocks of all tabs, and the events that lead from one tab to another."""

import logging
import os
from typing import Any

import fastapi
import gradio as gr

from rmx.errors import RmxError
from rmx.models.workspace import Workspace
from rmx.ui.endpoints import add_api, site_of
from rmx.ui.jobs.claims_jobs import Claims
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.evaluator import Evaluator
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.jobs.training import Training
from rmx.ui.server.page_files import TITLE
from rmx.ui.server.queue_shares import MOST_THREADS, SharedStream, Shares, share_queue
from rmx.ui.settings import Settings
from rmx.ui.tabs.compare_tab import CompareTab, build_claims_tab, build_compare_tab
from rmx.ui.tabs.evaluate_tab import build_evaluate_tab, wire_evaluate
from rmx.ui.tabs.explore_form import BASE, build_memory_panel
from rmx.ui.tabs.explore_tab import ExploreTab, build_explore_tab
from rmx.ui.tabs.form_parts import OWN, QUIET, STREAM, payload, refused
from rmx.ui.tabs.train_tab import TrainTab, build_runs_tab, build_train_tab
from rmx.ui.views import FILES, build_late
from rmx.ui.visitor_cookie import Owners, owners_of

log = logging.getLogger(__name__)
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# After every event gradio makes a table of the last ten thousand and counts it, for a monitor that is closed here:
# memory of Arrow that only grows, and 5 to 10 ms. Its queue reads these when a page is built.
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**9))

HEAD = FILES["common/head.html"].decode()

# Both buttons stand over all tabs: they act on the view in sight, and the tour begins where it has something to show.
PRESENT = """() => {
  const inSight = (view) => document.querySelector(`${view} .rmx`)?.offsetParent;
  if (inSight("#pair")) window.rmxPair?.present(true);
  else if (inSight("#train")) window.rmxTrain?.present(true);
  else if (inSight("#view")) window.rmx?.presenter(true, {pace: 6, pauseAtForks: true});
}"""
# After a run was opened elsewhere: that tab's main button, once its values are there.
PRESSED = """() => setTimeout(() => {
  const button = ["#pair-compare", "#solve"].map((id) => document.querySelector(id)).find((b) => b?.offsetParent);
  button?.click();
}, 250)"""
BEGUN = "async () => (window.rmxEarly && (await window.rmxOpening.then(() => 'begun', () => ''))) ?? ''"
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
    api: fastapi.FastAPI | None = None,
) -> gr.Blocks:
    """The whole page as gradio blocks; its first solution becomes a route of `api`, for pages that do not wait."""
    settings = settings or Settings()
    training, owners = training or Training(workspace), owners or owners_of(settings.host, settings.public)
    explorer = explorer or Explorer(workspace)
    evaluator = evaluator or Evaluator(workspace, training.store, kept=explorer.runs.kept)
    kept, limits = explorer.runs.kept, explorer.limits
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as demo:
        with gr.Row(elem_id="bar"):
            gr.HTML(HEAD, apply_default_css=False, elem_id="brand")
            tour = gr.Button("Tour", size="sm", elem_id="tour", min_width=70, scale=0)
            present = gr.Button("Present", size="sm", elem_id="present", min_width=80, scale=0)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="explore"):
                explore = build_explore_tab(explorer, settings, notice)
                c = explore.controls
                build_memory_panel(workspace, owners, settings.public, c.section, c.model_note)
                pins = gr.State([])  # forks for training, as JSON
                explore.view.pins(explore.pinned, None, pins, trigger_mode="multiple", **QUIET)
            with gr.Tab("Compare", id="compare") as page:
                build_late()
                compare = build_compare_tab(Comparer(workspace, kept, limits), settings, page)
            with gr.Tab("Train", id="train") as page:
                build_late()
                train = build_train_tab(training, owners, page, pins)
            with gr.Tab("Evaluate", id="evaluate") as page:
                build_late()
                evaluate = build_evaluate_tab(evaluator, settings, page, owners)
            with gr.Tab("Claims", id="claims"):
                build_late()
                claims = build_claims_tab(Claims(workspace), settings)
            with gr.Tab("Runs", id="runs") as page:
                build_late()
                runs = build_runs_tab(training, owners, page)
        tour.click(None, None, None, js=TOUR, **QUIET)
        present.click(None, None, None, js=PRESENT, **QUIET)
        begun = gr.Textbox(visible=False)
        demo.load(explore.opening, begun, explore.view, js=BEGUN, **STREAM)
        if api:
            add_opening(api, demo, explore)
        for tab in (explore, compare, claims):
            demo.unload(tab.leave)
        wire_runs(training, tabs, explore, compare, train, runs)
        wire_evaluate(demo, evaluate, tabs, explore, compare, PRESSED)
        add_api(demo, site_of(workspace, settings, training.store), owners)
    demo.max_threads = MOST_THREADS
    demo.queue(api_open=False, max_size=max(64, 4 * settings.max_visitors))
    shares = Shares(2 * settings.per_visitor, 4 * settings.per_address if settings.public else 0)
    share_queue(demo, owners.name, shares, [tab.visitors.leave for tab in (explore, compare, claims)])
    return demo


def add_opening(api: fastapi.FastAPI, demo: gr.Blocks, explore: ExploreTab) -> None:
    """Add `GET /opening`: the messages of the first example's solution, as events."""

    @api.get("/opening")
    def opening(request: fastapi.Request) -> SharedStream:
        return SharedStream(demo, request, explore.example(request))


def wire_runs(
    training: Training, tabs: gr.Tabs, explore: ExploreTab, compare: CompareTab, train: TrainTab, runs: gr.HTML
) -> None:
    """A run's way to the other tabs: its adapter on its model, ready to be solved with or compared."""

    def open_run(event: gr.EventData) -> tuple[Any, ...]:
        data = payload(event)
        try:
            model, adapter = training.opened(data)
        except RmxError as error:
            return (refused(error), *[gr.skip()] * 7)
        if data.get("where") == "compare":
            pair = (OWN, gr.Group(visible=True), model, adapter)
            return (gr.skip(), gr.Tabs(selected="compare"), gr.skip(), gr.skip(), *pair)
        shown = gr.Dropdown([BASE, adapter], value=adapter)
        return (gr.skip(), gr.Tabs(selected="explore"), model, shown, *[gr.skip()] * 4)

    pair = compare.controls.pair
    chosen = [pair.preset, pair.own, pair.base, pair.adapter]
    targets = [tabs, explore.controls.model, explore.controls.adapter, *chosen]
    for view in (train.view, runs):
        opened = view.open(open_run, None, [view, *targets], concurrency_id="load", **QUIET)
        opened.then(None, None, None, js=PRESSED, **QUIET)
