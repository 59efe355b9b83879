"""The Runs tab: every run of this machine, and what can be done with one."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from rmx.errors import RmxError
from rmx.ui.jobs.training import Training
from rmx.ui.tabs.wiring import LIGHT, QUIET, answering
from rmx.ui.views.runs_view import runs_view
from rmx.ui.visitor_cookie import Owners

PUSH: dict[str, Any] = {**QUIET, "concurrency_id": "push", "concurrency_limit": 4}


class RunsTab:
    """Callbacks of the tab; each makes one library call and says what came of it."""

    def __init__(self, training: Training, owners: Owners) -> None:
        self.training, self.owners = training, owners

    def opening(self, request: gr.Request) -> dict[str, Any]:
        visitor = self.owners.visitor_of(request)
        return {"kind": "me", "owner": visitor.public, "admin": visitor.admin}

    def act(self, action: str) -> Callable[..., Any]:
        """A callback that does `action` of `Training` to the run that an event names."""

        def callback(event: gr.EventData, request: gr.Request) -> Any:
            try:
                getattr(self.training, action)(event._data, self.owners.visitor_of(request))
            except RmxError as error:
                return {"kind": "refused", "error": str(error)}
            return gr.skip()

        return callback

    def push(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        """Push an adapter to the Hub with the visitor's own token."""
        run = event._data.get("id") if isinstance(event._data, dict) else None
        try:
            url = self.training.push(event._data, self.owners.visitor_of(request))
        except RmxError as error:
            return {"kind": "told", "id": run, "text": str(error)}
        return {"kind": "told", "id": run, "text": "Pushed to the Hub.", "url": url}

    def download(self, event: gr.EventData) -> dict[str, Any]:
        """Where the adapter's zip is."""
        run = str(event._data.get("id") if isinstance(event._data, dict) else "")
        return {"kind": "file", "id": run, "name": f"{run}.zip", "url": f"runs/{run}/adapter.zip"}


def build_runs_tab(training: Training, owners: Owners, page: gr.Tab) -> gr.HTML:
    """Lay the tab out inside an open gr.Tab and wire it; returns its view."""
    tab = RunsTab(training, owners)
    view = runs_view(
        answering(training.runs_list, owners.key_of),
        answering(training.run_curves),
        answering(training.run_files),
        answering(training.run_sweep),
        answering(training.costs, owners.key_of),
        elem_id="runs",
    )
    page.select(tab.opening, None, view, **LIGHT)
    for action in ("stop", "remove", "note", "rate"):
        getattr(view, action)(tab.act(action), None, view, **LIGHT)
    view.resume(tab.act("resume"), None, view, **{**QUIET, "concurrency_id": "train"})
    view.download(tab.download, None, view, **LIGHT)
    view.push(tab.push, None, view, **PUSH)
    return view
