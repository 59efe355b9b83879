"""What a run will take, before it starts or before it trains, in time, memory, disk and money; and that in words.

Before a run how long completions get and how many problems are mixed are guesses with wide bounds.
"""

import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmx.errors import RmxError
from rmx.records import Rollout
from rmx.runs.folder import CONFIG, RunFolder
from rmx.runs.job import Problems, TrainJob
from rmx.runs.rates import cost
from rmx.runs.recipe import OptimConfig, Recipe
from rmx.train.probe import Lengths, Speeds
from rmx.train.step.items import total_updates
from rmx.train.step.scoring import MEMORY, token_bytes
from rmx.train.training_stage import checkpoint_steps

PROCESS_BYTES = 450_000_000  # Python with everything imported and what a run leaves about; imports alone 355 MB
LINE_BYTES = 30  # of one token in a file of rollouts: its id and its entropy as text
CHUNKS_BYTES = 3 * (32 << 20)  # logits, their exponentials and gradients
LORA_TIME = 1.3  # a step through a network with a LoRA, over one without: 1.1 with 135 M weights, 1.3 to 1.6 with 1 M
LORA_MEMORY = 1.2
FIGURES_TIME = 1.4  # reading with the base's figures for training, over reading with entropies alone
FASTER, SLOWER = 0.7, 1.6  # of the probe's speed: other programs, longer contexts
MIXED = 0.35  # at least this share of the problems asked for turns out to be mixed


@dataclass(frozen=True, slots=True)
class Span:
    """A guess and its bounds."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def __mul__(self, other: "Span | float") -> "Span":
        """Independent factors: their deviations combine as the root of the sum of squared logarithms."""
        if not isinstance(other, Span):
            return Span(self.value * other, self.low * other, self.high * other)
        value = self.value * other.value
        if not value:
            return Span(0.0, 0.0, self.high * other.high)
        down = math.hypot(_log(self.low, self.value), _log(other.low, other.value))
        up = math.hypot(_log(self.high, self.value), _log(other.high, other.value))
        return Span(value, value * math.exp(-down), value * math.exp(up))

    def json(self, digits: int = 1) -> dict[str, float]:
        return {"value": round(self.value, digits), "low": round(self.low, digits), "high": round(self.high, digits)}


def _log(a: float, b: float) -> float:
    return abs(math.log(a / b)) if a > 0 and b > 0 else 50.0


def exactly(value: float) -> Span:
    return Span(value, value, value)


SPEED = Span(1.0, FASTER, SLOWER)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run still has to do, in tokens and calls."""

    completions: int  # still to be sampled, for training and for validation
    length: Span  # tokens of a completion
    read: Span  # tokens that the base reads before training
    trained: Span  # tokens that go forward and backward, padding included, over all epochs
    longest: float  # tokens of a sequence, for the memory
    checks: int  # held-out checks, the one of the base included
    validation: int  # problems solved at each
    validation_rollouts: int  # read at each
    test: int  # problems solved before and after


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of each stage, peak memory, disk, dollars."""

    stages: dict[str, Span]
    memory: float  # bytes; on a GPU those of the GPU
    usd: float | None
    rate: str  # a sentence
    recomputed: float = 0.0  # bytes of memory with --recompute
    disk: float = 0.0  # bytes, the base's figures included
    figures: float = 0.0  # bytes of the base's figures on disk while it trains
    figures_token: int = 0  # bytes of them for one token
    left_out: float = 0.0  # share of the base's figures that finds no room

    @property
    def seconds(self) -> Span:
        return sum(self.stages.values(), exactly(0.0))

    def swept(self, thresholds: int) -> "Estimate":
        """The same for a sweep: rollouts and scoring once, a training for each threshold, the base tested once."""
        times = {"training": float(thresholds), "final": (1 + thresholds) / 2}
        stages = {name: span * times.get(name, 1.0) for name, span in self.stages.items()}
        before, after = self.seconds.value, sum(span.value for span in stages.values())
        usd = None if self.usd is None else self.usd * (after / before if before else 1.0)
        return replace(self, stages=stages, usd=usd)

    def json(self) -> dict[str, Any]:
        """As the events `gate` and `dry` carry it."""
        whole = self.seconds
        return {
            "seconds": round(whole.value, 1), "low": round(whole.low, 1), "high": round(whole.high, 1),
            "stages": {name: span.json() for name, span in self.stages.items()},
            "memory_mb": round(self.memory / 1e6), "disk_mb": round(self.disk / 1e6, 1),
            "figures_mb": round(self.figures / 1e6, 1), "figures_token": self.figures_token,
            "left_out": round(self.left_out, 3), "usd": None if self.usd is None else round(self.usd, 4),
            "rate": self.rate,
        }  # fmt: skip

    def plan(self) -> dict[str, Any]:
        """As the message `plan` carries it."""
        minutes = self.seconds * (1 / 60)
        return {"minutes": minutes.json(2), **{key: self.json()[key] for key in ("memory_mb", "usd", "rate")}}


def estimate(work: Work, speeds: Speeds, recipe: Recipe) -> Estimate:
    """What the work takes at the speeds that were measured."""
    figures_token, filed, left_out = figures_of(work, speeds, recipe)
    training = work.trained * (speeds.train_token * LORA_TIME + left_out * speeds.read_token * FIGURES_TIME)
    solved = _decoding(work.validation, work.length, speeds)
    read = (work.length + exactly(speeds.prompt)) * (work.validation_rollouts * speeds.read_token)
    stages = {
        "rollouts": _decoding(work.completions, work.length, speeds) * SPEED,
        "gate": work.read * (speeds.read_token * FIGURES_TIME) * SPEED,
        "training": (training + (solved + read) * float(work.checks)) * SPEED,
        "final": _decoding(2 * work.test, work.length, speeds) * SPEED,
    }
    usd, sentence = cost(sum(span.value for span in stages.values()), speeds.device)
    memory, recomputed = (memory_of(work, speeds, r) for r in (recipe, recipe.with_(recompute=True)))
    # Beside the base's figures: each checkpoint's adapter, the last one's moments, the adapter at the end, rollouts.
    adapters = _adapter_bytes(speeds, recipe) / 4 * (max(1, work.checks - 1) + 3)
    rollouts = LINE_BYTES * (work.completions * (work.length.value + speeds.prompt / 2) if work.completions else 0.0)
    return Estimate(
        stages, memory, usd, sentence, recomputed, filed + (rollouts + adapters), filed, figures_token, left_out
    )


def figures_of(work: Work, speeds: Speeds, recipe: Recipe) -> tuple[int, float, float]:
    """What the base's figures take: bytes of one token, bytes on disk, and the share that finds no room."""
    each = token_bytes(speeds.hidden, recipe.optim.base_figures)
    if not each:
        return 0, 0.0, 1.0
    beyond = max(0.0, each * work.read.value - MEMORY)
    filed = min(beyond, recipe.optim.base_disk_gb * 1e9)
    return each, filed, (beyond - filed) / (each * work.read.value) if beyond > filed else 0.0


def _decoding(completions: int, length: Span, speeds: Speeds) -> Span:
    """Seconds: the batch is full but for its end, where the last rows finish alone."""
    if not completions:
        return exactly(0.0)
    steps = max(1.0, completions / speeds.rows) + min(1.0, completions / speeds.rows) * 0.5
    prompts = speeds.prompt * speeds.read_token  # of each problem once; a completion's share is at most this
    return length * (steps * speeds.decode_step) + exactly(completions / 4 * prompts)


def memory_of(work: Work, speeds: Speeds, recipe: Recipe) -> float:
    """Bytes at the peak: weights with packed ones (on a CPU the process too), and what decoding or training keeps."""
    optim, tokens = recipe.optim, min(work.longest, recipe.optim.max_seq_len)
    saved = speeds.saved_token * (LORA_MEMORY if not optim.recompute else 0.25)
    training = saved * tokens * optim.micro_batch + CHUNKS_BYTES + _adapter_bytes(speeds, recipe)
    on_cpu = speeds.device == "cpu"
    decoding = speeds.rows * speeds.kv_token * work.longest
    decoding = min(decoding, speeds.kv_most)  # fewer rows where they would need more
    figures = min(MEMORY, token_bytes(speeds.hidden, optim.base_figures) * work.read.value) if on_cpu else 0.0
    weights = speeds.weights + speeds.packed
    return weights + (PROCESS_BYTES if on_cpu else 0) + max(decoding, training + figures)


def _adapter_bytes(speeds: Speeds, recipe: Recipe) -> float:
    """Weights, gradients and two moments of the LoRA, fp32; about two matrices for each square layer that it is on."""
    layers = speeds.weights / (4 * 12 * speeds.hidden**2)  # a block has some 12 hidden^2 weights
    return 16 * layers * len(recipe.adapter.targets) * 2 * speeds.hidden * recipe.adapter.rank


def length_of(seen: Lengths, limit: int) -> Span:
    """Tokens of a completion, from those that a probe saw; bounds are two standard errors, wider by the unfinished.

    Finished ones alone would be too short, so unfinished ones count: tokens per end, as where ends come steadily.
    """
    ended = [min(x, limit) for x in seen.ended]
    n, cut = len(ended), len(seen.cut)
    tokens = sum(ended) + sum(seen.cut)
    if n == 0:
        so_far = min(float(limit), tokens / cut if cut else 1.0)
        return Span(min(float(limit), 4 * so_far), so_far, float(limit))
    mean = min(float(limit), tokens / n)
    spread = math.sqrt(sum((x - mean) ** 2 for x in ended) / n) if n > 1 and not cut else mean
    error, open_share = 2 * spread / math.sqrt(n), cut / (n + cut)
    so_far = tokens / (n + cut) if cut else 0.0
    low = max(so_far, (mean - error) * (1 - open_share / 2))
    return Span(mean, min(low, mean), min(float(limit), (mean + error) * (1 + open_share)))


def work_ahead(
    recipe: Recipe, speeds: Speeds, problems: int, validation: int, test: int, length: Span | None = None
) -> Work:
    """The whole of a run of which nothing is there yet."""
    config, check = recipe.rollouts, recipe.check
    length = length or length_of(speeds.lengths, config.max_new_tokens)
    wanted = min(recipe.selection.select, problems)
    each = config.k * recipe.selection.trim  # rollouts
    kept = Span(float(wanted), max(1.0, min(wanted, MIXED * problems)), float(wanted)) * each
    sequence = length + exactly(speeds.prompt)
    read = kept * (sequence + exactly(speeds.prompt / config.k))  # each sequence, and each problem's prompt by itself
    held = validation * max(2, check.validation_k) if check.validation_k else 0
    padding = 1.0 if recipe.optim.micro_batch == 1 else 1.15
    return Work(
        completions=problems * config.k + held, length=length, read=read,
        trained=kept * sequence * (padding * _epochs(kept.value, recipe.optim)),
        longest=speeds.prompt + min(length.high, config.max_new_tokens),
        checks=1 + len(checkpoint_steps(max(1, round(kept.value)), recipe)) if validation else 0,
        validation=validation, validation_rollouts=held, test=test,
    )  # fmt: skip


def _epochs(items: float, optim: OptimConfig) -> float:
    whole = total_updates(max(1, round(items)), optim)
    return optim.epochs * min(1.0, (optim.max_steps or whole) / whole)


def work_left(
    recipe: Recipe, rollouts: Sequence[Rollout], validation: int, validation_rollouts: int, test: int
) -> Work:
    """What remains once the rollouts are selected: their lengths are known."""
    lengths = [min(len(r.input_ids), recipe.optim.max_seq_len) for r in rollouts]
    prompts, optim = {r.problem_id: r.prompt_length for r in rollouts}, recipe.optim
    mean = sum(r.completion_length for r in rollouts) / max(1, len(rollouts))
    # The length of greedy solutions of other problems, with no tail cut off, lies near the mean.
    return Work(
        completions=0, length=Span(mean, 0.9 * mean, 1.2 * mean),
        read=exactly(float(sum(lengths) + sum(prompts.values()))),
        trained=exactly(padded_tokens(lengths, optim, recipe.seed) * _epochs(len(rollouts), optim)),
        longest=float(max(lengths, default=0)),
        checks=1 + len(checkpoint_steps(max(1, len(rollouts)), recipe)) if validation else 0, validation=validation,
        validation_rollouts=validation_rollouts, test=test,
    )  # fmt: skip


def padded_tokens(lengths: Sequence[int], optim: OptimConfig, seed: int) -> int:
    """Tokens of one epoch, padding included: every sequence of a micro-batch is as long as its longest."""
    mixed, size = list(lengths), optim.micro_batch
    if optim.order != "file":
        random.Random(seed).shuffle(mixed)
    groups = [mixed[i : i + size] for i in range(0, len(mixed), size)]
    return sum(max(group) * len(group) for group in groups)


# -- A run that has no rollouts yet, and every estimate in words -------------------------------------------------------


SAME = ("model", "set", "dtype", "style")  # of a config: what the length of a completion depends on
SAME_RECIPE = ("temperature", "top_p", "max_new_tokens")
USUAL_LOW, USUAL_HIGH = 0.85, 1.2  # of a length that another run has measured: other problems, other draws
ENOUGH = 40  # rollouts from which a mean is taken over


def usual_length(folder: Path, config: Mapping[str, Any]) -> Span | None:
    """Tokens of a completion of this model on this set, as the newest other run beside this one has measured them."""
    found = []
    with os.scandir(folder.parent) as there:
        beside = [folder.parent / one.name for one in there if one.name != folder.name]
    for path in beside:
        if not os.access(path / CONFIG, os.R_OK):  # what may not be looked at is none
            continue
        try:
            other = RunFolder(path)
            theirs, seen = other.config, other.summary.get("rollouts", {})
        except RmxError:
            continue  # one that cannot be read tells nothing
        tokens, count = seen.get("tokens"), seen.get("rollouts")
        alike = same_of(theirs) == same_of(config)
        if alike and isinstance(tokens, int) and isinstance(count, int) and count >= ENOUGH:
            found.append((float(theirs.get("created") or 0.0), tokens / count))
    if not found:
        return None
    _, mean = max(found)
    return Span(mean, USUAL_LOW * mean, USUAL_HIGH * mean)


def same_of(config: Mapping[str, Any]) -> list[Any]:
    """What the length of a completion depends on."""
    recipe = config.get("recipe") or {}
    return [*(config.get(name) for name in SAME), *(recipe.get(name) for name in SAME_RECIPE)]


def estimate_ahead(job: TrainJob, problems: Problems, speeds: Speeds, usual: Span | None) -> Estimate:
    """What a run will take of which nothing is there yet."""
    counts = len(problems.train), len(problems.validation), len(problems.test)
    made = estimate(work_ahead(job.recipe, speeds, *counts, length=usual), speeds, job.recipe)
    return made.swept(len(job.taus)) if job.taus else made


def ahead_figures(made: Estimate, speeds: Speeds, usual: Span | None) -> dict[str, Any]:
    """The event `estimate`: figures, and where the length of a completion comes from."""
    seen = len(speeds.lengths.ended) + len(speeds.lengths.cut)
    basis = "another run on this set" if usual else f"{seen} completions of a second's probe"
    return made.json() | {"basis": basis}


def lines(told: Mapping[str, Any]) -> list[str]:
    """An estimate as lines of text: time with its bounds, each stage, memory, disk, cost."""
    stages = {"rollouts": "rollouts", "gate": "scoring", "training": "training and checks", "final": "test"}
    each = [f"{name} {_time(told['stages'][key]['value'])}" for key, name in stages.items()]
    by = f", judged by {told['basis']}" if told.get("basis") else ""
    return [
        f"time       about {_time(told['seconds'])}, {_time(told['low'])} to {_time(told['high'])}{by}",
        f"           {', '.join(part for part, key in zip(each, stages, strict=True) if told['stages'][key]['value'])}",
        f"memory     about {_size(told['memory_mb'])}",
        f"disk       about {_size(told['disk_mb'])}{_figures(told)}",
        f"cost       {_cost(told)}",
    ]


def _figures(told: Mapping[str, Any]) -> str:
    if not told["figures_token"]:
        return "; the base's figures are not kept but read anew (--base-figures recompute)"
    kept = f"; {_size(told['figures_mb'])} of it for the base's figures, {told['figures_token']:,} bytes a token"
    if not told["left_out"]:
        return kept
    return (
        f"{kept}, where {100 * told['left_out']:.0f} % find no room within --base-disk-gb and are read anew, which "
        "takes longer (--base-figures bf16 halves them)"
    )


def _cost(told: Mapping[str, Any]) -> str:
    if told["usd"] is None:
        return f"unknown. {told['rate']}"
    bounds = [told["usd"] * told[side] / told["seconds"] if told["seconds"] else 0.0 for side in ("low", "high")]
    return f"about {_usd(told['usd'])}, {_usd(bounds[0])} to {_usd(bounds[1])}. {told['rate']}"


def _usd(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 0.1 else f"${usd:.4f}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(mb: float) -> str:
    return f"{mb / 1000:.1f} GB" if mb >= 1000 else f"{mb:.0f} MB" if mb >= 1 or not mb else f"{mb:.1f} MB"
