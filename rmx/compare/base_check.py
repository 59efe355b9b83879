"""Base is base: proof that the model with its adapter switched off is the checkpoint that was loaded.

Three looks, none of which needs a second copy: the logits on this very text with the adapter off against those of the
bare network, from which every adapter layer has been taken out; each base tensor against the weights file; and each
tensor's checksum and probe logits against those recorded before the first adapter. The file is read once, and again
when a tensor has changed. A second copy of the checkpoint is loaded only when asked for.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor

from rmx.engine.divergence import difference
from rmx.engine.engine import Engine, split_key
from rmx.models.adapter_facts import AdapterFacts, facts
from rmx.models.base_state import Changes, base_changes, base_checksums, base_tensors, probe_ids, without_adapters
from rmx.models.load import Model, load
from rmx.models.model_pair import Pair
from rmx.models.placing import Placing, split_dtype
from rmx.zerogpu.calls import decoding, on_gpu_worker

APART = "two sets of weights; nothing is on the base"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of the weights file, and how many of them the model in memory holds unchanged."""

    file: str
    tensors: int
    equal: int
    absent: int = 0  # those that the model holds under no such name: it was loaded in another layout


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """The badge."""

    max_dlogit: float  # adapter off against the bare network, on this text
    positions: int
    how: str
    weights: Weights | None  # None where the file is not at hand, or holds what is quantised in memory
    memory: Changes | None  # since before the first adapter; None where nothing was recorded
    copy: float | None  # against a full second copy, where one was asked for
    adapter: AdapterFacts | None  # None for a pair of two checkpoints
    seconds: float

    @property
    def probe(self) -> float | None:
        """Largest change of the probe logits since before the first adapter; None where none were recorded."""
        return None if self.memory is None else self.memory.probe

    @property
    def changes(self) -> list[str]:
        """What the looks found that should not be, in words; empty where the base is the base."""
        found = []
        if self.max_dlogit:
            found.append(f"with the adapter off a logit is up to {self.max_dlogit:.2g} from the bare network's")
        if self.memory:
            found.append(str(self.memory))
        w = self.weights
        if w and w.equal + w.absent < w.tensors:
            found.append(f"{w.tensors - w.equal - w.absent} of {w.tensors} tensors are not those of {w.file}")
        if self.copy:
            found.append(f"a logit is up to {self.copy:.2g} from a second copy's")
        return found

    @property
    def holds(self) -> bool:
        """Whether every look that was taken found the base unchanged."""
        return not self.changes

    @property
    def sentence(self) -> str:
        """The result as a sentence."""
        if self.holds:
            return f"base is base: largest change of a logit {self.max_dlogit:.2g}"
        return f"THE BASE HAS CHANGED: {'; '.join(self.changes)}"

    def json(self) -> dict[str, Any]:
        """Return the result as documents hold it."""
        return {
            **{name: getattr(self, name) for name in ("max_dlogit", "positions", "how", "holds", "sentence")},
            "weights": asdict(self.weights) if self.weights else None,
            "memory": self.memory.json() if self.memory is not None else None,
            "probe": self.probe,
            "copy": self.copy,
            "adapter": asdict(self.adapter) | {"targets": list(self.adapter.targets)} if self.adapter else None,
            "seconds": self.seconds,
        }


@on_gpu_worker(seconds=lambda pair, ids, *_, **__: decoding(60, read=3 * len(ids)))  # mostly reading the weights file
def check_base(pair: Pair, ids: Sequence[int], copy: bool = False, patience: float | None = None) -> BaseCheck:
    """Take the looks on this text (prompt and completion, as ids).

    `copy` also loads the checkpoint a second time and compares, which needs its memory once more; ModelError where it
    cannot be loaded.
    """
    began = time.monotonic()
    model = pair.base
    ids = ids[: model.engine.context - 1]  # the last token of a full context decides nothing
    kind, quantize = split_dtype(model.dtype)
    second = load(model.spec, str(model.engine.device), kind, placing=Placing(quantize)) if copy else None
    with model.engine.queue.turn(patience):
        off = _logits(model.engine, ids)
        with without_adapters(model.engine):
            untouched = _logits(model.engine, ids)
        held = base_tensors(model.engine)
        now = base_checksums(held)
        memory = base_changes(model, now)
    if model.engine.compared is None or model.engine.compared[0] != now:  # the file is read again after a change alone
        model.engine.compared = now, against_file(model, held)
    weights: Weights | None = model.engine.compared[1]
    found = difference(off, untouched)
    name = split_key(pair.adapter)[0] if pair.adapter else None
    return BaseCheck(
        found.max_dlogit,
        found.positions,
        "adapter off against the bare network on this text" if pair.one_set else APART,
        weights,
        memory,
        difference(off, _logits(second.engine, ids)).max_dlogit if second else None,
        facts(model, name) if name and pair.one_set else None,
        round(time.monotonic() - began, 3),
    )


def check_loaded(pair: Pair) -> BaseCheck:
    """The same looks on the fixed text: for whoever goes on to a set of problems."""
    return check_base(pair, probe_ids(pair.base))


def _logits(engine: Engine, ids: Sequence[int]) -> list[Tensor]:
    """Logits at every position, computed anew, adapters off."""
    read: list[Tensor] = []
    with engine.using(None):
        engine.open(ids, reuse=False, read_from=0, on_read=lambda _, rows: read.append(rows))
    return read


def against_file(model: Model, held: Mapping[str, Tensor] | None = None) -> Weights | None:
    """Compare every base tensor in memory (`held`) with the weights files, cast to the dtype that it was loaded in."""
    files = _weight_files(model)
    if not files:
        return None
    held = base_tensors(model.engine) if held is None else held
    tensors, equal, absent = 0, 0, 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensors += 1
                if (mine := held.get(name)) is None:
                    absent += 1
                else:
                    equal += torch.equal(file.get_tensor(name).to(mine.dtype), mine.detach().cpu())
    shown = files[0].name if len(files) == 1 else f"{len(files)} files"
    return Weights(shown, tensors, equal, absent)


def _weight_files(model: Model) -> list[Path]:
    if model.source is None or split_dtype(model.dtype)[1]:
        return []
    folder = Path(model.source)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            return []
    return sorted(folder.glob("*.safetensors"))
