"""What a run is asked to do: model, problems, recipe. The same record stands behind the command line and the tab."""

import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rmx.errors import RmxError, TrainError
from rmx.problems import SETS, load_set, split_name
from rmx.records import Problem
from rmx.train.recipe import PRESETS, Recipe, command


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run. Problems come from a set or, already sampled, from a file of rollouts."""

    model: str = "mini"
    set_name: str | None = "mini"
    recipe: Recipe = field(default_factory=Recipe)
    preset: str = "paper"
    from_rollouts: str | None = None
    server: str | None = None  # base URL of an OpenAI-compatible server that samples the rollouts
    init_adapter: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    pins: tuple[dict[str, Any], ...] = ()  # forks to replay at every checkpoint

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise RmxError(f"There is no preset '{self.preset}'. Known: {', '.join(PRESETS)}.")
        if not self.set_name and not self.from_rollouts:
            raise RmxError("Name the problems to train on (--set NAME) or rollouts of them (--from-rollouts FILE).")

    def words(self) -> list[str]:
        """The command that starts this run: `rmx train …`."""
        words = ["rmx", "train", "--model", self.model]
        for flag, value in (
            ("--set", self.set_name),
            ("--from-rollouts", self.from_rollouts),
            ("--server", self.server),
            ("--init-adapter", self.init_adapter),
        ):
            words += [flag, value] if value else []
        for flag, value in (("--device", self.device), ("--dtype", self.dtype)):
            words += [flag, value] if value != "auto" else []
        return words + command(self.recipe, self.preset)

    def command_line(self) -> str:
        """The same, for a shell."""
        return shlex.join(self.words())

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        return {
            "model": self.model,
            "set": self.set_name,
            "recipe": self.recipe.json(),
            "preset": self.preset,
            "from_rollouts": self.from_rollouts,
            "server": self.server,
            "adapter": self.init_adapter,
            "device": self.device,
            "dtype": self.dtype,
            "pins": list(self.pins),
            "command": self.words(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "TrainJob":
        """The job of a `config.json`.

        Raises:
            TrainError: it is none of ours.
        """
        try:
            return cls(
                stored["model"],
                stored["set"],
                Recipe.from_json(stored["recipe"]),
                stored["preset"],
                stored.get("from_rollouts"),
                stored.get("server"),
                stored.get("adapter"),
                stored.get("device", "auto"),
                stored.get("dtype", "auto"),
                tuple(stored.get("pins", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrainError(f"The run's config.json cannot be used ({error}). Start a new run.") from error


@dataclass(frozen=True, slots=True)
class Problems:
    """The problems of a run, by what they are for; no problem is in two of them."""

    train: list[Problem]
    validation: list[Problem]
    test: list[Problem]

    def known(self) -> dict[str, Problem]:
        return {p.id: p for p in (*self.train, *self.validation, *self.test)}


def problems_of(job: TrainJob) -> Problems:
    """Draw the training problems by the seed, and take the first ones of the other splits.

    A set without a train split cannot be trained on. A reader's own file has no splits: it is dealt into three by the
    hash of each problem's text, so that the same problem is always on the same side.

    Raises:
        ProblemError: the set cannot be had. TrainError: too few problems in it.
    """
    check, wanted = job.recipe.check, job.recipe.rollouts.problems
    if not job.set_name:
        return Problems([], [], [])
    base, split = split_name(job.set_name, "train" if _has_train(job.set_name) else "test")
    if base not in SETS:
        train, validation, test = _dealt(load_set(base, split))
    else:
        if split == "test" and job.from_rollouts is None:
            raise TrainError(f"{base} has only test problems here; training on them would spoil every later figure.")
        named = {name: load_set(f"{base}:{name}") for name in SETS[base].splits if name != split}
        train = load_set(f"{base}:{split}")
        validation, test = named.get("validation", []), named.get("test", [])
    if job.from_rollouts is None and len(train) < 2:
        raise TrainError(f"{job.set_name} has {len(train)} problems to train on; at least 2 are needed.")
    chosen = random.Random(f"problems/{job.recipe.seed}").sample(train, min(wanted, len(train)))
    return Problems(chosen, validation[: check.validation], test[: check.test])


def _has_train(name: str) -> bool:
    base = name.partition(":")[0]
    return base not in SETS or "train" in SETS[base].splits


def _dealt(problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Three quarters to train on, an eighth each for validation and test."""
    sides: tuple[list[Problem], list[Problem], list[Problem]] = ([], [], [])
    for problem in problems:
        at = random.Random(f"split/{problem.problem.strip()}").random()
        sides[0 if at < 0.75 else 1 if at < 0.875 else 2].append(problem)
    return sides


def resolved(job: TrainJob) -> TrainJob:
    """The same job with the paths of files and folders made absolute, so that a resume finds them from anywhere."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    own = job.set_name if job.set_name is None or Path(job.set_name).suffix == "" else absolute(job.set_name)
    return replace(
        job, set_name=own, from_rollouts=absolute(job.from_rollouts), init_adapter=absolute(job.init_adapter)
    )
