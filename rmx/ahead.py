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


def ahead(steps: Iterator[Item], halt: Callable[[], None]) -> Iterator[Item]:
    """What `steps` yields, made in a thread of its own; its errors are raised here.

    Args:
        halt: asks the work to end at its next step; called where nobody takes the rest.
    """
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    left = threading.Event()

    def go() -> None:
        try:
            for item in steps:
                made.put(("item", item))
                if left.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  it is raised again where somebody listens
            made.put(("error", error))
        finally:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
            made.put(("end", None))

    threading.Thread(target=copy_context().run, args=(go,), name="ahead", daemon=True).start()
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
