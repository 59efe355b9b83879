"""Rollouts to training items: cut to length, with the positions at which they decide and how hard they pull."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rmx.errors import TrainError
from rmx.recipes.recipe import GateConfig, LossConfig, OptimConfig, Order
from rmx.records import Rollout, is_fork


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
