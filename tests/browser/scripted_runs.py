"""The runs view on a scripted server, every figure known. `python tests/browser/scripted_runs.py`."""

import math
import random
from collections.abc import Iterator
from typing import Any

import gradio as gr
from scripted_page import LAUNCH

from rmx.runs.rates import Rate, Rates, bundled_rates, paper_costs
from rmx.runs.recipe import PRESETS
from rmx.ui.tabs.train_tab import RUNS_PROPS
from rmx.ui.views import build_view

ME, OTHER = "6f1c2ab94e", "0b77f3d1aa"
HOSTILE = "<img src=x onerror=window.PWN=1> ${window.PWN=1} {{value}} \u202egnp.exe `"
EVENTS: list[tuple[str, dict[str, Any]]] = []
CALLS: list[tuple[str, dict[str, Any]]] = []
RUNS: dict[str, dict[str, Any]] = {}  # newest first
RECORDED: list[dict[str, Any]] = []  # shown where there is no run
OWN: dict[str, float] = {}  # rates that the owner of the machine entered
SWEEP = "20261125-1750-mini-5eed"
SWEPT = [  # tau, share, validation, test, both over a base of 42.5 % and 41 %
    (1.2, 0.069, 0.452, 0.468), (1.4, 0.052, 0.497, 0.489), (1.6, 0.037, 0.481, 0.502), (1.8, 0.026, 0.448, 0.441),
]  # fmt: skip
SMALL, FLOOR = ({name: value for name, (_, value) in PRESETS[p].departures().items()} for p in ("small", "floor"))


def estimate(value: float, half: float, n: int = 400) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def row(id: str, state: str, **more: Any) -> dict[str, Any]:
    """A run with everything that a row holds; a finished one gained `gain` over 42.5 %."""
    gain, half = more.pop("gain", None), more.pop("half", 0.045)
    done = gain is not None
    differs = more.pop("differs", SMALL)
    flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in differs.items())
    return {
        "id": id, "kind": "train", "model": "mini", "set": "mini", "preset": "small", "state": state, "stage": "final",
        "at": 0, "of": 0, "left": None, "tau": 1.4 if done else None, "gated": 0.052 if done else None,
        "before": estimate(0.425, 0.048) if done else None, "after": estimate(0.425 + gain, 0.049) if done else None,
        "vs_base": estimate(gain, half) if done else None, "minutes": 4.2, "usd": 0.0, "owner": ME, "created": 0.0,
        "note": "", "differs": differs, "taus": None, "message": "", "ahead": 0, "has_adapter": done,
        "by_construction": True,
        "command": f"rmx train --model mini --set mini --preset small {flags}",
    } | more  # fmt: skip


def scene(name: str) -> list[dict[str, Any]]:
    """What the server holds; newest first."""
    if name == "none":
        return []
    if name == "hostile":
        return [
            row("20261125-2142-<b>x</b>", "failed", note=HOSTILE, model=HOSTILE, set=HOSTILE, preset=HOSTILE,
                message=HOSTILE, owner=HOSTILE, command=HOSTILE, differs={HOSTILE: HOSTILE}),
            row("20261125-2100-mini-aaaa", "done", gain=0.02, created=1.0, note=HOSTILE, has_adapter=True),
        ]  # fmt: skip
    rows = [
        row("20261125-2214-mini-9c01", "queued", ahead=1, minutes=None, usd=None, owner=OTHER, note="random gate"),
        row("20261125-2209-mini-77de", "queued", minutes=None, usd=None, differs=SMALL | {"positive_only": True}),
        row("20261125-2201-mini-ab3f", "running", stage="training", at=34, of=150, left=140, tau=1.4, gated=0.052,
            before=estimate(0.425, 0.048), minutes=2.6, differs=FLOOR, preset="floor", note="floor, third seed"),
        row("20261125-2142-mini-e210", "done", gain=0.137, minutes=9.8, differs=FLOOR, preset="floor",
            note="floor, second seed: the best so far", message="Best checkpoint: step 125."),
        row("20261125-2120-mini-30c4", "done", gain=0.058, note="small, as it comes"),
        row("20261125-2055-smol-b1b7", "done", gain=0.011, half=0.031, model="SmolLM2-135M-Instruct", set="arith",
            minutes=312.0, usd=4.37, by_construction=False, owner=OTHER, gated=0.031, tau=1.1),
        row("20261125-2031-mini-5512", "stopped", gain=-0.02, half=0.04, has_adapter=True, owner=None,
            message="Validation accuracy fell below the base twice: 39.0 % against 42.5 %. Lower the rate.",
            preset="paper", differs={"k": 12}),
        row("20261125-1958-mini-0fd2", "interrupted", stage="rollouts", at=412, of=1600, preset="floor",
            differs=FLOOR | {"rank": 8}),
        row("20261125-1930-mini-c8e9", "failed", stage="selection", differs={"lr": 0.01},
            message="Only 3 of 80 problems have mixed success; a run needs 8. Raise the temperature."),
        row("20261125-1811-mini-a0a1", "done", gain=-0.214, half=0.05, preset=None, differs={"lr": 1e-3},
            note="no floor at this rate: collapses", owner=OTHER),
    ]  # fmt: skip
    if name == "sweep":
        rows.insert(0, row(SWEEP, "done", gain=0.064, tau=1.4, taus=[1.2, 1.4, 1.6, 1.8], kind="sweep", minutes=41.0))
    for k, one in enumerate(rows):
        one["created"] = 1_795_643_640.0 - 900 * k
    return rows


def reset(name: str = "usual") -> None:
    RUNS.clear()
    RUNS.update({one["id"]: one for one in scene(name)})
    for of_a_test in (RECORDED, EVENTS, CALLS, OWN):
        of_a_test.clear()


def runs_list(args: Any) -> dict[str, Any]:
    CALLS.append(("runs_list", args))
    return {"runs": list(RUNS.values())} | ({} if RUNS else {"recorded": RECORDED})


def curve(run: dict[str, Any]) -> dict[str, Any]:
    """Figures that follow from the id alone: a fall to a level of its own, with some noise."""
    draw, n = random.Random(run["id"]), 34 if run["state"] == "running" else 150
    if run["state"] in ("queued", "failed"):
        n = 0
    gain = (run["vs_base"] or {"value": 0.1})["value"]
    rate = [1 - math.exp(-3 * k / 150) for k in range(n + 1)]
    updates = [
        {"optimizer_step": k, "decision_loss": -2 * gain * rate[k] + draw.gauss(0, 0.03),
         "kl_loss": 0.3 * abs(gain) * rate[k] + abs(draw.gauss(0, 0.002)),
         "delta_logp_pos_mean": 1.2 * gain * rate[k] + draw.gauss(0, 0.03),
         "delta_logp_neg_mean": -2 * abs(gain) * rate[k] + draw.gauss(0, 0.03)}
        for k in range(1, n + 1)
    ]  # fmt: skip
    checks = [
        {"optimizer_step": k, "pass@1": estimate(0.425 + gain * rate[k], 0.048), "gap": 3 * gain * rate[k]}
        for k in range(0, n + 1, 25)
    ]
    return {"id": run["id"], "label": run["note"] or run["id"], "updates": updates, "checks": checks}


def run_curves(args: Any) -> dict[str, Any]:
    CALLS.append(("run_curves", args))
    return {"runs": [curve(RUNS[i]) for i in args["ids"] if i in RUNS]}


def run_files(args: Any) -> dict[str, Any]:
    CALLS.append(("run_files", args))
    if args["id"] not in RUNS:
        return {"error": "This run is gone. It was deleted."}
    steps = [(f"checkpoints/step_{k}/adapter/adapter_model.safetensors", 1_214_000) for k in range(25, 151, 25)]
    top = {"config.json": 2_104, "events.jsonl": 61_873, "rollouts.jsonl": 18_437_221, "selection.json": 9_411}
    files = [*top.items(), *steps, ("adapter/adapter_model.safetensors", 1_214_000), ("adapter/README.md", 5_320)]
    return {"files": [{"path": path, "bytes": size} for path, size in files]}


def swept(tau: float, share: float, validation: float, test: float) -> dict[str, Any]:
    return {
        "tau": tau, "share": share, "gated": round(20_000 * share), "tokens": 20_000, "best": "step_40",
        "validation": estimate(validation, 0.069, 200), "vs_base": estimate(validation - 0.425, 0.06, 200),
        "test": estimate(test, 0.069, 200), "test_vs_base": estimate(test - 0.41, 0.055, 200),
        "adapter": f"tau_{tau:g}/adapter",
    }  # fmt: skip


def run_sweep(args: Any) -> dict[str, Any]:
    CALLS.append(("run_sweep", args))
    taus = [swept(*one) for one in SWEPT]
    base = {"validation": estimate(0.425, 0.068, 200), "test": estimate(0.41, 0.068, 200)}
    if RUNS[args["id"]]["state"] == "running":
        taus = [one | {"test": None, "test_vs_base": None} for one in taus[:2]]
        base = base | {"test": None}
    chosen = 1.4 if len(taus) == 4 else None
    rule = "The threshold whose best checkpoint has the highest pass@1 on the validation problems."
    return {"id": args["id"], "sweep": {"taus": taus, "base": base, "chosen": chosen, "rule": rule}}


def costs(args: Any) -> dict[str, Any]:
    """As rmx.runs.store makes it, out of the scripted rows."""
    CALLS.append(("costs", args))
    own = [Rate(n, usd, "2026-11-25", "entered by hand", ((n.lower(),),), own=True) for n, usd in OWN.items()]
    changed = {rate.name for rate in own}
    rates = Rates((*own, *(rate for rate in bundled_rates() if rate.name not in changed)))
    machine = {"mini": "cpu", "SmolLM2-135M-Instruct": "NVIDIA H100 80GB HBM3"}
    runs = []
    for one in RUNS.values():
        if one["minutes"]:
            device, seconds = machine.get(one["model"], "cpu"), 60 * one["minutes"]
            stages = {
                "rollouts": 0.3 * seconds,
                "gate": 0.05 * seconds,
                "training": 0.5 * seconds,
                "final": 0.15 * seconds,
            }
            rate = rates.of(device)
            runs.append({"id": one["id"], "kind": one["kind"], "model": one["model"], "device": device,
                         "stages": stages, "seconds": seconds, "usd": rates.cost(seconds, device).usd,
                         "rate": rate.json() if rate else None, "vs_base": one["vs_base"]})  # fmt: skip
    known, here = [run["usd"] for run in runs if run["usd"] is not None], rates.of("cpu")
    total = {"usd": sum(known) if known else None, "seconds": sum(run["seconds"] for run in runs), "runs": len(runs),
             "without": len(runs) - len(known)}  # fmt: skip
    return {
        "rates": [rate.json() for rate in rates.rates], "override": None, "runs": runs, "sum": total,
        "machine": {"device": "cpu", "rate": here.json() if here else None, "sentence": rates.cost(0, "cpu").sentence},
        "paper": paper_costs(),
    }  # fmt: skip


def payload(evt: gr.EventData, name: str) -> dict[str, Any]:
    data = evt._data if isinstance(evt._data, dict) else {}
    EVENTS.append((name, data))
    return RUNS.get(str(data.get("id")), {})


def on_stop(evt: gr.EventData) -> dict[str, Any] | None:
    run = payload(evt, "stop")
    if run.get("note") == "cannot":
        return {"kind": "refused", "error": "This run belongs to somebody else."}
    run["state"] = "stopping"
    return None


def on_resume(evt: gr.EventData) -> None:
    payload(evt, "resume")["state"] = "queued"


def on_remove(evt: gr.EventData) -> None:
    RUNS.pop(payload(evt, "remove").get("id", ""), None)


def on_note(evt: gr.EventData) -> None:
    payload(evt, "note")["note"] = evt._data["text"]


def on_rate(evt: gr.EventData) -> dict[str, Any] | None:
    payload(evt, "rate")
    if evt._data["usd"] == "":
        OWN.pop(evt._data["name"], None)
    else:
        OWN[evt._data["name"]] = float(evt._data["usd"])
    return None


def on_push(evt: gr.EventData) -> Iterator[dict[str, Any]]:
    run = payload(evt, "push")
    url = "javascript:window.PWN=1" if evt._data["private"] else f"https://huggingface.co/{evt._data['repo']}"
    yield {"kind": "told", "id": run["id"], "text": "Pushed. The adapter is at", "url": url}


def on_download(evt: gr.EventData) -> dict[str, Any]:
    run = payload(evt, "download")
    url = {"hostile": "javascript:window.PWN=1", "foreign": "https://example.org/x.zip"}.get(run["note"], "files/a.zip")
    return {"kind": "file", "id": run["id"], "name": "a.zip", "url": url}


def noted(name: str) -> Any:
    def callback(evt: gr.EventData) -> None:
        payload(evt, name)

    return callback


def build() -> gr.Blocks:
    """The page: the view, and who looks at it."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    with gr.Blocks(title="Scripted runs", analytics_enabled=False, fill_width=True) as demo:
        with gr.Accordion("Scripted", open=False), gr.Row():
            admin = gr.Button("Be the owner of the machine", size="sm")
            stranger = gr.Button("Be a stranger", size="sm")
        asked = {"runs_list": runs_list, "run_curves": run_curves, "run_files": run_files, "run_sweep": run_sweep}
        view = build_view("runs/runs_view", asked | {"costs": costs}, **RUNS_PROPS, elem_id="runs")
        demo.load(lambda: {"kind": "me", "owner": ME, "admin": False}, None, view, **quiet)
        admin.click(lambda: {"kind": "me", "owner": "x", "admin": True}, None, view, **quiet)
        stranger.click(lambda: {"kind": "me", "owner": None, "admin": False}, None, view, **quiet)
        view.stop(on_stop, None, view, **quiet)
        view.resume(on_resume, None, None, **quiet)
        view.remove(on_remove, None, None, **quiet)
        view.note(on_note, None, None, **quiet)
        view.rate(on_rate, None, None, **quiet)
        view.push(on_push, None, view, **(quiet | {"queue": True}))
        view.download(on_download, None, view, **quiet)
        view.open(noted("open"), None, None, **quiet)
    return demo.queue(api_open=False)


if __name__ == "__main__":
    reset()
    build().launch(**LAUNCH)
