"""Every watched stream of a model goes through here: all of them get their next token from the same step.

Nobody runs a loop of its own. Whoever wants the next token of its stream, and finds nobody at it, does one step for all
streams and tells the others. So one stream alone costs what it would cost without a scheduler, an error in it is raised
where it is waited for, and a listener that goes away takes nothing with it. A stream whose listener is slow goes on for
`AHEAD` tokens and then waits.

A stream alone is decoded as a cold run decodes it, with an ordinary cache of its own. From two streams on they are rows
of the arena (rmx/engine/arena.py). What cannot be a row there (sliding windows, recurrent state, adapters that do not
scale linearly, and cold runs, which are the reference) keeps its cache and takes its step beside the others'.

The streams hold the engine together, with shared tickets of its line (rmx/engine/fair_queue.py), and give way together.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rmx.config import Sampling
from rmx.engine.arena import Arena, takes_rows
from rmx.engine.engine import PREFILL, Engine, Stream
from rmx.engine.fair_queue import POLL, RequestOwner, Ticket, as_owner, current_owner
from rmx.engine.token_draws import TokenFigures, choose_tokens
from rmx.records import Reuse

AHEAD = 8  # tokens of a stream that may wait for its listener
CHUNK = 256  # tokens of a prompt that are read between two steps of the others


@dataclass(eq=False)
class Decoding:
    """One stream that is asked for, and where it is.

    Args:
        ids: prompt, kept and given tokens. read_from, on_read: see `Engine.open`.
        draw: the uniform number for the next token, 0 to 1; asked once for each token unless the sampling is greedy.
        opened: called when all ids are read, with what was reused; True: nothing is to be decoded.
        take: called with each new token; True ends the stream, that token included.
        cancelled: asked before each step; ends the stream.
        alone: it shares no batch. reuse: False computes everything anew and keeps nothing.
        like: another stream with the same ids, asked for before this one, whose keys and values are copied.
        first: a token that is put behind the ids; the model chooses from the one after it on.
        ahead: how many tokens may wait for the listener. keeps: whether its text is kept for later prefixes.
    """

    ids: Sequence[int]
    sampling: Sampling
    draw: Callable[[], float]
    opened: Callable[[Reuse], bool]
    take: Callable[[TokenFigures], bool]
    cancelled: Callable[[], bool]
    adapter: str | None = None
    alone: bool = False
    reuse: bool = True
    read_from: int | None = None
    on_read: Callable[[int, Tensor], None] | None = None
    like: "Decoding | None" = None
    first: int | None = None
    ahead: int = AHEAD
    keeps: bool = True
    owner: RequestOwner = field(default_factory=current_owner.get)

    # The scheduler's own:
    opening: Iterator[Stream | None] | None = None
    stream: Stream | None = None  # with a cache of its own, unless it is in a slot
    slot: int | None = None
    pending: int | None = None  # the newest token, which the network has not seen yet
    made: int = 0  # tokens so far, and one more once the ids are read
    heard: int = 0  # of those the listener has
    ended: bool = False  # it has no part in the steps any more
    error: Exception | None = None

    @property
    def behind(self) -> bool:
        """Whether its listener has enough to do for now."""
        return self.made - self.heard >= self.ahead


class Scheduler:
    """The streams of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: list[Decoding] = []
        self._left: list[Decoding] = []  # of them: whose listener has gone in the middle of a step
        self._changed = threading.Condition()
        self._driver: int | None = None  # the thread that is at a step
        self._arena: Arena | None = None
        self._fits: bool | None = None  # whether streams of this network can be rows of one batch; None: not known yet
        self._switched: tuple[Any, AbstractContextManager[Any]] | None = None  # whose adapters the network has on

    @property
    def bucket(self) -> tuple[int, int] | None:
        """Slots and width of the pass that serves the streams together; None where there is none."""
        return self._arena.bucket if self._arena and self._arena.slots else None

    def run(self, rows: Sequence[Decoding], ticket: Ticket) -> Generator[None]:
        """Decode streams to their ends, one after the other; yields when `take` or `opened` has been called of it.

        Args:
            rows: usually one; the others go on while the first is listened to.
            ticket: a shared one of the engine's line, whose turn has come; it may have to wait again in between.

        Raises:
            ModelError: the adapter was dropped meanwhile, or the weights are gone. Whatever a step raises.
        """
        with self._changed:
            self._rows += rows
        try:
            for row in rows:
                while self._has_news(row, ticket):
                    yield
        finally:
            for row in rows:
                self._close(row)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _has_news(self, row: Decoding, ticket: Ticket) -> bool:
        """Wait until the stream has gone on, by doing steps where nobody else does; False at its end."""
        while True:
            with self._changed:
                if row.made > row.heard:
                    row.heard = row.made
                    return True
                if row.error is not None:
                    raise row.error
                if row.ended:
                    return False
            if row.cancelled():
                return False
            if self._engine.queue.wait(ticket, POLL):
                continue
            if self._drive(wait=POLL):
                try:
                    if self._engine.queue.holds(ticket):
                        self._step_all()
                finally:
                    self._rest()

    def _drive(self, wait: float | None) -> bool:
        """Become the one who steps; False where somebody has been at it, who by now has done a step."""
        with self._changed:
            if self._driver is None:
                self._driver = threading.get_ident()
                return True
            self._changed.wait(wait)
            return False

    def _rest(self) -> None:
        while self._left:
            self._end(self._left.pop())
        with self._changed:
            self._driver = None
            self._changed.notify_all()

    def _close(self, row: Decoding) -> None:
        """Take a stream out; the step under way is waited for."""
        if self._driver == threading.get_ident():  # an iterator that is collected in the middle of a step
            self._left.append(row)
            return
        while row in self._rows:
            if self._drive(wait=POLL):
                try:
                    self._end(row)
                finally:
                    self._rest()

    # -- steps; by the driver -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _step_all(self) -> None:
        """Give way, or carry every stream on by one token; of those whose ids are not read yet, one reads a piece."""
        with self._changed:
            rows = list(self._rows)
        for row in rows:
            self._guard([row], partial(self._check, row))
        if self._engine.queue.overdue():
            self._give_way()
            return
        live = [row for row in rows if not row.ended]
        fresh = next((row for row in live if row.stream is None and row.like is None), None)
        if fresh is not None:
            copies = [row for row in live if row.like is fresh]
            self._guard([fresh, *copies], partial(self._read, fresh, copies))
        going = [row for row in live if row.pending is not None and not row.ended]
        together = self._together(going)
        ready = [row for row in going if not row.behind and row is not fresh]
        for row in ready:
            if row not in together:
                self._guard([row], partial(self._step_alone, row))
        if batch := [row for row in ready if row in together]:
            self._guard(batch, partial(self._step_together, batch))

    def _guard(self, rows: Sequence[Decoding], work: Callable[[], Any]) -> None:
        """Do work for streams; an error in it ends them and is raised where they are waited for."""
        try:
            work()
        except Exception as error:  # noqa: BLE001  it is raised again where its stream is waited for
            for row in rows:
                row.error = error
                self._end(row)

    def _check(self, row: Decoding) -> None:
        if row.cancelled():
            self._end(row)
        else:
            self._engine.check_adapter(row.adapter)

    def _give_way(self) -> None:
        self._switch_back()
        for ticket in self._engine.queue.step_back():
            self._engine.queue.rejoin(ticket)

    def _read(self, row: Decoding, copies: Sequence[Decoding]) -> None:
        """Read the ids of a stream, or a piece of them where others go on; then comes its first token."""
        engine = self._engine

        def in_one_go() -> bool:
            return row.alone or all(other in (row, *copies) for other in self._rows)

        self._switch(row.adapter)
        with as_owner(row.owner):
            if row.opening is None:
                row.opening = engine.opening(
                    row.ids,
                    adapter=row.adapter,
                    reuse=row.reuse,
                    read_from=row.read_from,
                    on_read=row.on_read,
                    chunk=lambda: PREFILL if in_one_go() else CHUNK,
                )
            stream = next(row.opening)
            while stream is None and in_one_go():
                stream = next(row.opening)
        if stream is None:
            return
        row.stream, row.opening = stream, None
        layers = [(layer.keys, layer.values) for layer in stream.cache.layers] if copies else []
        for copy in copies:
            cache = engine.cache_of(layers, len(row.ids))
            copy.stream = Stream(engine, row.adapter, row.ids, cache, stream.reuse)
        if copies and row.reuse:
            with as_owner(row.owner):
                stream.save()
        for one in (row, *copies):
            self._begin(one, stream)

    def _begin(self, row: Decoding, read: Stream) -> None:
        """Let a stream go on whose ids are read."""
        over = row.opened(read.reuse)
        row.made += 1
        if over or row.cancelled():
            self._end(row)
        elif row.first is None:
            self._deliver([row], read.logits[None])
        else:
            row.pending = row.first

    def _together(self, rows: Sequence[Decoding]) -> Sequence[Decoding]:
        """The streams that are rows of one batch: all that can be, from two on."""
        able = [row for row in rows if not row.alone]
        if len(able) < 2:
            return []
        if self._fits is None:
            self._fits = takes_rows(self._engine)
        return able if self._fits else []

    def _step_alone(self, row: Decoding) -> None:
        self._switch(row.adapter)
        stream = self._own_stream(row)
        assert row.pending is not None
        token, row.pending = row.pending, None
        self._deliver([row], stream.feed(token)[None])

    def _step_together(self, rows: Sequence[Decoding]) -> None:
        arena = self._arena = self._arena or Arena(self._engine)
        for row in rows:
            if row.slot is None and row.stream is not None:
                layers = [(layer.keys, layer.values) for layer in row.stream.cache.layers]
                row.slot, row.stream.cache = arena.put(len(row.stream.ids), layers), None
        moves = arena.shrink()
        adapters = [rows[0].adapter] * arena.slots
        for row in self._rows:
            if row.slot is not None:
                row.slot = moves.get(row.slot, row.slot)
                adapters[row.slot] = row.adapter
        self._switch(*adapters)
        fed = {row.slot: row.pending for row in rows if row.slot is not None and row.pending is not None}
        logits = arena.feed(fed)[list(fed)]
        for row in rows:
            if row.stream is not None and row.pending is not None:
                row.stream.ids.append(row.pending)
                row.pending = None
        self._deliver(rows, logits)

    def _deliver(self, rows: Sequence[Decoding], logits: Tensor) -> None:
        """Choose the next token of each row and hand it over; one transfer for all of them."""
        uniforms = [0.0 if row.sampling.greedy else row.draw() for row in rows]
        for row, chosen in zip(rows, choose_tokens(logits, [row.sampling for row in rows], uniforms), strict=True):
            self._guard([row], partial(self._hand_over, row, chosen))

    def _hand_over(self, row: Decoding, chosen: TokenFigures) -> None:
        row.pending = chosen.token_id
        over = row.take(chosen)
        row.made += 1
        if over:
            self._end(row)

    def _own_stream(self, row: Decoding) -> Stream:
        """The stream of a row, out of the arena where it was there."""
        assert row.stream is not None
        if row.slot is not None:
            assert self._arena is not None
            row.stream.cache, row.slot = self._arena.take(row.slot), None
            if not any(other.slot is not None for other in self._rows):
                self._arena = None
        return row.stream

    def _end(self, row: Decoding) -> None:
        """Take a stream out and keep what was computed for it; the adapters go off with the last one."""
        with self._changed:
            if row not in self._rows:
                return
            self._rows.remove(row)
            row.ended = True
            last = not self._rows
        try:
            if row.stream is not None:
                stream = self._own_stream(row)
                if row.reuse and row.keeps:
                    with as_owner(row.owner):
                        stream.save()
        finally:
            row.stream = row.opening = None
            if last:
                self._switch_back()

    # -- adapters -----------------------------------------------------------------------------------------------------

    def _switch(self, *adapters: str | None) -> None:
        """Have the network compute under one adapter, or each row under its own."""
        wanted = adapters if len(set(adapters)) > 1 else adapters[:1]
        if self._switched is not None and self._switched[0] == wanted:
            return
        self._switch_back()
        switched = self._engine.switched_by_row(wanted) if len(wanted) > 1 else self._engine.switched(wanted[0])
        switched.__enter__()
        self._switched = wanted, switched

    def _switch_back(self) -> None:
        switched, self._switched = self._switched, None
        if switched is not None:
            switched[1].__exit__(None, None, None)


_making = threading.Lock()


def scheduler_of(engine: Engine) -> Scheduler:
    """The one scheduler of an engine."""
    with _making:
        if engine.scheduler is None:
            engine.scheduler = Scheduler(engine)
        found: Scheduler = engine.scheduler
        return found
