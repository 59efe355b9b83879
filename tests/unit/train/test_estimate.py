"""The arithmetic of an estimate, with given speeds; and that a probe measures without changing the model."""

import math
import re
from dataclasses import replace

import pytest
import torch

from rmx.data.problem_sets import load_set
from rmx.models.load import load
from rmx.records import Rollout
from rmx.runs.recipe import Recipe
from rmx.train.estimate import (
    FASTER,
    FIGURES_TIME,
    LINE_BYTES,
    LORA_MEMORY,
    LORA_TIME,
    SLOWER,
    Span,
    Work,
    estimate,
    exactly,
    figures_of,
    length_of,
    lines,
    memory_of,
    padded_tokens,
    usual_length,
    work_ahead,
    work_left,
)
from rmx.train.probe import Lengths, Speeds, probe
from rmx.train.step.scoring import MEMORY
from tests.helpers.training_runs import TINY, tiny_run

SPEEDS = Speeds(
    device="cpu", rows=64, decode_step=0.01, read_token=1e-4, train_token=2e-4, weights=4_000_000, kv_token=4096,
    saved_token=30_000, hidden=128, prompt=30.0, lengths=Lengths((40, 60), ()),
)  # fmt: skip
NOTHING = Work(0, exactly(50.0), exactly(0.0), exactly(0.0), 100.0, 0, 0, 0, 0)


def near(span: Span, value: float, low: float | None = None, high: float | None = None) -> None:
    assert span.value == pytest.approx(value)
    if low is not None:
        assert (span.low, span.high) == pytest.approx((low, high))


# ---------------------------------------------------------------- spans


def test_sums_add_their_bounds():
    near(Span(2, 1, 4) + Span(3, 3, 3), 5, 4, 7)


def test_independent_factors_combine_in_logarithms():
    near(Span(10, 5, 20) * exactly(3.0), 30, 15, 60)
    near(Span(10, 5, 20) * Span(1, 0.5, 2), 10, 10 * 2 ** -math.sqrt(2), 10 * 2 ** math.sqrt(2))
    near(exactly(0.0) * Span(1, 0.5, 2), 0, 0, 0)


# ---------------------------------------------------------------- seconds


def changed(**changes) -> Work:
    return Work(**{name: getattr(NOTHING, name) for name in NOTHING.__slots__} | changes)


def test_no_work_takes_no_time_and_costs_nothing(monkeypatch):
    monkeypatch.setenv("RMX_USD_PER_HOUR", "3.6")
    found = estimate(NOTHING, SPEEDS, Recipe())
    near(found.seconds, 0, 0, 0)
    assert found.usd == 0


def test_training_counts_tokens_with_the_lora_on_top():
    found = estimate(changed(trained=exactly(10_000.0)), SPEEDS, Recipe())
    near(found.stages["training"], 2 * LORA_TIME, 2 * LORA_TIME * FASTER, 2 * LORA_TIME * SLOWER)
    near(found.seconds, 2 * LORA_TIME)


def test_rollouts_fill_the_batch():
    found = estimate(changed(completions=640), SPEEDS, Recipe()).stages["rollouts"]
    near(found, 50 * 10.5 * 0.01 + 640 / 4 * 30 * 1e-4)  # ten batches and a half, and the prompts


def test_few_rows_take_no_less_steps_than_one_completion_has():
    one, many = (estimate(changed(completions=n), SPEEDS, Recipe()).stages["rollouts"].value for n in (1, 64))
    assert 50 * 0.01 <= one < many < 2 * one


def test_checks_repeat_and_the_final_one_solves_twice():
    one = estimate(changed(checks=1, validation=64, validation_rollouts=10), SPEEDS, Recipe())
    three = estimate(changed(checks=3, validation=64, validation_rollouts=10), SPEEDS, Recipe())
    near(three.stages["training"], 3 * one.stages["training"].value)
    final = estimate(changed(test=32), SPEEDS, Recipe()).stages["final"]
    near(final, estimate(changed(completions=64), SPEEDS, Recipe()).stages["rollouts"].value)


def test_dollars_and_json(monkeypatch):
    monkeypatch.setenv("RMX_USD_PER_HOUR", "3.6")
    found = estimate(changed(trained=exactly(1e6)), SPEEDS, Recipe())
    seconds = 200 * LORA_TIME
    assert found.usd == pytest.approx(seconds / 1000)
    told = found.json()
    assert (told["seconds"], told["low"], told["high"]) == pytest.approx(
        (seconds, seconds * FASTER, seconds * SLOWER), abs=0.1
    )
    assert told["usd"] == pytest.approx(seconds / 1000, abs=1e-4)
    assert found.plan()["minutes"]["value"] == pytest.approx(seconds / 60, abs=0.01)
    monkeypatch.delenv("RMX_USD_PER_HOUR")
    assert estimate(NOTHING, SPEEDS, Recipe()).json()["usd"] is None


# ---------------------------------------------------------------- memory


def test_memory_is_the_larger_of_decoding_and_training():
    recipe = Recipe().with_(micro_batch=1)
    short = memory_of(changed(longest=10.0), SPEEDS, recipe)
    batch = memory_of(changed(longest=1000.0), SPEEDS, recipe.with_(micro_batch=64))
    assert batch - short > 0.9 * 30_000 * LORA_MEMORY * 1000 * 64 - 1e9 * 0.01
    long = memory_of(changed(longest=1e4), SPEEDS, recipe.with_(max_seq_len=10))
    assert long == pytest.approx(4e6 + 4.5e8 + 64 * 4096 * 1e4)
    capped = memory_of(changed(longest=1e6), SPEEDS, recipe.with_(max_seq_len=10))
    assert capped == pytest.approx(4e6 + 4.5e8 + 4 * 2**30)  # fewer rows are decoded together


def test_recomputing_saves_memory_and_a_gpu_does_not_hold_the_process():
    work = changed(longest=1000.0)
    recipe = Recipe().with_(micro_batch=32)
    assert memory_of(work, SPEEDS, recipe.with_(recompute=True)) < 0.5 * memory_of(work, SPEEDS, recipe)
    on_gpu = Speeds(**{name: getattr(SPEEDS, name) for name in SPEEDS.__slots__} | {"device": "NVIDIA H100 PCIe"})
    assert memory_of(work, SPEEDS, recipe) - memory_of(work, on_gpu, recipe) == pytest.approx(4.5e8)
    packed = replace(SPEEDS, packed=10**9)
    assert memory_of(work, packed, recipe) - memory_of(work, SPEEDS, recipe) == pytest.approx(1e9)


# ---------------------------------------------------------------- disk


def test_the_base_figures_are_announced_and_bounded():
    wide = replace(SPEEDS, hidden=1536)
    work = changed(read=exactly(1e6), trained=exactly(1e6))
    token = 4 * (1536 + 2)  # 6 KB
    assert figures_of(work, wide, Recipe()) == (token, pytest.approx(token * 1e6 - MEMORY), 0.0)
    half = figures_of(work, wide, Recipe().with_(base_figures="bf16"))
    assert half == (2 * 1536 + 8, pytest.approx((2 * 1536 + 8) * 1e6 - MEMORY), 0.0)
    each, filed, left_out = figures_of(work, wide, Recipe().with_(base_disk_gb=1))
    assert (each, filed) == (token, 1e9)
    assert left_out == pytest.approx((token * 1e6 - MEMORY - 1e9) / (token * 1e6))
    assert figures_of(work, wide, Recipe().with_(base_figures="recompute")) == (0, 0.0, 1.0)


def test_what_is_not_kept_is_paid_in_time():
    work = changed(read=exactly(1e4), trained=exactly(1e4))
    kept, anew = (estimate(work, SPEEDS, Recipe().with_(base_figures=how)) for how in ("fp32", "recompute"))
    more = anew.stages["training"].value - kept.stages["training"].value
    assert more == pytest.approx(1e4 * SPEEDS.read_token * FIGURES_TIME)
    assert kept.disk - kept.figures == anew.disk


def test_rollouts_and_checkpoints_take_disk():
    bare, sampled = (estimate(changed(completions=n), SPEEDS, Recipe()).disk for n in (0, 100))
    assert sampled - bare == pytest.approx(LINE_BYTES * 100 * (50 + 15))
    few, many = (estimate(changed(checks=n), SPEEDS, Recipe()).disk for n in (2, 5))
    assert many == pytest.approx(few * (4 + 3) / (1 + 3))


def test_an_estimate_in_words(monkeypatch):
    monkeypatch.setenv("RMX_USD_PER_HOUR", "3.6")
    work = changed(read=exactly(1e6), trained=exactly(1e6), completions=10)
    made = estimate(work, replace(SPEEDS, hidden=1536), Recipe().with_(base_disk_gb=1))
    text = "\n".join(lines(made.json() | {"basis": "another run on this set"}))
    for said in (
        r"time       about [\d.]+ min, [\d.]+ min to [\d.]+ min, judged by another run on this set",
        r"rollouts [\d.]+ s, scoring [\d.]+ min, training and checks [\d.]+ min$",
        r"memory     about [\d.]+ [MG]B",
        r"disk       about [\d.]+ GB; 1.0 GB of it for the base's figures, 6,152 bytes a token, where 75 % find",
        r"cost       about \$[\d.]+, \$[\d.]+ to \$[\d.]+\.",
    ):
        assert re.search(said, text, re.MULTILINE), (said, text)


def test_lengths_that_another_run_has_measured_are_used(tmp_path):
    def made(name, tokens, **recipe):
        folder = tiny_run(tmp_path, name, recipe=TINY.with_(**recipe))
        with folder.lock():
            folder.event("rollouts", {"rollouts": 50, "tokens": tokens})
        return folder

    made("alike", 5000)
    made("hotter", 9000, temperature=1.5)
    new = tiny_run(tmp_path, "new")
    assert usual_length(new.path, new.config) == Span(100.0, pytest.approx(85.0), pytest.approx(120.0))
    assert usual_length(new.path, new.config | {"set": "gsm8k"}) is None
    ahead = work_ahead(TINY, SPEEDS, 8, 6, 6, length=exactly(100.0))
    near(ahead.length, 100.0, 100.0, 100.0)


# ---------------------------------------------------------------- lengths


def test_finished_completions_give_their_mean_with_two_standard_errors():
    near(length_of(Lengths((40, 60, 40, 60), ()), 256), 50, 40, 60)


def test_unfinished_completions_make_it_longer_and_wider():
    found = length_of(Lengths((10,) * 4, (30,) * 4), 256)
    near(found, 40)  # 160 tokens for 4 ends
    assert found.low == 20  # no less than what was seen on average
    assert found.high == pytest.approx((40 + 2 * 40 / 2) * 1.5)


def test_no_end_in_sight_leaves_everything_open():
    near(length_of(Lengths((), (5, 5)), 100), 20, 5, 100)
    near(length_of(Lengths((), (5, 5)), 8), 8, 5, 8)
    near(length_of(Lengths((300, 300), ()), 100), 100, 100, 100)


def test_one_completion_says_little():
    near(length_of(Lengths((50,), ()), 120), 50, 0, 120)


# ---------------------------------------------------------------- what there is to do


def test_work_ahead_of_the_paper():
    recipe = Recipe()
    work = work_ahead(recipe, SPEEDS, problems=150, validation=60, test=200)
    assert work.completions == 150 * 20 + 60 * 4
    near(work.trained, 50 * 20 * 0.8 * 80)
    assert work.trained.low == pytest.approx(50 * 20 * 0.8 * 80 * (1 - 0.2 * 50 / 80), rel=0.1)
    assert work.checks == 1 + 7  # the base, six times 0.15 epochs, and the end
    assert (work.validation, work.validation_rollouts, work.test) == (60, 240, 200)


def test_max_steps_and_epochs_count():
    recipe = Recipe().with_(epochs=2, max_steps=50)  # of 200
    near(work_ahead(recipe, SPEEDS, 150, 60, 0).trained, 0.25 * 2 * 800 * 80)


def test_few_problems_are_the_limit_and_no_validation_means_no_checks():
    work = work_ahead(Recipe(), SPEEDS, problems=10, validation=0, test=0)
    near(work.trained, 10 * 20 * 0.8 * 80)
    assert (work.checks, work.validation_rollouts, work.completions) == (0, 0, 200)


def rollout(problem: str, gen: int, prompt: int, completion: int) -> Rollout:
    return Rollout(problem, gen, (1,) * (prompt + completion), prompt, True)


def test_work_left_knows_the_lengths():
    rollouts = [rollout("a", 0, 10, 20), rollout("a", 1, 10, 40), rollout("b", 0, 5, 30)]
    recipe = Recipe().with_(micro_batch=1, epochs=2, max_seq_len=40, checkpoint_every=1)
    work = work_left(recipe, rollouts, validation=3, validation_rollouts=6, test=0)
    near(work.read, 30 + 40 + 35 + 15)  # cut ones as they are cut, and both prompts by themselves
    near(work.trained, 2 * (30 + 40 + 35))  # one is cut
    assert (work.completions, work.longest, work.checks) == (0, 40, 3)
    near(work.length, 30)


def test_padding_counts():
    optim = Recipe().with_(micro_batch=2, order="file").optim
    assert padded_tokens([10, 20, 30, 5, 7], optim, 0) == 2 * 20 + 2 * 30 + 7
    assert padded_tokens([], optim, 0) == 0


# ---------------------------------------------------------------- the probe


def test_probe_measures_and_leaves_the_model_alone():
    model = load("mini", device="cpu")
    ids = torch.tensor([model.prompt_ids("How many?")])
    before = model.engine.model(ids).logits.clone()
    found = probe(model, load_set("mini:train"), temperature=1.0, micro_batch=2, seconds=0.4)
    assert torch.equal(model.engine.model(ids).logits, before)
    assert all(w.grad is None and not w.requires_grad for w in model.engine.model.parameters())
    assert not model.engine.adapters
    assert (found.device, found.rows, found.hidden) == ("cpu", 64, 128)
    assert found.kv_token == 2 * 4 * 128 * 4  # keys and values of four layers, 128 wide, fp32
    assert found.weights == sum(w.nbytes for w in model.engine.model.parameters())
    assert min(found.decode_step, found.read_token, found.train_token) > 0
    assert 30 < found.prompt < 45
    assert len(found.lengths.ended) + len(found.lengths.cut) in (8, 64)
    assert 10_000 < found.saved_token < 100_000


def test_probe_with_an_adapter_on_the_model_measures_the_base(rl):
    model = rl.base
    before = model.engine.model.active_adapter
    found = probe(model, load_set("mini:train"), temperature=1.0, micro_batch=1, seconds=0.2)
    assert found.saved_token > 0
    assert model.engine.model.active_adapter == before
