"""Weights by hand, draws by enumeration, and a scripted model whose deciding token is known."""

import math
from itertools import product

import pytest

from rmx.data.problem_sets import load_set
from rmx.errors import RmxError
from rmx.explore.gate_recall import (
    Located,
    Locator,
    LocatorConfig,
    LocatorReport,
    RedrawnToken,
    crossed_weight,
    inclusion,
    plain_weight,
    systematic,
)
from rmx.models.stand_ins import byte_tokenizer
from rmx.records import Problem
from rmx.stats.intervals import exact_edge
from tests.helpers.pairs import script_model

# -- formulas ---------------------------------------------------------------------------------------------------------


def test_the_plain_weight_is_the_expected_change():
    assert plain_weight([0.3, 0.1], [1.0, 0.5], 0.5) == pytest.approx(0.3 * 0.5)


def test_without_noise_both_weights_are_one():
    assert crossed_weight([0.3, 0.1], [(1.0, 1.0), (0.0, 0.0)], (0.5, 0.5)) == pytest.approx(0.2)


def test_where_nothing_is_decided_the_crossed_weight_is_0_on_average_and_the_plain_one_is_not():
    """Every outcome of two samples in each half, of the chosen token and of one alternative, each with its chance."""
    right, crossed, plain = 0.3, 0.0, 0.0
    for hits in product((0, 1), repeat=8):
        chance = math.prod(right if h else 1 - right for h in hits)
        a, b, c, d = (sum(hits[i : i + 2]) / 2 for i in (0, 2, 4, 6))
        crossed += chance * crossed_weight([1.0], [(a, b)], (c, d))
        plain += chance * plain_weight([1.0], [(a + b) / 2], (c + d) / 2)
    assert crossed == pytest.approx(0, abs=1e-12)
    assert plain > 0.2


def test_the_crossed_weight_never_leans_upwards():
    """The same with a choice that decides: its mean is below the truth."""
    right, wrong, mean = 0.9, 0.3, 0.0
    for hits in product((0, 1), repeat=8):
        chance = math.prod((p if h else 1 - p) for h, p in zip(hits, [right] * 4 + [wrong] * 4, strict=True))
        a, b, c, d = (sum(hits[i : i + 2]) / 2 for i in (0, 2, 4, 6))
        mean += chance * crossed_weight([1.0], [(a, b)], (c, d))
    assert 0.3 < mean <= 0.6


@pytest.mark.parametrize(("sizes", "count"), [([1, 2, 3, 4], 2), ([100, 1, 1, 1], 2), ([0, 1, 0, 2], 3), ([5], 3)])
def test_chances_are_in_proportion_and_never_above_1(sizes, count):
    found = inclusion(sizes, count)
    assert sum(found) == pytest.approx(min(count, sum(s > 0 for s in sizes)))
    assert all((p == 0) == (s == 0) and p <= 1 for p, s in zip(found, sizes, strict=True))
    unsure = [(p / s) for p, s in zip(found, sizes, strict=True) if 0 < p < 1]
    assert all(r == pytest.approx(unsure[0]) for r in unsure)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_drawn_is_unbiased_by_enumeration(count):
    """Over all starts, the weighted sum of what was drawn is the sum over all places."""
    sizes, weights = [0.5, 0.1, 0.4, 0.02, 0.3], [0.3, 0.0, 0.39, 0.02, 0.1]
    chances = inclusion(sizes, count)
    marks, total = {0.0, 1.0}, 0.0
    for p in chances:
        total += p
        marks.add(round(total % 1.0, 12))
    edges = sorted(marks)  # between two of them the draw is the same
    mean = 0.0
    for a, b in zip(edges, edges[1:], strict=False):
        drawn = systematic(chances, (a + b) / 2)
        mean += (b - a) * sum(weights[i] / chances[i] for i in drawn)
        assert len(drawn) == count
    assert mean == pytest.approx(sum(weights))


def test_certain_places_are_always_drawn():
    assert all(0 in systematic(inclusion([100, 1, 1, 1], 2), u / 10) for u in range(10))


# -- figures of places made by hand -----------------------------------------------------------------------------------


def place(problem, gated, weight, chance=1.0, high=None):
    bounds = (0.0, weight if high is None else high)
    return RedrawnToken(problem, 0, "t", 1.5 if gated else 0.2, gated, chance, weight, weight, bounds, 0.9)


def located(problem, *places, most=0.5):
    return Located(problem, 40, sum(p.gated for p in places), places, most, 0.01)


def report(*each):
    return LocatorReport("m", "s", 1.0, LocatorConfig(), len(each), each, 10, 1.0, True)


def test_misses_are_weighted_by_one_over_their_chance():
    each = [located(str(i), place(str(i), True, 0.3), place(str(i), False, 0.1, chance=0.25)) for i in range(10)]
    each[0] = located("0", place("0", True, 0.5), place("0", False, 0.1, chance=0.5))
    figures = report(*each).figures()
    gated, others = 9 * 0.3 + 0.5, 9 * 0.4 + 0.2
    assert figures["missed"]["value"] == pytest.approx(others / (gated + others))
    assert figures["recall"]["value"] == pytest.approx(gated / (gated + others))
    assert figures["recall"]["low"] == pytest.approx(1 - figures["missed"]["high"])
    assert figures["recall_of_tokens"]["value"] == pytest.approx(10 / (10 + 9 * 4 + 2))
    assert figures["precision"] | {} == figures["precision"]
    assert figures["precision"]["value"] == 1


def test_precision_and_idle_tokens_are_shares_of_the_gated():
    one = [place("a", True, 0.3), place("a", True, 0.0, high=0.05), place("a", True, 0.0, high=0.3)]
    figures = report(located("a", *one), located("b", *one)).figures()
    assert figures["precision"]["value"] == pytest.approx(1 / 3)
    assert figures["decides_nothing"]["value"] == pytest.approx(1 / 3)


def test_where_no_draw_decided_anything_an_exact_bound_stands_in():
    each = [located(str(i), place(str(i), True, 0.3), place(str(i), False, 0.0, 0.5)) for i in range(20)]
    figures = report(*each).figures()
    most = exact_edge(20) * 20 * 0.5
    assert figures["missed"] == {
        "value": 0.0,
        "low": 0.0,
        "high": pytest.approx(most / (most + 6)),
        "n": 20,
        "exact": True,
    }
    assert figures["recall_of_tokens"]["low"] == pytest.approx(20 / (20 + most / 0.1))
    assert figures["recall_of_tokens"]["exact"]
    assert figures["precision"]["exact"]


def test_nothing_that_decides_is_no_share():
    figures = report(located("a", place("a", True, 0.0)), located("b", place("b", True, 0.0))).figures()
    assert figures["missed"]["value"] is None
    assert figures["recall"]["value"] is None


# -- a scripted model -------------------------------------------------------------------------------------------------

TEXT = "x\\boxed{1}\n"  # position 0 is a coin that changes nothing, position 8 is the answer


VOCABULARY = byte_tokenizer()


def choice(chances):
    """Logits that give characters these probabilities."""
    return {VOCABULARY.encode(c)[0]: 10 + math.log(p) for c, p in chances.items()}


def model(right=0.6):
    def say(pos, last):
        if pos == 0:
            return choice({"x": 0.51, "y": 0.49})
        if TEXT[pos : pos + 1] == "1":
            return choice({"1": right, "2": 1 - right})
        return choice({TEXT[pos]: 1.0}) if pos < len(TEXT) else {256: 12.0}

    return script_model(say)


def problems(count=2):
    return [Problem(str(i), "p", "1") for i in range(count)]


def located_by(scripted, tau, **config):
    config = LocatorConfig(**({"samples": 64, "max_new_tokens": 32} | config))
    *_, last = Locator(scripted, problems(1), tau, config)
    return last


def test_the_deciding_token_is_found_behind_the_gate():
    found = located_by(model(), tau=0.6)
    weights = {p.pos: p.weight for p in found.each[0].places if p.gated}
    assert weights == {0: pytest.approx(0.0, abs=0.12), 8: pytest.approx(0.4, abs=1e-3)}  # the coin's is noise alone
    figures = found.figures()
    assert figures["precision"]["value"] == pytest.approx(0.5)
    assert figures["missed"]["value"] == 0


def test_a_deciding_token_outside_the_gate_is_missed():
    found = located_by(model(), tau=0.68)  # the coin has 0.693 nats, the answer 0.673
    assert [p.pos for p in found.each[0].places if p.gated] == [0]
    assert found.each[0].other_weight() == pytest.approx(0.4, abs=1e-3)
    assert found.figures()["missed"]["value"] > 0.75
    assert found.figures()["precision"]["value"] == 0


def test_a_confident_choice_weighs_as_little_as_its_alternative_is_likely():
    found = located_by(model(right=0.95), tau=0.6)
    assert found.each[0].other_weight() == pytest.approx(0.05, abs=1e-3)


def test_alternatives_too_rare_to_sample_are_told_as_unseen():
    found = located_by(model(right=0.999), tau=0.6)
    assert found.each[0].other_weight() == 0
    assert found.each[0].unseen >= 0.001


def test_the_budget_ends_it_and_only_whole_solutions_count():
    found = located_by(model(), tau=0.6, samples=8, budget=100)
    assert found.ended == "budget"
    assert found.problems == 0
    assert found.tokens_spent <= 100
    assert found.json()["ended"] == "budget"


def test_a_cancel_ends_it():
    *_, last = Locator(model(), problems(), 0.6, LocatorConfig(max_new_tokens=32), cancelled=lambda: True)
    assert last.ended == "cancelled"
    assert last.problems == 0


def test_problems_without_an_answer_are_refused():
    with pytest.raises(RmxError, match="without a known answer"):
        list(Locator(model(), [Problem("0", "p", None)], 0.6))


@pytest.mark.parametrize("bad", [{"samples": 3}, {"samples": 0}, {"elsewhere": 0}, {"budget": 0}])
def test_settings_that_cannot_be_used_are_refused(bad):
    with pytest.raises(RmxError):
        LocatorConfig(**bad)


# -- mini -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_mini_is_located_again_the_same_by_its_seed(mini):
    def places(seed):
        config = LocatorConfig(samples=4, elsewhere=2, seed=seed, max_new_tokens=128)
        *_, last = Locator(mini, load_set("mini")[:1], 1.0, config)
        assert last.each[0].gated == sum(p.gated for p in last.each[0].places)
        found = [(p.pos, round(p.plain, 4), round(p.chance, 4)) for p in last.each[0].places]
        return last.tokens_spent, found

    first = places(0)
    assert places(0) == first
    assert places(1) != first
