"""Steps that do not wait for who looks at them: a model goes on while its words are on their way to the page.

A server takes the next step of a stream when it has delivered the last one. With many visitors that takes longer than
the step itself, and meanwhile the model would stand still with its line waiting.
"""

import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


def fill_queue(begin: Callable[[], Iterator[Any]], tell: Callable[[str, Any], None], left: Callable[[], bool]) -> None:
    """Go through steps in a thread of its own, in the caller's context (who asks; whose GPU time it takes).

    Args:
        begin: makes the steps, in the thread. left: whether nobody listens any more; then they are closed.
        tell: hears ("item", what) for each step, ("error", what) where they fail, and ("end", None) at last.
    """

    def go() -> None:
        steps = begin()
        try:
            for item in steps:
                tell("item", item)
                if left():
                    break
        except BaseException as error:  # noqa: BLE001  it is raised again where somebody listens
            tell("error", error)
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
            tell("end", None)

    threading.Thread(target=copy_context().run, args=(go,), name="ahead", daemon=True).start()


def prefetch(steps: Iterator[Item], halt: Callable[[], None]) -> Iterator[Item]:
    """What `steps` yields, made in a thread of its own; its errors are raised here.

    Args:
        halt: asks the work to end at its next step; called where nobody takes the rest.
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
