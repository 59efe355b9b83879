"""What the compare view asks for and is told: maps, patched decodes and runs over a set. No gradio in here.

Messages are idempotent: each says which job it belongs to and, where it carries tokens, where they start. What comes
from a browser is checked; ids are unguessable and are the permission.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rmx.basecheck import check_base
from rmx.config import Sampling, check_tau
from rmx.errors import Busy, PromptError, RmxError, SwapError
from rmx.explore.compare import map_json, map_placebo
from rmx.explore.intervene import ARMS, Arm, Intervention, Patched, PatchJob, answer_of, matched_places
from rmx.explore.intervene_set import InterveneReport, InterveneSet
from rmx.explore.shift_set import ShiftReport, ShiftSet, greedy_ids
from rmx.explore.shifts import MapJob, Shift, ShiftMap, Source, largest
from rmx.noise import shape_noise
from rmx.pair import Pair, make_pair
from rmx.records import Answer, Problem
from rmx.sampling import prompt_key
from rmx.ui.compare_rows import shift_rows
from rmx.workspace import Workspace

PATIENCE = 8.0  # seconds that a question of the page waits for the engine
INTERVAL = 0.08  # seconds between messages while streaming
SMALL = 20e6  # parameters up to which noise and placebo are measured without being asked
NEAR, FORK, SPECIAL = 1, 2, 4
PATCHED, DIFFERS, GATED, SPECIAL_PATCH, OVER_BUDGET = 1, 2, 4, 8, 16
CLASSES = {"unshifted": 0, "reranked": 1, "shifted": 2}
Message = dict[str, Any]


@dataclass
class Job:
    """What all jobs of the view have in common."""

    pair: Pair
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    waiting: int = 0
    error: str | None = None
    done: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)

    def halt(self) -> None:
        """Ask the job to end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


@dataclass
class MapRun(Job):
    """One map and what was decoded for its problem since: the arms' answers and their tokens."""

    found: ShiftMap = field(init=False)
    title: str = ""
    prompt: str = ""
    answers: dict[Arm, Answer] = field(default_factory=dict)
    patches: dict[Arm, int] = field(default_factory=dict)
    decoded: dict[Arm, list[Patched]] = field(default_factory=dict)  # the longest budget of each arm
    placebo: dict[str, Any] | None = None
    check: dict[str, Any] | None = None  # the badge, where it was taken without being asked


@dataclass
class PatchRun(Job):
    """One intervened decode."""

    job: PatchJob = field(init=False)
    map: MapRun = field(init=False)
    made: Intervention = field(init=False)
    at: int = 0  # tokens that were known before


@dataclass
class SetRun(Job):
    """A run over a problem set."""

    what: str = "shifts"
    report: ShiftReport | InterveneReport | None = None


class Comparer:
    """The compare road for the page."""

    def __init__(self, workspace: Workspace, keep: int = 400) -> None:
        self.workspace = workspace
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keep = keep
        self._lock = threading.Lock()

    # -- jobs -----------------------------------------------------------------------------------------------------

    def _add(self, job: Any) -> Any:
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > self._keep:
                self._jobs.popitem(last=False)
        return job

    def find(self, job_id: object) -> Job | None:
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
            if job is not None:
                self._jobs.move_to_end(job.id)
            return job

    def get(self, job_id: object, kind: type[Any] = Job) -> Any:
        """The job of this id.

        Raises:
            SwapError: no such job (any more), or another kind of job.
        """
        job = self.find(job_id)
        if not isinstance(job, kind):
            raise SwapError("This comparison is no longer in memory. Compare again.")
        return job

    def halt(self, data: object) -> None:
        """Stop a job within one step; unknown ids are ignored."""
        if job := self.find(_get(data, "id")):
            job.halt()

    # -- making jobs ----------------------------------------------------------------------------------------------

    def pair(self, spec: str, adapter: str | None, teacher: str | None, strength: float) -> Pair:
        return make_pair(self.workspace, spec, adapter or None, teacher or None, strength)

    def map(
        self, pair: Pair, problem: str, tau: float, *, known: str | None = None, source: str = "base", text: str = ""
    ) -> MapRun:
        """A new map, not read yet.

        Raises:
            RmxError: the prompt, the text or a setting cannot be used.
        """
        check_tau(tau)
        if source not in ("base", "adapted", "text"):
            raise RmxError(f"There is no text source '{source}'.")
        ids = pair.base.prompt_ids(problem)
        read = tuple(pair.base.encode(text)) if source == "text" else ()
        if source == "text" and not read:
            raise PromptError("The text to read is empty. Paste a solution first.")
        whose: Source = "base" if source == "base" else "adapted" if source == "adapted" else "text"
        run = MapRun(pair, title=problem.strip(), prompt=pair.base.detokenizer.text(ids))
        job = MapJob(ids, Sampling(), float(tau), whose, (known or "").strip() or None, read)
        run.found = ShiftMap(pair, job, lambda: run.stopped)
        return self._add(run)  # type: ignore[no-any-return]

    def patch(self, data: object) -> PatchRun:
        """A decode under an arm, from {"map", "arm", "budget"}; what is known of it is kept.

        Raises:
            RmxError: an unknown map or arm, or a budget that is no count.
        """
        run: MapRun = self.get(_get(data, "map"), MapRun)
        arm, budget = _get(data, "arm"), _get(data, "budget")
        if arm not in ARMS:
            raise RmxError(f"There is no arm '{str(arm)[:20]}'. Known: {', '.join(ARMS)}.")
        if budget is not None and (type(budget) is not int or budget < 0):
            raise RmxError("The number of patches must be a whole number, 0 or more.")
        job = run.found.job
        patch = PatchRun(run.pair)
        kept = known_part(run.decoded.get(arm, []), budget)
        patch.job = PatchJob(job.prompt_ids, arm, job.tau, job.known, budget, (), 0, job.sampling.max_new_tokens, kept)
        patch.map, patch.at = run, len(kept)
        patch.made = Intervention(run.pair, patch.job, lambda: patch.stopped)
        return self._add(patch)  # type: ignore[no-any-return]

    def _draw_places(self, run: PatchRun) -> None:
        """Random places are as many as the oracle patches, over the base's completion; the caller holds the turn."""
        of, job = run.map, run.job
        for arm in ("base", "oracle"):
            if arm in of.decoded and arm in of.patches:  # a decode under a budget alone does not tell
                continue
            first = PatchRun(run.pair)
            first.map, first.job = of, replace(job, arm=arm, budget=None, kept=())
            first.made = Intervention(run.pair, first.job, lambda: run.stopped)
            for _ in first.made.held():
                pass
            if run.stopped:
                return
            self._note_arm(first)
        places = matched_places(len(of.decoded["base"]), of.patches["oracle"], job.seed, prompt_key(job.prompt_ids))
        run.job = replace(job, places=places)
        run.made = Intervention(run.pair, run.job, lambda: run.stopped)

    def over_set(self, pair: Pair, what: str, name: str, problems: list[Problem], tau: float) -> tuple[SetRun, Any]:
        """A run over a problem set and the iterable that makes it."""
        check_tau(tau)
        run: SetRun = self._add(SetRun(pair, what=what))
        if what == "shifts":
            return run, ShiftSet(pair, name, problems, tau, cancelled=lambda: run.stopped)
        return run, InterveneSet(pair, name, problems, ARMS, tau, cancelled=lambda: run.stopped)

    # -- streams --------------------------------------------------------------------------------------------------

    def stream_map(self, run: MapRun) -> Iterator[Message]:
        """Read or write the text and tell the page, at most a dozen times a second."""
        sent, due = 0, 0.0
        try:
            for waiting in self._turn(run):
                if waiting:
                    yield self.map_message(run, sent)
                    continue
                for _ in run.found.held():
                    if time.monotonic() >= due:
                        yield self.map_message(run, sent)
                        sent, due = len(run.found.shifts), time.monotonic() + INTERVAL
                self._after_map(run)
            self._beside_map(run)
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        run.done = True
        yield self.map_message(run, sent)

    def _after_map(self, run: MapRun) -> None:
        """What the map itself tells of the arms; the caller holds the turn."""
        found = run.found
        if found.job.source != "text" and found.stop != "cancelled":
            arm: Arm = "base" if found.job.source == "base" else "teacher"
            run.answers[arm] = found.answer
            run.patches[arm] = sum(s.rank > 1 for s in found.shifts) if arm == "teacher" else 0
        if len(found.shifts) > 1:
            found.noise = shape_noise(run.pair.base.engine, [*found.job.prompt_ids, *found.ids])

    def _beside_map(self, run: MapRun) -> None:
        """The other model's answer, the badge and the placebo, where they cost a moment only.

        The turn was given back: whoever has the engines now may keep them, and the map stands without these.
        """
        if run.stopped or sum(p.numel() for p in run.pair.base.engine.model.parameters()) > SMALL:
            return
        with suppress(Busy):
            if "teacher" not in run.answers:
                self._ask_teacher(run)
            run.check = self.check({"id": run.id})
            run.placebo = map_placebo(run.found, lambda: run.stopped, PATIENCE)

    def _ask_teacher(self, run: MapRun) -> None:
        """The adapted model's own answer."""
        job, pair = run.found.job, run.pair
        with pair.turn(PATIENCE):
            limit = job.sampling.max_new_tokens
            ids = greedy_ids(pair.adapted, job.prompt_ids, pair.adapter, limit, lambda: run.stopped)
        if not run.stopped:
            run.answers["teacher"] = answer_of(pair.base, job.prompt_ids, ids, job.known)

    def stream_patch(self, run: PatchRun) -> Iterator[Message]:
        """Decode under the arm and tell the page."""
        sent, due = 0, 0.0
        try:
            for waiting in self._turn(run):
                if waiting:
                    yield self.patch_message(run, sent)
                    continue
                if run.job.arm == "matched":
                    self._draw_places(run)
                for _ in run.made.held():
                    if time.monotonic() >= due:
                        yield self.patch_message(run, sent)
                        sent, due = len(run.made.tokens), time.monotonic() + INTERVAL
            if not run.stopped:
                self._note_arm(run)
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        run.done = True
        yield self.patch_message(run, sent)

    def _note_arm(self, run: PatchRun) -> None:
        """Remember the arm's answer, and its tokens where they tell more than what was known."""
        result, of = run.made.result, run.map
        if run.job.budget is None or run.job.budget >= result.patches + _refused(run.made.tokens):
            of.answers[run.job.arm], of.patches[run.job.arm] = result.answer, result.patches
        known = of.decoded.get(run.job.arm)
        if known is None or run.job.budget is None or result.patches >= sum(t.patched for t in known):
            of.decoded[run.job.arm] = run.made.tokens

    def stream_set(self, run: SetRun, reports: Any) -> Iterator[Message]:
        """Go over the set; each message is the whole state."""
        due = 0.0
        try:
            for report in reports:
                run.report = report
                if time.monotonic() >= due and not report.done:
                    yield self.set_message(run)
                    due = time.monotonic() + 0.5
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        run.done = True
        yield self.set_message(run)

    def _turn(self, run: Job) -> Iterator[int]:
        """Wait for the engines: yields how many are ahead while waiting, then 0 once, inside the turn."""
        engines = sorted({id(m.engine): m.engine for m in (run.pair.base, run.pair.adapted)}.items())
        held = []
        try:
            for _, engine in engines:
                ticket = engine.turns.enter()
                held.append((engine.turns, ticket))
                while ahead := engine.turns.wait(ticket, timeout=0.25):
                    if run.stopped:
                        return
                    run.waiting = ahead
                    yield ahead
            run.waiting = 0
            yield 0
        finally:
            for turns, ticket in reversed(held):
                turns.leave(ticket)

    # -- questions of the page ------------------------------------------------------------------------------------

    def tail(self, data: object) -> Message:
        """Everything of a job from {"id", "start"} on."""
        job, start = self.get(_get(data, "id")), _get(data, "start")
        at = start if type(start) is int and start > 0 else 0
        if isinstance(job, MapRun):
            return self.map_message(job, at, whole=True)
        if isinstance(job, PatchRun):
            return self.patch_message(job, at, whole=True)
        return self.set_message(job)

    def inspect(self, data: object) -> Message:
        """Both distributions behind one token of a map: {"id", "pos"}."""
        run: MapRun = self.get(_get(data, "id"), MapRun)
        pos, shifts = _get(data, "pos"), run.found.shifts
        if type(pos) is not int or not 0 <= pos < len(shifts):
            raise SwapError(f"There is no token at position {pos}; there are {len(shifts)} so far.")
        known = shifts[pos].json(run.found.job.tau, run.found.tolerance)
        return known | {"cls": CLASSES[shifts[pos].kind]}

    def check(self, data: object) -> Message:
        """The badge of {"id"}; with "copy", against a second copy of the checkpoint too."""
        run: MapRun = self.get(_get(data, "id"), MapRun)
        ids = [*run.found.job.prompt_ids, *run.found.ids]
        return check_base(run.pair, ids, copy=_get(data, "copy") is True, patience=PATIENCE).json()

    def document(self, job_id: object) -> dict[str, Any]:
        """What a job exports: the same document as the command line's."""
        job = self.get(job_id)
        if isinstance(job, MapRun):
            return map_json(job.found)
        if isinstance(job, SetRun) and job.report is not None:
            return job.report.json()
        raise RmxError("There is nothing to export yet.")

    # -- messages -------------------------------------------------------------------------------------------------

    def map_message(self, run: MapRun, start: int, whole: bool = False) -> Message:
        """Tokens from `start` on; the opening facts at the beginning, the result at the end."""
        found = run.found
        special = run.pair.base.detokenizer.special_ids
        message: Message = {"kind": "map", "id": run.id, "start": start, "done": run.done}
        # Near ties are known once the noise is: then all tokens are sent again.
        again = run.done and any(s.near_tie(found.tolerance) for s in found.shifts)
        message["start"] = start = 0 if again else start
        message["toks"] = [self._map_token(found, s, special) for s in found.shifts[start:]]
        if whole or run.done or start == 0:
            message["open"] = self._map_open(run)
        if run.waiting:
            message["waiting"] = run.waiting
        if run.error:
            message["error"] = run.error
        if run.done:
            message["result"] = self._map_result(run)
        return message

    def _map_token(self, found: ShiftMap, s: Shift, special: frozenset[int]) -> list[Any]:
        flags = (
            NEAR * s.near_tie(found.tolerance) | FORK * (s.base.entropy > found.job.tau) | SPECIAL * (s.id in special)
        )
        p, q = (round(float(torch.tensor(v.logp).exp()), 6) for v in (s.base, s.adapted))
        kl, h, g = round(s.kl, 5), round(s.base.entropy, 4), round(s.adapted.entropy, 4)
        return [s.text, CLASSES[s.kind], flags, kl, h, g, p, q]

    def _map_open(self, run: MapRun) -> Message:
        job, noise = run.found.job, run.found.noise
        return {
            "title": run.title,
            "prompt": run.prompt,
            "known": job.known,
            "base": run.pair.base.spec,
            "adapted": run.pair.name,
            "source": job.source,
            "tau": job.tau,
            "strength": run.pair.strength,
            "noise": noise.json() if noise else None,
        }

    def _map_result(self, run: MapRun) -> Message:
        found = run.found
        shifts, lone = found.shifts, run.pair.base.detokenizer.lone
        differ = [s for s in shifts if s.rank > 1]
        forks = [s for s in shifts if s.base.entropy > found.job.tau]
        counts = {kind: sum(s.kind == kind for s in shifts) for kind in CLASSES}
        return {
            "answer": found.answer.json(),
            "adapted_answer": run.answers["teacher"].json() if "teacher" in run.answers else None,
            "counts": counts | {"near_ties": sum(s.near_tie(found.tolerance) for s in differ)},
            "n": len(shifts),
            "on_forks": {
                "disagreements": len(differ),
                "on_forks": sum(s.base.entropy > found.job.tau for s in differ),
                "by_chance": len(forks) / len(shifts) if shifts else 0.0,
            },
            "figures": {k: map_json(found)[k] for k in ("mean_rank", "entropy_ratio")} if shifts else None,
            "largest": [
                {
                    "pos": s.pos,
                    "text": s.text,
                    "base": lone(s.base.top[0].id),
                    "adapted": lone(s.adapted.top[0].id),
                    "kl": round(s.kl, 4),
                    "cls": CLASSES[s.kind],
                }
                for s in largest(shifts)
            ],
            "placebo": _plain_placebo(run.placebo),
            "check": run.check,
            "noise": found.noise.json() if found.noise else None,
            "stop": found.stop,
            "seconds": round(found.seconds, 3),
        }

    def patch_message(self, run: PatchRun, start: int, whole: bool = False) -> Message:
        """Tokens from `start` on, the opening facts, the result, and the answers of all arms so far."""
        made, base = run.made, run.pair.base
        special, lone = base.detokenizer.special_ids, base.detokenizer.lone
        message: Message = {
            "kind": "patch",
            "id": run.id,
            "map": run.map.id,
            "start": start,
            "toks": [self._patch_token(t, special, lone) for t in made.tokens[start:]],
            "done": run.done,
            "answers": {arm: a.json() for arm, a in run.map.answers.items()},
            "patches": dict(run.map.patches),
        }
        if whole or start == 0:
            message["open"] = {
                "arm": run.job.arm,
                "budget": run.job.budget,
                "tau": run.job.tau,
                "seed": run.job.seed,
                "title": run.map.title,
                "known": run.job.known,
                "base": base.spec,
                "adapted": run.pair.name,
                "at": run.at,
            }
        if run.waiting:
            message["waiting"] = run.waiting
        if run.error:
            message["error"] = run.error
        if run.done:
            message["result"] = made.result.json() | {"seconds": round(made.seconds, 3)}
        return message

    def _patch_token(self, t: Patched, special: frozenset[int], lone: Any) -> list[Any]:
        flags = PATCHED * t.patched | DIFFERS * t.differs | GATED * t.gated | SPECIAL_PATCH * (t.id in special)
        flags |= OVER_BUDGET * (t.wanted and not t.patched)
        was = lone(t.base_choice) if t.patched else None
        return [t.text, flags, round(t.entropy, 4), was, round(t.p, 6), round(t.q, 6)]

    def set_message(self, run: SetRun) -> Message:
        """The whole state of a run over a set."""
        report = run.report
        message: Message = {"kind": "set", "id": run.id, "what": run.what, "done": run.done, "stopped": run.stopped}
        if run.error:
            message["error"] = run.error
        if report is None:
            return message | {"at": 0, "of": 0, "rows": [], "arms": []}
        at = report.at if isinstance(report, ShiftReport) else len(report.problems)
        left = report.seconds / at * (report.of - at) if at and not run.done else None
        message |= {
            "at": at,
            "of": report.of,
            "seconds": round(report.seconds, 1),
            "left": None if left is None else round(left),
            "set": report.set_name,
            "base": report.base,
            "adapted": report.adapted,
            "tau": report.tau,
        }
        if isinstance(report, ShiftReport):
            return message | {"stage": report.stage, "rows": shift_rows(report) if at else []}
        return message | arm_rows(report)


def arm_rows(report: InterveneReport) -> Message:
    """The table of arms."""
    rows = []
    for arm in report.arms if report.problems else ():
        found = report.arm(arm)
        rows.append(
            {
                "arm": arm,
                "pass": found["pass@1"],
                "touched": found["touched"],
                "gated": found["gated"],
                "vs_base": found.get("vs_base"),
                "won": found.get("won"),
                "lost": found.get("lost"),
            }
        )
    if (noise := report.placebo_json()) is not None:
        kept = ("touched", "vs_base", "won", "lost")
        rows.append({"arm": "placebo", "pass": noise["pass@1"], "gated": None, **{k: noise[k] for k in kept}})
    return {"arms": rows, "reading": report.reading(), "oracle_equals_teacher": report.same_as_teacher()}


def known_part(decoded: list[Patched], budget: int | None) -> tuple[Patched, ...]:
    """The tokens of a known decode that a decode with another budget shares.

    They part where one patches and the other does not: at the first patch past the new budget, or at the first patch
    that the old budget refused and the new one allows.
    """
    made = 0
    for i, token in enumerate(decoded):
        allowed = budget is None or made < budget
        if token.wanted and token.patched != allowed:
            return tuple(decoded[:i])
        made += token.patched
    return tuple(decoded[:-1])  # the last one is taken again, so that the decode can find its end


def _refused(tokens: list[Patched]) -> int:
    return sum(t.wanted and not t.patched for t in tokens)


def _plain_placebo(found: dict[str, Any] | None) -> Message | None:
    """A map's placebo with single figures: one text has no intervals."""
    if found is None:
        return None
    return found | {name: found[name]["value"] for name in ("mean_rank", "entropy_ratio")}


def _get(data: object, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _out_of_memory(pair: Pair) -> str:
    for model in (pair.base, pair.adapted):
        model.engine.prefixes.clear()
    return f"{pair.base.spec} with {pair.name} ran out of GPU memory. Shorten the text or take smaller models."
