"""The recipe of a training run: every choice that its outcome depends on, checked once, saved as JSON.

The defaults are the paper's (arXiv 2605.06241, section 5 and the public 1.5B recipe). `PRESETS` holds the others.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from rmx.config import is_number
from rmx.errors import RmxError, shown

Objective = Literal["adv_ce", "delta_hinge", "correct_sft"]
GateKind = Literal["entropy", "random", "full"]
KlOn = Literal["all", "completion"]
Normalisation = Literal["reference", "token"]
Order = Literal["clarity", "shuffle", "file"]
BaseKept = Literal["fp32", "bf16", "recompute"]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


SEEDS = 2**62  # seeds lie below it: what is made of them still fits 63 bits


def check_whole(name: str, value: Any, low: int) -> None:
    """Refuse what is no whole number of at least `low`.

    Raises:
        RmxError: in a sentence with the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RmxError(f"{name} must be a whole number, {low} or more; got {shown(value)}.")


def check_seed(seed: Any) -> None:
    """Say why a value cannot seed a run's draws.

    Raises:
        RmxError: no whole number, negative, or `SEEDS` and more.
    """
    check_whole("seed", seed, 0)
    if seed >= SEEDS:
        raise RmxError(f"seed must lie below 2^62; got {shown(seed)}.")


def _between(name: str, value: Any, low: float, high: float, open_low: bool = False) -> None:
    if not is_number(value) or not low <= value <= high or (open_low and value == low):
        raise RmxError(f"{name} must lie {'above' if open_low else 'from'} {low:g} {'and' if open_low else 'to'} "
                       f"{'at most at ' if open_low else ''}{high:g}; got {shown(value)}.")  # fmt: skip


def check_one_of(name: str, value: Any, kinds: Any) -> None:
    """Refuse what is none of a Literal's values.

    Raises:
        RmxError: in a sentence with the name, what is known and the value.
    """
    if value not in get_args(kinds):
        raise RmxError(f"{name} must be one of {', '.join(get_args(kinds))}; got {shown(value)}.")


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """What is sampled from the frozen base."""

    k: int = 20  # completions per problem
    problems: int = 150  # problems of the set that are sampled
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 8192

    def __post_init__(self) -> None:
        check_whole("k", self.k, 1)
        check_whole("problems", self.problems, 1)
        check_whole("max_new_tokens", self.max_new_tokens, 1)
        _between("temperature", self.temperature, 0, 10, open_low=True)
        _between("top_p", self.top_p, 0, 1, open_low=True)


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """Which rollouts teach: problems at the edge of competence, without the longest rollouts."""

    select: int = 50  # problems kept, nearest to a pass rate of one half
    trim: float = 0.8  # share of the kept rollouts that stays, shortest first

    def __post_init__(self) -> None:
        check_whole("select", self.select, 1)
        _between("trim", self.trim, 0, 1, open_low=True)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Which tokens are decisions. Neither tau nor tau_share: the model's own threshold."""

    gate: GateKind = "entropy"  # random: as many tokens as the entropy gate, drawn evenly; full: every token
    tau: float | None = None  # nats
    tau_share: float | None = None  # share of completion tokens instead; one tau from the pooled rollouts

    def __post_init__(self) -> None:
        check_one_of("gate", self.gate, GateKind)
        if self.tau is not None and self.tau_share is not None:
            raise RmxError("Give tau or tau_share, not both.")
        if self.tau is not None:
            _between("tau", self.tau, 0, 100)
        if self.tau_share is not None:
            _between("tau_share", self.tau_share, 0, 1, open_low=True)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """The two terms of the loss and how they are averaged."""

    objective: Objective = "adv_ce"
    positive_only: bool = False
    beta_neg: float = 1.0  # weight of wrong rollouts
    pos_margin: float = 0.0  # nats, delta_hinge only
    neg_margin: float = 0.0
    adv_clip: float = 2.5  # 0 or less: no clip
    neg_floor_nats: float | None = None  # our extension: wrong tokens are pushed no further below the base than this
    kl_weight: float = 0.2
    kl_on: KlOn = "all"
    normalisation: Normalisation = "reference"  # means per micro-batch; token: per optimizer step
    weigh_problems: bool = False

    def __post_init__(self) -> None:
        check_one_of("objective", self.objective, Objective)
        check_one_of("kl_on", self.kl_on, KlOn)
        check_one_of("normalisation", self.normalisation, Normalisation)
        for name in ("beta_neg", "pos_margin", "neg_margin", "kl_weight"):
            _between(name, getattr(self, name), 0, 1e6)
        _between("adv_clip", self.adv_clip, -1e6, 1e6)
        if self.neg_floor_nats is not None:
            _between("neg_floor_nats", self.neg_floor_nats, 0, 1e6)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The LoRA that is trained."""

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        check_whole("rank", self.rank, 1)
        check_whole("alpha", self.alpha, 1)
        _between("dropout", self.dropout, 0, 1)
        object.__setattr__(self, "targets", tuple(self.targets))
        if not self.targets or not all(isinstance(t, str) and t.strip() for t in self.targets):
            raise RmxError("targets must name at least one kind of layer, such as q_proj.")


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """Optimizer, schedule and batches."""

    lr: float = 1e-4
    warmup_steps: int = 50
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: int = 1
    micro_batch: int = 1  # rollouts that go through the network together
    grad_accum: int = 8  # micro-batches per update, over all processes
    order: Order = "clarity"
    max_steps: int | None = None  # updates after which to stop; the schedule stays that of all epochs
    max_seq_len: int = 8192
    recompute: bool = False  # gradient checkpointing
    base_figures: BaseKept = "fp32"  # how the anchor's figures of the base are kept; recompute: read anew every time
    base_disk_gb: float = 50.0  # of them at most on disk; what finds no room is read anew, to the same figures
    tf32: bool = False  # products of the head in TF32, on CUDA

    def __post_init__(self) -> None:
        _between("lr", self.lr, 0, 1, open_low=True)
        check_whole("warmup_steps", self.warmup_steps, 0)
        _between("weight_decay", self.weight_decay, 0, 10)
        _between("max_grad_norm", self.max_grad_norm, 0, 1e6, open_low=True)
        for name in ("epochs", "micro_batch", "grad_accum"):
            check_whole(name, getattr(self, name), 1)
        check_one_of("order", self.order, Order)
        check_one_of("base_figures", self.base_figures, BaseKept)
        _between("base_disk_gb", self.base_disk_gb, 0, 1e6)
        if self.max_steps is not None:
            check_whole("max_steps", self.max_steps, 1)
        check_whole("max_seq_len", self.max_seq_len, 2)


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """What is looked at while it trains, on problems of the validation split."""

    checkpoint_every: float = 0.15  # epochs
    validation: int = 60  # problems; 0: no checks, no guards, the last checkpoint is kept
    validation_k: int = 4  # rollouts of the base per validation problem, for the contrastive gap
    test: int = 200  # problems of the test split, solved once before and once after; 0: none
    patience: int = 0  # checks without a better pass@1 after which to stop; 0: never
    guards: bool = True
    kl_limit: float = 0.5  # nats, mean of the anchor over the last updates at which a run counts as running away

    def __post_init__(self) -> None:
        _between("checkpoint_every", self.checkpoint_every, 0, 1e6, open_low=True)
        check_whole("validation", self.validation, 0)
        check_whole("validation_k", self.validation_k, 0)
        check_whole("test", self.test, 0)
        check_whole("patience", self.patience, 0)
        _between("kl_limit", self.kl_limit, 0, 1e6, open_low=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run's outcome depends on, beside the model and the problems."""

    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    seed: int = 42

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_whole("k", self.rollouts.k, 2)  # a problem teaches by its right and its wrong rollouts

    def flat(self) -> dict[str, Any]:
        """Every field under its own name; no two sections share one."""
        sections = (getattr(self, f.name) for f in fields(self) if f.name != "seed")
        flat = {f.name: getattr(section, f.name) for section in sections for f in fields(section)}
        return flat | {"seed": self.seed}

    def with_(self, **changes: Any) -> "Recipe":
        """The same recipe with other values, given by the fields' own names.

        Raises:
            RmxError: a value that cannot be used. ValueError: no field has this name.
        """
        left, made = dict(changes), {}
        for f in fields(self):
            if f.name == "seed":
                made["seed"] = left.pop("seed", self.seed)
                continue
            section = getattr(self, f.name)
            mine = {g.name: left.pop(g.name) for g in fields(section) if g.name in left}
            made[f.name] = dataclasses.replace(section, **mine)
        if left:
            raise ValueError(f"a recipe has no {', '.join(left)}")
        return Recipe(**made)

    def json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.flat().items()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Recipe":
        """The recipe of a `config.json`; fields that it lacks have the defaults."""
        return cls().with_(**stored)

    def departures(self) -> dict[str, tuple[Any, Any]]:
        """Fields that differ from the paper's: name -> (the paper's value, this one)."""
        paper = Recipe().flat()
        return {name: (paper[name], value) for name, value in self.flat().items() if value != paper[name]}


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
    return words + write_flags(recipe.flat(), PRESETS[preset].flat())


def write_flags(values: Mapping[str, Any], start: Mapping[str, Any]) -> list[str]:
    """The options that change the fields of one recipe into those of another: `--lr 0.001 --no-guards --tau none`."""
    words = list[str]()
    for name, value in values.items():
        if value == start[name]:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif value is None:
            words += [flag, "none"]
        else:
            words += [flag, ",".join(value) if isinstance(value, tuple) else f"{value}"]
    return words
