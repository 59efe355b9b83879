"""`rmx bench`: how fast the hot paths are here, as ratios of two things measured alternately in one run.

One pinned thread, process CPU time (wall time on CUDA), medians of paired ratios with a bootstrap interval. Absolute
figures are printed for orientation only: they move with the machine, the ratios hardly do.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from rmx.bench.base_and_adapter import bench_pair
from rmx.bench.base_and_adapter import peaks as pair_peaks
from rmx.bench.decoding import bench_outcomes, bench_rollouts, branches, decode, streams, swap
from rmx.bench.timing import DEFAULT, environment, open_model, pinned
from rmx.bench.train_step import bench_train
from rmx.bench.ui import bench_ui
from rmx.errors import RmxError
from rmx.explore.flip_rates import bench_forks
from rmx.models.load import PLAIN, Model, Placing, load


def run(
    what: str,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    rounds: int = 7,
    placing: Placing = PLAIN,
    **forks: Any,
) -> dict[str, Any]:
    """Run one benchmark; returns a flat document with `environment`. `forks` are arguments of `bench_forks` alone."""
    if rounds < 1:
        raise RmxError(f"--rounds must be 1 or more; got {rounds}.")
    if placing and (what in ("ui", "pair", "train") or (model or DEFAULT).startswith("random:")):
        raise RmxError("This measures whole weights on one device. Leave --quantize and --device-map out.")
    if what == "ui":
        return bench_ui(rounds) | {"environment": environment(None)}
    if what == "forks":
        loaded = load(model or "mini", device, dtype, placing=placing)
        return bench_forks(loaded, **forks) | {"environment": environment(loaded)}
    name = model or DEFAULT
    again = partial(open_model, name, device, dtype)
    measures: dict[str, Callable[[Model, int], dict[str, Any]]] = {
        "decode": decode,
        "swap": swap,
        "branches": branches,
        "streams": streams,
        "outcomes": bench_outcomes,
        "rollouts": bench_rollouts,
        "pair": lambda base, n: bench_pair(base, again, n) | pair_peaks(name, device, dtype),
        "train": lambda base, n: bench_train(base, n, name, device, dtype),
    }
    loaded = open_model(name, device, dtype, placing)
    with pinned(loaded):
        result = measures[what](loaded, rounds)
    return result | {"environment": environment(loaded)}
