"""Calls to weights in another process, and the error message where no call can be made."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

NOT_HERE = (
    "This is not available on ZeroGPU, where the GPU is lent for single requests: solving, reading, swapping, "
    "measuring, comparing one text, training in slices. Take the model mini, which needs no GPU, or run rmx on a GPU "
    "of your own."
)


class RemoteCaller(Protocol):
    """Makes calls in the process that has the weights."""

    def stream(
        self, function: Callable[..., Any], where: Any, args: tuple[Any, ...], named: dict[str, Any], seconds: float
    ) -> Iterator[Any]:
        """Yield what the function yields there, or the one value that it returns.

        Args:
            function: a function of a module.
            where: the model or pair that is its first argument; None where it has none.
            args, named: its other arguments; all of them are pickled.
            seconds: the longest that it may take.

        Raises:
            RmxError: what it raised there, or the GPU could not be had.
        """
        ...
