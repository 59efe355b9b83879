"""How many connections are open, from whom, and how long a request may take to say what it wants.

Uvicorn bounds neither: connections that say nothing hold a descriptor each, and a process that has none left cannot
accept any more, not even one to end it.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rmx.ui.server.addresses import NEAR, parse_address, visitor_address

RESERVED = 96  # descriptors for everything that is no connection: files of runs and models, pipes, sockets of the Hub
MOST = 2000
SHARE = 4  # one address may hold a fourth of them
HEAD_SECONDS = 10.0  # from the first byte of a request, or from the connection, to the end of its head


def raise_descriptor_limit() -> int:
    """Allow this process as many open files as the system lets it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def most_connections(descriptors: int) -> int:
    """How many connections a process with so many descriptors may hold."""
    return max(16, min(MOST, descriptors - RESERVED))


class Connections:
    """Counts open connections by address.

    Args:
        most: of all together. per_address: of one; an address nearby may be a proxy and is not counted.
    """

    def __init__(self, most: int, per_address: int | None = None) -> None:
        self.most, self.per_address = most, per_address or max(8, most // SHARE)
        self._by_address: Counter[str] = Counter()

    def enter(self, peer: str) -> bool:
        """Count a connection; False where there is no room for it, and it is not counted."""
        key = visitor_address(peer, ())
        near = (found := parse_address(peer)) is None or any(found in network for network in NEAR)
        if self._by_address.total() >= self.most or (not near and self._by_address[key] >= self.per_address):
            return False
        self._by_address[key] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count no longer."""
        key = visitor_address(peer, ())
        self._by_address[key] -= 1
        if self._by_address[key] <= 0:
            del self._by_address[key]

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes for each connection, bounded by these counts."""
        return type("BoundedProtocol", (_Bounded,), {"counts": self})


class _Bounded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's protocol; closes connections that are too many or do not come to the point."""

    counts: Connections
    counted: str | None = None
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        name = str(peer[0]) if isinstance(peer, tuple) else ""
        super().connection_made(transport)
        if not self.counts.enter(name):
            transport.abort()
            return
        self.counted = name
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
        if self.counted is not None:
            self.counts.leave(self.counted)
            self.counted = None
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock while a head is awaited, stop it once a request is being answered."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        elif not busy and self.deadline is None:
            self.deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self.deadline = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


class SeldomRepeated(logging.Filter):
    """Let a message of the same template through once in a while: a server in distress says it at every connection."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = str(record.msg)[:200], time.monotonic()
        if now - self._last.get(key, -self.seconds) < self.seconds:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[key] = now
        return True


def calm_logs() -> None:
    """Have the event loop and the server say each thing at most once a minute."""
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(SeldomRepeated())
