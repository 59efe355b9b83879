"""From rollouts to training items: which rollouts teach, their advantages, and the positions at which they decide."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmx.errors import TrainError
from rmx.grading.answers import CUT
from rmx.records import Rollout, as_json, is_fork
from rmx.runs.recipe import GateConfig, LossConfig, OptimConfig, Order, SelectionConfig

LEAST_STD = 1e-8  # so that a problem whose rollouts are all alike gives advantages of 0
LEAST_PROBLEMS = 2  # of mixed success; one alone would be learned by heart


@dataclass(frozen=True, slots=True)
class Selection:
    """What is trained on, and what became of the rest."""

    rollouts: tuple[Rollout, ...]  # each with its advantage; problem by problem, the nearest to one half first
    problems: int  # sampled
    sampled: int  # rollouts
    kept: int  # problems
    trimmed: int  # rollouts of the kept problems that were among the longest
    out: Mapping[str, int]  # problems that were left out, by reason
    alike: int  # kept problems whose remaining rollouts are all right or all wrong; they pull nowhere
    histogram: tuple[int, ...]  # sampled problems with 0, 1, ... right
    kept_histogram: tuple[int, ...] = ()  # the same of those that were kept

    @property
    def right(self) -> int:
        return sum(r.correct for r in self.rollouts)

    def json(self) -> dict[str, Any]:
        """The event `selection`."""
        return {
            **as_json(self, "problems", "sampled", "kept"), "rollouts": len(self.rollouts),
            **as_json(self, "trimmed", "right"), "wrong": len(self.rollouts) - self.right,
            **as_json(self, "out", "alike", "histogram", "kept_histogram"),
        }  # fmt: skip


def select(rollouts: Sequence[Rollout], config: SelectionConfig) -> Selection:
    """Keep problems of mixed success, trim the longest of their rollouts, and give the rest their advantages.

    The result does not depend on the order of `rollouts`.

    Source: arXiv 2605.06241, section 5. Trimming pools the rollouts of the kept problems and comes before the
    advantages, so that these have mean 0 over what is trained on.
    """
    groups = _by_problem(rollouts)
    histogram = pass_histogram(rollouts, max(map(len, groups.values()), default=0))
    rights = {name: sum(r.correct for r in group) for name, group in groups.items()}
    mixed = [name for name, group in groups.items() if 0 < rights[name] < len(group)]
    if len(mixed) < min(LEAST_PROBLEMS, config.select):
        raise TrainError(_too_few(len(mixed), histogram))
    kept = sorted(mixed, key=lambda name: _edge(name, groups[name]))[: config.select]
    pooled = [r for name in kept for r in groups[name]]
    short = shortest(pooled, config.trim)
    left = _by_problem(short)
    alike = sum(len({r.correct for r in left.get(name, ())}) < 2 for name in kept)
    if alike == len(kept):
        raise TrainError(
            f"The longest rollouts were trimmed, and no problem has both right and wrong ones left. "
            f"Raise trim above {config.trim:g} (1 keeps all), or sample more rollouts per problem (k)."
        )
    out = {
        "all_right": sum(rights[name] == len(group) for name, group in groups.items()),
        "all_wrong": sum(right == 0 for right in rights.values()),
        "further_from_half": len(mixed) - len(kept),
    }
    teach = with_advantages([r for name in kept for r in left.get(name, ())])
    counts = len(groups), len(rollouts), len(kept), len(pooled) - len(short)
    return Selection(tuple(teach), *counts, out, alike, histogram, pass_histogram(pooled, len(histogram) - 1))


def shortest(rollouts: Sequence[Rollout], share: float) -> list[Rollout]:
    """All but the longest in their order: 1 - share of them is dropped, rounded down; of equal ones the later."""
    ranked = sorted(range(len(rollouts)), key=lambda i: (rollouts[i].completion_length, *_name(rollouts[i])))
    dropped = int(len(rollouts) * (1 - share) + 1e-9)  # 5 x (1 - 0.8) is a hair below 1 in floating point
    keep = set(ranked[: len(rollouts) - dropped])
    return [r for i, r in enumerate(rollouts) if i in keep]


def with_advantages(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Each rollout with A = (r - mean) / max(std, 1e-8) over the given rollouts of its problem; r is 0 or 1, std that
    of the population. Nothing is clipped here: the loss does that.

    Source: arXiv 2605.06241, section 5.
    """
    rewards: dict[str, np.ndarray[Any, Any]] = {
        name: np.array([r.correct for r in group], dtype=float) for name, group in _by_problem(rollouts).items()
    }
    stats = {name: (float(r.mean()), max(float(r.std()), LEAST_STD)) for name, r in rewards.items()}
    return [replace(r, advantage=(r.correct - stats[r.problem_id][0]) / stats[r.problem_id][1]) for r in rollouts]


def pass_histogram(rollouts: Iterable[Rollout], k: int) -> tuple[int, ...]:
    """How many problems have 0, 1, ... k right rollouts."""
    groups = _by_problem(rollouts)
    right = Counter(sum(r.correct for r in group) for group in groups.values())
    if right and max(right) > k:
        raise ValueError(f"a problem has {max(right)} right rollouts of {k}")
    return tuple(right[n] for n in range(k + 1))


def tau_of_share(rollouts: Sequence[Rollout], share: float) -> float:
    """The threshold in nats above which a share (0 to 1) of all completion tokens of these rollouts lies.

    Exactly floor(share x tokens) lie above it where no two are equal, fewer where equal ones stand at the edge.
    """
    if any(r.entropies is None for r in rollouts):
        raise TrainError("A share of tokens needs every rollout's entropies. Score the rollouts first, or give --tau.")
    pooled = np.sort(np.concatenate([np.zeros(0), *(np.asarray(r.entropies, dtype=float) for r in rollouts)]))[::-1]
    if not len(pooled):
        raise TrainError("The rollouts have no completion tokens, so no threshold can be found. Sample them anew.")
    kept = int(len(pooled) * share + 1e-9)
    return float(pooled[kept]) if kept < len(pooled) else 0.0


def _by_problem(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in sorted(rollouts, key=_name):
        groups[rollout.problem_id].append(rollout)
    return dict(groups)


def _name(rollout: Rollout) -> tuple[str, int]:
    return rollout.problem_id, rollout.gen_index


def _edge(name: str, group: Sequence[Rollout]) -> tuple[float, int, float, str]:
    """Sorts problems: nearest to one half, then fewer truncated, then shorter, then by name."""
    right, n = sum(r.correct for r in group), len(group)
    truncated = sum(r.stop in CUT for r in group)
    return abs(2 * right - n) / n, truncated, sum(r.completion_length for r in group) / n, name


def _too_few(mixed: int, histogram: Sequence[int]) -> str:
    counts = ", ".join(f"{right} right: {n}" for right, n in enumerate(histogram) if n)
    found = "No problem has" if not mixed else "Only one problem has"
    never, always = histogram[0], histogram[-1]
    if never >= always:
        way = "take easier problems, a longer max_new_tokens"
    else:
        way = "take harder problems, a higher temperature"
    return (
        f"{found} both right and wrong rollouts, and only such problems teach (problems by right rollouts of "
        f"{len(histogram) - 1}: {counts or 'none'}). Sample more problems or more rollouts per problem (k), or {way}."
    )


# -- Rollouts to training items ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """One rollout as it is trained on. Positions are prediction positions: p is decided by logits at p."""

    rollout: Rollout  # cut to max_seq_len
    advantage: float  # before clipping
    decisions: tuple[int, ...]  # what the gate keeps, ascending
    index: int  # place in the file
    forks: int  # tokens that the entropy gate keeps, whatever gate is set; the clarity order goes by it
    pull: float  # clipped advantage; 0 where the objective takes none of its decisions, which then join the anchor
    weight: float = 1.0  # of each of its tokens, in numerators and denominators

    @property
    def trained(self) -> tuple[int, ...]:
        """The decisions that the loss takes."""
        return self.decisions if self.pull else ()

    @property
    def positions(self) -> int:
        """How many tokens are predicted at all, prompt included."""
        return len(self.rollout.input_ids) - 1

    @property
    def first(self) -> int:
        """The position that predicts the first completion token."""
        return self.rollout.prompt_length - 1


def make_items(
    rollouts: Sequence[Rollout], gate: GateConfig, tau: float | None, loss: LossConfig, max_seq_len: int, seed: int
) -> list[Item]:
    """Items in the order of the file, whose own decision positions win unless the recipe names a threshold or gate.

    Args:
        rollouts: selected ones: each has an advantage, and decision positions or entropies.
        tau: the threshold in nats that goes with `gate`; needed where the file's positions are not used.
        seed: of the random gate, whose draws depend only on it and on the rollout's name.
    """
    counts = Counter(r.problem_id for r in rollouts)
    mean = len(rollouts) / len(counts) if counts else 0.0
    items = []
    for index, rollout in enumerate(rollouts):
        if rollout.advantage is None:
            raise TrainError(f"{name_of(rollout)} has no advantage. Select rollouts first, or add it to the file.")
        short = cut(rollout, max_seq_len)
        forks = _forks(short, gate, tau)
        decisions, pull = _gated(short, gate, forks, seed), pull_of(rollout.advantage, loss)
        weight = mean / counts[rollout.problem_id] if loss.weigh_problems else 1.0
        items.append(Item(short, rollout.advantage, decisions, index, len(forks), pull, weight))
    return items


def cut(rollout: Rollout, max_seq_len: int) -> Rollout:
    """The first `max_seq_len` tokens of a rollout, with the figures that belong to them."""
    if len(rollout.input_ids) <= max_seq_len:
        return rollout
    ids = rollout.input_ids[:max_seq_len]
    prompt = min(rollout.prompt_length, max_seq_len)
    entropies, kept = rollout.entropies, rollout.decision_positions
    entropies = None if entropies is None else entropies[: len(ids) - prompt]
    kept = None if kept is None else tuple(p for p in kept if p < len(ids) - 1)
    return replace(rollout, input_ids=ids, prompt_length=prompt, entropies=entropies, decision_positions=kept)


def pull_of(advantage: float, loss: LossConfig) -> float:
    """The advantage after clipping; 0 where the objective leaves the rollout to the anchor."""
    if advantage < 0 and (loss.positive_only or loss.objective == "correct_sft"):
        return 0.0
    if loss.adv_clip > 0:
        return max(-loss.adv_clip, min(loss.adv_clip, advantage))
    return advantage


def name_of(rollout: Rollout) -> str:
    """How a message names a rollout."""
    return f"Rollout {rollout.gen_index} of problem {rollout.problem_id}"


def _forks(rollout: Rollout, gate: GateConfig, tau: float | None) -> tuple[int, ...]:
    """Positions that the entropy gate keeps: the file's, or those above tau."""
    named = gate.tau is not None or gate.tau_share is not None
    if rollout.decision_positions is not None and not named:
        return tuple(sorted(set(rollout.decision_positions)))
    if gate.gate == "full" and (tau is None or rollout.entropies is None):
        return tuple(_completion(rollout))  # nothing says more: the order then goes by |A|
    if tau is None:
        raise TrainError(f"{name_of(rollout)} has no decision positions. Give a threshold with --tau or --tau-share.")
    if rollout.entropies is None:
        raise TrainError(f"{name_of(rollout)} has no entropies, so there is nothing to gate. Score the rollouts first.")
    return tuple(rollout.prompt_length - 1 + i for i, h in enumerate(rollout.entropies) if is_fork(h, tau))


def _gated(rollout: Rollout, gate: GateConfig, forks: tuple[int, ...], seed: int) -> tuple[int, ...]:
    if gate.gate == "entropy":
        return forks
    places = _completion(rollout)
    if gate.gate == "full":
        return tuple(places)
    draws = random.Random(f"{seed}/{rollout.problem_id}/{rollout.gen_index}")
    return tuple(sorted(draws.sample(places, len(forks))))


def _completion(rollout: Rollout) -> range:
    return range(rollout.prompt_length - 1, len(rollout.input_ids) - 1)


@dataclass(frozen=True, slots=True)
class Window:
    """The micro-batches of one update."""

    update: int  # 0-based, over the whole run
    epoch: int  # 0-based
    first_step: int  # micro-batches before it, over the whole run
    batches: tuple[tuple[Item, ...], ...]


def in_order(items: Sequence[Item], order: Order, seed: int, epoch: int) -> list[Item]:
    """Items as one epoch goes through them.

    clarity: |A| times the share of decision tokens in the completion, highest first, the same in every epoch; ties by
    |A|, then by the number of decision tokens, both highest first, then by problem (as text) and sample. |A| is taken
    before clipping, decision tokens are the entropy gate's. shuffle: another permutation in each epoch. file: as given.

    Source: arXiv 2605.06241, section 5 ("signal clarity"); ties as the official trainer's order shows them.
    """
    if order == "file":
        return list(items)
    if order == "clarity":
        return sorted(items, key=_clarity)
    mixed = list(items)
    random.Random(f"{seed}/{epoch}").shuffle(mixed)
    return mixed


def _clarity(item: Item) -> tuple[float, float, int, str, int]:
    size = abs(item.advantage)
    clarity = size * item.forks / max(1, item.rollout.completion_length)
    return -clarity, -size, -item.forks, item.rollout.problem_id, item.rollout.gen_index


def updates_per_epoch(items: int, optim: OptimConfig) -> int:
    """Windows of an epoch; the last may be shorter, and none spans two epochs."""
    return math.ceil(math.ceil(items / optim.micro_batch) / optim.grad_accum)


def total_updates(items: int, optim: OptimConfig) -> int:
    """Updates that the schedule is made for, `max_steps` or not."""
    return updates_per_epoch(items, optim) * optim.epochs


def window(items: Sequence[Item], optim: OptimConfig, seed: int, update: int) -> Window:
    """The window of the given update (0-based)."""
    epoch, nth = divmod(update, updates_per_epoch(len(items), optim))
    ordered = in_order(items, optim.order, seed, epoch)
    size = optim.micro_batch
    batches = [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    first = nth * optim.grad_accum
    mine = tuple(batches[first : first + optim.grad_accum])
    return Window(update, epoch, epoch * len(batches) + first, mine)


def lr_at(update: int, steps: int, optim: OptimConfig) -> float:
    """Learning rate of the given update (0-based): linear from 0 over the warm-up, then linear to 0 at `steps`."""
    warm = min(optim.warmup_steps, steps - 1)
    if update < warm:
        return optim.lr * update / warm
    return optim.lr * max(0.0, (steps - update) / max(1, steps - warm))
