"""Sequences of one engine that take their steps together, each under its own adapter.

What can share a pass is a row of an arena (rmx/engine/arena.py). Base and plain LoRAs share one, whatever their
strengths; an adapter that does not scale linearly is switched on for rows of its own. What cannot be a row (recurrent
state, a network that takes no mask) keeps its cache and takes its step beside the others'.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from rmx.engine.arena import Arena, takes_rows
from rmx.engine.engine import Engine, RowAdapters, Stream
from rmx.records import StepPath


class RowSet:
    """The streams of one engine that are stepped together; the caller holds the engine's turn.

    Inside its `with` block the adapters stay on between two passes; `Engine.give_way` takes them off for a while.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.fits = takes_rows(engine)
        self._arenas: dict[str | None, Arena] = {}  # by the adapter that is switched on; None: adapters by row
        self._slots: dict[Stream, tuple[Arena, int]] = {}
        self._switched: tuple[RowAdapters, AbstractContextManager[Any]] | None = None  # what the network has on
        self._reader: Arena | None = None  # in which prompts are read together
        self.path: StepPath | None = None  # of the latest step

    def __enter__(self) -> "RowSet":
        self._among = self._engine.held.used
        self._among.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        self._among.remove(self)
        self.leave()

    def switch(self) -> None:
        """Nothing: the next pass switches adapters on as it needs them."""

    def pause(self) -> None:
        """Switch the adapters back to what they were; the next pass switches them on again."""
        self.leave()

    @property
    def bucket(self) -> tuple[int, int] | None:
        """Slots and width of the pass that serves base and plain LoRAs; None where there is none."""
        arena = self._arenas.get(None)
        return arena.bucket if arena and arena.slots else None

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values of all rows."""
        return sum(arena.nbytes for arena in self._arenas.values())

    def kind(self, stream: Stream) -> str | None:
        """Which streams it can share a pass with: those of the same kind."""
        return None if self._engine.scales(stream.adapter) else stream.adapter

    # -- passes -------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def feed(self, streams: Sequence[Stream], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to streams, in few passes; returns logits (streams, V) of the next."""
        found: dict[Stream, Tensor] = {}
        for kind in dict.fromkeys(self.kind(stream) for stream in streams):
            mine = [i for i, stream in enumerate(streams) if self.kind(stream) == kind]
            logits = self.feed_together([streams[i] for i in mine], [tokens[i] for i in mine])
            if len(mine) == len(streams):
                return logits
            found |= {streams[i]: row for i, row in zip(mine, logits, strict=True)}
        return torch.stack([found[stream] for stream in streams])

    def feed_together(self, streams: Sequence[Stream], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Do as `feed` does for streams of one kind."""
        if not self.fits:
            return torch.stack([self.feed_alone(s, ids) for s, ids in zip(streams, tokens, strict=True)])
        kind = self.kind(streams[0])
        if kind not in self._arenas:
            self._arenas[kind] = Arena(self._engine)
        arena = self._arenas[kind]
        self._seat(arena, streams)
        slots = [self._slots[stream][1] for stream in streams]
        seated = {slot: stream for stream, (there, slot) in self._slots.items() if there is arena}
        logits = self._pass(arena, seated, dict(zip(slots, tokens, strict=True)))[slots]
        self.path = StepPath("cuda graph" if arena.replayed else "eager", arena.slots)
        for stream, ids in zip(streams, tokens, strict=True):
            stream.ids.extend(ids)
        return logits

    def read(self, streams: Sequence[Stream]) -> None:
        """Read what streams of one kind that have just begun do not reuse, by one pass of rows of their own."""
        arena = self._reader = self._reader or Arena(self._engine)
        arena.reserve(len(streams))
        seated = {arena.put(stream.reuse.reused, stream.layers): stream for stream in streams}
        logits = self._pass(arena, seated, {slot: one.ids[one.reuse.reused :] for slot, one in seated.items()})
        for slot, stream in seated.items():
            stream.cache, stream.logits = arena.take(slot), logits[slot]
        arena.shrink()

    def _pass(self, arena: Arena, seated: Mapping[int, Stream], tokens: Mapping[int, Sequence[int]]) -> Tensor:
        """Append tokens to slots of an arena, each row under its own adapter; logits (slots, V) of the next.

        Args:
            seated: whose slot each is.
        """
        like = next(iter(seated.values()))
        each = tuple(seated.get(slot, like).adapter for slot in range(arena.slots))
        keys = each if self.kind(like) is None and len(set(each)) > 1 else (like.adapter,)
        if arena.adapters.keys != keys:
            arena.adapters = RowAdapters(keys)
        self._switch(arena.adapters)
        return arena.feed(tokens)

    def feed_alone(self, stream: Stream, tokens: Sequence[int]) -> Tensor:
        """Append tokens to one stream as a cold run does it, by a pass with its own cache; logits (V,) of the next."""
        self.take_out(stream)
        self.reading(stream.adapter)
        self.path = StepPath("eager" if self.fits else "general", 1)
        return stream.read(tokens)[-1]

    def _seat(self, arena: Arena, streams: Sequence[Stream]) -> None:
        """Put those streams into slots that are not in one, and close the gaps that others have left."""
        fresh = [stream for stream in streams if stream not in self._slots]
        if fresh:
            arena.reserve(arena.live + len(fresh))
        for stream in fresh:
            self._slots[stream] = arena, arena.put(len(stream.ids), stream.layers)
            stream.cache = None
        if moves := arena.shrink():
            for stream, (there, slot) in self._slots.items():
                if there is arena:
                    self._slots[stream] = arena, moves.get(slot, slot)

    # -- streams that leave -------------------------------------------------------------------------------------------

    def take_out(self, stream: Stream) -> None:
        """Let a stream have a cache of its own again."""
        if stream in self._slots:
            arena, slot = self._slots.pop(stream)
            stream.cache = arena.take(slot)

    def drop(self, stream: Stream) -> None:
        """Forget a stream."""
        if stream in self._slots:
            arena, slot = self._slots.pop(stream)
            arena.lengths[slot] = None
        if not self._slots:
            self._arenas.clear()

    # -- adapters -----------------------------------------------------------------------------------------------------

    def reading(self, adapter: str | None) -> None:
        """Have the network compute under one adapter, for a pass that is not one of rows."""
        self._switch(RowAdapters((adapter,)))

    def _switch(self, wanted: RowAdapters) -> None:
        """Have the network compute under one adapter, or each row under its own."""
        one, now = len(wanted.keys) == 1, self._switched[0] if self._switched is not None else None
        if now is not None and (now is wanted or (one and now.keys == wanted.keys)):
            return
        self.leave()
        switched = self._engine.switched(wanted.keys[0]) if one else self._engine.switched_by_row(wanted)
        switched.__enter__()
        self._switched = wanted, switched

    def leave(self, *_: Any) -> None:
        """Switch the adapters back to what they were."""
        switched, self._switched = self._switched, None
        if switched is not None:
            switched[1].__exit__(None, None, None)


class RowBatch:
    """Streams that a caller steps itself. `logits` (rows, V) decide their next tokens.

    The caller holds the engine's turn and is inside the `with` block of `rows`.
    """

    def __init__(self, rows: RowSet, streams: Sequence[Stream]) -> None:
        self.rows, self.streams = rows, list(streams)
        self.logits = torch.stack([stream.logits for stream in streams])

    @classmethod
    def of(cls, rows: RowSet, engine: Engine, prompts: Sequence[Sequence[int]], adapter: str | None) -> "RowBatch":
        """Read prompts anew, equal ones once, each with a row of its own."""
        rows.reading(adapter)
        read = {ids: engine.open(ids, adapter=adapter, reuse=False) for ids in dict.fromkeys(map(tuple, prompts))}
        return cls(rows, [read[tuple(prompt)].branch() for prompt in prompts])

    def feed(self, tokens: Sequence[int]) -> None:
        """Append one token to each row."""
        self.logits = self.rows.feed(self.streams, [[token] for token in tokens])

    def select(self, kept: Sequence[int]) -> None:
        """Go on with these rows only; their logits stay."""
        for i in set(range(len(self.streams))).difference(kept):
            self.rows.drop(self.streams[i])
        self.streams, self.logits = [self.streams[i] for i in kept], self.logits[list(kept)]
