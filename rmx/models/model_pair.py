"""A base and an adapted model on the same prefixes: read a text under both, or step both side by side.

The adapted model is the base's own weights with a LoRA switched on, or a full checkpoint with the same tokenizer on
an engine of its own. With a plain LoRA both halves of a step are rows of one pass.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from rmx.engine.engine import Engine, Stream, adapter_key, held_together, split_key, why_not_linear
from rmx.engine.fair_queue import never
from rmx.engine.rows import RowBatch, RowSet
from rmx.errors import ModelError
from rmx.models.load import Model
from rmx.models.names import set_learnt
from rmx.models.style_options import StyleOptions
from rmx.models.workspace import Workspace
from rmx.records import Stop, shown_adapter

STRONGEST = 1.5  # of the strength slider
Item = TypeVar("Item")
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

    def give_way(self, cancelled: Callable[[], bool] = never) -> None:
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
        style: what is asked of the prompt. set_name: of the problems; None for one of the user's own, which a bundled
            adapter is asked as the problems that it was trained on.
        raw: prompts are given as they stand.

    Raises:
        ModelError: one of them cannot be had, the vocabularies differ, or the strength cannot be set.
        PromptError: no style for the base.
    """
    if bool(adapter) == bool(teacher):
        raise ModelError("Name what to compare with: an adapter on the base, or a full checkpoint (--teacher).")
    if not 0 <= strength <= STRONGEST:
        raise ModelError(f"The adapter's strength must lie between 0 and {STRONGEST}; got {strength}.")
    base = space.model(spec).ask_in(style, set_name or (None if raw else set_learnt(spec, adapter)), raw)
    if teacher:
        if strength != 1:
            raise ModelError(f"{teacher} is a full checkpoint: only an adapter's strength can be set.")
        return Pair(base, ask_alike(space.model(teacher), base), None)
    name = space.adapter(base, adapter)
    assert name is not None
    if strength != 1 and name not in base.engine.attached:
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


class PairRun(Generic[Item]):
    """An iterable over what is found token by token under both models; all of it stays, also after a cancel."""

    pair: Pair
    seconds: float
    stop: Stop

    def __iter__(self) -> Iterator[Item]:
        with self.pair.turn():
            yield from self.held()

    def run(self) -> Self:
        """Go on to the end."""
        for _ in self:
            pass
        return self

    def held(self) -> Iterator[Item]:
        """The same for a caller that holds `pair.turn()`."""
        began = time.perf_counter()
        far = self.pair.base.engine.remote is not None
        try:
            with closing(self._from_afar() if far else self._from_here()) as items:
                for item in items:
                    self.seconds = time.perf_counter() - began
                    yield item
        finally:
            self.seconds = time.perf_counter() - began

    def _from_here(self) -> Generator[Item]:
        raise NotImplementedError

    def _from_afar(self) -> Generator[Item]:
        """As another process makes them."""
        raise NotImplementedError

    def is_over(self, stop: Stop | None) -> bool:
        """Note what the completion ends by, if it does; returns whether."""
        self.stop = stop or self.stop
        return stop is not None


class PairStream:
    """Sequences under both models, one token each per step. `base` and `adapted` (rows, V) decide the next tokens."""

    def __init__(self, pair: Pair, halves: Sequence[RowBatch]) -> None:
        self._pair, self._halves = pair, list(halves)
        self._split()

    @property
    def ids(self) -> list[list[int]]:
        """The tokens of each row so far."""
        return [stream.ids for stream in self._streams[0]]

    def feed(self, tokens: Sequence[int]) -> None:
        """Append one token to each row."""
        for half in self._halves:
            half.feed([*tokens] * (len(half.streams) // len(tokens)))
        self._split()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order."""
        n = len(self._streams[0])
        for half in self._halves:
            half.select([i + start for start in range(0, len(half.streams), n) for i in rows])
        self._split()

    def save(self, row: int = 0) -> None:
        """Hand one row's keys and values, under both models, to the prefix cache."""
        for half, streams in zip((self._halves[0], self._halves[-1]), self._streams, strict=True):
            half.rows.take_out(streams[row])
            streams[row].save()

    base: Tensor
    adapted: Tensor

    def _split(self) -> None:
        """Read the two halves out of what is stepped together."""
        streams = [stream for half in self._halves for stream in half.streams]
        n = len(streams) // 2
        self._streams = streams[:n], streams[n:]
        logits = [half.logits[:, : self._pair.vocab_size] for half in self._halves]
        self.base, self.adapted = logits if len(logits) == 2 else logits[0].split(n)


@contextmanager
def open_pair(pair: Pair, prefixes: Sequence[Sequence[int]], reuse: bool = True) -> Iterator[PairStream]:
    """Read each prefix under both models, equal ones once, and go on with one row for each.

    The caller holds `pair.turn()`; prefixes may come out of the prefix cache.
    """
    opened: tuple[list[Stream], list[Stream]] = ([], [])
    models = ((pair.base.engine, None), (pair.adapted.engine, pair.adapter))
    known: dict[tuple[int, ...], tuple[Stream, ...]] = {}
    for prefix in map(tuple, prefixes):
        if prefix not in known:
            pair.give_way()
            known[prefix] = tuple(_open(engine, prefix, adapter, reuse) for engine, adapter in models)
        for mine, stream in zip(opened, known[prefix], strict=True):
            mine.append(stream.branch())
    parts = [opened[0] + opened[1]] if pair.base.engine is pair.adapted.engine else list(opened)
    with ExitStack() as stack, torch.inference_mode():
        rows = [stack.enter_context(RowSet(engine)) for engine in dict.fromkeys(engine for engine, _ in models)]
        yield PairStream(pair, [RowBatch(mine, part) for mine, part in zip(rows, parts, strict=True)])


def _open(engine: Engine, prefix: Sequence[int], adapter: str | None, reuse: bool) -> Stream:
    with engine.using(adapter):
        stream = engine.open(prefix, adapter=adapter, reuse=reuse)
        if reuse:
            stream.save()
    return stream
