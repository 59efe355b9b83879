"""REINFORCE on any base: its gradient, its continuation, and what a run leaves."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from rmx.data.problem_sets import load_set
from rmx.errors import TrainError
from rmx.models.adapters import add_adapter
from rmx.models.load import load
from rmx.records import Rollout
from rmx.train import reinforce as module
from rmx.train.reinforce import ReinforceConfig, Reinforcer, common_beginning, reinforce, sampled_logp, schedule, ship
from rmx.train.step.lora_policy import NAME

TINY = ReinforceConfig(
    iterations=3, problems=6, rollouts=6, temperature=1.0, max_new_tokens=120, lr=2e-3, warmup=1, rank=4, alpha=8,
    validate_every=2, validation=8,
)  # fmt: skip


def fresh(config=TINY):
    return Reinforcer(load("mini", device="cpu"), load_set("mini:train"), config)


def rollout(prompt, completion):
    return Rollout("p", 0, (*prompt, *completion), len(prompt), True, None, "eos", None)


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [([(1, 2, 3, 4), (1, 2, 5)], (1, 2)), ([(1, 2), (1, 2)], (1,)), ([(3,), (3,)], ()), ([(7, 1), (8, 1)], ())],
)
def test_the_common_beginning_leaves_a_token_of_each_prompt(prompts, shared):
    assert common_beginning(prompts) == shared


def test_the_rate_rises_and_falls():
    assert [schedule(i, 100, 5) for i in (0, 4, 5)] == [0.2, 1, 1]
    assert schedule(99, 100, 5) == pytest.approx(1 / 95)


@pytest.mark.parametrize("shared", [(), (40, 41), (40, 41, 42)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_values_and_gradients_behind_a_shared_beginning_are_those_of_whole_passes(shared, temperature):
    trainer = fresh()
    for p in trainer.weights:  # B begins as zeros, where A would have no gradient
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    rollouts = [rollout((40, 41, 42, 50, 51), (60, 61, 62, 1)), rollout((40, 41, 42, 52), (63, 1))]
    pull = torch.tensor([1.5, -0.5])
    with trainer.policy.learning():
        logp, mask = sampled_logp(trainer.policy.causal, shared, rollouts, temperature)
        assert mask.sum(1).tolist() == [4, 2]
        (pull[:, None] * logp).sum().backward()
        ours = [p.grad.clone() for p in trainer.weights]
        trainer.optimizer.zero_grad()
        for r, weight, got in zip(rollouts, pull, [logp[0][mask[0]], logp[1][mask[1]]], strict=True):
            ids = torch.tensor([r.input_ids])
            scaled = trainer.policy.logits(ids)[0, r.prompt_length - 1 : -1] / temperature
            wanted = -F.cross_entropy(scaled, ids[0, r.prompt_length :], reduction="none")
            assert torch.allclose(got, wanted, atol=1e-4)
            (weight * wanted.sum()).backward()
    for mine, p in zip(ours, trainer.weights, strict=True):
        assert torch.allclose(mine, p.grad, atol=1e-3, rtol=1e-3)


def test_rollouts_that_all_fare_alike_change_nothing():
    trainer = fresh()
    before = [p.clone() for p in trainer.weights]
    assert trainer._update([rollout((5, 6), (7,))], torch.zeros(1), 1.0) == (0.0, 0.0)
    assert all(torch.equal(x, y) for x, y in zip(before, trainer.weights, strict=True))


def test_what_all_prompts_begin_with_is_read_anew_after_an_update():
    trainer, head = fresh(replace(TINY, lr=5e-3)), tuple(range(40, 60))
    engine = trainer.model.engine
    engine.prefixes.add_head(head)

    def logits(**how):
        with engine.using(NAME):
            return engine.open([*head, 61], adapter=NAME, reuse=False, **how).logits

    before = logits()
    assert torch.equal(before, logits())
    trainer._update([rollout((40, 41, 42), (60, 61))], torch.ones(1), 5e-3)
    assert torch.allclose(logits(), logits(cold=True), atol=1e-4)
    assert not torch.allclose(logits(), before, atol=1e-3)


@pytest.mark.slow
def test_an_update_makes_the_right_rollouts_likelier_than_the_wrong_ones():
    trainer = fresh(replace(TINY, lr=5e-3))
    right, wrong = rollout((40, 41, 42), (60, 61)), rollout((40, 41, 42), (62, 63))

    def lead():
        with torch.no_grad(), trainer.policy.learning():
            logp = sampled_logp(trainer.policy.causal, (), [right, wrong], 1.0)[0].sum(1)
            return (logp[0] - logp[1]).item()

    before = lead()
    for _ in range(8):
        trainer._update([right, wrong], torch.tensor([1.0, -1.0]), 5e-3)
    assert lead() > before + 0.5


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    lines = {"whole": [], "cut": []}
    reinforce(load("mini", device="cpu"), "mini", TINY, tmp_path / "whole", lines["whole"].append)
    steps = Reinforcer.run

    def two_steps(self):
        for step in steps(self):
            yield step
            if step.iteration == 2:
                return

    with monkeypatch.context() as patch:
        patch.setattr(module.Reinforcer, "run", two_steps)
        reinforce(load("mini", device="cpu"), "mini", TINY, tmp_path / "cut", lines["cut"].append)
    reinforce(load("mini", device="cpu"), "mini", TINY, tmp_path / "cut", lines["cut"].append)

    def told(name):
        found = [json.loads(line) for line in lines[name]]
        assert found == [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds"} for line in found if line["kind"] != "resumed"]

    assert told("cut") == told("whole")
    assert [line["iteration"] for line in told("whole") if line["kind"] == "validation"] == [0, 2, 3]
    assert any(line["mixed"] for line in told("whole") if line["kind"] == "step")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        one, two = (tmp_path / name / "adapter" / file for name in ("whole", "cut"))
        assert one.read_bytes() == two.read_bytes()
    model = load("mini", device="cpu")
    assert add_adapter(model, str(tmp_path / "whole" / "adapter"))
    with pytest.raises(TrainError, match="another run"):
        reinforce(model, "mini", replace(TINY, lr=1e-3), tmp_path / "cut", lines["cut"].append)


# ---- shipping


SHARE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100}


def finished(folder):
    """A run's folder with a log of two checks and a step that a resumption repeated."""
    (folder / "adapter").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / "adapter" / name).write_bytes(b"{}")
    config = {"kind": "config", "model": "mini", "revision": "sha256:1", "set": "mini"} | asdict(TINY)
    lines = [config, {"kind": "validation", "iteration": 0} | SHARE]
    lines += [{"kind": "step", "iteration": 1, "seconds": 60.0}, {"kind": "step", "iteration": 1, "seconds": 120.0}]
    lines.append({"kind": "validation", "iteration": 1} | SHARE | {"value": 0.55})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_card_says_what_was_measured_and_by_which_command(tmp_path):
    ship(finished(tmp_path / "run"), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "log.jsonl", "training.json",
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no KL term: 1 of 3 iterations" in card
    assert "2 minutes of one core" in card
    assert "| 0 (the base) | 50.0 % [40.0, 60.0] |\n| 1 (this adapter) | 55.0 % [40.0, 60.0] |\n" in card
    assert "The test split has not been opened." in card
    assert "--model mini --set mini --iterations 3 --seed 1 --problems 6 --temperature 1.0" in card
    kept = json.loads((tmp_path / "out" / "training.json").read_text())
    assert kept == {"base": "sha256:1", "set": "mini", "config": asdict(TINY)}


def test_a_card_has_the_test_figures_of_its_own_adapter_alone(tmp_path):
    run, test = finished(tmp_path / "run"), tmp_path / "test.json"
    models = [{"name": name, "greedy": SHARE | {"value": value}} for name, value in (("base", 0.5), ("x", 0.7))]
    change = {"value": 0.2, "low": 0.1, "high": 0.3, "won": 25, "lost": 5, "p": 0.001}
    paired = {"name": "x", "against": "base", "greedy": change}
    test.write_text(json.dumps({"set": "mini:test", "problems": 100, "models": models, "paired": [paired]}))
    with pytest.raises(TrainError, match="no figures of"):
        ship(run, tmp_path / "out", test)
    test.write_text(test.read_text().replace('"x"', json.dumps(str(run / "adapter"))))
    ship(run, tmp_path / "out", test)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "On 100 problems of `mini:test`" in card
    assert "base 50.0 % [40.0, 60.0], adapter 70.0 % [40.0, 60.0]" in card
    assert "+20.0 points [+10.0, +30.0] (won 25, lost 5, exact p = 0.001)" in card
