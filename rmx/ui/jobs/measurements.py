"""What one choice is worth, for the page: outcomes of a fork, importance over a solution, rescues, the answer so far.

Each job streams messages that hold its whole state, so any of them may be lost. No gradio in here.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rmx.config import Sampling
from rmx.engine.fair_queue import Kind, iterate_as_owner
from rmx.errors import RmxError, SwapError
from rmx.explore.answer_so_far import sofar
from rmx.explore.branches import Branch
from rmx.explore.importance import importance
from rmx.explore.outcomes import OutcomeConfig, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.explore.swap import swap_job
from rmx.records import Trace
from rmx.ui.jobs.explorer import Explorer, Message, _get, _out_of_memory

SAMPLES, BUDGET = 64, 60_000  # of one fork: samples per alternative, tokens over all
SAMPLES_EACH, BUDGET_ALL = 16, 120_000  # the same at every fork of a solution
BUDGET_RESCUE = 60_000


@dataclass
class Measurement:
    """One job under way on a page."""

    kind: str
    run: Branch
    states: Iterator[Any]
    pos: int | None = None  # of outcomes
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    _stop: threading.Event = field(default_factory=threading.Event)

    def halt(self) -> None:
        """Ask the job to end at its next step."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


class Worth:
    """The measuring jobs of all pages; knowing a job's id is the permission to stop it."""

    def __init__(self, explorer: Explorer, keep: int = 400) -> None:
        self.explorer = explorer
        self._jobs: OrderedDict[str, Measurement] = OrderedDict()
        self._keep = keep
        self._lock = threading.Lock()

    # -- jobs -----------------------------------------------------------------------------------------------------

    def outcomes(self, data: object) -> Measurement:
        """Sample on from each alternative at {"run", "pos"}.

        Raises:
            RmxError: no such place, or no answer to measure against.
        """
        run, trace = self._solved(data)
        pos = _get(data, "pos")
        if type(pos) is not int or not 0 <= pos < len(trace.tokens):
            raise SwapError(f"There is no token at position {pos}; there are {len(trace.tokens)}.")
        config = OutcomeConfig(samples=SAMPLES, budget=BUDGET, max_new_tokens=self._limit(run))
        known = run.job.known
        return self._begin(
            "outcomes",
            run,
            lambda stopped: outcomes(run.model, trace, pos, config, known=known, cancelled=stopped),
            pos,
        )

    def importance(self, data: object) -> Measurement:
        """The same at every fork of {"run"}, under one budget."""
        run, trace = self._solved(data)
        config = OutcomeConfig(samples=SAMPLES_EACH, budget=BUDGET_ALL, max_new_tokens=self._limit(run))
        known = run.job.known
        return self._begin(
            "importance", run, lambda stopped: importance(run.model, trace, config, known=known, cancelled=stopped)
        )

    def rescue(self, data: object) -> Measurement:
        """The fewest swaps that turn {"run"} right, or wrong, by {"goal"}."""
        run, trace = self._solved(data)
        goal = _get(data, "goal")
        config = RescueConfig(
            goal=goal if goal in ("right", "wrong") else None, budget=BUDGET_RESCUE, max_new_tokens=self._limit(run)
        )
        return self._begin(
            "rescue", run, lambda stopped: rescue(run.model, trace, config, known=run.job.known, cancelled=stopped)
        )

    def sofar(self, data: object) -> Measurement:
        """The answer that the model would give after each sentence of {"run"}."""
        run, trace = self._solved(data)
        return self._begin(
            "sofar", run, lambda stopped: sofar(run.model, trace, known=run.job.known, cancelled=stopped)
        )

    def halt(self, data: object) -> None:
        """Stop a job within one step; unknown ids are ignored."""
        with self._lock:
            job = self._jobs.get(_get(data, "job")) if isinstance(_get(data, "job"), str) else None
        if job is not None:
            job.halt()

    def _begin(
        self, kind: str, run: Branch, start: Callable[[Callable[[], bool]], Iterator[Any]], pos: int | None = None
    ) -> Measurement:
        job = Measurement(kind, run, iter(()), pos)
        job.states = start(lambda: job.stopped)
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > self._keep:
                self._jobs.popitem(last=False)
        return job

    def _solved(self, data: object) -> tuple[Branch, Trace]:
        run = self.explorer.runs.get(_get(data, "run"))
        if run.trace is None or not run.trace.tokens:
            raise SwapError("Wait until the solution is finished, then measure it.")
        self.explorer.revive(run)
        return run, run.trace

    def _limit(self, run: Branch) -> int:
        """A pasted text was read without a limit; what follows it needs one."""
        return (
            max(run.job.sampling.max_new_tokens, 512) if run.job.read is not None else run.job.sampling.max_new_tokens
        )

    # -- messages -------------------------------------------------------------------------------------------------

    def stream(self, job: Measurement) -> Iterator[Message]:
        """The job's states as messages; the last one is done, whatever happens. Then the job is forgotten."""
        try:
            yield from iterate_as_owner(job.run.owner, self._messages(job), Kind.MEASURED)
        finally:
            with self._lock:
                self._jobs.pop(job.id, None)

    def _messages(self, job: Measurement) -> Iterator[Message]:
        last: Message = {"kind": job.kind, "pos": job.pos}
        try:
            for state in job.states:
                last = state.message() | {"run": job.run.id, "job": job.id}
                if last.get("done") and job.kind == "rescue":
                    last["branch"] = self._branch(job.run, state) if state.found else None
                yield last
        except (torch.OutOfMemoryError, RmxError) as error:
            said = str(error) if isinstance(error, RmxError) else _out_of_memory(job.run)
            yield last | {"run": job.run.id, "job": job.id, "done": True, "error": said}

    def _branch(self, run: Branch, state: Any) -> str | None:
        """Make the branches that a rescue found: one for each swap, continued greedily as the search did."""
        for swap in state.swaps:
            job = swap_job(run.job, run.tokens, swap.pos, [swap.to_id], run.model.engine.vocab_size)
            limit = self._limit(run)
            job = replace(job, sampling=Sampling(max_new_tokens=limit))
            run = self.explorer.runs.add(run.branch(job))
            for _ in run.steps():
                pass
            self.explorer.runs.weigh_again(run)
        return run.id
