"""What decides the completions of a prompt, as one key: weights, precision, end tokens and adapter."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rmx.engine.engine import split_key
from rmx.engine.remote import NOT_HERE
from rmx.errors import ModelError
from rmx.models.base_state import base_tensors, digest
from rmx.models.load import Model

HASHED = "sha256:"  # begins the revision of local weights
# Fields of configurations that change no figure.
NO_PART_OF_A_MODEL = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"})
NO_PART_OF_AN_ADAPTER = frozenset(
    {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"lora_dropout", "init_lora_weights"}
)


def key_of(model: Model, adapter: str | None) -> str:
    """What decides the completions of a prompt, as a hash of what is in memory now, whatever its files are called.

    Args:
        adapter: its key on the engine. It counts by its weights, not by its name.

    Raises:
        ModelError: the weights are in another process.
    """
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
