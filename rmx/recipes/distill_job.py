"""What a distillation is asked to do: the recipe, with the paper's values, and the job around it."""

import dataclasses
import math
import os
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from rmx.config import is_number
from rmx.errors import RmxError, TrainError, shown
from rmx.models.style_options import StyleOptions
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import (
    TARGETS,
    AdapterConfig,
    CheckConfig,
    OptimConfig,
    Recipe,
    RolloutConfig,
    check_one_of,
    check_seed,
    check_whole,
    write_flags,
)

Tail = Literal["renormalise", "bucket"]  # what becomes of the teacher's other tokens


@dataclass(frozen=True, slots=True)
class DistillRecipe:
    """Every choice that the adapter depends on, beside the models and the problems.

    The defaults are the paper's (arXiv 2605.06241, section 4). It leaves open how many solutions a problem gets, what
    becomes of the teacher's tail, alpha, the clip, and when a solution is cut off; those are ours.
    """

    problems: int = 100  # random ones of the train split
    k: int = 1  # solutions of the teacher per problem
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 8192
    top_k: int = 64  # tokens of the teacher's distributions that are kept
    tail: Tail = "renormalise"
    rank: int = 32
    alpha: int | None = None  # None: twice the rank
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    lr: float = 1e-4
    warmup: float = 0.1  # share of all updates
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    epochs: int = 3
    micro_batch: int = 2
    grad_accum: int = 8
    max_seq_len: int = 8192
    recompute: bool = False
    tf32: bool = False
    heldout: int = 20  # problems whose solutions by the teacher are only compared with; 0: none
    validation: int = 100  # problems solved greedily by base, teacher and student; 0: none
    seed: int = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        for name, low in (("top_k", 1), ("heldout", 0), ("validation", 0)):
            check_whole(name, getattr(self, name), low)
        check_seed(self.seed)
        if not is_number(self.warmup) or not 0 <= self.warmup < 1:
            raise RmxError(f"warmup is a share of the updates, from 0 to below 1; got {shown(self.warmup)}.")
        check_one_of("tail", self.tail, Tail)
        # The parts check their own values when they are made.
        _ = self.rollouts, self.adapter, self.optim(1)

    @property
    def rollouts(self) -> RolloutConfig:
        """How the teacher solves problems."""
        return RolloutConfig(self.k, self.problems, self.temperature, self.top_p, self.max_new_tokens)

    @property
    def adapter(self) -> AdapterConfig:
        return AdapterConfig(self.rank, 2 * self.rank if self.alpha is None else self.alpha, self.dropout, self.targets)

    def optim(self, rollouts: int) -> OptimConfig:
        """Optimizer and schedule for this many rollouts; the warm-up is rounded up to whole updates."""
        per_epoch = math.ceil(math.ceil(rollouts / self.micro_batch) / self.grad_accum) if self.micro_batch > 0 else 1
        return OptimConfig(
            lr=self.lr,
            warmup_steps=math.ceil(round(self.warmup * per_epoch * self.epochs, 6)),  # 0.1 * 70 is above 7
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            epochs=self.epochs,
            micro_batch=self.micro_batch,
            grad_accum=self.grad_accum,
            order="shuffle",
            max_seq_len=self.max_seq_len,
            recompute=self.recompute,
            tf32=self.tf32,
        )

    def training(self, rollouts: int = 1) -> Recipe:
        """This as the recipe of a training run without a gate, a guard or test problems.

        Args:
            rollouts: solutions to learn from, which the warm-up depends on.
        """
        few = RolloutConfig(problems=self.problems, max_new_tokens=self.max_new_tokens)
        check = CheckConfig(validation=max(self.validation, self.heldout), test=0, guards=False)
        return Recipe(few, adapter=self.adapter, optim=self.optim(rollouts), check=check, seed=self.seed)

    def flat(self) -> dict[str, Any]:
        """Every field by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.flat().items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "DistillRecipe":
        """The recipe of a `config.json`; fields that it lacks have the defaults."""
        return dataclasses.replace(cls(), **stored)

    def departures(self) -> dict[str, tuple[Any, Any]]:
        """Fields that differ from the paper's: name -> (the paper's value, this one)."""
        paper = PAPER.flat()
        return {name: (paper[name], value) for name, value in self.flat().items() if value != paper[name]}

    def words(self, preset: str = "paper") -> list[str]:
        """The flags of `rmx distill` that make this recipe out of a preset."""
        return write_flags(self.flat(), PRESETS[preset].flat())


PAPER = DistillRecipe()
# Chosen on validation problems of the bundled pair: at the paper's rate, 21 updates hardly move a model of this size.
SMALL = dataclasses.replace(
    PAPER, problems=600, k=4, temperature=1.0, top_p=1.0, max_new_tokens=256, lr=3e-3, epochs=2, micro_batch=16,
    grad_accum=1, validation=200,
)  # fmt: skip
PRESETS = {"paper": PAPER, "small": SMALL}


def default_preset(model: str) -> str:
    """The preset of a run that names none: `small` for the bundled model, on which it was chosen, else the paper's."""
    return "small" if model == "mini" else "paper"


def field_types() -> dict[str, Any]:
    """Name -> type of every field of the recipe, in its order."""
    return get_type_hints(DistillRecipe)


@dataclass(frozen=True, slots=True)
class DistillJob:
    """One distillation: from a teacher into a LoRA on a base."""

    model: str = "mini"
    set_name: str = "mini"
    adapter: str | None = None  # the teacher, as an adapter on the base
    teacher: str | None = None  # the teacher, as a checkpoint of its own; an adapter at hand will do as well
    recipe: DistillRecipe = field(default_factory=DistillRecipe)
    device: str = "auto"
    dtype: str = "auto"
    style: StyleOptions = field(default_factory=StyleOptions)  # what is asked of the prompt, of base and teacher
    preset: str = "paper"  # what the recipe began as

    def __post_init__(self) -> None:
        if bool(self.adapter) == bool(self.teacher):
            raise RmxError("Name whom to learn from: --adapter (on the base) or --teacher (a checkpoint), one of them.")
        if self.preset not in PRESETS:
            raise RmxError(f"There is no preset {shown(self.preset)}. Known: {', '.join(PRESETS)}.")
        if not self.set_name:
            raise RmxError("Name the problems that the teacher solves (--set NAME).")

    @property
    def teacher_name(self) -> str:
        """The teacher's spec."""
        return self.teacher or self.adapter or ""

    def training(self) -> TrainJob:
        """The training run on the same model and problems: no problem is both learned from and held out."""
        return TrainJob(
            self.model, self.set_name, self.recipe.training(), device=self.device, dtype=self.dtype, style=self.style
        )

    def words(self) -> list[str]:
        """The command that starts this run: `rmx distill …`."""
        who = ["--teacher", self.teacher] if self.teacher else ["--adapter", self.adapter or ""]
        words = ["rmx", "distill", "--model", self.model, *who, "--set", self.set_name]
        for flag, value in (("--device", self.device), ("--dtype", self.dtype)):
            words += [flag, value] if value != "auto" else []
        words += ["--preset", self.preset] if self.preset != default_preset(self.model) else []
        return words + self.recipe.words(self.preset) + self.style.words()

    def command_line(self) -> str:
        """The same, for a shell."""
        return shlex.join(self.words())

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        return {
            "kind": "distill",
            "model": self.model,
            "set": self.set_name,
            "adapter": self.adapter,
            "teacher": self.teacher,
            "recipe": self.recipe.json(),
            "preset": self.preset,
            "device": self.device,
            "dtype": self.dtype,
            "style": self.style.json(),
            "command": self.words(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "DistillJob":
        """The job of a `config.json`.

        Raises:
            TrainError: it is none of ours.
        """
        try:
            return cls(
                stored["model"],
                stored["set"],
                stored.get("adapter"),
                stored.get("teacher"),
                DistillRecipe.from_json(stored["recipe"]),
                stored.get("device", "auto"),
                stored.get("dtype", "auto"),
                StyleOptions.from_json(stored.get("style")),
                stored.get("preset", "paper"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrainError(f"The run's config.json cannot be used ({error}). Start a new run.") from error


def resolved(job: DistillJob) -> DistillJob:
    """The same job with paths made absolute, so that a resume finds them from anywhere. Names stay names."""

    def absolute(spec: str) -> str:
        is_path = os.sep in spec or Path(spec).suffix in (".jsonl", ".csv", ".parquet", ".gguf")
        return str(Path(spec).absolute()) if is_path and Path(spec).exists() else spec

    return dataclasses.replace(
        job,
        model=absolute(job.model),
        set_name=absolute(job.set_name),
        adapter=job.adapter and absolute(job.adapter),
        teacher=job.teacher and absolute(job.teacher),
    )
