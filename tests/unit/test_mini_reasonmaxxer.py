"""ReasonMaxxer on the miniature: the harness on tiny runs, and the adapter that ships."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rmx import models
from rmx.mini.problems import mini_set
from rmx.mini.reasonmaxxer import (
    KINDS,
    Variant,
    chosen,
    compared,
    evaluate_runs,
    outcome_line,
    results,
    run_line,
    ship,
    train_variants,
)
from rmx.problems import load_set
from rmx.records import Answer
from rmx.train.greedy import Solution, Solutions

TINY = {
    "k": 4, "problems": 8, "select": 3, "max_new_tokens": 120, "validation": 4, "validation_k": 2, "epochs": 1,
    "rank": 2, "alpha": 4, "checkpoint_every": 1.0, "guards": False,
}  # fmt: skip
VARIANTS = (
    Variant("small", "small", "default", TINY),
    Variant("random_gate", "small", "random", TINY | {"gate": "random"}),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tiny variants with one seed: their folder, and what was told."""
    work, told = tmp_path_factory.mktemp("runs"), list[str]()
    train_variants("mini", work, told.append, VARIANTS, (5,))
    return work, told


def test_each_variant_is_a_run_of_its_own_on_the_same_rollouts(runs):
    work, told = runs
    one, two = results(work, VARIANTS, (5,))
    assert (one["variant"], two["variant"], one["seed"]) == ("small", "random_gate", 5)
    assert two["departures"]["gate"] == ["entropy", "random"]
    assert "seed" not in one["departures"]
    assert one["rollouts"] == two["rollouts"]
    files = [(work / f"{name}-5" / "rollouts.jsonl").read_bytes() for name in ("small", "random_gate")]
    assert files[0] == files[1]
    assert not (work / "small-5" / "evaluation.json").exists()  # the test split was left alone
    assert one["validation"]["change"]["n"] == 4
    assert run_line(one) == told[1]


def test_finished_runs_are_not_made_again(runs):
    work, _ = runs
    before = (work / "small-5" / "events.jsonl").exists(), (work / "small-5" / "stages.json").stat().st_mtime_ns
    train_variants("mini", work, lambda line: None, VARIANTS, (5,))
    after = (work / "small-5" / "events.jsonl").exists(), (work / "small-5" / "stages.json").stat().st_mtime_ns
    assert before == after


def test_shipped_files_are_the_run_in_half_precision(runs, tmp_path):
    work, _ = runs
    ship(work / "small-5", tmp_path / "out")
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", work / "small-5" / "adapter")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].half()) for name in ours)
    about = json.loads((tmp_path / "out" / "training.json").read_text())
    assert about["adapter"] == models.fingerprint(tmp_path / "out")
    assert about["base"]["name"] == "mini"


def test_test_problems_are_counted_by_what_was_held_out(runs):
    work, _ = runs
    kinds = {p.id: p.held_out for p in mini_set("test")}
    problems = load_set("mini:test")[:10]
    found = next(evaluate_runs("mini", work, results(work, VARIANTS, (5,)), problems))
    for name, kind in KINDS.items():
        assert found[name]["change"]["n"] == sum(kinds[p.id] == kind for p in problems)
        value = found[name]["adapted"]["value"] - found[name]["base"]["value"]
        assert found[name]["change"]["value"] == pytest.approx(value)
    assert "numbers" in outcome_line(found)


def test_changes_are_paired_within_a_kind():
    ids = [p.id for p in mini_set("test")[:30]]
    kinds = {p.id: p.held_out for p in mini_set("test")}

    def solved(right):
        return Solutions(tuple(Solution(i, (), "", Answer("1", right(i)), False) for i in ids))

    found = compared(ids, solved(lambda i: False), solved(lambda i: kinds[i] == "wording"))
    assert found["held_out_wording"]["change"]["value"] == 1.0
    assert found["held_out_numbers"]["change"]["value"] == 0.0


def _run(seed, value, gap, variant="small"):
    return {"variant": variant, "seed": seed, "gap": gap, "validation": {"adapted": {"value": value}}}


def test_the_run_that_ships_is_chosen_on_validation():
    best = _run(2, 0.7, 0.3)
    assert chosen([_run(1, 0.7, 0.2), best, _run(3, 0.6, 0.9), _run(1, 0.9, 0.9, "floor")]) is best
    assert chosen([_run(3, 0.7, 0.2), _run(1, 0.7, 0.2)])["seed"] == 1
