"""Batched decoding and scoring for the miniature, with a key-value cache and finished rows dropped."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

Ids = list[int]
Choose = Callable[[Tensor], Tensor]  # (rows, V) logits -> (rows,) token ids

MAX_NEW_TOKENS = 140  # the longest solution has about 100


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats over the last axis, at temperature 1, in fp32."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def _chooser(temperature: float, generator: torch.Generator) -> Choose:
    if temperature == 0:
        return lambda logits: logits.argmax(-1)

    def draw(logits: Tensor) -> Tensor:
        return torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]

    return draw


def _left_padded(prompts: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """(B, T) ids and (B, T) attention mask, padded on the left with zeros."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


@torch.no_grad()
def _decode_batch(model: PreTrainedModel, prompts: Sequence[Ids], choose: Choose, max_new_tokens: int) -> list[Ids]:
    """Continue each prompt to its end token or to `max_new_tokens`; the end token is part of the result."""
    ids, mask = _left_padded(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, live = DynamicCache(), torch.arange(len(prompts))
    completions: list[Ids] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = choose(logits.float())
        for row, token in zip(live.tolist(), chosen.tolist(), strict=True):
            completions[row].append(token)
        going = (chosen != model.config.eos_token_id).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(chosen):
            cache.batch_select_indices(going)
        live, ids, mask = live[going], chosen[going, None], mask[going]
        mask = F.pad(mask, (0, 1), value=1)
        positions = positions[going, -1:] + 1
    return completions


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch: int = 256,
) -> list[Ids]:
    """Complete every prompt; temperature 0 is greedy.

    Prompts of similar length share a batch, so a sample depends on the other prompts as well as on the seed.
    """
    choose = _chooser(temperature, torch.Generator().manual_seed(seed))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    completions: list[Ids] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        for row, completion in zip(
            rows, _decode_batch(model, [prompts[i] for i in rows], choose, max_new_tokens), strict=True
        ):
            completions[row] = completion
    return completions


def right_padded(sequences: Sequence[Ids]) -> Tensor:
    """(B, T) ids, padded on the right with zeros; under a causal mask the padding needs no attention mask."""
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids


@torch.no_grad()
def score(model: PreTrainedModel, prompts: Sequence[Ids], completions: Sequence[Ids], batch: int = 64) -> list[Tensor]:
    """For each completion the (len, V) fp32 logits that chose its tokens."""
    scored: list[Tensor] = []
    for start in range(0, len(prompts), batch):
        pairs = list(zip(prompts[start : start + batch], completions[start : start + batch], strict=True))
        logits = model(input_ids=right_padded([p + c for p, c in pairs])).logits.float()
        scored += [logits[r, len(p) - 1 : len(p) + len(c) - 1].clone() for r, (p, c) in enumerate(pairs)]
    return scored
