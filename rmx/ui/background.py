"""Long work in a thread of its own, as an iterator: closing it ends the work at its next step.

A server cannot interrupt a generator in the middle of a step, so a request that was given up would keep the engine, or
its place in line, until the step is over. Here only the thread waits, and ends by itself.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from rmx.engine.fair_queue import Kind, RequestOwner, as_owner

Item = TypeVar("Item")


def fill_queue(begin: Callable[[], Iterator[Any]], put: Callable[[str, Any], None], left: Callable[[], bool]) -> None:
    """Go through steps in a thread of its own, in the caller's context: its owner pays for them.

    Args:
        begin: makes the steps, in the thread. left: whether the listener has gone; then they are closed.
        put: is called with ("item", what) for each step, ("error", what) where they fail, ("end", None) at last.
    """

    def go() -> None:
        steps = begin()
        try:
            for item in steps:
                put("item", item)
                if left():
                    break
        except BaseException as error:  # noqa: BLE001  it is raised again in the listener
            put("error", error)
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
            put("end", None)

    threading.Thread(target=copy_context().run, args=(go,), name="ahead", daemon=True).start()


def prefetch(steps: Iterator[Item], halt: Callable[[], None]) -> Iterator[Item]:
    """Yield what `steps` yields, made in a thread of its own; its errors are raised here.

    Args:
        halt: asks the work to end at its next step; called where the rest is not taken.
    """
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    left = threading.Event()
    fill_queue(lambda: steps, lambda kind, what: made.put((kind, what)), left.is_set)
    over = False
    try:
        while True:
            kind, what = made.get()
            over = kind != "item"
            if kind == "end":
                return
            if kind == "error":
                raise what
            yield what
    finally:
        left.set()
        if not over:
            halt()


_under_way: "WeakSet[threading.Event]" = WeakSet()  # what asks each piece of work to come to its end
Work = Callable[[Callable[[], bool]], Iterator[Item]]  # is given `cancelled`


def finish_all() -> None:
    """Ask all work that is under way to stop at its next step; each still yields its last item."""
    for finish in list(_under_way):
        finish.set()


async def in_thread(
    work: "Work[Item]", owner: str | None | RequestOwner = None, kind: Kind | None = None
) -> AsyncIterator[Item]:
    """Yield what `work` yields, as it comes; its errors are raised here.

    Args:
        owner, kind: of the work, by which it waits for an engine; see `as_owner`.
    """
    loop, items, stop = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]](), threading.Event()
    finish = threading.Event()
    _under_way.add(finish)

    def put(kind: str, what: Any) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(items.put_nowait, (kind, what))

    with as_owner(owner, kind):
        fill_queue(lambda: work(lambda: stop.is_set() or finish.is_set()), put, stop.is_set)
    try:
        while True:
            found, what = await items.get()
            if found == "end":
                return
            if found == "error":
                raise what
            yield what
    finally:
        stop.set()
