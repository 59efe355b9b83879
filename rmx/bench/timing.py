"""What the benchmarks share: models, things timed in turn, ratios with intervals, peaks of memory, and the machine."""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import transformers

from rmx.models.load import PLAIN, Model, Placing, choose_device, load
from rmx.models.stand_ins import random_model
from rmx.stats.intervals import bootstrap_median

PROBLEM = "Explain in detail how rain forms, from the sea to the ground, and why some places get more of it."
DEFAULT = "smollm2-135m-instruct-q4_1"

Load = Callable[[], Model]  # loads the same model once more at each call
Work = Callable[[], Any]


def open_model(name: str, device: str, dtype: str, placing: Placing = PLAIN) -> Model:
    """Load a model, or make a `random:` one."""
    shape = name.removeprefix("random:")
    return random_model(shape, device, dtype) if shape != name else load(name, device, dtype, placing=placing)


@contextmanager
def pinned(model: Model) -> Iterator[None]:
    """One thread on one core for the length of a `with` block; a GPU needs neither."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if on_cpu := model.engine.device.type == "cpu":
        torch.set_num_threads(1)
        if cores:
            os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores and on_cpu:
            os.sched_setaffinity(0, cores)


def environment(model: Model | None) -> dict[str, Any]:
    """Device, dtype and versions, without which a figure means nothing."""
    device = model.engine.device if model else torch.device("cpu")
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _line_of("/proc/cpuinfo", "model name") or "cpu",
        "model": model.spec if model else None,
        "dtype": model.dtype if model else None,
        "peak_gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6 if cuda else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def alternate(a: Work, b: Work, rounds: int, cuda: bool) -> list[list[float]]:
    """Seconds of a and b, in alternating order, after one warm-up each."""
    a(), b()
    return in_turn((a, b), rounds, cuda)


def in_turn(work: Sequence[Work], rounds: int, cuda: bool) -> list[list[float]]:
    """Seconds of each piece of work, one after the other, forwards and backwards by turns."""
    times: list[list[float]] = [[] for _ in work]
    for i in range(rounds):
        for which in range(len(work)) if i % 2 == 0 else reversed(range(len(work))):
            times[which].append(seconds_of(work[which], cuda))
    return times


def seconds_of(work: Work, cuda: bool) -> float:
    """Process CPU time of a piece of work; on CUDA wall time to the end of its kernels."""
    if cuda:
        torch.cuda.synchronize()
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    work()
    if cuda:
        torch.cuda.synchronize()
    return clock() - began


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """The median of the paired ratios with its interval."""
    return bootstrap_median([s / f for s, f in zip(slow, fast, strict=True)])


def milliseconds(per: int = 1, **seconds: Sequence[float]) -> dict[str, float]:
    """The median of each, in milliseconds, for one of `per` things done."""
    return {name: 1000 * statistics.median(values) / per for name, values in seconds.items()}


def endless(model: Model) -> Model:
    """The same model without its end tokens, so that both sides decode equally many."""
    twin = Model(model.spec, model.revision, model.dtype, model.engine, model.tokenizer, model.style, model.tau)
    twin.stop_ids = frozenset()
    return twin


def peaks_of(work: Callable[..., None], sides: Sequence[str], device: str, *words: str) -> dict[str, float] | None:
    """Peak memory in MB of each side of a piece of work; None where the system does not tell it.

    On a CPU each side has a process of its own, `python -m MODULE SIDE DEVICE WORDS`, which calls `tell_peak`. On CUDA
    the allocator counts within this process, from what is there before: starting one takes longer than the work.
    """
    if (where := choose_device(device)).type == "cuda":
        return {side: _gpu_peak(where, partial(work, side, device, *words)) for side in sides}
    found: dict[str, Any] = {}
    for side in sides:
        command = [sys.executable, "-m", work.__module__, side, device, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that measures the memory of {side} failed:\n{done.stderr}")
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return None if None in found.values() else found


def _gpu_peak(device: torch.device, work: Work) -> float:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def tell_peak() -> None:
    """Print the peak resident memory of this process in MB as JSON."""
    # Unlike getrusage, VmHWM does not count the process that this one was forked from; Linux only.
    resident = _line_of("/proc/self/status", "VmHWM")
    sys.stdout.write(json.dumps(int(resident.split()[0]) * 1024 / 1e6 if resident else None) + "\n")


def _line_of(path: str, name: str) -> str | None:
    """What a line of a file says after a name and a colon; None where there is no such file or line."""
    with suppress(OSError), open(path, encoding="utf-8") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
    return None
