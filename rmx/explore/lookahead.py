"""What each alternative of a fork would say next, decoded as one batch from the shared prefix."""

from collections.abc import Sequence

from rmx.engine.batch import continue_batch
from rmx.models.load import Model
from rmx.zerogpu.calls import on_gpu_worker
from rmx.zerogpu.gpu_seconds import decoding

LOOK_AHEAD = 16  # tokens after the alternative itself


@on_gpu_worker(seconds=lambda model, prefix, *_, length=LOOK_AHEAD, **__: decoding(length + 1, read=len(prefix)))
def look_ahead(
    model: Model,
    prefix: Sequence[int],
    alternatives: Sequence[int],
    adapter: str | None = None,
    length: int = LOOK_AHEAD,
    patience: float | None = None,
) -> list[list[int]]:
    """Greedy continuations of `prefix`, one for each alternative; each list begins with its alternative.

    Args:
        prefix: prompt and kept tokens, as ids.
        alternatives: token ids that could follow it.
        length: tokens after the alternative; a row ends early at an end token.
        patience: seconds to wait for the engine, see `Turns.turn`.
    """
    engine = model.engine
    with engine.queue.turn(patience), engine.using(adapter):
        return continue_batch(
            engine,
            prefix,
            alternatives,
            max_new=length + 1,
            over=lambda row, token: token in model.stop_ids,
            adapter=adapter,
        )
