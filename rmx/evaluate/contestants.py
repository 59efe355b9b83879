"""Who is evaluated: a base and adapters on its weights, or other checkpoints; each with the hash of what decides."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmx.base_state import base_tensors
from rmx.checksums import digest
from rmx.engine import NOT_HERE, split_key
from rmx.errors import ModelError
from rmx.models import Model
from rmx.pair import ask_alike
from rmx.style_options import StyleOptions
from rmx.workspace import Workspace

BASE = "base"
HASHED = "sha256:"  # begins the revision of local weights
# Fields of configurations that change no figure.
NO_PART_OF_A_MODEL = frozenset({"_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"})
NO_PART_OF_AN_ADAPTER = frozenset(
    {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"lora_dropout", "init_lora_weights"}
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model of an evaluation."""

    name: str  # "base", or the spec of its adapter or checkpoint
    label: str
    model: Model
    adapter: str | None  # its name on the engine
    spec: str | None
    key: str  # of the weights, their precision and the adapter's weights: the same key, the same completions


def contestants_of(
    workspace: Workspace,
    model: str,
    adapters: Sequence[str] = (),
    teachers: Sequence[str] = (),
    style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
    set_name: str | None = None,
) -> list[Contestant]:
    """The base first, then its adapters, then other checkpoints; a spec that is named twice counts once.

    Everybody is asked the same ids, in the base's way: else a difference could be the prompt's.

    Args:
        adapters: bundled names, runs (`ID` or `ID/step_N`), folders, Hub ids.
        teachers: model specs of full checkpoints.
        style: what is asked of the prompt. set_name: of the problems.

    Raises:
        ModelError: one of them cannot be had, or has other tokens than the base. PromptError: no style for the base.
    """
    base = workspace.model(model).ask_in(style, set_name)
    found = [Contestant(BASE, base.spec, base, None, None, key_of(base, None))]
    for spec in dict.fromkeys(adapters):
        name = workspace.adapter(base, spec)
        found.append(Contestant(spec, f"{base.spec} + {spec}", base, name, spec, key_of(base, name)))
    for spec in dict.fromkeys(teachers):
        other = ask_alike(workspace.model(spec), base)
        found.append(Contestant(spec, other.spec, other, None, spec, key_of(other, None)))
    return found


def key_of(model: Model, adapter: str | None) -> str:
    """What decides the completions of a prompt, as a hash of what is in memory now, whatever its files are called.

    Args:
        adapter: its key on the engine. It counts by its weights, not by its name.

    Raises:
        ModelError: the weights are in another process.
    """
    engine = model.engine
    if engine.far is not None:
        raise ModelError(NOT_HERE)
    with engine.turns.turn():
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
