"""Verdicts at their edges, rows from studies made by hand and from runs on disk, and what the board does on failure."""

import json
import math
import shlex
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rmx.claims import board as board_module
from rmx.claims import from_runs
from rmx.claims import readings as from_pairs
from rmx.claims import readings as from_sampling
from rmx.claims.board import BY_ID, CAVEATS, CLAIMS, MINIATURE, Board, chosen
from rmx.claims.claim import (
    FEWEST,
    LABELS,
    Judged,
    Reading,
    Subject,
    above,
    below,
    by_construction,
    inside,
    label_of,
    needed,
    no_better,
    not_below,
)
from rmx.claims.from_runs import read_runs
from rmx.claims.studies import ClaimOptions, StudyProgress, Swaps, built_so
from rmx.cli.main import _parser
from rmx.cli.train import job_of
from rmx.compare.intervene_set import InterveneReport, PlaceboArm, ProblemArms
from rmx.compare.shift_map import PairOptions
from rmx.compare.shift_set import ReadPlaces, ShiftFigures, ShiftReport
from rmx.errors import RmxError
from rmx.explore.flip_rates import Flip
from rmx.prompt_styles import STYLES
from rmx.records import Problem
from rmx.runs.job import TrainJob
from rmx.runs.recipe import Recipe
from rmx.runs.store import RunStore
from rmx.stats.intervals import difference_of_ratios, exact_share, paired_difference

pytestmark = pytest.mark.slow


def est(value, low, high, n=200, **more):
    return {"value": value, "low": low, "high": high, "n": n, **more}


# -- verdict rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.0, 4.0, "agrees"),  # ends on the edges count as inside
        (1.5, 2.0, "agrees"),
        (0.99, 2.0, "not enough data"),
        (2.0, 4.01, "not enough data"),
        (0.2, 0.9, "differs"),
        (4.2, 5.0, "differs"),
        (0.2, 1.0, "not enough data"),  # touches the range
        (0.1, 9.0, "not enough data"),
    ],
)
def test_inside_looks_at_the_whole_interval(low, high, verdict):
    assert inside(est((low + high) / 2, low, high), 1.0, 4.0).verdict == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, "agrees"), (0.0, 0.2, "not enough data"), (-0.2, 0.0, "not enough data"), (-0.2, -0.01, "differs")],
)
def test_a_direction_agrees_where_its_opposite_is_excluded(low, high, verdict):
    assert above(est((low + high) / 2, low, high), "It is better").verdict == verdict


def test_a_ceiling_may_be_touched_but_not_crossed():
    assert below(est(0.0, 0.0, 0.001), "Nearly none", 0.001).verdict == "agrees"
    assert below(est(0.001, 0.0, 0.002), "Nearly none", 0.001).verdict == "not enough data"
    assert below(est(0.003, 0.002, 0.004), "Nearly none", 0.001).verdict == "differs"


def test_no_better_allows_a_margin_yet_better_is_better():
    assert no_better(est(-0.1, -0.2, 0.0), "No better", 0.02).verdict == "agrees"
    assert no_better(est(0.0, -0.02, 0.02), "No better", 0.02).verdict == "agrees"
    assert no_better(est(0.0, -0.05, 0.05), "No better", 0.02).verdict == "not enough data"
    small = no_better(est(0.01, 0.005, 0.015), "No better", 0.02)  # inside the margin, and surely above 0
    assert small.verdict == "differs"


def test_near_is_told_with_its_margin():
    found = not_below(est(-0.01, -0.04, 0.02), "It comes near", 0.05)
    assert found.verdict == "agrees"
    assert "margin of ours" in found.why
    assert not_below(est(-0.1, -0.2, -0.06), "It comes near", 0.05).verdict == "differs"
    assert not_below(est(-0.04, -0.06, -0.02), "It comes near", 0.05).verdict == "not enough data"


@pytest.mark.parametrize("rule", [lambda e: inside(e, 0, 1), lambda e: above(e, "x"), lambda e: below(e, "x", 9)])
def test_few_problems_never_give_a_verdict(rule):
    assert rule(est(0.5, 0.4, 0.6, n=FEWEST - 1)).verdict == "not enough data"
    assert rule(est(0.5, 0.4, 0.6, n=FEWEST)).verdict == "agrees"
    assert rule(est(0.5, None, None, n=500)).verdict == "not enough data"
    assert "nothing to count" in rule(est(None, None, None, n=500)).why
    assert rule(est(0.5, 0.5, 0.5, n=500)).verdict == "not enough data"  # resamples that all agree know no spread
    assert rule(est(0.5, 0.5, 0.5, n=500, exact=True)).verdict == "agrees"


def test_how_many_problems_would_settle_it():
    assert needed(100, [(0.02, 0.01)]) == 400  # half the width takes four times as many
    assert needed(100, [(0.02, 0.04), (0.03, 0.01)]) == 900  # the worse side counts
    assert needed(100, [(0.02, 0.01)], exact=True) == 200  # an exact bound shrinks with n itself
    assert needed(100, [(0.02, 0.0)]) is None
    assert needed(100, [(0.0, 0.0), (0.02, 0.02)]) == 100  # a side without width asks for nothing
    assert needed(10_000, [(1.0, 1e-6)]) is None
    assert "about 400 problems" in above(est(0.01, -0.01, 0.03, n=100), "It is better").why


def test_the_advice_is_right_for_a_real_interval():
    """As many problems as are advised, with the same outcomes, do settle it; far fewer do not."""
    before, after = [False] * 10 + [True] * 40, [True] * 6 + [False] * 4 + [True] * 36 + [False] * 4
    found = paired_difference(before, after)
    judged = above(found, "It is better", floor=-0.2)
    assert judged.verdict == "not enough data" or found["low"] > -0.2
    floor = found["low"] + 0.25 * (found["value"] - found["low"])
    times = math.ceil(needed(50, [(found["value"] - found["low"], found["value"] - floor)]) / 50) + 1
    assert above(paired_difference(before * times, after * times), "It is better", floor).verdict == "agrees"
    assert above(found, "It is better", floor).verdict == "not enough data"


@pytest.mark.parametrize("verdict", ["agrees", "differs", "not enough data", "open in the paper"])
def test_the_miniature_never_counts_yet_its_figures_are_told(verdict):
    found = by_construction(Judged(verdict, "The whole interval lies inside."))
    assert found.verdict == "by construction"
    assert found.why.startswith("The whole interval lies inside.")
    assert by_construction(Judged("not measured", "No run.")) == Judged("not measured", "No run.")


# -- texts ------------------------------------------------------------------------------------------------------------


def test_every_claim_says_what_it_must():
    assert len(BY_ID) == len(CLAIMS) == 20
    for claim in CLAIMS:
        assert all(len(x) > 5 for x in (claim.title, claim.paper, claim.how, claim.button, *claim.caveats)), claim.id
        assert claim.caveats, claim.id
        assert claim.studies, claim.id
        assert claim.section or any("control of ours" in c for c in claim.caveats), claim.id


def test_claims_are_chosen_in_their_order():
    assert [c.id for c in chosen(("shifted", "reranked"))] == ["reranked", "shifted"]
    assert chosen(None) == CLAIMS
    with pytest.raises(RmxError, match="no claim 'nonsense'"):
        chosen(("reranked", "nonsense"))


def test_figures_named_after_a_number_are_differences():
    assert label_of("pass@8").unit == label_of("tau 1.4").unit == "points"


# -- readings from studies made by hand -------------------------------------------------------------------------------


def subject(**more):
    pair = SimpleNamespace(
        base=SimpleNamespace(
            spec="some/model",
            revision="r",
            dtype="float32",
            engine=SimpleNamespace(device="cpu"),
            style=STYLES["boxed"],
        ),
        name="some/model + a",
    )
    problems = tuple(Problem(str(i), "q", "1") for i in range(40))
    asked = {"model": "some/model", "adapter": "a", "teacher": None}
    return replace(Subject(pair, "gsm8k", problems, 1.2, asked=asked), **more)


def shift_report(ranks_of_each, entropy_of_each):
    places = tuple(
        ReadPlaces(str(i), torch.tensor(h), torch.tensor(r), torch.zeros(len(r)), torch.zeros(len(r), dtype=torch.bool))
        for i, (r, h) in enumerate(zip(ranks_of_each, entropy_of_each, strict=True))
    )
    figures = ShiftFigures(places, 1.2)
    return ShiftReport("gsm8k", "b", "b + a", 1.2, len(places), len(places), 1.0, "done", figures, placebo=figures)


def alike(problems=400):
    """One of 45 or 55 positions is reranked to second place, at seven or nine times the entropy of the others."""
    lengths = [45 + 10 * (i % 2) for i in range(problems)]
    ranks = [[2] + [1] * (n - 1) for n in lengths]
    entropy = [[1.4 + 0.4 * (i // 2 % 2)] + [0.2] * (n - 1) for i, n in enumerate(lengths)]
    return shift_report(ranks, entropy)


def test_shift_rows_are_the_studies_figures():
    found = alike()
    assert from_pairs.reranked(found, subject()).judged.verdict == "agrees"  # 2 %
    assert from_pairs.shifted(found, subject()).judged.verdict == "agrees"  # none of 20,000
    assert from_pairs.mean_rank(found, subject()).judged.verdict == "not enough data"  # 2 everywhere: no spread
    ratio = from_pairs.entropy_ratio(found, subject())
    assert ratio.figures["entropy_ratio"]["value"] == pytest.approx(8)
    assert ratio.judged.verdict == "agrees"
    forks = from_pairs.on_forks(found, subject())
    assert forks.figures["excess"]["value"] == pytest.approx(
        1 - 1 / 50
    )  # every disagreement, against 1 in 50 positions
    assert forks.judged.verdict == "agrees"


def test_a_shifted_position_in_every_solution_differs():
    lengths = [9 + i % 2 for i in range(50)]
    report = shift_report([[9] + [1] * n for n in lengths], [[1.5] + [0.1] * n for n in lengths])
    assert from_pairs.shifted(report, subject()).judged.verdict == "differs"


def arms_report(right_by_arm, patches=1, gated=2, tokens=50, noise=None):
    n = len(next(iter(right_by_arm.values())))
    problems = [
        ProblemArms(
            str(i),
            {
                arm: SimpleNamespace(
                    answer=SimpleNamespace(correct=right[i]), patches=patches, gated=gated, tokens=tokens + i % 2
                )
                for arm, right in right_by_arm.items()
            },
        )
        for i in range(n)
    ]
    placebo = None if noise is None else PlaceboArm(1.0, tuple(noise), tokens * n, patches * n)
    return InterveneReport(
        "gsm8k", "b", "a", 1.2, 0, tuple(right_by_arm), n, 1.0, True, False, tuple(problems), placebo
    )


def right(wins, n=200):
    return [i < wins for i in range(n)]


def arms(**more):
    every = {"base": 80, "teacher": 160, "oracle": 160, "random": 60, "matched": 70, "entropy": 158} | more
    return arms_report({arm: right(wins) for arm, wins in every.items()}, noise=right(78))


def test_rows_of_the_interventions():
    found = arms()
    assert from_pairs.gain(found, subject()).judged.verdict == "agrees"
    oracle = from_pairs.oracle(found, subject())
    assert oracle.judged.verdict == "agrees"  # 200 of 200: at least 98.2 %
    assert oracle.figures["touched"]["value"] == pytest.approx(1 / 50.5)
    assert from_pairs.random_control(found, subject()).judged.verdict == "agrees"
    assert from_pairs.gate(found, subject()).judged.verdict == "agrees"
    assert from_pairs.gate_share(found, subject()).judged.verdict == "agrees"  # 4 %
    placebo = from_pairs.placebo(alike(), found, subject())
    assert placebo.figures["adapter_minus_noise"]["value"] == pytest.approx(0.41)
    assert placebo.judged.verdict == "agrees"


def test_rows_of_the_interventions_the_other_way():
    found = arms(random=140, oracle=120, entropy=90)
    assert from_pairs.random_control(found, subject()).judged.verdict == "differs"
    assert from_pairs.oracle(found, subject()).judged.verdict == "differs"
    assert from_pairs.gate(found, subject()).judged.verdict == "differs"


def test_a_gate_has_nothing_to_match_where_the_teacher_is_no_better():
    found = arms(teacher=80, oracle=80, entropy=80)
    reading = from_pairs.gate(found, subject())
    assert reading.judged.verdict == "not enough data"
    assert "no gain" in reading.judged.why


def test_a_gate_over_half_of_the_tokens_gets_no_verdict():
    """As on SmolLM2, where 1.4 nats take 49 % of the tokens: each row that leans on the gate says so, and why."""
    every = {"base": 80, "teacher": 160, "oracle": 160, "random": 60, "matched": 70, "entropy": 158}
    report = arms_report({arm: right(wins) for arm, wins in every.items()}, gated=25)
    shifts = shift_report([[2] + [1] * 9] * 100, [[1.5, 1.5, 1.4] + [0.2] * 7] * 100)
    for read, found in ((from_pairs.gate, report), (from_pairs.gate_share, report), (from_pairs.on_forks, shifts)):
        reading = read(found, subject())
        assert (reading.judged.verdict, reading.judged.rule) == ("no verdict", None)
        assert "more than a fifth" in reading.judged.why
        assert "--tau-share" in reading.judged.why
        assert reading.figures
    assert "takes 50 %" in from_pairs.gate(report, subject()).judged.why
    assert by_construction(from_pairs.gate(report, subject()).judged).verdict == "no verdict"
    assert from_pairs.gain(report, subject()).judged.verdict == "agrees"  # it does not lean on the gate
    narrow = arms_report({arm: right(wins) for arm, wins in every.items()}, gated=10)
    assert from_pairs.gate_share(narrow, subject()).judged.verdict == "differs"  # 19.8 %, which is judged


def test_a_placebo_that_was_not_run_is_not_measured():
    report = replace(arms(), placebo=None)
    assert from_pairs.placebo(alike(), report, subject()).judged.verdict == "not measured"


def test_swaps_are_weighted_by_the_probability_of_their_token():
    def flip(problem, fork, pos, p, flipped):
        return Flip(problem, fork, pos, p, False, flipped, True)

    flips = []
    for i in range(50):
        flips += [flip(str(i), True, 3, 0.4, True), flip(str(i), True, 3, 0.1, False)]
        flips += [flip(str(i), False, 7, 0.01, True)]
    reading = from_sampling.swaps(Swaps(tuple(map(str, range(50))), tuple(flips)), subject())
    assert reading.figures["forks"]["value"] == pytest.approx(0.4)
    assert reading.figures["elsewhere"]["value"] == pytest.approx(0.01)
    assert reading.judged.verdict == "agrees"


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (est(-0.2, -0.3, -0.1), "turns"),
        (est(0.02, 0.0, 0.04), "shrinks from"),
        (est(0.1, 0.0, 0.2), "cannot be said"),
        (est(0.4, 0.35, 0.5), "grows"),
    ],
)
def test_pass_at_k_stays_open_and_tells_the_trend(last, says):
    document = {"paired": [{"name": "a", "pass@k": {"1": est(0.1, 0.05, 0.15), "16": last, "4": est(0.1, 0.0, 0.2)}}]}
    reading = from_sampling.pass_at_k(SimpleNamespace(json=lambda: document), subject())
    assert reading.judged.verdict == "open in the paper"
    assert says in reading.judged.why
    assert "pass@16" in reading.text


def test_differences_of_ratios_are_those_of_the_sums():
    found = difference_of_ratios([1, 3] * 20, [2, 4] * 20, [1, 0] * 20, [10, 10] * 20)
    assert found["value"] == pytest.approx(4 / 6 - 1 / 20)
    assert found["low"] < found["value"] < found["high"]
    assert difference_of_ratios([0], [0], [1], [2])["value"] is None


def test_exact_bounds_where_all_or_none_are_counted():
    assert exact_share(0, 100)["high"] == pytest.approx(1 - 0.025**0.01)
    assert exact_share(100, 100)["low"] == pytest.approx(0.025**0.01)
    assert "exact" not in exact_share(50, 100)


# -- readings from runs on disk ---------------------------------------------------------------------------------------


def put_run(root, name, kind="train", model="some/model", state="done", created=1.0, recipe=None, done=None, **files):
    folder = root / name
    folder.mkdir(parents=True)
    stored = (recipe or Recipe()).json()
    config = {"id": name, "created": created, "kind": kind, "model": model, "set": "gsm8k", "recipe": stored}
    written = {
        "config.json": config | {"preset": "paper", "adapter": files.pop("adapter", None)},
        "status.json": {"state": state},
        "summary.json": {"done": {"kind": "done", "seconds": 1800, "split": "test", "usd": None} | (done or {})},
    }
    for file, content in (written | {f"{k}.json": v for k, v in files.items()}).items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")


def solved(before, after):
    return {
        "problems": {
            side: [{"id": str(i), "correct": c} for i, c in enumerate(rights)]
            for side, rights in (("before", before), ("after", after))
        }
    }


def gained(before, after, n=200):
    b, a = right(before, n), right(after, n)
    return {"before": est(before / n, 0, 1, n), "after": est(after / n, 0, 1, n), "vs_base": paired_difference(b, a)}


def runs_in(root):
    return read_runs(RunStore(root), "some/model")


ROWS_OF_RUNS = ("low-rank", "reasonmaxxer", "positive-only", "random-gate", "tau-range", "cost")


@pytest.mark.parametrize("name", ROWS_OF_RUNS)
def test_without_runs_a_row_tells_the_command_that_would_make_one(tmp_path, name):
    put_run(tmp_path, "other", model="another/model", done=gained(80, 120))
    put_run(tmp_path, "going", state="running")
    put_run(tmp_path, "stopped", state="stopped", done=gained(80, 120))
    reading = BY_ID[name].read(runs_in(tmp_path), subject())
    assert reading.judged.verdict == "not measured"
    assert "rmx " in reading.judged.why
    assert "--model some/model" in reading.judged.why


def test_a_broken_run_is_no_evidence(tmp_path):
    put_run(tmp_path, "odd", done=gained(80, 120))
    (tmp_path / "odd" / "config.json").write_text("{", encoding="utf-8")
    assert runs_in(tmp_path).all == ()


def test_the_newest_run_counts_and_the_others_are_named(tmp_path):
    put_run(tmp_path, "old", created=1.0, done=gained(80, 180))
    put_run(tmp_path, "new", created=2.0, done=gained(80, 82))
    reading = from_runs.reasonmaxxer(runs_in(tmp_path), subject())
    assert reading.text.startswith("new:")
    assert "The newest of 2 runs" in reading.text
    assert "+50 points" in reading.text
    assert reading.judged.verdict == "not enough data"


def test_a_run_that_was_only_validated_does_not_count(tmp_path):
    put_run(tmp_path, "run", done=gained(80, 180) | {"split": "validation"})
    assert from_runs.reasonmaxxer(runs_in(tmp_path), subject()).judged.verdict == "not measured"


def test_half_of_the_gain_by_twins(tmp_path):
    full, half = right(160), right(120)
    put_run(tmp_path, "full", done=gained(80, 160), evaluation=solved(right(80), full))
    put_run(
        tmp_path,
        "half",
        recipe=Recipe().with_(positive_only=True),
        done=gained(80, 120),
        evaluation=solved(right(80), half),
    )
    reading = from_runs.positive_only(runs_in(tmp_path), subject())
    assert reading.figures["share_of_gain"]["value"] == pytest.approx(0.5)
    assert reading.judged.verdict == "agrees"


def suggested(name, tmp_path):
    """The command that a row tells, after its `rmx train`."""
    asked = {"model": "some/model", "adapter": "a", "teacher": None, "style": "--style abel"}
    why = BY_ID[name].read(runs_in(tmp_path), subject(asked=asked)).judged.why
    return why.partition(" Make one: rmx train ")[2]


def test_a_run_that_lacks_its_twin_gets_the_command_of_that_very_twin(tmp_path):
    recipe = Recipe().with_(lr=5e-4, seed=7, tau=1.4)
    put_run(tmp_path, "full", recipe=recipe, done=gained(80, 160), evaluation=solved(right(80), right(160)))
    path = tmp_path / "full" / "config.json"
    config = json.loads(path.read_text()) | {"style": {"style": "abel"}, "adapter": "/some where/adapter"}
    path.write_text(json.dumps(config))
    ran = TrainJob.from_json(config)
    for name, changes in (("positive-only", {"positive_only": True}), ("random-gate", {"gate": "random"})):
        words = shlex.split(suggested(name, tmp_path))
        made = job_of(_parser().parse_args(["train", *words]))
        assert made.recipe == recipe.with_(**changes)
        assert (made.model, made.set_name, made.preset) == ("some/model", "gsm8k", "paper")
        assert (made.style.style, made.init_adapter) == ("abel", "/some where/adapter")
        assert made.style == ran.style


def test_where_only_the_twin_is_there_the_plain_run_is_suggested(tmp_path):
    recipe = Recipe().with_(positive_only=True, seed=9)
    put_run(tmp_path, "half", recipe=recipe, done=gained(80, 120), evaluation=solved(right(80), right(120)))
    command = suggested("positive-only", tmp_path)
    assert "--seed 9" in command
    assert "--positive-only" not in command


def test_without_any_run_the_command_asks_as_the_claims_do(tmp_path):
    assert suggested("reasonmaxxer", tmp_path) == "--model some/model --set gsm8k --style abel"
    assert suggested("positive-only", tmp_path).endswith("--style abel --positive-only")


def test_runs_that_were_asked_otherwise_are_no_twins(tmp_path):
    put_run(tmp_path, "full", done=gained(80, 160), evaluation=solved(right(80), right(160)))
    half = Recipe().with_(positive_only=True)
    put_run(tmp_path, "half", recipe=half, done=gained(80, 120), evaluation=solved(right(80), right(120)))
    path = tmp_path / "half" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"style": {"style": "abel"}}))
    assert from_runs.positive_only(runs_in(tmp_path), subject()).judged.verdict == "not measured"


def test_twins_differ_in_one_thing_only(tmp_path):
    put_run(tmp_path, "full", done=gained(80, 160), evaluation=solved(right(80), right(160)))
    other = Recipe().with_(positive_only=True, lr=5e-4)
    put_run(tmp_path, "half", recipe=other, done=gained(80, 120), evaluation=solved(right(80), right(120)))
    assert from_runs.positive_only(runs_in(tmp_path), subject()).judged.verdict == "not measured"


def test_a_random_gate_is_beaten_or_not(tmp_path):
    put_run(tmp_path, "entropy", done=gained(80, 160), evaluation=solved(right(80), right(160)))
    chance = Recipe().with_(gate="random")
    put_run(tmp_path, "chance", recipe=chance, done=gained(80, 90), evaluation=solved(right(80), right(90)))
    reading = from_runs.random_gate(runs_in(tmp_path), subject())
    assert reading.figures["entropy_minus_random"]["value"] == pytest.approx(0.35)
    assert reading.judged.verdict == "agrees"


def test_every_threshold_in_the_range_must_work(tmp_path):
    def sweep(*gains):
        taus = [{"tau": t, "share": 0.05, "test_vs_base": paired_difference(right(80), right(w))} for t, w in gains]
        return {"taus": taus, "chosen": 0}

    put_run(tmp_path, "a", kind="sweep", created=1.0, sweep=sweep((1.0, 120), (1.4, 130), (2.2, 110), (3.0, 40)))
    assert from_runs.tau_range(runs_in(tmp_path), subject()).judged.verdict == "agrees"  # 3.0 lies outside the range
    put_run(tmp_path, "b", kind="sweep", created=2.0, sweep=sweep((1.0, 120), (1.4, 81)))
    assert from_runs.tau_range(runs_in(tmp_path), subject()).judged.verdict == "not enough data"
    put_run(tmp_path, "c", kind="sweep", created=3.0, sweep=sweep((1.0, 120), (1.4, 40)))
    assert from_runs.tau_range(runs_in(tmp_path), subject()).judged.verdict == "differs"
    broken = sweep((1.0, 120), (1.4, 130))
    broken["taus"].append({"tau": 2.0, "share": 0.02, "test_vs_base": None})
    put_run(tmp_path, "d", kind="sweep", created=4.0, sweep=broken)
    reading = from_runs.tau_range(runs_in(tmp_path), subject())
    assert reading.judged.verdict == "not enough data"
    assert "2 nats made no adapter" in reading.judged.why


def test_cost_counts_only_for_the_whole_recipe(tmp_path):
    put_run(tmp_path, "small", recipe=Recipe().with_(problems=8), done=gained(80, 90) | {"usd": 0.02})
    assert from_runs.cost(runs_in(tmp_path), subject()).judged.verdict == "not enough data"
    put_run(tmp_path, "whole", created=2.0, done=gained(80, 90) | {"usd": 4.4})
    assert from_runs.cost(runs_in(tmp_path), subject()).judged.verdict == "agrees"
    put_run(tmp_path, "dear", created=3.0, done=gained(80, 90) | {"usd": 26.0})
    assert from_runs.cost(runs_in(tmp_path), subject()).judged.verdict == "differs"


def test_a_rate_that_is_entered_later_prices_a_run_that_is_there(tmp_path):
    from rmx.runs.rates import set_rate

    put_run(tmp_path, "mine", done=gained(80, 90), stages={"seconds": {"training": 1800}, "device": "cpu"})
    assert from_runs.cost(runs_in(tmp_path), subject()).judged.verdict == "not measured"
    set_rate("cpu", 2.0, tmp_path)
    reading = from_runs.cost(runs_in(tmp_path), subject())
    assert reading.figures["usd"]["value"] == pytest.approx(1.0)
    assert reading.judged.verdict == "agrees"


def test_a_distillation_of_this_teacher_comes_first(tmp_path):
    from rmx.runs.recipe import DistillRecipe

    near = {"teacher": est(0.8, 0.7, 0.9), "vs_teacher": est(-0.001, -0.015, 0.012), **gained(80, 159)}
    far = {"teacher": est(0.8, 0.7, 0.9), "vs_teacher": est(-0.3, -0.4, -0.2), **gained(80, 100)}
    put_run(tmp_path, "ours", "distill", created=1.0, recipe=DistillRecipe(rank=8), done=near, adapter="a")
    put_run(tmp_path, "theirs", "distill", created=2.0, recipe=DistillRecipe(), done=far, adapter="b")
    put_run(tmp_path, "wide", "distill", created=3.0, recipe=DistillRecipe(rank=256), done=far, adapter="a")
    reading = from_runs.distilled(runs_in(tmp_path), subject())
    assert reading.text.startswith("ours (rank 8")
    assert reading.judged.verdict == "agrees"


# -- the board --------------------------------------------------------------------------------------------------------


def study(found, at=3):
    def made(_, cancelled):
        for i in range(1, at + 1):
            if cancelled():
                return
            yield StudyProgress(i, at, found)

    return made


@pytest.fixture
def studies(monkeypatch, tmp_path):
    """Studies made by hand in place of the real ones."""
    put_run(tmp_path, "new", done=gained(80, 160))
    made = {
        "shifts": study(alike()),
        "interventions": study(arms()),
        "runs": study(runs_in(tmp_path), 1),
    }
    monkeypatch.setattr(board_module, "STUDIES", made)
    return made


def test_a_study_is_made_once_for_all_its_claims(studies, monkeypatch):
    calls = []
    monkeypatch.setitem(studies, "shifts", lambda s, c: calls.append(1) or study(alike())(s, c))
    *_, last = Board(subject(), chosen(("reranked", "shifted", "mean-rank", "gain")))
    assert len(calls) == 1
    assert [r.verdict for r in last.rows] == ["agrees", "agrees", "agrees", "not enough data"]
    assert [r.state for r in last.rows] == ["done"] * 4


def test_the_rows_of_a_study_are_told_while_it_goes_on(studies):
    told_states = [[r.state for r in report.rows] for report in Board(subject(), chosen(("reranked", "gain")))]
    assert ["waiting", "measuring"] in told_states
    assert told_states[-1] == ["done", "done"]


def test_a_stopped_study_tells_what_it_has(studies):
    stop = []
    reports = []
    for report in Board(subject(), chosen(("reranked", "gain", "placebo")), lambda: bool(stop)):
        reports.append(report)
        if report.study == "shifts" and report.at == 2:
            stop.append(1)
    last = reports[-1]
    assert last.stopped
    states = {r.claim.id: r.state for r in last.rows}
    assert states == {"gain": "waiting", "reranked": "stopped", "placebo": "stopped"}
    assert last.rows[1].reading is not None
    assert last.json()["rows"][1]["verdict"] == "agrees"
    assert last.json()["rows"][0]["verdict"] == "not measured"


def test_a_study_that_fails_leaves_the_others_alone(studies, monkeypatch):
    def broken(_, cancelled):
        yield StudyProgress(1, 3, None)
        raise RmxError("This model has no such layers.")

    monkeypatch.setitem(studies, "shifts", broken)
    *_, last = Board(subject(), chosen(("reranked", "gain")))
    assert [r.verdict for r in last.rows] == ["agrees", "not measured"]
    assert last.rows[1].why == "This model has no such layers."


def test_on_the_miniature_no_measured_row_counts(studies):
    wanted = chosen(("gain", "reranked", "mean-rank", "oracle", "reasonmaxxer", "low-rank"))
    *_, last = Board(subject(by_construction=True), wanted)
    verdicts = {r.claim.id: r.verdict for r in last.rows}
    assert set(verdicts.values()) == {"by construction", "not measured"}
    assert verdicts["low-rank"] == "not measured"  # there is no such run: nothing was measured
    assert MINIATURE in last.json()["caveats"]
    assert "whole interval" in next(r.why for r in last.rows if r.claim.id == "reranked")


def test_the_document_has_what_is_promised(studies):
    *_, last = Board(subject(), chosen(("gain", "reranked")))
    found = json.loads(json.dumps(last.json(), allow_nan=False))
    assert {"model", "adapter", "set", "n", "tau", "seed", "rows", "caveats", "seconds", "versions"} <= found.keys()
    wanted = {"id", "section", "claim", "paper", "measured", "n", "verdict", "why", "minutes", "button"}
    assert all(wanted <= row.keys() for row in found["rows"])
    assert found["caveats"] == list(CAVEATS)
    assert all(name in LABELS for row in found["rows"] for name in row["measured"]["figures"])


# -- asking -----------------------------------------------------------------------------------------------------------


def test_the_miniature_is_known_under_any_name(mini, tiny):
    assert built_so(mini)
    assert built_so(replace(mini, spec="/somewhere/copy"))
    assert not built_so(tiny)


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 1000}, {"budget": 0}])
def test_numbers_that_cannot_be_used_are_refused(options):
    with pytest.raises(RmxError):
        ClaimOptions(PairOptions(), **options)


def test_problems_need_answers(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text('{"problem": "1 + 1?"}\n', encoding="utf-8")
    with pytest.raises(RmxError, match="without a known answer"):
        ClaimOptions(PairOptions(set_name=str(own))).subject()


def test_a_reading_without_figures_is_still_a_row():
    assert Reading("–", Judged("not measured", "No run.")).figures == {}
