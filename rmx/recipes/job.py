"""What a training run is asked to do, by a command line, a form or a visitor.

A token that somebody pinned in Explore, whole in itself, for a training run to follow from check to check.

What a run is asked to do: model, problems, recipe. The same record stands behind the command line and the tab.

Which training runs the visitors of a site may start, and how large they may be.

The recipe as flags of the command line, made from its fields, so that none can be forgotten.
"""

import argparse
import logging
import random
import shlex
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from rmx.data.problem_files import SPLITS, without
from rmx.data.problem_sets import SETS, every_split, split_name
from rmx.errors import Refused, RmxError, TrainError
from rmx.models.site_rules import DUPLICATE, SiteRules
from rmx.models.style_options import StyleOptions
from rmx.recipes.recipe import HELP, PRESETS, Recipe, Section, check_sweep, command, field_types, help_of
from rmx.records import Problem

MOST = 8  # pins of one page
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
        return asdict(self) | {"prompt_ids": list(self.prompt_ids), "before": list(self.before)}

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


# -- What a run is asked to do ----------------------------------------------------------------------------------------


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


# -- Which training runs the visitors of a site may start, and how large they may be ----------------------------------


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
            shown = "no limit" if value is None else f"{value}"
            said = f"{name.replace('_', ' ')} may be {most} at most here, not {shown}: take the quick recipe."
            raise Refused(f"{said} {DUPLICATE}")
    if flat["checkpoint_every"] < FEWEST_CHECKS:
        raise Refused(f"A check every {FEWEST_CHECKS:g} epochs is the most here: take the quick recipe.")


# -- The recipe as flags of the command line, made from its fields, so that none can be forgotten ---------------------


NONE = "none"


def add_recipe(parser: argparse.ArgumentParser, only: Iterable[str] | None = None) -> None:
    """One flag per field; a flag that is not given leaves the preset's value."""
    add_flags(parser.add_argument_group("recipe (defaults: the paper's)"), Recipe, only)


def add_flags(group: Any, recipe: type[Section], only: Iterable[str] | None = None) -> None:
    """A flag for each field; its value is read back by `given`."""
    types, about = field_types(recipe), HELP | help_of(recipe)
    for name, kind in types.items():
        if only is not None and name not in only:
            continue
        options: dict[str, Any] = {"dest": f"recipe_{name}", "default": None, "help": about[name]}
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(kind) is Literal:
            group.add_argument(flag, choices=get_args(kind), **options)
        else:
            group.add_argument(flag, metavar="X", type=_reader(kind), **options)


def given(args: argparse.Namespace, types: Iterable[str]) -> dict[str, Any]:
    """The fields whose flags were used, by name."""
    values = {name: getattr(args, f"recipe_{name}", None) for name in types}
    return {name: None if value == NONE else value for name, value in values.items() if value is not None}


def recipe_of(args: argparse.Namespace, preset: str = "paper") -> Recipe:
    """The preset with the flags that were given."""
    return changed_recipe(PRESETS[preset], given(args, field_types()))


def changed_recipe(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some fields; a threshold takes the place of a share of tokens, or that of it."""
    other = {"tau_share": None} if "tau" in given else {}
    if given.get("tau_share") is not None and "tau" not in given:
        other = {"tau": None}
    return recipe.with_(**other | dict(given))


def _reader(kind: Any) -> Callable[[str], Any]:
    """What turns a word of the command line into a field's value; argparse says "invalid <its name> value"."""
    kinds = get_args(kind)
    optional = type(None) in kinds

    def read(word: str) -> Any:
        if get_origin(kind) is tuple:
            return tuple(w.strip() for w in word.split(",") if w.strip())
        return NONE if optional and word == NONE else (kinds[0] if optional else kind)(word)

    whole = "whole number" if kind is int else "number"
    read.__name__ = "number or none" if optional else "list" if get_origin(kind) is tuple else whole
    return read
