"""The miniature's RL-trained partner: its maths, its problems, resuming, and the adapter that ships."""

import json
import math
from functools import cache

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rmx.config import ASSETS
from rmx.errors import ModelError, TrainError
from rmx.mini.build.build import (
    RLConfig,
    RLTrainer,
    draw_problems,
    rl_card,
    sampled_mask,
    token_logp,
)
from rmx.mini.build.mini_figures import change, greedy, measure_pair
from rmx.mini.build.miniature import Mini, load, right_padded
from rmx.mini.problem_sets import mini_set
from rmx.mini.task import TEMPLATES, split_of
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.models.load import Model
from rmx.models.names import shipped_adapters
from rmx.records import Rollout
from rmx.train.reinforce import group_advantage, policy_gradient_loss, schedule

RL = ASSETS / "mini" / "rl"
TINY = RLConfig(iterations=4, problems=2, rollouts=6, warmup=1, rank=2, alpha=4)


def stored(name: str):
    return json.loads((RL / name).read_text(encoding="utf-8"))


@cache
def pair() -> Model:
    """Base and adapter, as the app loads them."""
    model = models.load("mini", device="cpu")
    add_adapter(model, "rl")
    return model


def fresh() -> Model:
    """The base, without any adapter on it yet."""
    return load(ASSETS / "mini").model


# ---------------------------------------------------------------- maths


def test_advantage_by_hand():
    got = group_advantage(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]), eps=0)
    assert got[0].tolist() == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])  # mean 1/4, variance 3/16
    assert got[1].tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_of_equal_rewards_teaches_nothing(reward):
    assert group_advantage(torch.full((2, 12), reward)).tolist() == [[0.0] * 12] * 2


def test_loss_is_that_of_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    logp = -torch.rand(3, 5, generator=generator)
    mask = torch.rand(3, 5, generator=generator) > 0.4
    advantage = torch.tensor([1.5, -0.5, 0.0])
    total = 0.0
    for b in range(3):
        for t in range(5):
            if mask[b, t]:
                total -= advantage[b].item() * logp[b, t].item()
    assert policy_gradient_loss(logp, advantage, mask, 7).item() == pytest.approx(total / 7)


def test_descending_the_loss_makes_good_rollouts_likelier_and_bad_ones_less_likely():
    logp = torch.zeros(2, 3, requires_grad=True)
    mask = torch.tensor([[False, True, True], [True, False, False]])
    policy_gradient_loss(logp, torch.tensor([2.0, -1.0]), mask, 3).backward()
    assert torch.allclose(-logp.grad, torch.tensor([[0, 2 / 3, 2 / 3], [-1 / 3, 0, 0]]))


def test_the_losses_of_parts_add_up_to_the_loss_of_the_whole():
    logp, mask, advantage = -torch.rand(4, 6), torch.rand(4, 6) > 0.5, torch.randn(4)
    parts = sum(policy_gradient_loss(logp[i : i + 2], advantage[i : i + 2], mask[i : i + 2], 9) for i in (0, 2))
    assert parts.item() == pytest.approx(policy_gradient_loss(logp, advantage, mask, 9).item(), abs=1e-6)


def test_log_probabilities_are_those_of_the_sampled_tokens_alone():
    mini, prompts, completions = Mini(pair()), [[3, 4], [5, 6, 7]], [[8, 9, 1], [2]]
    ids = right_padded([p + c for p, c in zip(prompts, completions, strict=True)])
    pairs = zip(prompts, completions, strict=True)
    mask = sampled_mask([Rollout("", 0, (*p, *c), len(p), False) for p, c in pairs])
    assert mask.tolist() == [[False, True, True, True], [False, False, True, False]]
    with torch.no_grad(), pair().engine.using(None):
        logp = token_logp(pair().engine.model(input_ids=ids).logits, ids)
    for row, logits in enumerate(mini.score(prompts, completions)):
        taken = logits.log_softmax(-1).gather(1, torch.tensor(completions[row])[:, None])[:, 0]
        assert torch.allclose(logp[row][mask[row]], taken, atol=1e-5)


def test_the_learning_rate_rises_and_falls():
    config = RLConfig()
    assert (config.iterations, config.warmup) == (100, 5)
    assert [schedule(i, 100, 5) for i in (0, 4, 5)] == [0.2, 1, 1]
    assert schedule(52, 100, 5) == pytest.approx(48 / 95)
    assert schedule(99, 100, 5) == pytest.approx(1 / 95)
    assert [schedule(i, 2, 5) for i in (0, 1)] == [0.2, 0.4]


# ---------------------------------------------------------------- problems


def test_problems_are_of_the_train_split_and_of_trained_wordings():
    made = [p for i in range(100) for p in draw_problems(RLConfig(), i)]
    assert len(made) == 1600
    for problem in made:
        assert split_of(problem.template, dict(problem.numbers)) == problem.split == "train"
        assert TEMPLATES[problem.template].wordings[problem.wording].split == "train"
        assert problem.held_out == "none"
    held_out = {p.problem for split in ("validation", "test") for p in mini_set(split)}
    assert not held_out & {p.problem for p in made}


def test_problems_depend_on_seed_and_iteration():
    first = draw_problems(RLConfig(), 3)
    assert draw_problems(RLConfig(), 3) == first
    assert draw_problems(RLConfig(), 4) != first
    assert draw_problems(RLConfig(seed=1), 3) != first


# ---------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.long
def test_training_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path):
    whole = RLTrainer(fresh(), TINY)
    before = [p.clone() for p in whole.weights]
    steps = [(s.reward, s.mixed, s.loss, s.grad_norm, s.lr) for s in whole.run()]
    assert any(step[1] for step in steps)  # something was learnt, so something can differ
    assert any(not torch.equal(x, y) for x, y in zip(before, whole.weights, strict=True))
    first = RLTrainer(fresh(), TINY)
    for step in first.run():
        if step.iteration == 2:
            first.save(tmp_path / "c")
            break
    second = RLTrainer(fresh(), TINY)
    second.restore(tmp_path / "c")
    assert [(s.reward, s.mixed, s.loss, s.grad_norm, s.lr) for s in second.run()] == steps[2:]
    for ours, theirs in zip(second.weights, whole.weights, strict=True):
        assert torch.equal(ours, theirs)
    for trainer, name in ((whole, "one"), (second, "two")):
        (tmp_path / name).mkdir()
        trainer.ship(tmp_path / name, "sha256:of-the-base")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    with pytest.raises(TrainError, match="another run"):
        RLTrainer(fresh(), RLConfig(iterations=5)).restore(tmp_path / "c")


def test_only_the_adapter_is_trained():
    trainer = RLTrainer(fresh(), TINY)
    with trainer.policy.learning():
        names = {n for n, p in trainer.policy.named_parameters() if p.requires_grad}
    assert len(names) == 4 * 4 * 2  # layers, projections, A and B
    assert all("lora_" in name for name in names)


def test_an_iteration_without_mixed_problems_changes_nothing():
    trainer = RLTrainer(fresh(), TINY)
    before = [p.clone() for p in trainer.weights]
    assert trainer._update([Rollout("", 0, (5, 6, 7), 2, False)], torch.zeros(1), 1.0) == (0.0, 0.0)
    assert all(torch.equal(x, y) for x, y in zip(before, trainer.weights, strict=True))


def test_change_counts_won_and_lost():
    found = change(torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert (found["won"], found["lost"], found["value"], found["n"]) == (2, 1, 0.25, 4)
    assert found["low"] <= 0.25 <= found["high"]


# ---------------------------------------------------------------- the adapter that ships


def test_the_bundled_adapter_belongs_to_the_bundled_base():
    assert shipped_adapters(pair().spec) == ["reasonmaxxer", "rl"]
    assert stored("training.json")["base"] == stored("figures.json")["base"] == pair().revision
    assert stored("figures.json")["adapter"] == models.fingerprint(RL)
    assert RLConfig(**stored("training.json")["config"]) == RLConfig()


def test_the_adapter_of_another_base_is_not_measured(tmp_path):
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((ASSETS / "mini" / file).read_bytes())
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "training.json").write_text(json.dumps({"base": "sha256:other", "config": {}}))
    with pytest.raises(ModelError, match="belongs to sha256:other"):
        measure_pair(str(tmp_path), tmp_path / "rl")


def test_the_bundled_adapter_is_plain_small_and_portable():
    config = stored("adapter_config.json")
    assert config["base_model_name_or_path"] == "mini"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (32, 64, "LORA")
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    files = {path.name: path.stat().st_size for path in RL.iterdir()}
    assert sum(files.values()) < 500_000
    assert not [name for name in files if name.endswith((".bin", ".part", ".checkpoint"))]
    for name in set(files) - {"adapter_model.safetensors"}:
        assert "/tmp" not in (RL / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_bundled_adapter_gives_the_stored_greedy_answers():
    expected = stored("figures.json")["greedy_answers"]
    problems = mini_set("test")[: len(expected)]
    assert len(problems) == 60
    found = greedy(Mini(pair(), "rl"), problems)
    assert dict(zip((p.id for p in problems), found.answers, strict=True)) == expected


def test_with_the_adapter_off_the_base_is_untouched():
    engine, problems = pair().engine, mini_set("test")[:4]
    plain = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    texts = [torch.tensor([ids]) for ids in Mini(pair()).prompts(problems)]
    with torch.no_grad():
        with engine.using(None):
            off = [engine.model(input_ids=ids).logits for ids in texts]
        with engine.using("rl"):
            on = [engine.model(input_ids=ids).logits for ids in texts]
        bare = [plain(input_ids=ids).logits for ids in texts]
    assert all(torch.equal(x, y) for x, y in zip(off, bare, strict=True))
    assert all((x - y).abs().max() > 0.1 for x, y in zip(on, bare, strict=True))


def test_plain_peft_gives_the_logits_of_our_loader():
    plain = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    ids = torch.tensor(Mini(pair()).prompts(mini_set("test")[:1]))
    peft = PeftModel.from_pretrained(plain, RL).eval()
    with torch.no_grad(), pair().engine.using("rl"):
        assert torch.equal(peft(input_ids=ids).logits, pair().engine.model(input_ids=ids).logits)


# ---------------------------------------------------------------- figures and card


@pytest.mark.parametrize(("kind", "n"), [("held_out_numbers", 300), ("held_out_wording", 100)])
def test_the_stored_figures_fit_together(kind, n):
    found = stored("figures.json")[kind]
    base, adapted = found["base"], found["adapted"]
    for side in (base, adapted):
        assert side["problems"] == side["greedy"]["n"] == side["sampled_t1.0"]["n"] == n
        assert side["sampled_t1.0"]["samples"] == 16
        for figure in side.values():
            if isinstance(figure, dict) and "low" in figure:
                assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    for key in ("greedy", "sampled_t1.0"):
        assert found[f"change_{key}"]["value"] == pytest.approx(adapted[key]["value"] - base[key]["value"], abs=2e-4)
    moved = found["change_greedy"]
    assert (moved["won"] - moved["lost"]) / n == pytest.approx(moved["value"], abs=1e-4)


def test_the_adapter_is_better_than_its_base_beyond_chance():
    found = stored("figures.json")["held_out_numbers"]
    for key in ("greedy", "sampled_t1.0"):
        assert found["adapted"][key]["low"] > found["base"][key]["high"]
        assert found[f"change_{key}"]["low"] > 0


def test_the_base_is_measured_as_in_its_own_figures():
    own = json.loads((ASSETS / "mini" / "figures.json").read_text(encoding="utf-8"))
    for kind in ("held_out_numbers", "held_out_wording"):
        ours = stored("figures.json")[kind]["base"]
        assert ours["greedy"] == own[kind]["greedy"]
        assert ours["sampled_t1.0"]["value"] == pytest.approx(own[kind]["sampled_t1.0"]["value"], abs=0.02)


def test_the_card_has_the_stored_figures():
    assert (RL / "README.md").read_text(encoding="utf-8") == rl_card(stored("figures.json"))
