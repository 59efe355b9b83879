"""`rmx outcomes`, `rmx rescue` and `rmx sofar`: options to a greedy solution, and what is measured on it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rmx.config import Sampling, check_tau
from rmx.data.problem_sets import find_problem
from rmx.errors import ProblemError, PromptError, RmxError
from rmx.explore.answer_so_far import SoFar, sofar
from rmx.explore.calibration import calibration_of, tau_of_share
from rmx.explore.generate import Generation, Job, read_job
from rmx.explore.importance import MOST_FORKS, Importance, importance
from rmx.explore.outcomes import OutcomeConfig, Outcomes, outcomes
from rmx.explore.rescue import Rescue, RescueConfig, rescue
from rmx.explore.swap import swap_job
from rmx.models.load import Model
from rmx.models.placing import PLAIN, Placing
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Trace, shown_adapter


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """The arguments of `rmx trace`; exactly one of prompt, problem and prompt_ids is set."""

    prompt: str | None = None
    problem: str | None = None
    set_name: str = "mini"
    prompt_ids: tuple[int, ...] | None = None
    raw: bool = False
    answer: str | None = None
    model: str = "mini"
    adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 512
    tau: float | None = None
    tau_share: float | None = None
    recalibrate: bool = False  # make the solutions behind a share anew
    swaps: tuple[tuple[int, int], ...] = ()
    cold: bool = False
    read: str | None = None
    style: StyleOptions = StyleOptions()  # noqa: RUF009  a frozen record
    placing: Placing = PLAIN

    @property
    def asked_set(self) -> str | None:
        """The set that the problem is of; None for a problem of the user's own."""
        return None if self.problem is None else self.set_name


def prepare(options: TraceOptions, workspace: Workspace | None = None) -> tuple[Model, Job]:
    """The loaded model and the job of the unswapped solution.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    sampling = Sampling(options.temperature, options.top_p, options.seed, options.max_new_tokens)
    if options.tau is not None:
        check_tau(options.tau)
    if options.swaps and options.read is not None:
        raise RmxError("--read scores a text and --swap makes new ones; use one of them.")
    space = workspace or Workspace(options.device, options.dtype, placing=options.placing)
    model = space.model(options.model).ask_in(options.style, options.asked_set, options.raw)
    adapter = space.adapter(model, options.adapter)
    prompt_ids, known = _prompt(options, model)
    tau = _tau(options, model)
    if options.read is not None:
        return model, replace(read_job(model, prompt_ids, options.read, tau, known), adapter=adapter, cold=options.cold)
    return model, Job(prompt_ids, sampling, tau, adapter, known, cold=options.cold)


def trace(options: TraceOptions, workspace: Workspace | None = None) -> list[Trace]:
    """The unswapped trace first, then one for each swap.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    model, job = prepare(options, workspace)
    traces = [Generation(model, job).run()]
    for pos, token_id in options.swaps:
        job = swap_job(job, traces[-1].tokens, pos, [token_id], model.engine.vocab_size)
        traces.append(Generation(model, job).run())
    return traces


def asked(options: TraceOptions, workspace: Workspace, traces: Sequence[Trace]) -> dict[str, Any]:
    """What a trace does not hold itself, for its document: prompt, problem, known answer, limit, special tokens.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    model = workspace.model(options.model).ask_in(options.style, options.asked_set, options.raw)
    ids, known = _prompt(options, model)
    title = options.prompt
    if options.problem is not None:
        title = find_problem(options.set_name, options.problem).problem
    said = {t.id for trace in traces for t in trace.tokens}
    special = sorted(said & model.detokenizer.special_ids)
    found: dict[str, Any] = {"title": title, "known": known, "prompt": model.detokenizer.text(ids), "special": special}
    if options.tau_share is not None:
        found["calibration"] = calibration_of(model, options.tau_share, options.set_name).json()
    return found if options.read is not None else found | {"max_new_tokens": options.max_new_tokens}


def _tau(options: TraceOptions, model: Model) -> float:
    if options.tau_share is not None:
        if options.tau is not None:
            raise RmxError("--tau and --tau-share say the same thing in two ways; give one of them.")
        return tau_of_share(model, options.tau_share, options.set_name, again=options.recalibrate)
    if options.recalibrate:
        raise RmxError("--recalibrate makes the solutions behind --tau-share anew; give a share as well.")
    return model.tau if options.tau is None else check_tau(options.tau)


def _prompt(options: TraceOptions, model: Model) -> tuple[tuple[int, ...], str | None]:
    given = [x is not None for x in (options.prompt, options.problem, options.prompt_ids)]
    if sum(given) != 1:
        raise PromptError("Give exactly one of: a PROMPT, --problem ID, --prompt-ids FILE.")
    if options.prompt_ids is not None:
        return options.prompt_ids, options.answer
    if options.problem is None:
        return model.prompt_ids(options.prompt or "", options.raw), options.answer
    if options.answer is not None:
        raise ProblemError("--answer belongs to a free PROMPT; a problem brings its own answer.")
    problem = find_problem(options.set_name, options.problem)
    return model.prompt_ids(problem.problem, options.raw), problem.answer


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
