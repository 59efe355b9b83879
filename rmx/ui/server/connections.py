"""Limits for each address: connections, how long a request may take to arrive, how often one may ask.

Uvicorn bounds neither: connections that say nothing hold a descriptor each, and a process that has none left cannot
accept any more, not even one to end it.
"""

import asyncio
import ipaddress
import logging
import resource
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Where a proxy in front of a container or on the same machine has its address. One on the internet has to be named.
NEAR = tuple(
    ipaddress.ip_network(n)
    for n in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
)


def visitor_address(peer: str, forwarded: Sequence[str], proxies: Sequence[Network] = ()) -> str:
    """Name the address that a request came from, or the /64 network of IPv6, all of which is one visitor's.

    A proxy appends the address that it sees to x-forwarded-for, so only the last entry can be believed, and only where
    the peer is a proxy: one in `NEAR`, or a named one. Entries that are named proxies themselves are passed over.

    Args:
        peer: the other end of the connection; returned as it is where it is no address.
        forwarded: the header's lines, in order.
    """
    near = parse_address(peer)
    if near is not None and not _within(near, (*NEAR, *proxies)):
        return _name(near)
    hops = [hop for line in forwarded for hop in line.split(",")]
    while hops:
        found = parse_address(hops.pop())
        if found is None:
            break
        if not hops or not _within(found, proxies):
            return _name(found)
    return peer if near is None else _name(near)


def parse_address(text: str) -> Address | None:
    """An IP address out of `1.2.3.4`, `1.2.3.4:80`, `2001:db8::1` or `[2001:db8::1]:80`; None where it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _name(address: Address) -> str:
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


RESERVED = 96  # descriptors for everything that is no connection: files of runs and models, pipes, sockets of the Hub
MOST = 2000
SHARE = 4  # one address may hold a fourth of them
HEAD_SECONDS = 10.0  # from the first byte of a request, or from the connection, to the end of its head


def raise_descriptor_limit() -> int:
    """Allow this process as many open files as the system lets it; returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
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
        near = (found := parse_address(peer)) is None or _within(found, NEAR)
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


MOST_KNOWN = 20_000  # visitors whose allowance is remembered


class Allowance:
    """A token bucket for each key: `burst` at once, `rate` per second after that."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.rate, self._clock = burst, rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (what is left, when)
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take one; returns 0, or after how many seconds to come again."""
        now = self._clock()
        with self._lock:
            left, then = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + max(0.0, now - then) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - allowed, now)
            while len(self._left) > MOST_KNOWN:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


class ConcurrencyLimit:
    """At most so many places for each key at the same time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, key: str) -> Iterator[bool]:
        """Hold a place for the length of a `with` block; yields whether there was one."""
        with self._lock:
            free = self._taken[key] < self.most
            self._taken[key] += free
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._taken[key] -= 1
                    if not self._taken[key]:
                        del self._taken[key]


class SeldomRepeated(logging.Filter):
    """Let a message of the same template through once in a while: a server in distress says it at every connection."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self.seconds, self._last = seconds, dict[str, float]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
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
