"""A base and an adapted model on the same prefixes: read a text under both, or step both side by side.

The adapted model is the base's own weights with a LoRA switched on, or a full checkpoint with the same tokenizer on
an engine of its own. With a plain LoRA both halves of a step go through the weights as one mixed batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rmx.adapter_facts import why_not_linear
from rmx.engine import Engine, Saved, Stream, adapter_key, croppable, split_key
from rmx.errors import ModelError
from rmx.models import Model
from rmx.workspace import Workspace

STRONGEST = 1.5  # of the strength slider
OnRows = Callable[[int, Tensor, Tensor], None]  # first index, base logits (n, V), adapted logits (n, V)


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared. `adapter` is a key of `adapted.engine.using`, None where the adapted model is a checkpoint."""

    base: Model
    adapted: Model
    adapter: str | None

    @property
    def one_set(self) -> bool:
        """Whether both share one set of weights."""
        return self.base is self.adapted

    @property
    def vocab_size(self) -> int:
        """Tokens that both know; some checkpoints pad their output rows further than others."""
        return min(self.base.engine.vocab_size, self.adapted.engine.vocab_size)

    @property
    def name(self) -> str:
        """How the adapted model is called on screen."""
        return f"{self.base.spec} + {self.adapter}" if self.one_set else self.adapted.spec

    @property
    def strength(self) -> float:
        return split_key(self.adapter)[1] if self.adapter else 1.0

    @property
    def mixable(self) -> bool:
        """Whether one batch can hold rows of both."""
        if not self.one_set or self.adapter is None:
            return False
        config = self.base.engine.model.peft_config[split_key(self.adapter)[0]]
        return why_not_linear(config) is None

    @contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """Hold the engine, or both engines, always in the same order."""
        engines = {id(m.engine): m.engine for m in (self.base, self.adapted)}
        with ExitStack() as stack:
            for _, engine in sorted(engines.items()):
                stack.enter_context(engine.turns.turn(patience))
            yield


def make_pair(
    space: Workspace, spec: str, adapter: str | None = None, teacher: str | None = None, strength: float = 1.0
) -> Pair:
    """Load what is to be compared.

    Args:
        spec: the base. adapter, teacher: exactly one of them; a LoRA on the base, or a full checkpoint.
        strength: multiplies a plain LoRA's output; 1 is the adapter as it was trained, 0 the base.

    Raises:
        ModelError: one of them cannot be had, the vocabularies differ, or the strength cannot be set.
    """
    if bool(adapter) == bool(teacher):
        raise ModelError("Name what to compare with: an adapter on the base, or a full checkpoint (--teacher).")
    if not 0 <= strength <= STRONGEST:
        raise ModelError(f"The adapter's strength must lie between 0 and {STRONGEST}; got {strength}.")
    base = space.model(spec)
    if teacher:
        if strength != 1:
            raise ModelError(f"{teacher} is a full checkpoint: only an adapter's strength can be set.")
        adapted = space.model(teacher)
        check_same_tokens(base, adapted)
        return Pair(base, adapted, None)
    name = space.adapter(base, adapter)
    assert name is not None
    if strength != 1 and (reason := why_not_linear(base.engine.model.peft_config[name])):
        raise ModelError(f"The strength of {adapter} cannot be set: {reason}")
    return Pair(base, base, adapter_key(name, strength))


def check_same_tokens(base: Model, adapted: Model) -> None:
    """One prefix of ids must mean the same text to both.

    Raises:
        ModelError: some id stands for different tokens.
    """
    ours, theirs = base.tokenizer.get_vocab(), adapted.tokenizer.get_vocab()
    by_id = {i: token for token, i in theirs.items()}
    differ = [token for token, i in ours.items() if by_id.get(i, token) != token]
    if differ or abs(len(ours) - len(theirs)) > 0.01 * len(ours):
        example = f" (for one, '{differ[0]}')" if differ else f" ({len(ours)} and {len(theirs)} tokens)"
        raise ModelError(
            f"{base.spec} and {adapted.spec} have different vocabularies{example}, so they cannot read the same "
            "tokens. Compare models of one family."
        )


# -- reading ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def read_both(pair: Pair, ids: Sequence[int], start: int, on_rows: OnRows, reuse: bool = True) -> None:
    """Read `ids` under both models; report the logits from index `start` on, chunk by chunk.

    Index i decides ids[i + 1]; the last index decides the token that would come next. The caller holds `pair.turn()`.
    """
    halves = [(pair.base.engine, None), (pair.adapted.engine, pair.adapter)]
    streams: list[Stream] = []
    for engine, adapter in halves:
        with engine.using(adapter):
            streams.append(engine.open(ids[: start + 1], adapter=adapter, reuse=reuse))
    v = pair.vocab_size
    on_rows(start, streams[0].logits[None, :v], streams[1].logits[None, :v])
    rows = min(engine.chunk_rows for engine, _ in halves)
    for at in range(start + 1, len(ids), rows):
        chunk = list(ids[at : at + rows])
        read: list[Tensor] = []
        for (engine, adapter), stream in zip(halves, streams, strict=True):
            with engine.using(adapter):
                read.append(stream.read(chunk)[:, :v])
        on_rows(at, read[0], read[1])
    for stream in streams if reuse else ():
        stream.save()


# -- stepping ---------------------------------------------------------------------------------------------------------


class PairStream:
    """Equal-length sequences under both models. `base` and `adapted` (rows, V) decide each row's next token."""

    def __init__(self, pair: Pair, prefix: Sequence[int], rows: int, streams: Sequence[Stream]) -> None:
        self.pair = pair
        self.ids = [list(prefix) for _ in range(rows)]
        v = pair.vocab_size
        self.base, self.adapted = (s.logits[:v].expand(rows, -1) for s in streams)
        self._caches: list[Any] = [s._cache for s in streams]
        for cache in self._caches:
            if rows > 1:
                cache.batch_repeat_interleave(rows)
        self._mixed = pair.mixable and all(map(_stackable, self._caches))
        if self._mixed:
            self._caches = [_stack(self._caches, pair.base.engine)]

    def feed(self, tokens: Sequence[int]) -> None:
        """Append one token to each row."""
        for row, token in zip(self.ids, tokens, strict=True):
            row.append(token)
        v, pair = self.pair.vocab_size, self.pair
        batch = [[t] for t in tokens]
        if self._mixed:
            keys = [None] * len(batch) + [pair.adapter] * len(batch)
            logits = pair.base.engine.forward_mixed(batch * 2, self._caches[0], keys)[:, :v]
            self.base, self.adapted = logits.split(len(batch))
            return
        halves = ((pair.base.engine, None), (pair.adapted.engine, pair.adapter))
        read: list[Tensor] = []
        for (engine, adapter), cache in zip(halves, self._caches, strict=True):
            with engine.using(adapter):
                read.append(engine.forward(batch, cache, keep=1)[:, -1, :v])
        self.base, self.adapted = read

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        n = len(self.ids)
        self.ids = [self.ids[i] for i in rows]
        picked = torch.tensor(rows, device=self.base.device)
        self.base, self.adapted = self.base[picked], self.adapted[picked]
        wanted = torch.cat([picked, picked + n]) if self._mixed else picked
        for cache in self._caches:
            cache.batch_select_indices(wanted.to(_device(cache)))

    def save(self, row: int = 0) -> None:
        """Hand one row's keys and values, under both models, to the prefix cache."""
        if not all(croppable(cache) for cache in self._caches):
            return
        n = len(self.ids)
        places = ((self._caches[0], row), (self._caches[-1], row + n if self._mixed else row))
        halves = ((self.pair.base.engine, None), (self.pair.adapted.engine, self.pair.adapter))
        for (engine, adapter), (cache, i) in zip(halves, places, strict=True):
            length = cache.get_seq_length()
            # A copy of its own: a slice would keep the whole batch alive.
            layers = tuple((x.keys[i : i + 1].clone(), x.values[i : i + 1].clone()) for x in cache.layers)
            ids = torch.tensor(self.ids[row][:length], dtype=torch.long)
            engine.prefixes.keep(Saved(adapter, ids, layers))


@contextmanager
def open_pair(pair: Pair, prefix: Sequence[int], rows: int = 1, reuse: bool = True) -> Iterator[PairStream]:
    """Prefill `prefix` under both models, once each, and go on in `rows` equal rows.

    The caller holds `pair.turn()`; the prefix may come out of the prefix cache.
    """
    streams: list[Stream] = []
    for engine, adapter in ((pair.base.engine, None), (pair.adapted.engine, pair.adapter)):
        with engine.using(adapter):
            streams.append(engine.open(prefix, adapter=adapter, reuse=reuse))
            if reuse:
                streams[-1].save()
    with torch.inference_mode():
        stream = PairStream(pair, prefix, rows, streams)
    # A mixed batch names each row's adapter itself; only the strength has to be set, once for all steps.
    with pair.base.engine.using(pair.adapter) if stream._mixed else nullcontext():
        yield stream


def _stackable(cache: Any) -> bool:
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _stack(caches: Sequence[Any], engine: Engine) -> Any:
    """One cache whose rows are those of the first cache and then those of the second."""
    stacked = DynamicCache(config=engine.config)
    for layer, one, two in zip(stacked.layers, caches[0].layers, caches[1].layers, strict=True):
        layer.lazy_initialization(one.keys, one.values)
        layer.keys = torch.cat([one.keys, two.keys])
        layer.values = torch.cat([one.values, two.values])
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = one.cumulative_length
    return stacked


def _device(cache: Any) -> torch.device:
    device: torch.device = cache.layers[0].keys.device
    return device
