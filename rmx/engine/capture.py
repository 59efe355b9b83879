"""CUDA graphs: a pass of static shape is recorded once and replayed, so that its launches cost nothing any more.

A recorded pass reads and writes the very tensors that it was recorded with. Whoever records keeps them, writes new
values into them before each replay, and records anew when one of them is another.
"""

import logging
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

SEEN = 3  # passes of one shape before it is recorded: what comes and goes sooner is not worth it
WARM_UP = 2  # runs before the recording, in which libraries set themselves up

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records work that always touches the same tensors."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Return what repeats the work, and the tensor that holds its result each time."""


class CudaRecorder:
    """Records with `torch.cuda.graph`."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """Run the work a few times on a side stream, then record it."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
        return graph.replay, result


class CapturedPass:
    """The passes of one arena, replayed where their shape lasts.

    Args:
        recorder: None computes every pass anew.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self._key: Hashable = None
        self._seen = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._recorded: tuple[Callable[[], object], Tensor] | None = None

    def __call__(self, key: Hashable, inputs: tuple[Tensor, ...], work: Callable[..., Tensor]) -> Tensor:
        """Do work on inputs; the result is good until the next call.

        Args:
            key: stands for everything but the values of `inputs` and of caches: shapes, tensors, adapters.
            work: called with tensors like `inputs`.
        """
        if self.recorder is None:
            return work(*inputs)
        if key != self._key:
            self._key, self._seen, self._recorded, self._inputs = key, 0, None, ()
        self._seen += 1
        if self._seen <= SEEN:
            return work(*inputs)
        if self._recorded is None:
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            try:
                self._recorded = self.recorder.record(lambda: work(*self._inputs))
            except RuntimeError as error:  # an operation that cannot be recorded, or no memory for the recording
                log.warning("This network's steps cannot be recorded as a CUDA graph: %s", error)
                self.recorder = None
                return work(*inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)
        replay, result = self._recorded
        replay()
        return result
