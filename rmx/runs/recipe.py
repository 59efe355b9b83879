"""The recipes of training runs and distillations: all that the outcome depends on, checked once, saved as JSON.

The defaults are the paper's (arXiv 2605.06241, sections 4 and 5 and the public 1.5B recipe); presets are the others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from rmx.arguments import Checked, Count, argument, arguments_of, checked, hints_of
from rmx.errors import RmxError
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


Amount = Annotated[int, Field(ge=0)]
Above = Annotated[float, Field(gt=0, le=1_000_000)]
Number = Annotated[float, Field(ge=0, le=1_000_000)]
Temperature = Annotated[float, Field(gt=0, le=10)]
Share = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, argument("seed of all random draws", ge=0, le=SEEDS - 1)]
# What a training run and a distillation both have.
Rank = Annotated[int, argument("rank of the LoRA adapter", ge=1)]
Dropout = Annotated[float, argument("dropout of the LoRA adapter, 0 to 1", ge=0, le=1)]
Targets = Annotated[tuple[str, ...], argument("layers that the adapter is on, separated by commas", strict=False)]
Rate = Annotated[float, argument("learning rate", gt=0, le=1)]
Decay = Annotated[float, argument("weight decay of AdamW", ge=0, le=10)]
Norm = Annotated[float, argument("norm to which gradients are clipped", gt=0, le=1_000_000)]
Recompute = Annotated[bool, argument("gradient checkpointing: less memory, more time")]
Tf32 = Annotated[
    bool, argument("products of the head in TF32: faster on CUDA, slightly rounded; without effect on a CPU")
]


@checked
class Section(Checked):
    """Settings that may hold others; no two of them share a field's name."""

    def flat(self) -> dict[str, Any]:
        """Every field under its own name."""
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


def each_field(kind: Any) -> Iterator[tuple[str, Any, str]]:
    """Name, type and help of every field of a recipe, in its order."""
    for name, info in arguments_of(kind).items():
        hint = hints_of(kind)[name]
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from each_field(hint)
        else:
            yield name, hint, info.description or ""


def field_types(kind: Any = None) -> dict[str, Any]:
    """Name -> type of every field of a recipe, by default of a training run's, in its order."""
    return {name: hint for name, hint, _ in each_field(kind or Recipe)}


def help_of(kind: Any) -> dict[str, str]:
    """Name -> help of every field of a recipe, on the command line, in the API and in the form."""
    return {name: about for name, _, about in each_field(kind)}


@checked
class RolloutConfig(Section):
    """What is sampled from the frozen base."""

    k: Count = argument("solutions sampled of each problem", default=20)
    problems: Count = argument("problems of the set whose solutions are sampled", default=150)
    temperature: Temperature = argument("sampling temperature of the rollouts", default=0.6)
    top_p: Share = argument("nucleus sampling of the rollouts: share of probability drawn from", default=0.95)
    max_new_tokens: Count = argument("upper bound of a rollout, in tokens", default=8192)


@checked
class SelectionConfig(Section):
    """Which rollouts teach: problems at the edge of competence, without the longest rollouts."""

    select: Count = argument("problems to train on: those with a pass rate nearest to one half", default=50)
    trim: Share = argument("share of the rollouts to train on, the shortest first", default=0.8)


@checked
class GateConfig(Section):
    """Which tokens are decisions. Neither tau nor tau_share: the model's own threshold."""

    gate: GateKind = argument(
        "which tokens are trained: those of high entropy, as many random ones, or all", default="entropy"
    )
    tau: float | None = argument(
        "entropy in nats above which a token is trained (default: the model's own threshold)", ge=0, le=100
    )
    tau_share: float | None = argument("share of tokens that are trained, instead of tau", gt=0, le=1)

    def __post_init__(self) -> None:
        if self.tau is not None and self.tau_share is not None:
            raise RmxError("Give tau or tau_share, not both.")


@checked
class LossConfig(Section):
    """The two terms of the loss and how they are averaged."""

    objective: Objective = argument("loss of the trained tokens", default="adv_ce")
    positive_only: bool = argument("learn from right rollouts only", default=False)
    beta_neg: Number = argument("weight of wrong rollouts in the loss", default=1.0)
    pos_margin: Number = argument("delta_hinge: nats by which tokens of right rollouts shall rise", default=0.0)
    neg_margin: Number = argument("delta_hinge: nats by which tokens of wrong rollouts shall fall", default=0.0)
    adv_clip: float = argument(
        "advantages are clipped to plus and minus this; 0: no clip", default=2.5, ge=-1_000_000, le=1_000_000
    )
    neg_floor_nats: float | None = argument(
        "not in the paper: wrong tokens are pushed no further than this below the base", ge=0, le=1_000_000
    )
    kl_weight: Number = argument("weight of the KL divergence to the base in the loss", default=0.2)
    kl_on: KlOn = argument("positions at which the KL divergence to the base counts", default="all")
    normalisation: Normalisation = argument(
        "what the loss is a mean over: each micro-batch (reference) or the tokens of an update", default="reference"
    )
    weigh_problems: bool = argument("give each problem the same weight", default=False)


@checked
class AdapterConfig(Section):
    """The LoRA that is trained."""

    rank: Rank = 32
    alpha: Count = argument("scale of the LoRA adapter, alpha / rank", default=64)
    dropout: Dropout = 0.0
    targets: Targets = TARGETS

    def __post_init__(self) -> None:
        if not self.targets or not all(t.strip() for t in self.targets):
            raise RmxError("targets must name at least one kind of layer, such as q_proj.")


@checked
class OptimConfig(Section):
    """Optimizer, schedule and batches."""

    lr: Rate = 1e-4
    warmup_steps: Amount = argument("updates over which the learning rate rises", default=50)
    weight_decay: Decay = 0.0
    max_grad_norm: Norm = 1.0
    epochs: Count = argument("passes over the rollouts", default=1)
    micro_batch: Count = argument("rollouts that go through the network together", default=1)
    grad_accum: Count = argument("micro-batches per update, over all processes", default=8)
    order: Order = argument("order in which rollouts are trained on", default="clarity")
    max_steps: int | None = argument("stop after so many updates", ge=1)  # the schedule stays that of all epochs
    max_seq_len: int = argument("longer rollouts are cut on the right", default=8192, ge=2)
    recompute: Recompute = False
    base_figures: BaseKept = argument(
        "the base's figures for the anchor: kept in fp32 or bf16 (half the room), or read anew every time",
        default="fp32",
    )
    base_disk_gb: Number = argument(
        "GB that they may take on disk; what finds no room is read anew, which takes longer", default=50.0
    )
    tf32: Tf32 = False


@checked
class CheckConfig(Section):
    """What is looked at while it trains, on problems of the validation split."""

    checkpoint_every: Above = argument("epochs between two checkpoints, each with its check", default=0.15)
    validation: Amount = argument("problems of the validation split; 0: no checks", default=60)
    validation_k: Amount = argument("rollouts of each validation problem", default=4)
    test: Amount = argument("problems of the test split, solved before and after; 0: none", default=200)
    patience: Amount = argument("stop after so many checks without a better pass@1; 0: never", default=0)
    guards: bool = argument("stop a run that goes wrong", default=True)
    kl_limit: Above = argument(
        "KL divergence from the base, in nats, at which a run counts as running away", default=0.5
    )


@checked
class Recipe(Section):
    """Everything that a run's outcome depends on, beside the model and the problems."""

    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    seed: Seed = 42

    def __post_init__(self) -> None:
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


@checked
class DistillRecipe(Section):
    """Every choice that the adapter depends on, beside the models and the problems.

    The defaults are the paper's (arXiv 2605.06241, section 4). It leaves open how many solutions a problem gets, what
    becomes of the teacher's tail, alpha, the clip, and when a solution is cut off; those are ours.
    """

    problems: Count = argument("problems of the train split that the teacher solves", default=100)
    k: Count = argument("solutions of the teacher for each problem", default=1)
    temperature: Temperature = argument("sampling temperature of the teacher's solutions", default=0.6)
    top_p: Share = argument(
        "nucleus sampling of the teacher's solutions: share of probability drawn from", default=0.95
    )
    max_new_tokens: Count = argument("upper bound of a solution, in tokens", default=8192)
    top_k: Count = argument("likeliest tokens of the teacher that are kept at each place", default=64)
    tail: Tail = argument(
        "what becomes of the others: the kept ones renormalised, or one bucket for the rest", default="renormalise"
    )
    rank: Rank = 32
    alpha: int | None = argument("scale of the LoRA adapter, alpha / rank (default: twice the rank)", ge=1)
    dropout: Dropout = 0.0
    targets: Targets = TARGETS
    lr: Rate = 1e-4
    warmup: float = argument("share of the updates over which the learning rate rises", default=0.1, ge=0, lt=1)
    weight_decay: Decay = 1e-2
    max_grad_norm: Norm = 1.0
    epochs: Count = argument("passes over the solutions", default=3)
    micro_batch: Count = argument("solutions that go through the network together", default=2)
    grad_accum: Count = argument("micro-batches per update", default=8)
    max_seq_len: int = argument("longer solutions are cut on the right", default=8192, ge=2)
    recompute: Recompute = False
    tf32: Tf32 = False
    heldout: Amount = argument(
        "problems of the validation split whose solutions by the teacher are only compared with; 0: none", default=20
    )
    validation: Amount = argument(
        "problems of the validation split solved by base, teacher and student; 0: none", default=100
    )
    seed: Seed = 42

    def __post_init__(self) -> None:
        _ = self.adapter  # its targets are checked there

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
