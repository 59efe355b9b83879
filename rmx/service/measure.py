"""`rmx outcomes`, `rmx rescue` and `rmx sofar`: options to a greedy solution, and what is measured on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rmx.errors import RmxError
from rmx.explore.answer_so_far import SoFar, sofar
from rmx.explore.generate import Generation
from rmx.explore.importance import MOST_FORKS, Importance, importance
from rmx.explore.outcomes import OutcomeConfig, Outcomes, outcomes
from rmx.explore.rescue import Rescue, RescueConfig, rescue
from rmx.models.load import Model
from rmx.models.workspace import Workspace
from rmx.records import Trace, shown_adapter
from rmx.service.trace import TraceOptions, prepare

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class MeasuredSolution:
    """The solution that is measured."""

    model: Model
    trace: Trace
    known: str | None

    def json(self) -> dict[str, Any]:
        """What every document begins with: enough to make the same solution again."""
        trace = self.trace
        return {
            "model": trace.model,
            "adapter": shown_adapter(trace.adapter),
            "revision": trace.revision,
            "dtype": trace.dtype,
            "tau": trace.tau,
            "prompt_ids": list(trace.prompt_ids),
            "style": trace.style.json() if trace.style else None,
            "solution": trace.text,
            "answer_before": trace.answer.json(),
            "known": self.known,
        }


def solve(options: TraceOptions, workspace: Workspace | None = None) -> MeasuredSolution:
    """The greedy solution.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    model, job = prepare(options, workspace)
    return MeasuredSolution(model, Generation(model, job).run(), job.known)


def measure_outcomes(
    options: TraceOptions,
    config: OutcomeConfig,
    pos: int,
    on_state: Callable[[Outcomes], None] = lambda _: None,
    workspace: Workspace | None = None,
) -> dict[str, Any]:
    """The document of `rmx outcomes --pos N`."""
    solved = solve(options, workspace)
    found = _last(outcomes(solved.model, solved.trace, pos, config, known=solved.known), on_state)
    return outcomes_json(solved, config, found)


def measure_importance(
    options: TraceOptions,
    config: OutcomeConfig,
    forks: int = MOST_FORKS,
    on_state: Callable[[Importance], None] = lambda _: None,
    workspace: Workspace | None = None,
) -> dict[str, Any]:
    """The document of `rmx outcomes` without a position: the outcomes of all forks as one curve.

    Raises:
        RmxError: a number of forks below 1, and whatever the solution or the sampling says.
    """
    if forks < 1:
        raise RmxError(f"--forks must be 1 or more; got {forks}.")
    solved = solve(options, workspace)
    found = _last(importance(solved.model, solved.trace, config, known=solved.known, forks=forks), on_state)
    return outcomes_json(solved, config, found)


def measure_rescue(
    options: TraceOptions,
    config: RescueConfig,
    on_state: Callable[[Rescue], None] = lambda _: None,
    workspace: Workspace | None = None,
) -> dict[str, Any]:
    """The document of `rmx rescue`."""
    solved = solve(options, workspace)
    found = _last(rescue(solved.model, solved.trace, config, known=solved.known), on_state)
    return rescue_json(solved, config, found)


def measure_sofar(
    options: TraceOptions,
    on_state: Callable[[SoFar], None] = lambda _: None,
    workspace: Workspace | None = None,
) -> dict[str, Any]:
    """The document of `rmx sofar`."""
    solved = solve(options, workspace)
    return solved.json() | _last(sofar(solved.model, solved.trace, known=solved.known), on_state).json()


def outcomes_json(solved: MeasuredSolution, config: OutcomeConfig, found: Outcomes | Importance) -> dict[str, Any]:
    """The document of either form of `rmx outcomes`."""
    draws = {"seed": config.seed, "temperature": config.temperature, "top_p": config.top_p}
    return solved.json() | draws | found.json()


def rescue_json(solved: MeasuredSolution, config: RescueConfig, found: Rescue) -> dict[str, Any]:
    """The document of `rmx rescue`."""
    return solved.json() | {"seed": config.seed} | found.json()


def _last(states: Iterator[State], on_state: Callable[[State], None]) -> State:
    state = next(states)
    for state in states:
        on_state(state)
    return state
