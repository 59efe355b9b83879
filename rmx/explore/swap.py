"""Swap one token of a trace and go on: the new branch keeps everything before the swap."""

from collections.abc import Sequence
from dataclasses import replace

from rmx.errors import SwapError
from rmx.explore.generate import Generation, Job
from rmx.models.load import Model
from rmx.records import TokenDist, Trace


def swap_job(job: Job, tokens: Sequence[TokenDist], pos: int, ids: Sequence[int], vocab_size: int) -> Job:
    """The job that keeps tokens 0 … pos-1, forces `ids` from `pos` on and continues as before.

    Args:
        job: what made `tokens`. tokens: the completion so far. pos: completion position to replace.
        ids: one token, or several for typed text.

    Raises:
        SwapError: the position or a token does not exist, nothing is forced, or it does not fit the length.
    """
    if not isinstance(pos, int) or isinstance(pos, bool) or not 0 <= pos < len(tokens):
        raise SwapError(f"There is no token at position {pos}; this solution has positions 0 to {len(tokens) - 1}.")
    if not ids:
        raise SwapError("Nothing to force: pick a token or type some text.")
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < vocab_size:
            raise SwapError(f"Token id {token_id} does not exist; this model has the ids 0 to {vocab_size - 1}.")
    limit = job.sampling.max_new_tokens
    if pos + len(ids) > limit:
        raise SwapError(f"The forced text would end past the limit of {limit} tokens. Raise the limit or force less.")
    return replace(job, kept=tuple(tokens[:pos]), forced=tuple(ids), fork=tokens[pos], read=None)


def swap(model: Model, job: Job, trace: Trace, pos: int, token_id: int) -> tuple[Job, Trace]:
    """Force one token and decode to the end. Returns the job of the new branch and its trace."""
    branch = swap_job(job, trace.tokens, pos, [token_id], model.engine.vocab_size)
    return branch, Generation(model, branch).run()
