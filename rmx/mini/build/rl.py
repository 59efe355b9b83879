"""Reinforcement learning of the miniature with a binary reward: its RL-trained partner, as a LoRA adapter.

On-policy REINFORCE with advantages normalised within each problem's group of rollouts, which is GRPO with one
optimizer step per batch: the policy that sampled is the policy that learns, so there is no importance ratio to clip.
There is no KL term. An iteration's problems and samples depend only on the seed, the iteration and the weights, so a
run that was cut off goes on from its checkpoint as if nothing had happened.
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rmx.mini.build.mini_figures import sampled
from rmx.mini.build.miniature import TRAINING, Ids, Mini, right_padded, write_adapter, write_json
from rmx.mini.task import MiniProblem, make_problem
from rmx.models.load import Model
from rmx.recipes.recipe import AdapterConfig
from rmx.storage.safe_files import read_json
from rmx.train.step import checkpoint
from rmx.train.step.lora_policy import NAME, make_policy

TEMPERATURE = 1.0  # any other would make the samples off-policy
ADVANTAGE_EPS = 1e-4  # keeps a group of equal rewards at 0
ROWS = 64  # rollouts in one backward pass


@dataclass(frozen=True, slots=True)
class RLConfig:
    """Everything that the adapter depends on, beside the base."""

    iterations: int = 100
    seed: int = 0
    problems: int = 16  # per iteration
    rollouts: int = 12  # per problem
    lr: float = 2.5e-3
    warmup: int = 5  # iterations
    rank: int = 32
    alpha: int = 64
    clip: float = 1.0  # norm of the gradient


@dataclass(frozen=True, slots=True)
class RLStep:
    """What one iteration did."""

    iteration: int  # counted from 1
    reward: float  # mean over all rollouts, before the update
    mixed: int  # problems with right and wrong rollouts: the ones that teach
    loss: float
    grad_norm: float  # before clipping
    lr: float
    seconds: float  # since this process began training


def group_advantage(rewards: Tensor, eps: float = ADVANTAGE_EPS) -> Tensor:
    """A[p, k] = (r[p, k] - mean_k r[p]) / (std_k r[p] + eps); all zero in a group of equal rewards.

    Args:
        rewards: (P, K), one row per problem.
        eps: added to the standard deviation, which is that of the K values themselves (divided by K).

    Source: GRPO, arXiv 2402.03300, section 4.1.2 (outcome supervision); the eps is ours.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, correction=0, keepdim=True) + eps)


def policy_gradient_loss(logp: Tensor, advantage: Tensor, mask: Tensor, tokens: int) -> Tensor:
    """L = -(1/tokens) sum over (b, t) in mask of A[b] * logp[b, t]; its gradient is REINFORCE's, with a minus.

    Args:
        logp: (B, T) natural-log probability of the token taken, under the policy.
        advantage: (B,) constants; no gradient flows through them.
        mask: (B, T) bool, True where the policy sampled the token.
        tokens: sampled tokens of the whole optimizer step, so that the losses of its parts add up.

    Source: REINFORCE with a baseline, Williams, Machine Learning 8 (1992), 229-256; equal to the objective of GRPO
    (arXiv 2402.03300, Eq. 3) at ratio 1 without its KL term, except that every token of the step weighs the same,
    where GRPO first takes the mean within a rollout.
    """
    weighted = advantage.detach()[:, None] * logp
    return -weighted[mask].sum() / tokens


def token_logp(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, T, V) logits at (B, T) tokens -> (B, T - 1) log-probability of each token but the first."""
    return -F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")


def sampled_mask(prompts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
    """(B, T - 1) bool over the tokens of padded texts but the first, True where the policy sampled the token."""
    lengths = torch.tensor([[len(p), len(p) + len(c)] for p, c in zip(prompts, completions, strict=True)])
    place = torch.arange(1, int(lengths.max()))
    return (place >= lengths[:, :1]) & (place < lengths[:, 1:])


def schedule(iteration: int, config: RLConfig) -> float:
    """Share of the full learning rate at iteration 0, 1, ...: linear warm-up, then a linear fall to 0."""
    fall = (config.iterations - iteration) / max(1, config.iterations - config.warmup)
    return min(1.0, (iteration + 1) / config.warmup, fall)


def draw_problems(config: RLConfig, iteration: int) -> list[MiniProblem]:
    """Fresh problems with numbers of the train split and trained wordings."""
    label = f"{config.seed}/{iteration}"
    numbers, words = random.Random(f"rl numbers/{label}"), random.Random(f"rl text/{label}")
    return [make_problem(numbers, "train", text_rng=words) for _ in range(config.problems)]


class RLTrainer:
    """The policy (the base with a LoRA on it), its optimizer and the position in the run.

    Advantages, schedule and sampling are its own and not those of `rmx.train`: the bundled adapter rests on them.
    """

    def __init__(self, base: Model, config: RLConfig) -> None:
        self.config, self.done = config, 0
        self.policy = make_policy(base, AdapterConfig(config.rank, config.alpha), None, config.seed)
        self.mini = Mini(base, NAME)
        self.weights = list(self.policy.trained().values())
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.lr, weight_decay=0.0)

    def run(self) -> Iterator[RLStep]:
        """Train to the end, one iteration at a time."""
        began = time.monotonic()
        while self.done < self.config.iterations:
            problems = draw_problems(self.config, self.done)
            seed = 1_000_000 * self.config.seed + self.done
            rewards, prompts, completions = sampled(self.mini, problems, TEMPERATURE, self.config.rollouts, seed)
            lr = self.config.lr * schedule(self.done, self.config)
            loss, norm = self._update(prompts, completions, group_advantage(rewards).flatten(), lr)
            self.done += 1
            mixed = int((rewards.std(1, correction=0) > 0).sum())
            yield RLStep(self.done, rewards.mean().item(), mixed, loss, norm, lr, time.monotonic() - began)

    def _update(self, prompts: list[Ids], completions: list[Ids], advantage: Tensor, lr: float) -> tuple[float, float]:
        """One optimizer step over all rollouts that teach something; returns loss and gradient norm."""
        rows = sorted(advantage.nonzero()[:, 0].tolist(), key=lambda i: len(prompts[i]) + len(completions[i]))
        if not rows:
            return 0.0, 0.0
        tokens, total = sum(len(completions[i]) for i in rows), 0.0
        with self.policy.learning():
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                ids = right_padded([prompts[i] + completions[i] for i in part])
                mask = sampled_mask([prompts[i] for i in part], [completions[i] for i in part])
                logp = token_logp(self.policy.logits(ids), ids)
                loss = policy_gradient_loss(logp, advantage[part], mask, tokens)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.policy.changed()
        return total, norm

    def save(self, folder: Path) -> None:
        """Write a checkpoint, replacing the one before in one move."""
        checkpoint.save(folder, self.policy, self.optimizer, {"config": asdict(self.config), "done": self.done})

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint; ValueError where it belongs to a run with another config."""
        place = read_json(folder / checkpoint.PLACE)
        if place["config"] != asdict(self.config):
            raise ValueError(f"{folder} belongs to another run: {place['config']}; remove it to begin anew.")
        self.done = checkpoint.restore(folder, self.policy, self.optimizer)["done"]

    def export(self, folder: Path, base: str) -> None:
        """Write the adapter for shipping, and in `training.json` where it comes from, with the base's fingerprint."""
        with tempfile.TemporaryDirectory() as work:
            self.policy.save_adapter(Path(work))
            write_adapter(Path(work), folder)
        write_json(folder / TRAINING, {"base": base, "config": asdict(self.config)})
