"""Figures that the paper's official trainer printed on fixed data (CPU, fp32), and what our trainer makes of the same.

tests/reference_data holds a 0.9 M parameter Llama, an adapter with B != 0, rollouts and the recorded figures.
"""

import json
from pathlib import Path
from typing import Any

from rmx.models.load import Model
from rmx.records import Rollout
from rmx.runs.recipe import Recipe
from rmx.train.step.items import Item, make_items
from rmx.train.step.lora_policy import LoraPolicy, make_policy
from rmx.train.step.trainer import Trainer

DATA = Path(__file__).parents[1] / "reference_data"
RUNS = sorted(path.stem for path in DATA.glob("expected*/*.json"))
NAMES = {
    "decision_objective": "objective",
    "pos_only_decisions": "positive_only",
    "normalize_by_problem": "weigh_problems",
    "batch_size": "micro_batch",
    "grad_accum_steps": "grad_accum",
}
SAME = ("kl_weight", "adv_clip", "beta_neg", "pos_margin", "neg_margin", "epochs", "lr", "warmup_steps", "weight_decay",
        "max_grad_norm", "max_seq_len")  # fmt: skip


def expected(run: str) -> dict[str, Any]:
    return json.loads(next(DATA.glob(f"expected*/{run}.json")).read_text())


def recipe_of(recorded: dict[str, Any]) -> Recipe:
    """The official trainer's settings in our words."""
    ours = {NAMES.get(name, name): value for name, value in recorded.items() if name in NAMES or name in SAME}
    kl_on = "completion" if recorded["kl_on_generated_only"] else "all"
    return Recipe().with_(kl_on=kl_on, gate="full" if recorded["variant"] == "fullseq" else "entropy", **ours)


def rollouts_of(run: str) -> list[Rollout]:
    file = "rollouts_uneven.json" if run.endswith("uneven") else "rollouts.json"
    return [
        Rollout(
            problem_id=row["problem_id"],
            gen_index=row["gen_index"],
            input_ids=tuple(row["input_ids"]),
            prompt_length=row["prompt_length"],
            correct=row["correct"],
            entropies=tuple(row["entropies"]),
            advantage=row["advantage"],
            decision_positions=tuple(row["decision_positions"]),
        )
        for row in json.loads((DATA / file).read_text())["rollouts"]
    ]


def items_of(run: str, recipe: Recipe) -> list[Item]:
    return make_items(rollouts_of(run), recipe.gate, None, recipe.loss, recipe.optim.max_seq_len, recipe.seed)


def policy_of(model: Model, recipe: Recipe, **options: Any) -> LoraPolicy:
    return make_policy(model, recipe.adapter, DATA / "init_adapter", recipe.seed, **options)


def trainer_of(model: Model, run: str, **options: Any) -> Trainer:
    recipe = recipe_of(expected(run)["recipe"])
    return Trainer(policy_of(model, recipe), items_of(run, recipe), recipe, **options)
