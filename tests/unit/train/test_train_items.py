"""Which tokens of a rollout are decisions, what is cut off, and how hard a rollout pulls."""

import pytest

from rmx.errors import TrainError
from rmx.runs.recipe import GateConfig, LossConfig
from rmx.train.step.items import cut, make_items, pull_of
from tests.helpers.training import rollout, rollouts


def decisions(made, gate=None, tau=None, max_seq_len=64, seed=0):
    return make_items([made], gate or GateConfig(), tau, LossConfig(), max_seq_len, seed)[0].decisions


def test_entropy_i_belongs_to_the_position_before_token_i():
    assert decisions(rollout(), tau=1.0) == (3, 5)  # prompt_length - 1 + i for i = 1, 3


def test_equality_stays_outside_the_gate():
    assert decisions(rollout(), tau=1.5) == (5,)


def test_the_files_positions_win():
    assert decisions(rollout(decision_positions=(2, 4)), tau=1.0) == (2, 4)


@pytest.mark.parametrize("gate", [GateConfig(tau=1.0), GateConfig(tau_share=0.4)])
def test_a_named_threshold_wins_over_the_file(gate):
    assert decisions(rollout(decision_positions=(2, 4)), gate, tau=1.0) == (3, 5)


def test_the_full_gate_takes_every_completion_token():
    assert decisions(rollout(decision_positions=(2,)), GateConfig(gate="full")) == (2, 3, 4, 5, 6)


def test_order_and_gate_count_apart():
    item = make_items([rollout(decision_positions=(2,))], GateConfig(gate="full"), None, LossConfig(), 64, 0)[0]
    assert (item.forks, len(item.decisions)) == (1, 5)


def test_the_random_gate_is_as_large_as_the_entropy_gate():
    made = rollouts(problems=10, k=4)
    by_entropy = make_items(made, GateConfig(), 1.0, LossConfig(), 64, 0)
    by_chance = make_items(made, GateConfig(gate="random"), 1.0, LossConfig(), 64, 0)
    assert [len(i.decisions) for i in by_chance] == [len(i.decisions) for i in by_entropy]
    assert [i.decisions for i in by_chance] != [i.decisions for i in by_entropy]
    for item in by_chance:
        assert list(item.decisions) == sorted(set(item.decisions))
        assert all(item.first <= p < item.positions for p in item.decisions)


def test_random_draws_depend_on_seed_and_rollout_alone():
    gate, made = GateConfig(gate="random"), rollouts(problems=3, k=3)
    first = make_items(made, gate, 1.0, LossConfig(), 64, 7)
    again = make_items(made[::-1], gate, 1.0, LossConfig(), 64, 7)[::-1]
    other = make_items(made, gate, 1.0, LossConfig(), 64, 8)
    assert [i.decisions for i in first] == [i.decisions for i in again]
    assert [i.decisions for i in first] != [i.decisions for i in other]


def test_what_is_cut_off_takes_its_figures_along():
    short = cut(rollout(decision_positions=(3, 4, 5)), 6)
    assert short.input_ids == (5, 6, 7, 10, 11, 12)
    assert short.entropies == (0.5, 1.5, 0.1)
    assert short.decision_positions == (3, 4)  # position 5 would predict the token that is gone
    assert short.completion_length == 3


def test_a_cut_may_leave_nothing_but_prompt():
    short = cut(rollout(), 2)
    assert (short.input_ids, short.prompt_length, short.entropies) == ((5, 6), 2, ())
    assert decisions(rollout(), tau=1.0, max_seq_len=2) == ()


@pytest.mark.parametrize(
    ("advantage", "loss", "pull"),
    [
        (3.0, LossConfig(), 2.5),
        (-3.0, LossConfig(), -2.5),
        (3.0, LossConfig(adv_clip=0), 3.0),
        (-3.0, LossConfig(adv_clip=-1), -3.0),
        (-1.0, LossConfig(positive_only=True), 0.0),
        (-1.0, LossConfig(objective="correct_sft"), 0.0),
        (1.0, LossConfig(objective="correct_sft"), 1.0),
        (0.0, LossConfig(), 0.0),
    ],
)
def test_pull(advantage, loss, pull):
    assert pull_of(advantage, loss) == pull


def test_problems_weigh_the_same_however_many_rollouts_they_have():
    made = [rollout("a", 0), rollout("a", 1), rollout("a", 2), rollout("b", 0)]
    items = make_items(made, GateConfig(), 1.0, LossConfig(weigh_problems=True), 64, 0)
    assert [i.weight for i in items] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])


@pytest.mark.parametrize(
    ("changes", "tau", "words"),
    [
        ({"advantage": None}, 1.0, "has no advantage"),
        ({"entropies": None}, 1.0, "has no entropies"),
        ({}, None, "--tau"),
    ],
)
def test_what_cannot_be_trained_on_is_said(changes, tau, words):
    with pytest.raises(TrainError, match=words):
        decisions(rollout(**changes), tau=tau)
