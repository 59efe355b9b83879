"""A run without a model, for tests of processes: `python fake_run.py train --resume ID`, as rmx itself is started.

It is driven by rmx.train.drive like every run; only its stages are replaced, by steps that count. The environment says
how: STEPS, PACE (seconds), FAIL ("fail N", "fault N", "full N": how it fails before which step) and LATE (seconds that
pass before it takes its lock).
"""

import errno
import functools
import os
import sys
import time

from rmx.cli.main import main
from rmx.errors import Stopped, TrainError
from rmx.runs import queue as spawning
from rmx.runs.store import RunStore
from rmx.storage.safe_files import read_json, write_json
from rmx.train import drive


def pipeline(folder, dry, team, stop):
    """Count on from the checkpoint; every second step is one."""
    steps, pace = int(os.environ.get("STEPS", "4")), float(os.environ.get("PACE", "0.02"))
    place = folder.path / "place.json"
    for step in range((read_json(place) or {"step": 0})["step"] + 1, steps + 1):
        if stop():
            write_json(place, {"step": step - 1})
            raise Stopped
        fail_at(step)
        yield "stage", {"stage": "training", "at": step, "of": steps, "left": pace * (steps - step)}
        yield "update", {"optimizer_step": step, "of": steps, "loss": 1 / step}
        if step % 2 == 0:
            write_json(place, {"step": step})
            yield "check", {"optimizer_step": step, "pass@1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}}
        time.sleep(pace)
    yield "done", {"seconds": 1.5, "updates": steps, "niceness": os.nice(0), "threads": os.environ["OMP_NUM_THREADS"],
                   "session": os.getsid(0) == os.getpid(), "torch": "torch" in sys.modules}  # fmt: skip


def fail_at(step):
    how, _, when = os.environ.get("FAIL", "").partition(" ")
    if when == str(step):
        raise {
            "fail": TrainError("No rollout is right. Take easier problems."),
            "fault": ValueError("shapes differ"),
            "full": OSError(errno.ENOSPC, "No space left on device"),
        }[how]


if __name__ == "__main__":
    time.sleep(float(os.environ.get("LATE", "0")))
    drive.pipeline = pipeline
    drive.wait_for_turn = functools.partial(drive.wait_for_turn, pause=0.1)
    spawning.PROGRAM = (sys.executable, __file__)  # what a run that ends starts the next one with
    if sys.argv[3].endswith("-unknown"):
        raise SystemExit(main(["runs", "show", "nobody"]))
    try:
        drive.drive(RunStore().get(sys.argv[3]))
    except TrainError as error:
        raise SystemExit(f"rmx train: {error}") from error
