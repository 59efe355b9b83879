"""What makes passes faster: on CUDA they are recorded, on a CPU weights are packed.

A recorded pass of static shape (a CUDA graph) costs no launches any more. It reads and writes the very tensors that it
was recorded with. Whoever records keeps them, writes new values into them before each replay, and records anew when one
of them is another.

Packed weights are in the order in which oneDNN multiplies with them. The product of a few rows with a matrix as PyTorch
stores it spends half of its time on bringing the matrix into that order, anew in each pass. Here that is done once, in
a second copy beside the weights, which stay what they are: training, adapters and checksums see ordinary layers. A
row's product does not depend on its place, which it does where PyTorch multiplies five to seven rows.
"""

import logging
import platform
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor, nn

SEEN = 3  # passes of one shape before it is recorded: what comes and goes sooner is not worth it
WARM_UP = 2  # runs before the recording, in which libraries set themselves up
SMALLEST = 64 << 20  # bytes of the matrices that are packed: smaller ones stay in the processor's caches anyway
PART_OF_MEMORY = 8  # packed weights have at most an eighth of what the machine has
PACKED_ROWS = 32  # of a pass, for which their order is chosen

log = logging.getLogger(__name__)


# -- CUDA graphs -----------------------------------------------------------------------------------------------------


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

    @property
    def replayed(self) -> bool:
        """Whether the latest pass was replayed."""
        return self._recorded is not None

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


# -- Packed weights --------------------------------------------------------------------------------------------------


class PackedLinear(nn.Linear):
    """A linear layer with a second, packed copy of its weights, made by the first inference.

    Weights that are changed in place or replaced are packed again. Writing through `weight.data`, or to weights that
    were made in inference mode, leaves no trace: call `forget_packed` after it.
    """

    packed: tuple[tuple[int, int], Tensor] | None = None  # what the weights were then, and the copy

    def forward(self, input: Tensor) -> Tensor:
        """Multiply with the packed weights in inference mode, on a CPU in fp32, else with the ordinary ones."""
        weight = self.weight
        if not torch.is_inference_mode_enabled() or not _is_plain(weight) or input.dtype != torch.float32:
            return super().forward(input)
        now = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if self.packed is None or self.packed[0] != now:
            self.packed = now, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed[1], self.bias, "none", [], "")
        return product

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copy out: it can be neither pickled nor copied."""
        return {name: value for name, value in vars(self).items() if name != "packed"}


def pack_linear_layers(network: nn.Module) -> None:
    """Let linear layers pack their weights, in fp32 on a CPU, where that pays and the machine has room for the copy.

    Args:
        network: before adapters are put on it.
    """
    layers = [layer for layer in network.modules() if type(layer) is nn.Linear and _is_plain(layer.weight)]
    nbytes = sum(layer.weight.nbytes for layer in layers)
    fits = SMALLEST <= nbytes <= psutil.virtual_memory().total // PART_OF_MEMORY
    if fits and torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64"):
        for layer in layers:
            layer.__class__ = PackedLinear


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def forget_packed(network: nn.Module) -> None:
    """Have the weights packed anew, because something has written to them through `data`, as merging does."""
    for layer in _packed_layers(network):
        layer.packed = None


def packed_bytes(network: nn.Module) -> int:
    """Bytes of the packed copies that have been made."""
    return sum(layer.weight.nbytes for layer in _packed_layers(network) if layer.packed is not None)


def _packed_layers(network: nn.Module) -> Iterator[PackedLinear]:
    return (module for module in network.modules() if isinstance(module, PackedLinear))
