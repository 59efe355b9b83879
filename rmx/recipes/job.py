"""What a run is asked to do: model, problems, recipe. The same record stands behind the command line and the tab."""

import logging
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from rmx.data.problem_sets import SETS, every_split, split_name
from rmx.data.splits import SPLITS, without
from rmx.errors import RmxError, TrainError
from rmx.models.style_options import StyleOptions
from rmx.recipes.recipe import PRESETS, Recipe, command
from rmx.recipes.thresholds import check_sweep
from rmx.records import Problem

logger = logging.getLogger(__name__)


class RunJob:
    """What a run of any kind is asked; `words` is the command that starts it."""

    __slots__ = ()

    def words(self) -> list[str]:
        raise NotImplementedError

    def command_line(self) -> str:
        """The command that starts this run, for a shell."""
        return shlex.join(self.words())


def options(named: Mapping[str, str | None]) -> list[str]:
    """Options and their values, without those that are left as they are: None, empty, or "auto"."""
    return [word for flag, value in named.items() if value and value != "auto" for word in (flag, value)]


@contextmanager
def readable_config() -> Iterator[None]:
    """Read a `config.json` in a `with` block; what is none of ours is a TrainError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise TrainError(f"The run's config.json cannot be used ({error}). Start a new run.") from error


@dataclass(frozen=True, slots=True)
class TrainJob(RunJob):
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
    taus: tuple[float, ...] = ()  # nats, ascending: a sweep, one adapter for each; see sweep.py
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise RmxError(f"There is no preset '{self.preset}'. Known: {', '.join(PRESETS)}.")
        if not self.set_name and not self.from_rollouts:
            raise RmxError("Name the problems to train on (--set NAME) or rollouts of them (--from-rollouts FILE).")
        if self.taus:
            check_sweep(self.taus, self.recipe)

    def at(self, tau: float) -> "TrainJob":
        """The run that a sweep makes for one of its thresholds."""
        return replace(self, taus=(), recipe=self.recipe.with_(tau=tau, tau_share=None))

    def words(self) -> list[str]:
        """The command that starts this run: `rmx train …`."""
        named = {
            "--model": self.model, "--set": self.set_name, "--from-rollouts": self.from_rollouts,
            "--server": self.server, "--init-adapter": self.init_adapter, "--device": self.device,
            "--dtype": self.dtype,
        }  # fmt: skip
        swept = ["--sweep-tau", ",".join(f"{tau:g}" for tau in self.taus)] if self.taus else []
        return ["rmx", "train", *options(named), *command(self.recipe, self.preset), *swept, *self.style.words()]

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        return {
            "model": self.model, "set": self.set_name, "recipe": self.recipe.json(), "preset": self.preset,
            "from_rollouts": self.from_rollouts, "server": self.server, "adapter": self.init_adapter,
            "device": self.device, "dtype": self.dtype, "pins": list(self.pins), "style": self.style.json(),
            "command": self.words(),
        } | ({"taus": list(self.taus)} if self.taus else {})  # fmt: skip

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "TrainJob":
        """The job of a `config.json`."""
        with readable_config():
            plain = ("from_rollouts", "server", "device", "dtype")
            kept: dict[str, Any] = {name: stored[name] for name in plain if name in stored}
            kept |= {name: tuple(stored.get(name, ())) for name in ("pins", "taus")}
            kept |= {"init_adapter": stored.get("adapter"), "style": StyleOptions.from_json(stored.get("style"))}
            return cls(stored["model"], stored["set"], Recipe.from_json(stored["recipe"]), stored["preset"], **kept)


@dataclass(frozen=True, slots=True)
class Problems:
    """The problems of a run, by what they are for; no problem is in two of them."""

    train: list[Problem]
    validation: list[Problem]
    test: list[Problem]


def problems_of(job: TrainJob) -> Problems:
    """Draw the training problems by the seed, and take the first ones of the other splits.

    A set without a train split cannot be trained on, nor can a text that stands in validation or test too.
    """
    check, wanted = job.recipe.check, job.recipe.rollouts.problems
    if not job.set_name:
        return Problems([], [], [])
    known = SETS.get(job.set_name.partition(":")[0])
    base, split = split_name(job.set_name, "train" if known is None or "train" in known.splits else "test")
    if split == "test" and job.from_rollouts is None:
        raise TrainError(f"{base} has only test problems here; training on them would spoil every later figure.")
    sides = every_split(base)
    there = sides.pop(split)
    validation, test = sides.get("validation", []), sides.get("test", [])
    train = without(there, validation, test)
    if len(train) < len(there):
        logger.warning(
            "%d of the %d problems of %s are among its validation or test problems too; they are not trained on.",
            len(there) - len(train), len(there), base,
        )  # fmt: skip
    if job.from_rollouts is None and len(train) < 2:
        raise TrainError(f"{job.set_name} has {len(train)} problems to train on; at least 2 are needed.")
    chosen = draw_problems(train, wanted, random.Random(f"problems/{job.recipe.seed}"))
    return Problems(chosen, validation[: check.validation], test[: check.test])


def draw_problems(problems: Sequence[Problem], count: int, draw: random.Random) -> list[Problem]:
    """Draw `count` problems, or all where there are fewer; where the set knows levels, of each as many as can be."""
    count, levels = min(count, len(problems)), sorted({p.level for p in problems if p.level is not None})
    if not levels:
        return draw.sample(list(problems), count)
    sides = [[p for p in problems if p.level == level] for level in (*levels, None)]
    queues = [draw.sample(side, len(side)) for side in sides if side]
    turns = (problem for turn in zip_longest(*queues) for problem in turn if problem is not None)
    return list(islice(turns, count))


def resolved(job: TrainJob) -> TrainJob:
    """The same job with the paths of files and folders made absolute, so that a resume finds them from anywhere."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    name, rollouts, adapter = job.set_name, absolute(job.from_rollouts), absolute(job.init_adapter)
    if name is not None and Path(name).suffix:
        path, colon, split = name.strip().rpartition(":")
        name = f"{absolute(path)}:{split}" if colon and split in SPLITS else absolute(name)
    return replace(job, set_name=name, from_rollouts=rollouts, init_adapter=adapter)
