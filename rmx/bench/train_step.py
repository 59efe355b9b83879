"""`rmx bench train`: our training step against the straightforward loop with two models.

The loop is what one writes first: a frozen copy and a copy with a LoRA, the full log-softmax of both, one rollout at a
time. Both sides start from the same adapter, see the same rollouts and make the same updates, so their losses can be
compared all the way.
"""

import pickle
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from rmx.bench.timing import PROBLEM, alternate, endless, milliseconds, open_model, peaks_of, ratio, tell_peak
from rmx.models.load import Model
from rmx.records import Problem, Rollout
from rmx.runs.recipe import Recipe, RolloutConfig
from rmx.train.rollouts import sample_rollouts
from rmx.train.step.items import Item, in_order, lr_at, make_items
from rmx.train.step.lora_policy import make_policy
from rmx.train.step.scoring import BaseFigures, score
from rmx.train.step.trainer import BETAS, EPS, MicroStep, Trainer, Update

PROBLEMS = (PROBLEM, "Write down how bread is made at home, step by step, and what can go wrong at each of the steps.")
PER_PROBLEM, TOKENS = 2, 180  # completions of a problem, and tokens of each
SHARE = 0.05  # of completion tokens that are decisions, those of highest entropy
EPOCHS = 1000  # more than any benchmark runs through: an epoch is one window, and one timed block
SIDES = ("imports", "two_models", "one_set", "one_set_recomputed")


def recipe_for(rollouts: int) -> Recipe:
    """The paper's, with all rollouts in one window, and a learning rate that moves from the second window on."""
    return Recipe().with_(grad_accum=rollouts, epochs=EPOCHS, warmup_steps=1, max_seq_len=1 << 20)


def bench_train(model: Model, rounds: int, name: str, device: str, dtype: str) -> dict[str, Any]:
    """Speed and memory of both sides on the same rollouts, and whether their losses agree.

    What is timed is one window: forward, backward and update, once entropies are scored.

    Args:
        model: `name` as loaded, without adapters; our side puts its own on it.
    """
    rollouts, load = sample(model), partial(open_model, name, device, dtype)
    ours, theirs = OneSet(model, rollouts), TwoModels(load(), load(), rollouts)
    passes = ours.trainer.policy.base_passes
    slow, fast = alternate(theirs.window, ours.window, rounds, model.engine.device.type == "cuda")
    differences = [abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True)]
    return {
        "two_models / one_set": ratio(slow, fast),
        "max_loss_difference": max(differences),
        "largest_loss": max(map(abs, theirs.losses)),
        "base_passes_after_scoring": ours.trainer.policy.base_passes - passes,
        "rollouts": len(rollouts),
        "tokens_per_rollout": statistics.mean(len(r.input_ids) for r in rollouts),
        "ms_per_rollout": milliseconds(len(rollouts), two_models=slow, one_set=fast),
        "figures_mb": ours.trainer.figures.nbytes / 1e6,
    } | peaks(rollouts, name, device, dtype)


def sample(model: Model) -> list[Rollout]:
    """Completions of the problems at temperature 1, all of one length; every second one is called right."""
    config = RolloutConfig(k=PER_PROBLEM, temperature=1.0, top_p=1.0, max_new_tokens=TOKENS)
    problems = [Problem(f"p{n}", text, None) for n, text in enumerate(PROBLEMS)]
    made = list(sample_rollouts(endless(model), problems, config, 0, {}))
    model.engine.prefixes.clear()
    rollouts = []
    for rollout in made:  # its most uncertain tokens are the decisions
        entropies, first = rollout.entropies or (), rollout.prompt_length - 1
        best = sorted(range(len(entropies)), key=entropies.__getitem__)[-round(SHARE * len(entropies)) :]
        places, advantage = tuple(sorted(first + i for i in best)), 1.0 if rollout.gen_index % 2 else -1.0
        rollouts.append(replace(rollout, advantage=advantage, decision_positions=places))
    return rollouts


def _items(rollouts: Sequence[Rollout], recipe: Recipe) -> list[Item]:
    return make_items(rollouts, recipe.gate, None, recipe.loss, recipe.optim.max_seq_len, recipe.seed)


class OneSet:
    """Our trainer, its base figures made by the scoring pass."""

    def __init__(self, model: Model, rollouts: Sequence[Rollout], recompute: bool = False) -> None:
        recipe = recipe_for(len(rollouts))
        policy = make_policy(model, recipe.adapter, None, recipe.seed, recompute)
        figures = BaseFigures()
        for _ in score(policy, rollouts, figures):
            pass
        self.trainer = Trainer(policy, _items(rollouts, recipe), recipe, figures=figures)
        self.losses: list[float] = []
        self._run = self.trainer.run()

    def window(self) -> None:
        for made in self._run:
            if isinstance(made, MicroStep):
                self.losses.append(made.loss)
            if isinstance(made, Update):
                return


class TwoModels:
    """The straightforward loop, by transformers, PEFT and torch alone."""

    def __init__(self, base: Model, adapted: Model, rollouts: Sequence[Rollout]) -> None:
        self.recipe = recipe_for(len(rollouts))
        self.base: Any = base.engine.model
        self.policy: PeftModel = make_policy(adapted, self.recipe.adapter, None, self.recipe.seed).network
        self.policy.train()
        self.params = [p for name, p in self.policy.named_parameters() if "lora_" in name]
        for p in self.params:
            p.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.params, lr=0.0, betas=BETAS, eps=EPS, weight_decay=0.0)
        self.items = in_order(_items(rollouts, self.recipe), "clarity", 0, 0)
        self.updates = 0
        self.losses: list[float] = []

    def window(self) -> None:
        optim = self.recipe.optim
        self.optimizer.zero_grad()
        for item in self.items:
            loss = self.loss(item)
            self.losses.append(float(loss.detach()))
            (loss / len(self.items)).backward()
        torch.nn.utils.clip_grad_norm_(self.params, optim.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(self.updates, EPOCHS, optim)
        self.optimizer.step()
        self.updates += 1

    def loss(self, item: Item) -> Tensor:
        """A times the mean cross entropy of the decisions, plus 0.2 times the mean KL of all other positions."""
        ids = torch.tensor([item.rollout.input_ids], device=self.base.device)
        with torch.no_grad():
            base = self.base(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        ours = self.policy(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        ce = -ours.gather(1, ids[0, 1:, None])[:, 0]
        kl = (base.exp() * (base - ours)).sum(-1)
        decision = torch.zeros(len(ce), dtype=torch.bool, device=ce.device)
        decision[list(item.decisions)] = True
        return item.advantage * ce[decision].mean() + self.recipe.loss.kl_weight * kl[~decision].mean()


def peaks(rollouts: Sequence[Rollout], name: str, device: str, dtype: str) -> dict[str, Any]:
    """Peak memory of either side over two windows; empty where nothing tells it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts"
        file.write_bytes(pickle.dumps(list(rollouts)))
        found = peaks_of(two_windows, SIDES, device, name, dtype, str(file))
    if found is None:
        return {}
    return {
        "peak_one_set / peak_two_models": found["one_set"] / found["two_models"],
        "peak_recomputed / peak_two_models": found["one_set_recomputed"] / found["two_models"],
        "peak_mb": found,
    }


def two_windows(side: str, device: str, name: str, dtype: str, file: str) -> None:
    """Load one side and make two windows."""
    if side != "imports":
        rollouts: list[Rollout] = pickle.loads(Path(file).read_bytes())
        load = partial(open_model, name, device, dtype)
        recompute = side == "one_set_recomputed"
        loop = TwoModels(load(), load(), rollouts) if side == "two_models" else OneSet(load(), rollouts, recompute)
        loop.window()
        loop.window()


if __name__ == "__main__":
    torch.set_num_threads(1)
    two_windows(*sys.argv[1:])
    tell_peak()
