"""The loaded models, shared by all visitors."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from rmx.adapters import adapter_name, add_adapter
from rmx.models import Model, load


class Workspace:
    """Loads each model once and hands the same one to everybody.

    `mini` always stays. Of the larger models the least recently used goes when more than `keep` are loaded.
    """

    def __init__(
        self, device: str = "auto", dtype: str = "auto", keep: int = 2, loader: Callable[[str], Model] | None = None
    ) -> None:
        self._load = loader or (lambda spec: load(spec, device, dtype))
        self._keep = keep
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()  # held for moments only: a slow load must not stop the others

    def model(self, spec: str) -> Model:
        """The model of this spec, loaded now if it is not yet; several who ask at once share one load.

        Raises:
            ModelError: it cannot be loaded; whatever is loaded stays as it is.
        """
        with self._lock:
            if found := self._found(spec):
                return found
            gate = self._loading.setdefault(spec, threading.Lock())
        with gate:
            with self._lock:
                if found := self._found(spec):
                    return found
            try:
                model = self._load(spec)
            finally:
                with self._lock:
                    self._loading.pop(spec, None)
            with self._lock:
                self._models[spec] = model
                large = [s for s in self._models if s != "mini"]
                for old in large[: -self._keep]:
                    del self._models[old]
            return model

    def _found(self, spec: str) -> Model | None:
        if spec in self._models:
            self._models.move_to_end(spec)
        return self._models.get(spec)

    def adapter(self, model: Model, spec: str | None) -> str | None:
        """Make sure that an adapter is on a model; returns its name on the engine, None for the base."""
        if not spec:
            return None
        if (name := adapter_name(spec)) in model.engine.adapters:
            return name
        with model.engine.turns.turn():
            return add_adapter(model, spec)

    @property
    def loaded(self) -> list[str]:
        return list(self._models)
