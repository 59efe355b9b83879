"""Checks while a model trains: greedy pass@1, decision diagnostics, the best checkpoint, early stop."""

import json

import pytest
import torch

from rmx.compare.shift_set import greedy_ids
from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.models.load import load
from rmx.records import Problem, Rollout
from rmx.runs.job import TrainJob
from rmx.runs.recipe import AdapterConfig
from rmx.stats.intervals import paired_difference, share
from rmx.train.data_stages import Context
from rmx.train.heldout import (
    Check,
    HeldOut,
    Solution,
    Solutions,
    best_of,
    contrast,
    decision_items,
    diagnose,
    solve,
    stops_early,
)
from rmx.train.step.items import with_advantages
from rmx.train.step.lora_policy import NAME, make_policy
from rmx.train.step.scoring import BaseFigures

TAU = 1.0


@pytest.fixture(scope="module")
def policy():
    """Mini with its RL adapter in the place of one in training."""
    return make_policy(load("mini", device="cpu"), AdapterConfig(), ASSETS / "mini" / "rl", seed=0)


@pytest.fixture(scope="module")
def solved(policy):
    """Some validation problems, solved by base and adapter."""
    problems = load_set("mini:validation")[:40]
    return problems, *(solve(policy.model, problems, key, 200) for key in (None, NAME))


@pytest.fixture(scope="module")
def problems(solved):
    """Twelve of them, the last five solved by one of the two only."""
    rows = list(zip(*solved[:1], solved[1].right, solved[2].right, strict=True))
    return [p for p, a, b in rows if a == b][:7] + [p for p, a, b in rows if a != b][:5]


@pytest.fixture(scope="module")
def rollouts(policy, solved):
    """Both solutions of the problems that one of the two solves, and of two others, with the base's entropies."""
    rows = [(p, a, b) for p, a, b in zip(solved[0], solved[1].each, solved[2].each, strict=True)]
    mixed = [row for row in rows if row[1].correct != row[2].correct][:4]
    made = []
    for problem, *both in mixed + [row for row in rows if row not in mixed][:2]:
        prompt = policy.model.prompt_ids(problem.problem)
        for gen, one in enumerate(both):
            ids = (*prompt, *one.ids)
            logp = _logp(policy, ids, None)[len(prompt) - 1 :]
            entropies = tuple((-(logp.exp() * logp).sum(-1)).tolist())
            made.append(Rollout(problem.id, gen, ids, len(prompt), one.correct, entropies=entropies))
    return made


def _logp(policy, ids, key):
    """(T - 1, V) of the positions that predict a token, one sequence at a time."""
    with torch.no_grad(), policy.model.engine.using(key):
        return policy.logits(torch.tensor([ids]))[0, :-1].log_softmax(-1)


# ---------------------------------------------------------------- greedy solutions


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, NAME])
def test_batched_solutions_equal_those_made_one_by_one(policy, problems, key):
    model = policy.model
    asked = problems[::4]
    found = solve(model, asked, key, 200, rows=2)
    assert [s.id for s in found.each] == [p.id for p in asked]
    for problem, one in zip(asked, found.each, strict=True):
        assert list(one.ids) == greedy_ids(model, model.prompt_ids(problem.problem), key, 200)
        assert one.correct == (one.answer == problem.answer)
    assert (found.truncated, found.unparsed) == (0, 0)


def test_broken_off_solutions_are_counted_and_wrong(policy, problems):
    found = solve(policy.model, problems[:3], None, 5)
    assert [len(s.ids) for s in found.each] == [5, 5, 5]
    assert (found.truncated, found.pass_at_1["value"], found.pass_at_1["n"]) == (3, 0.0, 3)
    assert found.unparsed == sum(s.answer is None for s in found.each)


def test_a_check_counts_what_it_has_solved(policy, problems):
    told = []
    solve(policy.model, problems, None, 200, solved=lambda at, of: told.append((at, of)))
    assert told[-1] == (len(problems), len(problems))
    assert [at for at, _ in told] == sorted(at for at, _ in told)
    assert {of for _, of in told} == {len(problems)}
    assert told[0][0] == 1


def test_the_status_of_a_run_tells_of_a_check_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rmx.train.data_stages.time.monotonic", lambda: now[0])
    run = Context(TrainJob(), tmp_path, None, None, lambda: False)

    def told() -> object:
        return json.loads((tmp_path / "status.json").read_text())["checking"]

    run.checking(80, 80)  # over before it was told of
    assert not list(tmp_path.iterdir())
    now[0] = 1.0
    run.checking(33, 80)
    run.checking(34, 80)  # too soon
    assert told() == {"at": 33, "of": 80}
    now[0] = 2.0
    run.checking(35, 80)
    assert told() == {"at": 35, "of": 80}
    run.checking(80, 80)
    assert told() is None


def test_cancel_between_two_steps(policy, problems):
    whole = solve(policy.model, problems[:2], None, 50)
    asked = iter([False] * 6)
    found = solve(policy.model, problems[:2], None, 50, cancelled=lambda: next(asked, True))
    for part, all_of_it in zip(found.each, whole.each, strict=True):
        assert part.ids == all_of_it.ids[: len(part.ids)]
        assert 1 <= len(part.ids) <= 6 < len(all_of_it.ids)


def test_solutions_survive_json_and_are_compared_pairwise(policy, problems):
    base, after = (solve(policy.model, problems, key, 200) for key in (None, NAME))
    again = Solutions.from_json(base.json())
    assert again == base
    assert after.against(again) == paired_difference(base.right, after.right)
    with pytest.raises(ValueError, match="different problems"):
        after.against(Solutions(base.each[:3]))


def graded(right: str) -> Solutions:
    """Solutions of as many problems as there are letters, right where it is an x."""
    return Solutions(tuple(Solution(f"p{i}", (), "", "1", c == "x", False) for i, c in enumerate(right)))


def test_the_share_of_the_teachers_gain():
    base, teacher = graded("xx........" * 4), graded("xxxxxx...." * 4)
    half = graded("xxxx......" * 4)
    found = half.gap_closed(base, teacher)
    assert (found["value"], found["n"]) == (0.5, 40)
    assert 0.2 < found["low"] < 0.5 < found["high"] < 0.8
    assert teacher.gap_closed(base, teacher)["value"] == 1.0
    assert base.gap_closed(base, teacher)["value"] == 0.0
    worse = graded("x........." * 4)
    assert worse.gap_closed(base, teacher)["value"] == -0.25


def test_no_share_of_a_gain_that_cannot_be_told_from_none():
    base, teacher = graded("xx........"), graded("xxx.......")
    assert teacher.against(base)["low"] < 0
    nothing = {"value": None, "low": None, "high": None, "n": 10}
    assert teacher.gap_closed(base, teacher) == nothing
    assert base.gap_closed(teacher, base) == nothing  # a teacher that is worse
    assert graded("").gap_closed(graded(""), graded("")) == nothing | {"n": 0}


# ---------------------------------------------------------------- decision diagnostics


def _by_hand(policy, rollouts):
    """The figures written out with plain loops, one sequence and one position at a time."""
    delta, push, kls = {1: [], -1: []}, {1: 0.0, -1: 0.0}, []
    for r in with_advantages(rollouts):
        base, ours = _logp(policy, r.input_ids, None), _logp(policy, r.input_ids, NAME)
        for i, h in enumerate(r.entropies):
            at = r.prompt_length - 1 + i
            token = r.input_ids[at + 1]
            if h > TAU and r.advantage != 0:
                sign = 1 if r.advantage > 0 else -1
                delta[sign].append(float(ours[at, token] - base[at, token]))
                push[sign] += abs(r.advantage) * -float(ours[at, token])
            else:
                kls.append(float((base[at].exp() * (base[at] - ours[at])).sum()))
    mean = {sign: sum(d) / len(d) for sign, d in delta.items()}
    return mean[1], mean[-1], push[-1] / push[1], sum(kls) / len(kls)


def test_diagnostics_equal_plain_loops(policy, rollouts):
    found = diagnose(policy, decision_items(rollouts, TAU, 512), BaseFigures())
    pos, neg, pressure, kl = _by_hand(policy, rollouts)
    assert found.delta_logp_pos == pytest.approx(pos, abs=1e-4)
    assert found.delta_logp_neg == pytest.approx(neg, abs=1e-4)
    assert found.pressure == pytest.approx(pressure, rel=1e-4)
    assert found.kl == pytest.approx(kl, abs=1e-5)
    assert found.gap == pytest.approx(pos - neg, abs=1e-4)
    assert found.gap > 0.3  # reinforcement learning parted right choices from wrong ones


def _close(one, two):
    assert one.gap == pytest.approx(two.gap, abs=1e-5)
    assert one.pressure == pytest.approx(two.pressure, rel=1e-5)
    assert one.kl == pytest.approx(two.kl, abs=1e-6)


def test_grouping_changes_nothing(policy, rollouts, monkeypatch):
    items = decision_items(rollouts, TAU, 512)
    together = diagnose(policy, items, BaseFigures())
    monkeypatch.setattr("rmx.train.heldout.TOKENS", 1)
    _close(diagnose(policy, items, BaseFigures()), together)


def test_full_logits_give_the_same(policy, rollouts, monkeypatch):
    items = decision_items(rollouts, TAU, 512)
    by_head = diagnose(policy, items, BaseFigures())
    monkeypatch.setattr(policy, "head", None)
    _close(diagnose(policy, items, BaseFigures()), by_head)
    monkeypatch.setattr("rmx.train.heldout.CHUNK_BYTES", 1)
    _close(diagnose(policy, items, BaseFigures()), by_head)


def test_known_base_is_not_read_again(policy, rollouts):
    items, figures = decision_items(rollouts, TAU, 512), BaseFigures()
    first, passes = diagnose(policy, items, figures), policy.base_passes
    assert diagnose(policy, items, figures) == first
    assert policy.base_passes == passes > 0


def test_untrained_policy_moved_nothing(rollouts):
    fresh = make_policy(load("mini", device="cpu"), AdapterConfig(rank=2, alpha=2), None, seed=0)
    found = diagnose(fresh, decision_items(rollouts, TAU, 512), BaseFigures())
    assert (found.gap, found.delta_logp_pos) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.pressure > 0


def test_no_decision_gives_no_figure():
    empty = contrast(torch.zeros(4, 2), 0.0, 0)
    assert (empty.gap, empty.delta_logp_pos, empty.pressure, empty.kl) == (None, None, None, None)
    one_sided = contrast(torch.tensor([[2.0, 0], [0.5, 0], [3.0, 0], [2, 0]]), 1.0, 4)
    assert (one_sided.delta_logp_pos, one_sided.gap, one_sided.pressure, one_sided.kl) == (0.25, None, 0.0, 0.25)


# ---------------------------------------------------------------- which checkpoint, and when to stop


def check(step: int, right: int, gap: float | None = 0.0, n: int = 100) -> Check:
    return {"optimizer_step": step, "pass@1": share(right, n), "gap": gap}


def test_best_is_the_highest_pass_at_1():
    assert best_of([check(0, 90), check(5, 60), check(10, 70), check(15, 65)])["optimizer_step"] == 10


def test_ties_go_to_the_larger_gap_then_to_the_earlier():
    assert best_of([check(5, 70, 0.1), check(10, 70, 0.3), check(15, 70, 0.3)])["optimizer_step"] == 10
    assert best_of([check(5, 70, None), check(10, 70, -1.0)])["optimizer_step"] == 10
    assert best_of([check(5, 70, None), check(10, 70, None)])["optimizer_step"] == 5


def test_the_base_is_no_checkpoint():
    assert best_of([check(0, 90)]) is None
    assert best_of([]) is None


def test_early_stop_counts_checks_without_a_better_one():
    rising = [check(0, 50), check(5, 60), check(10, 60), check(15, 59)]
    assert stops_early(rising[:3], 2) is None
    message = stops_early(rising, 2)
    assert "last 2 checks" in message
    assert "update 5 with 60.0 %" in message
    assert stops_early([*rising, check(20, 61)], 2) is None
    assert stops_early(rising, 0) is None


def test_early_stop_counts_the_base_and_needs_something_before():
    assert "the base with 50.0 %" in stops_early([check(0, 50), check(5, 40)], 1)
    assert stops_early([check(0, 50), check(5, 40)], 2) is None
    assert stops_early([], 1) is None


# ---------------------------------------------------------------- all together


@pytest.mark.slow
def test_held_out_compares_with_the_base(policy, problems, rollouts):
    held = HeldOut(policy, problems, rollouts, tau=TAU, max_new=200, max_seq_len=512)
    start, later = held.check(0, 0.0), held.check(25, 0.5)
    base, after = (solve(policy.model, problems, key, 200) for key in (None, NAME))
    assert (start["optimizer_step"], later["optimizer_step"], later["epoch"]) == (0, 25, 0.5)
    assert start["pass@1"] == base.pass_at_1
    assert start["vs_base"] is None
    assert later["pass@1"] == after.pass_at_1
    assert later["vs_base"] == paired_difference(base.right, after.right)
    assert later["gap"] == later["delta_logp_pos"] - later["delta_logp_neg"] > 0
    told = held.samples(25, limit=4)
    changed = {p.id for p, b, a in zip(problems, base.right, after.right, strict=True) if a != b}
    assert changed
    firsts = [p["before"]["correct"] != p["after"]["correct"] for p in told["problems"]]
    assert firsts == sorted(firsts, reverse=True)  # changed ones first
    assert set(told["problems"][0]["after"]) == {"text", "answer", "correct"}


def test_known_base_is_not_solved_again(policy, problems):
    first, held = (HeldOut(policy, problems[:2], [], tau=TAU, max_new=200, max_seq_len=512) for _ in range(2))
    held.share(first)
    assert held.base is first.base
    assert held.check(5, 0.1)["gap"] is None  # without held-out rollouts there is nothing to read


def test_problem_without_a_known_answer_counts_as_wrong(policy):
    found = solve(policy.model, [Problem("x", "Ann has 3 cups. Bo has 4 cups. How many cups?", None)], None, 200)
    assert found.right == [False]
