"""`rmx train …` in a group that gives up after two seconds, with processes that take longer.

`slow_processes.py WHAT train …`, where WHAT is one of
slow: rollouts of the second process and checks of the first take three seconds more
stop: a stop is asked for while the first checkpoint is checked
fail: the second process fails there
"""

import os
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import accelerate
from accelerate.utils import InitProcessGroupKwargs

from rmx.cli.main import main
from rmx.errors import RmxError
from rmx.train import data_stages as first_stages
from rmx.train import heldout as greedy
from rmx.train.step import processes

SLOW = 3.0  # seconds; the group's timeout is two
RANK = int(os.environ.get("RANK", "0"))


def slowed(work, rank):
    """The same work; the process of this rank pauses before it."""

    def paused(*args, **kwargs):
        if rank == RANK:
            time.sleep(SLOW)
        return work(*args, **kwargs)

    return paused


def ended(work, what, out):
    """The same work up to the check of the first checkpoint, which it ends."""

    def ending(model, problems, adapter, *args, **kwargs):
        if adapter and RANK == 1:
            if what == "fail":
                raise RmxError("The second process has broken down.")
            (out / "stop").touch()
        return work(model, problems, adapter, *args, **kwargs)

    return ending


if __name__ == "__main__":
    what, flags = sys.argv[1], sys.argv[2:]
    group = InitProcessGroupKwargs(timeout=timedelta(seconds=2))
    processes.Accelerator = partial(accelerate.Accelerator, kwargs_handlers=[group])
    if what == "slow":
        first_stages.sample_rollouts = slowed(first_stages.sample_rollouts, 1)
        greedy.solve = slowed(greedy.solve, 0)
    else:
        greedy.solve = ended(greedy.solve, what, Path(flags[flags.index("--out") + 1]))
    sys.exit(main(flags))
