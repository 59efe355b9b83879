"""Every watched stream of a model goes through here: all of them get their next token from the same step.

Nobody runs a loop of its own. Whoever wants the next token of its stream, and finds nobody at it, does one step for all
streams and tells the others. So one stream alone costs what it would cost without a scheduler, an error in it is raised
where it is waited for, and a listener that goes away takes nothing with it. A stream whose listener is slow goes on for
`AHEAD` tokens and then waits.

The streams hold the engine together, with shared tickets of its line (rmx/engine/fair_queue.py), and give way together.
How they are stepped is told in rmx/engine/decoder.py.
"""

import threading
from collections.abc import Generator, Sequence

from rmx.engine.decoder import Decoder, Decoding
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import POLL, Ticket


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
