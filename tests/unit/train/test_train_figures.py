"""The base's figures: computed once, kept where there is room, and no pass of the base after scoring."""

import pytest
import torch

from rmx.engine.entropy import capture
from rmx.errors import TrainError
from rmx.train.step import scoring as base_figures
from rmx.train.step.scoring import (
    BaseFigures,
    BaseTokens,
    own_key,
    prompt_key,
    read_base,
    score,
    teacher_forced,
    token_bytes,
)
from rmx.train.step.trainer import Trainer
from tests.helpers.training import QUICK, items_of, made_by, policy_of, rollout, rollouts

D = 4


def block(rows=3, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return BaseTokens(*(torch.randn(*shape, generator=draws) for shape in ((rows, D), (rows,), (rows,))))


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("mean", "offset", "logp"))


def test_memory_then_file_then_nothing(tmp_path, monkeypatch):
    size = 4 * 3 * (D + 2)
    figures = BaseFigures(memory=2 * size, folder=tmp_path)
    for n in range(4):
        figures.put((0, (n,)), block(seed=n))
    assert (figures.nbytes, figures.file_bytes, figures.refused) == (2 * size, 2 * size, 0)
    assert all(same(figures.get((0, (n,))), block(seed=n)) for n in range(4))
    monkeypatch.setattr(base_figures, "SPARE_DISK", 1 << 60)  # more than any disk has
    figures.put((0, (9,)), block())
    assert (figures.refused, figures.get((0, (9,)))) == (1, None)


def test_without_a_folder_what_does_not_fit_is_not_kept():
    figures = BaseFigures(memory=10)
    figures.put((0, (1,)), block())
    assert (figures.refused, figures.nbytes, (0, (1,)) in figures) == (1, 0, False)


def test_the_file_leaves_nothing_behind(tmp_path):
    figures = BaseFigures(memory=0, folder=tmp_path)
    figures.put((0, (1,)), block())
    assert figures.file_bytes > 0
    assert list(tmp_path.iterdir()) == []  # no name: a killed process leaves no file either


def test_a_block_is_stored_once(tmp_path):
    figures = BaseFigures(memory=0, folder=tmp_path)
    figures.put((0, (1,)), block())
    before = figures.file_bytes
    figures.put((0, (1,)), block())
    assert figures.file_bytes == before


def test_beyond_the_limit_nothing_is_written(tmp_path):
    size = 4 * 3 * (D + 2)
    figures = BaseFigures(memory=0, folder=tmp_path, limit=2 * size)
    for n in range(4):
        figures.put((0, (n,)), block(seed=n))
    assert (figures.file_bytes, figures.refused) == (2 * size, 2)
    assert same(figures.get((0, (1,))), block(seed=1))
    assert figures.get((0, (2,))) is None


def test_bf16_takes_half_and_rounds_the_vectors_alone(tmp_path):
    figures, made = BaseFigures(memory=0, folder=tmp_path, dtype=torch.bfloat16), block()
    figures.put((0, (1,)), made)
    found = figures.get((0, (1,)))
    assert figures.file_bytes == 3 * token_bytes(D, "bf16") == 3 * (2 * D + 8)
    assert torch.equal(found.mean, made.mean.bfloat16().float())
    assert torch.equal(found.offset, made.offset)
    assert torch.equal(found.logp, made.logp)


def test_figures_in_bf16_leave_the_kl_of_an_unchanged_policy_at_zero(tiny):
    """Within the rounding of fp32, as exact figures do; with the offsets of the exact ones it would be some 1e-3."""
    made, kls = rollouts(problems=3, k=4), {}
    for dtype in (torch.float32, torch.bfloat16):
        policy, figures = policy_of(tiny, moved=False), BaseFigures(dtype=dtype)
        scored = list(score(policy, made, figures))
        steps, _ = made_by(Trainer(policy, items_of(scored), QUICK.with_(lr=1e-9), figures=figures))
        kls[dtype] = max(abs(step.kl_loss) for step in steps)
    assert kls[torch.bfloat16] < 1e-5
    assert kls[torch.float32] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["nothing", "a part"])
def test_figures_that_are_read_anew_make_the_same_adapter(tiny, tmp_path, kept):
    made, adapters = rollouts(problems=3, k=4), []
    for figures in (BaseFigures(), BaseFigures(0) if kept == "nothing" else BaseFigures(0, tmp_path, limit=4000)):
        policy = policy_of(tiny)
        scored = list(score(policy, made, figures))
        made_by(Trainer(policy, items_of(scored), QUICK, figures=figures))
        adapters.append({name: p.detach().clone() for name, p in policy.trained().items()})
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert figures.refused > 0
    assert (figures.file_bytes > 0) == (kept == "a part")


def test_scoring_for_figures_that_are_not_kept_reads_nothing_for_them(tiny):
    policy = policy_of(tiny)
    list(score(policy, rollouts(problems=3, k=4), BaseFigures(0)))  # they come with their entropies
    assert policy.base_passes == 0


def test_scoring_leaves_no_pass_of_the_base_to_training(tiny):
    made, figures, policy = rollouts(problems=3, k=4), BaseFigures(), policy_of(tiny)
    scored = list(score(policy, made, figures))
    assert policy.base_passes == 3 + 12  # each prompt once, each rollout once
    steps, _ = made_by(Trainer(policy, items_of(scored), QUICK, figures=figures))
    assert policy.base_passes == 15
    assert len(steps) == 6


def test_without_scoring_each_block_is_computed_once_over_all_epochs(tiny):
    policy = policy_of(tiny)
    made_by(Trainer(policy, items_of(rollouts(problems=3, k=4)), QUICK.with_(epochs=3)))
    assert policy.base_passes == 15


def test_where_nothing_can_be_kept_training_takes_the_passes_it_needs(tiny):
    items, recipe = items_of(rollouts(problems=2, k=2)), QUICK.with_(epochs=2)
    starved, plain = policy_of(tiny), None
    steps, _ = made_by(Trainer(starved, items, recipe, figures=BaseFigures(memory=0)))
    assert starved.base_passes == 2 * (4 + 4)  # prompt and rollout of four items, in each of two epochs
    plain, _ = made_by(Trainer(policy_of(tiny), items, recipe))
    assert [s.json() for s in steps] == [s.json() for s in plain]


def test_an_anchor_on_completions_needs_no_figures_of_the_prompt(tiny):
    policy = policy_of(tiny)
    recipe = QUICK.with_(kl_on="completion")
    made_by(Trainer(policy, items_of(rollouts(problems=3, k=4), recipe), recipe))
    assert policy.base_passes == 12


def test_entropies_are_those_of_full_logits(tiny):
    made = [rollout(entropies=None), *rollouts(problems=2, k=1)]
    policy, figures = policy_of(tiny), BaseFigures()
    got = list(score(policy, made, figures))
    assert got[1:] == made[1:]  # what is there stays
    with policy.base():
        logits = policy.logits(torch.tensor([made[0].input_ids]))[0, 2:-1]
    assert got[0].entropies == pytest.approx(capture(logits, 1).entropy.tolist(), abs=1e-5)
    assert teacher_forced(tiny, made[0].input_ids, made[0].prompt_length).tolist() == pytest.approx(
        got[0].entropies, abs=1e-5
    )
    assert list(score(tiny, made))[0].entropies == pytest.approx(got[0].entropies, abs=1e-5)


def test_figures_do_not_depend_on_who_asked_for_them(tiny):
    made, figures, policy = rollouts(problems=2, k=3), BaseFigures(), policy_of(tiny)
    list(score(policy, made, figures))
    for r in made:
        for key in (prompt_key(r), own_key(r)):
            assert same(figures.get(key), read_base(policy, key, entropy=False)[0])


def test_a_rollout_without_completion_cannot_be_scored(tiny):
    with pytest.raises(TrainError, match="no completion"):
        list(score(tiny, [rollout(input_ids=(1, 2, 3), entropies=None)]))
