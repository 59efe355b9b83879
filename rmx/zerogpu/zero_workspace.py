"""rmx on a ZeroGPU Space: mini computes here on the CPU, larger models wait on a GPU that is lent for single calls.

What the package `spaces` asks for: it is imported before anything touches CUDA; models are put on "cuda" in the main
thread before the app is launched, where that is only pretended and the weights go to disk; functions that use them are
decorated, and run in a process that is a copy of this one with the weights on a real GPU (see calls.py).
"""

import importlib
import os
from typing import Any

from rmx.errors import ModelError, RmxError, shown
from rmx.models.adapter_names import adapter_name, adapter_place, attached
from rmx.models.load import Model, load
from rmx.models.workspace import MOST_ADAPTERS, Workspace
from rmx.zerogpu.calls import Gpu, ZeroGpuCaller

VARIABLE = "SPACES_ZERO_GPU"  # set by the Space; `spaces` reads the same
NEAR = ("mini",)  # models that need no GPU


def is_zerogpu() -> bool:
    """Whether this process runs on a ZeroGPU Space."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "t", "true")


def spaces_gpu() -> Gpu:
    """The decorator of the package `spaces`; outside such a Space it changes nothing.

    Raises:
        RmxError: the package is not installed.
    """
    try:
        gpu: Gpu = importlib.import_module("spaces").GPU
    except ModuleNotFoundError as error:
        raise RmxError("A ZeroGPU Space needs the package spaces: add it to its requirements.txt.") from error
    return gpu


class ZeroWorkspace(Workspace):
    """The models of a ZeroGPU Space: those that are loaded before `ready`, and no others.

    Args:
        gpu: as `spaces.GPU`. device: where the larger models go. options: as for Workspace.
    """

    process_is_copied = True

    def __init__(self, gpu: Gpu | None = None, device: str = "cuda", **options: Any) -> None:
        self.carrier = ZeroGpuCaller(gpu or spaces_gpu(), self)  # first: spaces must be there before the models
        self._device, self._placing = device, True
        super().__init__(loader=self._place, keep=1 << 16, **options)

    def _place(self, spec: str) -> Model:
        if spec in NEAR:
            return load(spec, "cpu")
        if not self._placing:
            known = ", ".join(self.loaded)
            raise ModelError(
                f"On ZeroGPU models are loaded when the Space starts: {known}. Set RMX_MODEL of a duplicate for {spec}."
            )
        return load(spec, self._device)

    def ready(self) -> None:
        """From now on the larger models compute in another process only. Call it before the app is launched."""
        self._placing = False
        for model in self.all():
            if model.spec not in NEAR and self.carrier.crosses:
                model.engine.remote = self.carrier

    def unload(self, spec: str) -> int:
        """Refuse: what leaves memory here could not come back.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"On ZeroGPU models are loaded when the Space starts, so {shown(spec)} stays in memory.")

    def adapter(self, model: Model, spec: str | None) -> str | None:
        """As Workspace.adapter. Of a model that is far away only the adapter's place is noted; the other process puts
        it on when it is first used there.

        Raises:
            ModelError: there is none here. Refused: not on this site.
        """
        engine = model.engine
        if not spec or engine.remote is None:
            return super().adapter(model, spec)
        self.policy.admit_adapter(model, spec)
        name = adapter_name(spec)
        place = engine.adapters.pop(name, None) or _at_hand(model, spec)
        engine.adapters[name] = place  # the newest is the last
        for old in [known for known in engine.adapters if known not in attached(model)][:-MOST_ADAPTERS]:
            del engine.adapters[old]
        return name


def _at_hand(model: Model, spec: str) -> str:
    place = adapter_place(model, spec)
    if not os.path.isdir(place):
        raise ModelError(
            f"On ZeroGPU adapters of the Hub are loaded when the Space starts. Name {spec} in RMX_ADAPTERS."
        )
    return place
