"""Passes over rollouts that train nothing: the base's figures, entropies, and micro-batches as tensors.

Training needs a hidden-sized vector and two numbers of the base for each token, computed once and kept. Every block
comes from a pass over one sequence alone, so a run that goes on finds the very same figures. In fp32 a token takes 6 KB
at a width of 1536; in bf16 half as much. What is not kept is read anew whenever it is trained on.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rmx.engine.entropy import capture
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.records import Rollout
from rmx.runs.recipe import KlOn, LossConfig
from rmx.storage.safe_files import disk
from rmx.train.step.items import Item, name_of
from rmx.train.step.lora_policy import LoraPolicy
from rmx.train.step.loss import Rows, anchor, ce_and_kl, sweep
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


class BaseTokens(NamedTuple):
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
        if key not in self:
            return None
        block = self._kept[key] if key in self._kept else self._read(*self._filed[key])
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


# -- The scoring pass -------------------------------------------------------------------------------------------------


def score(
    source: LoraPolicy | Model, rollouts: Iterable[Rollout], figures: BaseFigures | None = None
) -> Iterator[Rollout]:
    """Fill in the entropies of each rollout, one after the other; those that a rollout brings along stay.

    With a policy whose head allows it, the base's figures are put into `figures` in the same pass. Cut rollouts before.
    """
    policy = source if isinstance(source, LoraPolicy) and source.head is not None else None
    model = source.model if isinstance(source, LoraPolicy) else source
    for rollout in rollouts:
        if rollout.completion_length < 1:
            raise TrainError(f"{name_of(rollout)} has no completion tokens. Take it out of the file.")
        if policy is not None and figures is not None:
            if figures.keeps:
                base_block(policy, prompt_key(rollout), figures)
            key, wanted, entropies = own_key(rollout), rollout.entropies is None, None
            if wanted or (figures.keeps and key not in figures):
                base, entropies = read_base(policy, key, entropy=wanted, dtype=figures.dtype)
                figures.put(key, base)
        else:
            missing = rollout.entropies is None
            entropies = teacher_forced(model, rollout.input_ids, rollout.prompt_length) if missing else None
        yield rollout if entropies is None else replace(rollout, entropies=tuple(entropies.tolist()))


def teacher_forced(model: Model, ids: Sequence[int], prompt_length: int) -> Tensor:
    """(completion_length,) nats: entropies of the base, from the logits of one pass over prompt and completion."""
    return torch.cat(model.read(ids[:-1], prompt_length - 1, lambda logits: capture(logits, 1).entropy)).cpu()


def prompt_key(rollout: Rollout) -> Key:
    """The block of the positions that predict prompt tokens; shared by all rollouts of a problem."""
    return 0, rollout.prompt_ids


def own_key(rollout: Rollout) -> Key:
    """The block of the positions that predict completion tokens."""
    return rollout.prompt_length - 1, rollout.input_ids


def base_block(policy: LoraPolicy, key: Key, figures: BaseFigures) -> BaseTokens:
    """A block of figures, from what is kept or by a pass of the base, then kept if there is room."""
    base = figures.get(key)
    if base is None:
        base, _ = read_base(policy, key, entropy=False, dtype=figures.dtype)
        figures.put(key, base)
    return base


def read_base(
    policy: LoraPolicy, key: Key, *, entropy: bool, dtype: torch.dtype = torch.float32
) -> tuple[BaseTokens, Tensor | None]:
    """Figures of the positions from key's first on, on the CPU, and their entropies in nats; one pass of the base.

    Offsets go with the vectors as `dtype` rounds them, so that the KL of an unchanged policy stays 0.
    """
    first, ids = key
    head = policy.head
    assert head is not None
    tokens = torch.tensor(ids, device=policy.device)
    with policy.base():
        hidden = policy(tokens[None])[0, first:-1].float()
        swept = sweep(head, hidden, tokens[first + 1 :], entropy=entropy, expected=True)
        assert swept.expected is not None
        mean = swept.expected.to(dtype).float()
        columns = mean, anchor(head, swept.lse, mean, hidden), swept.own - swept.lse
    return BaseTokens(*(c.cpu() for c in columns)), None if swept.entropy is None else swept.entropy.cpu()


# -- A micro-batch as tensors -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of at most T tokens, and the N positions in them that carry a coefficient.

    Sequences are padded on the right: under causal attention no position that counts can see the padding.
    """

    items: tuple[Item, ...]
    ids: Tensor  # (B, T) int64
    row: Tensor  # (N,) which sequence
    pred_pos: Tensor  # (N,) which position of it
    places: tuple[Tensor, ...]  # the same positions, sequence by sequence, on the CPU
    target: Tensor  # (N,) the token that is there at pred_pos + 1
    pull: Tensor  # (N,) clipped advantage of the sequence
    weight: Tensor  # (N,)
    decision: Tensor  # (N,) bool: in the decision term; every other row is in the anchor
    anchors: int  # positions of the anchor, counted even where kl_weight is 0 and none has a row
    valid: int  # positions that predict a token


def make_batch(items: Sequence[Item], loss: LossConfig, device: torch.device) -> Batch:
    """Pad items and list their rows: sequence by sequence, positions ascending."""
    width = max(len(item.rollout.input_ids) for item in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    rows, places = list[Tensor](), list[Tensor]()
    for i, item in enumerate(items):
        tokens = torch.tensor(item.rollout.input_ids, dtype=torch.long)
        ids[i, : len(tokens)] = tokens
        decision = torch.zeros(len(tokens) - 1, dtype=torch.bool)
        decision[list(item.trained)] = True
        wanted = decision.clone()
        if loss.kl_weight:
            wanted[anchor_start(item, loss.kl_on) :] = True
        at = wanted.nonzero()[:, 0]
        places.append(at)
        rows.append(torch.stack((torch.full_like(at, i), at, tokens[at + 1], decision[at].long())))
    row, pred_pos, target, chosen = torch.cat(rows, dim=1).to(device)
    pulls = torch.tensor([item.pull for item in items], device=device)
    weights = torch.tensor([item.weight for item in items], device=device)
    return Batch(
        items=tuple(items), ids=ids.to(device), row=row, pred_pos=pred_pos, places=tuple(places), target=target,
        pull=pulls[row], weight=weights[row], decision=chosen.bool(),
        anchors=sum(anchors(item, loss.kl_on) for item in items), valid=sum(item.positions for item in items),
    )  # fmt: skip


def anchor_start(item: Item, kl_on: KlOn) -> int:
    """The first position that may be in the anchor."""
    return 0 if kl_on == "all" else min(item.first, item.positions)


def anchors(item: Item, kl_on: KlOn) -> int:
    """How many positions of an item are in the anchor."""
    return item.positions - anchor_start(item, kl_on) - len(item.trained)


def mass(items: Sequence[Item], loss: LossConfig) -> tuple[float, float]:
    """Summed weights of the decision term and of the anchor: their denominators."""
    decisions = sum(item.weight * len(item.trained) for item in items)
    return decisions, sum(item.weight * anchors(item, loss.kl_on) for item in items)


def read_rows(policy: LoraPolicy, batch: Batch, figures: BaseFigures) -> Rows:
    """Cross entropy, KL and the base's log-probability at each row, with gradient to the adapter.

    With a shared linear head, logits are made in chunks, for these rows only, and the base enters by its figures.
    The caller is inside `policy.learning()`, or inside `engine.using(NAME)` where no gradient is wanted.
    """
    if policy.head is None:
        return read_rows_whole(policy, batch)
    base = base_rows(policy, batch, figures)
    hidden = policy(batch.ids)[batch.row, batch.pred_pos].float()
    ce, kl = ce_and_kl(policy.head, hidden, batch.target, base.mean, base.offset)
    return Rows(ce, kl, base.logp)


def read_rows_whole(policy: LoraPolicy, batch: Batch) -> Rows:
    """The same by the full logits of both: right for every model, at the price of time and memory."""

    def logp() -> Tensor:  # (N, V) fp32
        return policy.logits(batch.ids)[batch.row, batch.pred_pos].float().log_softmax(-1)

    with policy.base():
        base = logp()
    ours = logp()
    target = batch.target[:, None]
    kl = torch.where(base == -torch.inf, 0.0, base.exp() * (base - ours)).sum(-1)
    return Rows(ce=-ours.gather(1, target)[:, 0], kl=kl, base_logp=base.gather(1, target)[:, 0])


def base_rows(policy: LoraPolicy, batch: Batch, figures: BaseFigures) -> BaseTokens:
    """The base's figures at the rows of a micro-batch, on the policy's device."""
    found = [part for one in zip(batch.items, batch.places, strict=True) for part in _of_item(policy, *one, figures)]
    if not found:
        found = [BaseTokens(torch.empty(0, policy.head.width if policy.head else 0), torch.empty(0), torch.empty(0))]
    return BaseTokens(*(torch.cat(column).to(policy.device) for column in zip(*found, strict=True)))


def _of_item(policy: LoraPolicy, item: Item, at: Tensor, figures: BaseFigures) -> Iterator[BaseTokens]:
    """Figures at positions `at` (ascending) of one sequence, on the CPU: first those of the prompt."""
    rollout, first = item.rollout, item.first
    for key, places in ((prompt_key(rollout), at[at < first]), (own_key(rollout), at[at >= first] - first)):
        if len(places):
            yield BaseTokens(*(column[places] for column in base_block(policy, key, figures)))
