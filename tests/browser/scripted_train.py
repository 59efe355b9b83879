"""The Train view on a scripted server: runs whose every figure is known, and whose time is driven by hand.

`python tests/browser/scripted_train.py` opens it. Nothing is trained: a run is a list of events, of which `seen` are told.
"""

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import scripted_app as script

from rmx.ui.train_view import train_view
from rmx.ui.view_common import CSS

Event = dict[str, Any]
LEVELS = [round(0.05 * i, 2) for i in range(81)]
K, PROBLEMS, UPDATES, BEGIN = 20, 80, 125, 1_790_000_000.0
TAU = 1.0
OVER = ("done", "stopped", "interrupted", "failed")
STAGE_SECONDS = {"rollouts": 60.0, "selection": 2.0, "gate": 5.0, "training": 125.0, "final": 8.0}


def estimate(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


# ---- rollouts with known entropies ------------------------------------------------------------------------------
def solution(draw: random.Random, right: bool) -> list[list[Any]]:
    """Words of one solution, each with its entropy: high at the opener and the verbs, next to nothing elsewhere."""
    opener, verb = draw.choice([" First", " Okay", " Quickly"]), " subtract" if right else " add"
    first, total = (31, 73) if right else (53, 95)
    text = (
        f"{opener}, the facts are 42, 11.\n We{verb} 11: 42 {'-' if right else '+'} 11 = {first}.\n Then we add: "
        f"42 + {first} = {total}. So the answer is \\boxed{{{total}}}.<|end|>"
    )
    high = {opener: 1.52, verb: 1.38, " Then": 1.05, " So": 0.94, " add": 0.71}
    toks = script.words(text.replace("<|end|>", "")) + [script.END]
    return [
        [t, round(high[t] + draw.uniform(-0.2, 0.2), 6) if t in high else round(draw.random() ** 6 * 0.2, 6)]
        for t in toks
    ]


def make_rollouts(problems: int = 40, each: int = 6, seed: int = 3) -> list[dict[str, Any]]:
    draw, made = random.Random(seed), []
    for p in range(problems):
        right = 0 if p == 7 else 2 + p % 3
        mean = right / each
        spread = math.sqrt(mean * (1 - mean)) or 1.0
        for gen in range(each):
            ok = gen < right
            advantage = ((1 if ok else 0) - mean) / spread if 0 < right < each else 0.0
            made.append({"problem_id": f"more_than-{p}", "gen": gen, "correct": ok, "advantage": round(advantage, 4), "toks": solution(draw, ok)})  # fmt: skip
    return made


ROLLOUTS = make_rollouts()


def gated(sign: int, tau: float, rollouts: list[dict[str, Any]] | None = None) -> int:
    """Tokens above tau in rollouts whose advantage has this sign, counted one by one."""
    pool = ROLLOUTS if rollouts is None else rollouts
    chosen = [r for r in pool if (r["advantage"] > 0) - (r["advantage"] < 0) == sign]
    return sum(h > tau for r in chosen for _, h in r["toks"])


def dry(run: str | None = None, tau: float = TAU, rollouts: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    pool = ROLLOUTS if rollouts is None else rollouts
    counts = {name: [gated(sign, x, pool) for x in LEVELS] for name, sign in SIGNS.items()}
    shown = [r for r in pool if r["gen"] in (0, 5)][:23] + [r for r in pool if r["advantage"] == 0][:1]
    return {
        "kind": "dry", "run": run, "tau": tau, "k": K, "rollouts": shown, "levels": LEVELS, **counts,
        "tokens": sum(len(r["toks"]) for r in pool), "of_rollouts": len(pool), "selection": SELECTION,
        "estimate": {"seconds": 42.0, "memory_mb": 1310.0, "usd": 0.02},
    }  # fmt: skip


SIGNS = {"gated_right": 1, "gated_wrong": -1, "gated_zero": 0}
HISTOGRAM = [9, 3, 2, 4, 3, 5, 4, 6, 3, 4, 5, 4, 3, 6, 3, 2, 4, 2, 2, 1, 5]  # problems with 0..20 right; 80 in all
KEPT = [0, 0, 0, 0, 3, 5, 4, 6, 3, 4, 5, 4, 3, 6, 3, 2, 2, 0, 0, 0, 0]
SELECTION: dict[str, Any] = {
    "problems": 80, "sampled": 1600, "kept": 50, "rollouts": 800, "trimmed": 200, "right": 391, "wrong": 409,
    "out": {"all_right": 5, "all_wrong": 9, "further_from_half": 16}, "histogram": KEPT,
}  # fmt: skip


# ---- a run as events --------------------------------------------------------------------------------------------
def gain(step: int, updates: int = UPDATES) -> float:
    return 0.15 * (1 - math.exp(-3 * step / updates))


def check(step: int, updates: int = UPDATES) -> Event:
    now = 0.657 + gain(step, updates)
    return {
        "kind": "check", "optimizer_step": step, "epoch": step / updates, "pass@1": estimate(now, 0.045, 100),
        "vs_base": None if step == 0 else estimate(now - 0.657, 0.06, 100), "gap": -0.11 + 3 * gain(step, updates),
        "delta_logp_pos": gain(step), "delta_logp_neg": -2 * gain(step), "pressure": 1.1, "kl": 0.01,
        "checkpoint": f"step_{step}", "best": step > 0, "seconds": 1.2,
    }  # fmt: skip


FORKS: list[tuple[str, str, str, str, list[tuple[str, float, float]]]] = [  # key, before, said, known; text, p, slope
    ("f1", " First, the facts are 42, 11.\n We", " add", "73",
     [(" add", 0.41, -0.3), (" subtract", 0.27, 0.42), (" multiply", 0.19, -0.08), (" take", 0.09, -0.02), (" divide", 0.04, -0.02)]),
    ("f2", " Okay, the facts are 60, 20. We take 20 from 60: 60 - 20 = 40.\n", " So", "100",
     [(" Then", 0.45, 0.25), (" So", 0.3, -0.2), (" Next", 0.14, 0.0), (" Now", 0.08, -0.03), (" Hence", 0.03, -0.02)]),
    ("f3", " Step by step: 7 boxes of 6 pens, 5 are lost. We", " multiply", "37",
     [(" multiply", 0.52, 0.3), (" add", 0.33, -0.28), (" take", 0.08, -0.01), (" subtract", 0.05, 0.0), (" divide", 0.02, -0.01)]),
    ("f4", "", " First", "37",
     [(" First", 0.38, 0.05), (" Okay", 0.29, 0.0), (" Quickly", 0.16, -0.13), (" Step", 0.12, 0.06), (" Hmm", 0.05, 0.02)]),
]  # fmt: skip


def p_at(step: int, p: float, slope: float, updates: int = UPDATES) -> float:
    return p + slope * gain(step, updates) / 0.15


def replay(step: int, updates: int = UPDATES, forks: Any = FORKS) -> Event:
    told = []
    for key, before, said, known, choice in forks:
        top = [
            {"id": script.token_id(t), "text": t, "p": round(p_at(step, p, slope, updates), 4)}
            for t, p, slope in choice
        ]
        told.append(
            {"key": key, "before": before, "said": said, "known": known, "entropy": 1.38 - gain(step), "top": top}
        )
    return {"kind": "replay", "optimizer_step": step, "forks": told}


BEADS_WRONG = " First, the facts are 42, 11.\n We add 11: 42 + 11 = 53.\n Then we add: 42 + 53 = 95. So the answer is \\boxed{95}."
BEADS_RIGHT = " First, the facts are 42, 11.\n We subtract 11: 42 - 11 = 31.\n Then we add: 42 + 31 = 73. So the answer is \\boxed{73}."


def said(text: str, answer: str | None, correct: bool | None) -> dict[str, Any]:
    return {"text": text, "answer": answer, "correct": correct}


def samples(step: int) -> Event:
    right, wrong = said(BEADS_RIGHT, "73", True), said(BEADS_WRONG, "95", False)
    after = right if step > 30 else wrong
    problems = [
        {"id": "more_than-3", "problem": script.BEADS, "known": "73", "before": wrong, "after": after},
        {"id": "more_than-9", "problem": script.TRAIN, "known": "100", "before": said(" Okay, 60 + 40 = 100. So the answer is \\boxed{100}.", "100", True),
         "after": said(" Okay, 60 + 40 = 100. So the answer is \\boxed{100}.", "100", True)},
        {"id": "more_than-12", "problem": "Tom had 30 nuts, ate 4 a day for 5 days. How many are left?", "known": "10",
         "before": said(" Quickly, 30 - 4 = 26", None, None), "after": said(" Quickly, 30 - 20 = 10. So the answer is \\boxed{10}.", "10", True)},
    ]  # fmt: skip
    return {"kind": "samples", "optimizer_step": step, "problems": problems}


def update(step: int, updates: int = UPDATES) -> Event:
    noise = random.Random(step)
    wave = noise.uniform(-1, 1)
    return {
        "kind": "update", "optimizer_step": step, "of": updates, "epoch": step / updates, "loss": -0.02 + 0.05 * wave,
        "decision_loss": -0.1 - 0.3 * step / updates + 0.08 * wave, "kl_loss": 0.0002 + 0.004 * step / updates * (1 + 0.3 * wave),
        "delta_logp_pos_mean": 0.25 * step / updates + 0.05 * wave, "delta_logp_neg_mean": -0.6 * step / updates + 0.08 * wave,
        "grad_norm": 0.6 + 0.2 * wave, "lr": 2e-4 * min(1.0, step / 5) * (1 - step / (updates + 1)), "left": (updates - step) * 1.0,
    }  # fmt: skip


def stage(name: str, at: int, of: int, left: float | None) -> Event:
    return {"kind": "stage", "stage": name, "at": at, "of": of, "left": left}


def rollouts_told(at: int) -> Event:
    scale = at / PROBLEMS
    bins = HISTOGRAM if at == PROBLEMS else [int(n * scale) for n in HISTOGRAM]
    right = sum(n * k for k, n in enumerate(bins))
    return {"kind": "rollouts", "at": at, "of": PROBLEMS, "rollouts": at * K, "right": right, "truncated": at // 10,
            "unparsed": at // 20, "k": K, "histogram": bins}  # fmt: skip


def first_stages() -> Iterator[Event]:
    yield {"kind": "state", "state": "running"}
    yield replay(0)
    for at in range(0, PROBLEMS + 1, 10):
        yield stage("rollouts", at * K, PROBLEMS * K, (PROBLEMS - at) * 0.75 if at else None)
        yield rollouts_told(at)
    yield stage("selection", 80, 80, None)
    yield {"kind": "selection", **SELECTION}
    yield stage("gate", 0, 800, 5.0)
    yield stage("gate", 800, 800, None)
    yield {"kind": "gate", "tau": TAU, "tokens": 41_600, "gated": 2954, "share": 0.071, "gated_right": 1391, "gated_wrong": 1563,
           "gate": "entropy", "estimate": {"seconds": 125.0, "memory_mb": 1310.0, "usd": 0.01}}  # fmt: skip


def training(updates: int = UPDATES, every: int = 25, first: int = 1) -> Iterator[Event]:
    if first == 1:
        yield check(0, updates)
    for step in range(first, updates + 1):
        yield stage("training", step, updates, (updates - step) * 1.0)
        yield update(step, updates)
        if step % every == 0:
            yield from (check(step, updates), replay(step, updates), samples(step))


def final() -> Iterator[Event]:
    yield stage("final", 0, 300, 8.0)
    yield stage("final", 300, 300, None)
    yield {"kind": "done", "seconds": 200.0, "peak_rss_mb": 1286.0, "tokens": 412_000, "updates": UPDATES, "adapter": "adapter",
           "best": "step_125", "before": estimate(0.657, 0.054, 300), "after": estimate(0.797, 0.046, 300),
           "vs_base": estimate(0.14, 0.051, 300), "usd": 0.01, "stages": STAGE_SECONDS}  # fmt: skip


def timed(events: list[Event], begin: float = BEGIN, each: float = 1.0) -> list[Event]:
    return [e if "t" in e else {"t": begin + each * i, **e} for i, e in enumerate(events)]


@dataclass
class Run:
    """One run; what of it has happened so far is `events[:seen]`."""

    id: str
    events: list[Event]
    state: str = "running"
    seen: int | None = None  # None: all of it
    grow: int = 0  # events that happen with each poll
    message: str | None = None
    ahead: int = 0
    alive: bool | None = None
    last_state: str = "done"  # once all has happened
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base = {"id": self.id, "created": BEGIN, "model": "mini", "adapter": None, "set": "mini:train", "preset": "small",
                "owner": "ann", "note": "", "kind": "train", "recipe": {}, "command": ["rmx", "train"]}  # fmt: skip
        self.config = base | self.config
        self.events = timed(self.events)
        RUNS[self.id] = self

    @property
    def told(self) -> list[Event]:
        return self.events if self.seen is None else self.events[: self.seen]

    def happen(self) -> None:
        if self.seen is not None and self.grow:
            self.seen = min(len(self.events), self.seen + self.grow)
            if self.seen == len(self.events):
                self.state = self.last_state

    def status(self) -> dict[str, Any]:
        part = next((e for e in reversed(self.told) if e["kind"] == "stage"), {})
        alive = self.state not in OVER if self.alive is None else self.alive
        return {"state": self.state, "stage": part.get("stage"), "at": part.get("at"), "of": part.get("of"), "left": part.get("left"),
                "pid": 1, "started": BEGIN, "updated": BEGIN, "message": self.message, "ahead": self.ahead, "alive": alive}  # fmt: skip


RUNS: dict[str, Run] = {}
POLLS: list[dict[str, Any]] = []  # every question of the page: id, start, events in the reply, when
EVENTS: list[tuple[str, dict[str, Any]]] = []  # what the page sent
SEND: list[Any] = []  # what the button Send sends, as one list
DOWN = threading.Event()  # while set, the app does not answer
NUMBERS = itertools.count(1)


# ---- runs to look at --------------------------------------------------------------------------------------------
HOSTILE_TEXT = "".join(t for t in script.HOSTILE if t != "\n" * 10_000)


def hostile() -> list[Event]:
    evil = "<img src=x onerror=window.PWN=1>"
    fork = (
        "<b>k</b>",
        HOSTILE_TEXT,
        evil,
        "${window.PWN=1}",
        [(evil, 0.5, 0.1), ("\u202eabc\n\n", 0.2, 0.0), ("{{value}}", 0.1, 0.0), ("", 0.05, 0.0), ("\x00`", 0.05, 0.0)],
    )
    sample = {
        "id": evil,
        "problem": evil + HOSTILE_TEXT,
        "known": evil,
        "before": said(HOSTILE_TEXT, evil, False),
        "after": said(evil + "\n\n  indented", "\u202e1", True),
    }
    guard = {"kind": "guard", "rule": "kl", "message": evil + " ${window.PWN=1}"}
    return [*first_stages(), *training(50), replay(0, forks=[fork]), replay(25, forks=[fork]),
            {"kind": "samples", "optimizer_step": 50, "problems": [sample]}, guard]  # fmt: skip


def hostile_rollouts() -> list[dict[str, Any]]:
    toks = [[t, 1.5 if i % 2 == 0 else 0.01] for i, t in enumerate(script.HOSTILE)]
    return [{"problem_id": "<img src=x onerror=window.PWN=1>", "gen": 0, "correct": True, "advantage": 1.0, "toks": toks},
            {"problem_id": "p", "gen": 5, "correct": False, "advantage": -1.0, "toks": toks[:6]}]  # fmt: skip


FELL = ("Stopped: validation pass@1 fell from the base's 65.7 % to 41.0 % (-24.7 points, 95 % -31.2 to -18.1, n = 100). The checkpoints made so far are "
        "kept; step_25 is the best of them and becomes the adapter. Train again with a lower lr, with neg_floor_nats (0.5, say) or with a higher kl_weight.")  # fmt: skip
LONG_MODEL = {"model": "Qwen/Qwen2.5-1.5B", "set": "math500:train", "preset": "paper", "owner": "ben"}


def remake() -> None:
    """All runs as they are at the start."""
    RUNS.clear()
    early, train = list(first_stages()), list(training())
    whole = [*early, *train, *final()]
    upto = lambda step: (
        len(early)
        + next(i for i, e in enumerate(train) if e.get("optimizer_step") == step and e["kind"] == "update")
        + 1
    )  # noqa: E731
    Run("live", list(whole), seen=3, grow=3)
    Run("done", list(whole), state="done", message="ok")
    Run("rolling", list(whole), seen=12)
    Run("training", list(whole), seen=upto(62))
    Run("queued", [{"kind": "state", "state": "queued"}], state="queued", ahead=2)
    Run("blank", [], state="running")
    Run("interrupted", list(whole), state="running", alive=False, seen=upto(62))
    Run("stopped", list(whole), state="stopped", seen=upto(62))
    Run(
        "failed",
        list(whole),
        state="failed",
        seen=len(early) - 6,
        message="The disk is full. Make room and resume the run.",
    )
    Run("guarded", [*whole[: upto(50) + 2], {"kind": "guard", "rule": "validation", "message": FELL}], state="stopped")
    Run(
        "early",
        [
            *whole[: upto(75) + 3],
            {"kind": "early", "message": "No better pass@1 in 3 checks; step_50 becomes the adapter."},
            *final(),
        ],
        state="done",
    )
    Run("others", list(whole), seen=upto(30), config=LONG_MODEL)
    Run("long", [*early, *training(10_000, 1000), *final()], state="done", config=LONG_MODEL)
    Run(
        "hostile",
        hostile(),
        state="stopped",
        config={"model": "<img src=x onerror=window.PWN=1>", "note": "${window.PWN=1}"},
    )
    Run(
        "distilled",
        [{"kind": "state", "state": "running"}, stage("rollouts", 100, 100, None), *training(60, 20), *final()],
        state="done",
        config={"kind": "distill"},
    )


PLAN: dict[str, Any] = {
    "kind": "plan", "minutes": {"value": 4.0, "low": 3.1, "high": 5.6}, "memory_mb": 1310.0, "usd": 0.02,
    "rate": "At 0.29 $ an hour for this machine; measured on 40 rollouts and 3 updates just now.",
    "command": "rmx train --model mini --set mini:train --preset small --seed 42 --tau 1.0",
    "departs": [["problems", "150", "80"], ["temperature", "0.6", "1.0"], ["top_p", "0.95", "1.0"], ["max_new_tokens", "8192", "256"], ["lr", "1e-4", "2e-4"],
                ["warmup_steps", "50", "5"], ["order", "clarity", "shuffle"]],
}  # fmt: skip


# ---- what the page asks and sends -------------------------------------------------------------------------------
def run_tail(args: dict[str, Any]) -> dict[str, Any]:
    if DOWN.is_set():
        raise RuntimeError("down")
    key, start = str(args.get("id")), int(args.get("start") or 0)
    run = RUNS.get(key)
    if run is None:
        POLLS.append({"id": key, "start": start, "events": 0, "at": time.monotonic()})
        return {"error": f"There is no run {key} here."}
    run.happen()
    new = run.told[start:]
    POLLS.append({"id": key, "start": start, "events": len(new), "at": time.monotonic()})
    reply = {"id": key, "start": start, "next": len(run.told), "events": new, "status": run.status()}
    return reply | {"config": run.config} if start == 0 else reply


def dry_run(args: dict[str, Any]) -> dict[str, Any]:
    run = str(args.get("id"))
    EVENTS.append(("dry_run", dict(args)))
    if run == "guarded":
        return {"error": "The rollouts of this run were removed. Sample them anew."}
    return dry(run, rollouts=hostile_rollouts()) if run == "hostile" else dry(run)


def on_event(name: str, evt: gr.EventData) -> None:
    EVENTS.append((name, evt._data if isinstance(evt._data, dict) else {}))


def build() -> gr.Blocks:
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    if not RUNS:
        remake()
    with gr.Blocks(title="Scripted training", analytics_enabled=False, fill_width=True) as demo, gr.Tabs():
        with gr.Tab("Train"), gr.Row():
            with gr.Column(scale=0, min_width=200):
                which = gr.Radio(list(RUNS), value="live", label="Run")
                go = gr.Button("Watch", variant="primary")
                plan, dry_button, send = gr.Button("Plan"), gr.Button("Dry run"), gr.Button("Send")
            with gr.Column(scale=1, min_width=320):
                view = train_view(run_tail, dry_run, elem_id="train")
        with gr.Tab("Elsewhere"):
            gr.Markdown("Another tab.")
        go.click(lambda run: {"kind": "watch", "id": run}, which, view, **hidden)
        plan.click(lambda: PLAN | {"nonce": next(NUMBERS)}, None, view, **hidden)
        dry_button.click(lambda: dry() | {"nonce": next(NUMBERS)}, None, view, **hidden)
        send.click(lambda: [SEND.pop(0) for _ in range(len(SEND))], None, view, **hidden)

        def stop(evt: gr.EventData) -> None:
            on_event("stop", evt)

        def resume(evt: gr.EventData) -> None:
            on_event("resume", evt)

        def open_(evt: gr.EventData) -> None:
            on_event("open", evt)

        def download(evt: gr.EventData) -> None:
            on_event("download", evt)

        def tau(evt: gr.EventData) -> None:
            on_event("tau", evt)

        for name, fn in {"stop": stop, "resume": resume, "open": open_, "download": download, "tau": tau}.items():
            getattr(view, name)(fn, None, None, queue=False, trigger_mode="multiple", **hidden)
    return demo.queue(api_open=False)


LAUNCH: dict[str, Any] = script.LAUNCH | {"css": CSS}

if __name__ == "__main__":
    build().launch(**LAUNCH)
