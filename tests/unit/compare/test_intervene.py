"""Interventions whose every token and patch is known, budgets and resuming, random draws, batches, stops."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from rmx.compare.intervene import (
    ARMS,
    AllArms,
    ArmProblem,
    Intervention,
    PatchJob,
    matched_places,
    random_other,
)
from rmx.compare.intervene_set import InterveneSet, check_arms
from rmx.data.problem_sets import load_set
from rmx.engine.token_draws import prompt_key, uniform
from rmx.errors import RmxError
from rmx.records import Problem
from rmx.ui.jobs.comparer import known_part
from tests.helpers.pairs import Say, ids_of, script_pair, whole_logits

pytestmark = pytest.mark.slow

A, B, C, D, E, END = 97, 98, 99, 100, 101, 256
SURE, TORN = 12.0, 1.0  # how far the first choice stands above the others


def script(choices: dict[int, int], torn: set[int], end: int, lead: float = SURE) -> Say:
    """Says `choices` at their positions and A elsewhere, undecided at `torn`, the end token at `end`."""

    def say(pos: int, last: int) -> dict[int, float]:
        if pos >= end:
            return {END: SURE}
        first = choices.get(pos, A)
        others = dict.fromkeys(range(60, 120), 0.0)
        return others | {first: TORN if pos in torn else lead}

    return say


@pytest.fixture
def pair():
    """Eight tokens; base and adapted part at 2 and 5; the base is undecided at 3 and 5."""
    return script_pair(script({}, {3, 5}, 8), script({2: B, 5: C}, set(), 8))


def decode(pair, arm: str, **kwargs) -> Intervention:
    prompt = tuple(ids_of(pair.base, "p"))
    return Intervention(pair, PatchJob(prompt, arm, 1.0, **kwargs)).run()


@pytest.mark.parametrize(
    ("arm", "ids", "patched"),
    [
        ("base", [A, A, A, A, A, A, A, A, END], []),
        ("teacher", [A, A, B, A, A, C, A, A, END], [2, 5]),
        ("oracle", [A, A, B, A, A, C, A, A, END], [2, 5]),
        ("entropy", [A, A, A, A, A, C, A, A, END], [5]),  # 2 is sure, 3 is undecided but agreed on
    ],
)
def test_every_arm_does_what_its_rule_says(pair, arm, ids, patched):
    found = decode(pair, arm)
    assert found.ids == ids
    assert [t.pos for t in found.tokens if t.patched] == patched
    result = found.result
    assert (result.patches, result.disagreements, result.gated) == (len(patched), 2, 2)
    assert (result.tokens, result.stop) == (9, "eos")
    assert [t.pos for t in found.tokens if t.differs] == [2, 5]
    assert [t.pos for t in found.tokens if t.gated] == [3, 5]
    assert [t.pos for t in found.tokens if t.wanted] == patched


def test_random_tokens_stand_where_the_two_disagree_and_are_neither_choice(pair):
    found = decode(pair, "random")
    assert [t.pos for t in found.tokens if t.patched] == [2, 5]
    for pos, theirs in ((2, B), (5, C)):
        assert found.ids[pos] not in (A, theirs)
        top = top_20(pair, pos)
        assert found.ids[pos] in top


def top_20(pair, pos: int) -> list[int]:
    say = pair.base.engine.model.say
    row = torch.full((257,), -9.0)
    for token, logit in say(pos, A).items():
        row[token] = logit
    return row.topk(20).indices.tolist()


def test_a_patch_changes_what_follows():
    """After B the base goes on with D: the prefix that it sees is the corrected one."""

    def base(pos: int, last: int) -> dict[int, float]:
        return {END: SURE} if pos >= 5 else {D: SURE} if last == B else {A: SURE}

    def adapted(pos: int, last: int) -> dict[int, float]:
        return base(pos, last) | ({B: 2 * SURE} if pos == 1 else {})

    pair = script_pair(base, adapted)
    assert decode(pair, "base").ids == [A, A, A, A, A, END]
    assert decode(pair, "oracle").ids == [A, B, D, A, A, END]
    assert decode(pair, "oracle").patches == 1
    assert decode(pair, "oracle", budget=0).ids == [A, A, A, A, A, END]


def test_a_threshold_is_strict():
    row = {A: 0.0, B: 0.0}  # two equals and 255 tokens far below
    pair = script_pair(
        lambda pos, last: {END: SURE} if pos else row, lambda pos, last: {C: SURE} if not pos else {END: SURE}
    )
    entropy = decode(pair, "base").tokens[0].entropy
    prompt = tuple(ids_of(pair.base, "p"))
    at = Intervention(pair, PatchJob(prompt, "entropy", entropy)).run()
    below = Intervention(pair, PatchJob(prompt, "entropy", entropy - 1e-6)).run()
    assert (at.ids[0], at.patches) == (A, 0)
    assert (below.ids[0], below.patches) == (C, 1)


def test_an_exact_tie_of_the_base_is_taken_as_a_lone_decode_takes_it():
    pair = script_pair(
        lambda pos, last: {END: SURE} if pos >= 2 else {A: 1.0, B: 1.0},
        lambda pos, last: {END: SURE} if pos >= 2 else {B: 1.0},
    )
    assert decode(pair, "base").ids == [A, A, END]
    assert decode(pair, "oracle").ids == decode(pair, "teacher").ids == [B, B, END]


# -- budgets -----------------------------------------------------------------------------------------------------------


def parting_pair(length: int, every: int):
    """Texts of a length, parting at every so many tokens; the base is undecided at every second one."""
    parts = {pos: B + pos % 5 for pos in range(0, length, every)}
    return script_pair(script({}, set(range(0, length, 2)), length), script(parts, set(), length))


def long_pair():
    return parting_pair(30, 3)


@pytest.mark.parametrize("arm", ["teacher", "oracle", "random", "entropy"])
def test_a_budget_allows_exactly_the_first_patches(arm):
    pair = long_pair()
    everything = decode(pair, arm)
    places = [t.pos for t in everything.tokens if t.patched]
    assert len(places) > 3
    for budget in range(len(places) + 2):
        found = decode(pair, arm, budget=budget)
        assert [t.pos for t in found.tokens if t.patched] == places[:budget]
        refused = [t.pos for t in found.tokens if t.wanted and not t.patched]
        assert refused == places[budget:]
        assert found.patches == min(budget, len(places))


def check_going_on(pair, job: PatchJob, budgets: list[int | None]) -> None:
    """From any budget to any other: what is kept and what is decoded anew make the same decode as a cold one."""
    cold = {}
    for budget in budgets:
        pair.base.engine.prefixes.clear()
        cold[budget] = Intervention(pair, replace(job, budget=budget)).run()
    for known in budgets:
        for budget in budgets:
            kept = known_part(cold[known].tokens, budget)
            again = Intervention(pair, replace(job, budget=budget, kept=kept)).run()
            assert again.ids == cold[budget].ids, (known, budget)
            assert (again.patches, again.stop) == (cold[budget].patches, cold[budget].stop)
            assert [t.wanted for t in again.tokens] == [t.wanted for t in cold[budget].tokens]
            assert [t.text for t in again.tokens] == [t.text for t in cold[budget].tokens]
            assert again.result.answer == cold[budget].result.answer


@pytest.mark.parametrize("arm", ARMS)
def test_going_on_from_what_is_known_equals_a_cold_decode_at_every_budget(arm):
    pair = parting_pair(13, 3)
    prompt = tuple(ids_of(pair.base, "p"))
    job = PatchJob(prompt, arm, 1.0, places=(1, 4, 9) if arm == "matched" else ())
    patches = Intervention(pair, job).run().patches
    assert patches == {"base": 0, "matched": 3, "entropy": 3}.get(arm, 5)
    check_going_on(pair, job, [*range(patches + 2), None])


@pytest.mark.parametrize(
    "arm", ["oracle", *[pytest.param(arm, marks=pytest.mark.long) for arm in ("random", "matched")]]
)
def test_going_on_equals_a_cold_decode_on_mini(rl, arm):
    problem = load_set("mini")[5]
    prompt = rl.base.prompt_ids(problem.problem)
    places = (4, 20, 33) if arm == "matched" else ()
    check_going_on(rl, PatchJob(prompt, arm, 1.0, problem.answer, None, places, max_new=60), [0, 1, None])


def test_only_what_differs_is_decoded_again():
    pair = long_pair()
    whole = decode(pair, "oracle")
    places = [t.pos for t in whole.tokens if t.patched]
    assert known_part([], 3) == ()
    for budget in range(len(places)):
        assert len(known_part(whole.tokens, budget)) == places[budget]
    assert len(known_part(whole.tokens, None)) == len(whole.tokens) - 1
    none = decode(pair, "oracle", budget=0)
    assert len(known_part(none.tokens, 1)) == places[0]
    assert len(known_part(none.tokens, 0)) == len(none.tokens) - 1
    two = decode(pair, "oracle", budget=2)
    assert len(known_part(two.tokens, 5)) == places[2]
    assert len(known_part(two.tokens, 1)) == places[1]


# -- chance ------------------------------------------------------------------------------------------------------------


def test_random_others_are_uniform_over_the_top_20_without_both_choices():
    base = torch.randn(300, generator=torch.Generator().manual_seed(2))
    top = base.topk(20).indices.tolist()
    for taken in ((top[0], top[3]), (top[0], int(base.argmin())), (top[0], top[0])):
        pool = [t for t in top if t not in taken]
        n = len(pool)
        drawn = Counter(random_other(base, taken, (i + 0.5) / (40 * n)) for i in range(40 * n))
        assert drawn == dict.fromkeys(pool, 40)  # equal shares of [0, 1)
    assert random_other(base, (top[0], top[1]), 1 - 2**-53) == top[-1]
    assert random_other(base, (top[0], top[1]), 0.0) == top[2]


def test_the_uniform_numbers_are_uniform():
    counts = Counter(int(18 * uniform(0, prompt_key([i]), 0, pos)) for i in range(60) for pos in range(60))
    expected = 3600 / 18
    chi2 = sum((counts[k] - expected) ** 2 / expected for k in range(18))
    assert chi2 < 40.8  # 17 degrees of freedom, p = 0.001


def test_random_tokens_repeat_with_the_seed_and_change_with_it(rl):
    prompt = rl.base.prompt_ids(load_set("mini")[5].problem)
    runs = [Intervention(rl, PatchJob(prompt, "random", 1.0, seed=s, max_new=80)).run() for s in (1, 1, 2)]
    assert runs[0].ids == runs[1].ids != runs[2].ids
    for run in runs:
        for token in run.tokens:
            assert token.patched == token.differs
            assert not token.patched or token.id not in (token.base_choice, token.adapted_choice)


def test_matched_places_are_drawn_uniformly_without_replacement():
    counts: Counter[int] = Counter()
    for i in range(2000):
        places = matched_places(20, 5, 0, prompt_key([i]))
        assert len(set(places)) == 5
        assert list(places) == sorted(places)
        counts.update(places)
    assert set(counts) == set(range(20))
    chi2 = sum((counts[k] - 500) ** 2 / 500 for k in range(20)) / (1 - 5 / 20)
    assert chi2 < 43.8  # 19 degrees of freedom, p = 0.001
    assert matched_places(20, 5, 0, b"x" * 8) == matched_places(20, 5, 0, b"x" * 8)
    assert matched_places(20, 5, 0, b"x" * 8) != matched_places(20, 5, 1, b"x" * 8)
    assert matched_places(3, 9, 0, b"") == (0, 1, 2)  # never more than there is room
    assert matched_places(0, 2, 0, b"") == ()


def test_matched_patches_as_often_as_the_oracle_did_and_is_never_the_bases_choice():
    pair = long_pair()
    prompt = tuple(ids_of(pair.base, "p"))
    found = AllArms(pair, [ArmProblem("x", prompt, "1")], ("oracle", "matched"), 1.0).run()[0]
    assert set(found) == {"oracle", "matched"}
    assert found["oracle"].patches == found["matched"].patches == 10
    places = matched_places(31, 10, 0, prompt_key(prompt))
    base = decode(pair, "base")
    assert [i for i, (a, b) in enumerate(zip(found["matched"].ids, base.ids, strict=False)) if a != b] == list(places)


# -- many problems, one batch -----------------------------------------------------------------------------------------


def asked_of(pair, count: int) -> list[ArmProblem]:
    return [ArmProblem(p.id, pair.base.prompt_ids(p.problem), p.answer) for p in load_set("mini")[:count]]


def test_a_batch_of_ragged_problems_equals_one_at_a_time(rl):
    asked = asked_of(rl, 3)
    assert len({len(a.prompt_ids) for a in asked}) > 1
    with rl.turn():
        together = AllArms(rl, asked, ARMS, 1.0, seed=3).run()
        for problem, found in zip(asked, together, strict=True):
            assert AllArms(rl, [problem], ARMS, 1.0, seed=3).run()[0] == found
            assert set(found) == set(ARMS)
            for arm in ("oracle", "random"):
                lone = Intervention(rl, PatchJob(problem.prompt_ids, arm, 1.0, problem.known, seed=3))
                list(lone.held())
                assert lone.result == found[arm]


def check_oracle(rl, count: int, plain_rl) -> None:
    asked = asked_of(rl, count)
    with rl.turn():
        found = [
            arms
            for i in range(0, count, 40)
            for arms in AllArms(rl, asked[i : i + 40], ("base", "teacher", "oracle"), 1.0).run()
        ]
    for problem, arms in zip(asked, found, strict=True):
        assert arms["oracle"].ids == arms["teacher"].ids
        assert arms["oracle"].stop == arms["teacher"].stop
        assert arms["base"].patches == 0
        assert arms["oracle"].patches == arms["oracle"].disagreements == arms["teacher"].patches
        rows = whole_logits(plain_rl, [*problem.prompt_ids, *arms["teacher"].ids[:-1]], len(problem.prompt_ids) - 1)
        assert list(arms["teacher"].ids) == rows.argmax(-1).tolist()
    assert sum(arms["oracle"].patches > 0 for arms in found) >= count / 4
    assert sum(arms["base"].ids != arms["oracle"].ids for arms in found) >= count / 4


def test_the_oracle_is_the_teacher_token_for_token(rl, plain_rl):
    check_oracle(rl, 40, plain_rl)


@pytest.mark.long
def test_the_oracle_is_the_teacher_on_200_problems(rl, plain_rl):
    check_oracle(rl, 200, plain_rl)


def test_a_finished_row_leaves_the_batch():
    """Prompts of one and two tokens end at different steps; what is left goes on alone."""
    pair = long_pair()
    short, longer = tuple(ids_of(pair.base, "p")), tuple(ids_of(pair.base, "pp"))
    found = AllArms(pair, [ArmProblem("1", short, None), ArmProblem("2", longer, None)], ("base", "oracle"), 1.0).run()
    # The script counts from the first prompt's length, so that the longer prompt's text is one token shorter.
    assert [r["base"].tokens for r in found] == [31, 30]
    assert [r["base"].stop for r in found] == ["eos", "eos"]
    assert pair.base.engine.model.calls[-1] == 2


def test_lengths_and_contexts_end_a_decode():
    pair = script_pair(lambda pos, last: {A: SURE}, lambda pos, last: {A: SURE})
    assert decode(pair, "base", max_new=7).stop == "length"
    assert len(decode(pair, "base", max_new=7).tokens) == 7
    pair.base.engine.config.max_position_embeddings = 20
    full = decode(pair, "base")
    assert (full.stop, len(full.tokens)) == ("context", 19)


# -- stops -------------------------------------------------------------------------------------------------------------


class After:
    """True from the n-th question on."""

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.n


@pytest.fixture(scope="module")
def whole(rl):
    """All arms on three problems."""
    return list(InterveneSet(rl, "mini", load_set("mini")[:3], ARMS, 1.0))[-1]


@pytest.mark.parametrize("n", [0, 1, 20, 75, 130])
def test_a_stop_leaves_whole_problems_only(rl, whole, n, monkeypatch):
    monkeypatch.setattr("rmx.compare.intervene_set.ROWS", 12)  # two problems in a batch
    problems = load_set("mini")[:3]
    reports = list(InterveneSet(rl, "mini", problems, ARMS, 1.0, cancelled=After(n)))
    assert reports[-1].done
    assert reports[-1].stopped
    assert len(reports[-1].problems) < 3
    assert list(reports[-1].problems) == [p for p in whole.problems if p.id in {q.id for q in reports[-1].problems}]
    reports[-1].json()
    assert rl.base.engine.queue.waiting() == 0


def test_an_abandoned_decode_frees_the_engine_and_keeps_its_prefix(rl):
    prompt = rl.base.prompt_ids(load_set("mini")[1].problem)
    rl.base.engine.prefixes.clear()
    tokens = iter(Intervention(rl, PatchJob(prompt, "oracle", 1.0)))
    first = [next(tokens).id for _ in range(9)]
    tokens.close()
    assert rl.base.engine.queue.waiting() == 0
    assert rl.base.engine.prefixes.find(rl.adapter, [*prompt, *first])[1] == len(prompt) + 8
    assert Intervention(rl, PatchJob(prompt, "oracle", 1.0)).run().ids[:9] == first


# -- reports -----------------------------------------------------------------------------------------------------------


def test_random_arms_patch_where_and_as_often_as_they_say(whole):
    for problem in whole.problems:
        found = problem.results
        assert found["random"].patches == found["random"].disagreements
        cut = found["matched"].tokens < found["base"].tokens
        assert found["matched"].patches == found["oracle"].patches or cut


def test_a_report_counts_by_hand(whole):
    found = whole.json()
    assert (found["n"], found["of"]) == (3, 3)
    for arm in ARMS:
        right = [p["correct"][arm] for p in found["problems"]]
        figures = found["arms"][arm]
        assert figures["pass@1"]["value"] == sum(right) / 3
        assert figures["touched"] == sum(p["patches"][arm] for p in found["problems"]) / sum(
            p["tokens"][arm] for p in found["problems"]
        )
        base = [p["correct"]["base"] for p in found["problems"]]
        if arm != "base":
            assert figures["won"] == sum(a and not b for a, b in zip(right, base, strict=True))
            assert figures["lost"] == sum(b and not a for a, b in zip(right, base, strict=True))
            assert figures["vs_base"]["value"] == pytest.approx((sum(right) - sum(base)) / 3)
    assert "vs_base" not in found["arms"]["base"]
    assert found["oracle_equals_teacher"] == {"same": 3, "of": 3, "parted": []}
    assert found["paired"]["oracle-random"]["value"] == pytest.approx(
        found["arms"]["oracle"]["pass@1"]["value"] - found["arms"]["random"]["pass@1"]["value"]
    )


def test_arms_are_checked_and_put_in_order():
    assert check_arms(("entropy", "base", "base")) == ("base", "entropy")
    for arms in ((), ("base", "orakel")):
        with pytest.raises(RmxError, match="There is no arm"):
            check_arms(arms)


def test_problems_without_an_answer_cannot_be_graded(rl):
    with pytest.raises(RmxError, match="without a known answer"):
        list(InterveneSet(rl, "own", [Problem("1", "What?", None)], ("base",), 1.0))


def test_arms_that_were_not_asked_are_not_in_the_report(rl):
    found = list(InterveneSet(rl, "mini", load_set("mini")[:1], ("matched",), 1.0))[-1].json()
    assert list(found["arms"]) == ["matched"]
    assert found["oracle_equals_teacher"] is None
    assert found["paired"] == {}


def test_the_placebo_is_solved_on_the_same_problems(rl):
    problems = load_set("mini")[:4]
    report = list(InterveneSet(rl, "mini", problems, ("base", "teacher"), 1.0))[-1]
    noise = report.placebo_json()
    assert noise is not None
    assert noise["pass@1"]["n"] == 4
    assert noise["vs_base"]["n"] == 4
    assert noise["strength"] > 0
    base, right = report.right("base"), report.placebo.right
    assert noise["won"] - noise["lost"] == sum(right) - sum(base)
    # The strength is the one under which the base's solutions are reranked as often as under the adapter.
    assert report.placebo.patches > 0
    alone = list(InterveneSet(rl, "mini", problems, ("teacher",), 1.0))[-1]
    assert alone.placebo is None
