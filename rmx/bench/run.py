"""`rmx bench`: how fast the hot paths are here, as ratios of two things measured alternately in one run.

One pinned thread, process CPU time (wall time on CUDA), medians of paired ratios with a bootstrap interval. Absolute
figures are printed for orientation only: they move with the machine, the ratios hardly do.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from rmx.bench.decoding import branches, decode, swap
from rmx.bench.pair import bench_outcomes, bench_pair, peaks
from rmx.bench.rollouts import bench_rollouts
from rmx.bench.timing import DEFAULT, environment, open_model, pinned
from rmx.bench.train import bench_train
from rmx.errors import RmxError
from rmx.explore.flip_rates import bench_forks
from rmx.models.load import Model, load
from rmx.models.placing import PLAIN, Placing


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
        loaded = load(model or "mini", device, dtype, placing=placing)
        return bench_forks(loaded, **forks) | {"environment": environment(loaded)}
    name = model or DEFAULT
    loaded = open_model(name, device, dtype, placing)
    again = partial(open_model, name, device, dtype)
    measures: dict[str, Callable[[Model, int], dict[str, Any]]] = {
        "decode": decode,
        "swap": swap,
        "branches": branches,
        "rollouts": bench_rollouts,
        "train": lambda base, n: bench_train(base, n, name, device, dtype),
        "pair": lambda base, n: bench_pair(base, again, n) | peaks(name, device, dtype),
        "outcomes": bench_outcomes,
    }
    with pinned(loaded):
        result = measures[what](loaded, rounds)
    return result | {"environment": environment(loaded)}
