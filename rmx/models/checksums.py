"""Checksums of tensors by their bits, made where the tensors are: the same on every device, in one pass over memory."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

STEP, ODD = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9  # multipliers without a pattern in their bits


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """A 64-bit sum over a tensor's words, each mixed with its place, so that order counts as values do.

    Integer sums come out alike in any order, so that a GPU gives what a CPU gives. It finds accidents, not forgeries.
    A tensor without values (on the device "meta") has 0.
    """
    if tensor.is_meta or not tensor.numel():
        return 0
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    if rest := -data.numel() % 8:
        data = torch.cat([data, data.new_zeros(rest)])
    elif data.storage_offset() % 8:
        data = data.clone()
    words = data.view(torch.int64)
    chunk = 1 << (15 if words.device.type == "cpu" else 24)  # a CPU's cache holds what is made of the smaller one
    places = torch.arange(min(chunk, len(words)), device=words.device) * STEP
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, len(words), chunk):
        mixed = words[start : start + chunk] + places[: len(words) - start]
        mixed.add_(_signed(start * STEP))  # wraps around, as all integers here do
        mixed.bitwise_xor_(mixed >> 31).mul_(ODD).bitwise_xor_(mixed >> 29)
        total += mixed.sum()
    return int(total)


def _signed(number: int) -> int:
    """The number modulo 2^64, as a signed word holds it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """The checksum of each tensor, by its name."""
    return {name: checksum(tensor) for name, tensor in tensors}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One hash of all tensors, with their names, dtypes and shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:{checksum(tensor)};".encode())
    return found.hexdigest()
