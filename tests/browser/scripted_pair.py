"""The comparison on a scripted server, all distributions known. `python tests/browser/scripted_pair.py`.

The base adds where it should subtract; the adapted model knows better at one fork, chooses a word of its own at another
and is tied at a third. Patches are really decoded: what a word entails follows from the script.
"""

import itertools
import json
import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import scripted_app as script
from scripted_app import BEADS, END, Choice, certain, words
from scripted_page import LAUNCH

from rmx.ui.views import build_view

TAU = 1.0
NEAR, FORK, SPECIAL = 1, 2, 4  # flags of a map
CLASSES = ("unshifted", "reranked", "shifted")
PATCHED, DIFFERS, GATED, PATCH_SPECIAL, REFUSED = 1, 2, 4, 8, 16  # flags of a patch

# At each fork: what the base would say, what the adapted model would say.
ENDS: Choice = [(" So", 0.331), (" Thus", 0.33), (" Hence", 0.25), (" Therefore", 0.08), (" Now", 0.009)]
ADAPTED: list[Choice] = [
    [(" First", 0.52), (" Okay", 0.21), (" Quickly", 0.12), (" Step", 0.1), (" Hmm", 0.05)],
    [(" subtract", 0.71), (" add", 0.14), (" take", 0.09), (" multiply", 0.05), (" divide", 0.01)],
    [(" Finally", 0.48), (" Then", 0.25), (" So", 0.14), (" Next", 0.08), (" Now", 0.05)],
    [(" add", 0.6), (" subtract", 0.2), (" multiply", 0.1), (" take", 0.06), (" divide", 0.04)],
    [(" Thus", 0.34), (" So", 0.339), (" Hence", 0.23), (" Therefore", 0.08), (" Now", 0.011)],
]
BASE: list[Choice] = [script.OPENERS, script.VERBS, script.LINKS, script.VERBS, ENDS]


def tell(said: list[str]) -> tuple[Choice, Choice]:
    """What either model would say after `said`; any word is taken at a fork, elsewhere only the one that follows."""
    done: list[str] = []
    pos = 0
    for base, adapted in zip(BASE, ADAPTED, strict=True):
        if pos == len(said):
            return base, adapted
        done.append(said[pos])
        pos += 1
        for token in words(script.follow(done)):
            if pos == len(said):
                return certain(token), certain(token)
            if said[pos] != token:
                lost = script.off_script(len(said) - pos - 1)
                return lost, lost
            pos += 1
    return certain(END), certain(END)


def tell_long(said: list[str]) -> tuple[Choice, Choice]:
    base = script.long_text(said, False)
    if len(base) == 5 and base[0][0] == " but":
        return base, [(" so", 0.5), (" but", 0.2), (" wait", 0.15), (" hence", 0.1), (" now", 0.05)]
    return base, base


def tell_hostile(said: list[str]) -> tuple[Choice, Choice]:
    token = script.HOSTILE[len(said)] if len(said) < len(script.HOSTILE) else END
    if token == END:
        return certain(END), certain(END)
    others = ["<b>bold</b>", "${window.PWN=1}", "\u202eabc\n\n\n\n\n", "{{value}}"]
    base = [(token, 0.5), *[(t, 0.12) for t in others if t != token]]
    return base, [(others[0], 0.6), (token, 0.2), *[(t, 0.05) for t in others[1:] if t != token]]


TELL = {"beads": tell, "long": tell_long, "hostile": tell_hostile, "agree": lambda said: (tell(said)[0],) * 2}
ARMS = {
    "base": "base", "teacher": "adapted", "oracle": "oracle", "random": "random token", "matched": "random place",
    "entropy": "entropy gate",
}  # fmt: skip


def kl(p: Choice, q: Choice) -> float:
    other = dict(q)
    return max(0.0, sum(a * (math.log(a) - math.log(other.get(t, 1e-4))) for t, a in p if a > 0))


def rank_in(choice: Choice, token: str) -> int:
    mine = dict(choice).get(token, 1e-6)
    return 1 + sum(p > mine for _, p in choice) if token in dict(choice) else len(choice) + 3


UNWRITTEN = {"arm": "teacher", "unwritten": "It is written only when asked for."}


@dataclass
class Job:
    """A map or one intervened decode."""

    kind: str
    script: str
    limit: int = 400
    pause: float = 0.004
    arm: str = "base"
    budget: int | None = None
    of_map: "Job | None" = None
    title: str = BEADS
    zero: bool = False
    id: str = ""
    said: list[str] = field(default_factory=list)
    toks: list[list[Any]] = field(default_factory=list)
    patches: int = 0
    done: bool = False
    stop: str = "eos"
    halt: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.id = f"{self.kind}{next(NUMBERS)}"
        JOBS[self.id] = self

    def step(self) -> None:
        base, adapted = TELL[self.script](self.said)
        if self.kind == "map":
            self.toks.append(map_token(base, adapted, self.greedy(base)))
            self.said.append(self.toks[-1][0])
        else:
            self.toks.append(self.patched(base, adapted))
            self.said.append(self.toks[-1][0])

    def greedy(self, base: Choice) -> str:
        if self.script == "long" and len(self.said) % 12 != 11:
            return random.Random(len(self.said)).choices(*zip(*base, strict=True))[0]
        return base[0][0]

    def patched(self, base: Choice, adapted: Choice) -> list[Any]:
        mine, theirs, pos = base[0][0], adapted[0][0], len(self.said)
        gated = script.entropy(base) > TAU
        wanted = {
            "base": mine, "teacher": theirs, "oracle": theirs, "entropy": theirs if gated else mine,
            "random": base[2][0] if mine != theirs else mine, "matched": " the" if pos in (7, 19, 30) else mine,
        }[self.arm]  # fmt: skip
        refused = wanted != mine and self.budget is not None and self.patches >= self.budget
        text = mine if refused else wanted
        self.patches += text != mine
        flags = (PATCHED if text != mine else 0) | (DIFFERS if mine != theirs else 0) | (GATED if gated else 0)
        flags |= (PATCH_SPECIAL if text == END else 0) | (REFUSED if refused else 0)
        p, q = dict(base).get(text, 1e-5), dict(adapted).get(text, 1e-5)
        return [text, flags, round(script.entropy(base), 4), mine if text != mine else None, p, q]

    def answer(self) -> dict[str, Any]:
        found = script.re.findall(r"\\boxed\{(\d+)\}", "".join(self.said))
        return {"text": found[-1] if found else None, "correct": found[-1] == "73" if found else None}

    def open(self) -> dict[str, Any]:
        names = {"base": "mini", "adapted": "mini + rl", "tau": TAU, "title": self.title, "known": "73"}
        if self.kind == "patch":
            return {"arm": self.arm, "budget": self.budget, "seed": 0, "at": 0, **names}
        noise = {"max_dlogit": 0.0021, "argmax_changed": 0, "positions": 58}
        return {"prompt": f"Q: {self.title}\nA:", "source": "base", "noise": noise, "strength": 1.0, **names}

    def result(self) -> dict[str, Any]:
        common = {"answer": self.answer(), "n": len(self.toks), "stop": self.stop, "seconds": 0.4}
        if self.kind == "patch":
            differs, gated = (sum(bool(t[1] & flag) for t in self.toks) for flag in (DIFFERS, GATED))
            return {"patches": self.patches, "disagreements": differs, "gated": gated, **common}
        parted = [(pos, t) for pos, t in enumerate(self.toks) if t[1]]
        largest = sorted(parted, key=lambda row: -row[1][3])[:12]
        adapted = {"text": "73", "correct": True} if self.script == "beads" else {"text": None, "correct": None}
        beside = [
            ["First, we", "First, we", True],
            [" add 11.", " subtract 11.", False],
            [" So it is", " So it is", True],
        ]
        return {
            "adapted_answer": adapted,
            "beside": {"answer": adapted, "rows": beside} if self.script == "beads" else UNWRITTEN,
            "counts": {name: sum(t[1] == k for t in self.toks) for k, name in enumerate(CLASSES)},
            "on_forks": {
                "disagreements": len(parted),
                "on_forks": sum(bool(t[2] & FORK) for _, t in parted),
                "by_chance": sum(bool(t[2] & FORK) for t in self.toks) / max(1, len(self.toks)),
            },
            "largest": [self.difference(pos, t) for pos, t in largest],
            "placebo": {"reranked": 0.017, "shifted": 0.0, "strength": 1.0, "mean_rank": 2.3, "entropy_ratio": 6.1},
            **common,
        }  # fmt: skip

    def difference(self, pos: int, tok: list[Any]) -> dict[str, Any]:
        base, adapted = TELL[self.script](self.said[:pos])
        return {"pos": pos, "text": tok[0], "base": base[0][0], "adapted": adapted[0][0], "kl": tok[3], "cls": tok[1]}

    def message(self, start: int, with_open: bool = False) -> dict[str, Any]:
        m: dict[str, Any] = {
            "kind": self.kind,
            "id": self.id,
            "start": start,
            "toks": self.toks[start:],
            "done": self.done,
        }
        if with_open:
            m["open"] = self.open()
        if self.kind == "patch":
            m["map"] = self.of_map.id if self.of_map else None
            m["answers"], m["patches"] = known_arms(self.of_map)
        if self.done:
            m |= {"result": self.result(), "open": self.open()}
        return m


NUMBERS = itertools.count(1)
JOBS: OrderedDict[str, Job] = OrderedDict()
SETS: dict[str, dict[str, Any]] = {}
DROP = threading.Event()  # while set, messages are lost on the way to the page
EVENTS: list[tuple[str, dict[str, Any]]] = []  # what the page sent, for the tests
REPEAT: list[Job] = []  # what the button Repeat sends again, whole
CHANGED: list[str] = []  # how the next check finds the base changed
GONE = {"error": "This comparison is no longer held by the server. Map the problem again."}


def map_token(base: Choice, adapted: Choice, text: str) -> list[Any]:
    rank = rank_in(base, adapted[0][0])
    near = rank > 1 and abs(base[0][1] - dict(base).get(adapted[0][0], 0)) < 0.005
    cls = 0 if rank <= 1 else 1 if rank <= 5 else 2
    flags = (NEAR if near else 0) | (FORK if script.entropy(base) > TAU else 0) | (SPECIAL if text == END else 0)
    p, q = dict(base).get(text, 1e-5), dict(adapted).get(text, 1e-5)
    heights = round(script.entropy(base), 4), round(script.entropy(adapted), 4)
    return [text, cls, flags, round(kl(base, adapted), 4), *heights, p, q]


def known_arms(of_map: Job | None) -> tuple[dict[str, Any], dict[str, int]]:
    jobs = [j for j in JOBS.values() if j.kind == "patch" and j.of_map is of_map and j.done and j.budget is None]
    return {j.arm: j.answer() for j in jobs}, {j.arm: j.patches for j in jobs}


def stream(job: Job) -> Iterator[dict[str, Any]]:
    """Ten deltas a second at most, the opening message at once."""
    sent, due, opening = 0, 0.0, True
    while len(job.said) < job.limit and job.said[-1:] != [END] and not job.halt.is_set():
        if opening or time.monotonic() >= due:
            if not DROP.is_set():
                yield job.message(sent, with_open=opening)
            sent, due, opening = len(job.said), time.monotonic() + 0.1, False
        time.sleep(job.pause)
        job.step()
    job.stop = "cancelled" if job.halt.is_set() else "eos" if job.said[-1:] == [END] else "length"
    job.done = True
    yield job.message(sent, with_open=opening)


# ---- what the page asks -----------------------------------------------------------------------------------------
def find(args: Any) -> Job | None:
    return JOBS.get(str(args.get("id"))) if isinstance(args, dict) else None


def tail(args: dict[str, Any]) -> dict[str, Any]:
    if str(args.get("id")) in SETS:
        return SETS[str(args["id"])]
    job = find(args)
    return job.message(max(0, int(args["start"])), with_open=True) if job else GONE


def inspect(args: dict[str, Any]) -> dict[str, Any]:
    job, pos = find(args), int(args["pos"])
    if job is None or not 0 <= pos < len(job.said):
        return GONE
    base, adapted = TELL[job.script](job.said[:pos])
    text, cls, flags, divergence, *_ = job.toks[pos]
    return {
        "pos": pos, "text": text, "cls": cls, "near_tie": bool(flags & NEAR), "kl": divergence,
        "rank": rank_in(base, adapted[0][0]), "p": dict(base).get(adapted[0][0], 1e-5),
        "back_rank": rank_in(adapted, base[0][0]), "back_p": dict(adapted).get(base[0][0], 1e-5),
        "base": side(base, text), "adapted": side(adapted, text),
    }  # fmt: skip


def side(choice: Choice, text: str) -> dict[str, Any]:
    top = [{"id": script.token_id(t), "text": t, "p": p} for t, p in choice[:5]]
    p = dict(choice).get(text, 1e-5)
    return {"entropy": script.entropy(choice), "logp": math.log(p), "rank": rank_in(choice, text), "top": top}


def check(args: dict[str, Any]) -> dict[str, Any]:
    job = find(args)
    if job is None:
        return GONE
    time.sleep(0.2)
    adapter = {
        "name": "rl", "type": "LORA", "rank": 32, "alpha": 64, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "norm": 0.0 if job.zero else 3.214, "zero": job.zero, "revision": "4f1c2a9", "parameters": 196608,
    }  # fmt: skip
    changed = {"holds": False, "sentence": f"THE BASE HAS CHANGED: {CHANGED[0]}"} if CHANGED else {}
    return changed | {
        "max_dlogit": 0.0, "positions": 58, "how": "adapter off against a second reading of the checkpoint",
        "weights": {"tensors": 47, "equal": 47, "file": "model.safetensors"}, "probe": 0.0,
        "copy": 0.0 if args.get("copy") else None, "adapter": adapter, "seconds": 0.8,
    }  # fmt: skip


def export(args: dict[str, Any]) -> dict[str, Any]:
    state = SETS.get(str(args.get("id")))
    if state is None:
        return GONE
    rows = state.get("rows") or state.get("arms") or []
    if args.get("format") == "json":
        return {"name": "shifts.json", "mime": "application/json", "text": json.dumps(rows)}
    lines = [f"{r.get('name', r.get('arm'))},{(r.get('value') or r.get('pass'))['value']}" for r in rows]
    return {"name": "shifts.csv", "mime": "text/csv", "text": "\n".join(["name,value", *lines])}


# ---- problem sets -----------------------------------------------------------------------------------------------
def around(value: float, n: int, wide: float = 1.0) -> dict[str, Any]:
    half = wide * 1.96 * math.sqrt(max(1e-9, abs(value) * abs(1 - abs(value))) / max(1, n))
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def shift_rows(at: int) -> list[dict[str, Any]]:
    n = 55 * at
    rows: list[tuple[str, str, float, float, str | None, float | None]] = [
        ("unshifted", "unshifted", 0.949, 0.949, "95.6 – 98.9 %", 0.986),
        ("reranked", "reranked", 0.045, 0.045, "1.0 – 4.1 %", 0.013),
        ("shifted", "shifted", 0.006, 0.006, "0.1 – 0.3 %", 0.001),
        ("on_forks", "disagreements on forks", 0.97, 0.97, None, 0.62),
    ]
    out = [
        {"name": name, "label": label, "value": around(v, n), "paper": paper, "unit": "share",
         "placebo": around(z, n) if z is not None else None}
        for name, label, v, _, paper, z in rows
    ]  # fmt: skip
    ratio = {"value": 14.2, "low": 12.9, "high": 15.6, "n": n}
    out.append({"name": "entropy_ratio", "label": "entropy, reranked over unshifted", "value": ratio, "unit": "ratio",
                "paper": "8 – 21×", "placebo": {"value": 9.0, "low": 6.1, "high": 12.2, "n": n}})  # fmt: skip
    rank = {"value": 2.21, "low": 2.14, "high": 2.3, "n": n}
    out.append({"name": "mean_rank", "label": "mean rank of the adapted choice", "value": rank, "unit": "number",
                "paper": "2.1 – 2.3", "placebo": None, "note": "over disagreements only"})  # fmt: skip
    return out


def arm_rows(at: int) -> list[dict[str, Any]]:
    solved = {"base": 0.31, "teacher": 0.86, "oracle": 0.86, "random": 0.12, "matched": 0.09, "entropy": 0.81}
    touched = {"base": 0.0, "teacher": 0.051, "oracle": 0.048, "random": 0.05, "matched": 0.048, "entropy": 0.061}
    rows = []
    for arm, label in ARMS.items():
        gain = solved[arm] - solved["base"]
        rows.append({
            "arm": arm, "label": label, "pass": around(solved[arm], at), "touched": touched[arm], "gated": None,
            "vs_base": None if arm == "base" else {"value": gain, "low": gain - 0.09, "high": gain + 0.09, "n": at},
            "won": None if arm == "base" else round(max(0.0, gain) * at) + 1,
            "lost": None if arm == "base" else round(max(0.0, -gain) * at),
        })  # fmt: skip
    return rows


READING = [
    "Where they part, the base was undecided: 97 % of the disagreements fall on forks.",
    "Noise of the same size reranks 1.3 %: training, not size, makes the difference.",
]


CHARTED = {
    "histogram": {
        "edges": [i / 10 for i in range(31)],
        "unshifted": [60] * 5 + [0] * 26, "reranked": [0] * 11 + [2] * 20, "shifted": [0] * 31,
    },
    "within_top": {"adapted": [0.0, 0.6, 0.8, 0.9, 1, 1, 1, 1, 1, 1]},
}  # fmt: skip


def on_set(what: str, pause: float) -> Iterator[dict[str, Any]]:
    """A job over 200 problems in 8 messages; the whole state each time."""
    state: dict[str, Any] = {"kind": "set", "id": f"set{next(NUMBERS)}", "what": what, "of": 200, "stopped": False}
    state |= {"set": "mini:test", "base": "mini", "adapted": "mini + rl", "tau": TAU}
    HALTED.discard(state["id"])
    for at in range(25, 201, 25):
        if stopped := state["id"] in HALTED:
            at -= 25
        state |= {
            "at": at,
            "seconds": at * 0.3,
            "left": (200 - at) * 0.3,
            "done": at == 200 or stopped,
            "stopped": stopped,
        }
        state["reading"] = READING if at >= 100 else []
        state |= {"rows": shift_rows(at), **CHARTED} if what == "shifts" else {"arms": arm_rows(at)}
        if what == "intervene":
            state["oracle_equals_teacher"] = {"same": at, "of": at}
        SETS[state["id"]] = dict(state)
        if not DROP.is_set():
            yield dict(state)
            time.sleep(pause / 1000)
        if stopped:
            return


HALTED: set[str] = set()


# ---- what the page sends ----------------------------------------------------------------------------------------
def payload(evt: gr.EventData, name: str) -> dict[str, Any]:
    data = evt._data if isinstance(evt._data, dict) else {}
    EVENTS.append((name, data))
    return data


def on_map(which: str, tokens: float, pause: float, zero: bool) -> Iterator[dict[str, Any]]:
    if which == "error":
        yield {
            "kind": "map",
            "id": None,
            "error": "The model is busy: two visitors wait before you. Try again in a few seconds.",
        }
        return
    title = {
        "long": "A long solution.",
        "hostile": "<b>Tokens</b> that would do harm if they were markup: ${window.PWN=1}",
    }
    yield from stream(Job("map", which, int(tokens), pause / 1000, title=title.get(which, BEADS), zero=zero))


def on_patch(evt: gr.EventData) -> Iterator[dict[str, Any]]:
    data = payload(evt, "patch")
    of_map, arm, budget = JOBS.get(str(data.get("map"))), str(data.get("arm")), data.get("budget")
    if of_map is None or arm not in ARMS:
        yield {"kind": "patch", "id": None, "error": "Map a problem first; then it can be patched."}
        return
    title = of_map.title
    yield from stream(Job("patch", of_map.script, of_map.limit, min(of_map.pause, 0.02), arm, budget, of_map, title))


def on_halt(evt: gr.EventData) -> None:
    data = payload(evt, "halt")
    HALTED.add(str(data.get("id")))
    if job := JOBS.get(str(data.get("id"))):
        job.halt.set()


def build() -> gr.Blocks:
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="Scripted pair", analytics_enabled=False, fill_width=True) as demo, gr.Row():
        with gr.Column(scale=0, min_width=240):
            which = gr.Radio(["beads", "long", "hostile", "agree", "error"], value="beads", label="Script")
            tokens = gr.Number(400, label="Tokens", elem_id="limit")
            pause = gr.Number(4, label="Pause (ms)", elem_id="pause")
            zero = gr.Checkbox(False, label="Zero adapter")
            go_map = gr.Button("Map", variant="primary")
            go_shifts = gr.Button("Shifts on a set")
            go_arms = gr.Button("Patches on a set")
            again = gr.Button("Repeat")
        with gr.Column(scale=1, min_width=320):
            questions = {"pair_tail": tail, "pair_inspect": inspect, "pair_check": check, "pair_export": export}
            view = build_view("compare/compare_view", questions, elem_id="pair")
        go_map.click(on_map, [which, tokens, pause, zero], view, **hidden)
        go_shifts.click(lambda ms: (yield from on_set("shifts", ms)), pause, view, **hidden)
        go_arms.click(lambda ms: (yield from on_set("intervene", ms)), pause, view, **hidden)
        again.click(lambda: REPEAT.pop().message(0, with_open=True), None, view, **hidden)
        view.patch(on_patch, None, view, trigger_mode="multiple", concurrency_limit=4, **hidden)
        view.halt(on_halt, None, None, queue=False, **hidden)
    return demo.queue(api_open=False)


if __name__ == "__main__":
    build().launch(**LAUNCH)
