"""The explorer view with measuring jobs on the scripted server; the figures are honest, drawn from the scripts.

`python tests/browser/scripted_worth.py`. The sampling is real, only the model is a script; a hostile one answers
in markup.
"""

import functools
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import gradio as gr
import scripted_app as app
from scripted_page import LAUNCH

from rmx.explore.outcomes import spread, spread_bounds
from rmx.grading.answers import Target, reached, same_answers
from rmx.stats.intervals import ALPHA, anytime, decide, rule

Message = dict[str, Any]
SAMPLES, ROUND, BUDGET, MARGIN = 64, 8, 60_000, 0.3
PACE = {"seconds": 0.02}  # between two messages; the tests slow it down where they look at a job under way
LOSE_LAST = threading.Event()  # while set, the last message of a job is lost on the way

HARM = ["<img src=x onerror=window.PWN=1>", "${window.PWN=1}", "\u202ereversed", "{{value}}", "x" * 400]


@dataclass
class Measurement:
    kind: str
    run: app.Run
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    halt: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        MEASUREMENTS[self.id] = self

    def tell(self, **state: Any) -> Message:
        return {"kind": self.kind, "run": self.run.id, "job": self.id, "done": False} | state


MEASUREMENTS: dict[str, Measurement] = {}


# ---- what the scripts would say -------------------------------------------------------------------------------
@functools.lru_cache(maxsize=200_000)
def choices(said: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    return tuple(app.beads(list(said)))


def sample(run: app.Run, kept: list[str], draw: random.Random, greedy: bool = False) -> tuple[str | None, int]:
    """The answer of one continuation, and its length in tokens."""
    if run.script == "hostile":
        return draw.choice([*HARM, "73", None]), 20
    said = tuple(kept)
    while not said or said[-1] != app.END:
        words, weights = zip(*choices(said), strict=True)
        said = (*said, words[0] if greedy else draw.choices(words, weights)[0])
    found = re.findall(r"\\boxed\{(\d+)\}", "".join(said))
    return (found[-1] if found else None), len(said) - len(kept)


def target_of(run: app.Run) -> Target:
    if not app.UNKNOWN.is_set():
        return Target("73", True)
    return Target(run.answer()["text"] or "73", False)


def forks(run: app.Run) -> list[int]:
    return [pos for pos, tok in enumerate(run.toks) if tok[1] > run.tau]


# ---- outcomes ---------------------------------------------------------------------------------------------------
@dataclass
class Place:
    """The samples at one place so far."""

    run: app.Run
    pos: int
    samples: int = SAMPLES
    counts: list[Counter[str | None]] = field(default_factory=list)
    spent: int = 0

    def __post_init__(self) -> None:
        self.target = target_of(self.run)
        self.top = self.run.choices(self.run.said[: self.pos])[:5]
        self.counts = [Counter() for _ in self.top]
        self.draw = random.Random(self.pos)

    def intervals(self) -> list[tuple[float, float]]:
        alpha = ALPHA / len(self.top)
        return [anytime(self.hits(c), c.total(), alpha) for c in self.counts]

    def hits(self, counts: Counter[str | None]) -> int:
        return sum(n for text, n in counts.items() if self.target.hit(text))

    @property
    def verdict(self) -> str:
        return decide(self.intervals(), MARGIN)

    def round(self) -> None:
        for (text, _), counts in zip(self.top, self.counts, strict=True):
            for _ in range(ROUND):
                answer, tokens = sample(self.run, [*self.run.said[: self.pos], text], self.draw)
                counts[answer] += 1
                self.spent += tokens

    def state(self, going: bool) -> Message:
        stands_for = same_answers(sum(self.counts, Counter()), self.target.hit)
        alternatives = []
        for (text, p), counts, (low, high) in zip(self.top, self.counts, self.intervals(), strict=True):
            n = counts.total()
            correct = {"value": self.hits(counts) / n, "low": low, "high": high, "n": n} if n else None
            answers = [[a.text, a.count, a.correct] for a in reached(counts, stands_for, self.target.hit)]
            said = {"id": app.token_id(text), "text": text, "p": p, "chosen": text == self.run.said[self.pos]}
            alternatives.append(said | {"samples": n, "correct": correct, "answers": answers, "open": going})
        return {
            "pos": self.pos,
            "target": asdict(self.target),
            "alternatives": alternatives,
            "tokens_spent": self.spent,
            "budget": BUDGET,
            "verdict": self.verdict,
            "rule": rule(MARGIN, SAMPLES, BUDGET),
        }


def outcomes(job: Measurement, pos: int) -> Iterator[Message]:
    place = Place(job.run, pos)
    yield job.tell(**place.state(True))
    while place.verdict == "open" and place.counts[0].total() < SAMPLES and not job.halt.is_set():
        place.round()
        yield job.tell(**place.state(True))
    yield job.tell(**place.state(False), done=True)


# ---- importance ---------------------------------------------------------------------------------------------------
def point(place: Place, answers: list[str | None]) -> Message:
    mass = sum(p for _, p in place.top)
    weights = [p / mass for _, p in place.top]
    values = [place.hits(c) / c.total() for c in place.counts]
    low, high = spread_bounds(weights, place.intervals())
    mix: Counter[str | None] = Counter()
    for w, counts in zip(weights, place.counts, strict=True):
        for text, n in counts.items():
            mix[text] += w * n / counts.total()  # type: ignore[assignment]
    shares = [mix[a] for a in answers]
    return {
        "pos": place.pos,
        "text": place.run.said[place.pos],
        "importance": {"value": spread(weights, values), "low": low, "high": high},
        "shares": [*shares, max(0.0, 1 - sum(shares))],
        "correct": sum(w * v for w, v in zip(weights, values, strict=True)),
        "decides": place.verdict == "decides",
    }


def sentences(run: app.Run) -> list[tuple[int, int, str]]:
    """First and last token of each sentence, and its text."""
    found, start = [], 0
    for pos, text in enumerate(run.said):
        nothing_behind = run.said[pos + 1 : pos + 2] != ["\n"]
        if (text.endswith((".", "\n")) and nothing_behind) or pos == len(run.said) - 1:
            found.append((start, pos, "".join(run.said[start : pos + 1])))
            start = pos + 1
    return [s for s in found if s[2] != app.END]


def importance(job: Measurement) -> Iterator[Message]:
    run, places = job.run, forks(job.run)
    known: list[Place] = []

    def state(done: bool = False) -> Message:
        together = sum((c for p in known for c in p.counts), Counter[str | None]())
        answers = [text for text, _ in together.most_common(6)]
        points = [point(p, answers) for p in known]
        rows = []
        for a, b, text in sentences(run):
            inside = [p["importance"]["value"] for p in points if a <= p["pos"] <= b]
            rows.append(
                {"from": a, "to": b, "text": text, "forks": len(inside), "importance": max(inside, default=None)}
            )
        told = {"at": len(known), "of": len(places), "target": asdict(target_of(run)), "answers": answers}
        spent = sum(p.spent for p in known)
        rule_said = "Importance is the mean distance of the alternatives' probabilities from their mean."
        return job.tell(
            **told, points=points, sentences=rows, tokens_spent=spent, budget=2 * BUDGET, rule=rule_said, done=done
        )

    yield state()
    for pos in places:
        if job.halt.is_set():
            break
        place = Place(run, pos)
        for _ in range(3):
            place.round()
        known.append(place)
        yield state()
    yield state(done=True)


# ---- rescue -------------------------------------------------------------------------------------------------------
def rescue(job: Measurement, goal: str) -> Iterator[Message]:
    run, tried, draw = job.run, 0, random.Random(0)
    state: Message = {"goal": goal, "known": "73", "budget": BUDGET, "depth": 1, "found": False, "swaps": []}
    state |= {"sentence": "", "branch": None, "resampling": None}
    yield job.tell(**state, tried=0, tokens_spent=0)
    for pos in forks(run):
        for text, _ in run.choices(run.said[:pos])[1:5]:
            if job.halt.is_set() or state["found"]:
                break
            tried += 1
            answer, _ = sample(run, [*run.said[:pos], text], draw, greedy=True)
            yield job.tell(**state, tried=tried, tokens_spent=60 * tried)
            if (answer == "73") == (goal == "right") and run.script == "beads" and run.said[pos] != text:
                found = {"pos": pos, "from_text": run.said[pos], "to_text": text}
                found["text"] = f"'{found['from_text']}' → '{text}' at {pos}"
                state |= {"found": True, "swaps": [found], "sentence": f"one token: {found['text']}"}
                state["branch"] = finish(app.Run(run.script, run.tau, run.limit, 0, run, pos, [text], run.title)).id
    if not state["found"]:
        state["sentence"] = f"no swap found in {tried} branches; nothing is left to try"
    word = Counter((sample(run, [], draw)[0] == "73") == (goal == "right") for _ in range(24))
    state["resampling"] = {
        "samples": 24,
        "hits": word[True],
        "pass@n": {"value": 1 - (1 - word[True] / 24) ** 24, "low": 0.2, "high": 1.0},
    }
    yield job.tell(**state, tried=tried, tokens_spent=60 * tried, done=True)


def finish(run: app.Run) -> app.Run:
    for _ in app.stream(run):
        pass
    return run


# ---- the answer so far --------------------------------------------------------------------------------------------
def sofar(job: Measurement) -> Iterator[Message]:
    run, known = job.run, not app.UNKNOWN.is_set()
    points: list[Message] = []
    for k, (_, pos, _) in enumerate(sentences(run)):
        results = re.findall(r"= ?((?: ?\d)+)", "".join(run.said[: pos + 1]))
        answer = results[-1].replace(" ", "") if results else None
        if run.script == "hostile":
            answer = HARM[k % len(HARM)]
        points.append({"pos": pos, "answer": answer, "correct": answer == "73" if known and answer else None})
        yield job.tell(points=points, of=len(sentences(run)), mode=None)
    mode, n = Counter(p["answer"] for p in points).most_common(1)[0]
    yield job.tell(points=points, mode={"answer": mode, "share": n / len(points)}, done=True)


# ---- events -------------------------------------------------------------------------------------------------------
def paced(messages: Iterator[Message]) -> Iterator[Message]:
    for m in messages:
        if not (m["done"] and LOSE_LAST.is_set()):
            yield m
        time.sleep(PACE["seconds"])


def start(
    kind: str, job: Callable[[Measurement, dict[str, Any]], Iterator[Message]]
) -> Callable[..., Iterator[Message]]:
    def on(evt: gr.EventData) -> Iterator[Message]:
        data = app.payload(evt, kind)
        run = app.find(data)
        if run is None or not forks(run):
            why = "No token exceeds the threshold. Lower it." if run else app.GONE["error"]
            yield {"kind": kind, "run": None, "error": why}
            return
        yield from paced(job(Measurement(kind, run), data))

    return on


def on_haltjob(evt: gr.EventData) -> None:
    if job := MEASUREMENTS.get(str(app.payload(evt, "haltjob").get("job"))):
        job.halt.set()


def wire(view: gr.HTML) -> None:
    """The measuring events, as the app wires them."""
    how: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "multiple"}
    view.outcomes(start("outcomes", lambda job, data: outcomes(job, int(data["pos"]))), None, view, **how)
    view.importance(start("importance", lambda job, _: importance(job)), None, view, **how)
    view.rescue(start("rescue", lambda job, data: rescue(job, str(data["goal"]))), None, view, **how)
    view.sofar(start("sofar", lambda job, _: sofar(job)), None, view, **how)
    view.haltjob(on_haltjob, None, None, queue=False)


def build() -> gr.Blocks:
    return app.build(wire)


if __name__ == "__main__":
    build().launch(**LAUNCH)
