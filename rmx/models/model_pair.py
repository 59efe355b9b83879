"""A base and an adapted model on the same prefixes: read a text under both, or step both side by side.

The adapted model is the base's own weights with a LoRA switched on, or a full checkpoint with the same tokenizer on
an engine of its own. With a plain LoRA both halves of a step go through the weights as one mixed batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rmx.engine.engine import Engine, Stream, adapter_key, held_together, split_key
from rmx.engine.fair_queue import current_owner
from rmx.engine.prefix_cache import Saved, croppable, select_rows, whole_length
from rmx.errors import ModelError
from rmx.models.adapter_facts import why_not_linear
from rmx.models.adapter_names import attached
from rmx.models.load import Model
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import shown_adapter

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
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a completion for either model."""
        return self.base.stop_ids | self.adapted.stop_ids

    @property
    def name(self) -> str:
        """How the adapted model is called on screen."""
        return f"{self.base.spec} + {shown_adapter(self.adapter)}" if self.one_set else self.adapted.spec

    @property
    def strength(self) -> float:
        """Factor on the adapter's output; 1 for a checkpoint."""
        return split_key(self.adapter)[1] if self.adapter else 1.0

    @property
    def mixable(self) -> bool:
        """Whether one batch can hold rows of both."""
        if not self.one_set or self.adapter is None:
            return False
        config = self.base.engine.model.peft_config[split_key(self.adapter)[0]]
        return why_not_linear(config) is None

    @property
    def engines(self) -> list[Engine]:
        """The engine, or both engines, in the order in which their turns are always taken."""
        engines = {id(m.engine): m.engine for m in (self.base, self.adapted)}
        return [engines[key] for key in sorted(engines)]

    @contextmanager
    def turn(self, patience: float | None = None) -> Iterator[None]:
        """Hold the engine, or both engines, always in the same order."""
        with ExitStack() as stack:
            for engine in self.engines:
                stack.enter_context(engine.queue.turn(patience))
            stack.enter_context(held_together(self.engines))
            yield

    @contextmanager
    def when_free(self, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """As `turn`, for a long job that may be called off while it waits; yields whether the turn came."""
        with ExitStack() as stack:
            mine = all(stack.enter_context(engine.queue.when_free(cancelled)) for engine in self.engines)
            if mine:
                stack.enter_context(held_together(self.engines))
            yield mine

    def give_way(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Let others go first who should, see `Engine.give_way`; the caller holds `turn()`."""
        self.base.engine.give_way(cancelled)


def make_pair(
    space: Workspace,
    spec: str,
    adapter: str | None = None,
    teacher: str | None = None,
    strength: float = 1.0,
    style: StyleOptions = StyleOptions(),  # noqa: B008  a frozen record
    set_name: str | None = None,
    raw: bool = False,
) -> Pair:
    """Load what is to be compared; both are asked the same ids, in the base's way.

    Args:
        spec: the base. adapter, teacher: exactly one of them; a LoRA on the base, or a full checkpoint.
        strength: multiplies a plain LoRA's output; 1 is the adapter as it was trained, 0 the base.
        style: what is asked of the prompt. set_name: of the problems; None for one of the user's own.
        raw: prompts are given as they stand.

    Raises:
        ModelError: one of them cannot be had, the vocabularies differ, or the strength cannot be set.
        PromptError: no style for the base.
    """
    if bool(adapter) == bool(teacher):
        raise ModelError("Name what to compare with: an adapter on the base, or a full checkpoint (--teacher).")
    if not 0 <= strength <= STRONGEST:
        raise ModelError(f"The adapter's strength must lie between 0 and {STRONGEST}; got {strength}.")
    base = space.model(spec).ask_in(style, set_name, raw)
    if teacher:
        if strength != 1:
            raise ModelError(f"{teacher} is a full checkpoint: only an adapter's strength can be set.")
        return Pair(base, ask_alike(space.model(teacher), base), None)
    name = space.adapter(base, adapter)
    assert name is not None
    if strength != 1 and name not in attached(base):
        raise ModelError(f"The strength of {adapter} cannot be set here: on ZeroGPU it is put on in another process.")
    if strength != 1 and (reason := why_not_linear(base.engine.model.peft_config[name])):
        raise ModelError(f"The strength of {adapter} cannot be set: {reason}")
    return Pair(base, base, adapter_key(name, strength))


def ask_alike(model: Model, base: Model) -> Model:
    """A checkpoint that is compared with a base, asked the very ids that the base is asked.

    Its own chat template has no part in that: fine-tuned checkpoints come with others. What ends a text for it stays.

    Raises:
        ModelError: the same ids do not mean the same to both.
    """
    check_same_tokens(base, model)
    asked = copy(model.with_style(base.style))
    asked.tokenizer = base.tokenizer
    return asked


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
    v, rows = pair.vocab_size, min(engine.chunk_rows for engine, _ in halves)
    streams: list[Stream] = []
    read: list[Tensor] = []
    for engine, adapter in halves:
        with engine.using(adapter):
            first = ids[: start + rows]
            streams.append(
                engine.open(
                    first, adapter=adapter, reuse=reuse, read_from=start, on_read=lambda _, chunk: read.append(chunk)
                )
            )
    on_rows(start, read[0][:, :v], read[1][:, :v])
    for at in range(start + rows, len(ids), rows):
        pair.give_way()
        chunk = list(ids[at : at + rows])
        read.clear()
        for (engine, adapter), stream in zip(halves, streams, strict=True):
            with engine.using(adapter):
                read.append(stream.read(chunk)[:, :v])
        on_rows(at, read[0], read[1])
    for stream in streams if reuse else ():
        stream.save()


# -- stepping ---------------------------------------------------------------------------------------------------------


class PairStream:
    """Sequences under both models, one token each per step. `base` and `adapted` (rows, V) decide the next tokens.

    Rows may have prefixes of different lengths: shorter ones stand to the right, and what is left of them is hidden.
    """

    def __init__(self, pair: Pair, prefixes: Sequence[Sequence[int]], opened: Sequence[tuple[Stream, Stream]]) -> None:
        self.pair = pair
        self.ids = [list(prefix) for prefix in prefixes]
        v = pair.vocab_size
        self.base = torch.stack([one.logits[:v] for one, _ in opened])
        self.adapted = torch.stack([two.logits[:v] for _, two in opened])
        lengths = [len(ids) for ids in self.ids]
        self._hidden = torch.tensor([max(lengths) - n for n in lengths])  # (rows,) places to the left of each row
        ours, theirs = [one.cache for one, _ in opened], [two.cache for _, two in opened]
        self._mixed = pair.mixable and all(map(_stackable, [*ours, *theirs]))
        halves = ((ours + theirs, pair.base),) if self._mixed else ((ours, pair.base), (theirs, pair.adapted))
        self._caches = [_stack(caches, model.engine) for caches, model in halves]

    def feed(self, tokens: Sequence[int]) -> None:
        """Append one token to each row."""
        for row, token in zip(self.ids, tokens, strict=True):
            row.append(token)
        v, pair, n = self.pair.vocab_size, self.pair, len(tokens)
        batch = [[t] for t in tokens]
        if self._mixed:
            keys = [None] * n + [pair.adapter] * n
            where = self._places(pair.base.engine.device, 2)
            logits = pair.base.engine.forward(batch * 2, self._caches[0], keep=1, adapters=keys, **where)[:, -1, :v]
            self.base, self.adapted = logits.split(n)
            return
        halves = ((pair.base.engine, None), (pair.adapted.engine, pair.adapter))
        read: list[Tensor] = []
        for (engine, adapter), cache in zip(halves, self._caches, strict=True):
            with engine.using(adapter):
                where = self._places(engine.device, 1)
                read.append(engine.forward(batch, cache, keep=1, **where)[:, -1, :v])
        self.base, self.adapted = read

    def _places(self, device: torch.device, times: int) -> dict[str, Any]:
        """Mask and positions of rows of different lengths; nothing for equal ones: they compute as one row does."""
        if not self._hidden.any():
            return {}
        lengths = torch.tensor([len(row) for row in self.ids])
        columns = torch.arange(int((self._hidden + lengths).max()))
        mask = (columns >= self._hidden[:, None]).long().repeat(times, 1)
        return {"attention_mask": mask.to(device), "position_ids": (lengths - 1)[:, None].repeat(times, 1).to(device)}

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        n = len(self.ids)
        self.ids = [self.ids[i] for i in rows]
        self._hidden = self._hidden[list(rows)]
        picked = torch.tensor(rows, device=self.base.device)
        self.base, self.adapted = self.base[picked], self.adapted[picked]
        wanted = torch.cat([picked, picked + n]) if self._mixed else picked
        for cache in self._caches:
            select_rows(cache, wanted)

    def save(self, row: int = 0) -> None:
        """Hand one row's keys and values, under both models, to the prefix cache."""
        if not all(croppable(cache) for cache in self._caches) or self._hidden[row]:
            return
        n = len(self.ids)
        places = ((self._caches[0], row), (self._caches[-1], row + n if self._mixed else row))
        halves = ((self.pair.base.engine, None), (self.pair.adapted.engine, self.pair.adapter))
        for (engine, adapter), (cache, i) in zip(halves, places, strict=True):
            length = whole_length(cache)
            # A copy of its own: a slice would keep the whole batch alive.
            layers = tuple(
                (x.keys[i : i + 1, :, :length].clone(), x.values[i : i + 1, :, :length].clone()) for x in cache.layers
            )
            ids = torch.tensor(self.ids[row][:length], dtype=torch.long)
            engine.prefixes.keep(Saved(adapter, ids, layers, current_owner.get().owner))


@contextmanager
def open_pair(pair: Pair, prefixes: Sequence[Sequence[int]], reuse: bool = True) -> Iterator[PairStream]:
    """Prefill each prefix under both models, equal ones once, and go on with one row for each.

    The caller holds `pair.turn()`; prefixes may come out of the prefix cache. Prefixes of different lengths need caches
    of plain attention, see `rows_together`.
    """
    known: dict[tuple[int, ...], tuple[Stream, Stream]] = {}
    for prefix in map(tuple, prefixes):
        if prefix not in known:
            pair.give_way()
            known[prefix] = (
                _open(pair.base.engine, prefix, None, reuse),
                _open(pair.adapted.engine, prefix, pair.adapter, reuse),
            )
    with torch.inference_mode():
        stream = PairStream(pair, prefixes, [known[tuple(prefix)] for prefix in prefixes])
    # A mixed batch names each row's adapter itself; only the strength has to be set, once for all steps.
    with pair.base.engine.using(pair.adapter) if stream._mixed else nullcontext():
        yield stream


def _open(engine: Engine, prefix: Sequence[int], adapter: str | None, reuse: bool) -> Stream:
    with engine.using(adapter):
        stream = engine.open(prefix, adapter=adapter, reuse=reuse)
        if reuse:
            stream.save()
    return stream


def rows_together(pair: Pair) -> Literal["any", "equal", "one"]:
    """Which prefixes fit into one batch: any, those of equal length (sliding windows), or one row (other state)."""
    engines = (pair.base.engine, pair.adapted.engine)
    kinds = {type(layer) for e in engines for layer in DynamicCache(config=e.config).layers}
    if kinds == {DynamicLayer}:
        return "any"
    return "equal" if kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else "one"


def _stackable(cache: Any) -> bool:
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _stack(caches: Sequence[Any], engine: Engine) -> Any:
    """Stack caches of one row each into one cache, the shorter ones moved to the right."""
    if len(caches) == 1:
        return caches[0]
    stacked: Any = DynamicCache(config=engine.config)
    for i, layer in enumerate(stacked.layers):
        parts = [cache.layers[i] for cache in caches]
        layer.lazy_initialization(parts[0].keys, parts[0].values)
        length = max(part.keys.shape[-2] for part in parts)
        layer.keys = torch.cat([_to_the_right(part.keys, length) for part in parts])
        layer.values = torch.cat([_to_the_right(part.values, length) for part in parts])
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = parts[0].cumulative_length
    return stacked


def _to_the_right(rows: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, length - rows.shape[-2], 0))
