"""Reinforcement learning of the miniature with a binary reward: its RL-trained partner, as a LoRA adapter.

On-policy REINFORCE with advantages normalised within each problem's group of rollouts, which is GRPO with one
optimizer step per batch: the policy that sampled is the policy that learns, so there is no importance ratio to clip.
There is no KL term. An iteration's problems and samples depend only on the seed, the iteration and the weights, so a
run that was cut off goes on from its checkpoint as if nothing had happened.
"""

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rmx.mini.build.figures import Mini
from rmx.mini.build.sampling import Ids, decode, right_padded
from rmx.mini.task import MiniProblem, make_problem

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
TEMPERATURE = 1.0  # any other would make the samples off-policy
ADVANTAGE_EPS = 1e-4  # keeps a group of equal rewards at 0
ROWS = 64  # rollouts in one backward pass
WEIGHTS = "adapter_model.safetensors"  # the name that PEFT looks for


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

    def __post_init__(self) -> None:
        if min(self.iterations, self.problems, self.rank, self.alpha, self.warmup) < 1:
            raise ValueError(f"iterations, problems, warmup, rank and alpha must be positive: {self}")
        if self.rollouts < 2:
            raise ValueError(f"a group needs at least two rollouts to compare: {self}")
        if self.lr <= 0 or self.clip <= 0:
            raise ValueError(f"lr and clip must be positive: {self}")


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


# ---------------------------------------------------------------- maths


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


def token_logp(model: PreTrainedModel, prompts: Sequence[Ids], completions: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """(B, T) log-probability of each token of the text but the first, and the (B, T) bool mask of the sampled ones."""
    ids = right_padded([p + c for p, c in zip(prompts, completions, strict=True)])
    mask = torch.zeros(ids.shape[0], ids.shape[1] - 1, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        mask[row, len(prompt) - 1 : len(prompt) + len(completion) - 1] = True
    logits = model(input_ids=ids).logits[:, :-1].float()
    return -F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none"), mask


def schedule(iteration: int, config: RLConfig) -> float:
    """Share of the full learning rate at iteration 0, 1, ...: linear warm-up, then a linear fall to 0."""
    fall = (config.iterations - iteration) / max(1, config.iterations - config.warmup)
    return min(1.0, (iteration + 1) / config.warmup, fall)


# ---------------------------------------------------------------- data


def draw_problems(config: RLConfig, iteration: int) -> list[MiniProblem]:
    """Fresh problems with numbers of the train split and trained wordings."""
    label = f"{config.seed}/{iteration}"
    numbers, words = random.Random(f"rl numbers/{label}"), random.Random(f"rl text/{label}")
    return [make_problem(numbers, "train", text_rng=words) for _ in range(config.problems)]


# ---------------------------------------------------------------- training


class RLTrainer:
    """The policy (the base with a LoRA on it), its optimizer and the position in the run."""

    def __init__(self, base: Mini, config: RLConfig) -> None:
        self.config, self.done = config, 0
        torch.manual_seed(config.seed)
        base.model.name_or_path = "mini"  # PEFT notes it in the adapter; the folder here would mean nothing elsewhere
        lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        self.peft: Any = get_peft_model(base.model, lora).eval()
        self.policy = Mini(base.model, base.tokenizer)  # the same network, which now holds the LoRA layers
        self.weights = [p for p in self.peft.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=config.lr, weight_decay=0.0)

    def run(self) -> Iterator[RLStep]:
        """Train to the end, one iteration at a time."""
        began = time.monotonic()
        while self.done < self.config.iterations:
            problems = draw_problems(self.config, self.done)
            prompts, completions, rewards = self._rollouts(problems)
            lr = self.config.lr * schedule(self.done, self.config)
            loss, norm = self._update(prompts, completions, group_advantage(rewards).flatten(), lr)
            self.done += 1
            mixed = int((rewards.std(1, correction=0) > 0).sum())
            yield RLStep(self.done, rewards.mean().item(), mixed, loss, norm, lr, time.monotonic() - began)

    def _rollouts(self, problems: Sequence[MiniProblem]) -> tuple[list[Ids], list[Ids], Tensor]:
        """Prompts and completions of P*K rollouts, problem by problem, and their (P, K) rewards of 0 and 1."""
        k = self.config.rollouts
        prompts = [prompt for prompt in self.policy.prompts(problems) for _ in range(k)]
        seed = 1_000_000 * self.config.seed + self.done
        completions = decode(self.policy.model, prompts, TEMPERATURE, seed)
        right = [self.policy.answer(c) == problems[i // k].answer for i, c in enumerate(completions)]
        return prompts, completions, torch.tensor(right, dtype=torch.float32).view(len(problems), k)

    def _update(self, prompts: list[Ids], completions: list[Ids], advantage: Tensor, lr: float) -> tuple[float, float]:
        """One optimizer step over all rollouts that teach something; returns loss and gradient norm."""
        rows = sorted(advantage.nonzero()[:, 0].tolist(), key=lambda i: len(prompts[i]) + len(completions[i]))
        if not rows:
            return 0.0, 0.0
        tokens, total = sum(len(completions[i]) for i in rows), 0.0
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            logp, mask = token_logp(self.policy.model, [prompts[i] for i in part], [completions[i] for i in part])
            loss = policy_gradient_loss(logp, advantage[part], mask, tokens)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm

    def save(self, path: Path) -> None:
        """Write a checkpoint, replacing the one before in one move."""
        state = {
            "config": self.config,
            "adapter": get_peft_model_state_dict(self.peft, save_embedding_layers=False),
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of our own making.

        Raises:
            ValueError: the checkpoint belongs to a run with another config.
        """
        with torch.serialization.safe_globals([RLConfig]):
            state = torch.load(path, weights_only=True)
        if state["config"] != self.config:
            raise ValueError(f"{path} belongs to another run: {state['config']}; remove it to begin anew.")
        set_peft_model_state_dict(self.peft, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]

    def export(self, folder: Path, base: str) -> None:
        """Write the adapter as PEFT does, in fp16, and `training.json`, which says where it comes from.

        `base` is the fingerprint of the weights that it was trained on. Sets are sorted, so that equal runs give
        equal files.
        """
        lora = self.peft.peft_config["default"].to_dict()
        lora |= {"target_modules": sorted(lora["target_modules"]), "inference_mode": True}
        _write_json(folder / "adapter_config.json", lora)
        _write_json(folder / "training.json", {"base": base, "config": asdict(self.config)})
        weights = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        save_file({name: w.half().contiguous() for name, w in weights.items()}, folder / WEIGHTS, {"format": "pt"})
        (folder / WEIGHTS).chmod(0o644)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
