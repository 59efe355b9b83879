"""What a distillation is asked to do: the recipe, with the paper's values, and the job around it."""

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rmx.config import is_number
from rmx.errors import RmxError, shown
from rmx.models.style_options import StyleOptions
from rmx.recipes.job import RunJob, TrainJob, options, readable_config
from rmx.recipes.recipe import (
    TARGETS,
    AdapterConfig,
    CheckConfig,
    OptimConfig,
    Recipe,
    RolloutConfig,
    Section,
    choice,
    write_flags,
)

Tail = Literal["renormalise", "bucket"]  # what becomes of the teacher's other tokens


@dataclass(frozen=True, slots=True)
class DistillRecipe(Section):
    """Every choice that the adapter depends on, beside the models and the problems.

    The defaults are the paper's (arXiv 2605.06241, section 4). It leaves open how many solutions a problem gets, what
    becomes of the teacher's tail, alpha, the clip, and when a solution is cut off; those are ours. What is declared
    without a help has that of a training run's recipe, and is checked by the part that it goes to.
    """

    problems: int = choice(100, "problems of the train split that the teacher solves", 1)
    k: int = choice(1, "solutions of the teacher for each problem", 1)
    temperature: float = choice(0.6, "sampling temperature of the teacher's solutions", 0, 10, above=True)
    top_p: float = choice(
        0.95, "nucleus sampling of the teacher's solutions: share of probability drawn from", 0, 1, above=True
    )
    max_new_tokens: int = choice(8192, "upper bound of a solution, in tokens", 1)
    top_k: int = choice(64, "likeliest tokens of the teacher that are kept at each place", 1)
    tail: Tail = choice(
        "renormalise", "what becomes of the others: the kept ones renormalised, or one bucket for the rest"
    )
    rank: int = 32
    alpha: int | None = choice(None, "scale of the LoRA adapter, alpha / rank (default: twice the rank)", 1)
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    lr: float = 1e-4
    warmup: float = choice(0.1, "share of the updates over which the learning rate rises")
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    epochs: int = choice(3, "passes over the solutions", 1)
    micro_batch: int = choice(2, "solutions that go through the network together", 1)
    grad_accum: int = choice(8, "micro-batches per update", 1)
    max_seq_len: int = choice(8192, "longer solutions are cut on the right", 2)
    recompute: bool = False
    tf32: bool = False
    heldout: int = choice(
        20, "problems of the validation split whose solutions by the teacher are only compared with; 0: none"
    )
    validation: int = choice(100, "problems of the validation split solved by base, teacher and student; 0: none")
    seed: int = choice(42, "seed of all random draws")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if not is_number(self.warmup) or not 0 <= self.warmup < 1:
            raise RmxError(f"warmup is a share of the updates, from 0 to below 1; got {shown(self.warmup)}.")
        Section.__post_init__(self)
        _ = self.adapter, self.optim(1)

    @property
    def rollouts(self) -> RolloutConfig:
        """How the teacher solves problems."""
        return RolloutConfig(self.k, self.problems, self.temperature, self.top_p, self.max_new_tokens)

    @property
    def adapter(self) -> AdapterConfig:
        return AdapterConfig(self.rank, 2 * self.rank if self.alpha is None else self.alpha, self.dropout, self.targets)

    def optim(self, rollouts: int) -> OptimConfig:
        """Optimizer and schedule for this many rollouts; the warm-up is rounded up to whole updates."""
        per_epoch = math.ceil(math.ceil(rollouts / self.micro_batch) / self.grad_accum)
        warmup = math.ceil(round(self.warmup * per_epoch * self.epochs, 6))  # 0.1 * 70 is above 7
        flat = self.flat()
        shared = {name: flat[name] for name in OptimConfig().flat() if name in flat}
        return OptimConfig(warmup_steps=warmup, order="shuffle", **shared)

    def training(self, rollouts: int = 1) -> Recipe:
        """This as the recipe of a training run without a gate, a guard or test problems."""
        few = RolloutConfig(problems=self.problems, max_new_tokens=self.max_new_tokens)
        check = CheckConfig(validation=max(self.validation, self.heldout), test=0, guards=False)
        return Recipe(few, adapter=self.adapter, optim=self.optim(rollouts), check=check, seed=self.seed)


PAPER = DistillRecipe()
# Chosen on validation problems of the bundled pair: at the paper's rate, 21 updates hardly move a model of this size.
SMALL = PAPER.with_(
    problems=600, k=4, temperature=1.0, top_p=1.0, max_new_tokens=256, lr=3e-3, epochs=2, micro_batch=16,
    grad_accum=1, validation=200,
)  # fmt: skip
PRESETS = {"paper": PAPER, "small": SMALL}


def default_preset(model: str) -> str:
    """The preset of a run that names none: `small` for the bundled model, on which it was chosen, else the paper's."""
    return "small" if model == "mini" else "paper"


@dataclass(frozen=True, slots=True)
class DistillJob(RunJob):
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
        about = self.model, self.set_name, self.recipe.training()
        return TrainJob(*about, device=self.device, dtype=self.dtype, style=self.style)

    def words(self) -> list[str]:
        """The command that starts this run: `rmx distill …`."""
        preset = "" if self.preset == default_preset(self.model) else self.preset
        named = {
            "--model": self.model, "--teacher": self.teacher, "--adapter": self.adapter, "--set": self.set_name,
            "--device": self.device, "--dtype": self.dtype, "--preset": preset,
        }  # fmt: skip
        flags = write_flags(self.recipe, PRESETS[self.preset])
        return ["rmx", "distill", *options(named), *flags, *self.style.words()]

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it."""
        return {
            "kind": "distill", "model": self.model, "set": self.set_name, "adapter": self.adapter,
            "teacher": self.teacher, "recipe": self.recipe.json(), "preset": self.preset, "device": self.device,
            "dtype": self.dtype, "style": self.style.json(), "command": self.words(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "DistillJob":
        """The job of a `config.json`."""
        with readable_config():
            plain = ("adapter", "teacher", "device", "dtype", "preset")
            kept: dict[str, Any] = {name: stored[name] for name in plain if name in stored}
            recipe, style = DistillRecipe.from_json(stored["recipe"]), StyleOptions.from_json(stored.get("style"))
            return cls(stored["model"], stored["set"], recipe=recipe, style=style, **kept)


def resolved(job: DistillJob) -> DistillJob:
    """The same job with paths made absolute, so that a resume finds them from anywhere. Names stay names."""

    def absolute(spec: str) -> str:
        is_path = os.sep in spec or Path(spec).suffix in (".jsonl", ".csv", ".parquet", ".gguf")
        return str(Path(spec).absolute()) if is_path and Path(spec).exists() else spec

    named = {name: getattr(job, name) for name in ("model", "set_name", "adapter", "teacher")}
    found: dict[str, Any] = {name: spec and absolute(spec) for name, spec in named.items()}
    return replace(job, **found)
