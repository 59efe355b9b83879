"""The live view of a training run: a gr.HTML that shows what a run will cost, how it goes and what it did.

Value (Python to page): one message, or a list of them (a value that follows another at once would replace it unseen):
    watch   {"kind", "id"}: attach to this run; the page remembers it over reloads (address and browser storage)
    me      {"kind", "owner": public id, "admin"}: who looks; Stop and Resume show on own runs, or on all for an admin
    refused {"kind", "error"}: what was asked for is not done, and why
    plan    {"kind", "minutes": {"value", "low", "high"} | null, "memory_mb" | null, "usd" | null, "rate": sentence |
            null, "command", "departs": [[field, paper, here], ...]}
    dry     {"kind", "run": id | null, "tau", "k", "rollouts": [{"problem_id", "gen", "correct", "advantage",
            "toks": [[text, entropy], ...]}, ...], "levels": [tau, ...], "gated_right", "gated_wrong", "gated_zero":
            [count per level], "tokens", "of_rollouts", "selection", "estimate": {"seconds", "memory_mb", "usd"} | null}

The page asks by itself: `run_tail` about once a second while it is in sight and the run is alive, every five seconds
once it is over; `dry_run` once, when the gate of a run comes into sight.

Events (page to Python, payloads are untrusted), each with `gr.EventData`:
    `view.stop` {"id"}, `view.resume` {"id", "tau"?: the slider's, after a dry run},
    `view.open` {"id", "where": "explore" | "compare"},
    `view.download` {"id"}, `view.tau` {"tau"}: the threshold on which the slider came to rest
After stop and resume the page waits for the poll to tell the new state; a `refused` message ends the waiting.
Other components reach the view by `window.rmxTrain`: watch(id), tau(), watched().
"""

from typing import Any

import gradio as gr

from rmx.ui.views.view_common import Server, mounted, served


def train_view(run_tail: Server, dry_run: Server, **kwargs: Any) -> gr.HTML:
    """Build the view.

    Args:
        run_tail: `{"id", "start"}` -> `{"id", "start", "next", "events": [...], "status": {..., "alive"}, "config"?}`,
            the events from `start` on in the order in which they happened; config where start is 0. A `next` below
            `start` makes the page read the run anew; `"more": true` makes it ask on at once.
        dry_run: `{"id"}` -> the message `dry` of that run's stored rollouts.
        kwargs: passed on to `gr.HTML` (elem_id, value, visible, ...).

    Each may return `{"error": sentence}`; run_tail does for a run that is not there.
    """
    return gr.HTML(
        **mounted("train/train_view", "stop resume open download tau"),
        server_functions=served(run_tail=run_tail, dry_run=dry_run),
        **kwargs,
    )
