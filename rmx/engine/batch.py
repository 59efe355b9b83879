"""Many continuations of one sequence side by side: it is read once, and rows that end leave at once."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from rmx.arguments import Sampling
from rmx.engine.decoder import Decoding, Prefix, decode
from rmx.engine.engine import Engine
from rmx.engine.fair_queue import never
from rmx.engine.token_draws import TokenFigures

GREEDY = Sampling()
Over = Callable[[int, int], bool]  # row number, token id -> this row is finished
Draw = Callable[[int, int], float]  # row number, place of the token in its row -> uniform number


def continue_batch(
    engine: Engine,
    prefix: Sequence[int],
    given: Sequence[Sequence[int]],
    *,
    max_new: int,
    over: Over,
    sampling: Sampling = GREEDY,
    draw: Draw | None = None,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
    reuse: bool = True,
) -> list[list[int]]:
    """Run `decode_steps` to its end, or until `cancelled` is true between two steps; return the rows so far."""
    steps = decode_steps(
        engine, prefix, given, max_new=max_new, over=over, sampling=sampling, draw=draw, adapter=adapter, reuse=reuse,
        cancelled=cancelled,
    )  # fmt: skip
    rows: list[list[int]] = [[] for _ in given]
    for so_far in steps:
        rows = so_far
        if cancelled():
            break
    return rows


def decode_steps(
    engine: Engine,
    prefix: Sequence[int],
    given: Sequence[Sequence[int]],
    *,
    max_new: int,
    over: Over,
    sampling: Sampling = GREEDY,
    draw: Draw | None = None,
    seen: Callable[[int, int, TokenFigures], None] | None = None,
    adapter: str | None = None,
    reuse: bool = True,
    cancelled: Callable[[], bool] = never,
) -> Generator[list[list[int]]]:
    """Continue `prefix` once for each of `given`, row by row in the same steps; row i starts with the tokens given[i].

    The caller holds the engine's turn; between two steps others get theirs.

    Args:
        prefix: prompt and kept tokens.
        given: the first token of each row, or () where the model chooses it too.
        max_new: tokens per row, the given one counted.
        over: called with each token of each row in order; True ends the row, that token included.
        draw: of rows that are sampled.
        seen: called with each token that was chosen, as (row, place in it, token), before `over`.
        cancelled: shortens the waits in between; the caller asks it after each step.

    Yields:
        The rows so far, after each step: for each row its tokens, the given one included. It is one growing list.
        When the generator ends by itself, every row is over or has `max_new` tokens (or fills the context).
    """
    out = [list(tokens) for tokens in given]
    room = min(max_new, engine.context - len(prefix))
    read = Prefix(prefix, adapter, reuse, save=reuse)

    def take(row: int, figures: TokenFigures) -> bool:
        if seen is not None:
            seen(row, len(out[row]), figures)
        out[row].append(figures.token_id)
        return over(row, figures.token_id) or len(out[row]) >= room

    rows = [
        Decoding(
            read,
            sampling,
            lambda figures, i=i: take(i, figures),  # type: ignore[misc]
            draw=lambda i=i: draw(i, len(out[i])) if draw else 0.0,  # type: ignore[misc]
            given=tokens,
            top=1 if seen is None else Decoding.top,
        )
        for i, tokens in enumerate(given)
        if len(tokens) < room and not any(over(i, token) for token in tokens)
    ]
    yield out
    for _ in decode(engine, rows, cancelled=cancelled):
        yield out


def continue_prefixes(
    engine: Engine,
    ids: Sequence[int],
    lengths: Sequence[int],
    given: Sequence[int],
    *,
    max_new: int,
    over: Over,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> list[list[int]]:
    """Put the same `given` tokens behind several beginnings of one sequence and decode each greedily.

    The sequence is read once; where its cache cannot be cropped (a full window, recurrent state), each beginning is
    read anew. The caller holds the engine's turn.

    Args:
        ids: the sequence. lengths: how much of it each row keeps, 1 or more.
        given: at least one token.
        max_new: tokens per row behind the given ones; less where the context ends.
        over: called with each new token of each row in order; True ends the row, that token included.
        cancelled: asked between steps; what is there so far is returned.

    Returns:
        For each row its new tokens; none where the context leaves no room.
    """
    room = [min(max_new, engine.context - n - len(given)) for n in lengths]
    fits = [i for i, r in enumerate(room) if r > 0]
    out: list[list[int]] = [[] for _ in lengths]
    if not fits:
        return out
    longest = max(lengths[i] for i in fits)
    crops = engine.crops(longest)
    whole = Prefix(ids[:longest], adapter)

    def take(row: int, figures: TokenFigures) -> bool:
        out[row].append(figures.token_id)
        return over(row, figures.token_id) or len(out[row]) >= room[row]

    rows = [
        Decoding(
            whole if crops else Prefix([*ids[: lengths[i]], *given], adapter),
            GREEDY,
            lambda figures, i=i: take(i, figures),  # type: ignore[misc]
            cancelled=cancelled,
            given=given if crops else (),
            keep=lengths[i] if crops else None,
            top=1,
        )
        for i in fits
    ]
    for _ in decode(engine, rows, cancelled=cancelled):
        pass
    return out


def greedy_rows(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    take: Callable[[int, int], bool],
    *,
    max_new: int,
    rows: int,
    adapter: str | None = None,
    cancelled: Callable[[], bool] = never,
) -> None:
    """Complete prompts greedily, `rows` of them at once; nothing is reused or kept. The caller holds the engine's turn.

    Args:
        take: called with each token, as (prompt, token); True ends the completion, that token included.
        max_new: tokens of a completion at most, 1 or more; less where the context ends.
    """
    sampling = replace(GREEDY, max_new_tokens=max_new)
    made = [0] * len(prompts)

    def took(i: int, figures: TokenFigures) -> bool:
        made[i] += 1
        return take(i, figures.token_id) or made[i] >= min(max_new, engine.context - len(prompts[i]))

    wanted = (
        Decoding(
            Prefix(prompt, adapter, reuse=False),
            sampling,
            lambda figures, i=i: took(i, figures),  # type: ignore[misc]
            cancelled=cancelled,
            top=1,
        )
        for i, prompt in enumerate(prompts)
    )
    for _ in decode(engine, wanted, most=rows, cancelled=cancelled):
        pass
