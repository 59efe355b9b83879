"""ReasonMaxxer on the miniature: the harness on tiny runs, and the adapter that ships."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.mini.build.build import (
    SEEDS,
    Variant,
    chosen,
    compared,
    evaluate_runs,
    reasonmaxxer_card,
    results,
    ship,
    train_variants,
)
from rmx.mini.build.build import VARIANTS as ALL
from rmx.mini.build.mini_figures import KINDS
from rmx.mini.problem_sets import mini_set
from rmx.models import load as models
from rmx.models.adapters import add_adapter
from rmx.models.names import shipped_adapters
from rmx.train.heldout import Solution, Solutions, solve

pytestmark = pytest.mark.slow

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


@pytest.mark.long
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
    assert json.loads(told[1]) == one


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


def test_changes_are_paired_within_a_kind():
    ids = [p.id for p in mini_set("test")[:30]]
    kinds = {p.id: p.held_out for p in mini_set("test")}

    def solved(right):
        return Solutions(tuple(Solution(i, (), "", "1", right(i), False) for i in ids))

    found = compared(ids, solved(lambda i: False), solved(lambda i: kinds[i] == "wording"))
    assert found["held_out_wording"]["change"]["value"] == 1.0
    assert found["held_out_numbers"]["change"]["value"] == 0.0


def _run(seed, value, gap, variant="small"):
    return {"variant": variant, "seed": seed, "gap": gap, "validation": {"adapted": {"value": value}}}


def test_the_run_that_ships_is_chosen_on_validation():
    best = _run(2, 0.7, 0.3)
    assert chosen([_run(1, 0.7, 0.2), best, _run(3, 0.6, 0.9), _run(1, 0.9, 0.9, "floor")]) is best
    assert chosen([_run(3, 0.7, 0.2), _run(1, 0.7, 0.2)])["seed"] == 1


# ---------------------------------------------------------------- the adapter that ships

SHIPPED = ASSETS / "mini" / "reasonmaxxer"


def stored(name: str):
    return json.loads((SHIPPED / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def loaded():
    """Base and shipped adapter, as the app loads them."""
    model = models.load("mini", device="cpu")
    add_adapter(model, "reasonmaxxer")
    return model


def test_the_bundled_adapter_belongs_to_the_bundled_base(loaded):
    assert "reasonmaxxer" in shipped_adapters(loaded.spec)
    assert stored("training.json")["base"]["revision"] == stored("figures.json")["base"] == loaded.revision
    prints = stored("training.json")["adapter"], stored("figures.json")["adapter"]
    assert prints == (models.fingerprint(SHIPPED),) * 2


def test_the_bundled_adapter_is_plain_small_and_portable():
    config = stored("adapter_config.json")
    assert config["base_model_name_or_path"] == "mini"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (32, 64, "LORA")
    assert {w.dtype for w in load_file(SHIPPED / "adapter_model.safetensors").values()} == {torch.float16}
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert sum(files.values()) < 500_000
    assert not [name for name in files if name.endswith((".bin", ".part", ".jsonl"))]
    for name in set(files) - {"adapter_model.safetensors"}:
        text = (SHIPPED / name).read_text(encoding="utf-8")
        assert "/tmp" not in text
        assert ".venv" not in text


def test_the_bundled_adapter_gives_the_stored_greedy_answers(loaded):
    expected = stored("figures.json")["greedy_answers"]
    problems = load_set("mini:test")[: len(expected)]
    found = solve(loaded, problems, "reasonmaxxer", 220)
    assert {s.id: s.answer for s in found.each} == expected


def test_plain_peft_gives_the_logits_of_our_loader(loaded):
    plain = AutoModelForCausalLM.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    ids = torch.tensor([loaded.prompt_ids(load_set("mini:test")[0].problem)])
    peft = PeftModel.from_pretrained(plain, SHIPPED).eval()
    with torch.no_grad(), loaded.engine.using("reasonmaxxer"):
        assert torch.equal(peft(input_ids=ids).logits, loaded.engine.model(input_ids=ids).logits)


def test_every_variant_was_measured_with_three_seeds_by_the_recipes_of_today():
    runs = stored("figures.json")["runs"]
    assert {(r["variant"], r["seed"]) for r in runs} == {(v.name, s) for v in ALL for s in SEEDS}
    recipes = {(v.name, s): v.recipe(s).departures() for v in ALL for s in SEEDS}
    for run in runs:
        expected = {k: list(pair) for k, pair in recipes[run["variant"], run["seed"]].items() if k in run["departures"]}
        assert run["departures"] == json.loads(json.dumps(expected))
        assert (run["held_out_numbers"]["change"]["n"], run["held_out_wording"]["change"]["n"]) == (300, 100)


def test_each_seed_of_the_default_gains_beyond_chance():
    runs = [r for r in stored("figures.json")["runs"] if r["variant"] == "small"]
    assert len(runs) == 3
    assert min(r["held_out_numbers"]["change"]["low"] for r in runs) > 0


def test_what_ships_was_chosen_on_validation_and_measures_as_its_run():
    figures = stored("figures.json")
    best = chosen(figures["runs"])
    assert figures["shipped"] == {key: best[key] for key in ("variant", "seed", "checkpoint")}
    for kind in KINDS:  # half precision and other batches may turn a problem or two
        ours = figures[kind]["adapted"]["greedy"]["value"]
        assert ours == pytest.approx(best[kind]["adapted"]["value"], abs=0.011)


def test_the_card_has_the_stored_figures():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert card == reasonmaxxer_card(stored("figures.json"))
    assert "By construction" in card
    for variant in ALL:
        assert card.count(f"| {variant.title} |") == 3
