"""The scoring pass: teacher-forced entropies of the frozen base, and whatever else training needs of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rmx.engine.entropy import capture
from rmx.errors import TrainError
from rmx.models.load import Model
from rmx.records import Rollout
from rmx.train.step.base_figures import BaseFigures, BaseTokens, Key
from rmx.train.step.head import anchor, sweep
from rmx.train.step.items import name_of
from rmx.train.step.lora_policy import LoraPolicy


def score(
    source: LoraPolicy | Model, rollouts: Iterable[Rollout], figures: BaseFigures | None = None
) -> Iterator[Rollout]:
    """Fill in the entropies of each rollout, one after the other; those that a rollout brings along stay.

    With a policy whose head allows it, the base's figures are put into `figures` in the same pass. Cut rollouts before.
    """
    policy = source if isinstance(source, LoraPolicy) and source.head is not None else None
    model = source.model if isinstance(source, LoraPolicy) else source
    for rollout in rollouts:
        if rollout.completion_length < 1:
            raise TrainError(f"{name_of(rollout)} has no completion tokens. Take it out of the file.")
        if policy is not None and figures is not None:
            if figures.keeps:
                base_block(policy, prompt_key(rollout), figures)
            entropies = _fill(policy, own_key(rollout), figures, wanted=rollout.entropies is None)
        else:
            missing = rollout.entropies is None
            entropies = teacher_forced(model, rollout.input_ids, rollout.prompt_length) if missing else None
        yield rollout if entropies is None else replace(rollout, entropies=tuple(entropies.tolist()))


def teacher_forced(model: Model, ids: Sequence[int], prompt_length: int) -> Tensor:
    """(completion_length,) nats: entropies of the base, from the logits of one pass over prompt and completion."""
    found: list[Tensor] = []

    def note(_first: int, logits: Tensor) -> None:
        found.append(capture(logits, 1).entropy)

    with model.engine.using(None):
        model.engine.open(ids[:-1], reuse=False, read_from=prompt_length - 1, on_read=note)
    return torch.cat(found).cpu()


def prompt_key(rollout: Rollout) -> Key:
    """The block of the positions that predict prompt tokens; shared by all rollouts of a problem."""
    return 0, rollout.prompt_ids


def own_key(rollout: Rollout) -> Key:
    """The block of the positions that predict completion tokens."""
    return rollout.prompt_length - 1, rollout.input_ids


def base_block(policy: LoraPolicy, key: Key, figures: BaseFigures) -> BaseTokens:
    """A block of figures, from what is kept or by a pass of the base, then kept if there is room."""
    base = figures.get(key)
    if base is None:
        base, _ = read_base(policy, key, entropy=False, dtype=figures.dtype)
        figures.put(key, base)
    return base


def _fill(policy: LoraPolicy, key: Key, figures: BaseFigures, wanted: bool) -> Tensor | None:
    """Make sure that a block is kept; returns its entropies where they are wanted."""
    if not wanted and (key in figures or not figures.keeps):
        return None
    base, entropies = read_base(policy, key, entropy=wanted, dtype=figures.dtype)
    figures.put(key, base)
    return entropies


def read_base(
    policy: LoraPolicy, key: Key, *, entropy: bool, dtype: torch.dtype = torch.float32
) -> tuple[BaseTokens, Tensor | None]:
    """Figures of the positions from key's first on, on the CPU, and their entropies in nats; one pass of the base.

    Offsets go with the vectors as `dtype` rounds them, so that the KL of an unchanged policy stays 0.
    """
    first, ids = key
    head = policy.head
    assert head is not None
    tokens = torch.tensor(ids, device=policy.device)
    with policy.base():
        hidden = policy(tokens[None])[0, first:-1].float()
        swept = sweep(head, hidden, tokens[first + 1 :], entropy=entropy, expected=True)
        assert swept.expected is not None
        mean = swept.expected.to(dtype).float()
        base = BaseTokens(mean, anchor(head, swept.lse, mean, hidden), swept.own - swept.lse)
    kept = BaseTokens(base.mean.cpu(), base.offset.cpu(), base.logp.cpu())
    return kept, None if swept.entropy is None else swept.entropy.cpu()
