"""All training runs: a gr.HTML with a table (cards on a phone), what can be done with a run, and several compared.

The page asks `runs_list` every three seconds while it is in sight, so a closed page costs nothing and a restart of the
app loses nothing.

Value (Python to page): one message, told apart by `"kind"`:
    me       {"kind", "owner": public id | null, "admin": bool}: whose runs may be stopped, resumed, deleted
    refused  {"kind", "error"}: a sentence over the table
    told     {"kind", "id", "text", "url"?}: a sentence in the run's detail; a url on huggingface.co is linked
    file     {"kind", "id", "name", "url"}: the page downloads it; a path on this server only
    watch    {"kind", "id"}: opens that run's detail

Events (page to Python, payloads are untrusted), each with `gr.EventData`:
    `view.stop` {"id"}, `view.resume` {"id"}, `view.remove` {"id"}, `view.note` {"id", "text"},
    `view.open` {"id", "where": "explore" | "compare"}, `view.download` {"id"},
    `view.push` {"id", "repo", "token", "private"}, `view.watch` {"id"}, `view.train` {},
    `view.rate` {"name", "usd": text, empty to take it back}: a rate of the machine's owner
Other components reach the view by `window.rmxRuns`: open(id), compare(ids), refresh().
"""

from typing import Any

import gradio as gr

from rmx.recipes.recipe import PAPER, PRESETS
from rmx.ui.views.view_common import Server, mounted, served


def runs_view(
    runs_list: Server, run_curves: Server, run_files: Server, run_sweep: Server, costs: Server, **kwargs: Any
) -> gr.HTML:
    """Build the view.

    Args:
        runs_list: `{}` -> `{"runs": [row, ...]}`, newest first; a row is `{"id", "kind", "model", "set", "preset",
            "state", "stage", "at", "of", "left", "tau", "gated", "before", "after", "vs_base", "minutes", "usd",
            "taus", "owner", "created", "note", "differs", "message", "ahead", "has_adapter", "by_construction",
            "command"}`: before, after and vs_base are estimates, gated a share, left seconds, created unix seconds,
            taus the thresholds of a sweep (else null), and differs holds the recipe's fields that are not the paper's.
        run_curves: `{"ids"}` -> `{"runs": [{"id", "label", "updates": [...], "checks": [...]}, ...]}`, the events
            "update" and "check" of each.
        run_files: `{"id"}` -> `{"files": [{"path", "bytes"}, ...]}`.
        run_sweep: `{"id"}` -> `{"id", "sweep": the content of sweep.json | null}`; see rmx/train/sweep.py.
        costs: `{}` -> what `rmx cost --json` prints; see rmx/runs/row.py.
        kwargs: passed on to `gr.HTML` (elem_id, visible, ...).

    Each may return `{"error": sentence}`.
    """
    return gr.HTML(
        **mounted("runs/runs_view", "stop resume remove note open download push watch train rate"),
        server_functions=served(
            runs_list=runs_list, run_curves=run_curves, run_files=run_files, run_sweep=run_sweep, costs=costs
        ),
        paper=PAPER.json(),
        presets={name: recipe.json() for name, recipe in PRESETS.items()},
        **kwargs,
    )
