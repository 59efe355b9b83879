"""An answer judges the text that it was given for, whatever order the page's events arrive in."""

import pytest

from rmx.data.problem_sets import examples, load_set
from rmx.errors import ProblemError
from rmx.models.load import load
from rmx.models.workspace import Workspace
from rmx.prompt_styles import STYLES
from rmx.ui.jobs.comparer import Comparer
from rmx.ui.jobs.explorer import Explorer
from rmx.ui.settings import Settings
from rmx.ui.tabs.compare_tab import CompareTab
from rmx.ui.tabs.explore_form import _make
from rmx.ui.tabs.explore_tab import ExploreTab, outside
from rmx.ui.tabs.form_parts import Known, known_answer, placeholder, show_computed, together

FIRST = examples()[0]
TYPED = "Ann has 5 apples. Ben has 3 more. How many apples do they have together?"
OTHER = "Why is the sky blue?"
PAIR = {"text": FIRST.problem, "answer": FIRST.answer}


@pytest.fixture
def tab(mini):
    space = Workspace(loader=lambda spec: mini)
    space.model("mini")
    return ExploreTab(Explorer(space), Settings())


def test_an_answer_counts_for_the_text_that_it_was_given_with():
    assert together(FIRST.problem, FIRST.answer) == (PAIR, FIRST.problem, FIRST.answer)
    assert known_answer("mini", *together(FIRST.problem, FIRST.answer)) == Known(FIRST.answer)
    assert known_answer("mini", PAIR, f" {FIRST.problem}\r\n", f" {FIRST.answer} ") == Known(FIRST.answer)


def test_the_answer_of_another_text_is_never_taken():
    """The boxes as they are when Solve is pressed before the page has cleared the old answer."""
    assert known_answer("mini", PAIR, OTHER, FIRST.answer) == Known(None)
    assert known_answer("mini", PAIR, TYPED, FIRST.answer) == Known("13", computed=True)
    assert known_answer("qwen2.5-1.5b", PAIR, TYPED, FIRST.answer) == Known(None)


def test_an_answer_that_was_typed_counts_also_before_the_page_has_said_so():
    assert known_answer("mini", PAIR, OTHER, "blue") == Known("blue")
    assert known_answer("mini", PAIR, TYPED, "99") == Known("99")  # nobody is contradicted
    assert known_answer("mini", {"text": OTHER, "answer": FIRST.answer}, OTHER, FIRST.answer) == Known(FIRST.answer)


@pytest.mark.parametrize("pair", [None, "x", [], {}, {"text": None, "answer": None}, {"text": 1, "answer": 2}])
def test_a_pair_of_any_kind_is_borne(pair):
    assert known_answer("mini", pair, OTHER, "") == Known(None)
    assert known_answer("mini", pair, OTHER, "7") == Known("7")


def test_an_empty_box_says_what_is_known():
    assert placeholder(Known(None)) == "none: nothing is judged"
    assert show_computed("mini", TYPED).placeholder == "computed from the text: 13"
    assert show_computed("qwen2.5-1.5b", TYPED).placeholder == "none: nothing is judged"


def test_a_problem_of_a_set_and_of_the_builder_brings_its_answer_along(tab):
    problem = load_set("mini")[3]
    assert tab.choose_problem("mini", problem.id) == together(problem.problem, problem.answer, "mini")
    made = together("Ann has 8 cards. That is 3 fewer than Ben has. How many cards do they have in all?", "19")
    assert _make("fewer_than", 0, "Ann", "Ben", "cards", 8, 3) == made


def test_a_set_s_problem_is_asked_as_the_command_line_asks_it():
    """As long as the text is the set's; whatever else stands in the pair of boxes is borne."""
    own = load("mini", device="cpu")
    own.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    space = Workspace(loader=lambda spec: own.with_style(STYLES["chat"]))
    tab = ExploreTab(Explorer(space), Settings())
    prepared, (pair, *boxes) = tab.prepared(FIRST), together(TYPED, "8", "words")

    def style(*asked):
        return tab.begin((*prepared[:2], *asked, *prepared[5:])).model.style.name

    assert (style(pair, *boxes), style(pair, FIRST.problem, "")) == ("three-shot", "chat")
    assert style(*together(TYPED, "8", "arith")) == style(*together(TYPED, "8")) == style(None, TYPED, "") == "chat"
    assert style(pair | {"set": 7}, *boxes) == style(pair | {"set": ["words"]}, *boxes) == "chat"


@pytest.mark.parametrize(("answer", "known", "computed"), [(FIRST.answer, "13", True), ("8", "8", False)])
def test_a_solution_tells_what_it_is_judged_by(tab, answer, known, computed):
    prepared = tab.prepared(FIRST)
    run = tab.begin((*prepared[:2], PAIR, TYPED, answer, *prepared[5:]))
    list(run.steps())
    opened = tab.explorer.message(run, 0)["open"]
    assert (opened["known"], opened["known_computed"]) == (known, computed)
    swapped = tab.explorer.pick({"run": run.id, "pos": 0, "token_ids": [run.tokens[0].top[1].id]})
    assert tab.explorer.message(swapped, 0)["open"]["known_computed"] is computed


def test_mini_is_not_asked_what_it_cannot_know_unless_one_insists(tab):
    prepared = tab.prepared(FIRST)
    asked = (*prepared[:3], OTHER, *prepared[4:])
    with pytest.raises(ProblemError, match="not trained on such a text"):
        tab.begin(asked)
    assert tab.begin(asked, anyway=True).title == OTHER
    assert tab.begin(asked, read=" Because.").title == OTHER  # nothing is made up of it
    assert tab.begin((*asked[:10], True)).title == OTHER  # a raw prompt
    assert outside("mini", OTHER)
    assert [outside("mini", ""), outside("mini", FIRST.problem), outside("qwen2.5-1.5b", OTHER)] == ["", "", ""]


@pytest.mark.parametrize(("answer", "known", "computed"), [(FIRST.answer, "13", True), ("8", "8", False)])
def test_a_comparison_tells_what_it_is_judged_by(rl, answer, known, computed):
    space = Workspace(loader=lambda spec: rl.base)
    space.model("mini")
    tab = CompareTab(Comparer(space), Settings())
    run = tab._map("mini+rl", "mini", "", "", 1.0, PAIR, TYPED, answer, "base", "", 1.0, 8)
    opened = tab.comparer.tail({"id": run.id, "start": 0})["open"]
    assert (opened["known"], opened["known_computed"]) == (known, computed)


def test_a_comparison_asks_a_set_s_problem_as_the_command_line_does():
    own = load("mini", device="cpu")  # which gets an adapter
    own.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tab = CompareTab(Comparer(Workspace(loader=lambda spec: own.with_style(STYLES["chat"]))), Settings())
    asked = {
        of_set: tab._map("mini+rl", "mini", "", "", 1.0, *together(TYPED, "8", of_set), "base", "", 1.0, 8)
        for of_set in ("words", None)
    }
    assert [asked[of_set].pair.base.style.name for of_set in asked] == ["three-shot", "chat"]
