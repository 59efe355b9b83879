"""What a model is in memory: the base, recorded before the first adapter and read again after each, and its key.

Recorded are a checksum of every tensor and logits on a fixed text. A change of either means that whatever shares these
weights no longer is the model that was loaded. What studies have found is kept on disk under such keys.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rmx.engine.engine import Engine, base_network, is_adapter_layer, split_key
from rmx.engine.entropy import difference
from rmx.engine.token_draws import prompt_key
from rmx.errors import NOT_HERE, ModelError
from rmx.models.load import Model
from rmx.storage.safe_files import KeptLines, LineStore

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
        mixed.add_((start * STEP + (1 << 63)) % (1 << 64) - (1 << 63))  # modulo 2^64, as all integers here
        mixed.bitwise_xor_(mixed >> 31).mul_(ODD).bitwise_xor_(mixed >> 29)
        total += mixed.sum()
    return int(total)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One hash of all tensors, with their names, dtypes and shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:{checksum(tensor)};".encode())
    return found.hexdigest()


PROBE = "Ann has 3 apples and buys 4 more. 3 + 4 = 7. So the answer is 7."
PROBE_TOKENS = 16
SHOWN = 3  # names in a sentence


def probe(model: Model) -> Tensor:
    """Logits (n, V), fp32 on the CPU, on a fixed text: whatever changes the network changes these.

    The caller has the adapters off and holds the engine's turn, or is the only one who knows the model.
    """
    ids = probe_ids(model)
    return model.engine.forward([ids], DynamicCache(config=model.engine.config), keep=len(ids))[0].float().cpu()


def probe_ids(model: Model) -> list[int]:
    """The fixed text."""
    return (model.encode(PROBE) or [0])[:PROBE_TOKENS]


def wrapped_modules(network: Any) -> list[tuple[Any, str, Any, Any]]:
    """Every module that PEFT has put itself around: (parent, attribute, wrapper, what it wraps)."""
    found = []
    for name, module in network.named_modules():
        # PEFT keeps a whole module that was trained beside the original one.
        if is_adapter_layer(module) or "original_module" in module._modules:
            inside = module.get_base_layer() if is_adapter_layer(module) else module.original_module
            found.append((network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], module, inside))
    return found


@contextmanager
def without_adapters(engine: Engine) -> Iterator[None]:
    """The network without any adapter layer in it, for the length of a `with` block. The caller holds the turn."""
    wrapper = engine.model
    places = wrapped_modules(wrapper)
    if not places:
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


def base_tensors(engine: Engine) -> dict[str, Tensor]:
    """Parameters and stored buffers of the network without its adapters, by their names in a checkpoint.

    Tensors that go by two names (tied embeddings) are there under both. The caller holds the turn.
    """
    with without_adapters(engine):
        held = base_network(engine.model).state_dict(keep_vars=True)
    return {name: tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}


def base_checksums(held: Mapping[str, Tensor]) -> dict[str, int]:
    """Checksums of `base_tensors`; of two names of one tensor the first counts."""
    names = {id(tensor): name for name, tensor in reversed(list(held.items()))}
    return {name: checksum(held[name]) for name in names.values()}


def remember_base(model: Model) -> None:
    """Record the base, where nothing is on it yet and nothing is recorded. The caller holds the turn."""
    engine = model.engine
    if engine.checksums is None and base_network(engine.model) is engine.model:
        engine.checksums = base_checksums(base_tensors(engine))
        engine.probe = probe(model)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different of the base since it was recorded."""

    tensors: tuple[str, ...]  # names of those with other bits, or that came or went
    of: int
    probe: float  # largest change of a logit on the fixed text, adapters off

    def __bool__(self) -> bool:
        return bool(self.tensors or self.probe)

    def __str__(self) -> str:
        more = len(self.tensors) - SHOWN
        names = ", ".join(self.tensors[:SHOWN]) + (f" and {more} more" if more > 0 else "")
        tensors = f"{len(self.tensors)} of {self.of} tensors in memory are not those that were loaded ({names})"
        moved = f"on a fixed text a logit moved by {self.probe:.2g}"
        return "; ".join(([tensors] if self.tensors else []) + ([moved] if self.probe else []))

    def json(self) -> dict[str, Any]:
        return {"changed": len(self.tensors), "of": self.of, "names": list(self.tensors[:SHOWN]), "probe": self.probe}


def base_changes(model: Model, now: Mapping[str, int] | None = None) -> Changes | None:
    """What is different of the base since it was recorded, by its checksums `now`; None where nothing was recorded.

    The caller holds the turn.
    """
    engine = model.engine
    before, logits = engine.checksums, engine.probe
    if before is None or logits is None:
        return None
    now = base_checksums(base_tensors(engine)) if now is None else now
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    with engine.using(None):
        moved = difference([logits], [probe(model)]).max_dlogit
    return Changes(tuple(names), len(before), moved)


HASHED = "sha256:"  # begins the revision of local weights
# Fields of configurations that change no figure.
NO_PART_OF_A_MODEL = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"})
NO_PART_OF_AN_ADAPTER = frozenset(
    {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"lora_dropout", "init_lora_weights"}
)


def key_of(model: Model, adapter: str | None) -> str:
    """What decides the completions of a prompt, as a hash of what is in memory here, whatever its files are called."""
    engine = model.engine
    if engine.remote is not None:
        raise ModelError(NOT_HERE)
    with engine.queue.turn():
        parts: dict[str, Any] = {
            # Two repositories count as two; weights of local files are one, wherever they lie.
            "model": model.revision if model.revision.startswith(HASHED) else f"{model.spec}@{model.revision}",
            "weights": digest(base_tensors(engine)),
            "config": _kept(engine.config.to_dict(), NO_PART_OF_A_MODEL),
            "dtype": model.dtype,
            "device": engine.device.type,
            "stops": sorted(model.stop_ids),
            "adapter": _adapter_parts(model, adapter) if adapter else None,
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _adapter_parts(model: Model, adapter: str) -> dict[str, Any]:
    """All that an adapter is: its tensors, the biases that it trained, how they are used and how strongly."""
    (name, strength), network = split_key(adapter), model.engine.model
    held = [*network.named_parameters(), *network.named_buffers()]
    own = {".".join("*" if p == name else p for p in key.split(".")): w for key, w in held if name in key.split(".")}
    biases = {f"bias {i}": theirs for i, (_, theirs) in enumerate(model.engine.biases.get(name, ()))}
    config = _kept(network.peft_config[name].to_dict(), NO_PART_OF_AN_ADAPTER)
    return {"tensors": digest(own | biases), "config": config, "strength": strength}


def _kept(config: Mapping[str, Any], out: frozenset[str]) -> str:
    """A configuration as one text, without the fields that change no figure."""
    fields = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return json.dumps({name: value for name, value in fields.items() if name not in out}, sort_keys=True, default=str)


# -- What studies have found, kept by the models that they looked at --------------------------------------------------


FORMAT = 1  # of the lines, and of what is computed for them


class Journal:
    """The pieces of one study with one setting, by name. Without a store nothing is known and nothing is kept."""

    def __init__(self, lines: KeptLines | None = None) -> None:
        self._lines = lines or KeptLines(None)
        rows = (row for row in self._lines.read() if isinstance(row, dict))
        self._rows: dict[str, dict[str, Any]] = {row["piece"]: row for row in rows if isinstance(row.get("piece"), str)}

    def get(self, piece: str) -> dict[str, Any] | None:
        """What is known of a piece of the work; None where it is still to be done."""
        return self._rows.get(piece)

    def put(self, piece: str, row: dict[str, Any]) -> None:
        """Keep a piece that is done."""
        self._rows[piece] = row
        self._lines.append({"piece": piece, **row})

    def close(self) -> None:
        """No more pieces come."""
        self._lines.close()


def journal_of(
    store: LineStore | None, study: str, models: Sequence[tuple[Model, str | None]], **settings: Any
) -> Journal:
    """The journal of a study.

    Args:
        store: where it is kept; None: nowhere.
        models: those that are looked at, each with the key of its adapter on the engine; the first one is asked.
        settings: whatever else decides what is found, fit for JSON.
    """
    if store is None or store.folder is None:
        return Journal()
    style = {name: value for name, value in models[0][0].style.json().items() if name != "why"}
    keys = [key_of(model, adapter) for model, adapter in models]
    return Journal(store.lines(study=study, format=FORMAT, models=keys, style=style, **settings))


def chained(prompts: Sequence[Sequence[int]]) -> list[str]:
    """A name for each prompt and all before it: the same name, the same prompts in the same order."""
    digest, names = hashlib.blake2b(digest_size=12), []
    for prompt in prompts:
        digest.update(prompt_key(prompt))
        names.append(digest.hexdigest())
    return names
