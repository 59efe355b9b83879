"""What one choice is worth, for the page: outcomes of a fork, importance over a solution, rescues, the answer so far.

Each job streams messages that hold its whole state, so any of them may be lost.
"""

from collections.abc import Iterator
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
from rmx.ui.jobs.explorer import Explorer, full_memory
from rmx.ui.jobs.page_jobs import Message, PageJob, field_of, stream_job

SAMPLES, BUDGET = 64, 60_000  # of one fork: samples per alternative, tokens over all
SAMPLES_EACH, BUDGET_ALL = 16, 120_000  # the same at every fork of a solution
BUDGET_RESCUE = 60_000


@dataclass(eq=False)
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

    def start(self, kind: str, data: object) -> Measurement:
        """Make a job, not begun yet.

        Args:
            kind: what is measured: "outcomes" of each alternative at {"run", "pos"}, "importance" of every fork of
                {"run"}, the "rescue" that turns it right or wrong, by {"goal"}, or its answer "sofar".
        """
        run = self.explorer.runs.get(field_of(data, "run"))
        if run.trace is None or not run.trace.tokens:
            raise SwapError("Wait until the solution is finished, then measure it.")
        self.explorer.revive(run)
        pos, tokens = field_of(data, "pos") if kind == "outcomes" else None, run.trace.tokens
        if kind == "outcomes" and (type(pos) is not int or not 0 <= pos < len(tokens)):
            raise SwapError(f"There is no token at position {pos}; there are {len(tokens)}.")
        job = Measurement(kind, run, pos)
        job.states = _states(job, run.trace, field_of(data, "goal"))
        return self.jobs.add(job)

    def stream(self, job: Measurement) -> Iterator[Message]:
        """Yield the job's states as messages; the last one is done, whatever happens. Then the job is forgotten."""
        messages = stream_job(
            job,
            self._steps(job),
            lambda _: _message(job),
            0.0,
            full=lambda: full_memory(job.run),
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
            job = replace(job, sampling=Sampling(max_new_tokens=_limit(run)))
            run = self.explorer.runs.add(run.branch(job))
            for _ in run.steps():
                pass
            self.explorer.runs.weigh_again(run)
        return run.id


def _states(job: Measurement, trace: Trace, goal: Any) -> Iterator[Any]:
    """What the library measures for a job, state after state."""
    model, most = job.run.model, _limit(job.run)
    about: dict[str, Any] = {"known": job.run.job.known, "cancelled": lambda: job.stopped}
    if job.pos is not None:
        config = OutcomeConfig(samples=SAMPLES, budget=BUDGET, max_new_tokens=most)
        return outcomes(model, trace, job.pos, config, **about)
    if job.kind == "importance":
        config = OutcomeConfig(samples=SAMPLES_EACH, budget=BUDGET_ALL, max_new_tokens=most)
        return importance(model, trace, config, **about)
    if job.kind == "rescue":
        wanted = goal if goal in ("right", "wrong") else None
        return rescue(model, trace, RescueConfig(goal=wanted, budget=BUDGET_RESCUE, max_new_tokens=most), **about)
    return sofar(model, trace, **about)


def _limit(run: Branch) -> int:
    """Most tokens of what is sampled; a pasted text was read without a limit, so it gets one."""
    most = run.job.sampling.max_new_tokens
    return most if run.job.read is None else max(most, 512)


def _message(job: Measurement) -> Message:
    """The newest state of a job."""
    state = job.last or {"kind": job.kind, "pos": job.pos}
    return state | {"run": job.run.id, "job": job.id} | ({"done": True, "error": job.error} if job.error else {})
