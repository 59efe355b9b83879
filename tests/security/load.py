"""Somebody greedy beside a polite visitor, on a public site: how long the polite one waits for the first token.

    python -m tests.security.load --minutes 2
    python -m tests.security.load --minutes 20 --fuzz

The app, the attackers and the polite visitor are processes of their own on one machine. Addresses are told apart by
x-forwarded-for, as behind a proxy. The attackers: one cookie with ten requests at a time, plans with another
temperature four times a second, ten cookies of one address that solve without end, and 24 posts of "measure all claims"
by eight cookies of one address, again every ten seconds, whose answers nobody reads; with --fuzz also nonsense, sent to
everything that can be reached. A watcher asks for /health all the time: its waits are the lag of the event loop and the
way there. Memory is flat when it stays within 10 % of what it was after a quarter of the time; what visitors keep has
40 MB in all (RMX_KEPT_TOKENS), so that it is full by then.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rmx.bench.public import AppProcess, Page, has_tokens
from rmx.data.problem_sets import examples
from tests.helpers.fuzzing import exchange, requests
from tests.unit.ui.test_fuzz_api import what_it_offers

GREEDY, CROWD, MEASURING = "203.0.113.1", "203.0.113.2", "203.0.113.3"
PATIENCE = 60.0  # seconds after which the polite visitor counts as not served
WARM = 8.0  # seconds that the attackers have before the polite visitor comes
KEPT_TOKENS = "10000"  # of 4 kB each
LOOK = 0.1  # seconds between two looks of the watcher
LONGEST = {"temperature": 2.0, "top-p": 1.0, "max-new": 1024}  # as many tokens as the site allows
Call = tuple[int, list[Any]]  # number of an event, and its inputs


class Form:
    """Events of the page by the component that sets them off, with the values that the page sends at first."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.props = {c["id"]: c["props"] for c in config["components"]}
        self.events = config["dependencies"]

    def call(self, elem_id: str | None, kind: str, **values: Any) -> Call:
        """An event with inputs, some of which have other values; no `elem_id`: that of a page that opens.

        Where a press fetches models first, this is the work that the page sets off once they are there.
        """
        for first in self.events:
            if (first["inputs"] or elem_id is None) and self._is_of(first, elem_id, kind):
                then = (e for e in self.events if e["trigger_after"] == first["id"] and e["trigger_only_on_success"])
                event = next(then, first)
                names = [self.props[i].get("elem_id") for i in event["inputs"]]
                at_first = [self.props[i].get("value") for i in event["inputs"]]
                return event["id"], [values.get(n, v) for n, v in zip(names, at_first, strict=True)]
        raise LookupError(f"{elem_id} has no {kind}")

    def _is_of(self, event: dict[str, Any], elem_id: str | None, kind: str) -> bool:
        named = [(self.props.get(target, {}).get("elem_id"), name) for target, name in event["targets"]]
        return (elem_id, kind) in named


class Tab(Page):
    """An open page of somebody at an address."""

    def __init__(self, url: str, config: dict[str, Any], address: str, cookies: httpx.Cookies | None = None) -> None:
        super().__init__(url, config)
        self.url, self.config, self.form = url, config, Form(config)
        self.client.headers["x-forwarded-for"] = self.address = address
        if cookies is not None:
            self.client.cookies = cookies

    def another(self) -> "Tab":
        """Another tab of the same browser."""
        return Tab(self.url, self.config, self.address, self.client.cookies)

    async def post(self, call: Call) -> httpx.Response:
        body = {"data": call[1], "fn_index": call[0], "session_hash": self.session, "event_data": None}
        return await self.client.post("/gradio_api/queue/join", json=body)


async def stranger(url: str, config: dict[str, Any], address: str) -> Tab:
    """A tab with a cookie of its own."""
    tab = Tab(url, config, address)
    (await tab.client.get("/")).raise_for_status()
    return tab


@dataclass
class Seen:
    """What somebody met."""

    first: list[float] = field(default_factory=list)  # seconds from Solve to the first token
    screen: list[float] = field(default_factory=list)  # seconds until the first screen has tokens
    whole: list[float] = field(default_factory=list)  # seconds until either is done
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)  # what was posted, and the status of the answer

    def json(self) -> dict[str, Any]:
        return {
            "first_token_seconds": spread(self.first),
            "first_screen_seconds": spread(self.screen),
            "whole_seconds": spread(self.whole),
            "refused": len(self.refused),
            "errors": len(self.errors),
            "said": Counter(self.refused + self.errors).most_common(5),
            "answers": dict(self.answers),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"n": len(values), "most": round(max(values, default=0.0), 3)}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    late = sorted(values)[int(0.99 * len(values))]
    found = {"p50": statistics.median(values), "p95": cuts[-1], "p99": late, "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()} | {"n": len(values)}


# -- the polite visitor -----------------------------------------------------------------------------------------------


async def be_polite(url: str, config: dict[str, Any], until: float) -> Seen:
    """Open the page, look at its first screen, solve two problems one after the other, go; then the same anew."""
    seen, draw, visit = Seen(), random.Random(1), 0
    while time.monotonic() < until:
        visit += 1
        tab = Tab(url, config, f"198.51.100.{visit % 200 + 1}")
        try:
            await tab.open()
            await follow(tab, tab.form.call(None, "load"), seen, seen.screen)
            for _ in range(2):
                await follow(
                    tab, tab.form.call("solve", "click", problem=draw.choice(examples()).problem), seen, seen.first
                )
                await asyncio.sleep(1.0)
        except Exception as error:  # noqa: BLE001  whatever a visitor meets is counted
            seen.errors.append(f"{type(error).__name__}: {error}"[:200])
            await asyncio.sleep(1.0)
        finally:
            await tab.close()
    return seen


async def follow(tab: Tab, call: Call, seen: Seen, first: list[float]) -> None:
    """Ask and read to the end; notes when the first token came, and `PATIENCE` where none did."""
    began, before = time.monotonic(), len(first)
    reply = await tab.post(call)
    if reply.status_code != 200:
        seen.refused.append(f"{reply.status_code} {reply.text}"[:200])
        return
    try:
        async with asyncio.timeout(PATIENCE), tab.listening(reply.json()["event_id"]) as messages:
            async for message in messages:
                data = (message.get("output") or {}).get("data") or [{}]
                if len(first) == before and has_tokens(data):
                    first.append(time.monotonic() - began)
                if message["msg"] == "process_completed":
                    note_end(message, data, seen, len(first) > before)
                    seen.whole.append(time.monotonic() - began)
                    return
        seen.errors.append("the stream broke off")
    except TimeoutError:
        seen.errors.append(f"not done after {PATIENCE:g} s")
        if len(first) == before:
            first.append(PATIENCE)


def note_end(message: dict[str, Any], data: list[Any], seen: Seen, spoke: bool) -> None:
    """The last message of a stream: done, refused, or without a token."""
    error = data[0].get("error") if isinstance(data[0], dict) else None
    if error or not message["success"]:
        seen.refused.append(str(error or message["output"])[:200])
    elif not spoke:
        seen.errors.append("it ended without a token")


# -- the attackers ----------------------------------------------------------------------------------------------------


async def attack(url: str, config: dict[str, Any], until: float) -> Seen:
    """All of them at once."""
    seen, greedy = Seen(), await stranger(url, config, GREEDY)
    sets = ["pair-shifts", "pair-intervene"]
    crowd = [await stranger(url, config, CROWD) for _ in range(10)]
    await asyncio.gather(
        *[without_end(greedy, button, seen, until) for button in sets + 8 * ["solve"]],
        *[without_end(tab, "solve", seen, until) for tab in crowd],
        plans(greedy.another(), seen, until),
        claims(url, config, seen, until),
    )
    return seen


async def without_end(tab: Tab, button: str, seen: Seen, until: float) -> None:
    """One request after the other, each read to its end; who is refused comes back at once."""
    draw = random.Random()
    while time.monotonic() < until:
        page = tab.another()
        with suppress(httpx.HTTPError, TimeoutError):
            reply = await page.post(page.form.call(button, "click", **LONGEST, seed=draw.randrange(10**6)))
            seen.answers[f"{button} {reply.status_code}"] += 1
            if reply.status_code != 200:
                await asyncio.sleep(0.25)
            else:
                async with asyncio.timeout(until - time.monotonic()), page.listening(reply.json()["event_id"]) as heard:
                    async for message in heard:
                        if message["msg"] == "process_completed":
                            break
        await page.client.aclose()


async def plans(tab: Tab, seen: Seen, until: float) -> None:
    """A plan with another temperature four times a second; nobody reads what comes of it."""
    count = 0
    while time.monotonic() < until:
        count += 1
        call = tab.form.call("train-temperature", "blur", **{"train-temperature": str(0.5 + count % 1000 / 1000)})
        with suppress(httpx.HTTPError):
            seen.answers[f"plan {(await tab.post(call)).status_code}"] += 1
        await asyncio.sleep(0.25)


async def claims(url: str, config: dict[str, Any], seen: Seen, until: float) -> None:
    """24 posts by eight cookies, every ten seconds; nobody reads what comes of them."""
    cookies = [await stranger(url, config, MEASURING) for _ in range(8)]
    while time.monotonic() < until:
        for i in range(24):
            page = cookies[i % 8].another()
            with suppress(httpx.HTTPError):
                reply = await page.post(page.form.call("claims-measure", "click"))
                seen.answers[f"claims {reply.status_code}"] += 1
            await page.client.aclose()
        await asyncio.sleep(10)


# -- nonsense, and who watches ----------------------------------------------------------------------------------------


async def send_nonsense(url: str, config: dict[str, Any], until: float) -> Seen:
    """What the fuzzer of the tests sends, without an end; an answer of 500 and above is an error."""
    seen, target = Seen(), what_it_offers(url, [Path("/etc/hostname")])

    @given(data=st.data())
    @settings(
        max_examples=50, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    def some(data: st.DataObject) -> None:
        request = data.draw(requests(target))
        try:
            replies = exchange(target.port, request)
        except TimeoutError:
            seen.answers["fuzz late"] += 1
            return
        for reply in replies:
            seen.answers[f"fuzz {reply.status}"] += 1
            if reply.status >= 500:
                seen.errors.append(f"{reply.status} {request}"[:200])

    rounds = 0
    while time.monotonic() < until:
        rounds += 1
        await asyncio.to_thread(seed(rounds)(some))
    return seen


async def watch(url: str, config: dict[str, Any], until: float) -> Seen:
    """How long the app takes to say that it is well."""
    seen = Seen()
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            began = time.monotonic()
            (await client.get("/health")).raise_for_status()
            seen.first.append(time.monotonic() - began)
            await asyncio.sleep(LOOK)
    return seen


# -- all together -----------------------------------------------------------------------------------------------------

ROLES: dict[str, Callable[[str, dict[str, Any], float], Awaitable[Seen]]] = {
    "polite": be_polite,
    "attack": attack,
    "fuzz": send_nonsense,
    "watch": watch,
}


def play(role: str, url: str, seconds: float) -> None:
    """One side, in a process of its own; prints what it met."""
    config = httpx.get(f"{url}/config", timeout=60).json()
    seen = asyncio.run(ROLES[role](url, config, time.monotonic() + seconds))
    sys.stdout.write(json.dumps(seen.json()))


def measure(minutes: float, attackers: Sequence[str] = ("attack",)) -> dict[str, Any]:
    """What the polite visitor and the watcher met, with attackers or without, and the memory of the app meanwhile."""
    seconds, before = 60 * minutes, os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="rmx-load-") as folder:
        os.environ.setdefault("RMX_KEPT_TOKENS", KEPT_TOKENS)
        site = AppProcess(Path(folder))
        site.start()
        try:
            sides = {role: _side(role, site.url, seconds + WARM) for role in attackers}
            time.sleep(WARM if attackers else 0)
            sides |= {role: _side(role, site.url, seconds) for role in ("polite", "watch")}
            memory, until = [], time.monotonic() + seconds
            while time.monotonic() < until:
                memory.append(round(site.memory()))
                time.sleep(min(5.0, seconds / 20))
            met = {role: json.loads(side.communicate(timeout=300)[0]) for role, side in sides.items()}
            lag = met.pop("watch")["first_token_seconds"]
            warm = memory[len(memory) // 4 :]
            mb = {"after_a_quarter": warm[0], "most_later": max(warm), "least_later": min(warm), "end": warm[-1]}
            mb["course"] = memory[:: max(1, len(memory) // 20)]
            log = site.log.read_text(errors="replace").splitlines()
            faults = Counter(line[:120] for line in log if re.match(r"[\w.]*(Error|Exception)\b", line)).most_common(5)
            load = [round(before, 2), round(os.getloadavg()[0], 2)]
            return met | {"health_seconds": lag, "memory_mb": mb, "faults": faults, "load_average": load}
        finally:
            site.stop()


def _side(role: str, url: str, seconds: float) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "tests.security.load", "--role", role, "--url", url, "--minutes", str(seconds / 60)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--calm", action="store_true", help="without attackers")
    parser.add_argument("--fuzz", action="store_true", help="nonsense beside the attackers")
    parser.add_argument("--role", choices=sorted(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        play(options.role, options.url, 60 * options.minutes)
    else:
        attackers = [] if options.calm else ["attack", "fuzz"][: 1 + options.fuzz]
        sys.stdout.write(json.dumps(measure(options.minutes, attackers), indent=1) + "\n")


if __name__ == "__main__":
    main()
