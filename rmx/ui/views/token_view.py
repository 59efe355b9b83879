"""The explorer view: a gr.HTML that streams tokens, marks forks and swaps them.

Value (Python to page): one message of a run, in any order and any number of times,
`{"run", "start", "toks": [[text, entropy, p, rank, flags], ...], "open"?, "done", "result"?, "tree"?, "error"?}`.
Deltas can be lost on the way (view not mounted, sleeping browser tab); the page then asks `tail` for the rest.

Or one message of a measuring job, `{"kind", "run", "job", "done", ...}`: the whole state of "outcomes" (of one place,
"pos"), "importance", "rescue" or "sofar" (of a solution).

Events (page to Python, payloads are untrusted): `view.pick`, `view.halt`, `view.next`, and for
measuring `view.outcomes`, `view.importance`, `view.rescue`, `view.sofar`, `view.haltjob`, each with `gr.EventData`.
`view.verify` {"run"} asks to decode a recorded tree here.
`view.pins` {"pins": [{"run", "pos"}, ...]} tells all tokens pinned for training, at most eight, on each change.
Other components reach the view by `window.rmx`: setTau, goto, presenter, tour, open.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from rmx.ui.views.view_common import Server, mounted, served

EVENTS = "pick halt next outcomes importance rescue sofar haltjob verify pins"


def token_view(
    tail: Server,
    inspect: Server,
    look: Server,
    search: Server,
    sharing: Mapping[str, Server] | None = None,
    **kwargs: Any,
) -> gr.HTML:
    """Build the view.

    Args:
        tail: `{"run", "start"}` -> a message with everything from `start`, with open, result and tree where known.
        inspect: `{"run", "pos"}` -> `{"pos", "id", "text", "entropy", "p", "rank", "forced", "top": [...]}`.
        look: `{"run", "pos"}` -> `{"pos", "alternatives": [{"id", "text"}, ...]}`, what would follow each of five.
        search: `{"run", "pos", "q"}` -> `{"tokens": [{"id", "text", "p", "rank"}, ...]}`.
        sharing: `share_link`, `share_file`, `share_save`, as in rmx/ui/jobs/sharing.py; else nothing is offered.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`. A factory, not a subclass: gradio writes a stub file next to the source
    of every subclass, and type checkers would believe it.
    """
    return gr.HTML(
        **mounted("explore/token_view", EVENTS),
        server_functions=served(tail=tail, inspect=inspect, look=look, search=search, **(sharing or {})),
        **kwargs,
    )
