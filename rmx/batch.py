"""Many continuations of one prefix as one batch: one prefill, finished rows dropped at once."""

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from rmx.engine import Engine

Choose = Callable[[Tensor, Sequence[int], int], Tensor]  # logits (B, V), row numbers, step -> ids (B,)
Over = Callable[[int, int], bool]  # row number, token id -> this row is finished


def greedy(logits: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def continue_batch(
    engine: Engine,
    prefix: Sequence[int],
    firsts: Sequence[int],
    *,
    max_new: int,
    over: Over,
    choose: Choose = greedy,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    reuse: bool = True,
) -> list[list[int]]:
    """`decode_steps` to its end, or until `cancelled` says so between two steps; returns the rows so far."""
    steps = decode_steps(
        engine, prefix, firsts, max_new=max_new, over=over, choose=choose, adapter=adapter, reuse=reuse
    )
    rows: list[list[int]] = [[] for _ in firsts]
    for so_far in steps:
        rows = so_far
        if cancelled():
            break
    return rows


@torch.inference_mode()
def decode_steps(
    engine: Engine,
    prefix: Sequence[int],
    firsts: Sequence[int],
    *,
    max_new: int,
    over: Over,
    choose: Choose = greedy,
    adapter: str | None = None,
    reuse: bool = True,
) -> Generator[list[list[int]]]:
    """Continue `prefix` once for each token of `firsts`, as one batch; row i starts with firsts[i].

    The caller holds the engine's turn and is inside `engine.using(adapter)`.

    Args:
        prefix: prompt and kept tokens.
        firsts: the first token of each row; at least one.
        max_new: tokens per row, the first one counted.
        over: told each token of each row in order; True ends the row, that token included.
        choose: picks the next ids; must not depend on which other rows are still there.

    Yields:
        The rows so far, after each step: for each row its tokens, the first one included. It is one growing list.
        When the generator ends by itself, every row is over or has `max_new` tokens (or fills the context).
    """
    stream = engine.open(prefix, adapter=adapter, reuse=reuse)
    stream.save()
    cache = engine.expand(stream, len(firsts))
    out: list[list[int]] = [[] for _ in firsts]
    live = list(range(len(firsts)))
    ids = list(firsts)
    room = min(max_new, engine.context - len(prefix))
    for step in range(1, room + 1):
        going = [
            i for i, (row, token) in enumerate(zip(live, ids, strict=True)) if _goes_on(out[row], token, row, over)
        ]
        yield out
        if not going or step == room:
            return
        if len(going) < len(live):
            cache.batch_select_indices(torch.tensor(going, device=engine.device))
            live, ids = [live[i] for i in going], [ids[i] for i in going]
        logits = engine.forward([[t] for t in ids], cache, keep=1)[:, -1]
        ids = choose(logits, live, step).tolist()


def _goes_on(row_tokens: list[int], token: int, row: int, over: Over) -> bool:
    row_tokens.append(token)
    return not over(row, token)
