"""`rmx bench public`: many visitors at once on a public site; every result is checked. With `mini` a run trains too.

Each visitor behaves like an open page over HTTP, and compares what it gets with a cold run. They speak the page's own
protocol (queue, event stream, questions), so what they meet is what a browser meets.

The app and the run are processes of their own; the visitors live in this one. With `kill` both are ended by SIGKILL
half way: the app is started again, and nothing that was finished may be lost.
"""

import asyncio
import json
import os
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from rmx.arguments import Sampling
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError
from rmx.explore.generate import Generation, Job, swap_job
from rmx.models.load import Model, load
from rmx.records import Problem, Trace
from rmx.runs.job import TrainJob, resolved
from rmx.runs.recipe import PRESETS
from rmx.runs.store import RunStore

NEAR = 1e-3  # nats; entropies of a cached and of a cold run agree within that
QUIET = 60.0  # seconds without a word after which a stream counts as hung


@dataclass(frozen=True)
class Task:
    """A problem, how it is solved, what comes of it, and a swap at one of its forks with what comes of that."""

    problem: Problem
    sampling: Sampling
    cold: Trace
    pos: int
    token_id: int
    swapped: Trace


def make_tasks(model: Model, problems: Sequence[Problem], seeds: Sequence[int], max_new: int) -> list[Task]:
    """Every problem greedily and with each seed; nothing is reused between the runs."""
    tasks = []
    for problem in problems:
        for sampling in (Sampling(max_new_tokens=max_new), *(Sampling(0.8, 1.0, s, max_new) for s in seeds)):
            job = Job(model.prompt_ids(problem.problem), sampling, model.tau, None, problem.answer, cold=True)
            cold = Generation(model, job).run()
            pos = max(range(len(cold.tokens)), key=lambda i: cold.tokens[i].entropy)
            token = next(c.id for c in cold.tokens[pos].top if c.id != cold.tokens[pos].id)
            swapped = Generation(model, swap_job(job, cold.tokens, pos, [token], model.engine.vocab_size)).run()
            tasks.append(Task(problem, sampling, cold, pos, token, swapped))
    return tasks


@dataclass
class VisitTally:
    """What all visitors met."""

    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # verb -> from asking to the last word
    first: list[float] = field(default_factory=list)  # seconds from asking to the first token
    refused: int = 0  # politely: a sentence and a 429
    down: tuple[float, float] = (0.0, 0.0)  # monotonic; while the app was killed, lost connections are no errors

    def excused(self) -> bool:
        return self.down[0] <= time.monotonic() <= self.down[1]


class Page:
    """One open tab.

    Args:
        address: where its visitor comes from, as a proxy says it; None: from this machine.
    """

    def __init__(self, url: str, config: dict[str, Any], address: str | None = None) -> None:
        limits, timeout = httpx.Limits(max_connections=8), httpx.Timeout(30.0, read=QUIET)
        headers = {"x-forwarded-for": address} if address else {}
        self.client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, headers=headers)
        self.session = secrets.token_hex(6)
        self.events = {d["api_name"]: d for d in config["dependencies"] if d.get("api_name")}
        self.parts = {c["id"]: c["props"] for c in config["components"]}
        self.view = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "view")
        self._heart: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Get the page (and its cookie), and keep the connection by which the app sees that the tab is there."""
        (await self.client.get("/")).raise_for_status()
        self._heart = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        with suppress(httpx.HTTPError):
            async with self.client.stream("GET", f"/gradio_api/heartbeat/{self.session}", timeout=None) as beats:
                async for _ in beats.aiter_bytes():
                    pass

    async def close(self) -> None:
        """The tab is closed, whatever is under way."""
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
        await self.client.aclose()

    async def ask(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        """A question of the view."""
        body = {"session_hash": self.session, "component_id": self.view, "fn_name": name, "data": data}
        return dict(await self.send("/gradio_api/component_server", body))

    async def trigger(
        self, name: str, form: Mapping[str, Any] | None = None, event: dict[str, Any] | None = None
    ) -> str:
        """Set an event off; returns its id.

        Args:
            form: what a visitor has changed of the form that the event reads, by the ids of its elements.
        """
        asked, parts = self.events[name], [self.parts[i] for i in self.events[name]["inputs"]]
        data = [(form or {}).get(part.get("elem_id"), part.get("value")) for part in parts]
        body = {"data": data, "fn_index": asked["id"], "session_hash": self.session, "event_data": event}
        return str((await self.send("/gradio_api/queue/join", body))["event_id"])

    async def send(self, path: str, body: dict[str, Any]) -> Any:
        reply = await self.client.post(path, json=body)
        reply.raise_for_status()
        return reply.json()

    @asynccontextmanager
    async def listening(self, event: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The messages of one event. Leaving the block closes the stream, as closing the tab does."""
        async with self.client.stream("GET", f"/gradio_api/queue/data?session_hash={self.session}") as stream:
            stream.raise_for_status()

            async def messages() -> AsyncIterator[dict[str, Any]]:
                async for line in stream.aiter_lines():
                    message = json.loads(line[5:]) if line.startswith("data:") else {}
                    if message.get("event_id") == event:
                        yield message

            yield messages()


class FakeVisitor:
    """Does what visitors do, again and again: solve, swap, stop, close the tab, use the API."""

    def __init__(self, url: str, config: dict[str, Any], tasks: Sequence[Task], seed: int, tally: VisitTally) -> None:
        self.url, self.config, self.tasks, self.tally = url, config, tasks, tally
        self.draw, self.address = random.Random(seed), f"198.51.100.{1 + seed % 250}"

    async def stay(self, until: float) -> None:
        while time.monotonic() < until:
            page = Page(self.url, self.config, self.address)
            try:
                await page.open()
                for _ in range(self.draw.randint(1, 6)):
                    if time.monotonic() > until or not await self._once(page):
                        break
                    await asyncio.sleep(self.draw.expovariate(2.0))
            except Exception as error:  # noqa: BLE001  whatever a visitor meets is counted
                self._note(error)
                await asyncio.sleep(1)
            finally:
                await page.close()

    def _note(self, error: Exception) -> None:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 429:
            self.tally.refused += 1
        elif not (isinstance(error, httpx.HTTPError) and self.tally.excused()):
            self.tally.errors.append(f"{type(error).__name__}: {error}"[:300])

    async def _once(self, page: Page) -> bool:
        """One thing that a visitor does; False where the tab is closed by it."""
        task, what = self.draw.choice(self.tasks), self.draw.random()
        if what < 0.2:
            await self._by_api(page, task)
            return True
        began = time.monotonic()
        s = task.sampling
        form = {"problem": task.problem.problem, "answer": task.problem.answer, "tau": task.cold.tau, "seed": s.seed}
        form |= {"temperature": s.temperature, "top-p": s.top_p, "max-new": s.max_new_tokens}
        event = await page.trigger("solve", form)
        async with page.listening(event) as messages:
            if what < 0.35:
                await self._part_way(page, messages, task, close=what < 0.27)
                return what >= 0.27
            run = await self._to_the_end(messages, "trace", began)
        if run is None:
            return True
        await self._check(page, run, task.cold, "trace")
        if what < 0.8:
            await self._swap(page, run, task)
        return True

    async def _to_the_end(self, messages: Any, verb: str, began: float) -> str | None:
        """Read a stream of the page to its end; returns the run's id."""
        last: dict[str, Any] = {}
        spoke = False
        async for message in messages:
            if message["msg"] == "process_generating" and not spoke and has_tokens(message["output"]["data"]):
                spoke = True
                self.tally.first.append(time.monotonic() - began)
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise RuntimeError(f"{verb} failed: {message['output']}")
                last = (message["output"]["data"] or [{}])[0]
                break
        if last.get("error"):
            if "already" in last["error"]:
                self.tally.refused += 1
                return None
            raise RuntimeError(last["error"])
        if not last.get("done"):
            if self.tally.excused():
                return None
            raise RuntimeError(f"{verb} ended without its last message")
        self.tally.done[verb] += 1
        self.tally.seconds.setdefault(verb, []).append(time.monotonic() - began)
        return str(last["run"])

    async def _check(self, page: Page, run: str, cold: Trace, verb: str) -> None:
        """All of a run, as the page repairs gaps, against the cold run."""
        whole = await page.ask("tail", {"run": run, "start": 0})
        if why := differs(whole, cold):
            self.tally.wrong.append(f"{verb}: {why}"[:300])
        self.tally.done["checked"] += 1

    async def _swap(self, page: Page, run: str, task: Task) -> None:
        seen = await page.ask("inspect", {"run": run, "pos": task.pos})
        if [c["id"] for c in seen["top"][:5]] != [c.id for c in task.cold.tokens[task.pos].top[:5]]:
            self.tally.wrong.append("inspect: another distribution")
        began = time.monotonic()
        event = await page.trigger("pick", event={"run": run, "pos": task.pos, "token_ids": [task.token_id]})
        async with page.listening(event) as messages:
            branch = await self._to_the_end(messages, "swap", began)
        if branch is not None:
            await self._check(page, branch, task.swapped, "swap")

    async def _part_way(self, page: Page, messages: Any, task: Task, close: bool) -> None:
        """Stop after the first words, or close the tab; what was said so far is the beginning of the cold run."""
        run = None
        async for message in messages:
            if message["msg"] == "process_generating":
                run = message["output"]["data"][0].get("run") if isinstance(message["output"]["data"][0], dict) else run
                break
            if message["msg"] == "process_completed":
                return
        if close:
            self.tally.done["closed"] += 1
            return
        if run is not None:
            await page.trigger("halt", event={"run": run})
            async for message in messages:
                if message["msg"] == "process_completed":
                    break
            whole = await page.ask("tail", {"run": run, "start": 0})
            texts = [t[0] for t in whole["toks"]]
            if texts != [t.text for t in task.cold.tokens[: len(texts)]]:
                self.tally.wrong.append("stopped: not the beginning of the cold run")
        self.tally.done["stopped"] += 1

    async def _by_api(self, page: Page, task: Task) -> None:
        """The same by the named endpoint, token by token by id."""
        s, began = task.sampling, time.monotonic()
        asked = {"prompt": task.problem.problem, "answer": task.problem.answer, "temperature": s.temperature}
        asked |= {"seed": s.seed, "max_new_tokens": s.max_new_tokens}
        event, document = (await page.send("/gradio_api/call/v2/trace", asked))["event_id"], None
        async with page.client.stream("GET", f"/gradio_api/call/trace/{event}") as stream:
            kind = ""
            async for line in stream.aiter_lines():
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:") and kind in ("complete", "error"):
                    document = json.loads(line[5:])
                    break
        if kind != "complete" or not document:
            if kind == "error" and "already" in json.dumps(document):
                self.tally.refused += 1
                return
            raise RuntimeError(f"api trace: {kind} {document}")
        if [t["id"] for t in document[0]["tokens"]] != task.cold.ids:
            self.tally.wrong.append("api trace: other tokens")
        self.tally.done["api"] += 1
        self.tally.seconds.setdefault("api", []).append(time.monotonic() - began)


def differs(whole: dict[str, Any], cold: Trace) -> str | None:
    """Where a run that the page holds is not the cold run; None: nowhere."""
    found, wanted = whole.get("toks", []), list(cold.tokens)
    if len(found) != len(wanted):
        return f"{len(found)} tokens, {len(wanted)} cold"
    for i, (token, there) in enumerate(zip(found, wanted, strict=True)):
        text, entropy, _, rank = token[:4]
        near = abs((entropy or 0.0) - there.entropy) < NEAR
        if text != there.text or rank != there.rank or not near:
            return f"token {i}: {token} is not {there.text!r} {there.entropy:.4f} rank {there.rank}"
    answer = whole.get("result", {}).get("answer")
    return None if answer == cold.answer.json() else f"answer {answer}, {cold.answer.json()} cold"


def has_tokens(data: list[Any]) -> bool:
    """Whether a message of a stream, whole or as the difference to the one before, brings tokens."""
    first = data[0] if data else None
    if isinstance(first, dict):
        return bool(first.get("toks"))
    return any("toks" in change[1] for change in first or [] if len(change) > 1)


# -- `rmx bench public` -----------------------------------------------------------------------------------------------


PROBLEMS, SEEDS, MAX_NEW = 30, (1, 2), 200
SLOW_PROBLEMS, SLOW_SEEDS, SLOW_NEW = 6, (1,), 64  # of any other model, whose cold runs take minutes
EVERY = 5.0  # seconds between two looks at the app's memory
START = 120.0  # seconds that the app may take to answer
DOWN = 45.0  # seconds around a kill in which lost connections are no errors
WARM = 0.25  # share of the time after which memory should no longer grow


class AppProcess:
    """The app in a process of its own, public, with a folder of runs."""

    def __init__(self, runs: Path, model: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.runs, self.model = f"http://127.0.0.1:{self.port}", runs, model
        self.log = runs / "app.log"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it and wait until it answers; RmxError where it does not."""
        environment = os.environ | {"RMX_PUBLIC": "1", "RMX_RUNS": str(self.runs), "RMX_LOG": "requests"}
        environment |= {"RMX_MODEL": self.model}
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


def bench_public(
    clients: int = 32, minutes: float = 5.0, kill: bool = False, model: str | None = None
) -> dict[str, Any]:
    """Errors, wrong results, waits and memory of `clients` visitors over `minutes`.

    Args:
        model: the app's; None: mini.
    """
    name = model or "mini"
    count, seeds, most = (PROBLEMS, SEEDS, MAX_NEW) if name == "mini" else (SLOW_PROBLEMS, SLOW_SEEDS, SLOW_NEW)
    with tempfile.TemporaryDirectory(prefix="rmx-public-") as folder:
        site, store = AppProcess(Path(folder), name), RunStore(Path(folder))
        tasks = make_tasks(load(name, device="cpu"), load_set("mini")[:count], seeds, most)
        site.start()
        try:
            return asyncio.run(_visited(site, store, tasks, clients, 60 * minutes, kill))
        finally:
            site.stop()
            for run in store.all(everybodys=True):
                with suppress(RmxError):
                    store.kill(run.id)


async def _visited(
    site: AppProcess, store: RunStore, tasks: Sequence[Task], clients: int, seconds: float, kill: bool
) -> dict[str, Any]:
    tally, config = VisitTally(), httpx.get(f"{site.url}/config", timeout=60).json()
    began, until = time.monotonic(), time.monotonic() + seconds
    watch = asyncio.create_task(_watch(site, began, until))
    train = asyncio.create_task(_train(store, until if site.model == "mini" else began))
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
        with suppress(RmxError):  # it has ended meanwhile, or not begun
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
