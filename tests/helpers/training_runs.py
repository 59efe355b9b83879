"""Small runs on the miniature for the tests of the train road, each in a process that can be killed."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmx.runs.folder import RunFolder
from rmx.runs.job import TrainJob
from rmx.runs.recipe import SMALL, Recipe
from rmx.runs.store import RunStore

TINY = SMALL.with_(
    problems=8,
    k=6,
    select=4,
    lr=1e-3,
    warmup_steps=1,
    micro_batch=3,
    grad_accum=2,
    epochs=2,
    checkpoint_every=0.5,
    validation=6,
    validation_k=2,
    test=6,
    rank=4,
    alpha=8,
    guards=False,
)


def tiny_run(root: Path, name: str = "run", recipe: Recipe = TINY, **job: Any) -> RunFolder:
    """A run of seconds, not started."""
    return RunStore(root).create(TrainJob(recipe=recipe, preset="small", **job), path=root / name)


def work(path: str, dry: bool = False) -> None:
    """What the process of a run does."""
    import torch

    from rmx.train.drive import drive

    torch.set_num_threads(1)
    drive(RunFolder(Path(path)), dry=dry)


def processes() -> Any:
    """Where processes come from that have everything imported already and have never computed a gradient."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rmx.train.pipeline", "rmx.train.drive"])
    return context


def begin(folder: RunFolder, dry: bool = False) -> Any:
    process = processes().Process(target=work, args=(str(folder.path), dry), daemon=True)
    process.start()
    return process


def finish(folder: RunFolder) -> RunFolder:
    """Let the run come to its end."""
    process = begin(folder)
    process.join(240)
    assert process.exitcode == 0, folder.status
    return folder


def kill_in(folder: RunFolder, reached: Callable[[RunFolder], bool], after: float) -> bool:
    """Start the run and SIGKILL it a moment after it has come so far; False where it ended before."""
    process = begin(folder)
    limit = time.monotonic() + 120
    while process.is_alive() and not reached(folder) and time.monotonic() < limit:
        time.sleep(0.002)
    time.sleep(after)
    was_alive = process.is_alive()
    process.kill()
    process.join(20)
    return was_alive


def delays(seed: int, most: float) -> list[float]:
    """Five random moments."""
    draw = random.Random(seed)
    return [draw.uniform(0, most) for _ in range(5)]


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
