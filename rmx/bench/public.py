"""`rmx bench public`: many visitors at once on a public site while a run trains; every result is checked.

The app and the run are processes of their own; the visitors live in this one. With `kill` both are ended by SIGKILL
half way: the app is started again, and nothing that was finished may be lost.
"""

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from rmx.bench.visitors import FakeVisitor, Task, VisitTally, make_tasks
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError
from rmx.models.load import load
from rmx.recipes.job import TrainJob, resolved
from rmx.recipes.recipe import PRESETS
from rmx.runs.store import RunStore

PROBLEMS, SEEDS, MAX_NEW = 30, (1, 2), 200
EVERY = 5.0  # seconds between two looks at the app's memory
START = 120.0  # seconds that the app may take to answer
DOWN = 45.0  # seconds around a kill in which lost connections are no errors
WARM = 0.25  # share of the time after which memory should no longer grow


class AppProcess:
    """The app in a process of its own, public, with a folder of runs."""

    def __init__(self, runs: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.runs = f"http://127.0.0.1:{self.port}", runs
        self.log = runs / "app.log"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it and wait until it answers; RmxError where it does not."""
        environment = os.environ | {"RMX_PUBLIC": "1", "RMX_RUNS": str(self.runs), "RMX_LOG": "requests"}
        words = [sys.executable, "-m", "rmx", "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        limit = time.monotonic() + START
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.25)
        raise RmxError(f"The app did not start; {self.log} says why.")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def memory(self) -> float:
        """Resident memory in MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return float(text.partition("VmRSS:")[2].split()[0]) / 1024


def bench_public(clients: int = 32, minutes: float = 5.0, kill: bool = False) -> dict[str, Any]:
    """Errors, wrong results, waits and memory of `clients` visitors over `minutes`."""
    with tempfile.TemporaryDirectory(prefix="rmx-public-") as folder:
        site, store = AppProcess(Path(folder)), RunStore(Path(folder))
        tasks = make_tasks(load("mini", device="cpu"), load_set("mini")[:PROBLEMS], SEEDS, MAX_NEW)
        site.start()
        try:
            return asyncio.run(_visited(site, store, tasks, clients, 60 * minutes, kill))
        finally:
            site.stop()
            for run in store.all(everybodys=True):
                if run.alive:
                    store.kill(run.id)


async def _visited(
    site: AppProcess, store: RunStore, tasks: Sequence[Task], clients: int, seconds: float, kill: bool
) -> dict[str, Any]:
    tally, config = VisitTally(), httpx.get(f"{site.url}/config", timeout=60).json()
    began, until = time.monotonic(), time.monotonic() + seconds
    watch = asyncio.create_task(_watch(site, began, until))
    train = asyncio.create_task(_train(store, until))
    crash = asyncio.create_task(_crash(site, store, tally, began + seconds / 2)) if kill else None
    await asyncio.gather(*(FakeVisitor(site.url, config, tasks, i, tally).stay(until) for i in range(clients)))
    memory, trained = await watch, await train
    return _report(tally, memory, trained, clients, seconds) | ({"after_the_kill": await crash} if crash else {})


async def _watch(site: AppProcess, began: float, until: float) -> list[tuple[float, float]]:
    """(seconds since the beginning, MB) of the app."""
    seen = []
    while time.monotonic() < until:
        with suppress(OSError, IndexError, ValueError):  # killed, and not back yet
            seen.append((round(time.monotonic() - began, 1), round(site.memory(), 1)))
        await asyncio.sleep(EVERY)
    return seen


async def _train(store: RunStore, until: float) -> dict[str, int]:
    """One run after the other, as long as the visitors stay; returns how many ended how."""
    ended = Counter[str]()
    while time.monotonic() < until - 10:
        folder = store.create(resolved(TrainJob("mini", "mini", PRESETS["quick"], "quick")))
        await asyncio.to_thread(store.start, folder.id)
        while folder.state not in ("done", "failed") and time.monotonic() < until:
            await asyncio.sleep(1)
            if folder.state == "interrupted":
                await asyncio.to_thread(store.start, folder.id)
                ended["resumed"] += 1
        ended[folder.state] += 1
    return dict(ended)


async def _crash(site: AppProcess, store: RunStore, tally: VisitTally, at: float) -> dict[str, Any]:
    """Kill the app and the run, start the app again, and look at what was finished before."""
    while time.monotonic() < at:
        await asyncio.sleep(0.5)
    finished = [r.id for r in store.all() if r.state == "done"]
    under_way = [r for r in store.all() if r.alive]
    tally.down = (time.monotonic() - 1, time.monotonic() + DOWN)
    site.kill()
    for run in under_way:
        store.kill(run.id)
    await asyncio.to_thread(site.start)
    back = {r.id: r.state for r in store.all()}
    return {
        "runs_finished_before": len(finished),
        "of_them_done_now": sum(back.get(name) == "done" for name in finished),
        "runs_killed": len(under_way),
        "seconds_until_it_answered": round(time.monotonic() - tally.down[0] - 1, 1),
    }


def _report(
    tally: VisitTally, memory: list[tuple[float, float]], trained: dict[str, int], clients: int, seconds: float
) -> dict[str, Any]:
    late = [mb for t, mb in memory if t >= WARM * seconds]
    return {
        "clients": clients,
        "minutes": seconds / 60,
        "done": dict(tally.done),
        "errors": len(tally.errors),
        "first_errors": tally.errors[:5],
        "wrong": len(tally.wrong),
        "first_wrong": tally.wrong[:5],
        "refused": tally.refused,
        "to_first_token_seconds": _spread(tally.first),
        **{f"{verb}_seconds": _spread(values) for verb, values in tally.seconds.items()},
        "memory_mb": {"first": memory[0][1], "warm": late[0], "last": late[-1], "most": max(mb for _, mb in memory)},
        "memory": memory,
        "training": trained,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"n": len(values)}
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(statistics.median(values), 3), "p95": round(cuts[-1], 3), "n": len(values)}
