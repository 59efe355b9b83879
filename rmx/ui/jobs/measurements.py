"""What one choice is worth, for the page: outcomes of a fork, importance over a solution, rescues, the answer so far.

Each job streams messages that hold its whole state, so any of them may be lost. No gradio in here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rmx.config import Sampling
from rmx.engine.fair_queue import Kind, iterate_as_owner
from rmx.errors import SwapError
from rmx.explore.answer_so_far import sofar
from rmx.explore.branches import Branch
from rmx.explore.importance import importance
from rmx.explore.outcomes import OutcomeConfig, outcomes
from rmx.explore.rescue import RescueConfig, rescue
from rmx.explore.swap import swap_job
from rmx.records import Trace
from rmx.storage.job_store import JobStore
from rmx.ui.jobs.explorer import Explorer, _out_of_memory
from rmx.ui.jobs.page_jobs import Message, PageJob, field_of, stream_job

SAMPLES, BUDGET = 64, 60_000  # of one fork: samples per alternative, tokens over all
SAMPLES_EACH, BUDGET_ALL = 16, 120_000  # the same at every fork of a solution
BUDGET_RESCUE = 60_000


@dataclass
class Measurement(PageJob):
    """One measurement under way on a page."""

    kind: str
    run: Branch
    pos: int | None = None  # of outcomes
    states: Iterator[Any] = field(init=False)
    last: Message = field(default_factory=dict)  # the newest state, as the page gets it


class Measurements:
    """The measuring jobs of all pages."""

    def __init__(self, explorer: Explorer, keep: int = 400) -> None:
        self.explorer = explorer
        self.jobs: JobStore[Measurement] = JobStore("This measurement is over.", most=keep)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def outcomes(self, data: object) -> Measurement:
        """Sample on from each alternative at {"run", "pos"}.

        Raises:
            RmxError: no such place, or no answer to measure against.
        """
        run, trace = self._solved(data)
        pos = field_of(data, "pos")
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
        goal = field_of(data, "goal")
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
        self.jobs.halt(field_of(data, "job"))

    def _begin(
        self, kind: str, run: Branch, start: Callable[[Callable[[], bool]], Iterator[Any]], pos: int | None = None
    ) -> Measurement:
        job = Measurement(kind, run, pos)
        job.states = start(lambda: job.stopped)
        return self.jobs.add(job)

    def _solved(self, data: object) -> tuple[Branch, Trace]:
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.trace is None or not run.trace.tokens:
            raise SwapError("Wait until the solution is finished, then measure it.")
        self.explorer.revive(run)
        return run, run.trace

    def _limit(self, run: Branch) -> int:
        """Most tokens of what is sampled; a pasted text was read without a limit, so it gets one."""
        return (
            max(run.job.sampling.max_new_tokens, 512) if run.job.read is not None else run.job.sampling.max_new_tokens
        )

    # -- messages -------------------------------------------------------------------------------------------------

    def stream(self, job: Measurement) -> Iterator[Message]:
        """Yield the job's states as messages; the last one is done, whatever happens. Then the job is forgotten."""
        messages = stream_job(
            job,
            self._steps(job),
            lambda _: _message(job),
            0.0,
            out_of_memory=lambda: _out_of_memory(job.run),
            finish=lambda: self.jobs.forget(job.id),
        )
        yield from iterate_as_owner(job.run.owner, messages, Kind.MEASURED)

    def _steps(self, job: Measurement) -> Iterator[bool]:
        for state in job.states:
            job.last = state.message()
            if job.last.get("done") and job.kind == "rescue":
                job.last["branch"] = self._branch(job.run, state) if state.found else None
            if not job.last.get("done"):
                yield True

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


def _message(job: Measurement) -> Message:
    """The newest state of a job."""
    state = job.last or {"kind": job.kind, "pos": job.pos}
    return state | {"run": job.run.id, "job": job.id} | ({"done": True, "error": job.error} if job.error else {})
