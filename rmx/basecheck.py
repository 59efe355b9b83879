"""Base is base: proof that the model with its adapter switched off is the checkpoint that was loaded.

Three looks, none of which needs a second copy: the logits on this very text with the adapter off against those of the
bare network, from which every adapter layer has been taken out; each base tensor against the weights file; and probe
logits recorded before the adapter was attached. A second copy of the checkpoint is loaded only when asked for.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rmx.adapter_facts import AdapterFacts, facts
from rmx.adapters import probe, wrapped_modules
from rmx.carry import carried
from rmx.divergence import difference
from rmx.engine import Engine, split_key
from rmx.gpu_time import decoding
from rmx.models import Model, load
from rmx.pair import Pair

ON_THIS_TEXT = "adapter off against the bare network on this text"
APART = "two sets of weights; nothing is on the base"


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of the weights file, and how many of them the model in memory holds unchanged."""

    file: str
    tensors: int
    equal: int

    def json(self) -> dict[str, Any]:
        return {"file": self.file, "tensors": self.tensors, "equal": self.equal}


@dataclass(frozen=True, slots=True)
class BaseCheck:
    """The badge."""

    max_dlogit: float  # adapter off against the bare network, on this text
    positions: int
    how: str
    weights: Weights | None  # None where the file is not at hand
    probe: float | None  # largest change of the probe logits since before the adapter; None where none were recorded
    copy: float | None  # against a full second copy, where one was asked for
    adapter: AdapterFacts | None  # None for a pair of two checkpoints
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every look that was taken found the base unchanged."""
        same = self.weights is None or self.weights.equal == self.weights.tensors
        return same and not any((self.max_dlogit, self.probe or 0, self.copy or 0))

    def json(self) -> dict[str, Any]:
        return {
            "max_dlogit": self.max_dlogit,
            "positions": self.positions,
            "how": self.how,
            "holds": self.holds,
            "weights": self.weights.json() if self.weights else None,
            "probe": self.probe,
            "copy": self.copy,
            "adapter": self.adapter.json() if self.adapter else None,
            "seconds": self.seconds,
        }


@carried(seconds=lambda pair, ids, *_, **__: decoding(60, read=3 * len(ids)))  # mostly reading the weights file
def check_base(pair: Pair, ids: Sequence[int], copy: bool = False, patience: float | None = None) -> BaseCheck:
    """Take the looks on this text (prompt and completion, as ids).

    Args:
        copy: also load the checkpoint a second time and compare; needs its memory once more.

    Raises:
        ModelError: the second copy cannot be loaded.
    """
    began = time.monotonic()
    model = pair.base
    ids = ids[: model.engine.context - 1]  # the last token of a full context decides nothing
    weights = against_file(model)
    second = load(model.spec, str(model.engine.device), model.dtype) if copy else None
    with model.engine.turns.turn(patience):
        off = _logits(model.engine, ids)
        with bare(model.engine):
            untouched = _logits(model.engine, ids)
        probed = _probe_moved(model)
    found = difference(off, untouched)
    name = split_key(pair.adapter)[0] if pair.adapter else None
    return BaseCheck(
        found.max_dlogit,
        found.positions,
        "adapter off against the bare network on this text"
        if pair.one_set
        else "two sets of weights; nothing is on the base",
        weights,
        probed,
        difference(off, _logits(second.engine, ids)).max_dlogit if second else None,
        facts(model, name) if name and pair.one_set else None,
        round(time.monotonic() - began, 3),
    )


def _logits(engine: Engine, ids: Sequence[int]) -> list[Tensor]:
    """Logits at every position, computed anew, adapters off."""
    read: list[Tensor] = []
    with engine.using(None):
        engine.open(ids, reuse=False, read_from=0, on_read=lambda _, rows: read.append(rows))
    return read


def _probe_moved(model: Model) -> float | None:
    before = model.engine.probe
    if before is None:
        return None
    with model.engine.using(None):
        return difference([before], [probe(model)]).max_dlogit


@contextmanager
def bare(engine: Engine) -> Iterator[None]:
    """The network without any adapter layer in it, for the length of a `with` block. The caller holds the turn."""
    wrapper = engine.model
    places = wrapped_modules(wrapper)
    if not places:
        with nullcontext():
            yield
        return
    adapters, engine.adapters = engine.adapters, {}
    try:
        for parent, name, _, original in places:
            setattr(parent, name, original)
        engine.model = wrapper.get_base_model()
        yield
    finally:
        for parent, name, module, _ in places:
            setattr(parent, name, module)
        engine.model, engine.adapters = wrapper, adapters


def against_file(model: Model) -> Weights | None:
    """Compare every base tensor in memory with the weights files, cast to the dtype that the model was loaded in."""
    files = _weight_files(model)
    if not files:
        return None
    held = {_plain_name(name): w for name, w in model.engine.model.named_parameters()}
    held |= {_plain_name(name): w for name, w in model.engine.model.named_buffers()}
    tensors, equal = 0, 0
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensors += 1
                mine = held.get(name)
                equal += mine is not None and torch.equal(file.get_tensor(name).to(mine.dtype), mine.detach().cpu())
    shown = files[0].name if len(files) == 1 else f"{len(files)} files"
    return Weights(shown, tensors, equal)


def _weight_files(model: Model) -> list[Path]:
    if model.source is None:
        return []
    folder = Path(model.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model.source, revision=model.revision, local_files_only=True))
        except (LocalEntryNotFoundError, ValueError):
            return []
    return sorted(folder.glob("*.safetensors"))


def _plain_name(name: str) -> str:
    """A parameter's name in the checkpoint, without what PEFT put around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")
