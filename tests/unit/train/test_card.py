"""The model card: what it says, what it must not say, and that its snippet runs."""

import ast
import re

import pytest
import torch
from huggingface_hub import metadata_load
from peft import PeftModel

from rmx.models.load import Model
from rmx.runs.recipe import PAPER, SMALL, SMALL_DISTILL
from rmx.train.adapter_folder import (
    BaseFacts,
    PassRates,
    Provenance,
    adapter_card,
    base_of,
    provenance,
    set_label,
    snippet,
    spec_label,
)
from tests.conftest import qwen, wrap

COMMIT = "8faed761d45a263340a0528343f099c05c9a4323"
QWEN = BaseFacts("Qwen/Qwen2.5-1.5B", "hub", COMMIT, "apache-2.0", "bfloat16")
MINI = BaseFacts("mini", "bundled", "sha256:6ebb007138f380d8", "apache-2.0", "float32")


def estimate(value: float, n: int = 100) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.04, "n": n}


def config(recipe=PAPER, **more) -> dict:
    stored = {"id": "20261125-2142-mini-ab3f", "recipe": recipe.json(), "set": "gsm8k:train", "adapter": None}
    return stored | {"versions": {"torch": "2.13.0", "peft": "0.21.2"}} | more


EVENTS = [
    {"t": 1.0, "kind": "rollouts", "at": 3, "of": 4, "histogram": [9, 9, 9]},
    {"t": 2.0, "kind": "rollouts", "at": 4, "of": 4, "histogram": [1, 2, 0, 1]},
    {"t": 3.0, "kind": "selection", "problems": 150, "sampled": 3000, "kept": 50, "rollouts": 800, "trimmed": 200,
     "right": 390, "wrong": 410, "out": {"all_right": 60, "all_wrong": 0, "further_from_half": 40}, "histogram": []},
    {"t": 4.0, "kind": "gate", "tau": 1.4, "tokens": 200000, "gated": 10400, "share": 0.052, "gate": "entropy",
     "estimate": {"seconds": 9}},
    {"t": 5.0, "kind": "check", "optimizer_step": 0, "pass@1": estimate(0.30, 60), "vs_base": None, "best": True},
    {"t": 6.0, "kind": "check", "optimizer_step": 25, "pass@1": estimate(0.40, 60), "vs_base": estimate(0.10, 60),
     "best": True},
    {"t": 7.0, "kind": "check", "optimizer_step": 50, "pass@1": estimate(0.35, 60), "vs_base": estimate(0.05, 60),
     "best": False},
]  # fmt: skip
DONE = {
    "seconds": 754.2, "updates": 50, "before": estimate(0.31), "after": estimate(0.36), "vs_base": estimate(0.03),
}  # fmt: skip


def card(base=QWEN, recipe=PAPER, done=DONE, events=EVENTS, **more) -> str:
    return adapter_card(provenance(config(recipe, **more), events, base, done), 1234567)


def front(text: str, tmp_path) -> dict:
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    return metadata_load(path)


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def row(text: str, first: str, title: str = "Measured") -> list[str]:
    line = next(line for line in section(text, title).splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- front matter -----------------------------------------------------------------------------------------------------


def test_the_hub_reads_its_front_matter(tmp_path):
    found = front(card(), tmp_path)
    assert found["base_model"] == "Qwen/Qwen2.5-1.5B"
    assert found["library_name"] == "peft"
    assert found["license"] == "apache-2.0"
    assert found["datasets"] == ["openai/gsm8k"]
    assert {"lora", "reasonmaxxer", "base_model:adapter:Qwen/Qwen2.5-1.5B"} <= set(found["tags"])


def test_what_is_not_known_is_left_out_of_it(tmp_path):
    found = front(card(BaseFacts("my-model", "local", "sha256:1", None, "float32"), set="mini"), tmp_path)
    assert not {"license", "datasets", "base_model"} & found.keys()


def test_a_name_with_yaml_in_it_stays_a_name(tmp_path):
    found = front(card(BaseFacts("a: b\n---\nx", "bundled", "r", "mit", "float32")), tmp_path)
    assert found["base_model"] == "a: b\n---\nx"
    assert found["license"] == "mit"


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_stand_with_interval_and_n():
    text = card()
    assert row(text, "test") == [
        "test", "31.0 % (26.0 to 35.0), n = 100", "36.0 % (31.0 to 40.0), n = 100",
        "+3.0 points (-2.0 to +7.0), n = 100",
    ]  # fmt: skip
    assert row(text, "validation")[1:3] == ["30.0 % (25.0 to 34.0), n = 60", "40.0 % (35.0 to 44.0), n = 60"]
    assert "that row is optimistic" in text
    assert "no change at all is compatible" in text


def test_no_share_of_right_answers_is_bare():
    measured = section(card(), "Measured").replace("95 % intervals", "")
    figures = list(re.finditer(r"[\d.]+ (%|points)", measured))
    assert len(figures) == 6
    for figure in figures:
        assert re.match(r" \([-+\d.]+ to [-+\d.]+\), n = \d+", measured[figure.end() :])


def test_a_run_without_checks_says_so():
    text = card(done={"updates": 5, "before": None, "after": None}, events=EVENTS[:4])
    assert "No held-out check was made" in text
    assert "points" not in text


def test_a_run_whose_best_is_the_base_has_no_validation_row():
    assert "| validation |" not in section(card(events=EVENTS[:5]), "Measured")


def test_a_guard_that_ended_the_run_is_told():
    text = card(events=[*EVENTS, {"t": 9, "kind": "guard", "rule": "kl", "message": "KL ran away, 0.6 nats."}])
    assert "KL ran away, 0.6 nats." in text


def test_the_miniature_is_labelled_and_nothing_else_is():
    assert "By construction" in card(MINI)
    assert "By construction" not in card(QWEN)


# -- recipe and data --------------------------------------------------------------------------------------------------


def test_departures_are_marked():
    text = card(recipe=SMALL)
    assert row(text, "lr", "Recipe") == ["lr", f"{SMALL.optim.lr:g}", "**0.0001**"]
    assert row(text, "k", "Recipe") == ["k", "20", "the same"]
    assert row(text, "targets", "Recipe") == ["targets", "q\\_proj, k\\_proj, v\\_proj, o\\_proj", "the same"]
    assert f"{len(SMALL.departures())} of the {len(SMALL.flat()) - 11} values that the paper states differ" in text
    assert "All 36 that the paper states hold." in card()


def test_settings_of_rollouts_that_came_as_a_file_are_not_told_as_used():
    text = card(recipe=SMALL, from_rollouts="/somewhere/else/rollouts-1.jsonl")
    assert "- read from `rollouts-1.jsonl`: 150 problems, 3000 rollouts from the frozen base" in text
    assert "/somewhere" not in text
    for name in ("k", "problems", "temperature", "top_p"):
        assert row(text, name, "Recipe") == [name, "not used", ""]
    used = SMALL.departures().keys() - {"k", "problems", "temperature", "top_p"}
    assert f"{len(used)} of the {len(SMALL.flat()) - 15} values that the paper states differ" in text


def test_what_the_paper_does_not_state_is_no_departure():
    text = card(recipe=PAPER.with_(neg_floor_nats=0.5, seed=1))
    assert row(text, "neg_floor_nats", "Recipe") == ["neg_floor_nats", "0.5", "not stated"]
    assert "All 36 that the paper states hold." in text


def test_every_field_of_the_recipe_is_there():
    text = card()
    for name in PAPER.flat():
        assert row(text, name, "Recipe")[2] in ("the same", "not stated")


def test_data_and_gate():
    text = card()
    assert "150 problems, 3000 rollouts" in text
    assert "0 of 3: 1, 1 of 3: 2, 3 of 3: 1" in text  # of the last rollouts event
    assert "60 all right, 40 further from half" in text
    assert "all wrong" not in text
    assert "10400 of 200000 (5.20%; gate entropy, tau 1.4 nats)" in text


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "lowers what wrong ones chose", "ablation"),
        ({"positive_only": True}, "raises what right solutions chose;", "lowers"),
        ({"objective": "correct_sft"}, "raises what right solutions chose;", "lowers"),
        ({"gate": "random"}, "drawn at random", "uncertain; "),
    ],
)
def test_the_method_is_the_one_that_ran(changes, said, unsaid):
    text = card(recipe=PAPER.with_(**changes))
    assert said in text
    assert unsaid not in text.split("## Measured")[0]


# -- nothing of this machine ------------------------------------------------------------------------------------------


def test_no_path_of_this_machine(tmp_path):
    model = wrap(qwen())
    model.spec = str(tmp_path / "secret place" / "tiny")
    text = card(base_of(model), set=str(tmp_path / "own.jsonl"), adapter=str(tmp_path / "first"))
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "own.jsonl" in text
    assert "from the adapter first" in text


def test_labels():
    assert set_label("gsm8k:train") == "gsm8k:train"
    assert set_label("/a/b/own.jsonl:train") == "own.jsonl:train"
    assert set_label("/a/b/own.jsonl") == "own.jsonl"
    assert set_label(None) is None
    assert spec_label("org/name@main") == "org/name@main"
    assert spec_label("/a/b/name") == "name"
    assert spec_label("rl") == "rl"


def test_markup_in_a_name_is_harmless():
    text = card(set="/x/a|b`c<img>.jsonl")
    assert "a/b'c<img>.jsonl" in text  # between backticks, where Markdown shows it as it is
    assert "<img" not in re.sub(r"`[^`]*`", "", text)


def test_the_same_story_makes_the_same_card():
    assert card() == card()
    assert card(seed=1) == card(seed=1)


# -- the base's name --------------------------------------------------------------------------------------------------


def named(spec: str) -> Model:
    model = wrap(qwen())
    model.spec = spec
    return model


def test_the_base_goes_by_a_name_that_means_something_elsewhere(mini):
    assert base_of(mini).name == "mini"
    assert base_of(mini).origin == "bundled"
    assert base_of(named("qwen2.5-1.5b")).name == "Qwen/Qwen2.5-1.5B"
    assert base_of(named("Qwen/Qwen2.5-1.5B@main")).name == "Qwen/Qwen2.5-1.5B"
    assert base_of(named("org/unknown")).licence is None
    assert base_of(named("smollm2-135m-instruct-q4_1")).origin == "gguf"
    assert base_of(named("/x/y/model.gguf")) == BaseFacts("model.gguf", "gguf", "test", None, "float32")


def test_a_folder_may_name_its_own_licence(tmp_path):
    assert base_of(named(str(tmp_path))) == BaseFacts(tmp_path.name, "local", "test", None, "float32")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    assert base_of(named(str(tmp_path))).licence == "mit"


# -- loading ----------------------------------------------------------------------------------------------------------


def ran(base: BaseFacts, folder, monkeypatch) -> dict:
    code = re.search(r"```python\n(.*?)```", card(base), re.S)[1]
    assert code == snippet(base)
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(code, "card", "exec"), names)
    return names


def test_the_snippet_loads_the_adapter_on_mini(mini, plain_rl, monkeypatch):
    from rmx.config import ASSETS

    names = ran(base_of(mini), ASSETS / "mini" / "rl", monkeypatch)
    assert isinstance(names["model"], PeftModel)
    ids = torch.tensor([names["tokenizer"]("Q: 1 + 1?\nA:")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(names["model"].eval()(ids).logits, plain_rl(ids).logits)


@pytest.mark.parametrize("origin", ["hub", "gguf", "local"])
def test_the_snippets_of_other_bases_are_python_that_names_the_base(origin):
    text = snippet(BaseFacts("some'name", origin, COMMIT, None, "float32"))
    ast.parse(text)
    assert '"some\'name"' in text
    assert (COMMIT in text) == (origin == "hub")


# -- a distillation's -------------------------------------------------------------------------------------------------


def distilled(**figures) -> str:
    """The card of a distillation whose teacher has these figures beside its pass@1."""
    recipe = SMALL_DISTILL
    story = Provenance(
        "distill", "r1", MINI, recipe.flat(), recipe.departures(), "mini", teacher="rl",
        teacher_figures={"teacher": estimate(0.72, 200), "vs_teacher": estimate(-0.02, 200)} | figures,
        checks=(PassRates("validation", estimate(0.52, 200), estimate(0.70, 200), estimate(0.18, 200)),),
    )  # fmt: skip
    return section(adapter_card(story), "Measured")


def test_a_distillation_says_how_much_of_the_gap_it_closes():
    told = distilled(teacher_vs_base=estimate(0.2, 200), gap_closed=estimate(0.9, 200))
    assert "| validation | 52.0 % (47.0 to 56.0), n = 200 | 70.0 % (65.0 to 74.0), n = 200 |" in told
    assert (
        "The teacher itself: 72.0 % (67.0 to 76.0), n = 200. The adapter against the teacher: -2.0 points (-7.0 to "
        "+2.0), n = 200. The teacher against the base: +20.0 points (+15.0 to +24.0), n = 200; the adapter closes "
        "90.0 % (85.0 to 94.0), n = 200, of that gap (0 % is the base, 100 % the teacher)." in told
    )


def test_no_share_is_given_of_a_gap_that_may_not_be_there():
    nothing = dict.fromkeys(("value", "low", "high")) | {"n": 200}
    told = distilled(teacher_vs_base=estimate(0.01, 200), gap_closed=nothing)
    assert "+1.0 points (-4.0 to +5.0), n = 200; that is no measurable gain" in told
    assert "closes –" not in told
    assert "against the base" not in distilled()  # a run before 0.1.1 has no such figures
