"""Checkpoint folders: the adapter in PEFT's format, the optimizer's moments, the place in the run. All or nothing."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rmx.errors import TrainError, first_line
from rmx.train.step.lora_policy import LoraPolicy, load_weights

log = logging.getLogger(__name__)
WEIGHTS = "adapter_model.safetensors"
OPTIMIZER, PLACE = "optimizer.safetensors", "place.json"


def save(folder: Path, policy: LoraPolicy, optimizer: torch.optim.Optimizer, place: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, force it to disk, and give it its name in one move."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        work.chmod(0o755)
        policy.save_adapter(work)
        moments = {
            f"{name}/{kind}": value.detach().cpu().contiguous()
            for name, p in policy.trained().items()
            for kind, value in optimizer.state.get(p, {}).items()
        }
        save_file(moments, work / OPTIMIZER)
        (work / PLACE).write_text(json.dumps(place) + "\n", encoding="utf-8")
        for path in (*work.iterdir(), work):
            _sync(path)
        _move(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def restore(folder: Path, policy: LoraPolicy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load a checkpoint; returns the place that was saved with it."""
    try:
        place: dict[str, Any] = json.loads((folder / PLACE).read_text(encoding="utf-8"))
        moments = load_file(folder / OPTIMIZER)
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainError(f"The checkpoint {folder.name} cannot be read: {first_line(error)}") from error
    load_weights(policy.network, folder)
    params = policy.trained()
    if moments and {key.rpartition("/")[0] for key in moments} != set(params):
        raise TrainError(f"The checkpoint {folder.name} belongs to another adapter.")
    optimizer.state.clear()
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        optimizer.state[params[name]][kind] = value if kind == "step" else value.to(policy.device)
    return place


def whole(folder: Path) -> bool:
    """Whether a run can go on from this checkpoint: adapter, optimizer and place are there, and not cut short."""
    try:
        for weights in (folder / WEIGHTS, folder / OPTIMIZER):
            with safe_open(weights, framework="pt"):  # compares the file's length with what its header names
                pass
        return isinstance(json.loads((folder / PLACE).read_text(encoding="utf-8")), dict)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        log.warning("The checkpoint %s is damaged (%s); the run goes on from before it.", folder.name, error)
        return False


def shed(folder: Path, keep_adapter: bool) -> None:
    """Free what only a restart needs; without `keep_adapter` the whole folder."""
    if keep_adapter:
        (folder / PLACE).unlink(missing_ok=True)
        (folder / OPTIMIZER).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _move(work: Path, folder: Path) -> None:
    """Rename onto the final name; one that is there already, from before an interruption, makes way first."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        folder.rename(old / folder.name)
        work.rename(folder)
        shutil.rmtree(old)
    else:
        work.rename(folder)
    _sync(folder.parent)


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Draws inside depend on seed and step alone; the generators outside stay as they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((seed * 1_000_003 + step) % 2**64)
        yield
