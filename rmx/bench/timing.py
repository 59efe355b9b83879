"""What the benchmarks share: models, two things timed in turn, ratios with intervals, and the machine."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import StoppingCriteria

from rmx.models.load import Model, load
from rmx.models.placing import PLAIN, Placing
from rmx.models.stand_ins import random_model
from rmx.stats.intervals import bootstrap_median

PROBLEM = "Explain in detail how rain forms, from the sea to the ground, and why some places get more of it."


DEFAULT = "smollm2-135m-instruct-q4_1"


def open_model(name: str, device: str, dtype: str, placing: Placing = PLAIN) -> Model:
    """Load a model, or make a `random:` one."""
    shape = name.removeprefix("random:")
    return random_model(shape, device, dtype) if shape != name else load(name, device, dtype, placing=placing)


class pinned:
    """One thread on one core for the length of a `with` block; a GPU needs neither."""

    def __init__(self, model: Model) -> None:
        self.cpu = model.engine.device.type == "cpu"

    def __enter__(self) -> None:
        self.threads = torch.get_num_threads()
        self.cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        if self.cpu:
            torch.set_num_threads(1)
            if self.cores:
                os.sched_setaffinity(0, {min(self.cores)})

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        if self.cores and self.cpu:
            os.sched_setaffinity(0, self.cores)


def environment(model: Model | None) -> dict[str, Any]:
    """Device, dtype and versions, without which a figure means nothing."""
    device = model.engine.device if model else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "model": model.spec if model else None,
        "dtype": model.dtype if model else None,
        "peak_gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"


def alternate(a: Callable[[], Any], b: Callable[[], Any], rounds: int, cuda: bool) -> tuple[list[float], list[float]]:
    """Seconds of a and b, in alternating order, after one warm-up each."""
    a(), b()
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append(_timed((a, b)[which], cuda))
    return times


def _timed(f: Callable[[], Any], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    f()
    if cuda:
        torch.cuda.synchronize()
    return clock() - began


def ratio(slow: list[float], fast: list[float]) -> dict[str, Any]:
    return bootstrap_median([s / f for s, f in zip(slow, fast, strict=True)])


def _endless(model: Model) -> Model:
    """The same model without its end tokens, so that both sides decode equally many."""
    twin = Model(model.spec, model.revision, model.dtype, model.engine, model.tokenizer, model.style, model.tau)
    twin.stop_ids = frozenset()
    return twin


SAMPLES, SHORTEST, LONGEST = 64, 8, 64  # rows, and how many tokens each gets


def _resident_peak() -> float | None:
    """VmHWM in MB. Unlike getrusage it does not count the process that this one was forked from; Linux only."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)


class Script(StoppingCriteria):
    """Ends each row when it has its number of tokens."""

    def __init__(self, prompt: int, lengths: Tensor) -> None:
        self.ends = prompt + lengths

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] >= self.ends


@contextmanager
def never_ending(network: Any) -> Iterator[None]:
    """No end token for the length of a `with` block."""
    before = network.generation_config.eos_token_id
    network.generation_config.eos_token_id = None
    try:
        yield
    finally:
        network.generation_config.eos_token_id = before
