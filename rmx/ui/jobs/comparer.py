"""What the compare view asks for and is told: maps, patched decodes and runs over a set. No gradio in here.

What comes from a browser is checked; ids are unguessable and are the permission.
"""

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from rmx.compare.base_check import check_base
from rmx.compare.intervene import ARMS, Arm, Intervention, PatchJob, matched_places
from rmx.compare.intervene_set import InterveneSet, arms_csv
from rmx.compare.noise_floor import shape_noise
from rmx.compare.pair_options import map_json, map_placebo
from rmx.compare.shift_map import MapJob, ShiftMap, Source
from rmx.compare.shift_set import ShiftSet, greedy_ids
from rmx.config import Sampling, check_tau
from rmx.engine.engine import held_together
from rmx.engine.fair_queue import POLL
from rmx.engine.sampling import prompt_key
from rmx.errors import Busy, PromptError, RmxError, SwapError
from rmx.models.pair import Pair, make_pair
from rmx.models.stopping import is_cut
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.service.arguments import Limits
from rmx.storage.memory_shares import MemoryShares
from rmx.ui.jobs.compare_jobs import MapRun, PairJob, PatchRun, SetRun, known_part, refused
from rmx.ui.jobs.compare_messages import CLASSES, Message, map_message, patch_message, set_message
from rmx.ui.jobs.explorer import check_texts
from rmx.ui.jobs.page_jobs import AtOnce

PATIENCE = 8.0  # seconds that a question of the page waits for the engine
INTERVAL = 0.08  # seconds between messages while streaming
PUBLIC_SETS = AtOnce("run over a set", "runs over a set", most=4, per_owner=1, per_address=2)  # on a public site
SMALL = 20e6  # parameters up to which noise and placebo are measured without being asked


class Comparer:
    """The compare road for the page. Jobs leave memory as storage.memory_shares has it."""

    def __init__(self, workspace: Workspace, kept: MemoryShares | None = None, limits: Limits | None = None) -> None:
        self.workspace = workspace
        self.kept, self.limits = kept or MemoryShares(), limits or Limits()
        self._jobs: dict[str, PairJob] = {}
        self._lock = threading.Lock()
        self._copying = threading.Lock()  # a second copy of a checkpoint is large: one at a time

    # -- jobs -----------------------------------------------------------------------------------------------------

    def _add(self, job: Any) -> Any:
        with self._lock:
            if isinstance(job, SetRun) and self.workspace.policy.public:
                sets = [one for one in self._jobs.values() if isinstance(one, SetRun)]
                PUBLIC_SETS.admit(job.who, [one.who for one in sets if not one.done and not one.stopped])
            self._jobs[job.id] = job
        self.kept.put(job.id, job.nbytes, job.owner, lambda: self._forget(job), lambda: not job.done)
        return job

    def _forget(self, job: PairJob) -> None:
        """Let go of a job, and of the decodes that hold on to it."""
        with self._lock:
            held = [j for j in self._jobs.values() if j is job or (isinstance(j, PatchRun) and j.map is job)]
            for one in held:
                del self._jobs[one.id]
        for one in held:
            self.kept.drop(one.id)

    def _finish(self, job: PairJob) -> None:
        """Nothing is worked on any more, also where nobody waited for the end."""
        job.done = True
        self.kept.grow(job.id, job.nbytes)
        if isinstance(job, PatchRun):
            self.kept.grow(job.map.id, job.map.nbytes)

    def find(self, job_id: object) -> PairJob | None:
        with self._lock:
            job = self._jobs.get(job_id) if isinstance(job_id, str) else None
        if job is not None:
            self.kept.touch(job.id)
        return job

    def get(self, job_id: object, kind: type[Any] = PairJob) -> Any:
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

    def pair(
        self,
        spec: str,
        adapter: str | None,
        teacher: str | None,
        strength: float,
        style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
        set_name: str | None = None,
    ) -> Pair:
        return make_pair(self.workspace, spec, adapter or None, teacher or None, strength, style, set_name)

    def map(
        self,
        pair: Pair,
        problem: str,
        tau: float,
        *,
        known: str | None = None,
        known_computed: bool = False,
        source: str = "base",
        text: str = "",
        max_new: int = 512,
    ) -> MapRun:
        """A new map, not read yet.

        Raises:
            RmxError: the prompt, the text or a setting cannot be used.
        """
        check_tau(tau)
        if source not in ("base", "adapted", "text"):
            raise RmxError(f"There is no text source '{source[:20]}'.")
        check_texts(self.limits, problem, known, text)
        ids = pair.base.prompt_ids(problem)
        read = tuple(pair.base.encode(text)) if source == "text" else ()
        if source == "text" and not read:
            raise PromptError("The text to read is empty. Paste a solution first.")
        whose: Source = "base" if source == "base" else "adapted" if source == "adapted" else "text"
        run = MapRun(pair, title=problem.strip(), prompt=pair.base.detokenizer.text(ids))
        run.known_computed = known_computed
        sampling = Sampling(max_new_tokens=max_new)
        job = MapJob(ids, sampling, float(tau), whose, (known or "").strip() or None, read)
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

    def over_set(
        self, pair: Pair, what: str, name: str, problems: list[Problem], tau: float, max_new: int = 512
    ) -> tuple[SetRun, Any]:
        """A run over a problem set and the iterable that makes it.

        Raises:
            Busy: on a public site, too many are under way.
        """
        check_tau(tau)
        Sampling(max_new_tokens=max_new)
        run: SetRun = self._add(SetRun(pair, what=what))
        if what == "shifts":
            return run, ShiftSet(pair, name, problems, tau, max_new, cancelled=lambda: run.stopped)
        return run, InterveneSet(pair, name, problems, ARMS, tau, max_new=max_new, cancelled=lambda: run.stopped)

    # -- streams --------------------------------------------------------------------------------------------------

    def stream_map(self, run: MapRun) -> Iterator[Message]:
        """Read or write the text and tell the page, at most a dozen times a second."""
        sent, due = 0, 0.0
        try:
            for waiting in self._turn(run):
                if waiting:
                    yield map_message(run, sent)
                    continue
                for _ in run.found.held():
                    if time.monotonic() >= due:
                        yield map_message(run, sent)
                        sent, due = len(run.found.shifts), time.monotonic() + INTERVAL
                self._after_map(run)
            self._beside_map(run)
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        finally:
            self._finish(run)
        yield map_message(run, sent)

    def _after_map(self, run: MapRun) -> None:
        """What the map itself tells of the arms; the caller holds the turn."""
        found = run.found
        if found.job.source != "text" and found.stop != "cancelled":
            arm: Arm = "base" if found.job.source == "base" else "teacher"
            run.answers[arm] = found.answer
            run.patches[arm] = sum(s.rank > 1 for s in found.shifts) if arm == "teacher" else 0
        if len(found.shifts) > 1 and found.noise is None:
            found.noise = shape_noise(run.pair.base.engine, [*found.job.prompt_ids, *found.ids])

    def _beside_map(self, run: MapRun) -> None:
        """The other model's answer, the badge and the placebo, where they cost a moment only.

        The turn was given back: whoever has the engines now may keep them, and the map stands without these.
        """
        engine = run.pair.base.engine
        if run.stopped or engine.remote is not None or sum(p.numel() for p in engine.model.parameters()) > SMALL:
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
            cut = is_cut(pair.base, job.prompt_ids, ids)
            run.answers["teacher"] = pair.base.grade(job.prompt_ids, ids, job.known, cut=cut)

    def stream_patch(self, run: PatchRun) -> Iterator[Message]:
        """Decode under the arm and tell the page."""
        sent, due = 0, 0.0
        try:
            for waiting in self._turn(run):
                if waiting:
                    yield patch_message(run, sent)
                    continue
                if run.job.arm == "matched":
                    self._draw_places(run)
                for _ in run.made.held():
                    if time.monotonic() >= due:
                        yield patch_message(run, sent)
                        sent, due = len(run.made.tokens), time.monotonic() + INTERVAL
            if not run.stopped:
                self._note_arm(run)
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        finally:
            self._finish(run)
        yield patch_message(run, sent)

    def _note_arm(self, run: PatchRun) -> None:
        """Remember the arm's answer, and its tokens where they tell more than what was known."""
        result, of = run.made.result, run.map
        if run.job.budget is None or run.job.budget >= result.patches + refused(run.made.tokens):
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
                    yield set_message(run)
                    due = time.monotonic() + 0.5
        except (torch.OutOfMemoryError, RmxError) as error:
            run.error = str(error) if isinstance(error, RmxError) else _out_of_memory(run.pair)
        finally:
            self._finish(run)
        yield set_message(run)

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
            for turns, ticket in reversed(held):
                turns.leave(ticket)

    # -- questions of the page ------------------------------------------------------------------------------------

    def tail(self, data: object) -> Message:
        """Everything of a job from {"id", "start"} on."""
        job, start = self.get(_get(data, "id")), _get(data, "start")
        at = start if type(start) is int and start > 0 else 0
        if isinstance(job, MapRun):
            return map_message(job, at, whole=True)
        if isinstance(job, PatchRun):
            return patch_message(job, at, whole=True)
        return set_message(job)

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
        if _get(data, "copy") is not True:
            return check_base(run.pair, ids, patience=PATIENCE).json()
        if not self._copying.acquire(blocking=False):
            raise Busy("A second copy is being loaded for somebody else. Try again in a moment.")
        try:
            return check_base(run.pair, ids, copy=True, patience=PATIENCE).json()
        finally:
            self._copying.release()

    def document(self, job_id: object) -> dict[str, Any]:
        """What a job exports: the same document as the command line's."""
        job = self.get(job_id)
        if isinstance(job, MapRun):
            return map_json(job.found)
        if isinstance(job, SetRun) and job.report is not None:
            return job.report.json()
        raise RmxError("There is nothing to export yet.")


def _get(data: object, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def _out_of_memory(pair: Pair) -> str:
    for model in (pair.base, pair.adapted):
        model.engine.prefixes.clear()
    return f"{pair.base.spec} with {pair.name} ran out of GPU memory. Shorten the text or take smaller models."


def export(comparer: Comparer, data: object) -> dict[str, Any]:
    """{"id", "format": "json" | "csv"} -> {"name", "mime", "text"}.

    Raises:
        RmxError: nothing there, or another format.
    """
    wanted = data if isinstance(data, dict) else {}
    document = comparer.document(wanted.get("id"))
    name = "interventions" if "arms" in document else "shifts"
    if wanted.get("format") == "json":
        return {"name": f"{name}.json", "mime": "application/json", "text": json.dumps(document, ensure_ascii=False)}
    if wanted.get("format") == "csv":
        return {"name": f"{name}.csv", "mime": "text/csv", "text": table(document)}
    raise RmxError("Exports are JSON or CSV.")


def table(document: dict[str, Any]) -> str:
    """The document as a table: arms per problem, tokens of one map, or figures of a set."""
    if "arms" in document:
        return arms_csv(document)
    out = io.StringIO()
    rows = csv.writer(out)
    if "tokens" in document:
        columns = ["pos", "id", "text", "class", "near_tie", "fork", "kl", "rank", "p", "back_rank", "back_p"]
        rows.writerow([*columns, "base_entropy", "adapted_entropy"])
        for token in document["tokens"]:
            rows.writerow([*(token[c] for c in columns), token["base"]["entropy"], token["adapted"]["entropy"]])
        return out.getvalue()
    rows.writerow(["figure", "value", "low", "high", "n", "placebo"])
    figures = document["intervals"] | {name: document[name] for name in ("mean_rank", "entropy_ratio")}
    noise = document["placebo"] or {}
    theirs = noise.get("intervals", {}) | {k: noise.get(k) for k in ("mean_rank", "entropy_ratio")}
    for name, estimate in figures.items():
        placebo = (theirs.get(name) or {}).get("value")
        rows.writerow([name, *(estimate[k] for k in ("value", "low", "high", "n")), placebo])
    return out.getvalue()
