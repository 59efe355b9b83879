"""The loaded models, shared by all visitors."""

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakValueDictionary

import torch

from rmx.config import MOST_NAME
from rmx.engine.engine import Engine
from rmx.errors import Busy, ModelError, shown
from rmx.models.load import PLAIN, Model, Placing, load
from rmx.models.names import adapter_name
from rmx.models.site_rules import PRIVATE, SiteRules
from rmx.records import RemoteCaller

MOST_ADAPTERS = 24  # on one model; of more, the least recently asked for goes
GIVES_WAY = 5.0  # seconds that work which nobody has asked for has to step aside


class Workspace:
    """Loads each model once and hands the same one to everybody.

    `mini` always stays. Of the larger models the least recently used goes when more than `keep` are loaded.

    Args:
        policy: what may be asked for; every road to a model or an adapter leads through here.
        max_waiting: who holds or waits for one model at most. per_visitor, per_address: how many of those are one
            visitor's, or come from one address; 0: any.
        placing: quantised weights, or a model over several GPUs.
    """

    process_is_copied = False  # for single calls: gradients computed here would spoil the copies

    def __init__(
        self,
        device: str = "auto",
        dtype: str = "auto",
        keep: int = 2,
        loader: Callable[[str], Model] | None = None,
        policy: SiteRules = PRIVATE,
        max_waiting: int = 64,
        per_visitor: int = 0,
        per_address: int = 0,
        placing: Placing = PLAIN,
    ) -> None:
        self._load = loader or (lambda spec: load(spec, device, dtype, placing=placing))
        self.policy, self._line = policy, (max_waiting, per_visitor, per_address)
        self._keep = keep
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        # What was unloaded and is still named by solutions that are kept: they go on once the weights are back.
        self._unloaded: WeakValueDictionary[tuple[str, str], Engine] = WeakValueDictionary()
        self._lock = threading.Lock()  # held for moments only: a slow load must not stop the others

    def model(self, spec: str) -> Model:
        """The model of this spec, loaded now if it is not yet; several who ask at once share one load.

        Raises:
            ModelError: it cannot be loaded; whatever is loaded stays as it is. Refused: not on this site.
        """
        _check_name("model", spec)
        self.policy.admit_model(spec)
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
                if (before := self._unloaded.pop((spec, model.revision), None)) is not None:
                    before.reload(model.engine)
                    model.engine = before
                turns = model.engine.queue
                turns.limit, turns.per_owner, turns.per_address = self._line
                self._models[spec] = model
                large = [s for s in self._models if s != "mini"]
                for old in large[: -self._keep]:
                    del self._models[old]
            return model

    def _found(self, spec: str) -> Model | None:
        if spec in self._models and self._models[spec].engine.fault is not None:
            del self._models[spec]  # whoever asks next gets it from its file again
        if spec in self._models:
            self._models.move_to_end(spec)
        return self._models.get(spec)

    def adapter(self, model: Model, spec: str | None) -> str | None:
        """Make sure that an adapter is on a model; returns its name on the engine, None for the base.

        Raises:
            ModelError: it cannot be put on. Refused: not on this site.
        """
        if not spec:
            return None
        _check_name("adapter", spec)
        self.policy.admit_adapter(model, spec)
        engine, name = model.engine, adapter_name(spec)
        with self._lock:  # two at once would both take it out
            if name in engine.adapters:
                engine.adapters[name] = engine.adapters.pop(name)  # the newest is the last
                return name
        from rmx.models.adapters import add_adapter, drop_adapter  # with PEFT, which takes long to import

        with engine.queue.turn():
            name = add_adapter(model, spec)
            for old in list(engine.adapters)[:-MOST_ADAPTERS]:
                drop_adapter(model, old)
            return name

    def sizes(self) -> dict[str, int]:
        """Each loaded model by its spec, and the bytes that it takes with its adapters and its prefix cache."""
        held = list(self._models.items())
        return {spec: model.engine.nbytes for spec, model in held if model.engine.fault is None}

    def unload(self, spec: str) -> int:
        """Give a model's memory back, with its adapters and all that was computed with it; returns the bytes.

        Solutions that are kept stay as they are. They go on with the model as soon as it is loaded again.

        Raises:
            ModelError: it is not loaded, or it has to stay. Busy: somebody uses it.
        """
        if spec == "mini":
            raise ModelError("The bundled model mini always stays: the page needs it, and it takes a few megabytes.")
        with self._lock:
            model = self._models.get(spec)
        if model is None:
            raise ModelError(f"The model {shown(spec)} is not loaded.")
        engine = model.engine
        if engine.queue.asked():
            raise Busy(f"Somebody uses {spec} at the moment. Unload it when that is done.")
        with engine.queue.turn(GIVES_WAY):
            if engine.fault is not None:
                raise ModelError(engine.fault)
            nbytes = engine.nbytes
            with self._lock:
                self._models.pop(spec, None)
                self._unloaded[spec, model.revision] = engine
            engine.unload(f"{spec} was unloaded. Load it again, under Model, to go on from here.")
        gc.collect()  # networks refer to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return nbytes

    def all(self) -> list[Model]:
        """Every model that is loaded."""
        return list(self._models.values())

    def remote_of(self, spec: str) -> RemoteCaller | None:
        """Who carries calls about this model, where it computes in another process."""
        model = self._models.get(spec)
        return model.engine.remote if model else None

    def forked(self) -> None:
        """In a new process that is a copy of another: its threads are not here to free what they hold."""
        self._lock, self._loading = threading.Lock(), {}
        for model in self.all():
            model.engine.forked()

    def close(self) -> None:
        """No more work is begun: the process is about to end."""
        for model in self.all():
            model.engine.queue.close()

    def waiting(self) -> int:
        """How many hold or wait for the model with the longest line, for what somebody has asked for."""
        return max((m.engine.queue.asked() for m in list(self._models.values())), default=0)

    @property
    def loaded(self) -> list[str]:
        """Specs of the loaded models, the least recently used first."""
        return list(self._models)


def _check_name(kind: str, spec: str) -> None:
    """Raise ModelError for a name longer than any file or repository has: errors repeat it, and results keep it."""
    if len(spec) > MOST_NAME:
        raise ModelError(f"The name of the {kind} has {len(spec):,} characters; it may have at most {MOST_NAME}.")
