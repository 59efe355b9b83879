"""What the training tests share: small rollouts, items and policies."""

import random
from typing import Any

import torch

from rmx.models.load import Model
from rmx.records import Rollout
from rmx.runs.recipe import Recipe
from rmx.train.step.items import Item, make_items
from rmx.train.step.lora_policy import LoraPolicy, make_policy
from rmx.train.step.trainer import MicroStep, Trainer, Update

# A recipe that moves quickly and in short sequences.
QUICK = Recipe().with_(rank=4, alpha=8, lr=1e-2, warmup_steps=1, grad_accum=2, micro_batch=2, max_seq_len=64)


def rollout(problem: str = "p0", gen: int = 0, **changes: Any) -> Rollout:
    """Three prompt tokens, five completion tokens, two decisions, A = 1."""
    fields: dict[str, Any] = {
        "input_ids": (5, 6, 7, 10, 11, 12, 13, 14),
        "prompt_length": 3,
        "correct": True,
        "entropies": (0.5, 1.5, 0.1, 2.0, 0.0),
        "advantage": 1.0,
    }
    return Rollout(problem, gen, **(fields | changes))


def rollouts(problems: int = 4, k: int = 3, seed: int = 0, vocabulary: int = 258, longest: int = 20) -> list[Rollout]:
    """Random ones of unequal length; each problem's share a prompt, and right and wrong ones are mixed."""
    draws = random.Random(seed)
    made = []
    for p in range(problems):
        prompt = [draws.randrange(vocabulary) for _ in range(draws.randint(3, 8))]
        for g in range(k):
            n = draws.randint(4, longest)
            made.append(
                Rollout(
                    problem_id=f"p{p}",
                    gen_index=g,
                    input_ids=(*prompt, *(draws.randrange(vocabulary) for _ in range(n))),
                    prompt_length=len(prompt),
                    correct=g == 0,
                    entropies=tuple(draws.uniform(0, 3) for _ in range(n)),
                    advantage=1.4 if g == 0 else -0.7,
                )
            )
    return made


def items_of(made: list[Rollout], recipe: Recipe = QUICK, tau: float | None = 1.0) -> list[Item]:
    return make_items(made, recipe.gate, tau, recipe.loss, recipe.optim.max_seq_len, recipe.seed)


def policy_of(model: Model, recipe: Recipe = QUICK, *, moved: bool = True, **options: Any) -> LoraPolicy:
    """A policy whose adapter already does something, unless `moved` is False."""
    policy = make_policy(model, recipe.adapter, None, recipe.seed, **options)
    if moved:
        draws = torch.Generator().manual_seed(1)
        for name, p in policy.trained().items():
            if "lora_B" in name or "lora_embedding_B" in name:
                p.data.copy_(torch.randn(p.shape, generator=draws) * 0.05)
    return policy


def made_by(trainer: Trainer) -> tuple[list[MicroStep], list[Update]]:
    everything = list(trainer.run())
    steps = [x for x in everything if isinstance(x, MicroStep)]
    return steps, [x for x in everything if isinstance(x, Update)]


def weights(policy: LoraPolicy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.trained().items()}
