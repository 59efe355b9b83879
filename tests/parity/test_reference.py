"""Every figure that the official trainer logged, for every micro-batch of every recorded run."""

import math
from functools import cache

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rmx.models.load import load
from rmx.train.step.trainer import MicroStep
from tests.parity.reference import DATA, RUNS, expected, trainer_of

RELATIVE = 1e-4  # of losses, times max(1, |x|)
ABSOLUTE = 2e-5  # of KL and of differences of log-probabilities
COUNTS = ("decision_tokens", "pos_decision_tokens", "neg_decision_tokens", "nondecision_tokens", "valid_tokens")


@cache
def trained(run: str, whole: bool) -> tuple[list[MicroStep], dict[str, torch.Tensor]]:
    """The micro-steps of our run, and the adapter after it; `whole` takes the general path, by full logits."""
    torch.set_num_threads(1)
    trainer = trainer_of(load(str(DATA / "model"), "cpu", "float32"), run)
    assert trainer.policy.head is not None
    if whole:
        trainer.policy.head = None
    steps = [made for made in trainer.run() if isinstance(made, MicroStep)]
    return steps, {name: p.detach().clone() for name, p in trainer.params.items()}


def test_all_recorded_runs_are_here():
    assert len(RUNS) == 10


SLOW_TWICE = ("fullseq", "positive_only", "correct_sft")  # 84 micro-batches each, and alike to `adv_ce`
WHOLE = [
    pytest.param(run, True, marks=() if run == "adv_ce" else pytest.mark.long) for run in RUNS if run not in SLOW_TWICE
]


@pytest.mark.parametrize(("run", "whole"), [*((run, False) for run in RUNS), *WHOLE])
def test_every_micro_batch(run, whole):
    wanted = expected(run)["steps"]
    steps, _ = trained(run, whole)
    assert len(steps) == len(wanted)
    for step, line in zip(steps, wanted, strict=True):
        got = step.json()
        assert (got["step"], got["optimizer_step"]) == (line["global_step"], line["optimizer_step"])
        assert {name: got[name] for name in COUNTS} == {name: line[name] for name in COUNTS}
        for name in ("loss", "decision_loss", "ce_pos_mean", "ce_neg_mean", "neg_pos_pressure_ratio"):
            assert got[name] == pytest.approx(line[name], abs=RELATIVE * max(1, abs(line[name]))), (step.step, name)
        for name in ("kl_loss", "delta_logp_pos_mean", "delta_logp_neg_mean"):
            assert got[name] == pytest.approx(line[name], abs=ABSOLUTE), (step.step, name)
        assert got["lr"] == pytest.approx(line["lr"], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("run", [run for run in RUNS if "epoch" in expected(run)])
def test_epoch_totals(run):
    wanted, (steps, _) = expected(run)["epoch"], trained(run, False)
    total = {name: math.fsum(getattr(s, name) for s in steps) for name in MicroStep.__slots__}
    assert len(steps) == wanted["num_batches"]
    assert steps[-1].optimizer_step == wanted["optimizer_steps"]
    for name in COUNTS:
        assert total[name] == wanted[f"total_{name}"]
    assert total["loss"] / len(steps) == pytest.approx(wanted["avg_loss"], abs=RELATIVE)
    assert total["decision_loss"] / len(steps) == pytest.approx(wanted["avg_decision_loss"], abs=RELATIVE)
    assert total["kl_loss"] / len(steps) == pytest.approx(wanted["avg_kl_loss"], abs=ABSOLUTE)
    for sign in ("pos", "neg"):
        assert total[f"{sign}_pressure"] == pytest.approx(wanted[f"{sign}_pressure_sum"], rel=RELATIVE)
        count = total[f"{sign}_decision_tokens"]
        for name, tolerance in (("ce", RELATIVE), ("delta_logp", ABSOLUTE)):
            weighted = [getattr(s, f"{name}_{sign}_mean") * getattr(s, f"{sign}_decision_tokens") for s in steps]
            assert sum(weighted) / (count or 1) == pytest.approx(wanted[f"{name}_{sign}_mean"], abs=tolerance)


@pytest.mark.parametrize("whole", [False, True], ids=["chunked head", "full logits"])
def test_the_adapter_after_the_run(whole):
    _, params = trained("adv_ce", whole)
    wanted = load_file(DATA / "final_adapter_adv_ce" / "adapter_model.safetensors")
    start = load_file(DATA / "init_adapter" / "adapter_model.safetensors")
    got = {name.replace(".policy.", "."): value for name, value in params.items()}
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        moved = float((value - start[name]).abs().max())
        assert moved > 1e-3, name  # the run did something to this tensor
        assert float((got[name] - value).abs().max()) < 1e-5, name


def test_plain_peft_loads_the_saved_adapter(tmp_path):
    trainer = trainer_of(load(str(DATA / "model"), "cpu", "float32"), "adv_ce_bs4")
    trainer.policy.save_adapter(tmp_path / "adapter")
    ids = torch.tensor([trainer.items[0].rollout.input_ids])
    with torch.no_grad(), trainer.policy.model.engine.using("policy"):
        ours = trainer.policy.logits(ids)
        base = AutoModelForCausalLM.from_pretrained(DATA / "model", dtype=torch.float32)
        plain = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert plain.peft_config["default"].base_model_name_or_path == str(DATA / "model")
        assert float((plain(ids).logits - ours).abs().max()) < 1e-5
