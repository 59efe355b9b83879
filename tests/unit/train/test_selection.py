"""Selection by hand-made rollouts: who stays, who goes and why, and how hard the rest pull."""

import math
import random
from dataclasses import replace

import pytest

from rmx.errors import TrainError
from rmx.records import Rollout
from rmx.runs.recipe import SelectionConfig
from rmx.train.step.items import pass_histogram, select, shortest, tau_of_share, with_advantages


def rollouts(problem: str, rights: str, length: int = 4, stop="eos", lengths=None) -> list[Rollout]:
    """One rollout for each letter: r is right, w is wrong."""
    return [
        Rollout(problem, i, (1, *range(2, 2 + (lengths[i] if lengths else length))), 1, letter == "r", stop=stop)
        for i, letter in enumerate(rights)
    ]


def kept(selection) -> list[str]:
    return list(dict.fromkeys(r.problem_id for r in selection.rollouts))


ALL = SelectionConfig(select=50, trim=1.0)


def test_the_nearest_to_one_half_come_first() -> None:
    sampled = [
        *rollouts("easy", "rrrw"), *rollouts("half", "rwrw"), *rollouts("hard", "wwwr"),
        *rollouts("never", "wwww"), *rollouts("always", "rrrr"),
    ]  # fmt: skip
    whole = select(sampled, ALL)
    assert kept(whole) == ["half", "easy", "hard"]
    two = select(sampled, SelectionConfig(select=2, trim=1.0))
    assert kept(two) == ["half", "easy"]
    assert two.json() == {
        "problems": 5, "sampled": 20, "kept": 2, "rollouts": 8, "trimmed": 0, "right": 5, "wrong": 3,
        "out": {"all_right": 1, "all_wrong": 1, "further_from_half": 1}, "alike": 0, "histogram": [1, 1, 1, 1, 1],
        "kept_histogram": [0, 0, 1, 1, 0],
    }  # fmt: skip


def test_ties_fall_to_fewer_truncated_then_shorter_then_by_name() -> None:
    cut = rollouts("a", "rw", 2)
    cut[1] = replace(cut[1], stop="length")
    full = rollouts("b", "rw", 2)
    full[0] = replace(full[0], stop="context")
    sampled = [*cut, *rollouts("d", "rw", 9), *rollouts("e", "rw", 3), *rollouts("c", "rw", 9), *full]
    assert kept(select(sampled, ALL)) == ["e", "c", "d", "a", "b"]


def test_one_third_and_two_thirds_are_equally_near() -> None:
    sampled = [*rollouts("z", "rww", 1), *rollouts("a", "rrw", 2)]
    assert kept(select(sampled, ALL)) == ["z", "a"]  # by length: the distances are equal to the last bit


def test_the_longest_are_trimmed_over_all_problems_together_before_the_advantages() -> None:
    long, short = rollouts("long", "rrww", lengths=[9, 8, 7, 6]), rollouts("short", "rwrwrw", lengths=[1] * 6)
    chosen = select([*long, *short], SelectionConfig(select=2, trim=0.8))
    assert chosen.trimmed == 2
    left = [r for r in chosen.rollouts if r.problem_id == "long"]
    assert [r.gen_index for r in left] == [2, 3]
    assert [r.advantage for r in left] == [0.0, 0.0]  # both wrong by now: they pull nowhere
    assert chosen.alike == 1
    assert chosen.right == 3
    assert chosen.json()["wrong"] == 5


def test_ties_of_length_are_cut_by_name() -> None:
    same = [*rollouts("a", "rw", 3), *rollouts("b", "rwr", 3)]
    assert [(r.problem_id, r.gen_index) for r in shortest(same, 0.8)] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert len(shortest(same, 0.81)) == 5  # what is dropped is rounded down
    assert len(shortest(same * 200, 0.8)) == 800


def test_advantages_by_hand() -> None:
    given = with_advantages([*rollouts("a", "rwww"), *rollouts("b", "rr")])
    std = math.sqrt(0.25 * 0.75)  # of the population, not of a sample
    assert [r.advantage for r in given[:4]] == pytest.approx([0.75 / std] + [-0.25 / std] * 3)
    assert [r.advantage for r in given[4:]] == [0.0, 0.0]
    rare = with_advantages(rollouts("c", "r" + "w" * 19))
    assert rare[0].advantage == pytest.approx(math.sqrt(19))
    assert rare[0].advantage > 2.5


def test_the_order_of_the_file_does_not_matter() -> None:
    draws = random.Random(3)
    sampled = [
        r
        for i in range(30)
        for r in rollouts(f"p{i}", draws.choices("rw", k=8), lengths=draws.choices(range(1, 5), k=8))  # type: ignore[arg-type]
    ]
    wanted = select(sampled, SelectionConfig(select=12, trim=0.8))
    for seed in range(3):
        random.Random(seed).shuffle(sampled)
        assert select(sampled, SelectionConfig(select=12, trim=0.8)) == wanted
    for name in kept(wanted):
        total = sum(r.advantage for r in wanted.rollouts if r.problem_id == name)
        assert total == pytest.approx(0, abs=1e-12)


def test_too_few_is_explained() -> None:
    hard = [*rollouts("a", "wwww"), *rollouts("b", "wwww"), *rollouts("c", "rwww")]
    with pytest.raises(TrainError) as caught:
        select(hard, ALL)
    assert str(caught.value) == (
        "Only one problem has both right and wrong rollouts, and only such problems teach (problems by right rollouts "
        "of 4: 0 right: 2, 1 right: 1). Sample more problems or more rollouts per problem (k), or take easier "
        "problems, a longer max_new_tokens."
    )
    with pytest.raises(TrainError, match=r"No problem has .*4 right: 2\).* take harder problems"):
        select([*rollouts("a", "rrrr"), *rollouts("b", "rrrr")], ALL)
    with pytest.raises(TrainError, match="none"):
        select([], ALL)
    assert select(hard, SelectionConfig(select=1, trim=1.0)).kept == 1  # one is what was asked for


def test_a_trim_that_leaves_nothing_to_compare_is_explained() -> None:
    sampled = [*rollouts("a", "rw", lengths=[1, 9]), *rollouts("b", "rw", lengths=[1, 9])]
    with pytest.raises(TrainError, match=r"Raise trim above 0\.5"):
        select(sampled, SelectionConfig(select=2, trim=0.5))


def test_histogram() -> None:
    sampled = [*rollouts("a", "rw"), *rollouts("b", "rr"), *rollouts("c", "wr"), *rollouts("d", "w")]
    assert pass_histogram(sampled, 3) == (1, 2, 1, 0)
    assert pass_histogram([], 2) == (0, 0, 0)
    with pytest.raises(ValueError, match="2 right rollouts of 1"):
        pass_histogram(sampled, 1)


def test_tau_of_a_share_gates_that_share() -> None:
    draws = random.Random(1)
    sampled = [
        replace(r, entropies=tuple(draws.random() for _ in range(r.completion_length)))
        for r in rollouts("a", "rwrw", lengths=[40, 30, 20, 10])
    ]
    pooled = [h for r in sampled for h in r.entropies or ()]
    for share, count in ((0.05, 5), (0.29, 29), (0.999, 99), (1.0, 100)):
        assert sum(h > tau_of_share(sampled, share) for h in pooled) == count
    assert tau_of_share([replace(sampled[0], entropies=(0.5,) * 40)], 0.1) == 0.5  # all equal: none is above
    with pytest.raises(TrainError, match="Score the rollouts first"):
        tau_of_share([*sampled, *rollouts("b", "r")], 0.05)
    with pytest.raises(TrainError, match="no completion tokens"):
        tau_of_share([], 0.05)
