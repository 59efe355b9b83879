"""What an adapter is: its size, where it sits, whether it does anything, whether its strength can be set."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmx.engine.engine import lora_layers, why_not_linear
from rmx.models.load import Model, fingerprint


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
