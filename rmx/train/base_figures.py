"""What training needs to know of the base, computed once and kept: a hidden-sized vector and two numbers a token.

Every block comes from a pass over one sequence alone, however it is asked for, so a run that goes on after an
interruption finds the very same figures. The prompt of a problem's rollouts is one block.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

MEMORY = 512 << 20  # bytes of figures kept in memory unless told otherwise
SPARE_DISK = 1 << 30  # bytes that a file of figures leaves free

Key = tuple[int, tuple[int, ...]]  # first position, ids


@dataclass(frozen=True, slots=True)
class Base:
    """Figures of the base at N positions."""

    mean: Tensor  # (N, D) fp32: E_base[W]
    offset: Tensor  # (N,) nats: H_base, plus the share of the head's bias
    logp: Tensor  # (N,) nats, of the token that is there


class BaseFigures:
    """Blocks of figures, in memory as long as the budget lasts, then in a file, then not at all.

    The file has no name, so nothing is left of it whichever way the process ends. It is read by plain reads, not
    mapped, so its pages do not count as this process's memory.

    Args:
        memory: bytes kept in memory. folder: where the file may lie; None for no file.
    """

    def __init__(self, memory: int = MEMORY, folder: Path | None = None) -> None:
        self.memory, self.folder = memory, folder
        self.nbytes = 0  # in memory
        self.file_bytes = 0
        self.refused = 0  # blocks that found no room
        self._kept: dict[Key, Tensor] = {}
        self._filed: dict[Key, tuple[int, int, int]] = {}  # where in the file, rows, columns
        self._file: IO[bytes] | None = None

    def __contains__(self, key: Key) -> bool:
        return key in self._kept or key in self._filed

    def put(self, key: Key, base: Base) -> None:
        """Keep a block, if there is room for it anywhere."""
        block = torch.cat((base.mean, base.offset[:, None], base.logp[:, None]), dim=1).cpu()
        if key in self:
            return
        if self.nbytes + block.nbytes <= self.memory:
            self._kept[key] = block
            self.nbytes += block.nbytes
        elif self._has_disk(block.nbytes):
            self._write(key, block)
        else:
            self.refused += 1

    def get(self, key: Key) -> Base | None:
        """A block's figures, on the CPU; None where it is not kept."""
        block = self._kept.get(key)
        if block is None and key in self._filed:
            block = self._read(*self._filed[key])
        return None if block is None else Base(block[:, :-2], block[:, -2], block[:, -1])

    def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._filed.clear()
        self.nbytes = self.file_bytes = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _has_disk(self, size: int) -> bool:
        return self.folder is not None and shutil.disk_usage(self.folder).free - size >= SPARE_DISK

    def _write(self, key: Key, block: Tensor) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder, buffering=0)  # noqa: SIM115  it lives as long as we do
        data = memoryview(block.numpy().data).cast("B")
        self._filed[key] = (self.file_bytes, *block.shape)
        while data:
            written = os.pwrite(self._file.fileno(), data, self.file_bytes)
            self.file_bytes, data = self.file_bytes + written, data[written:]

    def _read(self, at: int, rows: int, columns: int) -> Tensor:
        assert self._file is not None
        raw = os.pread(self._file.fileno(), 4 * rows * columns, at)
        return torch.from_numpy(np.frombuffer(bytearray(raw), dtype=np.float32).reshape(rows, columns))
