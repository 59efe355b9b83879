"""The explorer view on a scripted server: no model, every distribution known. `python tests/browser/scripted_app.py`.

A script is a small grammar: at a fork it lists what could be said, with probabilities; elsewhere it is certain.
"""

import itertools
import json
import math
import random
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from scripted_page import LAUNCH

from rmx.ui.views import build_view

Choice = list[tuple[str, float]]
END = "<|end|>"

BEADS = "Ann has 42 beads. Ben has 11 fewer than Ann. How many beads do they have together?"
TRAIN = "A train runs 60 km in the first hour and 20 km less in the second. How far does it get in two hours?"

# Plan and wording are forks, with the probability of each word; the answer follows from the verbs that are said.
OPENERS: Choice = [(" First", 0.38), (" Okay", 0.29), (" Quickly", 0.16), (" Step", 0.12), (" Hmm", 0.05)]
VERBS: Choice = [(" add", 0.41), (" subtract", 0.27), (" multiply", 0.19), (" take", 0.09), (" divide", 0.04)]
LINKS: Choice = [(" Then", 0.45), (" So", 0.3), (" Next", 0.14), (" Now", 0.08), (" Hence", 0.03)]
ENDS: Choice = [(" So", 0.58), (" Thus", 0.27), (" Hence", 0.11), (" Therefore", 0.03), (" Now", 0.01)]

HOSTILE = [
    " plain", "<script>window.PWN=1</script>", "<img src=x onerror=window.PWN=1>", "${window.PWN=1}", "`", "{{value}}",
    "{{#each value}}", "\\x3cimg src=x onerror=window.PWN=1>", "\u202eabc", "\u2066x", "\t", "\x00", "\r", "\u200b",
    "\U000e0041", "", "", "\U0001f469\u200d\U0001f4bb", " \u0633\u0644\u0627\u0645", " \u0639\u0644\u064a\u0643\u0645",
    ".\n", " \u05e9\u05dc\u05d5\u05dd", "\n" * 10_000, "</div></p>", "javascript:window.PWN=1", "\ufeff", "  ",
    "\n", "\n", "\n", "\n", "\n", "\n", "end", END,
]  # fmt: skip


def words(text: str) -> list[str]:
    """Split as the bundled tokenizer does: a word or a digit with its space is one token."""
    return re.findall(r" ?\\boxed\{| ?[A-Za-z]+| ?[0-9]|\n| ?[^\sA-Za-z0-9]", text)


def beads(said: list[str]) -> Choice:
    """The distribution after `said`: five forks, each followed by words that its choice makes certain."""
    done: list[str] = []
    pos = 0
    for which, choice in enumerate((OPENERS, VERBS, LINKS, VERBS, ENDS)):
        if which == 3 and done[2] == " So":  # stopped early: the first result is the answer
            break
        if pos == len(said):
            return choice
        if said[pos] not in dict(choice):
            return off_script(len(said) - pos - 1)
        done.append(said[pos])
        pos += 1
        for token in words(follow(done)):
            if pos == len(said):
                return certain(token)
            if said[pos] != token:
                return off_script(len(said) - pos - 1)
            pos += 1
    return certain(END)


def off_script(k: int) -> Choice:
    """A typed text or a searched token leads away from the script, and to no answer."""
    rest = [*words(" which leads nowhere, so there is no answer."), END]
    return certain(rest[min(k, len(rest) - 1)])


def calculate(verb: str, a: int, b: int) -> tuple[str, int]:
    hi, lo = max(a, b), max(1, min(a, b))
    return {" add": ("+", a + b), " multiply": ("*", a * b), " divide": ("/", hi // lo)}.get(
        verb, ("-", hi - min(a, b))
    )


def follow(done: list[str]) -> str:
    """What the last choice entails: wrong verbs give wrong sums, honestly worked out."""
    a, b = 42, 11
    sign, c = calculate(done[1], a, b) if len(done) > 1 else ("", 0)
    sign2, d = calculate(done[3], a, c) if len(done) > 3 else ("", 0)
    if len(done) == 1:
        return (" by step" if done[0] == " Step" else "") + ", the facts are 42, 11.\nWe"
    if len(done) == 2:
        return f" {'11 from 42' if sign == '-' else '42 and 11'}: {a} {sign} {b} = {c}."
    if len(done) == 3:
        return f" the answer is \\boxed{{{c}}}." if done[2] == " So" else " we"
    if len(done) == 4:
        return f" {a} and {c}: {max(a, c)} {sign2} {min(a, c)} = {d}."
    return f" the answer is \\boxed{{{d}}}."


GOES_ON = ("long", "wall", "many")  # prose without end; "many" comes to an answer just before its limit
LAST = [*words(" so the answer is \\boxed{42}."), END]


def certain(token: str) -> Choice:
    near = [" the", ".", " we", " and", ","]
    rest = [(t, 0.0002) for t in near if t != token][:4]
    return [(token, 1 - 0.0002 * len(rest)), *rest]


def long_text(said: list[str], wall: bool) -> Choice:
    """Prose without end; each 40th token is a fork, each 60th ends a paragraph (never, as a wall)."""
    pos = len(said)
    draw = random.Random(pos)
    if not wall and pos % 60 == 59:
        return certain(".\n\n")
    if pos % 12 == 11:
        return certain(".")
    if pos % 40 == 7:
        return [(" but", 0.4), (" so", 0.3), (" wait", 0.15), (" hence", 0.1), (" now", 0.05)]
    token = draw.choice(
        [
            "",
            "the",
            "model",
            "reads",
            "a",
            "number",
            "and",
            "adds",
            "it",
            "to",
            "the",
            "sum",
            "that",
            "was",
            "found",
            "before",
        ][1:]
    )
    sure = draw.choice([1.0, 1.0, 0.97, 0.9])
    return [(" " + token, sure), *[(t, (1 - sure) / 4) for t in (" one", " two", " three", " four")]]


VOCAB: OrderedDict[str, int] = OrderedDict()


def token_id(text: str) -> int:
    return VOCAB.setdefault(text, len(VOCAB))


for known in [
    *(t for c in (OPENERS, VERBS, LINKS, ENDS) for t, _ in c),
    *(f" {w}" for w in ["zero", "one", "two", "seven", "apple", "banana", "however"]),
]:
    token_id(known)


@dataclass
class Run:
    """One branch: what it was asked, what it says, and which run it left."""

    script: str
    tau: float = 1.0
    limit: int = 400
    pause: float = 0.004
    parent: "Run | None" = None
    at: int | None = None
    forced: list[str] = field(default_factory=list)
    title: str | None = None
    tree: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    said: list[str] = field(default_factory=list)
    toks: list[list[Any]] = field(default_factory=list)
    done: bool = False
    stop: str = "eos"
    seconds: float = 0.0
    halt: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.tree = self.parent.tree if self.parent else self.id
        if self.parent and self.at is not None:
            self.said, self.toks = self.parent.said[: self.at], self.parent.toks[: self.at]
        RUNS[self.id] = self

    def choices(self, said: list[str]) -> Choice:
        if self.script == "many" and 0 <= (k := len(said) - self.limit + len(LAST)) < len(LAST):
            return certain(LAST[k])
        if self.script in GOES_ON:
            return long_text(said, self.script == "wall")
        if self.script == "hostile":
            token = HOSTILE[len(said)] if len(said) < len(HOSTILE) else END
            return [
                (token, 0.5),
                *[(t, 0.125) for t in (" plain", "<b>bold</b>", "${1}", "\u202eabc\n\n\n\n\n\n") if t != token],
            ]
        return beads(said)

    def step(self, force: str | None = None) -> None:
        choices = self.choices(self.said)
        draw = random.Random(len(self.said)) if self.script in GOES_ON else None
        text = force or (draw.choices(*zip(*choices, strict=True))[0] if draw else choices[0][0])
        if draw and force is None and len(self.said) % 12 in (11,):
            text = choices[0][0]
        ranked = [t for t, _ in choices]
        p = dict(choices).get(text, 1e-5)
        flags = (1 if force else 0) | (2 if text == END else 0)
        token_id(text)
        self.said.append(text)
        h = round(entropy(choices), 4)
        others = json.dumps([token_id(text), [[token_id(t), q, t] for t, q in choices[:5]]]) if h > 0.35 else ""
        self.toks.append([text, h, p, ranked.index(text) + 1 if text in ranked else 7, flags, others])

    def open(self) -> dict[str, Any]:
        forced = self.forced[0] if self.forced else None
        dist = dict(self.parent.choices(self.said[: self.at])) if self.parent else {}
        return {
            "tree": self.tree,
            "parent": self.parent.id if self.parent else None,
            "at": self.at,
            "forced": len(self.forced),
            "from_text": self.parent.said[self.at] if self.parent and self.at is not None else None,
            "from_id": token_id(self.parent.said[self.at]) if self.parent and self.at is not None else None,
            "to_text": "".join(self.forced) or None,
            "to_ids": [token_id(t) for t in self.forced] or None,
            "to_p": dist.get(forced, 1e-5) if forced else None,
            "tau": self.tau,
            "label": "greedy",
            "model": "scripted",
            "prompt": f"Q: {self.title or BEADS}\nA:",
            "known": None if UNKNOWN.is_set() else "73",
            "title": self.title or BEADS,
        }

    def answer(self) -> dict[str, Any]:
        found = re.findall(r"\\boxed\{(\d+)\}", "".join(self.said))
        graded = found and not UNKNOWN.is_set()
        return {"text": found[-1] if found else None, "correct": found[-1] == "73" if graded else None}

    def result(self) -> dict[str, Any]:
        kept = self.at or 0
        return {
            "answer": self.answer(),
            "stop": self.stop,
            "reuse": {"reused": 28 + kept if kept else 0, "computed": 1 if kept else 28},
            "seconds": round(self.seconds, 2),
            "n": len(self.toks),
        }

    def message(self, start: int, with_open: bool = False) -> dict[str, Any]:
        m: dict[str, Any] = {"run": self.id, "start": start, "toks": self.toks[start:], "done": self.done}
        if with_open:
            m["open"] = self.open()
        if self.done:
            m |= {"result": self.result(), "tree": tree_of(self.tree)}
        return m


RUNS: OrderedDict[str, Run] = OrderedDict()
DROP = threading.Event()  # while set, deltas are lost on the way to the page
UNKNOWN = threading.Event()  # while set, no known answer was given
END_PACE = {"pause": 0.0}  # seconds before the ends of each fork are known
EVENTS: list[tuple[str, dict[str, Any]]] = []  # what the page sent, for the tests


def entropy(choices: Choice) -> float:
    return -sum(p * math.log(p) for _, p in choices if p > 0)


def tree_of(tree: str) -> list[dict[str, Any]]:
    rows = []
    for run in RUNS.values():
        if run.tree == tree and run.done:
            o = run.open()
            row = {k: o[k] for k in ("parent", "at", "from_text", "from_id", "to_text", "to_ids", "to_p", "label")}
            rows.append({"run": run.id, **row, "answer": run.answer(), "n": len(run.toks), "stop": run.stop})
    return rows


def stream(run: Run) -> Iterator[dict[str, Any]]:
    """Ten deltas a second at most, the opening message at once."""
    began, sent, due = time.perf_counter(), len(run.said), 0.0
    opening = True
    for force in run.forced:
        run.step(force)
    while len(run.said) < run.limit and run.said[-1:] != [END] and not run.halt.is_set():
        if opening or time.monotonic() >= due:
            if opening or not DROP.is_set():
                yield run.message(sent, with_open=opening)
            sent, due, opening = len(run.said), time.monotonic() + 0.1, False
        time.sleep(run.pause)
        run.step()
    run.stop = "cancelled" if run.halt.is_set() else "eos" if run.said[-1:] == [END] else "length"
    run.seconds, run.done = time.perf_counter() - began, True
    yield run.message(sent, with_open=opening)


def find(args: Any) -> Run | None:
    return RUNS.get(str(args.get("run"))) if isinstance(args, dict) else None


GONE = {"error": "This branch is no longer held by the server. Run the problem again."}


def tail(args: dict[str, Any]) -> dict[str, Any]:
    run = find(args)
    return run.message(max(0, int(args["start"])), with_open=True) if run else GONE


def inspect(args: dict[str, Any]) -> dict[str, Any]:
    run, pos = find(args), int(args["pos"])
    if run is None or not 0 <= pos < len(run.said):
        return GONE
    text, h, p, rank, flags = run.toks[pos][:5]
    top = run.choices(run.said[:pos])
    fill = [(f" word{k}", 1e-6) for k in range(20 - len(top))]
    alternatives = [{"id": token_id(t), "text": t, "p": q} for t, q in [*top, *fill]]
    return {
        "pos": pos,
        "id": token_id(text),
        "text": text,
        "entropy": h,
        "p": p,
        "rank": rank,
        "forced": bool(flags & 1),
        "top": alternatives,
    }


def look(args: dict[str, Any]) -> dict[str, Any]:
    run, pos = find(args), int(args["pos"])
    if run is None:
        return GONE
    time.sleep(0.25)
    ahead = []
    for text, _ in run.choices(run.said[:pos])[:5]:
        said = [*run.said[:pos], text]
        for _ in range(16):
            if said[-1] == END:
                break
            said.append(run.choices(said)[0][0])
        ahead.append({"id": token_id(text), "text": "".join(said[pos + 1 :])})
    return {"pos": pos, "alternatives": ahead}


def search(args: dict[str, Any]) -> dict[str, Any]:
    hits = [t for t in VOCAB if str(args["q"]) in t][:20]
    return {"tokens": [{"id": token_id(t), "text": t, "p": 1e-5, "rank": 40 + k} for k, t in enumerate(hits)]}


def payload(evt: gr.EventData, name: str) -> dict[str, Any]:
    data = evt._data if isinstance(evt._data, dict) else {}
    EVENTS.append((name, data))
    return data


def on_pick(evt: gr.EventData) -> Iterator[dict[str, Any]]:
    data = payload(evt, "pick")
    parent, pos = RUNS.get(str(data.get("run"))), data.get("pos")
    if parent is None or type(pos) is not int or not 0 <= pos < len(parent.said):
        yield {"run": None, "error": "That place no longer exists. Choose another fork."}
        return
    if "text" in data:
        forced = words(str(data["text"])) or [str(data["text"])]
    else:
        forced = [t for i in data.get("token_ids", []) for t, k in VOCAB.items() if k == i]
    if not forced:
        yield {"run": None, "error": "That token is not in the vocabulary. Choose another one."}
        return
    parent.halt.set()
    child = Run(parent.script, parent.tau, parent.limit, parent.pause, parent, pos, forced, parent.title)
    yield from stream(child)


def on_run(script: str, tau: float, tokens: float, pause: float) -> Iterator[dict[str, Any]]:
    title = {
        "long": "A long solution.",
        "wall": "One paragraph without end.",
        "many": "A solution with many forks.",
        "hostile": "Tokens that would do harm if they were markup.",
    }.get(script)
    if script == "error":
        yield {"run": None, "error": "The model is busy: two visitors wait before you. Try again in a few seconds."}
        return
    yield from stream(Run(script, tau, int(tokens), pause / 1000, title=title))


def on_halt(evt: gr.EventData) -> None:
    data = payload(evt, "halt")
    if run := RUNS.get(str(data.get("run"))):
        run.halt.set()


def end_of(run: Run, pos: int, text: str) -> list[Any]:
    """The end of one alternative as the page reads it; a text that goes on for long has none."""
    if run.script == "many":  # right, wrong and not computed in turn; to say them all would take minutes
        turn = (pos // 40 + 2 * [t for t, _ in run.choices(run.said[:pos])].index(text)) % 3
        return [token_id(text), *(["73", True], [str(40 + pos // 40), False], [])[turn]]
    said = [*run.said[:pos], text]
    while said[-1] != END and len(said) < run.limit:
        said.append(run.choices(said)[0][0])
    if said[-1] != END:
        return [token_id(text)]
    found = re.findall(r"\\boxed\{(\d+)\}", "".join(said))
    known = found and not UNKNOWN.is_set()
    return [token_id(text), found[-1] if found else None, found[-1] == "73" if known else None]


def on_ends(evt: gr.EventData) -> Iterator[dict[str, Any]]:
    """Fork after fork, as the background work of the app does."""
    run = RUNS[str(payload(evt, "ends")["run"])]
    forks = [pos for pos, tok in enumerate(run.toks) if tok[1] > run.tau][:40]
    found: list[list[Any]] = []
    for pos in forks:
        began = time.monotonic()
        while time.monotonic() < began + END_PACE["pause"]:
            time.sleep(0.05)
        others = [text for text, _ in run.choices(run.said[:pos])[:5] if text != run.said[pos]]
        found.append([pos, [end_of(run, pos, text) for text in others]])
        yield {"kind": "ends", "run": run.id, "ends": found, "done": False}
    yield {"kind": "ends", "run": run.id, "ends": found, "complete": True, "done": True}


def on_pins(evt: gr.EventData) -> None:
    payload(evt, "pins")


PLAYLIST = itertools.cycle([TRAIN, BEADS])


def on_next(evt: gr.EventData) -> Iterator[dict[str, Any]]:
    payload(evt, "next")
    yield from stream(Run("beads", title=next(PLAYLIST)))


def build(wire: Callable[[gr.HTML], None] = lambda view: None) -> gr.Blocks:
    """The page; `wire` may attach further events of the view."""
    hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="Scripted forks", analytics_enabled=False, fill_width=True) as demo, gr.Row():
        with gr.Column(scale=0, min_width=240):
            script = gr.Radio(["beads", "long", "wall", "many", "hostile", "error"], value="beads", label="Script")
            tokens = gr.Number(400, label="Tokens", elem_id="limit")
            pause = gr.Number(4, label="Pause per token (ms)", elem_id="pause")
            tau = gr.Slider(0, 2.5, 1.0, step=0.05, label="Threshold", elem_id="tau")
            go = gr.Button("Solve", variant="primary")
            present = gr.Button("Present")
        with gr.Column(scale=1, min_width=320):
            questions = {"tail": tail, "inspect": inspect, "look": look, "search": search}
            view = build_view("explore/token_view", questions, elem_id="view")
        go.click(on_run, [script, tau, tokens, pause], view, **hidden)
        view.pick(on_pick, None, view, trigger_mode="multiple", concurrency_limit=4, **hidden)
        view.halt(on_halt, None, None, queue=False, **hidden)
        view.ends(on_ends, None, view, trigger_mode="multiple", **hidden)
        view.pins(on_pins, None, None, trigger_mode="multiple", **hidden)
        view.next(on_next, None, view, trigger_mode="multiple", **hidden)
        wire(view)
        tau.change(None, tau, None, js="(x) => { window.rmx?.setTau(x) }")
        present.click(None, None, None, js="() => { window.rmx?.presenter(true, {pace: 12, pauseAtForks: true}) }")
    return demo.queue(api_open=False)


if __name__ == "__main__":
    build().launch(**LAUNCH)
