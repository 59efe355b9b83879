"""Somebody greedy beside a polite visitor, on a public site: how long the polite one waits for the first token.

    python -m tests.security.load --minutes 2

The app, the attackers and the polite visitor are processes of their own on one machine. Addresses are told apart by
x-forwarded-for, as behind a proxy. The attackers: one cookie with ten requests at a time, plans with another
temperature four times a second, ten cookies of one address that solve without end, and 24 posts of "measure all claims"
by eight cookies of one address, again every ten seconds, whose answers nobody reads.
"""

import argparse
import asyncio
import json
import os
import random
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

from rmx.bench_public import Site
from rmx.bench_visitors import Page, has_tokens
from rmx.examples import examples

GREEDY, CROWD, MEASURING = "203.0.113.1", "203.0.113.2", "203.0.113.3"
PATIENCE = 60.0  # seconds after which the polite visitor counts as not served
WARM = 8.0  # seconds that the attackers have before the polite visitor comes


class Form:
    """Events of the page by the component that sets them off, with the values that the page sends at first."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.props = {c["id"]: c["props"] for c in config["components"]}
        self.events = config["dependencies"]

    def event(self, elem_id: str | None, kind: str) -> tuple[int, list[Any]]:
        """Number and inputs of an event; no `elem_id`: the page's own."""
        for event in self.events:
            for target, name in event["targets"]:
                known = self.props.get(target, {}).get("elem_id")
                if name == kind and (known == elem_id if elem_id else target not in self.props):
                    return event["id"], [self.props[i].get("value") for i in event["inputs"]]
        raise LookupError(f"{elem_id} has no {kind}")

    def place(self, elem_id: str, of: int) -> int:
        """Which of an event's inputs is this component."""
        inputs = next(e["inputs"] for e in self.events if e["id"] == of)
        return next(i for i, at in enumerate(inputs) if self.props[at].get("elem_id") == elem_id)


@dataclass
class Tab(Page):
    """A page of somebody at an address; several may share a cookie."""

    url: str
    config: dict[str, Any]
    address: str

    def __post_init__(self) -> None:
        Page.__init__(self, self.url, self.config)
        self.form = Form(self.config)
        self.client.headers["x-forwarded-for"] = self.address

    async def again(self) -> "Tab":
        """Another tab of the same browser."""
        other = Tab(self.url, self.config, self.address)
        other.client.cookies = self.client.cookies
        return other

    async def post(self, number: int, data: Sequence[Any], event: dict[str, Any] | None = None) -> httpx.Response:
        body = {"data": list(data), "fn_index": number, "session_hash": self.session, "event_data": event}
        return await self.client.post("/gradio_api/queue/join", json=body)


@dataclass
class Seen:
    """What somebody met."""

    first: list[float] = field(default_factory=list)  # seconds from Solve to the first token
    screen: list[float] = field(default_factory=list)  # seconds until the first screen has tokens
    whole: list[float] = field(default_factory=list)  # seconds until the solution is done
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)  # status of posts, what streams ended with

    def json(self) -> dict[str, Any]:
        return {
            "first_token": spread(self.first),
            "first_screen": spread(self.screen),
            "whole": spread(self.whole),
            "refused": len(self.refused),
            "errors": len(self.errors),
            "said": Counter(self.refused + self.errors).most_common(5),
            "answers": dict(self.answers),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"n": len(values), "most": round(max(values, default=0.0), 3)}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    found = {"p50": statistics.median(values), "p95": cuts[-1], "most": max(values)}
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
            await follow(tab, tab.form.event(None, "load"), seen, seen.screen)
            for _ in range(2):
                number, data = tab.form.event("solve", "click")
                example = draw.choice(examples())
                data[tab.form.place("problem", number)] = example.problem
                await follow(tab, (number, data), seen, seen.first)
                await asyncio.sleep(1.0)
        except Exception as error:  # noqa: BLE001  whatever a visitor meets is counted
            seen.errors.append(f"{type(error).__name__}: {error}"[:200])
            await asyncio.sleep(1.0)
        finally:
            await tab.close()
    return seen


async def follow(tab: Tab, asked: tuple[int, list[Any]], seen: Seen, first: list[float]) -> None:
    """Ask and read to the end; notes when the first token came, and when none did."""
    began = time.monotonic()
    reply = await tab.post(*asked)
    if reply.status_code != 200:
        seen.refused.append(f"{reply.status_code} {reply.text}"[:200])
        return
    spoke = False
    try:
        async with asyncio.timeout(PATIENCE), tab.listening(reply.json()["event_id"]) as messages:
            async for message in messages:
                output = message.get("output") or {}
                if not spoke and has_tokens(output.get("data") or []):
                    spoke = True
                    first.append(time.monotonic() - began)
                if message["msg"] == "process_completed":
                    told = output.get("data") or [{}]
                    error = told[0].get("error") if isinstance(told[0], dict) else None
                    if error or not message["success"]:
                        seen.refused.append(str(error or output)[:200])
                    elif not spoke:
                        seen.errors.append("it ended without a token")
                    else:
                        seen.whole.append(time.monotonic() - began)
                    return
        seen.errors.append("the stream broke off")
    except TimeoutError:
        seen.errors.append(f"not done after {PATIENCE:g} s, {'after' if spoke else 'before'} the first token")
        if not spoke:
            first.append(PATIENCE)


# -- the attackers ----------------------------------------------------------------------------------------------------


async def attack(url: str, config: dict[str, Any], until: float) -> Seen:
    """All of them at once."""
    seen, greedy = Seen(), Tab(url, config, GREEDY)
    await greedy.client.get("/")
    await asyncio.gather(
        *[without_end(greedy, seen, until, requests_of(i)) for i in range(10)],
        plans(greedy, seen, until),
        *[another_cookie(url, config, seen, until) for _ in range(10)],
        claims(url, config, seen, until),
    )
    return seen


def requests_of(worker: int) -> Callable[[Tab, random.Random], tuple[int, list[Any]]]:
    """What one of the greedy cookie's ten asks for, again and again: long samples, readings, sets."""

    def ask(tab: Tab, draw: random.Random) -> tuple[int, list[Any]]:
        elem_id = "pair-shifts" if worker == 0 else "pair-intervene" if worker == 1 else "solve"
        number, data = tab.form.event(elem_id, "click" if worker > 1 else "click")
        if elem_id != "solve":
            # Of the button's two events the second one has inputs.
            number = [e["id"] for e in tab.form.events if e["inputs"] and [0] and targets(tab, e, elem_id)][0]
            inputs = next(e["inputs"] for e in tab.form.events if e["id"] == number)
            return number, [tab.form.props[i].get("value") for i in inputs]
        return number, long_sample(tab, number, data, draw)

    return ask


def targets(tab: Tab, event: dict[str, Any], elem_id: str) -> bool:
    return any(tab.form.props.get(target, {}).get("elem_id") == elem_id for target, _ in event["targets"])


def long_sample(tab: Tab, number: int, data: list[Any], draw: random.Random) -> list[Any]:
    """As many tokens as the site allows, without an answer where it can be helped."""
    values = {"temperature": 2.0, "top-p": 1.0, "seed": draw.randrange(10**6), "max-new": 1024}
    for elem_id, value in values.items():
        data[tab.form.place(elem_id, number)] = value
    return data


async def without_end(
    tab: Tab, seen: Seen, until: float, ask: Callable[[Tab, random.Random], tuple[int, list[Any]]]
) -> None:
    """One request after the other, each read to its end; who is refused comes back at once."""
    draw = random.Random()
    while time.monotonic() < until:
        page = await tab.again()
        with suppress(httpx.HTTPError, TimeoutError, KeyError):
            reply = await page.post(*ask(page, draw))
            seen.answers[f"post {reply.status_code}"] += 1
            if reply.status_code != 200:
                await asyncio.sleep(0.25)
            else:
                async with asyncio.timeout(until - time.monotonic()), page.listening(reply.json()["event_id"]) as heard:
                    async for message in heard:
                        if message["msg"] == "process_completed":
                            break
        await page.client.aclose()


async def another_cookie(url: str, config: dict[str, Any], seen: Seen, until: float) -> None:
    tab = Tab(url, config, CROWD)
    await tab.client.get("/")
    await without_end(tab, seen, until, requests_of(9))


async def plans(tab: Tab, seen: Seen, until: float) -> None:
    """A plan with another temperature four times a second; nobody reads what comes of it."""
    page, count = await tab.again(), 0
    number, data = page.form.event("train-temperature", "blur")
    where = page.form.place("train-temperature", number)
    while time.monotonic() < until:
        count += 1
        data[where] = str(0.5 + count % 1000 / 1000)
        with suppress(httpx.HTTPError):
            seen.answers[f"plan {(await page.post(number, data)).status_code}"] += 1
        await asyncio.sleep(0.25)


async def claims(url: str, config: dict[str, Any], seen: Seen, until: float) -> None:
    """24 posts by eight cookies, every ten seconds."""
    cookies = [Tab(url, config, MEASURING) for _ in range(8)]
    for cookie in cookies:
        await cookie.client.get("/")
    while time.monotonic() < until:
        for i in range(24):
            page = await cookies[i % 8].again()
            number, data = page.form.event("claims-measure", "click")
            with suppress(httpx.HTTPError):
                seen.answers[f"claims {(await page.post(number, data)).status_code}"] += 1
            await page.client.aclose()
        await asyncio.sleep(10)


# -- all together -----------------------------------------------------------------------------------------------------

ROLES: dict[str, Callable[[str, dict[str, Any], float], Awaitable[Seen]]] = {"polite": be_polite, "attack": attack}


def play(role: str, url: str, seconds: float) -> None:
    """One side, in a process of its own; prints what it met."""
    config = httpx.get(f"{url}/config", timeout=60).json()
    seen = asyncio.run(ROLES[role](url, config, time.monotonic() + seconds))
    sys.stdout.write(json.dumps(seen.json()))


def measure(minutes: float, attackers: bool = True) -> dict[str, Any]:
    """What the polite visitor met, with attackers or without."""
    seconds = 60 * minutes
    with tempfile.TemporaryDirectory(prefix="rmx-load-") as folder:
        site = Site(Path(folder))
        site.start()
        try:
            begin = os.getloadavg()
            sides = [_side("attack", site.url, seconds + WARM)] if attackers else []
            time.sleep(WARM if attackers else 0)
            sides.append(_side("polite", site.url, seconds))
            said = [json.loads(side.communicate(timeout=seconds + 300)[0]) for side in sides]
            found = {"polite": said[-1], "attack": said[0]["answers"] if attackers else None}
            return found | {"memory_mb": round(site.memory()), "load": {"before": begin, "after": os.getloadavg()}}
        finally:
            site.stop()


def _side(role: str, url: str, seconds: float) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "tests.security.load", "--role", role, "--url", url, "--minutes", str(seconds / 60)]
    return subprocess.Popen(words, stdout=subprocess.PIPE)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=2.0)
    options.add_argument("--calm", action="store_true", help="without attackers")
    options.add_argument("--role", choices=sorted(ROLES), help=argparse.SUPPRESS)
    options.add_argument("--url", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.role:
        play(given.role, given.url, 60 * given.minutes)
    else:
        sys.stdout.write(json.dumps(measure(given.minutes, not given.calm), indent=1) + "\n")


if __name__ == "__main__":
    main()
