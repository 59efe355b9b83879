"""One set of weights: prefill, step, crop, expand, read; base and adapters on the same weights.

The engine speaks token ids and logits only. It knows nothing about text, forks, answers or the web. Callers hold
`engine.queue.turn()` while they use it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from rmx.engine.acceleration import CudaRecorder, Recorder, pack_linear_layers, packed_bytes
from rmx.engine.fair_queue import POLL, FairQueue, Ticket, current_owner, never
from rmx.engine.prefix_cache import PrefixCache, Saved, croppable, whole_length, windowed
from rmx.errors import NOT_HERE, ModelError, PromptError
from rmx.records import RemoteCaller, Reuse

PREFILL = 2048  # positions that are read at once where nobody wants their logits
CHUNK_BYTES = 32 << 20  # logits of one reading chunk; larger blocks cost page faults more than they save


class Stream:
    """One sequence being decoded: `logits` belong to the token that comes next."""

    def __init__(self, engine: "Engine", adapter: str | None, ids: Sequence[int], cache: Any, reuse: Reuse) -> None:
        self._engine, self._adapter, self.cache = engine, adapter, cache
        self.ids = list(ids)
        self.reuse = reuse
        self.logits: Tensor = torch.empty(0)  # (V,)

    def feed(self, token_id: int) -> Tensor:
        """Append one token; returns the logits (V,) of the next."""
        self.ids.append(token_id)
        self.logits = self._engine.forward([[token_id]], self.cache, keep=1)[0, -1]
        return self.logits

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Append given tokens; returns the logits (n, V) after each of them."""
        self.ids.extend(tokens)
        rows = self._engine.forward([list(tokens)], self.cache, keep=len(tokens))[0]
        self.logits = rows[-1]
        return rows

    @property
    def adapter(self) -> str | None:
        """Key of the adapter that it is computed under."""
        return self._adapter

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, (1, heads, T, head_dim)."""
        return [(layer.keys, layer.values) for layer in self.cache.layers]

    def branch(self, keep: int | None = None) -> "Stream":
        """Make another stream that goes on from the first `keep` tokens of this one; from all of them by default.

        Its logits are right only where it keeps all.

        Raises:
            ValueError: this cache cannot be cropped to so few tokens.
        """
        n = len(self.ids) if keep is None else keep
        if croppable(self.cache) or (n == len(self.ids) and windowed(self.cache)):
            cache = self._engine.cache_of(self.layers, n)  # of views: whoever appends to it makes its own
        elif n == len(self.ids):
            cache = deepcopy(self.cache)
        else:
            raise ValueError(f"this cache cannot be cropped to {n} tokens")
        other = Stream(self._engine, self._adapter, self.ids[:n], cache, self.reuse)
        other.logits = self.logits
        return other

    def save(self) -> None:
        """Hand keys and values to the prefix cache."""
        self._engine.save(self._adapter, self.ids, self.cache)


class Unloaded:
    """Stands in for a network whose memory was given back; every use raises ModelError with the reason.

    Args:
        why: a sentence for users.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModelError(self._why)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise ModelError(self._why)


class Engine:
    """A causal language model with its prefix cache and its adapters.

    Args:
        model: a transformers causal LM in eval mode, or a PEFT model around one.
        cache_bytes: bound of the prefix cache.
    """

    def __init__(self, model: Any, cache_bytes: int = 512 << 20) -> None:
        pack_linear_layers(model)
        self.model = model
        self.config = model.config.get_text_config()
        self.prefixes = PrefixCache(cache_bytes)
        self.queue = FairQueue()
        self.scheduler: Any = None  # of the streams that share the turn, see `scheduler_of`
        self.adapters: dict[str, str] = {}  # name -> where it came from
        self.biases: dict[str, list[tuple[Tensor, Tensor]]] = {}  # of adapters that train them: the base's, theirs
        self.checksums: dict[str, int] | None = None  # of the base's tensors, recorded before the first adapter
        self.probe: Tensor | None = None  # logits on a fixed text, recorded with them
        self.compared: tuple[Any, Any] | None = None  # checksums, and what was found of these tensors in the file
        self.fault: str | None = None  # why these weights must not be used any more
        self.remote: RemoteCaller | None = None  # what calls the process with the weights; None: that is this one
        self.held = HeldEngines([self])  # of whoever has the turn
        self.recorder: Recorder | None = CudaRecorder() if self.model.device.type == "cuda" else None

    def forked(self) -> None:
        """In a new process that is a copy of another: the weights are here, its lines and locks are not ours."""
        self.remote = self.recorder = None  # a process that is lent a GPU for a single request records nothing
        self.queue = FairQueue(self.queue.limit, self.queue.per_owner, self.queue.per_address)
        self.scheduler = None
        self.held = HeldEngines([self])
        heads, self.prefixes = self.prefixes.heads, PrefixCache(self.prefixes.max_bytes)
        self.prefixes.heads = heads  # which beginnings are shared stays known, what was computed of them does not

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        device: torch.device = self.model.device
        return device

    @property
    def vocab_size(self) -> int:
        """Number of output rows V: token ids run from 0 to V - 1."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int:
        """How many positions the model was built for."""
        return int(getattr(self.config, "max_position_embeddings", None) or 1 << 20)

    @property
    def chunk_rows(self) -> int:
        """How many rows of logits one reading chunk holds."""
        return max(16, CHUNK_BYTES // (4 * self.vocab_size))

    # -- memory ---------------------------------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, packed ones and adapters included, of the prefix cache and of streams under way."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        streams = self.scheduler.nbytes if self.scheduler else 0
        weights = sum(tensor.nbytes for tensor in tensors) + packed_bytes(self.model)
        return weights + self.prefixes.nbytes + streams

    def unload(self, why: str) -> None:
        """Let go of the network, its adapters and all that was computed with it. The caller holds the turn.

        Args:
            why: sentence of the ModelError that every use of these weights raises until `reload`.
        """
        self.fault, self.model = why, Unloaded(why)
        self.prefixes.clear()
        self.biases.clear()  # the adapters' names stay: solutions that are kept say where theirs came from
        self.checksums = self.probe = self.compared = None

    def reload(self, other: "Engine") -> None:
        """Take over the network of an unused engine in place of the network that was unloaded."""
        self.adapters.clear()
        self.model, self.config, self.fault = other.model, other.config, None

    # -- adapters -------------------------------------------------------------------------------------------------

    def using(self, adapter: str | None) -> "Using":
        """Switch to an adapter, or to the base when None, for the length of a `with` block.

        An adapter's key is its name, or `name*0.50` for the same adapter at half its strength.

        Raises:
            ModelError: it is not loaded, or the weights are damaged or in another process.
        """
        self.check_adapter(adapter)
        return Using(self, adapter)

    def check_adapter(self, adapter: str | None) -> None:
        """Refuse an adapter that is not loaded, and weights that cannot be used.

        Raises:
            ModelError: so it is.
        """
        if self.remote is not None:
            raise ModelError(NOT_HERE)
        if self.fault is not None:
            raise ModelError(self.fault)
        if adapter is not None and (name := split_key(adapter)[0]) not in self.adapters:
            raise ModelError(f"The adapter '{name}' is not loaded on this model.")

    def switched(self, adapter: str | None) -> AbstractContextManager[Any]:
        """What `using` enters and leaves."""
        self.check_adapter(adapter)
        if adapter is None:
            return _switched_off(self.model) if self.adapters else nullcontext()
        name, strength = split_key(adapter)
        self.model.set_adapter(name)
        if name in self.biases:
            return _swapped(self.biases[name])
        return nullcontext() if strength == 1 else _scaled(self.model, name, strength)

    @property
    def attached(self) -> set[str]:
        """Names of the adapters whose weights are on the network in this process."""
        return set(getattr(self.model, "peft_config", {}))

    def switched_by_row(self, adapters: "RowAdapters") -> AbstractContextManager[Any]:
        """Each row of a batch under an adapter of its own for the length of a `with` block.

        Args:
            adapters: base and plain LoRAs: others do not scale linearly.
        """
        for adapter in adapters.keys:
            self.check_adapter(adapter)
        return _scaled_by_row(self.model, adapters)

    def scales(self, adapter: str | None) -> bool:
        """Whether rows of one pass can have this adapter apart from other rows: a plain LoRA, or none at all."""
        if adapter is None:
            return True
        name = split_key(adapter)[0]
        return name in self.adapters and why_not_linear(self.model.peft_config[name]) is None

    def give_way(self, cancelled: Callable[[], bool] = never) -> None:
        """Between two steps of long work: let those go first who should, by the rule of rmx/engine/fair_queue.py.

        The adapters in use are left and entered again; caches belong to their streams and are not touched. Engines that
        are held together go together: who waited for one with the other in hand would wait for ever. Not to be called
        inside anything else that changes the network.

        Args:
            cancelled: whether the work was called off meanwhile; then its next turn comes at once, so that it can end.

        Raises:
            ModelError: an adapter in use was dropped meanwhile.
        """
        engines = self.held.engines
        if not any(engine.queue.overdue() for engine in engines):
            return
        left = [(engine, *engine._step_back()) for engine in reversed(engines)]
        left.reverse()
        for engine, held, ticket in left:
            engine.queue.rejoin(ticket)
            while engine.queue.wait(ticket, POLL):
                if cancelled():
                    engine.queue.hurry(ticket)
            engine.held = held
        for _, held, _ in left:
            for one in held.used:
                one.switch()

    def _step_back(self) -> tuple["HeldEngines", Ticket]:
        """Give the turn back for a while, the network as it was before it."""
        held, self.held = self.held, HeldEngines([self])
        for one in reversed(held.used):
            one.leave()
        return held, self.queue.step_back()[0]

    # -- the four moves -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def open(
        self,
        ids: Sequence[int],
        *,
        adapter: str | None = None,
        reuse: bool = True,
        cold: bool = False,
        read_from: int | None = None,
        on_read: Callable[[int, Tensor], None] | None = None,
    ) -> Stream:
        """Prefill `ids` and return the stream that continues them.

        Args:
            ids: prompt and kept tokens, at least one.
            adapter: name of a loaded adapter; the caller is inside `using(adapter)`.
            reuse: False takes nothing but heads (see `PrefixCache`) from what was computed before.
            cold: compute everything anew, heads too.
            read_from: report logits from this index on (index i decides ids[i + 1]; the last decides the next token).
            on_read: called as on_read(first index, logits (n, V)) for consecutive chunks.

        Raises:
            PromptError: no ids, more ids than the context holds, or an id outside the vocabulary.
        """
        stream = self.begin(ids, adapter, reuse, read_from, cold)
        for _ in self.reading(stream, read_from, on_read):
            pass
        return stream

    def begin(
        self, ids: Sequence[int], adapter: str | None, reuse: bool, read_from: int | None, cold: bool = False
    ) -> Stream:
        """Return the stream of `ids` with nothing in its cache but what is reused; see `open`."""
        self._check(ids)
        # The last token is always computed: its logits are wanted, and keys and values alone do not give them.
        limit = len(ids) - 1 if read_from is None else min(read_from, len(ids) - 1)
        cache, reused = (self._new_cache(), 0) if cold else self._resume(adapter, ids[:limit], reuse)
        return Stream(self, adapter, ids, cache, Reuse(reused, len(ids) - reused))

    def reading(
        self,
        stream: Stream,
        read_from: int | None,
        on_read: Callable[[int, Tensor], None] | None,
        chunk: Callable[[], int] = lambda: PREFILL,
    ) -> Iterator[None]:
        """Read what a stream that has just begun does not reuse, in pieces; yields after each but the last.

        Args:
            chunk: how many positions without a reader the next piece may have.
        """
        for start, logits in self._prefill(stream.ids, stream.reuse.reused, stream.cache, read_from, chunk):
            if logits is None:
                yield
                continue
            if on_read is not None and read_from is not None:
                on_read(start, logits)
            stream.logits = logits[-1]

    @torch.inference_mode()
    def forward(
        self,
        ids: Sequence[Sequence[int]] | Tensor,
        cache: Any,
        keep: int,
        *,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Push (B, T) tokens through the network; logits (B, keep, V) of the last `keep`, in the model's dtype.

        Args:
            attention_mask: what rows may look at, as transformers takes it; None where every row may look everywhere.
            position_ids: (B, T), needed where rows have seen different numbers of tokens.

        Raises:
            ModelError: the weights are in another process.
        """
        if self.remote is not None:
            raise ModelError(NOT_HERE)
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": keep}
        if attention_mask is not None:
            options["attention_mask"] = attention_mask
        if position_ids is not None:
            options["position_ids"] = position_ids
        tokens = torch.as_tensor(ids, dtype=torch.long, device=self.device)
        out: Tensor = self.model(input_ids=tokens, **options).logits
        return out

    @torch.inference_mode()
    def save(self, adapter: str | None, ids: Sequence[int], cache: Any) -> None:
        """Keep a finished sequence for later prefixes, where its cache can be cropped at all."""
        if croppable(cache) and (n := whole_length(cache)):
            layers = tuple((layer.keys[:, :, :n], layer.values[:, :, :n]) for layer in cache.layers)
            self.prefixes.keep(
                Saved(adapter, torch.tensor(ids[:n], dtype=torch.long), layers, current_owner.get().owner)
            )

    # -- inside ---------------------------------------------------------------------------------------------------

    def _check(self, ids: Sequence[int]) -> None:
        if not ids:
            raise PromptError("The prompt is empty. Type a problem first.")
        if len(ids) >= self.context:
            raise PromptError(
                f"The text has {len(ids)} tokens and this model holds {self.context}. Shorten it or take another model."
            )
        if bad := next((i for i in ids if not 0 <= i < self.vocab_size), None):
            raise PromptError(f"Token id {bad} does not exist; this model has the ids 0 to {self.vocab_size - 1}.")

    def _prefill(
        self, ids: Sequence[int], start: int, cache: Any, wanted: int | None, chunk: Callable[[], int]
    ) -> Iterator[tuple[int, Tensor | None]]:
        """Run ids[start:] in chunks; yields (first index, logits) for the last token or for all from `wanted` on, and
        None as logits where nobody reads them."""
        silent_end = len(ids) if wanted is None else min(wanted, len(ids) - 1)
        while start < silent_end:  # positions without a reader: one row of logits, whatever the length
            n = min(chunk(), silent_end - start)
            logits = self.forward([list(ids[start : start + n])], cache, keep=1)[0]
            start += n
            yield start - 1, logits if start == len(ids) else None
        while start < len(ids):
            rows = list(ids[start : start + self.chunk_rows])
            yield start, self.forward([rows], cache, keep=len(rows))[0]
            start += len(rows)

    def _new_cache(self) -> Any:
        return DynamicCache(config=self.config)

    def crops(self, n: int) -> bool:
        """Whether the cache of a text of n tokens can be cropped to any beginning of it."""
        cache = self._new_cache()
        for layer in cache.layers:
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = n
        return croppable(cache)

    def _resume(self, adapter: str | None, ids: Sequence[int], reuse: bool) -> tuple[Any, int]:
        """A cache that already holds as much of `ids` as was ever computed, and how much that is."""
        found = self.prefixes.find(adapter, ids, current_owner.get().owner) if ids and reuse else None
        head = self._head(adapter, ids)
        if head is not None and (found is None or len(head.ids) > found[1]):
            found = head, len(head.ids)
        if found is None:
            return self._new_cache(), 0
        saved, shared = found
        return self.cache_of(saved.layers, shared), shared

    def _head(self, adapter: str | None, ids: Sequence[int]) -> Saved | None:
        """Keys and values of the longest head that `ids` begin with; they are computed where that is new."""
        fits = [head for head in self.prefixes.heads if tuple(ids[: len(head)]) == head]
        if not fits or not self.crops(len(ids)):
            return None
        head = max(fits, key=len)
        saved = self.prefixes.find_head(adapter, head)
        return self._read_head(adapter, head) if saved is None else saved

    def _read_head(self, adapter: str | None, head: Sequence[int]) -> Saved:
        used, cache = self.held.used, self._new_cache()
        for use in reversed(used):
            use.leave()
        try:
            with self.using(adapter):
                for _ in self._prefill(head, 0, cache, None, lambda: PREFILL):
                    pass
        finally:
            for use in used:
                use.switch()
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        return self.prefixes.keep_head(Saved(adapter, torch.tensor(head), layers))

    def cache_of(self, layers: Sequence[tuple[Tensor, Tensor]], n: int) -> Any:
        """A cache of views of the first n positions. The first update concatenates: the source is never written to."""
        cache = self._new_cache()
        for layer, (keys, values) in zip(cache.layers, layers, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[:, :, :n], values[:, :, :n]
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = n
        return cache


class AdapterUse(Protocol):
    """Adapters that are on; `give_way` leaves them for a while, and whatever is switched to within them pauses them."""

    def pause(self) -> None:
        """Make room for another adapter, which is switched to and back from before these are used again."""

    def switch(self) -> None:
        """Switch to them; the caller holds the turn."""

    def leave(self) -> None:
        """Switch back to what was before."""


class Using:
    """An adapter, or the base, switched to for the length of a `with` block; `give_way` leaves it for a while."""

    def __init__(self, engine: Engine, adapter: str | None) -> None:
        self._engine, self._adapter = engine, adapter
        self._switched: AbstractContextManager[Any] | None = None  # None where it was left, and could not be entered

    def __enter__(self) -> None:
        self._among = self._engine.held.used
        for outer in self._among:
            outer.pause()
        self.switch()
        self._among.append(self)

    def __exit__(self, *error: Any) -> None:
        self._among.remove(self)
        self.leave(*error)

    def pause(self) -> None:
        """Nothing: contexts are left in the opposite order."""

    def switch(self) -> None:
        """Switch to it; the caller holds the turn."""
        switched = self._engine.switched(self._adapter)
        switched.__enter__()
        self._switched = switched

    def leave(self, *error: Any) -> None:
        """Switch back to what was before."""
        switched, self._switched = self._switched, None
        if switched is not None:
            switched.__exit__(*(error or (None, None, None)))


@dataclass(frozen=True, eq=False)
class RowAdapters:
    """The adapter of each row of a batch, or the one of all.

    Args:
        keys: see `Engine.using`; None: the base.
        tensors: made as they are needed. A recorded pass reads these very tensors, so they are kept with it.
    """

    keys: tuple[str | None, ...]
    tensors: dict[tuple[str, float, torch.dtype], Tensor] = field(default_factory=dict)

    def scaling(self, name: str, scale: float, like: Tensor) -> Tensor:
        """What the output of a LoRA is multiplied by in each row, (rows, 1, 1): `scale` by its strength there."""
        key = name, scale, like.dtype
        if key not in self.tensors:
            parts = [(None, 0.0) if key is None else split_key(key) for key in self.keys]
            own = [scale * strength if name == of else 0.0 for of, strength in parts]
            self.tensors[key] = torch.tensor(own, dtype=like.dtype, device=like.device)[:, None, None]
        return self.tensors[key]


@dataclass(frozen=True)
class HeldEngines:
    """Engines that are held together, in the order in which their turns are always taken, and the adapters in use on
    one of them, the innermost last."""

    engines: Sequence[Engine]
    used: list[AdapterUse] = field(default_factory=list)


@contextmanager
def held_together(engines: Sequence[Engine]) -> Iterator[None]:
    """The caller holds the turns of all these engines, in this order, and gives them back after the `with` block."""
    for engine in engines:
        engine.held = HeldEngines(engines)
    try:
        yield
    finally:
        for engine in engines:
            engine.held = HeldEngines([engine])


def adapter_key(name: str, strength: float = 1.0) -> str:
    """How an adapter at a strength is called everywhere: in `using`, in the prefix cache, on screen."""
    return name if strength == 1 else f"{name}*{strength:.4g}"


def split_key(key: str) -> tuple[str, float]:
    """Name and strength of an adapter's key."""
    name, _, strength = key.partition("*")
    return name, float(strength) if strength else 1.0


def why_not_linear(config: Any) -> str | None:
    """Why an adapter's output cannot simply be multiplied; None for a plain LoRA, which adds s·B·A·x."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        return f"it is a {kind} adapter, and only a plain LoRA scales linearly."
    if getattr(config, "use_dora", False):
        return "it is a DoRA, which renormalises the weights; part of its effect is there at any strength."
    if config.modules_to_save or getattr(config, "trainable_token_indices", None):
        return "it replaces whole modules or tokens, which are either there or not."
    if getattr(config, "target_parameters", None):
        return "it sits on parameters that no layer of their own holds, which rows of one batch cannot have apart."
    if config.bias != "none" or getattr(config, "lora_bias", False):
        return "it trains biases, which do not scale with it."
    if getattr(config, "alora_invocation_tokens", None):
        return "it is switched on by tokens of the text."
    return None


@contextmanager
def _scaled(model: Any, name: str, strength: float) -> Iterator[None]:
    """A LoRA's output multiplied by `strength` for the length of a `with` block."""
    layers = [layer for layer in lora_layers(model) if name in layer.scaling]
    before = [layer.scaling[name] for layer in layers]
    try:
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[name] = scale * strength
        yield
    finally:
        for layer, scale in zip(layers, before, strict=True):
            layer.scaling[name] = scale


@contextmanager
def _scaled_by_row(model: Any, adapters: RowAdapters) -> Iterator[None]:
    """Several LoRAs on at once, each with a strength for every row, which is 0 in the rows that are not its own."""
    names = sorted({split_key(key)[0] for key in adapters.keys if key is not None})
    active = model.active_adapter
    places = [(layer, name) for layer in lora_layers(model) for name in names if name in layer.scaling]
    before = [layer.scaling[name] for layer, name in places]
    try:
        model.base_model.set_adapter(names)
        for (layer, name), scale in zip(places, before, strict=True):
            layer.scaling[name] = adapters.scaling(name, scale, next(layer.parameters()))
        yield
    finally:
        for (layer, name), scale in zip(places, before, strict=True):
            layer.scaling[name] = scale
        model.base_model.set_adapter(active)


@contextmanager
def _switched_off(model: Any) -> Iterator[None]:
    """All adapters off for the length of a `with` block.

    PEFT's own `disable_adapter` surveys every layer first, which costs more than the switching.
    """
    layer = next((module for module in model.modules() if is_adapter_layer(module)), None)
    if layer is not None and layer.disable_adapters:
        yield
        return
    try:
        model.base_model.disable_adapter_layers()
        yield
    finally:
        model.base_model.enable_adapter_layers()


@contextmanager
def _swapped(biases: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """An adapter's own biases in the place of the base's for the length of a `with` block."""
    before = [ours.data for ours, _ in biases]
    try:
        for ours, theirs in biases:
            ours.data = theirs
        yield
    finally:
        for (ours, _), data in zip(biases, before, strict=True):
            ours.data = data


def base_network(model: Any) -> Any:
    """The network itself: what PEFT's model is put around, or the model where no adapter is on it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def lora_layers(model: Any) -> list[Any]:
    """The layers of a network that carry LoRA adapters."""
    return [module for module in model.modules() if is_adapter_layer(module) and hasattr(module, "lora_A")]


def is_adapter_layer(module: Any) -> bool:
    """Whether a module is a layer with adapters around a layer of the network (PEFT's BaseTunerLayer).

    PEFT takes long to import, so that it is imported only where an adapter is put on; its layers are recognised by
    their method.
    """
    return hasattr(type(module), "get_base_layer")
