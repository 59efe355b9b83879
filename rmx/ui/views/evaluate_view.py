"""An evaluation: a gr.HTML with its figures, curves, and the problems won and lost; and a reader of a visitor's file.

Value of the view (Python to page): one message, told apart by `"kind"`:
    plan       {"kind", "samples", "seconds", "command", "set", "own"}: what Evaluate would do now
    unplanned  {"kind"}: the form is not complete yet
    job        {"kind", "id"}: follow this evaluation
    refused    {"kind", "error"}: a sentence over everything
The page follows a job by `eval_tail` and keeps its id for this browser tab, so a reload finds it again.

Events (page to Python, payloads are untrusted), each with `gr.EventData`:
    `view.halt` {"id"}, `view.attach` {"id"}, `view.open` {"id", "problem", "name", "where": "explore" | "compare"}
Other components reach it by `window.rmxEval`: show(problem's id), follow(id).
"""

from typing import Any

import gradio as gr

from rmx.ui.views.view_common import Server, mounted, served

KEY = "rmx-evaluation"  # of the browser tab's own storage


def evaluate_view(tail: Server, export: Server, **kwargs: Any) -> gr.HTML:
    """Build the view.

    Args:
        tail: `{"id", "since"}` -> `{"kind": "eval", "id", "state", "stamp", "at", "of", "cached", "seconds", "left",
            "error"?, "report"?, "rows"?: [[place, row], ...], "command"?, "notes"?}`, where report and rows are what
            has changed after the stamp `since`; or `{"kind": "gone"}`.
        export: `{"id", "format": "json" | "csv"}` -> `{"name", "mime", "text"}`.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`.
    """
    return gr.HTML(
        **mounted("evaluate/evaluate_view", "halt attach open"),
        server_functions=served(eval_tail=tail, eval_export=export),
        storage_key=KEY,
        **kwargs,
    )


def evaluate_file(most: int, **kwargs: Any) -> gr.HTML:
    """A button that reads a .jsonl or .csv file in the browser and sends its text to /files/problems.

    Its value is the answer, `{"file", "name", "problems", "answers"}`; None without a file.

    Args:
        most: bytes that a file may have.
    """
    return gr.HTML(
        value=None,
        **mounted("evaluate/evaluate_file", styles=["evaluate/evaluate_view.css"]),
        most_bytes=most,
        **kwargs,
    )
