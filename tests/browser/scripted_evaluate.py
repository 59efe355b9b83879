"""The Evaluate tab on a scripted document, every figure known. `python tests/browser/scripted_evaluate.py`."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from scripted_page import LAUNCH

from rmx.models.load import load
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.runs.store import RunStore
from rmx.stats.paired import RULE, with_verdict
from rmx.ui.jobs.evaluator import EvalJob, Evaluator
from rmx.ui.server.web_app import add_file_routes
from rmx.ui.settings import Settings
from rmx.ui.tabs.evaluate_tab import EvaluateTab, build_evaluate_tab
from rmx.ui.visitor_cookie import Owners

HOSTILE = "<img src=x onerror=window.PWN=1> ${window.PWN=1} {{value}} \u202egnp.exe `"
NUMBERS, WORDINGS = "held-out numbers", "held-out wordings"
K = [1, 2, 4, 8, 16]
OPENED: list[dict[str, Any]] = []
GO_ON = threading.Event()  # the second half of a script waits for it
GO_ON.set()


def estimate(value: float, half: float = 0.05, n: int = 40, **more: Any) -> dict[str, Any]:
    low, high = value - half, value + half
    return {"value": value, "low": low if value < half else low, "high": high, "n": n} | more


def model(name: str, label: str, greedy: float, samples: int) -> dict[str, Any]:
    """pass@k rises from the greedy share towards one."""
    rise = {str(k): estimate(1 - (1 - greedy) * 0.85**i, 0.04) for i, k in enumerate(K)} if samples else {}
    vote = {str(k): estimate(greedy + 0.01 * i, 0.05) for i, k in enumerate(K)} if samples else {}
    return {
        "name": name, "label": label, "adapter": None if name == "base" else name, "greedy": estimate(greedy),
        "pass@k": rise, "majority": vote, "avg": rise.get("1"), "truncated": {"greedy": 1, "sampled": 6},
        "unparsed": {"greedy": 0, "sampled": 13}, "tokens": 123_456, "seconds": 130.2, "usd": 0.04,
    }  # fmt: skip


def paired(name: str, gain: float, half: float, won: int, lost: int, p: float, needed: int | None) -> dict[str, Any]:
    several = {str(k): with_verdict(estimate(gain / (i + 1), half, needed=needed)) for i, k in enumerate(K)}
    counted = with_verdict(estimate(gain, half, won=won, lost=lost, p=p, needed=needed))
    return {"name": name, "against": "base", "greedy": counted, "pass@k": several, "majority": several}


def answered(answer: str | None, right: bool, of: int, cut: bool = False, samples: int = 16) -> dict[str, Any]:
    greedy = {"answer": answer, "correct": right, "truncated": cut}
    return {"greedy": greedy, "right": min(of, samples), "samples": samples, "truncated": int(cut), "unparsed": 2}


def problems(names: list[str], samples: int) -> list[dict[str, Any]]:
    """40 problems: 0 to 8 won by every adapter, 9 to 11 lost, 12 lost because it was cut off; 3 is hostile."""
    rows = []
    for i in range(40):
        was = 9 <= i < 30
        models = {"base": answered(str(20 + i), was, 13 if was else 3 + i % 5, samples=samples)}
        for name in names:
            now = (was or i < 9) and not 9 <= i <= 12
            answer = None if i == 12 else str(20 + i)
            models[name] = answered(answer, now, 14 if now else 2, cut=i == 12, samples=samples)
        text = f"Ann has {i} apples and buys {i + 3} more. How many apples does she have now, if none is eaten?"
        rows.append(
            {
                "id": f"mini-test-{i:04d}",
                "problem": HOSTILE if i == 3 else text,
                "answer": str(20 + i),
                "part": WORDINGS if i % 4 == 0 else NUMBERS,
                "cluster": f"wording {i % 12}",
                "models": models,
            }  # fmt: skip
        )
    rows[3]["models"]["base"]["greedy"]["answer"] = HOSTILE
    return rows


def document(
    done: bool = True,
    samples: int = 16,
    names: tuple[str, ...] = ("rl",),
    upto: int = 40,
    hostile: bool = False,
    edge: bool = False,
) -> dict[str, Any]:
    """The JSON of a report over the first `upto` problems."""
    names = (*names, HOSTILE) if hostile else names
    gains = [(0.137, 0.045, 9, 4, 0.004, 30), (0.02, 0.04, 6, 5, 0.51, 350), (-0.2, 0.05, 2, 9, 0.0004, 12)]
    if edge:
        gains[0] = (0.2, 0.18, 11, 3, 0.0574, 38)  # the interval leaves 0 out, the exact test does not
    models = [model("base", "mini", 0.52, samples)]
    models += [model(name, f"mini + {name}", 0.52 + gains[i % 3][0], samples) for i, name in enumerate(names)]
    pairs = [paired(name, *gains[i % 3]) for i, name in enumerate(names)]
    for pair in pairs if not samples else ():
        pair["pass@k"] = pair["majority"] = {}
    whole = {"models": models, "paired": pairs}
    of = 40 * (samples + 1) * len(models)
    less = [{**one, "greedy": estimate(0.44)} for one in models]
    return {
        "set": HOSTILE if hostile else "mini:test", "split": "test", "problems": upto, "of_problems": 40,
        "samples": samples, "temperature": 1.0, "top_p": 0.95, "seed": 0, "max_new_tokens": 160,
        "k": K if samples else [], "clusters": {"what": "wording", "n": 12}, "at": of * upto // 40, "of": of,
        "done": done, "seconds": 412.0 * upto / 40, "cached": of // 4 if upto == 40 else 0, "usd": 0.08,
        "licence": HOSTILE if hostile else "Apache-2.0", "source": "generated by rmx.mini", "by_construction": True,
        **whole, "verdict_rule": RULE,
        "crossings": [{"name": n, "against": "base", "k": 8, "sure": False, "sentence":
                       f"{n} solves more than base up to k = 8; beyond it the intervals overlap."} for n in names],
        "parts": [{"name": NUMBERS, "problems": 30, **whole},
                  {"name": WORDINGS, "problems": 10, "models": less, "paired": pairs}],
        "per_problem": problems(list(names), samples)[:upto],
    }  # fmt: skip


@dataclass
class Report:
    """Quacks like a report of the library."""

    said: dict[str, Any]
    at: int = field(init=False)
    of: int = field(init=False)
    done: bool = field(init=False)
    seconds: float = field(init=False)
    cached: int = field(init=False)

    def __post_init__(self) -> None:
        for name in ("at", "of", "done", "seconds", "cached"):
            setattr(self, name, self.said[name])

    def json(self) -> dict[str, Any]:
        return self.said


def measure(job: EvalJob, _: list[Problem]) -> Iterator[Report]:
    """A report over ten problems; once it may go on, one over all of them. The seed picks the scene."""
    names, samples, hostile, edge = job.asked.adapters, job.asked.n, job.asked.seed == 13, job.asked.seed == 14
    yield Report(document(False, samples, names, upto=10, hostile=hostile))
    while not GO_ON.wait(0.02):
        if job.stopped:
            return
        yield Report(document(False, samples, names, upto=10, hostile=hostile))
    yield Report(document(True, samples, names, hostile=hostile, edge=edge))


def build(runs: Path) -> gr.Blocks:
    """The page: the tab alone, and what it would open in another one."""
    space = Workspace(loader=lambda spec: load(spec, device="cpu"))
    space.model("mini")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    with gr.Blocks(title="Scripted evaluation", analytics_enabled=False, fill_width=True) as demo:
        with gr.Tabs():
            with gr.Tab("Evaluate", id="evaluate") as page:
                evaluator = Evaluator(space, RunStore(runs), measure)
                tab = build_evaluate_tab(evaluator, Settings(), page, Owners(b"secret", everybody=True))
            with gr.Tab("Other", id="other"):
                gr.Markdown("Nothing")
        wire(demo, tab, quiet)
    demo.add_routes = lambda api: add_file_routes(api, {"problems": evaluator.take_file})
    return demo.queue(api_open=False)


def wire(demo: gr.Blocks, tab: EvaluateTab, quiet: dict[str, Any]) -> None:
    def opened(event: gr.EventData) -> None:
        OPENED.append(event._data)

    tab.view.open(opened, None, None, **quiet)
    demo.load(tab.keep, tab.kept, None, js="() => sessionStorage.getItem('rmx-evaluation') ?? ''", **quiet)
    demo.unload(tab.leave)


if __name__ == "__main__":
    build(Path("runs")).launch(**LAUNCH)
