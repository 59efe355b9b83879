"""Keys and values of batches under way: how much a row takes, how many rows fit, and one budget for the process.

What is said where memory runs out all the same is said here as well, for whatever ran out of it.

A batch goes on for minutes and keeps its keys and values while others have the engine. How many rows it has is part of
its result, because another shape rounds otherwise, so it is never made smaller for the sake of others: it waits.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import psutil
import torch

from rmx.engine.arena import WIDTH
from rmx.engine.engine import Engine

ROWS = 64  # completions decoded together, at most
CPU_BYTES = 4 << 30  # that the rows of one batch may take; on a GPU half of what the weights leave
SHARED_CPU_BYTES = 512 << 20  # that all batches of the process take together, unless a single one needs more
LOOK = 0.25  # seconds between two questions whether one who waits still wants it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out; on a CPU PyTorch has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def out_of_memory(advice: str, device: torch.device | None = None, during: str = "") -> str:
    """What is said where memory has run out.

    Args:
        advice: a sentence that says what to do.
        device: whose memory it was; a GPU's by default.
        during: what was under way, such as "while loading mini".
    """
    where = "The GPU" if device is None or device.type == "cuda" else "This machine"
    return f"{where} ran out of memory{during and ' '}{during}. {advice}"


def token_bytes(engine: Engine) -> int:
    """Bytes of the keys and values of one token; 0 where recurrent state does not grow with the text."""
    config = engine.config
    queries = getattr(config, "num_attention_heads", None)
    if not queries:
        return 0
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // queries
    heads = getattr(config, "num_key_value_heads", None) or queries
    return int(2 * config.num_hidden_layers * heads * head_dim * engine.model.dtype.itemsize)


def row_bytes(engine: Engine, tokens: int) -> int:
    """Bytes of the buffers of one row of so many tokens."""
    room = -(-min(tokens, engine.context) // WIDTH) * WIDTH  # they grow by so many positions
    return token_bytes(engine) * room


def fitting_rows(engine: Engine, tokens: int) -> int:
    """How many rows of so many tokens may be decoded together; the same on every run on the same kind of machine.

    What counts is the memory that the machine has, not what is free at the moment: other rows would round otherwise.
    """
    each = token_bytes(engine) * min(tokens, engine.context)
    return max(1, min(ROWS, room_of_rows(engine) // each)) if each else ROWS


def room_of_rows(engine: Engine) -> int:
    """Bytes of keys and values that one batch may take: half of what the weights leave of the memory that there is.

    On a CPU `CPU_BYTES` at most. The weights are the base's; adapters come and go.
    """
    weights = sum(p.nbytes for name, p in engine.model.named_parameters() if ".lora_" not in name)
    left = max(0, _memory_of(engine.device) - weights) // 2
    return left if engine.device.type == "cuda" else min(CPU_BYTES, left)


@cache
def _memory_of(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


class MemoryBudget:
    """Bytes that are taken for a while; who wants more than is left waits, first come, first served.

    Args:
        most: bytes in all. Who needs more than that has it alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0  # bytes
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for memory."""
        with self._changed:
            return len(self._line)

    @contextmanager
    def held(self, nbytes: int, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Hold so many bytes for the length of a `with` block; yields whether they came before `cancelled`."""
        mine = self._take(nbytes, cancelled)
        try:
            yield mine
        finally:
            if mine:
                with self._changed:
                    self.taken -= nbytes
                    self._changed.notify_all()

    def _take(self, nbytes: int, cancelled: Callable[[], bool]) -> bool:
        place = object()

        def is_free() -> bool:
            return self._line[0] is place and (not self.taken or self.taken + nbytes <= self.most)

        with self._changed:
            self._line.append(place)
            try:
                while not self._changed.wait_for(is_free, LOOK):
                    if cancelled():
                        return False
                self.taken += nbytes
                return True
            finally:
                self._line.remove(place)
                self._changed.notify_all()


@cache
def budget_of(device: torch.device) -> MemoryBudget:
    """The budget that all batches on a device share: half of a GPU's memory, or `SHARED_CPU_BYTES`."""
    return MemoryBudget(_memory_of(device) // 2 if device.type == "cuda" else SHARED_CPU_BYTES)
