"""Adapters by name, and what is known of one.

What an adapter is: its size, where it sits, whether it does anything, whether its strength can be set.

What adapters are called and where they lie: bundled names, training runs, folders, Hub ids.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmx.config import ASSETS, runs_dir
from rmx.engine.engine import lora_layers, split_key
from rmx.errors import ModelError
from rmx.models.load import Model, fingerprint

if TYPE_CHECKING:
    from rmx.models.load import Model


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """Figures of an adapter, in the order of documents."""

    name: str
    type: str  # PEFT's word: LORA, IA3, …
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    parameters: int
    norm: float | None  # Frobenius norm of all weight changes together, at strength 1; None for other kinds than LoRA
    zero: bool  # it changes nothing at all
    revision: str  # content hash of a local adapter, its source otherwise
    folded: str | None = None  # how it was begun, where it was made a plain LoRA of twice its rank


def why_not_linear(config: Any) -> str | None:
    """Why an adapter's output cannot simply be multiplied; None for a plain LoRA, which adds s·B·A·x."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        return f"it is a {kind} adapter, and only a plain LoRA scales linearly."
    if getattr(config, "use_dora", False):
        return "it is a DoRA, which renormalises the weights; part of its effect is there at any strength."
    if config.modules_to_save or getattr(config, "trainable_token_indices", None):
        return "it replaces whole modules or tokens, which are either there or not."
    if getattr(config, "target_parameters", None):
        return "it sits on parameters that no layer of their own holds, which rows of one batch cannot have apart."
    if config.bias != "none" or getattr(config, "lora_bias", False):
        return "it trains biases, which do not scale with it."
    if getattr(config, "alora_invocation_tokens", None):
        return "it is switched on by tokens of the text."
    return None


def scales(model: Model, adapter: str | None) -> bool:
    """Whether rows of one batch can have this adapter apart from other rows: a plain LoRA, or none at all."""
    if adapter is None:
        return True
    name, engine = split_key(adapter)[0], model.engine
    return name in engine.adapters and why_not_linear(engine.model.peft_config[name]) is None


def facts(model: Model, name: str) -> AdapterFacts:
    """Measure an adapter that is on the model.

    The norm is that of a LoRA, exactly: ||s B A||_F = s sqrt(tr((B^T B)(A A^T))), computed in fp64 without forming B A.
    """
    config = model.engine.model.peft_config[name]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    norm = None
    if kind == "LORA" and not config.target_parameters:
        norm = math.sqrt(sum(lora_norm(layer, name) ** 2 for layer in adapted_layers(model, name)))
    weights = [w for key, w in model.engine.model.named_parameters() if name in key.split(".")]
    targets = config.target_modules
    source = Path(model.engine.adapters[name])
    return AdapterFacts(
        name=name,
        type=kind,
        rank=getattr(config, "r", None),
        alpha=getattr(config, "lora_alpha", None),
        targets=tuple(sorted(targets)) if isinstance(targets, set | list | tuple) else (str(targets),),
        parameters=sum(w.numel() for w in weights),
        norm=norm,
        # Anything but a plain LoRA is zero only where all of its tensors are.
        zero=norm == 0 if why_not_linear(config) is None else not any(bool(w.any()) for w in weights),
        revision=fingerprint(source) if source.is_dir() else str(source),
        folded=getattr(config, "folded", None),
    )


def adapted_layers(model: Model, name: str) -> list[Any]:
    """The layers that carry this LoRA."""
    return [m for m in lora_layers(model.engine.model) if name in m.lora_A or name in m.lora_embedding_A]


def lora_norm(layer: Any, name: str) -> float:
    """Frobenius norm of one layer's weight change at strength 1."""
    a, b = lora_factors(layer, name)
    with torch.inference_mode():
        gram = (b.double().T @ b.double()) * (a.double() @ a.double().T)
        return float(layer.scaling[name] * gram.sum().clamp_min(0).sqrt())


def lora_factors(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r), convolutions flattened."""
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_A[name], layer.lora_embedding_B[name]
    return layer.lora_A[name].weight.flatten(1), layer.lora_B[name].weight.flatten(1)


# -- What adapters are called and where they lie ----------------------------------------------------------------------


def bundled_adapters(model: "Model") -> list[str]:
    """Names of the adapters that ship with this model."""
    if model.spec != "mini":
        return []
    return [p.parent.name for p in sorted((ASSETS / "mini").glob("*/adapter_config.json"))]


def attached(model: "Model") -> set[str]:
    """Names of the adapters whose weights are on the model in this process."""
    return set(getattr(model.engine.model, "peft_config", {}))


def adapter_name(spec: str) -> str:
    """A name of its own for each spec, which `shown_adapter` reads back.

    PEFT uses the name as a module key, where a dot would nest, and a star marks the strength in an adapter's key.
    """
    return spec.replace("%", "%25").replace(".", "%2E").replace("*", "%2A")


def adapter_place(model: "Model", spec: str) -> str:
    """Folder or Hub id of an adapter; ModelError where there is none, or it holds no safetensors."""
    if spec in bundled_adapters(model):
        return str(ASSETS / "mini" / spec)
    folder = run_adapter(spec) or Path(spec)
    if folder.is_dir():
        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{spec} is not an adapter folder: it has no adapter_config.json.")
        if not (folder / "adapter_model.safetensors").is_file():
            pickled = (folder / "adapter_model.bin").is_file()
            reason = "holds a pickle, which can run code when opened" if pickled else "holds no weights"
            raise ModelError(f"The adapter {spec} {reason}. Save adapter_model.safetensors.")
        return str(folder)
    if is_run(spec.partition("/")[0]):  # never somebody's repository that is called like a run of ours
        raise ModelError(f"The run {spec.partition('/')[0]} has no adapter {spec}; it may have been removed.")
    if "/" not in spec or spec.startswith((".", "/", "~")):
        known = ", ".join(bundled_adapters(model)) or "none is bundled with this model"
        raise ModelError(f"There is no adapter '{spec}'. Bundled: {known}. Or give a run, a folder or a Hub id.")
    return spec


def names_adapter(model: "Model", spec: str) -> bool:
    """Whether a spec that may mean a checkpoint as well is an adapter that is at hand: bundled, a run's, a folder."""
    bundled = spec in bundled_adapters(model)
    return bundled or run_adapter(spec) is not None or (Path(spec) / "adapter_config.json").is_file()


def run_adapter(spec: str) -> Path | None:
    """The folder of a run's adapter: `ID`, `ID/step_N` for a checkpoint, `ID/tau_X` for one of a sweep."""
    run, _, part = spec.partition("/")
    if not is_run(run) or not re.fullmatch(r"(step_\d+|tau_[\d.e-]+)?", part):
        return None
    home = runs_dir() / run
    folder = home / "checkpoints" / part if part.startswith("step_") else home / part / "adapter"
    return folder if folder.is_dir() else None


def is_run(name: str) -> bool:
    """Whether a run of this id is here."""
    plain = re.fullmatch(r"[\w.-]+", name) and not name.startswith(".")
    return bool(plain) and (runs_dir() / name / "config.json").is_file()
