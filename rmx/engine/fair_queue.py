"""A fair queue in front of an engine: watched work first, then whoever used it least lately; every wait ends.

The rule: the next turn goes to the lowest kind (watched, measured, bulk); among equals to the address, then to the
owner, that has held the engine least lately; then to whoever came first. A ticket counts one kind lower for every
`RISE` seconds that it waits, without end, so every turn comes, whatever else does.

Who holds the engine for long gives way between two steps (`Engine.give_way`) once it has had a slice and somebody waits
who goes first by the same rule. It keeps its place among its own and what it has computed so far. That takes memory, so
only a few turns of a kind are begun at the same time: the others wait until one of those ends.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

from rmx.errors import Busy

SLICE = 0.25  # seconds that a holder has before it gives way
LOOK = 0.05  # seconds between two looks at whether it should
POLL = 0.25  # seconds between two looks at whether who waits was called off
RISE = 10.0  # seconds of waiting that count as one kind
HALF_LIFE = 30.0  # seconds after which what somebody had counts half
MOST_KNOWN = 20_000  # addresses, and owners, whose use is remembered
MOST_BEGUN, BEGUN_EACH = 12, 3  # turns of one kind begun and not ended: of all, of one address
ENDING = -1_000_000  # the kind of a ticket that goes before all others
SMOOTH = 0.2  # weight of the newest turn in the mean length of a turn
Item = TypeVar("Item")


class Kind(IntEnum):
    """What a turn is for."""

    WATCHED = 0  # somebody looks at every word: solving, swapping, reading, a question of the page
    MEASURED = 1  # somebody waits for figures: outcomes, rescues, maps, patches, sets, claims
    BULK = 2  # evaluations, the probe of a training plan


@dataclass(frozen=True, slots=True)
class RequestOwner:
    """Who requests work, and of which kind it is; None where that is unknown."""

    owner: str | None = None
    address: str | None = None
    kind: Kind = Kind.WATCHED


# Set while work of a visitor is done, so that no visitor takes more than a share of the line.
current_owner: ContextVar[RequestOwner] = ContextVar("current_owner", default=RequestOwner())  # noqa: B039  it is frozen


class Usage:
    """What each key has had lately; after `HALF_LIFE` seconds it counts half."""

    def __init__(self) -> None:
        self._had: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (how much, when)

    def add(self, key: str | None, much: float, now: float) -> None:
        """Note what a key had up to `now`, seconds on the monotonic clock."""
        if key is None:
            return
        self._had[key] = (self.of(key, now) + much, now)
        self._had.move_to_end(key)
        if len(self._had) > MOST_KNOWN:
            self._had.popitem(last=False)

    def of(self, key: str | None, now: float) -> float:
        """How much it had; nothing where it is not known."""
        much, then = self._had.get(key, (0.0, now)) if key is not None else (0.0, now)
        return much * 0.5 ** ((now - then) / HALF_LIFE)


class Ticket:
    """A place in line."""

    def __init__(self, who: RequestOwner, number: int) -> None:
        self.who, self.number = who, number
        self.begun = False  # whether it has had the engine already
        self.away = False  # whether it has stepped back, and is not to be called yet
        self.ending = False  # whether it only wants to come to its end
        self.came = time.monotonic()  # when it began to wait, at first or again
        self.since = self.counted = self.came  # of the holder: when its turn came; up to when it was counted


class FairQueue:
    """One holder at a time. Unlike threading.Lock it is fair, and a turn may be given back from another thread.

    Args:
        limit: who holds or waits at most. per_owner, per_address: how many of those may be one's; 0: no limit.
    """

    def __init__(self, limit: int = 64, per_owner: int = 0, per_address: int = 0) -> None:
        self._changed = threading.Condition()
        self._line: list[Ticket] = []  # in the order of arrival
        self._holder: Ticket | None = None  # one of them
        self.limit, self.per_owner, self.per_address = limit, per_owner, per_address
        self._addresses, self._owners = Usage(), Usage()
        self._came = 0  # tickets so far
        self._mean: float | None = None  # seconds that a turn takes, lately
        self._closed = False

    def waiting(self) -> int:
        """How many hold the engine or wait for it."""
        with self._changed:
            return len(self._line)

    @property
    def full(self) -> bool:
        """Whether as many as the limit allows hold or wait for the engine."""
        return self.waiting() >= self.limit

    def enter(self) -> Ticket:
        """Join the line.

        Raises:
            Busy: the queue is full, or this owner or its address has a full share of it.
        """
        with self._changed:
            self._admit(current_owner.get())
            self._came += 1
            ticket = Ticket(current_owner.get(), self._came)
            self._line.append(ticket)
            self._call()
        return ticket

    def _admit(self, who: RequestOwner) -> None:
        if self._closed:
            raise Busy("rmx is being stopped. Try again when it is back.")
        if len(self._line) >= self.limit:
            raise Busy(f"{len(self._line)} requests wait for this model already. Try again in a moment.")
        mine = sum(t.who.owner == who.owner for t in self._line) if who.owner is not None else 0
        if self.per_owner and mine >= self.per_owner:
            raise Busy(f"{mine} requests of yours are under way already. Wait for one of them, or stop it.")
        near = sum(t.who.address == who.address for t in self._line) if who.address is not None else 0
        if self.per_address and near >= self.per_address:
            raise Busy(f"{near} requests from your network are under way already. Try again in a moment.")

    def close(self) -> None:
        """Refuse new tickets: long jobs, which take one turn per round, end before their next round."""
        with self._changed:
            self._closed = True

    def wait(self, ticket: Ticket, timeout: float | None = None) -> int:
        """Wait until the ticket's turn comes or `timeout` seconds pass; returns how many go before it as things are."""
        with self._changed:
            if self._changed.wait_for(lambda: self._holder is ticket, timeout):
                return 0
            now = time.monotonic()
            mine = self._rank(ticket, now)
            return 1 + sum(self._rank(t, now) < mine for t in self._line if t is not self._holder)

    def expected(self, ahead: int) -> float | None:
        """Seconds until the turn of one who has `ahead` before it, by the turns of late; None where none was seen."""
        with self._changed:
            if self._mean is None or self._holder is None or not ahead:
                return None
            held = time.monotonic() - self._holder.since
            return max(0.0, self._mean - held) + (ahead - 1) * self._mean

    def leave(self, ticket: Ticket) -> None:
        """Give the turn, or the place in line, back. A ticket may be given back once only."""
        with self._changed:
            self._line.remove(ticket)
            if ticket is self._holder:
                self._end_turn(ticket)
            self._call()
            self._changed.notify_all()

    def overdue(self) -> bool:
        """Whether the holder, who asks, has had its slice and somebody waits who goes before it."""
        holder, now = self._holder, time.monotonic()
        if holder is None or len(self._line) < 2 or now - holder.since < SLICE or now - holder.counted < LOOK:
            return False
        with self._changed:
            self._count(holder, now)
            return self._first(now) is not holder

    def hurry(self, ticket: Ticket) -> None:
        """Let the next turn be this ticket's: its work was called off, and all it does with it is to end."""
        ticket.ending = True

    def step_back(self) -> Ticket:
        """The holder gives its turn back, and keeps its place in line until it is to `rejoin` it with its ticket."""
        with self._changed:
            ticket = self._holder
            if ticket is None:
                raise ValueError("the engine is not held")
            ticket.away = True
            self._end_turn(ticket)
            self._changed.notify_all()
        return ticket

    def rejoin(self, ticket: Ticket) -> None:
        """Wait for another turn. Who needs two engines rejoins one line after the other: a turn that comes while its
        ticket waits elsewhere would be held for nothing, and for ever."""
        with self._changed:
            ticket.away = False
            self._call()

    # -- inside; the caller holds the lock ----------------------------------------------------------------------------

    def _rank(self, ticket: Ticket, now: float) -> tuple[int, float, float, int]:
        """The lowest goes first."""
        who = ticket.who
        kind = ENDING if ticket.ending else who.kind - int((now - ticket.came) / RISE)
        return kind, self._addresses.of(who.address, now), self._owners.of(who.owner, now), ticket.number

    def _first(self, now: float) -> Ticket | None:
        """Who has the next turn, the holder included."""
        begun = [t.who for t in self._line if t.begun]
        of_kind = Counter(who.kind for who in begun)
        near: Counter[tuple[Kind, str | None]] = Counter((who.kind, who.address) for who in begun if who.address)

        def able(t: Ticket) -> bool:
            room = of_kind[t.who.kind] < MOST_BEGUN and near[t.who.kind, t.who.address] < BEGUN_EACH
            return (t.begun or room) and not t.away

        return min(filter(able, self._line), key=lambda t: self._rank(t, now), default=None)

    def _call(self) -> None:
        """Give a free engine to the first in line."""
        now = time.monotonic()
        if self._holder is None and (first := self._first(now)) is not None:
            self._holder, first.begun, first.since, first.counted = first, True, now, now

    def _count(self, ticket: Ticket, now: float) -> None:
        """Note what the holder has had up to now; from here on it waits anew."""
        for usage, key in ((self._addresses, ticket.who.address), (self._owners, ticket.who.owner)):
            usage.add(key, now - ticket.counted, now)
        ticket.counted = ticket.came = now

    def _end_turn(self, ticket: Ticket) -> None:
        """Count the holder's turn and call the next one."""
        now = time.monotonic()
        self._count(ticket, now)
        held = now - ticket.since
        self._mean = held if self._mean is None else (1 - SMOOTH) * self._mean + SMOOTH * held
        self._holder = None
        self._call()

    # -- turns as contexts --------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """Wait for the engine, hold it, give it back.

        Args:
            patience: seconds to wait at most. A server has few threads: one that waits without end for a generation
                may hold the very thread that the generation needs for its next step.

        Raises:
            Busy: the line is full, or the turn did not come in time.
        """
        ticket = self.enter()
        try:
            if self.wait(ticket, patience):
                raise Busy("The model is busy with another solution. Try again when it is done.")
            yield
        finally:
            self.leave(ticket)

    @contextmanager
    def when_free(self, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Wait as long as it takes, unless `cancelled` becomes true; yields whether the turn came.

        For long jobs, which take one turn per round, so that others get theirs in between.

        Raises:
            Busy: the line is full.
        """
        ticket = self.enter()
        try:
            while ahead := self.wait(ticket, timeout=POLL):
                if cancelled():
                    break
            yield not ahead
        finally:
            self.leave(ticket)


@contextmanager
def as_owner(owner: str | None | RequestOwner, kind: Kind | None = None) -> Iterator[None]:
    """Do what the `with` block does on behalf of this owner.

    Args:
        owner: an owner alone keeps the address that asks already.
        kind: of the work; None: the kind that it is already.
    """
    now = owner if isinstance(owner, RequestOwner) else replace(current_owner.get(), owner=owner)
    token = current_owner.set(now if kind is None else replace(now, kind=kind))
    try:
        yield
    finally:
        current_owner.reset(token)


def iterate_as_owner(
    owner: str | None | RequestOwner, steps: Iterator[Item], kind: Kind | None = None
) -> Iterator[Item]:
    """Go through `steps` as the work of one owner, see `as_owner`.

    A server may run each step in another thread and context, so the owner is set anew for each step.
    """
    try:
        while True:
            with as_owner(owner, kind):
                try:
                    item = next(steps)
                except StopIteration:
                    return
            yield item
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
