"""The compare road for the page: maps, patched decodes and runs over a set."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from rmx.arguments import Sampling
from rmx.compare.controls import check_base, shape_noise
from rmx.compare.intervene import ARMS, Arm, PatchJob, matched_places
from rmx.compare.intervene_set import InterveneSet, arms_csv
from rmx.compare.shift_map import MapJob, Source, map_json, map_placebo
from rmx.compare.shift_set import ShiftSet, greedy_ids
from rmx.config import check_tau
from rmx.engine.decoding_memory import out_of_memory
from rmx.engine.engine import held_together
from rmx.engine.fair_queue import POLL
from rmx.engine.token_draws import prompt_key
from rmx.errors import Busy, PromptError, RmxError, SwapError
from rmx.models.model_pair import Pair
from rmx.models.stopping import is_cut
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.service.checks import Limits
from rmx.storage.job_store import JobStore, MemoryShares
from rmx.storage.rendering import csv_text
from rmx.ui.jobs.compare_jobs import CLASSES, MapRun, PairJob, PatchRun, SetRun, known_part
from rmx.ui.jobs.explorer import check_texts
from rmx.ui.jobs.page_jobs import (
    PATIENCE,
    SET_RUNS,
    Message,
    download,
    field_of,
    report_steps,
    start_of,
    stream_job,
)

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
        SET_RUNS.begin(run, self.workspace)
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
            for model in (pair.base, pair.adapted):
                model.engine.prefixes.clear()
            during = f"while comparing {pair.base.spec} with {pair.name}"
            return out_of_memory("Shorten the text or take smaller models.", pair.base.engine.device, during)

        def finish() -> None:
            run.done = True
            self.jobs.grow(run)
            if isinstance(run, PatchRun):
                self.jobs.grow(run.map)

        steps = report_steps(run, lambda: run.reports) if isinstance(run, SetRun) else self._steps(run)
        return stream_job(run, steps, run.message, run.interval, full=full, finish=finish, made=lambda: run.made)

    def _steps(self, run: MapRun | PatchRun) -> Iterator[bool]:
        """Wait, then read, write or patch; yields True while it waits, False after each token."""
        for waiting in self._turn(run):
            if waiting:
                yield True
                continue
            if isinstance(run, PatchRun) and run.job.arm == "matched":
                self._draw_places(run)
            steps: Iterator[Any] = run.found.held() if isinstance(run, MapRun) else run.decode.held()
            for _ in steps:
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
            run.unwritten = (
                "At this size the other model's own solution takes a while: it is written only when asked for."
            )
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
        return self.jobs.get(field_of(data, "id")).message(start_of(data), whole=True)

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
        return download("interventions" if "arms" in document else "shifts", texts, field_of(data, "format"))


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
