"""`rmx bench`: how fast the hot paths are here, as ratios of two things measured alternately in one run.

One pinned thread, process CPU time (wall time on CUDA), medians of paired ratios with a bootstrap interval. Absolute
figures are printed for orientation only: they move with the machine, the ratios hardly do.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from rmx.config import TOP_KEPT, Sampling
from rmx.engine.batch import continue_batch
from rmx.engine.engine import Engine
from rmx.engine.entropy import capture
from rmx.errors import RmxError
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model, load
from rmx.models.placing import PLAIN, Placing
from rmx.models.random_weights import random_model
from rmx.stats.intervals import bootstrap_median

PROBLEM = "Explain in detail how rain forms, from the sea to the ground, and why some places get more of it."
DEFAULT = "smollm2-135m-instruct-q4_1"


def run(
    what: str,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    rounds: int = 7,
    placing: Placing = PLAIN,
    **forks: Any,
) -> dict[str, Any]:
    """Run one benchmark; returns a flat document with `environment`.

    Args:
        forks: arguments of `bench_forks`; no other benchmark takes them.
    """
    if rounds < 1:
        raise RmxError(f"--rounds must be 1 or more; got {rounds}.")
    if placing and (what in ("ui", "pair", "train") or (model or DEFAULT).startswith("random:")):
        raise RmxError("This measures whole weights on one device. Leave --quantize and --device-map out.")
    if what == "ui":
        from rmx.bench.ui import bench_ui

        return bench_ui(rounds) | {"environment": environment(None)}
    if what == "forks":
        from rmx.explore.flip_rates import bench_forks

        loaded = load(model or "mini", device, dtype, placing=placing)
        return bench_forks(loaded, **forks) | {"environment": environment(loaded)}
    name = model or DEFAULT
    loaded = open_model(name, device, dtype, placing)
    measures: dict[str, Callable[[Model, int], dict[str, Any]]] = {"decode": decode, "swap": swap, "branches": branches}
    if what == "rollouts":
        from rmx.bench.rollouts import bench_rollouts

        measures = {"rollouts": bench_rollouts}
    if what == "train":
        from rmx.bench.train import bench_train

        measures = {"train": lambda base, n: bench_train(base, n, name, device, dtype)}
    if what in ("pair", "outcomes"):
        from rmx.bench.pair import bench_outcomes, bench_pair, peaks

        again = partial(open_model, name, device, dtype)
        measures = {
            "pair": lambda base, n: bench_pair(base, again, n) | peaks(name, device, dtype),
            "outcomes": bench_outcomes,
        }
    with pinned(loaded):
        result = measures[what](loaded, rounds)
    return result | {"environment": environment(loaded)}


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


@torch.inference_mode()
def decode(model: Model, rounds: int, tokens: int = 64) -> dict[str, Any]:
    """Decoding with full capture against `generate()` without any scores; what the capture itself costs."""
    engine, ids = model.engine, model.prompt_ids(PROBLEM)
    prompt = torch.tensor([ids], device=engine.device)
    quiet = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": 0}
    engine.model.generation_config.eos_token_id = None  # both sides decode equally many tokens
    endless = _endless(model)

    def plain() -> Any:
        return engine.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, **quiet)

    def ours() -> list[int]:
        engine.prefixes.clear()
        job = Job(ids, Sampling(max_new_tokens=tokens), model.tau)
        return Generation(endless, job).run().ids

    wanted = plain()[0, len(ids) :].tolist()
    got = ours()
    if len(got) != len(wanted):
        raise RuntimeError(f"unequal work: {len(got)} tokens against {len(wanted)}")
    cuda = engine.device.type == "cuda"
    slow, fast = alternate(plain, ours, rounds, cuda)
    logits = engine.open(ids).logits[None]
    captures = [_timed(lambda: capture(logits, TOP_KEPT), cuda) for _ in range(200)]
    step = statistics.median(fast) / tokens
    cost = statistics.median([sum(captures[i : i + 20]) / 20 for i in range(0, 200, 20)])
    return {
        "generate_without_scores / rmx_with_capture": ratio(slow, fast),
        "same_tokens": got == wanted,
        "capture_share_of_a_step": cost / step,
        "ms_per_token": 1000 * step,
        "capture_ms": 1000 * cost,
    }


def _endless(model: Model) -> Model:
    """The same model without its end tokens, so that both sides decode equally many."""
    twin = Model(model.spec, model.revision, model.dtype, model.engine, model.tokenizer, model.style, model.tau)
    twin.stop_ids = frozenset()
    return twin


@torch.inference_mode()
def swap(model: Model, rounds: int, total: int = 256, at: int = 200) -> dict[str, Any]:
    """A swap's next distribution from the cached prefix, against running prompt and prefix again."""
    engine, ids = model.engine, list(model.prompt_ids(PROBLEM))
    kept, alternatives = _long_solution(model, ids, total, at)
    forced = [*ids, *kept, alternatives[1]]
    tokens = torch.tensor([forced], device=engine.device)

    def plain() -> torch.Tensor:
        cache = DynamicCache(config=engine.config)
        return engine.model(tokens, past_key_values=cache, use_cache=True).logits[0, -1]

    def ours() -> torch.Tensor:
        logits = engine.open(forced).logits
        capture(logits[None], TOP_KEPT)
        return logits

    difference = (plain().float() - ours().float()).abs().max().item()
    slow, fast = alternate(plain, ours, rounds, engine.device.type == "cuda")
    return {
        "plain_re-run / swap": ratio(slow, fast),
        "reused": engine.open(forced).reuse.reused,
        "max_logit_difference": difference,
        "swap_ms": 1000 * statistics.median(fast),
    }


@torch.inference_mode()
def branches(model: Model, rounds: int, at: int = 200, length: int = 24) -> dict[str, Any]:
    """Five look-aheads as one batch from the shared prefix, against running the prefix again for each."""
    engine, ids = model.engine, list(model.prompt_ids(PROBLEM))
    kept, firsts = _long_solution(model, ids, 256, at)
    prefix = [*ids, *kept]

    def each() -> list[list[int]]:
        return [_alone(engine, prefix, token, length) for token in firsts]

    def batch() -> list[list[int]]:
        return continue_batch(engine, prefix, firsts, max_new=length, over=lambda row, token: False)

    same = each() == batch()
    slow, fast = alternate(each, batch, rounds, engine.device.type == "cuda")
    return {
        "prefix_for_each / one_batch": ratio(slow, fast),
        "same_tokens": same,
        "batch_ms": 1000 * statistics.median(fast),
    }


def _long_solution(model: Model, ids: list[int], total: int, at: int) -> tuple[list[int], list[int]]:
    """Greedy tokens up to `at` and the five likeliest there; all `total` positions are in the prefix cache after."""
    engine = model.engine
    stream = engine.open(ids)
    top: list[int] = []
    while len(stream.ids) < len(ids) + total:
        if len(stream.ids) == len(ids) + at:
            top = stream.logits.topk(5).indices.tolist()
        stream.feed(int(stream.logits.argmax()))
    stream.save()
    return stream.ids[len(ids) : len(ids) + at], top


def _alone(engine: Engine, prefix: list[int], first: int, length: int) -> list[int]:
    stream = engine.open([*prefix, first], reuse=False)
    row = [first]
    while len(row) < length:
        row.append(int(stream.logits.argmax()))
        if len(row) < length:
            stream.feed(row[-1])
    return row
