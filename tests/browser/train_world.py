"""The world of the scripted Train view: rollouts, events and runs whose every figure is known. Nothing is trained."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import scripted_app as script

Event = dict[str, Any]
Rollout = dict[str, Any]
LEVELS = [round(0.05 * i, 2) for i in range(81)]
K, PROBLEMS, UPDATES, BEGIN, TAU = 20, 80, 125, 1_790_000_000.0, 1.0
OVER = ("done", "stopped", "interrupted", "failed")
STAGE_SECONDS = {"rollouts": 60.0, "selection": 2.0, "gate": 5.0, "training": 125.0, "final": 8.0}
EVIL = "<img src=x onerror=window.PWN=1>"


def estimate(value: float, half: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


# ---- rollouts with known entropies ------------------------------------------------------------------------------
def solution(draw: random.Random, right: bool) -> list[list[Any]]:
    """Words of one solution, each with its entropy: high at the opener and the verbs, next to nothing elsewhere."""
    opener, verb = draw.choice([" First", " Okay", " Quickly"]), " subtract" if right else " add"
    first, total, sign = (31, 73, "-") if right else (53, 95, "+")
    text = (
        f"{opener}, the facts are 42, 11.\n We{verb} 11: 42 {sign} 11 = {first}.\n Then we add: "
        f"42 + {first} = {total}. So the answer is \\boxed{{{total}}}."
    )
    high = {opener: 1.52, verb: 1.38, " Then": 1.05, " So": 0.94}
    toks = [*script.words(text), script.END]
    return [[t, round(high[t] + draw.uniform(-0.2, 0.2) if t in high else draw.random() ** 6 * 0.2, 6)] for t in toks]


def make_rollouts(problems: int = 40, each: int = 6, seed: int = 3) -> list[Rollout]:
    """Some right and some wrong of each problem, but for problem 7, which is never solved."""
    draw, made = random.Random(seed), []
    for p in range(problems):
        right = 0 if p == 7 else 2 + p % 3
        mean = right / each
        spread = math.sqrt(mean * (1 - mean)) or 1.0
        for gen in range(each):
            ok = gen < right
            about = {"problem_id": f"more_than-{p}", "gen": gen, "correct": ok}
            made.append(about | {"advantage": round((ok - mean) / spread, 4), "toks": solution(draw, ok)})
    return made


ROLLOUTS = make_rollouts()
SIGNS = {"gated_right": 1, "gated_wrong": -1, "gated_zero": 0}


def sign_of(rollout: Rollout) -> int:
    return int(rollout["advantage"] > 0) - int(rollout["advantage"] < 0)


def gated(sign: int, tau: float, rollouts: list[Rollout] | None = None) -> int:
    """Tokens above tau in rollouts whose advantage has this sign, counted one by one."""
    pool = ROLLOUTS if rollouts is None else rollouts
    return sum(h > tau for r in pool if sign_of(r) == sign for _, h in r["toks"])


def token_count(rollouts: list[Rollout] | None = None) -> int:
    return sum(len(r["toks"]) for r in (ROLLOUTS if rollouts is None else rollouts))


def dry(run: str | None = None, tau: float = TAU, rollouts: list[Rollout] | None = None) -> dict[str, Any]:
    pool = ROLLOUTS if rollouts is None else rollouts
    shown = [r for r in pool if r["gen"] in (0, 5)][:24]
    return {
        "kind": "dry",
        "run": run,
        "tau": tau,
        "k": K,
        "rollouts": shown,
        "levels": LEVELS,
        **{name: [gated(sign, x, pool) for x in LEVELS] for name, sign in SIGNS.items()},
        "tokens": token_count(pool),
        "of_rollouts": len(pool),
        "selection": SELECTION,
        "estimate": {"seconds": 42.0, "memory_mb": 1310.0, "usd": 0.02},
    }


HISTOGRAM = [9, 3, 2, 4, 3, 5, 4, 6, 3, 4, 5, 4, 3, 6, 3, 2, 4, 2, 2, 1, 5]  # problems with 0..20 right; 80 in all
KEPT = [0, 0, 0, 0, 3, 5, 4, 6, 3, 4, 5, 4, 3, 6, 3, 2, 2, 0, 0, 0, 0]
SELECTION: dict[str, Any] = {
    "problems": 80,
    "sampled": 1600,
    "kept": 50,
    "rollouts": 800,
    "trimmed": 200,
    "right": 391,
    "wrong": 409,
    "out": {"all_right": 5, "all_wrong": 9, "further_from_half": 16},
    "histogram": HISTOGRAM,
    "kept_histogram": KEPT,
    "alike": 1,
}


# ---- what happens in a run --------------------------------------------------------------------------------------
def gain(step: int, updates: int = UPDATES) -> float:
    return 0.15 * (1 - math.exp(-3 * step / updates))


def check(step: int, updates: int = UPDATES) -> Event:
    won = gain(step, updates)
    return {
        "kind": "check",
        "optimizer_step": step,
        "epoch": step / updates,
        "pass@1": estimate(0.657 + won, 0.045, 100),
        "vs_base": estimate(won, 0.06, 100) if step else None,
        "gap": -0.11 + 3 * won,
        "delta_logp_pos": won,
        "delta_logp_neg": -2 * won,
        "pressure": 1.1,
        "kl": 0.01,
        "checkpoint": f"step_{step}",
        "best": step > 0,
        "seconds": 1.2,
    }


Fork = tuple[str, str, str, str, list[tuple[str, float, float]]]  # key, before, said, known; (text, p, its change)
FACTS, TRIP = " First, the facts are 42, 11.\n We", " Okay, the facts are 60, 20. We take 20 from 60: 60 - 20 = 40.\n"
PENS = " Step by step: 7 boxes of 6 pens, 5 are lost. We"
VERBS = [(" add", 0.41, -0.3), (" subtract", 0.27, 0.42), (" multiply", 0.19, -0.08), (" take", 0.09, -0.02)]
LINKS = [(" Then", 0.45, 0.25), (" So", 0.3, -0.2), (" Next", 0.14, 0.0), (" Now", 0.08, -0.03)]
BOXES = [(" multiply", 0.52, 0.3), (" add", 0.33, -0.28), (" take", 0.08, -0.01), (" subtract", 0.05, 0.0)]
STARTS = [(" First", 0.38, 0.05), (" Okay", 0.29, 0.0), (" Quickly", 0.16, -0.13), (" Step", 0.12, 0.06)]
FORKS: list[Fork] = [
    ("f1", FACTS, " add", "73", [*VERBS, (" divide", 0.04, -0.02)]),
    ("f2", TRIP, " So", "100", [*LINKS, (" Hence", 0.03, -0.02)]),
    ("f3", PENS, " multiply", "37", [*BOXES, (" divide", 0.02, -0.01)]),
    ("f4", "", " First", "37", [*STARTS, (" Hmm", 0.05, 0.02)]),
]


def p_at(step: int, p: float, change: float, updates: int = UPDATES) -> float:
    return round(p + change * gain(step, updates) / 0.15, 4)


def replay(step: int, updates: int = UPDATES, forks: list[Fork] = FORKS) -> Event:
    told = []
    for key, before, said, known, choice in forks:
        top = [{"id": script.token_id(t), "text": t, "p": p_at(step, p, change, updates)} for t, p, change in choice]
        about = {"key": key, "before": before, "said": said, "known": known}
        told.append(about | {"entropy": 1.38 - gain(step, updates), "top": top})
    return {"kind": "replay", "optimizer_step": step, "forks": told}


OPENING = " First, the facts are 42, 11.\n We "
BEADS_WRONG = OPENING + "add 11: 42 + 11 = 53.\n Then we add: 42 + 53 = 95. So the answer is \\boxed{95}."
BEADS_RIGHT = OPENING + "subtract 11: 42 - 11 = 31.\n Then we add: 42 + 31 = 73. So the answer is \\boxed{73}."
NUTS = "Tom had 30 nuts, ate 4 a day for 5 days. How many are left?"


def said(text: str, answer: str | None, correct: bool | None) -> dict[str, Any]:
    return {"text": text, "answer": answer, "correct": correct}


def sample(name: str, problem: str, known: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "problem": problem, "known": known, "before": before, "after": after}


def samples(step: int) -> Event:
    right, wrong = said(BEADS_RIGHT, "73", True), said(BEADS_WRONG, "95", False)
    trip = said(" Okay, 60 + 40 = 100. So the answer is \\boxed{100}.", "100", True)
    nuts = said(" Quickly, 30 - 20 = 10. So the answer is \\boxed{10}.", "10", True)
    problems = [
        sample("more_than-3", script.BEADS, "73", wrong, right if step > 30 else wrong),
        sample("more_than-9", script.TRAIN, "100", trip, trip),
        sample("more_than-12", NUTS, "10", said(" Quickly, 30 - 4 = 26", None, None), nuts),
    ]
    return {"kind": "samples", "optimizer_step": step, "problems": problems}


def update(step: int, updates: int = UPDATES) -> Event:
    wave, done = random.Random(step).uniform(-1, 1), step / updates
    return {
        "kind": "update",
        "optimizer_step": step,
        "of": updates,
        "epoch": done,
        "loss": -0.02 + 0.05 * wave,
        "decision_loss": -0.1 - 0.3 * done + 0.08 * wave,
        "kl_loss": 0.0002 + 0.004 * done * (1 + 0.3 * wave),
        "delta_logp_pos_mean": 0.25 * done + 0.05 * wave,
        "delta_logp_neg_mean": -0.6 * done + 0.08 * wave,
        "grad_norm": 0.6 + 0.2 * wave,
        "lr": 2e-4 * min(1.0, step / 5) * (1 - step / (updates + 1)),
        "left": float(updates - step),
    }


def stage(name: str, at: int, of: int, left: float | None = None) -> Event:
    return {"kind": "stage", "stage": name, "at": at, "of": of, "left": left}


def rollouts_told(at: int) -> Event:
    bins = HISTOGRAM if at == PROBLEMS else [int(n * at / PROBLEMS) for n in HISTOGRAM]
    right = sum(n * k for k, n in enumerate(bins))
    figures = {
        "at": at,
        "of": PROBLEMS,
        "rollouts": at * K,
        "right": right,
        "truncated": at // 10,
        "unparsed": at // 20,
    }
    return {"kind": "rollouts", **figures, "k": K, "histogram": bins}


def gate_told() -> Event:
    right, wrong = gated(1, TAU), gated(-1, TAU)
    counts = {"gated": right + wrong, "gated_right": right, "gated_wrong": wrong, "tokens": token_count()}
    share = (right + wrong) / token_count()
    costs = {"seconds": 125.0, "memory_mb": 1310.0, "usd": 0.01}
    return {"kind": "gate", "tau": TAU, **counts, "share": share, "gate": "entropy", "estimate": costs}


def first_stages() -> Iterator[Event]:
    yield {"kind": "state", "state": "running"}
    yield replay(0)
    for at in range(0, PROBLEMS + 1, 10):
        yield stage("rollouts", at * K, PROBLEMS * K, (PROBLEMS - at) * 0.75 if at else None)
        yield rollouts_told(at)
    yield {"kind": "selection", **SELECTION}
    yield stage("gate", 0, 800, 5.0)
    yield stage("gate", 800, 800)
    yield gate_told()


def training(updates: int = UPDATES, every: int = 25, first: int = 1) -> Iterator[Event]:
    if first == 1:
        yield check(0, updates)
    for step in range(first, updates + 1):
        yield stage("training", step, updates, float(updates - step))
        yield update(step, updates)
        if step % every == 0:
            yield from (check(step, updates), replay(step, updates), samples(step))


def final() -> Iterator[Event]:
    yield stage("final", 0, 300, 8.0)
    yield stage("final", 300, 300)
    yield {
        "kind": "done",
        "seconds": 200.0,
        "peak_rss_mb": 1286.0,
        "tokens": 412_000,
        "updates": UPDATES,
        "adapter": "adapter",
        "best": "step_125",
        "before": estimate(0.657, 0.054, 300),
        "after": estimate(0.797, 0.046, 300),
        "vs_base": estimate(0.14, 0.051, 300),
        "usd": 0.01,
        "stages": STAGE_SECONDS,
    }


def hostile() -> list[Event]:
    text = "".join(t for t in script.HOSTILE if t != "\n" * 10_000)
    choice = [
        (EVIL, 0.5, 0.1),
        ("\u202eabc\n\n", 0.2, 0.0),
        ("{{value}}", 0.1, 0.0),
        ("", 0.05, 0.0),
        ("\x00`", 0.05, 0.0),
    ]
    fork: Fork = ("<b>k</b>", text, EVIL, "${window.PWN=1}", choice)
    both = said(text, EVIL, False), said(EVIL + "\n\n  indented", "\u202e1", True)
    told = {"kind": "samples", "optimizer_step": 50, "problems": [sample(EVIL, EVIL + text, EVIL, *both)]}
    guard = {"kind": "guard", "rule": "kl", "message": EVIL + " ${window.PWN=1}"}
    early = [*first_stages(), *training(50)]
    return [*early, replay(0, forks=[fork]), replay(25, forks=[fork]), told, guard]


def hostile_rollouts() -> list[Rollout]:
    toks = [[t, 1.5 if i % 2 == 0 else 0.01] for i, t in enumerate(script.HOSTILE)]
    evil = {"problem_id": EVIL, "gen": 0, "correct": True, "advantage": 1.0, "toks": toks}
    return [evil, {"problem_id": "p", "gen": 5, "correct": False, "advantage": -1.0, "toks": toks[:6]}]


# ---- runs -------------------------------------------------------------------------------------------------------
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
    checking: dict[str, int] | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        about = {"id": self.id, "created": BEGIN, "model": "mini", "adapter": None, "set": "mini:train"}
        more = {"preset": "small", "owner": "ann", "note": "", "kind": "train", "recipe": {}, "command": ["rmx"]}
        self.config = about | more | self.config
        self.events = [{"t": BEGIN + i, **e} for i, e in enumerate(self.events)]

    @property
    def told(self) -> list[Event]:
        return self.events if self.seen is None else self.events[: self.seen]

    def happen(self) -> None:
        if self.seen is not None and self.grow:
            self.seen = min(len(self.events), self.seen + self.grow)
            if self.seen == len(self.events):
                self.state = "done"

    def status(self) -> dict[str, Any]:
        part = next((e for e in reversed(self.told) if e["kind"] == "stage"), {})
        far = {name: part.get(name) for name in ("stage", "at", "of", "left")}
        alive = self.state not in OVER if self.alive is None else self.alive
        told = {"message": self.message, "ahead": self.ahead, "checking": self.checking, "alive": alive}
        return {"state": self.state, **far, **told}


FELL = (
    "Stopped: validation pass@1 fell from the base's 65.7 % to 41.0 % (-24.7 points, 95 % -31.2 to -18.1, n = 100). "
    "The checkpoints made so far are kept; step_25 is the best of them and becomes the adapter. "
    "Train again with a lower lr, with neg_floor_nats (0.5, say) or with a higher kl_weight."
)
BIG = {"model": "Qwen/Qwen2.5-1.5B", "set": "math500:train", "preset": "paper", "owner": "ben"}
EARLY, TRAINED, ENDED = list(first_stages()), list(training()), list(final())
WHOLE = [*EARLY, *TRAINED, *ENDED]


def after_update(step: int) -> int:
    """How many events have happened when this update is done."""
    return 1 + next(i for i, e in enumerate(WHOLE) if e["kind"] == "update" and e["optimizer_step"] == step)


def make_runs() -> dict[str, Run]:
    """One run in each state that the page must show."""
    middle = after_update(62)
    early = {"kind": "early", "message": "No better pass@1 in 3 checks; step_50 becomes the adapter."}
    guard = {"kind": "guard", "rule": "validation", "message": FELL}
    evil = {"model": EVIL, "note": "${window.PWN=1}"}
    both = stage("rollouts", 100, 100), stage("teacher", 100, 100)
    distilled = [{"kind": "state", "state": "running"}, *both, *training(60, 20), ENDED[-1]]
    dry = "Dry run: nothing was trained. Resume trains."
    runs = [
        Run("live", WHOLE, seen=3, grow=3),
        Run("done", WHOLE, state="done"),
        Run("rolling", WHOLE, seen=12),
        Run("training", WHOLE, seen=middle),
        Run("queued", [{"kind": "state", "state": "queued"}], state="queued", ahead=2),
        Run("blank", []),
        Run("interrupted", WHOLE, alive=False, seen=middle),
        Run("stopped", WHOLE, state="stopped", seen=middle),
        Run("dry", EARLY, state="stopped", message=dry),
        Run("failed", WHOLE, state="failed", seen=18, message="The disk is full. Make room and resume the run."),
        Run("guarded", [*WHOLE[: after_update(50) + 3], guard], state="stopped"),
        Run("early", [*WHOLE[: after_update(75) + 3], early, *ENDED], state="done"),
        Run("others", WHOLE, seen=after_update(30), config=BIG),
        Run("long", [*EARLY, *training(10_000, 1000), *ENDED], state="done", config=BIG),
        Run("hostile", hostile(), state="stopped", config=evil),
        Run("distilled", distilled, state="done", config={"kind": "distill"}),
    ]
    return {run.id: run for run in runs}


PLAN: dict[str, Any] = {
    "kind": "plan",
    "minutes": {"value": 4.0, "low": 3.1, "high": 5.6},
    "memory_mb": 1310.0,
    "usd": 0.02,
    "rate": "At $0.29 an hour for this machine.",
    "command": "rmx train --model mini --set mini:train --preset small --seed 42 --tau 1.0",
    "departs": [["problems", "150", "80"], ["temperature", "0.6", "1.0"], ["lr", "1e-4", "2e-4"]],
}
