"""Choosing a token from logits. A draw depends on (seed, prompt, sample index, position) and on nothing else."""

import hashlib
import struct
from collections.abc import Sequence

from torch import Tensor

from rmx.config import Sampling


def prompt_key(prompt_ids: Sequence[int]) -> bytes:
    """Eight bytes that stand for a prompt in the draws of its completions."""
    return hashlib.blake2b(struct.pack(f"<{len(prompt_ids)}q", *prompt_ids), digest_size=8).digest()


def uniform(seed: int, key: bytes, sample: int, pos: int) -> float:
    """A number in [0, 1) that is a pure function of its arguments.

    Counter-based, so that branches, refilled batches and resumed stages repeat the same draws in any order.
    """
    digest = hashlib.blake2b(key + struct.pack("<qqq", seed, sample, pos), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def draw(logits: Tensor, temperature: float, top_p: float, u: float) -> int:
    """Draw one token by inverting the cumulative distribution of the nucleus at `u`.

    Args:
        logits: (V,). temperature: above 0. top_p: in (0, 1]; the token that crosses it is kept.
        u: uniform number in [0, 1).

    Source: nucleus sampling, arXiv 1904.09751, section 3.1.
    """
    p, ids = (logits.float() / temperature).softmax(-1).double().sort(descending=True, stable=True)
    total = p.cumsum(-1)
    # A token stays while the mass before it is below top_p: that keeps the one that crosses.
    kept = int(((total - p) < top_p).sum()) if top_p < 1 else len(p)
    target = u * float(total[kept - 1])
    return int(ids[min(int((total[:kept] <= target).sum()), kept - 1)])


class Chooser:
    """The rule that turns logits into a token, for one sampling setting and one prompt."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self.sampling = sampling
        self.key = prompt_key(prompt_ids)

    def __call__(self, logits: Tensor, best: int, pos: int, sample: int = 0) -> int:
        """The token at completion position `pos`; `best` is the argmax, already known from the capture."""
        if self.sampling.greedy:
            return best
        u = uniform(self.sampling.seed, self.key, sample, pos)
        return draw(logits, self.sampling.temperature, self.sampling.top_p, u)
