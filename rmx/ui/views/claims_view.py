"""The claims: a gr.HTML with one card for each, told apart by what the paper says and what was measured.

Value (Python to page): one message, the whole state of a job, any of which may be lost:
    claims {"kind", "id", "done", "stopped", "does", "at", "of", "rows": [{"id", "verdict", "why", "text", "n",
            "minutes", "state", "bars": [{"name", "numbers", "said", "low", "value", "high", "zero", "band"}, ...]}],
            "pair"?, "set"?, "n"?, "tau"?, "seed"?, "caveats"?, "licence"?, "source"?, "command"?, "error"?}

Events (page to Python, payloads are untrusted), each with `gr.EventData`:
    `view.measure` {"claim": id, "before": id of the job in sight | null}, `view.halt` {"id"}
Other components reach the view by `window.rmxClaims`: job() is the id of the job in sight, or null.
"""

from typing import Any

import gradio as gr

from rmx.ui.jobs.claims_jobs import claims_texts
from rmx.ui.views.view_common import Server, mounted, served


def claims_view(tail: Server, export: Server, **kwargs: Any) -> gr.HTML:
    """Build the view.

    Args:
        tail: `{"id"}` -> a message. export: `{"id"}` -> `{"name", "mime", "text"}`, the report.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`.
    """
    return gr.HTML(
        **mounted("claims/claims_view", "measure halt"),
        server_functions=served(claims_tail=tail, claims_export=export),
        claims=claims_texts(),
        **kwargs,
    )
