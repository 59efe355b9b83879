"""The recipes of training runs and distillations: all that the outcome depends on, checked once, saved as JSON.

The defaults are the paper's (arXiv 2605.06241, sections 4 and 5 and the public 1.5B recipe); presets are the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from rmx.config import is_number
from rmx.errors import RmxError, shown
from rmx.models.style_options import write_options

Objective = Literal["adv_ce", "delta_hinge", "correct_sft"]
GateKind = Literal["entropy", "random", "full"]
KlOn = Literal["all", "completion"]
Normalisation = Literal["reference", "token"]
Order = Literal["clarity", "shuffle", "file"]
BaseKept = Literal["fp32", "bf16", "recompute"]
Tail = Literal["renormalise", "bucket"]  # what becomes of the teacher's other tokens

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
NONE = "none"  # what a command line says of a field that has no value
SEEDS = 2**62  # seeds lie below it: what is made of them still fits 63 bits


def choice(default: Any, about: str, low: float = 0, high: float = 1e6, above: bool = False) -> Any:
    """Declare a field of a recipe.

    Args:
        about: its help on the command line, in the API and in the form.
        low, high: bounds of a number; whole numbers have no upper one. above: `low` itself is out.
    """
    return field(default=default, metadata={"about": about, "low": low, "high": high, "above": above})


@dataclass(frozen=True, slots=True)
class Section:
    """Fields that are checked when they are made, by their types and by the bounds that they are declared with."""

    def __post_init__(self) -> None:
        kinds = types_of(type(self))
        for f in fields(self):
            if f.metadata:
                _check(f.name, kinds[f.name], getattr(self, f.name), f.metadata)

    def flat(self) -> dict[str, Any]:
        """Every field under its own name; no two sections share one."""
        found: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            found |= value.flat() if isinstance(value, Section) else {name: value}
        return found

    def with_(self, **changes: Any) -> Self:
        """The same with other values, given by the fields' own names."""
        if unknown := [name for name in changes if name not in field_types(type(self))]:
            raise ValueError(f"a recipe has no {', '.join(unknown)}")
        made = {}
        for f in fields(self):
            if isinstance(section := getattr(self, f.name), Section):
                made[f.name] = replace(section, **{n: changes.pop(n) for n in section.flat() if n in changes})
        return replace(self, **made, **changes)

    def json(self) -> dict[str, Any]:
        """What `config.json` keeps of it; `from_json` reads it back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.flat().items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """The recipe of a `config.json`; fields that it lacks have the defaults."""
        return cls().with_(**stored)

    def departures(self) -> dict[str, tuple[Any, Any]]:
        """Fields that differ from the paper's: name -> (the paper's value, this one)."""
        paper = type(self)().flat()
        return {name: (paper[name], value) for name, value in self.flat().items() if value != paper[name]}


types_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)  # name -> type of the fields of one class


def field_types(kind: type[Section] | None = None) -> dict[str, Any]:
    """Name -> type of every field of a recipe, by default of a training run's, in its order."""
    found: dict[str, Any] = {}
    for name, hint in types_of(kind or Recipe).items():
        found |= field_types(hint) if isinstance(hint, type) and issubclass(hint, Section) else {name: hint}
    return found


def help_of(kind: type[Section]) -> dict[str, str]:
    """Name -> help of the fields that are declared with one."""
    found: dict[str, str] = {}
    for f in fields(kind):
        if f.metadata:
            found[f.name] = f.metadata["about"]
        elif isinstance(hint := types_of(kind)[f.name], type) and issubclass(hint, Section):
            found |= help_of(hint)
    return found


def _check(name: str, kind: Any, value: Any, bounds: Mapping[str, Any]) -> None:
    """Refuse a value that is not of its field's type, or lies outside of its bounds."""
    if type(None) in get_args(kind):
        if value is None:
            return
        kind = next(k for k in get_args(kind) if k is not type(None))
    low, high, above = bounds["low"], bounds["high"], bounds["above"]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RmxError(f"{name} must be one of {', '.join(get_args(kind))}; got {shown(value)}.")
    elif kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise RmxError(f"{name} must be a whole number, {low} or more; got {shown(value)}.")
        if name == "seed" and value >= SEEDS:
            raise RmxError(f"seed must lie below 2^62; got {shown(value)}.")
    elif kind is float and (not is_number(value) or not low <= value <= high or (above and value == low)):
        edges = f"above {low:g} and at most at" if above else f"from {low:g} to"
        raise RmxError(f"{name} must lie {edges} {high:g}; got {shown(value)}.")


@dataclass(frozen=True, slots=True)
class RolloutConfig(Section):
    """What is sampled from the frozen base."""

    k: int = choice(20, "solutions sampled of each problem", 1)
    problems: int = choice(150, "problems of the set whose solutions are sampled", 1)
    temperature: float = choice(0.6, "sampling temperature of the rollouts", 0, 10, above=True)
    top_p: float = choice(0.95, "nucleus sampling of the rollouts: share of probability drawn from", 0, 1, above=True)
    max_new_tokens: int = choice(8192, "upper bound of a rollout, in tokens", 1)


@dataclass(frozen=True, slots=True)
class SelectionConfig(Section):
    """Which rollouts teach: problems at the edge of competence, without the longest rollouts."""

    select: int = choice(50, "problems to train on: those with a pass rate nearest to one half", 1)
    trim: float = choice(0.8, "share of the rollouts to train on, the shortest first", 0, 1, above=True)


@dataclass(frozen=True, slots=True)
class GateConfig(Section):
    """Which tokens are decisions. Neither tau nor tau_share: the model's own threshold."""

    gate: GateKind = choice("entropy", "which tokens are trained: those of high entropy, as many random ones, or all")
    tau: float | None = choice(
        None, "entropy in nats above which a token is trained (default: the model's own threshold)", 0, 100
    )
    tau_share: float | None = choice(None, "share of tokens that are trained, instead of tau", 0, 1, above=True)

    def __post_init__(self) -> None:
        if self.tau is not None and self.tau_share is not None:
            raise RmxError("Give tau or tau_share, not both.")
        Section.__post_init__(self)


@dataclass(frozen=True, slots=True)
class LossConfig(Section):
    """The two terms of the loss and how they are averaged."""

    objective: Objective = choice("adv_ce", "loss of the trained tokens")
    positive_only: bool = choice(False, "learn from right rollouts only")
    beta_neg: float = choice(1.0, "weight of wrong rollouts in the loss")
    pos_margin: float = choice(0.0, "delta_hinge: nats by which tokens of right rollouts shall rise")
    neg_margin: float = choice(0.0, "delta_hinge: nats by which tokens of wrong rollouts shall fall")
    adv_clip: float = choice(2.5, "advantages are clipped to plus and minus this; 0: no clip", -1e6)
    neg_floor_nats: float | None = choice(
        None, "not in the paper: wrong tokens are pushed no further than this below the base"
    )
    kl_weight: float = choice(0.2, "weight of the KL divergence to the base in the loss")
    kl_on: KlOn = choice("all", "positions at which the KL divergence to the base counts")
    normalisation: Normalisation = choice(
        "reference", "what the loss is a mean over: each micro-batch (reference) or the tokens of an update"
    )
    weigh_problems: bool = choice(False, "give each problem the same weight")


@dataclass(frozen=True, slots=True)
class AdapterConfig(Section):
    """The LoRA that is trained."""

    rank: int = choice(32, "rank of the LoRA adapter", 1)
    alpha: int = choice(64, "scale of the LoRA adapter, alpha / rank", 1)
    dropout: float = choice(0.0, "dropout of the LoRA adapter, 0 to 1", 0, 1)
    targets: tuple[str, ...] = choice(TARGETS, "layers that the adapter is on, separated by commas")

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets or not all(isinstance(t, str) and t.strip() for t in self.targets):
            raise RmxError("targets must name at least one kind of layer, such as q_proj.")


@dataclass(frozen=True, slots=True)
class OptimConfig(Section):
    """Optimizer, schedule and batches."""

    lr: float = choice(1e-4, "learning rate", 0, 1, above=True)
    warmup_steps: int = choice(50, "updates over which the learning rate rises")
    weight_decay: float = choice(0.0, "weight decay of AdamW", 0, 10)
    max_grad_norm: float = choice(1.0, "norm to which gradients are clipped", above=True)
    epochs: int = choice(1, "passes over the rollouts", 1)
    micro_batch: int = choice(1, "rollouts that go through the network together", 1)
    grad_accum: int = choice(8, "micro-batches per update, over all processes", 1)
    order: Order = choice("clarity", "order in which rollouts are trained on")
    max_steps: int | None = choice(None, "stop after so many updates", 1)  # the schedule stays that of all epochs
    max_seq_len: int = choice(8192, "longer rollouts are cut on the right", 2)
    recompute: bool = choice(False, "gradient checkpointing: less memory, more time")
    base_figures: BaseKept = choice(
        "fp32", "the base's figures for the anchor: kept in fp32 or bf16 (half the room), or read anew every time"
    )
    base_disk_gb: float = choice(
        50.0, "GB that they may take on disk; what finds no room is read anew, which takes longer"
    )
    tf32: bool = choice(
        False, "products of the head in TF32: faster on CUDA, slightly rounded; without effect on a CPU"
    )


@dataclass(frozen=True, slots=True)
class CheckConfig(Section):
    """What is looked at while it trains, on problems of the validation split."""

    checkpoint_every: float = choice(0.15, "epochs between two checkpoints, each with its check", above=True)
    validation: int = choice(60, "problems of the validation split; 0: no checks")
    validation_k: int = choice(4, "rollouts of each validation problem")
    test: int = choice(200, "problems of the test split, solved before and after; 0: none")
    patience: int = choice(0, "stop after so many checks without a better pass@1; 0: never")
    guards: bool = choice(True, "stop a run that goes wrong")
    kl_limit: float = choice(
        0.5, "KL divergence from the base, in nats, at which a run counts as running away", above=True
    )


@dataclass(frozen=True, slots=True)
class Recipe(Section):
    """Everything that a run's outcome depends on, beside the model and the problems."""

    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    seed: int = choice(42, "seed of all random draws")

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if self.rollouts.k < 2:  # a problem teaches by its right and its wrong rollouts
            raise RmxError(f"k must be a whole number, 2 or more; got {self.rollouts.k}.")


HELP = help_of(Recipe)
PAPER = Recipe()
SMALL = PAPER.with_(
    k=20, problems=80, temperature=1.0, top_p=1.0, max_new_tokens=256, lr=3e-4, warmup_steps=5, micro_batch=8,
    grad_accum=1, order="shuffle", checkpoint_every=0.2, validation=200,
)  # fmt: skip
# Half a minute of CPU time: what visitors of a public site may start. Its figures are too few to be trusted.
QUICK = SMALL.with_(
    k=10, problems=40, select=25, checkpoint_every=0.5, validation=40, validation_k=0, test=60, warmup_steps=3,
    max_steps=30, max_seq_len=512,
)  # fmt: skip
FLOOR = SMALL.with_(lr=1e-3, epochs=2, neg_floor_nats=0.5)
PRESETS = {"paper": PAPER, "small": SMALL, "floor": FLOOR, "quick": QUICK}


def command(recipe: Recipe, preset: str = "paper") -> list[str]:
    """The flags of `rmx train` that make `recipe` out of a preset."""
    words = [] if preset == "paper" else ["--preset", preset]
    return words + write_flags(recipe, PRESETS[preset])


def write_flags(recipe: Section, start: Section) -> list[str]:
    """Write the options that change one recipe into another: `--lr 0.001 --no-guards --tau none`."""
    return write_options(recipe.flat(), start.flat())


# -- distillation ------------------------------------------------------------------------------------------------------


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


# Chosen on validation problems of the bundled pair: at the paper's rate, 21 updates hardly move a model of this size.
SMALL_DISTILL = DistillRecipe().with_(
    problems=600, k=4, temperature=1.0, top_p=1.0, max_new_tokens=256, lr=3e-3, epochs=2, micro_batch=16,
    grad_accum=1, validation=200,
)  # fmt: skip
DISTILL_PRESETS = {"paper": DistillRecipe(), "small": SMALL_DISTILL}


def default_preset(model: str) -> str:
    """The preset of a run that names none: `small` for the bundled model, on which it was chosen, else the paper's."""
    return "small" if model == "mini" else "paper"


# -- the thresholds of a sweep -----------------------------------------------------------------------------------------


MOST = 16  # thresholds of one sweep
HIGHEST = 100.0  # nats, as a recipe takes them
EXAMPLE = "such as 1.2,1.4,1.6,1.8"
ONE_PROCESS = "A sweep runs in one process. Start it by rmx train, without accelerate launch."
NO_DRY = "A dry run has nothing to sweep: it shows what every threshold would gate. Leave out --sweep-tau or --dry-run."


def taus_of(text: str) -> tuple[float, ...]:
    """Thresholds in nats, ascending, from a comma-separated list; to six digits, as they name folders and flags."""
    words = [word.strip() for word in text.split(",")]
    if not any(words):
        raise RmxError(f"A sweep needs at least one threshold in nats, {EXAMPLE}.")
    taus = sorted(_tau(word) for word in words)
    if twice := next((a for a, b in zip(taus, taus[1:], strict=False) if a == b), None):
        raise RmxError(f"A sweep takes each threshold once; {twice:g} is named twice.")
    if len(taus) > MOST:
        raise RmxError(f"A sweep takes at most {MOST} thresholds; got {len(taus)}.")
    return tuple(taus)


def _tau(word: str) -> float:
    try:
        value = float(f"{float(word):g}")
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST:
        said = f"'{word[:40]}'" if word else "nothing between two commas"
        raise RmxError(f"A sweep's thresholds are numbers of nats from 0 to {HIGHEST:g}, {EXAMPLE}; got {said}.")
    return value


def check_sweep(taus: Sequence[float], recipe: Recipe) -> None:
    """Refuse thresholds that cannot be swept with this recipe."""
    if list(taus) != sorted(set(taus)) or not all(0 <= tau <= HIGHEST for tau in taus):
        raise RmxError(f"A sweep's thresholds are different numbers of nats from 0 to {HIGHEST:g}; got {list(taus)}.")
    if recipe.gate.tau is not None or recipe.gate.tau_share is not None:
        raise RmxError("A sweep names its thresholds itself. Leave out tau and tau_share.")
    if recipe.gate.gate == "full":
        raise RmxError("The full gate keeps every token, so there is no threshold to sweep. Take another gate.")
    if not recipe.check.validation:
        raise RmxError("A sweep chooses its threshold on validation problems. Set validation to 1 or more.")
