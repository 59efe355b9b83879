"""Memory for a run: whether there is enough before it starts and before it trains, and what to change where not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from rmx.engine.decoding_memory import is_out_of_memory, out_of_memory
from rmx.errors import TrainError
from rmx.models.load import choose_device
from rmx.models.presets import preset_of
from rmx.recipes.job import TrainJob
from rmx.recipes.recipe import OptimConfig
from rmx.train.plan.estimate import Estimate
from rmx.train.step.lora_policy import LoraPolicy

SPARE = 2.0  # times the weights: keys and values of the rollouts, activations, logits of a chunk
LESS = "a smaller --max-seq-len or --micro-batch"


def check_room(job: TrainJob) -> None:
    """Refuse a run on a GPU with less free memory than the weights of its preset, and what is computed with them."""
    device, preset = choose_device(job.device), preset_of(job.model)
    if device.type != "cuda" or preset is None:
        return
    free, _ = torch.cuda.mem_get_info(device)
    needed = preset.parameters * 1e6 * 2 * SPARE
    if free < needed:
        raise TrainError(
            f"The GPU has {free / 1e9:.1f} GB free and a run on {job.model} needs about {needed / 1e9:.1f} GB. "
            "Unload models in the app, or train a smaller one."
        )


def room_of(device: torch.device) -> int:
    """Bytes that this process has and may still get, on its GPU or in this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return int(psutil.virtual_memory().available + psutil.Process(os.getpid()).memory_info().rss)


def fit(policy: LoraPolicy, estimate: Estimate, room: int) -> str | None:
    """Have the policy compute inner values twice where the estimate does not fit into `room` bytes, and say so."""
    if estimate.memory <= room:
        return None
    needed = f"Training needs about {_gb(estimate.memory)} of memory and {_gb(room)} are there"
    if policy.recompute or not policy.blocks():
        return f"{needed}; should it run out, take {LESS}."
    policy.recompute = True
    told = f"{needed}, so inner values are computed twice rather than kept, as --recompute does: about "
    told += f"{_gb(estimate.recomputed)}, in more time."
    return told if estimate.recomputed <= room else f"{told} Should memory still run out, take {LESS}."


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB"


@contextmanager
def memory_told(stage: str, optim: OptimConfig, device: torch.device, reusable: bool) -> Iterator[None]:
    """Tell what to change where a stage runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        change = _change(stage, optim, reusable)
        raise TrainError(out_of_memory(change, device, f"in the stage {stage}")) from error


def _change(stage: str, optim: OptimConfig, reusable: bool) -> str:
    if stage == "training":
        ways = [] if optim.recompute else ["--recompute"]
        ways.append(f"a --max-seq-len below {optim.max_seq_len}")
        ways += [f"a --micro-batch below {optim.micro_batch}"] if optim.micro_batch > 1 else []
        said = ", ".join(ways[:-1]) + f" or {ways[-1]}" if len(ways) > 1 else ways[0]
        spared = "; --from-rollouts with this run's rollouts.jsonl spares the sampling" if reusable else ""
        return f"Train again with {said}{spared}."
    return "Free memory by closing what else uses it, or take a smaller --max-new-tokens or --max-seq-len."
