"""The miniature reasoner: task, splits, tokenizer, problem sets, bundled weights and prepared examples."""

import json
import random
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rmx.config import ASSETS
from rmx.mini.build.build import base_card
from rmx.mini.build.mini_figures import greedy, share
from rmx.mini.build.miniature import Data, Mini, PretrainConfig, Pretrainer, build_tokenizer, drill, load, schedule
from rmx.mini.problem_sets import (
    SPLITS,
    arith_set,
    equations,
    final_answer,
    make_set,
    mini_set,
    write_plan,
    write_solution,
)
from rmx.mini.task import (
    NAMES,
    PROMPT,
    TEMPLATES,
    THINGS,
    WRITERS,
    compose,
    coverage,
    draw_numbers,
    make_problem,
    read_template,
    right_plans,
    split_of,
    work_out,
)

pytestmark = pytest.mark.slow

MINI = ASSETS / "mini"
CELLS = [(name, i) for name, t in TEMPLATES.items() for i in range(len(t.wordings))]


@cache
def bundled() -> Mini:
    return load(MINI)


@cache
def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (ASSETS / "problems" / f"{name}.jsonl").read_text().splitlines()]


def stored(name: str):
    return json.loads((MINI / name).read_text(encoding="utf-8"))


# ---------------------------------------------------------------- vocabulary and templates


def test_names_and_things_are_many_different_plain_words():
    assert len(set(NAMES)) == len(NAMES) >= 100
    assert len(set(THINGS)) == len(THINGS) >= 100
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in NAMES)
    assert all(re.fullmatch(r"[a-z]+s", thing) for thing in THINGS)


ROW = {
    "summary": "One has more",
    "slots": {"a": [12, 50], "b": [3, 20]},
    "plans": {"ok": "!a - b; a + s1", "key": "a + b"},
    "train": [{"text": "{A} has {a} {o}. {B} has {b} [fewer|less].", "weights": {"ok": 0.75, "key": 0.25}}],
}


def test_a_template_is_read_from_its_table():
    made = read_template("more", ROW | {"test": "{A} has {a}."})
    assert [(plan.name, plan.right, len(plan.steps)) for plan in made.plans.values()] == [
        ("ok", True, 2),
        ("key", False, 1),
    ]
    assert [(w.split, dict(w.weights)) for w in made.wordings] == [("train", {"ok": 0.75, "key": 0.25}), ("test", {})]
    assert list(made.wordings[0].variants())[1] == "{A} has {a} {o}. {B} has {b} less."


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.name)
def test_the_table_of_a_template_fits_together(template):
    """The first plan is right, each step works with what is known by then, and weights are shares of the plans."""
    assert next(iter(template.plans.values())).right
    for plan in template.plans.values():
        for i, step in enumerate(plan.steps, 1):
            assert step.op in ("+", "-", "*", "/")
            assert {step.left, step.right} <= {*template.slots, *(f"s{n}" for n in range(1, i))}
    for wording in template.wordings:
        assert set(re.findall(r"\{(\w+)\}", wording.text)) <= {"A", "B", "o", *template.slots}
        assert wording.split != "train" or wording.weights.keys() == template.plans.keys()
        assert wording.split != "train" or sum(wording.weights.values()) == pytest.approx(1, abs=1e-9)


def test_the_file_has_no_table_or_key_that_is_not_read():
    file = tomllib.loads((MINI / "wordings.toml").read_text(encoding="utf-8"))
    assert file.keys() == {"names", "things", "templates", "solutions"}
    for row in file["templates"].values():
        assert {"summary", "slots", "plans", "train"} <= row.keys() <= {*ROW, "validation", "test"}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda t: t.name)
def test_plans_part_only_at_an_operation_or_at_the_end(template):
    """Two plans that have done the same operations so far have worked with the same numbers."""
    seen = {}
    for plan in template.plans.values():
        for end in range(1, len(plan.steps) + 1):
            ops = tuple(step.op for step in plan.steps[:end])
            assert seen.setdefault(ops, plan.steps[:end]) == plan.steps[:end]


def test_held_out_wordings_use_trained_words_but_are_new():
    def words(text):
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text).lower()))

    trained = [v for t in TEMPLATES.values() for i in t.wordings_of("train") for v in t.wordings[i].variants()]
    known = set().union(*map(words, trained))
    held_out = [w.text for t in TEMPLATES.values() for w in t.wordings if w.split != "train"]
    assert len(held_out) >= 32
    assert not set(held_out) & set(trained)
    assert all(words(text) <= known for text in held_out)


# ---------------------------------------------------------------- compose


def test_compose_writes_the_problem_and_works_out_the_answer():
    made = compose("more_than", 0, ("Finn", "Jon"), "cards", (42, 11))
    assert made.problem == "Finn has 42 cards. That is 11 more than Jon has. How many cards do they have in all?"
    assert made.answer == "73"
    assert made == compose("more_than", 0, ["Finn", "Jon"], "cards", [42, 11])


@pytest.mark.parametrize(
    ("template", "numbers", "answer"),
    [
        ("gain_give", (20, 7, 5), 22),
        ("fewer_than", (10, 4), 24),
        ("bags_left", (3, 5, 4), 11),
        ("pool_share", (10, 8, 3), 6),
        ("times_inverse", (12, 3, 5), 9),
        ("change", (3, 4, 50), 38),
        ("two_groups", (2, 3, 4, 5), 26),
        ("how_many_more", (40, 10, 5), 25),
        ("boxes_sold", (9, 4, 2), 28),
        ("three_days", (10, 3, 6), 17),
        ("equal_bags", (12, 4), 9),
    ],
)
def test_compose_answers_are_those_of_hand_calculation(template, numbers, answer):
    for wording in range(len(TEMPLATES[template].wordings)):
        assert compose(template, wording, ("Ann", "Ben"), "cards", numbers).answer == str(answer)


@pytest.mark.parametrize(
    ("template", "numbers", "message"),
    [
        ("equal_bags", (13, 4), "13 cannot be divided by 4 without a rest"),
        ("more_than", (12, 20), "12 - 20 = -8, but every result must lie between 1 and 99"),
        ("days_plus", (15, 8, 3), "15 \\* 8 = 120"),
        ("twice", (33, 99), "k must lie between 2 and 9, but it is 99"),
        ("twice", (3,), "takes 2 numbers, not 1"),
        ("no_such", (3, 4), "no template 'no_such'"),
    ],
)
def test_compose_refuses_numbers_that_do_not_work(template, numbers, message):
    with pytest.raises(ValueError, match=message):
        compose(template, 0, ("Ann", "Ben"), "cards", numbers)


@pytest.mark.parametrize(("names", "thing"), [(("Ann", "Ann"), "cards"), (("ann", "Ben"), "cards"), (NAMES[:2], "A b")])
def test_compose_refuses_odd_names_and_things(names, thing):
    with pytest.raises(ValueError):
        compose("twice", 0, names, thing, (3, 4))


# ---------------------------------------------------------------- splits


def test_splits_never_share_numbers_and_held_out_wordings_stay_out_of_training():
    rng, seen = random.Random(3), {}
    for split in SPLITS:
        for name, template in TEMPLATES.items():
            for _ in range(15):
                made = make_problem(rng, split, name)
                assert made.split == split
                assert template.wordings[made.wording].split == "train"
                assert made.held_out == ("none" if split == "train" else "numbers")
                assert seen.setdefault((name, made.numbers), split) == split


def test_the_hash_of_the_split_never_changes():
    splits = {a: split_of("twice", {"a": a, "k": 3}) for a in range(5, 15)}
    assert {a: split for a, split in splits.items() if split != "train"} == {5: "test", 11: "validation", 14: "test"}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_problems_with_held_out_wordings(split):
    rng = random.Random(4)
    for _ in range(50):
        made = make_problem(rng, split, held_out_wording=True)
        assert made.held_out == "wording"
        assert TEMPLATES[made.template].wordings[made.wording].split == split
        assert split_of(made.template, dict(made.numbers)) == split


def test_text_and_numbers_have_their_own_randomness():
    first = [make_problem(rng, text_rng=random.Random(1)).numbers for rng in [random.Random(5)] for _ in range(9)]
    other = [make_problem(rng, text_rng=random.Random(2)).numbers for rng in [random.Random(5)] for _ in range(9)]
    assert first == other


def test_sets_are_repeatable_and_without_repeats():
    made = make_set(80, 5, "validation", held_out_wordings=20)
    assert made == make_set(80, 5, "validation", held_out_wordings=20)
    assert len({(p.template, p.wording, p.numbers) for p in made}) == 80
    assert sum(p.held_out == "wording" for p in made) == 20


# ---------------------------------------------------------------- solutions


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_plan_writes_right_equations_and_only_right_plans_reach_the_answer(name):
    rng = random.Random(6)
    template = TEMPLATES[name]
    for plan in template.plans.values():
        problem = make_problem(rng, "train", name)
        text = write_plan(rng, problem, WRITERS[0], plan.name)
        assert all(holds for _, holds in equations(text))
        if "Wait" not in text:
            assert (final_answer(text) == problem.answer) == plan.right
            assert len(equations(text)) == len(plan.steps)
        else:
            assert final_answer(text) == problem.answer


def test_a_solution_has_the_agreed_form():
    problem = compose("more_than", 0, ("Finn", "Jon"), "cards", (42, 11))
    texts = {write_plan(random.Random(seed), problem, WRITERS[0], "ok") for seed in range(60)}
    assert (
        " First, the facts are 42, 11. We subtract 11 from 42: 42 - 11 = 31. Then we add 42 and 31: 42 + 31 = 73. "
        "So the answer is \\boxed{73}."
    ) in texts


def test_share_of_right_solutions_follows_the_weights():
    rng = random.Random(7)
    problems = [make_problem(rng, "train", "more_than", 1) for _ in range(800)]
    right = [final_answer(write_solution(rng, p)) == p.answer for p in problems]
    assert 0.58 < sum(right) / len(right) < 0.72  # 0.62 for a plain writer


def test_a_wrong_equation_is_found():
    found = equations(" We add 3 and 4: 3 + 4 = 8. Then we divide 9 by 3: 9 / 3 = 3.")
    assert [(str(e), holds) for e, holds in found] == [("3 + 4 = 8", False), ("9 / 3 = 3", True)]


def test_numbers_are_drawn_so_that_no_flawed_plan_is_right():
    rng = random.Random(8)
    for template in TEMPLATES.values():
        numbers = draw_numbers(rng, template, "test")
        answer = work_out(right_plans(template)[0].steps, numbers)[-1].value
        for plan in template.plans.values():
            assert (work_out(plan.steps, numbers)[-1].value == answer) == plan.right


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize(("template", "wording"), CELLS)
def test_every_wording_is_covered(template, wording):
    split = TEMPLATES[template].wordings[wording].split
    made = make_problem(random.Random(9), split, template, wording, held_out_wording=split != "train")
    assert coverage(made.problem) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no text"),
        ("What is the capital of France?", "never seen: What, capital, France"),
        (
            "Zoltan has 12 apples. That is 3 more than Ben has. How many apples do they have in all?",
            "never seen: Zoltan",
        ),
        ("Ann has 142 apples. Ben has 3 fewer. How many apples do they have in all?", "outside 1 to 99"),
        ("Ann has 12 apples. How many apples does Ann have?", "1 numbers"),
        ("apples 12 apples 13 books each of the bags to Ann", "does not resemble"),
    ],
)
def test_what_lies_outside_is_told_with_its_reason(text, reason):
    assert reason in coverage(text)


def test_a_small_variation_stays_covered():
    assert not coverage("Zoe has 12 kites. Omar has 5 fewer kites. How many kites do they have together now?")


# ---------------------------------------------------------------- tokenizer and pretraining


HOSTILE = [
    "naïve 漢字 👩‍👩‍👧 \u0000\ufeff\u202e\t\r\n  two  spaces ",
    "\\boxed{42}\\boxed {x} \\\\boxed{ <|end|> <|pad|> </s>",
    "ÅÅ\u0301 İıſ 𝔘𝔫𝔦 1234567890 3.14e-9 −5 ½",
    "".join(map(chr, range(1, 0x250))),
    "\n\n\n   \n",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = bundled().model.tokenizer
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_word_is_one_token_and_digits_stand_alone():
    tokenizer = bundled().model.tokenizer
    words = set(re.findall(r"[A-Za-z]+", " ".join(p.problem for p in make_set(300, 1, "train"))))
    for word in {*words, *NAMES, *THINGS} - {"Q", "A"}:
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word
    assert tokenizer.tokenize(" \\boxed{73}.") == ["Ġ\\boxed{", "7", "3", "}", "."]


def test_the_bundled_tokenizer_is_the_one_that_is_built():
    assert build_tokenizer().get_vocab() == bundled().model.tokenizer.get_vocab()
    assert stored("tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_chat_template_writes_the_prompt():
    messages = [{"role": "user", "content": " How many? \n"}]
    text = bundled().model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == PROMPT.format(problem="How many?")


def test_batches_depend_on_their_number_only():
    data = Data(PretrainConfig(batch=4), bundled().model.tokenizer)
    ahead = data.batches(0)
    for _ in range(17):
        next(ahead)
    assert all(torch.equal(x, y) for x, y in zip(next(ahead), next(data.batches(17)), strict=True))


def test_loss_weights_mark_results_up_to_the_full_stop():
    data = Data(PretrainConfig(), bundled().model.tokenizer)
    ids = data.tokenizer(" 30 + 12 = 42. So")["input_ids"]
    assert data._weights(ids, other=1.0) == [1, 1, 1, 1, 1, 1, 4, 4, 4, 1]


def test_drills_are_right():
    text = drill(random.Random(1))
    assert len(equations(text)) == 7
    assert all(holds for _, holds in equations(text))


def test_training_goes_on_from_a_checkpoint_to_the_same_weights(tmp_path):
    config = PretrainConfig(steps=4, batch=2, hidden=32, heads=2, layers=1, feed_forward=32)
    whole = Pretrainer(config, bundled().model.tokenizer)
    losses = [step.loss for step in whole.run()]
    first, second = (Pretrainer(config, bundled().model.tokenizer) for _ in range(2))
    for step in first.run():
        if step.step == 2:
            first.save(tmp_path / "c")
            break
    second.restore(tmp_path / "c")
    assert [step.loss for step in second.run()] == losses[2:]
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="another run"):
        Pretrainer(PretrainConfig(steps=5), bundled().model.tokenizer).restore(tmp_path / "c")


def test_the_learning_rate_rises_holds_and_falls():
    config = PretrainConfig(steps=1000)
    assert schedule(0, config) == pytest.approx(0.01)
    assert schedule(300, config) == 1
    assert schedule(750, config) == pytest.approx(0.5)
    assert schedule(999, config) == pytest.approx(0.002)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("split", SPLITS)
def test_the_problem_files_are_those_that_are_made(split):
    assert lines(f"mini.{split}") == [p.json() for p in mini_set(split)]
    assert lines(f"arith.{split}") == list(arith_set(split))


@pytest.mark.parametrize("name", ["mini", "arith"])
def test_the_files_of_a_set_share_no_problem(name):
    texts = [{line["problem"] for line in lines(f"{name}.{split}")} for split in SPLITS]
    assert sum(map(len, texts)) == len(set().union(*texts))
    ids = [line["id"] for split in SPLITS for line in lines(f"{name}.{split}")]
    assert len(set(ids)) == len(ids)


def test_the_test_file_holds_out_numbers_and_wordings():
    kinds = [line["held_out"] for line in lines("mini.test")]
    assert (kinds.count("numbers"), kinds.count("wording")) == (300, 100)


def test_arith_answers_are_right():
    for split in SPLITS:
        for line in lines(f"arith.{split}"):
            x, op, y = line["problem"].removeprefix("What is ").removesuffix("?").split()
            assert int(line["answer"]) == {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[op]
            assert int(line["answer"]) >= 0


def test_the_bundled_weights_are_small_and_plain():
    assert sum(f.stat().st_size for f in MINI.iterdir() if f.is_file()) < 4_000_000
    network = bundled().model.engine.model
    assert network.config.model_type == "llama"
    assert network.config.max_position_embeddings >= 512
    assert network.generation_config.eos_token_id == bundled().model.tokenizer.eos_token_id


def test_the_bundled_weights_give_the_stored_greedy_answers():
    expected = stored("figures.json")["greedy_answers"]
    problems = mini_set("test")[: len(expected)]
    assert len(problems) == 60
    assert dict(zip((p.id for p in problems), greedy(bundled(), problems).answers, strict=True)) == expected


def test_the_card_has_the_stored_figures():
    assert (MINI / "README.md").read_text(encoding="utf-8") == base_card(stored("figures.json"))


def test_the_examples_are_of_every_kind_and_a_rescue_comes_first():
    kinds = [example["kind"] for example in stored("examples.json")]
    assert kinds == ["rescue"] * 4 + ["break"] * 4 + ["harmless"] * 4


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])  # one of each kind, or all
def test_the_examples_come_true_in_plain_transformers(every):
    mini, problems = bundled(), {p["id"]: p for p in lines("mini.test")}
    tokenizer, network = mini.model.tokenizer, AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32)
    for example in stored("examples.json")[::every]:
        assert problems[example["problem_id"]]["problem"] == example["problem"]
        prompt = tokenizer(PROMPT.format(problem=example["problem"]), return_tensors="pt").input_ids
        base = network.generate(prompt)[0, prompt.shape[1] :]
        kept = torch.cat([prompt[0], base[: example["pos"]], torch.tensor([example["token_id"]])])[None]
        swapped = network.generate(kept)[0, prompt.shape[1] :]
        assert mini.answer(base.tolist()) == example["base_answer"]
        assert mini.answer(swapped.tolist()) == example["swapped_answer"]
        right = (example["base_answer"] == example["answer"], example["swapped_answer"] == example["answer"])
        assert {"rescue": right == (False, True), "break": right == (True, False)}.get(
            example["kind"], example["base_answer"] == example["swapped_answer"]
        )
        with torch.no_grad():
            probs = network(kept[:, :-1]).logits[0, -1].softmax(-1)
        assert probs[example["token_id"]].item() == pytest.approx(example["p"], abs=1e-3)
        assert -(probs * probs.log()).sum().item() == pytest.approx(example["entropy"], abs=1e-3)


def test_decoding_in_a_batch_is_decoding_alone():
    mini = bundled()
    prompts = mini.prompts(mini_set("test")[:8])
    assert mini.decode(prompts) == [mini.decode([prompt])[0] for prompt in prompts]


def test_samples_depend_on_their_seed():
    mini = bundled()
    prompts = mini.prompts(mini_set("test")[:4])
    first = mini.decode(prompts, 1.0, seed=3)
    assert first == mini.decode(prompts, 1.0, seed=3)
    assert first != mini.decode(prompts, 1.0, seed=4)


def test_a_share_has_its_wilson_interval():
    assert share([True, False] * 50) == {"value": 0.5, "low": 0.4038, "high": 0.5962, "n": 100}
    assert share([]) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_no_stray_files_lie_beside_the_weights():
    assert not [path.name for path in Path(MINI).glob("*.checkpoint*")]
