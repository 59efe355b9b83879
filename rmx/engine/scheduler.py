"""Streams that are decoded by the same steps, and the scheduler through which every watched stream of a model goes.

A `Decoder` steps whatever streams it has: ids that are read, tokens that are chosen, streams that end. The `Scheduler`
has one for the streams of all visitors.

Nobody runs a loop of its own. Whoever wants the next token of its stream, and finds nobody at it, does one step for all
streams and tells the others. So one stream alone costs what it would cost without a scheduler, an error in it is raised
where it is waited for, and a listener that goes away takes nothing with it. A stream whose listener is slow goes on for
`AHEAD` tokens and then waits.

The streams hold the engine together, with shared tickets of its line (rmx/engine/fair_queue.py), and give way together.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rmx.arguments import Sampling
from rmx.config import TOP_KEPT
from rmx.engine.engine import PREFILL, Engine, Stream
from rmx.engine.fair_queue import POLL, RequestOwner, Ticket, as_owner, current_owner, never
from rmx.engine.rows import RowSet
from rmx.engine.token_draws import TokenFigures, choose_tokens
from rmx.records import Reuse, StepPath

AHEAD = 8  # tokens of a stream that may wait for its listener
CHUNK = 256  # tokens of a prompt, or of several, that are read between two steps of the others


@dataclass(eq=False)
class Prefix:
    """Ids that are read once for all streams that go on from them.

    Args:
        reuse, cold, read_from, on_read: see `Engine.open`.
        save: whether keys and values are kept for later prefixes once they are read.
    """

    ids: Sequence[int]
    adapter: str | None = None
    reuse: bool = True
    cold: bool = False
    read_from: int | None = None
    on_read: Callable[[int, Tensor], None] | None = None
    save: bool = False

    # The decoder's own:
    begun: Stream | None = None  # with what is reused in its cache
    pieces: Iterator[None] | None = None  # of what is read of them
    stream: Stream | None = None  # once they are read

    @property
    def joins(self) -> bool:
        """Whether they may be read by one pass with others: nothing is read yet, only the last logits are wanted."""
        return self.pieces is None and self.read_from is None

    @property
    def unread(self) -> int:
        """Ids that are not reused, once they have begun."""
        return self.begun.reuse.computed if self.begun else 0


@dataclass(eq=False)
class Decoding:
    """One stream that is asked for, and where it is.

    Args:
        prefix: what it goes on from. keep: how many of the prefix's ids; None: all. given: tokens behind them, at least
            one where not all are kept; the model chooses from the one after these on.
        draw: the uniform number for the next token, 0 to 1; asked once for each token unless the sampling is greedy.
        opened: called when all ids are read, with what was reused; True: nothing is to be decoded.
        take: called with each new token; True ends the stream, that token included.
        cancelled: asked before each step; ends the stream.
        alone: it shares no pass.
        ahead: how many tokens may wait for the listener; None: any number. keeps: whether its text is kept for later
            prefixes. top: likeliest tokens that `take` is told.
    """

    prefix: Prefix | None  # None once its ids are read, so that their keys and values need not be kept twice
    sampling: Sampling
    take: Callable[[TokenFigures], bool]
    draw: Callable[[], float] = float  # 0.0 always
    opened: Callable[[Reuse], bool] = lambda reuse: False
    cancelled: Callable[[], bool] = never
    given: Sequence[int] = ()
    keep: int | None = None
    alone: bool = False
    ahead: int | None = None
    keeps: bool = False
    top: int = TOP_KEPT
    owner: RequestOwner = field(default_factory=current_owner.get)

    # The decoder's own:
    stream: Stream | None = None  # once its ids are read
    pending: Sequence[int] = ()  # the newest tokens, which the network has not seen yet
    path: StepPath | None = None  # of its steps so far
    made: int = 0  # tokens so far, and one more once the ids are read
    heard: int = 0  # of those the listener has
    ended: bool = False  # it has no part in the steps any more
    error: Exception | None = None

    def __post_init__(self) -> None:
        assert self.prefix is not None
        self.adapter, self.keeps = self.prefix.adapter, self.keeps and self.prefix.reuse

    @property
    def behind(self) -> bool:
        """Whether its listener has enough to do for now."""
        return self.ahead is not None and self.made - self.heard >= self.ahead


class Decoder:
    """Streams that are decoded together; the caller holds the engine's turn.

    Args:
        visitors: the streams are of people who are strangers to each other. An error of one is kept in its `error`, a
            long prompt is read in pieces between the steps of the others, and a stream that is alone is decoded as a
            cold run decodes it, with a cache of its own. Otherwise errors are raised, prompts are read first, and the
            streams always are rows, so that their number does not change what they compute.
    """

    def __init__(self, engine: Engine, visitors: bool = False) -> None:
        self._engine, self._visitors = engine, visitors
        self.rows = RowSet(engine)
        self.live: list[Decoding] = []

    @torch.inference_mode()
    def step(self, cancelled: Callable[[], bool] = never) -> None:
        """Read ids and carry every stream on by one token: visitors' streams first, then a pass over ids that wait.

        Of others all ids are read first, and the engine gives way after each pass over ids and in the end; `cancelled`
        shortens the waits.
        """
        self.check()
        while not self._visitors and self._read_next():
            self._engine.give_way(cancelled)
        for part in self._parts([row for row in self.live if row.pending]):
            if ready := [row for row in part if not row.behind]:
                self._guard(ready, partial(self._advance, ready, self._alone(part)))
        if self._visitors:
            self._read_next()
        elif self.live:
            self._engine.give_way(cancelled)

    def _read_next(self) -> bool:
        """Read ids of the first stream whose ids are not read yet, and of others beside it; whether there were any."""
        if waiting := self._unread():
            together = self._together(waiting)
            fresh = [row for prefix in together for row in waiting[prefix]]
            self._guard(fresh, partial(self._read, together, waiting))
        return bool(waiting)

    def _unread(self) -> dict[Prefix, list[Decoding]]:
        """The streams whose ids are not read yet, by what they go on from."""
        waiting: dict[Prefix, list[Decoding]] = {}
        for row in self.live:
            if row.prefix is not None:
                waiting.setdefault(row.prefix, []).append(row)
        for prefix, rows in waiting.items():
            if prefix.begun is None and prefix.stream is None:
                self._guard(rows, partial(self._begin, prefix, rows[0].owner))
        return {prefix: rows for prefix, rows in waiting.items() if not rows[0].ended}

    def _begin(self, prefix: Prefix, owner: RequestOwner) -> None:
        with as_owner(owner):
            prefix.begun = self._engine.begin(prefix.ids, prefix.adapter, prefix.reuse, prefix.read_from, prefix.cold)

    def _together(self, waiting: Mapping[Prefix, Sequence[Decoding]]) -> list[Prefix]:
        """The first of them, and those that are read by the same pass: none twice as long as another, few in all."""
        first, *others = waiting
        found, kind = [first], self._reading_kind(first, waiting[first])
        most = CHUNK if self._visitors or self._engine.recorder is None else PREFILL
        for prefix in others if kind else ():
            sizes = [one.unread for one in (*found, prefix)]
            fits = max(sizes) <= 2 * min(sizes) and len(sizes) * max(sizes) <= most
            if fits and self._reading_kind(prefix, waiting[prefix]) == kind:
                found.append(prefix)
        return found

    def _reading_kind(self, prefix: Prefix, rows: Sequence[Decoding]) -> tuple[str | None] | None:
        """What those have in common that may be read by one pass; None where it is read by itself."""
        able = self.rows.fits and prefix.joins and not rows[0].alone
        return (self.rows.kind(prefix.begun),) if able and prefix.begun is not None else None

    def check(self) -> None:
        """End streams that were cancelled, and those whose adapter or weights are gone."""
        for row in list(self.live):
            self._guard([row], partial(self._check, row))

    def fill(self, waiting: Iterator[Decoding], most: int | None = None) -> bool:
        """Let streams begin while fewer than `most` are there; whether there is any at all."""
        while most is None or len(self.live) < most:
            if (row := next(waiting, None)) is None:
                break
            self.live.append(row)
        return bool(self.live)

    def end(self, row: Decoding) -> None:
        """Take a stream out and keep what was computed for it, where that is wanted."""
        if row not in self.live:
            return
        self.live.remove(row)
        row.ended = True
        stream, row.stream = row.stream, None
        try:
            if stream is not None and row.keeps:
                self.rows.take_out(stream)
                with as_owner(row.owner):
                    stream.save()
        finally:
            if stream is not None:
                self.rows.drop(stream)
            if not self.live:
                self.rows.leave()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _guard(self, rows: Sequence[Decoding], work: Callable[[], Any]) -> None:
        """Do work for streams; an error of a visitor's is raised again where the stream is waited for."""
        try:
            work()
        except Exception as error:
            if not self._visitors:
                raise
            for row in rows:
                row.error = error
                self.end(row)

    def _check(self, row: Decoding) -> None:
        if row.cancelled():
            self.end(row)
        else:
            self._engine.check_adapter(row.adapter)

    def _read(self, together: Sequence[Prefix], waiting: Mapping[Prefix, Sequence[Decoding]]) -> None:
        """Read the ids of streams; then comes the first token of each."""
        first = together[0]
        if first.stream is None and len(together) == 1:
            self._read_alone(first, waiting[first])
        elif first.stream is None:
            self.rows.read([prefix.begun for prefix in together if prefix.begun is not None])
            for prefix in together:
                prefix.stream = prefix.begun
        for prefix in together:
            if prefix.stream is not None:
                self._guard(waiting[prefix], partial(self._go_on, prefix, prefix.stream, waiting[prefix]))

    def _read_alone(self, prefix: Prefix, fresh: Sequence[Decoding]) -> None:
        """Read the ids of one prefix as a cold run reads them, or a piece of them where others go on."""
        stream = prefix.begun
        assert stream is not None

        def in_one_go() -> bool:
            return not self._visitors or fresh[0].alone or all(row in fresh for row in self.live)

        self.rows.reading(prefix.adapter)
        if prefix.pieces is None:
            prefix.pieces = self._engine.reading(
                stream, prefix.read_from, prefix.on_read, chunk=lambda: PREFILL if in_one_go() else CHUNK
            )
        for _ in prefix.pieces:
            if not in_one_go():
                return
        prefix.stream = stream

    def _go_on(self, prefix: Prefix, read: Stream, rows: Sequence[Decoding]) -> None:
        """Let streams go on whose ids are read."""
        if prefix.begun is not None:
            prefix.begun = prefix.pieces = None
            # Where one token was computed, all but the last is in the prefix cache already.
            if prefix.save and prefix.reuse and read.reuse.computed > 1:
                with as_owner(rows[0].owner):
                    read.save()
        choosing: list[Decoding] = []
        for row in rows:
            row.stream, row.prefix = read.branch(row.keep), None
            over = row.opened(read.reuse)
            row.made += 1
            if over or row.cancelled():
                self.end(row)
            elif row.given:
                row.pending = row.given
            else:
                choosing.append(row)
        if choosing:
            self._deliver(choosing, read.logits.expand(len(choosing), -1))

    def _parts(self, rows: Sequence[Decoding]) -> list[list[Decoding]]:
        """The streams that can share passes, and each of the others by itself."""
        parts: dict[object, list[Decoding]] = {}
        for row in rows:
            assert row.stream is not None
            together = self.rows.fits and not row.alone
            parts.setdefault(("together", self.rows.kind(row.stream)) if together else row, []).append(row)
        return list(parts.values())

    def _alone(self, part: Sequence[Decoding]) -> bool:
        lonely = self._visitors and self._engine.recorder is None  # else a row too: recorded passes are far faster
        return len(part) == 1 and (lonely or part[0].alone or not self.rows.fits)

    def _advance(self, batch: Sequence[Decoding], alone: bool) -> None:
        """Feed streams their pending tokens and choose the next."""
        streams, tokens = [row.stream for row in batch if row.stream is not None], [row.pending for row in batch]
        logits = self.rows.feed_alone(streams[0], tokens[0])[None] if alone else self.rows.feed(streams, tokens)
        for row in batch:
            row.path = self.rows.path and self.rows.path.joined(row.path)
        self._deliver(batch, logits)

    def _deliver(self, rows: Sequence[Decoding], logits: Tensor) -> None:
        """Choose the next token of each row and hand it over; one transfer for all of them."""
        uniforms = [0.0 if row.sampling.greedy else row.draw() for row in rows]
        chosen = choose_tokens(logits, [row.sampling for row in rows], uniforms, max(row.top for row in rows))
        for row, figures in zip(rows, chosen, strict=True):
            self._guard([row], partial(self._hand_over, row, figures))

    def _hand_over(self, row: Decoding, chosen: TokenFigures) -> None:
        row.pending = (chosen.token_id,)
        over = row.take(chosen)
        row.made += 1
        if over:
            self.end(row)


def decode(
    engine: Engine, wanted: Iterable[Decoding], *, most: int | None = None, cancelled: Callable[[], bool] = never
) -> Iterator[None]:
    """Decode streams to their ends; yields after each step, and between two steps others get their turn.

    The caller holds the engine's turn.

    Args:
        most: streams that are decoded at once; the others begin as those end. None: all.
        cancelled: shortens the waits in between; whoever is cancelled stops asking for steps.

    Raises:
        PromptError: a prompt that this model cannot take.
    """
    decoder, waiting = Decoder(engine), iter(wanted)
    with decoder.rows:
        while decoder.fill(waiting, most):
            decoder.step(cancelled)
            yield


# -- The scheduler ----------------------------------------------------------------------------------------------------


class Scheduler:
    """The streams of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._decoder = engine, Decoder(engine, visitors=True)
        self._coming: list[Decoding] = []
        self._left: list[Decoding] = []  # whose listener has gone in the middle of a step
        self._changed = threading.Condition()
        self._driver: int | None = None  # the thread that is at a step

    @property
    def bucket(self) -> tuple[int, int] | None:
        """Slots and width of the pass that serves the streams together; None where there is none."""
        return self._decoder.rows.bucket

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values of streams that are decoded together."""
        return self._decoder.rows.nbytes

    def run(self, rows: Sequence[Decoding], ticket: Ticket) -> Generator[None]:
        """Decode streams to their ends, one after the other; yields when `take` or `opened` has been called of it.

        Args:
            rows: usually one; the others go on while the first is listened to.
            ticket: a shared one of the engine's line, whose turn has come; it may have to wait again in between.

        Raises:
            ModelError: the adapter was dropped meanwhile, or the weights are gone. Whatever a step raises.
        """
        with self._changed:
            self._coming += rows
        try:
            for row in rows:
                while self._has_news(row, ticket):
                    yield
        finally:
            for row in rows:
                self._close(row)

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
                        self._step()
                finally:
                    self._rest()

    def _step(self) -> None:
        """Give way, or do a step for all streams."""
        with self._changed:
            self._decoder.live += self._coming
            self._coming.clear()
        self._decoder.check()
        if self._engine.queue.overdue():
            self._decoder.rows.leave()
            for ticket in self._engine.queue.step_back():
                self._engine.queue.rejoin(ticket)
        else:
            self._decoder.step()

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
            self._decoder.end(self._left.pop())
        with self._changed:
            self._driver = None
            self._changed.notify_all()

    def _close(self, row: Decoding) -> None:
        """Take a stream out; the step under way is waited for."""
        if self._driver == threading.get_ident():  # an iterator that is collected in the middle of a step
            self._left.append(row)
            return
        with self._changed:
            if row in self._coming:
                self._coming.remove(row)
        while row in self._decoder.live:
            if self._drive(wait=POLL):
                try:
                    self._decoder.end(row)
                finally:
                    self._rest()


_making = threading.Lock()


def scheduler_of(engine: Engine) -> Scheduler:
    """The one scheduler of an engine."""
    with _making:
        if engine.scheduler is None:
            engine.scheduler = Scheduler(engine)
        found: Scheduler = engine.scheduler
        return found
