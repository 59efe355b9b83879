"""`rmx shifts` and `rmx intervene`: options to a pair, a map or a run over a problem set."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rmx.compare.base_check import check_base
from rmx.compare.intervene_set import InterveneReport, InterveneSet, check_arms
from rmx.compare.noise_floor import shape_noise
from rmx.compare.placebo import placebo_pair
from rmx.compare.shift_map import MapJob, ShiftMap, Source
from rmx.compare.shift_set import PAPER, ReadPlaces, ShiftFigures, ShiftReport, ShiftSet, places_of
from rmx.config import Sampling, check_tau
from rmx.data.problem_sets import find_problem, load_set
from rmx.engine.engine import split_key
from rmx.errors import ModelError, ProblemError, PromptError, RmxError
from rmx.explore.calibration import Calibration, calibration_of, tau_of_share
from rmx.models.load import Model
from rmx.models.model_pair import Pair, make_pair
from rmx.models.placing import PLAIN, Placing
from rmx.models.presets import PAIRS
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem
from rmx.storage.line_store import LineStore


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What `rmx shifts` and `rmx intervene` have in common.

    Raises:
        RmxError: a seed or a number of new tokens that cannot be.
    """

    model: str = "mini"
    adapter: str | None = None
    teacher: str | None = None
    preset: str | None = None  # a pair by name, in place of the three above
    strength: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    tau: float | None = None
    tau_share: float | None = None  # share of the base's tokens above tau, in its place
    recalibrate: bool = False  # make the solutions behind the share anew
    seed: int = 0
    max_new_tokens: int = 512
    set_name: str = "mini"
    limit: int | None = None
    style: StyleOptions = StyleOptions()  # noqa: RUF009  a frozen record
    placing: Placing = PLAIN

    def __post_init__(self) -> None:
        Sampling(seed=self.seed, max_new_tokens=self.max_new_tokens)  # checks both

    def pair(self, space: Workspace | None = None, one: "MapOptions | None" = None) -> Pair:
        """Load both models. The bundled model is compared with its RL partner where nothing else is named.

        Args:
            one: the one problem that is asked; None for those of the set.
        """
        model, adapter, teacher = self.model, self.adapter, self.teacher
        if self.preset is not None:
            if self.preset not in PAIRS:
                raise RmxError(f"There is no pair '{self.preset}'. Known: {', '.join(PAIRS)}.")
            named = PAIRS[self.preset]
            model, adapter, teacher = named.base, named.adapter, named.teacher
        elif adapter is None and teacher is None and model == "mini":
            adapter = "rl"
        space = space or Workspace(self.device, self.dtype, placing=self.placing)
        own, raw = one is not None and one.prompt is not None, one is not None and one.raw
        name = None if own else self.set_name
        return make_pair(space, model, adapter, teacher, self.strength, self.style, name, raw)

    def threshold(self, model: Model) -> float:
        """The tau that was asked for, else that of the share that was asked for, else the model's own.

        Raises:
            RmxError: both were given, or the model cannot be calibrated.
        """
        if self.tau_share is None:
            if self.recalibrate:
                raise RmxError("--recalibrate makes the solutions behind --tau-share anew; give a share as well.")
            return model.tau if self.tau is None else check_tau(self.tau)
        if self.tau is not None:
            raise RmxError("--tau and --tau-share say the same thing in two ways; give one of them.")
        return tau_of_share(model, self.tau_share, self.set_name, again=self.recalibrate)

    def calibration(self, model: Model) -> Calibration | None:
        """What `threshold` came from, once it was asked for; None without a share."""
        return None if self.tau_share is None else calibration_of(model, self.tau_share, self.set_name)

    def problems(self) -> list[Problem]:
        """The first `limit` problems of the set.

        Raises:
            RmxError: a limit that is no count, or an unknown set.
        """
        if self.limit is not None and self.limit < 1:
            raise RmxError(f"--limit must be 1 or more; got {self.limit}.")
        return load_set(self.set_name)[: self.limit]


@dataclass(frozen=True, slots=True)
class MapOptions:
    """One prompt of `rmx shifts`: exactly one of prompt and problem is set."""

    prompt: str | None = None
    problem: str | None = None
    answer: str | None = None
    raw: bool = False
    source: Source = "base"
    read: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0


def shift_map(pair: Pair, options: PairOptions, one: MapOptions) -> dict[str, Any]:
    """The document of `rmx shifts PROMPT`: the figures of one completion, its tokens, and the proof that base is base.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    found, calibrated = map_document(prepare_map(pair, options, one).run()), options.calibration(pair.base)
    return found | ({"calibration": calibrated.json()} if calibrated else {})


def prepare_map(pair: Pair, options: PairOptions, one: MapOptions) -> ShiftMap:
    """The map of one completion, not read or written yet.

    Raises:
        RmxError: any mistake in the options, in a sentence.
    """
    model = pair.base
    ids, known = _prompt(model, options, one)
    tau = options.threshold(model)
    sampling = Sampling(one.temperature, one.top_p, options.seed, options.max_new_tokens)
    job = MapJob(ids, sampling, tau, one.source, known)
    if one.read is not None:
        read = tuple(model.encode(one.read))
        if not read:
            raise PromptError("The text to read is empty. Give a solution.")
        job = replace(job, source="text", read=read)
    return ShiftMap(pair, job)


def map_document(found: ShiftMap) -> dict[str, Any]:
    """What `rmx shifts PROMPT` prints of a map that is done: with its noise, a placebo and the check of the base."""
    ids = [*found.job.prompt_ids, *found.ids]
    with found.pair.turn():
        found.noise = shape_noise(found.pair.base.engine, ids)
    return map_json(found) | {"placebo": map_placebo(found), "base_check": check_base(found.pair, ids).json()}


def _prompt(model: Model, options: PairOptions, one: MapOptions) -> tuple[tuple[int, ...], str | None]:
    if (one.prompt is None) == (one.problem is None):
        raise PromptError(
            "Give exactly one of: a PROMPT, --problem ID, or --limit N for the first N problems of --set."
        )
    if one.problem is not None:
        if one.answer is not None:
            raise ProblemError("--answer belongs to a free PROMPT; a problem brings its own answer.")
        problem = find_problem(options.set_name, one.problem)
        return model.prompt_ids(problem.problem, one.raw), problem.answer
    return model.prompt_ids(one.prompt or "", one.raw), one.answer


def map_places(found: ShiftMap) -> ReadPlaces:
    """A map's places, for the same statistics as a set's."""
    import torch

    shifts = found.shifts
    return ReadPlaces(
        "prompt",
        torch.tensor([s.base.entropy for s in shifts]),
        torch.tensor([s.rank for s in shifts], dtype=torch.long),
        torch.tensor([s.kl for s in shifts]),
        torch.tensor([s.near_tie(found.tolerance) for s in shifts], dtype=torch.bool),
    )


def map_json(found: ShiftMap) -> dict[str, Any]:
    """Figures and tokens of one map."""
    figures = ShiftFigures((map_places(found),), found.job.tau)
    return {
        "base": found.pair.base.spec,
        "adapted": found.pair.name,
        "revision": found.pair.base.revision,
        "dtype": found.pair.base.dtype,
        "source": found.job.source,
        "tau": found.job.tau,
        "problems": 1,
        **figures.json(),
        "paper": PAPER,
        "noise": found.noise.json() if found.noise else None,
        "answer": found.answer.json(),
        "stop": found.stop,
        "prompt_ids": list(found.job.prompt_ids),
        "style": found.pair.base.style.json(),
        "tokens": [s.json(found.job.tau, found.tolerance) for s in found.shifts],
        "seconds": round(found.seconds, 3),
    }


def map_placebo(
    found: ShiftMap, cancelled: Callable[[], bool] = lambda: False, patience: float | None = None
) -> dict[str, Any] | None:
    """What a placebo of equal reranked share does to the same text; None where there is too little, or none fits.

    Raises:
        Busy: the engines were not free within `patience` seconds.
    """
    if len(found.shifts) < 2:
        return None
    prompt = found.job.prompt_ids
    text = ([*prompt, *found.ids], len(prompt) - 1)
    with found.pair.turn(patience):
        try:
            noise = placebo_pair(found.pair, [text], cancelled=cancelled)
        except ModelError:
            return None
        places = places_of(noise, "prompt", text, found.tolerance)
    figures = ShiftFigures((places,), found.job.tau).json()
    kept = ("reranked", "shifted", "mean_rank", "entropy_ratio", "on_forks", "disagreements")
    return {name: figures[name] for name in kept} | {"strength": split_key(str(noise.adapter))[1]}


def shift_run(
    options: PairOptions,
    placebo: bool = True,
    space: Workspace | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    store: LineStore | None = None,
) -> ShiftSet:
    """The run over a problem set that the options name, not begun."""
    pair, problems = options.pair(space), options.problems()
    tau, most = options.threshold(pair.base), options.max_new_tokens
    found = options.calibration(pair.base)
    return ShiftSet(pair, options.set_name, problems, tau, most, placebo, options.seed, cancelled, found, store)


def shift_set(
    options: PairOptions,
    on_report: Callable[[ShiftReport], None] = lambda _: None,
    placebo: bool = True,
    space: Workspace | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    store: LineStore | None = None,
) -> ShiftReport:
    """The shift statistics of a problem set, or of the part that was done when it was cancelled."""
    return _last(shift_run(options, placebo, space, cancelled, store), on_report)


def intervene_run(
    options: PairOptions,
    arms: tuple[str, ...],
    placebo: bool = True,
    space: Workspace | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    store: LineStore | None = None,
) -> InterveneSet:
    """All arms over the problem set that the options name, not begun."""
    checked = check_arms(arms)
    pair, problems = options.pair(space), options.problems()
    tau, most = options.threshold(pair.base), options.max_new_tokens
    seed, found = options.seed, options.calibration(pair.base)
    return InterveneSet(pair, options.set_name, problems, checked, tau, seed, most, placebo, cancelled, found, store)


def intervene_set(
    options: PairOptions,
    arms: tuple[str, ...],
    on_report: Callable[[InterveneReport], None] = lambda _: None,
    placebo: bool = True,
    space: Workspace | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    store: LineStore | None = None,
) -> InterveneReport:
    """All arms over a problem set, or over the part that was done when it was cancelled."""
    return _last(intervene_run(options, arms, placebo, space, cancelled, store), on_report)


def _last(run: Any, on_report: Callable[[Any], None]) -> Any:
    report: Any = None
    for report in run:
        on_report(report)
    return report
