"""Who is evaluated: a base and adapters on its weights, or other checkpoints; each with the hash of what decides."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft import get_peft_model_state_dict

from rmx.adapters import adapter_name
from rmx.models import Model
from rmx.pair import ask_alike
from rmx.style_options import StyleOptions
from rmx.workspace import Workspace

BASE = "base"
HASHED = "sha256:"  # begins the revision of local weights


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
    """What decides the completions of a prompt, as a hash. The adapter counts by its weights, whatever its name."""
    parts: dict[str, Any] = {
        # A hash of the weights says it all; a commit, or a branch's name, belongs to one repository.
        "model": model.revision if model.revision.startswith(HASHED) else f"{model.spec}@{model.revision}",
        "dtype": model.dtype,
        "device": model.engine.device.type,
        "stops": sorted(model.stop_ids),
        "adapter": _weights_hash(model, adapter) if adapter else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _weights_hash(model: Model, adapter: str) -> str:
    network: Any = model.engine.model
    config = network.peft_config[adapter_name(adapter)]
    scale = {name: getattr(config, name, None) for name in ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora")}
    digest = hashlib.sha256(repr(scale).encode())
    with model.engine.turns.turn():
        state = get_peft_model_state_dict(network, adapter_name=adapter_name(adapter), save_embedding_layers=False)
        for name in sorted(state):
            tensor = state[name].detach().float().cpu().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
