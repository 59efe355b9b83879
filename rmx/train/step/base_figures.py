"""What training needs to know of the base, computed once and kept: a hidden-sized vector and two numbers a token.

Every block comes from a pass over one sequence alone, so a run that goes on finds the very same figures. In fp32 a
token takes 6 KB at a width of 1536; in bf16 half as much. What is not kept is read anew whenever it is trained on.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rmx.storage.safe_files import disk
from rmx.train.step.processes import Team

MEMORY = 512 << 20  # bytes of figures kept in memory unless told otherwise
SPARE_DISK = 1 << 30  # bytes that a file of figures leaves free
NAMED = ".figures-"  # begins the name of a file that several processes are about to open

Key = tuple[int, tuple[int, ...]]  # first position, ids
Place = tuple[int, int, int, int]  # whose file, the first byte in it, rows, columns
OWN = -1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def token_bytes(hidden: int, kept: str) -> int:
    """Bytes of one token's figures, by the recipe's field `base_figures`."""
    return hidden * DTYPES[kept].itemsize + 8 if kept in DTYPES else 0


@dataclass(frozen=True, slots=True)
class BaseTokens:
    """Figures of the base at N positions."""

    mean: Tensor  # (N, D) fp32: E_base[W]
    offset: Tensor  # (N,) nats: H_base, plus the share of the head's bias
    logp: Tensor  # (N,) nats, of the token that is there


class BaseFigures:
    """Blocks of figures, in memory as long as the budget lasts, then in a file, then not at all.

    The file has no name, but while other processes open it (`shared`), so nothing is left of it. It is read by plain
    reads, not mapped, so its pages do not count as this process's memory.

    Args:
        memory: bytes kept in memory. limit: bytes of a file in `folder` at most; None as far as the disk goes.
        dtype: of the vectors, torch.float32 or torch.bfloat16; the two numbers beside them are fp32 always.
    """

    def __init__(
        self,
        memory: int = MEMORY,
        folder: Path | None = None,
        *,
        limit: int | None = None,
        dtype: torch.dtype = torch.float32,
        shared: bool = False,
    ) -> None:
        self.memory, self.folder, self.limit, self.dtype, self.shared = memory, folder, limit, dtype, shared
        self.nbytes = 0  # in memory
        self.file_bytes = 0
        self.refused = 0  # blocks that found no room
        self._kept: dict[Key, Tensor] = {}
        self._filed: dict[Key, Place] = {}
        self._file: IO[bytes] | None = None
        self._others: dict[int, IO[bytes]] = {}  # files of other processes

    def __contains__(self, key: Key) -> bool:
        return key in self._kept or key in self._filed

    @property
    def keeps(self) -> bool:
        """Whether anything may be kept at all."""
        return self.memory > 0 or self.folder is not None

    def put(self, key: Key, base: BaseTokens) -> None:
        """Keep a block, if there is room for it anywhere."""
        if key in self:
            return
        # (N, columns) of `dtype`: the vectors, and the bytes of the two fp32 numbers behind them
        numbers = torch.stack((base.offset, base.logp), dim=1).float().cpu()
        block = torch.cat((base.mean.cpu().to(self.dtype), numbers.view(self.dtype)), dim=1)
        if self.nbytes + block.nbytes <= self.memory:
            self._kept[key] = block
            self.nbytes += block.nbytes
        elif (
            self.folder
            and (self.limit is None or self.file_bytes + block.nbytes <= self.limit)
            and (shutil.disk_usage(self.folder).free - block.nbytes >= SPARE_DISK)
        ):
            self._write(key, block)
        else:
            self.refused += 1

    def get(self, key: Key) -> BaseTokens | None:
        """A block's figures, on the CPU; None where it is not kept."""
        block = self._kept.get(key)
        if block is None and key in self._filed:
            block = self._read(*self._filed[key])
        if block is None:
            return None
        width = 2 * 4 // block.element_size()  # columns of the two numbers
        numbers = block[:, -width:].contiguous().view(torch.float32)
        return BaseTokens(block[:, :-width].float(), numbers[:, 0], numbers[:, 1])

    def share(self, team: Team) -> None:
        """Let every process read what all of them have filed; all call this at once."""
        name = None if self._file is None else self._file.name
        told = team.collected([(team.process_index, name, self._filed)], lambda one: one[0])
        for process, name, filed in told:
            if process != team.process_index and name:
                with disk(Path(name)):
                    self._others[process] = open(name, "rb", buffering=0)  # noqa: SIM115  it lives as long as we do
                self._filed |= {key: (process, *place[1:]) for key, place in filed.items() if key not in self._filed}
        team.meet()
        if self.shared and self._file is not None:
            Path(self._file.name).unlink(missing_ok=True)

    def _write(self, key: Key, block: Tensor) -> None:
        if self._file is None:
            # It has a name only where other processes will open it.
            make: Any = partial(tempfile.NamedTemporaryFile, prefix=NAMED, delete=False)
            self._file = (make if self.shared else tempfile.TemporaryFile)(dir=self.folder, buffering=0)
        data = memoryview(block.view(torch.int16).numpy().data).cast("B")
        self._filed[key] = (OWN, self.file_bytes, *block.shape)
        while data:
            written = os.pwrite(self._file.fileno(), data, self.file_bytes)
            self.file_bytes, data = self.file_bytes + written, data[written:]

    def _read(self, process: int, at: int, rows: int, columns: int) -> Tensor:
        file = self._file if process == OWN else self._others[process]
        assert file is not None
        raw = os.pread(file.fileno(), self.dtype.itemsize * rows * columns, at)
        found = torch.from_numpy(np.frombuffer(bytearray(raw), dtype=np.int16))
        return found.view(self.dtype).reshape(rows, columns)
