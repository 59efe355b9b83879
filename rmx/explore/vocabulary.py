"""Search the whole vocabulary at one position: every match with its probability, the likeliest first."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from rmx.engine.entropy import capture, logp_and_rank
from rmx.models.detokenizer import Detokenizer
from rmx.models.load import Model
from rmx.zerogpu.calls import on_gpu_worker
from rmx.zerogpu.gpu_seconds import decoding


@lru_cache(maxsize=4)
def _texts(detokenizer: Detokenizer, size: int) -> tuple[str, ...]:
    return tuple(detokenizer.token_text(i).lower() for i in range(size))


@on_gpu_worker(seconds=lambda model, prefix, *_, **__: decoding(1, read=len(prefix)))
def search(
    model: Model,
    prefix: Sequence[int],
    query: str,
    adapter: str | None = None,
    limit: int = 30,
    patience: float | None = None,
) -> list[tuple[int, str, float, int]]:
    """Tokens whose text contains `query`, as (id, text, probability, rank) given `prefix`.

    All matches of the vocabulary are ranked before the list is cut. A query that is a token's whole text, give or
    take a leading space, comes first.
    """
    wanted = query.lower()
    engine = model.engine
    texts = _texts(model.detokenizer, engine.vocab_size)
    matches = [i for i, text in enumerate(texts) if wanted in text] if wanted else []
    if not matches:
        return []
    with engine.queue.turn(patience), engine.using(adapter):
        logits = engine.open(prefix, adapter=adapter).logits.float()
    ids = torch.tensor(matches, device=logits.device)
    rows = logits.expand(len(matches), -1)
    lse = capture(logits[None], 1).lse
    order = logits[ids].argsort(descending=True)[: 4 * limit]
    ids = ids[order]
    logp, rank = logp_and_rank(rows[: len(ids)], lse.expand(len(ids)), ids)
    found = [
        (int(i), model.detokenizer.token_text(int(i)), float(p), int(r))
        for i, p, r in zip(ids, logp.exp(), rank, strict=True)
    ]
    found.sort(key=lambda f: texts[f[0]].strip() != wanted.strip())
    return found[:limit]
