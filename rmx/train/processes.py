"""Several processes on one run, under `accelerate launch`: who takes which micro-batch, and how gradients add up."""

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

T = TypeVar("T")


def launched() -> Accelerator | None:
    """The accelerator of `accelerate launch`; None where this process is the only one.

    Load the model onto its `device`. Nothing is given to `prepare`: the trainer deals micro-batches itself, so that
    no tail is computed twice and the last, shorter window of an epoch stays exact.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return Accelerator(cpu=not torch.cuda.is_available())


def dealt(count: int, accelerator: Accelerator | None) -> range:
    """Which of `count` micro-batches are this process's: every n-th one."""
    if accelerator is None:
        return range(count)
    return range(accelerator.process_index, count, accelerator.num_processes)


def collected(mine: list[T], key: Callable[[T], Any]) -> list[T]:
    """What all processes have, in the order of one process."""
    everything: list[T] = gather_object(mine)
    return sorted(everything, key=key)


@torch.no_grad()
def add_up(params: Iterable[nn.Parameter], accelerator: Accelerator | None) -> None:
    """Replace each gradient by its sum over all processes; one exchange for all of them."""
    if accelerator is None:
        return
    grads = [p.grad for p in params if p.grad is not None]
    whole = torch.cat([grad.flatten() for grad in grads])
    summed: Any = accelerator.reduce(whole, reduction="sum")
    for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
