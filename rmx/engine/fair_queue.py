"""A fair queue in front of an engine: watched work first, then whoever used it least lately; every wait ends.

The rule: the next turn goes to the lowest kind (watched, measured, bulk, unasked); among equals to the address, then to
the owner, that has held the engine least lately; then to whoever came first. A ticket counts one kind lower for every
`RISE` seconds that it waits, without end, so every turn comes, whatever else does.

Who holds the engine for long gives way between two steps (`Engine.give_way`) once it has had a slice and somebody waits
who goes first by the same rule. It keeps its place among its own and what it has computed so far. That takes memory, so
only a few turns of a kind are begun at the same time: the others wait until one of those ends.

A turn is one ticket's alone, or it is shared: streams that the scheduler steps together hold the engine at the same
time. A shared ticket joins such a turn whenever one is under way and a seat is free; all of them give way together.
With many visitors a shared turn may never end by itself, so others get a share of its time (`SHARED_TIMES`).
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

SLICE = 0.1  # seconds that a holder has before it gives way
LOOK = 0.05  # seconds between two looks at whether it should
POLL = 0.25  # seconds between two looks at whether who waits was called off
RISE = 2.0  # seconds of waiting that count as one kind
HALF_LIFE = 30.0  # seconds after which what somebody had counts half
MOST_KNOWN = 20_000  # addresses, and owners, whose use is remembered
MOST_BEGUN, BEGUN_EACH = 12, 3  # turns of one kind begun and not ended: of all, of one address
SEATS, SEATS_EACH = 32, 8  # shared tickets begun and not ended: of all, of one owner
SHARED_TIMES = (2, 2, 8, 8)  # a shared turn lasts so many times as long as what it gives way to, by the kind of that
LONG = 1.0  # seconds that count at most: work that nobody waited for may have taken longer
SEAT_BYTES = 512 << 20  # of keys and values that the shared tickets of one engine may take; one may always begin
ENDING = -1_000_000  # the kind of a ticket that goes before all others
SMOOTH = 0.2  # weight of the newest turn in the mean length of a turn
Item = TypeVar("Item")


def never() -> bool:
    """Not cancelled."""
    return False


class Kind(IntEnum):
    """What a turn is for."""

    WATCHED = 0  # somebody looks at every word: solving, swapping, reading, a question of the page
    MEASURED = 1  # somebody waits for figures: outcomes, rescues, maps, patches, sets, claims
    BULK = 2  # evaluations, the probe of a training plan
    UNASKED = 3  # nobody has asked for it yet: the ends of the alternatives


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

    def __init__(self, who: RequestOwner, number: int, seat_bytes: int | None = None) -> None:
        self.who, self.number = who, number
        self.seat_bytes = seat_bytes  # of memory that its stream may take; None: its turn is not shared
        self.begun = False  # whether it has had the engine already
        self.away = False  # whether it has stepped back, and is not to be called yet
        self.ending = False  # whether it only wants to come to its end
        self.came = time.monotonic()  # when it began to wait, at first or again
        self.since = self.counted = self.came  # of a holder: when its turn came; up to when it was counted

    @property
    def shared(self) -> bool:
        """Whether others with shared tickets may hold the engine at the same time."""
        return self.seat_bytes is not None


class FairQueue:
    """One holder at a time, or several that share. It is fair, and a turn may be given back from another thread.

    Args:
        limit: who holds or waits at most. per_owner, per_address: how many of those may be one's; 0: no limit.
    """

    def __init__(self, limit: int = 64, per_owner: int = 0, per_address: int = 0) -> None:
        self._changed = threading.Condition()
        self._line: list[Ticket] = []  # in the order of arrival
        self._holders: list[Ticket] = []  # of them: none, one, or several that share
        self.limit, self.per_owner, self.per_address = limit, per_owner, per_address
        self._addresses, self._owners = Usage(), Usage()
        self._came = 0  # tickets so far
        self._mean: float | None = None  # seconds that a turn takes, lately
        self._began = 0.0  # when the turn of the holders began
        self._alone = SLICE  # seconds that the latest turn took that was not shared
        self._due: Ticket | None = None  # to which a shared turn gives way
        self._closed = False

    def waiting(self) -> int:
        """How many hold the engine or wait for it."""
        with self._changed:
            return len(self._line)

    def asked(self) -> int:
        """How many of them somebody has asked for."""
        with self._changed:
            return len(self._line_of(Kind.BULK))

    def enter(self, seat_bytes: int | None = None) -> Ticket:
        """Join the line.

        Args:
            seat_bytes: for a turn that is shared: the memory that it may take; None for a turn of one's own.

        Raises:
            Busy: the queue is full, or this owner or its address has a full share of it.
        """
        with self._changed:
            self._admit(current_owner.get())
            self._came += 1
            ticket = Ticket(current_owner.get(), self._came, seat_bytes)
            self._line.append(ticket)
            self._call()
        return ticket

    def _admit(self, who: RequestOwner) -> None:
        if self._closed:
            raise Busy("rmx is being stopped. Try again when it is back.")
        line = self._line_of(max(who.kind, Kind.BULK))  # nobody is refused for what nobody has asked for
        if len(line) >= self.limit:
            raise Busy(f"{len(line)} requests wait for this model already. Try again in a moment.")
        mine = sum(one.owner == who.owner for one in line) if who.owner is not None else 0
        if self.per_owner and mine >= self.per_owner:
            raise Busy(f"{mine} requests of yours are under way already. Wait for one of them, or stop it.")
        near = sum(one.address == who.address for one in line) if who.address is not None else 0
        if self.per_address and near >= self.per_address:
            raise Busy(f"{near} requests from your network are under way already. Try again in a moment.")

    def close(self) -> None:
        """Refuse new tickets: long jobs, which take one turn per round, end before their next round."""
        with self._changed:
            self._closed = True

    def wait(self, ticket: Ticket, timeout: float | None = None) -> int:
        """Wait until the ticket's turn comes or `timeout` seconds pass; returns how many go before it as things are."""
        with self._changed:
            if self._changed.wait_for(lambda: ticket in self._holders, timeout):
                return 0
            now = time.monotonic()
            mine = self._rank(ticket, now)
            return 1 + sum(self._rank(t, now) < mine for t in self._line if t not in self._holders)

    def holds(self, ticket: Ticket) -> bool:
        """Whether it is the ticket's turn."""
        return ticket in self._holders

    def expected(self, ahead: int) -> float | None:
        """Seconds until the turn of one who has `ahead` before it, by the turns of late; None where none was seen."""
        with self._changed:
            if self._mean is None or not self._holders or not ahead:
                return None
            held = time.monotonic() - min(t.since for t in self._holders)
            return max(0.0, self._mean - held) + (ahead - 1) * self._mean / len(self._holders)

    def leave(self, ticket: Ticket) -> None:
        """Give the turn, or the place in line, back. A ticket may be given back once only."""
        with self._changed:
            self._line.remove(ticket)
            if ticket in self._holders:
                self._end_turn([ticket])
            self._call()
            self._changed.notify_all()

    def overdue(self) -> bool:
        """Whether the holder, who asks, has had its slice and somebody waits who goes before it.

        Where a turn is shared, one of those who share it asks for all of them; they give way once they have had their
        share of the time, whatever the kind of who waits.
        """
        holders, now = self._holders, time.monotonic()
        if len(self._line) <= len(holders) or not holders:
            return False
        with self._changed:
            if now - self._began < SLICE or now - min(t.counted for t in holders) < LOOK:
                return False
            self._count(now)
            waiting = [t for t in self._able() if t not in holders]
            if not holders[0].shared:
                mine = self._rank(holders[0], now)
                return any(self._rank(t, now) < mine for t in waiting)
            first, share = min(t.who.kind for t in holders), (now - self._began) / max(SLICE, self._alone)
            due = [t for t in waiting if not t.shared and (t.who.kind < first or share >= SHARED_TIMES[t.who.kind])]
            self._due = min(due, key=lambda t: self._rank(t, now), default=None)
            return self._due is not None

    def hurry(self, ticket: Ticket) -> None:
        """Let the next turn be this ticket's: its work was called off, and all it does with it is to end."""
        ticket.ending = True

    def step_back(self) -> list[Ticket]:
        """Give the turn back; the holders keep their places in line until they `rejoin` it with their tickets."""
        with self._changed:
            tickets = list(self._holders)
            if not tickets:
                raise ValueError("the engine is not held")
            for ticket in tickets:
                ticket.away = True
            self._end_turn(tickets)
            self._changed.notify_all()
        return tickets

    def rejoin(self, ticket: Ticket) -> None:
        """Wait for another turn. Who needs two engines rejoins one line after the other: a turn that comes while its
        ticket waits elsewhere would be held for nothing, and for ever."""
        with self._changed:
            ticket.away = False
            self._call()
            self._changed.notify_all()

    # -- inside; the caller holds the lock ----------------------------------------------------------------------------

    def _line_of(self, kind: Kind) -> list[RequestOwner]:
        """Who holds or waits, with work of this kind or a lower one."""
        return [ticket.who for ticket in self._line if ticket.who.kind <= kind]

    def _rank(self, ticket: Ticket, now: float) -> tuple[int, float, float, int]:
        """The lowest goes first."""
        who = ticket.who
        first = ticket.ending or ticket is self._due
        kind = ENDING if first else who.kind - int((now - ticket.came) / RISE)
        return kind, self._addresses.of(who.address, now), self._owners.of(who.owner, now), ticket.number

    def _able(self) -> list[Ticket]:
        """Whose turn may come, the holders included."""
        begun = [t for t in self._line if t.begun]
        alone = [t.who for t in begun if not t.shared]
        of_kind = Counter(who.kind for who in alone)
        near: Counter[tuple[Kind, str | None]] = Counter((who.kind, who.address) for who in alone if who.address)
        seated = [t for t in begun if t.shared]
        seats: Counter[str | None] = Counter(t.who.owner for t in seated if t.who.owner)
        taken = sum(t.seat_bytes or 0 for t in seated)

        def fits(t: Ticket) -> bool:
            if t.shared:
                small = not seated or taken + (t.seat_bytes or 0) <= SEAT_BYTES
                return small and len(seated) < SEATS and seats[t.who.owner] < SEATS_EACH
            return of_kind[t.who.kind] < MOST_BEGUN and near[t.who.kind, t.who.address] < BEGUN_EACH

        return [t for t in self._line if not t.away and (t.begun or fits(t))]

    def _call(self) -> None:
        """Give a free engine to the first in line, and seats of a shared turn to who may share it."""
        now = time.monotonic()
        while not self._holders or self._holders[0].shared:
            free = [t for t in self._able() if t not in self._holders and (t.shared or not self._holders)]
            if not free:
                return
            first = min(free, key=lambda t: self._rank(t, now))
            if self._holders:
                self._count(now)
            else:
                self._began, self._due = now, None
            self._holders.append(first)
            first.begun, first.since, first.counted = True, now, now

    def _count(self, now: float) -> None:
        """Note what the holders have had up to now, each its part of it; from here on they wait anew."""
        for ticket in self._holders:
            had = (now - ticket.counted) / len(self._holders)
            for usage, key in ((self._addresses, ticket.who.address), (self._owners, ticket.who.owner)):
                usage.add(key, had, now)
            ticket.counted = ticket.came = now

    def _end_turn(self, tickets: list[Ticket]) -> None:
        """Count the turns of these holders and call who comes next."""
        now = time.monotonic()
        self._count(now)
        for ticket in tickets:
            held = now - ticket.since
            if not ticket.shared:
                self._alone = min(held, LONG)
            self._mean = held if self._mean is None else (1 - SMOOTH) * self._mean + SMOOTH * held
            self._holders.remove(ticket)
        self._call()

    # -- turns as contexts --------------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, patience: float | None = None, seat_bytes: int | None = None) -> Iterator[Ticket]:
        """Wait for the engine, hold it, give it back; yields the ticket.

        Args:
            seat_bytes: for a turn that is shared, see `enter`.
            patience: seconds to wait at most. A server has few threads: one that waits without end for a generation
                may hold the very thread that the generation needs for its next step.

        Raises:
            Busy: the line is full, or the turn did not come in time.
        """
        ticket = self.enter(seat_bytes)
        try:
            if self.wait(ticket, patience):
                raise Busy("The model is busy with another solution. Try again when it is done.")
            yield ticket
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
