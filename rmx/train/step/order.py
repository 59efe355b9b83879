"""In which order items are trained on, and how they fall into micro-batches and accumulation windows."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rmx.recipes.recipe import OptimConfig, Order
from rmx.train.step.items import Item


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
    """Learning rate of the given update (0-based): linear from 0 over the warm-up, then linear to 0 at `steps`.

    The warm-up is min(warmup_steps, steps - 1), so the first update has rate 0 wherever there is a warm-up.
    """
    warm = min(optim.warmup_steps, steps - 1)
    if update < warm:
        return optim.lr * update / warm
    return optim.lr * max(0.0, (steps - update) / max(1, steps - warm))
