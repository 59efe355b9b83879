"""What a threshold would gate: exact counts at every level, and the rollouts that are shown."""

import json

import pytest

from rmx.errors import TrainError
from rmx.records import Rollout
from rmx.train.data_stages import LEVELS, counts_above, dry_message, shown


def rollout(problem: str, gen: int, advantage: float | None, entropies, correct=None, ids=None, prompt=2) -> Rollout:
    ids = tuple(ids or range(65, 65 + len(entropies)))
    right = advantage is not None and advantage > 0 if correct is None else correct
    return Rollout(problem, gen, (1,) * prompt + ids, prompt, right, None, "eos", tuple(entropies), advantage)


def message(model, rollouts, **changes):
    options = {"run": "r1", "tau": 1.0, "k": 2, "max_seq_len": 99, "selection": {"kept": 1}, "estimate": None}
    return dry_message(model, rollouts, **(options | changes))


def test_levels_run_from_0_to_4_in_steps_of_a_twentieth():
    assert len(LEVELS) == 81
    assert LEVELS[:2] + LEVELS[-1:] == (0.0, 0.05, 4.0)
    assert LEVELS[28] == 1.4


def test_counts_are_strict_at_the_level_itself():
    counts = counts_above([[0.0, 1.0, 1.0000001], [1.4, 5.0]])
    assert counts[0] == 4  # 0 itself does not exceed 0
    assert counts[LEVELS.index(1.0)] == 3
    assert counts[LEVELS.index(1.4)] == 1
    assert counts[-1] == 1


def test_counts_equal_the_plain_count_at_every_level():
    entropies = [[(7 * i + j) % 83 * 0.05 for i in range(50)] for j in range(3)]
    plain = [sum(h > level for row in entropies for h in row) for level in LEVELS]
    assert counts_above(entropies) == plain


def test_no_entropies_count_nothing():
    assert counts_above([]) == [0] * 81


def test_right_wrong_and_zero_are_apart(tiny):
    rollouts = [
        rollout("a", 0, 1.5, [0.1, 2.0, 3.0]),
        rollout("a", 1, -0.5, [2.0]),
        rollout("b", 0, 0.0, [2.0, 2.5], correct=True),
    ]
    told = message(tiny, rollouts)
    at = LEVELS.index(1.0)
    assert (told["gated_right"][at], told["gated_wrong"][at], told["gated_zero"][at]) == (2, 1, 2)
    assert (told["gated_right"][0], told["tokens"], told["of_rollouts"]) == (3, 6, 3)
    assert (told["kind"], told["run"], told["tau"], told["k"], told["selection"]) == ("dry", "r1", 1.0, 2, {"kept": 1})
    json.dumps(told)


def test_tokens_beyond_the_cut_count_nowhere(tiny):
    told = message(tiny, [rollout("a", 0, 1.0, [2.0, 2.0, 2.0])], max_seq_len=4)
    assert told["tokens"] == 2
    assert told["gated_right"][0] == 2
    assert len(told["rollouts"][0]["toks"]) == 2
    assert message(tiny, [rollout("a", 0, 1.0, [2.0])], max_seq_len=1)["tokens"] == 0


def test_tokens_carry_their_own_text_and_entropy(tiny):
    smile = tiny.tokenizer("é")["input_ids"]  # two bytes, two tokens
    assert len(smile) == 2
    told = message(tiny, [rollout("a", 3, -1.0, [0.5, 1.25, 0.1234567], ids=[*smile, smile[0]])])
    only = told["rollouts"][0]
    assert only["toks"] == [["", 0.5], ["é", 1.25], ["⟪c3⟫", 0.123457]]
    assert (only["problem_id"], only["gen"], only["correct"], only["advantage"]) == ("a", 3, False, -1.0)


def test_shown_rollouts_alternate_over_problems_and_sides():
    rollouts = [rollout(p, g, 1.0 if g % 2 else -1.0, [1.0]) for p in "ab" for g in range(6)]
    names = [f"{r.problem_id}{r.gen_index}" for r in shown(rollouts, 6)]
    assert names == ["a1", "a0", "b1", "b0", "a3", "a2"]
    assert len(shown(rollouts, 100)) == 12  # none is shown twice


def test_one_sided_problems_are_shown_too():
    rollouts = [rollout("a", g, 0.0, [1.0], correct=True) for g in range(3)] + [rollout("b", 0, -1.0, [1.0])]
    assert [f"{r.problem_id}{r.gen_index}" for r in shown(rollouts)] == ["a0", "b0", "a1", "a2"]


def test_nothing_to_look_at_is_explained_and_missing_figures_are_a_bug(tiny):
    with pytest.raises(TrainError, match="no rollout"):
        message(tiny, [])
    with pytest.raises(ValueError, match="a/0"):
        message(tiny, [rollout("a", 0, None, [1.0])])
