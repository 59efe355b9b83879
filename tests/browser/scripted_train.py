"""The Train view on a scripted server, whose time is driven by hand. `python tests/browser/scripted_train.py`."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import gradio as gr
import train_world as world
from scripted_page import LAUNCH

from rmx.ui.views import build_view

RUNS = world.make_runs()
POLLS: list[dict[str, Any]] = []  # every question of the page: id, start, events in the reply
EVENTS: list[tuple[str, dict[str, Any]]] = []  # what the page sent
PIECE = 4000  # events that one poll brings at most
SEND: list[Any] = []  # what the button Send sends, as one list
DOWN = threading.Event()  # while set, the app does not answer
NUMBERS = itertools.count(1)  # gradio does not pass on a value that equals the last one


def remake() -> None:
    """All runs as they are at the start, nothing asked or sent yet."""
    RUNS.update(world.make_runs())
    for heard in (POLLS, EVENTS, SEND):
        heard.clear()
    DOWN.clear()


# ---- what the page asks -----------------------------------------------------------------------------------------
def run_tail(args: dict[str, Any]) -> dict[str, Any]:
    if DOWN.is_set():
        raise RuntimeError("down")
    key, start = str(args.get("id")), int(args.get("start") or 0)
    run = RUNS.get(key)
    if run is None:
        POLLS.append({"id": key, "start": start, "events": 0})
        return {"error": f"There is no run {key} here."}
    run.happen()
    told = run.told[: start + PIECE]
    POLLS.append({"id": key, "start": start, "events": len(told[start:])})
    reply = {"id": key, "start": start, "next": len(told), "events": told[start:], "status": run.status()}
    reply["more"] = len(told) < len(run.told)
    return reply | {"config": run.config} if start == 0 else reply


def dry_run(args: dict[str, Any]) -> dict[str, Any]:
    run = str(args.get("id"))
    EVENTS.append(("dry_run", dict(args)))
    if run == "guarded":
        return {"error": "The rollouts of this run were removed. Sample them anew."}
    return world.dry(run, rollouts=world.hostile_rollouts()) if run == "hostile" else world.dry(run)


# ---- what the page sends ----------------------------------------------------------------------------------------
def heard(name: str) -> Callable[[gr.EventData], None]:
    def note(evt: gr.EventData) -> None:
        EVENTS.append((name, evt._data if isinstance(evt._data, dict) else {}))

    return note


def build() -> gr.Blocks:
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="Scripted training", analytics_enabled=False, fill_width=True) as demo, gr.Tabs():
        with gr.Tab("Train"), gr.Row():
            with gr.Column(scale=0, min_width=200):
                which = gr.Radio(list(RUNS), value="live", label="Run")
                go = gr.Button("Watch", variant="primary")
                plan, dry, send = gr.Button("Plan"), gr.Button("Dry run"), gr.Button("Send")
            with gr.Column(scale=1, min_width=320):
                view = build_view("train/train_view", {"run_tail": run_tail, "dry_run": dry_run}, elem_id="train")
        with gr.Tab("Elsewhere"):
            gr.Markdown("Another tab.")
        go.click(lambda run: {"kind": "watch", "id": run, "nonce": next(NUMBERS)}, which, view, **hidden)
        plan.click(lambda: world.PLAN | {"nonce": next(NUMBERS)}, None, view, **hidden)
        dry.click(lambda: world.dry() | {"nonce": next(NUMBERS)}, None, view, **hidden)
        send.click(lambda: [SEND.pop(0) for _ in range(len(SEND))], None, view, **hidden)
        for name in ("stop", "resume", "open", "download", "tau"):
            getattr(view, name)(heard(name), None, None, queue=False, trigger_mode="multiple", **hidden)
    return demo.queue(api_open=False)


if __name__ == "__main__":
    build().launch(**LAUNCH)
