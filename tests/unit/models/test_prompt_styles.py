"""How models are asked: by what is in them and not by their names, and everybody compared alike."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rmx.cli.main import main
from rmx.config import ASSETS
from rmx.data.problem_sets import load_set
from rmx.errors import ModelError, PromptError
from rmx.evaluate.eval_report import EvalConfig, contestants_of
from rmx.evaluate.evaluation import Evaluation
from rmx.models import names
from rmx.models.load import HEAD_TOKENS, load
from rmx.models.model_pair import ask_alike, make_pair
from rmx.models.names import PRESETS, PairPreset
from rmx.models.stand_ins import byte_tokenizer
from rmx.models.style_options import (
    FAMILIES,
    Facts,
    StyleOptions,
    family_of,
    from_form,
    resolve_style,
    style_of,
    to_form,
)
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES, PromptStyle
from rmx.runs.job import DistillJob, TrainJob
from tests.conftest import qwen, wrap

pytestmark = pytest.mark.slow

QWEN = frozenset(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
DEEPSEEK = frozenset(["<｜User｜>", "<｜Assistant｜>", "<think>"])
CHATML = "{%- if messages[0]['role'] == 'system' %}…<|im_start|>…{%- endif %}"
SWITCH = CHATML + "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{%- endif %}"
P = "What is 1 + 1?"

# What is in the checkpoints that the presets name, as far as a family is told by it.
CHECKPOINTS = {
    "qwen2.5-0.5b": Facts("qwen2", 1e6, "<|endoftext|>", QWEN, CHATML),
    "qwen2.5-1.5b": Facts("qwen2", 1e6, "<|endoftext|>", QWEN, CHATML),
    "qwen2.5-7b": Facts("qwen2", 1e6, "<|endoftext|>", QWEN, CHATML),
    "qwen2.5-math-7b": Facts("qwen2", 1e4, "<|endoftext|>", QWEN, CHATML),
    "qwen3-0.6b": Facts("qwen3", 1e6, "<|im_end|>", QWEN, SWITCH),
    "qwen3-4b": Facts("qwen3", 5e6, "<|im_end|>", QWEN, SWITCH),
    "r1-distill-1.5b": Facts("qwen2", 1e4, "<｜end▁of▁sentence｜>", DEEPSEEK, "{{'<｜Assistant｜><think>\\n'}}"),
    "mistral-7b": Facts("mistral", 1e4, "</s>", frozenset(), ""),
}
EXPECTED = {
    "mini": ("mini", 1.0),
    "smollm2-135m-instruct-q4_1": ("chat", 1.4),
    "qwen2.5-0.5b": ("qwen", 1.4),
    "qwen2.5-1.5b": ("qwen", 1.4),
    "qwen2.5-7b": ("qwen", 1.4),
    "qwen2.5-math-7b": ("qwen-math", 1.4),
    "qwen3-0.6b": ("qwen3", 1.2),
    "qwen3-4b": ("qwen3", 1.2),
    "r1-distill-1.5b": ("r1", 1.4),
    "mistral-7b": ("abel", 1.4),
}


def recognised(facts: Facts):
    return next(family for family in FAMILIES if family.fits(facts))


# -- families -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_preset_is_recognised_by_what_is_in_its_checkpoint(name) -> None:
    family = recognised(CHECKPOINTS[name])
    assert (family.style, family.tau) == EXPECTED[name]


def test_every_preset_has_an_expectation() -> None:
    assert EXPECTED.keys() == PRESETS.keys()
    assert {family.style for family in FAMILIES} <= STYLES.keys()


@pytest.mark.parametrize(
    ("facts", "style"),
    [
        (Facts("qwen3", 1e6, "<|endoftext|>", QWEN, SWITCH), "qwen"),  # Qwen3's base models
        (Facts("qwen2", 1e6, "<|im_end|>", QWEN, CHATML), "chat-boxed"),  # Qwen2.5's instruction models
        (Facts("llama", 5e5, "<|end_of_text|>", frozenset(["<|eot_id|>"]), ""), "abel"),
        (Facts("llama", 5e5, "<|eot_id|>", frozenset(["<|eot_id|>"]), "{{ x }}"), "chat-boxed"),
        (Facts("gemma3", 1e6, "<eos>", frozenset(), ""), "boxed"),
        (Facts("qwen2", 1e4, "<|end|>", frozenset(["<|end|>"]), ""), "boxed"),  # Qwen's shape, not its tokenizer
    ],
)
def test_other_checkpoints(facts, style) -> None:
    assert recognised(facts).style == style


def test_a_model_is_asked_alike_whatever_its_folder_is_called(mini, tmp_path) -> None:
    folder = tmp_path / "somebody-elses-name"
    shutil.copytree(ASSETS / "mini", folder, ignore=shutil.ignore_patterns("rl", "reasonmaxxer"))
    copy = load(str(folder), device="cpu")
    assert copy.prompt_ids(P) == mini.prompt_ids(P)
    assert (copy.style, copy.tau) == (mini.style, mini.tau)
    assert "the miniature's chat template" in copy.style.why


@pytest.mark.long
def test_smollm2_is_asked_alike_from_elsewhere(smol, tmp_path) -> None:
    folder = tmp_path / "unnamed"
    folder.symlink_to(smol.source)
    copy = load(str(folder), device="cpu")
    assert copy.style.name == "chat"
    assert copy.prompt_ids(P) == smol.prompt_ids(P)
    assert copy.tau == smol.tau


def test_a_model_that_is_not_known_is_asked_by_whether_it_has_a_chat_template() -> None:
    tokenizer, config = byte_tokenizer(), SimpleNamespace(model_type="new", rope_parameters=None)
    assert style_of(family_of(config, tokenizer)).name == "boxed"
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert style_of(family_of(config, tokenizer)).name == "chat-boxed"


# -- the official prompts -------------------------------------------------------------------------------------------


def test_the_prompts_of_the_papers_code() -> None:
    asked = {name: STYLES[name].fill(P) for name in STYLES}
    assert asked["qwen"] == (
        "Solve the following math problem step by step. Put your final answer in \\boxed{}.\n\n"
        "Problem: What is 1 + 1?\n\nSolution:"
    )
    assert asked["qwen-number"] == (
        "Solve the following math problem step by step.\n\nWhat is 1 + 1?\n\nSolution:"
    )  # fmt: skip
    assert (
        asked["qwen3"]
        == asked["r1"]
        == (
            "Solve the following math problem step by step. Give a concise solution and put your final answer in "
            "\\boxed{}.\n\nProblem: What is 1 + 1?"
        )
    )
    assert asked["qwen3-number"] == (
        "Solve the following math problem step by step.\n\nWhat is 1 + 1?\n\n"
        "Give a concise solution and final numeric answer."
    )
    assert asked["abel"] == "Question:\nWhat is 1 + 1?\nAnswer:\nLet's think step by step.\n"
    assert asked["mini"] == "Q: What is 1 + 1?\nA:"
    assert STYLES["qwen"].stops == ("Human:", "Assistant:")


def test_a_chat_with_a_system_line_and_thinking() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    model = wrap(qwen(), tokenizer)
    math = model.with_style(STYLES["qwen-math"])
    assert math.prompt(P) == f"<system>{STYLES['qwen-math'].system}<user>{P}"
    asked = model.with_style(STYLES["qwen3"])
    assert asked.prompt(P).endswith("<think></think>")  # as in the paper
    assert not asked.ask_in(StyleOptions(thinking=True)).prompt(P).endswith("<think></think>")
    assert math.ask_in(StyleOptions(system="Be brief.")).prompt(P) == f"<system>Be brief.<user>{P}"
    assert math.ask_in(StyleOptions(system="")).prompt(P) == f"<user>{P}"


def test_a_chat_template_that_refuses_says_so() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('No system line here.') }}"
    with pytest.raises(PromptError, match=r"refuses this prompt: No system line here\."):
        wrap(qwen(), tokenizer).with_style(STYLES["chat"]).prompt(P)


# -- sets and what counts as an answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "set_name", "name", "answers"),
    [
        ("qwen", "math500", "qwen", "boxed"),
        ("qwen", "math500:test", "qwen", "boxed"),
        ("qwen", "gsm8k", "qwen-number", "flexible"),
        ("qwen", "aime24", "qwen", "flexible"),
        ("qwen", None, "qwen", "flexible"),
        ("qwen-math", "math500", "qwen-math", "boxed"),
        ("qwen-math", "gsm8k", "qwen-math", "flexible"),
        ("qwen3", "math500", "qwen3", "boxed"),
        ("qwen3", "gsm8k:train", "qwen3-number", "flexible"),
        ("r1", "math500", "r1", "flexible"),
        ("r1", "gsm8k", "r1-number", "flexible"),
        ("abel", "math500", "abel", "flexible"),
        ("mini", "mini:test", "mini", "flexible"),
        ("chat", "math500", "chat", "flexible"),
    ],
)
def test_a_set_decides_with_the_style(style, set_name, name, answers) -> None:
    found = STYLES[style].for_set(set_name)
    assert (found.name, found.answers) == (name, answers)
    assert found.stops == STYLES[style].stops
    assert found.thinking == STYLES[style].thinking


def test_an_answer_rule_decides_what_is_found(tiny) -> None:
    ids = tiny.encode("The answer is $2\\sqrt{3}$.")
    for rule, answer in (("boxed", None), ("flexible", "2\\sqrt{3}")):
        model = tiny.ask_in(StyleOptions(answers=rule))
        assert model.find_answer((1,), ids) == answer
        assert model.grade((1,), ids, "2\\sqrt{3}", cut=False).correct is (answer is not None)


# -- what a user asks -----------------------------------------------------------------------------------------------


def resolved(style: str, options: StyleOptions, set_name=None, raw=False, template="") -> PromptStyle:
    return resolve_style(STYLES[style], options, set_name, raw, "some/model", template)


def test_each_option_changes_its_own_part() -> None:
    assert resolved("qwen", StyleOptions()) == STYLES["qwen"]
    found = resolved("qwen", StyleOptions(style="abel", stops=("\n\n",), answers="boxed"))
    assert (found.name, found.stops, found.answers) == ("abel", ("\n\n",), "boxed")
    assert found.why == "as asked for"
    assert resolved("qwen", StyleOptions(stops=())).stops == ()
    own = resolved("qwen", StyleOptions(template="Do {problem}: \\boxed{}"), "math500")
    assert (own.name, own.fill(P), own.answers) == ("own", f"Do {P}: \\boxed{{}}", "boxed")
    assert resolved("qwen", StyleOptions(style="qwen"), "gsm8k").name == "qwen"  # what is named is kept
    raw = resolved("qwen", StyleOptions(stops=("X",)), raw=True)
    assert (raw.name, raw.fill(P), raw.stops) == ("raw", P, ("X",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"style": "nobody's"}, "no prompt style 'nobody's'. Known: mini"),
        ({"template": "no place"}, "must hold {problem}"),
        ({"system": "x" * 20_001}, "20,000 characters"),
        ({"answers": "any"}, "one of boxed, flexible; got 'any'"),
        ({"stops": ("",)}, "1 to 200 characters"),
        ({"stops": tuple("abcdefghi")}, "Up to 8 stop texts"),
    ],
)
def test_what_cannot_be_asked(options, words) -> None:
    with pytest.raises(PromptError) as refused:
        StyleOptions(**options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("options", "raw", "words"),
    [
        (StyleOptions(system="Be brief."), False, "qwen is no chat, so it has no system line"),
        (StyleOptions(style="chat"), False, "some/model has no chat template, which the prompt style chat needs"),
        (StyleOptions(thinking=True), False, "cannot be told by its chat template to think or not"),
        (StyleOptions(style="abel"), True, "A raw prompt has no style"),
    ],
)
def test_what_does_not_go_together(options, raw, words) -> None:
    with pytest.raises(PromptError, match=words):
        resolved("qwen", options, raw=raw)


ALL = StyleOptions("chat", "Be brief.", "Do {problem}", False, ("\n\n", "Human:"), "boxed", "/tmp/do.txt")


def test_options_are_kept_and_shown_as_a_command() -> None:
    assert StyleOptions.from_json(json.loads(json.dumps(ALL.json()))) == ALL
    assert StyleOptions.from_json(None) == StyleOptions()
    assert ALL.words() == [
        "--style", "chat", "--system", "Be brief.", "--answers", "boxed", "--template", "/tmp/do.txt",
        "--thinking", "off", "--stop", "\n\n", "--stop", "Human:",
    ]  # fmt: skip
    assert StyleOptions().words() == []
    assert StyleOptions(stops=()).words() == ["--stop", ""]


def test_a_form_and_back() -> None:
    asked = replace(ALL, template=None, template_file=None)
    assert from_form(*to_form(asked)) == asked
    assert from_form() == from_form(*to_form(StyleOptions())) == StyleOptions()
    assert from_form(stops="\\n\\n\nHuman:").stops == ("\n\n", "Human:")


@pytest.mark.parametrize("job", [TrainJob(style=ALL), DistillJob(adapter="rl", style=ALL)])
def test_a_run_keeps_what_was_asked(job) -> None:
    stored = json.loads(json.dumps(job.json()))
    assert type(job).from_json(stored) == job
    assert [word for word in ALL.words() if word not in job.words()] == []
    del stored["style"]  # as runs of before have it
    assert type(job).from_json(stored).style == StyleOptions()


def test_a_style_is_recorded_whole() -> None:
    style = resolved("qwen", StyleOptions(stops=("X",)), "math500")
    assert PromptStyle.from_json(json.loads(json.dumps(style.json()))) == style.recorded
    assert style.recorded.json() == style.json()
    assert "stops at 'X'" in style.sentence()
    assert "only a box is an answer" in style.sentence()


def test_rollouts_of_before_go_on_only_where_nothing_has_changed() -> None:
    assert STYLES["mini"].settings() == {}
    assert replace(STYLES["chat-boxed"], why="told by something").settings() == {}
    assert replace(STYLES["mini"], stops=("X",)).settings()["style"]["stops"] == ["X"]
    assert STYLES["qwen"].settings()["style"]["template"] == STYLES["qwen"].template


# -- everybody compared is asked alike ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> str:
    """Mini's own weights under another name."""
    folder = tmp_path_factory.mktemp("models") / "under-another-name"
    shutil.copytree(ASSETS / "mini", folder, ignore=shutil.ignore_patterns("rl", "reasonmaxxer"))
    return str(folder)


@pytest.fixture(scope="module")
def differently_chatting(copied, tmp_path_factory) -> str:
    """The same weights with another chat template, so that by itself it would be asked otherwise."""
    folder = tmp_path_factory.mktemp("models") / "with-another-template"
    shutil.copytree(copied, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }} !")
    return str(folder)


@pytest.mark.parametrize("which", [pytest.param("copied", marks=pytest.mark.long), "differently_chatting"])
def test_identical_weights_by_two_names_do_the_same_on_every_problem(which, request) -> None:
    name, space = request.getfixturevalue(which), Workspace("cpu")
    assert (space.model(name).style.name == "mini") is (which == "copied")
    problems = load_set("mini:test")[:10]
    config = EvalConfig(n=2, temperature=1.0, top_p=1.0, seed=1, max_new_tokens=96)
    *_, report = Evaluation(contestants_of(space, "mini", (), [name]), problems, config, "mini:test").run()
    found = report.json()
    for row in found["per_problem"]:
        base, other = row["models"].values()
        assert base == other
    paired = found["paired"][0]
    for estimate in (paired["greedy"], *paired["pass@k"].values()):
        assert estimate["value"] == 0
    assert found["style"]["name"] == "mini"


def test_a_pair_is_asked_in_the_bases_way(differently_chatting) -> None:
    pair = make_pair(Workspace("cpu"), "mini", None, differently_chatting)
    assert pair.adapted.prompt_ids(P) == pair.base.prompt_ids(P)
    own = load(differently_chatting, device="cpu")
    assert own.prompt_ids(P) != pair.base.prompt_ids(P)
    styled = make_pair(Workspace("cpu"), "mini", "rl", style=StyleOptions(style="abel"))
    assert styled.one_set
    assert styled.base.prompt(P) == STYLES["abel"].fill(P)


def test_a_teacher_with_another_chat_template_is_asked_by_the_bases() -> None:
    ours, theirs = byte_tokenizer(), byte_tokenizer()
    ours.chat_template, theirs.chat_template = "<{{ messages[0]['content'] }}>", "[{{ messages[0]['content'] }}]"
    base, other = wrap(qwen(), ours).with_style(STYLES["chat"]), wrap(qwen(1), theirs)
    assert ask_alike(other, base).prompt_ids(P) == base.prompt_ids(P)
    assert other.with_style(STYLES["chat"]).prompt_ids(P) != base.prompt_ids(P)


def test_what_is_asked_of_the_prompt_holds_for_everybody(copied) -> None:
    asked = StyleOptions(stops=(" So",), answers="boxed")
    found = contestants_of(Workspace("cpu"), "mini", ["rl"], [copied], asked, "mini:test")
    assert len(found) == 3
    for contestant in found:
        assert contestant.model.style == found[0].model.style
        assert contestant.model.style.stops == (" So",)


def test_a_teacher_with_other_tokens_is_refused(mini) -> None:
    with pytest.raises(ModelError, match="different vocabularies"):
        ask_alike(wrap(qwen()), mini)


def test_the_end_tokens_of_a_teacher_stay_its_own(mini, copied) -> None:
    other = load(copied, device="cpu")
    other.stop_ids = frozenset({0, 7})
    assert ask_alike(other, mini).stop_ids == frozenset({0, 7})


def test_stop_texts_that_are_tokens_end_by_their_ids(tiny) -> None:
    assert tiny.ask_in(StyleOptions(stops=("<|end|>", "x"))).stop_ids == tiny.stop_ids | {256}
    tiny.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert 257 in tiny.ask_in(StyleOptions(stops=("<|im_end|>",))).stop_ids


# -- the command line -----------------------------------------------------------------------------------------------


def run(capsys, *words: str):
    assert main([*words, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_trace_says_how_it_was_asked(capsys, tmp_path) -> None:
    found = run(capsys, "trace", P, "--max-new-tokens", "4")
    assert found["style"]["name"] == "mini"
    assert found["style"]["why"] == "by what the model has: the miniature's chat template"
    template = tmp_path / "t.txt"
    template.write_text("Here: {problem}\n\n")
    options = ["--template", str(template), "--stop", ",", "--stop", ".", "--answers", "boxed"]
    found = run(capsys, "trace", P, "--max-new-tokens", "40", *options)
    assert found["prompt"] == f"Here: {P}\n"
    assert (found["style"]["stops"], found["style"]["answers"]) == ([",", "."], "boxed")
    assert found["stop"] == "stop_sequence"
    assert found["tokens"][-1]["text"] in (",", ".")


VERBS = ["trace", "outcomes", "rescue", "sofar", "shifts", "intervene", "claims", "locator", "eval", "rollouts",
         "train", "distill"]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_asks_a_model_takes_a_style(verb, capsys) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    told = capsys.readouterr().out
    for option in ("--style", "--system", "--template", "--thinking {on,off}", "--stop", "--answers {boxed,flexible}"):
        assert option in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--style", "nobody's"], "There is no prompt style"),
        (["--template", "/nowhere.txt"], "The template /nowhere.txt cannot be read"),
        (["--system", "Be brief."], "has no system line"),
        (["--thinking", "on"], "think or not"),
        (["--raw", "--style", "abel"], "A raw prompt has no style"),
    ],
)
def test_mistakes_are_one_sentence(options, words, capsys) -> None:
    assert main(["trace", P, "--device", "cpu", *options]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_shifts_and_an_evaluation_say_how_they_asked(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RMX_CACHE", str(tmp_path))
    small = ["--limit", "2", "--max-new-tokens", "24", "--style", "abel"]
    found = run(capsys, "shifts", "--adapter", "rl", "--no-placebo", *small)
    assert found["style"]["template"] == STYLES["abel"].template
    found = run(capsys, "eval", "--n", "0", *small)
    assert found["style"]["name"] == "abel"
    found = run(capsys, "intervene", "--adapter", "rl", "--no-placebo", "--arms", "base", *small)
    assert found["style"]["name"] == "abel"


@torch.inference_mode()
def test_a_workspaces_model_stays_as_it_is(mini) -> None:
    before = mini.style
    asked = mini.ask_in(StyleOptions(stops=("X",)))
    assert asked is not mini
    assert asked.engine is mini.engine
    assert mini.style == before
    assert mini.ask_in(StyleOptions()) is mini
    assert mini.ask_in(StyleOptions(), "mini:test") is mini


# ---- sets that come with solved examples


def test_words_are_asked_behind_three_solved_examples_unless_another_style_is_asked_for():
    found = STYLES["chat"].for_set("words:train")
    assert (found.name, found.stops, found.chat) == ("three-shot", ("\n",), False)
    assert found.fill("How many?").count("The answer is") == 3
    assert found.fill("How many?").endswith("\n\nQuestion: How many?\nAnswer:")
    assert [STYLES["chat"].for_set(name).name for name in ("arith", "gsm8k", None)] == ["chat"] * 3
    assert [STYLES[name].for_set("words").name for name in ("mini", "qwen")] == ["mini", "qwen"]
    asked = resolve_style(STYLES["chat"], StyleOptions(style="chat"), "words", False, "m", "{{x}}")
    assert asked.name == "chat"
    own = resolve_style(STYLES["chat"], StyleOptions(template="Q {problem}"), "words", False, "m", "{{x}}")
    assert own.template == "Q {problem}"
    assert PromptStyle.from_json(json.loads(json.dumps(found.json()))).concluding == found.concluding


def test_a_solved_example_of_the_prompt_is_no_problem_of_the_set():
    shown = {line for line in STYLES["three-shot"].template.splitlines() if line.startswith("Question: ")}
    assert (
        not {f"Question: {p.problem}" for split in ("train", "validation", "test") for p in load_set(f"words:{split}")}
        & shown
    )


def test_solved_examples_are_read_once_for_all_problems_but_not_a_template_of_ones_own():
    model = wrap(qwen())
    model.engine.config.max_position_embeddings = 4096
    prefixes = model.engine.prefixes
    shots = STYLES["three-shot"].template
    model.with_style(replace(STYLES["three-shot"], template=f"Own. {shots}")).prompt_ids(P)
    model.with_style(STYLES["boxed"]).prompt_ids(P)
    model.with_style(STYLES["three-shot"]).prompt_ids(P, raw=True)
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    secret = replace(STYLES["chat"], system="A line that a visitor has written. " * 8)
    assert len(model.with_style(secret).prompt_ids(P)) > HEAD_TOKENS
    assert prefixes.heads == ()
    asked = model.with_style(STYLES["three-shot"])
    prompts = [asked.prompt_ids(text) for text in (P, "Another one?")]
    (head,) = prefixes.heads
    assert (
        model.tokenizer.decode(head) == shots.partition("{problem}")[0][:-1]
    )  # the last may be merged with the problem
    assert all(prompt[: len(head)] == head for prompt in prompts)


def test_a_style_shares_its_own_beginning_beside_a_shorter_one_of_another_style():
    model = wrap(qwen())
    model.engine.config.max_position_embeddings = 4096
    model.tokenizer.chat_template = (
        "You are a helpful assistant who answers every question in full sentences.\n"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    for name in ("chat", "r1", "chat"):
        model.with_style(STYLES[name]).prompt_ids(P)
    short, long = model.engine.prefixes.heads
    assert HEAD_TOKENS <= len(short) < len(long)
    assert long[: len(short)] == short
    assert model.tokenizer.decode(long).endswith("Problem:")


def test_a_problem_of_ones_own_is_asked_as_the_bundled_adapter_learnt_it(monkeypatch):
    own = load("mini", device="cpu")  # which gets adapters
    space = Workspace("cpu", loader=lambda spec: own.with_style(STYLES["chat"]))
    assert make_pair(space, "mini", "rl").base.style.name == "chat"
    monkeypatch.setattr(names, "_BUNDLED", (PairPreset("words", "", "mini", "rl", set_name="words"),))
    assert make_pair(space, "mini", "rl").base.style.name == "three-shot"
    assert make_pair(space, "mini", "rl", style=StyleOptions(style="chat")).base.style.name == "chat"
    assert make_pair(space, "mini", "rl", set_name="arith").base.style.name == "chat"
    assert make_pair(space, "mini", "rl", raw=True).base.style.name == "raw"
    assert make_pair(space, "mini", "reasonmaxxer").base.style.name == "chat"


def test_adapters_lie_beside_the_model_that_they_ship_with(monkeypatch, tmp_path):
    assert names.shipped_adapters("mini") == ["reasonmaxxer", "rl"]
    monkeypatch.setattr(names, "ASSETS", tmp_path)
    for place in (tmp_path / names.SMOLLM2 / "rl", tmp_path / "problems" / "rl"):
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
    assert names.shipped_adapters(names.SMOLLM2) == ["rl"]
    assert names.shipped_adapters("mini") == names.shipped_adapters("problems") == []
