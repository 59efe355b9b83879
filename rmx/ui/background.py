"""Long work in a thread of its own, as an async iterator: who stops listening stops the work at its next step.

A server cannot interrupt a generator in the middle of a step, so a request that was given up would keep the engine, or
its place in line, until the step is over. Here only the thread waits; it is told, and ends by itself.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from rmx.engine.fair_queue import Kind, RequestOwner, as_owner
from rmx.ui.prefetch import fill_queue

Item = TypeVar("Item")
_under_way: "WeakSet[threading.Event]" = WeakSet()  # what asks each piece of work to come to its end
Work = Callable[[Callable[[], bool]], Iterator[Item]]  # is given `cancelled`


def finish_all() -> None:
    """Ask all work that is under way to stop at its next step and to say its last word."""
    for finish in list(_under_way):
        finish.set()


async def in_thread(
    work: "Work[Item]", owner: str | None | RequestOwner = None, kind: Kind | None = None
) -> AsyncIterator[Item]:
    """What `work` yields, as it comes; errors of it are raised here.

    Args:
        owner, kind: in whose name the work waits for an engine, and what it is, see `asking`.
    """
    loop, items, stop = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]](), threading.Event()
    finish = threading.Event()
    _under_way.add(finish)

    def tell(kind: str, what: Any) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(items.put_nowait, (kind, what))

    with as_owner(owner, kind):
        fill_queue(lambda: work(lambda: stop.is_set() or finish.is_set()), tell, stop.is_set)
    try:
        while True:
            told, what = await items.get()
            if told == "end":
                return
            if told == "error":
                raise what
            yield what
    finally:
        stop.set()
