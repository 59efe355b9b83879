"""The shift statistics on places made by hand, and the map and the set run against plain forward passes."""

import json
import math

import pytest
import torch

from rmx.arguments import Sampling
from rmx.compare.shift_map import MapJob, ShiftMap, largest, map_json, map_places
from rmx.compare.shift_set import EDGES, ReadPlaces, ShiftFigures, ShiftSet, places_of
from rmx.data.problem_sets import load_set
from tests.helpers.pairs import PROMPT, ids_of, prompts, script_pair, whole_logits

pytestmark = pytest.mark.slow


def places(ranks: list[int], entropies: list[float], kl: float = 0.0, near: int = 0, name: str = "x") -> ReadPlaces:
    flags = torch.zeros(len(ranks), dtype=torch.bool)
    flags[:near] = True
    return ReadPlaces(name, torch.tensor(entropies), torch.tensor(ranks), torch.full((len(ranks),), kl), flags)


@pytest.fixture
def figures() -> ShiftFigures:
    """Ten places of three solutions: seven alike, two reranked, one shifted."""
    return ShiftFigures(
        (
            places([1, 2, 1, 1], [0.0, 2.0, 0.25, 1.0], kl=0.5),
            places([1, 5, 6, 1], [0.5, 1.5, 1.0, 1.25], kl=0.0, near=0),
            places([1, 1], [0.0, 0.5], kl=0.25),
        ),
        tau=1.0,
    )


def test_shares_by_hand(figures):
    found = figures.json()
    assert (found["positions"], found["disagreements"], found["near_ties"]) == (10, 3, 0)
    assert (found["unshifted"], found["reranked"], found["shifted"]) == pytest.approx((0.7, 0.2, 0.1))
    assert found["unshifted"] + found["reranked"] + found["shifted"] == pytest.approx(1.0)
    assert found["on_forks"] == pytest.approx(2 / 3)  # the shifted one lies exactly at tau, which is no fork
    assert found["on_forks_by_chance"] == pytest.approx(3 / 10)
    assert found["untouched"] == pytest.approx(1 / 3)
    assert found["mean_kl"] == pytest.approx((4 * 0.5 + 2 * 0.25) / 10)


def test_ranks_and_entropies_by_hand(figures):
    found = figures.json()
    assert found["mean_rank"]["value"] == pytest.approx((2 + 5 + 6) / 3)
    reranked, unshifted = (2.0 + 1.5) / 2, (0.0 + 0.25 + 1.0 + 0.5 + 1.25 + 0.0 + 0.5) / 7
    assert found["entropy_ratio"]["value"] == pytest.approx(reranked / unshifted)  # the shifted place is in neither
    inside = [0, 1, 1, 1, 2, 3, 3, 3, 3, 3]
    assert found["within_top"] == {str(k): pytest.approx(n / 3) for k, n in zip(range(1, 11), inside, strict=True)}


def test_intervals_hold_their_values(figures):
    for name, estimate in figures.shares().items():
        assert estimate["low"] <= estimate["value"] <= estimate["high"], name
        assert estimate["n"] == 3
    json.dumps(figures.json(), allow_nan=False)


def test_near_ties_are_counted_and_nothing_else_changes(figures):
    near = ShiftFigures((places([2, 3, 1], [1, 1, 1], near=1),), 1.0).json()
    plain = ShiftFigures((places([2, 3, 1], [1, 1, 1]),), 1.0).json()
    assert near["near_ties"] == 1
    assert near | {"near_ties": 0} == plain


def test_where_nothing_disagrees_ranks_have_no_value_and_shares_an_exact_bound():
    found = ShiftFigures((places([1] * 30, [0.5] * 30), places([1] * 10, [0.5] * 10)), 1.0).json()
    assert found["disagreements"] == 0
    assert found["unshifted"] == 1.0
    assert found["mean_rank"] == {"value": None, "low": None, "high": None, "n": 2}
    assert found["entropy_ratio"]["value"] is None
    assert found["on_forks"] is None
    assert set(found["within_top"].values()) == {None}
    shifted = found["intervals"]["shifted"]
    assert (shifted["low"], shifted["exact"]) == (0.0, True)
    assert shifted["high"] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert found["untouched"] == 1.0
    # KL is no share: that it was 0 everywhere bounds nothing like a count does.
    assert "exact" not in found["intervals"]["mean_kl"]
    json.dumps(found, allow_nan=False)


def test_where_everything_disagrees_there_is_no_ratio_and_no_crash():
    found = ShiftFigures((places([2, 2], [1.5, 2.0]), places([7], [2.0])), 1.0).json()
    assert found["unshifted"] == 0.0
    assert found["entropy_ratio"]["value"] is None
    assert found["on_forks"] == 1.0
    json.dumps(found, allow_nan=False)


def test_one_problem_has_values_without_intervals(figures):
    found = ShiftFigures(figures.places[:1], 1.0).json()
    assert found["reranked"] == 0.25
    assert found["intervals"]["reranked"] == {"value": 0.25, "low": None, "high": None, "n": 1}
    assert found["mean_rank"] == {"value": 2.0, "low": None, "high": None, "n": 1}


def test_no_problem_at_all_is_no_error():
    found = ShiftFigures((), 1.0).json()
    assert (found["positions"], found["unshifted"]) == (0, None)
    assert sum(map(sum, (found["entropy_histogram"][k] for k in ("unshifted", "reranked", "shifted")))) == 0


def test_the_histogram_counts_every_place_once():
    entropies = [0.0, 0.05, 0.1, 0.99, 2.95, 3.0, 7.5, 11.0]
    found = ShiftFigures((places([1, 2, 6, 1, 1, 1, 2, 1], entropies),), 1.0).histogram()
    assert found["edges"] == EDGES
    assert all(len(found[k]) == len(EDGES) for k in ("unshifted", "reranked", "shifted"))
    assert sum(map(sum, (found[k] for k in ("unshifted", "reranked", "shifted")))) == 8
    assert (found["unshifted"][0], found["reranked"][0]) == (1, 1)
    assert found["shifted"][1] == 1  # an edge belongs to the bin that it opens
    assert (found["unshifted"][9], found["unshifted"][29]) == (1, 1)
    assert (found["unshifted"][30], found["reranked"][30]) == (2, 1)  # everything from 3 nats on


# -- against plain forward passes -------------------------------------------------------------------------------------


def plain_place(base: torch.Tensor, adapted: torch.Tensor) -> tuple[str, float, float, int]:
    """Class, KL, base entropy and rank of one place in 64-bit floats, from the definitions."""
    p, q = base.double().softmax(-1), adapted.double().softmax(-1)
    kl = float((p * (p.log() - q.log())).sum())
    rank = 1 + int((base > base[adapted.argmax()]).sum())
    return "unshifted" if rank == 1 else "reranked" if rank <= 5 else "shifted", kl, float(-(p * p.log()).sum()), rank


@pytest.mark.parametrize("source", ["base", "adapted"])
def test_a_map_is_what_two_plain_networks_say(rl, plain_mini, plain_rl, source):
    for prompt in prompts(rl.base, 3):
        live = ShiftMap(rl, MapJob(prompt, Sampling(), 1.0, source)).run()
        ids = live.ids
        rows = [whole_logits(n, [*prompt, *ids[:-1]], len(prompt) - 1) for n in (plain_mini, plain_rl)]
        assert ids == rows[source == "adapted"].argmax(-1).tolist()
        read = ShiftMap(rl, MapJob(prompt, Sampling(), 1.0, "text", read=tuple(ids))).run()
        assert read.stop == "read"
        assert len(live.shifts) == len(read.shifts) == len(rows[0])
        for shift, again, base, adapted in zip(live.shifts, read.shifts, *rows, strict=True):
            kind, kl, entropy, rank = plain_place(base, adapted)
            assert (shift.kind, shift.rank) == (again.kind, again.rank) == (kind, rank)
            assert shift.kl == pytest.approx(kl, abs=1e-4)
            assert again.kl == pytest.approx(kl, abs=1e-4)
            assert shift.base.entropy == pytest.approx(entropy, abs=1e-4)
            assert shift.base.logp == pytest.approx(float(base.log_softmax(-1)[shift.id]), abs=1e-4)
            assert shift.adapted.logp == pytest.approx(float(adapted.log_softmax(-1)[shift.id]), abs=1e-4)
            assert shift.p == pytest.approx(float(base.softmax(-1)[adapted.argmax()]), abs=1e-4)
            assert shift.back_p == pytest.approx(float(adapted.softmax(-1)[base.argmax()]), abs=1e-4)
            assert shift.back_rank == 1 + int((adapted > adapted[base.argmax()]).sum())
        assert "".join(s.text for s in live.shifts) == "".join(s.text for s in read.shifts)


def test_the_set_run_is_the_sum_of_plain_passes(rl, plain_mini, plain_rl):
    problems = load_set("mini")[:6]
    report = list(ShiftSet(rl, "mini", problems, 1.0, with_placebo=False))[-1]
    kinds: list[str] = []
    entropy: dict[str, list[float]] = {"unshifted": [], "reranked": [], "shifted": []}
    ranks, forks, kls = [], 0, []
    for prompt in prompts(rl.base, 6):
        ids = list(prompt)
        while True:  # greedy without a cache
            ids.append(int(whole_logits(plain_mini, ids, len(ids) - 1)[-1].argmax()))
            if ids[-1] in rl.base.stop_ids:
                break
        rows = [whole_logits(n, ids[:-1], len(prompt) - 1) for n in (plain_mini, plain_rl)]
        for base, adapted in zip(*rows, strict=True):
            kind, kl, h, rank = plain_place(base, adapted)
            kinds.append(kind)
            entropy[kind].append(h)
            kls.append(kl)
            forks += h > 1.0
            ranks += [rank] if rank > 1 else []
    found = report.json()
    assert found["positions"] == len(kinds)
    assert found["disagreements"] == len(ranks) > 0
    assert found["reranked"] == pytest.approx(kinds.count("reranked") / len(kinds))
    assert found["mean_rank"]["value"] == pytest.approx(sum(ranks) / len(ranks))
    assert found["mean_kl"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)
    assert found["on_forks_by_chance"] == pytest.approx(forks / len(kinds))
    ratio = (sum(entropy["reranked"]) / len(entropy["reranked"])) / (
        sum(entropy["unshifted"]) / len(entropy["unshifted"])
    )
    assert found["entropy_ratio"]["value"] == pytest.approx(ratio, rel=1e-4)
    assert sum(sum(found["entropy_histogram"][k]) for k in entropy) == len(kinds)


def test_a_map_and_the_set_give_one_problem_the_same_figures(rl):
    prompt = prompts(rl.base, 1)[0]
    found = ShiftMap(rl, MapJob(prompt, Sampling(), 1.0)).run()
    report = list(ShiftSet(rl, "mini", load_set("mini")[:1], 1.0, with_placebo=False))[-1]
    one, many = map_json(found), report.json()
    for name in ("positions", "disagreements", "reranked", "within_top", "on_forks", "entropy_histogram"):
        assert one[name] == many[name], name
    assert one["mean_kl"] == pytest.approx(many["mean_kl"], abs=1e-5)
    assert map_places(found).rank.tolist() == report.figures.places[0].rank.tolist()


def test_every_report_holds_everything_so_far_and_the_last_the_placebo(rl):
    reports = list(ShiftSet(rl, "mini", load_set("mini")[:3], 1.0))
    assert [r.at for r in reports] == [1, 2, 3, 3, 3]
    assert [r.stage for r in reports] == ["reading", "reading", "reading", "placebo", "done"]
    last = reports[-1].json()
    assert last["placebo"]["positions"] == last["positions"]
    assert last["placebo"]["strength"] > 0
    assert last["noise"]["batch_shape"]["max_dlogit"] < 1e-3
    assert last["noise"]["dtype"]["max_dlogit"] > last["noise"]["batch_shape"]["max_dlogit"]
    json.dumps(last, allow_nan=False)
    assert rl.base.engine.queue.waiting() == 0


def test_a_solution_that_a_stop_cut_off_does_not_count(rl):
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 50  # in the middle of the second solution

    reports = list(ShiftSet(rl, "mini", load_set("mini")[:3], 1.0, cancelled=cancelled))
    assert reports[-1].done
    assert reports[-1].stopped
    assert reports[-1].at == 1
    assert reports[-1].json()["positions"] == reports[0].json()["positions"]
    assert rl.base.engine.queue.waiting() == 0


def test_places_count_the_completion_only_and_each_token_once(rl):
    prompt = prompts(rl.base, 1)[0]
    read = ids_of(rl.base, " First, the facts are 42, 11.")
    found = places_of(rl, "x", ([*prompt, *read], len(prompt) - 1), 0.0)
    assert len(found.rank) == len(found.entropy) == len(found.kl) == len(found.near) == len(read)


def test_one_token_can_be_read(rl):
    prompt = prompts(rl.base, 1)[0]
    found = ShiftMap(rl, MapJob(prompt, Sampling(), 1.0, "text", read=(ids_of(rl.base, " First")[0],))).run()
    assert len(found.shifts) == 1


# -- a script: every figure known ------------------------------------------------------------------------------------


A, B, C, END = 97, 98, 99, 256


def test_a_scripted_map_has_the_classes_that_the_script_has():
    def base(pos: int, last: int) -> dict[int, float]:
        if pos == 3:
            return {END: 9.0}
        return {A: 5.0, B: 4.0, C: 3.0, 100: 2.0, 101: 1.0, 102: 0.0}

    def adapted(pos: int, last: int) -> dict[int, float]:
        return base(pos, last) | {0: {}, 1: {101: 8.0}, 2: {102: 8.0}}.get(pos, {})

    pair = script_pair(base, adapted)
    found = ShiftMap(pair, MapJob(tuple(ids_of(pair.base, PROMPT)), Sampling(), 0.5)).run()
    assert [s.kind for s in found.shifts] == ["unshifted", "reranked", "shifted", "unshifted"]
    assert [s.rank for s in found.shifts] == [1, 5, 6, 1]
    assert [s.back_rank for s in found.shifts] == [1, 2, 2, 1]
    assert found.ids == [A, A, A, END]
    assert found.stop == "eos"
    assert [s.base_gap for s in found.shifts] == [0, 4, 5, 0]
    assert [s.adapted_gap for s in found.shifts] == [0, 3, 3, 0]
    assert [s.pos for s in largest(found.shifts)] == [2, 1]
    z = sum(math.exp(x) for x in (5, 4, 3, 2, 1, 0)) + (258 - 7) * math.exp(-9)
    assert found.shifts[1].p == pytest.approx(math.e / z, rel=0.01)


def test_the_adapted_models_own_text_is_mapped_along_its_own_path():
    pair = script_pair(lambda pos, last: {A: 3.0}, lambda pos, last: {B if last != B else END: 3.0})
    prompt = tuple(ids_of(pair.base, PROMPT))
    found = ShiftMap(pair, MapJob(prompt, Sampling(), 0.5, "adapted")).run()
    assert found.ids == [B, END]
    base = ShiftMap(pair, MapJob(prompt, Sampling(max_new_tokens=4), 0.5)).run()
    assert base.ids == [A] * 4
    assert base.stop == "length"


def test_a_stopped_map_keeps_what_it_has_and_frees_the_engines(rl):
    job = MapJob(prompts(rl.base, 1)[0], Sampling(), 1.0)
    found = ShiftMap(rl, job)
    found.cancelled = lambda: len(found.shifts) >= 5
    found.run()
    assert (len(found.shifts), found.stop) == (5, "cancelled")
    abandoned = iter(ShiftMap(rl, job))
    next(abandoned)
    assert rl.base.engine.queue.waiting() == 1
    abandoned.close()
    assert rl.base.engine.queue.waiting() == 0


def test_a_sampled_map_repeats_with_its_seed(rl):
    prompt = prompts(rl.base, 1)[0]
    ids = [ShiftMap(rl, MapJob(prompt, Sampling(1.0, seed=s), 1.0)).run().ids for s in (3, 3, 4)]
    assert ids[0] == ids[1] != ids[2]
