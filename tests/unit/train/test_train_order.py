"""In which order items are trained on, how they fall into windows, and the learning rate of each update."""

import pytest

from rmx.runs.recipe import OptimConfig
from rmx.train.step.items import in_order, lr_at, total_updates, window
from tests.helpers.training import items_of, rollout, rollouts


def names(items):
    return [f"{i.rollout.problem_id}/{i.rollout.gen_index}" for i in items]


def ordered(*made):
    return names(in_order(items_of(list(made), tau=None), "clarity", 0, 0))


def test_clarity_is_advantage_times_share_of_decisions():
    made = [
        rollout("a", decision_positions=(2,), advantage=1.0),  # 1 * 1 / 5
        rollout("b", decision_positions=(2, 3), advantage=-1.0),  # 1 * 2 / 5
        rollout("c", decision_positions=(2,), advantage=1.9),
        rollout("d", decision_positions=(2, 3, 4), advantage=0.0),
    ]
    assert ordered(*made) == ["b/0", "c/0", "a/0", "d/0"]


def test_ties_go_by_advantage_then_decisions_then_name_as_text_then_sample():
    zero = {"decision_positions": (), "advantage": 0.5}
    assert ordered(rollout("a", **zero), rollout("b", **zero | {"advantage": -0.9})) == ["b/0", "a/0"]
    nothing = {"advantage": 0.0}
    assert ordered(
        rollout("a", decision_positions=(2,), **nothing), rollout("b", decision_positions=(2, 3), **nothing)
    ) == ["b/0", "a/0"]
    assert ordered(rollout("p2", 0, **zero), rollout("p10", 1, **zero), rollout("p10", 0, **zero)) == [
        "p10/0",
        "p10/1",
        "p2/0",
    ]


def test_clarity_goes_by_the_advantage_before_clipping():
    wild = rollout("b", decision_positions=(2,), advantage=9.0)
    assert ordered(rollout("a", decision_positions=(2,), advantage=3.0), wild) == ["b/0", "a/0"]


def test_shuffles_differ_by_epoch_and_repeat():
    items = items_of(rollouts(problems=6))
    first, second = (names(in_order(items, "shuffle", 3, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(names(items))
    assert first != second
    assert first == names(in_order(items, "shuffle", 3, 0))
    assert first != names(in_order(items, "shuffle", 4, 0))
    assert names(in_order(items, "file", 3, 1)) == names(items)


def test_windows_never_span_epochs():
    items = items_of(rollouts(problems=7, k=1))
    optim = OptimConfig(micro_batch=2, grad_accum=3, epochs=2, order="file")
    assert total_updates(7, optim) == 4
    windows = [window(items, optim, 0, n) for n in range(4)]
    assert [[len(batch) for batch in w.batches] for w in windows] == [[2, 2, 2], [1], [2, 2, 2], [1]]
    assert [(w.epoch, w.first_step) for w in windows] == [(0, 0), (0, 3), (1, 4), (1, 7)]


def test_rates_rise_from_zero_and_fall_to_zero():
    optim = OptimConfig(lr=1.0, warmup_steps=2)
    assert [lr_at(n, 6, optim) for n in range(7)] == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25, 0])


def test_the_warm_up_leaves_room_for_one_update():
    optim = OptimConfig(lr=1.0, warmup_steps=50)
    assert [lr_at(n, 3, optim) for n in range(4)] == pytest.approx([0, 0.5, 1, 0])
    assert lr_at(0, 1, optim) == 1.0  # one update alone is not made for nothing
    assert lr_at(0, 4, OptimConfig(lr=1.0, warmup_steps=0)) == 1.0
