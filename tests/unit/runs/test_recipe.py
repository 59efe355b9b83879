"""The recipe, its flags and the job around it."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from rmx.cli.options import add_recipe, recipe_of
from rmx.data.problem_sets import load_set
from rmx.errors import RmxError, TrainError
from rmx.runs.job import TrainJob, problems_of, resolved
from rmx.runs.recipe import HELP, PAPER, PRESETS, Recipe, command, field_types


def parsed(words: list[str]) -> Recipe:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="paper")
    add_recipe(parser)
    args = parser.parse_args(words)
    return recipe_of(args, args.preset)


def test_defaults_are_the_papers() -> None:
    flat = Recipe().flat()
    paper = {
        "k": 20, "problems": 150, "temperature": 0.6, "top_p": 0.95, "select": 50, "trim": 0.8, "adv_clip": 2.5,
        "kl_weight": 0.2, "kl_on": "all", "rank": 32, "alpha": 64, "dropout": 0.0, "lr": 1e-4, "warmup_steps": 50,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "micro_batch": 1, "grad_accum": 8, "epochs": 1, "order": "clarity",
        "max_seq_len": 8192, "checkpoint_every": 0.15, "neg_floor_nats": None, "positive_only": False, "seed": 42,
    }  # fmt: skip
    assert {name: flat[name] for name in paper} == paper
    assert Recipe().departures() == {}


def test_every_field_has_a_flag_with_help() -> None:
    assert set(HELP) == set(Recipe().flat()) == set(field_types())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tau": 1.25, "positive_only": True, "targets": ("q_proj", "o_proj")},
        {"tau_share": 0.05, "guards": False, "neg_floor_nats": 0.75, "max_steps": 7},
        {"lr": 3e-5, "neg_floor_nats": None, "order": "file", "recompute": True},
    ],
)
def test_the_command_makes_the_same_recipe(preset: str, changes: dict[str, Any]) -> None:
    recipe = PRESETS[preset].with_(**changes)
    assert parsed(command(recipe, preset)) == recipe
    assert Recipe.from_json(recipe.json()) == recipe


def test_a_share_replaces_a_presets_tau_and_back() -> None:
    args = argparse.Namespace(recipe_tau_share=0.05)
    assert recipe_of(args).gate.tau is None
    with pytest.raises(RmxError, match="not both"):
        PAPER.with_(tau=1.0, tau_share=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 0),
        ("lr", 0.0),
        ("trim", 1.5),
        ("gate", "some"),
        ("targets", ()),
        ("tau", -1.0),
        ("epochs", 1.5),
        ("k", "x" * 10**6),
        ("gate", "x" * 10**6),
        ("temperature", 10**400),
        ("temperature", float("nan")),
        ("temperature", True),
        ("top_p", "x" * 10**6),
        ("seed", 2**62),
        ("seed", 1.0),
    ],
    ids=range(15),
)
def test_values_that_cannot_be_are_named(name: str, value: Any) -> None:
    with pytest.raises(RmxError, match=name) as refused:
        PAPER.with_(**{name: value})
    assert len(str(refused.value)) < 200


def test_departures_name_both_values() -> None:
    assert PAPER.with_(lr=2e-4).departures() == {"lr": (1e-4, 2e-4)}


def test_job_goes_through_its_config() -> None:
    job = TrainJob("mini", "mini", PRESETS["floor"].with_(seed=3), "floor", init_adapter="a", pins=({"said": 1},))
    assert TrainJob.from_json(job.json()) == job
    assert job.words()[:4] == ["rmx", "train", "--model", "mini"]
    assert job.words()[-2:] == ["--seed", "3"]
    with pytest.raises(TrainError, match="config.json"):
        TrainJob.from_json({"model": "mini"})


def test_splits_share_no_problem_and_the_seed_draws() -> None:
    recipe = PRESETS["small"]
    one, two = (problems_of(TrainJob(recipe=recipe.with_(seed=seed))) for seed in (1, 2))
    texts = [{p.problem for p in side} for side in (one.train, one.validation, one.test)]
    assert not texts[0] & (texts[1] | texts[2])
    assert not texts[1] & texts[2]
    assert len(one.train) == recipe.rollouts.problems
    assert [p.id for p in one.train] != [p.id for p in two.train]
    assert one.test == two.test


def test_test_problems_are_not_trained_on() -> None:
    with pytest.raises(TrainError, match="test problems"):
        problems_of(TrainJob(set_name="mini:test"))


def test_an_own_file_is_dealt_by_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f'{{"problem": "What is {i} + 1?", "answer": "{i + 1}"}}\n' for i in range(200)))
    job = resolved(TrainJob(set_name=str(path), recipe=PAPER.with_(problems=1000, validation=1000, test=1000)))
    sides = problems_of(job)
    counts = [len(sides.train), len(sides.validation), len(sides.test)]
    assert sum(counts) == 200
    assert counts[0] > 100
    assert min(counts[1:]) > 5
    assert len({p.problem for p in load_set(str(path))}) == 200


def test_the_path_of_a_resumed_run_is_absolute_with_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"problem": "1 + 1?"}\n')
    for name in ("own.jsonl", "own.jsonl:train"):
        assert resolved(TrainJob(set_name=name)).set_name == f"{tmp_path}/{name}"
    for name in ("mini", "mini:train", "gone.jsonl:train", "mini:dev"):
        assert resolved(TrainJob(set_name=name)).set_name == name


def test_a_job_needs_problems() -> None:
    with pytest.raises(RmxError, match="--from-rollouts"):
        TrainJob(set_name=None)


@pytest.mark.parametrize("key", ["model", "set", "recipe", "preset"])
def test_a_stored_training_job_without_what_every_one_has_is_refused(key: str) -> None:
    stored = TrainJob().json()
    assert TrainJob.from_json(stored) == TrainJob()
    del stored[key]
    with pytest.raises(TrainError, match=rf"config\.json cannot be used \('{key}'\)"):
        TrainJob.from_json(stored)
