"""Several processes on one run, under `accelerate launch`: who does what, who waits for whom, and how gradients add up.

A collective ends with an error after the group's timeout, and one process may sample for hours longer than another: so
processes meet in the launcher's key-value store first. Whoever ends early says so there; one that ends without a word
is known by its missing signs of life.
"""

import atexit
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from rmx.errors import RmxError, Stopped, TrainError, first_line

T = TypeVar("T")
TOGETHER = timedelta(minutes=10)  # in which all processes of a launch have to begin
BEAT = 1.0  # seconds between two signs of life
SILENT = 120  # own signs of life after which a process that gave none counts as gone
LOOK = 0.2  # seconds between two looks whether another process has ended
SOON, LATE = 0.0005, 0.05  # seconds between two looks whether all are there, at first and later
FAREWELL = 20.0  # seconds that a process which fails leaves to the others to end by themselves
OVER, LEFT = "over", "left"  # keys of the store


class Team:
    """The processes of one launch, as each of them sees it."""

    def __init__(self) -> None:
        meetings: Any = rendezvous("env://", timeout=TOGETHER)
        store, self.process_index, self.num_processes = next(meetings)
        self._store: Any = PrefixStore("rmx", store)
        self._met, self._looked = 0, 0.0
        self._beats, self._end = 0, threading.Event()
        self._seen: dict[int, tuple[int, int]] = {}  # of each other process: its last sign of life, and ours then
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        atexit.register(self._hush)

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes."""
        return self.process_index == 0

    @cached_property
    def accelerator(self) -> Accelerator:
        """Made when all are there. Nothing is given to `prepare`: the trainer deals micro-batches itself, so that no
        tail is computed twice and the last, shorter window of an epoch stays exact."""
        self.meet()
        return Accelerator(cpu=not torch.cuda.is_available())

    @property
    def device(self) -> torch.device:
        """Where this process's model belongs."""
        return self.accelerator.device

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        self.meet()
        summed: Any = self.accelerator.reduce(tensor, reduction="sum")
        return torch.as_tensor(summed)

    def collected(self, mine: list[T], key: Callable[[T], Any]) -> list[T]:
        """What all processes have, in the order of one process."""
        assert self.accelerator is not None  # made by all, so that the group is there
        self.meet()
        everything: list[T] = gather_object(mine)
        return sorted(everything, key=key)

    def meet(self) -> None:
        """Wait until all processes are here, however long that takes; Stopped or TrainError where another has ended."""
        for _ in self.waiting():
            pass

    def waiting(self) -> Iterator[None]:
        """The same, with a turn of the caller's between two looks."""
        self._met += 1
        key, pause = f"meeting/{self._met}", SOON
        here = self._store.add(key, 1)
        while here < self.num_processes:
            self._look()
            yield
            time.sleep(pause)
            pause = min(LATE, 2 * pause)
            here = self._store.add(key, 0)

    def count(self, name: str, more: int = 0) -> int:
        """Add to a number that all share; returns what it is then."""
        return int(self._store.add(f"count/{name}", more))

    def stopping(self, wanted: Callable[[], bool]) -> Callable[[], bool]:
        """Whether a stop is `wanted` here or has ended another process."""

        def asked() -> bool:
            try:
                self._look()
            except Stopped:
                return True
            return wanted()

        return asked

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work as one of the team. However the `with` block ends, the others learn of it."""
        try:
            yield
        except KeyboardInterrupt:
            self.leave("stopped")
            raise
        except Exception as error:
            fault = f"{type(error).__name__}: {first_line(error)}"
            self.leave("failed", str(error) if isinstance(error, RmxError) else fault)
            raise

    def leave(self, state: str, message: str = "") -> None:
        """Say that this process ends: done, stopped or failed. Where it fails the others get time to end by
        themselves first, because the launcher ends them as soon as it sees the failure."""
        if state != "done":
            word = json.dumps({"process": self.process_index, "state": state, "message": message})
            self._store.compare_set(OVER, "", word)
        gone, until = self._store.add(LEFT, 1), time.monotonic() + FAREWELL
        while state == "failed" and gone < self.num_processes and time.monotonic() < until:
            time.sleep(LATE)
            gone = self._store.add(LEFT, 0)
        self._hush()

    def _look(self) -> None:
        """Whether all others are still at work; asked of the store a few times a second at most."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        if self._store.check([OVER]):
            word = json.loads(self._store.get(OVER))
            if word["state"] == "stopped":
                raise Stopped
            raise TrainError(_failed(word["process"], word["message"]))
        for process in range(self.num_processes):
            if process != self.process_index and self._is_silent(process):
                raise TrainError(_failed(process, "it ended without a word"))

    def _is_silent(self, process: int) -> bool:
        """Time is counted in this process's own signs of life, so that a pause of the whole machine does not count."""
        beat, (last, since) = self._store.add(f"beat/{process}", 0), self._seen.get(process, (-1, 0))
        if beat != last:
            self._seen[process] = (beat, self._beats)
            return False
        return self._beats - since > SILENT

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            self._store.add(f"beat/{self.process_index}", 1)
            self._beats += 1

    def _hush(self) -> None:
        self._end.set()
        self._heart.join(5.0)


def _failed(process: int, why: str) -> str:
    return f"Process {process} of this run has failed: {why.rstrip('.')}. Resume goes on from what is kept."


def dealt(count: int, team: Team | None) -> range:
    """Which of `count` pieces of work are this process's: every n-th one."""
    if team is None:
        return range(count)
    return range(team.process_index, count, team.num_processes)


def dealt_by(names: Sequence[str], team: Team | None) -> list[int]:
    """Which pieces of work are this process's, where pieces of one name belong together: those of every n-th name."""
    place = {name: nth for nth, name in enumerate(dict.fromkeys(names))}
    mine = set(dealt(len(place), team))
    return [i for i, name in enumerate(names) if place[name] in mine]


def collected(mine: list[T], key: Callable[[T], Any], team: Team | None) -> list[T]:
    """What all processes have, in the order of one process."""
    return mine if team is None else team.collected(mine, key)


@torch.no_grad()
def add_up(params: Iterable[nn.Parameter], team: Team | None) -> None:
    """Replace each gradient by its sum over all processes; one exchange for all of them."""
    if team is None:
        return
    grads = [p.grad for p in params if p.grad is not None]
    summed = team.total(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
