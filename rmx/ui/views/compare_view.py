"""The comparison: a gr.HTML with three panes, where base and adapted part, patches, and figures over a problem set.

Value (Python to page): one message, told apart by `"kind"`, in any order and any number of times:
    map    {"kind", "id", "start", "toks": [[text, cls, flags, kl, H_base, H_adapted, p, q], ...],
            "done", "open"?, "result"?}
    patch  {"kind", "id", "map", "start", "toks": [[text, flags, H_base, from_text, p, q], ...],
            "done", "open"?, "result"?, "answers", "patches"}
    set    {"kind", "id", "what", "at", "of", "done", "rows" | "arms", ...}, the whole state of a job over a problem set
and `"error": sentence` on any of them. Deltas of map and patch can be lost; the page asks `pair_tail` for the rest.

Events (page to Python, payloads are untrusted), each with `gr.EventData`:
    `view.patch` {"map", "arm", "budget"}, `view.halt` {"id"}
Other components reach the view by `window.rmxPair`: step, arm, budget, pane, present.
"""

from typing import Any

import gradio as gr

from rmx.ui.views.view_common import Server, mounted, served


def compare_view(tail: Server, inspect: Server, check: Server, export: Server, **kwargs: Any) -> gr.HTML:
    """Build the view.

    Args:
        tail: `{"id", "start"}` -> a message with everything from `start`, with open and result where known.
        inspect: `{"id", "pos"}` -> `{"pos", "text", "cls", "near_tie", "kl", "rank", "p", "back_rank", "back_p",
            "base": {"entropy", "logp", "rank", "top": [{"id", "text", "p"}, ...]}, "adapted": {...}}`.
        check: `{"id", "copy"}` -> `{"max_dlogit", "positions", "how", "weights", "probe", "copy", "adapter",
            "seconds"}`.
        export: `{"id", "format": "json" | "csv"}` -> `{"name", "mime", "text"}`.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`.
    """
    return gr.HTML(
        **mounted("compare/compare_view", "patch halt"),
        server_functions=served(pair_tail=tail, pair_inspect=inspect, pair_check=check, pair_export=export),
        **kwargs,
    )
