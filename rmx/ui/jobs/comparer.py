"""The compare road for the page: maps, patched decodes and runs over a set, as jobs with their messages."""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any, ClassVar, get_args

import torch

from rmx.arguments import Sampling
from rmx.compare.controls import check_base, shape_noise
from rmx.compare.intervene import ARMS, Arm, Intervention, Patched, PatchJob, matched_places
from rmx.compare.intervene_set import InterveneReport, InterveneSet, arms_csv
from rmx.compare.shift_map import MapJob, Shift, ShiftMap, Source, largest, map_json, map_placebo
from rmx.compare.shift_set import PAPER, TOPS, ShiftReport, ShiftSet, greedy_ids
from rmx.config import check_tau
from rmx.engine.decoding_memory import out_of_memory
from rmx.engine.engine import held_together
from rmx.engine.entropy import KINDS
from rmx.engine.fair_queue import POLL
from rmx.engine.token_draws import prompt_key
from rmx.errors import Busy, PromptError, RmxError, SwapError
from rmx.models.model_pair import Pair
from rmx.models.stopping import is_cut
from rmx.models.workspace import Workspace
from rmx.records import Answer, Problem, is_fork
from rmx.service.checks import Limits
from rmx.storage.job_store import JobStore, MemoryShares
from rmx.storage.rendering import csv_text
from rmx.ui.jobs import page_jobs
from rmx.ui.jobs.explorer import check_texts
from rmx.ui.jobs.page_jobs import INTERVAL, PATIENCE, STATE_INTERVAL, Message, PageJob, field_of

NEAR, FORK, SPECIAL = 1, 2, 4  # flags of a token of a map
PATCHED, DIFFERS, GATED, SPECIAL_PATCH, OVER_BUDGET = 1, 2, 4, 8, 16  # of a token of a decode
CLASSES = {kind: i for i, kind in enumerate(KINDS)}  # unshifted 0, reranked 1, shifted 2
ROWS: tuple[tuple[str, str, str], ...] = (
    ("reranked", "Reranked: another choice, inside the base's top 5", "share"),
    ("shifted", "Shifted: outside the base's top 5", "share"),
    ("mean_rank", "Mean rank of the adapted model's choice", "number"),
    ("entropy_ratio", "Base entropy where reranked, over elsewhere", "ratio"),
    ("on_forks", "Disagreements that fall on forks", "share"),
    ("on_forks_by_chance", "… expected by chance", "share"),
    ("within_top_2", "Disagreements inside the base's top 2", "share"),
    ("within_top_10", "Disagreements inside the base's top 10", "share"),
    ("untouched", "Solutions without any disagreement", "share"),
    ("mean_kl", "KL(base ‖ adapted), mean over all tokens", "nats"),
)


@dataclass(eq=False)
class PairJob(PageJob):
    """What all jobs of the view have in common."""

    pair: Pair
    interval: ClassVar[float] = INTERVAL  # seconds between messages

    @property
    def made(self) -> int:
        """How many tokens there are."""
        return 0


@dataclass(eq=False)
class MapRun(PairJob):
    """One map and what was decoded for its problem since: the arms' answers and their tokens."""

    job: MapJob
    title: str = ""
    known_computed: bool = False  # the known answer was computed from the text, not given
    answers: dict[Arm, Answer] = field(default_factory=dict)
    other: list[int] = field(default_factory=list)  # what the model that does not write here would write by itself
    unwritten: str | None = None  # why it was not asked for that
    patches: dict[Arm, int] = field(default_factory=dict)
    decoded: dict[Arm, list[Patched]] = field(default_factory=dict)  # the longest budget of each arm
    placebo: dict[str, Any] | None = None
    check: dict[str, Any] | None = None  # whether the base is untouched, where it was measured unasked

    def __post_init__(self) -> None:
        self.prompt = self.pair.base.detokenizer.text(self.job.prompt_ids)
        self.found = ShiftMap(self.pair, self.job, lambda: self.stopped)

    @property
    def made(self) -> int:
        return len(self.found.shifts)

    def parts(self) -> list[Any]:
        what = [self.title, self.prompt, self.job, self.found.shifts]
        return [*what, self.answers, self.other, self.decoded, self.placebo, self.check]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """Tokens from `start` on; the opening facts at the beginning, the result at the end."""
        found, special = self.found, self.pair.base.detokenizer.special_ids
        # Near ties are known once the noise is: then all tokens are sent again.
        if self.done and any(s.near_tie(found.tolerance) for s in found.shifts):
            start = 0
        toks = [_map_token(found, s, special) for s in found.shifts[start:]]
        message: Message = {"kind": "map", "id": self.id, "start": start, "done": self.done, "toks": toks}
        if whole or self.done or start == 0:
            message["open"] = self._open()
        message |= page_jobs.line_and_error(self)
        return message | ({"result": self._result()} if self.done else {})

    def _open(self) -> Message:
        pair, job = self.pair, self.job
        problem = {"title": self.title, "prompt": self.prompt, "style": pair.base.style.sentence()}
        known = {"known": job.known, "known_computed": self.known_computed, "source": job.source, "tau": job.tau}
        models = {"base": pair.base.spec, "adapted": pair.name, "strength": pair.strength}
        return problem | known | models | {"noise": self.found.noise and self.found.noise.json()}

    def _result(self) -> Message:
        found, shifts = self.found, self.found.shifts
        differ = [s for s in shifts if s.rank > 1]
        on_forks, forks = (sum(is_fork(s.base.entropy, self.job.tau) for s in of) for of in (differ, shifts))
        counts = {kind: sum(s.kind == kind for s in shifts) for kind in CLASSES}
        plain = ("mean_rank", "entropy_ratio")  # one text has no intervals
        placebo = self.placebo and self.placebo | {name: self.placebo[name]["value"] for name in plain}
        return {
            "answer": found.answer.json(),
            "adapted_answer": self.answers["teacher"].json() if "teacher" in self.answers else None,
            "beside": self._beside(),
            "counts": counts | {"near_ties": sum(s.near_tie(found.tolerance) for s in differ)},
            "n": len(shifts),
            "on_forks": {"disagreements": len(differ), "on_forks": on_forks, "by_chance": forks / max(len(shifts), 1)},
            "figures": {k: map_json(found)[k] for k in plain} if shifts else None,
            "largest": [self._parting(s) for s in largest(shifts)],
            "placebo": placebo,
            "check": self.check,
            "noise": found.noise and found.noise.json(),
            "stop": found.stop,
            "seconds": round(found.seconds, 3),
        }

    def _beside(self) -> Message | None:
        """This solution and the other model's own, in rows; or why that was not written, and the arm that does so."""
        arm: Arm = "base" if self.job.source == "adapted" else "teacher"
        if not self.other or arm not in self.answers:
            return {"arm": arm, "unwritten": self.unwritten} if self.unwritten else None
        texts = self.pair.base.detokenizer
        mine, theirs = ([i for i in ids if i not in texts.special_ids] for ids in (self.found.ids, self.other))
        rows = [[texts.text(a), texts.text(b), same] for a, b, same in aligned_rows(mine, theirs)]
        return {"answer": self.answers[arm].json(), "rows": rows}

    def _parting(self, s: Shift) -> Message:
        base, adapted = (self.pair.base.detokenizer.token_text(side.top[0].id) for side in (s.base, s.adapted))
        where = {"pos": s.pos, "text": s.text, "base": base, "adapted": adapted}
        return where | {"kl": round(s.kl, 4), "cls": CLASSES[s.kind]}


def aligned_rows(
    first: Sequence[int], second: Sequence[int], least: int = 4
) -> list[tuple[list[int], list[int], bool]]:
    """Cut two solutions into rows: tokens of the first, those beside them in the second, whether they are the same.

    Args:
        first: ids of one solution. second: those of the other.
        least: tokens that both must have in common to come together again; fewer stay in the row where they differ.
    """
    rows: list[tuple[list[int], list[int], bool]] = []
    for tag, a, b, c, d in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        same = tag == "equal" and (b - a >= least or a == c == 0)
        if same or not rows or rows[-1][2]:
            rows.append(([], [], same))
        rows[-1][0].extend(first[a:b])
        rows[-1][1].extend(second[c:d])
    return rows


def _map_token(found: ShiftMap, s: Shift, special: frozenset[int]) -> list[Any]:
    flags = NEAR * s.near_tie(found.tolerance) | SPECIAL * (s.id in special)
    flags |= FORK * is_fork(s.base.entropy, found.job.tau)
    p, q = (round(float(torch.tensor(v.logp).exp()), 6) for v in (s.base, s.adapted))
    kl, h, g = round(s.kl, 5), round(s.base.entropy, 4), round(s.adapted.entropy, 4)
    return [s.text, CLASSES[s.kind], flags, kl, h, g, p, q]


@dataclass(eq=False)
class PatchRun(PairJob):
    """One intervened decode; it begins with the tokens that are known (`job.kept`)."""

    map: MapRun
    job: PatchJob

    def __post_init__(self) -> None:
        self.begin(self.job)

    def begin(self, job: PatchJob) -> None:
        """Decode this instead."""
        self.job = job
        self.decode = Intervention(self.pair, job, lambda: self.stopped)

    @property
    def made(self) -> int:
        return len(self.decode.tokens)

    def parts(self) -> list[Any]:
        return [self.decode.tokens]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """Tokens from `start` on, the opening facts, the result, and the answers of all arms so far."""
        job, of, toks = self.job, self.map, [self._token(t) for t in self.decode.tokens[start:]]
        message: Message = {"kind": "patch", "id": self.id, "map": of.id, "start": start, "toks": toks}
        message |= {"done": self.done, "answers": {arm: answer.json() for arm, answer in of.answers.items()}}
        message["patches"] = dict(of.patches)
        if whole or start == 0:
            problem = {"title": of.title, "known": job.known, "known_computed": of.known_computed}
            models = {"base": self.pair.base.spec, "adapted": self.pair.name, "at": len(job.kept)}
            asked = {"arm": job.arm, "budget": job.budget, "tau": job.tau, "seed": job.seed}
            message["open"] = asked | problem | models
        message |= page_jobs.line_and_error(self)
        if self.done:
            message["result"] = self.decode.result.json() | {"seconds": round(self.decode.seconds, 3)}
        return message

    def _token(self, t: Patched) -> list[Any]:
        texts = self.pair.base.detokenizer
        flags = PATCHED * t.patched | DIFFERS * t.differs | GATED * t.gated
        flags |= SPECIAL_PATCH * (t.id in texts.special_ids) | OVER_BUDGET * (t.wanted and not t.patched)
        was = texts.token_text(t.base_choice) if t.patched else None
        return [t.text, flags, round(t.entropy, 4), was, round(t.p, 6), round(t.q, 6)]


@dataclass(eq=False)
class SetRun(PairJob):
    """A run over a problem set."""

    what: str = "shifts"
    of: int = 0  # problems
    reports: Iterable[Any] = ()  # what measures it
    report: ShiftReport | InterveneReport | None = None
    interval: ClassVar[float] = STATE_INTERVAL

    def parts(self) -> list[Any]:
        return [self.report]

    def message(self, start: int = 0, whole: bool = False) -> Message:
        """The whole state."""
        report = self.report
        message: Message = {"kind": "set", "id": self.id, "what": self.what, "done": self.done, "stopped": self.stopped}
        message |= page_jobs.line_and_error(self)
        if report is None:
            return message | {"at": 0, "of": self.of, "rows": [], "arms": []}
        at = report.at if isinstance(report, ShiftReport) else len(report.problems)
        left = round(report.seconds / at * (report.of - at)) if at and not self.done else None
        message |= {"at": at, "of": report.of, "seconds": round(report.seconds, 1), "left": left}
        message |= {"set": report.set_name, "base": report.base, "adapted": report.adapted, "tau": report.tau}
        if isinstance(report, ShiftReport):
            return message | {"stage": report.stage, "rows": []} | (_shift_rows(report) if at else {})
        return message | _arm_rows(report)


def _shift_rows(report: ShiftReport) -> Message:
    """One row per figure, and what the charts draw: the classes by entropy, and how deep the adapted choices lie."""
    ours = _estimates(report.figures)
    noise = _estimates(report.placebo) if report.placebo else {}
    rows = [
        {"name": name, "label": label, "unit": unit, "value": ours[name]}
        | {"paper": PAPER.get(name), "placebo": noise.get(name)}
        for name, label, unit in ROWS
    ]
    inside = {
        name: [found[f"within_top_{k}"]["value"] for k in TOPS]
        for name, found in (("adapted", ours), ("placebo", noise))
        if found and found["within_top_1"]["value"] is not None
    }
    return {"rows": rows, "histogram": report.figures.histogram(), "within_top": inside}


def _estimates(figures: Any) -> dict[str, Any]:
    return figures.shares() | {"mean_rank": figures.mean_rank(), "entropy_ratio": figures.entropy_ratio()}


def _arm_rows(report: InterveneReport) -> Message:
    """The table of arms."""
    kept = ("touched", "gated", "vs_base", "won", "lost")
    measured: list[tuple[str, Any]] = [(arm, report.arm(arm)) for arm in report.arms] if report.problems else []
    if (noise := report.placebo_json()) is not None:
        measured.append(("placebo", noise | {"gated": None}))
    rows = [{"arm": arm, "pass": found["pass@1"]} | {k: found.get(k) for k in kept} for arm, found in measured]
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


# -- The road, from what a page asks to jobs and their messages --------------------------------------------------------


SLOW = "At this size the other model's own solution takes a while: it is written only when asked for."
SMALL = 20e6  # parameters up to which noise and placebo are measured without being asked


class Comparer:
    """The compare road for the page. Jobs leave memory as storage.memory_shares has it."""

    def __init__(self, workspace: Workspace, kept: MemoryShares | None = None, limits: Limits | None = None) -> None:
        self.workspace, self.limits = workspace, limits or Limits()
        gone = "This comparison is no longer in memory. Compare again."
        # A patched decode is of no use without its map.
        self.jobs: JobStore[PairJob] = JobStore(
            gone, kept, needs=lambda job: job.map.id if isinstance(job, PatchRun) else None, error=SwapError
        )
        self._copying = threading.Lock()  # a second copy of a checkpoint is large: one at a time

    def map(
        self,
        pair: Pair,
        problem: str,
        tau: float,
        *,
        known: str | None = None,
        known_computed: bool = False,
        source: Source = "base",
        text: str = "",
        max_new: int = 512,
    ) -> MapRun:
        """Make a map, not read yet."""
        check_tau(tau)
        if source not in get_args(Source):
            raise RmxError(f"There is no text source '{str(source)[:20]}'.")
        check_texts(self.limits, problem, known, text)
        ids = pair.base.prompt_ids(problem)
        read = tuple(pair.base.encode(text)) if source == "text" else ()
        if source == "text" and not read:
            raise PromptError("The text to read is empty. Paste a solution first.")
        known, sampling = (known or "").strip() or None, Sampling(max_new_tokens=max_new)
        run = MapRun(pair, MapJob(ids, sampling, float(tau), source, known, read), problem.strip())
        run.known_computed = known_computed
        self.jobs.add(run)
        return run

    def patch(self, data: object) -> PatchRun:
        """Make a decode under an arm, from {"map", "arm", "budget"}; it begins with the tokens that are known."""
        run: MapRun = self.jobs.get(field_of(data, "map"), MapRun)
        arm, budget = field_of(data, "arm"), field_of(data, "budget")
        if arm not in ARMS:
            raise RmxError(f"There is no arm '{str(arm)[:20]}'. Known: {', '.join(ARMS)}.")
        if budget is not None and (type(budget) is not int or budget < 0):
            raise RmxError("The number of patches must be a whole number, 0 or more.")
        job, kept = run.job, known_part(run.decoded.get(arm, []), budget)
        wanted = PatchJob(job.prompt_ids, arm, job.tau, job.known, budget, (), 0, job.sampling.max_new_tokens, kept)
        patch = PatchRun(run.pair, run, wanted)
        self.jobs.add(patch)
        return patch

    def _draw_places(self, run: PatchRun) -> None:
        """Draw as many random places as the oracle patches, over the base's completion; the caller holds the turn."""
        of, job = run.map, run.job
        for arm in ("base", "oracle"):
            if arm in of.decoded and arm in of.patches:  # a decode under a budget alone does not have them
                continue
            first = PatchRun(run.pair, of, replace(job, arm=arm, budget=None, kept=()), _stop=run._stop)
            for _ in first.decode.held():
                pass
            if run.stopped:
                return
            self._note_arm(first)
        places = matched_places(len(of.decoded["base"]), of.patches["oracle"], job.seed, prompt_key(job.prompt_ids))
        run.begin(replace(job, places=places))

    def over_set(
        self, pair: Pair, what: str, name: str, problems: list[Problem], tau: float, max_new: int = 512
    ) -> SetRun:
        """Make a run over a problem set: of `what`, "shifts" or "intervene"."""
        check_tau(tau)
        Sampling(max_new_tokens=max_new)
        run = SetRun(pair, what, len(problems))
        page_jobs.SET_RUNS.begin(run, self.workspace)
        self.jobs.add(run)
        if what == "shifts":
            run.reports = ShiftSet(pair, name, problems, tau, max_new, cancelled=lambda: run.stopped)
        else:
            run.reports = InterveneSet(pair, name, problems, ARMS, tau, max_new=max_new, cancelled=lambda: run.stopped)
        return run

    def stream(self, run: MapRun | PatchRun | SetRun) -> Iterator[Message]:
        """Do the work of a job; yields messages at its interval, the last one has the result."""
        pair = run.pair

        def full() -> str:
            for engine in pair.engines:
                engine.prefixes.clear()
            during = f"while comparing {pair.base.spec} with {pair.name}"
            return out_of_memory("Shorten the text or take smaller models.", pair.base.engine.device, during)

        def finish() -> None:
            run.done = True
            for one in (run, run.map) if isinstance(run, PatchRun) else (run,):
                self.jobs.grow(one)

        steps = page_jobs.report_steps(run, lambda: run.reports) if isinstance(run, SetRun) else self._steps(run)
        about: dict[str, Any] = {"full": full, "finish": finish, "made": lambda: run.made}
        return page_jobs.stream_job(run, steps, run.message, run.interval, **about)

    def _steps(self, run: MapRun | PatchRun) -> Iterator[bool]:
        """Wait, then read, write or patch; yields True while it waits, False after each token."""
        for waiting in self._turn(run):
            if waiting:
                yield True
                continue
            if isinstance(run, PatchRun) and run.job.arm == "matched":
                self._draw_places(run)
            for _ in run.found.held() if isinstance(run, MapRun) else run.decode.held():
                yield False
            if isinstance(run, MapRun):
                self._after_map(run)
        if isinstance(run, MapRun):
            self._beside_map(run)
        elif not run.stopped:
            self._note_arm(run)

    def _after_map(self, run: MapRun) -> None:
        """Take over what the map itself shows of the arms; the caller holds the turn."""
        found = run.found
        if found.job.source != "text" and found.stop != "cancelled":
            arm: Arm = "base" if found.job.source == "base" else "teacher"
            run.answers[arm] = found.answer
            run.patches[arm] = sum(s.rank > 1 for s in found.shifts) if arm == "teacher" else 0
        if len(found.shifts) > 1 and found.noise is None:
            found.noise = shape_noise(run.pair.base.engine, [*found.job.prompt_ids, *found.ids])

    def _beside_map(self, run: MapRun) -> None:
        """Add the other model's own solution, the check of the base and the placebo, where they cost a moment only.

        The turn was given back: whoever has the engines now keeps them, and the map is complete without these.
        """
        engine = run.pair.base.engine
        if run.stopped:
            run.unwritten = "The comparison was stopped before the other model's own solution was written."
            return
        if engine.remote is not None or sum(p.numel() for p in engine.model.parameters()) > SMALL:
            run.unwritten = SLOW
            return
        job, pair = run.job, run.pair
        run.unwritten = "The models were busy with other work, so the other model's own solution was not written."
        with suppress(Busy):
            arm: Arm = "base" if job.source == "adapted" else "teacher"
            model, adapter = (pair.base, None) if arm == "base" else (pair.adapted, pair.adapter)
            with pair.turn(PATIENCE):
                limit = job.sampling.max_new_tokens
                run.other = greedy_ids(model, job.prompt_ids, adapter, limit, lambda: run.stopped)
            if not run.stopped:
                cut = is_cut(pair.base, job.prompt_ids, run.other)
                run.answers[arm] = pair.base.grade(job.prompt_ids, run.other, job.known, cut=cut)
            run.check = self.check({"id": run.id})
            run.placebo = map_placebo(run.found, lambda: run.stopped, PATIENCE)

    def _note_arm(self, run: PatchRun) -> None:
        """Remember the arm's answer, and its tokens where there are more than were known."""
        result, of, arm, budget, tokens = run.decode.result, run.map, run.job.arm, run.job.budget, run.decode.tokens
        refused = sum(t.wanted and not t.patched for t in tokens)  # that the budget did not allow
        if budget is None or budget >= result.patches + refused:
            of.answers[arm], of.patches[arm] = result.answer, result.patches
        known = of.decoded.get(arm)
        if known is None or budget is None or result.patches >= sum(t.patched for t in known):
            of.decoded[arm] = tokens

    def _turn(self, run: PairJob) -> Iterator[int]:
        """Wait for the engines: yields how many are ahead while waiting, then 0 once, inside the turn."""
        engines, held = run.pair.engines, []
        try:
            for engine in engines:
                ticket = engine.queue.enter()
                held.append((engine.queue, ticket))
                while ahead := engine.queue.wait(ticket, POLL):
                    if run.stopped:
                        return
                    run.waiting, run.expected = ahead, engine.queue.expected(ahead)
                    yield ahead
            run.waiting = 0
            with held_together(engines):
                yield 0
        finally:
            for queue, ticket in reversed(held):
                queue.leave(ticket)

    def tail(self, data: object) -> Message:
        """Everything of a job from {"id", "start"} on."""
        return self.jobs.get(field_of(data, "id")).message(page_jobs.start_of(data), whole=True)

    def inspect(self, data: object) -> Message:
        """Both distributions behind one token of a map: {"id", "pos"}."""
        run: MapRun = self.jobs.get(field_of(data, "id"), MapRun)
        pos, shifts = field_of(data, "pos"), run.found.shifts
        if type(pos) is not int or not 0 <= pos < len(shifts):
            raise SwapError(f"There is no token at position {pos}; there are {len(shifts)} so far.")
        known = shifts[pos].json(run.found.job.tau, run.found.tolerance)
        return known | {"cls": CLASSES[shifts[pos].kind]}

    def check(self, data: object) -> Message:
        """Check that the base of {"id"} is untouched; with "copy", against a second copy of the checkpoint too."""
        run: MapRun = self.jobs.get(field_of(data, "id"), MapRun)
        ids = [*run.found.job.prompt_ids, *run.found.ids]
        copy = field_of(data, "copy") is True
        if copy and not self._copying.acquire(blocking=False):
            raise Busy("A second copy is being loaded for somebody else. Try again in a moment.")
        try:
            return check_base(run.pair, ids, copy=copy, patience=PATIENCE).json()
        finally:
            if copy:
                self._copying.release()

    def export(self, data: object) -> dict[str, Any]:
        """{"id", "format": "json" | "csv"} -> {"name", "mime", "text"}: the same document as the command line's."""
        job = self.jobs.get(field_of(data, "id"))
        if isinstance(job, MapRun):
            document = map_json(job.found)
        elif isinstance(job, SetRun) and job.report is not None:
            document = job.report.json()
        else:
            raise RmxError("There is nothing to export yet.")
        texts = {"json": lambda: json.dumps(document, ensure_ascii=False), "csv": lambda: table(document)}
        return page_jobs.download("interventions" if "arms" in document else "shifts", texts, field_of(data, "format"))


def table(document: dict[str, Any]) -> str:
    """The document as a table: arms per problem, tokens of one map, or figures of a set."""
    if "arms" in document:
        return arms_csv(document)
    if "tokens" in document:
        columns = ["pos", "id", "text", "class", "near_tie", "fork", "kl", "rank", "p", "back_rank", "back_p"]
        tokens = document["tokens"]
        rows = [[*(t[c] for c in columns), t["base"]["entropy"], t["adapted"]["entropy"]] for t in tokens]
        return csv_text([*columns, "base_entropy", "adapted_entropy"], rows)
    figures = document["intervals"] | {name: document[name] for name in ("mean_rank", "entropy_ratio")}
    noise = document["placebo"] or {}
    theirs = noise.get("intervals", {}) | {k: noise.get(k) for k in ("mean_rank", "entropy_ratio")}
    kept = ("value", "low", "high", "n")
    rows = [[name, *(f[k] for k in kept), (theirs.get(name) or {}).get("value")] for name, f in figures.items()]
    return csv_text(["figure", *kept, "placebo"], rows)
