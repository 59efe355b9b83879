"""Linear layers that multiply with weights in the order in which oneDNN reads them: on a CPU, in fp32, for inference.

The multiplication of a few rows with a matrix as PyTorch stores it spends half of its time on bringing the matrix into
that order, anew in each pass. Here that is done once, in a second copy beside the weights, which stay what they are: training,
adapters and checksums see ordinary layers. A row's product does not depend on its place among the rows, which it does
where PyTorch multiplies five to seven of them.
"""

import platform
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, nn

SMALLEST = 64 << 20  # bytes of the matrices together: smaller ones stay in the processor's own memory and gain little
PART_OF_MEMORY = 8  # the copy has at most an eighth of what the machine has
ROWS = 32  # of a pass, for which the order is chosen


class PackedLinear(nn.Linear):
    """A linear layer with a second, packed copy of its weights, made by the first inference.

    Weights that are changed in place or replaced are packed again. Writing through `weight.data` leaves no trace: call
    `forget_packed` after it.
    """

    packed: tuple[tuple[int, int], Tensor] | None = None  # what the weights were then, and the copy

    def forward(self, input: Tensor) -> Tensor:
        """Multiply with the packed weights in inference mode, on a CPU in fp32, else with the ordinary ones."""
        weight = self.weight
        if not torch.is_inference_mode_enabled() or weight.device.type != "cpu" or input.dtype != torch.float32:
            return super().forward(input)
        now = weight.data_ptr(), weight._version
        if self.packed is None or self.packed[0] != now:
            self.packed = now, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed[1], self.bias, "none", [], "")  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copy out: it can be neither pickled nor copied."""
        return {name: value for name, value in vars(self).items() if name != "packed"}


def pack_linear_layers(model: nn.Module) -> None:
    """Let the linear layers of a network pack their weights, where that pays and the machine has room for the copy.

    Args:
        model: in fp32 on a CPU, before adapters are put on it.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    nbytes = sum(layer.weight.nbytes for layer in layers)
    fits = SMALLEST <= nbytes <= psutil.virtual_memory().total // PART_OF_MEMORY
    if fits and torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64"):
        for layer in layers:
            layer.__class__ = PackedLinear


def forget_packed(model: nn.Module) -> None:
    """Have the weights packed anew, because something has written to them through `data`, as merging does."""
    for layer in _packed_layers(model):
        layer.packed = None


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the packed copies that have been made."""
    return sum(layer.weight.nbytes for layer in _packed_layers(model) if layer.packed is not None)


def _packed_layers(model: nn.Module) -> Iterator[PackedLinear]:
    return (module for module in model.modules() if isinstance(module, PackedLinear))
