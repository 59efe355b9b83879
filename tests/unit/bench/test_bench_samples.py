"""`rmx bench outcomes`, `rmx bench rollouts`: both sides make the same number of tokens; the figures are all there."""

import json

import pytest
import torch

from rmx.bench.decoding import PROBLEMS, bench_outcomes, rollouts_ours, rollouts_theirs, sample_ours, sample_theirs
from rmx.bench.timing import in_turn
from rmx.cli.main import main
from tests.conftest import qwen, wrap

RATIO = {"value", "low", "high", "n"}


def document(capsys, *argv):
    assert main(["bench", *argv, "--model", "mini", "--device", "cpu", "--json"]) in (0, None)
    return json.loads(capsys.readouterr().out)


def test_both_sides_make_what_the_script_says(mini):
    prompts = [mini.prompt_ids(problem) for problem in PROBLEMS[:3]]
    lengths = [[1, 5], [4, 2], [3, 3]]
    for side in (rollouts_ours, rollouts_theirs):
        assert [[len(sample) for sample in row] for row in side(mini, prompts, lengths)] == lengths


def test_the_sides_take_turns():
    order = []
    found = in_turn([lambda: order.append("a"), lambda: order.append("b"), lambda: order.append("c")], 2, cuda=False)
    assert "".join(order) == "abccba"
    assert [len(times) for times in found] == [2, 2, 2]


@pytest.mark.slow
def test_every_figure_is_there(capsys):
    got = document(capsys, "rollouts", "--rounds", "1")
    assert got["rows"] == 64
    assert got["useful_tokens"] < 64 * got["longest"] <= 64 * 64
    assert len(set(got["prompt_tokens"])) > 3  # a batch of equal lengths would not be the point
    for name in ("generate / rmx_rollouts", "generate / no_dropping"):
        assert got[name]["n"] == 1
        assert got[name]["value"] > 0
    assert set(got["seconds"]) == {"generate", "no_dropping", "rmx"}


@pytest.mark.slow
def test_bench_outcomes_gives_every_figure(capsys):
    got = document(capsys, "outcomes", "--rounds", "1")
    assert set(got["generate / rmx_samples"]) == RATIO
    assert got["samples"] == 64
    assert got["longest"] <= 64
    assert 64 * 8 <= got["useful_tokens"] <= 64 * got["longest"]
    assert set(got["ms"]) == {"generate", "rmx"}


@pytest.mark.parametrize("sample", [sample_ours, sample_theirs])
def test_each_sample_gets_its_length_and_end_tokens_do_not_count(tiny, sample):
    network = tiny.engine.model
    network.generation_config.eos_token_id = list(range(258))
    lengths = [3, 1, 9, 5]
    rows = sample(tiny, tiny.prompt_ids("why"), lengths)
    assert [len(row) for row in rows] == lengths
    assert network.generation_config.eos_token_id == list(range(258))


@pytest.mark.parametrize("sample", [sample_ours, sample_theirs])
def test_both_sides_sample_the_model_s_own_distribution(tiny, sample):
    torch.manual_seed(0)
    prompt, n = tiny.prompt_ids("why"), 600
    p = tiny.engine.open(prompt, reuse=False).logits.softmax(-1)
    counts = torch.bincount(torch.tensor([row[0] for row in sample(tiny, prompt, [1] * n)]), minlength=len(p))
    assert 0.02 < p.max() < 0.98
    assert (counts / n - p).abs().max() < 0.06  # three standard errors of a share of a half


def test_samples_differ_and_come_again():
    model = wrap(qwen())
    prompt = model.prompt_ids("why")
    rows = sample_ours(model, prompt, [12] * 8)
    assert len({tuple(row) for row in rows}) > 4
    assert sample_ours(model, prompt, [12] * 8) == rows


def test_outcomes_of_a_few_samples(tiny):
    got = bench_outcomes(tiny, rounds=2, samples=5, longest=10)
    assert got["generate / rmx_samples"]["n"] == 2
    assert got["samples"] == 5
    assert 40 <= got["useful_tokens"] <= 50
