"""Choosing a token from logits. A draw depends on (seed, prompt, sample index, position) and on nothing else."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmx.arguments import Sampling
from rmx.config import TOP_KEPT
from rmx.engine.entropy import Capture, capture, logp_and_rank

BLOCK = 256  # tokens of the vocabulary summed together when a whole distribution is inverted
COLDEST = 1e-30  # below it fp32 overflows; the likeliest token has all the probability long before
NUCLEUS = 64  # likeliest tokens among which a nucleus is looked for first


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
    """One token from logits (V,); `draw_rows` for a single row."""
    return int(draw_rows(logits[None], temperature, top_p, [u])[0])


def draw_rows(logits: Tensor, temperature: float, top_p: float, u: Sequence[float]) -> Tensor:
    """Draw one token per row by inverting a cumulative distribution at that row's uniform number.

    The cumulative distribution runs over the nucleus, likeliest first, or, without a nucleus (top_p = 1), over the
    vocabulary in its own order, which needs no sorting. A row's token does not depend on the other rows.

    Args:
        logits: (B, V), any float dtype. temperature: above 0.
        top_p: in (0, 1]; the token that crosses it is kept.
        u: B uniform numbers in [0, 1).

    Returns:
        ids (B,) int64.

    Source: nucleus sampling, arXiv 1904.09751, section 3.1.
    """
    at = torch.tensor(u, dtype=torch.float64, device=logits.device)
    scaled = cooled(logits, temperature)
    if top_p == 1:
        return _invert_all((scaled - scaled.amax(-1, keepdim=True)).exp_(), at)
    return _invert_nucleus(scaled.softmax(-1), top_p, at)


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits (..., V) over the temperature, fp32, up to a constant of their row; any temperature above 0 will do.

    The peak is subtracted first: nothing overflows then, and tokens near it keep their distance from it.
    """
    logits = logits.float()
    if temperature == 1:
        return logits
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, COLDEST)


def _invert_all(weights: Tensor, u: Tensor) -> Tensor:
    """First the block of the vocabulary that holds u, then the token in it: fp64 sums over few numbers only.

    Args:
        weights: (B, V) fp32, proportional to the probabilities. u: (B,) fp64.
    """
    short = -weights.shape[-1] % BLOCK
    blocks = torch.nn.functional.pad(weights, (0, short)).unflatten(-1, (-1, BLOCK))
    sums = blocks.sum(-1).double().cumsum(-1)
    target = _below(u * sums[:, -1], sums[:, -1])
    block = (sums <= target[:, None]).sum(-1)
    before = torch.where(block > 0, sums.gather(-1, (block - 1).clamp_min(0)[:, None])[:, 0], 0.0)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block].double().cumsum(-1)
    # The block's own sum is rounded to fp32: what is left of u may lie a hair past the last of its tokens.
    left = _below(target - before, inside[:, -1])
    return block * BLOCK + (inside <= left[:, None]).sum(-1)


def _invert_nucleus(p: Tensor, top_p: float, u: Tensor, few: int = NUCLEUS) -> Tensor:
    """The nucleus usually lies in the few likeliest tokens; rows where it does not are sorted further."""
    few = min(few, p.shape[-1])
    head, ids = p.topk(few, dim=-1)
    ids, order = ids.sort(-1)
    head, order = head.gather(-1, order).sort(dim=-1, descending=True, stable=True)  # equals: the lower id first
    ids, sums = ids.gather(-1, order), head.double().cumsum(-1)
    # Which of several equals `topk` takes last is its own affair: the nucleus must end before them.
    inside = (sums * (head > head[:, -1:])).amax(-1) >= top_p
    found = _invert_sorted(sums, ids, top_p, u)
    wide = (~inside).nonzero()[:, 0]
    if few < p.shape[-1] and len(wide):
        found[wide] = _invert_nucleus(p[wide], top_p, u[wide], 16 * few)
    return found


def _invert_sorted(sums: Tensor, ids: Tensor, top_p: float, u: Tensor) -> Tensor:
    """Args: cumulative probabilities (B, k) fp64, likeliest first, and the ids they belong to."""
    # The first token always stays; another stays while the mass before it is below top_p.
    last = (sums[:, :-1] < top_p).sum(-1, keepdim=True)
    mass = sums.gather(-1, last)[:, 0]
    place = (sums <= _below(u * mass, mass)[:, None]).sum(-1, keepdim=True)
    return ids.gather(-1, place)[:, 0]


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Keep a target under the total: rounding may lift it there, where no token follows."""
    return torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """A token and the distribution that it was chosen from, at temperature 1."""

    token_id: int
    entropy: float  # nats
    logp: float
    rank: int  # 1 is the likeliest
    top: tuple[tuple[int, float], ...]  # ids and probabilities, best first


def figures_of(logits: Tensor, ids: Tensor, found: Capture | None = None) -> list[TokenFigures]:
    """Figures of one given token per row, in one transfer from the device.

    Args:
        logits: (B, V), any float dtype. ids: (B,). found: `capture(logits, TOP_KEPT)`, where that is known already.
    """
    found = capture(logits, TOP_KEPT) if found is None else found
    logp, rank = logp_and_rank(logits, found.lse, ids)
    columns = torch.stack([ids.double(), found.entropy.double(), logp.double(), rank.double()], dim=1)
    rows = torch.cat([columns, found.top_ids.double(), found.top_logp.exp().double()], dim=1).tolist()
    k = found.top_ids.shape[1]
    return [
        TokenFigures(int(token), entropy, own, int(place), tuple(zip(map(int, rest[:k]), rest[k:], strict=True)))
        for token, entropy, own, place, *rest in rows
    ]


def choose_tokens(
    logits: Tensor, sampling: Sequence[Sampling], uniforms: Sequence[float], top: int = TOP_KEPT
) -> list[TokenFigures]:
    """Choose a token for each row by its own setting.

    Args:
        logits: (B, V), any float dtype. sampling, uniforms: of each row; greedy rows take the likeliest token.
        top: likeliest tokens that are told.
    """
    found = capture(logits, top)
    ids = found.top_ids[:, 0].clone()
    for setting in {(s.temperature, s.top_p) for s in sampling if not s.greedy}:
        rows = [i for i, s in enumerate(sampling) if (s.temperature, s.top_p) == setting]
        ids[rows] = draw_rows(logits[rows], *setting, [uniforms[i] for i in rows])
    return figures_of(logits, ids, found)


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
