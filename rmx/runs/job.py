"""What a run is asked to do: model, problems, recipe, pins; and which runs the visitors of a site may start."""

import logging
import os
import random
import shlex
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from rmx.data.problem_files import SPLITS, without
from rmx.data.problem_sets import SETS, every_split, split_name
from rmx.errors import Refused, RmxError, TrainError, shown
from rmx.models.site_rules import DUPLICATE, SiteRules
from rmx.models.style_options import StyleOptions, write_options
from rmx.records import Problem, as_json
from rmx.runs.recipe import (
    DISTILL_PRESETS,
    PRESETS,
    DistillRecipe,
    Recipe,
    check_sweep,
    command,
    default_preset,
    write_flags,
)

MOST = 8  # pins of one page: tokens of Explore that a training run follows from check to check
SHOWN = 160  # characters of prompt and completion before the place


@dataclass(frozen=True, slots=True)
class Pin:
    """A place in a completion and the token that stood there."""

    model: str  # as it is loaded: a preset's name, a Hub id or a folder
    adapter: str | None  # that wrote the solution; None: the base
    prompt_ids: tuple[int, ...]
    before: tuple[int, ...]  # completion ids before the place; nothing is ever re-tokenised
    said: int  # id of the token at the place
    known: str | None  # the problem's known answer
    text: str  # the end of what stands before the place
    word: str  # the token as text

    def json(self) -> dict[str, Any]:
        return as_json(self, *self.__slots__)

    def small(self) -> dict[str, Any]:
        """The same as `json`, with ids of four bytes."""
        return self.json() | {"prompt_ids": array("i", self.prompt_ids), "before": array("i", self.before)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Pin":
        """The pin of a stored run, or of a page's state."""
        try:
            kept = {name: stored[name] for name in cls.__slots__}
            pin = cls(**kept | {name: _ids(kept[name]) for name in ("prompt_ids", "before")})
        except (KeyError, TypeError) as error:
            raise TrainError(f"A pinned token cannot be read ({error}). Pin it again in Explore.") from error
        texts = (pin.model, pin.text, pin.word, pin.adapter or "", pin.known or "")
        if type(pin.said) is not int or pin.said < 0 or not all(isinstance(text, str) for text in texts):
            raise TrainError("A pinned token is not what Explore makes. Pin it again there.")
        return pin


def _ids(stored: Any) -> tuple[int, ...]:
    if not isinstance(stored, list | tuple | array) or not all(type(i) is int and i >= 0 for i in stored):
        raise TypeError("token ids are whole numbers")
    return tuple(stored)


# -- what a run is asked to do ----------------------------------------------------------------------------------------


logger = logging.getLogger(__name__)
AUTO = {"device": "auto", "dtype": "auto"}  # options that a command leaves out
FILES = (".jsonl", ".csv", ".parquet", ".gguf")  # endings by which a file is told from a name


class RunJob:
    """What a run of any kind is asked; `words` is the command that starts it."""

    __slots__ = ()
    names: ClassVar[tuple[str, ...]] = ()  # fields that hold names, or paths
    files: ClassVar[tuple[str, ...]] = ()  # fields that hold paths
    keys: ClassVar[Mapping[str, str]] = {"set_name": "set"}  # fields that `config.json` calls otherwise
    needed: ClassVar[tuple[str, ...]] = ("model", "set", "recipe")  # keys without which it is none of ours
    recipes: ClassVar[type[Recipe | DistillRecipe]]

    def words(self) -> list[str]:
        raise NotImplementedError

    def command_line(self) -> str:
        """The command that starts this run, for a shell."""
        return shlex.join(self.words())

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        kept: Any = as_json(self, *(f.name for f in fields(self)))  # type: ignore[arg-type]
        return {self.keys.get(name, name): value for name, value in kept.items()} | {"command": self.words()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The job of a `config.json`; TrainError where it is none of ours."""
        read = {"recipe": cls.recipes.from_json, "style": StyleOptions.from_json, "pins": tuple, "taus": tuple}
        try:
            names = {f.name: cls.keys.get(f.name, f.name) for f in fields(cls)}  # type: ignore[arg-type]
            given = {name: stored[key] for name, key in names.items() if key in stored or key in cls.needed}
            return cls(**given | {name: make(given[name]) for name, make in read.items() if name in given})
        except (KeyError, TypeError, ValueError) as error:
            raise TrainError(f"The run's config.json cannot be used ({error}). Start a new run.") from error


@dataclass(frozen=True, slots=True)
class TrainJob(RunJob):
    """One training run. Problems come from a set or, already sampled, from a file of rollouts."""

    names: ClassVar[tuple[str, ...]] = ("set_name",)
    files: ClassVar[tuple[str, ...]] = ("from_rollouts", "init_adapter")
    keys: ClassVar[Mapping[str, str]] = {"set_name": "set", "init_adapter": "adapter"}
    needed: ClassVar[tuple[str, ...]] = ("model", "set", "recipe", "preset")
    recipes = Recipe

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
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt
    taus: tuple[float, ...] = ()  # nats, ascending: a sweep, one adapter for each

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
            "model": self.model, "set": self.set_name or None, "from_rollouts": self.from_rollouts or None,
            "server": self.server or None, "init_adapter": self.init_adapter or None, "device": self.device,
            "dtype": self.dtype,
        }  # fmt: skip
        swept = write_options({"sweep_tau": tuple(f"{tau:g}" for tau in self.taus)}, {"sweep_tau": ()})
        recipe = command(self.recipe, self.preset)
        return ["rmx", "train", *write_options(named, AUTO), *recipe, *swept, *self.style.words()]

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it; `taus` of a sweep only."""
        return {name: value for name, value in RunJob.json(self).items() if name != "taus" or value}


@dataclass(frozen=True, slots=True)
class DistillJob(RunJob):
    """One distillation: from a teacher into a LoRA on a base."""

    names: ClassVar[tuple[str, ...]] = ("model", "set_name", "adapter", "teacher")
    recipes = DistillRecipe

    model: str = "mini"
    set_name: str = "mini"
    adapter: str | None = None  # the teacher, as an adapter on the base
    teacher: str | None = None  # the teacher, as a checkpoint of its own; an adapter at hand will do as well
    recipe: DistillRecipe = field(default_factory=DistillRecipe)
    preset: str = "paper"  # what the recipe began as
    device: str = "auto"
    dtype: str = "auto"
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt, of base and teacher

    def __post_init__(self) -> None:
        if bool(self.adapter) == bool(self.teacher):
            raise RmxError("Name whom to learn from: --adapter (on the base) or --teacher (a checkpoint), one of them.")
        if self.preset not in DISTILL_PRESETS:
            raise RmxError(f"There is no preset {shown(self.preset)}. Known: {', '.join(DISTILL_PRESETS)}.")
        if not self.set_name:
            raise RmxError("Name the problems that the teacher solves (--set NAME).")

    @property
    def teacher_name(self) -> str:
        """The teacher's spec."""
        return self.teacher or self.adapter or ""

    def training(self) -> TrainJob:
        """The training run on the same model and problems: no problem is both learned from and held out."""
        about = self.model, self.set_name, self.recipe.training()
        return TrainJob(*about, device=self.device, dtype=self.dtype, style=self.style)

    def words(self) -> list[str]:
        """The command that starts this run: `rmx distill …`."""
        named = {
            "model": self.model, "teacher": self.teacher or None, "adapter": self.adapter or None,
            "set": self.set_name, "device": self.device, "dtype": self.dtype, "preset": self.preset,
        }  # fmt: skip
        words = write_options(named, AUTO | {"preset": default_preset(self.model)})
        flags = write_flags(self.recipe, DISTILL_PRESETS[self.preset])
        return ["rmx", "distill", *words, *flags, *self.style.words()]

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        return {"kind": "distill"} | RunJob.json(self)


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


Run = TypeVar("Run", bound=TrainJob | DistillJob)


def resolved(job: Run) -> Run:
    """The same job with the paths of files and folders made absolute, so that a resume finds them from anywhere."""
    found: dict[str, Any] = {name: _absolute(getattr(job, name)) for name in job.names}
    found |= {name: _absolute(getattr(job, name), maybe_name=False) for name in job.files}
    return replace(job, **found)


def _absolute(spec: str | None, maybe_name: bool = True) -> str | None:
    """The absolute path of what is there; what may be a name stays one, even where a folder is called so."""
    if not spec:
        return spec
    path, colon, split = spec.strip().rpartition(":")
    if colon and split in SPLITS:
        return f"{_absolute(path, maybe_name)}:{split}"
    is_path = not maybe_name or os.sep in spec or Path(spec).suffix.lower() in FILES
    return str(Path(spec).absolute()) if is_path and Path(spec).exists() else spec


# -- which training runs the visitors of a site may start, and how large they may be ----------------------------------


# A visitor's run on `mini` where training is "mini": fields of the recipe and the most that each may ask for.
CAPS = {
    "problems": 48, "k": 12, "select": 32, "max_new_tokens": 256, "epochs": 1, "max_steps": 40, "rank": 64,
    "micro_batch": 16, "grad_accum": 8, "max_seq_len": 512, "validation": 60, "validation_k": 4, "test": 100,
}  # fmt: skip
FEWEST_CHECKS = 0.2  # epochs between two checks, at least


def admit_job(rules: SiteRules, job: TrainJob) -> None:
    """Refuse a training run that a visitor may not start on this site."""
    if rules.training == "off":
        raise Refused(f"Training is off on this site. {DUPLICATE}")
    if rules.public:
        rules.admit_model(job.model)
        if rules.training == "on" or not job.set_name:  # "mini" is narrower, and says so below
            rules.admit_set(job.set_name or "")
        if job.server or job.from_rollouts or job.init_adapter:
            raise Refused("A public site samples its own rollouts and trains a new adapter.")
    if rules.training == "on":
        return
    if job.model != "mini" or job.set_name not in ("mini", "mini:train"):
        raise Refused(f"Visitors may train mini on its own problems here. {DUPLICATE}")
    if job.taus:
        raise Refused(f"A sweep of thresholds is too long for this site. {DUPLICATE}")
    flat = job.recipe.flat()
    for name, most in CAPS.items():
        value = flat[name]
        if value is None or value > most:
            got = "no limit" if value is None else f"{value}"
            said = f"{name.replace('_', ' ')} may be {most} at most here, not {got}: take the quick recipe."
            raise Refused(f"{said} {DUPLICATE}")
    if flat["checkpoint_every"] < FEWEST_CHECKS:
        raise Refused(f"A check every {FEWEST_CHECKS:g} epochs is the most here: take the quick recipe.")


def changed_recipe(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some fields; a threshold takes the place of a share of tokens, or that of it."""
    other = {"tau_share": None} if "tau" in given else {}
    if given.get("tau_share") is not None and "tau" not in given:
        other = {"tau": None}
    return recipe.with_(**other | dict(given))
