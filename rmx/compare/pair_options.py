"""A pair and its problems, as verbs and pages name them, and the document of one map."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmx.compare.base_check import check_base
from rmx.compare.noise_floor import shape_noise
from rmx.compare.placebo import placebo_pair
from rmx.compare.shift_map import ShiftMap
from rmx.compare.shift_set import PAPER, ReadPlaces, ShiftFigures, places_of
from rmx.config import Sampling
from rmx.data.problem_sets import load_set
from rmx.engine.engine import split_key
from rmx.errors import ModelError, RmxError
from rmx.explore.calibration import Calibration, calibration_of, threshold_of
from rmx.models.load import Model
from rmx.models.model_pair import Pair, make_pair
from rmx.models.presets import PAIRS
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Problem


@dataclass(frozen=True, slots=True)
class PairOptions:
    """A base, what it is compared with, and the problems that both are asked.

    Raises:
        RmxError: a seed or a number of new tokens that cannot be.
    """

    model: str = "mini"
    adapter: str | None = None
    teacher: str | None = None
    preset: str | None = None  # a pair by name, in place of the three above
    strength: float = 1.0
    tau: float | None = None
    tau_share: float | None = None  # share of the base's tokens above tau, in its place
    recalibrate: bool = False  # make the solutions behind the share anew
    seed: int = 0
    max_new_tokens: int = 512
    set_name: str = "mini"
    limit: int | None = None
    style: StyleOptions = StyleOptions()  # noqa: RUF009  a frozen record

    def __post_init__(self) -> None:
        Sampling(seed=self.seed, max_new_tokens=self.max_new_tokens)  # checks both

    def specs(self) -> tuple[str, str | None, str | None]:
        """Model, adapter and teacher. The bundled model is compared with its RL partner where nothing else is named.

        Raises:
            RmxError: there is no pair of this name.
        """
        if self.preset is not None:
            if self.preset not in PAIRS:
                raise RmxError(f"There is no pair '{self.preset}'. Known: {', '.join(PAIRS)}.")
            named = PAIRS[self.preset]
            return named.base, named.adapter, named.teacher
        partner = "rl" if self.adapter is None and self.teacher is None and self.model == "mini" else self.adapter
        return self.model, partner, self.teacher

    def pair(self, space: Workspace | None = None, own: bool = False, raw: bool = False) -> Pair:
        """Load both models.

        Args:
            own: they are asked a problem of the user's own, not those of the set.
            raw: its prompt is given as it stands.
        """
        model, adapter, teacher = self.specs()
        name = None if own else self.set_name
        return make_pair(space or Workspace(), model, adapter, teacher, self.strength, self.style, name, raw)

    def threshold(self, model: Model) -> float:
        """The tau that was asked for, else that of the share that was asked for, else the model's own.

        Raises:
            RmxError: both were given, or the model cannot be calibrated.
        """
        return threshold_of(model, self.tau, self.tau_share, self.set_name, self.recalibrate)

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


def map_document(found: ShiftMap) -> dict[str, Any]:
    """What `rmx shifts PROMPT` prints of a map that is done: with its noise, a placebo and the check of the base."""
    ids = [*found.job.prompt_ids, *found.ids]
    with found.pair.turn():
        found.noise = shape_noise(found.pair.base.engine, ids)
    return map_json(found) | {"placebo": map_placebo(found), "base_check": check_base(found.pair, ids).json()}


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
