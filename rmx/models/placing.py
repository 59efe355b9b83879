"""Weights that are quantised when they are loaded, or spread over several GPUs: what transformers is asked for.

Quantised weights are 8-bit integers or 4-bit NF4 of bitsandbytes; what is computed with them has the dtype that was
asked for. rmx compares all tensors of the base in memory, so no part of a model may wait on the CPU or the disk.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from rmx.errors import ModelError, shown

QUANTIZE = ("8bit", "4bit")


@dataclass(frozen=True, slots=True)
class Placing:
    """What is asked of the weights beside their device and dtype.

    Raises:
        ModelError: a value that is not known.
    """

    quantize: str | None = None  # of QUANTIZE; None: as they are
    device_map: str | None = None  # "auto": over all GPUs; None: on one device

    def __post_init__(self) -> None:
        if self.quantize not in (None, *QUANTIZE):
            raise ModelError(f"Unknown quantization {shown(self.quantize)}. Use one of: {', '.join(QUANTIZE)}.")
        if self.device_map not in (None, "auto"):
            raise ModelError(f"Unknown device map {shown(self.device_map)}. Use auto, or leave it out.")

    def __bool__(self) -> bool:
        return bool(self.quantize or self.device_map)

    def options(self, device: str, where: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of `from_pretrained`; none where the whole model goes to one device as it is.

        Args:
            device: as it was asked for. where: what it stands for.

        Raises:
            ModelError: it cannot be done on this machine, and what to do.
        """
        options: dict[str, Any] = {}
        if self.device_map:
            if device != "auto":
                raise ModelError("--device-map auto takes all GPUs. Leave --device out, or name one device alone.")
            options["device_map"] = self.device_map
        if self.quantize:
            if where.type != "cuda":
                raise ModelError(
                    f"--quantize {self.quantize} needs a CUDA GPU, and the model would be on '{where.type}'. "
                    "Leave it out, or run rmx where there is one."
                )
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ModelError(
                    f"--quantize {self.quantize} needs the package bitsandbytes: pip install 'rmx-explorer[quantize]'"
                )
            options.setdefault("device_map", {"": where})
            options["quantization_config"] = _bits(self.quantize, dtype)
        return options

    def dtype(self, name: str) -> str:
        """How documents name the dtype: `bfloat16`, or `bfloat16+4bit` where the weights are quantised."""
        return f"{name}+{self.quantize}" if self.quantize else name


PLAIN = Placing()


def split_dtype(dtype: str) -> tuple[str, str | None]:
    """What is computed in, and how the weights are quantised, of a dtype as documents name it."""
    kind, _, quantize = dtype.partition("+")
    return kind, quantize or None


def _bits(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def check_in_memory(spec: str, network: Any) -> None:
    """Refuse a model of which accelerate has left a part on the CPU or the disk, because the GPUs are full.

    Raises:
        ModelError: it has.
    """
    places: Mapping[str, Any] = getattr(network, "hf_device_map", None) or {}
    kinds = {str(place).partition(":")[0] for place in places.values()}
    if "disk" in kinds or ("cpu" in kinds and len(kinds) > 1):
        raise ModelError(f"{spec} does not fit into the memory of these GPUs. Quantise it or take a smaller model.")
